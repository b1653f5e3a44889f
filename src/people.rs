//! Verbs by which people decide: `approvals` and `revoke`. What they show of calls was written by agents, and may try to
//! mislead: everything goes through `shown`.

use std::fmt::Write as _;
use std::io::Read as _;

use anyhow::{Context as _, bail};
use portcullis::identity::revoked::{Revocation, Revocations, RevokeFault, Target};
use portcullis::plane::PlaneFault;
use portcullis::plane::revoke::{self as file, SwitchFault};
use portcullis::uring::wait::clock;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cli::{self, ApprovalsVerb, Decide, Revoke, Signed, Steer};
use crate::shown::{cut, foreign, json as laid_out, plain};
use crate::steer::Gateway;

/// What the gateway says of an approval.
#[derive(Deserialize)]
struct Card {
    id: String,
    state: String,
    ask: String,
    asked: String,
    until: String,
    until_ms: u64,
    issuer: String,
    subject: String,
    agent: Option<String>,
    task: Option<String>,
    server: String,
    method: String,
    name: String,
    rule: String,
    reason: Option<String>,
    decision: Option<Decided>,
    arguments_bytes: usize,
    definition: Option<String>,
    arguments: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Decided {
    yes: bool,
    by: String,
    note: Option<String>,
    at: String,
}

#[derive(Deserialize)]
struct Cards {
    approvals: Vec<Box<RawValue>>,
}

/// `portcullis approvals`.
pub(crate) fn approvals(verb: &ApprovalsVerb) -> anyhow::Result<u8> {
    match verb {
        ApprovalsVerb::Ls { steer, all, json } => ls(steer, *all, *json),
        ApprovalsVerb::Show { id, steer, json } => {
            let text = match said(steer, "GET", &format!("/approvals/{}", id_of(id)?), "")? {
                Ok(text) => text,
                Err(code) => return Ok(code),
            };
            crate::print_all(&if *json { laid_out(&text) + "\n" } else { whole(&serde_json::from_str(&text)?) })?;
            Ok(cli::EXIT_OK)
        }
        ApprovalsVerb::Approve(decide) => self::decide(decide, "approve"),
        ApprovalsVerb::Deny(decide) => self::decide(decide, "deny"),
    }
}

fn ls(steer: &Steer, all: bool, as_json: bool) -> anyhow::Result<u8> {
    let text = match said(steer, "GET", "/approvals", "")? {
        Ok(text) => text,
        Err(code) => return Ok(code),
    };
    let mut raw: Vec<Box<RawValue>> = serde_json::from_str::<Cards>(&text)?.approvals;
    let card = |raw: &RawValue| serde_json::from_str::<Card>(raw.get());
    if !all {
        raw.retain(|raw| card(raw).is_ok_and(|card| card.state == "waiting"));
    }
    if as_json {
        let list: Vec<&str> = raw.iter().map(|raw| raw.get()).collect();
        crate::print_all(&(laid_out(&format!("[{}]", list.join(","))) + "\n"))?;
        return Ok(cli::EXIT_OK);
    }
    let mut rows = vec![["ID", "STATE", "ENDS", "WHO", "TASK", "WHAT", "RULE"].map(str::to_owned)];
    for raw in &raw {
        let card = card(raw)?;
        let who = card.agent.map_or_else(|| card.subject.clone(), |agent| format!("{} via {agent}", card.subject));
        let what = format!("{}{}", card.server, called(&card.method, &card.name));
        rows.push([
            cut(&card.id, 19),
            cut(&card.state, 8),
            left(card.until_ms),
            cut(&who, 32),
            cut(card.task.as_deref().unwrap_or("-"), 24),
            cut(&what, 48),
            cut(&card.rule, 32),
        ]);
    }
    if raw.is_empty() {
        eprintln!("nothing waits for an answer");
        return Ok(cli::EXIT_OK);
    }
    crate::print_all(&table(&rows))?;
    Ok(cli::EXIT_OK)
}

fn decide(decide: &Decide, verb: &str) -> anyhow::Result<u8> {
    let body = json!({ "by": decide.signed.name(), "note": decide.note }).to_string();
    let path = format!("/approvals/{}/{verb}", id_of(&decide.id)?);
    let text = match said(&decide.steer, "POST", &path, &body)? {
        Ok(text) => text,
        Err(code) => return Ok(code),
    };
    crate::print_all(&if decide.json { laid_out(&text) + "\n" } else { whole(&serde_json::from_str(&text)?) })?;
    Ok(cli::EXIT_OK)
}

/// An id as it may stand in a path.
fn id_of(id: &str) -> anyhow::Result<&str> {
    let fits = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !fits || id.is_empty() {
        bail!("{:?} is no id of an approval; 'portcullis approvals ls' shows them", plain(id));
    }
    Ok(id)
}

/// All there is to one, for whoever decides.
fn whole(card: &Card) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| _ = writeln!(out, "{name:<11}{}", plain(text));
    line("approval", &card.id);
    let ends = format!("until {} ({})", card.until, left(card.until_ms));
    match &card.decision {
        None => line("state", &format!("{}, {ends}", card.state)),
        Some(Decided { yes, by, note, at }) => {
            let word = if *yes { "approved" } else { "denied" };
            let used = if card.state == "used" { ", and used" } else { "" };
            line("state", &format!("{word} by {by}{used}; {ends}"));
            line("decided", at);
            note.iter().for_each(|note| line("note", note));
        }
    }
    line("asked", &format!("{}{}", card.asked, if card.ask == "elicit" { ", of the agent's own user" } else { "" }));
    let issuer = if card.issuer.is_empty() { "no token" } else { &card.issuer };
    line("subject", &format!("{} ({issuer})", card.subject));
    card.agent.iter().for_each(|agent| line("agent", agent));
    card.task.iter().for_each(|task| line("task", task));
    line("method", &card.method);
    line("server", &card.server);
    line("name", &card.name);
    card.definition.iter().for_each(|pin| line("definition", &format!("sha256 {pin}")));
    line("rule", &card.rule);
    card.reason.iter().for_each(|reason| line("reason", reason));
    match &card.arguments {
        None => line("arguments", "none"),
        Some(arguments) => {
            line("arguments", &format!("{} bytes, all of them:", card.arguments_bytes));
            laid_out(arguments.get()).lines().for_each(|text| _ = writeln!(out, "  {text}"));
            let letters = foreign(arguments.get());
            if !letters.is_empty() {
                let named: Vec<String> = letters
                    .iter()
                    .take(FOREIGN_MAX)
                    .map(|letter| format!("{letter} U+{:04X}", u32::from(*letter)))
                    .collect();
                let more = if letters.len() > FOREIGN_MAX { " and others" } else { "" };
                let _ = writeln!(
                    out,
                    "note       letters outside ASCII, which may look like others: {}{more}",
                    named.join(", ")
                );
            }
        }
    }
    out
}

