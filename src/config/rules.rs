//! Rules: what each is about, what it does there, and when.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::ids::TaskId;
use crate::base::limits::{APPROVAL_MS, HEADS_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX, RULE_SCOPES_MAX, RULES_MAX};
use crate::config::fault::{Faults, Included, nearest};
use crate::config::parts::Part;
use crate::config::raw::{Entry, Node};
use crate::config::shape::{join, quoted};
use crate::config::stands::Stands;
use crate::identity::active::TaskNames;
use crate::policy::cond::{ClaimTypes, Condition, Purpose};
use crate::policy::pattern::Pattern;
use crate::policy::rule::{AskWhom, Effect, Mode, Rule};

/// Reads the rules and rates of a policy, one part after the other.
pub(crate) struct Reader<'a> {
    pub(crate) tasks: &'a TaskNames,
    /// The names of the servers; empty where they are not known.
    pub(crate) servers: &'a [&'a str],
    /// The paths of the endpoints; empty where they are not known.
    pub(crate) endpoints: &'a [&'a str],
    pub(crate) claims: &'a ClaimTypes,
    pub(crate) faults: &'a mut Faults,
    /// The text of the file that is read.
    pub(crate) text: &'a str,
    /// The ids of rules so far, and where they stand.
    ids: HashMap<&'a str, Stand>,
    rules: usize,
    /// Rules that were read well.
    whole: usize,
    pub(crate) stands: Stands,
    /// Each condition once, however many rules have it.
    conditions: HashMap<(Box<str>, Purpose), Arc<Condition>>,
    heads: usize,
}

/// Where something stands: a line of a file, `None` for the one that was read first.
pub(crate) type Stand = (usize, Option<Arc<Included>>);

