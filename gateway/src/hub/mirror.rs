//! Keeps the fleet equal to the API: watches VMs and images and takes in what they deliver.

use super::{
    fleet::{Concerned, Fleet},
    manifests::Manifests,
};
use basalt_api::{Image, VirtualMachine};
use futures::StreamExt;
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};

/// How soon a failed look at the store's revision is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How changes of a kind get into the fleet.
struct Intake<K> {
    put: fn(&mut Fleet, K) -> Concerned,
    remove: fn(&mut Fleet, &K) -> Concerned,
    replace: fn(&mut Fleet, Vec<K>, u64) -> Concerned,
    listed: fn(&Manifests),
}

/// Mirrors for ever.
pub async fn run(client: Client, manifests: Arc<Manifests>) {
    let vms = Intake::<VirtualMachine> {
        put: Fleet::put_vm,
        remove: Fleet::remove_vm,
        replace: Fleet::replace_vms,
        listed: Manifests::vms_listed,
    };
    let images = Intake::<Image> {
        put: Fleet::put_image,
        remove: Fleet::remove_image,
        replace: Fleet::replace_images,
        listed: Manifests::images_listed,
    };
    tokio::join!(mirror(Api::all(client.clone()), &manifests, vms), mirror(Api::all(client), &manifests, images));
}

async fn mirror<K>(api: Api<K>, manifests: &Manifests, intake: Intake<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
    let (mut listing, mut since) = (Vec::new(), 0);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => {
                listing.clear();
                // The list that follows is not older than this. The events of a watch do not tell how old a list is.
                since = revision(&api).await;
            }
            Ok(watcher::Event::InitApply(object)) => listing.push(object),
            Ok(watcher::Event::InitDone) => {
                let objects = std::mem::take(&mut listing);
                manifests.change(|fleet| (intake.replace)(fleet, objects, since));
                (intake.listed)(manifests);
            }
            Ok(watcher::Event::Apply(object)) => manifests.change(|fleet| (intake.put)(fleet, object)),
            Ok(watcher::Event::Delete(object)) => manifests.change(|fleet| (intake.remove)(fleet, &object)),
            Err(error) => tracing::warn!("the hub's watch on {} failed and is tried again: {error}", K::plural(&())),
        }
    }
}

/// The store's revision.
async fn revision<K>(api: &Api<K>) -> u64
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    loop {
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(list) => return list.metadata.resource_version.and_then(|text| text.parse().ok()).unwrap_or(0),
            Err(error) => tracing::warn!("cannot look at the revision of {}, tried again: {error}", K::plural(&())),
        }
        tokio::time::sleep(RETRY).await;
    }
}
