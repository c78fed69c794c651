//! Who the host is to the gateway: a key that never leaves it, and the certificate that it got for it.

use crate::{
    config::Config,
    files::{self, FileError},
};
use basalt_daemon::traces;
use basalt_proto::v1::{EnrollRequest, agent_client::AgentClient};
use rcgen::{CertificateParams, KeyPair};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity as TlsIdentity};
use tracing::Instrument;

/// How long the gateway may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a connection is asked whether its other end is there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// The host cannot prove who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or certificate cannot be made or used.
    #[error("the key or certificate in {path} is not usable: {reason}")]
    Key {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something is needed to enrol.
    #[error("the host is not enrolled, and to enrol it {0} is needed")]
    Missing(&'static str),
    /// The gateway's address.
    #[error("the gateway {gateway} cannot be used: {reason}")]
    Gateway {
        /// The address.
        gateway: String,
        /// Why.
        reason: String,
    },
    /// The gateway refused.
    #[error("the gateway refused to enrol the host: {0}")]
    Refused(String),
    /// The gateway cannot be reached; it is tried again.
    #[error("the gateway cannot be reached: {0}")]
    Unreachable(String),
}

/// A host's proof of who it is.
pub struct Identity {
    ca: String,
    certificate: String,
    key: String,
}

impl Identity {
    /// The identity that is kept, if the host has enrolled and its certificate has not ended.
    pub fn kept(config: &Config) -> Result<Option<Self>, IdentityError> {
        let dir = config.data_dir.join("identity");
        let text = |name: &str| -> Result<Option<String>, FileError> {
            Ok(files::read(&dir.join(name))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let (Some(ca), Some(certificate), Some(key)) = (text("ca.crt")?, text("host.crt")?, text("host.key")?) else { return Ok(None) };
        let unusable = |reason: String| IdentityError::Key { path: dir.join("host.crt"), reason };
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        let parsed = pem.parse_x509().map_err(|e| unusable(e.to_string()))?;
        if !parsed.validity().is_valid() {
            tracing::warn!("the host's certificate has ended; it enrols again");
            return Ok(None);
        }
        let named = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        if named != config.host {
            return Err(unusable(format!(
                "it names host {named:?}, but this host is {:?}. Empty the directory to enrol anew",
                config.host
            )));
        }
        Ok(Some(Self { ca, certificate, key }))
    }

    /// Enrols the host: its key is made here, its certificate by the gateway.
    pub async fn enrol(config: &Config) -> Result<Self, IdentityError> {
        let ca_file = config.ca_file.as_ref().ok_or(IdentityError::Missing("--ca-file, the gateway's ca.crt,"))?;
        let token_file = config.token_file.as_ref().ok_or(IdentityError::Missing("--token-file, the gateway's join-token,"))?;
        let ca = read(ca_file)?;
        let token = read(token_file)?;
        let dir = config.data_dir.join("identity");
        files::make_dir(&dir)?;
        let unusable = |e: rcgen::Error| IdentityError::Key { path: dir.join("host.key"), reason: e.to_string() };
        let key = KeyPair::generate().map_err(unusable)?;
        let request = CertificateParams::default().serialize_request(&key).and_then(|request| request.pem()).map_err(unusable)?;
        let endpoint = endpoint(config, &ca)?;
        let channel = endpoint.connect().await.map_err(|e| IdentityError::Unreachable(sources(&e)))?;
        let mut client = AgentClient::new(channel);
        let mut request = tonic::Request::new(EnrollRequest {
            token: token.trim().to_owned(),
            host: config.host.clone(),
            csr_pem: request,
            agent_version: basalt_daemon::version::VERSION.to_owned(),
        });
        let span = tracing::info_span!(target: traces::TARGET, "enrol", otel.kind = "client", basalt.host = config.host);
        traces::carry(&span, request.metadata_mut().as_mut());
        let answer = tokio::time::timeout(DEADLINE, client.enroll(request).instrument(span)).await;
        let answer =
            answer.map_err(|_| IdentityError::Unreachable("it does not answer".into()))?.map_err(|status| match status.code() {
                tonic::Code::PermissionDenied | tonic::Code::InvalidArgument => IdentityError::Refused(status.message().to_owned()),
                _ => IdentityError::Unreachable(status.message().to_owned()),
            })?;
        let answer = answer.into_inner();
        let identity = Self { ca: answer.ca_pem, certificate: answer.certificate_pem, key: key.serialize_pem() };
        files::write(&dir.join("host.key"), identity.key.as_bytes(), 0o600)?;
        files::write(&dir.join("ca.crt"), identity.ca.as_bytes(), 0o644)?;
        files::write(&dir.join("host.crt"), identity.certificate.as_bytes(), 0o644)?;
        tracing::info!(host = config.host, "host enrolled");
        Ok(identity)
    }

    /// Where and how to reach the gateway as this host.
    pub fn endpoint(&self, config: &Config) -> Result<Endpoint, IdentityError> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(TlsIdentity::from_pem(&self.certificate, &self.key));
        with_tls(config, tls)
    }
}

fn endpoint(config: &Config, ca: &str) -> Result<Endpoint, IdentityError> {
    with_tls(config, ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)))
}

fn with_tls(config: &Config, tls: ClientTlsConfig) -> Result<Endpoint, IdentityError> {
    let unusable = |e: tonic::transport::Error| IdentityError::Gateway { gateway: config.gateway.clone(), reason: sources(&e) };
    let endpoint = Endpoint::from_shared(config.gateway.clone()).map_err(unusable)?;
    let endpoint = endpoint
        .connect_timeout(DEADLINE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true);
    endpoint.tls_config(tls).map_err(unusable)
}

fn read(path: &Path) -> Result<String, FileError> {
    let content =
        files::read(path)?.ok_or_else(|| FileError { action: "read", path: path.to_owned(), source: io::ErrorKind::NotFound.into() })?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// An error with what caused it, which tonic keeps to itself.
pub fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
