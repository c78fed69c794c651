//! Attempts of tasks under partitions, on a simulated clock: a thousand runs in which messages are late or lost, hosts and
//! gateways fall silent, and no two attempts of a task ever run at once.
//!
//! The judgements are those of the programs: the controller's [`next`], the hub's [`standing`] and [`may_renew`], the agent's
//! [`Lease`]. What is simulated is what lies between them: the network, the store's watch, and time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use basalt_agent::task::lease::Lease;
use basalt_api::{
    Task, TaskSpec, TaskStatus,
    task::{Operation, Outcome, Probe, Reported, TaskPhase},
};
use basalt_controllers::task::plan::{HostState, Place, World, next};
use basalt_gateway::{
    hub::tasks::board::{Standing, may_renew, standing},
    task_lost,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

const RUNS: u64 = 1000;
/// How long a run is, and how fine its clock, in milliseconds.
const LENGTH: u64 = 10 * 60 * 1000;
const TICK: u64 = 250;
const LEASE: Duration = Duration::from_secs(30);
/// The host's own lease: renewed with each report, and how old it may be.
const REPORT: u64 = 2000;
const GRACE: u64 = 10_000;
/// How far the clocks of the gateway that leads and of the one that the hosts talk to are apart at the most.
const SKEW: i64 = 3000;
const HOSTS: usize = 2;

/// A small generator of numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// What is on its way.
enum Message {
    Report,
    Alive { token: String, number: u64 },
    Ended { token: String },
    Given { token: String },
    Renewed { token: String, number: u64 },
    Stop { token: String },
}

/// A host, on its own clock.
#[derive(Default)]
struct Host {
    /// The attempts that it has, whether it has begun them (and not ended), and when it signs next.
    attempts: BTreeMap<String, (Lease, bool, u64)>,
    known: Vec<String>,
    /// Until when messages from it, and to it, are lost.
    cut: (u64, u64),
    next_report: u64,
}

struct Run {
    dice: Dice,
    now: u64,
    base: Instant,
    skew: i64,
    task: Task,
    hosts: [Host; HOSTS],
    /// On its way: when it comes, from or to which host.
    network: Vec<(u64, usize, bool, Message)>,
    /// When each host's lease was renewed, as the hub knows and by its clock; and since when the leader finds it silent.
    renewed: [u64; HOSTS],
    silent: [Option<u64>; HOSTS],
    /// Until when the hub cannot write.
    store_down: u64,
    attempts: u32,
    overlaps: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let probe = Probe { steps: 1, step_milliseconds: 0, write_bytes: 0, fail_at: None, fail_attempts: None, silent: true };
        let mut task = Task::new("t", TaskSpec::of(Operation::Probe(probe)));
        task.spec.retry.limit = 100;
        task.spec.retry.backoff = basalt_api::Span::from_secs(0);
        task.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        task.spec.timeout = basalt_api::Span::from_secs(60 + dice.roll(300));
        let skew = i64::try_from(dice.roll(2 * SKEW.unsigned_abs())).unwrap() - SKEW;
        Self {
            dice,
            now: 1000,
            base: Instant::now(),
            skew,
            task,
            hosts: Default::default(),
            network: Vec::new(),
            renewed: [1000; HOSTS],
            silent: [None; HOSTS],
            store_down: 0,
            attempts: 0,
            overlaps: 0,
        }
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    /// The leader's clock.
    fn leader(&self) -> u64 {
        self.now.saturating_add_signed(self.skew)
    }

    fn send(&mut self, host: usize, up: bool, message: Message) {
        let cut = if up { self.hosts[host].cut.0 } else { self.hosts[host].cut.1 };
        // Most messages are quick; some linger for longer than a lease.
        let late = match self.dice.roll(50) {
            0 => self.dice.roll(90_000),
            1..10 => self.dice.roll(3000),
            _ => self.dice.roll(50),
        };
        if cut <= self.now {
            self.network.push((self.now + late, host, up, message));
        }
    }

    fn disturb(&mut self) {
        for host in 0..HOSTS {
            if self.dice.roll(400) == 0 {
                let until = self.now + self.dice.roll(120_000);
                match self.dice.roll(3) {
                    0 => self.hosts[host].cut.0 = until,
                    1 => self.hosts[host].cut.1 = until,
                    _ => self.hosts[host].cut = (until, until),
                }
            }
        }
        if self.dice.roll(2000) == 0 {
            self.store_down = self.now + self.dice.roll(60_000);
        }
    }

    fn deliver(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.network).into_iter().partition(|(at, ..)| *at <= self.now);
        self.network = later;
        for (_, host, _, message) in due {
            self.take(host, message);
        }
    }

    fn take(&mut self, host: usize, message: Message) {
        let name = format!("h{host}");
        let up = self.store_down <= self.now;
        match message {
            Message::Report if up => self.renewed[host] = self.now,
            Message::Report => {}
            Message::Alive { token, number } => {
                let age = Duration::from_millis(self.now - self.renewed[host]);
                match standing(&self.task, &name, &token) {
                    Standing::Current if may_renew(age, LEASE) => self.send(host, false, Message::Renewed { token, number }),
                    Standing::Stop(_) => self.send(host, false, Message::Stop { token }),
                    _ => {}
                }
            }
            Message::Ended { token } if up => {
                let status = self.task.status.get_or_insert_default();
                if status.token.as_ref() == Some(&token) {
                    let time = || Time(Timestamp::UNIX_EPOCH);
                    let outcome = Some(Outcome::Interrupted);
                    let (message, result, residue, ended_at) = (None, BTreeMap::new(), Vec::new(), Some(time()));
                    status.reported = Some(Reported { token, host: name, started_at: time(), outcome, ended_at, message, result, residue });
                }
            }
            // It is said again until it is heard.
            Message::Ended { token } => self.send(host, true, Message::Ended { token }),
            Message::Given { token } => {
                if !self.hosts[host].known.contains(&token) {
                    let lease = Lease::new(LEASE, self.instant());
                    self.hosts[host].known.push(token.clone());
                    self.hosts[host].attempts.insert(token, (lease, false, 0));
                }
            }
            Message::Renewed { token, number } => {
                if let Some((lease, begun, _)) = self.hosts[host].attempts.get_mut(&token) {
                    // Nothing is done before the gateway has said that the attempt still counts.
                    if lease.renew(number) && !*begun && lease.ends() > self.base + Duration::from_millis(self.now) {
                        *begun = true;
                        self.attempts += 1;
                    }
                }
            }
            Message::Stop { token } => {
                if self.hosts[host].attempts.remove(&token).is_some() {
                    self.send(host, true, Message::Ended { token });
                }
            }
        }
    }

    fn agents(&mut self) {
        let instant = self.instant();
        for host in 0..HOSTS {
            if self.hosts[host].next_report <= self.now {
                self.hosts[host].next_report = self.now + REPORT;
                self.send(host, true, Message::Report);
            }
            let mut said = Vec::new();
            let (now, period) = (self.now, u64::try_from(LEASE.as_millis()).unwrap() / 3);
            self.hosts[host].attempts.retain(|token, (lease, _, signs)| {
                if lease.ends() <= instant {
                    said.push(Message::Ended { token: token.clone() });
                    return false;
                }
                if *signs <= now {
                    *signs = now + period;
                    said.push(Message::Alive { token: token.clone(), number: lease.sign(instant) });
                }
                true
            });
            for message in said {
                self.send(host, true, message);
            }
        }
    }

    /// The leader's judgement of hosts and of the task, and what the hub tells the host.
    fn control(&mut self) {
        let leader = self.leader();
        for host in 0..HOSTS {
            let silent = leader.saturating_sub(self.renewed[host]) > GRACE;
            self.silent[host] = if silent { self.silent[host].or(Some(leader)) } else { None };
        }
        let time = |millis: u64| Timestamp::UNIX_EPOCH + SignedDuration::from_millis(i64::try_from(millis).unwrap());
        let status = self.task.status.clone().unwrap_or_default();
        let state = |host: &str| match self.silent[host[1..].parse::<usize>().unwrap()] {
            Some(since) => HostState::Silent { since: time(since) },
            None => HostState::Reports,
        };
        let ready: Vec<usize> = (0..HOSTS).filter(|host| self.silent[*host].is_none()).collect();
        let place = match ready.len() as u64 {
            0 => Place::Silent("h0".into()),
            count => Place::Host(format!("h{}", ready[usize::try_from(self.dice.roll(count)).unwrap()])),
        };
        let host = status.host.as_deref().map_or(HostState::Reports, state);
        let token = format!("uid.{}.{}", status.attempt + 1, self.dice.roll(u64::MAX));
        let world = World { dependencies: vec![], cycle: None, place, host, busy: None, token };
        let decision = next(&self.task, &world, task_lost(LEASE), time(leader));
        let begins = decision.status.token != status.token;
        self.task.status = Some(TaskStatus { timeline: vec![], ..decision.status });
        // The hub offers it again and again until the host has it.
        let status = self.task.status.as_ref().unwrap();
        let offered = begins || self.now.is_multiple_of(5000);
        let at_work = status.stopping || status.phase == Some(TaskPhase::Executing);
        if let (true, true, Some(host), Some(token)) = (offered, at_work, status.host.clone(), status.token.clone()) {
            let host = host[1..].parse().unwrap();
            self.send(host, false, Message::Given { token });
        }
    }

    fn at_once(&self) -> usize {
        self.hosts.iter().flat_map(|host| host.attempts.values()).filter(|(_, begun, _)| *begun).count()
    }

    fn run(mut self) -> (u32, u32) {
        while self.now < LENGTH {
            self.disturb();
            self.deliver();
            self.agents();
            self.control();
            self.overlaps += u32::from(self.at_once() > 1);
            self.now += TICK;
        }
        (self.attempts, self.overlaps)
    }
}

#[test]
fn no_two_attempts_run_at_once_in_a_thousand_partitions() {
    let mut attempts = 0;
    for seed in 1..=RUNS {
        let (begun, overlaps) = Run::new(seed).run();
        assert_eq!(overlaps, 0, "run {seed}: two attempts ran at once");
        attempts += begun;
    }
    println!("{RUNS} runs, {attempts} attempts begun, none beside another");
    assert!(attempts > 3000, "the runs are too quiet to show anything: {attempts} attempts");
}
