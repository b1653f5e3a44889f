//! Refusals in words, for models and the people behind them: what was refused, by what, and when it is worth another
//! try. A rule's `reason` is the only text of a policy in them; of its conditions nothing is said.

use std::fmt::{Display, Write as _};

use serde_json::{Map, Value, json};

use crate::base::limits::{QUESTION_ARGUMENT_LETTERS_MAX, QUESTION_LETTERS_MAX};
use crate::mcp::input;
use crate::mcp::pin::hides;
use crate::policy::needs::NeedOf;
use crate::policy::remarks::Why;
use crate::policy::rule::PolicySet;

/// What is said of a refusal to whoever calls `name`: its kind, and the sentence. `None` for what must look as if it did
/// not exist.
#[must_use]
pub fn said(why: &Why, set: &PolicySet, name: &str) -> Option<(&'static str, String)> {
    let kind = kind(why)?;
    let what = What { name, reason: reason(why) };
    let sentence = match why {
        Why::Hidden => return None,
        Why::Forbidden { .. } => sentence(&Said::Forbidden, what),
        Why::Condition { .. } => sentence(&Said::Condition, what),
        Why::Unknown { .. } | Why::ApprovalUnknown { .. } => sentence(&Said::Unknown, what),
        Why::LimitUnknown { .. } | Why::RateUnknown { .. } => sentence(&Said::LimitUnknown, what),
        Why::Scopes { needed, .. } => sentence(&Said::Scopes(&needed.join(" ")), what),
        Why::Limit { need, retry_ms, .. } => sentence(&Said::Limit(reached(&need.what), *retry_ms), what),
        Why::Rate { need, retry_ms } => sentence(&Said::Rate(reached(&need.what), *retry_ms), what),
        Why::CountsFull { .. } => sentence(&Said::Full, what),
        Why::Pending { rule, .. } => sentence(&Said::Pending(None, set.rule(*rule).expires_ms), what),
        Why::Declined { rule, .. } => sentence(&Said::Denied(None, set.rule(*rule).expires_ms), what),
    };
    Some((kind, sentence))
}

/// The word for programs; `None` for what must look as if it did not exist.
pub(super) fn kind(why: &Why) -> Option<&'static str> {
    Some(match why {
        Why::Hidden => return None,
        Why::Forbidden { .. } => "forbid",
        Why::Condition { .. } => "condition",
        Why::Unknown { .. } | Why::ApprovalUnknown { .. } | Why::LimitUnknown { .. } | Why::RateUnknown { .. } => {
            "unknown"
        }
        Why::Scopes { .. } => "scope",
        Why::Limit { .. } => "limit",
        Why::Rate { .. } => "rate",
        Why::CountsFull { .. } => "counts_full",
        Why::Pending { .. } => "approval",
        Why::Declined { .. } => "denied",
    })
}

/// The rule's sentence.
pub(super) fn reason(why: &Why) -> Option<&str> {
    match why {
        Why::Forbidden { reason, .. }
        | Why::Condition { reason }
        | Why::Unknown { reason, .. }
        | Why::ApprovalUnknown { reason, .. }
        | Why::LimitUnknown { reason, .. }
        | Why::Limit { reason, .. }
        | Why::Pending { reason, .. }
        | Why::Declined { reason, .. } => reason.as_deref(),
        Why::Hidden | Why::Scopes { .. } | Why::RateUnknown { .. } | Why::Rate { .. } | Why::CountsFull { .. } => None,
    }
}

fn reached(what: &NeedOf) -> Reached<'_> {
    match what {
        NeedOf::Calls { max, per_ms } => Reached::Calls(*max, *per_ms),
        NeedOf::Sum { amount, max, per_ms } => Reached::Sum(amount, max, *per_ms),
        NeedOf::Concurrent { max } => Reached::AtOnce(*max),
        NeedOf::Once { per_ms } => Reached::Once(*per_ms),
        // A note always holds.
        NeedOf::After { within_ms } | NeedOf::Note { keep_ms: within_ms } => Reached::After(*within_ms),
        NeedOf::Bucket { calls, per_ms, .. } => Reached::Bucket(*calls, *per_ms),
    }
}

