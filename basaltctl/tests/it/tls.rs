//! TLS that cannot be trusted: each fault is told as what it is.

use crate::cluster::Ctl;
use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use serde_json::json;
use std::sync::Arc;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server with a certificate for `name`, valid between two years, and a client that trusts `trusted`.
struct Server {
    ctl: Ctl,
    _runtime: tokio::runtime::Runtime,
}

fn server(name: &str, years: (i32, i32), stranger: bool) -> Server {
    let (ca, other) = (authority("ours"), authority("another"));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let leaf = params.signed_by(&key, if stranger { &other } else { &ca }).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
        }
    });
    let pem = BASE64_STANDARD.encode(ca.as_ref().pem());
    let ctl = Ctl::of(&url, json!({"server": url, "certificate-authority-data": pem}));
    Server { ctl, _runtime: runtime }
}

#[test]
fn each_fault_of_a_certificate_is_told_as_what_it_is() {
    let year = 2000 + 26;
    for (name, years, stranger, says) in [
        ("127.0.0.1", (2001, 2002), false, &["has expired", "it ended 2002-01-01T00:00:00Z; this computer says", "timedatectl"][..]),
        ("127.0.0.1", (year + 50, year + 51), false, &["is not yet valid", "it starts 2076-01-01T00:00:00Z"]),
        ("127.0.0.1", (2001, year + 50), true, &["is not of the cluster's CA"]),
        ("cp.lab.example", (2001, year + 50), false, &["is not for 127.0.0.1", "cp.lab.example", "tls-server-name"]),
    ] {
        let server = server(name, years, stranger);
        let run = server.ctl.run(&["get", "vm"]);
        assert_eq!((run.code, run.out.as_str()), (9, ""), "{run}");
        assert!(says.iter().all(|s| run.err.contains(s)), "{says:?}: {run}");
    }
}
