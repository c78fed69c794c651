//! Every command of kubectl that people use daily, as they type it. `make compatibility` writes what it printed to
//! `docs/compatibility.md`.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use common::{Server, start};
use std::{fmt::Write, fs, ops::Range, path::Path, process::Stdio};

/// A command line, a text that its output has, and the minor versions of kubectl that know it.
struct Step(&'static str, &'static str, Range<u32>);

const FILES: [(&str, &str); 8] = [
    (
        "web.yaml",
        "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata:\n  name: web\n  labels: {app: web}\nspec:\n  cpus: 1\n  memory: 1Gi\n  boot:\n    kernel: {image: kernel}\n",
    ),
    (
        "larger.yaml",
        "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata:\n  name: web\n  labels: {app: web}\nspec:\n  cpus: 1\n  memory: 2Gi\n  boot:\n    kernel: {image: kernel}\n",
    ),
    (
        "wrong.yaml",
        "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {name: wrong}\nspec:\n  memory: 1Gi\n  memroy: 1Gi\n  boot:\n    kernel: {image: kernel}\n",
    ),
    (
        "both.yaml",
        "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {name: one, labels: {set: both}}\nspec: {memory: 1Gi, boot: {kernel: {image: kernel}}}\n---\napiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {name: two, labels: {set: both}}\nspec: {memory: 1Gi, boot: {kernel: {image: kernel}}}\n",
    ),
    (
        "one.yaml",
        "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {name: one, labels: {set: both}}\nspec: {memory: 1Gi, boot: {kernel: {image: kernel}}}\n",
    ),
    (
        "farms.yaml",
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: farms.shop.example}\nspec:\n  group: shop.example\n  scope: Namespaced\n  names: {plural: farms, singular: farm, kind: Farm}\n  versions:\n  - name: v1\n    served: true\n    storage: true\n    subresources: {scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}\n    schema:\n      openAPIV3Schema:\n        type: object\n        properties:\n          spec: {type: object, properties: {replicas: {type: integer, description: How many there shall be.}}}\n          status: {type: object, properties: {replicas: {type: integer}}}\n",
    ),
    ("farm.yaml", "apiVersion: shop.example/v1\nkind: Farm\nmetadata: {name: a}\nspec: {replicas: 1}\n"),
    ("kustom/kustomization.yaml", "namePrefix: k-\ncommonLabels: {made-by: kustomize}\nresources: [vm.yaml]\n"),
];

