use proptest::prelude::*;

use super::*;

const TERMS: Terms = Terms { expires_ms: 1_000, whom: AskWhom::Person };

fn at(ms: u64) -> Now {
    Now { mono: Moment::default().plus_ms(ms), unix_ms: 1_000_000 + ms }
}

fn id(number: u8) -> ApprovalId {
    ApprovalId::new([number; 10])
}

fn key(number: u8) -> ApprovalKey {
    ApprovalKey([number; 32])
}

fn owner(number: u8) -> Owner {
    Owner([number; 16])
}

fn about(arguments: &[u8]) -> About<'_> {
    About { subject: "bob", server: "billing", method: "tools/call", name: "refund", arguments, ..About::default() }
}

fn word(yes: bool, now: Now) -> Decision {
    Decision { yes, by: "anna".into(), note: None, at_unix_ms: now.unix_ms }
}

fn ask(book: &mut Book, number: u8, now: Now) -> Stand {
    book.ask(id(number), &key(1), owner(1), TERMS, &about(b"{\"a\":1}"), now).0
}

fn decide(book: &mut Book, number: u8, yes: bool, now: Now) -> Result<Shown, Undecided> {
    book.decide(id(number), word(yes, now), AskWhom::Person, now)
}

#[test]
fn one_question_one_yes_one_call() {
    let mut book = Book::default();
    assert!(matches!(ask(&mut book, 1, at(0)), Stand::Pending { new: true, until_unix_ms: 1_001_000, .. }));
    assert!(matches!(ask(&mut book, 2, at(1)), Stand::Pending { new: false, id: first, .. } if first == id(1)));
    assert_eq!((book.waiting(), book.list(at(2)).len()), (1, 1));
    let shown = decide(&mut book, 1, true, at(900)).unwrap();
    assert_eq!((shown.state, shown.until_unix_ms, book.waiting()), (State::Approved, 1_001_900, 0));
    let Stand::Granted(granted) = ask(&mut book, 3, at(1_800)) else { panic!("it was approved") };
    assert_eq!((granted.id(), granted.by()), (id(1), "anna"));
    assert_eq!(book.show(id(1), at(1_800)).unwrap().state, State::Used);
    assert!(matches!(decide(&mut book, 1, false, at(1_801)), Err(Undecided::Used(_))));
    assert!(matches!(ask(&mut book, 4, at(1_801)), Stand::Pending { new: true, id: new, .. } if new == id(4)));
}

#[test]
fn a_no_refuses_until_it_expires() {
    let mut book = Book::default();
    ask(&mut book, 1, at(0));
    decide(&mut book, 1, false, at(500)).unwrap();
    assert!(matches!(ask(&mut book, 2, at(1_499)), Stand::Denied { until_unix_ms: 1_001_500, .. }));
    assert!(matches!(decide(&mut book, 1, true, at(1_499)), Err(Undecided::Decided(_))), "nobody turns a no");
    assert!(matches!(ask(&mut book, 2, at(1_500)), Stand::Pending { new: true, .. }));
}

#[test]
fn what_expires_is_gone() {
    let mut book = Book::default();
    ask(&mut book, 1, at(0));
    assert!(matches!(decide(&mut book, 1, true, at(1_000)), Err(Undecided::Unknown)));
    ask(&mut book, 2, at(1_000));
    decide(&mut book, 2, true, at(1_001)).unwrap();
    assert!(matches!(ask(&mut book, 3, at(2_001)), Stand::Pending { new: true, .. }), "nobody used it in time");
    book.sweep(at(10_000));
    assert_eq!(
        (book.waiting(), book.bytes, book.entries.len(), book.by_key.len(), book.subjects.len()),
        (0, 0, 0, 0, 0)
    );
}

#[test]
fn a_yes_can_be_taken_back_before_it_is_used() {
    let mut book = Book::default();
    ask(&mut book, 1, at(0));
    decide(&mut book, 1, true, at(1)).unwrap();
    assert!(matches!(decide(&mut book, 1, true, at(2)), Err(Undecided::Decided(_))), "it is said already");
    assert_eq!(decide(&mut book, 1, false, at(2)).unwrap().state, State::Denied);
    assert!(matches!(ask(&mut book, 2, at(3)), Stand::Denied { .. }));
}

