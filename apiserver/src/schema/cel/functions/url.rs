//! URLs.

use super::{Function, global, member};
use crate::schema::cel::{Failure, Val};
use http::Uri;
use std::sync::Arc;

/// A URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    pub text: String,
    scheme: String,
    host: String,
    hostname: String,
    port: String,
    path: String,
    query: String,
}

impl Url {
    /// An absolute URI or an absolute path, as Kubernetes takes them.
    fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') || text.contains("://") {
            let uri: Uri = escape(text.split('#').next()?).parse().ok()?;
            let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            let hostname = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let written_path = text.split_once("://").is_none_or(|(_, rest)| rest.contains('/'));
            return Some(Self {
                text: text.to_owned(),
                scheme: uri.scheme_str().unwrap_or_default().to_owned(),
                host: host.to_owned(),
                hostname: hostname.to_owned(),
                port: uri.port().map(|port| port.as_str().to_owned()).unwrap_or_default(),
                path: if written_path { uri.path().to_owned() } else { String::new() },
                query: uri.query().unwrap_or_default().to_owned(),
            });
        }
        None
    }
}

/// A text is a URL.
pub fn is_url(text: &str) -> bool {
    Url::parse(text).is_some()
}

type Made<'a> = Result<Option<Val<'a>>, Failure>;

pub const FUNCTIONS: &[Function] = &[
    global("url", 1..=1, |_, args| match args {
        [Val::Text(text)] => Url::parse(text).map(|url| Some(Val::Url(Arc::new(url)))).ok_or_else(|| Failure::wrong("it is no URL")),
        _ => Ok(None),
    }),
    global("isURL", 1..=1, |_, args| match args {
        [Val::Text(text)] => Ok(Some(Val::Bool(Url::parse(text).is_some()))),
        _ => Ok(None),
    }),
    member("getScheme", 1..=1, |_, args| ask(args, |url| &url.scheme)),
    member("getHost", 1..=1, |_, args| ask(args, |url| &url.host)),
    member("getHostname", 1..=1, |_, args| ask(args, |url| &url.hostname)),
    member("getPort", 1..=1, |_, args| ask(args, |url| &url.port)),
    member("getEscapedPath", 1..=1, |_, args| ask(args, |url| &url.path)),
    member("getQuery", 1..=1, |meter, args| match args {
        [Val::Url(url)] => {
            let mut query: Vec<(Val<'_>, Val<'_>)> = Vec::new();
            for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                meter.charge(query.len() as u64 + 1)?;
                let value = Val::text(unescape(value));
                let name = unescape(name);
                let known = query.iter_mut().find(|(key, _)| matches!(key, Val::Text(key) if **key == *name));
                match known {
                    Some((_, Val::List(values))) => Arc::make_mut(values).push(value),
                    _ => query.push((Val::text(name), Val::list(vec![value]))),
                }
            }
            Ok(Some(Val::Map(Arc::new(query))))
        }
        _ => Ok(None),
    }),
];

fn ask<'a>(args: &[Val<'a>], part: fn(&Url) -> &str) -> Made<'a> {
    match args {
        [Val::Url(url)] => Ok(Some(Val::text(part(url)))),
        _ => Ok(None),
    }
}

/// What may stand in a URL escaped only, though people write it as it is.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `%20` and `+` are what they stand for.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let hex = (*byte == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.push(hex.unwrap_or(if *byte == b'+' { b' ' } else { *byte }));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}
