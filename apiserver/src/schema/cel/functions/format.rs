//! `'%s has %d'.format([name, count])`.

use super::convert;
use crate::schema::cel::{Failure, Meter, Val};

/// More digits than any number has.
const MAX_PRECISION: usize = 100;

/// The template with the values in their places.
pub fn format(template: &str, values: &[Val<'_>], meter: &mut Meter) -> Result<String, Failure> {
    let (mut made, mut rest, mut values) = (String::new(), template, values.iter());
    while let Some(at) = rest.find('%') {
        made.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            made.push('%');
            rest = after;
            continue;
        }
        let mut precision = 6;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            precision = after[..end]
                .parse()
                .ok()
                .filter(|digits| *digits <= MAX_PRECISION)
                .ok_or_else(|| Failure::wrong("unusable precision in a format"))?;
            rest = &after[end..];
        }
        let clause = rest.chars().next().ok_or_else(|| Failure::wrong("unexpected end of format string"))?;
        rest = &rest[clause.len_utf8()..];
        let value = values.next().ok_or_else(|| Failure::wrong("more places in the format than values"))?;
        let text = one(clause, precision, value, meter)?;
        meter.charge(text.len() as u64 / 10 + 1)?;
        made.push_str(&text);
    }
    made.push_str(rest);
    Ok(made)
}

fn one(clause: char, precision: usize, value: &Val<'_>, meter: &mut Meter) -> Result<String, Failure> {
    let number = match value {
        Val::Int(number) => Some(i128::from(*number)),
        Val::Uint(number) => Some(i128::from(*number)),
        Val::Bool(value) if clause == 'b' => Some(i128::from(*value)),
        _ => None,
    };
    let sign = if number.is_some_and(|number| number < 0) { "-" } else { "" };
    let size = number.map(i128::unsigned_abs);
    let text = match (clause, size, value) {
        ('s', _, _) => return shown(value, meter),
        ('d', Some(size), _) => format!("{sign}{size}"),
        ('b', Some(size), _) => format!("{sign}{size:b}"),
        ('o', Some(size), _) => format!("{sign}{size:o}"),
        ('x', Some(size), _) => format!("{sign}{size:x}"),
        ('X', Some(size), _) => format!("{sign}{size:X}"),
        ('x' | 'X', None, Val::Text(_) | Val::Bytes(_)) => {
            let bytes = match value {
                Val::Text(text) => text.as_bytes(),
                Val::Bytes(bytes) => bytes,
                _ => &[],
            };
            bytes.iter().map(|byte| if clause == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") }).collect()
        }
        ('f', Some(size), _) => format!("{sign}{size}.{}", "0".repeat(precision)),
        ('f', None, Val::Double(number)) => format!("{number:.precision$}"),
        ('e', None, Val::Double(number)) => scientific(*number, precision),
        _ => return Err(Failure::wrong(format!("a {} does not go with %{clause} in a format", value.type_name()))),
    };
    Ok(text)
}

/// A value as `%s` shows it. Values within values are as deep as the expression or the document that made them.
fn shown(value: &Val<'_>, meter: &mut Meter) -> Result<String, Failure> {
    meter.charge(value.weight())?;
    if let Some(items) = value.items() {
        let items: Vec<_> = items.iter().map(|item| shown(item, meter)).collect::<Result<_, _>>()?;
        return Ok(format!("[{}]", items.join(", ")));
    }
    if let Some(entries) = value.entries() {
        let entry = |(key, value): &(Val<'_>, Val<'_>)| Ok(format!("{}: {}", shown(key, meter)?, shown(value, meter)?));
        let mut entries: Vec<_> = entries.iter().map(entry).collect::<Result<_, Failure>>()?;
        entries.sort();
        return Ok(format!("{{{}}}", entries.join(", ")));
    }
    match value {
        Val::Null => Ok("null".into()),
        Val::Type(name) => Ok((*name).into()),
        value => match convert::text_of(value)? {
            Some(Val::Text(text)) => Ok(text.to_string()),
            _ => Err(Failure::wrong(format!("a {} does not go with %s in a format", value.type_name()))),
        },
    }
}

/// `3.140000×10⁰⁰`, as the language has it.
fn scientific(number: f64, precision: usize) -> String {
    let plain = format!("{number:.precision$e}");
    let Some((digits, exponent)) = plain.split_once('e') else { return plain };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("", exponent), |exponent| ("⁻", exponent));
    let raised = |digit: char| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(digit.to_digit(10).unwrap_or(0) as usize).unwrap_or(digit);
    let exponent: String = format!("{exponent:0>2}").chars().map(raised).collect();
    format!("{digits}×10{sign}{exponent}")
}
