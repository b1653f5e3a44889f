//! Tables of cases, run: calls on counts and a clock of their own, decided as the gateway decides them.

use std::fmt::Write as _;

use ring::digest;

use crate::base::time::{Moment, Now};
use crate::config::cases::{Case, Expect, Outcome, Step, Target};
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::identity::token::Issuer;
use crate::ledger::counts::Counts;
use crate::policy::needs::Past;
use crate::review::answer::{Answer, target};
use crate::review::ask::Asked;
use crate::review::count::mark;
use crate::review::words::plain;
use crate::review::world::{CallerFault, World};

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What it is called.
    pub name: String,
    /// The line of the call that failed.
    pub line: usize,
    /// What is wrong, for people, with the explanation; several lines.
    pub text: String,
}

/// Runs one case. `issuers` say where claims stand.
///
/// # Errors
/// The first of its calls that comes out otherwise.
pub fn run(world: &World, issuers: &[Issuer], case: &Case) -> Result<(), Failed> {
    let start = case.steps.iter().map(|step| step.unix_ms).min().unwrap_or_default();
    let mut bench = Bench { world, issuers, start, counts: Counts::new(now(start, start)) };
    for step in &case.steps {
        for turn in 1..=step.repeat {
            bench.step(step, turn).map_err(|text| Failed { name: case.name.clone(), line: step.line, text })?;
        }
    }
    Ok(())
}

struct Bench<'a> {
    world: &'a World,
    issuers: &'a [Issuer],
    start: u64,
    counts: Counts,
}

impl Bench<'_> {
    fn step(&mut self, step: &Step, turn: u64) -> Result<(), String> {
        let found = self.world.caller(step.claims.as_deref(), self.issuers, step.task.as_deref());
        let (caller, task) = match found {
            Ok(found) => found,
            // Refused in front of every rule, and nothing is shown to whoever asks so.
            Err(CallerFault::Task { .. }) if step.expect != Some(Expect::Permit) && step.listed != Some(true) => {
                return Ok(());
            }
            Err(fault) => return Err(format!("{fault}\n")),
        };
        let now = now(self.start, step.unix_ms);
        let past = self.counts.past(now);
        let asked = asked(step, &caller, task, &past);
        let judged = match self.world.ask(&asked) {
            Ok(judged) => judged,
            Err(fault) => return Err(format!("{fault}\n")),
        };
        let mut answer = self.world.told(&judged, &step.target);
        let verdict = &judged.verdict;
        // As the gateway: counts first, then somebody's yes; both or none.
        let mut kept = None;
        if verdict.outcome.is_ok() {
            match self.counts.reserve(&verdict.needs, now) {
                Err(broken) => {
                    let (Target::Tool(name) | Target::Prompt(name) | Target::Resource(name)) = &step.target;
                    answer.refuse(&self.world.policy, &self.world.broken(&verdict.needs, &broken), name);
                    mark(&mut answer.limits, &verdict.needs, &broken);
                }
                Ok(taken) if verdict.asking.is_some() && !step.approved => self.counts.withdraw(&taken, now),
                Ok(taken) => {
                    answer.granted();
                    kept = Some(taken);
                }
            }
        }
        self.check(step, turn, &asked, &answer)?;
        if let Some(taken) = kept {
            match step.outcome {
                Outcome::Unsent => self.counts.give_back(&taken, now),
                Outcome::Error => {}
                Outcome::Ok => self.counts.note(&verdict.notes, now),
            }
            self.counts.ended(&taken);
        }
        Ok(())
    }

    /// Whether it came out as the table says.
    fn check(&self, step: &Step, turn: u64, asked: &Asked<'_>, answer: &Answer) -> Result<(), String> {
        let mut wrong = Vec::new();
        if let Some(expect) = step.expect.filter(|expect| *expect != answer.expect) {
            let what = if step.is_earlier { "an earlier call" } else { "it" };
            let (wanted, got) = (expect.word(), answer.expect.word());
            wrong.push(format!("{what} should come to {wanted}, and comes to {got}"));
        }
        if let Some(listed) = step.listed.filter(|listed| *listed != answer.listed) {
            let should = if listed { "be" } else { "not be" };
            wrong.push(format!("it should {should} on the list, and is{}", if listed { " not" } else { "" }));
        }
        if let Some(reason) = step.reason.as_deref().filter(|reason| answer.reason.as_deref() != Some(*reason)) {
            let got = answer.reason.as_deref().map_or_else(|| "none".to_owned(), |got| format!("`{got}`"));
            wrong.push(format!("the reason shown should be `{reason}`, and is {got}"));
        }
        for rule in &step.rules {
            if !answer.rules.iter().any(|id| **id == **rule) {
                let known = self.world.policy.rules().iter().any(|it| *it.id == **rule);
                let known = known || self.world.policy.rates().iter().any(|it| *it.id == **rule);
                let what = if known { "does not decide it" } else { "is no rule of this policy" };
                wrong.push(format!("`{rule}` {what}"));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let mut out = String::new();
        let turn = if step.repeat > 1 { format!(", call {turn} of {}", step.repeat) } else { String::new() };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}{turn}: {}", plain(&target(asked)), plain(&wrong.join("; ")));
        for line in answer.text(asked, step.task.as_deref()).lines() {
            let _ = writeln!(out, "  {line}");
        }
        Err(out)
    }
}

fn asked<'a>(step: &'a Step, caller: &'a Caller, task: ActiveTask, past: &'a dyn Past) -> Asked<'a> {
    Asked {
        caller,
        task,
        server: &step.server,
        target: &step.target,
        args: step.args.as_deref().filter(|_| !matches!(step.target, Target::Resource(_))),
        session: step.session.as_deref().map(session),
        unix_ms: step.unix_ms,
        past,
    }
}

/// A session of this name.
fn session(name: &str) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&digest::digest(&digest::SHA256, name.as_bytes()).as_ref()[..16]);
    id
}

/// A moment on the clock of a case.
fn now(start: u64, unix_ms: u64) -> Now {
    Now { mono: Moment::default().plus_ms(unix_ms.saturating_sub(start)), unix_ms }
}
