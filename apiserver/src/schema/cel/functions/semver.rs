//! Versions, as Semantic Versioning 2.0 has them. What was built of one does not count where two are compared.

use super::{Function, global, member};
use crate::schema::cel::{Failure, Val};
use ::semver::Version;
use std::{cmp::Ordering, sync::Arc};

type Made<'a> = Result<Option<Val<'a>>, Failure>;

pub const FUNCTIONS: &[Function] = &[
    global("semver", 1..=2, |_, args| {
        let told = |version: Option<Version>| version.map(|version| Some(Val::Semver(Arc::new(version))));
        read(args).map_or(Ok(None), |version| told(version).ok_or_else(|| Failure::wrong("it is no semantic version")))
    }),
    global("isSemver", 1..=2, |_, args| Ok(read(args).map(|version| Val::Bool(version.is_some())))),
    member("major", 1..=1, |_, args| part(args, |version| version.major)),
    member("minor", 1..=1, |_, args| part(args, |version| version.minor)),
    member("patch", 1..=1, |_, args| part(args, |version| version.patch)),
];

/// The version that the arguments tell, if they are such that they could tell one.
fn read(args: &[Val<'_>]) -> Option<Option<Version>> {
    match args {
        [Val::Text(text)] | [Val::Text(text), Val::Bool(false)] => Some(Version::parse(text).ok()),
        [Val::Text(text), Val::Bool(true)] => Some(normalised(text)),
        _ => None,
    }
}

/// Reads a version that may be written in the ways that people write them: `v1.2`, `01.2.3`.
fn normalised(text: &str) -> Option<Version> {
    let mut parts: Vec<String> = text.strip_prefix('v').unwrap_or(text).splitn(3, '.').map(without_zeros).collect();
    if parts.len() < 3 && parts.last()?.contains(['+', '-']) {
        return None;
    }
    parts.resize(3, "0".into());
    Version::parse(&parts.join(".")).ok()
}

fn without_zeros(part: &str) -> String {
    let rest = part.trim_start_matches('0');
    if rest.len() < part.len() && !rest.starts_with(|first: char| first.is_ascii_digit()) { format!("0{rest}") } else { rest.to_owned() }
}

fn part<'a>(args: &[Val<'a>], number: fn(&Version) -> u64) -> Made<'a> {
    match args {
        [Val::Semver(version)] => Ok(Some(Val::Int(i64::try_from(number(version)).unwrap_or(i64::MAX)))),
        _ => Ok(None),
    }
}

/// Which of two versions comes first.
pub fn order(a: &Version, b: &Version) -> Ordering {
    a.cmp_precedence(b)
}
