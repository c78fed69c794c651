//! Values that may be absent.

use super::{Function, global, member};
use crate::schema::cel::{Failure, Val};

pub const FUNCTIONS: &[Function] = &[
    global("optional.none", 0..=0, |_, _| Ok(Some(Val::Optional(None)))),
    global("optional.of", 1..=1, |_, args| Ok(Some(Val::optional(Some(args[0].clone()))))),
    global("optional.ofNonZeroValue", 1..=1, |_, args| {
        let zero = match &args[0] {
            Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) => true,
            Val::Double(number) => *number == 0.0,
            // The first second of the first year, which Go takes for no time.
            Val::Time(time) => time.as_second() == -62_135_596_800 && time.subsec_nanosecond() == 0,
            other => other.size() == Some(0),
        };
        Ok(Some(Val::optional((!zero).then(|| args[0].clone()))))
    }),
    member("hasValue", 1..=1, |_, args| match args {
        [Val::Optional(inner)] => Ok(Some(Val::Bool(inner.is_some()))),
        _ => Ok(None),
    }),
    member("value", 1..=1, |_, args| match args {
        [Val::Optional(Some(inner))] => Ok(Some(Val::clone(inner))),
        [Val::Optional(None)] => Err(Failure::wrong("optional.none() dereference")),
        _ => Ok(None),
    }),
    member("or", 2..=2, |_, args| match args {
        [Val::Optional(None), other @ Val::Optional(_)] => Ok(Some(other.clone())),
        [some @ Val::Optional(Some(_)), Val::Optional(_)] => Ok(Some(some.clone())),
        _ => Ok(None),
    }),
    member("orValue", 2..=2, |_, args| match args {
        [Val::Optional(None), other] => Ok(Some(other.clone())),
        [Val::Optional(Some(inner)), _] => Ok(Some(Val::clone(inner))),
        _ => Ok(None),
    }),
];