/// What is used up.
#[derive(Clone, Copy)]
pub(super) enum Reached<'a> {
    /// So many calls, within milliseconds.
    Calls(u64, Option<u64>),
    /// What a call comes to, and how much there is, within milliseconds.
    Sum(&'a dyn Display, &'a dyn Display, Option<u64>),
    /// So many calls at once.
    AtOnce(u32),
    /// Each value once, within milliseconds.
    Once(Option<u64>),
    /// An earlier call, so many milliseconds ago at most.
    After(Option<u64>),
    /// So many requests in milliseconds.
    Bucket(u64, u64),
}

/// What is said about a refusal.
pub(super) enum Said<'a> {
    /// A rule forbids it.
    Forbidden,
    /// No rule lets it go with these arguments.
    Condition,
    /// What a rule looks at could not be told.
    Unknown,
    /// A limit cannot be evaluated.
    LimitUnknown,
    /// A limit is reached; again possible in so many milliseconds, if waiting helps.
    Limit(Reached<'a>, Option<u64>),
    /// A rate is reached, likewise.
    Rate(Reached<'a>, Option<u64>),
    /// The token needs these scopes.
    Scopes(&'a str),
    /// No room for counts.
    Full,
    /// It waits for an approval with this id, for so many milliseconds.
    Pending(Option<&'a str>, u64),
    /// The same, of its client's own user, who was asked.
    Elicited(&'a str, u64),
    /// The approval with this id was denied; repetitions are refused for so many milliseconds.
    Denied(Option<&'a str>, u64),
    /// Nobody can be asked, for this reason.
    Unasked(&'a str),
}

/// What was refused, as its client calls it.
#[derive(Clone, Copy)]
pub(super) struct What<'a> {
    /// The tool, prompt or URI; empty for what has no name.
    pub(super) name: &'a str,
    /// The rule's sentence.
    pub(super) reason: Option<&'a str>,
}

/// The sentence.
pub(super) fn sentence(said: &Said<'_>, what: What<'_>) -> String {
    let mut out = String::from("Refused by policy: ");
    if !matches!(said, Said::Forbidden) && !what.name.is_empty() {
        let _ = write!(out, "'{}' ", what.name);
    }
    let named = !what.name.is_empty();
    match said {
        Said::Forbidden if what.reason.is_none() => out.push_str("a rule forbids it."),
        Said::Forbidden => {}
        Said::Condition => out.push_str("may not be called with these arguments."),
        Said::Unknown => out.push_str("has an argument missing that the policy looks at, or one of another type."),
        Said::LimitUnknown => out.push_str("has an argument missing that a limit counts by, or one of another type."),
        Said::Limit(reached, retry_ms) | Said::Rate(reached, retry_ms) => {
            out.push_str(if named { "has reached a limit: " } else { "a limit is reached: " });
            limit(&mut out, reached, *retry_ms);
        }
        Said::Scopes(needed) => {
            let _ = write!(out, "needs a token with the scopes {needed}.");
        }
        Said::Full => out.push_str("cannot be counted at the moment; try again later."),
        Said::Pending(id, until_ms) => {
            let request = id.map_or_else(|| "A request".to_owned(), |id| format!("Request {id}"));
            let _ = write!(
                out,
                "has to be approved by a person first. {request} is waiting for that, for {}; repeat the very same call \
                 once it is approved.",
                duration(*until_ms)
            );
        }
        Said::Elicited(id, until_ms) => {
            let _ = write!(
                out,
                "has to be approved by the user first, who was asked just now. Request {id} is waiting for that, for {}; \
                 repeat the very same call once they have answered.",
                duration(*until_ms)
            );
        }
        Said::Denied(id, until_ms) => {
            let request = id.map_or_else(|| "the request".to_owned(), |id| format!("request {id}"));
            let _ = write!(
                out,
                "was not approved: {request} was denied, and the same call is refused for another {}.",
                duration(*until_ms)
            );
        }
        Said::Unasked(why) => {
            let _ = write!(out, "has to be approved first, and {why}.");
        }
    }
    if let Some(reason) = what.reason {
        if !out.ends_with(' ') {
            out.push(' ');
        }
        out.push_str(reason);
    }
    out
}

fn limit(out: &mut String, reached: &Reached<'_>, retry_ms: Option<u64>) {
    let within =
        |per_ms: &Option<u64>| per_ms.map_or_else(|| " in all".to_owned(), |ms| format!(" in {}", duration(ms)));
    let again = retry_ms.map(duration);
    // Writing to a String cannot fail.
    let _ = match reached {
        Reached::Calls(max, per_ms) => write!(out, "at most {}{}", calls(*max), within(per_ms)),
        Reached::Sum(amount, max, per_ms) => {
            write!(out, "at most {max}{}, and this call adds {amount}", within(per_ms))
        }
        Reached::AtOnce(max) => write!(out, "at most {} at once; try again when one of them has ended.", calls(*max)),
        Reached::Once(per_ms) => {
            let within = per_ms.map_or_else(String::new, |ms| format!(" in {}", duration(ms)));
            write!(out, "the same may be done once{within}, and was done")
        }
        Reached::After(within_ms) => {
            let within = within_ms.map_or_else(String::new, |ms| format!(" within the last {}", duration(ms)));
            write!(out, "another call has to have succeeded{within}, for the same thing.")
        }
        Reached::Bucket(max, per_ms) => write!(out, "at most {}{}", calls(*max), within(&Some(*per_ms))),
    };
    let _ = match (reached, again) {
        (Reached::AtOnce(_) | Reached::After(_), _) => Ok(()),
        (Reached::Sum(..), Some(again)) => write!(out, "; there is room for it in {again}."),
        (_, Some(again)) => write!(out, "; the next is possible in {again}."),
        (_, None) => write!(out, "."),
    };
}

fn calls(count: impl Into<u64>) -> String {
    match count.into() {
        1 => "1 call".to_owned(),
        count => format!("{count} calls"),
    }
}

/// A length of time as people say it: its two largest units, rounded up, so that who waits so long has waited enough.
#[must_use]
pub fn duration(ms: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
    let seconds = ms.div_ceil(1000).max(1);
    let first = UNITS.iter().position(|(_, unit)| *unit <= seconds).unwrap_or(3);
    let small = UNITS.get(first + 1).map_or(1, |(_, unit)| *unit);
    let seconds = seconds.div_ceil(small) * small;
    // Rounding up may have filled the larger unit.
    let first = UNITS.iter().position(|(_, unit)| *unit <= seconds).unwrap_or(3);
    let part = |(name, unit): &(&str, u64), seconds: u64| match seconds / unit {
        0 => None,
        1 => Some(format!("1 {name}")),
        count => Some(format!("{count} {name}s")),
    };
    let large = part(&UNITS[first], seconds).unwrap_or_default();
    match UNITS.get(first + 1).and_then(|unit| part(unit, seconds % UNITS[first].1)) {
        Some(small) => format!("{large} and {small}"),
        None => large,
    }
}

/// Milliseconds as seconds to wait, rounded up.
pub(super) fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000).max(1)
}

/// What is to be allowed by an agent's own user.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The method, as MCP names it.
    pub(super) method: &'a str,
    /// The tool, prompt or URI, as the client calls it.
    pub(super) name: &'a str,
    /// The server's configured name.
    pub(super) server: &'a str,
    /// The rule's sentence.
    pub(super) reason: Option<&'a str>,
    /// One JSON object; empty for none.
    pub(super) arguments: &'a [u8],
}

/// The question to the user of an agent. Every argument is there by name: what is left out of a long one is counted.
/// `None` where they are more than one looks through.
pub(super) fn question(wanted: Wanted<'_>) -> Option<String> {
    let does = match wanted.method {
        "prompts/get" => "get the prompt",
        "resources/read" => "read the resource",
        _ => "call the tool",
    };
    let mut out = format!("The agent wants to {does} '");
    push_plain(&mut out, wanted.name);
    let _ = write!(out, "' of the server '{}'.", wanted.server);
    if let Some(reason) = wanted.reason {
        let _ = write!(out, " {reason}");
    }
    let before = out.len();
    for (name, value) in input::members(wanted.arguments) {
        out.push_str(if out.len() == before { "\n\nArguments:\n" } else { "\n" });
        push_json(&mut out, &[b"\"", name, b"\""].concat());
        out.push_str(": ");
        push_json(&mut out, value);
        if out.len() - before > QUESTION_LETTERS_MAX * 4 || out[before..].chars().count() > QUESTION_LETTERS_MAX {
            return None;
        }
    }
    out.push_str("\n\nYes is for this one call, with exactly these arguments.");
    Some(out)
}

/// A JSON text, strings as they are meant, of bounded length; nothing in it hides or breaks a line.
fn push_json(out: &mut String, json: &[u8]) {
    let written = String::from_utf8_lossy(json);
    // Half a pair of surrogates is no text: it stays as it was written, which is ASCII.
    let meant = serde_json::from_slice::<String>(json).and_then(|text| serde_json::to_string(&text)).ok();
    let text = meant.as_deref().unwrap_or(&written);
    match text.char_indices().nth(QUESTION_ARGUMENT_LETTERS_MAX) {
        None => push_plain(out, text),
        Some((end, _)) => {
            push_plain(out, &text[..end]);
            let _ = write!(out, "… (and {} letters more)", text[end..].chars().count());
        }
    }
}

/// A text of somebody else's, with everything escaped that is not seen or moves what is.
fn push_plain(out: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            // Between the parts of a JSON text; inside of its strings they are escaped already.
            '\n' | '\r' | '\t' => out.push(' '),
            letter if letter.is_control() || hides(letter) => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            letter => out.push(letter),
        }
    }
}

