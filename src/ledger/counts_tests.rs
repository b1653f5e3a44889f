use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::base::ids::RuleId;
use crate::base::time::Moment;
use crate::policy::cond::Number;
use crate::policy::needs::{NeedOf, Source};

const SLOTS: u64 = crate::base::limits::COUNT_RING_SLOTS as u64;
const START: Now = Now { mono: Moment(5_000_000_000), unix_ms: 1_700_000_000_000 };

fn at(ms: u64) -> Now {
    // The wall clock does as it likes.
    Now { mono: START.mono.plus_ms(ms), unix_ms: ms % 7 }
}

/// Each number has a stripe of its own, up to the number of stripes.
fn need(number: u8, what: NeedOf) -> Need {
    let mut key = [7; 16];
    key[0] = number;
    Need { key: CountKey(key), source: Source::Rule(RuleId(number.into()), 0), what, lasts_ms: None }
}

fn calls(number: u8, max: u64) -> Need {
    need(number, NeedOf::Calls { max, per_ms: Some(60_000) })
}

fn used(counts: &Counts, need: Need, now: Now) -> String {
    counts.levels(&[need], now)[0].before.to_string()
}

fn ring(file: &std::fs::File) -> Mapped {
    Mapped::open(file, Counts::ring_words()).unwrap()
}

#[test]
fn all_or_none() {
    let counts = Counts::new(START);
    let needs = [calls(9, 5), calls(1, 3), calls(5, 5), calls(9, 5)];
    for _ in 0..2 {
        counts.reserve(&needs, at(0)).unwrap();
    }
    // The first that is not met is named, in the order of the needs.
    let broken = counts.reserve(&needs, at(1)).unwrap_err();
    let count = Quantity::Count;
    assert_eq!(broken, Broken { place: 3, retry_ms: Some(60_000), full: false, used: count(5), max: count(5) });
    assert_eq!([9, 1, 5].map(|it| used(&counts, calls(it, 5), at(1))), ["4", "2", "2"]);
    let peeked = counts.peek(&needs[1..3], at(1)).unwrap();
    assert_eq!(peeked.iter().map(|level| level.after).collect::<Vec<_>>(), [count(3), count(3)]);
    assert_eq!(counts.peek(&needs, at(1)).unwrap_err(), broken);
    assert_eq!([9, 1, 5].map(|it| used(&counts, calls(it, 5), at(1))), ["4", "2", "2"]);
    assert!(counts.reserve(&vec![calls(1, 9); NEEDS_MAX + 1], at(1)).unwrap_err().full);
    assert!(counts.reserve(&[], at(1)).unwrap().covers(&[]));
    assert_eq!(counts.standing(), Standing { counts: 3, counts_max: COUNTS_MAX, no_room: 1, ..Standing::default() });
}

#[test]
fn what_was_not_written_is_given_back_once() {
    let counts = Counts::new(START);
    let (busy, note) = (need(2, NeedOf::Concurrent { max: 2 }), need(3, NeedOf::Note { keep_ms: None }));
    let needs = [calls(1, 2), busy, note];
    let [one, two] = [0, 1].map(|ms| counts.reserve(&needs, at(ms)).unwrap());
    for _ in 0..2 {
        counts.give_back(&one, at(2));
        counts.ended(&one);
        assert_eq!([calls(1, 2), busy].map(|it| used(&counts, it, at(2))), ["1", "1"]);
    }
    assert!(counts.happened(note.key, None, at(2)), "it was let through");
    counts.ended(&two);
    counts.give_back(&two, at(3));
    assert_eq!([calls(1, 2), busy].map(|it| used(&counts, it, at(2))), ["0", "0"]);
    assert_eq!(counts.standing().counts, 1);
    let other = need(4, NeedOf::Note { keep_ms: None });
    let three = counts.reserve(&[calls(1, 2), other], at(4)).unwrap();
    counts.withdraw(&three, at(5));
    assert!(!counts.happened(other.key, None, at(5)), "it was not let through");
    counts.give_back(&Taken::none(), at(5));
    counts.ended(&Taken::none());
    assert_eq!(counts.standing().counts, 1);
}

#[test]
fn a_success_is_remembered() {
    let counts = Counts::new(START);
    let after = need(1, NeedOf::After { within_ms: Some(1000) });
    let broken = counts.reserve(&[after], at(0)).unwrap_err();
    assert!(!broken.full && broken.retry_ms.is_none());
    counts.note(&[Note { key: after.key, keep_ms: Some(1000) }], at(0));
    assert!(counts.reserve(&[after], at(1000)).is_ok() && counts.past(at(1000)).happened(after.key, Some(1000)));
    assert!(counts.reserve(&[after], at(1001)).is_err());
    (0..LEDGER_STRIPES / COUNT_SWEEP_STRIPES).for_each(|_| counts.sweep(at(1001)));
    assert_eq!(counts.standing().counts, 0);
}

