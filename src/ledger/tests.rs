//! What must hold whatever is done, in whatever order, and wherever its journal is cut.

use std::collections::HashMap;
use std::convert::Infallible;

use proptest::prelude::*;

use crate::base::time::Moment;
use crate::identity::caller::Owner;
use crate::mcp::revision::Revision;
use crate::session::journal::HEADER;

use super::*;

const BOUNDS: Bounds = Bounds { sessions_max: 12, per_owner_max: 4, idle_s: 800, lifetime_s: 4000 };

/// What may be done, with numbers that say to which session.
#[derive(Clone, Copy, Debug)]
enum Act {
    Enter(u8, u8),
    Visit(u8),
    Claim(u8, u8),
    Open(u8),
    Fail(u8),
    Touch(u8),
    Level(u8, u8),
    Subscribe(u8, u8, bool),
    End(u8),
    Sweep(u8),
    Pass(u16),
    Take,
    Picture,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => any::<(u8, u8)>().prop_map(|(which, profile)| Act::Enter(which, profile)),
        2 => any::<u8>().prop_map(Act::Visit),
        4 => (any::<u8>(), 0..2_u8).prop_map(|(which, server)| Act::Claim(which, server)),
        3 => any::<u8>().prop_map(Act::Open),
        1 => any::<u8>().prop_map(Act::Fail),
        2 => any::<u8>().prop_map(Act::Touch),
        1 => any::<(u8, u8)>().prop_map(|(which, level)| Act::Level(which, level)),
        2 => (any::<u8>(), 0..3_u8, any::<bool>()).prop_map(|(which, uri, on)| Act::Subscribe(which, uri, on)),
        2 => any::<u8>().prop_map(Act::End),
        1 => (0..3_u8).prop_map(Act::Sweep),
        3 => (0..300_u16).prop_map(Act::Pass),
        2 => Just(Act::Take),
        1 => Just(Act::Picture),
    ]
}

/// A ledger, its journal, and what is known of them from outside.
struct World {
    ledger: Ledger,
    now_s: u64,
    sessions: Vec<(SessionKey, Terms)>,
    leads: Vec<(SessionKey, u64, u32, Moment)>,
    greatest: HashMap<([u8; 16], u64), u32>,
    over: Vec<usize>,
    file: Vec<u8>,
    /// Those that were over when the file was last said to be written, and its length then.
    kept: (usize, usize),
    /// Lengths of the file, and what the table was then.
    moments: Vec<(usize, Vec<String>)>,
}

impl World {
    fn new() -> Self {
        let file = HEADER.to_vec();
        Self {
            ledger: Ledger::new(BOUNDS),
            now_s: 10_000,
            sessions: Vec::new(),
            leads: Vec::new(),
            greatest: HashMap::new(),
            over: Vec::new(),
            kept: (0, file.len()),
            moments: vec![(file.len(), Vec::new())],
            file,
        }
    }

    fn now(&self) -> Now {
        Now { mono: Moment(self.now_s * 1_000_000_000), unix_ms: self.now_s * 1000 }
    }

    fn session(&self, which: u8) -> Option<(usize, SessionKey, Terms)> {
        let at = usize::from(which).checked_rem(self.sessions.len())?;
        Some((at, self.sessions[at].0, self.sessions[at].1))
    }

    fn step(&mut self, act: Act) {
        assert!(self.ledger.len() <= BOUNDS.sessions_max);
        match act {
            Act::Enter(which, profile) => self.enter(which, profile),
            Act::Claim(which, server) => self.claim(which, u64::from(server)),
            Act::Open(which) => self.open(which),
            Act::Fail(which) => {
                if let Some(at) = usize::from(which).checked_rem(self.leads.len()) {
                    let (key, server, epoch, _) = self.leads.swap_remove(at);
                    self.ledger.not_opened(&key, server, epoch);
                }
            }
            Act::Sweep(part) => {
                let mut parted = Vec::new();
                self.ledger.sweep(usize::from(part), 3, self.now_s, 10, |(key, _)| parted.push(key));
                for key in parted {
                    self.is_over(self.sessions.iter().position(|session| session.0 == key).unwrap());
                }
            }
            Act::Pass(seconds) => self.now_s += u64::from(seconds),
            Act::Take => self.take(),
            Act::Picture => {
                self.file.clear();
                let Ok(taken) = self.ledger.picture(|piece| {
                    self.file.extend_from_slice(piece);
                    Ok::<_, Infallible>(())
                });
                self.moments.clear();
                self.written(taken);
            }
            Act::Visit(which)
            | Act::Touch(which)
            | Act::Level(which, _)
            | Act::Subscribe(which, ..)
            | Act::End(which) => self.use_it(act, which),
        }
    }

