//! New settings for a running gateway: what changes, what goes on, and what is refused.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually};
use crate::support::http::{Events, Wire};
use crate::support::mcp::{Post, open_session, session_request, tools};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream, said};

/// Where the one server is that all calls of the load go to: another one beside it makes a merged endpoint of `/mcp`.
const PATH: &str = "/s/up/mcp";
/// Enough that each of two shards gets some.
const CLIENTS: usize = 8;

/// A rule that lets everybody do everything, under this id.
fn open_rule(id: &str) -> Value {
    json!({ "id": id, "permit": ["*/*", "*!*"] })
}

fn rules(config: &mut Value) -> &mut Vec<Value> {
    config["policy"]["rules"].as_array_mut().expect("rules are a list")
}

/// A reload that goes well.
#[track_caller]
fn reloaded(gateway: &Gateway, change: impl FnOnce(&mut Value)) {
    gateway.configure(change);
    let reload = gateway.reload();
    assert_eq!(reload["ok"], true, "{reload:#}");
}

/// [L3] A rule that is taken away decides nothing once the reload has returned, on no shard and whatever the
/// connection; what is called after is decided by the new ones.
#[test]
fn a_rule_that_is_gone_decides_nothing() {
    let upstream = Plan::tools(&["echo", "add"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "echoes", "permit": ["up/echo"] }))
        .rule(json!({ "id": "adds", "permit": ["up/add"] }))
        .shards(2)
        .start();
    let mut wires: Vec<Wire> = (0..CLIENTS).map(|_| Wire::to(gateway.address)).collect();
    for wire in &mut wires {
        let post = Post::call("echo");
        post.is_echoed(&wire.ask(&post.bytes(&gateway)));
    }
    for round in 0..10 {
        reloaded(&gateway, |config| _ = rules(config).remove(0));
        let called = upstream.calls().len();
        for wire in &mut wires {
            let answer = wire.ask(&Post::call("echo").bytes(&gateway)).json();
            assert_eq!(answer["error"]["code"], -32602, "round {round}: {answer}");
        }
        assert_eq!(upstream.calls().len(), called, "nothing came through");
        assert_eq!(tools(&gateway, |post| post), ["add"]);
        reloaded(&gateway, |config| rules(config).insert(0, json!({ "id": "echoes", "permit": ["up/echo"] })));
        for wire in &mut wires {
            let post = Post::call("echo");
            post.is_echoed(&wire.ask(&post.bytes(&gateway)));
        }
    }
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// [L3] A file with faults changes nothing: each is told with its place, on stderr and by the admin listener, and the next
/// good one is taken.
#[test]
fn a_bad_file_keeps_the_old_one() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let good = fs::read_to_string(gateway.config()).unwrap();
    let bad = good.replacen("\"permit\"", "\"premit\"", 1);
    let (line, text) = bad.lines().enumerate().find(|(_, line)| line.contains("premit")).unwrap();
    let column = text.find("\"premit\"").unwrap() + 1;
    gateway.write_config(&bad);
    let reload = gateway.reload();
    let place = format!("portcullis.yaml:{}:{column}: ", line + 1);
    let faults = reload["faults"].as_array().unwrap();
    assert_eq!((&reload["ok"], &reload["failed"]), (&json!(false), &json!(1)));
    assert!(faults.iter().any(|fault| fault.as_str().unwrap().contains(&place)), "{place} in {reload:#}");
    eventually("an operator hears so", || gateway.said(&place) > 0);
    Post::call("echo").echoed(&gateway);
    gateway.write_config("servers: [");
    assert_eq!(gateway.reload()["ok"], false);
    fs::remove_file(gateway.config()).unwrap();
    assert!(gateway.reload()["faults"][0].as_str().unwrap().starts_with("cannot read "));
    Post::call("echo").echoed(&gateway);
    gateway.write_config(&good);
    let reload = gateway.reload();
    assert_eq!((&reload["ok"], &reload["faults"]), (&json!(true), &json!([])));
    Post::call("echo").echoed(&gateway);
}

