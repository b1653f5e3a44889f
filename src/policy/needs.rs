//! What a call needs beside the rules: room in counts, an earlier call, a place in a bucket. The decision says what;
//! the ledger reserves it, all or none.

use ring::hmac;

use super::cond::Number;
use crate::base::ids::RuleId;

/// Which count: a digest of the limit (rule, what is counted) and of whose it is. Another rule, another owner: another
/// key; the numbers of a limit change nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountKey(pub [u8; 16]);

impl CountKey {
    /// The same, as a count of a rule in shadow, or of one that is enforced: never the same count.
    #[must_use]
    pub fn of_shadow(mut self, shadow: bool) -> Self {
        self.0[SHADOW_BYTE] = self.0[SHADOW_BYTE] & !1 | u8::from(shadow);
        self
    }

    /// Whether it is a count of a rule in shadow.
    #[must_use]
    pub fn is_shadow(self) -> bool {
        self.0[SHADOW_BYTE] & 1 == 1
    }
}

/// The secret that keys of counts are made with: who knows the policy alone cannot tell which counts lie together. It
/// must outlive the process, as counts do.
#[derive(Clone, Debug)]
pub struct CountSecret(pub(super) hmac::Key);

impl CountSecret {
    /// The one that follows from a secret of the state folder.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// No secret: for tables whose counts nobody keeps.
    #[must_use]
    pub fn fixed() -> Self {
        Self::derive(&[0; 32])
    }
}

/// What asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A rule, and the place in its `limits`.
    Rule(RuleId, u16),
    /// The place in `policy.rates`.
    Rate(u16),
}

/// One thing that must hold when the call leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The count.
    pub key: CountKey,
    /// What asks for it.
    pub source: Source,
    /// What must hold.
    pub what: NeedOf,
    /// A count without a time of its own is forgotten so long after its last use, milliseconds; `None`: never.
    pub lasts_ms: Option<u64>,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedOf {
    /// At most `max` calls in any stretch of `per_ms`, this one with them.
    Calls {
        /// At least one.
        max: u64,
        /// Milliseconds; `None` for as long as the count lasts.
        per_ms: Option<u64>,
    },
    /// At most `max` in any stretch of `per_ms`, this `amount` with it.
    Sum {
        /// Never below nothing.
        amount: Number,
        /// At least nothing.
        max: Number,
        /// As for calls.
        per_ms: Option<u64>,
    },
    /// At most `max` under way, this one with them.
    Concurrent {
        /// At least one.
        max: u32,
    },
    /// Not there yet; there from now on.
    Once {
        /// As for calls.
        per_ms: Option<u64>,
    },
    /// Noted before.
    After {
        /// So long ago at most, milliseconds; `None` for ever.
        within_ms: Option<u64>,
    },
    /// A place in a bucket that fills at `calls` in `per_ms`, and holds `burst`.
    Bucket {
        /// At least one.
        calls: u64,
        /// At least one.
        per_ms: u64,
        /// At least one.
        burst: u64,
    },
    /// Always holds; the key is noted before the call leaves.
    Note {
        /// For so long, milliseconds; `None` for ever.
        keep_ms: Option<u64>,
    },
}

/// Everything that one call needs; at most `limits::NEEDS_MAX`. Most calls need nothing, and carry no room for it.
pub type Needs = Vec<Need>;

/// What is to be remembered of a call that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// What a later call asks for.
    pub key: CountKey,
    /// For so long, milliseconds; `None` for ever.
    pub keep_ms: Option<u64>,
}

/// What has happened before, as the ledger knows it.
pub trait Past {
    /// Whether `key` was noted, `within_ms` milliseconds ago at most; `None` for ever.
    fn happened(&self, key: CountKey, within_ms: Option<u64>) -> bool;
}

/// Nothing has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPast;

impl Past for NoPast {
    fn happened(&self, _key: CountKey, _within_ms: Option<u64>) -> bool {
        false
    }
}

/// One that neither picks the stripe nor the place in it.
const SHADOW_BYTE: usize = 7;
