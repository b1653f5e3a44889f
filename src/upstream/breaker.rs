//! Whether an instance of a server is to be asked at all, as a machine without a clock: shared by all shards and the
//! server's keeper, in one word that is exchanged whole.
//!
//! ```text
//! closed --(N failures in a row)--> open --(its time is up)--> half-open --(the probe is answered)--> closed
//!                                    ^                             |
//!                                    +------(it fails: twice the time)
//! ```
//!
//! Half-open lets one request through, the probe, and nothing else until that is answered. A probe that says nothing for
//! `limits::BREAKER_PROBE_MS` has failed; should it be answered after all, that counts. What was let through before the
//! breaker opened decides nothing any more.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::limits::{BREAKER_PROBE_MS, HEALTH_OPEN_MS_MAX};
use crate::base::time::Moment;

use super::UpstreamFault;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Failures in a row until it opens; at least 1.
    pub failures: u32,
    /// The first time that it is open, milliseconds; each time after a failed probe is twice as long, up to
    /// `limits::HEALTH_OPEN_MS_MAX`.
    pub open_ms: u64,
    /// Whether an answer that is late is a failure. The head of an event stream may come with its first event.
    pub counts_timeouts: bool,
}

impl Terms {
    /// Those of a call: a late answer is a failure.
    #[must_use]
    pub const fn new(failures: u32, open_ms: u64) -> Self {
        Self { failures, open_ms, counts_timeouts: true }
    }
}

/// Whether a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It may, and what comes of it is to be told.
    Go(Pass),
    /// It may not; it is worth asking again after so long, milliseconds.
    Wait(u64),
}

/// That a request was let through; handed back with what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// What the breaker was then, for a probe.
    probe: Option<u64>,
}

impl Pass {
    /// Whether this is the one that decides.
    #[must_use]
    pub fn is_probe(self) -> bool {
        self.probe.is_some()
    }
}

/// What a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no answer.
    Fault(UpstreamFault),
    /// The answer's status says that nobody was there to give it: 502, 503 or 504.
    Status(u16),
}

/// What came of a request, for its breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was answered.
    Well,
    /// It was not.
    Failed(Failure),
    /// It says nothing: we ended it, or had no memory for it.
    Nothing,
}

impl Verdict {
    /// Of an exchange: its status, or what went wrong before there was one.
    #[must_use]
    pub fn of(came: Result<u16, UpstreamFault>) -> Self {
        match came {
            Ok(status @ 502..=504) => Self::Failed(Failure::Status(status)),
            Ok(_) => Self::Well,
            // A name that does not resolve refuses at once, and is good again as soon as it does.
            Err(UpstreamFault::NoAddress | UpstreamFault::NoBuffer | UpstreamFault::Abandoned) => Self::Nothing,
            Err(UpstreamFault::Unhealthy { .. } | UpstreamFault::Withdrawn) => Self::Nothing,
            Err(fault) => Self::Failed(Failure::Fault(fault)),
        }
    }
}

/// How an instance is seen, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is asked.
    Closed,
    /// It is not.
    Open,
    /// One request finds out.
    HalfOpen,
}

impl State {
    /// As `/status` writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "healthy",
            Self::Open => "ejected",
            Self::HalfOpen => "probing",
        }
    }
}

/// What is known of an instance, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// How it is seen.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// Failures in a row.
    pub failures: u32,
    /// How often it was ejected.
    pub ejections: u64,
    /// Requests that were not sent because it was.
    pub refused: u64,
    /// The last failure, whenever that was.
    pub last: Option<Failure>,
}

/// One instance's breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    /// [`Word`], packed.
    word: AtomicU64,
    since_ms: AtomicU64,
    ejections: AtomicU64,
    refused: AtomicU64,
    last: AtomicU64,
}

