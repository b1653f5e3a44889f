//! What limits and rates come to for a call.

use std::sync::Arc;

use crate::base::time::Now;
use crate::ledger::counts::{Broken, Counts};
use crate::policy::counter::Quantity;
use crate::policy::decide::Why;
use crate::policy::needs::{Need, NeedOf, Source};
use crate::review::answer::{Answer, LimitLine};
use crate::review::world::World;

impl World {
    /// Looks at the counts, and says what the call would meet there; nothing changes.
    pub fn look(&self, answer: &mut Answer, name: &str, needs: &[Need], counts: &Counts, now: Now) {
        let mut levels = counts.levels(needs, now).into_iter();
        let counted = needs.iter().filter(|need| !matches!(need.what, NeedOf::Note { .. }));
        for (line, need) in answer.limits.iter_mut().zip(counted) {
            if let NeedOf::After { within_ms } = need.what {
                line.holds = counts.happened(need.key, within_ms, now);
            } else if let Some(level) = levels.next() {
                line.used = Some(level.before.to_string());
                line.max = Some(level.max.to_string());
                line.holds = fits(level.after, level.max);
            }
        }
        if let Err(broken) = counts.peek(needs, now) {
            mark(&mut answer.limits, needs, &broken);
            answer.refuse(&self.policy, &self.broken(needs, &broken), name);
        }
    }

    /// Why a call is refused that does not get what it needs.
    #[must_use]
    pub fn broken(&self, needs: &[Need], broken: &Broken) -> Why {
        match needs.get(broken.place) {
            Some(need) if !broken.full => self.why(need, broken.retry_ms),
            _ => Why::CountsFull { retry_ms: broken.retry_ms },
        }
    }

    fn why(&self, need: &Need, retry_ms: Option<u64>) -> Why {
        match need.source {
            Source::Rule(rule, _) => {
                let reason: Option<Arc<str>> = self.policy.rule(rule).reason.clone();
                Why::Limit { need: *need, retry_ms, reason }
            }
            Source::Rate(_) => Why::Rate { need: *need, retry_ms },
        }
    }
}

/// Tells of a refused call how the counts stood.
pub(super) fn mark(lines: &mut [LimitLine], needs: &[Need], broken: &Broken) {
    let counted = |need: &&Need| !matches!(need.what, NeedOf::Note { .. });
    let place = needs.iter().take(broken.place).filter(counted).count();
    let Some(line) = lines.get_mut(place).filter(|_| !broken.full) else { return };
    line.holds = false;
    line.retry_ms = broken.retry_ms;
    if line.max.is_some() {
        (line.used, line.max) = (Some(broken.used.to_string()), Some(broken.max.to_string()));
    }
}

fn fits(after: Quantity, max: Quantity) -> bool {
    match (after, max) {
        (Quantity::Count(after), Quantity::Count(max)) => after <= max,
        (Quantity::Sum(after), Quantity::Sum(max)) => after <= max,
        _ => false,
    }
}
