//! All hosts, for controllers that look at them.

use basalt_api::Host;
use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{Store, store},
        watcher,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

/// All hosts, and each that has changed or gone, which are told when the hosts are so.
pub struct Hosts {
    /// The hosts.
    pub all: Store<Host>,
    /// Those that have changed.
    pub changed: BoxStream<'static, Host>,
}

/// Does work with a mirror of all hosts, once that is whole, and ends with it.
pub async fn with_hosts<W: Future<Output = ()>>(client: Client, shutdown: &CancellationToken, work: impl FnOnce(Hosts) -> W) {
    let (all, writer) = store();
    let (tell, changed) = mpsc::unbounded_channel();
    let events = watcher(Api::<Host>::all(client), watcher::Config::default()).default_backoff();
    let mirror = events.modify(|host| host.managed_fields_mut().clear()).reflect(writer).touched_objects();
    let mirror = mirror.for_each(|host| {
        match host {
            // Whoever listens ends first.
            Ok(host) => drop(tell.send(host)),
            Err(error) => tracing::warn!("the watch on hosts failed and is tried again: {error}"),
        }
        std::future::ready(())
    });
    let hosts = Hosts { all: all.clone(), changed: UnboundedReceiverStream::new(changed).boxed() };
    let working = async {
        // Once, for all: a store wakes only the last of those who wait for it.
        if let Some(Ok(())) = shutdown.run_until_cancelled(all.wait_until_ready()).await {
            work(hosts).await;
        }
    };
    tokio::select! {
        () = working => {}
        // The mirror ends only with the work: a watch goes on for ever.
        () = mirror => {}
    }
}
