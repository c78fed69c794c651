//! Evaluation: the compiled form of expressions, and what each comes to.

use super::{
    Failure, Meter, Outcome, Val, functions,
    operators::{self, Operator},
    value::{contains, equal},
};
use std::sync::Arc;

/// A compiled expression. Variables are places: `self` is the first, `oldSelf` the second, then those of the loops around.
#[derive(Debug)]
pub enum Expr {
    Const(Val<'static>),
    Var(usize),
    Select {
        of: Box<Expr>,
        field: Field,
    },
    OptionalSelect {
        of: Box<Expr>,
        field: Field,
    },
    Has {
        of: Box<Expr>,
        field: Field,
    },
    Index {
        of: Box<Expr>,
        at: Box<Expr>,
        optional: bool,
    },
    And(Vec<Expr>),
    Or(Vec<Expr>),
    If(Box<[Expr; 3]>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary(Operator, Box<[Expr; 2]>),
    /// With those that are left out if they are optional and absent.
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    Loop(Box<Loop>),
    OptionalMap {
        of: Box<Expr>,
        body: Box<Expr>,
        flat: bool,
    },
    Call {
        function: &'static functions::Function,
        args: Vec<Expr>,
    },
}

/// The name of a field, as it is written and as the document has it.
#[derive(Debug)]
pub struct Field {
    pub written: Box<str>,
    pub name: Box<str>,
}

/// What a loop comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    /// The values of a map's entries made anew.
    MapValues,
    /// Entries made anew: the body gives a map of them.
    MapEntries,
    /// Items in the order of what the body gives.
    SortBy,
}

/// A loop over the items of a list or the entries of a map.
#[derive(Debug)]
pub struct Loop {
    pub kind: LoopKind,
    pub range: Expr,
    /// Index and item, or key and value, are two variables.
    pub pairs: bool,
    /// Items for which it is false are passed over.
    pub filter: Option<Expr>,
    pub body: Expr,
}

/// One evaluation.
pub struct Run<'a, 'm> {
    vars: Vec<Val<'a>>,
    meter: &'m mut Meter,
}

impl<'a, 'm> Run<'a, 'm> {
    pub fn new(vars: Vec<Val<'a>>, meter: &'m mut Meter) -> Self {
        Self { vars, meter }
    }

