//! The slow twin: walks the rules as written and says why. It shares no index, bit or order of looking with the table;
//! `decide` is tested against it.

use std::sync::Arc;

use super::decide::{Question, Why};
use super::pattern::{About, Pattern};
use super::rule::{Effect, PolicySet};
use super::uri::Target;
use crate::base::ids::{RuleId, ServerId};
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::mcp::catalog::{Catalog, ListKind};
use crate::mcp::input::Ask;

/// An answer, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Yes, or why not: what `judge` answers.
    pub outcome: Result<(), Why>,
    /// What settled it.
    pub cause: Cause,
    /// All rules that settled it, in the order of the file.
    pub rules: Vec<RuleId>,
    /// Each rule of the policy, in the order of the file.
    pub steps: Vec<Step>,
}

/// What settles an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The server, or the tool or prompt, is in no catalogue.
    Unknown,
    /// The URI or template cannot be parsed.
    NotAUri,
    /// Forbidden without a reason.
    Forbidden,
    /// Forbidden with a reason.
    ForbiddenWithReason,
    /// No permit applies.
    Silence,
    /// A permit applies, and no forbid.
    Permitted,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub rule: RuleId,
    /// Whether it applies.
    pub standing: Standing,
}

/// Whether a rule applies, and if not, what is missing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does, by the pattern of this place.
    Applies(usize),
    /// None of its patterns is about this.
    OtherTarget,
    /// A pattern is, but its tasks are not active.
    OtherTask,
}

/// Answers `question` about `server` by asking each rule. `servers` and `catalog` are what the table was compiled with.
#[must_use]
pub fn explain(
    set: &PolicySet,
    servers: &[Arc<str>],
    catalog: &Catalog,
    caller: &Caller,
    task: ActiveTask,
    server: ServerId,
    question: Question<'_>,
) -> Explanation {
    let subject = match subject(servers, catalog, server, question) {
        Ok(subject) => subject,
        Err(cause) => {
            return Explanation { outcome: Err(Why::Hidden), cause, rules: Vec::new(), steps: Vec::new() };
        }
    };
    let mut steps = Vec::new();
    for (index, rule) in set.rules().iter().enumerate() {
        let place = rule.patterns.iter().position(|pattern| subject.is_meant(pattern, rule.effect));
        let standing = match place {
            None => Standing::OtherTarget,
            Some(_) if !rule.tasks_hold(caller, task) => Standing::OtherTask,
            Some(place) => Standing::Applies(place),
        };
        steps.push(Step { rule: RuleId::from_index(index), standing });
    }
    let applying = |effect, with_reason| {
        let applies = |step: &&Step| {
            let rule = set.rule(step.rule);
            matches!(step.standing, Standing::Applies(_))
                && rule.effect == effect
                && (effect == Effect::Permit || rule.reason.is_some() == with_reason)
        };
        steps.iter().filter(applies).map(|step| step.rule).collect::<Vec<_>>()
    };
    let is_list = matches!(question, Question::List(..) | Question::CompletePrompt(_) | Question::CompleteTemplate(_));
    let (silent, reasoned, permits) =
        (applying(Effect::Forbid, false), applying(Effect::Forbid, true), applying(Effect::Permit, false));
    let (outcome, cause, rules) = if !silent.is_empty() {
        (Err(Why::Hidden), Cause::Forbidden, silent)
    } else if permits.is_empty() {
        (Err(Why::Hidden), Cause::Silence, permits)
    } else if let (Some(&rule), false) = (reasoned.first(), is_list) {
        let reason = set.rule(rule).reason.clone();
        (Err(Why::Forbidden { rule, reason }), Cause::ForbiddenWithReason, reasoned)
    } else {
        (Ok(()), Cause::Permitted, permits)
    };
    Explanation { outcome, cause, rules, steps }
}

/// What a question is about, as patterns see it.
struct Subject<'a> {
    server: &'a str,
    about: Meant<'a>,
}

enum Meant<'a> {
    Tool(&'a str),
    Prompt(&'a str),
    Target(Target<'a>),
    Ask(Ask),
}

fn subject<'a>(
    servers: &'a [Arc<str>],
    catalog: &Catalog,
    server: ServerId,
    question: Question<'a>,
) -> Result<Subject<'a>, Cause> {
    let tool = |name| catalog.tool(server, name).map(|_| Meant::Tool(name)).ok_or(Cause::Unknown);
    let prompt = |name| catalog.prompt(server, name).map(|_| Meant::Prompt(name)).ok_or(Cause::Unknown);
    let resource = |uri| Target::resource(uri).map(Meant::Target).ok_or(Cause::NotAUri);
    let template = |uri| Target::template(uri).map(Meant::Target).ok_or(Cause::NotAUri);
    let name = servers.get(server.index()).ok_or(Cause::Unknown)?;
    let about = match question {
        Question::CallTool(name) | Question::List(ListKind::Tools, name) => tool(name),
        Question::GetPrompt(name) | Question::CompletePrompt(name) | Question::List(ListKind::Prompts, name) => {
            prompt(name)
        }
        Question::Read(uri) | Question::List(ListKind::Resources, uri) => resource(uri),
        Question::CompleteTemplate(uri) | Question::List(ListKind::Templates, uri) => template(uri),
        Question::Ask(ask) => Ok(Meant::Ask(ask)),
    }?;
    Ok(Subject { server: name, about })
}

impl Subject<'_> {
    fn is_meant(&self, pattern: &Pattern, effect: Effect) -> bool {
        if !pattern.has_server(self.server) {
            return false;
        }
        match (pattern.about(), &self.about) {
            (About::Tool(glob), Meant::Tool(name)) | (About::Prompt(glob), Meant::Prompt(name)) => glob.matches(name),
            (About::Resource(glob), Meant::Target(target)) => match effect {
                Effect::Permit => target.permitted_by(glob),
                Effect::Forbid | Effect::Approve => target.forbidden_by(glob),
            },
            (About::Ask(asked), Meant::Ask(ask)) => asked == ask,
            (About::NotTool, Meant::Prompt(_) | Meant::Target(_) | Meant::Ask(_)) => true,
            _ => false,
        }
    }
}
