//! A simulated world: clients, shards, servers, networks, a disk and a clock, all of them faulty, under one seed. The
//! sessions, streams and questions in it go through the very machines that the gateway uses (`session::way`,
//! `session::outlet`, `session::owner`, `ledger`), and an oracle that knows everything looks on.
//!
//! `PORTCULLIS_SIM_SEEDS` says how many seeds are run (256; 10,000 for a long run), `PORTCULLIS_SIM_SEED` runs one and
//! prints each of its events. A seed that failed once is in `seeds.txt`, and is run first from then on.

mod client;
mod event;
mod gateway;
mod life;
mod oracle;
mod seen;
mod server;
mod store;
mod streams;
mod world;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use seen::Seen;
use world::World;

/// [P1] [P2] [P3] [P5] [P6] Sessions and streams hold, whatever happens to them.
#[test]
fn sessions_and_streams_hold() {
    if let Some(seed) = number("PORTCULLIS_SIM_SEED") {
        let (seen, _) = run(seed, true);
        println!("{seen:#?}");
        return;
    }
    let failed = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let failed = failed.map(|line| line.trim().parse().expect("a seed a line"));
    let seeds = number("PORTCULLIS_SIM_SEEDS").unwrap_or(SEEDS);
    let mut all = Seen::default();
    for seed in failed.chain(0..seeds) {
        all.add(&run(seed, false).0);
    }
    println!("{seeds} seeds, {} events: {all:?}", all.steps);
    let never: Vec<&str> = all.rows().into_iter().filter(|(_, times)| *times == 0).map(|(name, _)| name).collect();
    assert!(seeds < SEEDS || never.is_empty(), "never reached: {never:?}");
}

/// What happens depends on the seed alone: else no failure could be replayed.
#[test]
fn a_seed_is_a_world() {
    for seed in [3, 77] {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!((format!("{:?}", first.0), first.1), (format!("{:?}", second.0), second.1), "seed {seed}");
    }
}

/// What one seed reached, and a number that depends on all of it.
fn run(seed: u64, told: bool) -> (Seen, u64) {
    let step = Rc::new(Cell::new(0));
    let world = catch_unwind(AssertUnwindSafe(|| World::new(seed, step.clone(), told).run()));
    world.unwrap_or_else(|panic| {
        println!("seed {seed} failed at step {}: replay with PORTCULLIS_SIM_SEED={seed}", step.get());
        resume_unwind(panic)
    })
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What CI has time for.
const SEEDS: u64 = 256;
