//! Servers that are programs, behind the gateway.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, PATIENCE, Setup, Who, eventually};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, fresh, open_session, session_request, text_of};
use crate::support::peers::{FILESYSTEM_PROGRAM, MEMORY_PROGRAM, Sdk, TIME_MODULE, node_peers, python_peers};
use crate::support::program::{Program, is_alive};

fn open(program: &Program) -> Setup {
    Setup::new().set("/servers/prog", program.settings()).open()
}

/// What the status says of a server.
fn status(gateway: &Gateway, name: &str) -> Value {
    let request = format!("GET /status HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", gateway.admin);
    let all = Wire::to(gateway.admin).ask(request.as_bytes()).json();
    let servers = all["servers"].as_array().expect("a list").iter();
    servers.clone().find(|server| server["name"] == name).expect("it is configured").clone()
}

#[track_caller]
fn known(gateway: &Gateway, name: &str) {
    eventually("the program is known", || status(gateway, name)["known"] == true);
}

fn text(response: &Response) -> String {
    let answer = response.json();
    assert!(answer.get("result").is_some(), "{answer}");
    text_of(&answer).to_owned()
}

fn call(session: &str, tool: &str, arguments: Value) -> Post {
    Post::legacy(session, "tools/call", json!({ "name": tool, "arguments": arguments }))
}

fn kill(pid: u32, signal: Signal) {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has an id");
    // It may have ended by itself.
    let _ = kill_process(id, signal);
}

/// [C6] Each session has a child of its own, which knows that client's capabilities, and ends with the session.
#[test]
fn a_session_has_a_child_of_its_own() {
    let program = Program::new();
    let gateway = open(&program).start();
    known(&gateway, "prog");
    let status = status(&gateway, "prog");
    assert_eq!((&status["transport"], &status["trouble"]), (&json!("stdio"), &Value::Null));
    let (one, two) = (open_session(&gateway, |post| post), open_session(&gateway, |post| post));
    let pid = |session: &str| text(&call(session, "pid", json!({})).to(&gateway));
    assert_ne!(pid(&one), pid(&two));
    assert_eq!(pid(&one), pid(&one));
    let first: u32 = pid(&one).parse().expect("a number");
    Wire::to(gateway.address).ask(&session_request(&gateway, "DELETE", "/mcp", &one, ""));
    eventually("its child has ended", || !is_alive(first));
    // The plane's own, which was asked for its era, is used for the handshake: one for the plane, one for each session.
    assert_eq!(program.begun().len(), 3);
    Post::legacy_call(&two, "echo").echoed(&gateway);
}

/// [C7] One child serves everybody; each gets its own answers, under its own ids, and nobody is asked anything.
#[test]
fn a_shared_child_keeps_clients_apart() {
    let program = Program::new().shared();
    let gateway = open(&program).start();
    known(&gateway, "prog");
    let answer = Post::initialize("2025-06-18").to(&gateway).json();
    // It has shaken hands as nobody in particular; the client gets the version it asked for.
    assert_eq!(answer["result"]["instructions"], "{}");
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answer["result"]["capabilities"].get("logging"), None);
    let sessions: Vec<String> = (0..100).map(|_| open_session(&gateway, |post| post)).collect();
    let ids = [json!(1), json!("1"), json!(9_007_199_254_740_993_u64), json!("\u{e9}\n\""), json!(-1)];
    thread::scope(|scope| {
        for (index, session) in sessions.iter().enumerate() {
            let (gateway, ids) = (&gateway, &ids);
            scope.spawn(move || {
                for (turn, id) in ids.iter().cycle().take(10).enumerate() {
                    let value = format!("{index}/{turn}");
                    let response = call(session, "echo", json!({ "value": value })).id(id.clone()).to(gateway);
                    assert_eq!((&response.json()["id"], text(&response)), (id, value));
                }
            });
        }
    });
    let pids: HashSet<u32> = program.executed().into_iter().map(|(pid, _)| pid).collect();
    assert_eq!(pids.len(), 1);
    let asked = call(&sessions[0], "ask", json!({ "value": "q" })).to(&gateway);
    assert_eq!(text(&asked), "[null,-32601]");
    // A number's very digits come back.
    let raw = "{\"jsonrpc\":\"2.0\",\"id\":9007199254740993,\"method\":\"ping\"}";
    let said = Post::tell(&sessions[1], json!({})).body(raw).to(&gateway).text();
    assert!(said.contains("\"id\":9007199254740993"), "{said}");
}

