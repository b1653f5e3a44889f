//! The two ways of `lanes` against each other and against what each mark means, and the machine on bodies that are
//! long enough to cross blocks and windows.

use proptest::prelude::*;

use super::lanes::{BLOCKS, Bits, Lanes};
use super::skim::{Skim, Skimmed};
use super::tests::{call, json, nearly_json};
use super::*;

/// What the marks of a byte are, one by one: stop, no digit, no space, high.
fn meant(byte: u8) -> [bool; 4] {
    let stop = byte < 0x20 || byte == b'"' || byte == b'\\';
    [stop, !byte.is_ascii_digit(), !b" \n\r\t".contains(&byte), byte >= 0x80]
}

fn agrees_on_marks(bytes: &[u8]) {
    let mut two = [Bits::new(), Bits::new()];
    for (bits, lanes) in two.iter_mut().zip([Lanes::portable(), Lanes::detect()]) {
        // Nothing of an earlier run stays behind.
        lanes.mark(&[b'"'; 64 * BLOCKS], b"", bits);
        lanes.mark(bytes, bytes, bits);
        let is_set = |row: &[u8], at: usize| row[at / 8] >> (at % 8) & 1 == 1;
        for at in 0..bytes.len().next_multiple_of(64) {
            let want = meant(bytes.get(at).copied().unwrap_or(0));
            let got = [&bits.stop, &bits.not_digit, &bits.not_space, &bits.high].map(|row| is_set(row, at));
            assert_eq!(got, want, "{lanes:?}, byte {at} of {bytes:?}");
        }
        let behind = bytes.len().next_multiple_of(64)..(bytes.len().next_multiple_of(64) + 64).min(64 * BLOCKS + 64);
        assert!(behind.into_iter().all(|at| !is_set(&bits.stop, at)), "{lanes:?}: marks behind {bytes:?}");
        assert_eq!(bits.any_high, !bytes.is_ascii());
        if bits.any_high {
            let sound = str::from_utf8(bytes).map_or_else(|fault| fault.valid_up_to(), str::len);
            assert_eq!(bits.sound, sound, "{lanes:?}: {bytes:x?}");
        }
    }
    assert_eq!(format!("{:?}", two[0].stop), format!("{:?}", two[1].stop));
}

/// Every byte at every place of a block, in a block of its own and in one that is not full.
#[test]
fn each_byte_has_its_marks_wherever_it_stands() {
    for byte in 0..=255 {
        for at in 0..64 {
            let mut block = [b'a'; 64];
            block[at] = byte;
            agrees_on_marks(&block);
            agrees_on_marks(&block[..=at]);
        }
    }
    agrees_on_marks(b"");
}

/// [E1] Each two bytes in a row, within a block and across two, with as many continuations behind them as any
/// character has: what is UTF-8 and what is not.
#[test]
fn each_pair_of_bytes_is_judged_as_the_library_does() {
    let mut bits = Bits::new();
    // One of ASCII stands for all of them.
    let firsts = (0x80..=255_u8).chain([b'a']);
    for (first, second) in firsts.flat_map(|first| (0..=255_u8).map(move |second| (first, second))) {
        for (before, behind) in [(5, 0), (5, 1), (5, 2), (31, 1), (30, 2), (31, 0)] {
            let mut text = vec![b'a'; before];
            text.extend_from_slice(&[first, second]);
            text.resize(before + 2 + behind, 0x80);
            text.resize(70, b'z');
            text.extend_from_slice("é".as_bytes());
            Lanes::detect().mark(&text, &text, &mut bits);
            let sound = str::from_utf8(&text).map_or_else(|fault| fault.valid_up_to(), str::len);
            assert_eq!(bits.sound, sound, "{first:x} {second:x} {behind} at {before}");
        }
    }
}

