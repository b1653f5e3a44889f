//! What people decide over the admin listener: approvals, and revocations; and what they ask of the policy. Whoever has
//! the token of the state folder may look and decide; under which name, they say themselves. Each decision leaves a line
//! in the record.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::base::limits::REVOCATION_TEXT_BYTES_MAX;
use crate::gateway::control::Control;
use crate::http::head::Method;
use crate::identity::revoked::{Revocation, Target};
use crate::policy::approval::{ApprovalId, Decision, Shown, State, Undecided};
use crate::policy::rule::AskWhom;
use crate::review::live;
use crate::uring::wait::clock;

use super::approvals::Journal;
use super::log::Notes;
use super::pins::store::utc;
use super::revoke::{self, Done, Entry, Switch, SwitchFault};

/// What people may do here.
pub(super) struct People {
    pub(super) control: Arc<Control>,
    pub(super) switch: Switch,
    pub(super) journal: Arc<Journal>,
    pub(super) notes: Notes,
}

/// Status, and a JSON body.
pub(super) type Answer = (u16, String);

/// Whether a path is one of theirs.
pub(super) fn is_theirs(path: &[u8]) -> bool {
    path.starts_with(APPROVALS.as_bytes()) || [REVOCATIONS.as_bytes(), EXPLAIN.as_bytes()].contains(&path)
}

impl People {
    /// The answer to a request that has brought the token. It may take as long as a reload.
    pub(super) fn answer(&self, method: Method, path: &[u8], body: &[u8]) -> Answer {
        let path = str::from_utf8(path).unwrap_or_default();
        let steps: Vec<&str> = path.split('/').skip(1).collect();
        match (method, &steps[..]) {
            (Method::Get | Method::Head, ["approvals"]) => self.list(),
            (Method::Get | Method::Head, ["approvals", id]) => self.show(id),
            (Method::Post, ["approvals", id, "approve"]) => self.decide(id, true, body),
            (Method::Post, ["approvals", id, "deny"]) => self.decide(id, false, body),
            (Method::Get | Method::Head, ["revocations"]) => self.revoked(),
            (Method::Post, ["revocations"]) => self.revoke(body),
            (Method::Delete, ["revocations"]) => self.undo(body),
            (Method::Post, ["explain"]) => self.explain(body),
            _ => refused(404, WAYS),
        }
    }

    fn explain(&self, body: &[u8]) -> Answer {
        let snapshot = self.control.snapshot.load();
        let (status, said) = live::explain(&snapshot, &self.control.counts, clock(), body);
        answered(status, &said)
    }

    fn list(&self) -> Answer {
        let all = self.control.approvals.list(clock());
        let all: Vec<Card<'_>> = all.iter().map(|shown| Card::of(shown, false)).collect();
        answered(200, &Cards { approvals: all })
    }

    fn show(&self, id: &str) -> Answer {
        let shown = ApprovalId::parse(id).and_then(|id| self.control.approvals.show(id, clock()));
        match shown {
            Some(shown) => answered(200, &Card::of(&shown, true)),
            None => refused(404, &Undecided::Unknown.to_string()),
        }
    }

    fn decide(&self, id: &str, yes: bool, body: &[u8]) -> Answer {
        let Some(id) = ApprovalId::parse(id) else { return refused(404, &Undecided::Unknown.to_string()) };
        let word = match Word::read(body) {
            Ok(word) => word,
            Err(why) => return refused(400, &why),
        };
        let now = clock();
        let decision = Decision { yes, by: word.by.into(), note: word.note.map(Into::into), at_unix_ms: now.unix_ms };
        let decided = self.control.approvals.decide(id, decision, AskWhom::Person, now);
        let shown = match decided {
            Ok(shown) => shown,
            Err(why @ Undecided::Unknown) => return refused(404, &why.to_string()),
            Err(why @ Undecided::Unkept) => return refused(500, &why.to_string()),
            Err(why) => return refused(409, &why.to_string()),
        };
        // It holds already, and outlives the process; that it outlives the machine too is tried again if this fails.
        if let Err(error) = self.journal.sync() {
            tracing::error!("what was decided about {id} is not on the disk yet: {error}");
        }
        let card = Card::of(&shown, true);
        self.notes.admin(if yes { "approved" } else { "denied" }, card.record());
        answered(200, &card)
    }

    fn revoked(&self) -> Answer {
        answered(200, &revoke::to_json(&self.switch.now()))
    }

    fn revoke(&self, body: &[u8]) -> Answer {
        let wish = match Wish::read(body) {
            Ok(wish) => wish,
            Err(why) => return refused(400, &why),
        };
        let Wish { target, reason, by } = wish;
        let revocation =
            Revocation { target, reason: reason.map(Into::into), by: by.into(), at_unix_ms: clock().unix_ms };
        self.done("revoked", self.switch.revoke(revocation), None)
    }

    fn undo(&self, body: &[u8]) -> Answer {
        match Wish::read(body) {
            Ok(Wish { target, by, .. }) => self.done("undone", self.switch.undo(&target), Some(by)),
            Err(why) => refused(400, &why),
        }
    }