#[test]
fn what_was_never_sent_is_given_back_once() {
    let mut book = Book::default();
    ask(&mut book, 1, at(0));
    decide(&mut book, 1, true, at(1)).unwrap();
    let Stand::Granted(first) = ask(&mut book, 2, at(2)) else { panic!("it was approved") };
    // Meanwhile somebody else repeats it, and is asked about.
    assert!(matches!(ask(&mut book, 2, at(3)), Stand::Pending { new: true, .. }));
    assert!(book.returning(&first).is_some());
    book.give_back(&first);
    assert_eq!((book.waiting(), book.returning(&first)), (0, None), "that question is withdrawn");
    book.give_back(&first);
    let Stand::Granted(second) = ask(&mut book, 3, at(4)) else { panic!("it came back") };
    book.give_back(&first);
    assert!(matches!(ask(&mut book, 4, at(5)), Stand::Pending { new: true, .. }), "the first was given back before");
    assert!(book.returning(&second).is_some());
}

#[test]
fn the_agents_own_user_is_nobody_else() {
    let mut book = Book::default();
    let terms = Terms { whom: AskWhom::Elicit, ..TERMS };
    let _ = book.ask(id(1), &key(1), owner(1), terms, &about(b""), at(0));
    assert!(matches!(decide(&mut book, 1, true, at(1)), Err(Undecided::NotYours)));
    let own = book.decide(id(1), word(true, at(1)), AskWhom::Elicit, at(1)).unwrap();
    assert_eq!(own.state, State::Approved);
    assert_eq!(decide(&mut book, 1, false, at(2)).unwrap().state, State::Denied, "anybody may stop it");
}

#[test]
fn there_are_no_more_than_fit() {
    let mut book = Book::default();
    let ask = |book: &mut Book, number: u32, mine: u8, arguments: &[u8]| {
        let (mut id, mut key) = ([0; 10], [0; 32]);
        id[..4].copy_from_slice(&number.to_be_bytes());
        key[..4].copy_from_slice(&number.to_be_bytes());
        book.ask(ApprovalId(id), &ApprovalKey(key), owner(mine), TERMS, &about(arguments), at(0)).0
    };
    assert!(matches!(ask(&mut book, 0, 1, &vec![b' '; APPROVAL_BYTES_MAX]), Stand::TooLarge));
    assert!(matches!(ask(&mut book, 0, 1, b"\xff"), Stand::TooLarge));
    let mut fits = 0;
    while matches!(ask(&mut book, fits, 1, b"{}"), Stand::Pending { .. }) {
        fits += 1;
    }
    assert_eq!(fits as usize, APPROVALS_OF_SUBJECT_MAX);
    let large = vec![b' '; APPROVAL_BYTES_MAX - 100];
    let mut number = 1_000;
    let mut owner = 2;
    while matches!(ask(&mut book, number, owner, &large), Stand::Pending { .. }) {
        number += 1;
        owner = 2 + u8::try_from((number - 1_000) / 16).unwrap();
    }
    assert!(book.bytes <= APPROVALS_BYTES_MAX && book.bytes + large.len() + 100 > APPROVALS_BYTES_MAX);
    // What is used up goes for what is new.
    let mut first = [0; 10];
    first[..4].copy_from_slice(&1_000_u32.to_be_bytes());
    book.decide(ApprovalId(first), word(true, at(0)), AskWhom::Person, at(0)).unwrap();
    assert!(matches!(ask(&mut book, 1_000, 2, &large), Stand::Granted(_)));
    assert!(matches!(ask(&mut book, 2_000, 100, &large), Stand::Pending { .. }));
    assert!(matches!(ask(&mut book, 2_001, 100, &large), Stand::Full));
}

fn numbered(book: &mut Book, number: u32, mine: u8, arguments: &[u8]) -> Stand {
    let (mut id, mut key) = ([0; 10], [0; 32]);
    id[..4].copy_from_slice(&number.to_be_bytes());
    key[..4].copy_from_slice(&number.to_be_bytes());
    // Those asked later are later.
    let now = at(u64::from(number % 1_000));
    book.ask(
        ApprovalId(id),
        &ApprovalKey(key),
        owner(mine),
        Terms { expires_ms: 10_000, ..TERMS },
        &about(arguments),
        now,
    )
    .0
}

/// Asked, allowed, and used: its call is under way as long as what this gives is there.
fn used(book: &mut Book, number: u32, mine: u8, arguments: &[u8]) -> Granted {
    let Stand::Pending { id, .. } = numbered(book, number, mine, arguments) else { panic!("{number} is asked about") };
    book.decide(id, word(true, at(0)), AskWhom::Person, at(0)).unwrap();
    let Stand::Granted(granted) = numbered(book, number, mine, arguments) else { panic!("{number} was allowed") };
    granted
}

