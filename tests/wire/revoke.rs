//! The kill switch: what is revoked does nothing more, on any shard, from the moment that is said, until it is undone.

use std::collections::VecDeque;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, Setup, Who, eventually, run};
use crate::support::http::Wire;
use crate::support::mcp::{Post, open_session, session_request};
use crate::support::oracle;
use crate::support::peers::Run;
use crate::support::upstream::{Acted, Plan, Reserved, Upstream, progress, said};

/// `hold` tells of its progress and waits to be let go; subscriptions of clients are acknowledged, and last.
fn upstream() -> Upstream {
    Plan::tools(&["echo", "hold"])
        .script(|seen, out| {
            if seen.method() == "subscriptions/listen" && seen.field("tracestate") == "ours=1" {
                let meta = json!({ "io.modelcontextprotocol/subscriptionId": seen.id() });
                let params = json!({ "notifications": { "toolsListChanged": true }, "_meta": meta });
                out.stream();
                out.event(&json!({
                    "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params,
                }));
                out.gone(Duration::from_secs(20));
                return Acted::Done;
            }
            if !seen.calls("hold") {
                return Acted::Default;
            }
            out.stream();
            out.event(&progress(seen, 1));
            out.pass("held");
            out.event(&said(seen, seen.value()));
            out.stream_end();
            Acted::Done
        })
        .start()
}

fn pair(setup: Setup) -> (Gateway, Upstream) {
    let upstream = upstream();
    let setup = setup.server("up", &upstream.url()).task("refund").task("audit");
    (setup.open().tokens("deny").start(), upstream)
}

fn ada() -> Who<'static> {
    Who::default()
}

fn bob() -> Who<'static> {
    Who { subject: "bob", agent: Some("agent-2"), ..Who::default() }
}

/// `portcullis revoke`.
fn revoke(gateway: &Gateway, words: &[&str]) -> Run {
    let config = gateway.config().display().to_string();
    let admin = gateway.admin.to_string();
    let mut arguments = vec!["revoke"];
    arguments.extend(words);
    arguments.extend(["--config", &config, "--admin", &admin]);
    run(Path::new("."), &arguments)
}

#[track_caller]
fn revoked(gateway: &Gateway, words: &[&str]) -> Run {
    let run = revoke(gateway, words);
    assert_eq!(code(&run), Some(0), "{words:?}: {}{}", run.stdout, run.stderr);
    run
}

fn code(run: &Run) -> Option<i32> {
    run.status.and_then(|status| status.code())
}

/// On as many connections as reach every shard.
#[track_caller]
fn refused_everywhere(gateway: &Gateway, post: &Post) {
    for _ in 0..12 {
        let answer = post.to(gateway);
        assert_eq!(answer.status(), 401, "{}", answer.text());
        assert!(answer.field("www-authenticate").contains("error=\"invalid_token\""), "{:?}", answer.head);
    }
}