    fn enter(&mut self, which: u8, profile: u8) {
        let mut nonce = [which; 16];
        nonce[0] = u8::try_from(self.sessions.len() % 251).unwrap();
        nonce[1] = u8::try_from(self.sessions.len() / 251).unwrap();
        let key = SessionKey { owner: Owner([which % 4 * 16; 16]), nonce };
        let terms = Terms {
            endpoint: which.into(),
            revision: Revision::R2025_06_18,
            capabilities: profile.into(),
            issued_s: self.now_s,
        };
        let upstream = upstream(0, 1);
        let profile = format!("{{\"clientInfo\":{}}}", profile % 5);
        let entered = self.ledger.enter(key, terms, profile.as_bytes(), Some(upstream), self.now_s);
        if entered.is_ok() {
            self.greatest.insert((nonce, 0), 1);
            self.sessions.push((key, terms));
        }
    }

    fn claim(&mut self, which: u8, server: u64) {
        let Some((_, key, _)) = self.session(which) else { return };
        let greatest = self.greatest.get(&(key.nonce, server)).copied().unwrap_or_default();
        match self.ledger.claim(&key, server, greatest, self.now()) {
            Claim::Lead { epoch } => {
                let now = self.now().mono;
                let busy = self.leads.iter().any(|lead| lead.0 == key && lead.1 == server && lead.3 > now);
                assert!(!busy, "two lead at once");
                self.leads.push((key, server, epoch, now.plus_ms(crate::base::limits::LEASE_MS)));
            }
            Claim::Open(upstream) => panic!("nothing newer than {greatest} was opened: {upstream:?}"),
            Claim::Wait | Claim::Ended => {}
        }
    }

    fn open(&mut self, which: u8) {
        let Some(at) = usize::from(which).checked_rem(self.leads.len()) else { return };
        let (key, server, epoch, _) = self.leads.swap_remove(at);
        if self.ledger.opened(&key, upstream(server, epoch)) == Opened::Kept {
            let before = self.greatest.insert((key.nonce, server), epoch);
            assert!(before.is_none_or(|before| before < epoch), "an epoch came again");
        }
    }

    fn use_it(&mut self, act: Act, which: u8) {
        let Some((at, key, terms)) = self.session(which) else { return };
        match act {
            Act::Visit(_) => match self.ledger.visit(&key, terms, self.now_s) {
                Visit::Known(known) => {
                    assert!(!self.over.contains(&at), "it came back");
                    let stranger = SessionKey { owner: Owner([key.owner.0[0] + 1; 16]), ..key };
                    assert!(!self.ledger.touch(&stranger, self.now_s), "another owner has it");
                    assert_eq!(known.profile.map(|profile| profile.json().to_vec()), Some(profile_of(&terms)));
                }
                Visit::Ended => self.is_over(at),
                other => panic!("nothing was lost: {other:?}"),
            },
            Act::Touch(_) => {
                let there = self.ledger.touch(&key, self.now_s);
                assert!(!there || !self.over.contains(&at));
            }
            Act::Level(_, level) => self.ledger.set_level(&key, level),
            Act::Subscribe(_, uri, on) => {
                self.ledger.subscribe(&key, &format!("file:///{uri}"), on);
            }
            _ => {
                let ended = self.ledger.end(&key, terms, self.now_s);
                assert!(ended.already || !self.over.contains(&at), "it ended twice");
                assert!(!self.ledger.is_kept(ended.mark));
                self.is_over(at);
            }
        }
    }

    fn is_over(&mut self, at: usize) {
        if !self.over.contains(&at) {
            self.over.push(at);
        }
    }

