use super::super::journal::Journal;
use super::super::state;
use super::*;
use crate::base::ids::RuleId;
use crate::base::time::{Moment, Now};
use crate::policy::needs::{CountKey, Need, NeedOf, Source};
use crate::session::ledger::Bounds;

const SLOTS: u64 = crate::base::limits::COUNT_RING_SLOTS as u64;
const START: Now = Now { mono: Moment(0), unix_ms: 1_700_000_000_000 };
const HOUR_MS: u64 = 3_600_000;

fn at(ms: u64) -> Now {
    Now { mono: Moment(0).plus_ms(ms), unix_ms: 0 }
}

fn later(ms: u64) -> Now {
    Now { unix_ms: START.unix_ms + ms, ..START }
}

fn need(number: u8, what: NeedOf) -> Need {
    Need { key: CountKey([number; 16]), source: Source::Rule(RuleId(0), 0), what, lasts_ms: None }
}

fn calls(number: u8) -> Need {
    need(number, NeedOf::Calls { max: u64::MAX, per_ms: Some(HOUR_MS) })
}

fn open_at(state: &Path, start: Now) -> CountsJournal {
    CountsJournal::open(state, Arc::new(Counts::new(start)), Arc::default()).unwrap()
}

fn open(state: &Path) -> CountsJournal {
    open_at(state, START)
}

fn take(journal: &CountsJournal, need: Need, ms: u64) {
    journal.counts.reserve(&[need], at(ms)).unwrap();
}

fn used(journal: &CountsJournal, number: u8, ms: u64) -> u64 {
    let level = journal.counts.levels(&[calls(number)], at(ms))[0].before.to_string();
    level.parse().unwrap()
}

/// Every order of writing, beginning anew, dying and starting again.
#[test]
fn nothing_is_lost_and_nothing_counts_twice() {
    for plan in 0..4_u32.pow(3) {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        let mut want = 0;
        for step in 0..3 {
            take(&journal, calls(1), want);
            take(&journal, calls(2), want);
            want += 1;
            match plan / 4_u32.pow(step) % 4 {
                0 => {}
                1 => journal.turn().unwrap(),
                2 => journal.begin_anew().unwrap(),
                _ => {
                    // As after `kill -9`: nothing more is written.
                    drop(journal);
                    journal = open(folder.path());
                }
            }
            take(&journal, calls(2), want);
        }
        drop(journal);
        for _ in 0..2 {
            let journal = open(folder.path());
            assert_eq!([1, 2].map(|number| used(&journal, number, 100)), [want, 2 * want], "plan {plan}");
        }
    }
}

#[test]
fn what_is_given_back_stays_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    let once = need(3, NeedOf::Once { per_ms: None });
    let taken = journal.counts.reserve(&[once, calls(1)], at(0)).unwrap();
    journal.turn().unwrap();
    journal.counts.give_back(&taken, at(1));
    drop(journal);
    let journal = open(folder.path());
    assert_eq!(used(&journal, 1, 1), 0);
    take(&journal, once, 2);
    drop(journal);
    let journal = open(folder.path());
    assert!(journal.counts.reserve(&[once], at(3)).is_err());
    // What is under way is not, after a crash.
    let busy = need(4, NeedOf::Concurrent { max: 1 });
    take(&journal, busy, 4);
    drop(journal);
    take(&open(folder.path()), busy, 5);
}

#[test]
fn time_goes_on_while_nobody_looks() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let few = need(1, NeedOf::Calls { max: 1, per_ms: Some(1000) });
    let bucket = need(2, NeedOf::Bucket { calls: 1, per_ms: 1000, burst: 1 });
    let both = [few, bucket];
    journal.counts.reserve(&both, at(0)).unwrap();
    drop(journal);
    for (start, want) in [(later(0), Some(1001)), (later(900), Some(101))] {
        let broken = open_at(folder.path(), start).counts.reserve(&both, at(0)).unwrap_err();
        assert_eq!((broken.place, broken.retry_ms), (0, want));
    }
    // The clock was set back meanwhile.
    let before = Now { unix_ms: START.unix_ms - HOUR_MS, ..START };
    let broken = open_at(folder.path(), before).counts.reserve(&both, at(0)).unwrap_err();
    assert_eq!(broken.retry_ms, Some(HOUR_MS + 1001));
    let journal = open_at(folder.path(), later(1001));
    journal.counts.reserve(&both, at(0)).unwrap();
}