/// [L3] What is settled at the start is refused as a whole, by name; what stands beside it in the file is not taken either.
#[test]
fn what_cannot_change_is_refused_whole() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let good = fs::read_to_string(gateway.config()).unwrap();
    let check = |key: &str, value: Value| {
        gateway.configure(|config| {
            let (block, name) = key.split_once('.').unwrap_or(("", key));
            if block.is_empty() {
                config[name] = value
            } else {
                config[block][name] = value
            }
            rules(config).clear();
        });
        let reload = gateway.reload();
        let said = format!("'{key}' cannot change while the gateway runs: restart it for that");
        assert_eq!((&reload["ok"], &reload["faults"]), (&json!(false), &json!([said])));
        Post::call("echo").echoed(&gateway);
        gateway.write_config(&good);
        assert_eq!(gateway.reload()["ok"], true);
    };
    check("listen", json!("127.0.0.2:0"));
    check("shards", json!(2));
    check("admin", json!("127.0.0.2:0"));
    check("state", json!("/nowhere/state"));
    check("audit.dir", json!("/nowhere/audit"));
    check("audit.subject", json!("keyed"));
}

/// The file is watched: it need not be said that it has changed. What it names is watched, too.
#[test]
fn a_change_is_noticed() {
    let upstream = Plan::tools(&["echo", "add"]).start();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let setup = Setup::new().server("up", &upstream.url()).open().tokens("deny");
    setup.key_set_to(&keys);
    let gateway = setup.set("/auth/issuers/0/jwks/file", json!(keys)).start();
    let token = gateway.token(&Who::default());
    Post::call("echo").token(&token).echoed(&gateway);
    gateway.configure(|config| rules(config)[0] = json!({ "id": "adds", "permit": ["up/add"] }));
    let echoes = || Post::call("echo").token(&token).to(&gateway).json()["error"].is_null();
    eventually("the rule is gone", || !echoes());
    eventually("it is told", || gateway.status()["reload"]["tried"] == 1);
    // Another issuer's keys: the token is nobody's.
    let other = Setup::new();
    other.key_set_to(&keys);
    eventually("the keys are others", || Post::call("add").token(&token).to(&gateway).status() == 401);
}

/// Files that the configuration includes are watched like itself, those that come later too; a fault in one is told with
/// its name and place, and changes nothing.
#[test]
fn included_files_are_watched() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let teams = gateway.config().parent().unwrap().join("teams");
    fs::create_dir(&teams).unwrap();
    let write = |name: &str, text: &str| {
        fs::write(teams.join("new"), text).unwrap();
        fs::rename(teams.join("new"), teams.join(name)).unwrap();
    };
    write("a.yaml", "rules: [{ id: echoes, permit: [up/echo] }]\n");
    reloaded(&gateway, |config| {
        rules(config).clear();
        config["policy"]["include"] = json!(["teams/*.yaml"]);
    });
    let echoes = || Post::call("echo").to(&gateway).json()["error"].is_null();
    assert!(echoes());
    write("b.yaml", "rules: [{ id: no-echo, forbid: [up/echo] }]\n");
    eventually("the new file is read", || !echoes());
    fs::remove_file(teams.join("b.yaml")).unwrap();
    eventually("its rules are gone with it", echoes);
    write("a.yaml", "rules: [{ id: echoes, permit: [up/echo], when: args.x = 1 }]\n");
    let place = "teams/a.yaml:1:55: rules[0].when: ";
    eventually("the fault is told", || gateway.said(place) > 0);
    assert!(gateway.status()["reload"]["faults"][0].as_str().unwrap().contains(place));
    assert!(echoes());
    write("a.yaml", "rules: [{ id: echoes, forbid: [up/echo] }]\n");
    eventually("the next good one is taken", || !echoes());
}

