//! Values of expressions. Lists and objects of the document stay where they are: a value of them is a borrow, with the schema
//! that says what their fields are.

use super::{
    Failure, Meter, Outcome,
    functions::{named::Format, net::Cidr, quantity::Quantity, semver, time, url::Url},
};
use crate::schema::{ListType, Node};
use ::semver::Version;
use base64::{Engine, engine::general_purpose::STANDARD};
use regex::Regex;
use serde_json::{Map, Value};
use std::{cmp::Ordering, net::IpAddr, ops::Deref, sync::Arc};

/// A value.
#[derive(Clone, Debug)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text<'a>),
    Bytes(Arc<[u8]>),
    List(Arc<Vec<Val<'a>>>),
    Map(Arc<Vec<(Val<'a>, Val<'a>)>>),
    /// A list of the document.
    Items(&'a [Value], Option<&'a Node>),
    /// An object of the document.
    Fields(&'a Map<String, Value>, Option<&'a Node>),
    /// Nanoseconds.
    Duration(i64),
    Time(jiff::Timestamp),
    Quantity(Quantity),
    Semver(Arc<Version>),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    Optional(Option<Arc<Val<'a>>>),
    Type(&'static str),
    Format(&'static Format),
    /// A pattern that was compiled with the expression.
    Pattern(Regex),
}

/// A text: the document's, or one that was made.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl<'a> Val<'a> {
    /// A value of the document, of the type that its schema says.
    pub fn of(value: &'a Value, node: Option<&'a Node>) -> Self {
        let format = node.map(|n| n.format.as_str()).unwrap_or_default();
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) if node.is_some_and(|n| n.type_ == "number") => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Self::Int(number),
                (None, Some(number)) => Self::Uint(number),
                (None, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => {
                let typed = match format {
                    "date-time" => text.parse().ok().map(Self::Time),
                    "date" => text.parse::<jiff::civil::Date>().ok().and_then(time::midnight).map(Self::Time),
                    "duration" => time::parse_duration(text).map(Self::Duration),
                    "byte" => STANDARD.decode(text).ok().map(|bytes| Self::Bytes(bytes.into())),
                    _ => None,
                };
                typed.unwrap_or(Self::Text(Text::Borrowed(text)))
            }
            Value::Array(items) => Self::Items(items, node),
            Value::Object(fields) => Self::Fields(fields, node),
        }
    }

    /// A text that was made.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(Text::Shared(text.into()))
    }

    /// A list that was made.
    pub fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(Arc::new(items))
    }

    /// `Some` and `None` as an expression has them.
    pub fn optional(value: Option<Val<'a>>) -> Self {
        Self::Optional(value.map(Arc::new))
    }

    /// How many there are in it: code points of a text, items, entries.
    pub fn size(&self) -> Option<usize> {
        Some(match self {
            Self::Text(text) => text.chars().count(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(items) => items.len(),
            Self::Items(items, _) => items.len(),
            Self::Map(entries) => entries.len(),
            Self::Fields(fields, _) => fields.len(),
            _ => return None,
        })
    }

    /// What reading all of it costs.
    pub fn weight(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64 / 10 + 1,
            Self::Bytes(bytes) => bytes.len() as u64 / 10 + 1,
            other => other.size().unwrap_or(0) as u64 + 1,
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Self::List(items) => Some(items.to_vec()),
            Self::Items(items, node) => {
                let item = node.and_then(|n| n.items.as_deref());
                Some(items.iter().map(|value| Val::of(value, item)).collect())
            }
            _ => None,
        }
    }

    /// What a list of the document is, if it is more than a list.
    pub fn list_type(&self) -> Option<&'a ListType> {
        match self {
            Self::Items(_, Some(node)) => Some(&node.list).filter(|list| !matches!(list, ListType::Atomic)),
            _ => None,
        }
    }

    /// An item of a list.
    pub fn item(&self, index: usize) -> Option<Val<'a>> {
        match self {
            Self::List(items) => items.get(index).cloned(),
            Self::Items(items, node) => items.get(index).map(|value| Val::of(value, node.and_then(|n| n.items.as_deref()))),
            _ => None,
        }
    }

    /// The entries of a map.
    pub fn entries(&self) -> Option<Vec<(Val<'a>, Val<'a>)>> {
        match self {
            Self::Map(entries) => Some(entries.to_vec()),
            Self::Fields(fields, node) => {
                let entry = |(name, value): (&'a String, &'a Value)| {
                    (Val::Text(Text::Borrowed(name)), Val::of(value, node.and_then(|n| n.field(name))))
                };
                Some(fields.iter().map(entry).collect())
            }
            _ => None,
        }
    }

    /// The value of a key; `None` if it is not there, or if this is no map.
    pub fn entry(&self, key: &Val<'_>) -> Option<Val<'a>> {
        match (self, key) {
            // A field that is null counts as absent; an entry of a map does not.
            (Self::Fields(fields, node), Val::Text(name)) => fields
                .get(&**name)
                .filter(|value| !(value.is_null() && node.is_some_and(|n| n.properties.contains_key(&**name))))
                .map(|value| Val::of(value, node.and_then(|n| n.field(name)))),
            (Self::Map(entries), _) => entries.iter().find(|(k, _)| same_key(k, key)).map(|(_, value)| value.clone()),
            _ => None,
        }
    }

    /// The field of an object or the entry of a map by that name.
    pub fn field(&self, name: &str) -> Option<Val<'a>> {
        self.entry(&Val::Text(Text::Borrowed(name)))
    }

    /// It has fields or entries.
    pub fn is_map(&self) -> bool {
        matches!(self, Self::Map(_) | Self::Fields(..))
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) | Self::Items(..) => "list",
            Self::Map(_) | Self::Fields(..) => "map",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Time(_) => "google.protobuf.Timestamp",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Pattern(_) => "string",
        }
    }
}

