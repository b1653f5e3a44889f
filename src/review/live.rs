//! What a running gateway says of a call: with its catalogue and its counts, and without changing them.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::base::time::Now;
use crate::config::cases::Target;
use crate::config::snapshot::Snapshot;
use crate::ledger::counts::Counts;
use crate::review::ask::Asked;
use crate::review::world::World;

/// What is asked: `{"server", "tool" or "prompt" or "resource", "claims"?, "task"?, "args"?}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question<'a> {
    server: String,
    #[serde(default)]
    tool: Option<String>,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    resource: Option<String>,
    #[serde(borrow, default)]
    claims: Option<&'a RawValue>,
    #[serde(default)]
    task: Option<String>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

/// Answers `POST /explain`: the status, and a JSON object, which has the answer for people in `text`; or `error`.
#[must_use]
pub fn explain(snapshot: &Snapshot, counts: &Counts, now: Now, body: &[u8]) -> (u16, Value) {
    match answer(snapshot, counts, now, body) {
        Ok(answer) => (200, answer),
        Err(error) => (400, json!({ "error": error })),
    }
}

fn answer(snapshot: &Snapshot, counts: &Counts, now: Now, body: &[u8]) -> Result<Value, String> {
    let question: Question<'_> = serde_json::from_slice(body).map_err(|fault| fault.to_string())?;
    let target = match (&question.tool, &question.prompt, &question.resource) {
        (Some(tool), None, None) => Target::Tool(tool.as_str().into()),
        (None, Some(prompt), None) => Target::Prompt(prompt.as_str().into()),
        (None, None, Some(uri)) => Target::Resource(uri.as_str().into()),
        _ => return Err("name one of tool, prompt and resource".to_owned()),
    };
    let world = World::of(snapshot);
    let (claims, task) = (question.claims.map(RawValue::get), question.task.as_deref());
    let found = world.caller(claims, &snapshot.settings.issuers, task);
    let (caller, active) = found.map_err(|fault| fault.to_string())?;
    let past = counts.past(now);
    let asked = Asked {
        caller: &caller,
        task: active,
        server: &question.server,
        target: &target,
        args: question.args.map(RawValue::get),
        session: None,
        unix_ms: now.unix_ms,
        past: &past,
    };
    let judged = world.ask(&asked).map_err(|fault| fault.to_string())?;
    let mut answer = world.told(&judged, &target);
    if judged.verdict.outcome.is_ok() {
        let (Target::Tool(name) | Target::Prompt(name) | Target::Resource(name)) = &target;
        world.look(&mut answer, name, &judged.verdict.needs, counts, now);
    }
    let mut json = answer.json(&asked, task);
    json["text"] = Value::from(answer.text(&asked, task));
    json["policy"] = Value::from(world.policy.hex12());
    Ok(json)
}
