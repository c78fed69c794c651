//! Finds lines of the audit log: the newest that pass a filter.

use super::{Event, Log};
use crate::{
    error::{Reason, Status},
    request::Query,
};
use axum::http::Uri;
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader},
};

/// How many lines are answered if the query does not say, and at the most.
const LIMIT: (usize, usize) = (500, 10_000);
/// The parameters that there are.
const PARAMETERS: [&str; 9] = ["user", "verb", "group", "resource", "namespace", "name", "since", "outcome", "limit"];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// With what was wanted.
    Success,
    /// The asker was not allowed, or not known.
    Denied,
    /// Otherwise.
    Failed,
    /// With a code.
    Code(u16),
}

impl Outcome {
    fn is(self, code: u16) -> bool {
        let denied = matches!(code, 401 | 403);
        match self {
            Self::Success => code < 400,
            Self::Denied => denied,
            Self::Failed => code >= 400 && !denied,
            Self::Code(wanted) => code == wanted,
        }
    }
}

/// Which lines are wanted.
#[derive(Clone, Debug)]
pub struct Filter {
    user: Option<String>,
    verb: Option<String>,
    group: Option<String>,
    resource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    since: Option<Timestamp>,
    outcome: Option<Outcome>,
    limit: usize,
}

impl Filter {
    /// Reads the query of an address.
    pub fn parse(uri: &Uri) -> Result<Self, Status> {
        let query = Query::parse(uri)?;
        if let Some(unknown) = query.0.keys().find(|name| !PARAMETERS.contains(&name.as_str())) {
            let message = format!("the query parameter {unknown:?} is not known: there are {}", PARAMETERS.join(", "));
            return Err(Status::new(Reason::BadRequest, message));
        }
        let text = |name: &str| query.text(name).map(str::to_owned);
        let wrong = |name: &str, value: &str, expected: &str| {
            Status::new(Reason::BadRequest, format!("the query parameter {name}={value:?} is not valid: expected {expected}"))
        };
        let since = query.text("since").map(|time| time.parse().map_err(|_| wrong("since", time, "a time such as 2026-01-31T12:00:00Z")));
        let outcome = query.text("outcome").map(|outcome| match outcome {
            "success" => Ok(Outcome::Success),
            "denied" => Ok(Outcome::Denied),
            "failed" => Ok(Outcome::Failed),
            code => code.parse().map(Outcome::Code).map_err(|_| wrong("outcome", code, "success, denied, failed or an HTTP code")),
        });
        let limit = query.number("limit")?.map_or(LIMIT.0, |limit| usize::try_from(limit).unwrap_or(LIMIT.1));
        Ok(Self {
            user: text("user"),
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            namespace: text("namespace"),
            name: text("name"),
            since: since.transpose()?,
            outcome: outcome.transpose()?,
            limit: limit.min(LIMIT.1),
        })
    }

    fn wants(&self, event: &Event) -> bool {
        if self.since.is_some_and(|since| event.time < since) {
            return false;
        }
        // What is missing may have been anything.
        if event.lost.is_some() {
            return true;
        }
        let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted == has);
        let object = |group: &str, resource: &str, namespace: &str, name: &str| {
            is(&self.group, group) && is(&self.resource, resource) && is(&self.namespace, namespace) && is(&self.name, name)
        };
        (is(&self.user, &event.user) || event.impersonated.as_ref().is_some_and(|other| is(&self.user, &other.user)))
            && is(&self.verb, &event.verb)
            && self.outcome.is_none_or(|outcome| outcome.is(event.code))
            // What was done to an object, and what was done because of it.
            && (object(&event.group, &event.resource, &event.namespace, &event.name)
                || event.cause.as_ref().is_some_and(|cause| object(&cause.group, &cause.resource, &cause.namespace, &cause.name)))
    }
}

/// The newest lines that are wanted, the newest last, each with its newline.
pub fn find(log: &Log, filter: &Filter) -> io::Result<Vec<Vec<u8>>> {
    log.flush();
    let mut found: VecDeque<Vec<u8>> = VecDeque::new();
    for file in log.files()? {
        let room = filter.limit - found.len();
        if room == 0 {
            break;
        }
        let mut here = VecDeque::new();
        let mut newest = None;
        let mut lines = BufReader::with_capacity(256 << 10, file);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            // A line that is not whole is being written, or was cut off by a crash.
            if let Ok(event) = serde_json::from_slice::<Event>(&line)
                && line.ends_with(b"\n")
            {
                newest = newest.max(Some(event.time));
                if filter.wants(&event) {
                    here.push_back(line.clone());
                    if here.len() > room {
                        here.pop_front();
                    }
                }
            }
            line.clear();
        }
        here.extend(found);
        found = here;
        // Older files end before.
        if filter.since.is_some_and(|since| newest.is_some_and(|newest| newest < since)) {
            break;
        }
    }
    Ok(found.into())
}
