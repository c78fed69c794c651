//! Who may go on and who waits, without any clock or waiting of its own.
//!
//! Each identity has so many places, and all together have so many. Who finds none waits in the line of their identity, and
//! places that become free go to the lines in turn: whoever has a thousand requests waiting gets the next place no sooner
//! than whoever has one.

use super::bucket::{Bucket, Rate};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// What requests are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// They write.
    Writing,
    /// They do not.
    Reading,
}

impl Class {
    const ALL: [Self; 2] = [Self::Writing, Self::Reading];
}

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// How fast the requests of an identity may come, of each class.
    pub rates: [Rate; 2],
    /// How fast the requests of nobody known may come.
    pub anonymous: Rate,
    /// Places of an identity, of each class.
    pub own: usize,
    /// Places of all together.
    pub all: usize,
    /// How many of an identity may wait, of each class.
    pub waiting: usize,
    /// Watches of an identity.
    pub watches: usize,
}

/// Names a request that waits.
pub type Ticket = u64;

/// Who has asked; none is nobody known.
pub type Who = Option<Arc<str>>;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has a place.
    Go,
    /// It gets one later.
    Wait(Ticket),
    /// It is one too many.
    Refuse(Refusal),
}

/// Why a request is refused, and after which time it is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// They come too fast.
    Rate(Duration),
    /// Too many wait.
    Full,
    /// Too many watches are open.
    Watches,
}

/// The lines, and the places that are taken.
pub struct Admission {
    room: Room,
    lines: HashMap<Who, Line>,
    /// Lines in which somebody waits, in the order in which they get places.
    turns: VecDeque<(Who, Class)>,
    taken: usize,
    tickets: Ticket,
    /// When there are so many lines, those that are of no use are forgotten.
    tidy_at: usize,
}

struct Line {
    buckets: [Bucket; 2],
    taken: [usize; 2],
    waiting: [VecDeque<Ticket>; 2],
    watches: usize,
}

impl Line {
    fn is_as_new(&mut self, now: Instant) -> bool {
        let idle = self.taken == [0, 0] && self.watches == 0 && self.waiting.iter().all(VecDeque::is_empty);
        idle && self.buckets.iter_mut().all(|bucket| bucket.is_full(now))
    }
}

impl Admission {
    /// With all places free.
    pub fn new(room: Room) -> Self {
        Self { room, lines: HashMap::new(), turns: VecDeque::new(), taken: 0, tickets: 0, tidy_at: 64 }
    }

    fn line(&mut self, who: &Who, now: Instant) -> &mut Line {
        if self.lines.len() >= self.tidy_at {
            self.lines.retain(|_, line| !line.is_as_new(now));
            self.tidy_at = (self.lines.len() * 2).max(64);
        }
        let rates = if who.is_some() { self.room.rates } else { [self.room.anonymous; 2] };
        self.lines.entry(who.clone()).or_insert_with(|| Line {
            buckets: rates.map(|rate| Bucket::new(rate, now)),
            taken: [0; 2],
            waiting: Default::default(),
            watches: 0,
        })
    }

    /// Somebody asks.
    pub fn ask(&mut self, who: &Who, class: Class, now: Instant) -> Answer {
        let (room, free) = (self.room, self.taken < self.room.all);
        let line = self.line(who, now);
        let of = class as usize;
        if let Err(after) = line.buckets[of].take(now) {
            return Answer::Refuse(Refusal::Rate(after));
        }
        if free && line.taken[of] < room.own && line.waiting[of].is_empty() {
            line.taken[of] += 1;
            self.taken += 1;
            return Answer::Go;
        }
        if line.waiting[of].len() >= room.waiting {
            return Answer::Refuse(Refusal::Full);
        }
        self.tickets += 1;
        let ticket = self.tickets;
        let line = self.line(who, now);
        line.waiting[of].push_back(ticket);
        if line.waiting[of].len() == 1 {
            self.turns.push_back((who.clone(), class));
        }
        Answer::Wait(ticket)
    }

    /// A place becomes free. Those who wait and get one are returned.
    pub fn leave(&mut self, who: &Who, class: Class) -> Vec<Ticket> {
        if let Some(line) = self.lines.get_mut(who) {
            line.taken[class as usize] -= 1;
            self.taken -= 1;
        }
        self.next()
    }

    /// Somebody waits no longer.
    pub fn give_up(&mut self, who: &Who, ticket: Ticket) {
        let Some(line) = self.lines.get_mut(who) else { return };
        for class in Class::ALL {
            let waiting = &mut line.waiting[class as usize];
            waiting.retain(|other| *other != ticket);
            if waiting.is_empty() {
                self.turns.retain(|turn| *turn != (who.clone(), class));
            }
        }
    }

    fn next(&mut self) -> Vec<Ticket> {
        let mut lucky = Vec::new();
        let mut passed = 0;
        while self.taken < self.room.all && passed < self.turns.len() {
            let Some((who, class)) = self.turns.pop_front() else { break };
            let Some(line) = self.lines.get_mut(&who) else { continue };
            let of = class as usize;
            if line.taken[of] >= self.room.own {
                self.turns.push_back((who, class));
                passed += 1;
                continue;
            }
            if let Some(ticket) = line.waiting[of].pop_front() {
                line.taken[of] += 1;
                self.taken += 1;
                passed = 0;
                lucky.push(ticket);
            }
            if !line.waiting[of].is_empty() {
                self.turns.push_back((who, class));
            }
        }
        lucky
    }

    /// Somebody begins to watch.
    pub fn watch(&mut self, who: &Who, now: Instant) -> Result<(), Refusal> {
        let most = self.room.watches;
        let line = self.line(who, now);
        if line.watches >= most {
            return Err(Refusal::Watches);
        }
        line.watches += 1;
        Ok(())
    }

