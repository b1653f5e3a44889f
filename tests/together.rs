//! Six real servers behind one endpoint, and the official clients: four programs that speak over pipes
//! (`server-filesystem`, `server-memory`, `server-everything`, `mcp-server-time`), and two over HTTP, on the Python SDK
//! 2.3.0 and on the TypeScript SDK 2.4.0. Each client lists, calls, reads, completes, is asked, subscribes and is told, in
//! each era that it speaks, and sees the servers that speak it too. What each did is in the test's output.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::peers::{
    CONFORMANCE_SERVER, EVERYTHING_PROGRAM, FILESYSTEM_PROGRAM, MEMORY_PROGRAM, PY_CLIENT, PY_SERVER, Peers, Sdk,
    Server, TIME_MODULE, TS_CLIENT, node_peers, python_peers,
};

/// What each client does with each of the two servers of ours, whichever its era.
const MORE: [&str; 6] = ["sample", "roots", "url", "log", "updated", "changed"];
/// What clients ask for and must not see.
const HIDDEN: [&str; 3] = ["everything/get-env", "py/secret", "ts/secret"];
const WATCHED: &str = "note://watched";

/// The six, behind one gateway.
struct House {
    gateway: Gateway,
    folder: TempDir,
    token: String,
    _python: Server,
    _typescript: Server,
}

impl House {
    fn new() -> Option<Self> {
        let (node, python) = (node_peers()?, python_peers(Sdk::V2)?);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = folder.path().join("files");
        fs::create_dir(&files).expect("the folder can be written");
        fs::write(files.join("greeting.txt"), "hello from a file").expect("the folder can be written");
        let mut memory = node.program(&[MEMORY_PROGRAM]);
        memory["env"] = json!({ "MEMORY_FILE_PATH": folder.path().join("memory.json") });
        let (py, ts) = (python.serve(PY_SERVER), node.serve(CONFORMANCE_SERVER));
        let gateway = Setup::new()
            .set("/servers/files", node.program(&[FILESYSTEM_PROGRAM, &files.to_string_lossy()]))
            .set("/servers/memory", memory)
            .set("/servers/everything", node.program(&[EVERYTHING_PROGRAM, "stdio"]))
            .set("/servers/time", python.program(&["-m", TIME_MODULE]))
            .server("py", &py.url())
            .server("ts", &ts.url())
            .set("/endpoints", json!({ "/mcp": { "servers": ["files", "memory", "everything", "time", "py", "ts"] } }))
            .tokens("deny")
            .task("work")
            .rule(json!({ "id": "work", "tasks": ["work"], "permit": ["*/*", "*!*"] }))
            .rule(json!({ "id": "hide", "forbid": HIDDEN }))
            .shards(2)
            .start();
        let who = Who { subject: "real", agent: Some("client"), tasks: &["work"], expires_s: 1200 };
        let token = gateway.token(&who);
        eventually("all six are known", || {
            let servers = gateway.status()["servers"].clone();
            servers.as_array().is_some_and(|servers| servers.iter().all(|server| server["known"] == true))
        });
        Some(Self { gateway, folder, token, _python: py, _typescript: ts })
    }

    /// What clients name as theirs: `server-filesystem` serves what its client names.
    fn root(&self) -> String {
        format!("file://{}", self.folder.path().join("files").display())
    }

    /// A file that the filesystem server may read.
    fn file(&self) -> String {
        self.folder.path().join("files/greeting.txt").to_string_lossy().into_owned()
    }

