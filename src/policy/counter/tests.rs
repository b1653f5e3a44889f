use proptest::prelude::*;

use super::*;
use crate::base::ids::RuleId;
use crate::base::limits::{COUNTS_MAX, LEDGER_STRIPES};

const NOTHING: Quantity = Quantity::Count(0);

fn key(number: u8) -> CountKey {
    CountKey([number; 16])
}

fn need(number: u8, what: NeedOf) -> Need {
    Need { key: key(number), source: Source::Rule(RuleId(0), 0), what, lasts_ms: None }
}

fn calls(max: u64, per_ms: impl Into<Option<u64>>) -> Need {
    need(1, NeedOf::Calls { max, per_ms: per_ms.into() })
}

fn sum(amount: &str, max: &str) -> Need {
    let number = |text| Number::parse(text).unwrap();
    need(2, NeedOf::Sum { amount: number(amount), max: number(max), per_ms: Some(1000) })
}

fn take(book: &mut Book, need: Need, now_ms: u64) -> Result<Held, Refusal> {
    let mut taken = Taken::none();
    book.take(&need, now_ms, &mut taken).map(|()| taken.held()[0])
}

fn retry(book: &mut Book, need: Need, now_ms: u64) -> Option<u64> {
    let refusal = take(book, need, now_ms).unwrap_err();
    assert!(!refusal.full);
    refusal.retry_ms
}

#[test]
fn a_window_slides() {
    let mut book = Book::default();
    for now in [100, 150, 150] {
        take(&mut book, calls(3, 100), now).unwrap();
    }
    let refusal = take(&mut book, calls(3, 100), 199).unwrap_err();
    let count = Quantity::Count;
    assert_eq!(refusal, Refusal { retry_ms: Some(2), full: false, used: count(3), max: count(3) });
    // A millisecond is not nothing: at 200 the first may be less than 100 milliseconds old.
    assert_eq!(retry(&mut book, calls(3, 100), 200), Some(1));
    let held = take(&mut book, calls(3, 100), 201).unwrap();
    assert_eq!((held.before, held.after), (count(2), count(3)));
    assert_eq!(retry(&mut book, calls(2, 100), 202), Some(49), "two must go, of which two are as old");
    assert_eq!(book.len(), 1);
}

#[test]
fn a_count_without_a_length_stays_as_long_as_it_is_used() {
    let mut book = Book::default();
    let lasting = Need { lasts_ms: Some(1000), ..calls(2, None) };
    take(&mut book, lasting, 1).unwrap();
    take(&mut book, lasting, 900).unwrap();
    assert_eq!(retry(&mut book, lasting, 1800), None, "time alone does not help");
    book.sweep(1900, 10);
    assert_eq!(book.len(), 1);
    book.sweep(1901, 10);
    assert!(book.is_empty());
    take(&mut book, calls(1, None), 2000).unwrap();
    book.sweep(u64::MAX, 10);
    assert_eq!(book.len(), 1, "it is kept for ever");
}

#[test]
fn numbers_may_change() {
    let mut book = Book::default();
    for now in [0, 10, 20] {
        take(&mut book, calls(3, 100), now).unwrap();
    }
    assert_eq!(retry(&mut book, calls(2, 100), 30), Some(81), "two must be gone");
    assert!(take(&mut book, calls(4, 100), 30).is_ok());
    assert_eq!(retry(&mut book, calls(4, None), 50), None, "a count without end takes over what there was");
    assert_eq!(retry(&mut book, calls(4, 100), 130), Some(1), "and what it gives back is as old as its last use");
    assert!(take(&mut book, calls(4, 100), 131).is_ok());
}

