//! One question to a policy: the answer, and how it came about.

use std::sync::Arc;

use crate::base::ids::{RuleId, ServerId};
use crate::config::cases::{Expect, Target};
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::jsonrpc::{scan, text};
use crate::mcp::call::{Call, Given, read};
use crate::mcp::catalog::ListKind;
use crate::policy::cond::{Condition, Facts, Truth};
use crate::policy::decide::{Question, Scene, Verdict, Why, judge, judge_at};
use crate::policy::explain::{Inquiry, explain};
use crate::policy::needs::Past;
use crate::policy::rule::{Effect, Mode, Rule};
use crate::review::operand;
use crate::review::targets::{Of, Place};
use crate::review::world::World;

/// What is asked.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Who calls.
    pub caller: &'a Caller,
    /// What the call works on.
    pub task: ActiveTask,
    /// The server, by its name.
    pub server: &'a str,
    /// What of it is called.
    pub target: &'a Target,
    /// The arguments, JSON; `None` for none.
    pub args: Option<&'a str>,
    /// The session.
    pub session: Option<[u8; 16]>,
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
    /// What was before.
    pub past: &'a dyn Past,
}

/// Why a question cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskFault {
    /// The policy has no such server.
    #[error("there is no server `{0}`")]
    Server(String),
    /// The rules as they are compiled and as they are written do not come to the same: a fault of this program.
    #[error("the policy as compiled and as written come to different answers: please report this policy and call")]
    Twins,
    /// No client could send this.
    #[error("no call can be made of this: {0}")]
    Message(String),
}

/// What the rules come to, before anything is counted.
#[derive(Debug)]
pub struct Judged {
    /// What `policy` decides.
    pub verdict: Verdict,
    /// Whether lists show it.
    pub listed: bool,
    /// Of each rule that is about it, in the order of the file, how it stands.
    pub standings: Vec<Standing>,
}

/// How a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub rule: RuleId,
    /// Its id.
    pub id: Arc<str>,
    /// What it does.
    pub effect: Effect,
    /// It is in shadow.
    pub shadow: bool,
    /// Whether it applies.
    pub how: How,
}

/// Whether a rule applies, and if not, what is missing first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// It does.
    Applies,
    /// It does, since this could not be told: a forbid refuses, an approve refuses without asking.
    Closes(&'static str, Operand),
    /// Its tasks are not active.
    Task,
    /// Its `who` does not hold.
    Who(Operand),
    /// Its `when` does not hold.
    When(Operand),
    /// On a forbid or approve: no call that it waits for was made.
    After,
}

/// What of a condition does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// It cannot be told: something is missing, or of another type. Else it is false.
    pub unknown: bool,
    /// The part of the condition that settles it, as written.
    pub text: String,
    /// What it looks at, and what that is in this call.
    pub values: Vec<(String, String)>,
}

impl World {
    /// Asks.
    ///
    /// # Errors
    /// `AskFault`.
    pub fn ask(&self, asked: &Asked<'_>) -> Result<Judged, AskFault> {
        let server = self.servers.iter().position(|name| **name == *asked.server);
        let server = ServerId::from_index(server.ok_or_else(|| AskFault::Server(asked.server.to_owned()))?);
        let body = body(asked);
        let (call, method) = message(&body)?;
        let args = call.arguments.map(|span| span.of(&body));
        let scene = Scene {
            body: &body,
            unix_ms: asked.unix_ms,
            session: asked.session,
            address: None,
            endpoint: "",
            method,
            past: asked.past,
        };
        let (question, list) = match asked.target {
            Target::Tool(name) => (Question::CallTool(name), Question::List(ListKind::Tools, name)),
            Target::Prompt(name) => (Question::GetPrompt(name), Question::List(ListKind::Prompts, name)),
            Target::Resource(uri) => (Question::Read(uri), Question::List(ListKind::Resources, uri)),
        };
        let (caller, task) = (asked.caller, asked.task);
        let verdict = judge_at(&self.table, caller, task, server, question, args, &scene);
        let listed = judge(&self.table, caller, task, server, list).outcome.is_ok();
        let inquiry = Inquiry {
            set: &self.policy,
            servers: &self.servers,
            catalog: &self.catalog,
            dead: self.table.dead_paths(),
            caller,
            task,
            server,
            question,
            arguments: args,
            scene: Some(&scene),
            earlier: &[],
        };
        self.agrees(&inquiry, list, &verdict, listed)?;
        let standings = self.standings(asked, args, &verdict);
        Ok(Judged { verdict, listed, standings })
    }

