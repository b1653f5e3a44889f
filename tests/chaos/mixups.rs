//! The hunt for mix-ups: a thousand clients at once that all use the same request id and the same progress token, in
//! sessions and without, over two shards. Whatever is said carries whose it is, so that a message which reaches somebody
//! else, comes twice, or does not come is noticed. To replay a run: `PORTCULLIS_CHAOS_SEED` as printed, and
//! `PORTCULLIS_CHAOS_CALLS` (20,000 by default; by hand 200,000).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;

use super::run::record;
use crate::support::chaos::{BLOCK, SERVERS, calls, seed};
use crate::support::chaos_mix::{Answering, DEEDS, Deed, Forgets, Form, Mix};
use crate::support::chaos_mix_client::{Known, MixClients};
use crate::support::chaos_mix_server::MixServers;
use crate::support::gateway::{Gateway, PATIENCE, Setup};
use crate::support::level::Level;
use crate::support::oracle::{self, Claim, Due, End, Line};

/// [P1] [P2] [P3] [P4] [P5] [P6] [P7] All of them at once.
#[test]
fn a_thousand_clients_with_one_id() {
    run("two shards", CLIENTS, calls(), MixClients::new, |setup| setup.shards(2));
}

/// [P1] [P2] [P3] [P4] [P5] [P6] [P7] Three servers behind one endpoint, whose tools, sessions, questions and events all
/// have the same names: a session has calls at each of them, and none gets another's.
#[test]
fn a_thousand_clients_of_three_servers_with_one_name() {
    run("one endpoint", CLIENTS, calls(), MixClients::merged, |setup| setup.shards(2));
}

/// [P1] [P2] [P3] [P4] [P5] [P6] Fewer, on epoll, for machines without io_uring.
#[test]
fn a_hundred_on_epoll() {
    run("epoll", CLIENTS / 10, calls() / 10, MixClients::new, |setup| setup.shards(2).flag("--driver=epoll"));
}

fn run(
    name: &str,
    clients: usize,
    calls: u64,
    crowd: impl FnOnce(u64, &Gateway, u64) -> MixClients,
    change: impl FnOnce(Setup) -> Setup,
) {
    let seed = seed();
    let (clients, calls) = (with_descriptors(clients), calls.next_multiple_of(BLOCK));
    let replay = format!("replay with PORTCULLIS_CHAOS_SEED={seed} PORTCULLIS_CHAOS_CALLS={calls}");
    println!("mix-ups, {name}: {clients} clients, {calls} calls; {replay}");
    let servers = MixServers::start(seed);
    let mut gateway = change(setup(&servers)).start();
    let crowd = crowd(seed, &gateway, calls);
    let before = Level::settled(&gateway);
    let begun = Instant::now();
    let known = crowd.run(clients);
    let took = begun.elapsed();
    before.comes_back_within(&gateway, MEMORY_KEPT_BYTES);
    let after = Level::of(&gateway);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0), "{replay}");

    let lines = record(&gateway);
    println!("mix-ups, {name}: {calls} calls in {took:.1?}; {before:?} became {after:?}");
    println!("{}", told(seed, &known, &servers, &lines));
    let faults = faults(seed, &known, &servers, &lines);
    assert!(faults.is_empty(), "{replay}; {} faults:\n{}", faults.len(), shown(seed, &faults));
    if calls >= CALLS_FOR_ALL {
        met_everything(seed, &known, &servers);
    }
}

/// Three servers, of whose tools one is hidden; everybody needs a token.
fn setup(servers: &MixServers) -> Setup {
    let mut setup = Setup::new()
        .tokens("deny")
        .rule(json!({ "id": "everyone", "permit": ["*/echo", "*!*"] }))
        .set("/limits/connections_per_address", json!(16_384))
        // A kept connection that ends as a call is written to it would leave the call unheard.
        .set("/limits/idle", json!("1h"))
        .set("/limits/streams_per_subject", json!(4_096));
    for (server, name) in SERVERS.iter().enumerate() {
        setup = setup.server(name, &servers.url(server));
        // So many faults in a row are bad luck here.
        setup = setup.set(&format!("/servers/{name}/health"), json!({ "failures": 1_000 }));
    }
    setup
}