/// Of a tool its name behind a slash, of what else there is behind an exclamation mark, as patterns are written.
fn called(method: &str, name: &str) -> String {
    match method {
        "tools/call" => format!("/{name}"),
        "prompts/get" => format!("!prompt:{name}"),
        _ => format!("!resource:{name}"),
    }
}

/// `portcullis revoke`.
pub(crate) fn revoke(revoke: &Revoke) -> anyhow::Result<u8> {
    if revoke.list {
        return list(revoke);
    }
    let target = match target(revoke)? {
        Ok(target) => target,
        Err(fault) => {
            eprintln!("error: NOT revoked: {fault}");
            return Ok(cli::EXIT_USAGE);
        }
    };
    let by = revoke.signed.name();
    let Some(gateway) = Gateway::anywhere(&revoke.steer)? else { return Ok(cli::EXIT_CONFIG) };
    if let Some(answer) = gateway.try_tell(if revoke.undo { "DELETE" } else { "POST" }, "/revocations", &{
        let mut body = json!({ "kind": target.kind(), "name": target.name(), "by": by });
        target.issuer().into_iter().for_each(|issuer| body["issuer"] = issuer.into());
        revoke.reason.iter().for_each(|reason| body["reason"] = (&**reason).into());
        body.to_string()
    })? {
        let (status, text) = answer;
        return told(revoke, status, &text);
    }
    // Nobody answers: where nobody has the state folder either, the file is all there is.
    let now = clock().unix_ms;
    let reason = revoke.reason.as_deref().map(Into::into);
    let revocation = Revocation { target: target.clone(), reason, by: by.into(), at_unix_ms: now };
    let done = file::offline(&gateway.state, |revoked| {
        if revoke.undo {
            return revoked.remove(&target).map(|_| true).ok_or_else(|| SwitchFault::Unknown(target.clone()));
        }
        Ok(revoked.add(revocation)?)
    });
    match done {
        Ok(changed) => {
            let word = if revoke.undo { "let in again" } else { "revoked" };
            let already = if changed { "" } else { ", as it was already" };
            eprintln!("{word}{already}: {}", plain(&target.to_string()));
            eprintln!("no gateway runs on {}: it holds from its next start on", gateway.state.display());
            if revoke.json {
                println!("{}", json!({ "changed": changed, "kept": true, "running": false }));
            }
            Ok(cli::EXIT_OK)
        }
        Err(SwitchFault::Plane(PlaneFault::StateTaken(_))) => {
            eprintln!(
                "error: NOT revoked: a gateway has {}, and its admin listener does not answer",
                gateway.state.display()
            );
            eprintln!("stop it, and say this again: what is written to the state folder holds from its next start on");
            Ok(cli::EXIT_UNHEALTHY)
        }
        Err(fault) => Err(fault.into()),
    }
}

