//! Lists and sets.

use super::{Function, global, member};
use crate::schema::cel::{
    Failure, Meter, Val,
    operators::add,
    value::{compare, position},
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
        let Some(mut sum) = items.next() else {
            let item = match &args[0] {
                Val::Items(_, Some(node)) => node.items.as_deref(),
                _ => None,
            };
            return Ok(Some(match item {
                Some(item) if item.format == "duration" => Val::Duration(0),
                Some(item) if item.type_ == "number" => Val::Double(0.0),
                _ => Val::Int(0),
            }));
        };
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
    member("sort", 1..=1, |meter, args| {
        let Some(items) = args[0].items() else { return Ok(None) };
        sort_by(items.into_iter().map(|item| (item.clone(), item)).collect(), meter).map(|sorted| Some(Val::list(sorted)))
    }),
    member("distinct", 1..=1, |meter, args| {
        let Some(items) = args[0].items() else { return Ok(None) };
        let mut distinct = Vec::new();
        for item in items {
            if position(&distinct, &item, meter)?.is_none() {
                distinct.push(item);
            }
        }
        Ok(Some(Val::list(distinct)))
    }),
    member("slice", 3..=3, |_, args| {
        let (Some(items), Val::Int(from), Val::Int(to)) = (args[0].items(), &args[1], &args[2]) else { return Ok(None) };
        let (Ok(start), Ok(end)) = (usize::try_from(*from), usize::try_from(*to)) else {
            return Err(Failure::wrong(format!("cannot slice({from}, {to}), negative indexes not supported")));
        };
        if start > end {
            return Err(Failure::wrong(format!("cannot slice({from}, {to}), start index must be less than or equal to end index")));
        }
        let part = items.get(start..end);
        part.map(|part| Some(Val::list(part.to_vec())))
            .ok_or_else(|| Failure::wrong(format!("cannot slice({from}, {to}), list is length {}", items.len())))
    }),
    member("flatten", 1..=2, |meter, args| {
        let depth = match args.get(1) {
            None => 1,
            Some(Val::Int(depth)) => u64::try_from(*depth).map_err(|_| Failure::wrong("level must be non-negative"))?,
            Some(_) => return Ok(None),
        };
        let Some(items) = args[0].items() else { return Ok(None) };
        let mut flat = Vec::new();
        flatten(items, depth, &mut flat, meter)?;
        Ok(Some(Val::list(flat)))
    }),
    global("lists.range", 1..=1, |meter, args| {
        let Val::Int(count) = args[0] else { return Ok(None) };
        meter.charge(u64::try_from(count).unwrap_or(0))?;
        Ok(Some(Val::list((0..count).map(Val::Int).collect())))
    }),
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

/// Which comes first of two values that are ordered.
pub fn order(a: &Val<'_>, b: &Val<'_>, meter: &mut Meter) -> Result<Ordering, Failure> {
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

fn contains_all<'a>(all: &Val<'a>, some: &Val<'a>, meter: &mut Meter) -> Result<Option<Val<'a>>, Failure> {
    let (Some(all), Some(some)) = (all.items(), some.items()) else { return Ok(None) };
    for item in &some {
        if position(&all, item, meter)?.is_none() {
            return Ok(Some(Val::Bool(false)));
        }
    }
    Ok(Some(Val::Bool(true)))
}

/// Lists within a list are as deep as the expression or the document that made them.
fn flatten<'a>(items: Vec<Val<'a>>, depth: u64, flat: &mut Vec<Val<'a>>, meter: &mut Meter) -> Result<(), Failure> {
    for item in items {
        meter.charge(item.weight())?;
        match item.items() {
            Some(items) if depth > 0 => flatten(items, depth - 1, flat, meter)?,
            _ => flat.push(item),
        }
    }
    Ok(())
}

/// Values in the order of their keys; those with the same key stay in theirs.
pub fn sort_by<'a>(mut pairs: Vec<(Val<'a>, Val<'a>)>, meter: &mut Meter) -> Result<Vec<Val<'a>>, Failure> {
    let mut failure = None;
    pairs.sort_by(|(a, _), (b, _)| match &failure {
        Some(_) => Ordering::Equal,
        None => order(a, b, meter).unwrap_or_else(|error| {
            failure = Some(error);
            Ordering::Equal
        }),
    });
    failure.map_or_else(|| Ok(pairs.into_iter().map(|(_, value)| value).collect()), Err)
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