#[test]
fn sums_are_exact() {
    let mut book = Book::default();
    for _ in 0..3 {
        take(&mut book, sum("0.1", "0.3"), 0).unwrap();
    }
    assert!(take(&mut book, sum("0.00000000000000000001", "0.3"), 0).is_err());
    assert!(take(&mut book, sum("0", "0.3"), 0).is_ok(), "nothing fits where all is used");
    let refusal = take(&mut book, sum("0.01", "0.3"), 10).unwrap_err();
    assert_eq!(
        (refusal.used.to_string(), refusal.max.to_string(), refusal.retry_ms),
        ("0.3".into(), "0.3".into(), Some(991))
    );
    assert_eq!(retry(&mut book, sum("0.31", "0.3"), 10), None, "it will never fit");
    assert!(take(&mut book, sum("-1", "0.3"), 10).is_err(), "nothing is less than nothing");
    let held = take(&mut book, sum("0.29", "0.3"), 1001).unwrap();
    assert_eq!(held.after.to_string(), "0.29");
    // What has too many digits cannot be told exactly.
    let long = sum("1e37", "1e38");
    take(&mut book, long, 1001).unwrap_err();
    take(&mut book, long, 3000).unwrap();
    assert!(take(&mut book, sum("0.01", "1e38"), 3000).is_err());
}

#[test]
fn once_is_once() {
    let mut book = Book::default();
    let once = need(3, NeedOf::Once { per_ms: None });
    let held = take(&mut book, once, 5).unwrap();
    assert_eq!((held.before, held.after), (NOTHING, Quantity::Count(1)));
    assert_eq!(retry(&mut book, once, u64::MAX), None);
    assert!(book.give_back(&held, 6).is_some());
    assert!(book.is_empty());
    take(&mut book, once, 7).unwrap();
    let short = need(4, NeedOf::Once { per_ms: Some(10) });
    take(&mut book, short, 10).unwrap();
    assert_eq!(retry(&mut book, short, 15), Some(6));
    take(&mut book, short, 21).unwrap();
}

#[test]
fn a_bucket_never_goes_back_a_little() {
    let mut bucket = Bucket::new(1, 10, 100);
    bucket.take(1).unwrap();
    bucket.fill(95);
    assert_eq!((bucket.at_ms, bucket.missing), (100, 10));
    bucket.fill(105);
    assert_eq!((bucket.at_ms, bucket.missing), (105, 5));
    bucket.fill(105 + COUNT_BACK_MS_MAX);
    bucket.fill(104);
    assert_eq!(bucket.at_ms, 104, "a clock that was set back far is believed: it fills on from there");
}

#[test]
fn what_is_under_way_ends() {
    let mut book = Book::default();
    let one = need(5, NeedOf::Concurrent { max: 1 });
    let held = take(&mut book, one, 5).unwrap();
    assert!(held.is_passing() && held.record().is_none());
    assert_eq!(retry(&mut book, one, 6), None);
    book.end(&held);
    assert!(book.is_empty());
    let held = take(&mut book, one, 6).unwrap();
    assert!(book.give_back(&held, 6).is_none() && book.is_empty());
}

#[test]
fn a_bucket_fills_evenly() {
    let mut book = Book::default();
    let bucket = |calls, per_ms, burst| need(6, NeedOf::Bucket { calls, per_ms, burst });
    // Three in seven milliseconds, without rounding.
    let slow = bucket(3, 7, 2);
    for _ in 0..2 {
        take(&mut book, slow, 0).unwrap();
    }
    let refusal = take(&mut book, slow, 0).unwrap_err();
    assert_eq!((refusal.used, refusal.max, refusal.retry_ms), (Quantity::Count(2), Quantity::Count(2), Some(3)));
    assert_eq!(retry(&mut book, slow, 2), Some(1));
    take(&mut book, slow, 3).unwrap();
    let let_through = (4..=703).filter(|now| take(&mut book, slow, *now).is_ok()).count();
    assert_eq!(let_through, 300);
    book.sweep(10_000, 10);
    assert!(book.is_empty(), "a full bucket is as good as none");
    // A change of the pace keeps what is missing.
    for _ in 0..2 {
        take(&mut book, slow, 20_000).unwrap();
    }
    assert_eq!(retry(&mut book, bucket(1, 1000, 2), 20_000), Some(1000));
    let held = take(&mut book, bucket(1, 1000, 3), 20_000).unwrap();
    assert!(book.give_back(&held, 20_500).is_some());
    assert_eq!(
        retry(&mut book, bucket(1, 1000, 2), 20_500),
        Some(1000),
        "half of it had come back, and half was put back"
    );
}

