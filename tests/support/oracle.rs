//! What must hold after every test, whatever it did. What clients were told, what servers were sent, and the record are
//! joined, and held against the promises: [P1] nothing reaches a server without a permit for this subject, this tool and
//! this policy; [P2] nothing is written twice; [P3] an answer goes to the call it belongs to; [P4] every decision stands
//! in the record once, with one outcome or, where its process was killed, none; [P5] every call ends in time; [P6] what a
//! fault took is given back (that is `level`'s to hold); [P7] whoever reads a stream to its end, or comes back for the
//! rest, has heard all that was said to it, in order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::gateway::{Gateway, PATIENCE};
use super::mcp::Post;
use super::upstream::Upstream;

/// One line of the record, as far as the promises speak of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Line {
    pub(crate) run: u64,
    pub(crate) kind: String,
    pub(crate) shard: u64,
    pub(crate) seq: u64,
    pub(crate) event: Option<String>,
    pub(crate) verdict: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) trace: Option<String>,
    pub(crate) server: Option<String>,
    pub(crate) tool: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) agent: Option<String>,
    pub(crate) task: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) status: Option<String>,
}

/// A call that a server has read.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) server: String,
    pub(crate) tool: String,
    pub(crate) value: String,
}

/// What a client knows of a call of its own.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) value: String,
    pub(crate) subject: String,
    pub(crate) agent: Option<String>,
    pub(crate) task: Option<String>,
    pub(crate) server: String,
    pub(crate) tool: String,
    /// The policy in force, where the client knows it.
    pub(crate) policy: Option<String>,
    pub(crate) due: Due,
    pub(crate) end: End,
    /// From the request's last byte to the end.
    pub(crate) took: Duration,
    /// The longest that it may take.
    pub(crate) within: Duration,
}

/// A message that came on a stream.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// Whose stream it was: a call's value, or a session's tag.
    pub(crate) owner: String,
    /// Whose message it said it was.
    pub(crate) of: String,
    /// Its place among all that is said to that owner.
    pub(crate) place: u64,
    /// The event's id.
    pub(crate) event: Option<String>,
}

/// What must become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// A permit.
    Permit,
    /// A permit, or nothing, because the client did not wait and may not have been heard.
    PermitOrNothing,
    /// A refusal.
    Refusal,
    /// A refusal, or nothing, for the same reason.
    RefusalOrNothing,
    /// Nothing: it is no call, or its caller is nobody.
    Nothing,
}

/// How a call ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The tool's answer, with the value that it carried.
    Echo(String),
    /// The same, on a stream that its client came back for.
    Resumed(String),
    /// The server's JSON-RPC error.
    Error(i64),
    /// The gateway's error for a server's fault: `data.reason`.
    Fault(String),
    /// Refused by policy.
    Refused,
    /// Refused before policy was asked: the HTTP status.
    Rejected(u16),
    /// The connection ended before the answer did.
    Cut,
    /// The client did not wait for it.
    Left,
    /// The client took it back, and there was no answer.
    TakenBack,
    /// Somebody else's: the value, or the id.
    Foreign(String),
    /// What came is no answer.
    Garbled(String),
    /// Nothing came for longer than anybody waits.
    Hung,
}

impl End {
    /// One word for it.
    pub(crate) fn word(&self) -> &str {
        match self {
            Self::Echo(_) => "echo",
            Self::Resumed(_) => "resumed",
            Self::TakenBack => "taken back",
            Self::Error(_) => "error",
            Self::Fault(reason) => reason,
            Self::Refused => "refused",
            Self::Rejected(_) => "rejected",
            Self::Cut => "cut",
            Self::Left => "left",
            Self::Foreign(_) => "foreign",
            Self::Garbled(_) => "garbled",
            Self::Hung => "hung",
        }
    }

    /// The outcomes in the record that agree with it; empty where any may.
    fn statuses(&self) -> &'static [&'static str] {
        match self {
            Self::Echo(_) => &["ok"],
            Self::Resumed(_) => &["ok", "detached"],
            Self::TakenBack => &["cancelled"],
            Self::Error(_) => &["error"],
            Self::Fault(reason) => match reason.as_str() {
                "unreachable" | "unhealthy" | "server_busy" => &["unreachable"],
                "server_timeout" => &["timeout"],
                // A client that closed its half was taken for gone.
                "server_cut" => &["cut", "cancelled"],
                // Its client took it back, and its server did not end it.
                "cancelled" => &["cancelled"],
                _ => &["invalid"],
            },
            Self::Cut => &["cut", "invalid", "timeout", "cancelled"],
            _ => &[],
        }
    }
}