impl Breaker {
    /// Whether a request may go now.
    pub fn enter(&self, terms: Terms, now: Moment) -> Entry {
        let now_ms = ms(now);
        loop {
            let was = self.word.load(Ordering::Acquire);
            let word = Word::of(was);
            let next = match word.phase {
                Phase::Closed => return Entry::Go(Pass::default()),
                Phase::Open if now_ms < word.until_ms => return self.wait(word.until_ms - now_ms),
                Phase::Open => {
                    Word { phase: Phase::Probing, until_ms: now_ms.saturating_add(BREAKER_PROBE_MS), ..word }
                }
                // However it ends, nobody has to wait for this one any longer.
                Phase::Probing if now_ms >= word.until_ms => word.opened(terms, now_ms),
                Phase::Probing => return self.wait(word.until_ms - now_ms),
            };
            let packed = next.packed();
            if self.word.compare_exchange(was, packed, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.since_ms.store(now_ms, Ordering::Relaxed);
                if next.phase == Phase::Probing {
                    return Entry::Go(Pass { probe: Some(packed) });
                }
                self.ejections.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether a request would be let through, without asking for it: a probe is not taken by looking.
    #[must_use]
    pub fn would_enter(&self, now: Moment) -> bool {
        self.wait_ms(now).is_none()
    }

    /// How long nothing is let through from now on, milliseconds; `None` where something would be.
    #[must_use]
    pub fn wait_ms(&self, now: Moment) -> Option<u64> {
        let word = Word::of(self.word.load(Ordering::Acquire));
        match word.phase {
            Phase::Closed => None,
            Phase::Open => word.until_ms.checked_sub(ms(now)).filter(|wait| *wait > 0),
            Phase::Probing => Some(word.until_ms.saturating_sub(ms(now)).max(1)),
        }
    }

    /// Whether it is known to be ill: what belongs there is to go elsewhere.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        Word::of(self.word.load(Ordering::Acquire)).phase != Phase::Closed
    }

    /// What came of a request that was let through. Whether the instance is ejected now and was not before, or no longer.
    pub fn leave(&self, terms: Terms, pass: Pass, verdict: Verdict, now: Moment) -> bool {
        match verdict {
            Verdict::Well => self.well(pass, now),
            Verdict::Failed(failure) => {
                self.last.store(code(failure), Ordering::Relaxed);
                self.failed(terms, pass, now)
            }
            Verdict::Nothing => self.forgone(pass, now),
        }
    }

    /// What there is to see.
    #[must_use]
    pub fn view(&self) -> View {
        let word = Word::of(self.word.load(Ordering::Acquire));
        let state = match word.phase {
            Phase::Closed => State::Closed,
            Phase::Open => State::Open,
            Phase::Probing => State::HalfOpen,
        };
        View {
            state,
            since: Moment(0).plus_ms(self.since_ms.load(Ordering::Relaxed)),
            failures: word.failures,
            ejections: self.ejections.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            last: failure(self.last.load(Ordering::Relaxed)),
        }
    }

    fn wait(&self, wait_ms: u64) -> Entry {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Entry::Wait(wait_ms)
    }

    fn well(&self, pass: Pass, now: Moment) -> bool {
        self.change(now, |word| match word.phase {
            Phase::Closed if word.failures > 0 => Some(Word { failures: 0, ..word }),
            Phase::Closed => None,
            // It was asked after it had been ejected, and has answered.
            Phase::Open | Phase::Probing if pass.is_probe() => Some(word.closed(ms(now))),
            Phase::Open | Phase::Probing => None,
        })
    }

    fn failed(&self, terms: Terms, pass: Pass, now: Moment) -> bool {
        let now_ms = ms(now);
        self.change(now, |word| match word.phase {
            Phase::Closed if word.failures + 1 >= terms.failures => {
                // One that was ejected a moment ago has not become well by one answer.
                let level = if now_ms < word.until_ms { word.level } else { 0 };
                Some(Word { level, failures: word.failures + 1, ..word }.opened(terms, now_ms))
            }
            Phase::Closed => Some(Word { failures: word.failures + 1, ..word }),
            Phase::Probing if pass.probe == Some(word.packed()) => {
                Some(Word { failures: word.failures + 1, ..word }.opened(terms, now_ms))
            }
            Phase::Open | Phase::Probing => None,
        })
    }

    /// A probe that was never made: the next request is one.
    fn forgone(&self, pass: Pass, now: Moment) -> bool {
        let ours = |word: &Word| word.phase == Phase::Probing && pass.probe == Some(word.packed());
        self.change(now, |word| {
            ours(&word).then_some(Word { phase: Phase::Open, until_ms: ms(now), level: word.level, ..word })
        })
    }

    fn change(&self, now: Moment, next: impl Fn(Word) -> Option<Word>) -> bool {
        let mut was = self.word.load(Ordering::Acquire);
        loop {
            let word = Word::of(was);
            let Some(next) = next(word) else { return false };
            match self.word.compare_exchange(was, next.packed(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    if next.phase != word.phase {
                        self.since_ms.store(ms(now), Ordering::Relaxed);
                        let ejected = next.phase == Phase::Open && next.until_ms > ms(now);
                        self.ejections.fetch_add(u64::from(ejected), Ordering::Relaxed);
                    }
                    return (next.phase == Phase::Closed) != (word.phase == Phase::Closed);
                }
                Err(other) => was = other,
            }
        }
    }
}

/// All that a breaker decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    phase: Phase,
    /// How often the time was doubled that the next opening takes.
    level: u32,
    /// In a row.
    failures: u32,
    /// Open: until then. Probing: the probe has until then. Closed: until then, another opening goes on where the last
    /// one was.
    until_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    Probing,
}

impl Word {
    fn of(packed: u64) -> Self {
        let phase = match packed & 3 {
            0 => Phase::Closed,
            1 => Phase::Open,
            _ => Phase::Probing,
        };
        let level = u32::try_from(packed >> 2 & LEVEL_MAX).unwrap_or(0);
        let failures = u32::try_from(packed >> 8 & FAILURES_MAX).unwrap_or(0);
        Self { phase, level, failures, until_ms: packed >> 20 }
    }

