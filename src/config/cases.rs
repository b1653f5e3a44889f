//! Files beside the configuration, for whoever tries a policy out: tables of cases, and what servers offer.

use std::path::Path;

use jiff::Timestamp;

use crate::base::limits::{CASE_MS_MAX, CASE_REPEAT_MAX, CASES_MAX};
use crate::config::expand::Source;
use crate::config::fault::{Fault, Faults, Weight};
use crate::config::parts::policy_of;
use crate::config::raw::{self, Entry, Node, Value};
use crate::config::schema::{Key, Kind, Word};
use crate::config::shape::{self, join, quote, quoted};
use crate::config::stands::Stands;
use crate::policy::rule::PolicySet;

/// A table: rules, and what they must come to.
#[derive(Clone, Debug)]
pub struct Cases {
    /// The rules of the file; `None` where it has none: then they come from elsewhere.
    pub policy: Option<PolicySet>,
    /// What servers offer; `None` where the file does not say: then everything named is there.
    pub offers: Option<Vec<Offer>>,
    /// The cases, in the order of the file.
    pub cases: Vec<Case>,
    /// What its author should hear all the same.
    pub warnings: Vec<Fault>,
    /// Where the rules of the file stand.
    pub stands: Stands,
}

/// What one server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub server: String,
    /// Definitions of tools, each a JSON object.
    pub tools: Vec<Box<str>>,
    /// Definitions of prompts.
    pub prompts: Vec<Box<str>>,
}

/// Calls, one after the other, on counts of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it is called; `cases[3]` where it has no name.
    pub name: String,
    /// The line where it begins, from 1.
    pub line: usize,
    /// At least one.
    pub steps: Vec<Step>,
}

/// A call, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line where it begins, from 1.
    pub line: usize,
    /// Claims of the token, a JSON object; `None` for no token.
    pub claims: Option<Box<str>>,
    /// The task that is named.
    pub task: Option<Box<str>>,
    /// The server.
    pub server: Box<str>,
    /// What of it is called.
    pub target: Target,
    /// Its arguments, a JSON object.
    pub args: Option<Box<str>>,
    /// The session it is made in.
    pub session: Option<Box<str>>,
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
    /// So often, at least once.
    pub repeat: u64,
    /// What comes of it; `None` where that does not matter.
    pub expect: Option<Expect>,
    /// Whether it is on the list; `None` where that does not matter.
    pub listed: Option<bool>,
    /// The reason that is shown.
    pub reason: Option<Box<str>>,
    /// Rules that must be among those that decide.
    pub rules: Vec<Box<str>>,
    /// What the server does with it.
    pub outcome: Outcome,
    /// Whether a person has approved it.
    pub approved: bool,
    /// It only has to have happened: one of `after`.
    pub is_earlier: bool,
}

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A tool, by the server's own name.
    Tool(Box<str>),
    /// A prompt.
    Prompt(Box<str>),
    /// A resource, by its URI.
    Resource(Box<str>),
}

/// What comes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// It is let go.
    Permit,
    /// It is refused.
    Refuse,
    /// A person is asked.
    Pending,
}

/// What a server does with a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeds.
    #[default]
    Ok,
    /// It fails, or nobody knows.
    Error,
    /// It never gets there.
    Unsent,
}

impl Expect {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Refuse => "refuse",
            Self::Pending => "pending",
        }
    }
}

/// Reads a table. `folder` is where it lies.
///
/// # Errors
/// Every fault of the file, as [`super::load`].
pub fn cases(text: &str, folder: &Path, source: &dyn Source) -> Result<Cases, Vec<Fault>> {
    let mut root = raw::parse(text).map_err(|fault| vec![fault])?;
    let mut faults = Faults::default();
    let fits = shape::fit(&mut root, TABLE, text, (folder, source), &mut faults);
    let policy = (fits && (root.has("rules") || root.has("include"))).then(|| policy_of(text, folder, source, &BESIDE));
    let offers = root.get("tools").map(|node| Json { text, faults: &mut faults }.offers(node, "tools"));
    let cases = Reader { text, faults: &mut faults, moment: MOMENT_MS }.cases(&root);
    let (policy, mut told, stands) = match policy {
        Some(Ok(file)) => (Some(file.policy), file.warnings, file.stands),
        Some(Err(faults)) => (None, faults, Stands::default()),
        None => (None, Vec::new(), Stands::default()),
    };
    told.extend(faults.all());
    told.sort_by_key(|fault| (fault.file.as_ref().map_or(0, |file| file.number), fault.line, fault.column));
    if told.iter().any(|fault| fault.weight == Weight::Error) {
        return Err(told);
    }
    Ok(Cases { policy, offers, cases, warnings: told, stands })
}

