//! What rules cost a call: CPU time of the serving threads with few rules, with many, with a condition and with limits, in
//! turn.

use std::sync::atomic::AtomicBool;

use serde_json::json;

use crate::cli::Rules;
use crate::rig::TOOLS;
use crate::rig::bench::{self, Bench};
use crate::rig::figures::Figures;
use crate::rig::gateway::{self, Gateway, Setup};
use crate::traffic::{Era, Shape};

use super::closed;

/// A call under more rules, by one under a single one.
const RATIO_MAX: f64 = 1.05;
/// What the rule of the tool that is called says beside its pattern.
const CONDITION: &str =
    "      when: args.message.size() > 0 && !args.message.startsWith(\"x\") && claims.sub != \"nobody\"\n";
const LIMITS: &str =
    "      limits:\n        - { calls: 1000000000, per: 1h }\n        - { calls: 1000000000, per: 24h, by: all }\n";

/// One gateway: its name, its rules, what its rule says more, and how much a call may cost by the first one's.
struct Point {
    name: &'static str,
    rules: u32,
    more: &'static str,
    max: Option<f64>,
}

const POINTS: [Point; 5] = [
    Point { name: "1 rule", rules: 1, more: "", max: None },
    Point { name: "100 rules", rules: 100, more: "", max: Some(RATIO_MAX) },
    Point { name: "10,000 rules", rules: 10_000, more: "", max: Some(RATIO_MAX) },
    Point { name: "100 rules, a condition", rules: 100, more: CONDITION, max: None },
    Point { name: "100 rules, two limits", rules: 100, more: LIMITS, max: None },
];

/// `loadtest rules`.
pub(crate) fn command(options: &Rules, stop: &AtomicBool) -> anyhow::Result<bool> {
    let turns = &options.turns;
    let settings = json!({
        "connections": turns.connections,
        "repetitions": turns.repetitions,
        "seconds": turns.seconds,
    });
    let canned = [format!("--tools={TOOLS}")];
    bench::measured(&options.stand, stop, &canned, ("rules", settings), |bench, figures| {
        let gateways = POINTS.iter().map(|point| start(bench, point)).collect::<anyhow::Result<Vec<_>>>()?;
        turns.connections.iter().try_for_each(|connections| measure(bench, &gateways, options, *connections, figures))
    })
}

fn start(bench: &Bench<'_>, point: &Point) -> anyhow::Result<Gateway> {
    let (limits, sessions) = (Vec::new(), Vec::new());
    let setup = Setup { rules: point.rules, ..bench.setup(&limits, &sessions) };
    let server = bench.server_ports[0];
    let pattern = "      permit: [canned/echo]\n";
    let config = |base: &str, port| {
        gateway::config(&setup, base, port, server).replacen(pattern, &format!("{pattern}{}", point.more), 1)
    };
    let mut gateway = gateway::start_as(&setup, bench.folder, &[gateway::PATH], &config)?;
    let shape = bench.shape(&gateway, Era::Modern);
    bench.answers(&mut gateway, &shape)?;
    Ok(gateway)
}

fn measure(
    bench: &Bench<'_>,
    gateways: &[Gateway],
    options: &Rules,
    connections: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let turns = &options.turns;
    let mut order: Vec<usize> = (0..gateways.len()).collect();
    for _ in 0..turns.repetitions {
        // Whoever was first is last next time.
        order.reverse();
        let mut cost = [0.0; POINTS.len()];
        for &which in &order {
            let shape = Shape { body_bytes: turns.body_bytes, ..bench.shape(&gateways[which], Era::Modern) };
            let (micros, _) = bench.send(&gateways[which], &closed(shape, turns, connections))?;
            cost[which] = micros;
            let what = format!("{connections} connections, {}: shard threads", POINTS[which].name);
            figures.add(&what, micros, "µs/call", None);
        }
        for (point, micros) in POINTS.iter().zip(cost).skip(1) {
            let what = format!("{connections} connections: {} / {}", point.name, POINTS[0].name);
            figures.add(&what, micros / cost[0], "", point.max);
        }
    }
    Ok(())
}
