//! Where shards ask for an issuer's keys to be looked at: a token may be signed with a key that is newer than the ones
//! known here. However many ask, each issuer is looked at once, and then not again for a while; everybody who came in
//! time waits for that one look.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::limits::{KEYS_UNKNOWN_MS, TOKEN_LEEWAY_S};
use crate::base::time::{Moment, Now};
use crate::config::snapshot::Snapshot;
use crate::ledger::errands::Look;

use super::errand::brought;
use super::shard::Shard;

/// The looks at issuers' keys: who wants one, which are under way, how the last ones ended.
#[derive(Debug, Default)]
pub struct KeyDesk {
    inside: Mutex<Inside>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    rows: Vec<Row>,
    /// The plane has something else to see to.
    rung: bool,
}

impl Inside {
    fn row(&mut self, issuer: &str) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| &*row.issuer == issuer)
    }
}

/// One issuer.
#[derive(Clone, Debug)]
struct Row {
    issuer: Arc<str>,
    /// Somebody waits for a look that has not begun.
    asked: bool,
    /// Since when one is under way.
    looking: Option<Now>,
    /// When the last one that has ended began.
    last: Option<Now>,
    /// And the last one that has brought the keys.
    seen: Option<Now>,
    /// How many have ended.
    turns: u64,
    /// The number of the snapshot that has what the last one brought.
    published: u64,
    /// When the plane looks again by itself.
    next: Moment,
}

/// What a verification lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// A key of the token's key id (`TokenFault::KeyUnknown`).
    Key {
        /// The token's `iat`, seconds since 1970.
        issued_unix_s: Option<u64>,
    },
    /// Any keys of the issuer (`TokenFault::KeysMissing`).
    Keys,
}

/// What has become of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The keys were looked at: take the shard's snapshot anew, and verify again.
    Again,
    /// The issuer has no such key: the token is a bad one.
    Unknown,
    /// It may be newer than the last look at the keys, and the next one is due in so many seconds: cannot be told.
    Pending(u32),
    /// There are no keys to be believed; the issuer is asked again in so many seconds: cannot be told.
    Missing(u32),
    /// As many wait already as may.
    Busy,
}

/// What the desk says at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Found(Found),
    /// Wait until more looks than these have ended.
    Wait(u64),
}

/// Waits, until `until` at most, for a look at the keys of the issuer with this index in `snapshot`, by which the token
/// was verified in vain. `arrived` is when the request came. To be called again, with another snapshot, for as long as
/// it says [`Found::Again`] and the verification still lacks something; nothing large is to be held meanwhile.
pub(super) async fn wait(
    shard: &Shard,
    snapshot: &Snapshot,
    issuer: usize,
    lack: Lack,
    arrived: Moment,
    until: Moment,
) -> Found {
    let Some(issuer) = snapshot.settings.issuers.get(issuer) else { return Found::Unknown };
    let desk = &shard.control.key_desk;
    let turns = match desk.ask(&issuer.issuer, lack, snapshot.number, (arrived, until), shard.timers.now()) {
        Word::Found(found) => return found,
        Word::Wait(turns) => turns,
    };
    let Some(_stranger) = shard.waiting.stranger_for_key() else { return Found::Busy };
    let look = || if desk.turns(&issuer.issuer).is_none_or(|now| now != turns) { Look::Have(()) } else { Look::Wait };
    match brought(shard, None, until, look).await {
        Look::Have(()) => Found::Again,
        Look::Full => Found::Busy,
        Look::Wait | Look::Failed(..) => lack.unsettled(LATE_RETRY_S),
    }
}

impl Lack {
    fn unsettled(self, seconds: u32) -> Found {
        match self {
            Self::Key { .. } => Found::Pending(seconds),
            Self::Keys => Found::Missing(seconds),
        }
    }
}

impl KeyDesk {
    /// These issuers, whose keys are fetched, are all there are from now on; with whether what is known of them is still
    /// of the same source.
    pub fn keep(&self, issuers: impl Iterator<Item = (Arc<str>, bool)>) {
        let mut inside = self.inside();
        let before = std::mem::take(&mut inside.rows);
        let row = |(issuer, same): (Arc<str>, bool)| {
            let known = before.iter().find(|row| row.issuer == issuer);
            let turns = known.map_or(0, |row| row.turns + 1);
            let new = Row {
                issuer,
                asked: false,
                looking: None,
                last: None,
                seen: None,
                turns,
                published: 0,
                next: Moment(0),
            };
            known.filter(|_| same).cloned().unwrap_or(new)
        };
        inside.rows = issuers.map(row).collect();
    }

