//! Whether a token that only its issuer can judge (RFC 7662) is still a good one. The plane asks again as long as anybody
//! holds on to it; whoever was let in by it looks here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the issuer said last about one opaque token.
#[derive(Debug)]
pub struct Liveness {
    dead: AtomicBool,
    /// Seconds since 1970.
    until: AtomicU64,
    /// Somebody has looked since this was last asked.
    looked: AtomicBool,
}

/// What was said of it then may differ.
impl PartialEq for Liveness {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Liveness {}

impl Liveness {
    /// Active, and believed to be until `until_unix_s`.
    #[must_use]
    pub fn until(until_unix_s: u64) -> Self {
        Self { dead: AtomicBool::new(false), until: AtomicU64::new(until_unix_s), looked: AtomicBool::new(true) }
    }

    /// The issuer says that it is active: that is believed until then.
    pub fn confirm(&self, until_unix_s: u64) {
        self.until.fetch_max(until_unix_s, Ordering::AcqRel);
    }

    /// The issuer says that it is not active; it never will be again.
    pub fn end(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// Whether it is believed to be active now. It is not when its issuer could not be asked in time. Whoever looks wants
    /// its issuer to be asked again.
    #[must_use]
    pub fn is_alive(&self, now_unix_s: u64) -> bool {
        // Read first: all shards look, and only the first of them has to write.
        if !self.looked.load(Ordering::Relaxed) {
            self.looked.store(true, Ordering::Relaxed);
        }
        !self.dead.load(Ordering::Acquire) && now_unix_s < self.until.load(Ordering::Acquire)
    }

    /// Whether anybody has looked since this was last asked; nobody has from now on.
    pub fn take_looked(&self) -> bool {
        self.looked.swap(false, Ordering::Relaxed)
    }

    /// Until when it is believed, seconds since 1970.
    #[must_use]
    pub fn believed_until(&self) -> u64 {
        self.until.load(Ordering::Acquire)
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
        let token = Liveness::until(100);
        assert!(token.is_alive(99) && !token.is_alive(100) && !token.has_ended());
        token.confirm(200);
        token.confirm(150);
        assert!(token.is_alive(199));
        token.end();
        token.confirm(900);
        assert!(!token.is_alive(150) && token.has_ended());
    }

    #[test]
    fn who_looks_is_seen_once() {
        let token = Liveness::until(100);
        assert!(token.take_looked(), "it was made for somebody");
        assert!(!token.take_looked());
        assert!(token.is_alive(1) && token.take_looked() && !token.take_looked());
        assert_eq!(token.believed_until(), 100);
    }
}