#[test]
fn a_subject_is_stopped_on_every_shard_and_after_a_restart() {
    let (gateway, upstream) = pair(Setup::new().shards(2));
    let (his, hers) = (gateway.token(&ada()), gateway.token(&bob()));
    let call = |token: &str| Post::call("echo").token(token);
    let session = open_session(&gateway, |post| post.token(&his));
    call(&his).echoed(&gateway);
    let before = upstream.calls().len();
    let said = revoked(&gateway, &["--subject", "ada", "--reason", "lost laptop", "--as", "Anna"]);
    assert!(said.stderr.contains("revoked: subject ada"), "{}", said.stderr);
    refused_everywhere(&gateway, &call(&his));
    refused_everywhere(&gateway, &Post::modern("tools/list", json!({})).token(&his));
    refused_everywhere(&gateway, &Post::legacy_call(&session, "echo").token(&his));
    refused_everywhere(&gateway, &Post::initialize("2025-11-25").token(&his));
    let ended = session_request(&gateway, "DELETE", "/mcp", &session, &format!("authorization: Bearer {his}\r\n"));
    assert_eq!(Wire::to(gateway.address).ask(&ended).status(), 401);
    call(&hers).echoed(&gateway);
    assert_eq!(upstream.calls().len(), before + 1, "nothing of the other one's arrived");
    assert_eq!(gateway.status()["revocations"], 1);
    let list = revoked(&gateway, &["--list"]).stdout;
    assert!(list.contains("subject ada") && list.contains("Anna") && list.contains("lost laptop"), "{list}");
    let again = revoked(&gateway, &["--subject", "ada"]);
    assert!(again.stderr.contains("revoked already, by Anna"), "{}", again.stderr);
    let records = gateway.records_until("both", |records| {
        records.iter().any(|it| it["kind"] == "admin") && records.iter().any(|it| it["reason"] == "revoked")
    });
    let line = records.iter().find(|it| it["kind"] == "admin").expect("it is there");
    assert_eq!(
        (&line["event"], &line["detail"]["subject"], &line["detail"]["by"]),
        (&json!("revoked"), &json!("ada"), &json!("Anna"))
    );
    let refusal = records.iter().find(|it| it["reason"] == "revoked").expect("it is there");
    assert_eq!((&refusal["subject"], &refusal["verdict"]), (&json!("ada"), &json!("refuse")));
    oracle::check(&gateway, &[("up", &upstream)]);

    let gateway = gateway.restart(|_| {});
    let (his, hers) = (gateway.token(&ada()), gateway.token(&bob()));
    refused_everywhere(&gateway, &call(&his));
    call(&hers).echoed(&gateway);
    let undone = revoked(&gateway, &["--undo", "--subject", "ada"]);
    assert!(undone.stderr.contains("let in again: subject ada"), "{}", undone.stderr);
    for _ in 0..6 {
        call(&his).echoed(&gateway);
    }
    let nothing = revoke(&gateway, &["--undo", "--subject", "ada"]);
    assert_eq!((code(&nothing), nothing.stderr.contains("is not revoked")), (Some(1), true), "{}", nothing.stderr);
    let gateway = gateway.restart(|_| {});
    call(&gateway.token(&ada())).echoed(&gateway);
}

