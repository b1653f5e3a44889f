//! Whether a token that only its issuer can judge (RFC 7662) is still a good one. The plane asks again as long as anybody
//! holds on to it; whoever was let in by it looks here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::base::time::Moment;

/// What the issuer said last about one opaque token.
#[derive(Debug)]
pub struct Liveness {
    dead: AtomicBool,
    /// A [`Moment`]: what the wall clock does changes nothing in how long an answer is believed.
    until: AtomicU64,
    /// One of the three below.
    use_: AtomicU8,
}

/// Somebody has looked since its issuer was last asked.
const LOOKED: u8 = 0;
/// Nobody has.
const UNLOOKED: u8 = 1;
/// Nobody has, and its issuer is not asked any more.
const LET_GO: u8 = 2;

/// What was said of it then may differ.
impl PartialEq for Liveness {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Liveness {}

impl Liveness {
    /// Active, and believed to be until then.
    #[must_use]
    pub fn until(until: Moment) -> Self {
        Self { dead: AtomicBool::new(false), until: AtomicU64::new(until.0), use_: AtomicU8::new(LOOKED) }
    }

    /// The issuer says that it is active: that is believed until then.
    pub fn confirm(&self, until: Moment) {
        self.until.fetch_max(until.0, Ordering::AcqRel);
    }

    /// The issuer says that it is not active; it never will be again.
    pub fn end(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// Whether it is believed to be active now. It is not when its issuer could not be asked in time. Whoever looks wants
    /// its issuer to be asked again: one that was let go of is not alive to anybody, so that nobody begins with it what
    /// would end when its time does.
    #[must_use]
    pub fn is_alive(&self, now: Moment) -> bool {
        // Read first: all shards look, and only the first of them has to write.
        let seen = match self.use_.load(Ordering::Acquire) {
            UNLOOKED => {
                let change = self.use_.compare_exchange(UNLOOKED, LOOKED, Ordering::AcqRel, Ordering::Acquire);
                change.unwrap_or_else(|other| other)
            }
            seen => seen,
        };
        seen != LET_GO && !self.dead.load(Ordering::Acquire) && now < self.believed_until()
    }

    /// Whether anybody has looked since this was last asked; nobody has from now on.
    pub fn take_looked(&self) -> bool {
        self.use_.compare_exchange(LOOKED, UNLOOKED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Its issuer is not asked any more, unless somebody has looked meanwhile: whether that is so.
    pub fn let_go(&self) -> bool {
        self.use_.compare_exchange(UNLOOKED, LET_GO, Ordering::AcqRel, Ordering::Acquire) != Err(LOOKED)
    }

    /// Until when it is believed.
    #[must_use]
    pub fn believed_until(&self) -> Moment {
        Moment(self.until.load(Ordering::Acquire))
    }

    /// Whether its issuer has said that it is not active.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_is_for_a_while_and_never_again() {
        let token = Liveness::until(Moment(100));
        assert!(token.is_alive(Moment(99)) && !token.is_alive(Moment(100)) && !token.has_ended());
        token.confirm(Moment(200));
        token.confirm(Moment(150));
        assert!(token.is_alive(Moment(199)));
        token.end();
        token.confirm(Moment(900));
        assert!(!token.is_alive(Moment(150)) && token.has_ended());
    }

    #[test]
    fn who_looks_is_seen_once() {
        let token = Liveness::until(Moment(100));
        assert!(token.take_looked(), "it was made for somebody");
        assert!(!token.take_looked());
        assert!(token.is_alive(Moment(1)) && token.take_looked() && !token.take_looked());
        assert_eq!(token.believed_until(), Moment(100));
    }

    #[test]
    fn what_nobody_looks_at_is_let_go_of_before_its_time() {
        let token = Liveness::until(Moment(100));
        assert!(!token.let_go(), "it was made for somebody");
        assert!(token.take_looked() && token.is_alive(Moment(1)) && !token.let_go(), "somebody was quicker");
        assert!(token.take_looked() && token.let_go());
        assert!(!token.is_alive(Moment(2)) && !token.has_ended(), "whoever comes with it has it asked about anew");
        token.confirm(Moment(300));
        assert!(!token.is_alive(Moment(2)) && !token.take_looked());
    }
}
