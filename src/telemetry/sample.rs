//! Which traces are recorded, decided before anything else is done for one.

use std::cell::Cell;

use super::context::{Context, Origin, RANDOM, SAMPLED};

/// Of so many traces a share is told: millionths.
pub const WHOLE_PPM: u32 = 1_000_000;

/// Where ids come from. They are guessable by who has seen many of them, and nothing depends on that.
#[derive(Debug)]
pub struct Dice(Cell<u64>);

impl Dice {
    /// With a random seed, whoever throws is alone with its ids.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// The next 64 bits (SplitMix64).
    fn throw(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The id of a span: never zero.
    #[must_use]
    pub fn span(&self) -> [u8; 8] {
        self.throw().max(1).to_be_bytes()
    }
}

/// The first span of a message here, if its trace is recorded: as its parent says, or, where it has none, one of so
/// many. A share is told by the trace's id alone, so that whoever else looks at that decides alike.
#[must_use]
pub fn decide(origin: &Origin, ppm: u32, dice: &Dice) -> Option<Context> {
    match origin.parent {
        Some(parent) if parent.is_sampled() => {
            let flags = SAMPLED | parent.flags & RANDOM;
            Some(Context { trace: parent.trace, span: dice.span(), flags })
        }
        Some(_) => None,
        None => begin(ppm, dice),
    }
}

/// A new trace, if it is one that is recorded.
fn begin(ppm: u32, dice: &Dice) -> Option<Context> {
    if ppm == 0 {
        return None;
    }
    let low = dice.throw();
    // The last seven bytes are the random ones of every id (level 2, section 3.2.2.3.1).
    let share = low & MASK;
    if ppm < WHOLE_PPM && u128::from(share) * u128::from(WHOLE_PPM) >= u128::from(MASK + 1) * u128::from(ppm) {
        return None;
    }
    let mut trace = [0; 16];
    trace[..8].copy_from_slice(&dice.throw().max(1).to_be_bytes());
    trace[8..].copy_from_slice(&low.to_be_bytes());
    Some(Context { trace, span: dice.span(), flags: SAMPLED | RANDOM })
}

const MASK: u64 = (1 << 56) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(flags: Option<u8>) -> Origin {
        let parent = flags.map(|flags| Context { trace: [7; 16], span: [9; 8], flags });
        Origin { parent, links: [None; 2] }
    }

    #[test]
    fn a_parent_decides() {
        let dice = Dice::new(1);
        for ppm in [0, 1, WHOLE_PPM] {
            let child = decide(&origin(Some(0xff)), ppm, &dice).unwrap();
            assert_eq!((child.trace, child.flags), ([7; 16], SAMPLED | RANDOM));
            assert_ne!(child.span, [9; 8]);
            assert_eq!(decide(&origin(Some(0xfe)), ppm, &dice), None);
        }
        assert_eq!(decide(&origin(Some(1)), 0, &dice).unwrap().flags, SAMPLED);
    }

    #[test]
    fn a_share_begins() {
        let dice = Dice::new(2);
        let begun = |ppm: u32| (0..100_000).filter(|_| decide(&origin(None), ppm, &dice).is_some()).count();
        assert_eq!((begun(0), begun(WHOLE_PPM)), (0, 100_000));
        let hundredth = begun(10_000);
        assert!((850..1150).contains(&hundredth), "{hundredth}");
        let half = begun(500_000);
        assert!((49_000..51_000).contains(&half), "{half}");
    }

    #[test]
    fn ids_differ() {
        let dice = Dice::new(3);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let begun = decide(&origin(None), WHOLE_PPM, &dice).unwrap();
            assert!(seen.insert(begun.trace.to_vec()) && seen.insert(begun.span.to_vec()));
        }
    }
}
