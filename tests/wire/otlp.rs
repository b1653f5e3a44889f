//! What goes to a collector, read by OpenTelemetry's own definitions: the same as the metrics page shows, for calls of
//! every kind; and what a collector can do to calls, which is nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, eventually};
use crate::support::http::Wire;
use crate::support::mcp::{Post, open_session, session_request};
use crate::support::peers::OTEL_CLIENT;
use crate::support::receiver::{Collector, scraped};
use crate::support::upstream::{Acted, Plan, Upstream, result};

/// `fails` answers with an error of its own, `breaks` with one of JSON-RPC, `hangs` not at all, and `cuts` ends the
/// connection.
fn plan() -> Plan {
    Plan::tools(&["echo", "fails", "breaks", "hangs", "cuts", "hidden", "refused"]).script(|seen, out| {
        match seen.name() {
            "fails" => out.json(200, "", &result(seen, json!({ "content": [], "isError": true }))),
            "breaks" => {
                let error = json!({ "code": -32_602, "message": "no" });
                out.json(200, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "error": error }));
            }
            "hangs" => drop(out.gone(Duration::from_secs(10))),
            "cuts" => out.close(),
            _ => return Acted::Default,
        }
        Acted::Done
    })
}

/// Two servers behind one endpoint, and all that can become of a call.
fn scripted(setup: Setup) -> (Gateway, [Upstream; 2]) {
    let (docs, mail) = (plan().start(), Plan::tools(&["echo"]).start());
    let gateway = setup
        .server("docs", &docs.url())
        .server("mail", &mail.url())
        .set("/servers/docs/timeout", json!("400ms"))
        .set("/endpoints", json!({ "/mcp": { "servers": ["docs", "mail"] } }))
        .rule(json!({ "id": "most", "permit": ["*/*", "*!prompt:*"] }))
        .rule(json!({ "id": "not-hidden", "forbid": ["docs/hidden"] }))
        .rule(json!({ "id": "not-refused", "forbid": ["docs/refused"], "reason": "Not today." }))
        .start();
    eventually("both servers are known", || {
        gateway.status()["servers"].as_array().is_some_and(|all| all.iter().all(|one| one["known"] == true))
    });
    for tool in ["docs__echo", "mail__echo", "mail__echo"] {
        Post::call(tool).echoed(&gateway);
    }
    for tool in ["fails", "breaks", "hangs", "cuts", "hidden", "refused", "no-such-tool"] {
        Post::call(&format!("docs__{tool}")).to(&gateway);
    }
    Post::call("nobodys").to(&gateway);
    Post::modern("tools/list", json!({})).to(&gateway);
    Post::modern("server/discover", json!({})).to(&gateway);
    let session = open_session(&gateway, |post| post);
    Post::legacy_call(&session, "docs__echo").echoed(&gateway);
    Post::legacy(&session, "ping", json!({})).to(&gateway);
    Wire::to(gateway.address).ask(&session_request(&gateway, "DELETE", "/mcp", &session, ""));
    (gateway, [docs, mail])
}

/// Calls at a server, as the gateway's clients see them, and as the gateway sees its server: by tool and what they
/// failed with.
#[test]
fn every_metric_of_a_run() {
    let Some(collector) = Collector::start() else { return };
    let (gateway, _servers) = scripted(collector.of(Setup::new().shards(2)));
    let page = settled(&gateway);
    // Everything that a caller had to do with.
    let sent = collector.seen_until("all calls are told of", |sent| {
        let told = sent.series("mcp.server.operation.duration").values().sum::<f64>();
        told >= OPERATIONS && sent.series("portcullis.overhead.duration").values().sum::<f64>() >= page
    });
    let calls = |metric: &str| -> Vec<String> {
        let all = sent.series(metric);
        let mut all: Vec<String> = all.iter().map(|(labels, count)| format!("{} {count}", short(labels))).collect();
        all.sort();
        all
    };
    assert_eq!(calls("mcp.server.operation.duration"), SERVER_OPERATIONS);
    assert_eq!(calls("mcp.client.operation.duration"), CLIENT_OPERATIONS);
    assert_eq!(calls("portcullis.decisions"), DECISIONS);
    assert_eq!(calls("portcullis.overhead.duration"), OVERHEAD);
    assert_eq!(calls("mcp.server.session.duration"), ["2025-11-25 network.protocol.name=http 1"]);
    let resource = sent.get("resource");
    assert_eq!((&resource["service.name"], &resource["service.version"]), (&json!("portcullis"), &json!(VERSION)));
    assert_eq!(resource["portcullis.policy.set"], gateway.status()["policy"]);
}

