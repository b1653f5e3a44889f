//! The runs. Each call is drawn from the seed and its number; the servers do to it what was drawn, its client behaves as
//! was drawn, and in the end everybody's knowledge is joined. To replay one: `PORTCULLIS_CHAOS_SEED` as printed, and
//! `PORTCULLIS_CHAOS_CALLS` (20,000 by default; by hand 200,000 make a few minutes).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use crate::support::chaos::{BLOCK, Call, DOINGS, Doing, SERVERS, Serving, TIMEOUT, Verdict, calls, seed};
use crate::support::chaos_client::Clients;
use crate::support::chaos_server::Servers;
use crate::support::gateway::{Gateway, PATIENCE, Setup};
use crate::support::http::Wire;
use crate::support::level::Level;
use crate::support::oracle::{self, Claim, Due, End, Entry, Line};

/// [P1] [P2] [P3] [P4] [P5] [P6] The long run, on one shard.
#[test]
fn everything_goes_wrong_at_once() {
    run("one shard", calls(), |setup| setup);
}

/// [P1] [P2] [P3] [P4] [P5] [P6] The same on two shards.
#[test]
fn on_two_shards() {
    run("two shards", calls() / 10, |setup| setup.shards(2));
}

/// [P1] [P2] [P3] [P4] [P5] [P6] The same on epoll, for machines without io_uring.
#[test]
fn on_epoll() {
    run("epoll", calls() / 10, |setup| setup.flag("--driver=epoll"));
}

fn run(name: &str, calls: u64, change: impl FnOnce(Setup) -> Setup) {
    let seed = seed();
    let calls = calls.next_multiple_of(BLOCK);
    let replay = format!("replay with PORTCULLIS_CHAOS_SEED={seed} PORTCULLIS_CHAOS_CALLS={calls}");
    println!("{name}: {calls} calls; {replay}");
    let servers = Servers::start(seed);
    let mut gateway = change(setup(&servers)).start();
    let policy = policy(&gateway);
    let clients = Clients::new(seed, &gateway, Some(policy.clone()), 0..calls);
    assert_ready(&gateway);
    let before = Level::settled(&gateway);
    let begun = Instant::now();
    let mut claims = clients.run(CLIENTS);
    let took = begun.elapsed();

    claims.extend(healthy(&gateway, &clients, seed, calls));
    before.comes_back_within(&gateway, MEMORY_KEPT_BYTES);
    let after = Level::of(&gateway);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0), "{replay}");

    let lines = record(&gateway);
    let ledger = servers.ledger();
    let mut faults = oracle::faults(&lines, &ledger, &claims);
    faults.extend(manners(seed, &claims, &ledger, &lines));
    let told = told(seed, &claims, &lines, &servers);
    println!("{name}: {calls} calls in {took:.1?}; {before:?} became {after:?}\n{told}");
    assert!(faults.is_empty(), "{replay}; the first of {} faults:\n{}", faults.len(), shown(seed, &faults));
    if calls >= CALLS_FOR_ALL {
        met_everything(seed, &claims, &servers, &lines);
    }
}

/// Three servers, two tasks, a hidden tool and a forbidden one; everybody needs a token.
fn setup(servers: &Servers) -> Setup {
    let mut setup = Setup::new()
        .tokens("deny")
        .task("research")
        .task("support")
        .rule(json!({ "id": "everyone", "permit": ["*/echo", "*/frozen"] }))
        .rule(json!({ "id": "research", "tasks": ["research"], "permit": ["*/read"] }))
        .rule(json!({ "id": "support", "tasks": ["support"], "permit": ["*/refund"] }))
        .rule(json!({ "id": "freeze", "forbid": ["*/frozen"], "reason": "Frozen until the audit is over." }))
        .set("/limits/body", json!("256KiB"));
    for (server, name) in SERVERS.iter().enumerate() {
        setup = setup.server(name, &servers.url(server));
        setup = setup.set(&format!("/servers/{name}/timeout"), json!(format!("{}ms", TIMEOUT.as_millis())));
        // So many faults in a row are bad luck here.
        setup = setup.set(&format!("/servers/{name}/health"), json!({ "failures": 1_000 }));
    }
    setup
}

