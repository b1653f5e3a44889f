//! A shard's clock: between two looks at the kernel's clocks, which are a few milliseconds apart, the processor's own
//! counter tells what has passed. Where that counter cannot be trusted, each look is one at the kernel's clocks.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use crate::base::limits::{CLOCK_HOLD_MS, CLOCK_LOOKS_MAX, CLOCK_RATE_MS_MAX, CLOCK_RATE_MS_MIN};
use crate::base::time::{Moment, Now};

/// Reads both of the kernel's clocks. See [`clock`](crate::uring::wait::clock).
pub(super) fn kernel() -> Now {
    Stamp::of_kernel(0).now(0)
}

/// A clock that is cheap to read.
pub(super) struct Ticks {
    /// The last look at the kernel's clocks.
    held: Cell<Stamp>,
    /// The look from which the counter's rate is measured.
    since: Cell<Stamp>,
    /// Nanoseconds of one count, times 2^32; 0 while it is not known.
    rate: Cell<u64>,
    /// For so many counts the last look is good.
    good: Cell<u64>,
    /// Nothing was told that is later than this.
    told: Cell<Now>,
    trusted: bool,
}

/// What three clocks said at one moment.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    count: u64,
    mono_ns: u64,
    unix_ns: u64,
}

impl Ticks {
    pub(super) fn new() -> Self {
        let trusted = counter::is_steady();
        let stamp = if trusted { Stamp::look() } else { Stamp::of_kernel(0) };
        let (held, since, told) = (Cell::new(stamp), Cell::new(stamp), Cell::new(stamp.now(0)));
        Self { held, since, rate: Cell::new(0), good: Cell::new(0), told, trusted }
    }

    /// Both clocks, to the microsecond; never less than was told before.
    #[inline]
    pub(super) fn now(&self) -> Now {
        let held = self.held.get();
        // A counter that went back has passed more than is good.
        let passed = if self.trusted { counter::count().wrapping_sub(held.count) } else { u64::MAX };
        if passed >= self.good.get() {
            return self.look();
        }
        // Cannot overflow: `good` counts are `CLOCK_HOLD_MS`.
        let now = held.now(passed.wrapping_mul(self.rate.get()) >> RATE_BITS);
        self.told.set(now);
        now
    }

    /// What was told last.
    #[inline]
    pub(super) fn told(&self) -> Now {
        self.told.get()
    }

    /// Asks the kernel, whatever the counter says.
    #[cold]
    pub(super) fn look(&self) -> Now {
        let mut stamp = if self.trusted { Stamp::look() } else { Stamp::of_kernel(0) };
        if self.trusted {
            self.measure(stamp);
        }
        stamp.mono_ns = stamp.mono_ns.max(self.told.get().mono.0);
        self.held.set(stamp);
        let now = stamp.now(0);
        self.told.set(now);
        now
    }

    /// Finds out how fast the counter runs. A rate unlike the one before means that the machine stood still, or is
    /// another one by now: then neither is believed.
    fn measure(&self, stamp: Stamp) {
        let since = self.since.get();
        let (ns, counts) = (stamp.mono_ns.saturating_sub(since.mono_ns), stamp.count.wrapping_sub(since.count));
        if ns < CLOCK_RATE_MS_MIN * NS_PER_MS {
            return;
        }
        let before = self.rate.get();
        let rate = (u128::from(ns) << RATE_BITS).checked_div(u128::from(counts));
        let rate = rate.and_then(|rate| u64::try_from(rate).ok()).filter(|rate| RATES.contains(rate));
        let rate = rate.filter(|rate| before == 0 || rate.abs_diff(before) <= before / RATE_DRIFT_MAX).unwrap_or(0);
        self.rate.set(rate);
        // One count less than fits, so that what is left over counts for the next look.
        let good = (u128::from(CLOCK_HOLD_MS * NS_PER_MS) << RATE_BITS).checked_div(u128::from(rate));
        self.good.set(good.and_then(|good| u64::try_from(good).ok()).unwrap_or(0));
        if rate == 0 || ns >= CLOCK_RATE_MS_MAX * NS_PER_MS {
            self.since.set(stamp);
        }
    }
}

impl Stamp {
    /// All three clocks; of several tries the one that was interrupted least.
    fn look() -> Self {
        let (mut best, mut least) = (Self::of_kernel(counter::count()), u64::MAX);
        for _ in 0..CLOCK_LOOKS_MAX {
            let before = counter::count();
            let stamp = Self::of_kernel(before);
            let took = counter::count().wrapping_sub(before);
            if took < least {
                best = Self { count: before.wrapping_add(took / 2), ..stamp };
                least = took;
            }
            if took < UNDISTURBED {
                break;
            }
        }
        best
    }