/// Each message is a span, and each attempt at a server one below it.
#[test]
fn every_span_of_a_run() {
    let Some(collector) = Collector::start() else { return };
    let (gateway, _servers) = scripted(collector.of(Setup::new().shards(2)));
    let sent = collector.seen_until("all spans are there", |sent| sent.spans().len() >= SPANS.len());
    let mut all: Vec<String> = sent.spans().iter().map(|span| line(span, sent.spans())).collect();
    all.sort();
    assert_eq!(all, SPANS);
    for span in sent.spans() {
        assert!(span["begun"].as_u64() > Some(0) && span["begun"].as_u64() <= span["ended"].as_u64(), "{span}");
        assert_eq!((span["trace"].as_str().map(str::len), &span["scope"]), (Some(32), &json!("portcullis")), "{span}");
        let attributes = &span["attributes"];
        let call = attributes["mcp.method.name"] == "tools/call";
        assert_eq!(attributes.get("gen_ai.operation.name"), call.then_some(&json!("execute_tool")), "{span}");
        assert_eq!(attributes["network.transport"], "tcp");
        if span["kind"] == SERVER && call {
            assert_eq!(attributes["portcullis.policy.set"], gateway.status()["policy"], "{span}");
            assert!(attributes["portcullis.audit.seq"].is_i64(), "{span}");
        }
        if span["kind"] == CLIENT {
            assert_eq!(attributes["server.address"], "127.0.0.1", "{span}");
        }
    }
}

/// A span in a line: whose it is, its name, its server, what it failed with, what was decided, and whose child it is.
fn line(span: &Value, all: &[Value]) -> String {
    let of = |key: &str| span["attributes"][key].as_str().unwrap_or("-").to_owned();
    let parent = all.iter().find(|other| other["span"] == span["parent"] && other["trace"] == span["trace"]);
    let parent = parent.map_or("-", |parent| parent["name"].as_str().unwrap_or_default());
    let side = if span["kind"] == SERVER { "SERVER" } else { "CLIENT" };
    let error = if span["status"] == 2 { "ERROR" } else { "UNSET" };
    let (name, target, revision) = (&span["name"], of("portcullis.target"), of("mcp.protocol.version"));
    let (failure, decision, reason) = (of("error.type"), of("portcullis.decision"), of("portcullis.decision.reason"));
    let name = name.as_str().unwrap_or_default();
    format!("{side} {name} @{target} {revision} {error} {failure} {decision} {reason} < {parent}")
}

/// All tool calls' own time that there is to be, once it is handed over.
fn settled(gateway: &Gateway) -> f64 {
    let count = || -> f64 {
        scraped(gateway).get("portcullis_overhead_duration_seconds_count").map_or(0.0, |series| series.values().sum())
    };
    eventually("the gateway's own time is handed over", || {
        let before = count();
        std::thread::sleep(Duration::from_millis(150));
        before > 0.0 && (count() - before).abs() < 0.5
    });
    count()
}

/// Without what they all have.
fn short(labels: &str) -> String {
    let known = [
        ("gen_ai.tool.name=", "tool="),
        ("mcp.method.name=", ""),
        ("mcp.protocol.version=", ""),
        ("portcullis.target=", "at="),
        (" network.transport=tcp", ""),
        ("portcullis.decision.reason=", ""),
        ("portcullis.decision=", ""),
        ("error.type=", "error="),
        ("mode=enforce ", ""),
    ];
    known.iter().fold(labels.to_owned(), |labels, (long, short)| labels.replace(long, short))
}