    /// `by`: who has undone it.
    fn done(&self, event: &'static str, done: Result<Done, SwitchFault>, by: Option<String>) -> Answer {
        let Done { revocation, changed, kept, behind } = match done {
            Ok(done) => done,
            Err(why @ SwitchFault::Unknown(_)) => return refused(404, &why.to_string()),
            Err(why @ SwitchFault::Revoke(_)) => return refused(422, &why.to_string()),
            Err(why) => return refused(500, &why.to_string()),
        };
        if changed {
            let Revocation { target, reason, by: revoked_by, .. } = &revocation;
            let mut detail = json!({
                "what": target.kind(), target.kind(): target.name(), "by": by.as_deref().unwrap_or(revoked_by),
                "reason": reason, "kept": kept, "shards_behind": behind,
            });
            if let Some(issuer) = target.issuer() {
                detail["issuer"] = issuer.into();
            }
            self.notes.admin(event, detail);
        }
        let said = json!({ event: Entry::of(&revocation), "changed": changed, "kept": kept, "shards_behind": behind });
        answered(if behind == 0 { 200 } else { 504 }, &said)
    }
}

/// An approval as it is shown.
#[derive(Serialize)]
struct Card<'a> {
    id: ApprovalId,
    state: &'static str,
    ask: &'static str,
    asked: String,
    until: String,
    until_ms: u64,
    issuer: &'a str,
    subject: &'a str,
    agent: Option<&'a str>,
    task: Option<&'a str>,
    server: &'a str,
    method: &'a str,
    name: &'a str,
    rule: &'a str,
    reason: Option<&'a str>,
    decision: Option<Decided<'a>>,
    arguments_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<&'a str>,
    /// As they came: no number is read and written again.
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Cards<'a> {
    approvals: Vec<Card<'a>>,
}

#[derive(Serialize)]
struct Decided<'a> {
    yes: bool,
    by: &'a str,
    note: Option<&'a str>,
    at: String,
}

impl<'a> Card<'a> {
    fn of(shown: &'a Shown, whole: bool) -> Self {
        let Shown { id, state, request, whom, asked_unix_ms, until_unix_ms, decision } = shown;
        let arguments = serde_json::from_str(&request.arguments).ok().filter(|_| whole);
        Self {
            id: *id,
            state: match state {
                State::Waiting => "waiting",
                State::Approved => "approved",
                State::Denied => "denied",
                State::Used => "used",
            },
            ask: if *whom == AskWhom::Elicit { "elicit" } else { "person" },
            asked: utc(*asked_unix_ms),
            until: utc(*until_unix_ms),
            until_ms: *until_unix_ms,
            issuer: &request.issuer,
            subject: &request.subject,
            agent: request.agent.as_deref(),
            task: request.task.as_deref(),
            server: &request.server,
            method: &request.method,
            name: &request.name,
            rule: &request.rule,
            reason: request.reason.as_deref(),
            decision: decision.as_ref().map(|decision| Decided {
                yes: decision.yes,
                by: &decision.by,
                note: decision.note.as_deref(),
                at: utc(decision.at_unix_ms),
            }),
            arguments_bytes: request.arguments.len(),
            definition: request.definition.as_deref().filter(|_| whole),
            arguments,
        }
    }

    /// What the record has of it: what was decided about whose call, without the arguments.
    fn record(&self) -> Value {
        let decided = self.decision.as_ref();
        json!({
            "approval": self.id, "by": decided.map(|it| it.by), "note": decided.and_then(|it| it.note),
            "issuer": self.issuer, "subject": self.subject, "agent": self.agent, "task": self.task,
            "server": self.server, "method": self.method, "name": self.name, "rule": self.rule, "until": self.until,
        })
    }
}

/// What comes with a decision.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Word {
    by: String,
    note: Option<String>,
}

impl Word {
    fn read(body: &[u8]) -> Result<Self, String> {
        let mut word: Self =
            if body.is_empty() { Self::default() } else { serde_json::from_slice(body).map_err(|e| e.to_string())? };
        word.by = signed(word.by)?;
        fits(word.note.as_deref(), "note")?;
        Ok(word)
    }
}

/// What is to be revoked, or no more.
struct Wish {
    target: Target,
    reason: Option<String>,
    by: String,
}

impl Wish {
    fn read(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            kind: String,
            #[serde(default)]
            name: String,
            issuer: Option<String>,
            reason: Option<String>,
            #[serde(default)]
            by: String,
        }
        let raw: Raw = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let target = match &*raw.kind {
            "token" if raw.issuer.is_none() => Some(Target::token(&raw.name).map_err(|fault| fault.to_string())?),
            "jti" if raw.issuer.is_none() => Some(Target::jti(&raw.name).map_err(|fault| fault.to_string())?),
            kind => Target::of(kind, &raw.name, raw.issuer.as_deref()),
        };
        let target = target.ok_or("'kind' is subject, agent, task, token, jti or all, with a 'name' (all: without)")?;
        Ok(Self { target, reason: raw.reason, by: signed(raw.by)? })
    }
}

/// Whose word it is, where nobody says.
fn signed(by: String) -> Result<String, String> {
    fits(Some(&by), "by")?;
    Ok(if by.is_empty() { "admin".to_owned() } else { by })
}

fn fits(text: Option<&str>, what: &str) -> Result<(), String> {
    if text.is_some_and(|text| text.len() > REVOCATION_TEXT_BYTES_MAX) {
        return Err(format!("'{what}' is longer than {REVOCATION_TEXT_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn answered(status: u16, said: &impl Serialize) -> Answer {
    match serde_json::to_string_pretty(said) {
        Ok(text) => (status, text + "\n"),
        Err(error) => refused(500, &error.to_string()),
    }
}

pub(super) fn refused(status: u16, why: &str) -> Answer {
    (status, format!("{:#}\n", json!({ "error": why })))
}

const APPROVALS: &str = "/approvals";
const REVOCATIONS: &str = "/revocations";
const EXPLAIN: &str = "/explain";
const WAYS: &str = "GET /approvals, /approvals/ID or /revocations; POST /approvals/ID/approve, /approvals/ID/deny, \
                    /revocations or /explain; DELETE /revocations";
