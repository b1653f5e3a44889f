//! What must hold beside the rules: counts and sums on permits, earlier calls, rates.

use std::sync::Arc;

use smallvec::SmallVec;

use super::cond::{Condition, Number};
use super::pattern::Pattern;

/// One entry of a permit's `limits`, or an `after` on a forbid or approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What must hold.
    pub what: What,
    /// Whose count it is; each combination counts alone.
    pub by: By,
}

/// What a limit counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// At most so many calls within a time.
    Calls {
        /// At least one.
        max: u64,
        /// Milliseconds; `None` for as long as the count lasts.
        per_ms: Option<u64>,
    },
    /// At most so much within a time.
    Sum {
        /// A number expression; what is below nothing cannot be evaluated.
        of: Arc<Condition>,
        /// At least nothing.
        max: Number,
        /// As for calls.
        per_ms: Option<u64>,
    },
    /// At most so many calls under way at once.
    Concurrent {
        /// At least one.
        max: u32,
    },
    /// Each value once.
    Once {
        /// Any value.
        value: Arc<Condition>,
        /// As for calls.
        per_ms: Option<u64>,
    },
    /// An earlier call. On a permit it has succeeded; on a forbid or approve it was let through.
    After {
        /// Which; any of them.
        patterns: Vec<Pattern>,
        /// Milliseconds; `None` for ever.
        within_ms: Option<u64>,
        /// With the same value of this.
        same: Option<Arc<Condition>>,
    },
}

/// Whose a count is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By(pub SmallVec<[Party; 2]>);

/// One part of whose a count is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// Issuer and subject.
    Subject,
    /// The client that acts for a subject; none: cannot be evaluated.
    Agent,
    /// The active task of this subject; none, and several: cannot be evaluated.
    Task,
    /// The session; where there is none, subject and agent.
    Session,
    /// The server.
    Server,
    /// The tool (of a prompt or resource: its name), at its server.
    Tool,
    /// The value of an `args.` path.
    Arg(Arc<Condition>),
    /// Everybody.
    All,
    /// The client's address; rates only.
    Address,
    /// The endpoint; rates only.
    Endpoint,
    /// The method; rates only.
    Method,
    /// The value of a `claims.` path; rates only.
    Claim(Arc<Condition>),
}

/// One entry of `policy.rates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What it is called in records and refusals: its `id`, else `rates[N]`.
    pub id: Arc<str>,
    /// What it is about; empty for everything.
    pub on: Vec<Pattern>,
    /// JSON-RPC methods; empty for all.
    pub methods: Vec<Box<str>>,
    /// Paths of endpoints; empty for all.
    pub endpoints: Vec<Box<str>>,
    /// How much.
    pub what: RateOf,
    /// Whose it is.
    pub by: By,
}

/// How much a rate lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateOf {
    /// A bucket that fills at `calls` in `per_ms`, and holds `burst`.
    Calls {
        /// At least one.
        calls: u64,
        /// At least one.
        per_ms: u64,
        /// At least one.
        burst: u64,
    },
    /// So many at once.
    Concurrent(u32),
}