/// All that either reader tells of a body in these pieces.
fn told(lanes: Lanes, input: &[u8], pieces: &[&[u8]]) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut reader = scan::Reader::with(lanes, 7);
    let mut scan = AnswerScan::with(lanes, 7);
    // What is whole may go the quick way.
    let (read, fed) = if pieces == [input] {
        (reader.read(input), scan.read(input))
    } else {
        let fed = pieces.iter().try_for_each(|piece| scan.feed(piece)).and_then(|()| scan.finish());
        (reader.read_pieces(input, pieces.iter().copied()), fed)
    };
    let read = read.map(|envelope| format!("{envelope:?}"));
    (read, reader.id(), reader.position(), fed, scan.position())
}

/// Both ways say the same, whole and in pieces of any length.
fn twins_agree(input: &[u8], length: usize) {
    let whole = told(Lanes::portable(), input, &[input]);
    assert_eq!(told(Lanes::detect(), input, &[input]), whole);
    for lanes in [Lanes::portable(), Lanes::detect()] {
        let pieces: Vec<&[u8]> = input.chunks(length.max(1)).collect();
        assert_eq!(told(lanes, input, &pieces), whole, "in pieces of {length}");
        let (front, back) = input.split_at(length.min(input.len()));
        assert_eq!(told(lanes, input, &[front, back]), whole, "cut at {length}");
    }
}

/// [E1] What is wrong with a number is wrong with it in a list of others too, at the border of blocks and windows and
/// at its place; and nothing else is.
#[test]
fn numbers_in_lists_are_judged_as_others_do() {
    let parts = ["-", "0", "12", ".", ".1", "e", "e1", "E+", " ", "x"];
    let mut all = vec![String::new()];
    for _ in 0..4 {
        let longer: Vec<String> =
            all.iter().flat_map(|it| parts.iter().map(move |part| format!("{it}{part}"))).collect();
        all.extend(longer);
    }
    all.sort_unstable();
    all.dedup();
    let mut taken = 0;
    for (count, number) in all.iter().enumerate() {
        // What no double holds is a number too.
        let sound = serde_json::from_str::<&serde_json::value::RawValue>(number).is_ok();
        taken += usize::from(sound);
        // So that it stands at the end of a block, of a window, or of neither.
        let before = [0, 40, 420][count % 3] + count / 3 % 16;
        let list = format!("[1, {}2,{number},3.5,{number}]", "7".repeat(before));
        let input = call(list.as_bytes());
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        let slowly = told(Lanes::detect(), &input, &bytes);
        for lanes in [Lanes::portable(), Lanes::detect()] {
            assert_eq!(read(&input).is_ok(), sound, "{list}");
            assert_eq!(told(lanes, &input, &[&input]), slowly, "{list}");
        }
    }
    assert!(taken > 100, "some of them are numbers");
}

/// Over `bytes`, behind a bracket, in pieces: how it came out, and where.
fn skims(lanes: Lanes, bytes: &[u8], length: usize) -> (Skimmed, usize) {
    let mut skim = Skim::new(2, 0b11);
    let message = [b"[", bytes].concat();
    let mut before = 0;
    for piece in message.chunks(length) {
        let skimmed = skim.run(lanes, piece, 0);
        if skimmed != Skimmed::More {
            return (skimmed, before);
        }
        before += piece.len();
    }
    (Skimmed::More, before)
}

fn skims_agree(bytes: &[u8]) {
    let alone = skims(Lanes::portable(), bytes, usize::MAX);
    assert_eq!(skims(Lanes::detect(), bytes, usize::MAX), alone, "{}", bytes.escape_ascii());
    for length in [1, 7, 63, 64, 65, 100] {
        let pieces = skims(Lanes::portable(), bytes, length);
        assert_eq!(skims(Lanes::detect(), bytes, length), pieces, "{length}: {}", bytes.escape_ascii());
        let place = |(skimmed, before)| match skimmed {
            Skimmed::End(at) => (None, Some(before + at)),
            Skimmed::Fault(fault, at) => (Some(fault), Some(before + at)),
            Skimmed::More => (None, None),
        };
        assert_eq!(place(pieces), place(alone), "{length}: {}", bytes.escape_ascii());
    }
}