/// Reads what servers offer: `server: [tool, …]`, each a name or a definition, or `server: { tools: […], prompts: […] }`,
/// as servers list them.
///
/// # Errors
/// Every fault of the file.
pub fn offers(text: &str) -> Result<Vec<Offer>, Vec<Fault>> {
    let root = raw::parse(text).map_err(|fault| vec![fault])?;
    let mut faults = Faults::default();
    let offers = Json { text, faults: &mut faults }.offers(&root, "");
    faults.finish().map(|_| offers)
}

struct Reader<'a, 'f> {
    text: &'a str,
    faults: &'f mut Faults,
    /// Where nothing else is said.
    moment: u64,
}

impl Reader<'_, '_> {
    fn cases(&mut self, root: &Node) -> Vec<Case> {
        let Some(node) = root.get("cases") else { return Vec::new() };
        if node.items().is_empty() || node.items().len() > CASES_MAX {
            self.faults.error(&node.at, "cases", format!("must be from 1 to {CASES_MAX} cases"), "");
            return Vec::new();
        }
        if let Some(now) = root.get("now") {
            self.moment = self.moment(now, "now").unwrap_or(self.moment);
        }
        let cases = node.items().iter().enumerate();
        cases.filter_map(|(index, case)| self.case(case, root, &format!("cases[{index}]"))).collect()
    }

    fn case(&mut self, node: &Node, root: &Node, path: &str) -> Option<Case> {
        let name = node.get("name").and_then(Node::text).unwrap_or(path).to_owned();
        let now = match node.get("now") {
            Some(now) => self.moment(now, &join(path, "now"))?,
            None => self.moment,
        };
        let above: &[&Node] = match root.get("defaults") {
            Some(defaults) => &[node, defaults],
            None => &[node],
        };
        let mut steps = Vec::new();
        let earlier = node.get("after").map_or(&[][..], Node::items);
        for (index, item) in earlier.iter().enumerate() {
            let path = format!("{path}.after[{index}]");
            let ago = item.get("ago").and_then(Node::amount).unwrap_or(AGO_MS);
            // Of a case only who it is: what is called, each says itself.
            let mut step = self.step(item, above, now.saturating_sub(ago), &path, true)?;
            step.is_earlier = true;
            step.expect = Some(Expect::Permit);
            steps.push(step);
        }
        // The order of time, and of the file where that is the same.
        steps.sort_by_key(|step| step.unix_ms);
        let calls = node.get("calls").map_or(&[][..], Node::items);
        let mut at = now;
        for (index, item) in calls.iter().enumerate() {
            let path = format!("{path}.calls[{index}]");
            at = at.saturating_add(item.get("wait").and_then(Node::amount).unwrap_or(0));
            let step = self.step(item, above, at, &path, false)?;
            self.expects(&step, item, &path);
            steps.push(step);
        }
        if calls.is_empty() {
            let step = self.step(node, &above[1..], now, path, false)?;
            self.expects(&step, node, path);
            steps.push(step);
        }
        Some(Case { name, line: node.at.line, steps })
    }

    fn expects(&mut self, step: &Step, node: &Node, path: &str) {
        if step.expect.is_none() && step.listed.is_none() && node.is_whole() && !node.has("expect") {
            let hint = "write `expect: permit`, `refuse` or `pending`, or `listed: true` or `false`";
            self.faults.error(&node.at, path, "expects nothing, so it could not fail", hint);
        }
    }