#[test]
fn each_target_is_what_it_names() {
    let (gateway, upstream) = pair(Setup::new());
    let tokens = [ada(), bob()].map(|who| gateway.token(&who));
    let passes = |token: &str| Post::call("echo").token(token).to(&gateway).status();
    let issuer = ISSUER;
    let check = |words: &[&str], want: [u16; 2]| {
        revoked(&gateway, words);
        assert_eq!([passes(&tokens[0]), passes(&tokens[1])], want, "{words:?}");
        let undo: Vec<&str> = words.iter().copied().chain(["--undo"]).collect();
        revoked(&gateway, &undo);
        assert_eq!([passes(&tokens[0]), passes(&tokens[1])], [200, 200], "{words:?} undone");
    };
    check(&["--all"], [401, 401]);
    check(&["--agent", "agent-2"], [200, 401]);
    check(&["--subject", "ada", "--issuer", issuer], [401, 200]);
    check(&["--subject", "ada", "--issuer", "https://other.example"], [200, 200]);
    check(&["--token", &tokens[1]], [200, 401]);
    check(&["--token", &format!("Bearer \"{}\"\n", tokens[1])], [200, 401]);
    let json = revoked(&gateway, &["--token", &tokens[0], "--json"]).stdout;
    let said: Value = serde_json::from_str(&json).expect("it is JSON");
    let digest = said["revoked"]["name"].as_str().expect("a digest");
    assert!(digest.starts_with("sha256:") && !json.contains(&tokens[0]), "{json}");
    let state = fs::read_to_string(gateway.config().with_file_name("state/revocations.json")).expect("it is there");
    assert!(state.contains(digest) && !state.contains(&tokens[0]), "{state}");
    // Another token of the same subject's is another one.
    let other = gateway.token_since(&ada(), &[&gateway.url("/mcp")], -30);
    assert_eq!((passes(&tokens[0]), passes(&other)), (401, 200));
    revoked(&gateway, &["--token", digest, "--undo"]);
    assert_eq!(passes(&tokens[0]), 200);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A task that is revoked is one that the caller does not hold, to the byte.
#[test]
fn a_task_cannot_be_the_active_one() {
    let (gateway, upstream) = pair(Setup::new());
    let token = gateway.token(&Who { tasks: &["refund", "audit"], ..ada() });
    let in_task = |post: Post, task: &str| post.token(&token).field("portcullis-task", task).to(&gateway);
    assert_eq!(in_task(Post::call("echo"), "refund").status(), 200);
    revoked(&gateway, &["--task", "refund"]);
    for post in [Post::call("echo"), Post::modern("tools/list", json!({}))] {
        let (gone, never) = (in_task(post.clone(), "refund"), in_task(post.clone(), "never-heard-of"));
        assert_eq!((gone.status(), gone.text()), (400, never.text()));
        assert_eq!(in_task(post, "audit").status(), 200);
    }
    revoked(&gateway, &["--task", "refund", "--undo"]);
    assert_eq!(in_task(Post::call("echo"), "refund").status(), 200);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Waits for the end of streams that last as long as their callers may have them.
#[track_caller]
fn ends(what: &str, wire: impl FnOnce() -> bool, since: Instant) {
    assert!(wire(), "{what} did not end well");
    println!("{what}: ended after {:?}", since.elapsed());
    // A second is promised; a busy machine gets a few. Without the switch they last for as long as their servers do.
    assert!(since.elapsed() < Duration::from_secs(8), "{what} went on for {:?}", since.elapsed());
}

#[test]
fn streams_end() {
    let (gateway, upstream) = pair(Setup::new().shards(2));
    let (his, hers) = (gateway.token(&ada()), gateway.token(&bob()));
    let field = |token: &str| format!("authorization: Bearer {token}\r\n");
    let session = open_session(&gateway, |post| post.token(&his));
    let other = open_session(&gateway, |post| post.token(&hers));
    let stream = |session: &str, token: &str| {
        let mut wire = Wire::to(gateway.address);
        wire.send(&session_request(&gateway, "GET", "/mcp", session, &field(token)));
        wire.events()
    };
    let (own, others) = (stream(&session, &his), stream(&other, &hers));
    let listen = Post::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut listens = listen.token(&his).field("tracestate", "ours=1").stream(&gateway);
    assert_eq!(listens.message()["method"], "notifications/subscriptions/acknowledged");
    let call = |post: Post| post.param("/_meta/progressToken", json!("p")).token(&his);
    let mut modern = call(Post::call("hold")).stream(&gateway);
    let mut legacy = call(Post::legacy_call(&session, "hold")).stream(&gateway);
    assert_eq!(modern.message()["params"]["progress"], 1);
    assert_eq!(legacy.message()["params"]["progress"], 1);
    eventually("the sessions' streams are open", || upstream.open_streams() >= 2);

    let since = Instant::now();
    revoked(&gateway, &["--agent", "agent-1"]);
    ends("the session's own", || own.rest().1.is_ok(), since);
    ends("the subscription", || listens.rest().1.is_ok(), since);
    let refused = |messages: Vec<Value>| messages.last().is_some_and(|it| it["error"]["code"].is_i64());
    ends("a modern answer", || refused(modern.rest().0), since);
    ends("a legacy answer", || refused(legacy.rest().0), since);
    upstream.open("held");

    // Whoever is not meant hears on.
    upstream
        .say(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } }));
    let mut others = others;
    assert_eq!(others.message()["params"]["data"], 1);
    revoked(&gateway, &["--agent", "agent-1", "--undo"]);
    let again = stream(&session, &his);
    Post::legacy_call(&session, "echo").token(&his).echoed(&gateway);
    drop((again, others));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// What is cut off and parked for a client to come back is not there for one that may not.