/// What the gateway has said of a change.
fn told(revoke: &Revoke, status: u16, text: &str) -> anyhow::Result<u8> {
    let said: Value = serde_json::from_str(text).unwrap_or_default();
    if !matches!(status, 200 | 504) {
        bail!("{}", plain(said["error"].as_str().unwrap_or(text)));
    }
    if revoke.json {
        crate::print_all(&(laid_out(text) + "\n"))?;
    }
    let entry = if revoke.undo { &said["undone"] } else { &said["revoked"] };
    let what = named(entry);
    match (revoke.undo, said["changed"] == true) {
        (true, _) => eprintln!("let in again: {what}"),
        (false, true) => eprintln!("revoked: {what}; no call of it begins any more, and its streams end"),
        (false, false) => {
            let word = |name: &str| plain(entry[name].as_str().unwrap_or_default());
            eprintln!("revoked already, by {} at {}: {what}", word("by"), word("at"));
        }
    }
    let mut code = cli::EXIT_OK;
    if status == 504 {
        eprintln!("error: {} shard(s) have not taken it up yet: the machine may hang", said["shards_behind"]);
        code = cli::EXIT_FAILURE;
    }
    if said["kept"] == false {
        eprintln!("error: it is in force, but cannot be written to the state folder: a restart would forget it");
        code = cli::EXIT_FAILURE;
    }
    Ok(code)
}