    /// A call. What `node` does not say, the first of `above` that does says; of `after` only who calls.
    fn step(&mut self, node: &Node, above: &[&Node], at: u64, path: &str, is_earlier: bool) -> Option<Step> {
        let own = |key: &str| node.get(key);
        let any = |key: &str| own(key).or_else(|| above.iter().find_map(|above| above.get(key)));
        let call = |key: &str| if is_earlier { own(key) } else { any(key) };
        let text = |node: Option<&Node>| node.and_then(Node::text).map(Box::from);
        let named = |node: &Node| TARGETS.iter().any(|key| node.has(key));
        // A target is one of three keys: the nearest that has any of them has it.
        let holder = if is_earlier || named(node) { Some(node) } else { above.iter().copied().find(|it| named(it)) };
        let target = self.target(holder.unwrap_or(node), path)?;
        let server = text(call("server").or_else(|| any("server")));
        let Some(server) = server else {
            self.faults.error(&node.at, path, "`server` is missing", "name the server: `server: docs`");
            return None;
        };
        let mut json = Json { text: self.text, faults: self.faults };
        let claims = any("claims").map(|node| json.object(node, &join(path, "claims")));
        let args = call("args").map(|node| json.object(node, &join(path, "args")));
        let rules = any("rule").into_iter().flat_map(|rule| match rule.text() {
            Some(one) => vec![Box::from(one)],
            None => rule.items().iter().filter_map(Node::text).map(Box::from).collect(),
        });
        Some(Step {
            line: node.at.line,
            claims: claims.flatten(),
            task: any("task").and_then(Node::text).filter(|task| !task.is_empty()).map(Box::from),
            server,
            target,
            args: args.flatten(),
            session: text(any("session")),
            unix_ms: at,
            repeat: call("repeat").and_then(Node::amount).unwrap_or(1),
            expect: call("expect").and_then(Node::text).and_then(expect),
            listed: call("listed").map(Node::is_true),
            reason: text(call("reason")),
            rules: if is_earlier { Vec::new() } else { rules.collect() },
            outcome: match call("outcome").and_then(Node::text) {
                Some("error") => Outcome::Error,
                Some("unsent") => Outcome::Unsent,
                _ => Outcome::Ok,
            },
            approved: call("approved").is_some_and(Node::is_true),
            is_earlier,
        })
    }

    fn target(&mut self, node: &Node, path: &str) -> Option<Target> {
        let text = |key| node.get(key).and_then(Node::text).map(Box::from);
        match (text("tool"), text("prompt"), text("resource")) {
            (Some(tool), None, None) => Some(Target::Tool(tool)),
            (None, Some(prompt), None) => Some(Target::Prompt(prompt)),
            (None, None, Some(uri)) => Some(Target::Resource(uri)),
            (None, None, None) if TARGETS.iter().any(|key| node.has(key)) => None,
            (None, None, None) => {
                self.faults.error(&node.at, path, "names no tool", "name one: `tool: search`");
                None
            }
            _ => {
                self.faults.error(&node.at, path, "names more than one of `tool`, `prompt` and `resource`", "");
                None
            }
        }
    }

    fn moment(&mut self, node: &Node, path: &str) -> Option<u64> {
        let text = node.text()?;
        let moment = text.parse::<Timestamp>().ok().and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
        if moment.is_none() {
            let message = format!("{} is not a moment", quoted(node));
            self.faults.error(&node.at, path, message, "write it as 2026-03-02T10:00:00Z or 2026-03-02T10:00:00+01:00");
        }
        moment
    }
}

fn expect(word: &str) -> Option<Expect> {
    [Expect::Permit, Expect::Refuse, Expect::Pending].into_iter().find(|expect| expect.word() == word)
}

/// YAML as JSON, numbers as they are written.
struct Json<'a, 'f> {
    text: &'a str,
    faults: &'f mut Faults,
}

impl Json<'_, '_> {
    /// An object; `null` is one without members. `None` where it is at fault.
    fn object(&mut self, node: &Node, path: &str) -> Option<Box<str>> {
        let mut out = String::new();
        match &node.value {
            Value::Null => out.push_str("{}"),
            Value::Block(_) => self.write(node, path, &mut out),
            _ => {
                self.faults.error(&node.at, path, "must be names and values", "");
                return None;
            }
        }
        Some(out.into())
    }

