//! Limits of rules, and rates: what is counted, how far, and whose count it is.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::limits::{LIMIT_PARTIES_MAX, NAME_BYTES_MAX, RATES_MAX, RULE_LIMITS_MAX};
use crate::config::argument;
use crate::config::fault::nearest;
use crate::config::parts::Part;
use crate::config::raw::Node;
use crate::config::rules::{Reader, written};
use crate::config::schema::{LIMIT_PARTIES, RATE_PARTIES};
use crate::config::shape::{alternatives, join, quoted};
use crate::mcp::method::{METHODS, Sender};
use crate::policy::cond::{Number, Purpose};
use crate::policy::limit::{By, Limit, Party, Rate, RateOf, What};
use crate::policy::pattern::{About, Pattern};
use crate::policy::rule::Effect;

impl<'a> Reader<'a> {
    /// The limits of a rule.
    pub(crate) fn limits(&mut self, rule: &'a Node, path: &str, effect: Effect, patterns: &[Pattern]) -> Vec<Limit> {
        let Some(node) = rule.get("limits") else {
            return Vec::new();
        };
        let path = join(path, "limits");
        if node.items().is_empty() || node.items().len() > RULE_LIMITS_MAX {
            let message = format!("expected 1 to {RULE_LIMITS_MAX} limits");
            self.faults.error(&node.at, &path, message, "leave it out for none");
        }
        let items = node.items().iter().enumerate();
        let read = |(index, item): (usize, &'a Node)| {
            let path = format!("{path}[{index}]");
            let limit = self.limit(item, &path, effect)?;
            self.never_after(item, &path, &limit, patterns);
            Some(limit)
        };
        items.filter_map(read).collect()
    }

    /// An `after` that no call can come before.
    fn never_after(&mut self, node: &Node, path: &str, limit: &Limit, rule: &[Pattern]) {
        let (What::After { patterns, .. }, Some(at)) = (&limit.what, node.get("after")) else { return };
        if patterns.iter().any(|pattern| matches!(pattern.about(), About::Ask(_))) {
            let message = "what a server asks of the client is not remembered, so nothing comes after it";
            self.faults.error(&at.at, &join(path, "after"), message, "name tools, prompts or resources");
        }
        let meet = |meet: fn(&Pattern, &Pattern) -> bool| {
            patterns.is_empty()
                || rule.is_empty()
                || rule.iter().any(|one| patterns.iter().any(|other| meet(one, other)))
        };
        let by = |party| limit.by.0.contains(&party);
        let apart = if by(Party::Server) && !meet(one_server) {
            "server"
        } else if by(Party::Tool) && !meet(one_target) {
            "tool"
        } else {
            return;
        };
        let message = format!("counts each {apart} alone, and no {apart} of this rule is one of its `after`");
        self.faults.error(&node.at, &join(path, "by"), message, "leave it out, or count by somebody else");
    }

    fn limit(&mut self, node: &'a Node, path: &str, effect: Effect) -> Option<Limit> {
        let kind = self.kind(node, path, &LIMITS)?;
        if kind != "after" && effect != Effect::Permit {
            let at = &written(node, kind)?.key_at;
            let message = format!("only a permit has `{kind}`; here stands `after` alone");
            self.faults.error(at, &join(path, kind), message, "write it on the permit beside this rule");
        }
        let per_ms = node.get("per").and_then(Node::amount);
        let by = self.by(node, path, kind == "once", false);
        let what = match kind {
            "calls" => What::Calls { max: node.get(kind)?.amount()?, per_ms },
            "sum" => What::Sum {
                of: self.condition(node.get(kind)?, &join(path, kind), Purpose::Sum)?,
                max: self.max(node, path)?,
                per_ms,
            },
            "concurrent" => What::Concurrent { max: small(node.get(kind)?)? },
            "once" => What::Once { value: self.condition(node.get(kind)?, &join(path, kind), Purpose::Value)?, per_ms },
            _ => {
                let patterns = self.pattern_or_list(node.get(kind)?, &join(path, kind));
                let same = node.get("same").and_then(|same| self.condition(same, &join(path, "same"), Purpose::Value));
                What::After { patterns, within_ms: node.get("within").and_then(Node::amount), same }
            }
        };
        Some(Limit { what, by: by? })
    }

