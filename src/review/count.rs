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
    pub fn look(&self, answer: &mut Answer, needs: &[Need], counts: &Counts, now: Now) {
        let mut levels = counts.levels(needs, now).into_iter();
        let mut lines = answer.limits.iter_mut();
        let mut broken = None;
        for need in needs {
            let holds = match need.what {
                NeedOf::Note { .. } => continue,
                NeedOf::After { within_ms } => {
                    let Some(line) = lines.next() else { continue };
                    line.holds = counts.happened(need.key, within_ms, now);
                    line.holds
                }
                _ => {
                    let (Some(line), Some(level)) = (lines.next(), levels.next()) else { continue };
                    line.used = Some(quantity(level.before));
                    line.max = Some(quantity(level.max));
                    line.holds = fits(level.after, level.max);
                    line.holds
                }
            };
            broken = broken.or((!holds).then_some(need));
        }
        if let Some(need) = broken {
            answer.refuse(&self.policy, &self.why(need, None));
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
        (line.used, line.max) = (Some(quantity(broken.used)), Some(quantity(broken.max)));
    }
}

fn quantity(quantity: Quantity) -> String {
    match quantity {
        Quantity::Count(count) => count.to_string(),
        Quantity::Sum(sum) => sum.to_string(),
    }
}

fn fits(after: Quantity, max: Quantity) -> bool {
    match (after, max) {
        (Quantity::Count(after), Quantity::Count(max)) => after <= max,
        (Quantity::Sum(after), Quantity::Sum(max)) => after <= max,
        _ => false,
    }
}
