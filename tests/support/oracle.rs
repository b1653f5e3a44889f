//! What must hold after every test, whatever it did: join what servers were sent with the record.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::gateway::Gateway;
use super::mcp::Post;
use super::upstream::Upstream;

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
    let written: Vec<String> =
        upstreams.iter().flat_map(|(_, it)| it.calls()).map(|it| it.value().to_owned()).collect();
    let records = gateway.records_until("a permit of every call and an outcome of every permit", |records| {
        let ended: HashSet<(u64, u64)> = of_kind(records, "outcome").map(key).collect();
        let known: HashSet<&str> = permits(records).map(|permit| text(permit, "trace")).collect();
        permits(records).all(|permit| ended.contains(&key(permit)))
            && written.iter().all(|value| known.contains(&**value))
            && refused.iter().all(|post| traces(records).any(|trace| trace == post.value))
    });
    check_record(&records);
    let permitted: HashMap<&str, &Value> = permits(&records).map(|it| (text(it, "trace"), it)).collect();
    let mut written = HashSet::new();
    for (name, upstream) in upstreams {
        for call in upstream.calls() {
            let value = call.value();
            assert!(written.insert(value.to_owned()), "{} was written twice", call.name());
            let permit = permitted.get(value).unwrap_or_else(|| panic!("{} {value} had no permit", call.name()));
            assert_eq!((text(permit, "server"), text(permit, "tool")), (*name, call.name()), "another call's permit");
        }
    }
    records
}

/// The record alone: numbers are given once, and outcomes belong to permits, one each.
#[track_caller]
pub(crate) fn check_record(records: &[Value]) {
    let mut decided = HashMap::new();
    for decision in of_kind(records, "decision") {
        let permit = decision["verdict"] == "permit";
        assert!(decided.insert(key(decision), permit).is_none(), "one number twice: {decision}");
        for field in ["v", "time", "seq", "shard", "verdict", "reason", "rules", "policy", "mode"] {
            assert!(decision.get(field).is_some(), "a decision without {field}: {decision}");
        }
    }
    let mut ended = HashSet::new();
    for outcome in of_kind(records, "outcome") {
        assert_eq!(decided.get(&key(outcome)), Some(&true), "an outcome of no permit: {outcome}");
        assert!(ended.insert(key(outcome)), "two outcomes: {outcome}");
    }
    let open: Vec<_> = permits(records).filter(|permit| !ended.contains(&key(permit))).collect();
    assert!(open.is_empty(), "no outcome of {open:?}");
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
    of_kind(records, "decision").filter(|record| record["verdict"] == "permit")
}

fn key(record: &Value) -> (u64, u64) {
    let number = |name: &str| record[name].as_u64().unwrap_or_else(|| panic!("no {name}: {record}"));
    (number("shard"), number("seq"))
}

fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name].as_str().unwrap_or_default()
}
