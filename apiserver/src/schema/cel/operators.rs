//! Arithmetic and comparison.

use super::{
    Failure, Meter, Outcome, Val,
    value::{compare, equal},
};
use crate::schema::ListType;
use jiff::SignedDuration;
use std::{cmp::Ordering, sync::Arc};

/// An operator of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

impl Operator {
    /// As the language names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "_+_",
            Self::Subtract => "_-_",
            Self::Multiply => "_*_",
            Self::Divide => "_/_",
            Self::Modulo => "_%_",
            Self::Equal => "_==_",
            Self::NotEqual => "_!=_",
            Self::Less => "_<_",
            Self::LessEqual => "_<=_",
            Self::Greater => "_>_",
            Self::GreaterEqual => "_>=_",
            Self::In => "@in",
        }
    }

    /// The operator of that name.
    pub fn of(name: &str) -> Option<Self> {
        let all = [
            Self::Add,
            Self::Subtract,
            Self::Multiply,
            Self::Divide,
            Self::Modulo,
            Self::Equal,
            Self::NotEqual,
            Self::Less,
            Self::LessEqual,
            Self::Greater,
            Self::GreaterEqual,
            Self::In,
        ];
        all.into_iter().find(|operator| operator.name() == name)
    }

    /// It tells which of two comes first.
    pub fn orders(self) -> bool {
        matches!(self, Self::Less | Self::LessEqual | Self::Greater | Self::GreaterEqual)
    }

    /// It tells true or false.
    pub fn compares(self) -> bool {
        !matches!(self, Self::Add | Self::Subtract | Self::Multiply | Self::Divide | Self::Modulo)
    }
}

/// What the operator makes of two values.
pub fn apply<'a>(operator: Operator, a: Val<'a>, b: Val<'a>, meter: &mut Meter) -> Outcome<'a> {
    let ordered = |accept: fn(Ordering) -> bool, meter: &mut Meter| match compare(&a, &b, meter)? {
        Some(order) => Ok(Val::Bool(accept(order))),
        // Not-a-number is before nothing and after nothing.
        None if matches!((&a, &b), (Val::Double(_), _) | (_, Val::Double(_))) && is_number(&a) && is_number(&b) => Ok(Val::Bool(false)),
        None => Err(Failure::overload(operator.name(), &[a.clone(), b.clone()])),
    };
    match operator {
        Operator::Equal => equal(&a, &b, meter).map(Val::Bool),
        Operator::NotEqual => equal(&a, &b, meter).map(|same| Val::Bool(!same)),
        Operator::Less => ordered(Ordering::is_lt, meter),
        Operator::LessEqual => ordered(Ordering::is_le, meter),
        Operator::Greater => ordered(Ordering::is_gt, meter),
        Operator::GreaterEqual => ordered(Ordering::is_ge, meter),
        Operator::Add => add(a, b, meter),
        Operator::Subtract => subtract(&a, &b),
        Operator::Multiply => number(operator, &a, &b, i64::checked_mul, u64::checked_mul, |x, y| x * y),
        Operator::Divide | Operator::Modulo if matches!(b, Val::Int(0) | Val::Uint(0)) => {
            Err(Failure::wrong(if operator == Operator::Divide { "division by zero" } else { "modulus by zero" }))
        }
        Operator::Divide => number(operator, &a, &b, i64::checked_div, u64::checked_div, |x, y| x / y),
        Operator::Modulo if matches!(a, Val::Double(_)) => Err(Failure::overload(operator.name(), &[a, b])),
        Operator::Modulo => number(operator, &a, &b, i64::checked_rem, u64::checked_rem, |x, _| x),
        Operator::In => super::value::contains(&b, &a, meter),
    }
}

fn is_number(value: &Val<'_>) -> bool {
    matches!(value, Val::Int(_) | Val::Uint(_) | Val::Double(_))
}

