//! What becomes of the gateway's own certificates while it runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests")]

use basalt_gateway::{
    certificates::Certificates,
    https::{self, Shown},
    pki::Pki,
};
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use kube::config::Kubeconfig;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// How long a renewal that is due may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// The certificate that the listener shows to one who trusts the CA and asks for this name.
async fn shown(address: SocketAddr, ca: &str) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// The administrator's certificate in the kubeconfig.
fn administrator(kubeconfig: &Path) -> String {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    kubeconfig.auth_infos[0].auth_info.clone().unwrap().client_certificate_data.unwrap()
}

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_renews_its_certificates_before_they_end_and_shows_the_new_ones() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    // The client goes by the true clock: the gateway was started 340 days ago, and its first certificates are good for 365.
    let now = Timestamp::now();
    let start = now - SignedDuration::from_hours(340 * 24);
    let pki = Arc::new(Pki::open(dir.path(), start).unwrap());
    let names = vec!["gateway.example".to_owned()];
    let certificate = Shown::new(&pki.server(&names, start).unwrap()).unwrap();

    let listener = https::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let tls = https::tls(&pki.ca, certificate.clone(), https::API_PROTOCOLS).unwrap();
    let service = tower::service_fn(async |_: Request<hyper::body::Incoming>| Ok::<_, Infallible>(Response::new(String::new())));
    let serving = tokio::spawn(https::serve("api", listener, tls, service, shutdown.clone()));

    let kubeconfig = dir.path().join("admin.kubeconfig");
    let url = format!("https://{address}");
    let certificates = Certificates { pki: pki.clone(), names, shown: certificate, kubeconfig: kubeconfig.clone(), api_url: url };
    certificates.put(start).unwrap();
    let (first, first_admin) = (shown(address, &pki.ca).await, administrator(&kubeconfig));

    let clock = Arc::new(AtomicI64::new(start.as_second()));
    let ticking = clock.clone();
    let looks = Arc::new(AtomicI64::new(0));
    let looked = looks.clone();
    let keeping = certificates.keep(
        Duration::from_millis(1),
        move || {
            looked.fetch_add(1, Ordering::SeqCst);
            Timestamp::from_second(ticking.load(Ordering::SeqCst)).unwrap()
        },
        shutdown.clone(),
    );
    let keeping = tokio::spawn(keeping);

    // Long before the end nothing is made anew.
    until("some looks at the certificates", async || looks.load(Ordering::SeqCst) > 3).await;
    assert_eq!((shown(address, &pki.ca).await, administrator(&kubeconfig)), (first.clone(), first_admin.clone()));

    // One that cannot be renewed stays until it can.
    let key = dir.path().join("pki/server.key");
    let away = dir.path().join("server.key.away");
    std::fs::copy(&key, &away).unwrap();
    std::fs::write(&key, "not a key").unwrap();
    clock.store(now.as_second(), Ordering::SeqCst);
    let before = looks.load(Ordering::SeqCst);
    until("some looks at what is broken", async || looks.load(Ordering::SeqCst) > before + 3).await;
    assert_eq!(shown(address, &pki.ca).await, first);

    std::fs::rename(&away, &key).unwrap();
    until("the new certificate", async || shown(address, &pki.ca).await != first).await;
    until("the administrator's new certificate", async || administrator(&kubeconfig) != first_admin).await;

    shutdown.cancel();
    keeping.await.unwrap();
    serving.await.unwrap();
}