    pub fn value(&mut self, expr: &Expr) -> Outcome<'a> {
        self.meter.charge(1)?;
        match expr {
            Expr::Const(value) => Ok(value.clone()),
            Expr::Var(place) => self.vars.get(*place).cloned().ok_or_else(|| Failure::wrong("no such variable")),
            Expr::Select { of, field } => {
                let of = self.value(of)?;
                select(&of, field)
            }
            Expr::OptionalSelect { of, field } => {
                let of = self.value(of)?;
                optional_select(&of, field)
            }
            Expr::Has { of, field } => {
                let of = self.value(of)?;
                let inner = match &of {
                    Val::Optional(None) => return Ok(Val::Bool(false)),
                    Val::Optional(Some(inner)) => inner,
                    other => other,
                };
                if !inner.is_map() {
                    return Err(Failure::overload("has", std::slice::from_ref(inner)));
                }
                Ok(Val::Bool(find(inner, field).is_some()))
            }
            Expr::Index { of, at, optional } => {
                let (of, at) = (self.value(of)?, self.value(at)?);
                index(&of, &at, *optional)
            }
            Expr::And(operands) => self.logic(operands, false),
            Expr::Or(operands) => self.logic(operands, true),
            Expr::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                match self.value(condition)? {
                    Val::Bool(true) => self.value(then),
                    Val::Bool(false) => self.value(otherwise),
                    other => Err(Failure::overload("_?_:_", &[other])),
                }
            }
            Expr::Not(operand) => match self.value(operand)? {
                Val::Bool(value) => Ok(Val::Bool(!value)),
                other => Err(Failure::overload("!_", &[other])),
            },
            Expr::Negate(operand) => match self.value(operand)? {
                Val::Int(value) => value.checked_neg().map(Val::Int).ok_or_else(|| Failure::wrong("integer overflow")),
                Val::Double(value) => Ok(Val::Double(-value)),
                Val::Duration(value) => value.checked_neg().map(Val::Duration).ok_or_else(|| Failure::wrong("integer overflow")),
                other => Err(Failure::overload("-_", &[other])),
            },
            Expr::Binary(operator, operands) => {
                let [left, right] = &**operands;
                let (left, right) = (self.value(left)?, self.value(right)?);
                match operator {
                    Operator::In => contains(&right, &left, self.meter),
                    operator => operators::apply(*operator, left, right, self.meter),
                }
            }
            Expr::List(items) => self.list(items),
            Expr::Map(entries) => self.map(entries),
            Expr::Loop(of) => self.loop_over(of),
            Expr::OptionalMap { of, body, flat } => match self.value(of)? {
                Val::Optional(None) => Ok(Val::Optional(None)),
                Val::Optional(Some(inner)) => {
                    self.vars.push(Val::clone(&inner));
                    let mapped = self.value(body);
                    self.vars.pop();
                    match mapped? {
                        value @ Val::Optional(_) if *flat => Ok(value),
                        value if *flat => Err(Failure::overload("optFlatMap", &[value])),
                        value => Ok(Val::optional(Some(value))),
                    }
                }
                other => Err(Failure::overload("optMap", &[other])),
            },
            Expr::Call { function, args } => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(self.value(arg)?);
                }
                for value in &values {
                    self.meter.charge(value.weight())?;
                }
                (function.body)(self.meter, &values)?.ok_or_else(|| Failure::overload(function.name, &values))
            }
        }
    }

    /// `&&` and `||` in any order: an operand that decides does so whatever goes wrong in the others.
    fn logic(&mut self, operands: &[Expr], decides: bool) -> Outcome<'a> {
        let mut failure = None;
        for operand in operands {
            match self.value(operand) {
                Ok(Val::Bool(value)) if value == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(other) => failure = Some(Failure::overload(if decides { "_||_" } else { "_&&_" }, &[other])),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Outcome<'a> {
        let mut list = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.value(item)?, optional) {
                (Val::Optional(inner), true) => list.extend(inner.map(|inner| Val::clone(&inner))),
                (other, true) => return Err(Failure::overload("[?_]", &[other])),
                (value, false) => list.push(value),
            }
        }
        Ok(Val::list(list))
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Outcome<'a> {
        let mut map = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key = self.value(key)?;
            if !matches!(key, Val::Text(_) | Val::Int(_) | Val::Uint(_) | Val::Bool(_)) {
                return Err(Failure::wrong(format!("unsupported key type: {}", key.type_name())));
            }
            let value = match (self.value(value)?, optional) {
                (Val::Optional(None), true) => continue,
                (Val::Optional(Some(inner)), true) => Val::clone(&inner),
                (other, true) => return Err(Failure::overload("{?_: _}", &[other])),
                (value, false) => value,
            };
            self.refuse_repeated(&map, &key)?;
            map.push((key, value));
        }
        Ok(Val::Map(Arc::new(map)))
    }

    fn refuse_repeated(&mut self, entries: &[(Val<'a>, Val<'a>)], key: &Val<'a>) -> Result<(), Failure> {
        for (other, _) in entries {
            self.meter.charge(1)?;
            if equal(other, key, self.meter)? {
                return Err(Failure::wrong("Failed with repeated key"));
            }
        }
        Ok(())
    }

    fn loop_over(&mut self, of: &Loop) -> Outcome<'a> {
        let range = self.value(&of.range)?;
        self.meter.charge(range.weight())?;
        let pairs: Vec<(Val<'a>, Val<'a>)> = match (range.items(), range.entries()) {
            (Some(items), _) => items.into_iter().enumerate().map(|(index, item)| (Val::Int(index as i64), item)).collect(),
            (None, Some(entries)) => entries,
            (None, None) => return Err(Failure::overload("range", &[range])),
        };
        let keys_alone = !of.pairs && range.is_map();
        let (mut kept, mut kept_pairs, mut count, mut failure) = (Vec::new(), Vec::new(), 0, None);
        for (key, item) in pairs {
            let before = self.vars.len();
            let shown = if keys_alone { key.clone() } else { item.clone() };
            if of.pairs {
                self.vars.push(key.clone());
            }
            self.vars.push(shown.clone());
            let step = self.step(of);
            self.vars.truncate(before);
            match (of.kind, step) {
                (_, Ok(None)) => {}
                (LoopKind::Map, Ok(Some(value))) => kept.push(value),
                (LoopKind::SortBy, Ok(Some(value))) => kept_pairs.push((value, shown)),
                (LoopKind::MapValues, Ok(Some(value))) => kept_pairs.push((key, value)),
                (LoopKind::MapEntries, Ok(Some(made))) => {
                    let Some(entries) = made.entries() else { return Err(Failure::overload("transformMapEntry", &[made])) };
                    for (key, value) in entries {
                        self.refuse_repeated(&kept_pairs, &key)?;
                        kept_pairs.push((key, value));
                    }
                }
                (LoopKind::All, Ok(Some(Val::Bool(false)))) => return Ok(Val::Bool(false)),
                (LoopKind::Exists, Ok(Some(Val::Bool(true)))) => return Ok(Val::Bool(true)),
                (LoopKind::ExistsOne, Ok(Some(Val::Bool(true)))) => count += 1,
                (LoopKind::Filter, Ok(Some(Val::Bool(true)))) => kept.push(shown),
                (_, Ok(Some(Val::Bool(_)))) => {}
                (LoopKind::All | LoopKind::Exists, Ok(Some(other))) => failure = Some(Failure::overload("_&&_", &[other])),
                (_, Ok(Some(other))) => return Err(Failure::overload("_?_:_", &[other])),
                (LoopKind::All | LoopKind::Exists, Err(error)) if !error.is_final() => failure = Some(error),
                (_, Err(error)) => return Err(error),
            }
        }
        match (of.kind, failure) {
            (_, Some(failure)) => Err(failure),
            (LoopKind::All, None) => Ok(Val::Bool(true)),
            (LoopKind::Exists, None) => Ok(Val::Bool(false)),
            (LoopKind::ExistsOne, None) => Ok(Val::Bool(count == 1)),
            (LoopKind::Map | LoopKind::Filter, None) => Ok(Val::list(kept)),
            (LoopKind::MapValues | LoopKind::MapEntries, None) => Ok(Val::Map(Arc::new(kept_pairs))),
            (LoopKind::SortBy, None) => functions::sort_by(kept_pairs, self.meter).map(Val::list),
        }
    }

    /// What the body of a loop comes to; nothing if the item is passed over.
    fn step(&mut self, of: &Loop) -> Result<Option<Val<'a>>, Failure> {
        if let Some(filter) = &of.filter {
            match self.value(filter)? {
                Val::Bool(true) => {}
                Val::Bool(false) => return Ok(None),
                other => return Err(Failure::overload("_?_:_", &[other])),
            }
        }
        self.value(&of.body).map(Some)
    }
}