/// What a server asks in a session reaches that session's client, and the client's answer reaches that child.
#[test]
fn a_child_asks_its_own_client() {
    let program = Program::new();
    let gateway = open(&program).start();
    known(&gateway, "prog");
    let session = open_session(&gateway, |post| post);
    let mut events = call(&session, "ask", json!({ "value": "who" })).stream(&gateway);
    let asked = events.message();
    assert_eq!((&asked["method"], &asked["params"]["message"]), (&json!("elicitation/create"), &json!("who")));
    let reply = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "decline" } });
    assert_eq!(Post::tell(&session, reply).to(&gateway).status(), 202);
    assert_eq!(text_of(&events.message()), "[\"decline\",null]");
    // Progress and log messages belong to their call.
    let token = json!({ "progressToken": "t\u{e9}" });
    let post = call(&session, "progress", json!({ "value": "half" })).param("/_meta", token);
    let mut events = post.stream(&gateway);
    let progress = events.message();
    assert_eq!(
        (&progress["params"]["progressToken"], &progress["params"]["message"]),
        (&json!("t\u{e9}"), &json!("half"))
    );
    assert_eq!(text_of(&events.message()), "told");
}

/// [C1] [C2] Nothing of the gateway's environment but what is named, and none of its descriptors.
#[test]
fn a_child_inherits_nothing() {
    let program = Program::new().variable("WRITTEN", "w").set("inherit", json!(["NAMED", "NOT_THERE"]));
    let setup = open(&program).environment("NAMED", "n").environment("PLANTED", "secret");
    let gateway = setup.environment("AWS_SECRET_ACCESS_KEY", "secret").start();
    known(&gateway, "prog");
    // Connections are open while children begin.
    let held: Vec<Wire> = (0..20).map(|_| Wire::to(gateway.address)).collect();
    let session = open_session(&gateway, |post| post);
    let env = text(&call(&session, "env", json!({})).to(&gateway));
    let mut names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["NAMED", "PROGRAM_LOG", "PROGRAM_MODE", "WRITTEN"], "{env}");
    let files = text(&call(&session, "fds", json!({})).to(&gateway));
    let own = |line: &&str| !line.contains("/proc/") && !line.contains("eventpoll") && !line.contains("log");
    let numbers: Vec<&str> = files.lines().filter(own).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{files}");
    drop(held);
}

/// [C3] A child that dies takes with it what was under way, whose outcome is unknown; nothing is sent again, and the next
/// call has a new one.
#[test]
fn what_a_dead_child_was_doing_is_not_done_again() {
    for shared in [false, true] {
        let program = if shared { Program::new().shared() } else { Program::new() };
        let gateway = open(&program).start();
        known(&gateway, "prog");
        let session = open_session(&gateway, |post| post);
        let (value, slow) = (fresh(), fresh());
        let other = call(&session, "slow", json!({ "ms": 60_000, "value": slow })).id("other");
        let answer = thread::scope(|scope| {
            let other = scope.spawn(|| other.to(&gateway).json());
            eventually("it is under way", || program.executed().iter().any(|(_, it)| *it == slow));
            let answer = call(&session, "die", json!({ "value": value })).to(&gateway).json();
            let other = other.join().expect("no panic");
            assert_eq!(other["error"]["data"]["reason"], "server_cut", "{other}");
            answer
        });
        assert_eq!(answer["error"]["data"]["reason"], "server_cut", "{answer}");
        Post::legacy_call(&session, "echo").echoed(&gateway);
        for value in [value, slow] {
            assert_eq!(program.executed().iter().filter(|(_, it)| *it == value).count(), 1);
        }
        assert!(gateway.said("its program exited with 9") > 0);
    }
}

