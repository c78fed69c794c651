//! Keys and certificates: a CA made at the first start, the gateway's own certificate, and those of the administrator and of
//! hosts.
//!
//! All is below `DATA_DIR/pki`, readable by the gateway alone. What is there is never made anew behind the operator's back: a
//! file that is broken or missing beside others is an error, and so is a CA that is gone but has been published. A key is
//! written once and then kept: a renewal replaces one file, the certificate, so that a crash cannot part the two.

use jiff::{SignedDuration, Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use x509_parser::pem::parse_x509_pem;

/// The organisation of a host's certificate.
pub const HOSTS_GROUP: &str = "basalt:hosts";
/// How long certificates are good for, in days.
const CA_DAYS: i64 = 3650;
const SERVER_DAYS: i64 = 365;
const ADMIN_DAYS: i64 = 365;
const HOST_DAYS: i64 = 90;
/// A certificate that ends within so many days is made anew.
const RENEW_DAYS: i64 = 30;
/// Bytes of randomness in a join token, and how many characters one must have.
const TOKEN_BYTES: usize = 32;
const TOKEN_MINIMUM: usize = 16;

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is not usable: {reason}. Restore it from a backup; without it every host and client has to be set up again")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A secret can be read by others.
    #[error("{path} is a secret that others may read (mode {mode:o}). Make sure that nobody took it, then: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// A certificate cannot be made.
    #[error("cannot make the certificate of {subject}: {reason}")]
    Issue {
        /// For whom.
        subject: String,
        /// Why.
        reason: String,
    },
    /// A certificate request is not one.
    #[error("the certificate request is not usable: {0}")]
    Request(String),
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// The key. Secret.
    pub key: String,
}