/// The first six bytes of the policy's hash, as the start screen and every decision name them.
fn policy(gateway: &Gateway) -> String {
    let word = |word: &&str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let line = gateway.banner.lines().find(|line| line.contains("policy")).unwrap_or_default();
    let words: Vec<&str> = line.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    words.into_iter().find(word).unwrap_or_else(|| panic!("no policy: {}", gateway.banner)).to_owned()
}

/// After all of it: ready, and a good call to each server works.
fn healthy(gateway: &Gateway, clients: &Clients, seed: u64, first: u64) -> Vec<Claim> {
    assert_ready(gateway);
    let good = |call: &Call| call.serving == Serving::Json && call.verdict() == Verdict::Permit;
    let mut made = Vec::new();
    for server in 0..SERVERS.len() {
        let call = (first..).map(|number| Call::of(seed, number)).find(|call| call.server == server && good(call));
        let mut call = call.expect("there is no end to numbers");
        (call.doing, call.alone) = (Doing::Plain, true);
        let claim = clients.call_well(&call);
        assert_eq!(claim.end, End::Echo(call.value), "a good call, afterwards");
        made.push(claim);
    }
    made
}

fn assert_ready(gateway: &Gateway) {
    let ready = format!("GET /readyz HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin);
    assert_eq!(Wire::to(gateway.admin).ask(ready.as_bytes()).status(), 200);
}

/// The record as it was written.
pub(super) fn record(gateway: &Gateway) -> Vec<Line> {
    let folder = fs::read_dir(gateway.audit()).expect("the folder of the record is there");
    let mut files: Vec<_> = folder.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("the record can be read");
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
        lines.extend(text.lines().map(line));
    }
    lines
}

/// What calls that were waited for ended with, held against what their servers did: beyond the promises, an error is to
/// say what happened, and nothing that was done well is to fail.
fn manners(seed: u64, claims: &[Claim], ledger: &[Entry], lines: &[Line]) -> Vec<String> {
    let mut faults = Vec::new();
    let read: HashSet<&str> = ledger.iter().map(|entry| entry.value.as_str()).collect();
    let ended = oracle::statuses(lines);
    let (mut well, mut hurt) = (0, HashMap::<&str, usize>::new());
    for claim in claims {
        let call = Call::carrying(seed, &claim.value).expect("the clients make drawn calls only");
        let word = claim.end.word();
        let fits = match claim.due {
            Due::Permit => {
                let fits = call.serving.ends().contains(&word);
                well += usize::from(call.serving.is_good());
                if call.serving.is_good() && !fits {
                    *hurt.entry(word).or_default() += 1;
                }
                // A kept connection may be closed by its server as the call is written to it, which then is not read;
                // and where the machine is busy, time may run out, that for connecting too.
                let late = matches!(ended.get(claim.value.as_str()), Some(&"timeout" | &"unreachable"));
                let taken_back = word == "cancelled" && call.doing == Doing::Cancel;
                fits || taken_back || word == "server_cut" && !read.contains(claim.value.as_str()) || late
            }
            Due::Refusal => word == "refused",
            Due::Nothing => matches!(word, "rejected" | "cut" | "left"),
            Due::PermitOrNothing | Due::RefusalOrNothing => true,
        };
        if !fits {
            let status = ended.get(claim.value.as_str()).unwrap_or(&"none");
            faults.push(format!("an end that does not fit, outcome {status}: {claim:?}"));
        }
    }
    println!("  of {well} calls that were served well, hurt all the same: {hurt:?}");
    for (word, count) in hurt {
        if count * 100 > well * HURT_PERCENT_MAX + 1_000 {
            faults.push(format!("{count} of {well} calls that were served well ended with {word}"));
        }
    }
    faults
}

