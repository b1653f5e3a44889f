//! What rules say, for people.

use crate::policy::limit::{By, Limit, Party, Rate, RateOf, What};
use crate::policy::pattern::Pattern;
use crate::policy::rule::{AskWhom, Effect};

/// The word of an effect in the file.
pub(super) fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
        Effect::Approve => "approve",
    }
}

/// Who is asked, as the file says it.
pub(super) fn ask(ask: AskWhom) -> &'static str {
    match ask {
        AskWhom::Person => "person",
        AskWhom::Elicit => "elicit",
    }
}

/// A limit in a few words.
pub(super) fn limit(limit: &Limit) -> String {
    let what = match &limit.what {
        What::Calls { max, per_ms } => format!("{max} {}{}", if *max == 1 { "call" } else { "calls" }, per(*per_ms)),
        What::Sum { of, max, per_ms } => format!("sum of {} at most {max}{}", of.text(), per(*per_ms)),
        What::Concurrent { max } => format!("{max} at once"),
        What::Once { value, per_ms } => format!("each {} once{}", value.text(), per(*per_ms)),
        What::After { patterns, within_ms, same } => {
            let patterns: Vec<&str> = patterns.iter().map(Pattern::text).collect();
            let within = within_ms.map(|ms| format!(" within {}", duration(ms))).unwrap_or_default();
            let same = same.as_ref().map(|same| format!(" with the same {}", same.text())).unwrap_or_default();
            format!("after {}{within}{same}", patterns.join(" or "))
        }
    };
    format!("{what}{}", by(&limit.by))
}

/// A rate in a few words.
pub(super) fn rate(rate: &Rate) -> String {
    let what = match rate.what {
        RateOf::Calls { calls, per_ms, burst } => format!("{calls} calls in {}, burst {burst}", duration(per_ms)),
        RateOf::Concurrent(max) => format!("{max} at once"),
    };
    format!("{what}{}", by(&rate.by))
}

fn per(ms: Option<u64>) -> String {
    ms.map(|ms| format!(" in {}", duration(ms))).unwrap_or_default()
}

fn by(by: &By) -> String {
    let parties: Vec<&str> = by.0.iter().map(party).collect();
    if parties.is_empty() { String::new() } else { format!(" (by {})", parties.join(", ")) }
}

fn party(party: &Party) -> &str {
    match party {
        Party::Subject => "subject",
        Party::Agent => "agent",
        Party::Task => "task",
        Party::Session => "session",
        Party::Server => "server",
        Party::Tool => "tool",
        Party::Arg(path) | Party::Claim(path) => path.text(),
        Party::All => "all",
        Party::Address => "address",
        Party::Endpoint => "endpoint",
        Party::Method => "method",
    }
}

/// A duration as the file would say it.
pub(super) fn duration(ms: u64) -> String {
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let unit = units.into_iter().find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{ms}ms"), |(name, factor)| format!("{}{name}", ms / factor))
}

/// A text on one line of a terminal, with nothing in it that could move the cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) { '\u{fffd}' } else { c })
        .collect()
}

/// A number of things.
pub(super) fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}
