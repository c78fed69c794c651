//! Two gateways on three etcd members while a member dies, the network of the leading gateway is cut, and the leading gateway
//! dies: no acknowledged write is lost, watches are whole, and no controller does twice what it does once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

use basalt_api::{Task, TaskSpec, task::Operation};
use basalt_e2e::{fleet::client, gateway::Gateway, writers::Work};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams};
use std::{
    fs,
    net::{Ipv4Addr, TcpListener as StdListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

const MEMBERS: usize = 3;
const WRITERS: usize = 32;
const DEADLINE: Duration = Duration::from_secs(90);

/// A member of the cluster. It is killed when dropped.
struct Member {
    process: Child,
    args: Vec<String>,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Member {
    fn run(args: &[String]) -> Child {
        Command::new("etcd").args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("etcd is on PATH")
    }

    fn start(args: Vec<String>) -> Self {
        Self { process: Self::run(&args), args }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn again(&mut self) {
        self.process = Self::run(&self.args);
    }
}

fn port() -> u16 {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn cluster(dir: &Path) -> (Vec<Member>, Vec<u16>) {
    let ports: Vec<(u16, u16)> = (0..MEMBERS).map(|_| (port(), port())).collect();
    let names = ports.iter().enumerate().map(|(number, (_, peer))| format!("m{number}=http://127.0.0.1:{peer}"));
    let all = names.collect::<Vec<_>>().join(",");
    let member = |(number, (client, peer)): (usize, &(u16, u16))| {
        let [client, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let data = dir.join(format!("m{number}")).display().to_string();
        let args = [
            ("--name", format!("m{number}")),
            ("--data-dir", data),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", all.clone()),
        ];
        Member::start(args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect())
    };
    (ports.iter().enumerate().map(member).collect(), ports.iter().map(|(client, _)| *client).collect())
}

/// The network between a gateway and a member: what goes through it stops while it is cut, and no connection is closed.
async fn wire(to: u16, cut: watch::Receiver<bool>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((here, _)) = listener.accept().await {
            let cut = cut.clone();
            tokio::spawn(async move {
                let _ = cut.clone().wait_for(|cut| !cut).await;
                let Ok(there) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
                let ((from_here, to_here), (from_there, to_there)) = (here.into_split(), there.into_split());
                tokio::select! {
                    () = carry(from_here, to_there, cut.clone()) => {}
                    () = carry(from_there, to_here, cut) => {}
                }
            });
        }
    });
    port
}

async fn carry(from: tokio::net::tcp::OwnedReadHalf, to: tokio::net::tcp::OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        if cut.wait_for(|cut| !cut).await.is_err() || from.readable().await.is_err() {
            return;
        }
        match from.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(read) => {
                // What was read while it was being cut is late, not lost.
                if cut.wait_for(|cut| !cut).await.is_err() {
                    return;
                }
                let mut rest = &bytes[..read];
                while !rest.is_empty() {
                    if to.writable().await.is_err() {
                        return;
                    }
                    match to.try_write(rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Asks until there is an answer: while a member is gone, a gateway may have none.
async fn answered<T, F: Future<Output = Result<T, kube::Error>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(kube::Error::Api(status)) if status.code < 500 => panic!("{what}: {status}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("{what} is not answered"))
}

async fn leader(client: &Client) -> String {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "basalt-system");
    let lease = answered("the leader", || leases.get("controllers.basalt.dev")).await;
    lease.spec.unwrap().holder_identity.unwrap_or_default()
}

/// Has the controllers do something that they do once, and sees that they did it once.
async fn act(client: &Client, name: &str) {
    let tasks: Api<Task> = Api::default_namespaced(client.clone());
    let operation: Operation = serde_json::from_value(serde_json::json!({ "vmStop": { "vm": "none" } })).unwrap();
    let new = Task::new(name, TaskSpec::of(operation));
    answered(name, || async {
        match tasks.create(&PostParams::default(), &new).await {
            // It was made, and the answer lost.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    })
    .await;
    let acting = async {
        loop {
            let status = answered(name, || tasks.get(name)).await.status.unwrap_or_default();
            if status.finished_at.is_some() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let status = timeout(DEADLINE, acting).await.unwrap_or_else(|_| panic!("a controller acts on {name}"));
    let begun = status.timeline.iter().filter(|entry| entry.what.contains("begins")).count();
    assert_eq!((status.attempt, begun), (1, 1), "{name}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_gateways_and_the_network_between_them_fail_and_nothing_is_lost_or_done_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut members, ports) = cluster(dir.path());
    let (cut, is_cut) = watch::channel(false);
    let mut wired = Vec::new();
    for port in &ports {
        wired.push(wire(*port, is_cut.clone()).await);
    }
    let urls = |ports: &[u16]| ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let [one_dir, two_dir] = ["one", "two"].map(|name| dir.path().join(name));
    let one = Gateway::start(&one_dir, &urls(&wired)).await;
    fs::create_dir_all(two_dir.join("pki")).unwrap();
    for file in ["pki/ca.crt", "pki/ca.key", "join-token", "secret-keys"] {
        fs::copy(one_dir.join(file), two_dir.join(file)).unwrap();
    }
    let two = Gateway::start(&two_dir, &urls(&ports)).await;
    let (to_one, to_two) = (client(&one.kubeconfig()).await, client(&two.kubeconfig()).await);
    act(&to_two, "at-first").await;
    let first_leader = leader(&to_two).await;
    let work = Work::begin(vec![to_one.clone(), to_two.clone()], WRITERS).await;
    work.goes_on(200).await;

    members[0].kill();
    work.goes_on(200).await;
    act(&to_one, "without-a-member").await;
    members[0].again();

    cut.send_replace(true);
    act(&to_two, "without-the-leader").await;
    assert_ne!(leader(&to_two).await, first_leader);
    work.goes_on(200).await;
    cut.send_replace(false);
    act(&to_one, "with-the-network").await;

    let second_leader = leader(&to_one).await;
    two.kill();
    act(&to_one, "without-the-second").await;
    assert_ne!(leader(&to_one).await, second_leader);
    let two = Gateway::start(&two_dir, &urls(&ports)).await;
    work.goes_on(200).await;
    // The clients of the second gateway knew its old address: the first one's go on.
    let steps = work.check().await;
    println!("{steps} writes by {WRITERS} writers");
    drop((one, two));
}
