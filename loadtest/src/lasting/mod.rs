//! What lasts longer than a call: sessions and their streams, and what they cost beside calls that stand alone.

pub(crate) mod legacy;
pub(crate) mod sessions;
pub(crate) mod streams;

use std::sync::atomic::AtomicBool;

use serde_json::Value;

use crate::cli::Stand;
use crate::rig::TOOLS;
use crate::rig::bench::{self, Bench};
use crate::rig::figures::Figures;

/// Measures in front of one server that has streams.
fn measured(
    stand: &Stand,
    stop: &AtomicBool,
    (verb, settings): (&str, Value),
    measure: impl FnOnce(&Bench<'_>, &mut Figures) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    bench::measured(stand, stop, &[format!("--tools={TOOLS}"), "--streams".to_owned()], (verb, settings), measure)
}
