//! What the process exits with: a closed list, the same for every verb, so that a script can act on it.

use std::fmt;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Ok,
    /// A fault of the program or of the server.
    Bug,
    /// The command line or the kubeconfig is not usable.
    Usage,
    /// `get --exit-empty` and nothing matched.
    NothingMatched,
    /// An object or its namespace does not exist.
    NotFound,
    /// Somebody else owns the field, has changed the object, or has the name.
    Conflict,
    /// The input is not valid.
    Invalid,
    /// The server does not know the caller, or the caller may not.
    Denied,
    /// The server cannot be reached, or its TLS cannot be trusted.
    Unreachable,
    /// `wait`: the object failed for good.
    Failed,
    /// A wait ran out of time.
    TimeUp,
    /// Some of several things failed.
    Partial,
    /// The command asks for a confirmation that it did not get.
    Refused,
    /// `wait`: the task took too long.
    TimedOut,
    /// `wait`: the task was cancelled.
    Cancelled,
    /// `wait`: the task completed, and something else was waited for.
    Completed,
    /// Try again later.
    TryAgain,
}

/// Every exit code, in ascending order.
pub const ALL: [Exit; 17] = [
    Exit::Ok,
    Exit::Bug,
    Exit::Usage,
    Exit::NothingMatched,
    Exit::NotFound,
    Exit::Conflict,
    Exit::Invalid,
    Exit::Denied,
    Exit::Unreachable,
    Exit::Failed,
    Exit::TimeUp,
    Exit::Partial,
    Exit::Refused,
    Exit::TimedOut,
    Exit::Cancelled,
    Exit::Completed,
    Exit::TryAgain,
];

impl Exit {
    /// The number that the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Bug => 1,
            Self::Usage => 2,
            Self::NothingMatched => 4,
            Self::NotFound => 5,
            Self::Conflict => 6,
            Self::Invalid => 7,
            Self::Denied => 8,
            Self::Unreachable => 9,
            Self::Failed => 10,
            Self::TimeUp => 11,
            Self::Partial => 12,
            Self::Refused => 13,
            Self::TimedOut => 14,
            Self::Cancelled => 15,
            Self::Completed => 16,
            Self::TryAgain => 75,
        }
    }

    /// One word for it, as `-o json` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Bug => "bug",
            Self::Usage => "usage",
            Self::NothingMatched => "nothing-matched",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::TimeUp => "time-up",
            Self::Partial => "partial",
            Self::Refused => "refused",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
            Self::TryAgain => "try-again",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "done, or nothing to do",
            Self::Bug => "a bug, of basaltctl or of the server",
            Self::Usage => "the command line or the kubeconfig is not usable",
            Self::NothingMatched => "get --exit-empty: nothing matched",
            Self::NotFound => "not found: the object, or its namespace",
            Self::Conflict => "conflict: field manager, resourceVersion, or the name exists",
            Self::Invalid => "invalid: a file does not parse, or the server refuses what it says",
            Self::Denied => "denied: not known to the server (401), or not allowed (403)",
            Self::Unreachable => "the server cannot be reached, or TLS failed",
            Self::Failed => "wait: the object failed",
            Self::TimeUp => "wait: time is up; the reason is printed",
            Self::Partial => "partial: some of several failed; each is listed",
            Self::Refused => "refused: needs --yes",
            Self::TimedOut => "wait: the task took too long",
            Self::Cancelled => "wait: the task was cancelled",
            Self::Completed => "wait: the task completed, and something else was waited for",
            Self::TryAgain => "the server is busy: try again",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_ascend() {
        assert!(ALL.windows(2).all(|pair| pair[0].code() < pair[1].code()));
    }
}
