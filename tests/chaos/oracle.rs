//! The oracle itself: of a world in which all is well it says nothing, and of each way to break a promise it says which.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::json;

use crate::support::chaos::{Call, DOINGS, Doing, SERVINGS};
use crate::support::gateway::Setup;
use crate::support::http::Wire;
use crate::support::level::Level;
use crate::support::mcp::{Post, fresh};
use crate::support::oracle::{self, Claim, Due, End, Entry, Heard, Line};
use crate::support::upstream::Plan;

/// A permitted call that was answered, a refused one, and one whose client left.
struct World {
    lines: Vec<Line>,
    ledger: Vec<Entry>,
    claims: Vec<Claim>,
}

impl World {
    fn new() -> Self {
        let claim = |value: &str, tool: &str, due: Due, end: End| Claim {
            value: value.into(),
            subject: "ada".into(),
            agent: Some("agent".into()),
            task: Some("task".into()),
            server: "up".into(),
            tool: tool.into(),
            policy: Some("123456789abc".into()),
            due,
            end,
            took: Duration::from_millis(5),
            within: Duration::from_secs(1),
        };
        Self {
            lines: vec![
                decision(1, "yes", "echo", "permit"),
                outcome(1, "ok"),
                decision(2, "no", "secret", "refuse"),
                decision(3, "left", "echo", "permit"),
                outcome(3, "cancelled"),
            ],
            ledger: vec![entry("yes", "echo"), entry("left", "echo")],
            claims: vec![
                claim("yes", "echo", Due::Permit, End::Echo("yes".into())),
                claim("no", "secret", Due::Refusal, End::Refused),
                claim("left", "echo", Due::PermitOrNothing, End::Left),
                claim("never", "echo", Due::Nothing, End::Rejected(400)),
            ],
        }
    }

    fn faults(&self) -> Vec<String> {
        oracle::faults(&self.lines, &self.ledger, &self.claims)
    }
}

fn decision(seq: u64, trace: &str, tool: &str, verdict: &str) -> Line {
    let text = |text: &str| Some(text.to_owned());
    Line {
        kind: "decision".into(),
        seq,
        trace: text(trace),
        tool: text(tool),
        verdict: text(verdict),
        server: text("up"),
        subject: text("ada"),
        agent: text("agent"),
        task: text("task"),
        policy: text("123456789abc"),
        ..Line::default()
    }
}

fn outcome(seq: u64, status: &str) -> Line {
    Line { kind: "outcome".into(), seq, status: Some(status.into()), ..Line::default() }
}

fn entry(value: &str, tool: &str) -> Entry {
    Entry { server: "up".into(), tool: tool.into(), value: value.into() }
}

#[test]
fn a_world_in_which_all_is_well() {
    assert_eq!(World::new().faults(), Vec::<String>::new());
}

