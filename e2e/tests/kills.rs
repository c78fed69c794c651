//! `kill -9` of the gateway in the midst of many writers, again and again: no acknowledged write is lost, no revision is given
//! twice, and watches resume without a gap and without a repeat.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use basalt_e2e::{bench::etcd::Etcd, fleet::client, gateway::Gateway, writers::Work};
use std::{
    net::TcpListener,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const WRITERS: usize = 128;
/// Clients with their connections; writers share them, so that a kill is not followed by handshakes alone.
const CLIENTS: usize = 16;
/// How long a gateway lives among writers, in milliseconds.
const LIFE: (u64, u64) = (50, 300);
/// One of so many is killed while it starts.
const EARLY: u64 = 8;

/// How often the gateway is killed: `BASALT_TEST_KILLS`, or so many.
fn kills(default: usize) -> usize {
    std::env::var("BASALT_TEST_KILLS").map_or(default, |kills| kills.parse().expect("BASALT_TEST_KILLS is a number"))
}

/// Numbers that look random and are the same for the same seed, which `BASALT_TEST_SEED` sets.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let seed = std::env::var("BASALT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        println!("BASALT_TEST_SEED={seed}");
        Self(seed)
    }

    /// splitmix64.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }
}

/// A port that no connection takes by chance while the gateway is away.
fn port() -> u16 {
    let mut chance = Chance(u64::from(std::process::id()));
    std::iter::repeat_with(|| 20_000 + u16::try_from(chance.below(10_000)).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

async fn kill_among_writers(dir: &Path, store: &[&str], kills: usize) {
    let mut chance = Chance::new();
    let listen = format!("127.0.0.1:{}", port());
    let args = [store, &["--listen", &listen, "--hub-listen", "127.0.0.1:0"]].concat();
    let mut gateway = Gateway::spawn(dir, &args);
    gateway.ready().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(client(&gateway.kubeconfig()).await);
    }
    let work = Work::begin(clients, WRITERS).await;
    for _ in 0..kills {
        if chance.below(EARLY) == 0 {
            tokio::time::sleep(Duration::from_millis(chance.below(60))).await;
        } else {
            gateway.ready().await;
            work.goes_on(1).await;
            tokio::time::sleep(Duration::from_millis(LIFE.0 + chance.below(LIFE.1 - LIFE.0))).await;
        }
        gateway.kill();
        gateway = Gateway::spawn(dir, &args);
    }
    gateway.ready().await;
    let steps = work.check().await;
    println!("{steps} writes by {WRITERS} writers over {kills} kills");
    assert!(steps > kills * WRITERS / 10, "only {steps} writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kills_among_128_writers_every_acknowledged_write_is_there_and_was_seen_once() {
    let dir = tempfile::tempdir().unwrap();
    kill_among_writers(&dir.path().join("gateway"), &["--store", "embedded"], kills(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_etcd_too_watches_resume_at_a_gateway_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start().unwrap();
    kill_among_writers(&dir.path().join("gateway"), &["--store", "etcd", "--etcd-endpoints", etcd.endpoint()], kills(20)).await;
}
