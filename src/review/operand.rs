//! Which part of a condition settles it, for people.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::policy::cond::{ClaimTypes, Condition, Facts, Truth};

/// Of a condition that is false: the first of the parts joined by `&&` that is.
pub(super) fn failing(cond: &Condition, facts: &Facts<'_>) -> Option<String> {
    let parts = conjuncts(cond.text());
    let is_false = |part: &&&str| {
        let part = Condition::parse(part, cond.purpose(), &ClaimTypes::default());
        part.is_ok_and(|part| part.truth(facts, 0) == Truth::False)
    };
    let part = parts.iter().find(is_false).map(|part| (*part).to_owned());
    part.filter(|_| parts.len() > 1)
}

/// The parts of a condition that are joined by `&&`, where that is not inside of anything.
fn conjuncts(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut parts, mut from, mut depth, mut at) = (Vec::new(), 0, 0_usize, 0);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
            }
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            // `||` binds less: the whole is no list of parts that must all hold.
            b'|' if depth == 0 => return vec![text.trim()],
            b'&' if depth == 0 && bytes.get(at + 1) == Some(&b'&') => {
                parts.push(text[from..at].trim());
                from = at + 2;
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(text[from..].trim());
    parts
}

/// What a part of a condition looks at in the arguments and claims, and what stands there, as JSON cut to a line.
pub(super) fn values(part: &str, facts: &Facts<'_>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let roots = [("args", facts.args), ("claims", Some(&*facts.caller.claims))];
    for (root, json) in roots {
        let Some(json) = json.and_then(|json| str::from_utf8(json).ok()) else { continue };
        for (at, _) in part.match_indices(root) {
            if part[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.')) {
                continue;
            }
            let (path, steps) = steps(&part[at + root.len()..]);
            let found_there = steps.iter().try_fold(json, |json, step| member(json, step));
            let Some(value) = found_there.filter(|_| !steps.is_empty()) else { continue };
            let path = format!("{root}{path}");
            if !found.iter().any(|(known, _)| *known == path) {
                found.push((path, cut(value)));
            }
        }
    }
    found
}

/// One step into JSON: a member by its name, an element by its number. As it is written there: numbers are exact.
fn member<'a>(json: &'a str, step: &str) -> Option<&'a str> {
    if json.starts_with('[') {
        let all: Vec<&'a RawValue> = serde_json::from_str(json).ok()?;
        return all.get(step.parse::<usize>().ok()?).map(|value| value.get());
    }
    let all: HashMap<String, &'a RawValue> = serde_json::from_str(json).ok()?;
    all.get(step).map(|value| value.get())
}

/// `.a["b"][0]` as it is written, and its steps. A name that is called is no member.
fn steps(text: &str) -> (&str, Vec<&str>) {
    let (mut at, mut steps) = (0, Vec::new());
    while let Some(rest) = text.get(at..) {
        let (step, length) = if let Some(rest) = rest.strip_prefix('.') {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            if end == 0 || rest[end..].starts_with('(') {
                break;
            }
            (&rest[..end], end + 1)
        } else if let Some(rest) = rest.strip_prefix('[') {
            let Some(end) = rest.find(']') else { break };
            (rest[..end].trim_matches(|c| matches!(c, '"' | '\'')), end + 2)
        } else {
            break;
        };
        steps.push(step);
        at += length;
    }
    (&text[..at], steps)
}

fn cut(text: &str) -> String {
    let more = if text.chars().count() > VALUE_CHARS { "…" } else { "" };
    text.chars().take(VALUE_CHARS).chain(more.chars()).collect()
}

const VALUE_CHARS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::caller::Caller;

    #[test]
    fn parts_are_told_apart() {
        let check = |text: &str, want: &[&str]| assert_eq!(conjuncts(text), want, "{text}");
        check("a == 1", &["a == 1"]);
        check("a == 1 && b in [1, 2]&&c", &["a == 1", "b in [1, 2]", "c"]);
        check("a && (b && c)", &["a", "(b && c)"]);
        check(r#"a == "x && \" y" && b"#, &[r#"a == "x && \" y""#, "b"]);
        check("a && b || c", &["a && b || c"]);
        check("a && (b || c)", &["a", "(b || c)"]);
        check("x.all(y, y > 1 && y < 3) && z", &["x.all(y, y > 1 && y < 3)", "z"]);
    }

    #[test]
    fn values_are_those_of_the_call() {
        let caller =
            Caller { claims: std::sync::Arc::from(&br#"{"tenant":"a","g":["x"]}"#[..]), ..Caller::anonymous() };
        let args = br#"{"amount":600,"lines":[{"p/q":1.50}],"path":"/srv"}"#;
        let facts = Facts { caller: &caller, args: Some(args), task: None, tool: "", server: "", now_s: 0 };
        let check = |part: &str, want: &[(&str, &str)]| {
            let want: Vec<_> = want.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
            assert_eq!(values(part, &facts), want, "{part}");
        };
        check("args.amount <= 500", &[("args.amount", "600")]);
        check("args.tenant == claims.tenant", &[("claims.tenant", "\"a\"")]);
        check("args.lines[0][\"p/q\"] == 1", &[("args.lines[0][\"p/q\"]", "1.50")]);
        check("args.path.under(\"/srv/pub\")", &[("args.path", "\"/srv\"")]);
        check("\"x\" in claims.g && myargs.amount == 1", &[("claims.g", "[\"x\"]")]);
    }
}