    fn write(&mut self, node: &Node, path: &str, out: &mut String) {
        match &node.value {
            Value::Null | Value::Bad => out.push_str("null"),
            Value::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Number(_) | Value::Amount(_) => self.number(node, path, out),
            // Larger than any float: it was read as none.
            Value::Text(text) if text != self.spelt(node) && is_number(self.spelt(node)) => {
                self.number(node, path, out)
            }
            Value::Text(text) => string(text, out),
            Value::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    self.write(item, &format!("{path}[{index}]"), out);
                }
                out.push(']');
            }
            Value::Block(block) => {
                out.push('{');
                for (index, Entry { key, key_at, node }) in block.entries.iter().enumerate() {
                    let here = join(path, key);
                    if block.entries[..index].iter().any(|before| before.key == *key) {
                        self.faults.error(key_at, &here, "stands twice", "keep one of them");
                        continue;
                    }
                    out.push_str(if index == 0 { "" } else { "," });
                    string(key, out);
                    out.push(':');
                    self.write(node, &here, out);
                }
                out.push('}');
            }
        }
    }

    fn spelt(&self, node: &Node) -> &str {
        self.text.get(node.spelt.clone()).unwrap_or_default().trim()
    }

    /// As the file spells it: nothing is rounded.
    fn number(&mut self, node: &Node, path: &str, out: &mut String) {
        let spelt = self.spelt(node);
        if is_number(spelt) {
            out.push_str(spelt);
            return;
        }
        let hint = "write it as JSON does: 12, 0.5, -3e2";
        self.faults.error(&node.at, path, format!("{} is not a number as JSON writes them", quote(spelt)), hint);
        out.push('0');
    }

    fn offers(&mut self, node: &Node, path: &str) -> Vec<Offer> {
        if !matches!(node.value, Value::Block(_)) {
            self.faults.error(&node.at, path, "must be servers, each with its tools", "write docs: [search, fetch]");
        }
        let servers = node.entries().iter();
        servers.map(|Entry { key, node, .. }| self.offer(key, node, &join(path, key))).collect()
    }

    fn offer(&mut self, server: &str, node: &Node, path: &str) -> Offer {
        let mut offer = Offer { server: server.to_owned(), ..Offer::default() };
        if let Value::Block(_) = node.value {
            // As `tools/list` and `prompts/list` answer; what else they say is no matter here.
            let list = |key: &str| node.get(key).map(|list| (list, join(path, key)));
            if let Some((list, path)) = list("tools") {
                offer.tools = self.definitions(list, &path, true);
            }
            if let Some((list, path)) = list("prompts") {
                offer.prompts = self.definitions(list, &path, false);
            }
            if !node.has("tools") && !node.has("prompts") {
                self.faults.error(&node.at, path, "has neither `tools` nor `prompts`", "");
            }
        } else {
            offer.tools = self.definitions(node, path, true);
        }
        offer
    }

    fn definitions(&mut self, node: &Node, path: &str, is_tool: bool) -> Vec<Box<str>> {
        if !matches!(node.value, Value::List(_)) {
            self.faults.error(&node.at, path, "must be a list", "each a name, or a definition as the server lists it");
        }
        let mut all = Vec::new();
        for (index, item) in node.items().iter().enumerate() {
            let path = format!("{path}[{index}]");
            let mut out = String::new();
            match (item.text(), item.get("name").and_then(Node::text)) {
                (Some(name), _) => {
                    out.push_str("{\"name\":");
                    string(name, &mut out);
                    out.push_str(if is_tool { ",\"inputSchema\":{\"type\":\"object\"}}" } else { "}" });
                }
                (None, Some(_)) => {
                    self.write(item, &path, &mut out);
                    if is_tool && !item.has("inputSchema") {
                        out.truncate(out.len() - 1);
                        out.push_str(",\"inputSchema\":{\"type\":\"object\"}}");
                    }
                }
                (None, None) => {
                    self.faults.error(&item.at, &path, "has no name", "write `name: search`");
                    continue;
                }
            }
            all.push(out.into());
        }
        all
    }
}

/// A number of JSON (RFC 8259, 6).
fn is_number(text: &str) -> bool {
    shape::is_decimal(text.strip_prefix('-').unwrap_or(text))
}

fn string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

const TARGETS: [&str; 3] = ["tool", "prompt", "resource"];

/// Monday, 5 January 2026, 12:00 UTC: a table must not come out differently tomorrow.
const MOMENT_MS: u64 = 1_767_614_400_000;
/// How long before a case its earlier calls were, where they do not say.
const AGO_MS: u64 = 1_000;

/// Keys of a table that are no part of its policy.
const BESIDE: [&str; 4] = ["tools", "now", "defaults", "cases"];

