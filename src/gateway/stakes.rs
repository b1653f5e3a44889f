//! What a call has at stake beside its share of the shard: places in counts, somebody's yes, what it is remembered for.
//! Most calls have none of it. It is given back where nothing was written to the server, and ends with the call, before
//! the last of its answer leaves: who has the answer may count on it.

use crate::base::limits::NEEDS_MAX;
use crate::ledger::counts::Broken;
use crate::policy::approval::Granted;
use crate::policy::counter::Taken;
use crate::policy::decide::{self, Shadow};
use crate::policy::needs::{Need, Note};

use super::shard::Shard;

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It was not let go after all.
    Nowhere,
    /// It was let go, and nothing of it was written to a server.
    ToNobody,
    /// Something of it was, or may have been.
    ToServer,
    /// And it has succeeded.
    Back,
}

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
    /// No rule has to do with it, but rates.
    pub(super) rates_alone: bool,
}

impl Stakes {
    /// What a permit carries, and what was reserved in shadow.
    pub(super) fn new(stakes: decide::Stakes, shadow: Option<Shadowed>) -> Self {
        let decide::Stakes { taken, notes, approval } = stakes;
        Self { taken, shadow, notes, approval, rates_alone: false }
    }

    /// What rates have reserved for what no rule is about.
    pub(super) fn of_rates(taken: Taken) -> Self {
        Self { taken, shadow: None, notes: Vec::new(), approval: None, rates_alone: true }
    }

    /// Its call is over, and came this far.
    pub(super) fn settle(self, shard: &Shard, came: Came) {
        let (counts, now) = (&shard.control.counts, shard.timers.now());
        for taken in [Some(&self.taken), self.shadow.as_ref().map(|shadow| &shadow.taken)].into_iter().flatten() {
            match came {
                Came::Nowhere => counts.withdraw(taken, now),
                Came::ToNobody => counts.give_back(taken, now),
                Came::ToServer | Came::Back => {}
            }
            counts.ended(taken);
        }
        match (came, &self.approval) {
            (Came::Nowhere | Came::ToNobody, Some(granted)) => shard.control.approvals.give_back(granted),
            (Came::Back, _) if !self.notes.is_empty() => counts.note(&self.notes, now),
            _ => {}
        }
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
    /// Reserves what they need, for a call that goes. One that they would have refused reserves nothing.
    pub(super) fn of(shard: &Shard, shadow: &Shadow) -> Self {
        Self::by(shadow, |needs| reserve(shard, needs))
    }

    /// Only looks what they need: for a call that does not go. Nobody fills the counts with calls that are refused.
    pub(super) fn seen(shard: &Shard, shadow: &Shadow) -> Self {
        let look = |needs: &[Need]| shard.control.counts.peek(needs, shard.timers.now()).map(|_| Taken::none());
        Self::by(shadow, |needs| if needs.is_empty() { Ok(Taken::none()) } else { look(needs) })
    }

    fn by(shadow: &Shadow, meet: impl FnOnce(&[Need]) -> Result<Taken, Broken>) -> Self {
        let taken = match &shadow.outcome {
            Ok(()) => meet(&shadow.needs),
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