    /// What is visited in an era, and the words that each stop must bring.
    fn tour(&self, era: &str, who: &str) -> Vec<(Value, String)> {
        let stop = |what: Value, words: &str| (what, words.to_owned());
        let mut stops = vec![
            stop(call("time__get_current_time", json!({ "timezone": "Europe/Oslo" })), "Europe/Oslo"),
            stop(call("py__add", json!({ "a": 20, "b": 1 })), "21"),
            stop(call("ts__add", json!({ "a": 30, "b": 1 })), "31"),
            stop(json!({ "read": "test://static-text" }), "static text"),
            stop(json!({ "read": "note://hello" }), "note://hello"),
            stop(json!({ "read": "test://template/123/data" }), "123"),
            stop(
                json!({ "prompt": { "name": "ts__test_prompt_with_arguments", "arguments": { "arg1": "left", "arg2": "right" } } }),
                "left",
            ),
            stop(
                json!({ "complete": {
                    "ref": { "type": "ref/prompt", "name": "ts__test_prompt_with_arguments" },
                    "argument": { "name": "arg1", "value": "p" },
                } }),
                "par",
            ),
        ];
        if era == "legacy" {
            let entity = json!({ "name": who, "entityType": "client", "observations": ["was here"] });
            stops.extend([
                stop(call("files__read_text_file", json!({ "path": self.file() })), "hello from a file"),
                stop(
                    call("files__list_directory", json!({ "path": self.folder.path().join("files") })),
                    "greeting.txt",
                ),
                stop(call("memory__create_entities", json!({ "entities": [entity] })), who),
                stop(call("memory__read_graph", json!({})), who),
                stop(call("everything__get-sum", json!({ "a": 2, "b": 3 })), "5"),
                stop(json!({ "read": "demo://resource/dynamic/text/7" }), "demo://resource/dynamic/text/7"),
                stop(
                    json!({ "complete": {
                        "ref": { "type": "ref/prompt", "name": "everything__completable-prompt" },
                        "argument": { "name": "department", "value": "E" },
                    } }),
                    "Engineering",
                ),
                stop(json!({ "prompt": { "name": "everything__simple-prompt", "arguments": {} } }), "prompt"),
            ]);
        }
        stops
    }
}

fn call(name: &str, arguments: Value) -> Value {
    json!({ "call": { "name": name, "arguments": arguments } })
}

/// A client's visits, to both servers that its own steps are made for, and to all six.
fn visit(client: &str, peers: Option<Peers>, script: &str, sdk: u8, eras: &[&str]) {
    let Some(peers) = peers else { return };
    let Some(house) = House::new() else { return };
    for era in eras {
        for server in ["py", "ts"] {
            let stops = house.tour(era, &format!("{client} {server}"));
            let tour: Vec<&Value> = stops.iter().map(|(stop, _)| stop).collect();
            let mut more: Vec<&str> = MORE.to_vec();
            more.push("tour");
            // Both have a resource of this name: the first keeps it, the second's is told apart.
            let watched = if server == "py" { WATCHED.to_owned() } else { format!("mcp+{server}:{WATCHED}") };
            let spec = json!({
                "url": house.gateway.url("/mcp"), "era": era, "sdk": sdk, "token": house.token, "more": more,
                "prefix": format!("{server}__"), "watched": watched, "tour": tour,
                "root": house.root(),
            });
            let report = peers.drive(script, &spec);
            let who = format!("{client}, {era}, steps of {server}");
            say(&who, &report, &more, stops.len());
            check(&who, &report, era, &watched);
            for ((stop, words), got) in stops.iter().zip(report["tour"]["stops"].as_array().expect("stops")) {
                let text = got["text"].as_str().unwrap_or_default();
                assert!(got["ok"] == true && text.contains(words), "{who}: {stop} brings {words:?}: {got:#}");
            }
        }
    }
    oracle::check(&house.gateway, &[]);
}

