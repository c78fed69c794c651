//! `basaltctl dev status`: what runs of a fleet, and what its hosts say.

use super::{Error, StatusArgs, StoreChoice, fleet::Dir, process};
use basalt_api::Host;
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::Path, time::Duration};

/// How long the gateway may take to say how its hosts are.
const DEADLINE: Duration = Duration::from_secs(5);

/// Shows the fleet.
pub async fn status(args: &StatusArgs) -> Result<(), Error> {
    let dir = Dir::new(&args.place.data_dir)?;
    let Some(fleet) = dir.read()? else {
        return Err(Error::NoFleet(args.place.data_dir.clone()));
    };
    let hosts = hosts(&dir).await;
    println!("{:<10} {:<10} {:<9} LOG", "PROGRAM", "PID", "STATUS");
    let etcd = (fleet.store == StoreChoice::Etcd).then(|| "etcd".to_owned());
    for name in etcd.into_iter().chain(["gateway".to_owned()]).chain(fleet.host_names()) {
        let pid = process::running(&dir, &name);
        let phase = hosts.as_ref().ok().and_then(|hosts| hosts.iter().find(|(host, _)| *host == name)).map(|(_, phase)| phase.clone());
        let state = match pid {
            None => "Ended".to_owned(),
            Some(_) => phase.unwrap_or_else(|| "Running".to_owned()),
        };
        let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        println!("{name:<10} {pid:<10} {state:<9} {}", dir.log(&name).display());
    }
    if let Some(subnet) = fleet.subnet {
        println!("network {subnet} on bridge {}, hosts in namespaces {}", fleet.bridge(), fleet.namespace("host-N"));
    }
    println!("export KUBECONFIG={}", dir.kubeconfig().display());
    if let Err(error) = hosts {
        eprintln!("the hosts' own status is not known: {error}");
    }
    Ok(())
}

async fn hosts(dir: &Dir) -> Result<Vec<(String, String)>, Error> {
    let hosts: Api<Host> = Api::all(client(&dir.kubeconfig()).await?);
    let list = tokio::time::timeout(DEADLINE, hosts.list(&ListParams::default())).await;
    let list = list.map_err(|_| process::failed(dir, "gateway", format!("does not answer within {} s", DEADLINE.as_secs())))?;
    let phase = |host: &Host| host.status.as_ref().and_then(|s| s.phase).map_or_else(|| "Pending".to_owned(), |p| p.to_string());
    Ok(list.map_err(Box::new)?.iter().map(|host| (host.name_any(), phase(host))).collect())
}

/// A client by the fleet's own kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<Client, Error> {
    let unusable = |reason: String| Error::Kubeconfig { path: kubeconfig.into(), reason };
    let file = Kubeconfig::read_from(kubeconfig).map_err(|e| unusable(e.to_string()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|e| unusable(e.to_string()))?;
    Client::try_from(config).map_err(|e| unusable(e.to_string()))
}