/// The certificate authority of a control plane.
pub struct Pki {
    dir: PathBuf,
    /// Its certificate, PEM.
    pub ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Opens the CA below a data directory, or makes it at the first start.
    pub fn open(data_dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let dir = data_dir.join("pki");
        let published = data_dir.join("ca.crt");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| PkiError::File { action: "make the directory", path: dir.clone(), source })?;
        let (certificate_file, key_file) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (ca, key) = match (read(&certificate_file)?, read_secret(&key_file)?) {
            (Some(ca), Some(key)) => (ca, key),
            (None, None) if published.exists() => {
                let reason = "it is missing, but DATA_DIR/ca.crt shows that there was one".into();
                return Err(PkiError::Broken { path: certificate_file, reason });
            }
            (None, None) => {
                let made = make_ca(now)?;
                write(&key_file, made.key.as_bytes(), 0o600)?;
                write(&certificate_file, made.certificate.as_bytes(), 0o644)?;
                (made.certificate, made.key)
            }
            (Some(_), None) => return Err(PkiError::Broken { path: key_file, reason: "it is missing beside ca.crt".into() }),
            (None, Some(_)) => return Err(PkiError::Broken { path: certificate_file, reason: "it is missing beside ca.key".into() }),
        };
        let broken = |path: &Path, reason: String| PkiError::Broken { path: path.to_owned(), reason };
        let pair = KeyPair::from_pem(&key).map_err(|e| broken(&key_file, e.to_string()))?;
        check(&ca, &pair, None).map_err(|reason| broken(&certificate_file, reason))?;
        let (starts, ends) = validity(&ca).map_err(|reason| broken(&certificate_file, reason))?;
        if now.as_second() < starts || now.as_second() >= ends {
            return Err(broken(&certificate_file, format!("the CA is not valid now, at {now:.0}. Is the clock right?")));
        }
        let issuer = Issuer::from_ca_cert_pem(&ca, pair).map_err(|e| broken(&certificate_file, e.to_string()))?;
        write(&published, ca.as_bytes(), 0o644)?;
        Ok(Self { dir, ca, issuer })
    }

    /// The gateway's own certificate for these names; made anew when the names have changed or it ends soon.
    pub fn server(&self, names: &[String], now: Timestamp) -> Result<Credential, PkiError> {
        let mut wanted: Vec<String> = names.iter().cloned().chain(["localhost".into(), "127.0.0.1".into()]).collect();
        wanted.sort();
        wanted.dedup();
        let note = wanted.join("\n");
        if read(&self.dir.join("server.names"))?.as_deref() == Some(&note)
            && let Some(kept) = self.kept("server", now)?
        {
            return Ok(kept);
        }
        let issue = |reason: rcgen::Error| PkiError::Issue { subject: "the gateway".into(), reason: reason.to_string() };
        let mut params = CertificateParams::new(wanted).map_err(issue)?;
        params.distinguished_name = name("basalt-gateway", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let made = self.issue("server", params, SERVER_DAYS, now)?;
        write(&self.dir.join("server.names"), note.as_bytes(), 0o600)?;
        Ok(made)
    }

    /// The administrator's certificate; made anew when it ends soon.
    pub fn admin(&self, now: Timestamp) -> Result<Credential, PkiError> {
        if let Some(kept) = self.kept("admin", now)? {
            return Ok(kept);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name("admin", Some("system:masters"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue("admin", params, ADMIN_DAYS, now)
    }

    /// A host's certificate for the public key of its request. Nothing else of the request is used.
    pub fn host(&self, host: &str, request: &str, now: Timestamp) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(request).map_err(|e| PkiError::Request(e.to_string()))?;
        let issue = |e: rcgen::Error| PkiError::Issue { subject: host.to_owned(), reason: e.to_string() };
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(issue)?;
        params.distinguished_name = name(host, Some(HOSTS_GROUP));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        last(&mut params, HOST_DAYS, now);
        params.signed_by(&request.public_key, &self.issuer).map(|c| c.pem()).map_err(issue)
    }

    fn kept(&self, file: &str, now: Timestamp) -> Result<Option<Credential>, PkiError> {
        let certificate_file = self.dir.join(format!("{file}.crt"));
        let (Some(certificate), Some(key)) = (read(&certificate_file)?, self.key(file)?) else { return Ok(None) };
        let broken = |reason: String| PkiError::Broken { path: certificate_file.clone(), reason };
        check(&certificate, &key, Some(&self.ca)).map_err(broken)?;
        let (starts, ends) = validity(&certificate).map_err(broken)?;
        let good = starts <= now.as_second() && ends - now.as_second() > RENEW_DAYS * 86_400;
        Ok(good.then(|| Credential { certificate, key: key.serialize_pem() }))
    }

    /// The key that a certificate was made for, if there is one.
    fn key(&self, file: &str) -> Result<Option<KeyPair>, PkiError> {
        let path = self.dir.join(format!("{file}.key"));
        let key = read_secret(&path)?.map(|pem| KeyPair::from_pem(&pem));
        key.transpose().map_err(|e| PkiError::Broken { path, reason: e.to_string() })
    }

    fn issue(&self, file: &str, mut params: CertificateParams, days: i64, now: Timestamp) -> Result<Credential, PkiError> {
        last(&mut params, days, now);
        let issue = |e: rcgen::Error| PkiError::Issue { subject: file.to_owned(), reason: e.to_string() };
        let kept = self.key(file)?;
        let fresh = kept.is_none();
        let key = kept.map_or_else(KeyPair::generate, Ok).map_err(issue)?;
        // The renewed certificate of a key is another certificate.
        params.serial_number = Some(SerialNumber::from_slice(&random::<16>()?));
        let certificate: Certificate = params.signed_by(&key, &self.issuer).map_err(issue)?;
        let made = Credential { certificate: certificate.pem(), key: key.serialize_pem() };
        if fresh {
            write(&self.dir.join(format!("{file}.key")), made.key.as_bytes(), 0o600)?;
        }
        write(&self.dir.join(format!("{file}.crt")), made.certificate.as_bytes(), 0o644)?;
        Ok(made)
    }
}

fn make_ca(now: Timestamp) -> Result<Credential, PkiError> {
    let issue = |e: rcgen::Error| PkiError::Issue { subject: "the CA".into(), reason: e.to_string() };
    let mut params = CertificateParams::default();
    // Two CAs never have the same name: clients look an issuer up by it.
    params.distinguished_name = name(&format!("Basalt CA {}", hex(&random::<4>()?)), None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    last(&mut params, CA_DAYS, now);
    let key = KeyPair::generate().map_err(issue)?;
    let certificate = params.self_signed(&key).map_err(issue)?;
    Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn name(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name
}

/// From a day ago, for hosts whose clocks are behind, for so many days.
fn last(params: &mut CertificateParams, days: i64, now: Timestamp) {
    let day = |time: Timestamp| {
        let date = time.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(now - SignedDuration::from_hours(24));
    let end = now.to_zoned(TimeZone::UTC).checked_add(days.days()).map_or(now, |end| end.timestamp());
    params.not_after = day(end);
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { action: "read", path: path.into(), source }),
    }
}

/// Reads a file that nobody else may read.
pub(crate) fn read_secret(path: &Path) -> Result<Option<String>, PkiError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let metadata = fs::metadata(path).map_err(|source| PkiError::File { action: "look at", path: path.into(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(Some(text)) } else { Err(PkiError::Exposed { path: path.into(), mode }) }
}

/// The join token of a file, made at the first start.
pub fn join_token(path: &Path) -> Result<String, PkiError> {
    if let Some(token) = read(path)? {
        let token = token.trim();
        let reason = format!("a join token has at least {TOKEN_MINIMUM} characters");
        return if token.len() >= TOKEN_MINIMUM { Ok(token.to_owned()) } else { Err(PkiError::Broken { path: path.into(), reason }) };
    }
    let token = hex(&random::<TOKEN_BYTES>()?);
    write(path, token.as_bytes(), 0o600)?;
    Ok(token)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).map_err(|_| PkiError::Random)?;
    Ok(bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sees that a certificate is of a key and, if one is given, signed by a CA.
fn check(certificate: &str, key: &KeyPair, ca: Option<&str>) -> Result<(), String> {
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|e| e.to_string())?;
    let certificate = pem.parse_x509().map_err(|e| e.to_string())?;
    if certificate.public_key().subject_public_key.data != key.public_key_raw() {
        return Err("it does not belong to the key beside it".into());
    }
    let Some(ca) = ca else {
        return if certificate.is_ca() { Ok(()) } else { Err("it is not the certificate of a CA".into()) };
    };
    let (_, pem) = parse_x509_pem(ca.as_bytes()).map_err(|e| e.to_string())?;
    let ca = pem.parse_x509().map_err(|e| e.to_string())?;
    certificate.verify_signature(Some(ca.public_key())).map_err(|_| "it is not signed by the CA in ca.crt".into())
}

/// From when to when a certificate is valid, in seconds since 1970.
fn validity(certificate: &str) -> Result<(i64, i64), String> {
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|e| e.to_string())?;
    let certificate = pem.parse_x509().map_err(|e| e.to_string())?;
    Ok((certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()))
}

/// Removes a file; that there is none is fine.
pub fn remove(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PkiError::File { action: "remove", path: path.into(), source }),
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all, on disk when it returns.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| PkiError::File { action, path, source }
    };
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file("remove", &new)(e)),
        _ => {}
    }
    let mut out = fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&new).map_err(file("make", &new))?;
    // What is for all to read is so whatever the process's umask.
    let written = out.set_permissions(fs::Permissions::from_mode(mode)).and_then(|()| out.write_all(content));
    written.and_then(|()| out.sync_all()).map_err(file("write", &new))?;
    fs::rename(&new, path).map_err(file("rename", &new))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(file("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn keys_are_readable_by_their_owner_only_and_stay_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["gateway.example".to_owned()];
        let first = Pki::open(dir.path(), now()).unwrap();
        let (server, admin) = (first.server(&names, now()).unwrap(), first.admin(now()).unwrap());
        let again = Pki::open(dir.path(), now()).unwrap();
        assert_eq!(again.ca, first.ca);
        assert_eq!(again.server(&names, now()).unwrap().key, server.key);
        assert_eq!(again.admin(now()).unwrap().key, admin.key);
        for file in ["ca.key", "server.key", "admin.key"] {
            let mode = fs::metadata(dir.path().join("pki").join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn a_certificate_is_made_anew_when_it_ends_soon_or_its_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), now()).unwrap();
        let first = pki.server(&["a.example".into()], now()).unwrap();
        assert_ne!(pki.server(&["b.example".into()], now()).unwrap().certificate, first.certificate);
        let admin = pki.admin(now()).unwrap();
        let later = now() + SignedDuration::from_hours(24 * 340);
        assert_ne!(pki.admin(later).unwrap().certificate, admin.certificate);
    }

    #[test]
    fn what_is_broken_is_told_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        drop(Pki::open(dir.path(), now()).unwrap());
        let key = dir.path().join("pki/ca.key");
        fs::write(&key, "half a k").unwrap();
        let error = Pki::open(dir.path(), now()).err().unwrap().to_string();
        assert!(error.contains("ca.key") && error.contains("backup"), "{error}");
        assert_eq!(fs::read_to_string(&key).unwrap(), "half a k");
        fs::remove_file(&key).unwrap();
        assert!(Pki::open(dir.path(), now()).err().unwrap().to_string().contains("missing"));
    }

    #[test]
    fn a_ca_that_is_gone_but_was_published_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        drop(Pki::open(dir.path(), now()).unwrap());
        fs::remove_dir_all(dir.path().join("pki")).unwrap();
        let error = Pki::open(dir.path(), now()).err().unwrap().to_string();
        assert!(error.contains("pki/ca.crt") && error.contains("there was one"), "{error}");
        assert!(!dir.path().join("pki/ca.key").exists());
    }

    #[test]
    fn certificates_and_keys_that_do_not_belong_together_are_told() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = ["a.example".to_owned()];
        for dir in [&dir, &other] {
            let pki = Pki::open(dir.path(), now()).unwrap();
            pki.server(&names, now()).unwrap();
        }
        let pki = Pki::open(dir.path(), now()).unwrap();
        let copy = |file: &str| fs::copy(other.path().join("pki").join(file), dir.path().join("pki").join(file)).unwrap();
        copy("server.crt");
        let error = pki.server(&names, now()).err().unwrap().to_string();
        assert!(error.contains("server.crt") && error.contains("does not belong to the key"), "{error}");
        copy("server.key");
        let error = pki.server(&names, now()).err().unwrap().to_string();
        assert!(error.contains("server.crt") && error.contains("not signed by the CA"), "{error}");
        copy("ca.crt");
        assert!(Pki::open(dir.path(), now()).err().unwrap().to_string().contains("ca.crt"));
    }

    #[test]
    fn a_renewal_keeps_the_key_and_a_crash_in_its_middle_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), now()).unwrap();
        let first = pki.server(&["a.example".into()], now()).unwrap();
        // As if killed after the key and before the certificate.
        fs::remove_file(dir.path().join("pki/server.crt")).unwrap();
        let second = pki.server(&["a.example".into()], now()).unwrap();
        assert_eq!(second.key, first.key);
        assert_ne!(second.certificate, first.certificate);
    }

    #[test]
    fn a_key_that_others_may_read_and_a_clock_that_is_wrong_are_told() {
        let dir = tempfile::tempdir().unwrap();
        drop(Pki::open(dir.path(), now()).unwrap());
        let error = Pki::open(dir.path(), Timestamp::from_second(0).unwrap()).err().unwrap().to_string();
        assert!(error.contains("Is the clock right?"), "{error}");
        fs::set_permissions(dir.path().join("pki/ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
        let error = Pki::open(dir.path(), now()).err().unwrap().to_string();
        assert!(error.contains("ca.key") && error.contains("640") && error.contains("chmod"), "{error}");
    }

    #[test]
    fn a_join_token_is_made_once_and_a_short_one_is_refused_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join-token");
        let made = join_token(&path).unwrap();
        assert_eq!((made.len(), join_token(&path).unwrap()), (64, made.clone()));
        fs::write(&path, "hunter2\n").unwrap();
        let error = join_token(&path).unwrap_err().to_string();
        assert!(error.contains("16 characters") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_host_gets_its_own_name_whatever_its_request_says() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["gateway.example".into()]).unwrap();
        params.distinguished_name = name("admin", Some("system:masters"));
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let certificate = pki.host("host-1", &request, now()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
        let subject = pem.parse_x509().unwrap().subject().to_string();
        assert!(subject.contains("CN=host-1") && subject.contains("O=basalt:hosts") && !subject.contains("masters"), "{subject}");
        assert!(pki.host("host-1", &request.replace('A', "B"), now()).is_err());
    }
}