#[test]
fn a_parked_answer_is_given_up() {
    let (gateway, upstream) = pair(Setup::new());
    let his = gateway.token(&ada());
    let session = open_session(&gateway, |post| post.token(&his));
    let call = Post::legacy_call(&session, "hold").param("/_meta/progressToken", json!("p")).token(&his);
    let mut events = call.stream(&gateway);
    let id = loop {
        let event = events.next().expect("it is a stream").expect("it goes on");
        if event.data.as_deref().is_some_and(|data| !data.is_empty()) {
            break event.id.expect("it can be resumed");
        }
    };
    drop(events);
    revoked(&gateway, &["--subject", "ada"]);
    let resume = |token: &str| {
        let more = format!("authorization: Bearer {token}\r\nlast-event-id: {id}\r\n");
        let mut wire = Wire::to(gateway.address);
        wire.send(&session_request(&gateway, "GET", "/mcp", &session, &more));
        wire
    };
    assert_eq!(resume(&his).response().status(), 401);
    upstream.open("held");
    revoked(&gateway, &["--subject", "ada", "--undo"]);
    Post::legacy_call(&session, "echo").token(&his).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A request that began before, and whose body ends after, is decided by what is revoked then.
#[test]
fn a_slow_body_does_not_outlive_it() {
    let (gateway, upstream) = pair(Setup::new());
    let his = gateway.token(&ada());
    Post::call("echo").token(&his).echoed(&gateway);
    let post = Post::call("echo").token(&his);
    let bytes = post.bytes(&gateway);
    let (first, last) = bytes.split_at(bytes.len() - 5);
    let mut wire = Wire::to(gateway.address);
    wire.send(first);
    revoked(&gateway, &["--subject", "ada"]);
    wire.send(last);
    let answer = wire.response();
    assert_eq!(answer.status(), 401, "{}", answer.text());
    assert!(upstream.calls().iter().all(|seen| seen.value() != post.value));
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// A session of the one revision that has batches.
#[track_caller]
fn session_with_batches(gateway: &Gateway, token: &str) -> String {
    let answer = Post::initialize("2025-03-26").token(token).to(gateway);
    let session = answer.field("mcp-session-id").to_owned();
    let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let told = Post::tell(&session, told).without("mcp-protocol-version").token(token);
    assert_eq!(told.to(gateway).status(), 202, "{}", answer.text());
    session
}

/// A batch of one call.
fn batch(session: &str, tool: &str, token: &str) -> Post {
    let meta = json!({ "progressToken": "p" });
    let params = json!({ "name": tool, "arguments": { "value": "batched", "invoice": "b" }, "_meta": meta });
    let call = json!([{ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }]);
    Post::tell(session, Value::Null).without("mcp-protocol-version").body(call.to_string()).token(token)
}

/// What was decided before, and still waits for its server, is not written to it; what it had at stake goes back.
#[test]
fn a_call_that_waits_to_be_sent_stays_here() {
    let upstream = Plan::tools(&["echo"]).start();
    let rule = json!({ "id": "paid", "permit": ["up/*"], "limits": [{ "once": "args.invoice" }] });
    let setup = Setup::new().server("up", &upstream.url()).rule(rule).tokens("deny");
    let gateway = setup.set("/limits/connect", json!("60s")).start();
    let his = gateway.token(&ada());
    let session = session_with_batches(&gateway, &his);
    let address = upstream.address();
    drop(upstream);
    let clogged = Reserved::at(address).clogged();
    let pay = || Post::call("echo").param("/arguments/invoice", json!("a")).token(&his);
    let mut waiting = [pay().begin(&gateway), batch(&session, "echo", &his).begin(&gateway)];
    eventually("both are under way", || gateway.calls_under_way() == 2);
    revoked(&gateway, &["--subject", "ada"]);
    let upstream = clogged.start(Plan::tools(&["echo"]));
    for wire in &mut waiting {
        let answer = wire.response();
        assert_eq!(answer.status(), 401, "{}", answer.text());
    }
    assert!(upstream.calls().is_empty(), "{:?}", upstream.calls());
    revoked(&gateway, &["--subject", "ada", "--undo"]);
    let again = pay();
    again.echoed(&gateway);
    let repeated = pay().to(&gateway).json();
    assert_eq!(repeated["result"]["isError"], true, "{repeated}");
    let batched = batch(&session, "echo", &his).to(&gateway);
    assert_eq!(batched.json()[0]["result"]["isError"], false, "{}", batched.text());
}

#[test]
fn a_batch_that_streams_ends() {
    let (gateway, upstream) = pair(Setup::new());
    let his = gateway.token(&ada());
    let session = session_with_batches(&gateway, &his);
    let mut events = batch(&session, "hold", &his).stream(&gateway);
    assert_eq!(events.message()["params"]["progress"], 1);
    let since = Instant::now();
    revoked(&gateway, &["--subject", "ada"]);
    ends("a batch", || events.rest().0.last().is_some_and(|it| it["error"]["code"].is_i64()), since);
    upstream.open("held");
}

/// Whoever opens connections to the admin listener and says nothing keeps nobody from it.
#[test]
fn idle_connections_are_not_in_its_way() {
    let (gateway, _upstream) = pair(Setup::new());
    let his = gateway.token(&ada());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut idle = VecDeque::new();
            while !stop.load(Ordering::Acquire) {
                idle.extend(TcpStream::connect(gateway.admin));
                if idle.len() > 256 {
                    idle.pop_front();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        std::thread::sleep(Duration::from_millis(500));
        let run = revoke(&gateway, &["--subject", "ada"]);
        stop.store(true, Ordering::Release);
        assert_eq!(code(&run), Some(0), "{}", run.stderr);
    });
    refused_everywhere(&gateway, &Post::call("echo").token(&his));
}

#[test]
fn where_no_gateway_runs_it_is_written_down() {
    let (gateway, upstream) = pair(Setup::new());
    let mut gateway = gateway;
    gateway.signal(Signal::KILL);
    gateway.ended(Duration::from_secs(20));
    let written = revoked(&gateway, &["--subject", "ada", "--as", "Anna"]);
    assert!(written.stderr.contains("no gateway runs"), "{}", written.stderr);
    let list = revoked(&gateway, &["--list"]).stdout;
    assert!(list.contains("subject ada") && list.contains("Anna"), "{list}");
    let gateway = gateway.restart(|_| {});
    refused_everywhere(&gateway, &Post::call("echo").token(&gateway.token(&ada())));
    Post::call("echo").token(&gateway.token(&bob())).echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Whoever was revoked must not be let in because a file was spoilt.
#[test]
fn a_file_that_cannot_be_read_keeps_it_from_starting() {
    for (name, text) in
        [("revocations.json", "{\"v\":1,\"revoked\":"), ("approvals.journal", "portcullis approvals 9\n")]
    {
        let state = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(state.path().join(name), text).expect("it can be written");
        let run = Setup::new().server("up", "http://127.0.0.1:1/mcp").open().set("/state", json!(state.path())).fail();
        assert_eq!(code(&run), Some(4), "{}", run.stderr);
        assert!(run.stderr.contains(name) && run.stderr.contains("cannot be read"), "{}", run.stderr);
    }
}

#[test]
fn nobody_revokes_without_the_token() {
    let (gateway, _upstream) = pair(Setup::new());
    let ask = |method: &str, path: &str, fields: &str, body: &str| {
        let host = gateway.admin;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{fields}content-length: {length}\r\n\r\n{body}");
        Wire::to(gateway.admin).ask(head.as_bytes())
    };
    let all = "{\"kind\":\"all\"}";
    for (method, path) in [
        ("GET", "/revocations"),
        ("POST", "/revocations"),
        ("DELETE", "/revocations"),
        ("GET", "/approvals"),
        ("GET", "/approvals/ap-aaaaaaaaaaaaaaaa"),
        ("POST", "/approvals/ap-aaaaaaaaaaaaaaaa/approve"),
    ] {
        let answer = ask(method, path, "authorization: Bearer nonsense\r\n", all);
        assert_eq!(answer.status(), 401, "{method} {path}");
    }
    let token = fs::read_to_string(gateway.config().with_file_name("state/admin.token")).expect("it is there");
    let field = format!("authorization: Bearer {}\r\n", token.trim());
    for body in
        ["", "{}", "{\"kind\":\"everybody\"}", "{\"kind\":\"all\",\"name\":\"x\"}", "{\"kind\":\"all\",\"x\":1}"]
    {
        assert_eq!(ask("POST", "/revocations", &field, body).status(), 400, "{body}");
    }
    assert_eq!(ask("POST", "/revocations", &field, "{\"kind\":\"agent\"}").status(), 422);
    assert_eq!(ask("DELETE", "/revocations", &field, all).status(), 404);
    assert_eq!(ask("POST", "/approvals/ap-aaaaaaaaaaaaaaaa/deny", &field, "").status(), 404);
    assert_eq!(ask("POST", "/approvals/nonsense", &field, "").status(), 404);
    assert_eq!(gateway.status()["revocations"], 0);
}
