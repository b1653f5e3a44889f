//! Each SDK as a client and as a server, in the same era, through a gateway with two shards, and with what only a real
//! pair shows: a server that asks and tells, cut streams taken up again (which every one of these clients does by itself),
//! a server that was started anew, a session that somebody else ended. What each pair did is in the test's output.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::Wire;
use crate::support::mcp::{Post, session_request};
use crate::support::oracle;
use crate::support::peers::{
    CONFORMANCE_SERVER, EVERYTHING_SERVER, FASTMCP_SERVER, PY_CLIENT, PY_SERVER, PY1_SERVER, Peers, RMCP_CLIENT,
    RMCP_SERVER, Sdk, Server, TS_CLIENT, TS1_SERVER, everything_steps, node_peers, python_peers, rmcp_peers,
};
use crate::support::relay::Relay;

use Peer::{Everything, FastMcp, Python1, Python2, Rust, TypeScript1, TypeScript2};

/// The pairs, each a test of its own.
macro_rules! pairs {
    ($($name:ident: $client:ident, $server:ident;)*) => {
        const PAIRS: &[(Peer, Peer)] = &[$(($client, $server)),*];

        $(
            #[test]
            fn $name() {
                meet($client, $server);
            }
        )*
    };
}

pairs! {
    typescript_2_and_itself: TypeScript2, TypeScript2;
    typescript_2_and_typescript_1: TypeScript2, TypeScript1;
    typescript_2_and_python_2: TypeScript2, Python2;
    typescript_2_and_python_1: TypeScript2, Python1;
    typescript_2_and_fastmcp: TypeScript2, FastMcp;
    typescript_2_and_rust: TypeScript2, Rust;
    typescript_2_and_everything: TypeScript2, Everything;
    typescript_1_and_itself: TypeScript1, TypeScript1;
    typescript_1_and_everything: TypeScript1, Everything;
    python_2_and_itself: Python2, Python2;
    python_2_and_everything: Python2, Everything;
    python_1_and_itself: Python1, Python1;
    python_1_and_everything: Python1, Everything;
    fastmcp_and_itself: FastMcp, FastMcp;
    fastmcp_and_python_2: FastMcp, Python2;
    rust_and_itself: Rust, Rust;
    rust_and_python_2: Rust, Python2;
    rust_and_everything: Rust, Everything;
}

/// What every client does with every server.
const ALWAYS: [&str; 10] =
    ["connect", "list", "resources", "prompts", "call", "hidden", "unknown", "progress", "cancel", "elicit"];
/// What a pair does beyond that, if both can; the session's end comes last.
const STEPS: [Step; 13] = [
    Step { name: "sample", eras: BOTH },
    Step { name: "roots", eras: BOTH },
    Step { name: "url", eras: BOTH },
    Step { name: "log", eras: BOTH },
    Step { name: "updated", eras: BOTH },
    Step { name: "changed", eras: BOTH },
    Step { name: "hang_up", eras: LEGACY },
    Step { name: "resume", eras: LEGACY },
    Step { name: "resume_get", eras: LEGACY },
    Step { name: "behind", eras: LEGACY },
    Step { name: "behind_get", eras: LEGACY },
    Step { name: "restart", eras: BOTH },
    Step { name: "ended", eras: LEGACY },
];
const BOTH: &[&str] = &["legacy", "modern"];
const LEGACY: &[&str] = &["legacy"];

/// A thing to do, and the eras that know it.
struct Step {
    name: &'static str,
    eras: &'static [&'static str],
}

/// An SDK, or a server made of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// `@modelcontextprotocol/client` and `…/server` 2.4.0.
    TypeScript2,
    /// `@modelcontextprotocol/sdk` 1.32.2.
    TypeScript1,
    /// `mcp` 2.3.0.
    Python2,
    /// `mcp` 1.30.0.
    Python1,
    /// fastmcp 4.1.6.
    FastMcp,
    /// `rmcp` 3.9.0.
    Rust,
    /// `@modelcontextprotocol/server-everything`: a server only.
    Everything,
}

impl Peer {
    const CLIENTS: [Self; 6] = [TypeScript2, TypeScript1, Python2, Python1, FastMcp, Rust];

    fn peers(self) -> Option<Peers> {
        match self {
            TypeScript2 | TypeScript1 | Everything => node_peers(),
            Python2 => python_peers(Sdk::V2),
            Python1 => python_peers(Sdk::V1),
            FastMcp => python_peers(Sdk::Fast),
            Rust => rmcp_peers(),
        }
    }

