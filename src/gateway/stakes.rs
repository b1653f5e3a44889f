//! What a call has at stake beside its share of the shard: places in counts, somebody's yes, what it is remembered for.
//! Most calls have none of it. It is given back where nothing was written to the server, and ends with the call, before
//! the last of its answer leaves: who has the answer may count on it.

use crate::base::limits::NEEDS_MAX;
use crate::ledger::counts::{Broken, Counts};
use crate::policy::approval::Granted;
use crate::policy::counter::Taken;
use crate::policy::decide::{self, Shadow};
use crate::policy::needs::{CountKey, Need, Note, Past};
use crate::uring::wait::Timers;

use super::shard::Shard;

/// What one call has at stake.
#[derive(Debug)]
pub(super) struct Stakes {
    /// Reserved for it.
    pub(super) taken: Taken,
    /// How it would have fared with the rules in shadow.
    pub(super) shadow: Option<Shadowed>,
    /// To be remembered when it succeeds.
    notes: Vec<Note>,
    /// Who said yes to it.
    pub(super) approval: Option<Granted>,
}

impl Stakes {
    /// What a permit carries, and what was reserved in shadow.
    pub(super) fn new(stakes: decide::Stakes, shadow: Option<Shadowed>) -> Self {
        let decide::Stakes { taken, notes, approval } = stakes;
        Self { taken, shadow, notes, approval }
    }

    /// What was reserved, and nothing else.
    pub(super) fn of(taken: Taken) -> Self {
        Self { taken, shadow: None, notes: Vec::new(), approval: None }
    }

    /// Its call is over: nothing of it was `written` to a server, or it was, and has perhaps `succeeded`.
    pub(super) fn settle(self, shard: &Shard, written: bool, succeeded: bool) {
        let (counts, now) = (&shard.control.counts, shard.timers.now());
        let shadow = self.shadow.as_ref().map(|shadow| &shadow.taken);
        if !written {
            counts.give_back(&self.taken, now);
            shadow.inspect(|taken| counts.give_back(taken, now));
            if let Some(granted) = &self.approval {
                shard.control.approvals.give_back(granted);
            }
        } else if succeeded && !self.notes.is_empty() {
            counts.note(&self.notes, now);
        }
        counts.ended(&self.taken);
        shadow.inspect(|taken| counts.ended(taken));
    }
}

/// What has happened before, up to this moment.
pub(super) struct Recall<'a> {
    pub(super) counts: &'a Counts,
    pub(super) timers: &'a Timers,
}

impl Past for Recall<'_> {
    fn happened(&self, key: CountKey, within_ms: Option<u64>) -> bool {
        self.counts.happened(key, within_ms, self.timers.last())
    }
}

/// How a call would have fared with the rules in shadow.
#[derive(Debug)]
pub(super) struct Shadowed {
    /// A place in `record::meter::SHADOW`.
    pub(super) verdict: usize,
    /// Why, one word.
    pub(super) reason: &'static str,
    /// What they have reserved.
    pub(super) taken: Taken,
}

impl Shadowed {
    /// Reserves what they need. A call that they would have refused reserves nothing.
    pub(super) fn of(shard: &Shard, shadow: &Shadow) -> Self {
        let taken = match &shadow.outcome {
            Ok(()) => reserve(shard, &shadow.needs),
            Err(_) => Ok(Taken::none()),
        };
        let (verdict, reason) = match (&shadow.outcome, &taken) {
            (Err(why), _) => (1, why.word()),
            (Ok(()), Err(broken)) if broken.full => (1, "counts_full"),
            (Ok(()), Err(_)) => (1, "limit"),
            (Ok(()), Ok(_)) if shadow.asks => (2, "approval"),
            (Ok(()), Ok(_)) => (0, "permit"),
        };
        Self { verdict, reason, taken: taken.unwrap_or_else(|_| Taken::none()) }
    }
}

/// Reserves all of these or none, at this moment.
pub(super) fn reserve(shard: &Shard, needs: &[Need]) -> Result<Taken, Broken> {
    debug_assert!(needs.len() <= NEEDS_MAX);
    if needs.is_empty() {
        return Ok(Taken::none());
    }
    shard.control.counts.reserve(needs, shard.timers.now())
}