    /// Waits for the bell, for so long at most, and takes what was asked for. From the plane.
    pub fn take(&self, patience: Duration) -> Vec<Arc<str>> {
        let idle = |inside: &mut Inside| !inside.rung && inside.rows.iter().all(|row| !row.asked);
        let waited = self.bell.wait_timeout_while(self.inside(), patience, idle);
        let mut inside = waited.unwrap_or_else(PoisonError::into_inner).0;
        inside.rung = false;
        let asked = |row: &mut Row| std::mem::take(&mut row.asked).then(|| row.issuer.clone());
        inside.rows.iter_mut().filter_map(asked).collect()
    }

    /// Wakes whoever waits in [`KeyDesk::take`].
    pub fn ring(&self) {
        self.inside().rung = true;
        self.bell.notify_all();
    }

    /// A look at an issuer's keys begins.
    pub fn begin(&self, issuer: &str, now: Now) {
        if let Some(row) = self.inside().row(issuer) {
            row.asked = false;
            row.looking = Some(now);
        }
    }

    /// It has ended: the keys it has seen are in force from the snapshot with this number on (`None` where it has seen
    /// none), and the plane looks again by itself at `next`. Whoever waits is then to be told (`Letter::Brought`).
    pub fn end(&self, issuer: &str, seen: Option<u64>, next: Moment) {
        let mut inside = self.inside();
        let Some(row) = inside.row(issuer) else { return };
        let begun = row.looking.take();
        row.last = begun.or(row.last);
        row.next = next;
        row.turns += 1;
        if let Some(number) = seen {
            row.seen = begun.or(row.seen);
            row.published = row.published.max(number);
        }
    }

    /// The plane looks at an issuer again by itself at `next`.
    pub fn plan(&self, issuer: &str, next: Moment) {
        if let Some(row) = self.inside().row(issuer) {
            row.next = next;
        }
    }

    /// How many looks at an issuer have ended; `None` where it is gone.
    fn turns(&self, issuer: &str) -> Option<u64> {
        self.inside().row(issuer).map(|row| row.turns)
    }

    fn ask(&self, issuer: &str, lack: Lack, verified_by: u64, (arrived, until): (Moment, Moment), now: Now) -> Word {
        let mut inside = self.inside();
        let Some(row) = inside.row(issuer) else {
            // Its keys stand in a file: there is nobody to ask.
            return Word::Found(match lack {
                Lack::Key { .. } => Found::Unknown,
                Lack::Keys => Found::Missing(LATE_RETRY_S),
            });
        };
        if row.published > verified_by {
            return Word::Found(Found::Again);
        }
        if row.asked || row.looking.is_some() {
            return Word::Wait(row.turns);
        }
        let again = row.last.map(|last| last.mono.plus_ms(KEYS_UNKNOWN_MS)).filter(|again| *again > now.mono);
        let Some(again) = again else {
            row.asked = true;
            self.bell.notify_all();
            return Word::Wait(row.turns);
        };
        match lack {
            Lack::Key { issued_unix_s } => {
                // A key is published before anything is signed with it: a token that is older than the look at the keys,
                // or was here before it, has its key in them or is no good one. The clocks may differ a little.
                let settled = row.seen.is_some_and(|seen| {
                    let older = |issued: u64| issued.saturating_add(TOKEN_LEEWAY_S) <= seen.unix_s();
                    issued_unix_s.is_some_and(older) || seen.mono >= arrived
                });
                // The next look is soon, where keys are looked at often: it is waited for.
                let soon = row.next <= until && row.last == row.seen;
                match settled {
                    true => Word::Found(Found::Unknown),
                    false if soon => Word::Wait(row.turns),
                    false => Word::Found(Found::Pending(seconds(again.min(row.next), now))),
                }
            }
            Lack::Keys => Word::Found(Found::Missing(seconds(row.next, now))),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole seconds until then: one at least.
fn seconds(then: Moment, now: Now) -> u32 {
    let seconds = then.since(now.mono).as_millis().div_ceil(1000);
    u32::try_from(seconds).unwrap_or(u32::MAX).clamp(1, RETRY_S_MAX)
}

/// Nobody is told to stay away for longer, seconds.
const RETRY_S_MAX: u32 = 60;
/// When a look takes longer than anybody waits for it, seconds.
const LATE_RETRY_S: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono: Moment(0).plus_ms(1_000_000 + ms), unix_ms: 1_700_000_000_000 + ms }
    }

    fn desk() -> KeyDesk {
        let desk = KeyDesk::default();
        desk.keep([(Arc::from("idp"), true)].into_iter());
        desk
    }

    fn ask(desk: &KeyDesk, lack: Lack, arrived: u64, now: u64) -> Word {
        desk.ask("idp", lack, 0, (at(arrived).mono, at(arrived + 6_000).mono), at(now))
    }

