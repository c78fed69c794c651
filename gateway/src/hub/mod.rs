//! The hub: where agents dial in. It gives out certificates, tells each host what it should be, and takes in what it is.
//!
//! Every call but Enroll needs a certificate of ours, and touches only the host that the certificate names.

pub mod console;
pub mod desired;
pub mod report;
pub mod tunnel;

use crate::{
    GatewayError, https,
    pki::{Credential, Pki, PkiError, write},
};
use basalt_api::Host;
use basalt_proto::v1::{
    ConvergeRequest, EnrollRequest, EnrollResponse, HostManifest, HostReport, ReportSummary, TunnelAnswer, TunnelRequest,
    agent_server::{Agent, AgentServer},
};
use desired::Desired;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};
use std::{fs, io, path::Path, pin::Pin, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use tunnel::Tunnels;

/// How often a connection is asked whether its other end is still there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));
/// Bytes of randomness in a join token.
const TOKEN_BYTES: usize = 32;

/// The agents' end of the gateway.
#[derive(Clone)]
pub struct Hub {
    client: Client,
    pki: Arc<Pki>,
    /// SHA-256 of the join token: two digests are compared in the same time whatever they are of.
    token: [u8; 32],
    cluster_uid: String,
    heartbeat_seconds: u32,
    desired: Arc<Desired>,
    tunnels: Arc<Tunnels>,
    shutdown: CancellationToken,
}

/// The join token of a file, made at the first start.
pub fn token(path: &Path) -> Result<String, PkiError> {
    match fs::read_to_string(path) {
        Ok(token) if token.trim().len() >= 16 => Ok(token.trim().to_owned()),
        Ok(_) => Err(PkiError::Broken { path: path.into(), reason: "a join token has at least 16 characters".into() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let random: Vec<u8> = (0..TOKEN_BYTES / 16).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
            let token: String = random.iter().map(|b| format!("{b:02x}")).collect();
            write(path, token.as_bytes(), 0o600)?;
            Ok(token)
        }
        Err(source) => Err(PkiError::File { action: "read", path: path.into(), source }),
    }
}

impl Hub {
    /// Starts to follow what hosts should be.
    pub async fn start(
        client: Client,
        pki: Arc<Pki>,
        token: String,
        cluster_uid: String,
        heartbeat_seconds: u32,
        tunnels: Arc<Tunnels>,
        shutdown: CancellationToken,
    ) -> Self {
        let desired = Desired::follow(client.clone(), shutdown.clone()).await;
        let token = Sha256::digest(token.as_bytes()).into();
        Self { client, pki, token, cluster_uid, heartbeat_seconds, desired, tunnels, shutdown }
    }
}

/// Serves agents until `shutdown`.
pub async fn serve(
    hub: Hub,
    listener: TcpListener,
    ca: &str,
    server: &Credential,
    shutdown: CancellationToken,
) -> Result<(), GatewayError> {
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&server.certificate, &server.key))
        .client_ca_root(Certificate::from_pem(ca))
        .client_auth_optional(true);
    let serving = Server::builder()
        .tls_config(tls)?
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(AgentServer::new(hub))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.cancelled_owned());
    Ok(serving.await?)
}

/// The host that the caller's certificate names.
fn caller<T>(request: &Request<T>) -> Result<String, Status> {
    let chain = request.peer_certs().ok_or_else(|| Status::unauthenticated("no client certificate was given; enrol first"))?;
    let host = chain.first().and_then(|certificate| https::common_name(certificate));
    host.ok_or_else(|| Status::unauthenticated("the client certificate names nobody"))
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Hub {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        let given: [u8; 32] = Sha256::digest(request.token.trim().as_bytes()).into();
        if given != self.token {
            tracing::warn!(host = request.host, "enrolment refused: wrong join token");
            return Err(Status::permission_denied("the join token is not the gateway's: see DATA_DIR/join-token on the gateway"));
        }
        let name = &request.host;
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(good) || name.starts_with('-') || name.ends_with('-') {
            let what = "expected at most 63 lower-case letters, digits and dashes, with a letter or digit at both ends";
            return Err(Status::invalid_argument(format!("host name {name:?} is not valid: {what}")));
        }
        let certificate_pem = self.pki.host(name, &request.csr_pem, Timestamp::now()).map_err(|error| match error {
            PkiError::Request(_) => Status::invalid_argument(error.to_string()),
            _ => Status::internal(error.to_string()),
        })?;
        let hosts: Api<Host> = Api::all(self.client.clone());
        match hosts.create(&PostParams::default(), &Host::new(name, Default::default())).await {
            Ok(_) => tracing::info!(host = name, agent = request.agent_version, "host enrolled"),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                tracing::info!(host = name, agent = request.agent_version, "host enrolled again");
            }
            Err(error) => return Err(Status::unavailable(format!("the host could not be registered: {error}"))),
        }
        Ok(Response::new(EnrollResponse { certificate_pem, ca_pem: self.pki.ca.clone(), cluster_uid: self.cluster_uid.clone() }))
    }

    type ConvergeStream = Outgoing<HostManifest>;

    async fn converge(&self, request: Request<ConvergeRequest>) -> Result<Response<Self::ConvergeStream>, Status> {
        let host = caller(&request)?;
        tracing::info!(host, known = request.get_ref().known_generation, "agent connected");
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let hub = self.clone();
        tokio::spawn(async move {
            let mut changes = hub.desired.changes(&host);
            let mut sent: Option<Vec<u8>> = None;
            loop {
                changes.borrow_and_update();
                let manifest = hub.desired.manifest(&host, &hub.cluster_uid, hub.heartbeat_seconds);
                if sent.as_ref() != Some(&manifest.hash) {
                    sent = Some(manifest.hash.clone());
                    if sender.send(Ok(manifest)).await.is_err() {
                        break;
                    }
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { break },
                    () = sender.closed() => break,
                    () = hub.shutdown.cancelled() => break,
                }
            }
            tracing::info!(host, "agent disconnected");
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn report(&self, request: Request<Streaming<HostReport>>) -> Result<Response<ReportSummary>, Status> {
        let host = caller(&request)?;
        let mut reports = request.into_inner();
        let mut session = report::Session::new(self.client.clone(), self.desired.clone(), host);
        while let Some(Some(report)) = self.shutdown.run_until_cancelled(reports.message()).await.transpose()? {
            session.take(report).await;
        }
        Ok(Response::new(ReportSummary {}))
    }

    type TunnelStream = Outgoing<TunnelRequest>;

    async fn tunnel(&self, request: Request<Streaming<TunnelAnswer>>) -> Result<Response<Self::TunnelStream>, Status> {
        let host = caller(&request)?;
        let requests = self.tunnels.open(&host, request.into_inner(), self.shutdown.clone());
        Ok(Response::new(requests.map(Ok).boxed()))
    }
}
