//! What was reserved for a call.

use super::needs::{CountKey, Need};

/// A reservation: nothing lets a call go that needs counts without one for all of them.
///
/// ```compile_fail,E0451
/// fn forge() -> portcullis::policy::counter::Taken {
///     portcullis::policy::counter::Taken { keys: Vec::new() }
/// }
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    keys: Vec<CountKey>,
}

impl Taken {
    /// Nothing: for calls that need nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { keys: Vec::new() }
    }

    /// Whether it was made for exactly these.
    #[must_use]
    pub fn covers(&self, needs: &[Need]) -> bool {
        self.keys.len() == needs.len() && self.keys.iter().zip(needs).all(|(key, need)| *key == need.key)
    }

    /// All of these, whatever is used up.
    #[cfg(test)]
    pub(crate) fn of(needs: &[Need]) -> Self {
        Self { keys: needs.iter().map(|need| need.key).collect() }
    }
}