    fn take(&mut self) {
        let taken = self.ledger.take_journal(&mut self.file);
        self.written(taken);
    }

    fn written(&mut self, taken: Taken) {
        assert!(taken.whole && !self.ledger.is_kept(taken.mark));
        self.ledger.set_kept(taken.mark);
        self.kept = (self.over.len(), self.file.len());
        self.moments.push((self.file.len(), self.ledger.summary(self.now_s)));
    }
}

fn profile_of(terms: &Terms) -> Vec<u8> {
    format!("{{\"clientInfo\":{}}}", terms.capabilities % 5).into_bytes()
}

fn upstream(server: u64, epoch: u32) -> Upstream {
    let id = format!("{server}-{epoch}").into_bytes().into();
    Upstream { server, instance: server << 8, epoch, revision: Revision::R2025_06_18, id }
}

impl Ledger {
    fn summary(&self, now_s: u64) -> Vec<String> {
        self.stripes.iter().flat_map(|stripe| lock(stripe).summary(now_s)).collect()
    }
}

proptest! {
    /// What the journal tells is the table of the time it was written, and a session that has ended stays ended,
    /// wherever the journal is cut after that was kept.
    #[test]
    fn the_journal_tells_the_table(acts in prop::collection::vec(act(), 1..120), cuts in any::<[u16; 4]>()) {
        let mut world = World::new();
        acts.into_iter().for_each(|act| world.step(act));
        let (over, kept) = world.kept;
        // Written, and not said to be: a crash comes in between.
        world.ledger.take_journal(&mut world.file);
        world.moments.push((world.file.len(), world.ledger.summary(world.now_s)));
        for (length, table) in &world.moments {
            let again = Ledger::new(BOUNDS);
            let restored = again.restore(&world.file[..*length]).unwrap();
            prop_assert_eq!(restored, Restored { used: *length, tail: Tail::Whole, old: false });
            let live = |all: &[String]| all.iter().filter(|line| !line.starts_with("over")).cloned().collect::<Vec<_>>();
            prop_assert_eq!(live(&again.summary(world.now_s)), live(table));
            prop_assert_eq!(again.len(), live(table).len());
        }
        let last = world.moments.last().map(|(_, table)| table.clone()).unwrap_or_default();
        let again = Ledger::new(BOUNDS);
        again.restore(&world.file).unwrap();
        prop_assert_eq!(again.summary(world.now_s), last);
        for cut in cuts {
            let length = kept + usize::from(cut) % (world.file.len() - kept + 1);
            let again = Ledger::new(BOUNDS);
            let restored = again.restore(&world.file[..length]).unwrap();
            prop_assert!(restored.used >= kept && restored.tail != Tail::Damaged);
            for at in &world.over[..over] {
                let (key, terms) = world.sessions[*at];
                prop_assert_eq!(again.visit(&key, terms, world.now_s), Visit::Ended);
            }
            for (key, terms) in &world.sessions {
                let stranger = SessionKey { owner: Owner([key.owner.0[0] + 1; 16]), ..*key };
                prop_assert!(!again.touch(&stranger, world.now_s));
                if let Visit::Known(known) = again.visit(key, *terms, world.now_s)
                    && let Some(profile) = known.profile
                {
                    prop_assert_eq!(profile.json(), profile_of(terms));
                }
            }
        }
    }

    /// No bytes break it, and damage is noticed.
    #[test]
    fn damage_is_noticed(acts in prop::collection::vec(act(), 1..40), at in any::<u16>(), bit in 0..8_u32) {
        let mut world = World::new();
        acts.into_iter().filter(|act| !matches!(act, Act::Picture)).for_each(|act| world.step(act));
        world.take();
        let at = usize::from(at) % world.file.len();
        world.file[at] ^= 1 << bit;
        let again = Ledger::new(BOUNDS);
        match again.restore(&world.file) {
            Err(_) => prop_assert!(at < HEADER.len()),
            Ok(restored) => {
                prop_assert!(restored.used <= at && restored.tail != Tail::Whole);
            }
        }
    }
}

