//! The official conformance suite: through the gateway it comes to what it comes to directly.

use std::thread;

use crate::support::conformance::{REQUIREMENTS, differences, required, run_suite};
use crate::support::gateway::Setup;
use crate::support::oracle;
use crate::support::peers::{CONFORMANCE_SERVER, node_peers};

fn same_through_the_gateway(requirements: &str) {
    assert!(REQUIREMENTS.contains(&requirements));
    let Some(node) = node_peers() else { return };
    // A server for each run: scenarios change lists that others watch.
    let (direct, through, gateway) = thread::scope(|scope| {
        let direct = scope.spawn(|| {
            let server = node.serve(CONFORMANCE_SERVER);
            run_suite(&node, &server.url(), requirements)
        });
        let server = node.serve(CONFORMANCE_SERVER);
        let gateway = Setup::new().server("suite", &server.url()).open().start();
        let through = run_suite(&node, &gateway.url("/s/suite/mcp"), requirements);
        (direct.join().expect("the direct run ends"), through, gateway)
    });
    let differ = differences(&direct, &through);
    assert!(differ.is_empty(), "{} differences:\n{}", differ.len(), differ.join("\n"));
    let required = required(&node, requirements);
    for name in &required {
        let scenario = through.get(name).unwrap_or_else(|| panic!("{name} did not run"));
        assert!(scenario.passed(), "{name}: {:?}", scenario.faults().collect::<Vec<_>>());
    }
    assert!(required.len() > 10, "only {} scenarios are required", required.len());
    oracle::check(&gateway, &[]);
}

#[test]
fn suite_2025_11_25() {
    same_through_the_gateway("2025-11-25");
}

#[test]
fn suite_2026_07_28() {
    same_through_the_gateway("2026-07-28");
}
