//! Tasks and rules.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::ids::TaskId;
use crate::base::limits::{NAME_BYTES_MAX, REASON_BYTES_MAX, RULES_MAX, TASKS_MAX};
use crate::config::fault::{Faults, nearest};
use crate::config::raw::{Entry, Node, Place};
use crate::config::servers::server_names;
use crate::config::shape::{join, quote, quoted};
use crate::identity::active::TaskNames;
use crate::policy::pattern::Pattern;
use crate::policy::rule::{Effect, PolicySet, Rule};

/// The policy. `text` is the whole file: faults of a pattern point into it.
pub(crate) fn policy(root: &Node, text: &str, faults: &mut Faults) -> PolicySet {
    let Some(node) = root.get("policy") else {
        if !root.has("policy") && !root.is_partial() {
            faults.warn(&START, "policy", "there is no policy, so everything is refused", OPEN);
        }
        return PolicySet::empty();
    };
    if !node.has("rules") && !node.is_partial() {
        faults.warn(&node.at, "policy", "there are no rules, so everything is refused", OPEN);
    }
    let tasks = tasks(node, faults);
    let mut reader = Reader { text, tasks: &tasks, servers: server_names(root), ids: HashMap::new(), faults };
    let rules = reader.rules(node);
    PolicySet::new(tasks, rules)
}

fn tasks(policy: &Node, faults: &mut Faults) -> TaskNames {
    let Some(node) = policy.get("tasks") else {
        return TaskNames::default();
    };
    if node.entries().len() > TASKS_MAX {
        faults.error(&node.at, "policy.tasks", format!("over {TASKS_MAX} tasks"), "");
        return TaskNames::default();
    }
    for Entry { key, key_at, .. } in node.entries() {
        // A task is named in a header and in a list with blanks between.
        let plain = key.bytes().all(|b| b.is_ascii_graphic() && b != b',');
        if key.is_empty() || !plain || key.len() > NAME_BYTES_MAX {
            let message = format!("{} is not a task's name", quote(key));
            let hint = format!("1 to {NAME_BYTES_MAX} visible ASCII characters, no blank, no comma");
            faults.error(key_at, &join("policy.tasks", key), message, hint);
        }
    }
    TaskNames::new(node.entries().iter().map(|entry| entry.key.as_str()))
}

struct Reader<'a> {
    text: &'a str,
    tasks: &'a TaskNames,
    servers: Vec<&'a str>,
    /// The ids so far, and their lines.
    ids: HashMap<&'a str, usize>,
    faults: &'a mut Faults,
}

impl<'a> Reader<'a> {
    fn rules(&mut self, policy: &'a Node) -> Vec<Rule> {
        let Some(node) = policy.get("rules") else {
            return Vec::new();
        };
        if node.items().len() > RULES_MAX {
            self.faults.error(&node.at, "policy.rules", format!("over {RULES_MAX} rules"), "");
            return Vec::new();
        }
        let rules = node.items().iter().enumerate();
        rules.filter_map(|(index, rule)| self.rule(rule, &format!("policy.rules[{index}]"))).collect()
    }

    fn rule(&mut self, node: &'a Node, path: &str) -> Option<Rule> {
        let id = self.id(node, path);
        let tasks = self.task_ids(node, path);
        let reason = self.reason(node, path);
        let effect = match (node.get("permit"), node.get("forbid")) {
            (Some(permit), None) => Some((Effect::Permit, "permit", permit)),
            (None, Some(forbid)) => Some((Effect::Forbid, "forbid", forbid)),
            (Some(permit), Some(forbid)) => {
                let hint = "make two rules of it";
                self.faults.error(&forbid.at, path, "one rule cannot `permit` and `forbid`", hint);
                self.patterns(permit, &join(path, "permit"));
                Some((Effect::Forbid, "forbid", forbid))
            }
            (None, None) => {
                if !node.has("permit") && !node.has("forbid") && node.is_whole() {
                    let hint = "write permit: [docs/search]";
                    self.faults.error(&node.at, path, "has neither `permit` nor `forbid`", hint);
                }
                None
            }
        };
        let (effect, key, patterns) = effect?;
        let patterns = self.patterns(patterns, &join(path, key));
        Some(Rule { id: id?, effect, patterns, tasks, reason, ..Rule::default() })
    }

    fn id(&mut self, node: &'a Node, path: &str) -> Option<Arc<str>> {
        let node = node.get("id")?;
        let (id, path) = (node.text()?, join(path, "id"));
        if id.is_empty() || id.len() > NAME_BYTES_MAX || id.contains(char::is_control) {
            let message = format!("{} is not a rule's id", quoted(node));
            self.faults.error(&node.at, &path, message, format!("1 to {NAME_BYTES_MAX} bytes, on one line"));
        } else if let Some(line) = self.ids.insert(id, node.at.line) {
            let message = format!("{} is the id of another rule, on line {line}", quoted(node));
            self.faults.error(&node.at, &path, message, "");
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

    fn patterns(&mut self, list: &Node, path: &str) -> Vec<Pattern> {
        if list.items().is_empty() {
            self.faults.error(&list.at, path, "is empty, so the rule would never apply", "\"*/*\" is every tool");
        }
        let mut out = Vec::with_capacity(list.items().len());
        for (index, item) in list.items().iter().enumerate() {
            let Some(text) = item.text() else { continue };
            let path = format!("{path}[{index}]");
            match Pattern::parse(text) {
                Ok(pattern) => {
                    self.unmatched(&pattern, item, &path);
                    out.push(pattern);
                }
                Err(fault) => {
                    let at = item.at.inside(self.text, text, fault.column - 1);
                    self.faults.error(&at, &path, fault.problem.to_string(), "");
                }
            }
        }
        out
    }

    /// Patterns cover what appears later, but servers appear only in this file.
    fn unmatched(&mut self, pattern: &Pattern, item: &Node, path: &str) {
        if self.servers.is_empty() || self.servers.iter().any(|server| pattern.has_server(server)) {
            return;
        }
        let server = pattern.text().split(['/', '!']).next().unwrap_or_default();
        let hint = nearest(server, self.servers.iter().copied()).filter(|_| !item.foreign);
        self.faults.warn(&item.at, path, format!("{} fits no server", quoted(item)), hint);
    }
}

const OPEN: &str = "to open it: policy: { rules: [{ id: open, permit: [\"*/*\"] }] }";
const START: Place = Place { line: 1, column: 1, spelt: 0..0 };