/// Joins the record, what servers have read and what clients know; every promise that is broken, in a sentence.
pub(crate) fn faults(lines: &[Line], ledger: &[Entry], claims: &[Claim]) -> Vec<String> {
    let mut faults = Vec::new();
    let ended = outcomes(lines, &mut faults);
    let mut decisions: HashMap<&str, Vec<&Line>> = HashMap::new();
    for line in lines.iter().filter(|line| line.kind == "decision") {
        if let Some(trace) = &line.trace {
            decisions.entry(trace).or_default().push(line);
        }
    }
    let mut written = HashSet::new();
    for Entry { server, tool, value } in ledger {
        if !written.insert(value.as_str()) {
            faults.push(format!("[P2] {value} ({server}/{tool}) was written twice"));
        }
        let mut permits = decisions.get(value.as_str()).into_iter().flatten().filter(|line| line.permits());
        match (permits.next(), permits.next()) {
            (None, _) => faults.push(format!("[P1] {value} reached {server}/{tool} without a permit")),
            (Some(_), Some(_)) => faults.push(format!("[P4] {value} was permitted twice")),
            (Some(permit), None) => {
                if (permit.server.as_deref(), permit.tool.as_deref()) != (Some(server), Some(tool)) {
                    faults.push(format!("[P1] {value} reached {server}/{tool} with another call's permit: {permit:?}"));
                }
            }
        }
    }
    for claim in claims {
        let decided = decisions.get(claim.value.as_str()).map_or(&[][..], Vec::as_slice);
        let outcome = decided.first().and_then(|line| ended.get(&line.key())).copied();
        claim.check(decided, outcome, written.contains(claim.value.as_str()), &mut faults);
    }
    faults
}

/// Holds what was heard against what was said: `said` is how many messages there were for each owner, `whole` names the
/// owners that heard their stream to its end.
pub(crate) fn mixups(said: &HashMap<String, u64>, whole: &HashSet<&str>, heard: &[Heard]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut next: HashMap<&str, u64> = HashMap::new();
    let mut events = HashSet::new();
    for one in heard {
        if one.of != one.owner {
            faults.push(format!("[P3] {} heard what was said to somebody else: {one:?}", one.owner));
            continue;
        }
        if let Some(event) = one.event.as_ref().filter(|event| !events.insert(event.as_str())) {
            faults.push(format!("[P2] two events with the id {event}: {one:?}"));
        }
        let due = next.entry(&one.owner).or_default();
        match one.place {
            place if place < *due => faults.push(format!("[P2] heard again, or too late, with {due} due: {one:?}")),
            place if place > *due => faults.push(format!("[P7] not heard: {due} before {one:?}")),
            _ => {}
        }
        *due = (*due).max(one.place + 1);
    }
    for owner in whole {
        let (said, heard) = (said.get(*owner).copied().unwrap_or(0), next.get(owner).copied().unwrap_or(0));
        if said > heard {
            faults.push(format!("[P7] {owner} was to hear {said} messages, and heard {heard}"));
        }
    }
    faults
}

/// How the record says that calls ended, by their values.
pub(crate) fn statuses(lines: &[Line]) -> HashMap<&str, &str> {
    let ended = outcomes(lines, &mut Vec::new());
    let permits = lines.iter().filter(|line| line.permits());
    permits.filter_map(|line| Some((line.trace.as_deref()?, ended.get(&line.key())?.status.as_deref()?))).collect()
}

/// The outcome of each decision that has one.
fn outcomes<'a>(lines: &'a [Line], faults: &mut Vec<String>) -> HashMap<Key, &'a Line> {
    let mut permits = HashMap::new();
    for line in lines.iter().filter(|line| line.kind == "decision") {
        if permits.insert(line.key(), line.permits()).is_some() {
            faults.push(format!("[P4] one number twice: {line:?}"));
        }
    }
    let mut ended = HashMap::new();
    for line in lines.iter().filter(|line| line.kind == "outcome") {
        if permits.get(&line.key()) != Some(&true) {
            faults.push(format!("[P4] an outcome of no permit: {line:?}"));
        }
        if ended.insert(line.key(), line).is_some() {
            faults.push(format!("[P4] two outcomes: {line:?}"));
        }
    }
    // Of a process that was killed the last outcomes are unknown; a later one has begun since.
    let last = lines.iter().map(|line| line.run).max().unwrap_or_default();
    let stopped = |run: u64| lines.iter().any(|line| line.run == run && line.event.as_deref() == Some("stopped"));
    let mut known: HashMap<u64, bool> = HashMap::new();
    for (key, _) in permits.iter().filter(|(key, permit)| **permit && !ended.contains_key(*key)) {
        if *known.entry(key.0).or_insert_with(|| key.0 == last || stopped(key.0)) {
            faults.push(format!("[P4] no outcome of permit {key:?}"));
        }
    }
    ended
}