    fn packed(self) -> u64 {
        let phase = match self.phase {
            Phase::Closed => 0,
            Phase::Open => 1,
            Phase::Probing => 2,
        };
        let level = u64::from(self.level).min(LEVEL_MAX);
        let failures = u64::from(self.failures).min(FAILURES_MAX);
        phase | level << 2 | failures << 8 | self.until_ms.min(UNTIL_MS_MAX) << 20
    }

    /// Open from now on, and for twice as long the next time.
    fn opened(self, terms: Terms, now_ms: u64) -> Self {
        let until_ms = now_ms.saturating_add(open_ms(terms, self.level));
        Self { phase: Phase::Open, level: (self.level + 1).min(32), until_ms, ..self }
    }

    fn closed(self, now_ms: u64) -> Self {
        Self { phase: Phase::Closed, level: self.level, failures: 0, until_ms: now_ms.saturating_add(WELL_AFTER_MS) }
    }
}

/// How long it is open after so many doublings.
fn open_ms(terms: Terms, level: u32) -> u64 {
    terms.open_ms.max(1).saturating_mul(1 << level.min(32)).min(HEALTH_OPEN_MS_MAX.max(terms.open_ms))
}

fn ms(moment: Moment) -> u64 {
    moment.0 / 1_000_000
}

/// A failure as a number other than 0.
fn code(failure: Failure) -> u64 {
    match failure {
        Failure::Status(status) => u64::from(status),
        Failure::Fault(fault) => FAULTS.iter().position(|known| *known == fault).map_or(0, |at| at as u64 + 1),
    }
}

fn failure(code: u64) -> Option<Failure> {
    if code >= 100 {
        return u16::try_from(code).ok().map(Failure::Status);
    }
    let at = usize::try_from(code).ok()?.checked_sub(1)?;
    FAULTS.get(at).copied().map(Failure::Fault)
}

const FAULTS: &[UpstreamFault] = &[
    UpstreamFault::Unreachable,
    UpstreamFault::Untrusted,
    UpstreamFault::Timeout,
    UpstreamFault::Cut,
    UpstreamFault::BadAnswer,
];
/// An instance that fails again within this time of its recovery, milliseconds, is flapping: it is ejected for longer
/// than the last time.
const WELL_AFTER_MS: u64 = 2 * HEALTH_OPEN_MS_MAX;
const LEVEL_MAX: u64 = (1 << 6) - 1;
const FAILURES_MAX: u64 = (1 << 12) - 1;
/// 557 years.
const UNTIL_MS_MAX: u64 = (1 << 44) - 1;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const TERMS: Terms = Terms::new(3, 1_000);
    const CUT: Verdict = Verdict::Failed(Failure::Fault(UpstreamFault::Cut));

    fn at(ms: u64) -> Moment {
        Moment(0).plus_ms(ms)
    }

    fn enter(breaker: &Breaker, ms: u64) -> Option<Pass> {
        match breaker.enter(TERMS, at(ms)) {
            Entry::Go(pass) => Some(pass),
            Entry::Wait(_) => None,
        }
    }