#[test]
fn who_has_too_much_loses_nothing_of_others() {
    let mut book = Book::default();
    let theirs = used(&mut book, 0, 2, b"{}").id();
    let most = u32::try_from(APPROVALS_OF_SUBJECT_MAX).unwrap();
    for number in 1..=most {
        assert!(matches!(numbered(&mut book, number, 1, b"{}"), Stand::Pending { .. }));
    }
    assert!(matches!(numbered(&mut book, 500, 1, b"{}"), Stand::Full));
    assert_eq!(book.show(theirs, at(0)).unwrap().state, State::Used, "it does not help whoever has too much");
    assert_eq!(book.entries.len(), APPROVALS_OF_SUBJECT_MAX + 1);
    assert!(matches!(numbered(&mut book, 501, 3, b"{}"), Stand::Pending { .. }), "others have room");
}

#[test]
fn a_used_one_goes_only_when_its_call_is_over() {
    let mut book = Book::default();
    let first = used(&mut book, 0, 1, b"{}");
    let second = used(&mut book, 1, 1, b"{}");
    let most = u32::try_from(APPROVALS_OF_SUBJECT_MAX).unwrap();
    for number in 2..most {
        assert!(matches!(numbered(&mut book, number, 1, b"{}"), Stand::Pending { .. }));
    }
    assert!(matches!(numbered(&mut book, 500, 1, b"{}"), Stand::Full));
    let over = second.id();
    drop(second);
    assert!(matches!(numbered(&mut book, 501, 1, b"{}"), Stand::Pending { .. }));
    assert!(book.show(over, at(0)).is_none() && book.returning(&first).is_some(), "a yes under way can come back");
    book.give_back(&first);
    drop(first);
    assert!(matches!(numbered(&mut book, 502, 1, b"{}"), Stand::Full), "what came back is not used");
}

#[test]
fn a_subject_has_so_many_bytes() {
    let mut book = Book::default();
    let large = vec![b' '; APPROVAL_BYTES_MAX - 100];
    let asked = (0..100).take_while(|number| matches!(numbered(&mut book, *number, 1, &large), Stand::Pending { .. }));
    assert_eq!(asked.count(), APPROVALS_OF_SUBJECT_BYTES_MAX / APPROVAL_BYTES_MAX);
    assert!(book.bytes <= APPROVALS_OF_SUBJECT_BYTES_MAX);
    assert!(matches!(numbered(&mut book, 200, 1, b"{}"), Stand::Pending { .. }), "a small one fits");
    let over = used(&mut book, 300, 2, &large).id();
    for number in 301..316 {
        assert!(matches!(numbered(&mut book, number, 2, &large), Stand::Pending { .. }));
    }
    assert!(matches!(numbered(&mut book, 316, 2, &large), Stand::Pending { .. }), "for one that is used up");
    assert!(book.show(over, at(0)).is_none());
    assert!(matches!(numbered(&mut book, 317, 2, &large), Stand::Full));
}

#[test]
fn a_key_is_all_of_it() {
    let names = TaskNames::new(["refund", "audit"]);
    let base = || Asked {
        principal: owner(1),
        task: ActiveTask::None,
        tasks: &names,
        server: "s",
        method: "tools/call",
        name: "t",
        definition: None,
        whom: AskWhom::Person,
    };
    let one = |task| ActiveTask::One(crate::base::ids::TaskId(task));
    let all = [
        base(),
        Asked { principal: owner(2), ..base() },
        Asked { task: one(0), ..base() },
        Asked { task: one(1), ..base() },
        Asked { task: ActiveTask::Several, ..base() },
        Asked { server: "st", name: "", ..base() },
        Asked { server: "", name: "st", ..base() },
        Asked { method: "prompts/get", ..base() },
        Asked { name: "u", ..base() },
        Asked { definition: Some(&[0; 32]), ..base() },
        Asked { definition: Some(&[1; 32]), ..base() },
        Asked { whom: AskWhom::Elicit, ..base() },
    ];
    let mut keys: Vec<ApprovalKey> = all.iter().map(|asked| ApprovalKey::of(asked, |_| {})).collect();
    keys.push(ApprovalKey::of(&base(), |feed| feed(b"{}")));
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(keys.iter().position(|other| other == key), Some(index));
    }
    assert_eq!(ApprovalKey::of(&base(), |_| {}), keys[0]);
}