/// [C3] Killed again and again under load: no call is executed twice, each is answered, and those that are answered well were
/// executed.
#[test]
fn children_may_be_killed_under_load() {
    let kills = if std::env::var_os("STDIO_KILLS").is_some() { 200 } else { 20 };
    let servers = kills / 4;
    let programs: Vec<Program> =
        (0..servers).map(|number| if number % 2 == 0 { Program::new() } else { Program::new().shared() }).collect();
    let mut setup = Setup::new().open().shards(2);
    for (number, program) in programs.iter().enumerate() {
        setup = setup.set(&format!("/servers/prog{number}"), program.settings());
    }
    let gateway = setup.start();
    (0..servers).for_each(|number| known(&gateway, &format!("prog{number}")));
    let total: usize = thread::scope(|scope| {
        let gateway = &gateway;
        let load = |number: usize| scope.spawn(move || under_fire(gateway, &format!("/s/prog{number}/mcp"), number));
        let threads: Vec<_> = (0..servers).map(load).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert!(total >= kills * 3 / 4, "only {total} kills");
    for program in &programs {
        let mut seen = HashMap::new();
        program.executed().into_iter().filter(|(_, value)| value.len() == 32).for_each(|(_, value)| {
            *seen.entry(value).or_insert(0) += 1;
        });
        assert!(seen.values().all(|count| *count == 1), "a call was executed twice");
    }
}

/// Calls at one server while its child is killed four times; how often it was.
fn under_fire(gateway: &Gateway, path: &str, number: usize) -> usize {
    let session = open_session(gateway, |post| post.at(path));
    let mut kills = 0;
    let end = Instant::now() + Duration::from_secs(40);
    while kills < 4 && Instant::now() < end {
        let pid = call(&session, "pid", json!({})).at(path).to(gateway).json();
        let Ok(pid) = text_of(&pid).parse::<u32>() else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        thread::scope(|scope| {
            let calls: Vec<_> = (0..4)
                .map(|id| {
                    let post = Post::legacy_call(&session, "echo").at(path).id(id);
                    scope.spawn(move || post.to(gateway).json())
                })
                .collect();
            thread::sleep(Duration::from_millis((number as u64 * 7 + kills as u64 * 3) % 12));
            kill(pid, Signal::KILL);
            for call in calls {
                let answer = call.join().expect("no panic");
                let reason = answer["error"]["data"]["reason"].as_str().unwrap_or_default();
                assert!(answer.get("result").is_some() || !reason.is_empty(), "{answer}");
            }
        });
        kills += 1;
    }
    kills
}

/// [C4] Lines that are no messages are dropped and counted; what comes after them is heard.
#[test]
fn what_is_no_message_is_dropped() {
    let program = Program::new();
    let gateway = open(&program).start();
    known(&gateway, "prog");
    let session = open_session(&gateway, |post| post);
    assert_eq!(text(&call(&session, "odd", json!({})).to(&gateway)), "said");
    // The longest line there may be, as an answer; and one that is longer.
    let bytes = 4 * 1024 * 1024 - 1024;
    assert_eq!(text(&call(&session, "big", json!({ "bytes": bytes })).to(&gateway)).len(), bytes);
    assert_eq!(text(&call(&session, "long", json!({ "bytes": 5 * 1024 * 1024 })).to(&gateway)), "said");
    Post::legacy_call(&session, "echo").echoed(&gateway);
    assert!(gateway.said("such lines are dropped") > 0);
}

/// [C5] A child that hangs, or reads no more, is its own calls' affair.
#[test]
fn a_hanging_child_holds_nobody_else_up() {
    let (bad, good) = (Program::new().shared().set("timeout", json!("2s")), Program::new().shared());
    let setup = Setup::new().set("/servers/bad", bad.settings()).set("/servers/good", good.settings()).open();
    let gateway = setup.start();
    known(&gateway, "bad");
    known(&gateway, "good");
    let hung = open_session(&gateway, |post| post.at("/s/bad/mcp"));
    let session = open_session(&gateway, |post| post.at("/s/good/mcp"));
    thread::scope(|scope| {
        let begun: Vec<_> = (0..30)
            .map(|number| {
                let (gateway, hung) = (&gateway, &hung);
                let tool = if number == 0 { "deaf" } else { "hang" };
                let value = "z".repeat(if number == 0 { 1 } else { 200_000 });
                let post = call(hung, tool, json!({ "value": value })).at("/s/bad/mcp").id(number);
                scope.spawn(move || post.to(gateway).json())
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let since = Instant::now();
            Post::legacy_call(&session, "echo").at("/s/good/mcp").echoed(&gateway);
            slowest = slowest.max(since.elapsed());
        }
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        for call in begun {
            let answer = call.join().expect("no panic");
            let reason = answer["error"]["data"]["reason"].as_str().unwrap_or_default();
            assert!(["server_timeout", "server_cut", "unreachable"].contains(&reason), "{answer}");
        }
    });
}

/// A client that takes its call back has it taken back at the child, under the name that the child knows.
#[test]
fn calls_are_taken_back() {
    let program = Program::new();
    let gateway = open(&program).start();
    known(&gateway, "prog");
    let session = open_session(&gateway, |post| post);
    let value = fresh();
    let hung = call(&session, "hang", json!({ "value": value })).id("mine");
    thread::scope(|scope| {
        let hung = scope.spawn(|| hung.to(&gateway).json());
        eventually("it is under way", || program.executed().iter().any(|(_, it)| *it == value));
        let cancel =
            json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "mine" } });
        assert_eq!(Post::tell(&session, cancel).to(&gateway).status(), 202);
        hung.join().expect("no panic");
    });
    eventually("the child has heard of it", || {
        let heard = text(&call(&session, "cancelled", json!({})).to(&gateway));
        let heard: Vec<u64> = serde_json::from_str(&heard).expect("numbers of the gateway's own");
        !heard.is_empty()
    });
}