/// Each row breaks one promise in one way, and it is that promise that is said to be broken.
#[test]
fn each_broken_promise_is_noticed() {
    type Break = fn(&mut World);
    const ROWS: &[(&str, &str, Break)] = &[
        ("P1", "a call without a decision", |world| world.ledger.push(entry("new", "echo"))),
        ("P1", "a refused call", |world| world.ledger.push(entry("no", "secret"))),
        ("P1", "another tool's permit", |world| world.ledger[0].tool = "secret".into()),
        ("P1", "another server's permit", |world| world.ledger[0].server = "other".into()),
        ("P1", "another subject's permit", |world| world.lines[0].subject = Some("eve".into())),
        ("P1", "another agent's permit", |world| world.lines[0].agent = Some("agent-2".into())),
        ("P1", "another task's permit", |world| world.lines[0].task = None),
        ("P1", "another policy's permit", |world| world.lines[0].policy = Some("0123456789ab".into())),
        ("P1", "a permit of what was to be refused", |world| world.claims[0].due = Due::Refusal),
        ("P1", "a refusal of what was to be permitted", |world| world.claims[1].due = Due::Permit),
        ("P1", "a decision about what was no call", |world| world.claims[0].due = Due::Nothing),
        ("P2", "a call written twice", |world| world.ledger.push(entry("yes", "echo"))),
        ("P3", "another call's answer", |world| world.claims[0].end = End::Echo("left".into())),
        ("P3", "another call's id", |world| world.claims[1].end = End::Foreign("yes".into())),
        ("P3", "an answer out of nothing", |world| {
            world.ledger.remove(0);
        }),
        ("P4", "one number twice", |world| world.lines[2].seq = 1),
        ("P3", "another call's answer, on a stream that went on", |world| {
            world.claims[0].end = End::Resumed("left".into());
        }),
        ("P4", "an answer to what was taken back", |world| world.claims[0].end = End::TakenBack),
        ("P4", "no outcome", |world| {
            world.lines.remove(1);
        }),
        ("P4", "two outcomes", |world| world.lines.push(outcome(1, "ok"))),
        ("P4", "an outcome of a refusal", |world| world.lines.push(outcome(2, "ok"))),
        ("P4", "an outcome of nothing", |world| world.lines.push(outcome(9, "ok"))),
        ("P4", "an outcome that the client does not know of", |world| world.lines[1].status = Some("cut".into())),
        ("P4", "a refusal without a record", |world| {
            world.lines.remove(2);
        }),
        ("P4", "two permits of one call", |world| {
            world.lines.extend([decision(4, "yes", "echo", "permit"), outcome(4, "ok")]);
        }),
        ("P4", "two refusals of one call", |world| world.lines.push(decision(4, "no", "secret", "refuse"))),
        ("P5", "a call that hangs", |world| world.claims[2].end = End::Hung),
        ("P5", "a call that takes too long", |world| world.claims[0].took = Duration::from_secs(2)),
        ("P5", "a call that ends in nonsense", |world| world.claims[1].end = End::Garbled("x".into())),
    ];
    for (promise, what, change) in ROWS {
        let mut world = World::new();
        change(&mut world);
        let faults = world.faults();
        let named = faults.iter().any(|fault| fault.starts_with(&format!("[{promise}]")));
        assert!(named, "{what}: {faults:?}");
    }
}

/// What was said on streams, and heard there: each way to mix it up is noticed, and which it is.
#[test]
fn each_mix_up_is_noticed() {
    type Break = fn(&mut Vec<Heard>);
    const ROWS: &[(&str, &str, Break)] = &[
        ("", "nothing", |_| ()),
        ("", "less than all, where nobody heard the end", |heard| {
            heard.retain(|it| it.owner != "cut" || it.place == 0)
        }),
        ("P3", "somebody else's message", |heard| heard[0].of = "other".into()),
        ("P3", "a message that is nobody's", |heard| heard[0].of.clear()),
        ("P2", "a message twice", |heard| {
            let again = Heard { event: Some("again".into()), ..heard[1].clone() };
            heard.push(again);
        }),
        ("P2", "two events with one id", |heard| heard[0].event = heard[2].event.clone()),
        ("P7", "a message that is missing between others", |heard| drop(heard.remove(0))),
        ("P7", "a message that is missing at the end", |heard| heard.retain(|it| it.owner != "whole" || it.place == 0)),
        ("P7", "two in the wrong order", |heard| heard.swap(0, 1)),
    ];
    let said: HashMap<String, u64> = [("whole".into(), 2), ("cut".into(), 2)].into();
    let heard = |owner: &str, place: u64| {
        let event = Some(format!("{owner}-{place}"));
        Heard { owner: owner.into(), of: owner.into(), place, event }
    };
    for (promise, what, change) in ROWS {
        let mut all = vec![heard("whole", 0), heard("whole", 1), heard("cut", 0), heard("cut", 1)];
        change(&mut all);
        let faults = oracle::mixups(&said, &HashSet::from(["whole"]), &all);
        let named = faults.iter().any(|fault| fault.starts_with(&format!("[{promise}]")));
        assert_eq!(named, !promise.is_empty(), "{what}: {faults:?}");
        assert!(named || faults.is_empty(), "{what}: {faults:?}");
    }
}