#[test]
fn a_clock_that_is_set_back_frees_nothing() {
    let mut book = Book::default();
    let bucket = need(6, NeedOf::Bucket { calls: 1, per_ms: 1000, burst: 1 });
    let hour = 3_600_000;
    let now = 10 * hour;
    for need in [calls(1, hour), bucket] {
        take(&mut book, need, now).unwrap();
        assert!(take(&mut book, need, now - 5).is_err());
    }
    take(&mut book, need(7, NeedOf::Note { keep_ms: None }), now).unwrap();
    for back in [2 * hour, 9 * hour] {
        assert_eq!(retry(&mut book, calls(1, hour), now - back), Some(back + hour + 1));
    }
    assert!(book.happened(key(7), Some(10), now - hour), "what forbids has happened");
    assert!(
        take(&mut book, need(7, NeedOf::After { within_ms: Some(10) }), now - hour).is_err(),
        "what permits has not"
    );
    assert!(take(&mut book, calls(1, hour), now + hour).is_err());
    assert!(take(&mut book, calls(1, hour), now + hour + 1).is_ok());
    // Another one is counted at its own time, and so it leaves.
    book = Book::default();
    take(&mut book, calls(2, 1000), now).unwrap();
    take(&mut book, calls(2, 1000), now - hour).unwrap();
    assert_eq!(retry(&mut book, calls(2, 1000), now - hour), Some(1001));
    assert!(take(&mut book, calls(2, 1000), now - hour + 1001).is_ok());
    // A bucket fills on from there.
    take(&mut book, bucket, now).unwrap();
    assert_eq!(retry(&mut book, bucket, now - hour), Some(1000));
    assert!(take(&mut book, bucket, now - hour + 1000).is_ok());
}

#[test]
fn what_was_noted_has_happened() {
    let mut book = Book::default();
    let after = |within_ms| need(8, NeedOf::After { within_ms });
    assert!(take(&mut book, after(None), 5).is_err() && !book.happened(key(8), None, 5));
    book.note(&Note { key: key(8), keep_ms: Some(100) }, 10).unwrap();
    assert!(take(&mut book, after(Some(50)), 60).is_ok() && book.happened(key(8), Some(50), 60));
    assert!(take(&mut book, after(Some(50)), 61).is_err() && !book.happened(key(8), Some(50), 61));
    assert!(take(&mut book, after(None), 110).is_ok());
    book.sweep(111, 10);
    assert!(book.is_empty());
    // One is given back, the other stays.
    let note = need(9, NeedOf::Note { keep_ms: Some(100) });
    let (one, _other) = (take(&mut book, note, 200).unwrap(), take(&mut book, note, 200).unwrap());
    assert!(book.give_back(&one, 201).is_some() && book.happened(key(9), Some(10), 201));
    assert!(one.is_note());
}

#[test]
fn a_full_book_refuses_what_is_new() {
    let mut book = Book::default();
    let numbered = |number: u32, per_ms| {
        let mut need = need(0, NeedOf::Once { per_ms });
        need.key.0[8..12].copy_from_slice(&number.to_le_bytes());
        need
    };
    for number in 0..u32::try_from(COUNTS_STRIPE_MAX).unwrap() {
        take(&mut book, numbered(number, Some(if number % 500 == 0 { 10 } else { 1000 })), 1).unwrap();
    }
    let new = numbered(u32::MAX, None);
    let refusal = take(&mut book, new, 5).unwrap_err();
    assert!(refusal.full && refusal.retry_ms.is_none());
    assert!(!take(&mut book, numbered(1, None), 5).unwrap_err().full, "what is there can still be told");
    // Some of them are over: it finds one sooner or later, and room with it.
    let tries = (0..1000).take_while(|_| take(&mut book, new, 100).is_err()).count();
    assert!(tries < COUNTS_STRIPE_MAX / COUNT_LOOKS_MAX, "{tries}");
    assert!(book.len() <= COUNTS_STRIPE_MAX);
}

