//! Tunnels: requests from the gateway to a host, over the stream that the host's agent keeps open.

use basalt_proto::v1::{Cancel, TunnelAnswer, TunnelRequest, tunnel_answer::Answer, tunnel_request};
use bytes::Bytes;
use futures::Stream;
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// How many requests may wait to be sent to one host.
const REQUESTS: usize = 64;
/// How many answers may wait for one asker.
const ANSWERS: usize = 16;

/// The tunnels of all hosts that are connected.
#[derive(Default)]
pub struct Tunnels {
    hosts: Mutex<HashMap<String, Tunnel>>,
    next: AtomicU64,
}

#[derive(Clone)]
struct Tunnel {
    session: u64,
    requests: mpsc::Sender<TunnelRequest>,
    askers: Arc<Mutex<HashMap<u64, mpsc::Sender<Result<Bytes, String>>>>>,
}

/// A host has no tunnel open.
#[derive(Debug, thiserror::Error)]
#[error("host {0} is not connected to this gateway")]
pub struct NotConnected(pub String);

/// The answers to one request. Dropping it tells the host that nobody listens any more.
pub struct Answers {
    answers: mpsc::Receiver<Result<Bytes, String>>,
    id: u64,
    tunnel: Tunnel,
}

impl Tunnels {
    /// Takes a host's stream into use; one that the host opened before is let go.
    pub fn open(
        self: &Arc<Self>,
        host: &str,
        mut answers: Streaming<TunnelAnswer>,
        shutdown: CancellationToken,
    ) -> ReceiverStream<TunnelRequest> {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let session = self.next.fetch_add(1, Ordering::Relaxed);
        let tunnel = Tunnel { session, requests, askers: Arc::default() };
        if lock(&self.hosts).insert(host.to_owned(), tunnel.clone()).is_some() {
            tracing::info!(host, "the host opened a new tunnel; its last one is let go");
        }
        let (tunnels, host) = (self.clone(), host.to_owned());
        tokio::spawn(async move {
            while let Some(Ok(Some(answer))) = shutdown.run_until_cancelled(answers.message()).await {
                tunnel.deliver(answer).await;
            }
            let mut hosts = lock(&tunnels.hosts);
            if hosts.get(&host).is_some_and(|now| now.session == session) {
                hosts.remove(&host);
            }
            // Askers see the end of their answers.
            lock(&tunnel.askers).clear();
        });
        ReceiverStream::new(outgoing)
    }

    /// Asks a host.
    pub async fn ask(&self, host: &str, request: tunnel_request::Request) -> Result<Answers, NotConnected> {
        let tunnel = lock(&self.hosts).get(host).cloned().ok_or_else(|| NotConnected(host.to_owned()))?;
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, answers) = mpsc::channel(ANSWERS);
        lock(&tunnel.askers).insert(id, sender);
        let asked = tunnel.requests.send(TunnelRequest { id, request: Some(request) }).await;
        asked.map_err(|_| NotConnected(host.to_owned()))?;
        Ok(Answers { answers, id, tunnel })
    }
}

impl Tunnel {
    async fn deliver(&self, answer: TunnelAnswer) {
        let asker = lock(&self.askers).get(&answer.id).cloned();
        let Some(asker) = asker else { return };
        match answer.answer {
            Some(Answer::Chunk(chunk)) => {
                // An asker that is gone has cancelled already.
                let _ = asker.send(Ok(chunk.into())).await;
            }
            Some(Answer::End(end)) => {
                if !end.error.is_empty() {
                    let _ = asker.send(Err(end.error)).await;
                }
                lock(&self.askers).remove(&answer.id);
            }
            None => {}
        }
    }
}

impl Stream for Answers {
    type Item = Result<Bytes, String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.poll_recv(context)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if lock(&self.tunnel.askers).remove(&self.id).is_some() {
            let cancel = TunnelRequest { id: self.id, request: Some(tunnel_request::Request::Cancel(Cancel {})) };
            // A host that takes no more requests is about to be cut off anyway.
            let _ = self.tunnel.requests.try_send(cancel);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are whole between any two statements that can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
