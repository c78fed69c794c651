//! Where an object is in the store: `/registry/<group>/<plural>/<namespace>/<name>`, without the namespace for kinds that
//! have none. The core group, which has no name, is `core`.

use bytes::Bytes;

/// What every key starts with.
pub const ROOT: &str = "/registry/";

/// What is no object, and is written to be seen in the stream of commits.
pub const MARK: &str = "/registry/mark";

/// What the keys of a kind start with.
pub fn kind_prefix(group: &str, plural: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("{ROOT}{group}/{plural}/")
}

/// An object's place within its kind: `namespace/name`, or the name alone.
pub fn place(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// The key of an object.
pub fn key(group: &str, plural: &str, place: &str) -> Bytes {
    Bytes::from(kind_prefix(group, plural) + place)
}

/// Group, plural name and place of the object with a key.
pub fn split(key: &[u8]) -> Option<(&str, &str, &str)> {
    let key = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let (group, rest) = key.split_once('/')?;
    let (plural, place) = rest.split_once('/')?;
    Some((if group == "core" { "" } else { group }, plural, place))
}
