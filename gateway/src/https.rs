//! The listeners of the API and of the hub: TLS with optional client certificates of our own CA, and the identity that they
//! prove, which is in the extensions of each request. What a request without one may do is the service's business.

use crate::pki::{Credential, HOSTS_GROUP};
use axum::BoxError;
use basalt_apiserver::Identity;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::{
    RootCertStore, ServerConfig,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a client may take for its TLS handshake and for each request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// How long requests under way may take when the gateway shuts down.
const DRAIN_DEADLINE: Duration = Duration::from_secs(4);
/// How often a quiet HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));
/// How many header fields a request may have over HTTP/1, and how long its head may be; over HTTP/2, how long its head may be.
const HEAD: (usize, usize, u32) = (100, 64 << 10, 64 << 10);
/// What the API speaks within TLS.
pub const API_PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];
/// What the hub speaks within TLS.
pub const HUB_PROTOCOLS: &[&[u8]] = &[b"h2"];

/// The listener cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates do not make a TLS configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Listens on an address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })
}

/// The certificate that a listener shows: each handshake takes the newest.
#[derive(Debug)]
pub struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    /// This one first.
    pub fn new(server: &Credential) -> Result<Arc<Self>, ListenError> {
        Ok(Arc::new(Self(RwLock::new(certified(server)?))))
    }

    /// Shows this one from now on; says whether it is another.
    pub fn show(&self, server: &Credential) -> Result<bool, ListenError> {
        let next = certified(server)?;
        let mut shown = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let another = shown.cert != next.cert;
        *shown = next;
        Ok(another)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certified(server: &Credential) -> Result<Arc<CertifiedKey>, ListenError> {
    let failed = |e: &dyn std::fmt::Display| ListenError::Tls(e.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(server.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).map_err(|e| failed(&e))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain.map_err(|e| failed(&e))?, key, &provider).map(Arc::new).map_err(|e| failed(&e))
}

/// TLS with our certificate, and clients' certificates of our CA if they have one.
pub fn tls(ca: &str, shown: Arc<Shown>, protocols: &[&[u8]]) -> Result<TlsAcceptor, ListenError> {
    let failed = |e: &dyn std::fmt::Display| ListenError::Tls(e.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(shown);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `shutdown`, then lets requests under way end.
pub async fn serve<S, B>(name: &'static str, listener: TcpListener, tls: TlsAcceptor, service: S, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let graceful = GracefulShutdown::new();
    // Dropped with its tasks: what a connection holds is let go when this ends.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (tls, service, watcher) = (tls.clone(), service.clone(), graceful.watcher());
                let ending = shutdown.clone();
                connections.spawn(async move {
                    if let Err(error) = connection(stream, peer, tls, service, watcher, ending).await {
                        tracing::debug!(listener = name, %peer, "connection ended: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: those in use are given back in time.
                tracing::warn!(listener = name, "cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_DEADLINE, graceful.shutdown()).await.is_err() {
        let seconds = DRAIN_DEADLINE.as_secs();
        tracing::info!(listener = name, connections = connections.len(), "connections still open after {seconds} s are cut off");
    }
    connections.shutdown().await;
}

async fn connection<S, B>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    service: S,
    watcher: Watcher,
    ending: CancellationToken,
) -> Result<(), BoxError>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    stream.set_nodelay(true)?;
    let handshake = tokio::time::timeout(HEAD_DEADLINE, tls.accept(stream));
    let Some(shaken) = ending.run_until_cancelled(handshake).await else { return Ok(()) };
    let stream = shaken.map_err(|_| "the TLS handshake took too long")??;
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let identity = match certificate.map(identity) {
        Some(None) => return Err("the client certificate names nobody".into()),
        found => found.flatten(),
    };
    let http2 = session.alpn_protocol() == Some(b"h2");
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        service.clone().call(request)
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    // What ALPN agreed on is what is spoken: nothing is guessed from bytes that may never come.
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_headers(HEAD.0).max_buf_size(HEAD.1);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .max_concurrent_streams(1024)
        .max_header_list_size(HEAD.2);
    watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await
}

/// Who a verified certificate says its holder is: the common name, and each organisation as a group.
fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let user = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = certificate.subject().iter_organization().filter_map(|o| o.as_str().ok());
    Some(Identity::new(user, groups))
}

/// The host that somebody is, if it is a host.
pub fn host(identity: &Identity) -> Option<&str> {
    let is_host = identity.is_in(HOSTS_GROUP) && is_dns_label(&identity.user);
    is_host.then_some(identity.user.as_str())
}

/// At most 63 lower-case letters, digits and dashes, with a letter or digit at both ends.
pub fn is_dns_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().next_back().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_member_of_the_hosts_group_is_a_host() {
        let identity = |user: &str, group: &str| Identity::new(user, [group]);
        assert_eq!(host(&identity("h1", HOSTS_GROUP)), Some("h1"));
        assert_eq!(host(&identity("h1", "system:masters")), None);
        assert_eq!(host(&identity("H1/x", HOSTS_GROUP)), None);
    }

    #[test]
    fn dns_labels_are_told_from_other_names() {
        let long = "a".repeat(64);
        assert!(["a", "host-1", &long[1..], "0a"].iter().all(|name| is_dns_label(name)));
        assert!(["", "-a", "a-", "a.b", "A", "a_b", "ä", "../x", &long].iter().all(|name| !is_dns_label(name)));
    }
}