#[test]
fn what_is_in_shadow_takes_no_room_of_what_is_enforced() {
    let mut book = Book::default();
    let numbered = |number: usize, shadow| {
        let mut need = need(0, NeedOf::Once { per_ms: None });
        need.key.0[8..12].copy_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
        Need { key: need.key.of_shadow(shadow), ..need }
    };
    let fill = |book: &mut Book, shadow| {
        let fits = (0..2 * COUNTS_STRIPE_MAX).find(|number| match take(book, numbered(*number, shadow), 1) {
            Ok(_) => false,
            Err(refusal) => refusal.full,
        });
        fits.unwrap()
    };
    assert_eq!(fill(&mut book, true), COUNTS_STRIPE_SHADOW_MAX);
    let mut again = Book::default();
    let mut records = Vec::new();
    assert_eq!(book.picture(0, usize::MAX, &mut records), None);
    records.iter().for_each(|record| again.replay(record));
    for book in [&mut book, &mut again] {
        assert!(take(book, numbered(COUNTS_STRIPE_MAX, true), 2).unwrap_err().full, "also after a restart");
    }
    assert_eq!(fill(&mut book, false), COUNTS_STRIPE_MAX);
    assert_eq!(book.len(), COUNTS_MAX / LEDGER_STRIPES);
    let gone = take(&mut again, numbered(0, false), 3).unwrap();
    again.give_back(&gone, 3);
    assert_eq!((again.shadows, again.len()), (COUNTS_STRIPE_SHADOW_MAX, COUNTS_STRIPE_SHADOW_MAX));
}

#[test]
fn a_refused_need_leaves_nothing_behind() {
    let mut book = Book::default();
    assert!(take(&mut book, sum("2", "1"), 0).is_err());
    assert!(take(&mut book, calls(0, None), 0).is_err());
    assert!(take(&mut book, need(5, NeedOf::Concurrent { max: 0 }), 0).is_err());
    assert!(take(&mut book, need(6, NeedOf::Bucket { calls: 1, per_ms: 1, burst: 0 }), 0).is_err());
    assert!(book.is_empty());
    assert_eq!(book.heap_bytes, 0);
}

#[test]
fn a_reservation_says_what_it_is_for() {
    let mut book = Book::default();
    let needs = [calls(3, 100), need(7, NeedOf::Note { keep_ms: None }), sum("1.50", "10")];
    let mut taken = Taken::none();
    needs.iter().for_each(|need| book.take(need, 1, &mut taken).unwrap());
    assert!(taken.covers(&needs) && !taken.covers(&needs[..2]) && !Taken::none().covers(&needs));
    assert!(Taken::none().covers(&[]));
    let levels: Vec<_> =
        taken.levels().map(|level| [level.before, level.after, level.max].map(|it| it.to_string())).collect();
    assert_eq!(levels, [["0", "1", "3"], ["0", "1.5", "10"]]);
    assert_eq!(book.level(&needs[0], 1).unwrap().before, Quantity::Count(1));
    assert_eq!(book.level(&needs[0], 200).unwrap().before, NOTHING);
    assert_eq!(book.level(&needs[2], 1).unwrap().after.to_string(), "3");
    assert!(book.level(&needs[1], 1).is_none());
    assert!(taken.set_given_back() && !taken.set_given_back() && taken.set_ended() && !taken.set_ended());
}

#[test]
fn memory_is_bounded() {
    let mut book = Book::default();
    for now in 0..100_000 {
        take(&mut book, calls(u64::MAX, 1_000_000), now).unwrap();
        take(&mut book, need(7, NeedOf::Note { keep_ms: Some(1_000_000) }), now).unwrap();
    }
    assert!(book.heap_bytes <= 2 * COUNT_ENTRIES_MAX * size_of::<(u64, u64)>(), "{} bytes", book.heap_bytes);
    // Once they take too much, each has little.
    book.heap_bytes += COUNTS_STRIPE_BYTES_MAX;
    for now in 100_000..101_000 {
        take(&mut book, calls(u64::MAX, 1_000_000), now).unwrap();
    }
    let count = book.counts[book.find(key(1), Kind::Calls).unwrap()].as_ref().unwrap();
    assert!(matches!(&count.state, State::Calls(window) if window.entries().len() <= COUNT_ENTRIES_MIN));
    let level = book.level(&calls(1, 1_000_000), 101_000).unwrap();
    assert_eq!(level.before, Quantity::Count(101_000));
}

/// All that was ever counted, and a walk over it for each question.
#[derive(Default)]
struct Model {
    events: Vec<(u64, u64)>,
}

impl Model {
    fn within(&self, now: u64, per: u64) -> u64 {
        self.events.iter().filter(|(at, _)| now.saturating_sub(*at) <= per).map(|(_, amount)| amount).sum()
    }
}