/// A picture is taken while others change what it shows.
#[test]
fn a_picture_of_what_moves() {
    let mut world = World::new();
    world.ledger.set_bounds(Bounds { sessions_max: 100_000, per_owner_max: 100_000, ..BOUNDS });
    (0..2000_u16).for_each(|n| world.enter(n.to_be_bytes()[1], n.to_be_bytes()[0] ^ n.to_be_bytes()[1]));
    let sessions = world.sessions.clone();
    let mut file = Vec::new();
    let mut next = 0;
    let Ok(taken) = world.ledger.picture(|piece| {
        file.extend_from_slice(piece);
        for step in 0..30 {
            let (key, terms) = sessions[next % sessions.len()];
            next += 7;
            match step % 5 {
                0 => drop(world.ledger.end(&key, terms, 10_000)),
                1 => drop(world.ledger.subscribe(&key, "file:///x", next % 3 == 0)),
                2 => world.ledger.set_level(&key, 3),
                3 => drop(world.ledger.touch(&key, 10_000 + next as u64 / 100)),
                _ => {
                    let key = SessionKey { nonce: [next.to_le_bytes(), [9; 8]].concat().try_into().unwrap(), ..key };
                    let profile = format!("{{\"new\":{}}}", next % 50);
                    let entered = world.ledger.enter(key, terms, profile.as_bytes(), Some(upstream(1, 1)), 10_000);
                    assert_eq!(entered, Ok(()));
                }
            }
        }
        Ok::<_, Infallible>(())
    });
    assert!(taken.whole);
    let pieces = file.len();
    world.ledger.take_journal(&mut file);
    assert!(file.len() > pieces, "the last piece was followed by changes");
    let again = Ledger::new(BOUNDS);
    assert_eq!(again.restore(&file), Ok(Restored { used: file.len(), tail: Tail::Whole, old: false }));
    assert_eq!(again.summary(10_000), world.ledger.summary(10_000));
}

#[test]
fn too_much_to_keep_asks_for_a_picture() {
    let ledger = Ledger::new(Bounds { sessions_max: 1_000_000, per_owner_max: 1_000_000, ..BOUNDS });
    let terms = Terms { endpoint: 1, revision: Revision::R2025_06_18, capabilities: 0, issued_s: 1 };
    let mut out = Vec::new();
    for number in 0..4000_u64 {
        let nonce = [number.to_le_bytes(), [0; 8]].concat().try_into().unwrap();
        ledger.enter(SessionKey { owner: Owner([0; 16]), nonce }, terms, b"", Some(upstream(1, 1)), 1).unwrap();
        assert!(number < 3000 || lock(&ledger.stripes[0]).is_changed());
    }
    assert!(!ledger.take_journal(&mut out).whole);
    assert!(!ledger.take_journal(&mut out).whole, "it is not forgotten");
    out.clear();
    let Ok(taken) = ledger.picture(|piece| {
        out.extend_from_slice(piece);
        Ok::<_, Infallible>(())
    });
    assert!(taken.whole && ledger.take_journal(&mut out).whole);
    let again = Ledger::new(BOUNDS);
    again.restore(&out).unwrap();
    assert_eq!(again.summary(1), ledger.summary(1));
}

