//! A call in a session against one that stands alone: CPU time of the gateway's serving threads for each, in turn.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::json;

use crate::cli::Legacy;
use crate::generator::{Pace, Plan};
use crate::rig::bench::{Bench, PATIENCE};
use crate::rig::figures::Figures;
use crate::rig::gateway::Gateway;
use crate::traffic::{Era, Shape};

use super::measured;

/// CPU time of a call in a session, by that of a modern one.
const RATIO_MAX: f64 = 1.10;
const FAULTS_MAX: u64 = 100;

/// `loadtest legacy`.
pub(crate) fn command(options: &Legacy, stop: &AtomicBool) -> anyhow::Result<bool> {
    let settings = json!({
        "connections": options.connections,
        "repetitions": options.repetitions,
        "seconds": options.seconds,
        "rules": options.stand.rules,
    });
    measured(&options.stand, stop, ("legacy", settings), |bench, figures| {
        let (limits, sessions) = (Vec::new(), Vec::new());
        let gateway = bench.gateway(&bench.setup(&limits, &sessions))?;
        options.connections.iter().try_for_each(|connections| point(bench, &gateway, options, *connections, figures))
    })
}

fn point(
    bench: &Bench<'_>,
    gateway: &Gateway,
    options: &Legacy,
    connections: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let mut eras = [(Era::Modern, "modern"), (Era::Legacy, "legacy")];
    for _ in 0..options.repetitions {
        // Whoever was first is last next time.
        eras.reverse();
        let mut cost = [0.0; 2];
        for (era, name) in eras {
            let (micros, median) = measure(bench, gateway, options, connections, era)?;
            cost[usize::from(era == Era::Legacy)] = micros;
            figures.add(&format!("{connections} connections, {name}: shard threads"), micros, "µs/call", None);
            figures.add(&format!("{connections} connections, {name}: p50"), median, "µs", None);
        }
        let ratio = cost[1] / cost[0];
        figures.add(&format!("{connections} connections: legacy / modern"), ratio, "", Some(RATIO_MAX));
    }
    Ok(())
}

/// Microseconds of the shard threads for each call, and the middle latency.
fn measure(
    bench: &Bench<'_>,
    gateway: &Gateway,
    options: &Legacy,
    connections: u32,
    era: Era,
) -> anyhow::Result<(f64, f64)> {
    let plan = Plan {
        shape: Shape { body_bytes: options.body_bytes, ..bench.shape(gateway, era) },
        tokens: Vec::new(),
        stay: false,
        connections,
        pace: Pace::Closed,
        warmup: Duration::from_secs_f64(options.warmup),
        window: Duration::from_secs_f64(options.seconds),
        count: u64::MAX,
        timeout: PATIENCE,
        faults_max: FAULTS_MAX,
    };
    let (micros, outcome) = bench.send(gateway, &plan)?;
    Ok((micros, outcome.latency.quantile_us(0.5)))
}