/// [C3] A program that is no good is said to be so, with how it ended and when it is tried again, and not without end.
#[test]
fn a_program_that_ends_at_once_is_not_begun_without_end() {
    let program = Program::new().mode("ends");
    let gateway = open(&program).start();
    eventually("the status says so", || {
        let status = status(&gateway, "prog");
        let trouble = status["trouble"].as_str().unwrap_or_default();
        trouble.starts_with("its program exited with 3, restarting in ")
    });
    assert!(gateway.said("it ends at once") > 0);
    eventually("it has been tried", || program.begun().len() >= 5);
    thread::sleep(Duration::from_secs(3));
    assert!(program.begun().len() <= 7, "{} starts", program.begun().len());
}

#[test]
fn a_program_that_is_not_there_says_so() {
    let program = Program::new().set("command", json!(["no-such-program-anywhere"]));
    let gateway = open(&program).start();
    eventually("the status says so", || {
        let status = status(&gateway, "prog");
        status["trouble"].as_str().unwrap_or_default().contains("cannot be started (no-such-program-anywhere)")
    });
}

/// Programs that do not take being asked for their era, or do not answer, are of the legacy era.
#[test]
fn an_era_is_found_without_a_call() {
    for mode in ["dies", "silent", "modern"] {
        let program = Program::new().mode(mode);
        let gateway = open(&program).start();
        known(&gateway, "prog");
        let session = open_session(&gateway, |post| post);
        Post::legacy_call(&session, "echo").echoed(&gateway);
        let modern =
            status(&gateway, "prog")["protocols"].as_array().is_some_and(|all| all.contains(&json!("2026-07-28")));
        assert_eq!(modern, mode == "modern");
        if modern {
            Post::call("echo").echoed(&gateway);
        }
    }
}

/// A program that takes long to begin is asked for its era in vain at first; what it answers later counts.
#[test]
fn a_slow_start_hides_no_era() {
    for program in [Program::new(), Program::new().shared()] {
        let program = program.mode("slow modern");
        let gateway = open(&program).start();
        eventually("it has begun once for each era", || program.begun().len() >= 2);
        known(&gateway, "prog");
        assert_eq!(status(&gateway, "prog")["protocols"].as_array().map(Vec::len), Some(2));
        assert_eq!(program.begun().len(), 2);
        // A client's own child begins as slowly, which is no reason to tell it that nothing answers.
        let answer = Post::modern("server/discover", json!({})).to(&gateway).json();
        assert!(answer.get("result").is_some(), "{answer}");
        Post::call("echo").echoed(&gateway);
    }
}

/// What a program refuses of one client, it may take from the next.
#[test]
fn a_refused_handshake_is_one_clients_affair() {
    let program = Program::new().mode("strict modern");
    let gateway = open(&program).start();
    known(&gateway, "prog");
    let refused = Post::initialize("2025-06-18").param("/clientInfo/name", json!("")).to(&gateway).json();
    assert_eq!(refused["error"]["code"], -32_602, "{refused}");
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "echo").echoed(&gateway);
    Post::call("echo").echoed(&gateway);
}

/// Before the gateway knows a program's eras, too.
#[test]
fn a_refused_question_is_one_clients_affair() {
    let program = Program::new().mode("strict modern late");
    let gateway = open(&program).tokens("deny").start();
    eventually("the gateway has begun to ask", || !program.begun().is_empty());
    let discover = |subject: &str| {
        let token = gateway.token(&Who { subject, ..Who::default() });
        Post::modern("server/discover", json!({})).token(&token)
    };
    let refused = discover("ada").declaring(json!({ "nameless": {} })).to(&gateway).json();
    assert_eq!(refused["error"]["code"], -32_602, "{refused}");
    let answer = discover("bob").to(&gateway).json();
    assert!(answer.get("result").is_some(), "{answer}");
}

