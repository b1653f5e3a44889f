//! What an operator should know of conditions: arguments that they ask for and no tool has, so that they cannot be told.
//! Told once in the log and in the record, and shown under `/status` as long as it is so.

use serde_json::{Value, json};

use crate::base::limits::MISFITS_TOLD_MAX;
use crate::config::snapshot::Snapshot;
use crate::policy::schema::{Misfit, Unfit};

use super::log::Notes;

/// What has been told already.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<String>);

impl Told {
    /// Tells what is new with this snapshot.
    pub(super) fn tell(&mut self, snapshot: &Snapshot, notes: &Notes) {
        let mut sentences = Vec::new();
        let mut fresh = 0_usize;
        for misfit in snapshot.table.misfits() {
            let sentence = sentence(snapshot, misfit);
            if sentences.contains(&sentence) {
                continue;
            }
            if !self.0.contains(&sentence) {
                fresh += 1;
                if fresh <= MISFITS_TOLD_MAX {
                    tracing::warn!("{sentence}");
                    notes.tell("misfit", detail(snapshot, misfit));
                }
            }
            sentences.push(sentence);
        }
        let more = fresh.saturating_sub(MISFITS_TOLD_MAX);
        if more > 0 {
            tracing::warn!("{more} more arguments that conditions ask for in vain: /status names them");
            notes.tell("misfits", json!({ "more": more }));
        }
        self.0 = sentences;
    }
}

/// All of them, for `/status`: at most `limits::MISFITS_MAX`.
pub(super) fn status(snapshot: &Snapshot) -> Value {
    snapshot.table.misfits().iter().map(|misfit| detail(snapshot, misfit)).collect()
}

fn detail(snapshot: &Snapshot, misfit: &Misfit) -> Value {
    json!({
        "rule": *snapshot.settings.policy.rule(misfit.rule).id, "at": misfit.place.to_string(), "column": misfit.column,
        "argument": misfit.path, "fault": misfit.fault.to_string(),
    })
}

fn sentence(snapshot: &Snapshot, misfit: &Misfit) -> String {
    let Misfit { rule, place, column, path, fault, hint } = misfit;
    let rule = &snapshot.settings.policy.rule(*rule).id;
    let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
    let so = if *fault == Unfit::Absent { "; what asks for it is unknown" } else { "" };
    format!("rule {rule}: {place}, column {column}: {path}: {fault}{hint}{so}")
}
