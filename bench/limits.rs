//! What a reservation costs: four limits, alone and with two threads at the same keys; and what is refused. Wanted: at
//! most 1 us with two threads. Every change goes into a ring in memory that is set free as the journal's thread does.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::base::ids::RuleId;
use portcullis::base::time::{Moment, Now};
use portcullis::ledger::counts::Counts;
use portcullis::policy::cond::Number;
use portcullis::policy::needs::{CountKey, Need, NeedOf, Source};
use portcullis::uring::mapped::Mapped;

const HOUR_MS: u64 = 3_600_000;
/// Reservations between two rounds of the journal.
const ROUND: u64 = 4_096;

fn at(ms: u64) -> Now {
    Now { mono: Moment(0).plus_ms(ms), unix_ms: 0 }
}

fn counts() -> Counts {
    let counts = Counts::new(at(0));
    let file = tempfile::tempfile().expect("a file");
    let ring = Mapped::open(&file, Counts::ring_words()).expect("a map");
    counts.attach(ring, 0, Box::new(|| {}));
    counts
}

/// Calls in an hour, money in a day, so many at once, and a bucket: four stripes.
fn needs(calls: u64) -> [Need; 4] {
    let amount = Number::parse("19.99").expect("a number");
    let max = Number::parse("1e30").expect("a number");
    let what = [
        NeedOf::Calls { max: calls, per_ms: Some(HOUR_MS) },
        NeedOf::Sum { amount, max, per_ms: Some(24 * HOUR_MS) },
        NeedOf::Concurrent { max: 1_000 },
        NeedOf::Bucket { calls: 1_000_000_000, per_ms: 1_000, burst: 1_000_000_000 },
    ];
    let mut number = 0;
    what.map(|what| {
        number += 1;
        Need { key: CountKey([number; 16]), source: Source::Rule(RuleId(0), 0), what, lasts_ms: None }
    })
}

/// `rounds` reservations, and their ends, at so many of them a millisecond.
fn work(counts: &Counts, needs: &[Need], rounds: u64) {
    for round in 0..rounds {
        if let Ok(taken) = black_box(counts.reserve(black_box(needs), at(round / 100))) {
            counts.ended(&taken);
        }
        if round % ROUND == 0 {
            counts.set_kept(counts.next_change());
        }
    }
}

fn timed(threads: usize, needs: &[Need], rounds: u64) -> Duration {
    let counts = counts();
    // The first pages of the ring, and the first entries.
    work(&counts, needs, 20_000);
    let start = Instant::now();
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| _ = scope.spawn(|| work(&counts, needs, rounds)));
    });
    start.elapsed()
}

fn limits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limits");
    let all = needs(u64::MAX);
    for count in [1, 4] {
        group.bench_function(format!("{count}, one thread"), |bench| {
            bench.iter_custom(|rounds| timed(1, &all[..count], rounds));
        });
        group.bench_function(format!("{count}, two threads, each"), |bench| {
            bench.iter_custom(|rounds| timed(2, &all[..count], rounds));
        });
    }
    group.bench_function("4, one thread, refused", |bench| {
        bench.iter_custom(|rounds| timed(1, &needs(10), rounds));
    });
    group.finish();
}

criterion_group!(benches, limits);
criterion_main!(benches);
