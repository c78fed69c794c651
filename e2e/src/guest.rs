//! The guest that the tests boot, and how it is asked over the network.

use std::{
    env,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long a guest may take to boot and answer, under software emulation on a busy machine.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(90);

/// Where `scripts/guest-image` put the guest: `$BASALT_GUEST_DIR`, as `make test` sets it.
pub fn directory() -> PathBuf {
    let dir = env::var_os("BASALT_GUEST_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guest")), PathBuf::from);
    assert!(
        dir.join("vmlinuz").exists(),
        "{} has no guest: run `make test`, or scripts/guest-image {} --disk and set BASALT_GUEST_DIR",
        dir.display(),
        dir.display()
    );
    dir.canonicalize().expect("the guest directory exists")
}

/// Asks the guest's HTTP server once. The address is one of a host that the test itself made in a network namespace.
pub fn get(address: Ipv4Addr, path: &str) -> std::io::Result<String> {
    let timeout = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, 80)), timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: guest\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") && head.contains(" 200 ") => Ok(body.trim().to_owned()),
        _ => Err(std::io::Error::other(format!("not a good answer: {answer:?}"))),
    }
}

/// Asks until the guest answers, and says what.
pub fn answer(address: Ipv4Addr) -> String {
    let deadline = Instant::now() + BOOT_DEADLINE;
    loop {
        match get(address, "/") {
            Ok(body) => return body,
            Err(error) => assert!(Instant::now() < deadline, "the guest at {address} does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
