//! Two builds of the gateway with one configuration: CPU time of the serving threads for each call, in turn.

use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use serde_json::json;

use crate::cli::Builds;
use crate::net;
use crate::rig::TOOLS;
use crate::rig::bench::{self, Bench};
use crate::rig::figures::Figures;
use crate::rig::gateway::{Gateway, Setup};
use crate::traffic::Shape;

use super::closed;

/// A call through the new one, by one through the old one.
const RATIO_MAX: f64 = 1.03;
const NAMES: [&str; 2] = ["before", "now"];

/// `loadtest builds`.
pub(crate) fn command(options: &Builds, stop: &AtomicBool) -> anyhow::Result<bool> {
    let turns = &options.turns;
    let settings = json!({
        "before": options.before,
        "era": format!("{:?}", options.era).to_lowercase(),
        "connections": turns.connections,
        "repetitions": turns.repetitions,
        "seconds": turns.seconds,
        "rules": options.stand.rules,
    });
    let canned = [format!("--tools={TOOLS}")];
    bench::measured(&options.stand, stop, &canned, ("builds", settings), |bench, figures| {
        let before = net::find_program(&options.before);
        let before = before.with_context(|| format!("{} is not there", options.before.display()))?;
        let (limits, sessions) = (Vec::new(), Vec::new());
        let setup = bench.setup(&limits, &sessions);
        let gateways = [bench.gateway(&Setup { program: &before, ..setup })?, bench.gateway(&setup)?];
        turns.connections.iter().try_for_each(|connections| point(bench, &gateways, options, *connections, figures))
    })
}

fn point(
    bench: &Bench<'_>,
    gateways: &[Gateway; 2],
    options: &Builds,
    connections: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let turns = &options.turns;
    let mut order = [1, 0];
    for _ in 0..turns.repetitions {
        // Whoever was first is last next time.
        order.reverse();
        let mut cost = [0.0; 2];
        for which in order {
            let gateway = &gateways[which];
            let shape = Shape { body_bytes: turns.body_bytes, ..bench.shape(gateway, options.era) };
            let (micros, outcome) = bench.send(gateway, &closed(shape, turns, connections))?;
            cost[which] = micros;
            let what = |what| format!("{connections} connections, {}: {what}", NAMES[which]);
            figures.add(&what("shard threads"), micros, "µs/call", None);
            figures.add(&what("p50"), outcome.latency.quantile_us(0.5), "µs", None);
        }
        figures.add(&format!("{connections} connections: now / before"), cost[1] / cost[0], "", Some(RATIO_MAX));
    }
    Ok(())
}