/// Run, shard and number of a decision; its outcome has the same.
type Key = (u64, u64, u64);

impl Line {
    fn key(&self) -> Key {
        (self.run, self.shard, self.seq)
    }

    fn permits(&self) -> bool {
        self.verdict.as_deref() == Some("permit")
    }
}

impl Claim {
    /// A client's own knowledge of a modern or legacy call that it waited for, and that was to be permitted.
    pub(crate) fn permitted(post: &Post, subject: &str, server: &str, tool: &str, end: End) -> Self {
        Self {
            value: post.value.clone(),
            subject: subject.into(),
            agent: None,
            task: None,
            server: server.into(),
            tool: tool.into(),
            policy: None,
            due: Due::Permit,
            end,
            took: Duration::ZERO,
            within: PATIENCE,
        }
    }

    fn check(&self, decided: &[&Line], outcome: Option<&Line>, written: bool, faults: &mut Vec<String>) {
        let mut fault = |promise: &str, what: &str| {
            faults.push(format!("[{promise}] {what}: {self:?}; decided: {decided:?}; outcome: {outcome:?}"));
        };
        let mine = match &self.end {
            End::Echo(value) | End::Resumed(value) => *value == self.value,
            End::Foreign(_) => false,
            _ => true,
        };
        if !mine {
            fault("P3", "somebody else's answer");
        }
        if self.end == End::Hung || self.took > self.within {
            fault("P5", "it did not end in time");
        }
        if matches!(self.end, End::Garbled(_)) {
            fault("P5", "it did not end with an answer");
        }
        if decided.len() > 1 {
            fault("P4", "decided twice");
        }
        let permit = decided.iter().find(|line| line.permits());
        match (self.due, decided.first()) {
            (Due::Permit, None) => fault("P4", "a permit is missing"),
            (Due::Refusal, None) => fault("P4", "a refusal is missing"),
            (Due::Permit | Due::PermitOrNothing, Some(line)) if !line.permits() => {
                fault("P1", "it was to be permitted")
            }
            (Due::Refusal | Due::RefusalOrNothing, Some(line)) if line.permits() => fault("P1", "it was to be refused"),
            (Due::Nothing, Some(_)) => fault("P1", "there was nothing to decide on"),
            (_, Some(line)) if !self.is_about(line) => fault("P1", "decided as somebody else's"),
            _ => {}
        }
        if written && permit.is_none() {
            fault("P1", "it reached a server");
        }
        if matches!(self.end, End::Echo(_) | End::Resumed(_) | End::Error(_)) && self.due == Due::Refusal {
            fault("P1", "a refused call was answered by a server");
        }
        if matches!(self.end, End::Echo(_) | End::Resumed(_)) && !written {
            fault("P3", "an answer to what no server has read");
        }
        let statuses = self.end.statuses();
        let status = outcome.and_then(|line| line.status.as_deref()).unwrap_or_default();
        if permit.is_some() && !statuses.is_empty() && !statuses.contains(&status) {
            fault("P4", "the record tells another end");
        }
    }

    fn is_about(&self, line: &Line) -> bool {
        let same = |known: &Option<String>, told: &Option<String>| known.is_none() || known == told;
        line.subject.as_deref() == Some(&self.subject)
            && line.server.as_deref() == Some(&self.server)
            && line.tool.as_deref() == Some(&self.tool)
            && same(&self.agent, &line.agent)
            && same(&self.policy, &line.policy)
            // A task that could not be the active one is not in the record as one.
            && (!line.permits() || same(&self.task, &line.task))
    }
}

/// Waits until every call that a server saw is on record and every permit has its outcome, and checks the promises:
/// nothing reached a server without a permit for exactly that; nothing was written twice; every decision stands once
/// in the record; every permit has one outcome, and nothing else has any. Gives the record.
#[track_caller]
pub(crate) fn check(gateway: &Gateway, upstreams: &[(&str, &Upstream)]) -> Vec<Value> {
    check_with(gateway, upstreams, &[])
}

/// The same, waiting for the decisions about these calls too, which no server saw.
#[track_caller]
pub(crate) fn check_with(gateway: &Gateway, upstreams: &[(&str, &Upstream)], refused: &[&Post]) -> Vec<Value> {
    let traces: Vec<&str> = refused.iter().map(|post| post.value.as_str()).collect();
    judged(gateway, upstreams, &traces, &[])
}

/// The same, joined with what clients know of their calls: every answer was its caller's own, every call that was
/// answered has its one decision, about that subject and tool, and its outcome says the same as its client.
#[track_caller]
pub(crate) fn check_claims(gateway: &Gateway, upstreams: &[(&str, &Upstream)], claims: &[Claim]) -> Vec<Value> {
    let due = claims.iter().filter(|claim| matches!(claim.due, Due::Permit | Due::Refusal));
    let traces: Vec<&str> = due.map(|claim| claim.value.as_str()).collect();
    judged(gateway, upstreams, &traces, claims)
}

