//! Several gateways on one etcd: any of them serves, one of them runs the controllers, and the next one takes over.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use basalt_api::{VirtualMachine, virtual_machine::VmPhase};
use basalt_e2e::{Fleet, Options, gateway::Gateway};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams, runtime::wait::await_condition};
use serde_json::json;
use std::{fs, time::Duration};

const DEADLINE: Duration = Duration::from_secs(60);

/// Starts a further gateway of a fleet, with the certificate authority and the join token of the fleet's own.
async fn further(fleet: &Fleet, name: &str) -> Gateway {
    let (first, dir) = (fleet.path().join("gateway"), fleet.path().join(name));
    fs::create_dir_all(dir.join("pki")).unwrap();
    for file in ["pki/ca.crt", "pki/ca.key", "join-token", "secret-keys"] {
        fs::copy(first.join(file), dir.join(file)).unwrap();
    }
    Gateway::start(&dir, &fleet.etcd()).await
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
    let second = further(&fleet, "second").await;
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
    let third = further(&fleet, "third").await;
    let second_leader = leader(&two).await;
    drop(two);
    second.terminate();
    let three = third.client().await;
    controlled(&three, "last").await;
    assert_ne!(leader(&three).await, second_leader);
}
