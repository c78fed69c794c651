//! Which streams are open: of each call, a host has one, and a newer one takes the place of the older.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tonic::Status;

/// The calls that keep a stream open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Manifests to the host.
    Converge,
    /// Reports of the host.
    Report,
    /// Requests to the host.
    Tunnel,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The open streams.
pub struct Sessions {
    shutdown: CancellationToken,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    count: u64,
    streams: HashMap<(String, Call), (u64, CancellationToken)>,
}

/// An open stream. It is forgotten when dropped.
pub struct Session {
    /// The host at its other end.
    pub host: String,
    call: Call,
    number: u64,
    ended: CancellationToken,
    sessions: Arc<Sessions>,
}

impl Sessions {
    /// Without any stream yet. All end with `shutdown`.
    pub fn new(shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { shutdown, open: Mutex::default() })
    }

    /// How many hosts are being sent manifests.
    pub fn hosts(&self) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.streams.keys().filter(|(_, call)| *call == Call::Converge).count()
    }

    /// Opens a stream of a host, and ends the one that it had.
    pub fn open(self: &Arc<Self>, host: &str, call: Call) -> Session {
        let ended = self.shutdown.child_token();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.count += 1;
        let number = open.count;
        if let Some((_, older)) = open.streams.insert((host.to_owned(), call), (number, ended.clone())) {
            tracing::info!(host, %call, "the host has opened a second session, which replaces the first");
            older.cancel();
        }
        Session { host: host.to_owned(), call, number, ended, sessions: self.clone() }
    }
}

impl Session {
    /// Resolves when the stream must end.
    pub fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    /// What the host is told when the stream must end.
    pub fn farewell(&self) -> Status {
        if self.sessions.shutdown.is_cancelled() {
            Status::unavailable("the gateway is shutting down")
        } else {
            Status::aborted(format!("host {} has opened a newer {} stream", self.host, self.call))
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut open = self.sessions.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.host.clone(), self.call);
        if open.streams.get(&key).is_some_and(|(number, _)| *number == self.number) {
            open.streams.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_second_session_of_a_host_replaces_the_first_and_no_other() {
        let sessions = Sessions::new(CancellationToken::new());
        let first = sessions.open("h1", Call::Report);
        let others = [sessions.open("h2", Call::Report), sessions.open("h1", Call::Tunnel)];
        let second = sessions.open("h1", Call::Report);
        assert!(first.ended.is_cancelled() && first.farewell().code() == Code::Aborted);
        assert!(others.iter().chain([&second]).all(|session| !session.ended.is_cancelled()));
        drop(first);
        let third = sessions.open("h1", Call::Report);
        assert!(second.ended.is_cancelled(), "the end of the first has not made the second forgotten");
        drop((second, third));
        assert_eq!(sessions.open.lock().unwrap().streams.len(), 2);
    }

    #[test]
    fn every_session_ends_with_the_gateway() {
        let shutdown = CancellationToken::new();
        let session = Sessions::new(shutdown.clone()).open("h1", Call::Converge);
        shutdown.cancel();
        assert!(session.ended.is_cancelled() && session.farewell().code() == Code::Unavailable);
    }
}