    fn of_kernel(count: u64) -> Self {
        static START: OnceLock<(Instant, u64)> = OnceLock::new();
        let wall = || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        };
        let (start, wall_then) = START.get_or_init(|| (Instant::now(), wall()));
        let mono_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Self { count, mono_ns, unix_ns: wall().max(wall_then.saturating_add(mono_ns)) }
    }

    /// So many nanoseconds later.
    #[inline]
    fn now(self, later_ns: u64) -> Now {
        // Nanoseconds since a start, and since 1970: neither wraps in the next five centuries.
        let unix_ns = self.unix_ns.wrapping_add(later_ns);
        Now { mono: Moment(self.mono_ns.wrapping_add(later_ns)), unix_ms: unix_ns / NS_PER_MS }
    }
}

#[cfg(target_arch = "x86_64")]
mod counter {
    use std::arch::x86_64::{__cpuid, _rdtsc};

    /// Whether it runs at one rate, whatever the processor does or how deep it sleeps (Intel SDM 19.17.1; AMD APM 3,
    /// CPUID 8000_0007h).
    pub(super) fn is_steady() -> bool {
        const HIGHEST: u32 = 0x8000_0000;
        const POWER: u32 = 0x8000_0007;
        const INVARIANT: u32 = 1 << 8;
        __cpuid(HIGHEST).eax >= POWER && __cpuid(POWER).edx & INVARIANT != 0
    }

    /// Counts since some start.
    #[inline]
    pub(super) fn count() -> u64 {
        // SAFETY: every processor of this architecture has the instruction, and Linux lets processes use it; it names no
        // memory.
        // JUSTIFICATION: a call asks for the time about a dozen times: 20 instructions each instead of 170.
        unsafe { _rdtsc() }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub(super) fn is_steady() -> bool {
        false
    }

    pub(super) fn count() -> u64 {
        0
    }
}

const NS_PER_MS: u64 = 1_000_000;

const RATE_BITS: u32 = 32;

/// 100 MHz to 16 GHz.
const RATES: std::ops::RangeInclusive<u64> = (1 << RATE_BITS) / 16..=10 << RATE_BITS;

/// One part in so many: clocks are slewed by less (adjtimex(2): 500 in a million).
const RATE_DRIFT_MAX: u64 = 1_000;

/// Counts that two looks at clocks take at most when nobody comes between.
const UNDISTURBED: u64 = 4_000;

const _: () = assert!(CLOCK_HOLD_MS < CLOCK_RATE_MS_MIN && CLOCK_RATE_MS_MIN < CLOCK_RATE_MS_MAX);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// It never goes back, and is never far from the kernel's: between the two looks of the kernel around it.
    #[test]
    fn it_keeps_up_with_the_kernel() {
        let ticks = Ticks::new();
        let (mut last, begun) = (Moment(0), Instant::now());
        let (mut counted, mut told) = (0_u32, 0_u32);
        while begun.elapsed() < Duration::from_millis(120) {
            let before = kernel();
            let now = ticks.now();
            let after = kernel();
            assert!(now.mono >= last);
            last = now.mono;
            told += 1;
            let off = before.mono.since(now.mono).max(now.mono.since(after.mono));
            // Somebody else may have had the core while the kernel was asked.
            counted += u32::from(off > Duration::from_micros(50));
            assert!(now.unix_ms + 20 >= before.unix_ms && now.unix_ms <= after.unix_ms + 20);
        }
        assert!(counted <= told / 50, "{counted} of {told}");
        assert_eq!(ticks.rate.get() != 0, counter::is_steady());
    }

    /// A machine that stood still while its clock went on, or the other way round, is measured anew.
    #[test]
    fn a_rate_that_changes_is_not_believed() {
        let ticks = Ticks::new();
        let at = |count: u64, ms: u64| Stamp { count, mono_ns: ms * NS_PER_MS, unix_ns: 0 };
        ticks.since.set(at(0, 0));
        ticks.measure(at(3_000_000, 1));
        assert_eq!(ticks.rate.get(), 0, "too soon to tell");
        ticks.measure(at(300_000_000, 100));
        let rate = ticks.rate.get();
        assert_eq!(rate, (1 << RATE_BITS) / 3);
        assert_eq!(
            u128::from(ticks.good.get()),
            (u128::from(CLOCK_HOLD_MS * NS_PER_MS) << RATE_BITS) / u128::from(rate)
        );
        ticks.measure(at(300_000_000 + 1, 5_000));
        assert_eq!((ticks.rate.get(), ticks.good.get()), (0, 0));
        ticks.measure(at(600_000_001, 5_100));
        assert_eq!(ticks.rate.get(), rate);
        // A counter that stands still, or goes back.
        ticks.measure(at(600_000_001, 7_000));
        ticks.measure(at(600_000_001, 8_000));
        assert_eq!(ticks.rate.get(), 0);
        ticks.measure(at(0, 9_000));
        assert_eq!(ticks.rate.get(), 0);
    }
}