/// The outcomes that a killed process did not write are unknown; those of one that was stopped, or still runs, are not.
#[test]
fn an_outcome_is_unknown_only_after_a_kill() {
    let life = |run: u64, event: &str| Line { run, kind: "life".into(), event: Some(event.into()), ..Line::default() };
    let of_run = |run: u64, line: Line| Line { run, ..line };
    let open = of_run(1, decision(1, "yes", "echo", "permit"));
    let faults = |lines: &[Line]| oracle::faults(lines, &[], &[]).len();
    assert_eq!(faults(&[life(1, "started"), open.clone()]), 1, "it still runs");
    assert_eq!(
        faults(&[life(1, "started"), open.clone(), life(1, "stopped"), life(2, "started")]),
        1,
        "it was stopped"
    );
    assert_eq!(faults(&[life(1, "started"), open.clone(), life(2, "started")]), 0, "it was killed");
    // Numbers start again with each process.
    let again = [of_run(2, decision(1, "other", "echo", "permit")), of_run(2, outcome(1, "ok"))];
    assert_eq!(faults(&[&[life(1, "started"), open, life(2, "started")][..], &again].concat()), 0);
}

/// [P6] What is held open is noticed, and when it is given back, that is too.
#[test]
fn a_level_is_a_level() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let before = Level::settled(&gateway);
    let mut wires: Vec<Wire> = (0..20).map(|_| Wire::to(gateway.address)).collect();
    for wire in &mut wires {
        let post = Post::call("echo");
        post.is_echoed(&wire.ask(&post.bytes(&gateway)));
    }
    let during = Level::of(&gateway);
    assert!(during.files >= before.files + wires.len(), "{before:?} {during:?}");
    assert!(before.threads > 1 && before.memory > 1 << 20 && before.children == 0, "{before:?}");
    drop(wires);
    before.comes_back(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What real clients know is joined with a real record.
#[test]
fn claims_are_joined() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let posts: Vec<Post> = (0..20).map(|_| Post::call("echo")).collect();
    let claim = |post: &Post| {
        let answer = post.to(&gateway).json();
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
        Claim::permitted(post, "anonymous", "up", "echo", End::Echo(text.into()))
    };
    let claims: Vec<Claim> = posts.iter().map(claim).collect();
    let records = oracle::check_claims(&gateway, &[("up", &upstream)], &claims);
    let lines = oracle::lines(&records);
    let told = |claims: &[Claim]| oracle::faults(&lines, &[], claims).len();
    let mut other = claims.clone();
    other[0].subject = "ada".into();
    assert!(told(&other) > told(&claims), "another subject");
    other[0].clone_from(&claims[0]);
    other[0].value = fresh();
    assert!(told(&other) > told(&claims), "another value");
    assert!(lines.iter().filter(|line| line.kind == "decision").all(|line| line.policy.is_some()));
    assert_eq!(json!(lines.iter().filter(|line| line.kind == "outcome").count()), json!(posts.len()));
}

/// Draws depend on seed and number alone, differ between numbers, and reach everything there is.
#[test]
fn draws_are_drawn_again() {
    let calls: Vec<Call> = (0..20_000).map(|number| Call::of(7, number)).collect();
    for call in calls.iter().step_by(97) {
        let again = Call::carrying(7, &call.value).expect("a value tells its call");
        assert_eq!(format!("{again:?}"), format!("{call:?}"));
        assert!(Call::carrying(8, &call.value).is_none(), "another seed has other values");
    }
    for doing in DOINGS.iter().map(|(doing, _)| *doing).chain([Doing::Pipelined]) {
        assert!(calls.iter().any(|call| call.doing == doing), "{doing:?}");
    }
    for (serving, _) in SERVINGS {
        assert!(calls.iter().any(|call| call.serving == *serving), "{serving:?}");
    }
    let differs = |other: &dyn Fn(&Call) -> String| {
        let mut all: Vec<String> = calls.iter().map(other).collect();
        all.sort();
        all.dedup();
        all.len()
    };
    assert_eq!(differs(&|call| call.value.clone()), calls.len());
    assert_eq!(differs(&|call| format!("{} {} {:?}", call.who, call.server, call.tool)), 5 * 3 * 6);
}