    /// Whether the slow twin says the same. It does not know what was before, so it is not asked where a forbid or approve
    /// waits for that.
    fn agrees(
        &self,
        inquiry: &Inquiry<'_>,
        list: Question<'_>,
        verdict: &Verdict,
        listed: bool,
    ) -> Result<(), AskFault> {
        if self.policy.rules().iter().any(|rule| rule.effect != Effect::Permit && !rule.limits.is_empty()) {
            return Ok(());
        }
        let same = explain(inquiry).outcome == verdict.outcome;
        let on_list = explain(&Inquiry { question: list, arguments: None, scene: None, ..*inquiry }).outcome.is_ok();
        if same && on_list == listed { Ok(()) } else { Err(AskFault::Twins) }
    }

    fn standings(&self, asked: &Asked<'_>, args: Option<&[u8]>, verdict: &Verdict) -> Vec<Standing> {
        let (tool, of) = match asked.target {
            Target::Tool(name) => (&**name, Of::Tool(name.clone())),
            Target::Prompt(name) => (&**name, Of::Prompt(name.clone())),
            Target::Resource(uri) => ("", Of::Resource(uri.clone())),
        };
        let place = Place { server: Arc::from(asked.server), of };
        let task = match asked.task {
            ActiveTask::One(task) => Some(self.policy.tasks().name(task)),
            ActiveTask::None | ActiveTask::Several => None,
        };
        let facts = Facts { caller: asked.caller, args, task, tool, server: asked.server, now_s: asked.unix_ms / 1000 };
        let rules = self.policy.rules().iter().enumerate().filter(|(_, rule)| place.is_meant(rule));
        rules
            .map(|(index, rule)| {
                let id = RuleId::from_index(index);
                let settles = verdict.rules.contains(&id);
                let how = how(rule, asked, &facts, settles);
                let shadow = rule.mode == Mode::Shadow;
                Standing { rule: id, id: rule.id.clone(), effect: rule.effect, shadow, how }
            })
            .collect()
    }
}

impl Judged {
    /// What the rules come to.
    #[must_use]
    pub fn expect(&self) -> Expect {
        match (&self.verdict.outcome, &self.verdict.asking) {
            (Err(Why::Pending { .. }), _) | (Ok(()), Some(_)) => Expect::Pending,
            (Ok(()), None) => Expect::Permit,
            (Err(_), _) => Expect::Refuse,
        }
    }
}

fn how(rule: &Rule, asked: &Asked<'_>, facts: &Facts<'_>, settles: bool) -> How {
    if !rule.tasks_hold(asked.caller, asked.task) {
        return How::Task;
    }
    // What cannot be told applies where that closes the door.
    let closes = rule.effect != Effect::Permit;
    let mut closing = None;
    for (cond, key, how) in [(&rule.who, "who", How::Who as fn(Operand) -> How), (&rule.when, "when", How::When)] {
        let Some(cond) = cond else { continue };
        match cond.truth(facts, 0) {
            Truth::True => {}
            Truth::Unknown if closes => {
                closing = closing.or_else(|| Some(How::Closes(key, operand(cond, Truth::Unknown, facts))));
            }
            truth => return how(operand(cond, truth, facts)),
        }
    }
    // Of a forbid's or approve's limits there are only earlier calls.
    if closes && !rule.limits.is_empty() && !settles && rule.mode == Mode::Enforce {
        return How::After;
    }
    closing.unwrap_or(How::Applies)
}

fn operand(cond: &Condition, truth: Truth, facts: &Facts<'_>) -> Operand {
    let unknown = truth == Truth::Unknown;
    let part = if unknown { cond.unknown(facts, 0).map(str::to_owned) } else { operand::failing(cond, facts) };
    let values = if unknown { Vec::new() } else { operand::values(part.as_deref().unwrap_or(cond.text()), facts) };
    Operand { unknown, text: part.unwrap_or_else(|| cond.text().to_owned()), values }
}

/// The call as a client would send it: what the scanner refuses, no rule ever sees.
fn body(asked: &Asked<'_>) -> Vec<u8> {
    let (method, member, name) = match asked.target {
        Target::Tool(name) => ("tools/call", "name", name),
        Target::Prompt(name) => ("prompts/get", "name", name),
        Target::Resource(uri) => ("resources/read", "uri", uri),
    };
    let mut body =
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{{\"{member}\":").into_bytes();
    text::write_string(&mut body, name);
    if let Some(args) = asked.args {
        body.extend_from_slice(b",\"arguments\":");
        body.extend_from_slice(args.as_bytes());
    }
    body.extend_from_slice(b"}}");
    body
}

fn message(body: &[u8]) -> Result<(Call, &'static str), AskFault> {
    let envelope = scan::read(body).map_err(|fault| AskFault::Message(fault.to_string()))?;
    let call = read(&Given::default(), body, &envelope).map_err(|fault| AskFault::Message(fault.to_string()))?;
    let method = call.method.map_or("", |method| method.wire);
    Ok((call, method))
}