#[test]
fn the_end_of_a_call_does_not_tell_the_time() {
    let counts = Counts::new(START);
    let bucket = need(2, NeedOf::Bucket { calls: 1, per_ms: 10, burst: 1 });
    // Of one stripe.
    let busy = need(2, NeedOf::Concurrent { max: 1 });
    let taken = counts.reserve(&[busy], at(100)).unwrap();
    counts.reserve(&[bucket], at(100)).unwrap();
    counts.ended(&taken);
    // A thread that has read the clock before, and waited for the lock.
    let refused = counts.reserve(&[bucket], at(95)).unwrap_err();
    assert_eq!(refused.retry_ms, Some(10));
    assert!(counts.reserve(&[bucket], at(105)).is_err(), "five milliseconds do not count twice");
    assert!(counts.reserve(&[bucket], at(110)).is_ok());
    assert!(counts.reserve(&[busy], at(110)).is_ok(), "and it has ended");
}

/// Two threads, one key in the middle of others, in other orders.
fn hammer(counts: &Counts, needs: &[[Need; 3]], rounds: usize) -> usize {
    let work = |needs: &[Need]| (0..rounds).filter(|_| counts.reserve(needs, at(0)).is_ok()).count();
    std::thread::scope(|scope| {
        let threads: Vec<_> = needs.iter().map(|needs| scope.spawn(move || work(needs))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

#[test]
fn two_shards_at_one_key_take_exactly_what_there_is() {
    let file = tempfile::tempfile().unwrap();
    let counts = Counts::new(START);
    counts.attach(ring(&file), 0, Box::new(|| {}));
    let cent = NeedOf::Sum {
        amount: Number::parse("0.01").unwrap(),
        max: Number::parse("50.00").unwrap(),
        per_ms: Some(60_000),
    };
    let needs = [[need(9, cent), calls(8, 9000), calls(1, 9000)], [calls(1, 9000), calls(30, 9000), need(9, cent)]];
    assert_eq!(hammer(&counts, &needs, 4000), 5000);
    assert_eq!(used(&counts, need(9, cent), at(1)), "50");
    assert_eq!(used(&counts, calls(1, 9000), at(1)), "5000", "nothing of those that were refused");
    assert_eq!(counts.standing().waiting, 15_000);
}

#[test]
fn once_is_once_for_all_shards() {
    let counts = Counts::new(START);
    let won: usize = (0..200_u8)
        .map(|number| {
            let mut once = need(number % 64, NeedOf::Once { per_ms: None });
            once.key.0[15] = number;
            let needs = [once, calls(7, 10_000), need(3, NeedOf::Concurrent { max: 10_000 })];
            hammer(&counts, &[needs, [needs[2], needs[0], needs[1]]], 3)
        })
        .sum();
    assert_eq!(won, 200);
}

#[test]
fn a_full_ring_refuses_and_asks_to_be_read() {
    let (file, urged) = (tempfile::tempfile().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counts = Counts::new(START);
    let told = urged.clone();
    counts.attach(ring(&file), 100, Box::new(move || _ = told.fetch_add(1, Ordering::Relaxed)));
    let needs = [calls(1, u64::MAX), calls(2, u64::MAX), need(3, NeedOf::Concurrent { max: u32::MAX })];
    let reserved = (0..SLOTS).take_while(|ms| counts.reserve(&needs, at(ms / 1000)).is_ok()).count() as u64;
    assert_eq!((reserved, urged.load(Ordering::Relaxed)), (SLOTS / 2, 1));
    let full = counts.reserve(&needs, at(90)).unwrap_err();
    assert!(full.full && counts.standing().not_kept == 2);
    assert_eq!(used(&counts, calls(2, 0), at(90)), reserved.to_string(), "and takes nothing");
    assert!(counts.reserve(&needs[2..], at(90)).is_ok(), "what is not kept needs no room there");
    // What is the same is said once.
    let mut records = Vec::new();
    let next = counts.changes(100, u64::MAX, 10_000, &mut records);
    assert_eq!((next, records.len()), (10_100, 10));
    counts.set_kept(next);
    assert!(counts.reserve(&needs, at(90)).is_ok());
    assert_eq!(urged.load(Ordering::Relaxed), 2);
    let again = Counts::new(START);
    let mut from = next;
    while from < counts.next_change() {
        from = counts.changes(from, u64::MAX, 10_000, &mut records);
    }
    records.iter().for_each(|record| again.replay(record));
    for number in [1, 2] {
        assert_eq!(used(&again, calls(number, 0), at(90)), used(&counts, calls(number, 0), at(90)));
    }
}

#[test]
fn a_ring_is_read_while_it_is_written() {
    let file = tempfile::tempfile().unwrap();
    let (counts, done) = (Counts::new(START), AtomicBool::new(false));
    counts.attach(ring(&file), 0, Box::new(|| {}));
    let again = Counts::new(START);
    let write = |number: u8| {
        let needs = [calls(1, u64::MAX), calls(number, u64::MAX)];
        for ms in 0..60_000 {
            while counts.reserve(&needs, at(ms / 100)).is_err() {
                std::thread::yield_now();
            }
        }
    };
    std::thread::scope(|scope| {
        let writers = [2, 3].map(|number| scope.spawn(move || write(number)));
        let reader = scope.spawn(|| {
            let (mut from, mut records) = (0, Vec::new());
            loop {
                let last = done.load(Ordering::Acquire);
                let next = counts.changes(from, u64::MAX, 1000, &mut records);
                records.drain(..).for_each(|record| again.replay(&record));
                counts.set_kept(next);
                if last && next == from {
                    return next;
                }
                from = next;
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Release);
        assert_eq!(reader.join().unwrap(), 240_001);
    });
    for (number, want) in [(1, "120000"), (2, "60000"), (3, "60000")] {
        assert_eq!(used(&again, calls(number, 0), at(600)), want);
    }
}

#[test]
fn a_ring_is_read_after_a_crash() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let counts = Counts::new(START);
    counts.attach(ring(file.as_file()), 7, Box::new(|| {}));
    let taken: Vec<_> = (0..4).map(|ms| counts.reserve(&[calls(1, 9), calls(2, 9)], at(ms)).unwrap()).collect();
    counts.give_back(&taken[0], at(5));
    drop(counts);
    let bytes = std::fs::read(file.path()).unwrap();
    let (records, next) = Counts::read_ring(&bytes, 7).unwrap();
    assert_eq!((records.len(), next), (10, 17));
    let of = |from| Counts::read_ring(&bytes, from).map(|(records, next)| (records.len(), next));
    assert_eq!((of(0), of(12), of(17), of(20)), (Ok((10, 17)), Ok((5, 17)), Ok((0, 17)), Ok((0, 20))));
    let again = Counts::new(START);
    records.iter().for_each(|record| again.replay(record));
    assert_eq!([1, 2].map(|number| used(&again, calls(number, 0), at(5))), ["3", "3"]);
    // One that was being written is left out, whichever of its bytes are missing.
    for byte in 4096 + 80 * 9..4096 + 80 * 10 {
        let mut torn = bytes.clone();
        torn[byte] ^= 1;
        let (records, next) = Counts::read_ring(&torn, 7).unwrap();
        assert_eq!((records.len(), next), (9, 17), "byte {byte}");
    }
    assert_eq!(Counts::read_ring(b"", 5).unwrap(), (Vec::new(), 5));
    assert_eq!(Counts::read_ring(&[0; 9000], 5).unwrap(), (Vec::new(), 5));
    let foreign = |first: u8, last: u8| {
        let mut other = bytes.clone();
        (other[0], other[7]) = (first, last);
        Counts::read_ring(&other, 0).unwrap_err()
    };
    assert_eq!(foreign(9, b'p'), SpoolFault::Version(9));
    assert_eq!(foreign(1, b'q'), SpoolFault::Foreign);
}

#[test]
fn a_picture_may_be_taken_while_it_changes() {
    let file = tempfile::tempfile().unwrap();
    let counts = Counts::new(START);
    counts.attach(ring(&file), 0, Box::new(|| {}));
    let numbered = |number: u8, low: u8| {
        let mut need = calls(number, 100);
        need.key.0[9] = low;
        need
    };
    let all: Vec<_> = (0..64).flat_map(|number| (0..40).map(move |low| numbered(number, low))).collect();
    for need in &all {
        counts.reserve(&[*need], at(0)).unwrap();
    }
    let (again, mut records, mut done) = (Counts::new(START), Vec::new(), 0);
    for stripe in 0..counts.stripes() {
        let mut from = Some(0);
        while let Some(place) = from {
            // What led to this picture, the picture, and what follows it.
            let mut picture = Vec::new();
            let number;
            (from, number) = counts.picture(stripe, place, &mut picture);
            while done < number {
                done = counts.changes(done, number, 100, &mut records);
            }
            records.append(&mut picture);
            let busy = all[(place * 7 + stripe * 31) % all.len()];
            counts.reserve(&[busy, all[stripe * 40 + 39], all[stripe * 40]], at(1)).unwrap();
        }
    }
    while done < counts.next_change() {
        done = counts.changes(done, u64::MAX, 100, &mut records);
    }
    records.iter().for_each(|record| again.replay(record));
    for need in &all {
        assert_eq!(used(&again, *need, at(1)), used(&counts, *need, at(1)), "{need:?}");
    }
    assert!(counts.weight() >= all.len());
}
