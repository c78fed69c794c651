//! The network of a fleet: a bridge that joins one network namespace a host, all set up and removed by iproute2's `ip`.

use super::{
    Error,
    fleet::{Fleet, Subnet},
};
use std::{net::Ipv4Addr, process::Stdio};
use tokio::{io::AsyncWriteExt, process::Command};

/// The bridge inside each host's namespace that guests are attached to.
pub const GUEST_BRIDGE: &str = "br0";

/// A subnet that no interface of this machine has an address in.
pub async fn free_subnet(wanted: Option<Subnet>) -> Result<Subnet, Error> {
    let used = addresses().await?;
    let free = |subnet: &Subnet| !used.iter().any(|a| subnet.contains(*a));
    match wanted {
        Some(subnet) if free(&subnet) => Ok(subnet),
        Some(subnet) => {
            let reason =
                "an interface of this machine has an address in it (another fleet?). Choose another with --subnet, or see: ip -4 addr"
                    .into();
            Err(Error::Subnet { subnet: subnet.to_string(), reason })
        }
        None => (100..=254).map(Subnet::nth).find(free).ok_or_else(|| Error::Subnet {
            subnet: "198.18.100.0/24 to 198.18.254.0/24".into(),
            reason: "all are in use. End some fleets, or choose one with --subnet".into(),
        }),
    }
}

async fn addresses() -> Result<Vec<Ipv4Addr>, Error> {
    let out = ip(&["-4", "-o", "addr", "show"], "").await?;
    let address = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
    Ok(out.lines().filter_map(address).collect())
}

/// Makes what is missing of a fleet's network.
pub async fn ensure(fleet: &Fleet) -> Result<(), Error> {
    let Some(subnet) = fleet.subnet else { return Ok(()) };
    let bridge = fleet.bridge();
    if ip(&["link", "show", "dev", &bridge], "").await.is_err() {
        let gateway = subnet.gateway();
        ip(&["-batch", "-"], &format!("link add name {bridge} type bridge\naddr add {gateway}/24 dev {bridge}\nlink set {bridge} up\n"))
            .await?;
    }
    let namespaces = namespaces().await?;
    for (number, host) in (1u8..).zip(fleet.host_names()) {
        let namespace = fleet.namespace(&host);
        if namespaces.contains(&namespace) {
            continue;
        }
        let cable = fleet.cable(number);
        let address = subnet.address(49 + number);
        ip(
            &["-batch", "-"],
            &format!(
                "netns add {namespace}\nlink add {cable} type veth peer name uplink netns {namespace}\nlink set {cable} master {bridge} up\n"
            ),
        )
        .await?;
        let inside = format!(
            "link set lo up\nlink add name {GUEST_BRIDGE} type bridge\nlink set uplink master {GUEST_BRIDGE} up\n\
             addr add {address}/24 dev {GUEST_BRIDGE}\nlink set {GUEST_BRIDGE} up\nroute add default via {}\n",
            subnet.gateway()
        );
        ip(&["-n", &namespace, "-batch", "-"], &inside).await?;
    }
    Ok(())
}

/// The processes in a namespace: the agent and its VMMs.
pub async fn processes(namespace: &str) -> Result<Vec<i32>, Error> {
    if !namespaces().await?.iter().any(|n| n == namespace) {
        return Ok(Vec::new());
    }
    let out = ip(&["netns", "pids", namespace], "").await?;
    Ok(out.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Removes a fleet's namespaces and bridge; what is gone already is fine.
pub async fn remove(fleet: &Fleet) -> Result<(), Error> {
    if fleet.subnet.is_none() {
        return Ok(());
    }
    let namespaces = namespaces().await?;
    for (number, host) in (1u8..).zip(fleet.host_names()) {
        // The kernel takes a namespace down in its own time; a cable that is cut here is gone at once, at both ends.
        remove_link(&fleet.cable(number)).await?;
        let namespace = fleet.namespace(&host);
        if namespaces.contains(&namespace) {
            ip(&["netns", "del", &namespace], "").await?;
        }
    }
    remove_link(&fleet.bridge()).await
}

async fn remove_link(name: &str) -> Result<(), Error> {
    if ip(&["link", "show", "dev", name], "").await.is_ok() {
        ip(&["link", "del", name], "").await?;
    }
    Ok(())
}

async fn namespaces() -> Result<Vec<String>, Error> {
    let out = ip(&["netns", "list"], "").await?;
    Ok(out.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// The one door to `ip`.
async fn ip(args: &[&str], input: &str) -> Result<String, Error> {
    let failed = |stderr: String| {
        let stdin = if input.is_empty() { String::new() } else { format!(" <<< {:?}", input.trim_end()) };
        Error::Network { command: format!("ip {}{stdin}", args.join(" ")), stderr: stderr.trim().to_owned() }
    };
    tracing::debug!(?args, input, "ip");
    let child = Command::new("ip").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.map_err(|e| failed(e.to_string()))?;
    }
    let output = child.wait_with_output().await.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