const TABLE: &[Key] = &[
    Key::new("rules", Kind::Any, "The rules, as in `policy.rules`. Left out: those of a configuration."),
    Key::new("tasks", Kind::Any, "The tasks, as in `policy.tasks`."),
    Key::new("rates", Kind::Any, "The rates, as in `policy.rates`."),
    Key::new("include", Kind::Any, "More files of tasks and rules, as in `policy.include`."),
    Key::new("claims", Kind::Any, "Types of claims, as in `auth.issuers[].claims`."),
    Key::new("tools", Kind::Any, "What servers offer. Left out: every tool that a case names is there."),
    Key::new("now", Kind::Text, "When the cases happen. Default: 2026-01-05T12:00:00Z, a Monday."),
    Key::new("defaults", Kind::Block(DEFAULTS), "What goes for every case that does not say otherwise."),
    Key::new("cases", Kind::List(&Kind::Block(CASE)), "What the rules must come to.")
        .required("write cases: [{ server: docs, tool: search, expect: permit }]"),
];

const DEFAULTS: &[Key] = &[CLAIMS, TASK, SERVER, TOOL, PROMPT, RESOURCE, ARGS, SESSION];

const CASE: &[Key] = &[
    Key::new("name", Kind::Text, "What it is called in a report."),
    CLAIMS,
    TASK,
    SERVER,
    TOOL,
    PROMPT,
    RESOURCE,
    ARGS,
    SESSION,
    Key::new("now", Kind::Text, "When it happens."),
    EXPECT,
    LISTED,
    REASON,
    RULES,
    REPEAT,
    OUTCOME,
    APPROVED,
    Key::new("after", Kind::List(&Kind::Block(EARLIER)), "Calls that were made, and permitted, before."),
    Key::new("calls", Kind::List(&Kind::Block(CALL)), "Calls one after the other; the case says what they share."),
];

const CALL: &[Key] = &[
    CLAIMS,
    TASK,
    SERVER,
    TOOL,
    PROMPT,
    RESOURCE,
    ARGS,
    SESSION,
    EXPECT,
    LISTED,
    REASON,
    RULES,
    REPEAT,
    OUTCOME,
    APPROVED,
    Key::new("wait", Kind::Duration(0, CASE_MS_MAX), "Since the call before. Default: `0s`."),
];

const EARLIER: &[Key] = &[
    CLAIMS,
    TASK,
    SERVER,
    TOOL,
    PROMPT,
    RESOURCE,
    ARGS,
    SESSION,
    REPEAT,
    OUTCOME,
    APPROVED,
    Key::new("ago", Kind::Duration(0, CASE_MS_MAX), "Before the case. Default: `1s`."),
];