/// What was seen, in five lines.
fn told(seed: u64, claims: &[Claim], lines: &[Line], servers: &Servers) -> String {
    let mut clients = BTreeMap::<String, usize>::new();
    let mut ends = BTreeMap::<String, usize>::new();
    let mut record = BTreeMap::<String, usize>::new();
    for claim in claims {
        let call = Call::carrying(seed, &claim.value).expect("the clients make drawn calls only");
        *clients.entry(format!("{:?}", call.doing)).or_default() += 1;
        *ends.entry(claim.end.word().to_owned()).or_default() += 1;
    }
    for line in lines.iter().filter(|line| line.kind != "life") {
        let word = line.status.as_ref().or(line.reason.as_ref());
        *record.entry(word.cloned().unwrap_or_default()).or_default() += 1;
    }
    let served = servers.served().into_iter().map(|(serving, count)| (format!("{serving:?}"), count)).collect();
    let mut slowest: Vec<&Claim> = claims.iter().collect();
    slowest.sort_by_key(|claim| std::cmp::Reverse(claim.took));
    let slow = |claim: &&Claim| {
        let drawn = Call::carrying(seed, &claim.value).map(|call| (call.doing, call.serving, call.modern));
        format!("{:.1?} {drawn:?} {}", claim.took, claim.end.word())
    };
    let slowest: Vec<String> = slowest.iter().take(4).map(slow).collect();
    let mut out = format!("  slowest: {}\n", slowest.join("; "));
    for (what, counts) in [("clients", clients), ("servers", served), ("ends", ends), ("record", record)] {
        let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
        let _ = writeln!(out, "  {what}: {}", counts.join(", "));
    }
    out
}

/// The first faults, and what was drawn for the calls in them.
fn shown(seed: u64, faults: &[String]) -> String {
    let mut out = String::new();
    for fault in faults.iter().take(FAULTS_SHOWN) {
        let _ = writeln!(out, "{fault}");
        let words = fault.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 32);
        let mut calls: Vec<Call> = words.filter_map(|word| Call::carrying(seed, word)).collect();
        calls.dedup_by_key(|call| call.number);
        for call in calls {
            let _ = writeln!(out, "    drawn: {call:?}");
        }
    }
    out
}

/// The run was not an empty one: each way to behave was met, and each end and outcome that it can have.
fn met_everything(seed: u64, claims: &[Claim], servers: &Servers, lines: &[Line]) {
    for (serving, count) in servers.served() {
        assert!(count > 0, "no call met {serving:?}");
    }
    let drawn: Vec<Doing> = claims.iter().filter_map(|it| Call::carrying(seed, &it.value)).map(|it| it.doing).collect();
    for doing in DOINGS.iter().map(|(doing, _)| *doing).chain([Doing::Pipelined]) {
        assert!(drawn.contains(&doing), "no client did {doing:?}");
    }
    for word in
        ["echo", "error", "server_timeout", "server_cut", "server_invalid", "refused", "rejected", "cut", "left"]
    {
        assert!(claims.iter().any(|claim| claim.end.word() == word), "no call ended with {word}");
    }
    for status in ["ok", "error", "timeout", "cut", "invalid", "cancelled"] {
        assert!(lines.iter().any(|line| line.status.as_deref() == Some(status)), "no outcome was {status}");
    }
    for reason in ["no_match", "forbid", "task", "auth", "session", "header", "json"] {
        assert!(lines.iter().any(|line| line.reason.as_deref() == Some(reason)), "no refusal was for {reason}");
    }
}

/// Clients at a time.
const CLIENTS: usize = 24;
/// Below so many calls a kind may be missing by chance.
const CALLS_FOR_ALL: u64 = 2_000;
/// Buffers and tables that are kept up to a bound, a set for each shard, and what the allocator holds back. The longest
/// run (200,000 calls) leaves 19 MB more than there were.
const MEMORY_KEPT_BYTES: usize = 64 << 20;
/// Calls in a hundred that were served well and may fail all the same.
const HURT_PERCENT_MAX: usize = 1;
const FAULTS_SHOWN: usize = 8;
