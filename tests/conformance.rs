//! The official conformance suite: through the gateway it comes to what it comes to directly; and so it does beside two
//! other servers on one endpoint, under bare names, and under prefixed ones through a shim that takes the prefix off.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::thread;

use crate::support::conformance::{REQUIREMENTS, Scenario, differences, differing, required, run_scenario, run_suite};
use serde_json::json;

use crate::support::gateway::{Gateway, Setup, eventually};
use crate::support::mcp::{Post, names};
use crate::support::oracle;
use crate::support::peers::{CONFORMANCE_SERVER, PREFIX_SHIM, Peers, Server, node_peers};
use crate::support::upstream::{Plan, Upstream};

const AGAIN_MAX: usize = 2;
/// What a gateway is most likely to break: sessions, streams, subscriptions, rounds of input, headers. They must have
/// run, and their results are in the test's output; a `*` stands for the rest of a name.
const WATCHED: [(&str, &[&str]); 2] = [
    (
        "2025-11-25",
        &[
            "server-session-lifecycle",
            "server-sse-polling",
            "server-sse-multiple-streams",
            "resources-subscribe",
            "resources-unsubscribe",
            "tools-call-sampling",
            "tools-call-elicitation",
        ],
    ),
    (
        "2026-07-28",
        &[
            "server-stateless",
            "server-sse-multiple-streams",
            "input-required-result-*",
            "http-header-validation",
            "http-custom-header-server-validation",
        ],
    ),
];

/// Where the suite's server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On its own, at `/s/suite/mcp`.
    Alone,
    /// Between two others, under their own names.
    Bare,
    /// Between two others, under prefixed names, with a shim in front.
    Prefixed,
}

/// The suite's server behind a gateway, and what stands beside it and before it.
struct Course {
    gateway: Gateway,
    url: String,
    _server: Server,
    _others: [Upstream; 2],
    _shim: Option<Server>,
}

impl Course {
    fn new(node: &Peers, place: Place) -> Self {
        let server = node.serve(CONFORMANCE_SERVER);
        let others = [Plan::tools(&["lookup", "locate"]).start(), Plan::tools(&["fetch"]).start()];
        let mut setup = Setup::new()
            .server("first", &others[0].url())
            .server("suite", &server.url())
            .server("third", &others[1].url())
            .open()
            .shards(2);
        if place != Place::Alone {
            let names = if place == Place::Bare { "bare" } else { "prefix" };
            let merged = json!({ "servers": ["first", "suite", "third"], "names": names });
            setup = setup.set("/endpoints", json!({ "/mcp": merged }));
        }
        let gateway = setup.start();
        let url = match place {
            Place::Alone => gateway.url("/s/suite/mcp"),
            Place::Bare | Place::Prefixed => gateway.url("/mcp"),
        };
        if place != Place::Alone {
            // Where the machine is busy, it goes on without waiting for its servers.
            eventually("all three have their tools on the one list", || {
                let tools = names(&Post::modern("tools/list", json!({})).to(&gateway), "tools", "name");
                ["lookup", "locate", "test_simple_text", "fetch"]
                    .iter()
                    .all(|name| tools.iter().any(|tool| tool.ends_with(name)))
            });
        }
        let told = [("PEER_TARGET", url.as_str()), ("PEER_PREFIX", "suite")];
        let shim = (place == Place::Prefixed).then(|| node.serve_with(PREFIX_SHIM, &told));
        let url = shim.as_ref().map_or(url, Server::url);
        Self { gateway, url, _server: server, _others: others, _shim: shim }
    }
}

fn same_through_the_gateway(requirements: &str, place: Place) {
    assert!(REQUIREMENTS.contains(&requirements));
    let Some(node) = node_peers() else { return };
    // A server for each run: scenarios change lists that others watch.
    let alone = node.serve(CONFORMANCE_SERVER);
    let course = Course::new(&node, place);
    let (gateway, here, there) = (&course.gateway, alone.url(), course.url.clone());
    let (mut direct, mut through) = thread::scope(|scope| {
        let direct = scope.spawn(|| run_suite(&node, &here, requirements));
        let through = run_suite(&node, &there, requirements);
        (direct.join().expect("the direct run ends"), through)
    });
    // Scenarios wait fixed times, some less than a second, which a busy machine may not keep: what differs is done again.
    for _ in 0..AGAIN_MAX {
        let differ = differences(&direct, &through).join("\n");
        for name in differing(&direct, &through) {
            tell(&format!("{requirements}, {place:?}, {name}: once more, because of\n{differ}\n"));
            direct.insert(name.clone(), run_scenario(&node, &here, requirements, &name));
            through.insert(name.clone(), run_scenario(&node, &there, requirements, &name));
        }
    }
    let differ = differences(&direct, &through);
    assert!(differ.is_empty(), "{} differences:\n{}", differ.len(), differ.join("\n"));
    let required = required(&node, requirements);
    for name in &required {
        let scenario = through.get(name).unwrap_or_else(|| panic!("{name} did not run"));
        assert!(scenario.passed(), "{name}: {:?}", scenario.faults().collect::<Vec<_>>());
    }
    assert!(required.len() > 10, "only {} scenarios are required", required.len());
    show(requirements, place, &through);
    oracle::check(gateway, &[]);
}

/// Says how the watched scenarios went; it is known by now that each went as it does directly.
fn show(requirements: &str, place: Place, through: &BTreeMap<String, Scenario>) {
    let (_, watched) = WATCHED.iter().find(|(name, _)| *name == requirements).expect("a row for each");
    let mut text = String::new();
    for wanted in *watched {
        let is = |name: &str| wanted.strip_suffix('*').map_or(name == *wanted, |start| name.starts_with(start));
        let mut ran = through.iter().filter(|(name, _)| is(name)).peekable();
        assert!(ran.peek().is_some(), "{wanted} did not run");
        for (name, scenario) in ran {
            let faults: Vec<String> = scenario.faults().collect();
            let how = if scenario.passed() { "passed".to_owned() } else { format!("as directly: {faults:?}") };
            text.push_str(&format!("{requirements}, {place:?}, {name}: {how}\n"));
        }
    }
    tell(&text);
}

/// Not println!: of a test that passes, the harness would keep it to itself.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

macro_rules! suites {
    ($($name:ident: $requirements:literal, $place:ident;)*) => {$(
        #[test]
        fn $name() {
            same_through_the_gateway($requirements, Place::$place);
        }
    )*};
}

suites! {
    suite_2025_11_25: "2025-11-25", Alone;
    suite_2026_07_28: "2026-07-28", Alone;
    suite_2025_11_25_beside_others: "2025-11-25", Bare;
    suite_2026_07_28_beside_others: "2026-07-28", Bare;
    suite_2025_11_25_prefixed: "2025-11-25", Prefixed;
    suite_2026_07_28_prefixed: "2026-07-28", Prefixed;
}