/// What programs are told of a refusal, as JSON text: a result's `_meta`, or an error's `data`.
pub(super) fn detail(kind: &str, reason: Option<&str>, retry_ms: Option<u64>, approval: Option<&str>) -> String {
    refusal(kind, reason, retry_ms, approval).to_string()
}

/// The same, as a value.
pub(super) fn refusal(kind: &str, reason: Option<&str>, retry_ms: Option<u64>, approval: Option<&str>) -> Value {
    let mut detail = Map::new();
    detail.insert("kind".to_owned(), Value::from(kind));
    detail.extend(reason.map(|reason| ("reason".to_owned(), Value::from(reason))));
    detail.extend(retry_ms.map(|ms| ("retry_after".to_owned(), Value::from(seconds(ms)))));
    detail.extend(approval.map(|id| ("approval".to_owned(), Value::from(id))));
    json!({ "portcullis/refusal": detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up() {
        let check = |ms, want: &str| assert_eq!(duration(ms), want, "{ms}");
        check(0, "1 second");
        check(1, "1 second");
        check(1_001, "2 seconds");
        check(59_001, "1 minute");
        check(90_000, "1 minute and 30 seconds");
        check(600_000, "10 minutes");
        check(3_599_500, "1 hour");
        check(3_600_001, "1 hour and 1 minute");
        check(7_260_000, "2 hours and 1 minute");
        check(86_400_000, "1 day");
        check(86_399_000, "1 day");
        check(90_000_000, "1 day and 1 hour");
        check(u64::MAX, "213503982334 days and 15 hours");
    }

    #[test]
    fn refusals_are_sentences() {
        const HOUR: u64 = 3_600_000;
        let check = |said: Said<'_>, want: &str| {
            let what = What { name: "pay__refund", reason: None };
            let got = sentence(&said, what);
            assert_eq!(got, format!("Refused by policy: {want}"));
            let reasoned = sentence(&said, What { reason: Some("Ask Kim."), ..what });
            assert!(reasoned.ends_with(" Ask Kim."), "{reasoned}");
            if !matches!(said, Said::Forbidden) {
                assert_eq!(reasoned, format!("{got} Ask Kim."));
            }
        };
        check(Said::Forbidden, "a rule forbids it.");
        check(Said::Condition, "'pay__refund' may not be called with these arguments.");
        check(
            Said::Limit(Reached::Calls(20, Some(HOUR)), Some(12 * 60_000)),
            "'pay__refund' has reached a limit: at most 20 calls in 1 hour; the next is possible in 12 minutes.",
        );
        check(Said::Limit(Reached::Calls(1, None), None), "'pay__refund' has reached a limit: at most 1 call in all.");
        check(
            Said::Limit(Reached::Sum(&"300.5", &"5000", Some(24 * HOUR)), Some(HOUR)),
            "'pay__refund' has reached a limit: at most 5000 in 1 day, and this call adds 300.5; there is room for it in \
             1 hour.",
        );
        check(
            Said::Limit(Reached::Sum(&"6000", &"5000", None), None),
            "'pay__refund' has reached a limit: at most 5000 in all, and this call adds 6000.",
        );
        check(
            Said::Limit(Reached::AtOnce(3), Some(1)),
            "'pay__refund' has reached a limit: at most 3 calls at once; try again when one of them has ended.",
        );
        check(
            Said::Limit(Reached::Once(None), None),
            "'pay__refund' has reached a limit: the same may be done once, and was done.",
        );
        check(
            Said::Limit(Reached::After(Some(600_000)), None),
            "'pay__refund' has reached a limit: another call has to have succeeded within the last 10 minutes, for the \
             same thing.",
        );
        check(
            Said::Rate(Reached::Bucket(10, 1000), Some(99)),
            "'pay__refund' has reached a limit: at most 10 calls in 1 second; the next is possible in 1 second.",
        );
        check(
            Said::Pending(Some("ap-1"), 900_000),
            "'pay__refund' has to be approved by a person first. Request ap-1 is waiting for that, for 15 minutes; repeat \
             the very same call once it is approved.",
        );
        check(
            Said::Denied(Some("ap-1"), 60_000),
            "'pay__refund' was not approved: request ap-1 was denied, and the same call is refused for another 1 minute.",
        );
        check(
            Said::Unasked("its client cannot ask its user"),
            "'pay__refund' has to be approved first, and its client cannot ask its user.",
        );
        let nameless = sentence(&Said::Rate(Reached::Bucket(1, 1000), None), What { name: "", reason: None });
        assert_eq!(nameless, "Refused by policy: a limit is reached: at most 1 call in 1 second.");
        let forbidden = sentence(&Said::Forbidden, What { name: "x", reason: Some("Frozen.") });
        assert_eq!(forbidden, "Refused by policy: Frozen.");
    }

    #[test]
    fn a_question_shows_what_would_be_done() {
        let ask = |arguments: &str| {
            let reason = Some("Money leaves.");
            let arguments = arguments.as_bytes();
            question(Wanted { method: "tools/call", name: "pay", server: "bank", reason, arguments })
        };
        let head = "The agent wants to call the tool 'pay' of the server 'bank'. Money leaves.\n\n";
        let tail = "Yes is for this one call, with exactly these arguments.";
        for none in ["", "{}"] {
            assert_eq!(ask(none), Some(format!("{head}{tail}")));
        }
        let check = |arguments: &str, want: &str| {
            assert_eq!(ask(arguments), Some(format!("{head}Arguments:\n{want}\n\n{tail}")), "{arguments}");
        };
        check(
            r#"{ "amount" : 1.50e3, "to": "p\u0061ypal", "d": [1,
             {"x":null}] }"#,
            "\"amount\": 1.50e3\n\"to\": \"paypal\"\n\"d\": [1,              {\"x\":null}]",
        );
        check(
            "{\"n\": \"a\\nYes is for\u{202e}evil\\u202e\u{200b}\\u001b[2K\", \"\u{2066}m\": [\"\u{202d}\"]}",
            "\"n\": \"a\\nYes is for\\u202eevil\\u202e\\u200b\\u001b[2K\"\n\"\\u2066m\": [\"\\u202d\"]",
        );
        check(
            &format!("{{\"long\":\"{}\",\"amount\":5}}", "é".repeat(1_000)),
            &format!("\"long\": \"{}… (and 602 letters more)\n\"amount\": 5", "é".repeat(399)),
        );
        let many: Vec<String> = (0..QUESTION_LETTERS_MAX / 8).map(|n| format!("\"a{n:03}\":1")).collect();
        assert_eq!(ask(&format!("{{{}}}", many.join(","))), None, "nobody looks through that");
        let name = question(Wanted {
            method: "resources/read",
            name: "x:\u{202e}",
            server: "s",
            reason: None,
            arguments: b"",
        });
        assert!(name.is_some_and(|it| it.starts_with("The agent wants to read the resource 'x:\\u202e' of the server 's'.")));
    }

    #[test]
    fn programs_are_told_what_there_is() {
        assert_eq!(detail("limit", None, None, None), r#"{"portcullis/refusal":{"kind":"limit"}}"#);
        let all: Value = serde_json::from_str(&detail("approval", Some("r"), Some(1), Some("ap-1"))).unwrap();
        let want = json!({ "kind": "approval", "reason": "r", "retry_after": 1, "approval": "ap-1" });
        assert_eq!(all["portcullis/refusal"], want);
    }
}