/// Everything that must not be.
fn faults(seed: u64, known: &Known, servers: &MixServers, lines: &[Line]) -> Vec<String> {
    let mut faults = known.faults.clone();
    faults.extend(servers.faults());
    faults.extend(oracle::faults(lines, &servers.ledger(), &known.claims));
    let answered = |claim: &&Claim| matches!(claim.end.word(), "echo" | "resumed");
    let whole: HashSet<&str> = known.claims.iter().filter(answered).map(|claim| claim.value.as_str()).collect();
    faults.extend(oracle::mixups(&servers.said(), &whole, &known.heard));
    faults.extend(questions(known, servers));
    faults.extend(manners(seed, known, lines));
    faults
}

/// Each question has an id of its own, and the one answer that it was given.
fn questions(known: &Known, servers: &MixServers) -> Vec<String> {
    let mut seen = HashSet::new();
    let twice = known.questions.iter().filter(|id| !seen.insert(**id));
    let mut faults: Vec<String> = twice.map(|id| format!("[P3] two questions with the id {id}")).collect();
    let questions = servers.questions();
    for value in &known.answered {
        let answers = questions.get(value).cloned().unwrap_or_default();
        if answers != [format!("r:{value}")] {
            faults.push(format!("[P7] the question of {value} was answered once, and {answers:?} arrived"));
        }
    }
    faults
}

/// A call that nothing was done to has its answer.
fn manners(seed: u64, known: &Known, lines: &[Line]) -> Vec<String> {
    let ended = oracle::statuses(lines);
    let mut faults = Vec::new();
    let mut late = 0;
    for claim in &known.claims {
        let mix = Mix::carrying(seed, &claim.value).expect("the clients make drawn calls only");
        let word = claim.end.word();
        let fits = match (claim.due, mix.deed) {
            (Due::Permit, Deed::Cancel) => matches!(word, "echo" | "taken back"),
            (Due::Permit, Deed::CutForGood) => matches!(word, "left" | "echo"),
            (Due::Permit, Deed::Cut) => matches!(word, "resumed" | "echo"),
            (Due::Permit, _) if mix.form == Form::Polled => word == "resumed",
            (Due::Permit, _) => word == "echo",
            (Due::Refusal, _) => word == "refused",
            _ => matches!(word, "left" | "refused"),
        };
        // Where the machine is busy, time may run out, that for connecting too.
        let slow = matches!(ended.get(claim.value.as_str()), Some(&"timeout" | &"unreachable"))
            && matches!(claim.end, End::Fault(_));
        late += usize::from(!fits && slow);
        if !fits && !slow {
            faults.push(format!("[P7] an end that does not fit: {claim:?}"));
        }
    }
    if late * 100 > known.claims.len() * LATE_PERCENT_MAX + 1_000 {
        faults.push(format!("{late} of {} calls came too late", known.claims.len()));
    }
    faults
}

/// What was seen, in a few lines.
fn told(seed: u64, known: &Known, servers: &MixServers, lines: &[Line]) -> String {
    let mut deeds = BTreeMap::<String, usize>::new();
    let mut ends = BTreeMap::<String, usize>::new();
    let mut record = BTreeMap::<String, usize>::new();
    for claim in &known.claims {
        let mix = Mix::carrying(seed, &claim.value).expect("the clients make drawn calls only");
        *deeds.entry(format!("{:?}", mix.deed)).or_default() += 1;
        *ends.entry(claim.end.word().to_owned()).or_default() += 1;
    }
    for line in lines.iter().filter(|line| line.kind != "life") {
        let word = line.status.as_ref().or(line.reason.as_ref());
        *record.entry(word.cloned().unwrap_or_default()).or_default() += 1;
    }
    let named = |counts: &HashMap<&'static str, usize>| -> BTreeMap<String, usize> {
        counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
    };
    let mut out = format!("  heard {}, questions {}\n", known.heard.len(), known.questions.len());
    let rows = [("clients", named(&known.counts)), ("servers", named(&servers.counts()))];
    for (what, counts) in rows.into_iter().chain([("deeds", deeds), ("ends", ends), ("record", record)]) {
        let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
        let _ = writeln!(out, "  {what}: {}", counts.join(", "));
    }
    out
}