/// [L3] Whom a rule is about changes with it, also for those who were there before: without a token, with one that is
/// known already, and on a session's stream.
#[test]
fn whom_a_rule_is_about_changes() {
    let upstream = Plan::tools(&["echo", "add"]).start();
    let about = |who: &str| json!([{ "id": "some", "permit": ["up/echo"], "who": who }]);
    let setup = Setup::new().server("up", &upstream.url()).tokens("allow");
    let gateway = setup.set("/policy/rules", about("subject == 'alice'")).start();
    let [alice, bob] = ["alice", "bob"].map(|subject| gateway.token(&Who { subject, ..Who::default() }));
    let listed = |token: Option<&str>| {
        tools(&gateway, |post| match token {
            Some(token) => post.token(token),
            None => post,
        })
    };
    let check = |want: [bool; 3]| {
        for (token, want) in [Some(&*alice), Some(&bob), None].into_iter().zip(want) {
            let want: &[&str] = if want { &["echo"] } else { &[] };
            assert_eq!(listed(token), want);
        }
    };
    let session = open_session(&gateway, |post| post.token(&alice));
    let mut wire = Wire::to(gateway.address);
    wire.send(&session_request(&gateway, "GET", "/mcp", &session, &format!("authorization: Bearer {alice}\r\n")));
    let events = wire.events();
    check([true, false, false]);
    let change = |who: &str| reloaded(&gateway, |config| config["policy"]["rules"] = about(who));
    change("subject in ['alice', 'bob'] && agent != 'nobody'");
    check([true, true, false]);
    change("subject == 'anonymous' && issuer == ''");
    check([false, false, true]);
    let begun = Instant::now();
    assert!(events.rest().1.is_ok(), "a clean end");
    assert!(begun.elapsed() < PATIENCE / 2, "it ended by itself: {:?}", begun.elapsed());
    change("claims.nothing == 1");
    check([false, false, false]);
    change("!has(claims.nothing)");
    check([true, true, true]);
}

/// Servers come, change and go. What is under way with those that stay as they are goes on: the same sessions, the same
/// streams, the same connections.
#[test]
fn servers_come_and_go() {
    let (stays, leaves, comes) =
        (Plan::tools(&["echo"]).start(), Plan::tools(&["echo"]).start(), Plan::tools(&["echo"]).start());
    let gateway = Setup::new().server("stays", &stays.url()).server("moves", &leaves.url()).open().start();
    let at = |name: &str| format!("/s/{name}/mcp");
    let session = open_session(&gateway, |post| post.at(&at("stays")));
    let moving = open_session(&gateway, |post| post.at(&at("moves")));
    let own = |name: &str, session: &str| {
        let mut wire = Wire::to(gateway.address);
        wire.send(&session_request(&gateway, "GET", &at(name), session, ""));
        wire.events()
    };
    let (mut events, mut leaving) = (own("stays", &session), own("moves", &moving));
    eventually("the streams are open", || stays.open_streams() > 1 && leaves.open_streams() > 1);
    let shaken = |upstream: &Upstream| upstream.seen().iter().filter(|seen| seen.method() == "initialize").count();
    let (before, opened) = (shaken(&stays), stays.open_streams());
    reloaded(&gateway, |config| {
        config["servers"]["aaa-new"] = json!({ "url": comes.url() });
        config["servers"]["moves"] = json!({ "url": comes.url() });
    });
    // The one that stays: its session and its stream, as they were.
    let hello =
        json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } });
    stays.say(&hello);
    assert_eq!(events.message(), hello);
    Post::legacy_call(&session, "echo").at(&at("stays")).echoed(&gateway);
    assert_eq!((shaken(&stays), stays.open_streams()), (before, opened), "nobody began anew");
    // The new one.
    let is_known = |name: &str| {
        let status = gateway.status();
        let mut servers = status["servers"].as_array().unwrap().iter();
        servers.any(|server| server["name"] == name && server["known"] == true)
    };
    eventually("the new one is known", || is_known("aaa-new"));
    Post::call("echo").at(&at("aaa-new")).echoed(&gateway);
    // The one that has moved: its sessions are opened again where it is now, and the old place is left.
    let calls = leaves.calls().len();
    eventually("the one that moved is known", || is_known("moves"));
    Post::legacy_call(&moving, "echo").at(&at("moves")).echoed(&gateway);
    assert_eq!(leaves.calls().len(), calls);
    eventually("the old place is left", || {
        // What is there finds out whether anybody listens.
        leaves.say(&hello);
        leaves.open_streams() == 0
    });
    eventually("its stream is at the new place", || {
        comes.say(&hello);
        leaving.comes(Duration::from_millis(50))
    });
    // And gone.
    reloaded(&gateway, |config| _ = config["servers"].as_object_mut().unwrap().remove("moves"));
    assert_eq!(Post::call("echo").at(&at("moves")).to(&gateway).status(), 404);
    assert!(leaving.rest().1.is_ok(), "its streams get a clean end");
    let names: Vec<Value> =
        gateway.status()["servers"].as_array().unwrap().iter().map(|server| server["name"].clone()).collect();
    assert_eq!(names, ["aaa-new", "stays"]);
    stays.say(&hello);
    assert_eq!(events.message(), hello);
    assert_eq!((shaken(&stays), stays.open_streams()), (before, opened), "nobody began anew");
}