    /// A watch has ended.
    pub fn unwatch(&mut self, who: &Who) {
        if let Some(line) = self.lines.get_mut(who) {
            line.watches -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOM: Room =
        Room { rates: [Rate::UNLIMITED; 2], anonymous: Rate { per_second: 1.0, burst: 2.0 }, own: 3, all: 5, waiting: 100, watches: 2 };

    fn who(name: &str) -> Who {
        Some(name.into())
    }

    #[test]
    fn free_places_go_to_the_identities_in_turn_whoever_has_more_waiting() {
        let now = Instant::now();
        let mut admission = Admission::new(Room { own: 5, ..ROOM });
        let noisy: Vec<Answer> = (0..50).map(|_| admission.ask(&who("noisy"), Class::Reading, now)).collect();
        assert_eq!(noisy.iter().filter(|answer| **answer == Answer::Go).count(), 5);
        let Answer::Wait(a1) = admission.ask(&who("a"), Class::Reading, now) else { panic!() };
        let Answer::Wait(a2) = admission.ask(&who("a"), Class::Reading, now) else { panic!() };
        let Answer::Wait(b) = admission.ask(&who("b"), Class::Writing, now) else { panic!() };
        let lucky: Vec<Ticket> = (0..5).flat_map(|_| admission.leave(&who("noisy"), Class::Reading)).collect();
        assert_eq!(lucky, [1, a1, b, 2, a2], "the line of the noisy one had its turn first, for it was there first");
    }

    #[test]
    fn an_identity_never_has_more_than_its_own_places() {
        let now = Instant::now();
        let mut admission = Admission::new(ROOM);
        let noisy: Vec<Answer> = (0..10).map(|_| admission.ask(&who("noisy"), Class::Writing, now)).collect();
        assert_eq!(noisy.iter().filter(|answer| **answer == Answer::Go).count(), 3);
        assert_eq!(admission.ask(&who("other"), Class::Writing, now), Answer::Go);
        assert_eq!(admission.ask(&who("noisy"), Class::Reading, now), Answer::Go, "reads are not held up by writes");
    }

    #[test]
    fn too_many_that_wait_too_fast_ones_and_too_many_watches_are_refused() {
        let now = Instant::now();
        let mut admission = Admission::new(Room { waiting: 2, ..ROOM });
        let answers: Vec<Answer> = (0..6).map(|_| admission.ask(&who("a"), Class::Reading, now)).collect();
        assert_eq!(answers[4..], [Answer::Wait(2), Answer::Refuse(Refusal::Full)]);
        let rated: Vec<Answer> = (0..3).map(|_| admission.ask(&None, Class::Reading, now)).collect();
        assert_eq!(rated[2], Answer::Refuse(Refusal::Rate(Duration::from_secs(1))));
        assert_eq!([(); 3].map(|()| admission.watch(&who("a"), now)), [Ok(()), Ok(()), Err(Refusal::Watches)]);
        assert_eq!(admission.watch(&who("b"), now), Ok(()));
        admission.unwatch(&who("a"));
        assert_eq!(admission.watch(&who("a"), now), Ok(()));
    }

    #[test]
    fn identities_that_are_done_are_forgotten() {
        let now = Instant::now();
        let mut admission = Admission::new(ROOM);
        for n in 0..10_000 {
            let name = who(&n.to_string());
            assert_eq!(admission.ask(&name, Class::Reading, now), Answer::Go);
            admission.leave(&name, Class::Reading);
        }
        assert!(admission.lines.len() <= 64, "{}", admission.lines.len());
    }

    proptest! {
        /// Whatever happens in whichever order: no place is lost or given twice, nobody is forgotten, nobody waits while there is room.
        #[test]
        fn places_are_neither_lost_nor_given_twice(steps in prop::collection::vec((0..4u8, 0..4usize, any::<bool>()), 0..300)) {
            let now = Instant::now();
            let mut admission = Admission::new(ROOM);
            let mut inside: Vec<(Who, Class)> = Vec::new();
            let mut waiting: HashMap<Ticket, (Who, Class)> = HashMap::new();
            for (step, name, writes) in steps {
                let (name, class) = (who(["a", "b", "c", "d"][name]), if writes { Class::Writing } else { Class::Reading });
                match step {
                    0 | 1 => match admission.ask(&name, class, now) {
                        Answer::Go => inside.push((name, class)),
                        Answer::Wait(ticket) => { waiting.insert(ticket, (name, class)); }
                        Answer::Refuse(refusal) => prop_assert!(false, "{:?}", refusal),
                    },
                    2 => if let Some(at) = inside.iter().position(|one| *one == (name.clone(), class)) {
                        let (name, class) = inside.swap_remove(at);
                        for ticket in admission.leave(&name, class) {
                            inside.push(waiting.remove(&ticket).expect("only who waits gets a place"));
                        }
                    },
                    _ => if let Some(ticket) = waiting.iter().find(|(_, one)| **one == (name.clone(), class)).map(|(ticket, _)| *ticket) {
                        waiting.remove(&ticket);
                        admission.give_up(&name, ticket);
                    },
                }
                let of = |name: &Who, class: Class| inside.iter().filter(|one| **one == (name.clone(), class)).count();
                prop_assert_eq!(admission.taken, inside.len());
                prop_assert!(inside.len() <= ROOM.all);
                prop_assert!(inside.iter().all(|(name, class)| of(name, *class) <= ROOM.own));
                let room = inside.len() < ROOM.all;
                prop_assert!(waiting.values().all(|(name, class)| !room || of(name, *class) >= ROOM.own));
            }
        }
    }
}
