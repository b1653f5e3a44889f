//! The keys of all issuers, as of one moment: what a shard verifies by. Fetching them is the plane's business; here each
//! issuer's keys stand, are awaited, or are too old to be believed.

use std::sync::Arc;

use super::keys::{KeyMark, KeySet};

/// What is known of one issuer's keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Standing {
    /// None have been had yet: whether a token is good cannot be told.
    #[default]
    Awaited,
    /// These hold.
    Good(Good),
    /// The last good ones are older than the operator allows, while the issuer cannot be asked: whether a token is good
    /// cannot be told.
    TooOld,
}

/// Keys that hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Good {
    /// The keys.
    pub set: Arc<KeySet>,
    /// When they were last seen at their issuer, seconds since 1970; `u64::MAX` for a file's, which are as new as the file.
    pub seen_unix_s: u64,
}

/// The keys of all issuers, by their index in the settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keyring(Vec<Standing>);

impl Keyring {
    /// These, by the index of the issuer.
    #[must_use]
    pub fn new(standings: Vec<Standing>) -> Self {
        Self(standings)
    }

    /// Those of files, for issuers in this order; the others are awaited.
    #[must_use]
    pub fn of_files<'a>(sets: impl Iterator<Item = Option<&'a Arc<KeySet>>>) -> Self {
        let good = |set: &Arc<KeySet>| Standing::Good(Good { set: set.clone(), seen_unix_s: u64::MAX });
        Self(sets.map(|set| set.map_or(Standing::Awaited, good)).collect())
    }

    /// What is known of the keys of the issuer with this index; awaited where there is none.
    #[must_use]
    pub fn of(&self, issuer: usize) -> &Standing {
        self.0.get(issuer).unwrap_or(&Standing::Awaited)
    }

    /// The keys of the issuer with this index that hold.
    pub fn marks(&self, issuer: usize) -> impl Iterator<Item = KeyMark> {
        let good = match self.of(issuer) {
            Standing::Good(good) => Some(good),
            Standing::Awaited | Standing::TooOld => None,
        };
        good.into_iter().flat_map(|good| good.set.marks())
    }

    /// Whether the key that verified a token of this issuer still holds.
    #[must_use]
    pub fn holds(&self, issuer: usize, key: KeyMark) -> bool {
        matches!(self.of(issuer), Standing::Good(good) if good.set.holds(key))
    }
}