/// [C3] Who makes a program end by a first message is not helped to do so again; others are.
#[test]
fn a_fatal_handshake_is_one_clients_affair() {
    let program = Program::new().mode("brittle");
    let gateway = open(&program).tokens("deny").start();
    known(&gateway, "prog");
    let initialize = |subject: &str, name: &str| {
        let token = gateway.token(&Who { subject, ..Who::default() });
        Post::initialize("2025-06-18").param("/clientInfo/name", json!(name)).token(&token).to(&gateway).json()
    };
    let before = program.begun().len();
    for _ in 0..6 {
        let answer = initialize("ada", "");
        assert!(answer.get("result").is_none(), "{answer}");
    }
    assert!((5..=6).contains(&(program.begun().len() - before)));
    let answer = initialize("bob", "test");
    assert!(answer.get("result").is_some(), "{answer}");
}

/// In the modern era each owner has a child of its own; subscriptions have their client's ids.
#[test]
fn a_modern_owner_has_a_child_of_its_own() {
    let program = Program::new().mode("modern");
    let gateway = open(&program).tokens("deny").start();
    known(&gateway, "prog");
    let pid = |subject: &str| {
        let token = gateway.token(&Who { subject, ..Who::default() });
        text(&Post::modern("tools/call", json!({ "name": "pid", "arguments": {} })).token(&token).to(&gateway))
    };
    assert_ne!(pid("ada"), pid("bob"));
    assert_eq!(pid("ada"), pid("ada"));
    let token = gateway.token(&Who::default());
    let filter = json!({ "notifications": { "toolsListChanged": true } });
    let mut events = Post::modern("subscriptions/listen", filter).id("sub").token(&token).stream(&gateway);
    let acknowledged = events.message();
    let id = &acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
    assert_eq!((&acknowledged["method"], id), (&json!("notifications/subscriptions/acknowledged"), &json!("sub")));
    assert_eq!(events.message()["method"], "notifications/tools/list_changed");
}

/// [C6] Children end with the gateway, the stubborn ones too; and when it is killed.
#[test]
fn children_end_with_the_gateway() {
    for signal in [Signal::TERM, Signal::KILL] {
        let (kind, stubborn) = (Program::new().shared(), Program::new().mode("stays"));
        let setup = Setup::new().set("/servers/kind", kind.settings()).set("/servers/stubborn", stubborn.settings());
        let mut gateway = setup.open().start();
        known(&gateway, "kind");
        known(&gateway, "stubborn");
        let pids: Vec<u32> = kind.begun().into_iter().chain(stubborn.begun()).filter(|pid| is_alive(*pid)).collect();
        assert!(pids.len() >= 2, "{pids:?}");
        gateway.signal(signal);
        let ended = gateway.ended(PATIENCE);
        assert_eq!(ended.success(), signal == Signal::TERM);
        if signal == Signal::TERM {
            assert!(pids.iter().all(|pid| !is_alive(*pid)), "it waits for them");
        }
        eventually("nothing is left behind", || pids.iter().all(|pid| !is_alive(*pid)));
    }
}

/// [C7] Subscriptions at a shared child belong to those who subscribed.
#[test]
fn news_of_a_shared_child_goes_to_those_who_asked() {
    let program = Program::new().shared();
    let gateway = open(&program).start();
    known(&gateway, "prog");
    let (one, two) = (open_session(&gateway, |post| post), open_session(&gateway, |post| post));
    let stream = |session: &str| {
        let mut wire = Wire::to(gateway.address);
        wire.send(&session_request(&gateway, "GET", "/mcp", session, ""));
        wire.events()
    };
    let (mut first, mut second) = (stream(&one), stream(&two));
    let uri = json!({ "uri": "a:b" });
    let subscribe = Post::legacy(&one, "resources/subscribe", uri.clone());
    assert_eq!(subscribe.to(&gateway).json()["result"], json!({}));
    call(&two, "talk", json!({ "value": "a secret" })).to(&gateway);
    call(&two, "updated", uri.clone()).to(&gateway);
    let said = first.message();
    assert_eq!((&said["method"], &said["params"]), (&json!("notifications/resources/updated"), &uri));
    // Its own streams open in their own time, and only those that are open are told.
    eventually("both hear of it", || {
        call(&two, "changed", json!({})).to(&gateway);
        first.comes(Duration::from_millis(50)) && second.comes(Duration::from_millis(50))
    });
    assert_eq!(first.message()["method"], "notifications/tools/list_changed");
    assert_eq!(second.message()["method"], "notifications/tools/list_changed", "and nothing before it");
    eventually("what it says on its standard error is in the log", || gateway.said("a secret") > 0);
}