/// Both are one model in two formats: at rest they show the same numbers, under names that follow from one another.
#[test]
fn the_page_and_the_collector_show_the_same() {
    let Some(collector) = Collector::start() else { return };
    let (gateway, _servers) = scripted(collector.of(Setup::new()));
    settled(&gateway);
    let mut compared = 0;
    eventually("both show the same", || {
        let pushes = collector.seen().get("pushes").as_u64();
        eventually("one more push", || collector.seen().get("pushes").as_u64() > pushes);
        let (sent, page) = (collector.seen(), scraped(&gateway));
        let mut differing = Vec::new();
        compared = 0;
        for one in sent.metrics() {
            let name = one["name"].as_str().unwrap_or_default();
            // As they are at this very moment.
            if ["process.", "portcullis.telemetry.", "portcullis.catalog.age"].iter().any(|it| name.starts_with(it)) {
                continue;
            }
            let unit = match one["unit"].as_str() {
                Some("s") => "_seconds",
                Some("By") => "_bytes",
                _ => "",
            };
            let end = match one["kind"].as_str() {
                Some("histogram") => "_count",
                _ if one["monotonic"] == true => "_total",
                _ => "",
            };
            let shown = format!("{}{unit}{end}", name.replace('.', "_"));
            let labels = one["labels"].as_object().expect("labels");
            let said = one.get("value").or(one.get("count")).and_then(Value::as_f64);
            let same = |text: &str| {
                let mut words: Vec<&str> = text.split(' ').filter(|it| !it.is_empty()).collect();
                words.sort_unstable();
                let mut ours: Vec<String> = labels
                    .iter()
                    .map(|(key, value)| format!("{}={}", key.replace('.', "_"), value.as_str().unwrap_or_default()))
                    .collect();
                ours.sort();
                words == ours
            };
            let series = page.get(&shown).and_then(|series| series.iter().find(|(text, _)| same(text)));
            compared += 1;
            if series.map(|(_, number)| *number) != said {
                differing.push(format!("{shown} {labels:?}: {series:?}, not {said:?}"));
            }
        }
        differing.is_empty()
    });
    assert!(compared > 100, "{compared}");
}