/// How many faults there are of each kind, and the first of them.
fn shown(seed: u64, faults: &[String]) -> String {
    let mut kinds: Vec<(String, usize, &String)> = Vec::new();
    for fault in faults {
        let words = fault.split(' ').filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
        let kind: String = words.collect::<Vec<_>>().join(" ").chars().take(KIND_CHARACTERS).collect();
        match kinds.iter_mut().find(|(known, ..)| *known == kind) {
            Some((_, count, _)) => *count += 1,
            None => kinds.push((kind, 1, fault)),
        }
    }
    let mut out = String::new();
    for (_, count, first) in kinds.iter().take(FAULTS_SHOWN) {
        let _ = writeln!(out, "{count} times: {}", explained(seed, first));
    }
    out
}

/// A fault, and what was drawn for the calls in it.
fn explained(seed: u64, fault: &str) -> String {
    let mut out = fault.chars().take(FAULT_CHARACTERS_MAX).collect::<String>();
    let words = fault.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 32);
    let mut calls: Vec<Mix> = words.filter_map(|word| Mix::carrying(seed, word)).collect();
    calls.dedup_by_key(|mix| mix.number);
    for mix in calls.iter().take(2) {
        let _ = write!(out, "\n    drawn: {mix:?}");
    }
    out
}

/// The run was not an empty one.
fn met_everything(seed: u64, known: &Known, servers: &MixServers) {
    let drawn: Vec<Mix> = known.claims.iter().filter_map(|claim| Mix::carrying(seed, &claim.value)).collect();
    for deed in DEEDS.iter().map(|(deed, _)| *deed).chain([Deed::Batch]) {
        assert!(drawn.iter().any(|mix| mix.deed == deed), "no client did {deed:?}");
    }
    for what in ["forgotten before", "forgotten after", "hung up", "polled", "own streams cut by their server"] {
        assert!(servers.counts().contains_key(what), "no server did this: {what}");
    }
    for what in ["streams resumed", "own streams cut"] {
        assert!(known.counts.contains_key(what), "no client did this: {what}");
    }
    for word in ["echo", "resumed", "taken back", "refused", "left"] {
        assert!(known.claims.iter().any(|claim| claim.end.word() == word), "no call ended with {word}");
    }
}

/// So many clients, or fewer where this process may not have the descriptors: clients and servers are both here.
fn with_descriptors(clients: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let most = limit.maximum.map_or(clients, |most| usize::try_from(most).unwrap_or(clients));
    clients.min(most.saturating_sub(DESCRIPTORS_KEPT) / DESCRIPTORS_EACH)
}

/// Draws depend on seed and number alone, and none asks for what cannot be.
#[test]
fn drawn_again() {
    for number in 0..20_000 {
        let mix = Mix::of(7, number);
        let again = Mix::carrying(7, &mix.value).expect("a value tells its call");
        assert_eq!(format!("{again:?}"), format!("{mix:?}"));
        assert!(Mix::carrying(8, &mix.value).is_none(), "another seed has other values");
        assert!(!mix.modern || !mix.needs_own() && mix.forgets == Forgets::Nothing && mix.form != Form::Polled);
        assert!(mix.cut_after < mix.steps && mix.cut_after > 0, "{mix:?}");
        assert!(!matches!(mix.deed, Deed::Asked(Answering::Late)) || mix.form == Form::Events, "{mix:?}");
        assert_eq!(mix.deed == Deed::Batch, Mix::of(7, number - number % BLOCK).deed == Deed::Batch, "{mix:?}");
    }
}

/// Clients at a time.
const CLIENTS: usize = 1_000;
/// For each: its call, its session's stream, a third that comes and goes; the same on the server's side.
const DESCRIPTORS_EACH: usize = 8;
const DESCRIPTORS_KEPT: usize = 512;
/// Below so many calls a kind may be missing by chance.
const CALLS_FOR_ALL: u64 = 2_000;
/// Buffers and tables that are kept up to a bound, for a thousand connections at once.
const MEMORY_KEPT_BYTES: usize = 128 << 20;
const LATE_PERCENT_MAX: usize = 1;
const FAULTS_SHOWN: usize = 12;
/// Faults that begin alike are of one kind.
const KIND_CHARACTERS: usize = 40;
const FAULT_CHARACTERS_MAX: usize = 1_200;
