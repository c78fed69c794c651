//! Several gateways on one etcd: any of them serves, one of them runs the controllers, and the next one takes over.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use basalt_api::{VirtualMachine, virtual_machine::VmPhase};
use basalt_e2e::fleet::{Fleet, Options, program};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// A further gateway of a fleet on etcd. It is killed when dropped.
struct Gateway {
    process: Child,
    dir: std::path::PathBuf,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Gateway {
    /// Starts one that has the certificate authority and the join token of the fleet's own.
    async fn start(fleet: &Fleet, name: &str) -> Self {
        let (first, dir) = (fleet.path().join("gateway"), fleet.path().join(name));
        fs::create_dir_all(dir.join("pki")).unwrap();
        for file in ["pki/ca.crt", "pki/ca.key", "join-token"] {
            fs::copy(first.join(file), dir.join(file)).unwrap();
        }
        let state: Value = serde_json::from_slice(&fs::read(fleet.path().join("fleet.json")).unwrap()).unwrap();
        let port = state["etcdPorts"][0].as_u64().unwrap();
        let process = Command::new(program("basalt-gateway"))
            .args(["--store", "etcd", "--etcd-endpoints", &format!("http://127.0.0.1:{port}"), "--data-dir", dir.to_str().unwrap()])
            .args(["--listen", "127.0.0.1:0", "--hub-listen", "127.0.0.1:0"])
            .stderr(Stdio::from(fs::File::create(fleet.path().join(format!("{name}.log"))).unwrap()))
            .spawn()
            .unwrap();
        let gateway = Self { process, dir };
        let ready = async {
            while !gateway.dir.join("gateway.json").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("the gateway starts");
        gateway
    }

    async fn client(&self) -> Client {
        client(&self.dir.join("admin.kubeconfig")).await
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

/// Creates a VM that fits nowhere, and waits until the controllers have said so.
async fn controlled(client: &Client, name: &str) {
    let vms: Api<VirtualMachine> = Api::default_namespaced(client.clone());
    let object = json!({
        "apiVersion": "basalt.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": name },
        "spec": { "memory": "900Ti", "boot": { "kernel": { "image": "kernel" } } },
    });
    vms.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let pending = |vm: Option<&VirtualMachine>| {
        let status = vm.and_then(|vm| vm.status.as_ref());
        status.is_some_and(|status| status.phase == Some(VmPhase::Pending))
    };
    tokio::time::timeout(DEADLINE, await_condition(vms, name, pending)).await.expect("a controller acts").unwrap();
}

async fn leader(client: &Client) -> String {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "basalt-system");
    leases.get("controllers.basalt.dev").await.unwrap().spec.unwrap().holder_identity.unwrap_or_default()
}

#[tokio::test]
async fn any_gateway_serves_and_when_the_leader_dies_the_next_one_leads() {
    let fleet = Fleet::start(Options { vmm: "simulated", store: "etcd", ..Options::default() });
    let image = "apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: {name: kernel}\nspec: {source: 'file:///etc/os-release', format: Kernel}\n";
    fleet.apply(image);
    let one = fleet.client().await;
    let second = Gateway::start(&fleet, "second").await;
    let two = second.client().await;
    // Written through either, read through the other.
    controlled(&one, "by-one").await;
    controlled(&two, "by-two").await;
    let names = |list: kube::api::ObjectList<VirtualMachine>| list.items.into_iter().filter_map(|vm| vm.metadata.name).collect::<Vec<_>>();
    for client in [&one, &two] {
        let vms: Api<VirtualMachine> = Api::default_namespaced(client.clone());
        assert_eq!(names(vms.list(&Default::default()).await.unwrap()), ["by-one", "by-two"]);
    }
    let first_leader = leader(&two).await;
    fleet.kill("gateway");
    controlled(&two, "after").await;
    assert_ne!(leader(&two).await, first_leader);

    // A leader that ends well is not waited for.
    let third = Gateway::start(&fleet, "third").await;
    let second_leader = leader(&two).await;
    drop(two);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(second.process.id()).unwrap()), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    let three = third.client().await;
    controlled(&three, "last").await;
    assert_ne!(leader(&three).await, second_leader);
}
