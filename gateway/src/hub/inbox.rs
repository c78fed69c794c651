//! What has arrived from a host and is not written yet. Reading never waits for writing: a newer report takes the place of
//! the one that waits, and only the happenings of all of them are kept.

use super::observe::{self, Observation, Unreadable};
use basalt_api::image::ImageOnHost;
use basalt_controllers::events::Happening;
use basalt_proto::v1::{HostInventory, HostReport, VmEvent};
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How many happenings wait at the most; the oldest go first.
const MOST_HAPPENINGS: usize = 1000;
/// How long a reason and a message of a happening may be.
const LONGEST_REASON: usize = 128;
const LONGEST_MESSAGE: usize = 1024;

/// Reports of one session.
#[derive(Default)]
pub struct Inbox {
    waiting: Mutex<Option<Batch>>,
    arrived: Notify,
    /// A report has arrived, whatever it says.
    pub beat: Notify,
    /// No more reports will arrive.
    pub closed: CancellationToken,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Batch {
    /// The newest manifest that the host has.
    pub acknowledged: u64,
    /// What the host says of itself.
    pub inventory: Option<HostInventory>,
    /// The VMs on the host.
    pub vms: Vec<Observation>,
    /// What the host found at the sources of images, by image.
    pub images: Vec<(String, ImageOnHost)>,
    /// What happened to VMs, oldest first: namespace, name, uid.
    pub happenings: VecDeque<(String, String, String, Happening)>,
    /// Parts of the report that make no sense.
    pub unreadable: Vec<Unreadable>,
}

impl Inbox {
    /// Takes in a report.
    pub fn put(&self, report: HostReport, host: &str, now: Timestamp) {
        let mut waiting = self.lock();
        let batch = waiting.get_or_insert_default();
        batch.take_in(report, host, now);
        drop(waiting);
        self.arrived.notify_one();
        self.beat.notify_one();
    }

    /// What waits, as soon as something does; `None` once all is taken and no more will arrive.
    pub async fn next(&self) -> Option<Batch> {
        loop {
            if let Some(batch) = self.lock().take() {
                return Some(batch);
            }
            tokio::select! {
                biased;
                () = self.arrived.notified() => {}
                () = self.closed.cancelled() => return self.lock().take(),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Batch>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    fn take_in(&mut self, report: HostReport, host: &str, now: Timestamp) {
        self.acknowledged = report.acknowledged_generation;
        self.inventory = report.inventory.or(self.inventory.take());
        self.vms.clear();
        self.images.clear();
        self.unreadable.clear();
        for vm in report.vms {
            match observe::read(&vm, host) {
                Ok(observation) => self.vms.push(observation),
                Err(unreadable) => self.unreadable.push(unreadable),
            }
            for event in vm.events {
                self.happenings.push_back((vm.namespace.clone(), vm.name.clone(), vm.uid.clone(), happening(event, now)));
            }
        }
        for image in report.images {
            match observe::with_host(&image.image_json, host) {
                Ok(found) => self.images.push((image.name, found)),
                Err(reason) => {
                    self.unreadable.push(Unreadable { field: "image_json", subject: format!("image {}", image.name), reason });
                }
            }
        }
        let surplus = self.happenings.len().saturating_sub(MOST_HAPPENINGS);
        if surplus > 0 {
            tracing::warn!(host, surplus, "the host reports more events than can be written; the oldest are dropped");
            self.happenings.drain(..surplus);
        }
    }
}

fn happening(event: VmEvent, now: Timestamp) -> Happening {
    let time = event.time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    let reason: String = event.reason.chars().filter(char::is_ascii_alphanumeric).take(LONGEST_REASON).collect();
    Happening {
        warning: event.warning,
        reason: if reason.is_empty() { "Unknown".to_owned() } else { reason },
        message: event.message.chars().filter(|c| !c.is_control()).take(LONGEST_MESSAGE).collect(),
        // A host whose clock is ahead does not make the future.
        time: time.map_or(now, |time| time.min(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_proto::v1::VmReport;

    fn report(acknowledged_generation: u64, reason: &str, events: usize) -> HostReport {
        let event = VmEvent { time: None, warning: true, reason: reason.into(), message: "m\n".into() };
        let observed_json = r#"{"epoch":1,"generation":1,"state":"Running"}"#.to_owned();
        let vm = VmReport { uid: "u".into(), namespace: "ns".into(), name: "a".into(), observed_json, events: vec![event; events] };
        HostReport { acknowledged_generation, vms: vec![vm], ..HostReport::default() }
    }

    #[tokio::test]
    async fn the_newest_state_and_all_happenings_are_kept() {
        let inbox = Inbox::default();
        inbox.put(HostReport { inventory: Some(HostInventory::default()), ..report(1, "VmmDied", 1) }, "h1", Timestamp::UNIX_EPOCH);
        inbox.put(report(2, "Started", 1), "h1", Timestamp::UNIX_EPOCH);
        let batch = inbox.next().await.unwrap();
        assert_eq!((batch.acknowledged, batch.vms.len(), batch.inventory.is_some()), (2, 1, true));
        let happened: Vec<_> = batch.happenings.iter().map(|(.., h)| (h.reason.as_str(), h.message.as_str())).collect();
        assert_eq!(happened, [("VmmDied", "m"), ("Started", "m")]);
        inbox.closed.cancel();
        assert!(inbox.next().await.is_none());
    }

    #[tokio::test]
    async fn a_flood_of_happenings_is_cut_at_its_old_end() {
        let inbox = Inbox::default();
        inbox.put(report(1, "Old", MOST_HAPPENINGS), "h1", Timestamp::UNIX_EPOCH);
        inbox.put(report(1, "New", 1), "h1", Timestamp::UNIX_EPOCH);
        let happenings = inbox.next().await.unwrap().happenings;
        assert_eq!((happenings.len(), happenings[MOST_HAPPENINGS - 1].3.reason.as_str()), (MOST_HAPPENINGS, "New"));
    }
}