fn list(revoke: &Revoke) -> anyhow::Result<u8> {
    let Some(gateway) = Gateway::anywhere(&revoke.steer)? else { return Ok(cli::EXIT_CONFIG) };
    let text = match gateway.try_tell("GET", "/revocations", "")? {
        Some((200, text)) => text,
        Some((status, text)) => bail!("the gateway answered {status}: {}", plain(text.trim())),
        None => offline_list(&file::read(&gateway.state)?),
    };
    if revoke.json {
        crate::print_all(&(laid_out(&text) + "\n"))?;
        return Ok(cli::EXIT_OK);
    }
    let said: Value = serde_json::from_str(&text)?;
    let mut rows = vec![["WHAT", "BY", "SINCE", "WHY"].map(str::to_owned)];
    for entry in said["revocations"].as_array().into_iter().flatten() {
        let word = |name: &str| plain(entry[name].as_str().unwrap_or_default());
        rows.push([named(entry), word("by"), word("at"), word("reason")]);
    }
    if rows.len() == 1 {
        eprintln!("nothing is revoked");
        return Ok(cli::EXIT_OK);
    }
    crate::print_all(&table(&rows))?;
    Ok(cli::EXIT_OK)
}

fn offline_list(revoked: &Revocations) -> String {
    file::to_json(revoked).to_string()
}

/// What a revocation is about, as it can be given again on the command line.
fn named(entry: &Value) -> String {
    let word = |name: &str| entry[name].as_str().map(plain);
    let mut out = word("kind").unwrap_or_default();
    word("name").iter().for_each(|name| _ = write!(out, " {name}"));
    word("issuer").iter().for_each(|issuer| _ = write!(out, " of {issuer}"));
    out
}

/// Whom the command line means. What is wrong with it never says what was given: that may be a token.
fn target(revoke: &Revoke) -> anyhow::Result<Result<Target, RevokeFault>> {
    let Revoke { subject, issuer, agent, task, token, jti, .. } = revoke;
    Ok(match (subject, agent, task, token, jti) {
        (Some(subject), ..) => {
            Ok(Target::Subject { issuer: issuer.as_deref().map(Into::into), subject: subject.as_str().into() })
        }
        (_, Some(agent), ..) => Ok(Target::Agent(agent.as_str().into())),
        (_, _, Some(task), ..) => Ok(Target::Task(task.as_str().into())),
        (.., Some(token), _) if token == "-" => {
            let mut text = String::new();
            std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text).context("cannot read standard input")?;
            Target::token(&text)
        }
        (.., Some(token), _) => Target::token(token),
        (.., Some(jti)) => Target::jti(jti),
        _ => Ok(Target::All),
    })
}

impl Signed {
    /// The name given, or the system's for whoever became root to say this, or for the process's user.
    fn name(&self) -> String {
        let given = self.name.clone().filter(|name| !name.is_empty());
        given.unwrap_or_else(|| {
            let uid = crate::user();
            let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let of = |line: &str| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
            };
            users.lines().find_map(of).unwrap_or_else(|| format!("uid {uid}"))
        })
    }
}

/// What a running gateway answers with 200; its own sentence is the error for everything else. The exit code where
/// nobody was asked, or nobody answers, which is said then.
fn said(steer: &Steer, method: &str, path: &str, body: &str) -> anyhow::Result<Result<String, u8>> {
    let Some(gateway) = Gateway::of(steer)? else { return Ok(Err(cli::EXIT_CONFIG)) };
    let Some((status, text)) = gateway.tell(method, path, body)? else { return Ok(Err(cli::EXIT_UNHEALTHY)) };
    if status == 200 {
        return Ok(Ok(text));
    }
    let said: Value = serde_json::from_str(&text).unwrap_or_default();
    bail!("{}", plain(said["error"].as_str().unwrap_or(&text)))
}

/// How long until then.
fn left(until_ms: u64) -> String {
    match until_ms.saturating_sub(clock().unix_ms) / 1000 {
        0 => "now".to_owned(),
        seconds @ 1..=119 => format!("in {seconds} s"),
        seconds @ 120..=7199 => format!("in {} min", seconds / 60),
        seconds => format!("in {} h", seconds / 3600),
    }
}

/// Rows whose columns line up.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

/// Letters outside of ASCII that are named.
const FOREIGN_MAX: usize = 16;
/// What is read of a token.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;
