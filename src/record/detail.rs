//! What only some decisions have: what could not be told, limits before and after, an approval, rules in shadow, some of
//! the arguments. Written as the members that its readers see, since no call that has none of it pays for it.

use std::fmt::{Display, Write as _};

use crate::base::limits::{RECORD_DETAIL_BYTES_MAX, RECORD_TEXT_BYTES_MAX};

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

    /// The limit that refused it: its number in the rule, and what there was to take.
    pub fn exhausted(&mut self, rule: &str, limit: Option<usize>, retry_ms: Option<u64>) {
        self.member("exhausted", |out| {
            out.push(b'{');
            let start = out.len();
            json::text(out, "rule", rule);
            if let Some(limit) = limit {
                json::number(out, "limit", limit as u64);
            }
            if let Some(retry_ms) = retry_ms {
                json::number(out, "retry_ms", retry_ms);
            }
            // The first member has no comma in front.
            out.remove(start);
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

    /// Some of the arguments, by the operator's words for them, as JSON values. One longer than a text of the record is
    /// left out.
    pub fn arguments<'a>(&mut self, arguments: impl Iterator<Item = (&'a str, &'a [u8])>) {
        let mut cut = false;
        self.member("arguments", |out| {
            out.push(b'{');
            let start = out.len();
            for (field, value) in arguments {
                let Some(value) = std::str::from_utf8(value).ok().filter(|it| it.len() <= RECORD_TEXT_BYTES_MAX) else {
                    cut = true;
                    continue;
                };
                if out.len() > start {
                    out.push(b',');
                }
                json::string(out, field);
                out.push(b':');
                json::compact(out, value);
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

fn write_level<N: Display>(out: &mut Vec<u8>, level: Level<'_, N>) {
    json::text(out, "rule", level.rule);
    if let Some(limit) = level.limit {
        json::number(out, "limit", limit as u64);
    }
    for (key, amount) in [("before", level.before), ("after", level.after), ("max", level.max)] {
        json::name(out, key);
        let mut digits = String::new();
        // Writing to a String cannot fail.
        let _ = write!(digits, "{amount}");
        out.extend_from_slice(digits.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(detail: &Detail) -> Value {
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
        detail.exhausted("r", Some(0), Some(1500));
        detail.approval("ap-1", "");
        detail.shadow("refuse", "forbid", ["x", "y"]);
        detail.arguments([("amount", &b" 5.0e1"[..]), ("lines", b"[ 1, \"\\u0041\" ]")].into_iter());
        let want = json!({
            "v": 1,
            "unknown": [{ "rule": "r\n", "operand": "args.amount" }, { "rule": "s", "operand": "claims.level" }],
            "limits": [
                { "rule": "r", "limit": 1, "before": 3, "after": 4, "max": 20 },
                { "rule": "rates[0]", "before": 3, "after": 4, "max": 20 },
            ],
            "exhausted": { "rule": "r", "limit": 0, "retry_ms": 1500 },
            "approval": { "id": "ap-1", "by": null },
            "shadow": { "verdict": "refuse", "reason": "forbid", "rules": ["x", "y"] },
            "arguments": { "amount": 50.0, "lines": [1, "A"] },
        });
        assert_eq!(read(&detail), want);
        assert!(!detail.is_cut());
    }

    #[test]
    fn what_finds_no_room_is_left_out() {
        let mut detail = Detail::default();
        let long = format!("\"{}\"", "x".repeat(RECORD_TEXT_BYTES_MAX));
        detail.arguments([("a", long.as_bytes()), ("b", b"1")].into_iter());
        assert!(detail.is_cut());
        assert_eq!(read(&detail)["arguments"], json!({ "b": 1 }));
        let before = detail.bytes().to_vec();
        let rule = "r".repeat(RECORD_DETAIL_BYTES_MAX);
        detail.approval(&rule, "");
        assert_eq!(detail.bytes(), before);
    }
}
