//! The official conformance suite: through the gateway it comes to what it comes to directly.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::thread;

use crate::support::conformance::{REQUIREMENTS, Scenario, differences, differing, required, run_scenario, run_suite};
use crate::support::gateway::Setup;
use crate::support::oracle;
use crate::support::peers::{CONFORMANCE_SERVER, node_peers};

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

fn same_through_the_gateway(requirements: &str) {
    assert!(REQUIREMENTS.contains(&requirements));
    let Some(node) = node_peers() else { return };
    // A server for each run: scenarios change lists that others watch.
    let (alone, server) = (node.serve(CONFORMANCE_SERVER), node.serve(CONFORMANCE_SERVER));
    let gateway = Setup::new().server("suite", &server.url()).open().shards(2).start();
    let (here, there) = (alone.url(), gateway.url("/s/suite/mcp"));
    let (mut direct, mut through) = thread::scope(|scope| {
        let direct = scope.spawn(|| run_suite(&node, &here, requirements));
        let through = run_suite(&node, &there, requirements);
        (direct.join().expect("the direct run ends"), through)
    });
    // Scenarios wait fixed times, some less than a second, which a busy machine may not keep: what differs is done again.
    for _ in 0..AGAIN_MAX {
        let differ = differences(&direct, &through).join("\n");
        for name in differing(&direct, &through) {
            tell(&format!("{requirements}, {name}: once more, because of\n{differ}\n"));
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
    show(requirements, &through);
    oracle::check(&gateway, &[]);
}

/// Says how the watched scenarios went; it is known by now that each went as it does directly.
fn show(requirements: &str, through: &BTreeMap<String, Scenario>) {
    let (_, watched) = WATCHED.iter().find(|(name, _)| *name == requirements).expect("a row for each");
    let mut text = String::new();
    for wanted in *watched {
        let is = |name: &str| wanted.strip_suffix('*').map_or(name == *wanted, |start| name.starts_with(start));
        let mut ran = through.iter().filter(|(name, _)| is(name)).peekable();
        assert!(ran.peek().is_some(), "{wanted} did not run");
        for (name, scenario) in ran {
            let faults: Vec<String> = scenario.faults().collect();
            let how = if scenario.passed() { "passed".to_owned() } else { format!("as directly: {faults:?}") };
            text.push_str(&format!("{requirements}, {name}: {how}\n"));
        }
    }
    tell(&text);
}

/// Not println!: of a test that passes, the harness would keep it to itself.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[test]
fn suite_2025_11_25() {
    same_through_the_gateway("2025-11-25");
}

#[test]
fn suite_2026_07_28() {
    same_through_the_gateway("2026-07-28");
}
