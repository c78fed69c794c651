//! The lines around a fault, without what may be secret in them.

use super::node::Place;

const SUSPECT: [&str; 8] = ["password", "passwd", "token", "secret", "private", "credential", "apikey", "key-data"];

/// Three lines around `place` with a mark under it.
pub fn around(text: &str, place: Place) -> Vec<String> {
    let wanted = place.line.saturating_sub(1).max(1)..=place.line + 1;
    let mut out = Vec::new();
    for (number, line) in (1u64..).zip(text.lines()) {
        if !wanted.contains(&number) {
            continue;
        }
        let shown: String = masked(line, text).chars().take(100).collect();
        let here = number == place.line;
        out.push(format!("{} {number:>4} | {shown}", if here { '>' } else { ' ' }));
        if here && place.column <= 100 {
            let column = usize::try_from(place.column).unwrap_or(1).saturating_sub(1);
            out.push(format!("       | {}^", " ".repeat(column)));
        }
    }
    out
}

/// `reason`, which a parser wrote, without values of a text that holds a Secret.
pub fn hidden(reason: &str, text: &str) -> String {
    if holds_secret(text) && reason.contains(['"', '`', '\'']) {
        "a value is not what the format allows (hidden: the file holds a Secret)".into()
    } else {
        reason.to_owned()
    }
}

fn holds_secret(text: &str) -> bool {
    text.lines().any(|l| {
        let l = l.trim().trim_end_matches(',');
        l.strip_prefix("kind:")
            .or_else(|| l.strip_prefix("\"kind\":"))
            .is_some_and(|kind| kind.trim().trim_matches(['"', '\'']) == "Secret")
    })
}

fn masked(line: &str, text: &str) -> String {
    let secret = holds_secret(text);
    let lower = line.to_lowercase();
    if !secret && !SUSPECT.iter().any(|word| lower.contains(word)) {
        return line.to_owned();
    }
    match line.split_once(':') {
        Some((key, value)) if !value.trim().is_empty() => format!("{key}: (hidden)"),
        Some(_) => line.to_owned(),
        None => "(hidden)".to_owned(),
    }
}
