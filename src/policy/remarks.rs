//! What is said beside yes and no: why not, what could not be told, and what rules in shadow would have done.

use std::sync::Arc;

use smallvec::SmallVec;

use super::needs::{Need, Needs};
use super::rule::AskWhom;
use super::table::Named;
use crate::base::ids::RuleId;

/// How a refusal is answered. A rule's `reason` is the only text of a policy in it: conditions are nobody's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// As if it did not exist. Hidden and unknown are the same answer.
    Hidden,
    /// A forbid applies to a call of what the caller sees listed.
    Forbidden {
        /// The first rule with a reason, in the order of the file, that forbids it; without any, the first.
        rule: RuleId,
        /// That rule's sentence.
        reason: Option<Arc<str>>,
    },
    /// Listed, but no permit applies to these arguments, at this time.
    Condition {
        /// Of the first permit or approve that could have applied and has a sentence.
        reason: Option<Arc<str>>,
    },
    /// What could not be told closed the door: a permit's condition where no other permit applies, or a forbid's.
    Unknown {
        /// The first rule with such a condition.
        rule: RuleId,
        /// That rule's sentence.
        reason: Option<Arc<str>>,
    },
    /// The token's scopes are too few for a permit that applies.
    Scopes {
        /// What it lacks; sorted, none twice.
        missing: SmallVec<[Box<str>; 4]>,
        /// All that the permits that apply ask for; sorted, none twice.
        needed: SmallVec<[Box<str>; 4]>,
    },
    /// A permit applies whose limit cannot be evaluated.
    LimitUnknown {
        /// Whose.
        rule: RuleId,
        /// Its place in `Rule::limits`.
        limit: u16,
        /// The rule's sentence.
        reason: Option<Arc<str>>,
    },
    /// Nobody owns the count of a rate that applies.
    RateUnknown {
        /// Its place in `policy.rates`.
        rate: u16,
    },
    /// An approve applies, or may apply, and nobody can be asked because of what cannot be told.
    ApprovalUnknown {
        /// The first such rule.
        rule: RuleId,
        /// That rule's sentence.
        reason: Option<Arc<str>>,
    },
    /// A limit is used up.
    Limit {
        /// Which.
        need: Need,
        /// From now, milliseconds; `None`: not by waiting.
        retry_ms: Option<u64>,
        /// The rule's sentence.
        reason: Option<Arc<str>>,
    },
    /// A rate is used up.
    Rate {
        /// Which.
        need: Need,
        /// From now, milliseconds; `None`: not by waiting alone.
        retry_ms: Option<u64>,
    },
    /// No room for counts.
    CountsFull {
        /// From now, milliseconds.
        retry_ms: Option<u64>,
    },
    /// Somebody is being asked.
    Pending {
        /// Who asks.
        rule: RuleId,
        /// That rule's sentence.
        reason: Option<Arc<str>>,
    },
    /// Somebody was asked, and said no; or nobody can be asked.
    Declined {
        /// Who asked.
        rule: RuleId,
        /// That rule's sentence.
        reason: Option<Arc<str>>,
    },
}

impl Why {
    /// The word of the record and of figures.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Forbidden { .. } => "forbid",
            Self::Condition { .. } => "condition",
            Self::Unknown { .. } => "unknown",
            Self::Scopes { .. } => "scope",
            Self::LimitUnknown { .. } => "limit_unknown",
            Self::RateUnknown { .. } => "rate_unknown",
            Self::ApprovalUnknown { .. } => "approval_unknown",
            Self::Limit { .. } => "limit",
            Self::Rate { .. } => "rate",
            Self::CountsFull { .. } => "counts_full",
            Self::Pending { .. } => "approval_pending",
            Self::Declined { .. } => "approval_denied",
        }
    }
}

/// What is said beside the answer, for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// What could not be told, and of which rule; in the order of the file, at most `limits::RULES_NAMED_MAX`.
    pub unknown: Vec<(RuleId, UnknownAt)>,
    /// What rules in shadow would have done; `None` where none is about the call.
    pub shadow: Option<Box<Shadow>>,
}

impl Remarks {
    /// Nothing is said.
    pub(super) const NONE: &'static Self = &Self { unknown: Vec::new(), shadow: None };

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.shadow.is_none()
    }
}

/// What of a rule could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnknownAt {
    /// Its `who`.
    Who,
    /// Its `when`.
    When,
    /// An entry of its `limits`.
    Limit(u16),
}

/// What would have been decided, had the rules in shadow been enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Yes, or why not, before counts.
    pub outcome: Result<(), Why>,
    /// The rules in shadow that apply, in the order of the file; at most `limits::RULES_NAMED_MAX`. None, where the call
    /// is only to be remembered for one.
    pub rules: Named,
    /// Whether somebody would have been asked.
    pub asks: bool,
    /// What their limits need, and what they remember: reserved apart, since it must change nothing else.
    pub needs: Needs,
}

impl Shadow {
    /// The word for what would have been: `permit`, `pending`, or that of the refusal.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match &self.outcome {
            Ok(()) if self.asks => "pending",
            Ok(()) => "permit",
            Err(why) => why.word(),
        }
    }
}

/// That somebody must say yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The rule that asks: of those that apply the first that asks a person, else the first.
    pub rule: RuleId,
    /// How long an answer is waited for, and good for, milliseconds.
    pub expires_ms: u64,
    /// Who is asked.
    pub ask: AskWhom,
    /// The rule's sentence.
    pub reason: Option<Arc<str>>,
}
