//! How a machine becomes a host: the join token and a certificate request against the host's certificate.

use crate::{
    https,
    pki::{Pki, PkiError},
};
use basalt_api::{Host, HostSpec};
use basalt_apiserver::Identity;
use basalt_proto::v1::{EnrollRequest, EnrollResponse};
use jiff::Timestamp;
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::Status;

/// How long the API may take to register a host.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// The longest certificate request that is read, in bytes.
const LONGEST_CSR: usize = 16 << 10;

/// Knows the join token when it is shown one. Only its digest is kept, so that it cannot get into a log.
#[derive(Clone)]
pub struct JoinToken([u8; 32]);

impl JoinToken {
    /// Of its text.
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token.trim()).into())
    }

    /// Whether this is the token. The time that it takes says nothing about how much of it is right.
    fn matches(&self, given: &str) -> bool {
        let Self(given) = Self::new(given);
        let difference = self.0.iter().zip(given).fold(0, |difference, (ours, theirs)| difference | (ours ^ theirs));
        std::hint::black_box(difference) == 0
    }
}

/// Gives out certificates.
pub struct Enrolment {
    /// Signs them.
    pub pki: Arc<Pki>,
    /// Who shows this may become a host.
    pub token: JoinToken,
    /// Where hosts are registered.
    pub client: Client,
    /// What agents know this control plane by.
    pub cluster_uid: String,
}

impl Enrolment {
    /// Enrols a host. `caller` is whom the connection's certificate names, if it has one.
    pub async fn enrol(
        &self,
        request: EnrollRequest,
        caller: Option<&Identity>,
        peer: Option<SocketAddr>,
        now: Timestamp,
    ) -> Result<EnrollResponse, Status> {
        let peer = peer.map(|address| address.to_string()).unwrap_or_default();
        if !self.token.matches(&request.token) {
            tracing::warn!(peer, "enrolment refused: wrong join token");
            return Err(Status::permission_denied("token is not the join token of this control plane"));
        }
        let host = request.host;
        if !https::is_dns_label(&host) {
            let accepted = "1 to 63 lower-case letters, digits and dashes, with a letter or digit at both ends";
            return Err(Status::invalid_argument(format!("host {host:?} is not a host name: expected {accepted}")));
        }
        if let Some(caller) = caller.filter(|caller| caller.user != host) {
            tracing::warn!(peer, caller = caller.user, host, "enrolment refused: the certificate is of another host");
            return Err(Status::permission_denied(format!("the client certificate is of {:?}, not of host {host:?}", caller.user)));
        }
        if request.csr_pem.len() > LONGEST_CSR {
            return Err(Status::invalid_argument(format!("the certificate request is longer than {LONGEST_CSR} bytes")));
        }
        let certificate_pem = self.pki.host(&host, &request.csr_pem, now).map_err(|error| match error {
            PkiError::Request(_) => Status::invalid_argument(error.to_string()),
            error => {
                tracing::error!(host, "{error}");
                Status::internal("the certificate could not be signed; the gateway's log says why")
            }
        })?;
        let registered = timeout(REGISTER_DEADLINE, self.register(&host)).await;
        let new = registered.unwrap_or_else(|_| Err("the API did not answer in time".into())).map_err(|error| {
            tracing::error!(host, "cannot register the host: {error}");
            Status::unavailable(format!("host {host:?} could not be registered: {error}"))
        })?;
        let agent = request.agent_version.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
        if new {
            tracing::info!(host, peer, agent, "host enrolled");
        } else {
            tracing::warn!(
                host,
                peer,
                agent,
                "a host that was enrolled before has enrolled again: it has a new certificate, and the old one stays valid until it ends"
            );
        }
        Ok(EnrollResponse { certificate_pem, ca_pem: self.pki.ca.clone(), cluster_uid: self.cluster_uid.clone() })
    }

    /// Makes the Host if there is none; says whether it did.
    async fn register(&self, host: &str) -> Result<bool, String> {
        let hosts: Api<Host> = Api::all(self.client.clone());
        match hosts.create(&PostParams::default(), &Host::new(host, HostSpec::default())).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}
