//! Where a shard asks for keys that it lacks.

use crate::base::time::Moment;
use crate::config::snapshot::Snapshot;

use super::shard::Shard;

/// What is lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The issuer's keys are here, and the one that a token names is not among them.
    Key {
        /// The token's `iat`, seconds since 1970.
        issued_unix_s: Option<u64>,
    },
    /// There are no keys of the issuer's, or none that may be believed any more.
    Keys,
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "said once there is somebody to ask")]
pub(super) enum Found {
    /// There may be others: the newest snapshot is asked.
    Again,
    /// There is no such key.
    Unknown,
    /// It may be there later: worth another try after so long, seconds.
    Pending(u32),
    /// As for all keys of the issuer.
    Missing(u32),
    /// Too many wait already.
    Busy,
}

/// Waits for keys of the issuer with this index in the snapshot.
#[expect(clippy::unused_async, reason = "waits once there is something to wait for")]
pub(super) async fn wait(
    _shard: &Shard,
    _snapshot: &Snapshot,
    _issuer: usize,
    lack: Lack,
    _arrived: Moment,
    _until: Moment,
) -> Found {
    match lack {
        Lack::Key { .. } => Found::Unknown,
        Lack::Keys => Found::Missing(2),
    }
}