const STEPS: &[Step] = &[
    Step("kubectl api-versions", "basalt.dev/v1alpha1", 0..99),
    Step("kubectl api-resources --api-group=basalt.dev", "virtualmachines", 0..99),
    Step("kubectl explain vm.spec.boot", "DESCRIPTION", 0..99),
    Step("kubectl explain vm.spec --recursive", "readOnly", 0..99),
    Step("kubectl create namespace team", "namespace/team created", 0..99),
    Step("kubectl apply -f web.yaml", "created", 0..99),
    Step("kubectl apply -f web.yaml", "unchanged", 0..99),
    Step("kubectl apply -f wrong.yaml 2>&1 || true", "memroy", 0..99),
    Step("kubectl apply -f wrong.yaml --validate=false", "created", 0..99),
    Step("kubectl delete -f wrong.yaml", "deleted", 0..99),
    Step("kubectl diff -f larger.yaml || true", "+  memory: 2Gi", 0..99),
    Step("kubectl apply -f larger.yaml --dry-run=server", "server dry run", 0..99),
    Step("kubectl apply -f larger.yaml", "configured", 0..99),
    Step("kubectl apply --server-side --field-manager=other -f web.yaml 2>&1 || true", "conflict", 0..99),
    Step("kubectl apply --server-side --force-conflicts -f web.yaml", "serverside-applied", 0..99),
    Step("kubectl get vm", "web", 0..99),
    Step("kubectl get vm -o wide", "EPOCH", 0..99),
    Step("kubectl get vm web -o yaml", "memory: 1Gi", 0..99),
    Step("kubectl get vm web -o json", "\"memory\": \"1Gi\"", 0..99),
    Step("kubectl get vm -o name", "virtualmachine.basalt.dev/web", 0..99),
    Step("kubectl get vm web -o jsonpath='{.spec.memory}{\"\\n\"}'", "1Gi", 0..99),
    Step("kubectl get vm -o custom-columns=NAME:.metadata.name,MEMORY:.spec.memory", "1Gi", 0..99),
    Step("kubectl get vm -o go-template='{{range .items}}{{.metadata.name}}{{\"\\n\"}}{{end}}'", "web", 0..99),
    Step("kubectl get vm --show-labels", "app=web", 0..99),
    Step("kubectl get vm -l app=web -L app", "APP", 0..99),
    Step("kubectl get vm --field-selector metadata.name=web", "web", 0..99),
    Step("kubectl get vm -A --sort-by=.metadata.name", "default", 0..99),
    Step("kubectl get vm --chunk-size=1", "web", 0..99),
    Step("timeout 2 kubectl get vm -w || true", "web", 0..99),
    Step("kubectl get --raw /apis/basalt.dev/v1alpha1/namespaces/default/virtualmachines/web", "\"kind\":\"VirtualMachine\"", 0..99),
    Step("kubectl describe vm web", "Memory:", 0..99),
    Step("kubectl label vm web tier=front", "labeled", 0..99),
    Step("kubectl label vm web tier-", "web", 0..99),
    Step("kubectl annotate vm web note=hello --overwrite", "annotated", 0..99),
    Step("kubectl patch vm web --type=merge -p '{\"spec\":{\"cpus\":2}}'", "patched", 0..99),
    Step("kubectl patch vm web --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/cpus\",\"value\":3}]'", "patched", 0..99),
    Step("kubectl patch vm web --subresource=status --type=merge -p '{\"status\":{\"phase\":\"Running\"}}'", "patched", 24..99),
    Step("EDITOR=\"sed -i s/cpus:.3/cpus:\\ 4/\" kubectl edit vm web", "edited", 0..99),
    Step("kubectl get vm web -o yaml | sed 's/cpus: 4/cpus: 1/' | kubectl replace -f -", "replaced", 0..99),
    Step("kubectl wait vm/web --for=jsonpath='{.spec.cpus}'=1 --timeout=5s", "condition met", 23..99),
    Step("kubectl wait vm/web --for=condition=Ready --timeout=1s 2>&1 || true", "timed out", 0..99),
    Step("kubectl apply -f both.yaml", "two created", 0..99),
    Step("kubectl apply -f one.yaml --prune -l set=both --prune-whitelist=basalt.dev/v1alpha1/VirtualMachine", "two pruned", 0..26),
    Step("kubectl apply -f one.yaml --prune -l set=both --prune-allowlist=basalt.dev/v1alpha1/VirtualMachine", "two pruned", 26..99),
    Step("kubectl create secret generic login --from-literal=password=hidden", "secret/login created", 0..99),
    Step("kubectl get secret login -o jsonpath='{.data.password}' | base64 -d", "hidden", 0..99),
    Step("KUBECTL_APPLYSET=true kubectl apply -n default -f both.yaml --prune --applyset=set", "two created", 27..99),
    Step("KUBECTL_APPLYSET=true kubectl apply -n default -f one.yaml --prune --applyset=set", "two pruned", 27..99),
    Step("kubectl auth can-i delete vm", "yes", 0..99),
    Step("kubectl auth can-i --list", "Resources", 0..99),
    Step("kubectl create clusterrole watcher --verb=get,list,watch --resource=virtualmachines", "watcher created", 0..99),
    Step("kubectl create clusterrolebinding watchers --clusterrole=watcher --user=jane", "watchers created", 0..99),
    Step("kubectl auth whoami", "admin", 28..99),
    Step("kubectl apply -f farms.yaml", "farms.shop.example created", 0..99),
    Step("kubectl wait crd/farms.shop.example --for=condition=Established --timeout=5s", "condition met", 0..99),
    Step("kubectl explain farm.spec.replicas", "How many there shall be", 0..99),
    Step("kubectl apply -f farm.yaml", "farm.shop.example/a created", 0..99),
    Step("kubectl scale farm/a --replicas=5", "scaled", 0..99),
    Step("kubectl scale farm/a --replicas=6 --current-replicas=3 2>&1 || true", "xpected replicas to be 3, was 5", 0..99),
    Step("kubectl get farm a --subresource=scale", "DESIRED", 24..99),
    Step("kubectl patch farm a --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":2}}'", "patched", 24..99),
    Step("kubectl get farm a -o jsonpath='{.spec.replicas}{\"\\n\"}'", "", 0..99),
    Step("kubectl delete crd farms.shop.example", "deleted", 0..99),
    Step("kubectl kustomize kustom", "name: k-web", 0..99),
    Step("kubectl apply -k kustom", "k-web created", 0..99),
    Step("kubectl delete -k kustom", "deleted", 0..99),
    Step("kubectl delete vm one --cascade=orphan", "deleted", 20..99),
    Step("kubectl apply -f one.yaml && kubectl delete vm one --cascade=foreground", "deleted", 20..99),
    Step("kubectl apply -f one.yaml && kubectl delete vm one --cascade=background --wait=false", "deleted", 20..99),
    Step("kubectl get events", "", 0..99),
    Step("kubectl get leases -A", "", 0..99),
    Step("kubectl delete vm -l app=web", "deleted", 0..99),
    Step("kubectl get vm 2>&1", "No resources found", 0..99),
    Step("kubectl delete namespace team", "deleted", 0..99),
];