#[track_caller]
fn judged(gateway: &Gateway, upstreams: &[(&str, &Upstream)], due: &[&str], claims: &[Claim]) -> Vec<Value> {
    let ledger: Vec<Entry> = upstreams.iter().flat_map(|(name, upstream)| entries(name, upstream)).collect();
    let records = gateway.records_until("a permit of every call and an outcome of every permit", |records| {
        let ended: HashSet<(u64, u64)> = of_kind(records, "outcome").map(key).collect();
        let known: HashSet<&str> = permits(records).map(|permit| text(permit, "trace")).collect();
        permits(records).all(|permit| ended.contains(&key(permit)))
            && ledger.iter().all(|entry| known.contains(entry.value.as_str()))
            && due.iter().all(|due| traces(records).any(|trace| trace == *due))
    });
    check_form(&records);
    let theirs: HashSet<(u64, u64)> = records.iter().filter(|record| is_neighbours(record)).map(key).collect();
    let ours = |record: &&Value| record["seq"].is_null() || !theirs.contains(&key(record));
    let ours: Vec<Value> = records.iter().filter(ours).cloned().collect();
    hold(&faults(&lines(&ours), &ledger, claims));
    records
}

fn entries(server: &str, upstream: &Upstream) -> Vec<Entry> {
    let entry = |tool: &str, value: &str| Entry { server: server.into(), tool: tool.into(), value: value.into() };
    upstream.calls().iter().filter(|call| !call.refused).map(|call| entry(call.name(), call.value())).collect()
}

/// The record alone, of processes that have ended: numbers are given once, and outcomes belong to permits, one each.
#[track_caller]
pub(crate) fn check_record(records: &[Value]) {
    check_form(records);
    hold(&faults(&lines(records), &[], &[]));
}

#[track_caller]
fn check_form(records: &[Value]) {
    for decision in of_kind(records, "decision") {
        for field in ["v", "time", "seq", "shard", "verdict", "reason", "rules", "policy", "mode"] {
            assert!(decision.get(field).is_some(), "a decision without {field}: {decision}");
        }
    }
}

/// The record's lines, as the promises see them.
pub(crate) fn lines(records: &[Value]) -> Vec<Line> {
    let line = |record: &Value| serde_json::from_value(record.clone());
    records.iter().map(|record| line(record).unwrap_or_else(|fault| panic!("{fault}: {record}"))).collect()
}

/// No promise is broken; else the first ones are shown.
#[track_caller]
pub(crate) fn hold(faults: &[String]) {
    let shown: Vec<&str> = faults.iter().take(FAULTS_SHOWN).map(String::as_str).collect();
    assert!(faults.is_empty(), "{} promises broken:\n{}", faults.len(), shown.join("\n"));
}

/// Records of one kind.
pub(crate) fn of_kind<'a>(records: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| record["kind"] == kind)
}

/// The decision about the call that carried `value`.
#[track_caller]
pub(crate) fn decision<'a>(records: &'a [Value], value: &str) -> &'a Value {
    let mut found = of_kind(records, "decision").filter(|record| record["trace"] == value);
    let decision = found.next().unwrap_or_else(|| panic!("no decision about {value}"));
    assert!(found.next().is_none(), "two decisions about {value}");
    decision
}

/// Its outcome.
#[track_caller]
pub(crate) fn outcome<'a>(records: &'a [Value], value: &str) -> &'a Value {
    let number = key(decision(records, value));
    let mut found = of_kind(records, "outcome").filter(|record| key(record) == number);
    found.next().unwrap_or_else(|| panic!("no outcome of {value}"))
}

fn traces(records: &[Value]) -> impl Iterator<Item = &str> {
    of_kind(records, "decision").map(|decision| text(decision, "trace"))
}

fn permits(records: &[Value]) -> impl Iterator<Item = &Value> {
    of_kind(records, "decision").filter(|record| record["verdict"] == "permit" && !is_neighbours(record))
}

/// Another test's gateway looks for a server that had this gateway's port before, and listens: none of ours does that
/// without a trace, and what it hears ends when it likes.
fn is_neighbours(decision: &Value) -> bool {
    decision["method"] == "subscriptions/listen" && decision["trace"].is_null()
}

fn key(record: &Value) -> (u64, u64) {
    let number = |name: &str| record[name].as_u64().unwrap_or_else(|| panic!("no {name}: {record}"));
    (number("shard"), number("seq"))
}

fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name].as_str().unwrap_or_default()
}

const FAULTS_SHOWN: usize = 12;