const CLAIMS: Key = Key::new("claims", Kind::Any, "Claims of the token. Left out: no token.");
const TASK: Key = Key::new("task", Kind::Text, "The task that is named; empty: none, whatever the defaults say.");
const SERVER: Key = Key::new("server", Kind::Text, "The server.");
const TOOL: Key = Key::new("tool", Kind::Text, "The tool, by the server's own name.");
const PROMPT: Key = Key::new("prompt", Kind::Text, "Instead of a tool: the prompt.");
const RESOURCE: Key = Key::new("resource", Kind::Text, "Instead of a tool: the URI of the resource.");
const ARGS: Key = Key::new("args", Kind::Any, "The arguments.");
const SESSION: Key = Key::new("session", Kind::Text, "The session, by any name.");
const EXPECT: Key = Key::new(
    "expect",
    Kind::Word(&[
        Word::new("permit", "It is let go."),
        Word::new("refuse", "It is refused."),
        Word::new("pending", "A person is asked."),
    ]),
    "What comes of it.",
);
const LISTED: Key = Key::new("listed", Kind::Flag, "Whether the caller sees it on the list.");
const REASON: Key = Key::new("reason", Kind::Text, "The reason that the agent is shown.");
const RULES: Key = Key::new(
    "rule",
    Kind::Either(&[Kind::Text, Kind::List(&Kind::Text)]),
    "Rules that are among those that decide, by their ids.",
);
const REPEAT: Key = Key::new("repeat", Kind::Count(1, CASE_REPEAT_MAX), "So many times. Default: 1.");
const OUTCOME: Key = Key::new(
    "outcome",
    Kind::Word(&[
        Word::new("ok", "It succeeds."),
        Word::new("error", "It fails, or nobody knows."),
        Word::new("unsent", "It never reaches the server."),
    ]),
    "What the server does with it. Default: `ok`.",
);
const APPROVED: Key = Key::new("approved", Kind::Flag, "A person has approved just this. Default: `false`.");

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl Source for Nowhere {
        fn var(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &Path) -> std::io::Result<String> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    fn read(text: &str) -> Cases {
        let told = |faults: Vec<Fault>| faults.iter().map(|fault| fault.render("t", text)).collect::<String>();
        cases(text, Path::new("."), &Nowhere).map_err(told).unwrap()
    }

    #[test]
    fn values_are_as_they_are_written() {
        let check = |yaml: &str, want: &str| {
            let table = read(&format!("cases: [{{ server: s, tool: t, args: {yaml}, expect: permit }}]\n"));
            assert_eq!(table.cases[0].steps[0].args.as_deref(), Some(want), "{yaml}");
        };
        check("{ a: 1.50, b: -0.0, c: 1e400, d: 5e-1 }", r#"{"a":1.50,"b":-0.0,"c":1e400,"d":5e-1}"#);
        let long = "123456789012345678901234567890123456789012345678901234567890.5";
        check(&format!("{{ a: {long} }}"), &format!("{{\"a\":{long}}}"));
        check(
            "{ a: 99999999999999999999999999999999999999999999 }",
            r#"{"a":99999999999999999999999999999999999999999999}"#,
        );
        check("{ a: \"1\", b: [true, null, {}], \"c d\": 'x\"y' }", r#"{"a":"1","b":[true,null,{}],"c d":"x\"y"}"#);
        check("{ a: \"${HOME}\" }", r#"{"a":"${HOME}"}"#);
        check("null", "{}");
    }

    #[test]
    fn aliases_keep_their_numbers() {
        let text = "defaults: { server: s, tool: t }\ncases:\n  - { args: &a { n: 1.50 }, expect: permit }\n  - { args: *a, \
                    expect: refuse }\n";
        let table = read(text);
        assert_eq!(table.cases[1].steps[0].args.as_deref(), Some("{\"n\":1.50}"));
    }

    #[test]
    fn a_call_has_what_its_case_says() {
        let text = "\
defaults: { server: s, tool: t, claims: { sub: a }, task: x }
now: 2026-01-01T00:00:00Z
cases:
  - args: { n: 1 }
    after: [{ server: u, prompt: p, ago: 1m }, { tool: v, ago: 2m }]
    calls:
      - { wait: 1s, expect: permit }
      - { wait: 1s, args: { n: 2 }, resource: \"a:b\", repeat: 3, expect: refuse, listed: false }
  - { now: 1970-01-01T01:00:00+01:00, task: \"\", expect: pending }
";
        let table = read(text);
        let steps = &table.cases[0].steps;
        let base = 1_767_225_600_000;
        let times: Vec<u64> = steps.iter().map(|step| step.unix_ms).collect();
        assert_eq!(times, [base - 120_000, base - 60_000, base + 1_000, base + 2_000]);
        assert_eq!((&*steps[0].server, &steps[0].target), ("s", &Target::Tool("v".into())));
        assert_eq!((&*steps[1].server, &steps[1].target), ("u", &Target::Prompt("p".into())));
        assert_eq!(steps[0].args, None, "a case's arguments are its own");
        assert_eq!(steps[2].args.as_deref(), Some("{\"n\":1}"));
        assert_eq!(
            (&steps[3].target, steps[3].repeat, steps[3].listed),
            (&Target::Resource("a:b".into()), 3, Some(false))
        );
        assert!(
            steps
                .iter()
                .all(|step| step.task.as_deref() == Some("x") && step.claims.as_deref() == Some("{\"sub\":\"a\"}"))
        );
        assert!(steps[0].is_earlier && !steps[2].is_earlier);
        let last = &table.cases[1].steps[0];
        assert_eq!((last.unix_ms, last.task.as_deref(), last.expect), (0, None, Some(Expect::Pending)));
    }

    #[test]
    fn offers_are_names_or_definitions() {
        let text = "a: [x, { name: y, inputSchema: { type: object, maximum: 1.50 } }]\nb: { tools: [], prompts: [p], ttlMs: 5 }\n";
        let got = offers(text).unwrap();
        assert_eq!(&*got[0].tools[0], r#"{"name":"x","inputSchema":{"type":"object"}}"#);
        assert_eq!(&*got[0].tools[1], r#"{"name":"y","inputSchema":{"type":"object","maximum":1.50}}"#);
        assert_eq!((got[1].tools.len(), &*got[1].prompts[0]), (0, r#"{"name":"p"}"#));
        assert!(offers("a: 3\n").is_err() && offers("[a]\n").is_err() && offers("a: {}\n").is_err());
    }
}
