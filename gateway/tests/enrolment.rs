//! Who gets a certificate, for whom, and what it is good for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests")]

mod common;

use basalt_api::Host;
use basalt_proto::v1::ConvergeRequest;
use common::{csr, enroll_request, start, until};
use kube::Api;
use rcgen::{CertificateParams, DnType, KeyPair};
use tonic::Code;
use x509_parser::prelude::{FromDer, X509Certificate};

async fn refusal(gateway: &common::Gateway, token: &str, host: &str, csr: &str) -> tonic::Status {
    let mut hub = gateway.dial(None).await.unwrap();
    hub.enroll(enroll_request(token, host, csr)).await.map(drop).unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_gets_nothing_and_registers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (token, request) = (gateway.token(), csr(&KeyPair::generate().unwrap()));
    for wrong in ["", "0", &token.trim()[1..], &token.trim().to_uppercase().replace(|c: char| c.is_ascii_digit(), "x")] {
        let status = refusal(&gateway, wrong, "h1", &request).await;
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(!status.message().contains(token.trim()));
    }
    let hosts: Api<Host> = Api::all(gateway.admin().await);
    assert!(hosts.list(&Default::default()).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_name_or_request_is_refused_with_the_reason_and_registers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (token, good) = (gateway.token(), csr(&KeyPair::generate().unwrap()));
    let long = "a".repeat(64);
    for name in ["", "H1", "a.b", "-a", "a-", "../etc", "a b", "ä", &long] {
        let status = refusal(&gateway, &token, name, &good).await;
        assert!(status.code() == Code::InvalidArgument && status.message().contains("host"), "{name:?}: {status}");
    }
    // Another's public key in a request that was signed by one's own.
    let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let tampered = {
        let der = CertificateParams::default().serialize_request(&ours).unwrap();
        let mut der = der.der().to_vec();
        let key = ours.public_key_raw();
        let at = der.windows(key.len()).position(|window| window == key).unwrap();
        der[at..at + key.len()].copy_from_slice(theirs.public_key_raw());
        pem("CERTIFICATE REQUEST", &der)
    };
    let certificate = CertificateParams::default().self_signed(&ours).unwrap().pem();
    let huge = good.replace('\n', &"\n".repeat(100_000));
    for csr in ["", "not PEM", &tampered, &certificate, &huge] {
        let status = refusal(&gateway, &token, "h1", csr).await;
        assert!(status.code() == Code::InvalidArgument && status.message().contains("request"), "{csr:.40}: {status}");
    }
    let hosts: Api<Host> = Api::all(gateway.admin().await);
    assert!(hosts.list(&Default::default()).await.unwrap().items.is_empty());
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_the_host_whatever_its_request_says_and_is_good_for_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let mut hub = gateway.dial(None).await.unwrap();
    let response = hub.enroll(enroll_request(&gateway.token(), "h1", &request)).await.unwrap().into_inner();
    assert_eq!((response.ca_pem.as_str(), response.cluster_uid), (gateway.file("ca.crt").as_str(), gateway.ready.cluster_uid.clone()));

    let (_, block) = x509_parser::pem::parse_x509_pem(response.certificate_pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
    let subject: Vec<_> = certificate.subject().iter_attributes().map(|a| a.as_str().unwrap()).collect();
    assert!(subject.contains(&"h1") && subject.contains(&"basalt:hosts") && subject.len() == 2, "{subject:?}");
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any && !certificate.is_ca());
    let days = certificate.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    assert!((88 * 86_400..=91 * 86_400).contains(&days), "{days}");

    // The API knows the host, and shows it itself and no other.
    let mut config = kube::Config::new(format!("https://{}", gateway.ready.api).parse().unwrap());
    config.root_cert = Some(vec![x509_parser::pem::parse_x509_pem(response.ca_pem.as_bytes()).unwrap().1.contents]);
    use base64::{Engine, engine::general_purpose::STANDARD};
    config.auth_info.client_certificate_data = Some(STANDARD.encode(&response.certificate_pem));
    config.auth_info.client_key_data = Some(STANDARD.encode(key.serialize_pem()).into());
    let hosts: Api<Host> = Api::all(kube::Client::try_from(config).unwrap());
    assert_eq!(hosts.get("h1").await.unwrap().metadata.name.as_deref(), Some("h1"));
    match hosts.get("h2").await.unwrap_err() {
        kube::Error::Api(status) => assert!(status.code == 403 && status.message.contains("\"h2\""), "{status:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_one_host_gets_none_for_another_not_even_with_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let mut first = gateway.enrol("h1").await;
    let key = KeyPair::generate().unwrap();
    let status = first.hub.enroll(enroll_request(&gateway.token(), "h2", &csr(&key))).await.map(drop).unwrap_err();
    assert!(status.code() == Code::PermissionDenied && status.message().contains("h1"), "{status}");
    let again = first.hub.enroll(enroll_request(&gateway.token(), "h1", &csr(&key))).await.unwrap().into_inner();
    assert_ne!(again.certificate_pem, first.enrolled.certificate_pem);
    let hosts: Api<Host> = Api::all(gateway.admin().await);
    until(&hosts, "h1", "the host is registered", |_| true).await;
    assert!(hosts.get_opt("h2").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_host_may_call_what_hosts_call() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let converge = ConvergeRequest::default();
    let nobody = gateway.dial(None).await.unwrap().converge(converge).await.map(drop).unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let (certificate, key) = (gateway.file("pki/admin.crt"), gateway.file("pki/admin.key"));
    let admin = gateway.dial(Some((&certificate, &key))).await.unwrap().converge(converge).await.map(drop).unwrap_err();
    assert_eq!(admin.code(), Code::PermissionDenied, "an administrator is no host: {admin}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_control_plane_is_refused() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (gateway, other) = (start(dir.path()).await, start(elsewhere.path()).await);
    let stranger = other.enrol("h1").await;
    let dialled = gateway.dial(Some((&stranger.enrolled.certificate_pem, &stranger.key))).await;
    let outcome = match dialled {
        Err(_) => return,
        // TLS 1.3 tells a client of a refused certificate after the handshake.
        Ok(mut hub) => hub.converge(ConvergeRequest::default()).await.map(drop),
    };
    assert!(outcome.is_err(), "a stranger was let in");
}