    /// One request that comes to this, at this time; whether it went.
    fn ask(breaker: &Breaker, ms: u64, verdict: Verdict) -> bool {
        let pass = enter(breaker, ms);
        pass.into_iter().for_each(|pass| _ = breaker.leave(TERMS, pass, verdict, at(ms)));
        pass.is_some()
    }

    fn opened(ms: u64) -> Breaker {
        let breaker = Breaker::default();
        assert!((0..3).all(|_| ask(&breaker, ms, CUT)));
        assert!(breaker.is_ejected());
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            assert!(ask(&breaker, 5, CUT) && ask(&breaker, 5, CUT) && ask(&breaker, 5, Verdict::Well));
        }
        assert_eq!(breaker.view(), Breaker::default().view().with_last(UpstreamFault::Cut));
        assert!(ask(&breaker, 5, CUT) && ask(&breaker, 5, CUT) && ask(&breaker, 5, Verdict::Nothing));
        assert_eq!(breaker.view().failures, 2);
        assert!(ask(&breaker, 5, CUT));
        assert_eq!(breaker.enter(TERMS, at(5)), Entry::Wait(1_000));
        assert_eq!(breaker.enter(TERMS, at(1_004)), Entry::Wait(1));
        let view = breaker.view();
        assert_eq!((view.state, view.since, view.ejections, view.refused), (State::Open, at(5), 1, 2));
    }

    #[test]
    fn what_went_before_decides_nothing() {
        let breaker = Breaker::default();
        let (slow, slower) = (enter(&breaker, 0).unwrap(), enter(&breaker, 0).unwrap());
        assert!((0..3).all(|_| ask(&breaker, 1, CUT)));
        breaker.leave(TERMS, slow, Verdict::Well, at(2));
        assert!(breaker.is_ejected(), "it was asked before");
        let probe = enter(&breaker, 1_001).unwrap();
        assert!(probe.is_probe());
        breaker.leave(TERMS, slower, CUT, at(1_002));
        breaker.leave(TERMS, probe, Verdict::Well, at(1_003));
        assert!(!breaker.is_ejected());
        assert_eq!(breaker.view().failures, 0);
    }

    #[test]
    fn a_failed_probe_doubles_the_time() {
        let breaker = opened(0);
        let mut now = 0;
        for want in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000] {
            assert_eq!(breaker.enter(TERMS, at(now)), Entry::Wait(want));
            assert!(!ask(&breaker, now + want - 1, Verdict::Well));
            assert!(breaker.would_enter(at(now + want)));
            now += want;
            assert!(ask(&breaker, now, CUT));
        }
        assert!(ask(&breaker, now + HEALTH_OPEN_MS_MAX, Verdict::Well) && !breaker.is_ejected());
    }

    #[test]
    fn one_that_flaps_is_out_for_longer_each_time() {
        let breaker = opened(0);
        let mut now = 0;
        for want in [1_000, 2_000, 4_000] {
            assert_eq!(breaker.enter(TERMS, at(now)), Entry::Wait(want));
            now += want;
            // It answers, and falls over again.
            assert!(ask(&breaker, now, Verdict::Well));
            assert!((0..3).all(|_| ask(&breaker, now + 10, CUT)));
            now += 10;
        }
        // Well for long: all is forgiven.
        now += 8_000;
        assert!(ask(&breaker, now, Verdict::Well));
        now += WELL_AFTER_MS;
        assert!((0..3).all(|_| ask(&breaker, now, CUT)));
        assert_eq!(breaker.enter(TERMS, at(now)), Entry::Wait(1_000));
    }

    #[test]
    fn a_probe_that_says_nothing_has_failed() {
        let breaker = opened(0);
        let silent = enter(&breaker, 1_000).unwrap();
        assert!(!ask(&breaker, 1_000 + BREAKER_PROBE_MS - 1, Verdict::Well));
        assert_eq!(breaker.enter(TERMS, at(1_000 + BREAKER_PROBE_MS)), Entry::Wait(2_000));
        // Its failure is known already, its success is news.
        breaker.leave(TERMS, silent, CUT, at(1_010 + BREAKER_PROBE_MS));
        assert_eq!(breaker.enter(TERMS, at(1_010 + BREAKER_PROBE_MS)), Entry::Wait(1_990));
        breaker.leave(TERMS, silent, Verdict::Well, at(1_020 + BREAKER_PROBE_MS));
        assert!(!breaker.is_ejected());
    }

    #[test]
    fn a_probe_that_was_not_made_leaves_its_place() {
        let breaker = opened(0);
        let probe = enter(&breaker, 1_000).unwrap();
        assert!(enter(&breaker, 1_000).is_none());
        breaker.leave(TERMS, probe, Verdict::Nothing, at(1_500));
        let next = enter(&breaker, 1_500).unwrap();
        assert!(next.is_probe() && next != probe);
        assert_eq!(breaker.view().ejections, 1);
    }

    #[test]
    fn one_goes_through_over_many_threads() {
        for round in 0..200_u64 {
            let breaker = opened(0);
            let (probes, passes) = (AtomicUsize::new(0), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..20 {
                            if let Some(pass) = enter(&breaker, 1_000 + round) {
                                passes.fetch_add(1, Ordering::Relaxed);
                                probes.fetch_add(usize::from(pass.is_probe()), Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            assert_eq!((probes.into_inner(), passes.into_inner()), (1, 1));
        }
    }

    #[test]
    fn threads_lose_no_failure() {
        let terms = Terms::new(4_000, 1_000);
        let breaker = Breaker::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let fail = || (0..999).for_each(|_| _ = breaker.leave(terms, Pass::default(), CUT, at(0)));
                scope.spawn(fail);
            }
        });
        assert_eq!(breaker.view().failures, 3_996);
        assert!(!breaker.is_ejected());
    }

    /// A server that is well, ill and well again, asked by a crowd at random: what the breaker lets through.
    #[test]
    fn simulated_worlds() {
        let (mut ejected, mut recovered, mut probed) = (0, 0, 0);
        for seed in 1..=64_u64 {
            let mut random = seed;
            let mut next = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                random >> 33
            };
            let breaker = Breaker::default();
            let (mut now, mut well, mut out, mut probes) = (0_u64, true, Vec::<(u64, Pass)>::new(), 0_usize);
            for _ in 0..4_000 {
                now += next() % 40;
                if next() % 400 == 0 {
                    well = !well;
                }
                if let Some(pass) = enter(&breaker, now) {
                    assert!(!pass.is_probe() || out.iter().all(|(till, other)| !other.is_probe() || *till <= now));
                    probes += usize::from(pass.is_probe());
                    out.push((now + next() % 300, pass));
                } else {
                    assert!(breaker.is_ejected());
                }
                let (done, waiting): (Vec<_>, Vec<_>) = out.into_iter().partition(|(till, _)| *till <= now);
                out = waiting;
                for (_, pass) in done {
                    let before = breaker.is_ejected();
                    breaker.leave(TERMS, pass, if well { Verdict::Well } else { CUT }, at(now));
                    match (before, breaker.is_ejected()) {
                        (false, true) => ejected += usize::from(!well),
                        (true, false) => recovered += usize::from(well && pass.is_probe()),
                        _ => {}
                    }
                }
            }
            probed += probes;
        }
        assert!(ejected > 50 && recovered > 50 && probed > 100, "{ejected} {recovered} {probed}");
    }

    #[test]
    fn words_are_what_was_packed() {
        for phase in [Phase::Closed, Phase::Open, Phase::Probing] {
            let word = Word { phase, level: 33, failures: 4_000, until_ms: UNTIL_MS_MAX };
            assert_eq!(Word::of(word.packed()), word);
        }
        for fault in FAULTS {
            assert_eq!(failure(code(Failure::Fault(*fault))), Some(Failure::Fault(*fault)));
        }
        assert_eq!(failure(code(Failure::Status(503))), Some(Failure::Status(503)));
        assert_eq!(failure(0), None);
    }

    #[test]
    fn what_counts() {
        let check = |came, want| assert_eq!(Verdict::of(came), want, "{came:?}");
        for status in [200, 202, 400, 401, 404, 429, 500, 501, 505] {
            check(Ok(status), Verdict::Well);
        }
        for status in [502, 503, 504] {
            check(Ok(status), Verdict::Failed(Failure::Status(status)));
        }
        for fault in FAULTS {
            check(Err(*fault), Verdict::Failed(Failure::Fault(*fault)));
        }
        use UpstreamFault::{Abandoned, NoAddress, NoBuffer, Withdrawn};
        for fault in [NoAddress, NoBuffer, Abandoned, Withdrawn] {
            check(Err(fault), Verdict::Nothing);
        }
    }

    impl View {
        fn with_last(self, fault: UpstreamFault) -> Self {
            Self { last: Some(Failure::Fault(fault)), ..self }
        }
    }
}
