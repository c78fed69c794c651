//! Lists and sets.

use super::{Function, global, member};
use crate::schema::cel::{
    Failure, Meter, Val,
    operators::add,
    value::{compare, equal},
};
use std::cmp::Ordering;

pub const FUNCTIONS: &[Function] = &[
    member("isSorted", 1..=1, |meter, args| {
        let Some(items) = args[0].items() else { return Ok(None) };
        for pair in items.windows(2) {
            if order(&pair[0], &pair[1], meter)? == Ordering::Greater {
                return Ok(Some(Val::Bool(false)));
            }
        }
        Ok(Some(Val::Bool(true)))
    }),
    member("sum", 1..=1, |meter, args| {
        let Some(items) = args[0].items() else { return Ok(None) };
        let mut items = items.into_iter();
        let Some(mut sum) = items.next() else { return Ok(Some(Val::Int(0))) };
        if !matches!(sum, Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Duration(_)) {
            return Ok(None);
        }
        for item in items {
            sum = add(sum, item, meter)?;
        }
        Ok(Some(sum))
    }),
    member("min", 1..=1, |meter, args| extreme("min", &args[0], Ordering::Less, meter)),
    member("max", 1..=1, |meter, args| extreme("max", &args[0], Ordering::Greater, meter)),
    global("sets.contains", 2..=2, |meter, args| contains_all(&args[0], &args[1], meter)),
    global("sets.equivalent", 2..=2, |meter, args| match contains_all(&args[0], &args[1], meter)? {
        Some(Val::Bool(true)) => contains_all(&args[1], &args[0], meter),
        other => Ok(other),
    }),
    global("sets.intersects", 2..=2, |meter, args| {
        let (Some(a), Some(b)) = (args[0].items(), args[1].items()) else { return Ok(None) };
        for item in &a {
            if position(&b, item, meter)?.is_some() {
                return Ok(Some(Val::Bool(true)));
            }
        }
        Ok(Some(Val::Bool(false)))
    }),
];

fn order(a: &Val<'_>, b: &Val<'_>, meter: &mut Meter) -> Result<Ordering, Failure> {
    compare(a, b, meter)?.ok_or_else(|| Failure::overload("_<_", &[a.clone(), b.clone()]))
}

fn extreme<'a>(name: &str, list: &Val<'a>, wanted: Ordering, meter: &mut Meter) -> Result<Option<Val<'a>>, Failure> {
    let Some(items) = list.items() else { return Ok(None) };
    let mut items = items.into_iter();
    let mut best = items.next().ok_or_else(|| Failure::wrong(format!("{name} called on empty list")))?;
    for item in items {
        if order(&item, &best, meter)? == wanted {
            best = item;
        }
    }
    Ok(Some(best))
}

fn position(items: &[Val<'_>], value: &Val<'_>, meter: &mut Meter) -> Result<Option<usize>, Failure> {
    for (index, item) in items.iter().enumerate() {
        meter.charge(1)?;
        if equal(item, value, meter)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn contains_all<'a>(all: &Val<'a>, some: &Val<'a>, meter: &mut Meter) -> Result<Option<Val<'a>>, Failure> {
    let (Some(all), Some(some)) = (all.items(), some.items()) else { return Ok(None) };
    for item in &some {
        if position(&all, item, meter)?.is_none() {
            return Ok(Some(Val::Bool(false)));
        }
    }
    Ok(Some(Val::Bool(true)))
}

/// The first place of a value in a list, or the last.
pub fn index_of<'a>(list: &Val<'a>, value: &Val<'a>, last: bool, meter: &mut Meter) -> Result<Option<Val<'a>>, Failure> {
    let Some(mut items) = list.items() else { return Ok(None) };
    if last {
        items.reverse();
    }
    let place = position(&items, value, meter)?.map(|place| if last { items.len() - 1 - place } else { place });
    Ok(Some(Val::Int(place.map_or(-1, |place| place as i64))))
}
