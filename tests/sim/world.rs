//! The world: one clock, one agenda, and everybody on it. What happens depends on the seed alone.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;

use portcullis::base::time::{Moment, Now};

use crate::support::chaos::Draw;

use super::client::{Client, Conn, Listener, Session};
use super::event::{ConnNo, Event};
use super::gateway::Gateway;
use super::oracle::Oracle;
use super::seen::Seen;
use super::server::Server;

/// Everything there is, under one seed.
pub(super) struct World {
    pub(super) draw: Draw,
    pub(super) now: Now,
    pub(super) gateway: Gateway,
    pub(super) servers: Vec<Server>,
    pub(super) clients: Vec<Client>,
    pub(super) sessions: Vec<Session>,
    pub(super) listeners: Vec<Listener>,
    pub(super) conns: BTreeMap<ConnNo, Conn>,
    pub(super) oracle: Oracle,
    pub(super) seen: Seen,
    /// Nothing goes wrong any more.
    pub(super) healed: bool,
    /// The clock may leap.
    leaps: bool,
    /// The disk hangs often.
    pub(super) bad_disk: bool,
    /// How often the gateway looks after itself when all is quiet, milliseconds.
    pub(super) quiet_ms: u64,
    agenda: BinaryHeap<Reverse<Entry>>,
    numbers: u64,
    step: Rc<Cell<u64>>,
    told: bool,
}

struct Entry {
    at: Moment,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl World {
    /// The world of this seed. `step` is kept current, so that it can be read after a panic; `told` prints each event.
    pub(super) fn new(seed: u64, step: Rc<Cell<u64>>, told: bool) -> Self {
        let mut draw = Draw::of(seed, 0, 0);
        let now = Now { mono: Moment(0).plus_ms(1_000), unix_ms: 1_800_000_000_000 + draw.number() % 86_400_000 };
        let gateway = Gateway::new(&mut draw, now);
        let servers = (0..SERVERS).map(|_| Server::new(&mut draw)).collect();
        let clients = (0..draw.within(2..7)).map(|which| Client::new(which, &mut draw)).collect();
        let (leaps, bad_disk) = (draw.chance(50), draw.chance(25));
        Self {
            draw,
            now,
            gateway,
            servers,
            clients,
            sessions: Vec::new(),
            listeners: Vec::new(),
            conns: BTreeMap::new(),
            oracle: Oracle::default(),
            seen: Seen::default(),
            healed: false,
            leaps,
            bad_disk,
            quiet_ms: 1_000,
            agenda: BinaryHeap::new(),
            numbers: 0,
            step,
            told,
        }
    }

    /// Runs to the end and says what was reached; panics where something is not as it must be.
    pub(super) fn run(mut self) -> (Seen, u64) {
        self.begin();
        let steps = 300 + self.draw.below(900) as u64;
        while self.step.get() < steps && self.next(None) {}
        self.heal();
        self.settle();
        self.seen.steps = self.step.get();
        (self.seen, self.draw.number())
    }

    /// One event; `false` when there is none before `until`.
    pub(super) fn next(&mut self, until: Option<Moment>) -> bool {
        if self.agenda.peek().is_none_or(|Reverse(entry)| until.is_some_and(|until| entry.at > until)) {
            return false;
        }
        let Some(Reverse(entry)) = self.agenda.pop() else { return false };
        self.pass(entry.at);
        self.step.set(self.step.get() + 1);
        if self.told {
            println!("{:>6} {:>12.3} {:?}", self.step.get(), self.now.mono.0 as f64 / 1e9, entry.event);
        }
        self.happen(entry.event);
        if self.leaps && !self.healed && self.draw.below(100) == 0 {
            self.leap();
        }
        true
    }

    /// The clock goes on to `at`.
    pub(super) fn pass(&mut self, at: Moment) {
        let passed = at.since(self.now.mono);
        self.now.unix_ms += u64::try_from(passed.as_millis()).expect("a run takes days");
        self.now.mono = self.now.mono.max(at);
    }

    /// The whole machine sleeps for up to an hour, or its wall clock is set.
    fn leap(&mut self) {
        if self.draw.chance(20) {
            let by = self.draw.number() % 300_000;
            self.now.unix_ms = if self.draw.chance(50) { self.now.unix_ms - by } else { self.now.unix_ms + by };
            self.seen.clock_set += 1;
            return;
        }
        let most = self.draw.one_of(&[1_000, 20_000, 600_000, 3_600_000]);
        let by = self.draw.number() % most;
        self.pass(self.now.mono.plus_ms(by));
        self.seen.leapt += 1;
    }

    /// `event` happens so many milliseconds from now.
    pub(super) fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now.mono.plus_ms(ms), event);
    }

    /// `event` happens then.
    pub(super) fn at(&mut self, at: Moment, event: Event) {
        self.numbers += 1;
        self.agenda.push(Reverse(Entry { at, number: self.numbers, event }));
    }

    /// A number that nobody else has.
    pub(super) fn fresh(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// What a message takes on its way, milliseconds.
    pub(super) fn latency(&mut self) -> u64 {
        match self.draw.below(100) {
            0..=79 => self.draw.number() % 8,
            80..=98 => self.draw.number() % 120,
            _ => self.draw.number() % 3_000,
        }
    }

    /// Whether what happens `per_mille` of a thousand times happens now. Never after the world has healed.
    pub(super) fn fault(&mut self, per_mille: usize) -> bool {
        !self.healed && self.draw.below(1_000) < per_mille
    }

    pub(super) fn now_s(&self) -> u64 {
        self.now.unix_s()
    }
}

/// Servers of a world; a session may use all of them.
pub(super) const SERVERS: usize = 2;