/// Runs a command line in a directory with the cluster's kubeconfig; how it ended, and all that it printed.
async fn run(server: &Server, dir: &Path, line: &str) -> (bool, String) {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(kubectl) = std::env::var_os("KUBECTL") {
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let _ = std::os::unix::fs::symlink(kubectl, bin.join("kubectl"));
        path = [bin.as_os_str(), &path].join(std::ffi::OsStr::new(":"));
    }
    let ran = tokio::process::Command::new("bash")
        .args(["-o", "pipefail", "-c", line])
        .current_dir(dir)
        .env("PATH", path)
        .env("KUBECONFIG", server.kubeconfig())
        .env("HOME", dir)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    (ran.status.success(), String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_daily_command_of_kubectl_does_what_it_does_against_kubernetes() {
    let server = start().await;
    let dir = server.scratch().join("work");
    fs::create_dir_all(dir.join("kustom")).unwrap();
    for (name, text) in FILES {
        fs::write(dir.join(name), text).unwrap();
    }
    fs::write(dir.join("kustom/vm.yaml"), FILES[0].1).unwrap();
    let (_, version) = run(&server, &dir, "kubectl version --client -o json").await;
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    let minor = version["clientVersion"]["minor"].as_str().unwrap().trim_end_matches('+').parse::<u32>().unwrap();
    let mut told = format!("## kubectl {}\n", version["clientVersion"]["gitVersion"].as_str().unwrap());
    for Step(line, wanted, _) in STEPS.iter().filter(|step| step.2.contains(&minor)) {
        let (success, said) = run(&server, &dir, line).await;
        assert!(success && said.contains(wanted), "kubectl 1.{minor}: {line}\n{said}");
        let lines: Vec<&str> = said.lines().collect();
        let shown = lines.iter().take(12).map(|line| line.trim_end()).collect::<Vec<_>>().join("\n");
        let more = if lines.len() > 12 { format!("\n... {} lines more", lines.len() - 12) } else { String::new() };
        writeln!(told, "\n```console\n$ {line}\n{shown}{more}\n```").unwrap();
    }
    if let Some(file) = std::env::var_os("BASALT_COMPATIBILITY_FILE") {
        let mut text = fs::read_to_string(&file).unwrap_or_default();
        text.push_str(&told);
        fs::write(&file, text).unwrap();
    }
}