/// Many threads, one session: never two leads at a time, and every epoch is opened by the one who was told it.
#[test]
fn one_leads_at_a_time() {
    let ledger = Ledger::new(BOUNDS);
    let key = SessionKey { owner: Owner([1; 16]), nonce: [1; 16] };
    let terms = Terms { endpoint: 1, revision: Revision::R2025_06_18, capabilities: 0, issued_s: 1 };
    ledger.enter(key, terms, b"{}", Some(upstream(1, 1)), 1).unwrap();
    let leading = AtomicUsize::new(0);
    let opened = AtomicUsize::new(0);
    let work = || {
        let mut stale = 1;
        while stale < 200 {
            let now = Now { mono: Moment(5), unix_ms: 1000 };
            match ledger.claim(&key, 1, stale, now) {
                Claim::Lead { epoch } => {
                    assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead at once");
                    std::thread::yield_now();
                    leading.fetch_sub(1, Ordering::SeqCst);
                    if epoch % 3 == 0 {
                        ledger.not_opened(&key, 1, epoch);
                    } else {
                        assert_eq!(ledger.opened(&key, upstream(1, epoch)), Opened::Kept);
                        opened.fetch_add(1, Ordering::SeqCst);
                    }
                }
                Claim::Open(newer) => stale = newer.epoch,
                Claim::Wait => std::thread::yield_now(),
                Claim::Ended => panic!("nobody ends it"),
            }
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
    assert!(opened.load(Ordering::SeqCst) > 100);
}

/// An end that was confirmed is in what was taken before, whatever else goes on.
#[test]
fn a_confirmed_end_is_in_the_journal() {
    let ledger = Ledger::new(Bounds { sessions_max: 100_000, per_owner_max: 100_000, idle_s: 100, lifetime_s: 100 });
    let file = Mutex::new(HEADER.to_vec());
    let terms = Terms { endpoint: 1, revision: Revision::R2025_06_18, capabilities: 0, issued_s: 50 };
    let working = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for thread in 0..3_u8 {
            let (ledger, file, working) = (&ledger, &file, &working);
            scope.spawn(move || {
                for number in 0..100_u8 {
                    let nonce = [thread, number, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                    let key = SessionKey { owner: Owner([number; 16]), nonce };
                    ledger.enter(key, terms, b"{}", Some(upstream(1, 1)), 50).unwrap();
                    let ended = ledger.end(&key, terms, 50);
                    while !ledger.is_kept(ended.mark) {
                        std::thread::yield_now();
                    }
                    if number % 10 == 0 {
                        let again = Ledger::new(BOUNDS);
                        again.restore(&lock(file)).unwrap();
                        assert_eq!(again.visit(&key, terms, 50), Visit::Ended);
                    }
                }
                working.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while working.load(Ordering::SeqCst) > 0 {
            let mut file = lock(&file);
            let taken = ledger.take_journal(&mut file);
            drop(file);
            ledger.set_kept(taken.mark);
            std::thread::yield_now();
        }
    });
    assert!(ledger.is_empty());
}

/// What a hundred thousand sessions take, and how soon they are back. Run alone, in a release build:
/// `cargo test --release --lib a_hundred_thousand -- --ignored --nocapture`
#[test]
#[ignore = "measures the whole process"]
fn a_hundred_thousand_sessions() {
    let before = resident();
    let ledger = Ledger::new(Bounds::default());
    let began = std::time::Instant::now();
    // An owner each: that takes the most.
    fill(&ledger, 100_000);
    let entered = began.elapsed();
    let each = (resident() - before) / 100_000;
    let mut file = Vec::new();
    let Ok(_) = ledger.picture(|piece| {
        file.extend_from_slice(piece);
        Ok::<_, Infallible>(())
    });
    println!("{each} B each, entered in {entered:?}, {} B written", file.len());
    for _ in 0..3 {
        let began = std::time::Instant::now();
        let again = Ledger::new(Bounds::default());
        again.restore(&file).unwrap();
        println!("restored in {:?}", began.elapsed());
        assert_eq!(again.len(), 100_000);
    }
    assert!(each <= 350, "{each} B each");
}

fn fill(ledger: &Ledger, owners: u64) {
    let seed = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
    let random = |number: u64| std::hash::BuildHasher::hash_one(&seed, number).to_le_bytes();
    let mut out = Vec::new();
    for number in 0..100_000_u64 {
        let key = SessionKey {
            owner: Owner([random(number % owners), random(number % owners + 1_000_000)].concat().try_into().unwrap()),
            nonce: [random(number + 2_000_000), random(number + 3_000_000)].concat().try_into().unwrap(),
        };
        let terms = Terms { endpoint: 1, revision: Revision::R2025_06_18, capabilities: 0, issued_s: 1 };
        let id = Box::from(*b"0b7c6ad4-2d0b-4a70-a2f5-9f9e3d1c9f55");
        let upstream = Upstream { server: 1, instance: 0, epoch: 1, revision: Revision::R2025_06_18, id };
        let profile = format!("{{\"clientInfo\":{{\"name\":\"agent-{}\"}}}}", number % 20);
        ledger.enter(key, terms, profile.as_bytes(), Some(upstream), 1).unwrap();
        if number % 100 == 0 {
            out.clear();
            ledger.take_journal(&mut out);
        }
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
