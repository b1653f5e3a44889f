//! The admin listener: what is counted, and what it can be told to do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;

use serde_json::json;

use crate::support::gateway::{Gateway, PATIENCE, Setup, eventually, run};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, fresh, open_session};
use crate::support::upstream::{Acted, Plan, Upstream, result};

/// `fails` answers with an error of its own, `breaks` with one of JSON-RPC, `slow` takes a while, `streams` streams;
/// `hidden` may not be called, and `refused` not with a reason.
fn pair(setup: Setup) -> (Gateway, Upstream) {
    let upstream = Plan::tools(&["echo", "fails", "breaks", "slow", "streams", "hidden", "refused"])
        .script(|seen, out| {
            if seen.calls("fails") {
                out.json(200, "", &result(seen, json!({ "content": [], "isError": true })));
                return Acted::Done;
            }
            if seen.calls("breaks") {
                let error = json!({ "code": -32_602, "message": "no" });
                out.json(200, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "error": error }));
                return Acted::Done;
            }
            if seen.calls("slow") {
                std::thread::sleep(std::time::Duration::from_millis(60));
            }
            if seen.calls("streams") {
                out.stream();
                out.event(&result(seen, json!({ "content": [] })));
                out.stream_end();
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let gateway = setup
        .server("up", &upstream.url())
        .rule(json!({ "id": "most", "permit": ["up/*", "up!prompt:*"] }))
        .rule(json!({ "id": "not-hidden", "forbid": ["up/hidden"] }))
        .rule(json!({ "id": "not-refused", "forbid": ["up/refused"], "reason": "Not today." }))
        .tokens("allow")
        .start();
    (gateway, upstream)
}

fn ask(gateway: &Gateway, method: &str, path: &str, fields: &str) -> Response {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n{fields}\r\n", gateway.admin);
    Wire::to(gateway.admin).ask(head.as_bytes())
}

fn token(gateway: &Gateway) -> String {
    let state = gateway.config().parent().expect("it is in a folder").join("state");
    fs::read_to_string(state.join("admin.token")).expect("it is made at start").trim().to_owned()
}

/// Upper bound, and how many are not above it.
type Buckets = Vec<(f64, f64)>;
/// In their order.
type Labels = Vec<(String, String)>;

/// A page of metrics, as strictly read as the format is written down.
struct Page {
    kinds: HashMap<String, String>,
    /// By name and labels, the labels in their order.
    samples: BTreeMap<(String, Labels), f64>,
}

impl Page {
    fn of(gateway: &Gateway) -> Self {
        let answer = ask(gateway, "GET", "/metrics", "");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        Self::read(&answer.text())
    }

    fn read(text: &str) -> Self {
        let (mut kinds, mut samples) = (HashMap::new(), BTreeMap::new());
        let (mut family, mut helped, mut closed) = (String::new(), String::new(), HashSet::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a sentence");
                assert!(help.ends_with('.'), "{line}");
                assert!(closed.insert(family.clone()), "{family} stands twice");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a kind");
                assert_eq!(name, helped, "each family has its HELP, then its TYPE");
                assert!(!closed.contains(name), "{name} stands twice");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                family = name.to_owned();
                kinds.insert(family.clone(), kind.to_owned());
            } else {
                let (key, value) = sample(line);
                let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| key.0.strip_suffix(end));
                let is_histogram = kinds[&family] == "histogram";
                assert_eq!(if is_histogram { of.unwrap_or("") } else { &key.0 }, family, "{line}");
                assert!(samples.insert(key, value).is_none(), "twice: {line}");
            }
        }
        let page = Self { kinds, samples };
        page.check_histograms();
        page
    }

    /// Buckets never fall, the last one has them all, and there is a sum where there is a count.
    fn check_histograms(&self) {
        let mut checked = 0;
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut series = HashMap::<Labels, Buckets>::new();
            for ((sample, labels), value) in &self.samples {
                if *sample == format!("{name}_bucket") {
                    let (bounds, rest): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|label| label.0 == "le");
                    let bound =
                        if bounds[0].1 == "+Inf" { f64::INFINITY } else { bounds[0].1.parse().expect("a number") };
                    series.entry(rest).or_default().push((bound, *value));
                }
            }
            for (labels, mut buckets) in series {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(
                    buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
                    "{name}{labels:?}"
                );
                let count = self.samples[&(format!("{name}_count"), labels.clone())];
                let (last, all) = buckets.last().copied().expect("a bucket");
                assert!(last.is_infinite() && (all - count).abs() < 0.5, "{name}{labels:?}");
                assert!(self.samples[&(format!("{name}_sum"), labels)] >= 0.0);
                checked += 1;
            }
        }
        assert!(checked > 0, "there are histograms");
    }

    /// The sum of the samples of this name with these labels among theirs.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |its: &[(String, String)]| {
            labels.iter().all(|(label, value)| its.iter().any(|it| it.0 == *label && it.1 == *value))
        };
        self.samples.iter().filter(|((its, all), _)| its == name && has(all)).map(|(_, value)| value).sum()
    }

    /// The same, of what is counted in whole numbers.
    fn count(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        format!("{:.0}", self.sum(name, labels)).parse().expect("a whole number")
    }

    /// How many calls of a tool came out so; `error_type` empty for success.
    #[track_caller]
    fn calls(&self, tool: &str, error_type: &str, want: f64) {
        let name = "mcp_server_operation_duration_seconds_count";
        let labels = [("mcp_method_name", "tools/call"), ("gen_ai_tool_name", tool)];
        let failed = [labels[0], labels[1], ("error_type", error_type)];
        let got = if error_type.is_empty() {
            let all = self.samples.iter().filter(|((its, _), _)| its == name);
            let good = all.filter(|((_, labels), _)| labels.iter().all(|label| label.0 != "error_type"));
            good.filter(|((_, labels), _)| labels.iter().any(|label| label.1 == tool)).map(|(_, value)| value).sum()
        } else {
            self.sum(name, &failed)
        };
        assert!((got - want).abs() < 0.5, "{tool} {error_type}: {got}, not {want}");
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> ((String, Labels), f64) {
    let (head, value) = line.rsplit_once(' ').expect("a sample has a value");
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let Some((name, rest)) = head.split_once('{') else { return ((head.to_owned(), Vec::new()), value) };
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    let mut rest = rest.strip_suffix('}').expect("labels end with }");
    while !rest.is_empty() {
        let (label, text) = rest.split_once("=\"").expect("a label has a value in quotes");
        assert!(is_name(label), "{line}");
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in text.char_indices() {
            match (escaped, c) {
                (false, '\\') => escaped = true,
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (true, 'n') => value.push('\n'),
                (_, c) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        labels.push((label.to_owned(), value));
        rest = text[end.expect("a value ends with a quote") + 1..].trim_start_matches(',');
    }
    labels.sort();
    ((name.to_owned(), labels), value)
}

#[test]
fn figures_are_the_calls_made() {
    let (gateway, _upstream) = pair(Setup::new().shards(2));
    let session = open_session(&gateway, |post| post);
    for _ in 0..5 {
        Post::call("echo").echoed(&gateway);
    }
    Post::legacy_call(&session, "echo").echoed(&gateway);
    for tool in ["fails", "fails", "breaks", "slow", "streams", "hidden", "refused", "nobody-has-this", "nor-this"] {
        Post::call(tool).to(&gateway);
    }
    Post::modern("tools/list", json!({})).to(&gateway);
    Post::modern("prompts/get", json!({ "name": "greet" })).to(&gateway);
    let listen = json!({ "notifications": { "toolsListChanged": true } });
    let mut listening = Post::modern("subscriptions/listen", listen).stream(&gateway);
    listening.message();
    // Neither has anything to decide on: no such method, no such host.
    Post::modern("tools/none", json!({})).to(&gateway);
    let duration = "mcp_server_operation_duration_seconds";
    eventually("the subscription is counted while it lasts", || {
        let labels = [("mcp_method_name", "subscriptions/listen"), ("mcp_protocol_version", "2026-07-28")];
        Page::of(&gateway).count(&format!("{duration}_count"), &labels) == 1
    });
    let page = settled(&gateway, 14);

    page.calls("echo", "", 6.0);
    page.calls("fails", "tool_error", 2.0);
    // As it is answered, and its span says.
    page.calls("refused", "tool_error", 1.0);
    page.calls("fails", "", 0.0);
    page.calls("breaks", "-32602", 1.0);
    page.calls("slow", "", 1.0);
    page.calls("streams", "", 1.0);
    page.calls("hidden", "-32602", 1.0);
    page.calls("_OTHER", "-32602", 2.0);
    let count = |name: &str, labels: &[(&str, &str)]| page.count(name, labels);
    let legacy = [("gen_ai_tool_name", "echo"), ("mcp_protocol_version", "2025-11-25"), ("portcullis_target", "up")];
    assert_eq!(count(&format!("{duration}_count"), &legacy), 1);
    assert_eq!(count(&format!("{duration}_count"), &[("mcp_method_name", "tools/list")]), 1);
    assert_eq!(count(&format!("{duration}_count"), &[("gen_ai_prompt_name", "greet")]), 1);
    assert_eq!(count(&format!("{duration}_bucket"), &[("gen_ai_tool_name", "slow"), ("le", "0.05")]), 0);
    assert!(page.sum(&format!("{duration}_sum"), &[("gen_ai_tool_name", "slow")]) >= 0.06);

    let decided = |reason: &str, tool: &str| {
        count("portcullis_decisions_total", &[("portcullis_decision_reason", reason), ("gen_ai_tool_name", tool)])
    };
    assert_eq!((decided("permit", "echo"), decided("permit", "fails"), decided("forbid", "hidden")), (6, 2, 1));
    assert_eq!((decided("forbid", "refused"), decided("no_match", "_OTHER")), (1, 2));
    assert_eq!(count("portcullis_requests_refused_total", &[("reason", "method")]), 1);
    // What waits for its server is not the gateway's time, nor is what streams.
    let own = "portcullis_overhead_duration_seconds";
    let answered = [("mcp_method_name", "tools/call"), ("outcome", "answered")];
    assert_eq!(count(&format!("{own}_count"), &answered), 7);
    assert_eq!(count(&format!("{own}_count"), &[("mcp_method_name", "tools/call"), ("outcome", "refused")]), 4);
    assert_eq!(count("portcullis_catalog_tools", &[("portcullis_target", "up")]), 7);
    assert_eq!(count("portcullis_server_up", &[("portcullis_target", "up")]), 1);
    assert_eq!(count("portcullis_sessions_active", &[]), 1);
    assert_eq!(count("portcullis_ready", &[]), 1);
}

/// The page once the gateway's own time with so many tool calls is there: shards hand it over now and then.
fn settled(gateway: &Gateway, calls: i64) -> Page {
    let own = "portcullis_overhead_duration_seconds_count";
    let is_there = || Page::of(gateway).count(own, &[("mcp_method_name", "tools/call")]) == calls;
    eventually("all calls' own time is handed over", is_there);
    Page::of(gateway)
}

/// Of several servers behind one endpoint, each has its own, by its own names.
#[test]
fn figures_of_several_servers() {
    let (one, two) = (Plan::tools(&["echo", "only"]).start(), Plan::tools(&["echo"]).start());
    let setup = Setup::new().server("one", &one.url()).server("two", &two.url()).open();
    let gateway = setup.set("/endpoints", json!({ "/mcp": { "servers": ["one", "two"] } })).start();
    let session = open_session(&gateway, |post| post);
    for tool in ["one__echo", "two__echo", "two__echo"] {
        Post::call(tool).echoed(&gateway);
    }
    Post::legacy_call(&session, "one__only").echoed(&gateway);
    for tool in ["two__only", "three__echo", "echo"] {
        Post::call(tool).to(&gateway);
    }
    let page = Page::of(&gateway);
    let count = |labels: &[(&str, &str)]| page.count("mcp_server_operation_duration_seconds_count", labels);
    let tool = |server, tool| count(&[("portcullis_target", server), ("gen_ai_tool_name", tool)]);
    assert_eq!((tool("one", "echo"), tool("two", "echo"), tool("one", "only")), (1, 2, 1));
    assert_eq!((tool("two", "only"), tool("two", "_OTHER")), (0, 1), "a tool that it does not have");
    assert_eq!(count(&[("mcp_method_name", "tools/call"), ("gen_ai_tool_name", "_OTHER")]), 3);
    assert_eq!(count(&[("mcp_method_name", "initialize")]), 1);
}

/// No caller can make another series.
#[test]
fn labels_come_from_the_catalogue_alone() {
    let (gateway, _upstream) = pair(Setup::new());
    let mut wire = Wire::to(gateway.address);
    let mut call = |tool: &str| wire.ask(&Post::call(tool).bytes(&gateway));
    call("echo");
    call("x");
    let series = |page: &Page| page.samples.keys().cloned().collect::<Vec<_>>();
    let before = series(&settled(&gateway, 2));
    for _ in 0..10_000 {
        call(&fresh());
    }
    let page = settled(&gateway, 10_002);
    assert_eq!(series(&page), before);
    page.calls("_OTHER", "-32602", 10_001.0);
}

#[test]
fn orders_need_the_token() {
    let (mut gateway, _upstream) = pair(Setup::new());
    let good = format!("authorization: Bearer {}\r\n", token(&gateway));
    for path in ["/drain", "/reload"] {
        for fields in ["", "authorization: Bearer x\r\n", &good.replace("Bearer", "Basic")] {
            let answer = ask(&gateway, "POST", path, fields);
            assert_eq!((answer.status(), answer.field("www-authenticate")), (401, "Bearer"), "{path} {fields}");
        }
        let answer = ask(&gateway, "GET", path, &good);
        assert_eq!((answer.status(), answer.field("allow")), (405, "POST"));
        // A page in a browser whose name leads here.
        let foreign = format!("POST {path} HTTP/1.1\r\nhost: rebound.example\r\n{good}\r\n");
        assert_eq!(Wire::to(gateway.admin).ask(foreign.as_bytes()).status(), 403);
        assert_eq!(Post::call("echo").at(path).to(&gateway).status(), 404, "never on the data port");
    }
    let foreign = "GET /metrics HTTP/1.1\r\nhost: rebound.example\r\n\r\n";
    assert_eq!(Wire::to(gateway.admin).ask(foreign.as_bytes()).status(), 403);
    assert_eq!(ask(&gateway, "POST", "/metrics", &good).status(), 400);
    assert_eq!(ask(&gateway, "DELETE", "/status", "").status(), 400);
    assert!(gateway.running());
    Post::call("echo").echoed(&gateway);
}

#[test]
fn told_to_drain_it_ends_cleanly() {
    let (mut gateway, _upstream) = pair(Setup::new());
    let answer = ask(&gateway, "POST", "/drain", &format!("authorization: Bearer {}\r\n", token(&gateway)));
    assert_eq!((answer.status(), answer.json()), (202, json!({ "draining": true })));
    assert!(gateway.ended(PATIENCE).success());
}

/// When it answers, no shard decides by what was before.
#[test]
fn told_to_reload_it_has() {
    let (gateway, _upstream) = pair(Setup::new().shards(2));
    let fields = format!("authorization: Bearer {}\r\n", token(&gateway));
    Post::call("echo").echoed(&gateway);
    gateway.configure(|config| config["policy"]["rules"][0]["permit"] = json!(["up/slow"]));
    let answer = ask(&gateway, "POST", "/reload", &fields);
    assert_eq!((answer.status(), &answer.json()["ok"]), (200, &json!(true)), "{}", answer.text());
    for _ in 0..4 {
        assert_eq!(Post::call("echo").to(&gateway).json()["error"]["code"], -32_602);
    }
    Post::call("slow").echoed(&gateway);
    // What goes on counting is what was there.
    let page = Page::of(&gateway);
    page.calls("echo", "", 1.0);
    page.calls("echo", "-32602", 4.0);

    gateway.write_config("servers: {}\nnonsense: 1\n");
    let answer = ask(&gateway, "POST", "/reload", &fields);
    assert_eq!((answer.status(), &answer.json()["ok"]), (422, &json!(false)));
    let faults = answer.json()["faults"].to_string();
    assert!(faults.contains(":2:1: nonsense: is not a key"), "{faults}");
    Post::call("slow").echoed(&gateway);
    let page = Page::of(&gateway);
    assert!(page.sum("portcullis_policy_reloads_total", &[("outcome", "ok")]) >= 1.0);
    assert!(page.sum("portcullis_policy_reloads_total", &[("outcome", "refused")]) >= 1.0);
}

#[test]
fn status_tells_of_load_and_rules() {
    let (gateway, _upstream) = pair(Setup::new().shards(2));
    open_session(&gateway, |post| post);
    // A connection that stays is seen at the next look of its shard.
    let _wire = Wire::to(gateway.address);
    let status = || ask(&gateway, "GET", "/status", "").json();
    eventually("the connection is counted", || {
        let status = status();
        let shards = status["shards"].as_array().expect("a list");
        shards.len() == 2 && shards.iter().any(|shard| shard["connections"].as_u64() > Some(0))
    });
    let status = status();
    assert_eq!((&status["sessions"], &status["draining"]), (&json!(1), &json!(false)));
    assert_eq!(status["policy"].as_str().map(str::len), Some(12));
}

/// Through the command line, as an operator does it.
#[test]
fn verbs_steer_a_gateway() {
    let (mut gateway, _upstream) = pair(Setup::new());
    let admin = gateway.admin.to_string();
    let folder = gateway.config().parent().expect("it is in a folder").to_owned();
    let verb = |verb: &str, more: &[&str]| {
        let mut arguments = vec![verb, "--config", "portcullis.yaml"];
        arguments.extend(more);
        let run = run(&folder, &arguments);
        (run.status.and_then(|status| status.code()), run.stdout, run.stderr)
    };
    // The file leaves the port to the system.
    let (code, _, stderr) = verb("status", &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("--admin"), "{stderr}");
    let (code, stdout, stderr) = verb("status", &["--admin", &admin]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("\"servers\""), "{stdout}");
    let (code, stdout, stderr) = verb("reload", &["--admin", &admin]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("\"ok\": true"), "{stdout}");
    // What cannot change leaves everything as it was.
    gateway.configure(|config| config["shards"] = json!(3));
    let (code, _, stderr) = verb("reload", &["--admin", &admin]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("'shards' cannot change") && stderr.contains("nothing has changed"), "{stderr}");
    let (code, _, stderr) = verb("drain", &["--admin", &admin]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(gateway.ended(PATIENCE).success());
    let (code, _, stderr) = verb("drain", &["--admin", &admin]);
    assert_eq!(code, Some(5), "{stderr}");
    assert!(stderr.contains("no gateway answers"), "{stderr}");
}
