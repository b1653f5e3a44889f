//! What a gateway does for a fleet: many servers behind one endpoint, many rules that change while it serves, and whether
//! a new build of it costs more than the one before.

pub(crate) mod builds;
pub(crate) mod extras;
pub(crate) mod grows;
pub(crate) mod merged;
pub(crate) mod reload;
pub(crate) mod rules;

use std::time::Duration;

use crate::cli::Turns;
use crate::generator::{Pace, Plan};
use crate::rig::bench::PATIENCE;
use crate::traffic::Shape;

const FAULTS_MAX: u64 = 100;

/// Calls of this shape, each on the answer to the last one of its connection.
fn closed(shape: Shape, turns: &Turns, connections: u32) -> Plan {
    Plan {
        shape,
        tokens: Vec::new(),
        stay: false,
        connections,
        pace: Pace::Closed,
        warmup: Duration::from_secs_f64(turns.warmup),
        window: Duration::from_secs_f64(turns.seconds),
        count: u64::MAX,
        timeout: PATIENCE,
        faults_max: FAULTS_MAX,
    }
}
