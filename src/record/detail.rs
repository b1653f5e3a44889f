//! What only some decisions have: what could not be told, limits before and after, an approval, rules in shadow, some of
//! the arguments. Written as the members that its readers see, since no call that has none of it pays for it.

use std::fmt::{Display, Write as _};

use crate::base::limits::{RECORD_DETAIL_BYTES_MAX, RECORD_TEXT_BYTES_MAX};

use crate::policy::cond::value::{Num, Value};

use super::json;

/// Members of a decision, each behind a comma. One that finds no room is left out, and [`Detail::is_cut`] says so.
#[derive(Debug, Default)]
pub struct Detail {
    bytes: Vec<u8>,
    cut: bool,
}

/// A limit or rate that a call was counted by.
#[derive(Clone, Copy, Debug)]
pub struct Level<'a, N> {
    /// The rule, or the rate.
    pub rule: &'a str,
    /// Which of the rule's limits, from 0; `None` for a rate.
    pub limit: Option<usize>,
    /// What was taken before the call.
    pub before: N,
    /// What is taken with it.
    pub after: N,
    /// What there is to take.
    pub max: N,
}

/// A limit or rate that left no room for a call.
#[derive(Clone, Copy, Debug)]
pub struct Exhausted<'a, N> {
    /// The rule, or the rate.
    pub rule: &'a str,
    /// Which of the rule's limits, from 0; `None` for a rate.
    pub limit: Option<usize>,
    /// What is taken.
    pub used: N,
    /// What there is to take.
    pub max: N,
    /// From now, milliseconds; `None` where waiting alone does not help.
    pub retry_ms: Option<u64>,
}

impl Detail {
    /// The members, to be put behind others.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether something was left out.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Each rule that something was unknown to, and the operand as the operator wrote it.
    pub fn unknown<'a>(&mut self, operands: impl Iterator<Item = (&'a str, &'a str)>) {
        self.list("unknown", operands, |out, (rule, operand)| {
            json::text(out, "rule", rule);
            json::text(out, "operand", operand);
        });
    }

    /// What the call was counted by.
    pub fn limits<'a, N: Display>(&mut self, levels: impl Iterator<Item = Level<'a, N>>) {
        self.list("limits", levels, write_level);
    }

    /// The limit that refused it, and when it may be worth another try.
    pub fn exhausted(&mut self, exhausted: &Exhausted<'_, impl Display>) {
        let Exhausted { rule, limit, used, max, retry_ms } = exhausted;
        self.member("exhausted", |out| {
            out.extend_from_slice(b"{\"rule\":");
            json::string(out, rule);
            if let Some(limit) = limit {
                json::number(out, "limit", *limit as u64);
            }
            for (key, amount) in [("used", used), ("max", max)] {
                json::name(out, key);
                put(out, amount);
            }
            if let Some(retry_ms) = retry_ms {
                json::number(out, "retry_ms", *retry_ms);
            }
            out.push(b'}');
        });
    }

    /// The approval that was asked for, or that let the call go; `by`: who decided, empty while nobody has.
    pub fn approval(&mut self, id: &str, by: &str) {
        self.member("approval", |out| {
            out.extend_from_slice(b"{\"id\":");
            json::string(out, id);
            json::text(out, "by", by);
            out.push(b'}');
        });
    }

    /// What it would have come to with the rules in shadow.
    pub fn shadow<'a>(&mut self, verdict: &str, reason: &str, rules: impl IntoIterator<Item = &'a str>) {
        self.member("shadow", |out| {
            out.extend_from_slice(b"{\"verdict\":");
            json::string(out, verdict);
            json::text(out, "reason", reason);
            json::texts(out, "rules", rules);
            out.push(b'}');
        });
    }

    /// Some of the arguments, by the operator's words for them. One that is longer than a text of the record may be is
    /// left out.
    pub fn arguments<'a>(&mut self, arguments: impl Iterator<Item = (&'a str, Value<'a>)>) {
        let mut cut = false;
        self.member("arguments", |out| {
            out.push(b'{');
            let first = out.len();
            for (field, value) in arguments {
                let start = out.len();
                if start > first {
                    out.push(b',');
                }
                json::string(out, field);
                out.push(b':');
                let value_start = out.len();
                write_value(out, value);
                if out.len() - value_start > RECORD_TEXT_BYTES_MAX {
                    out.truncate(start);
                    cut = true;
                }
            }
            out.push(b'}');
        });
        self.cut |= cut;
    }

    fn list<T>(&mut self, key: &str, items: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
        let mut items = items.peekable();
        if items.peek().is_none() {
            return;
        }
        self.member(key, |out| {
            out.push(b'[');
            for (index, item) in items.enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.push(b'{');
                let start = out.len();
                write(out, item);
                // The first member has no comma in front.
                if out.len() > start {
                    out.remove(start);
                }
                out.push(b'}');
            }
            out.push(b']');
        });
    }

    fn member(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        json::name(&mut self.bytes, key);
        write(&mut self.bytes);
        if self.bytes.len() > RECORD_DETAIL_BYTES_MAX {
            self.bytes.truncate(start);
            self.cut = true;
        }
    }
}

