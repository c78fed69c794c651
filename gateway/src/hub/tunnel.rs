//! Requests from the gateway to a host, through the stream that the host keeps open: many at once, told apart by their ids.
//!
//! An asker that goes away cancels its request; a host that goes away ends the answers of all askers. An asker that reads
//! too slowly loses its own answer and holds up nobody.

use super::sessions::Session;
use basalt_proto::v1::{Cancel, End, ReadConsole, TunnelAnswer, TunnelRequest, tunnel_answer::Answer, tunnel_request};
use bytes::Bytes;
use futures::Stream;
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// How many requests a host answers at once.
const MOST_ASKERS: usize = 64;
/// How much of an answer may wait for its asker.
const MOST_WAITING: usize = 16 << 20;

/// Why a host does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// The host has no stream open.
    #[error("host {0} is not connected to the gateway")]
    NotConnected(String),
    /// The host has answered as much at once as it may.
    #[error("host {0} answers {MOST_ASKERS} requests already; try again later")]
    Busy(String),
    /// The stream ended before the answer did.
    #[error("the connection to host {0} was lost")]
    Lost(String),
    /// The asker was too slow.
    #[error("the answer was not read fast enough and has been cut off")]
    Slow,
    /// The host says that it cannot.
    #[error("host {host}: {reason}")]
    Refused {
        /// The host.
        host: String,
        /// What it says.
        reason: String,
    },
}

/// The open tunnels, by host.
#[derive(Default)]
pub struct Tunnels {
    open: Mutex<HashMap<String, Arc<Tunnel>>>,
}

/// The stream to one host.
struct Tunnel {
    host: String,
    requests: mpsc::UnboundedSender<Result<TunnelRequest, Status>>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    last_id: u64,
    askers: HashMap<u64, Asker>,
}

/// Where an answer goes.
struct Asker {
    chunks: mpsc::UnboundedSender<Result<Bytes, TunnelError>>,
    waiting: Arc<AtomicUsize>,
}

/// What a host answers, piece by piece. Dropping it cancels the request.
pub struct AnswerStream {
    id: u64,
    tunnel: Arc<Tunnel>,
    chunks: mpsc::UnboundedReceiver<Result<Bytes, TunnelError>>,
    waiting: Arc<AtomicUsize>,
}

/// What goes out to a host.
pub type Requests = mpsc::UnboundedReceiver<Result<TunnelRequest, Status>>;

impl Tunnels {
    /// Opens the tunnel of a host. The future takes the host's answers until the stream or the session ends.
    pub fn open(self: &Arc<Self>, answers: Streaming<TunnelAnswer>, session: Session) -> (Requests, impl Future<Output = ()> + use<>) {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let tunnel = Arc::new(Tunnel { host: session.host.clone(), requests, asked: Mutex::default() });
        self.lock().insert(session.host.clone(), tunnel.clone());
        let tunnels = self.clone();
        let taking = async move {
            let farewell = tunnel.take_answers(answers, &session).await;
            {
                let mut open = tunnels.lock();
                if open.get(&tunnel.host).is_some_and(|current| Arc::ptr_eq(current, &tunnel)) {
                    open.remove(&tunnel.host);
                }
            }
            if let Some(status) = farewell {
                // The host may be gone already.
                let _ = tunnel.requests.send(Err(status));
            }
            tunnel.lose_askers();
        };
        (outgoing, taking)
    }

    /// Asks a host for the console of a VM.
    pub fn read_console(&self, host: &str, request: ReadConsole) -> Result<AnswerStream, TunnelError> {
        let tunnel = self.lock().get(host).cloned().ok_or_else(|| TunnelError::NotConnected(host.to_owned()))?;
        tunnel.ask(tunnel_request::Request::ReadConsole(request))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Tunnel>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tunnel {
    fn ask(self: Arc<Self>, request: tunnel_request::Request) -> Result<AnswerStream, TunnelError> {
        let (sender, chunks) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let id = {
            let mut asked = self.lock();
            if asked.askers.len() >= MOST_ASKERS {
                return Err(TunnelError::Busy(self.host.clone()));
            }
            asked.last_id += 1;
            let id = asked.last_id;
            asked.askers.insert(id, Asker { chunks: sender, waiting: waiting.clone() });
            id
        };
        let asked = self.requests.send(Ok(TunnelRequest { id, request: Some(request) }));
        let stream = AnswerStream { id, tunnel: self, chunks, waiting };
        asked.map_err(|_| TunnelError::Lost(stream.tunnel.host.clone()))?;
        Ok(stream)
    }

    async fn take_answers(&self, mut answers: Streaming<TunnelAnswer>, session: &Session) -> Option<Status> {
        loop {
            let answer = tokio::select! {
                biased;
                () = session.ended() => return Some(session.farewell()),
                answer = answers.message() => answer,
            };
            match answer {
                Ok(Some(TunnelAnswer { id, answer: Some(answer) })) => self.pass_on(id, answer),
                // The first message, which only opens the stream.
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn pass_on(&self, id: u64, answer: Answer) {
        let mut asked = self.lock();
        // An answer may have been under way when its asker went.
        let Some(asker) = asked.askers.get(&id) else { return };
        match answer {
            Answer::Chunk(chunk) => {
                let waiting = asker.waiting.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len();
                if waiting <= MOST_WAITING {
                    let _ = asker.chunks.send(Ok(chunk.into()));
                    return;
                }
                let _ = asker.chunks.send(Err(TunnelError::Slow));
                asked.askers.remove(&id);
                drop(asked);
                self.cancel(id);
            }
            Answer::End(End { error }) => {
                if !error.is_empty() {
                    let _ = asker.chunks.send(Err(TunnelError::Refused { host: self.host.clone(), reason: error }));
                }
                asked.askers.remove(&id);
            }
        }
    }

    fn cancel(&self, id: u64) {
        // A host that is gone needs no word.
        let _ = self.requests.send(Ok(TunnelRequest { id, request: Some(tunnel_request::Request::Cancel(Cancel {})) }));
    }

    fn lose_askers(&self) {
        for (_, asker) in self.lock().askers.drain() {
            let _ = asker.chunks.send(Err(TunnelError::Lost(self.host.clone())));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for AnswerStream {
    type Item = Result<Bytes, TunnelError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let chunk = ready!(self.chunks.poll_recv(context));
        if let Some(Ok(chunk)) = &chunk {
            self.waiting.fetch_sub(chunk.len(), Ordering::Relaxed);
        }
        Poll::Ready(chunk)
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        if self.tunnel.lock().askers.remove(&self.id).is_some() {
            self.tunnel.cancel(self.id);
        }
    }
}
