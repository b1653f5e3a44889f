//! Where a shard asks for keys that it lacks.

use crate::base::time::Now;

/// Asks the plane for keys.
#[derive(Debug, Default)]
pub struct KeyDesk;

/// What is lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The issuer's keys are here, and the one that a token names is not among them.
    Unknown {
        /// The token's `iat`, seconds since 1970; 0 where it has none.
        issued_unix_s: u64,
    },
    /// There are no keys of the issuer's, or none that may be believed any more.
    Missing,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The plane is looking: when it rings, there may be others.
    Wait,
    /// There is no such key.
    Unknown,
    /// Not now: worth another try after so long, milliseconds.
    Later(u64),
}

impl KeyDesk {
    /// Asks for keys of the issuer with this index in the settings of this epoch.
    pub fn ask(&self, _auth_epoch: u64, _issuer: usize, lack: Lack, _now: Now) -> Ask {
        match lack {
            Lack::Unknown { .. } => Ask::Unknown,
            Lack::Missing => Ask::Later(2_000),
        }
    }
}