/// [C6] Another command is another child, begun when it is needed; the old one ends. What is no affair of the child's leaves
/// it alone, and its sessions.
#[test]
fn new_settings_are_a_new_child() {
    let program = Program::new().shared();
    let gateway = open(&program).start();
    known(&gateway, "prog");
    let session = open_session(&gateway, |post| post);
    let pid =
        |gateway: &Gateway| -> u32 { text(&call(&session, "pid", json!({})).to(gateway)).parse().expect("a number") };
    let first = pid(&gateway);
    gateway.configure(|config| config["servers"]["prog"]["timeout"] = json!("50s"));
    gateway.reload();
    assert_eq!(pid(&gateway), first, "how long a call may take is no affair of its");
    gateway.configure(|config| config["servers"]["prog"]["env"]["MORE"] = json!("1"));
    gateway.reload();
    let second = pid(&gateway);
    assert_ne!(second, first);
    eventually("the old one has ended", || !is_alive(first));
    assert!(is_alive(second));
    gateway.configure(|config| config["servers"] = json!({ "other": { "url": "http://127.0.0.1:9/" } }));
    gateway.reload();
    eventually("the last one has ended", || !is_alive(second));
}

/// The servers that people run: each alone, and a shared one with what it remembers in common.
#[test]
fn real_programs() {
    let (Some(node), Some(python)) = (node_peers(), python_peers(Sdk::V2)) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::write(folder.path().join("note.txt"), "a note").expect("it can be written");
    let path = folder.path().to_string_lossy().into_owned();
    let mut memory = node.program(&[MEMORY_PROGRAM]);
    memory["sharing"] = json!("shared");
    memory["env"] = json!({ "MEMORY_FILE_PATH": folder.path().join("memory.jsonl") });
    let setup = Setup::new()
        .set("/servers/files", node.program(&[FILESYSTEM_PROGRAM, &path]))
        .set("/servers/memory", memory)
        .set("/servers/time", python.program(&["-m", TIME_MODULE]));
    let gateway = setup.open().start();
    for (name, tools) in [("files", 14), ("memory", 9), ("time", 2)] {
        known(&gateway, name);
        let status = status(&gateway, name);
        assert!(status["tools"].as_u64().is_some_and(|count| count >= tools), "{status:#}");
        assert_eq!(
            status["protocols"].as_array().map(Vec::len),
            Some(if name == "time" { 2 } else { 1 }),
            "{status:#}"
        );
    }
    let at = |name: &str| format!("/s/{name}/mcp");
    let session = open_session(&gateway, |post| post.at(&at("files")));
    let read = json!({ "path": folder.path().join("note.txt") });
    assert_eq!(text(&call(&session, "read_text_file", read).at(&at("files")).to(&gateway)), "a note");
    let (one, two) =
        (open_session(&gateway, |post| post.at(&at("memory"))), open_session(&gateway, |post| post.at(&at("memory"))));
    let entity = json!({ "entities": [{ "name": "Ada", "entityType": "person", "observations": ["counts"] }] });
    text(&call(&one, "create_entities", entity).at(&at("memory")).to(&gateway));
    let found = text(&call(&two, "search_nodes", json!({ "query": "Ada" })).at(&at("memory")).to(&gateway));
    assert!(found.contains("counts"), "{found}");
    let now = json!({ "timezone": "Europe/Vienna" });
    let session = open_session(&gateway, |post| post.at(&at("time")));
    let said = text(&call(&session, "get_current_time", now.clone()).at(&at("time")).to(&gateway));
    assert!(said.contains("Vienna"), "{said}");
    let modern = Post::modern("tools/call", json!({ "name": "get_current_time", "arguments": now })).at(&at("time"));
    assert!(text(&modern.to(&gateway)).contains("Vienna"));
}