/// Where something stands, for a message.
pub(crate) fn stand((line, file): &Stand) -> String {
    match file {
        Some(file) => format!("line {line} of {}", file.name),
        None => format!("line {line}"),
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        tasks: &'a TaskNames,
        (servers, endpoints): (&'a [&'a str], &'a [&'a str]),
        claims: &'a ClaimTypes,
        (faults, stands): (&'a mut Faults, Stands),
    ) -> Self {
        Self {
            tasks,
            servers,
            endpoints,
            claims,
            faults,
            text: "",
            ids: HashMap::new(),
            rules: 0,
            whole: 0,
            stands,
            conditions: HashMap::new(),
            heads: 0,
        }
    }

    /// The rules of a part, in their order.
    pub(crate) fn rules(&mut self, part: &'a Part<'_>) -> Vec<Rule> {
        let Some(node) = part.node.get("rules") else {
            return Vec::new();
        };
        self.text = part.text();
        self.faults.look_at(part.file.clone());
        let path = join(part.path, "rules");
        self.rules += node.items().len();
        if self.rules > RULES_MAX {
            self.faults.error(&node.at, &path, format!("over {RULES_MAX} rules"), "");
            return Vec::new();
        }
        let rules = node.items().iter().enumerate();
        let mut read = |(index, node): (usize, &'a Node)| {
            let path = format!("{path}[{index}]");
            let rule = self.rule(node, &path, part)?;
            self.stands.add(self.whole, node, &path, part.file.as_ref());
            self.whole += 1;
            Some(rule)
        };
        rules.filter_map(&mut read).collect()
    }

    fn rule(&mut self, node: &'a Node, path: &str, part: &Part<'_>) -> Option<Rule> {
        let id = self.id(node, path, part);
        let effect = self.effect(node, path);
        let default = Rule::default();
        let patterns = effect.map(|(_, key, list)| self.patterns(list, &join(path, key))).unwrap_or_default();
        let rule = Rule {
            id: id.unwrap_or_default(),
            effect: effect.map_or(Effect::Permit, |(effect, ..)| effect),
            tasks: self.task_ids(node, path),
            reason: self.reason(node, path),
            who: self.condition_at(node, path, "who", Purpose::Who),
            when: self.condition_at(node, path, "when", Purpose::When),
            scopes: self.scopes(node, path),
            limits: effect.map(|(effect, ..)| self.limits(node, path, effect, &patterns)).unwrap_or_default(),
            patterns,
            mode: if is_word(node, "mode", "shadow") { Mode::Shadow } else { Mode::Enforce },
            expires_ms: node.get("expires").and_then(Node::amount).unwrap_or(APPROVAL_MS),
            ask: if is_word(node, "ask", "elicit") { AskWhom::Elicit } else { default.ask },
        };
        let (effect, ..) = effect?;
        self.out_of_place(node, path, effect);
        // Whatever was wrong with it is told.
        (!rule.id.is_empty()).then_some(rule)
    }

    /// What the rule does, the key that says so, and its patterns.
    fn effect(&mut self, node: &'a Node, path: &str) -> Option<(Effect, &'static str, &'a Node)> {
        let mut written = EFFECTS.into_iter().filter_map(|(effect, key)| Some((effect, key, node.get(key)?)));
        let Some(first) = written.next() else {
            if !EFFECTS.into_iter().any(|(_, key)| node.has(key)) && node.is_whole() {
                let hint = "write permit: [docs/search]";
                self.faults.error(&node.at, path, "has neither `permit` nor `forbid` nor `approve`", hint);
            }
            return None;
        };
        for (_, key, list) in written {
            let message = format!("one rule cannot `{}` and `{key}`", first.1);
            self.faults.error(&list.at, path, message, "make two rules of it");
            self.patterns(list, &join(path, key));
        }
        Some(first)
    }

    /// Keys that say something about another effect than the rule's.
    fn out_of_place(&mut self, node: &Node, path: &str, effect: Effect) {
        for entry in node.entries() {
            let belongs = match entry.key.as_str() {
                "scopes" => Effect::Permit,
                "expires" | "ask" => Effect::Approve,
                _ => continue,
            };
            if belongs == effect {
                continue;
            }
            let (message, hint) = match belongs {
                Effect::Approve => ("only an `approve` asks somebody", "leave it out"),
                _ => ("only a `permit` asks for scopes", "write it on the permit beside this rule"),
            };
            self.faults.error(&entry.key_at, &join(path, &entry.key), message, hint);
        }
    }

    fn id(&mut self, node: &'a Node, path: &str, part: &Part<'_>) -> Option<Arc<str>> {
        let node = node.get("id")?;
        let (id, path) = (node.text()?, join(path, "id"));
        if id.is_empty() || id.len() > NAME_BYTES_MAX || id.contains(char::is_control) {
            let message = format!("{} is not a rule's id", quoted(node));
            self.faults.error(&node.at, &path, message, format!("1 to {NAME_BYTES_MAX} bytes, on one line"));
        } else if let Some(first) = self.ids.get(id) {
            let message = format!("{} is the id of another rule, on {}", quoted(node), stand(first));
            self.faults.error(&node.at, &path, message, "");
        } else {
            self.ids.insert(id, (node.at.line, part.file.clone()));
        }
        Some(Arc::from(id))
    }

    fn task_ids(&mut self, node: &Node, path: &str) -> Vec<TaskId> {
        let Some(node) = node.get("tasks") else {
            return Vec::new();
        };
        if node.items().is_empty() {
            let hint = "leave it out for always";
            self.faults.error(&node.at, &join(path, "tasks"), "is empty, so the rule would never apply", hint);
        }
        let mut out = Vec::new();
        for (index, item) in node.items().iter().enumerate() {
            let Some(name) = item.text() else { continue };
            if let Some(task) = self.tasks.id(name) {
                out.push(task);
                continue;
            }
            let near = nearest(name, self.tasks.iter().map(|(_, name)| &**name)).filter(|_| !item.foreign);
            let hint = near.or_else(|| Some("every task stands in `policy.tasks`".to_owned()));
            let path = format!("{path}.tasks[{index}]");
            self.faults.error(&item.at, &path, format!("no task is called {}", quoted(item)), hint);
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    fn reason(&mut self, node: &Node, path: &str) -> Option<Arc<str>> {
        let node = node.get("reason")?;
        let reason = node.text()?;
        if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX || reason.contains(char::is_control) {
            let message = format!("must be one sentence of at most {REASON_BYTES_MAX} bytes, on one line");
            self.faults.error(&node.at, &join(path, "reason"), message, "");
        }
        Some(Arc::from(reason))
    }

    /// Scopes as a challenge can name them (RFC 6749, 3.3).
    fn scopes(&mut self, node: &Node, path: &str) -> Vec<Box<str>> {
        let Some(node) = node.get("scopes") else {
            return Vec::new();
        };
        let path = join(path, "scopes");
        if node.items().is_empty() || node.items().len() > RULE_SCOPES_MAX {
            let message = format!("expected 1 to {RULE_SCOPES_MAX} scopes");
            self.faults.error(&node.at, &path, message, "leave it out for none");
        }
        let mut out: Vec<Box<str>> = Vec::new();
        for (index, item) in node.items().iter().enumerate() {
            let Some(scope) = item.text() else { continue };
            let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
            if scope.is_empty() || scope.len() > NAME_BYTES_MAX || !scope.bytes().all(plain) {
                let hint = format!("1 to {NAME_BYTES_MAX} visible ASCII characters, no blank, no \" and no \\");
                let message = format!("{} is not a scope", quoted(item));
                self.faults.error(&item.at, &format!("{path}[{index}]"), message, hint);
            }
            if !out.iter().any(|known| **known == *scope) {
                out.push(Box::from(scope));
            }
        }
        out
    }

    fn condition_at(&mut self, node: &Node, path: &str, key: &str, purpose: Purpose) -> Option<Arc<Condition>> {
        let condition = self.condition(node.get(key)?, &join(path, key), purpose)?;
        // Counted where it is new: `condition` has kept it, so it is shared by this rule and the reader alone.
        if purpose == Purpose::Who && Arc::strong_count(&condition) == 2 {
            self.heads += 1;
            if self.heads == HEADS_MAX + 1 {
                let message = format!("over {HEADS_MAX} different `who`, each of which is asked of every token");
                let node = node.get(key)?;
                self.faults.error(&node.at, &join(path, key), message, "give those tokens a task, or use `when`");
            }
        }
        Some(condition)
    }

    /// A condition or expression; its faults point into the text.
    pub(crate) fn condition(&mut self, node: &Node, path: &str, purpose: Purpose) -> Option<Arc<Condition>> {
        let text = node.text()?;
        if let Some(known) = self.conditions.get(&(Box::from(text), purpose)) {
            return Some(known.clone());
        }
        match Condition::parse(text, purpose, self.claims) {
            Ok(condition) => {
                let condition = Arc::new(condition);
                self.conditions.insert((Box::from(text), purpose), condition.clone());
                Some(condition)
            }
            Err(fault) if node.foreign => {
                let message = format!("at fault, at character {} of its value", fault.column);
                self.faults.error(&node.at, path, message, "");
                None
            }
            Err(fault) => {
                let at = node.at.inside(self.text, text, fault.column.saturating_sub(1));
                self.faults.error(&at, path, fault.problem, fault.hint.as_str());
                None
            }
        }
    }

    pub(crate) fn patterns(&mut self, list: &Node, path: &str) -> Vec<Pattern> {
        if list.items().is_empty() {
            self.faults.error(&list.at, path, "is empty, so the rule would never apply", "\"*/*\" is every tool");
        }
        let items = list.items().iter().enumerate();
        items.filter_map(|(index, item)| self.pattern(item, &format!("{path}[{index}]"))).collect()
    }

    /// One pattern, or a list of them.
    pub(crate) fn pattern_or_list(&mut self, node: &Node, path: &str) -> Vec<Pattern> {
        match node.text() {
            Some(_) => self.pattern(node, path).into_iter().collect(),
            None => self.patterns(node, path),
        }
    }

    fn pattern(&mut self, item: &Node, path: &str) -> Option<Pattern> {
        pattern(item, path, (self.text, self.servers), self.faults)
    }
}

/// A pattern, in a file of this text. Patterns cover what appears later, but servers appear only in the file: one that
/// fits none of them is a warning, where they are known.
pub(crate) fn pattern(
    item: &Node,
    path: &str,
    (file, servers): (&str, &[&str]),
    faults: &mut Faults,
) -> Option<Pattern> {
    let text = item.text()?;
    match Pattern::parse(text) {
        Ok(pattern) => {
            if !servers.is_empty() && !servers.iter().any(|server| pattern.has_server(server)) {
                let server = text.split(['/', '!']).next().unwrap_or_default();
                let hint = nearest(server, servers.iter().copied()).filter(|_| !item.foreign);
                faults.warn(&item.at, path, format!("{} fits no server", quoted(item)), hint);
            }
            Some(pattern)
        }
        Err(fault) => {
            let at = item.at.inside(file, text, fault.column - 1);
            faults.error(&at, path, fault.problem.to_string(), "");
            None
        }
    }
}

/// Whether `key` says `word`.
fn is_word(node: &Node, key: &str, word: &str) -> bool {
    node.get(key).and_then(Node::text) == Some(word)
}

/// A key that is written, be it at fault.
pub(crate) fn written<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    node.entries().iter().find(|entry| entry.key == key)
}

const EFFECTS: [(Effect, &str); 3] =
    [(Effect::Permit, "permit"), (Effect::Forbid, "forbid"), (Effect::Approve, "approve")];