fn write_value(out: &mut Vec<u8>, value: Value<'_>) {
    let raw = |raw| std::str::from_utf8(raw).unwrap_or("null");
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(yes) => out.extend_from_slice(if yes { b"true" } else { b"false" }),
        Value::Number(Num::Exact(number)) => put(out, number),
        Value::Number(Num::Long(digits)) => out.extend_from_slice(digits.as_bytes()),
        Value::Text(text) => text.with_str(|text| json::string(out, text)),
        Value::List(inside) | Value::Object(inside) => json::compact(out, raw(inside)),
    }
}

fn put(out: &mut Vec<u8>, number: impl Display) {
    let mut digits = String::new();
    // Writing to a String cannot fail.
    let _ = write!(digits, "{number}");
    out.extend_from_slice(digits.as_bytes());
}

fn write_level<N: Display>(out: &mut Vec<u8>, level: Level<'_, N>) {
    json::text(out, "rule", level.rule);
    if let Some(limit) = level.limit {
        json::number(out, "limit", limit as u64);
    }
    for (key, amount) in [("before", level.before), ("after", level.after), ("max", level.max)] {
        json::name(out, key);
        put(out, amount);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(raw: &str) -> Value<'_> {
        Value::read(raw.as_bytes()).unwrap()
    }

    fn read(detail: &Detail) -> serde_json::Value {
        let text = std::str::from_utf8(detail.bytes()).unwrap();
        serde_json::from_str(&format!("{{\"v\":1{text}}}")).unwrap()
    }

    #[test]
    fn members_stand_behind_others() {
        let mut detail = Detail::default();
        assert_eq!(read(&detail), json!({ "v": 1 }));
        detail.unknown([("r\n", "args.amount"), ("s", "claims.level")].into_iter());
        detail.unknown(std::iter::empty());
        let level = Level { rule: "r", limit: Some(1), before: 3, after: 4, max: 20 };
        detail.limits([level, Level { rule: "rates[0]", limit: None, ..level }].into_iter());
        detail.exhausted(&Exhausted { rule: "r", limit: Some(0), used: 20, max: 20, retry_ms: Some(1500) });
        detail.approval("ap-1", "");
        detail.shadow("refuse", "forbid", ["x", "y"]);
        detail.arguments(
            [("amount", value("5.0e1")), ("lines", value("[ 1, \"\\u0041\" ]")), ("s", value("\"\\n\""))].into_iter(),
        );
        let want = json!({
            "v": 1,
            "unknown": [{ "rule": "r\n", "operand": "args.amount" }, { "rule": "s", "operand": "claims.level" }],
            "limits": [
                { "rule": "r", "limit": 1, "before": 3, "after": 4, "max": 20 },
                { "rule": "rates[0]", "before": 3, "after": 4, "max": 20 },
            ],
            "exhausted": { "rule": "r", "limit": 0, "used": 20, "max": 20, "retry_ms": 1500 },
            "approval": { "id": "ap-1", "by": null },
            "shadow": { "verdict": "refuse", "reason": "forbid", "rules": ["x", "y"] },
            "arguments": { "amount": 50, "lines": [1, "A"], "s": "\n" },
        });
        assert_eq!(read(&detail), want);
        assert!(!detail.is_cut());
    }

    #[test]
    fn what_finds_no_room_is_left_out() {
        let mut detail = Detail::default();
        let long = format!("\"{}\"", "x".repeat(RECORD_TEXT_BYTES_MAX));
        detail.arguments([("a", value(&long)), ("b", value("1"))].into_iter());
        assert!(detail.is_cut());
        assert_eq!(read(&detail)["arguments"], json!({ "b": 1 }));
        let before = detail.bytes().to_vec();
        let rule = "r".repeat(RECORD_DETAIL_BYTES_MAX);
        detail.approval(&rule, "");
        assert_eq!(detail.bytes(), before);
    }
}
