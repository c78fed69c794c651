//! Conversions between types, and what can be asked of a value of any type.

use super::{Function, global, member, time};
use crate::schema::cel::{Failure, Val};

pub const FUNCTIONS: &[Function] = &[
    global("size", 1..=1, |_, args| Ok(args[0].size().map(|size| Val::Int(size as i64)))),
    member("size", 1..=1, |_, args| Ok(args[0].size().map(|size| Val::Int(size as i64)))),
    global("dyn", 1..=1, |_, args| Ok(Some(args[0].clone()))),
    global("type", 1..=1, |_, args| Ok(Some(Val::Type(args[0].type_name())))),
    global("string", 1..=1, |_, args| text_of(&args[0])),
    global("int", 1..=1, |_, args| int_of(&args[0])),
    global("uint", 1..=1, |_, args| uint_of(&args[0])),
    global("double", 1..=1, |_, args| double_of(&args[0])),
    global("bool", 1..=1, |_, args| match &args[0] {
        Val::Bool(value) => Ok(Some(Val::Bool(*value))),
        Val::Text(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(Val::Bool(true))),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(Val::Bool(false))),
            _ => Err(Failure::wrong("type conversion error from 'string' to 'bool'")),
        },
        _ => Ok(None),
    }),
    global("bytes", 1..=1, |_, args| match &args[0] {
        Val::Text(text) => Ok(Some(Val::Bytes(text.as_bytes().into()))),
        bytes @ Val::Bytes(_) => Ok(Some(bytes.clone())),
        _ => Ok(None),
    }),
];

type Converted<'a> = Result<Option<Val<'a>>, Failure>;

fn failed<'a>(from: &Val<'_>, to: &str) -> Converted<'a> {
    Err(Failure::wrong(format!("type conversion error from '{}' to '{to}'", from.type_name())))
}

pub fn text_of<'a>(value: &Val<'a>) -> Converted<'a> {
    Ok(Some(match value {
        text @ Val::Text(_) => text.clone(),
        Val::Bool(value) => Val::text(if *value { "true" } else { "false" }),
        Val::Int(number) => Val::text(number.to_string()),
        Val::Uint(number) => Val::text(number.to_string()),
        Val::Double(number) => Val::text(number.to_string()),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Val::text(text),
            Err(_) => return failed(value, "string"),
        },
        Val::Time(time) => Val::text(time.to_string()),
        Val::Duration(nanos) => Val::text(time::seconds(*nanos)),
        Val::Url(url) => Val::text(url.text.as_str()),
        Val::Ip(ip) => Val::text(ip.to_string()),
        Val::Cidr(cidr) => Val::text(cidr.to_string()),
        _ => return Ok(None),
    }))
}

fn int_of<'a>(value: &Val<'a>) -> Converted<'a> {
    let number = match value {
        Val::Int(number) => Some(*number),
        Val::Uint(number) => i64::try_from(*number).ok(),
        // The bounds are exact in a double, the upper one being just beyond.
        Val::Double(number) if *number > i64::MIN as f64 && *number < i64::MAX as f64 => Some(*number as i64),
        Val::Double(_) => None,
        Val::Text(text) => text.parse().ok(),
        Val::Time(time) => Some(time.as_second()),
        _ => return Ok(None),
    };
    number.map_or_else(|| failed(value, "int"), |number| Ok(Some(Val::Int(number))))
}

fn uint_of<'a>(value: &Val<'a>) -> Converted<'a> {
    let number = match value {
        Val::Uint(number) => Some(*number),
        Val::Int(number) => u64::try_from(*number).ok(),
        Val::Double(number) if *number >= 0.0 && *number < u64::MAX as f64 => Some(*number as u64),
        Val::Double(_) => None,
        Val::Text(text) => text.parse().ok(),
        _ => return Ok(None),
    };
    number.map_or_else(|| failed(value, "uint"), |number| Ok(Some(Val::Uint(number))))
}

fn double_of<'a>(value: &Val<'a>) -> Converted<'a> {
    let number = match value {
        Val::Double(number) => Some(*number),
        Val::Int(number) => Some(*number as f64),
        Val::Uint(number) => Some(*number as f64),
        Val::Text(text) => text.parse().ok(),
        _ => return Ok(None),
    };
    number.map_or_else(|| failed(value, "double"), |number| Ok(Some(Val::Double(number))))
}