/// What a test does, and how long after the last.
#[derive(Clone, Debug)]
enum Step {
    Take(u64),
    Back(usize),
    Sweep,
    /// The process ends; what is kept is all there was, some of it twice.
    Restart(usize),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        12 => (1..30_u64).prop_map(Step::Take),
        3 => (0..8_usize).prop_map(Step::Back),
        1 => Just(Step::Sweep),
        1 => (0..50_usize).prop_map(Step::Restart),
    ];
    let pause = prop_oneof![4 => 0..3_u64, 2 => 0..40_u64, 1 => 0..700_u64];
    proptest::collection::vec((pause, step), 1..900)
}

/// Everything again from its records: a picture that was taken at some moment, and what followed it.
fn restarted(log: &[Record], cut: usize) -> Book {
    let mut book = Book::default();
    let picture_at = log.len().saturating_sub(cut);
    let mut at_picture = Book::default();
    log[..picture_at].iter().for_each(|record| at_picture.replay(record));
    let mut records = Vec::new();
    let mut from = Some(0);
    while let Some(at) = from {
        from = at_picture.picture(at, 1, &mut records);
    }
    // A few changes are known from before, of counts that the picture then puts right.
    log[picture_at.saturating_sub(3)..picture_at].iter().for_each(|record| book.replay(record));
    let again = |record: &Record| Record::read(&record.words()).unwrap();
    records.iter().chain(&log[picture_at..]).for_each(|record| book.replay(&again(record)));
    book
}

