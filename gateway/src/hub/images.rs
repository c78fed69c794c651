//! What hosts find at the sources of images, gathered into each Image's status.
//!
//! All hosts' findings meet here, so that a thousand hosts that find the same image make one write and not a thousand
//! that are in each other's way.

use super::manifests::Manifests;
use basalt_api::{Image, image::ImageOnHost};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// How often a write is tried that another one comes before.
const TRIES: usize = 5;
/// How long the API may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Findings by image and host.
type Findings = BTreeMap<String, BTreeMap<String, ImageOnHost>>;

/// Writes what hosts find.
pub struct ImageFindings {
    client: Client,
    manifests: Arc<Manifests>,
    waiting: Mutex<Findings>,
    arrived: Notify,
}

impl ImageFindings {
    /// Without any finding yet.
    pub fn new(client: Client, manifests: Arc<Manifests>) -> Self {
        Self { client, manifests, waiting: Mutex::default(), arrived: Notify::new() }
    }

    /// Takes a finding, to be written soon if it is news.
    pub fn take(&self, image: &str, found: ImageOnHost) {
        let known = self
            .manifests
            .look(|fleet| fleet.image(image).map(|image| image.status.as_ref().is_some_and(|status| status.hosts.contains(&found))));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            // The image is gone.
            None => {}
            // Only an other finding that waits would have to be taken back.
            Some(true) if !waiting.get(image).is_some_and(|hosts| hosts.contains_key(&found.host)) => {}
            Some(_) => {
                waiting.entry(image.to_owned()).or_default().insert(found.host.clone(), found);
                self.arrived.notify_one();
            }
        }
    }

    /// Writes findings for ever.
    pub async fn run(&self) {
        loop {
            // What arrives while others are being written is gathered, and written next.
            self.arrived.notified().await;
            let findings = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            for (image, found) in findings {
                // What cannot be written is reported again, and is then still news.
                match timeout(DEADLINE, self.write(&image, &found)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(image, "cannot write what hosts found of the image: {error}"),
                    Err(_) => tracing::warn!(image, "cannot write what hosts found of the image: the API did not answer in time"),
                }
            }
        }
    }

    async fn write(&self, name: &str, found: &BTreeMap<String, ImageOnHost>) -> Result<(), kube::Error> {
        let images: Api<Image> = Api::all(self.client.clone());
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            let Some(image) = images.get_opt(name).await? else { return Ok(()) };
            let old = image.status.as_ref().map(|status| status.hosts.clone()).unwrap_or_default();
            let hosts = merged(&old, found);
            if hosts == old {
                return Ok(());
            }
            let patch = json!({ "metadata": { "resourceVersion": image.resource_version() }, "status": { "hosts": hosts } });
            match images.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
                Err(error @ kube::Error::Api(_)) if matches!(&error, kube::Error::Api(status) if status.is_conflict()) => {
                    outcome = Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        outcome
    }
}

/// The entries with the newer ones in their hosts' places, by host.
fn merged(old: &[ImageOnHost], newer: &BTreeMap<String, ImageOnHost>) -> Vec<ImageOnHost> {
    let mut hosts: BTreeMap<&str, &ImageOnHost> = old.iter().map(|entry| (entry.host.as_str(), entry)).collect();
    hosts.extend(newer.iter().map(|(host, entry)| (host.as_str(), entry)));
    hosts.into_values().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::image::Presence;

    #[test]
    fn a_host_has_one_entry_and_leaves_the_others_alone() {
        let entry = |host: &str, presence| ImageOnHost { host: host.into(), presence, size: None, message: None };
        let old = [entry("h2", Presence::Present), entry("h1", Presence::Missing)];
        let newer = [("h1".to_owned(), entry("h1", Presence::Present)), ("h3".to_owned(), entry("h3", Presence::Unusable))].into();
        let expected = [entry("h1", Presence::Present), entry("h2", Presence::Present), entry("h3", Presence::Unusable)];
        assert_eq!(merged(&old, &newer), expected);
    }
}