    fn client(self) -> &'static str {
        match self {
            TypeScript2 | TypeScript1 | Everything => TS_CLIENT,
            Python2 | Python1 | FastMcp => PY_CLIENT,
            Rust => RMCP_CLIENT,
        }
    }

    fn server(self) -> &'static str {
        match self {
            TypeScript2 => CONFORMANCE_SERVER,
            TypeScript1 => TS1_SERVER,
            Python2 => PY_SERVER,
            Python1 => PY1_SERVER,
            FastMcp => FASTMCP_SERVER,
            Rust => RMCP_SERVER,
            Everything => EVERYTHING_SERVER,
        }
    }

    fn eras(self) -> &'static [&'static str] {
        if matches!(self, TypeScript1 | Python1 | Everything) { LEGACY } else { BOTH }
    }

    /// Whether it knows how, on that side.
    fn can_as_client(self, step: &str, era: &str) -> bool {
        match self {
            // No `listen` in its client.
            FastMcp => !(era == "modern" && matches!(step, "updated" | "changed")),
            _ => true,
        }
    }

    /// See [`Self::can_as_client`].
    fn can_as_server(self, step: &str, era: &str) -> bool {
        match self {
            // No `subscriptions/listen` in its server.
            FastMcp => !(era == "modern" && matches!(step, "updated" | "changed")),
            // Nothing a tool could close its stream with; what it sends again, it also sent before.
            Rust => !matches!(step, "hang_up" | "behind" | "behind_get"),
            Everything => matches!(step, "sample" | "roots" | "resume" | "restart" | "ended"),
            _ => true,
        }
    }

    /// The tool that policy hides.
    fn hidden(self) -> &'static str {
        if self == Everything { "get-env" } else { "secret" }
    }
}

/// What is between a client and a server, and what the client's steps ask to be done to it.
struct Course {
    front: Relay,
    gateway: Gateway,
    back: Relay,
    server: Server,
    maker: Peers,
    script: &'static str,
    token: String,
}

const PATH: &str = "/s/peer/mcp";

impl Course {
    fn new(server: Peer) -> Option<Self> {
        let (maker, script) = (server.peers()?, server.server());
        let running = maker.serve(script);
        // The one in front is what clients know; it leads to the gateway once that is there.
        let (front, back) = (Relay::to(running.address()), Relay::to(running.address()));
        let gateway = Setup::new()
            .set("/public_url", json!(front.url("")))
            .set("/hosts", json!(["127.0.0.1"]))
            .server("peer", &back.url("/mcp"))
            .tokens("deny")
            .task("work")
            .rule(json!({ "id": "work", "tasks": ["work"], "permit": ["*/*", "*!*"] }))
            .rule(json!({ "id": "hide", "forbid": [format!("peer/{}", server.hidden())] }))
            .shards(2)
            .start();
        let who = Who { subject: "real", agent: Some("client"), tasks: &["work"], expires_s: 600 };
        let token = gateway.token_for(&who, &[&front.url(PATH)]);
        front.aim(gateway.address);
        // Where the machine is busy, it goes on without waiting for its server.
        let list = Post::modern("tools/list", json!({})).at(PATH).token(&token);
        eventually("the server is known", || !list.to(&gateway).text().contains("not been reached yet"));
        Some(Self { front, gateway, back, server: running, maker, script, token })
    }

    fn arrange(&mut self, what: &str) {
        match what {
            "another server" => {
                let another = self.maker.serve(self.script);
                self.back.aim(another.address());
                self.server = another;
            }
            "the end of the session" => {
                let session = self.front.session().expect("the client has one");
                let more = format!("authorization: Bearer {}\r\n", self.token);
                let delete = session_request(&self.gateway, "DELETE", PATH, &session, &more);
                let answer = Wire::to(self.gateway.address).ask(&delete);
                assert!([200, 202, 204].contains(&answer.status()), "{}", answer.text());
            }
            _ => match what.strip_prefix("a cut behind at ") {
                Some(words) => self.back.cut_after(words),
                None => self.front.cut_after(what.strip_prefix("a cut at ").expect("a thing that can be arranged")),
            },
        }
    }
}

/// A pair in each era that both speak.
fn meet(client: Peer, server: Peer) {
    let Some(driver) = client.peers() else { return };
    for era in client.eras().iter().filter(|era| server.eras().contains(era)) {
        let Some(course) = Course::new(server) else { return };
        pass(client, &driver, server, era, course);
    }
}