fn number<'a>(
    operator: Operator,
    a: &Val<'a>,
    b: &Val<'a>,
    int: fn(i64, i64) -> Option<i64>,
    uint: fn(u64, u64) -> Option<u64>,
    double: fn(f64, f64) -> f64,
) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => int(*a, *b).map(Val::Int).ok_or_else(|| Failure::wrong("integer overflow")),
        (Val::Uint(a), Val::Uint(b)) => uint(*a, *b).map(Val::Uint).ok_or_else(|| Failure::wrong("unsigned integer overflow")),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(double(*a, *b))),
        _ => Err(Failure::overload(operator.name(), &[a.clone(), b.clone()])),
    }
}

/// The sum of two values; concatenation of texts and lists.
pub fn add<'a>(a: Val<'a>, b: Val<'a>, meter: &mut Meter) -> Outcome<'a> {
    match (&a, &b) {
        (Val::Text(x), Val::Text(y)) => {
            meter.charge(a.weight() + b.weight())?;
            Ok(Val::text([&**x, &**y].concat()))
        }
        (Val::Bytes(x), Val::Bytes(y)) => {
            meter.charge(a.weight() + b.weight())?;
            Ok(Val::Bytes([&**x, &**y].concat().into()))
        }
        (Val::List(_) | Val::Items(..), Val::List(_) | Val::Items(..)) => {
            meter.charge(a.weight() + b.weight())?;
            let mut items = a.items().unwrap_or_default();
            let more = b.items().unwrap_or_default();
            match a.list_type() {
                None | Some(ListType::Atomic) => items.extend(more),
                Some(kind) => merge(&mut items, more, kind, meter)?,
            }
            Ok(Val::List(Arc::new(items)))
        }
        (Val::Duration(x), Val::Duration(y)) => x.checked_add(*y).map(Val::Duration).ok_or_else(|| Failure::wrong("integer overflow")),
        (Val::Time(time), Val::Duration(duration)) | (Val::Duration(duration), Val::Time(time)) => moved(*time, *duration),
        _ => number(Operator::Add, &a, &b, i64::checked_add, u64::checked_add, |x, y| x + y),
    }
}

/// Puts items into a set, or into a list in whose items those with the same keys are replaced.
fn merge<'a>(items: &mut Vec<Val<'a>>, more: Vec<Val<'a>>, kind: &ListType, meter: &mut Meter) -> Result<(), Failure> {
    for new in more {
        let mut place = None;
        for (index, item) in items.iter().enumerate() {
            meter.charge(1)?;
            let same = match kind {
                ListType::Map(keys) => same_keys(item, &new, keys, meter)?,
                _ => equal(item, &new, meter)?,
            };
            if same {
                place = Some(index);
                break;
            }
        }
        match place {
            Some(index) => items[index] = new,
            None => items.push(new),
        }
    }
    Ok(())
}

fn same_keys(a: &Val<'_>, b: &Val<'_>, keys: &[String], meter: &mut Meter) -> Result<bool, Failure> {
    for key in keys {
        let same = match (a.field(key), b.field(key)) {
            (Some(a), Some(b)) => equal(&a, &b, meter)?,
            (a, b) => a.is_none() && b.is_none(),
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn subtract<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Duration(x), Val::Duration(y)) => x.checked_sub(*y).map(Val::Duration).ok_or_else(|| Failure::wrong("integer overflow")),
        (Val::Time(time), Val::Duration(duration)) => {
            moved(*time, duration.checked_neg().ok_or_else(|| Failure::wrong("integer overflow"))?)
        }
        (Val::Time(x), Val::Time(y)) => {
            let nanos = x.duration_since(*y).as_nanos();
            i64::try_from(nanos).map(Val::Duration).map_err(|_| Failure::wrong("integer overflow"))
        }
        _ => number(Operator::Subtract, a, b, i64::checked_sub, u64::checked_sub, |x, y| x - y),
    }
}

fn moved<'a>(time: jiff::Timestamp, nanos: i64) -> Outcome<'a> {
    time.checked_add(SignedDuration::from_nanos(nanos)).map(Val::Time).map_err(|_| Failure::wrong("timestamp overflow"))
}