/// [K13] A stream goes on under other settings, as those it is read under say; and it ends within a second when nothing of
/// what it was begun for is allowed any more.
#[test]
fn streams_end_with_their_rules() {
    let (key, note) = ("io.modelcontextprotocol/subscriptionId", "note://open");
    let upstream = Plan::tools(&["echo"])
        .script(move |seen, out| {
            if seen.method() != "subscriptions/listen" || seen.field("tracestate") != "ours=1" {
                return Acted::Default;
            }
            let told = |method: &str, mut params: Value| {
                params["_meta"][key] = seen.id().clone();
                json!({ "jsonrpc": "2.0", "method": method, "params": params })
            };
            let honoured = json!({ "notifications": { "resourceSubscriptions": [note] } });
            out.stream();
            out.event(&told("notifications/subscriptions/acknowledged", honoured));
            out.pass("updated");
            out.event(&told("notifications/resources/updated", json!({ "uri": note })));
            out.pass("never");
            Acted::Done
        })
        .start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "notes", "permit": ["up!resource:note://open"] }))
        .rule(json!({ "id": "echoes", "permit": ["up/echo"] }))
        .start();
    let filters = json!({ "notifications": { "resourceSubscriptions": [note] } });
    let trace = format!("00-{}-00f067aa0ba902b7-01", crate::support::mcp::fresh());
    let listen =
        Post::modern("subscriptions/listen", filters).field("traceparent", &trace).field("tracestate", "ours=1");
    let mut listening = listen.stream(&gateway);
    let acknowledged = listening.message();
    assert_eq!(acknowledged["params"]["notifications"]["resourceSubscriptions"], json!([note]), "{acknowledged}");
    let session = open_session(&gateway, |post| post);
    let mut own = Wire::to(gateway.address);
    own.send(&session_request(&gateway, "GET", "/mcp", &session, ""));
    let mut own = own.events();
    // Other settings, and none that concern them; then names of tasks, by which callers are verified anew.
    reloaded(&gateway, |config| config["limits"]["body"] = json!("700KiB"));
    reloaded(&gateway, |config| config["policy"]["tasks"] = json!({ "triage": "A task." }));
    upstream.open("updated");
    assert_eq!(listening.message()["method"], "notifications/resources/updated");
    eventually("the stream is open", || upstream.open_streams() > 0);
    let hello =
        json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } });
    upstream.say(&hello);
    assert_eq!(spoken(&mut own), hello);
    // The subscription's rule goes; the session still has its tool.
    reloaded(&gateway, |config| _ = rules(config).remove(0));
    let gone = Instant::now();
    let (rest, end) = listening.rest();
    let took = gone.elapsed();
    assert!(end.is_ok() && rest.len() == 1, "a clean end: {rest:#?}");
    assert_eq!(rest[0]["result"]["resultType"], "complete");
    assert!(took < PATIENCE / 2, "it ended by itself: {took:?}");
    upstream.say(&hello);
    assert_eq!(spoken(&mut own), hello);
    // And that goes, too.
    reloaded(&gateway, |config| _ = rules(config).remove(0));
    let gone = Instant::now();
    assert!(own.rest().1.is_ok(), "a clean end");
    println!("a listen ended after {took:?}, a session's stream after {:?}", gone.elapsed());
    upstream.open("never");
}

