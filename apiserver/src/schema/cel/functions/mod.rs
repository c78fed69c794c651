//! The functions that expressions may call: the language's own, and those that Kubernetes adds.

mod convert;
mod format;
mod lists;
pub mod named;
pub mod net;
mod optional;
pub mod quantity;
pub mod semver;
mod strings;
pub mod time;
pub mod url;

pub use lists::sort_by;

use super::{Failure, Meter, Val};
use regex::{Regex, RegexBuilder};

/// What a function makes of its arguments, the object that it is called on being the first; nothing if it does not go with
/// arguments of these types. The caller has paid for reading the arguments.
type Body = for<'a> fn(&mut Meter, &[Val<'a>]) -> Result<Option<Val<'a>>, Failure>;

/// A function.
#[derive(Debug)]
pub struct Function {
    /// As it is called; with the namespace that it is in.
    pub name: &'static str,
    /// It is called on an object.
    member: bool,
    /// How many arguments it takes, with the object.
    takes: std::ops::RangeInclusive<usize>,
    pub body: Body,
}

/// A function that is called on an object, which is the first of the arguments.
const fn member(name: &'static str, takes: std::ops::RangeInclusive<usize>, body: Body) -> Function {
    Function { name, member: true, takes, body }
}

/// A function that is called by its name alone.
const fn global(name: &'static str, takes: std::ops::RangeInclusive<usize>, body: Body) -> Function {
    Function { name, member: false, takes, body }
}

static FUNCTIONS: [&[Function]; 10] = [
    convert::FUNCTIONS,
    lists::FUNCTIONS,
    named::FUNCTIONS,
    net::FUNCTIONS,
    optional::FUNCTIONS,
    quantity::FUNCTIONS,
    semver::FUNCTIONS,
    strings::FUNCTIONS,
    time::FUNCTIONS,
    url::FUNCTIONS,
];

/// The function of that name for so many arguments, the object included.
pub fn find(name: &str, member: bool, count: usize) -> Option<&'static Function> {
    let mut all = FUNCTIONS.iter().flat_map(|functions| functions.iter());
    all.find(|f| f.name == name && f.member == member && f.takes.contains(&count))
}

/// There is such a function, for whatever arguments.
pub fn exists(name: &str, member: bool) -> bool {
    FUNCTIONS.iter().flat_map(|functions| functions.iter()).any(|f| f.name == name && f.member == member)
}

/// How large a compiled pattern may be.
const PATTERN_SIZE: usize = 256 << 10;
/// What it costs to compile a pattern that is not known before.
const PATTERN_COST: u64 = 20_000;

/// Compiles a pattern.
pub fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern is too large".to_owned(),
        _ => format!("{text:?} is not a pattern"),
    })
}

/// A pattern that is tried on a text, compiled now if it was not known before; nothing if the value is no pattern.
fn pattern_for(text: &str, value: &Val<'_>, meter: &mut Meter) -> Result<Option<Regex>, Failure> {
    let pattern = match value {
        Val::Pattern(pattern) => pattern.clone(),
        Val::Text(source) => {
            meter.charge(PATTERN_COST)?;
            pattern(source).map_err(Failure::Wrong)?
        }
        _ => return Ok(None),
    };
    meter.charge((text.len() as u64 / 10 + 1).saturating_mul(pattern.as_str().len() as u64 / 4 + 1))?;
    Ok(Some(pattern))
}
