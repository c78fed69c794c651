//! Texts. Places in them are counted in code points.

use super::{Function, format, global, lists, member, pattern_for};
use crate::schema::cel::{Failure, Meter, Val};

type Made<'a> = Result<Option<Val<'a>>, Failure>;

pub const FUNCTIONS: &[Function] = &[
    member("contains", 2..=2, |_, args| test(args, |text, part| text.contains(part))),
    member("startsWith", 2..=2, |_, args| test(args, |text, part| text.starts_with(part))),
    member("endsWith", 2..=2, |_, args| test(args, |text, part| text.ends_with(part))),
    member("matches", 2..=2, matches),
    global("matches", 2..=2, matches),
    member("lowerAscii", 1..=1, |meter, args| made(meter, args, |text| text.to_ascii_lowercase())),
    member("upperAscii", 1..=1, |meter, args| made(meter, args, |text| text.to_ascii_uppercase())),
    member("trim", 1..=1, |meter, args| made(meter, args, |text| text.trim().to_owned())),
    member("reverse", 1..=1, |meter, args| match args[0].items() {
        Some(mut items) => {
            items.reverse();
            Ok(Some(Val::list(items)))
        }
        None => made(meter, args, |text| text.chars().rev().collect()),
    }),
    member("format", 2..=2, |meter, args| match (&args[0], args[1].items()) {
        (Val::Text(template), Some(values)) => format::format(template, &values, meter).map(|text| Some(Val::text(text))),
        _ => Ok(None),
    }),
    member("charAt", 2..=2, |_, args| match args {
        [Val::Text(text), Val::Int(at)] => {
            let at = usize::try_from(*at).map_err(|_| out_of_range(*at))?;
            match text.chars().nth(at) {
                Some(char) => Ok(Some(Val::text(char.to_string()))),
                None if at == text.chars().count() => Ok(Some(Val::text(""))),
                None => Err(out_of_range(at as i64)),
            }
        }
        _ => Ok(None),
    }),
    member("substring", 2..=3, |_, args| match args {
        [Val::Text(text), Val::Int(from)] => substring(text, *from, None),
        [Val::Text(text), Val::Int(from), Val::Int(to)] => substring(text, *from, Some(*to)),
        _ => Ok(None),
    }),
    member("indexOf", 2..=3, |meter, args| index_of(meter, args, false)),
    member("lastIndexOf", 2..=3, |meter, args| index_of(meter, args, true)),
    member("replace", 3..=4, |meter, args| match args {
        [Val::Text(text), Val::Text(old), Val::Text(new)] => replace(meter, text, old, new, -1),
        [Val::Text(text), Val::Text(old), Val::Text(new), Val::Int(count)] => replace(meter, text, old, new, *count),
        _ => Ok(None),
    }),
    member("split", 2..=3, |meter, args| match args {
        [Val::Text(text), Val::Text(by)] => split(meter, text, by, -1),
        [Val::Text(text), Val::Text(by), Val::Int(count)] => split(meter, text, by, *count),
        _ => Ok(None),
    }),
    member("join", 1..=2, join),
    member("find", 2..=2, |meter, args| {
        let Val::Text(text) = &args[0] else { return Ok(None) };
        let pattern = pattern_for(text, &args[1], meter)?;
        Ok(pattern.map(|pattern| Val::text(pattern.find(text).map_or("", |found| found.as_str()))))
    }),
    member("findAll", 2..=3, |meter, args| {
        let most = match args.get(2) {
            None => usize::MAX,
            Some(Val::Int(most)) => usize::try_from(*most).unwrap_or(usize::MAX),
            Some(_) => return Ok(None),
        };
        let Val::Text(text) = &args[0] else { return Ok(None) };
        let Some(pattern) = pattern_for(text, &args[1], meter)? else { return Ok(None) };
        let mut found = Vec::new();
        for part in pattern.find_iter(text).take(most) {
            meter.charge(1)?;
            found.push(Val::text(part.as_str()));
        }
        Ok(Some(Val::list(found)))
    }),
];

fn out_of_range(at: i64) -> Failure {
    Failure::wrong(format!("index out of range: {at}"))
}

