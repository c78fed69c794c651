//! Quantities, as Kubernetes writes them: `100m`, `1.5Gi`, `2e3`.

use super::{Function, global, member, semver};
use crate::schema::cel::{Failure, Val};
use std::cmp::Ordering;

/// An amount, in billionths: the finest that there is, as in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

const NANO: i128 = 1_000_000_000;
/// The largest amount; what is larger counts as this.
const MOST: i128 = i64::MAX as i128 * NANO;
/// More digits than any amount needs.
const MAX_DIGITS: usize = 40;

impl Quantity {
    fn of(billionths: i128) -> Self {
        Self(billionths.clamp(-MOST, MOST))
    }

    fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let known = !fraction.contains('.') && number.len() <= MAX_DIGITS && !(whole.is_empty() && fraction.is_empty());
        if !known {
            return None;
        }
        // The value of one, as a ratio.
        let (times, over) = unit(suffix)?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(MOST) };
        let fraction = &fraction[..fraction.len().min(9)];
        let part: i128 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
        let billionths = whole.checked_mul(NANO).and_then(|n| n.checked_add(part)).and_then(|n| n.checked_mul(times)).unwrap_or(MOST);
        // What is finer than a billionth is rounded up.
        let amount = billionths / over + i128::from(billionths % over != 0);
        Some(Self::of(if negative { -amount } else { amount }))
    }

    fn is_whole(self) -> bool {
        self.0 % NANO == 0
    }
}

fn unit(suffix: &str) -> Option<(i128, i128)> {
    let place = |units: &[&str]| units.iter().position(|unit| *unit == suffix).map(|at| at as u32);
    if let Some(power) = place(&["", "k", "M", "G", "T", "P", "E"]) {
        return Some((1000i128.pow(power), 1));
    }
    if let Some(power) = place(&["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]) {
        return Some((1024i128.pow(power), 1));
    }
    if let Some(power) = place(&["", "m", "u", "n"]) {
        return Some((1, 1000i128.pow(power)));
    }
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let ten = 10i128.checked_pow(power.unsigned_abs().min(20))?;
    Some(if power < 0 { (1, ten) } else { (ten, 1) })
}

fn parsed(text: &str) -> Result<Quantity, Failure> {
    Quantity::parse(text)
        .ok_or_else(|| Failure::wrong("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"))
}

type Made<'a> = Result<Option<Val<'a>>, Failure>;

pub const FUNCTIONS: &[Function] = &[
    global("quantity", 1..=1, |_, args| match args {
        [Val::Text(text)] => parsed(text).map(|quantity| Some(Val::Quantity(quantity))),
        _ => Ok(None),
    }),
    global("isQuantity", 1..=1, |_, args| match args {
        [Val::Text(text)] => Ok(Some(Val::Bool(Quantity::parse(text).is_some()))),
        _ => Ok(None),
    }),
    member("sign", 1..=1, |_, args| ask(args, |quantity| Ok(Val::Int(quantity.0.signum() as i64)))),
    member("isInteger", 1..=1, |_, args| ask(args, |quantity| Ok(Val::Bool(quantity.is_whole())))),
    member("asInteger", 1..=1, |_, args| {
        ask(args, |quantity| match i64::try_from(quantity.0 / NANO) {
            Ok(whole) if quantity.is_whole() => Ok(Val::Int(whole)),
            _ => Err(Failure::wrong("cannot convert value to integer")),
        })
    }),
    member("asApproximateFloat", 1..=1, |_, args| ask(args, |quantity| Ok(Val::Double(quantity.0 as f64 / NANO as f64)))),
    member("add", 2..=2, |_, args| combine(args, |a, b| a + b)),
    member("sub", 2..=2, |_, args| combine(args, |a, b| a - b)),
    member("isLessThan", 2..=2, |_, args| order(args, |order| Val::Bool(order.is_lt()))),
    member("isGreaterThan", 2..=2, |_, args| order(args, |order| Val::Bool(order.is_gt()))),
    member("compareTo", 2..=2, |_, args| order(args, |order| Val::Int(order as i64))),
];

fn ask<'a>(args: &[Val<'a>], answer: fn(Quantity) -> Result<Val<'a>, Failure>) -> Made<'a> {
    match args {
        [Val::Quantity(quantity)] => answer(*quantity).map(Some),
        _ => Ok(None),
    }
}

fn combine<'a>(args: &[Val<'a>], make: fn(i128, i128) -> i128) -> Made<'a> {
    Ok(match args {
        [Val::Quantity(a), Val::Quantity(b)] => Some(Val::Quantity(Quantity::of(make(a.0, b.0)))),
        [Val::Quantity(a), Val::Int(b)] => Some(Val::Quantity(Quantity::of(make(a.0, i128::from(*b) * NANO)))),
        _ => None,
    })
}

fn order<'a>(args: &[Val<'a>], answer: fn(Ordering) -> Val<'a>) -> Made<'a> {
    match args {
        [Val::Quantity(a), Val::Quantity(b)] => Ok(Some(answer(a.cmp(b)))),
        // They are compared by the same names.
        [Val::Semver(a), Val::Semver(b)] => Ok(Some(answer(semver::order(a, b)))),
        _ => Ok(None),
    }
}