/// A collector that is slow, says that it is busy, hangs, or is gone: calls go on as ever, and whatever it was not sent is
/// counted.
#[test]
fn a_bad_collector_costs_nothing_but_what_it_is_not_sent() {
    let Some(collector) = Collector::start() else { return };
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = collector.of(Setup::new().server("up", &upstream.url()).open()).start();
    let slowest = || {
        let mut wire = Wire::to(gateway.address);
        let mut times: Vec<Duration> = (0..100)
            .map(|_| {
                let post = Post::call("echo");
                let began = Instant::now();
                post.is_echoed(&wire.ask(&post.bytes(&gateway)));
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[50]
    };
    let spans = |gateway: &Gateway| {
        let page = scraped(gateway);
        let of = |name: &str| -> f64 {
            let all = page.get(name).into_iter().flatten();
            all.filter(|(labels, _)| labels.contains("signal=traces")).map(|(_, count)| count).sum()
        };
        let [exported, dropped] = ["exported", "dropped"].map(|it| of(&format!("portcullis_telemetry_{it}_total")));
        (exported, dropped, of("portcullis_telemetry_queue"))
    };
    let good = slowest();
    for how in [
        json!({ "delay_ms": 700 }),
        json!({ "status": 503 }),
        json!({ "status": 429, "retry_after": 1, "times": 1 }),
        json!({ "status": 400 }),
        json!({ "hang": true }),
    ] {
        let posts = || collector.seen().get("posts").as_u64();
        let before = posts();
        collector.does(&how);
        let bad = slowest();
        eventually("it is sent something", || posts() > before);
        if how["status"] == 400 {
            // What was sent first may have been figures: spans are what it is to refuse.
            eventually("spans are given up", || spans(&gateway).1 > 0.0);
        }
        // A call that waited for it would take at least as long as it hesitates.
        assert!(bad < good * 10 + Duration::from_millis(20), "{how}: {bad:?}, else {good:?}");
    }
    collector.does(&json!({}));
    // Each call was one of a server and one of a client.
    let made = 2.0 * 6.0 * 100.0;
    eventually("all spans are accounted for", || {
        let (exported, dropped, queued) = spans(&gateway);
        queued < 0.5 && (exported + dropped - made).abs() < 0.5
    });
    let (exported, dropped, _) = spans(&gateway);
    assert!(exported > 0.0 && dropped > 0.0, "{exported} {dropped}");
    let has = collector.seen().spans().iter().filter(|span| span["name"] == "tools/call echo").count();
    // What hung is there, too: it was received, and never answered.
    assert!(has as f64 >= exported && (has as f64) < made, "{has}, {exported}, {dropped}");
}

/// The last figures and spans arrive when the gateway is told to end.
#[test]
fn the_end_is_told() {
    let Some(collector) = Collector::start() else { return };
    let upstream = Plan::tools(&["echo"]).start();
    let otlp = json!({ "url": collector.url(), "interval": "1h", "headers": { "x-key": "${KEY}" } });
    let setup = Setup::new().server("up", &upstream.url()).open().environment("KEY", "sesame");
    let setup = setup
        .set("/telemetry", json!({ "otlp": otlp, "traces": 1, "resource": { "deployment.environment.name": "test" } }));
    let mut gateway = setup.start();
    Post::call("echo").echoed(&gateway);
    gateway.signal(rustix::process::Signal::TERM);
    assert!(gateway.ended(crate::support::gateway::PATIENCE).success());
    let sent = collector.seen();
    assert_eq!(sent.series("mcp.server.operation.duration").len(), 1);
    assert_eq!(sent.spans().iter().filter(|span| span["name"] == "tools/call echo").count(), 2);
    assert_eq!(sent.get("resource")["deployment.environment.name"], "test");
    let fields = sent.get("fields").as_array().expect("a list");
    assert!(fields.iter().all(|fields| fields["x-key"] == "sesame"), "{fields:?}");
}

/// The official SDK writes the context of its spans into `_meta`: it is the parent here, and goes on to the server.
#[test]
fn the_sdks_context_arrives_and_goes_on() {
    let Some(collector) = Collector::start() else { return };
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = collector.of(Setup::new().server("up", &upstream.url()).open()).start();
    for mode in ["2026-07-28", "legacy"] {
        let said =
            collector.peers.drive(OTEL_CLIENT, &json!({ "url": gateway.url("/mcp"), "mode": mode, "tools": ["echo"] }));
        assert_eq!(said["fault"], Value::Null, "{said}");
        let spans = said["spans"].as_array().expect("a list");
        let theirs = spans.iter().find(|span| span["method"] == "tools/call").expect("the SDK traces its calls");
        let ours = |kind: u64, parent: &Value| {
            let sent = collector.seen_until("both spans are there", |sent| {
                sent.spans().iter().any(|span| span["parent"] == *parent && span["kind"] == kind)
            });
            let spans = sent.spans().iter();
            spans.filter(|span| span["parent"] == *parent && span["kind"] == kind).cloned().collect::<Vec<_>>()
        };
        // SERVER, then CLIENT.
        let served = ours(2, &theirs["span"]);
        assert_eq!((served.len(), &served[0]["trace"]), (1, &theirs["trace"]), "{served:?}");
        let sent = ours(3, &served[0]["span"]);
        assert_eq!((sent.len(), &sent[0]["trace"]), (1, &theirs["trace"]), "{sent:?}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // Recorded; whether the rest of the id is random (its second flag) is the SDK's to say.
        let want = format!("00-{}-{}-0", text(&theirs["trace"]), text(&sent[0]["span"]));
        let is_it = |told: &str| told.strip_prefix(&want).is_some_and(|flags| flags == "1" || flags == "3");
        let arrived = upstream.wait("the call", |seen| {
            seen.calls("echo") && seen.message["params"]["_meta"]["traceparent"].as_str().is_some_and(is_it)
        });
        assert!(is_it(arrived.field("traceparent")), "{}", arrived.field("traceparent"));
    }
}

/// Another receiver than ours reads the same.
#[test]
fn rotel_takes_it_too() {
    let Some(collector) = Collector::start() else { return };
    let agent = collector.peers.package_file("rotel/rotel-agent");
    let port = |_: ()| std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let (http, grpc) = (port(()), port(()));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let log = folder.path().join("rotel.log");
    let file = std::fs::File::create(&log).expect("a file can be made");
    let mut rotel = std::process::Command::new(agent)
        .args(["start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log", "metrics"])
        .args(["--debug-log-verbosity", "detailed"])
        .args(["--otlp-http-endpoint", &http.to_string(), "--otlp-grpc-endpoint", &grpc.to_string()])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file has two names"))
        .stderr(file)
        .spawn()
        .expect("Rotel starts");
    let upstream = Plan::tools(&["echo"]).start();
    let otlp = json!({ "url": format!("http://{http}"), "interval": "200ms" });
    let setup =
        Setup::new().server("up", &upstream.url()).open().set("/telemetry", json!({ "otlp": otlp, "traces": 1 }));
    let gateway = setup.start();
    Post::call("echo").echoed(&gateway);
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let all = ["mcp.server.operation.duration", "portcullis.overhead.duration", "tools/call echo"];
    let until = Instant::now() + crate::support::gateway::PATIENCE;
    while !all.iter().all(|word| said().contains(word)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = rotel.kill();
    let _ = rotel.wait();
    let missing: Vec<_> = all.iter().filter(|word| !said().contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?}:\n{}", said().chars().take(4000).collect::<String>());
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// As OTLP numbers them.
const SERVER: u64 = 2;
/// See [`SERVER`].
const CLIENT: u64 = 3;
/// Notifications have none: nobody asked for theirs.
const SPANS: [&str; 25] = [
    "CLIENT initialize @docs 2025-11-25 UNSET - - - < tools/call docs__echo",
    "CLIENT tools/call breaks @docs 2026-07-28 ERROR -32602 - - < tools/call docs__breaks",
    "CLIENT tools/call cuts @docs 2026-07-28 ERROR cut - - < tools/call docs__cuts",
    "CLIENT tools/call echo @docs 2025-11-25 UNSET - - - < tools/call docs__echo",
    "CLIENT tools/call echo @docs 2026-07-28 UNSET - - - < tools/call docs__echo",
    "CLIENT tools/call echo @mail 2026-07-28 UNSET - - - < tools/call mail__echo",
    "CLIENT tools/call echo @mail 2026-07-28 UNSET - - - < tools/call mail__echo",
    "CLIENT tools/call fails @docs 2026-07-28 ERROR tool_error - - < tools/call docs__fails",
    "CLIENT tools/call hangs @docs 2026-07-28 ERROR timeout - - < tools/call docs__hangs",
    "SERVER initialize @- 2025-11-25 UNSET - - - < -",
    "SERVER ping @- 2025-11-25 UNSET - - - < -",
    "SERVER server/discover @- 2026-07-28 UNSET - - - < -",
    "SERVER tools/call @- 2026-07-28 ERROR -32602 refuse no_match < -",
    "SERVER tools/call @docs 2026-07-28 ERROR -32602 refuse no_match < -",
    "SERVER tools/call docs__breaks @docs 2026-07-28 ERROR -32602 permit permit < -",
    "SERVER tools/call docs__cuts @docs 2026-07-28 ERROR cut permit permit < -",
    "SERVER tools/call docs__echo @docs 2025-11-25 UNSET - permit permit < -",
    "SERVER tools/call docs__echo @docs 2026-07-28 UNSET - permit permit < -",
    "SERVER tools/call docs__fails @docs 2026-07-28 ERROR tool_error permit permit < -",
    "SERVER tools/call docs__hangs @docs 2026-07-28 ERROR timeout permit permit < -",
    "SERVER tools/call docs__hidden @docs 2026-07-28 ERROR -32602 refuse forbid < -",
    "SERVER tools/call docs__refused @docs 2026-07-28 ERROR tool_error refuse forbid < -",
    "SERVER tools/call mail__echo @mail 2026-07-28 UNSET - permit permit < -",
    "SERVER tools/call mail__echo @mail 2026-07-28 UNSET - permit permit < -",
    "SERVER tools/list @- 2026-07-28 UNSET - - - < -",
];
/// How many there are.
const OPERATIONS: f64 = 17.0;
/// As clients saw them. What is for no server in particular has none.
const SERVER_OPERATIONS: [&str; 16] = [
    "error=-32602 tool=_OTHER tools/call 2026-07-28 1",
    "error=-32602 tool=_OTHER tools/call 2026-07-28 at=docs 1",
    "error=-32602 tool=breaks tools/call 2026-07-28 at=docs 1",
    "error=-32602 tool=hidden tools/call 2026-07-28 at=docs 1",
    "error=cut tool=cuts tools/call 2026-07-28 at=docs 1",
    "error=timeout tool=hangs tools/call 2026-07-28 at=docs 1",
    "error=tool_error tool=fails tools/call 2026-07-28 at=docs 1",
    "error=tool_error tool=refused tools/call 2026-07-28 at=docs 1",
    "initialize 2025-11-25 1",
    "notifications/initialized 2025-11-25 1",
    "ping 2025-11-25 1",
    "server/discover 2026-07-28 1",
    "tool=echo tools/call 2025-11-25 at=docs 1",
    "tool=echo tools/call 2026-07-28 at=docs 1",
    "tool=echo tools/call 2026-07-28 at=mail 2",
    "tools/list 2026-07-28 1",
];
/// What went to servers.
const CLIENT_OPERATIONS: [&str; 7] = [
    "error=-32602 tool=breaks tools/call 2026-07-28 at=docs 1",
    "error=cut tool=cuts tools/call 2026-07-28 at=docs 1",
    "error=timeout tool=hangs tools/call 2026-07-28 at=docs 1",
    "error=tool_error tool=fails tools/call 2026-07-28 at=docs 1",
    "tool=echo tools/call 2025-11-25 at=docs 1",
    "tool=echo tools/call 2026-07-28 at=docs 1",
    "tool=echo tools/call 2026-07-28 at=mail 2",
];
/// What was decided, and why.
const DECISIONS: [&str; 10] = [
    "tool=_OTHER tools/call refuse no_match 1",
    "tool=_OTHER tools/call refuse no_match at=docs 1",
    "tool=breaks tools/call permit permit at=docs 1",
    "tool=cuts tools/call permit permit at=docs 1",
    "tool=echo tools/call permit permit at=docs 2",
    "tool=echo tools/call permit permit at=mail 2",
    "tool=fails tools/call permit permit at=docs 1",
    "tool=hangs tools/call permit permit at=docs 1",
    "tool=hidden tools/call refuse forbid at=docs 1",
    "tool=refused tools/call refuse forbid at=docs 1",
];
/// By how they ended.
const OVERHEAD: [&str; 8] = [
    "initialize outcome=answered 1",
    "notifications/initialized outcome=answered 1",
    "ping outcome=answered 1",
    "server/discover outcome=answered 1",
    "tools/call outcome=answered 4",
    "tools/call outcome=failed 4",
    "tools/call outcome=refused 4",
    "tools/list outcome=answered 1",
];