fn test<'a>(args: &[Val<'a>], holds: fn(&str, &str) -> bool) -> Made<'a> {
    match args {
        [Val::Text(text), Val::Text(part)] => Ok(Some(Val::Bool(holds(text, part)))),
        _ => Ok(None),
    }
}

fn made<'a>(meter: &mut Meter, args: &[Val<'a>], make: fn(&str) -> String) -> Made<'a> {
    match args {
        [Val::Text(text)] => {
            meter.charge(args[0].weight())?;
            Ok(Some(Val::text(make(text))))
        }
        _ => Ok(None),
    }
}

fn matches<'a>(meter: &mut Meter, args: &[Val<'a>]) -> Made<'a> {
    let Val::Text(text) = &args[0] else { return Ok(None) };
    Ok(pattern_for(text, &args[1], meter)?.map(|pattern| Val::Bool(pattern.is_match(text))))
}

fn substring<'a>(text: &str, from: i64, to: Option<i64>) -> Made<'a> {
    let length = text.chars().count();
    let place = |at: i64| usize::try_from(at).ok().filter(|at| *at <= length).ok_or_else(|| out_of_range(at));
    let (from, to) = (place(from)?, to.map_or(Ok(length), place)?);
    if from > to {
        return Err(Failure::wrong(format!("invalid substring range. start: {from}, end: {to}")));
    }
    Ok(Some(Val::text(text.chars().skip(from).take(to - from).collect::<String>())))
}

fn index_of<'a>(meter: &mut Meter, args: &[Val<'a>], last: bool) -> Made<'a> {
    let (text, part, offset) = match args {
        [Val::Text(text), Val::Text(part)] => (text, part, None),
        [Val::Text(text), Val::Text(part), Val::Int(offset)] => (text, part, Some(*offset)),
        [list, value] => return lists::index_of(list, value, last, meter),
        _ => return Ok(None),
    };
    let length = text.chars().count();
    let offset = match offset {
        Some(offset) => usize::try_from(offset).ok().filter(|at| *at <= length).ok_or_else(|| out_of_range(offset))?,
        None if last => length,
        None => 0,
    };
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let found = if last {
        // The match starts at the offset at the latest.
        let end = (byte(offset) + part.len()).min(text.len());
        let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
        text[..end].rfind(&**part)
    } else {
        let start = byte(offset);
        text[start..].find(&**part).map(|at| at + start)
    };
    Ok(Some(Val::Int(found.map_or(-1, |byte| text[..byte].chars().count() as i64))))
}

fn replace<'a>(meter: &mut Meter, text: &str, old: &str, new: &str, count: i64) -> Made<'a> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = text.matches(old).take(most).count();
    meter.charge((text.len() as u64).saturating_add((found as u64).saturating_mul(new.len() as u64)) / 10 + 1)?;
    Ok(Some(Val::text(text.replacen(old, new, most))))
}

fn split<'a>(meter: &mut Meter, text: &str, by: &str, count: i64) -> Made<'a> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    if most == 0 {
        return Ok(Some(Val::list(Vec::new())));
    }
    let mut parts = Vec::new();
    if by.is_empty() {
        // Into its letters, where the last part has what is beyond the count.
        let mut rest = text;
        while let Some(char) = rest.chars().next() {
            meter.charge(1)?;
            let cut = if parts.len() + 1 == most { rest.len() } else { char.len_utf8() };
            let (part, beyond) = rest.split_at(cut);
            parts.push(Val::text(part));
            rest = beyond;
        }
    } else {
        for part in text.splitn(most, by) {
            meter.charge(1)?;
            parts.push(Val::text(part));
        }
    }
    Ok(Some(Val::list(parts)))
}

fn join<'a>(meter: &mut Meter, args: &[Val<'a>]) -> Made<'a> {
    let by = match args {
        [_] => "",
        [_, Val::Text(by)] => by,
        _ => return Ok(None),
    };
    let Some(items) = args[0].items() else { return Ok(None) };
    let mut joined = String::new();
    for (index, item) in items.iter().enumerate() {
        let Val::Text(text) = item else { return Ok(None) };
        meter.charge((text.len() + by.len()) as u64 / 10 + 1)?;
        if index > 0 {
            joined.push_str(by);
        }
        joined.push_str(text);
    }
    Ok(Some(Val::text(joined)))
}