/// The field as the document has it, or, of a map with such a key, as it is written.
fn find<'a>(of: &Val<'a>, field: &Field) -> Option<Val<'a>> {
    of.field(&field.name).or_else(|| if field.name == field.written { None } else { of.field(&field.written) })
}

fn select<'a>(of: &Val<'a>, field: &Field) -> Outcome<'a> {
    match of {
        Val::Optional(_) => optional_select(of, field),
        of if of.is_map() => find(of, field).ok_or_else(|| Failure::wrong(format!("no such key: {}", field.written))),
        of => Err(Failure::wrong(format!("no such overload: {}.{}", of.type_name(), field.written))),
    }
}

fn optional_select<'a>(of: &Val<'a>, field: &Field) -> Outcome<'a> {
    match of {
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => optional_select(inner, field),
        of if of.is_map() => Ok(Val::optional(find(of, field))),
        of => Err(Failure::wrong(format!("no such overload: {}.?{}", of.type_name(), field.written))),
    }
}

fn index<'a>(of: &Val<'a>, at: &Val<'a>, optional: bool) -> Outcome<'a> {
    let found = match of {
        Val::Optional(None) => return Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => return index(inner, at, true),
        Val::List(_) | Val::Items(..) => {
            let place = match at {
                Val::Int(place) => usize::try_from(*place).ok(),
                Val::Uint(place) => usize::try_from(*place).ok(),
                Val::Double(place) if place.fract() == 0.0 && *place >= 0.0 => Some(*place as usize),
                Val::Double(_) => None,
                _ => return Err(Failure::overload("_[_]", &[of.clone(), at.clone()])),
            };
            place.and_then(|place| of.item(place))
        }
        of if of.is_map() => of.entry(at),
        _ => return Err(Failure::overload("_[_]", &[of.clone(), at.clone()])),
    };
    match (found, optional) {
        (found, true) => Ok(Val::optional(found)),
        (Some(found), false) => Ok(found),
        (None, false) if of.is_map() => Err(Failure::wrong(format!("no such key: {}", shown(at)))),
        (None, false) => Err(Failure::wrong(format!("index out of bounds: {}", shown(at)))),
    }
}

/// A key or index as a message shows it.
fn shown(value: &Val<'_>) -> String {
    match value {
        Val::Text(text) => text.chars().take(64).collect(),
        Val::Int(n) => n.to_string(),
        Val::Uint(n) => n.to_string(),
        Val::Double(n) => n.to_string(),
        other => other.type_name().to_owned(),
    }
}