    const OLD: Lack = Lack::Key { issued_unix_s: Some(1_600_000_000) };
    const NEW: Lack = Lack::Key { issued_unix_s: Some(1_700_000_001) };
    const UNDATED: Lack = Lack::Key { issued_unix_s: None };

    #[test]
    fn one_look_for_everybody_and_then_none_for_a_while() {
        let desk = desk();
        for lack in [OLD, NEW, Lack::Keys] {
            assert_eq!(ask(&desk, lack, 0, 0), Word::Wait(0));
        }
        assert_eq!(desk.take(Duration::ZERO), [Arc::from("idp")]);
        assert!(desk.take(Duration::ZERO).is_empty(), "asked for once");
        desk.begin("idp", at(10));
        assert_eq!(ask(&desk, OLD, 20, 20), Word::Wait(0), "who comes late waits for the same");
        desk.end("idp", Some(7), at(300_000).mono);
        assert_eq!(desk.turns("idp"), Some(1));
        // Whoever verified by an older snapshot tries again; whoever did not was told what there is.
        assert_eq!(ask(&desk, OLD, 0, 30), Word::Found(Found::Again));
        let again =
            |lack, arrived, now| desk.ask("idp", lack, 7, (at(arrived).mono, at(arrived + 6_000).mono), at(now));
        assert_eq!(again(OLD, 20, 30), Word::Found(Found::Unknown));
        assert_eq!(again(NEW, 0, 30), Word::Found(Found::Unknown), "it was here before the look began");
        assert_eq!(again(UNDATED, 0, 30), Word::Found(Found::Unknown));
        assert_eq!(again(NEW, 20, 30), Word::Found(Found::Pending(30)), "it may be newer than the look");
        assert_eq!(again(UNDATED, 20, 29_011), Word::Found(Found::Pending(1)));
        desk.plan("idp", at(2_000).mono);
        assert_eq!(again(NEW, 20, 30), Word::Wait(1), "the next look is soon");
        assert_eq!(again(OLD, 20, 30), Word::Found(Found::Unknown), "and no matter");
        desk.plan("idp", at(300_000).mono);
        assert!(desk.take(Duration::ZERO).is_empty());
        assert_eq!(again(NEW, 20, 30_009), Word::Found(Found::Pending(1)));
        assert_eq!(again(NEW, 20, 30_010), Word::Wait(1), "half a minute after the last one began");
        assert_eq!(desk.take(Duration::ZERO).len(), 1);
    }

    #[test]
    fn a_look_in_vain_settles_nothing() {
        let desk = desk();
        desk.begin("idp", at(0));
        desk.end("idp", None, at(1_000).mono);
        assert_eq!(ask(&desk, OLD, 0, 10), Word::Found(Found::Pending(1)));
        assert_eq!(ask(&desk, Lack::Keys, 0, 10), Word::Found(Found::Missing(1)));
        desk.begin("idp", at(1_000));
        assert_eq!(ask(&desk, Lack::Keys, 0, 1_010), Word::Wait(1), "one under way is waited for");
        desk.end("idp", None, at(3_000).mono);
        assert_eq!(ask(&desk, Lack::Keys, 0, 1_020), Word::Found(Found::Missing(2)));
        desk.plan("idp", at(11_020).mono);
        assert_eq!(ask(&desk, Lack::Keys, 0, 1_020), Word::Found(Found::Missing(10)));
        assert!(desk.take(Duration::ZERO).is_empty());
    }

    #[test]
    fn issuers_come_and_go() {
        let desk = desk();
        desk.begin("idp", at(0));
        desk.end("idp", Some(3), at(1_000).mono);
        desk.keep([(Arc::from("other"), false), (Arc::from("idp"), true)].into_iter());
        assert_eq!(desk.turns("idp"), Some(1), "what is known stays");
        assert_eq!(ask(&desk, Lack::Keys, 10, 10), Word::Found(Found::Again));
        desk.keep([(Arc::from("other"), true), (Arc::from("idp"), false)].into_iter());
        assert_eq!(desk.turns("idp"), Some(2), "whoever waits looks again");
        assert_eq!(ask(&desk, Lack::Keys, 10, 10), Word::Wait(2), "nothing is known of another source");
        desk.keep([(Arc::from("other"), true)].into_iter());
        assert_eq!(desk.turns("idp"), None);
        assert_eq!(ask(&desk, NEW, 0, 0), Word::Found(Found::Unknown), "a file has what it has");
        assert_eq!(ask(&desk, Lack::Keys, 0, 0), Word::Found(Found::Missing(LATE_RETRY_S)));
        desk.begin("idp", at(0));
        desk.end("idp", Some(9), at(0).mono);
        assert_eq!(desk.turns("idp"), None);
    }
}