    /// Which of these keys is there, the one that tells what is counted; and that all beside it belong to it.
    fn kind(&mut self, node: &Node, path: &str, kinds: &[Kind]) -> Option<&'static str> {
        let mut there = kinds.iter().filter_map(|kind| Some((kind, written(node, kind.name)?)));
        let Some((kind, _)) = there.next() else {
            if node.is_whole() {
                let names = kinds.iter().map(|kind| format!("`{}`", kind.name));
                let message = format!("counts nothing: it needs {}", alternatives(names.collect()));
                self.faults.error(&node.at, path, message, "write { calls: 20, per: 1h }");
            }
            return None;
        };
        for (other, entry) in there {
            let message = format!("one entry cannot have `{}` and `{}`", kind.name, other.name);
            self.faults.error(&entry.key_at, path, message, "make two of it");
        }
        for entry in node.entries() {
            let key = entry.key.as_str();
            let known = kinds.iter().any(|other| other.name == key) || kind.with.contains(&key);
            if known || !kinds.iter().any(|other| other.with.contains(&key)) {
                continue;
            }
            let of = kinds.iter().filter(|kind| kind.with.contains(&key)).map(|kind| format!("`{}`", kind.name));
            let message = format!("belongs to {}, not to `{}`", alternatives(of.collect()), kind.name);
            let hint = if (key, kind.name) == ("per", "after") { "how long ago it may be is its `within`" } else { "" };
            self.faults.error(&entry.key_at, &join(path, key), message, hint);
        }
        for (key, hint) in kind.needs {
            if !node.has(key) && node.is_whole() {
                let message = format!("`{}` needs its `{key}`", kind.name);
                self.faults.error(&node.at, path, message, *hint);
            }
        }
        Some(kind.name)
    }

    fn max(&mut self, node: &Node, path: &str) -> Option<Number> {
        let max = node.get("max")?;
        let number = Number::parse(max.text()?);
        if number.is_none() {
            self.faults.error(&max.at, &join(path, "max"), "has more than 38 digits", "");
        }
        number
    }

    /// Whose a count is: the subject's, where nothing is said; of `once`, everybody's.
    fn by(&mut self, node: &Node, path: &str, once: bool, rate: bool) -> Option<By> {
        let default = if once { Party::All } else { Party::Subject };
        if !node.has("by") {
            return Some(By(SmallVec::from_iter([default])));
        }
        let (node, path) = (node.get("by")?, join(path, "by"));
        let mut parties = SmallVec::new();
        let items = if node.text().is_some() { std::slice::from_ref(node) } else { node.items() };
        if items.is_empty() || items.len() > LIMIT_PARTIES_MAX {
            let message = format!("expected 1 to {LIMIT_PARTIES_MAX} owners");
            self.faults.error(&node.at, &path, message, "leave it out for the default");
        }
        for (index, item) in items.iter().enumerate() {
            let path = if node.text().is_some() { path.clone() } else { format!("{path}[{index}]") };
            let party = self.party(item, &path, rate)?;
            if parties.contains(&party) {
                self.faults.error(&item.at, &path, format!("{} stands twice", quoted(item)), "keep one of them");
            }
            parties.push(party);
        }
        Some(By(parties))
    }

    fn party(&mut self, item: &Node, path: &str, rate: bool) -> Option<Party> {
        let text = item.text()?;
        let words = if rate { RATE_PARTIES } else { LIMIT_PARTIES };
        let root = text.split(['.', '[']).next().unwrap_or_default();
        let purpose = match root {
            "args" if root != text => Some(Purpose::Value),
            "claims" if root != text && rate => Some(Purpose::Claim),
            _ => None,
        };
        if let Some(purpose) = purpose {
            if let Err(offset) = argument::steps(&text[root.len()..]) {
                let at = item.at.inside(self.text, text, root.len() + offset);
                let message = format!("is not a path like {root}.NAME or {root}[\"NAME\"]");
                self.faults.error(&at, path, message, "");
                return None;
            }
            let path = self.condition(item, path, purpose)?;
            return Some(if purpose == Purpose::Claim { Party::Claim(path) } else { Party::Arg(path) });
        }
        let party = owner(text).filter(|_| words.iter().any(|word| word.text == text));
        if party.is_none() {
            let elsewhere = owner(text).is_some() || (root == "claims" && root != text);
            let near = || nearest(text, words.iter().map(|word| word.text)).filter(|_| !item.foreign);
            let owners: Vec<&str> = words.iter().map(|word| word.text).collect();
            let path_too = if rate { "an args. or claims. path" } else { "an args. path" };
            let all = format!("one of {}, or {path_too}", owners.join(", "));
            let hint = if elsewhere { "only `policy.rates` has it".to_owned() } else { near().unwrap_or(all) };
            self.faults.error(&item.at, path, format!("no count is kept by {}", quoted(item)), hint);
        }
        party
    }

    /// The rates of a part.
    pub(crate) fn rates(&mut self, part: &'a Part<'_>) -> Vec<Rate> {
        let Some(node) = part.node.get("rates") else {
            return Vec::new();
        };
        self.text = part.text();
        self.faults.look_at(part.file.clone());
        let path = join(part.path, "rates");
        if node.items().len() > RATES_MAX {
            self.faults.error(&node.at, &path, format!("over {RATES_MAX} rates"), "");
            return Vec::new();
        }
        let mut out: Vec<Rate> = Vec::new();
        let mut ids = std::collections::HashSet::new();
        for (index, item) in node.items().iter().enumerate() {
            let path = format!("{path}[{index}]");
            let id = self.rate_id(item, &path, index);
            if !ids.insert(id.clone()) {
                // Without one of its own it is called by its place.
                let node = item.get("id").unwrap_or(item);
                self.faults.error(&node.at, &join(&path, "id"), format!("`{id}` is the id of another rate"), "");
            }
            out.extend(self.rate(item, &path, id));
        }
        out
    }

    fn rate_id(&mut self, node: &Node, path: &str, index: usize) -> Arc<str> {
        let Some((node, id)) = node.get("id").and_then(|node| Some((node, node.text()?))) else {
            return Arc::from(format!("rates[{index}]"));
        };
        if id.is_empty() || id.len() > NAME_BYTES_MAX || id.contains(char::is_control) {
            let message = format!("{} is not a rate's id", quoted(node));
            let hint = format!("1 to {NAME_BYTES_MAX} bytes, on one line");
            self.faults.error(&node.at, &join(path, "id"), message, hint);
        }
        Arc::from(id)
    }

    fn rate(&mut self, node: &'a Node, path: &str, id: Arc<str>) -> Option<Rate> {
        let kind = self.kind(node, path, &RATES);
        let on = node.get("on").map(|on| self.pattern_or_list(on, &join(path, "on"))).unwrap_or_default();
        let sent = |method: &&crate::mcp::method::Method| method.sender != Sender::Server;
        let methods: Vec<&str> = METHODS.iter().filter(sent).map(|method| method.wire).collect();
        let methods = self.names(node, path, ("method", "no method"), &methods);
        let endpoints = self.endpoints;
        let endpoints = self.names(node, path, ("endpoint", "no endpoint"), endpoints);
        let by = self.by(node, path, false, true);
        let what = match kind? {
            "calls" => {
                let calls = node.get("calls")?.amount()?;
                let burst = node.get("burst").and_then(Node::amount).unwrap_or(calls);
                RateOf::Calls { calls, per_ms: node.get("per")?.amount()?, burst }
            }
            _ => RateOf::Concurrent(small(node.get("concurrent")?)?),
        };
        Some(Rate { id, on, methods, endpoints, what, by: by? })
    }

    /// A name or a list of them, each one of `known` where those are known.
    fn names(&mut self, node: &Node, path: &str, (key, none): (&str, &str), known: &[&str]) -> Vec<Box<str>> {
        let Some(node) = node.get(key) else {
            return Vec::new();
        };
        let alone = node.text().is_some();
        let items = if alone { std::slice::from_ref(node) } else { node.items() };
        let path = join(path, key);
        if items.is_empty() {
            self.faults.error(&node.at, &path, "is empty", "leave it out for all");
        }
        for (index, item) in items.iter().enumerate() {
            let Some(name) = item.text() else { continue };
            if !known.is_empty() && !known.contains(&name) {
                let path = if alone { path.clone() } else { format!("{path}[{index}]") };
                let hint = nearest(name, known.iter().copied()).filter(|_| !item.foreign);
                self.faults.error(&item.at, &path, format!("{none} is called {}", quoted(item)), hint);
            }
        }
        items.iter().filter_map(Node::text).map(Box::from).collect()
    }
}