#[test]
fn a_torn_end_is_found_in_the_ring_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    take(&journal, calls(1), 0);
    journal.turn().unwrap();
    let whole = journal.bytes;
    take(&journal, calls(1), 1);
    take(&journal, calls(2), 1);
    journal.turn().unwrap();
    let path = journal.path.clone();
    let bytes = fs::read(&path).unwrap();
    drop(journal);
    for cut in [whole + 1, whole + 10, bytes.len() as u64 - 1] {
        fs::write(&path, &bytes[..usize::try_from(cut).unwrap()]).unwrap();
        let journal = open(folder.path());
        assert_eq!([1, 2].map(|number| used(&journal, number, 5)), [2, 1]);
        assert_eq!(journal.bytes, bytes.len() as u64);
    }
    // Damage behind which there may have been more than the ring has.
    fs::write(&path, [&bytes[..], &[0; 64]].concat()).unwrap();
    for _ in 0..2 {
        let journal = open(folder.path());
        assert_eq!([1, 2].map(|number| used(&journal, number, 5)), [2, 1]);
        assert!(
            Reader::open(&fs::read(&path).unwrap())
                .is_ok_and(|mut it| it.by_ref().count() > 0 && it.tail() == Tail::Whole)
        );
    }
}

#[test]
fn a_torn_change_never_left() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    take(&journal, calls(1), 0);
    take(&journal, calls(1), 1);
    take(&journal, calls(1), 2);
    drop(journal);
    let path = folder.path().join(RING_FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096 + 80 + 40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let journal = open(folder.path());
    assert_eq!(used(&journal, 1, 5), 2, "those behind it are there");
    take(&journal, calls(1), 3);
    drop(journal);
    assert_eq!(used(&open(folder.path()), 1, 5), 3);
}

#[test]
fn what_cannot_be_read_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let refused = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let opened = CountsJournal::open(folder.path(), Arc::new(Counts::new(START)), Arc::default());
        assert_eq!(fs::read(&path).unwrap(), content);
        fs::write(&path, before).unwrap();
        opened.unwrap_err().to_string()
    };
    let fault = refused(JOURNAL_FILE, b"pc-cnts\x07rest");
    assert!(fault.contains("its version is 7") && fault.contains("remove it, and counts.ring"), "{fault}");
    assert!(refused(JOURNAL_FILE, b"something else").contains("not a journal of counts"));
    assert!(refused(RING_FILE, b"\x07gnir-cp").contains("its version is 7"));
    assert!(refused(RING_FILE, &[1; 100]).contains("not one of this program's"));
    let modes =
        [JOURNAL_FILE, RING_FILE].map(|name| fs::metadata(folder.path().join(name)).unwrap().permissions().mode());
    assert_eq!(modes.map(|mode| mode & 0o777), [0o600, 0o600]);
}

#[test]
fn a_long_journal_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    let mut ms = 0;
    let short = |number| need(number, NeedOf::Calls { max: u64::MAX, per_ms: Some(5) });
    let mut before = 0;
    while journal.bytes > before {
        before = journal.bytes;
        for number in 10..255 {
            take(&journal, short(number), ms);
        }
        take(&journal, calls(7), ms);
        take(&journal, calls(8), ms);
        ms += 1;
        journal.turn().unwrap();
    }
    take(&journal, calls(7), ms);
    journal.turn().unwrap();
    assert!(journal.bytes < COUNTS_JOURNAL_BYTES_MIN / 4, "{} bytes", journal.bytes);
    assert_eq!(journal.bytes, fs::metadata(&journal.path).unwrap().len());
    drop(journal);
    let journal = open(folder.path());
    assert_eq!((used(&journal, 7, ms), used(&journal, 8, ms)), (ms + 1, ms));
    assert_eq!(journal.counts.standing().counts, 247);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn a_disk_that_refuses_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    take(&journal, calls(1), 0);
    journal.turn().unwrap();
    journal.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
    take(&journal, calls(1), 1);
    assert!(journal.turn().is_err() && journal.failing.is_some());
    // Nothing is lost, and at some time nothing more is let go.
    let many = (0..=SLOTS).take_while(|_| journal.counts.reserve(&[calls(1)], at(2)).is_ok()).count() as u64;
    assert_eq!(many, SLOTS - 1);
    assert!(journal.counts.reserve(&[calls(1)], at(2)).unwrap_err().full);
    journal.failing = None;
    journal.file = open_file(&journal.path, true).unwrap();
    journal.stale = true;
    journal.turn().unwrap();
    assert!(journal.failing.is_none() && !journal.stale);
    take(&journal, calls(1), 3);
    drop(journal);
    assert_eq!(used(&open(folder.path()), 1, 3), many + 3);
}

#[test]
fn a_full_ring_wakes_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(crate::ledger::Ledger::new(Bounds::default()));
    let claimed = state::claim(folder.path()).unwrap();
    let journal = Journal::open(claimed, folder.path(), ledger);
    let counts = Arc::new(Counts::new(START));
    let running = journal.unwrap().with_counts(counts.clone()).unwrap().start().unwrap();
    let many = 4 * SLOTS;
    let mut refused = 0;
    for ms in 0..many {
        while counts.reserve(&[calls(1)], at(ms / 50)).is_err() {
            refused += 1;
            std::thread::yield_now();
        }
    }
    running.finish().unwrap();
    assert_eq!(counts.standing().waiting, 0);
    assert_eq!(used(&open(folder.path()), 1, 5), many, "{refused} tries were refused");
}
