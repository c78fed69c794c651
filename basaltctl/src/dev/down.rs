//! `basaltctl dev down`: ends every process of a fleet, removes its network, and its files unless they are to be kept.

use super::{DownArgs, Error, fleet::Dir, network, process};

/// Ends the fleet.
pub async fn down(args: &DownArgs) -> Result<(), Error> {
    let dir = Dir::new(&args.place.data_dir)?;
    let Some(fleet) = dir.read()? else {
        return Err(Error::NoFleet(args.place.data_dir.clone()));
    };
    let _lock = dir.lock()?;
    // The hosts first, so that none of them starts again what is ended here.
    let mut stopped = 0;
    for name in fleet.host_names() {
        stopped += usize::from(process::stop(&dir, &name).await?);
    }
    let mut vmms = 0;
    if fleet.subnet.is_some() {
        for name in fleet.host_names() {
            let pids = network::processes(&fleet.namespace(&name)).await?;
            vmms += pids.len();
            process::kill_all(&pids).await;
        }
    }
    for program in ["gateway", "etcd"] {
        stopped += usize::from(process::stop(&dir, program).await?);
    }
    network::remove(&fleet).await?;
    println!("{stopped} programs and {vmms} VMMs ended, network removed");
    if args.keep_data {
        println!("{} is kept; basaltctl dev up continues with it", dir.path().display());
        return Ok(());
    }
    dir.remove()?;
    println!("{} removed", dir.path().display());
    Ok(())
}