/// The next message that is no word of changed lists, which may come before it or after.
#[track_caller]
fn spoken(events: &mut Events) -> Value {
    loop {
        let message = events.message();
        if !message["method"].as_str().is_some_and(|method| method.ends_with("/list_changed")) {
            return message;
        }
    }
}

/// [K13] An issuer that is trusted no longer: its tokens are none from then on, and streams that were begun with them end. One
/// that is trusted now: its are good.
#[test]
fn issuers_change() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("deny").start();
    let token = gateway.token(&Who::default());
    let session = open_session(&gateway, |post| post.token(&token));
    let mut wire = Wire::to(gateway.address);
    let bearer = format!("authorization: Bearer {token}\r\n");
    wire.send(&session_request(&gateway, "GET", "/mcp", &session, &bearer));
    let events = wire.events();
    Post::call("echo").token(&token).echoed(&gateway);
    reloaded(&gateway, |config| config["auth"]["issuers"][0]["issuer"] = json!("https://other.test"));
    let begun = Instant::now();
    assert!(events.rest().1.is_ok(), "a clean end");
    assert!(begun.elapsed() < PATIENCE / 2, "it ended by itself: {:?}", begun.elapsed());
    assert_eq!(Post::call("echo").token(&token).to(&gateway).status(), 401);
    reloaded(&gateway, |config| config["auth"]["issuers"][0]["issuer"] = json!(crate::support::gateway::ISSUER));
    Post::call("echo").token(&token).echoed(&gateway);
    Post::legacy_call(&session, "echo").token(&token).echoed(&gateway);
}