fn same_key(a: &Val<'_>, b: &Val<'_>) -> bool {
    match (a, b) {
        (Val::Text(a), Val::Text(b)) => **a == **b,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        _ => compare_numbers(a, b) == Some(Ordering::Equal),
    }
}

/// Two numbers, of whatever types.
fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let whole = |value: &Val<'_>| match value {
        Val::Int(n) => Some(i128::from(*n)),
        Val::Uint(n) => Some(i128::from(*n)),
        _ => None,
    };
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Double(a), _) => against_double(whole(b)?, *a).map(Ordering::reverse),
        (_, Val::Double(b)) => against_double(whole(a)?, *b),
        _ => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn against_double(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Casts saturate, and every whole number here is far within what i128 holds.
    Some(whole.cmp(&(double.floor() as i128)).then(if double.fract() == 0.0 { Ordering::Equal } else { Ordering::Less }))
}

/// Which of two values of an ordered type comes first; `None` where nothing orders them.
pub fn compare(a: &Val<'_>, b: &Val<'_>, meter: &mut Meter) -> Result<Option<Ordering>, Failure> {
    meter.charge(a.weight().min(b.weight()))?;
    Ok(match (a, b) {
        (Val::Text(a), Val::Text(b)) => Some((**a).cmp(&**b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        (Val::Time(a), Val::Time(b)) => Some(a.cmp(b)),
        (Val::Quantity(a), Val::Quantity(b)) => Some(a.cmp(b)),
        _ => compare_numbers(a, b),
    })
}

/// Two values are the same. Values of different types are not, numbers aside.
pub fn equal(a: &Val<'_>, b: &Val<'_>, meter: &mut Meter) -> Result<bool, Failure> {
    if let Some(order) = compare(a, b, meter)? {
        return Ok(order == Ordering::Equal);
    }
    match (a, b) {
        (Val::Null, Val::Null) => Ok(true),
        (Val::Items(..) | Val::List(_), Val::Items(..) | Val::List(_)) => {
            let unordered = a.list_type().is_some() || b.list_type().is_some();
            let (a, b) = (a.items().unwrap_or_default(), b.items().unwrap_or_default());
            if a.len() != b.len() {
                return Ok(false);
            }
            if unordered {
                return equal_unordered(&a, &b, meter);
            }
            for (a, b) in a.iter().zip(&b) {
                if !equal(a, b, meter)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Val::Fields(..) | Val::Map(_), Val::Fields(..) | Val::Map(_)) => {
            if a.size() != b.size() {
                return Ok(false);
            }
            for (key, value) in a.entries().unwrap_or_default() {
                match b.entry(&key) {
                    Some(other) if equal(&value, &other, meter)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Val::Optional(a), Val::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b, meter),
            (a, b) => Ok(a.is_none() && b.is_none()),
        },
        (Val::Semver(a), Val::Semver(b)) => Ok(semver::order(a, b).is_eq()),
        (Val::Url(a), Val::Url(b)) => Ok(a == b),
        (Val::Ip(a), Val::Ip(b)) => Ok(a == b),
        (Val::Cidr(a), Val::Cidr(b)) => Ok(a == b),
        (Val::Type(a), Val::Type(b)) => Ok(a == b),
        _ => Ok(false),
    }
}

/// Sets, and lists whose items have keys, are the same in whatever order.
fn equal_unordered(a: &[Val<'_>], b: &[Val<'_>], meter: &mut Meter) -> Result<bool, Failure> {
    for (index, item) in a.iter().enumerate() {
        // They are mostly in the same order.
        if !equal(item, &b[index], meter)? && position(b, item, meter)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where a value is in a list.
pub fn position(items: &[Val<'_>], value: &Val<'_>, meter: &mut Meter) -> Result<Option<usize>, Failure> {
    for (index, item) in items.iter().enumerate() {
        meter.charge(1)?;
        if equal(item, value, meter)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// `a` is among the items of a list, or the keys of a map.
pub fn contains<'a>(range: &Val<'a>, value: &Val<'a>, meter: &mut Meter) -> Outcome<'a> {
    if range.is_map() {
        meter.charge(1)?;
        return Ok(Val::Bool(range.entry(value).is_some()));
    }
    let Some(items) = range.items() else { return Err(Failure::overload("@in", &[value.clone(), range.clone()])) };
    Ok(Val::Bool(position(&items, value, meter)?.is_some()))
}