fn run(steps: &[(u64, Step)], max: u64, per: u64, exact: bool) -> Result<(), TestCaseError> {
    let (mut book, mut model, mut log, mut held) = (Book::default(), Model::default(), Vec::new(), Vec::new());
    let mut now = 1000;
    for (pause, step) in steps {
        now += pause;
        match step {
            Step::Take(amount) => {
                let amount_of = Number::whole(i64::try_from(*amount).unwrap());
                let max_of = Number::whole(i64::try_from(max).unwrap());
                let what = NeedOf::Sum { amount: amount_of, max: max_of, per_ms: Some(per) };
                let before = model.within(now, per);
                match take(&mut book, need(1, what), now) {
                    Ok(taken) => {
                        prop_assert!(before + amount <= max, "{before} + {amount} > {max}");
                        model.events.push((now, *amount));
                        log.push(taken.record().unwrap());
                        held.push((taken, *amount, now));
                    }
                    Err(refusal) => {
                        prop_assert!(!refusal.full);
                        // With fewer entries than are kept apart nothing is refused that fits; with more, nothing that
                        // would have fitted a little later.
                        let slack = if exact { 0 } else { per / (COUNT_ENTRIES_MAX as u64 / 2) + 1 };
                        let lately = model.within(now, per + slack);
                        prop_assert!(lately + amount > max, "{lately} + {amount} <= {max}");
                        let retry = refusal.retry_ms;
                        prop_assert_eq!(retry.is_none(), *amount > max);
                        let then = now + retry.unwrap_or(0);
                        prop_assert!(retry.is_none() || model.within(then, per) + amount <= max);
                    }
                }
            }
            Step::Back(which) if !held.is_empty() => {
                let at = held.len() - 1 - which % held.len();
                let (taken, amount, at_ms) = held.remove(at);
                if let Some(record) = book.give_back(&taken, now) {
                    log.push(record);
                    let place = model.events.iter().position(|event| *event == (at_ms, amount)).unwrap();
                    model.events.remove(place);
                } else {
                    prop_assert!(now - at_ms > per, "what counts can be given back");
                }
            }
            Step::Sweep => book.sweep(now, 10),
            Step::Restart(cut) => {
                book = restarted(&log, *cut);
                held.clear();
            }
            Step::Back(_) => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_window_never_allows_more_than_all_events_do(steps in steps(), per in 1..400_u64) {
        run(&steps, 200, per, true)?;
    }

    #[test]
    fn nor_with_more_entries_than_are_kept_apart(steps in steps(), per in 2_000..9_000_u64) {
        run(&steps, 12_000, per, false)?;
    }

    #[test]
    fn a_bucket_never_allows_more_than_it_holds_and_what_comes_back(
        pauses in proptest::collection::vec((0..9_u64, any::<bool>()), 1..300),
        calls in 1..6_u64, per in 1..30_u64, burst in 1..5_u64,
    ) {
        let mut book = Book::default();
        let bucket = need(1, NeedOf::Bucket { calls, per_ms: per, burst });
        let (mut now, mut log, mut passed) = (50, Vec::<Record>::new(), Vec::new());
        for (pause, back) in pauses {
            now += pause;
            match take(&mut book, bucket, now) {
                Ok(held) if back => _ = book.give_back(&held, now),
                Ok(held) => {
                    log.push(held.record().unwrap());
                    passed.push(now);
                }
                Err(refusal) => {
                    let mut copy = Book::default();
                    log.iter().for_each(|record| copy.replay(record));
                    let then = now + refusal.retry_ms.unwrap();
                    prop_assert!(take(&mut copy, bucket, then - 1).is_err() && take(&mut copy, bucket, then).is_ok());
                }
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (count, until) in (1..).zip(&passed[first..]) {
                prop_assert!(count * per <= burst * per + (until - from) * calls, "{count} from {from} to {until}");
            }
        }
    }

    #[test]
    fn joined_records_say_the_same(amounts in proptest::collection::vec((1..50_u64, 0..3_u64, any::<bool>()), 1..200)) {
        let (mut book, mut log, mut now, mut held) = (Book::default(), Vec::new(), 5, Vec::new());
        for (amount, pause, back) in amounts {
            now += pause;
            let amount = Number::whole(i64::try_from(amount).unwrap());
            let what = NeedOf::Sum { amount, max: Number::whole(1_000_000), per_ms: Some(60) };
            let taken = take(&mut book, need(1, what), now).unwrap();
            log.push(taken.record().unwrap());
            held.push(taken);
            if back && let Some(record) = held.pop().and_then(|held| book.give_back(&held, now)) {
                log.push(record);
            }
        }
        let mut joined: Vec<Record> = Vec::new();
        for record in &log {
            if !joined.last_mut().is_some_and(|last| last.join(record)) {
                joined.push(*record);
            }
        }
        let mut again = Book::default();
        joined.iter().for_each(|record| again.replay(record));
        let what = NeedOf::Sum { amount: Number::whole(0), max: Number::whole(1), per_ms: Some(60) };
        let levels = [&book, &again].map(|book| book.level(&need(1, what), now).unwrap().before.to_string());
        prop_assert_eq!(&levels[0], &levels[1]);
    }
}

/// The record's sizes: what is kept for a count that nobody uses any more.
#[test]
fn a_count_is_small() {
    assert!(size_of::<Option<Count>>() <= 112, "{}", size_of::<Option<Count>>());
    assert_eq!(size_of::<Taken>(), 8);
}

#[test]
fn a_journal_is_read_to_its_last_whole_frame() {
    let mut book = Book::default();
    let record = |book: &mut Book, now| take(book, calls(10, 100), now).unwrap().record().unwrap();
    let records = [1, 2, 3].map(|now| record(&mut book, now));
    let mut file = journal::HEADER.to_vec();
    journal::write(&mut file, 5, &records[..2]);
    let whole = file.len();
    journal::write(&mut file, 7, &records[2..]);
    let read = |bytes: &[u8]| {
        let mut reader = journal::Reader::open(bytes).unwrap();
        let found: Vec<_> = (&mut reader).flatten().collect();
        (found, reader.number(), reader.used(), reader.tail())
    };
    assert_eq!(read(&file), (records.to_vec(), 7, file.len(), journal::Tail::Whole));
    for cut in whole + 1..file.len() {
        assert_eq!(read(&file[..cut]), (records[..2].to_vec(), 5, whole, journal::Tail::Torn));
    }
    for at in whole..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x10;
        let (found, number, used, tail) = read(&damaged);
        assert_eq!((found, number, used), (records[..2].to_vec(), 5, whole), "byte {at}");
        assert_ne!(tail, journal::Tail::Whole);
    }
    for cut in 0..8 {
        assert_eq!(read(&file[..cut]).2, 0);
    }
    let version = [&file[..7], &[9], &file[8..]].concat();
    assert_eq!(journal::Reader::open(&version).unwrap_err(), journal::JournalFault::Version(9));
    assert_eq!(journal::Reader::open(b"something else").unwrap_err(), journal::JournalFault::Foreign);
}