/// Whether some server is in both.
fn one_server(one: &Pattern, other: &Pattern) -> bool {
    one.server().overlaps(other.server())
}

/// Whether something that is counted alone may be in both.
fn one_target(one: &Pattern, other: &Pattern) -> bool {
    let met = match (one.about(), other.about()) {
        (About::Tool(one), About::Tool(other)) | (About::Prompt(one), About::Prompt(other)) => one.overlaps(other),
        // URIs meet in two forms.
        (About::Resource(_) | About::NotTool, About::Resource(_) | About::NotTool)
        | (About::Prompt(_), About::NotTool)
        | (About::NotTool, About::Prompt(_)) => true,
        _ => false,
    };
    met && one_server(one, other)
}

/// A key that tells what is counted.
struct Kind {
    name: &'static str,
    /// What may stand beside it.
    with: &'static [&'static str],
    /// What must, and how it is written.
    needs: &'static [(&'static str, &'static str)],
}

/// The owner that a word names.
fn owner(word: &str) -> Option<Party> {
    Some(match word {
        "subject" => Party::Subject,
        "agent" => Party::Agent,
        "task" => Party::Task,
        "session" => Party::Session,
        "server" => Party::Server,
        "tool" => Party::Tool,
        "all" => Party::All,
        "address" => Party::Address,
        "endpoint" => Party::Endpoint,
        "method" => Party::Method,
        _ => return None,
    })
}

fn small(node: &Node) -> Option<u32> {
    node.amount().and_then(|amount| u32::try_from(amount).ok())
}

const LIMITS: [Kind; 5] = [
    Kind { name: "calls", with: &["per", "by"], needs: &[] },
    Kind { name: "sum", with: &["max", "per", "by"], needs: &[("max", "write max: 5000")] },
    Kind { name: "concurrent", with: &["by"], needs: &[] },
    Kind { name: "once", with: &["per", "by"], needs: &[] },
    Kind { name: "after", with: &["within", "same", "by"], needs: &[] },
];

const RATES: [Kind; 2] = [
    Kind { name: "calls", with: &["per", "burst"], needs: &[("per", "write per: 1s")] },
    Kind { name: "concurrent", with: &[], needs: &[] },
];
