//! Who is to blame when the server cannot be reached: the name, the connection, TLS, or the clock, in this order.
//!
//! Only a failed request leads here, so that a good one costs nothing. What the failed connection did not say is
//! found out by trying its steps one by one.

use std::{error::Error as StdError, net::SocketAddr, time::Duration};
use tokio::net::{TcpStream, lookup_host};

/// The server cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach {cluster}: {what}")]
pub struct Unreachable {
    /// The cluster, by the name of its context.
    pub cluster: String,
    /// The step that failed.
    pub what: String,
    /// Server and context.
    pub at: String,
    /// What the system or the other side said.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the context.
    pub context: String,
    /// URL of the server.
    pub url: http::Uri,
    /// Where the kubeconfig comes from.
    pub source: String,
}

impl Target {
    /// Server and context, for the `at` line of an error.
    pub fn at(&self) -> String {
        format!("{} (context {}, from {})", self.address(), self.context, self.source)
    }

    /// The URL without a trailing slash.
    pub fn address(&self) -> String {
        self.url.to_string().trim_end_matches('/').to_owned()
    }

    fn host(&self) -> String {
        self.url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned()
    }

    fn port(&self) -> u16 {
        self.url.port_u16().unwrap_or(if self.url.scheme_str() == Some("http") { 80 } else { 443 })
    }
}

struct Blame {
    what: String,
    why: String,
    remedy: String,
}

impl Blame {
    fn new(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), remedy: remedy.into() }
    }
}

const STEP: Duration = Duration::from_secs(5);

/// Finds the step that failed.
pub async fn diagnose(target: &Target, error: &kube::Error) -> Unreachable {
    let blame = match tls(target, error) {
        Some(blame) => blame,
        None => match path(target).await {
            Some(blame) => blame,
            None => Blame::new(
                "the connection broke",
                chain(error),
                format!("see that {} is a gateway's API server; its log may say more", target.address()),
            ),
        },
    };
    Unreachable { cluster: format!("cluster {}", target.context), what: blame.what, at: target.at(), why: blame.why, remedy: blame.remedy }
}

/// The server took the connection and then did not answer in time.
pub async fn no_answer(target: &Target, waited: Duration) -> Unreachable {
    let seconds = waited.as_secs();
    let blame = path(target).await.unwrap_or_else(|| {
        Blame::new(
            "it does not answer",
            format!("it takes the connection, but has not answered within {seconds}s"),
            "run the command again, with a longer --request-timeout; look at the gateway's log",
        )
    });
    Unreachable { cluster: format!("cluster {}", target.context), what: blame.what, at: target.at(), why: blame.why, remedy: blame.remedy }
}

/// Tries the name and the connection.
async fn path(target: &Target) -> Option<Blame> {
    let (host, port) = (target.host(), target.port());
    let found = tokio::time::timeout(STEP, lookup_host((host.as_str(), port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Err(_) => {
            return Some(Blame::new(
                format!("the name {host} cannot be resolved"),
                format!("the name servers have not answered within {}s", STEP.as_secs()),
                "see that this computer's name servers can be reached (/etc/resolv.conf)",
            ));
        }
        Ok(Err(error)) => {
            return Some(Blame::new(
                format!("the name {host} cannot be resolved"),
                error.to_string(),
                "see that the server's name in the kubeconfig is right, and that this computer's name servers know it",
            ));
        }
        Ok(Ok(addresses)) => addresses.collect(),
    };
    let mut refusal = None;
    for address in addresses {
        match tokio::time::timeout(STEP, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return None,
            Ok(Err(error)) => refusal = Some((address, error.kind(), error.to_string())),
            Err(_) => refusal = Some((address, std::io::ErrorKind::TimedOut, format!("no answer within {}s", STEP.as_secs()))),
        }
    }
    let (address, kind, why) = refusal?;
    Some(match kind {
        std::io::ErrorKind::ConnectionRefused => Blame::new(
            format!("nothing listens on {address}"),
            why,
            "start the gateway there, or choose the right server with --context or --kubeconfig",
        ),
        std::io::ErrorKind::TimedOut => Blame::new(
            format!("{address} does not answer"),
            why,
            "see that the machine is up, and that no firewall is between here and there",
        ),
        _ => Blame::new(format!("{address} cannot be connected to"), why, "see that this computer has a route to it (ip route get)"),
    })
}

/// What TLS has against the server, if that is the fault.
fn tls(target: &Target, error: &kube::Error) -> Option<Blame> {
    use rustls::{CertificateError as Cert, Error as Tls};
    let name = target.host();
    let clock = |now: rustls::pki_types::UnixTime, what: String, edge: &str, at: rustls::pki_types::UnixTime| {
        let (now, at) = (stamp(now), stamp(at));
        Blame::new(
            what,
            format!("it {edge} {at}; this computer says {now}"),
            "if this computer's clock is wrong, set it (timedatectl); if not, the gateway needs a new certificate",
        )
    };
    Some(match rustls_error(error)? {
        Tls::InvalidCertificate(Cert::NotValidYetContext { time, not_before }) => {
            clock(*time, format!("the certificate of {name} is not yet valid"), "starts", *not_before)
        }
        Tls::InvalidCertificate(Cert::ExpiredContext { time, not_after }) => {
            clock(*time, format!("the certificate of {name} has expired"), "ended", *not_after)
        }
        Tls::InvalidCertificate(Cert::UnknownIssuer | Cert::BadSignature) => Blame::new(
            format!("the certificate of {name} is not of the cluster's CA"),
            "the kubeconfig's certificate-authority has not signed it: the CA was made anew, or this is another server",
            "take the admin kubeconfig of this gateway again; if the gateway was not reinstalled, find out who answers there",
        ),
        Tls::InvalidCertificate(Cert::NotValidForNameContext { presented, .. }) => Blame::new(
            format!("the certificate is not for {name}"),
            format!("it is for {}", presented.join(", ")),
            "use one of these names in the kubeconfig's server, or set its tls-server-name",
        ),
        Tls::InvalidCertificate(other) => {
            Blame::new(format!("the certificate of {name} cannot be used"), other.to_string(), "the gateway needs a new certificate")
        }
        Tls::AlertReceived(alert) => Blame::new(
            "the server refuses this client's TLS",
            format!("it sent the alert {alert:?}"),
            "see that the kubeconfig's client certificate is of this cluster and has not expired",
        ),
        Tls::InvalidMessage(_) => Blame::new(
            "TLS failed: the server does not speak it",
            "what it sent is not TLS",
            format!("see that port {} is the gateway's API; if it serves plain HTTP, the URL starts with http://", target.port()),
        ),
        other => Blame::new("TLS failed", other.to_string(), "the gateway's log may say more"),
    })
}

fn rustls_error(error: &kube::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error hides what it wraps from `source()`.
        let wrapped = current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    None
}

fn stamp(time: rustls::pki_types::UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| "an unknown time".into(), |t| t.to_string())
}

/// The error with all its causes, each once.
fn chain(error: &dyn StdError) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(current) = next {
        let text = current.to_string();
        if !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
        next = current.source();
    }
    texts.join(": ")
}