#[track_caller]
fn check(who: &str, report: &Value, era: &str, watched: &str) {
    let ok = |step: &str| assert_eq!(report[step]["ok"], true, "{who}, {step}: {:#}", report[step]);
    ["connect", "list", "resources", "prompts", "call", "progress", "cancel", "elicit"]
        .iter()
        .for_each(|step| ok(step));
    MORE.iter().for_each(|step| ok(step));
    assert_eq!(report["connect"]["protocol"] == "2026-07-28", era == "modern", "{who}: {:#}", report["connect"]);
    // A client that was told the revision asks nobody's name.
    let named = &report["connect"]["server"];
    assert!(named == "portcullis" || era == "modern" && named.is_null(), "{who}: the endpoint's own name: {named}");
    let tools: Vec<&str> =
        report["list"]["tools"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let legacy = ["files__read_text_file", "memory__read_graph", "everything__get-sum"];
    for (name, there) in [("time__get_current_time", true), ("py__add", true), ("ts__add", true)]
        .into_iter()
        .chain(legacy.map(|name| (name, era == "legacy")))
    {
        assert_eq!(tools.contains(&name), there, "{who}: {name} among {tools:?}");
    }
    let hidden = HIDDEN.map(|tool| tool.replace('/', "__"));
    assert!(hidden.iter().all(|name| !tools.contains(&name.as_str())), "{who}: {tools:?}");
    let order = ["files__", "memory__", "everything__", "time__", "py__", "ts__"];
    let place = |tool: &str| order.iter().position(|prefix| tool.starts_with(prefix)).expect("a server's prefix");
    assert!(tools.windows(2).all(|pair| place(pair[0]) <= place(pair[1])), "{who}: in the endpoint's order: {tools:?}");
    let uris = report["resources"]["uris"].as_array().expect("a list");
    assert!(uris.contains(&json!(watched)), "{who}: {watched} among {uris:?}");
    for step in ["hidden", "unknown"] {
        assert_eq!((&report[step]["ok"], &report[step]["code"]), (&json!(false), &json!(-32_602)), "{who}, {step}");
    }
    assert_eq!(report["cancel"]["noticed"], true, "{who}: {:#}", report["cancel"]);
    assert!(report["progress"]["notifications"].as_array().is_some_and(|all| all.len() >= 3), "{who}");
    for (step, words) in
        [("call", "5"), ("elicit", "blue"), ("sample", "a question"), ("roots", "file:///"), ("url", "accept")]
    {
        let text = report[step]["text"].as_str().unwrap_or_default();
        assert!(text.contains(words), "{who}, {step}: {:#}", report[step]);
    }
    assert_eq!(report["log"]["levels"], json!(["warning", "error"]), "{who}");
    assert_eq!(report["updated"]["updated"], 1, "{who}");
}

fn say(who: &str, report: &Value, more: &[&str], stops: usize) {
    let steps = ["connect", "list", "resources", "prompts", "call", "progress", "cancel", "elicit"];
    let did: Vec<String> = steps
        .iter()
        .chain(more)
        .map(|step| format!("{step}{}", if report[step]["ok"] == true { "" } else { " (FAILED)" }))
        .collect();
    let line = format!("{who}: {} ({stops} stops)\n", did.join(", "));
    // Not println!: of a test that passes, the harness would keep it to itself.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[test]
fn typescript_2() {
    visit("TypeScript 2.4.0", node_peers(), TS_CLIENT, 2, &["legacy", "modern"]);
}

#[test]
fn typescript_1() {
    visit("TypeScript 1.32.2", node_peers(), TS_CLIENT, 1, &["legacy"]);
}

#[test]
fn python_2() {
    visit("Python 2.3.0", python_peers(Sdk::V2), PY_CLIENT, 2, &["legacy", "modern"]);
}

#[test]
fn python_1() {
    visit("Python 1.30.0", python_peers(Sdk::V1), PY_CLIENT, 1, &["legacy"]);
}

/// One that cannot be started costs its own part, and the list says whose is missing.
#[test]
fn a_program_that_does_not_start_costs_its_own_part() {
    let Some(python) = python_peers(Sdk::V2) else { return };
    let gateway = Setup::new()
        .set("/servers/time", python.program(&["-m", TIME_MODULE]))
        .set("/servers/broken", json!({ "command": ["/nonexistent/program"] }))
        .set("/endpoints", json!({ "/mcp": { "servers": ["broken", "time"] } }))
        .open()
        .start();
    let list = || Post::modern("tools/list", json!({})).to(&gateway);
    eventually("the other one is known", || {
        list().json()["result"]["tools"].as_array().is_some_and(|it| !it.is_empty())
    });
    let answer = list().json();
    assert_eq!(answer["result"]["_meta"]["portcullis/servers"], json!([{ "server": "broken", "state": "missing" }]));
    assert_eq!(answer["result"]["ttlMs"], 0, "{answer:#}");
    let call = Post::modern("tools/call", json!({ "name": "broken__anything", "arguments": {} })).to(&gateway).json();
    assert!(call["error"]["code"].is_i64(), "{call:#}");
    let trouble = gateway.status()["servers"].as_array().expect("servers").iter().find_map(|server| {
        (server["name"] == "broken").then(|| server["trouble"].as_str().unwrap_or_default().to_owned())
    });
    assert!(trouble.is_some_and(|words| !words.is_empty()), "people are told what is wrong with it");
}