/// [E13] Every byte at every place of two blocks, within a string and outside of it, behind a backslash and not.
#[test]
fn each_byte_is_skimmed_alike_wherever_it_stands() {
    for byte in 0..=255_u8 {
        for at in 0..130 {
            for (quote, fill) in [("", " "), ("\"", "x")] {
                let fill = fill.repeat(130);
                let (before, behind) = fill.split_at(at);
                for escape in ["", "\\", "\\\\"] {
                    let mut text = format!("{quote}{before}{escape}").into_bytes();
                    text.push(byte);
                    text.extend_from_slice(behind.as_bytes());
                    text.extend_from_slice(format!("{quote}],[\"").as_bytes());
                    let want = skims(Lanes::portable(), &text, usize::MAX);
                    assert_eq!(skims(Lanes::detect(), &text, usize::MAX), want, "{}", text.escape_ascii());
                }
            }
        }
    }
}

/// [E13] What is skimmed is well-formed as far as was promised, and no further.
#[test]
fn a_skim_sees_to_this() {
    let check = |inside: &str, want: Result<(), ScanFault>| {
        let message = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":{inside}}}}}"#).into_bytes();
        for padding in [0, 50, 70, 600] {
            let message = [&message[..], &b" ".repeat(padding)].concat();
            for lanes in [Lanes::portable(), Lanes::detect()] {
                let mut scan = AnswerScan::with(lanes, 0);
                assert_eq!(scan.skim(&message).map(drop), want, "{inside}");
            }
        }
    };
    for sound in ["[]", "{}", "[[{}]]", r#"["]\"}",{"a":"\\"}]"#, r#"[{"a":[1,-2.5e3,true,false,null]}]"#, "[\"é€𝄞\"]"]
    {
        check(sound, Ok(()));
    }
    // For its reader to find out.
    for odd in ["[,]", "[1 2]", "{1}", r#"[{"a":1,"a":2}]"#, r#"["\x\ud800"]"#, "[tru]", "[--1]"] {
        check(odd, Ok(()));
    }
    for (wrong, fault) in [
        ("[}", ScanFault::Syntax),
        ("[{]}", ScanFault::Syntax),
        ("[']']", ScanFault::Syntax),
        ("[/*]*/]", ScanFault::Syntax),
        ("[#]", ScanFault::Syntax),
        ("[\\\"]", ScanFault::Syntax),
        ("[NaN]", ScanFault::Syntax),
        ("[é]", ScanFault::Syntax),
        ("[\"a\nb\"]", ScanFault::ControlCharacter),
        ("[\"a\\\nb\"]", ScanFault::ControlCharacter),
        ("[\"]", ScanFault::Incomplete),
        ("[[]", ScanFault::Syntax),
    ] {
        check(wrong, Err(fault));
    }
    check(&format!("{}{}", "[".repeat(62), "]".repeat(62)), Ok(()));
    check(&format!("{}{}", "[".repeat(63), "]".repeat(63)), Err(ScanFault::TooDeep));
}

/// A text of JSON whose strings are long: runs of plain and wide characters around the length of blocks and windows.
fn long_text() -> impl Strategy<Value = String> {
    let run = prop_oneof![
        3 => (0..140_usize).prop_map(|length| "x".repeat(length)),
        1 => (500..530_usize).prop_map(|length| "y".repeat(length)),
        2 => (0..140_usize).prop_map(|length| "é".repeat(length)),
        2 => (0..180_usize).prop_map(|length| "€".repeat(length)),
        1 => (0..140_usize).prop_map(|length| "𝄞".repeat(length)),
        1 => Just(r#"\n\"\\"#.to_owned()),
        1 => Just(r"\u00e9\ud834\udd1e".to_owned()),
    ];
    let text = proptest::collection::vec(run, 0..6).prop_map(|runs| format!("\"{}\"", runs.concat()));
    let number =
        (1..200_usize, 0..90_usize).prop_map(|(whole, rest)| format!("{}.{}", "7".repeat(whole), "1".repeat(rest + 1)));
    let space = (0..150_usize).prop_map(|length| format!("{}1", " ".repeat(length)));
    let numbers = proptest::collection::vec(r"-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,4})?([eE][+-]?[0-9])?", 0..200);
    let list = (numbers, "(, {0,2}|,\n)").prop_map(|(numbers, comma)| format!("[{}]", numbers.join(&comma)));
    let value = prop_oneof![4 => text, 1 => number, 1 => space, 1 => json(), 2 => list];
    proptest::collection::vec(value, 1..6).prop_map(|values| {
        let members: Vec<String> = values.iter().enumerate().map(|(at, value)| format!("\"m{at}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn marks_are_the_same_both_ways(bytes in proptest::collection::vec(any::<u8>(), 0..=64 * BLOCKS)) {
        agrees_on_marks(&bytes);
    }

    /// [E1] [E7] Sound, broken, whole or cut: the processor changes nothing.
    #[test]
    fn twins_say_the_same(arguments in nearly_json(), length in 1..200_usize) {
        twins_agree(&call(&arguments), length);
        twins_agree(&arguments, length);
    }

    /// [E13] Sound, broken, whole or cut: a skim is the same both ways.
    #[test]
    fn skims_say_the_same(arguments in nearly_json(), text in long_text(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        skims_agree(&[&arguments[..], b"]"].concat());
        let mut text = text.into_bytes();
        skims_agree(&[&text[..], b"] "].concat());
        let at = place.index(text.len());
        text[at] = byte;
        skims_agree(&[&text[..], b"],"].concat());
    }

    /// [E1] Strings that cross blocks and windows are judged as serde_json does, with one byte exchanged too.
    #[test]
    fn long_strings_are_judged_as_others_do(
        text in long_text(),
        place in any::<prop::sample::Index>(),
        byte in prop_oneof![Just(None), any::<u8>().prop_map(Some)],
        length in 1..1500_usize,
    ) {
        let mut arguments = text.into_bytes();
        if let Some(byte) = byte {
            let at = place.index(arguments.len());
            arguments[at] = byte;
        }
        let input = call(&arguments);
        twins_agree(&input, length);
        let ours = read(&input).map(|envelope| envelope.param(&input, "arguments").map(|it| it.value.of(&input).to_vec()));
        match serde_json::from_slice::<&serde_json::value::RawValue>(&arguments) {
            Ok(raw) => {
                let twice = ours == Err(ScanFault::DuplicateName);
                // Raw values are not looked into for halves of pairs.
                let half = ours == Err(ScanFault::LoneSurrogate);
                prop_assert!(twice || half || ours == Ok(Some(raw.get().as_bytes().to_vec())), "{:?}", ours);
            }
            Err(_) => prop_assert!(ours.is_err()),
        }
    }
}

/// [E1] A character that is cut by the end of a block, a window or a piece is one character; a wrong byte in it is
/// found at its place.
#[test]
fn characters_cross_every_border() {
    for before in (440..460).chain(60..66) {
        for wide in ["é", "€", "𝄞"] {
            for wrong in 0..=wide.len() {
                let mut arguments = format!("\"{}{}\"", "a".repeat(before), wide.repeat(40)).into_bytes();
                if wrong > 0 {
                    arguments[before + 1 + 7 * wide.len() + wrong - 1] = b'x';
                }
                let input = call(&arguments);
                let want = if wrong > 0 { Err(ScanFault::InvalidUtf8) } else { Ok(Shape::Request) };
                for lanes in [Lanes::portable(), Lanes::detect()] {
                    let mut reader = scan::Reader::with(lanes, 0);
                    assert_eq!(reader.read(&input).map(|envelope| envelope.shape), want, "{before} {wide} {wrong}");
                }
                twins_agree(&input, before);
            }
        }
    }
}

/// Bodies of the usual kind are scanned without an allocation once the tables have grown: no table grows again.
#[test]
fn tables_keep_their_size() {
    let body = call(br#"{"a":[{"b":1,"c":"\u00e9"}],"d":{"e":null}}"#);
    let mut reader = scan::Reader::new(1);
    reader.read(&body).unwrap();
    let before = reader.capacity();
    for _ in 0..100 {
        reader.read(&body).unwrap();
    }
    assert_eq!(reader.capacity(), before);
}