fn pass(client: Peer, driver: &Peers, server: Peer, era: &str, mut course: Course) {
    let start = Instant::now();
    let both = |step: &str| client.can_as_client(step, era) && server.can_as_server(step, era);
    let more = STEPS.iter().filter(|step| step.eras.contains(&era) && both(step.name)).map(|step| step.name);
    let more: Vec<&str> = more.collect();
    let steps = if server == Everything { everything_steps() } else { json!({}) };
    let url = course.front.url(PATH);
    let spec = json!({
        "url": url, "era": era, "token": course.token, "steps": steps, "more": more,
        "sdk": if client == TypeScript1 { 1 } else { 2 },
    });
    let report = driver.drive_with(client.client(), &spec, |what| course.arrange(what));
    let took = start.elapsed();
    let records = oracle::check(&course.gateway, &[]);
    let shards: BTreeSet<u64> = oracle::of_kind(&records, "decision").filter_map(|it| it["shard"].as_u64()).collect();
    say(&format!("{client:?} -> {server:?}, {era}, {took:.1?}, shards {shards:?}"), &report, &more);
    check_always(&report, server, era);
    for step in &more {
        check(step, &report, server);
    }
    // Whoever was cut came back for the rest of it.
    for (relay, name) in [(&course.front, "resume"), (&course.back, "behind")] {
        let cuts = more.iter().filter(|step| step.starts_with(name)).count();
        assert_eq!(relay.cuts(), cuts, "every stream that was to be cut was cut");
        assert!(relay.resumed().len() >= cuts, "{name}: {:?}", relay.resumed());
    }
}

#[track_caller]
fn check_always(report: &Value, server: Peer, era: &str) {
    for step in ALWAYS.iter().filter(|step| !matches!(**step, "hidden" | "unknown")) {
        assert_eq!(report[step]["ok"], true, "{step}: {:#}", report[step]);
    }
    assert_eq!(report["connect"]["protocol"] == "2026-07-28", era == "modern", "{:#}", report["connect"]);
    let tools = report["list"]["tools"].as_array().expect("a list");
    assert!(tools.len() > 3 && !tools.contains(&json!(server.hidden())), "{tools:?}");
    for step in ["hidden", "unknown"] {
        let (refusal, code) = (&report[step], &report[step]["code"]);
        assert_eq!((&refusal["ok"], code), (&json!(false), &json!(-32_602)), "{step}: {refusal:#}");
    }
    says(report, "call", "5");
    let notes = report["progress"]["notifications"].as_array().map_or(0, Vec::len);
    assert!(notes >= 3, "{:#}", report["progress"]);
    assert_eq!(report["cancel"]["cancelled"], true, "{:#}", report["cancel"]);
    if server != Everything {
        assert_eq!(report["cancel"]["noticed"], true, "{:#}", report["cancel"]);
        says(report, "elicit", "blue");
    }
    assert!(report["elicit"]["asked"].as_array().is_some_and(|asked| !asked.is_empty()), "{:#}", report["elicit"]);
}

/// What each step must have come to.
#[track_caller]
fn check(step: &str, report: &Value, server: Peer) {
    let got = &report[step];
    if step == "ended" {
        assert_eq!(got["ok"], false, "a call in a session that is over: {got:#}");
        return;
    }
    assert_eq!(got["ok"], true, "{step}: {got:#}");
    match step {
        "sample" => says(report, step, "a question"),
        "roots" => says(report, step, "file:///work"),
        "url" => {
            says(report, step, "page: accept");
            assert_eq!(got["urls"], json!(["https://sign.test/1"]));
        }
        "log" => assert_eq!(got["levels"], json!(["warning", "error"])),
        "updated" => assert_eq!(got["updated"], 1),
        "changed" => assert!(got["tools"].as_array().is_some_and(|tools| tools.len() > 3), "{got:#}"),
        "hang_up" => says(report, step, "answered later"),
        "resume" | "behind" => {
            let notes = got["notifications"].as_array().expect("a list").iter().map(|note| note["progress"].as_f64());
            let every: Vec<Option<f64>> = (1..=8).map(|step| Some(f64::from(step))).collect();
            assert_eq!(notes.collect::<Vec<_>>(), every, "each once, in order, with {server:?}");
        }
        "resume_get" | "behind_get" => assert_eq!(got["updated"], 2, "each once"),
        _ => says(report, step, "5"),
    }
}

#[track_caller]
fn says(report: &Value, step: &str, words: &str) {
    let text = report[step]["text"].as_str();
    assert!(text.is_some_and(|text| text.contains(words)), "{step}: {:#}", report[step]);
}

fn say(who: &str, report: &Value, more: &[&str]) {
    let did: Vec<String> = ALWAYS
        .iter()
        .chain(more)
        .map(|step| {
            let refused = matches!(*step, "hidden" | "unknown" | "ended");
            let well = report[step]["ok"] != refused;
            format!("{step}{}", if well { "" } else { " (FAILED)" })
        })
        .collect();
    let line = format!("{who}: {}\n", did.join(", "));
    // Not println!: of a test that passes, the harness would keep it to itself.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[test]
fn every_sdk_is_on_both_sides() {
    for peer in Peer::CLIENTS {
        let servers: Vec<Peer> =
            PAIRS.iter().filter(|(client, _)| *client == peer).map(|(_, server)| *server).collect();
        assert!(servers.contains(&peer), "{peer:?} with its own server");
        assert!(servers.iter().any(|server| matches!(server, Everything | Python2)), "{peer:?} with a common one");
        assert!(PAIRS.contains(&(TypeScript2, peer)), "{peer:?}'s server with the common client");
    }
}