/// [L3] A hundred reloads while clients call all the time: every call is answered, and when it is over the process has
/// the memory, the threads and the descriptors that it had.
#[test]
fn a_hundred_reloads_under_load() {
    let script = |seen: &crate::support::upstream::Seen, out: &mut crate::support::upstream::Out<'_>| {
        if seen.calls("slow") {
            out.stream();
            thread::sleep(Duration::from_millis(30));
            out.event(&said(seen, seen.value()));
            out.stream_end();
            return Acted::Done;
        }
        Acted::Default
    };
    let upstream = Plan::tools(&["echo", "slow"]).script(script).start();
    let other = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().tokens("deny").shards(2).start();
    let (over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    // One change of each kind: rules; a server more; another time for one; an issuer's claims; bounds.
    let change = |round: usize, config: &mut Value| {
        rules(config)[0] = open_rule(&format!("open-{}", round % 7));
        match round % 5 {
            0 => config["servers"]["more"] = json!({ "url": other.url() }),
            1 => _ = config["servers"].as_object_mut().unwrap().remove("more"),
            2 => config["servers"]["up"]["timeout"] = json!(format!("{}s", 20 + round % 10)),
            3 => config["policy"]["tasks"] = json!({ format!("task-{round}"): "A task." }),
            _ => config["limits"]["body"] = json!(format!("{}KiB", 600 + round)),
        }
    };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (gateway, over, calls) = (&gateway, &over, &calls);
            scope.spawn(move || {
                let who = format!("client-{client}");
                let token = gateway.token_for(&Who { subject: &who, ..Who::default() }, &[&gateway.url(PATH)]);
                let session = open_session(gateway, |post| post.at(PATH).token(&token));
                let mut wire = Wire::to(gateway.address);
                while !over.load(Ordering::Relaxed) {
                    let tool = if client % 4 == 3 { "slow" } else { "echo" };
                    let post = if client % 2 == 0 { Post::call(tool) } else { Post::legacy_call(&session, tool) };
                    let post = post.at(PATH).token(&token);
                    let answer = wire.ask(&post.bytes(gateway));
                    let whole = answer.status() == 200 && answer.text().contains(&post.value);
                    assert!(whole, "after {} calls: {}", calls.load(Ordering::Relaxed), answer.text());
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Whatever happens here, the clients end.
        let _over = Over(&over);
        (0..100).for_each(|round| reloaded(&gateway, |config| change(round, config)));
    });
    // The record's rings take up memory as they fill for the first time: what reloads cost is seen without so many calls.
    let token = gateway.token_for(&Who::default(), &[&gateway.url(PATH)]);
    let rounds = |from: usize| {
        for round in from..from + 100 {
            reloaded(&gateway, |config| change(round, config));
            Post::call("echo").at(PATH).token(&token).echoed(&gateway);
        }
    };
    rounds(0);
    let first = level(&gateway, 0);
    rounds(100);
    let now = level(&gateway, first.0 + first.0 / 50);
    println!("{} calls; memory, threads, descriptors: {first:?}, {now:?}", calls.load(Ordering::Relaxed));
    assert!(now.0 <= first.0 + first.0 / 50, "memory grows with reloads: {first:?}, then {now:?}");
    eventually("threads and descriptors are back", || {
        let now = level(&gateway, 0);
        now.1 <= first.1 && now.2 <= first.2
    });
    assert!(calls.load(Ordering::Relaxed) > 100, "there was load");
    oracle::check(&gateway, &[("up", &upstream), ("more", &other)]);
}

/// How long a large configuration takes, from the order to the last shard that decides by it. A measurement, for a
/// release build: `cargo test --release --test all -- --ignored ten_thousand_rules --nocapture`.
#[test]
#[ignore = "a measurement"]
fn ten_thousand_rules() {
    let names: Vec<String> = (0..50).map(|tool| format!("tool-{tool}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let upstreams: Vec<Upstream> = (0..20).map(|_| Plan::tools(&names).start()).collect();
    let mut setup = Setup::new().shards(2);
    for (server, upstream) in upstreams.iter().enumerate() {
        setup = setup.server(&format!("s{server}"), &upstream.url());
    }
    for task in 0..100 {
        setup = setup.task(&format!("task-{task}"));
    }
    for rule in 0..10_000 {
        let tool = format!("s{}/tool-{}*", rule % 20, rule / 20 % 50);
        let task = format!("task-{}", rule % 100);
        setup = setup.rule(json!({ "id": format!("r{rule}"), "permit": [tool], "tasks": [task] }));
    }
    let gateway = setup.start();
    eventually("all are known", || {
        let status = gateway.status();
        status["servers"].as_array().unwrap().iter().all(|server| server["known"] == true)
    });
    for round in 0..5 {
        gateway.configure(|config| config["limits"]["body"] = json!(format!("{}KiB", 700 + round)));
        let reload = gateway.reload();
        assert_eq!(reload["ok"], true, "{reload:#}");
        println!("10,000 rules, 20 servers of 50 tools, 2 shards: {} ms", reload["took_ms"]);
    }
}

/// Set when dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Memory, threads and descriptors of the gateway; memory once it is no more than `enough`, or does not get there.
fn level(gateway: &Gateway, enough: usize) -> (usize, usize, usize) {
    let until = Instant::now() + PATIENCE;
    let mut least = usize::MAX;
    while Instant::now() < until {
        least = least.min(gateway.resident_bytes());
        if least <= enough {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        if enough == 0 {
            break;
        }
    }
    let threads = fs::read_dir(format!("/proc/{}/task", gateway.pid())).map_or(0, Iterator::count);
    (least, threads, gateway.open_files())
}

/// A supervisor hears when a reload begins and when it is over; and a second one that is asked for meanwhile is not
/// lost.
#[test]
fn several_are_one_after_the_other() {
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).start();
    gateway.configure(|config| rules(config).push(open_rule("first")));
    for _ in 0..20 {
        gateway.signal(Signal::HUP);
    }
    gateway.configure(|config| rules(config)[0] = open_rule("second"));
    gateway.signal(Signal::HUP);
    eventually("the last one counts", || {
        let post = Post::call("echo");
        post.to(&gateway).json()["result"].is_object()
            && gateway.records().iter().any(|record| record["rules"][0] == "second")
    });
}