#[test]
fn an_id_is_read_as_it_is_written() {
    for bytes in [[0; 10], [255; 10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] {
        let id = ApprovalId::new(bytes);
        let text = id.to_string();
        assert_eq!((text.len(), ApprovalId::parse(&text)), (19, Some(id)));
    }
    for wrong in
        ["", "ap-", "ap-aaaaaaaaaaaaaaa", "ap-aaaaaaaaaaaaaaaaa", "ap-AAAAAAAAAAAAAAAA", "ap-aaaaaaaaaaaaaaa1", "xx"]
    {
        assert_eq!(ApprovalId::parse(wrong), None, "{wrong}");
    }
}

/// What happens to a book that two hands use.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask(u8),
    Approve(u8),
    Deny(u8),
    GiveBack(usize),
    Wait(u64),
    /// The process is killed, and what was written is read again.
    Crash,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..3_u8).prop_map(Act::Ask),
        4 => (0..12_u8).prop_map(Act::Approve),
        1 => (0..12_u8).prop_map(Act::Deny),
        2 => (0..8_usize).prop_map(Act::GiveBack),
        1 => (1..900_u64).prop_map(Act::Wait),
        1 => Just(Act::Crash),
    ];
    proptest::collection::vec(act, 1..120)
}

fn states(book: &Book, now: Now) -> Vec<(ApprovalId, State)> {
    let mut all: Vec<(ApprovalId, State)> = book.list(now).iter().map(|it| (it.id, it.state)).collect();
    all.sort_by_key(|(id, _)| *id);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However it goes, each yes lets one call go, less what was given back; also when what was written is all that is
    /// left, and when changes of two hands were written in another order than they were made.
    #[test]
    fn a_yes_is_one_call(acts in acts(), swaps in proptest::collection::vec(any::<bool>(), 120)) {
        let (mut book, mut written) = (Book::default(), Vec::<Change>::new());
        let (mut now, mut ids) = (0, Vec::new());
        let mut held: Vec<Granted> = Vec::new();
        let (mut approved, mut gone) = (HashMap::<ApprovalId, u32>::new(), HashMap::<ApprovalId, u32>::new());
        for (step, act) in acts.into_iter().enumerate() {
            now += 1;
            let begun = written.len();
            match act {
                Act::Ask(number) => {
                    let fresh = id(u8::try_from(ids.len() % 250).unwrap());
                    let (stand, change) = book.ask(fresh, &key(number), owner(1), TERMS, &about(b"{}"), at(now));
                    written.extend(change);
                    match stand {
                        Stand::Pending { new: true, id, .. } => ids.push(id),
                        Stand::Granted(granted) => {
                            *gone.entry(granted.id()).or_default() += 1;
                            held.push(granted);
                        }
                        _ => {}
                    }
                }
                Act::Approve(number) | Act::Deny(number) => {
                    let yes = matches!(act, Act::Approve(_));
                    if let Some(id) = ids.get(usize::from(number) % ids.len().max(1)) {
                        let decision = word(yes, at(now));
                        if let Ok(change) = book.deciding(*id, &decision, AskWhom::Person, at(now)) {
                            written.push(change);
                            if book.decide(*id, decision, AskWhom::Person, at(now)).is_ok() && yes {
                                *approved.entry(*id).or_default() += 1;
                            }
                        }
                    }
                }
                Act::GiveBack(place) if !held.is_empty() => {
                    let granted = held.swap_remove(place % held.len());
                    if let Some(change) = book.returning(&granted) {
                        written.push(change);
                        book.give_back(&granted);
                        *gone.get_mut(&granted.id()).unwrap() -= 1;
                    }
                }
                Act::GiveBack(_) => {}
                Act::Wait(ms) => now += ms,
                Act::Crash => {
                    book = Book::default();
                    for change in &written {
                        book.replay(change.clone(), at(now));
                        // Read twice is read once.
                        book.replay(change.clone(), at(now));
                    }
                    book.sweep(at(now));
                    held.clear();
                }
            }
            // Another hand was faster with its pen.
            if swaps[step % swaps.len()] && written.len() > begun && begun > 0 {
                written.swap(begun - 1, begun);
            }
            for (id, calls) in &gone {
                prop_assert!(*calls <= approved.get(id).copied().unwrap_or(0), "{id}: {calls} calls");
            }
        }
        let mut again = Book::default();
        book.picture().into_iter().for_each(|change| again.replay(change, at(now)));
        prop_assert_eq!(states(&again, at(now)), states(&book, at(now)));
        prop_assert_eq!(again.waiting(), book.waiting());
    }
}
