//! What the fuzz bodies of all rooms share: where to cut an input in two, and how the tests run a body on its seeds.
//!
//! A body is `fn(&[u8])` and asserts what must be true of any input whatever. cargo-fuzz calls it from `tests/fuzz`;
//! `cargo test` calls the same body with every file kept there, with mutations of these, and with random bytes.

/// Where to cut `data` in two so that each way of it coming in two pieces is tried: everywhere if it is short, else at
/// both ends and at some places in between that depend on the data alone, so that a failure can be repeated.
pub fn cuts(data: &[u8]) -> impl Iterator<Item = usize> {
    let length = data.len();
    let everywhere = if length <= CUT_EVERYWHERE_BYTES { 0..length + 1 } else { 0..0 };
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut drawn = data.iter().fold(0xcbf2_9ce4_8422_2325, hash);
    let some = if length <= CUT_EVERYWHERE_BYTES { 0 } else { CUTS };
    everywhere.chain((0..some).map(move |number| match number {
        0..CUTS_AT_START => number,
        CUTS_AT_START..CUTS_AT_ENDS => length - (number - CUTS_AT_START),
        _ => {
            drawn = drawn.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            usize::try_from((drawn >> 33) % (length as u64 + 1)).unwrap_or(length)
        }
    }))
}

#[cfg(test)]
pub(crate) use tests::hold;

const CUT_EVERYWHERE_BYTES: usize = 160;
const CUTS: usize = 40;
const CUTS_AT_START: usize = 8;
const CUTS_AT_ENDS: usize = 16;
const _: () = assert!(CUT_EVERYWHERE_BYTES > CUTS, "the cuts at both ends are within the data");

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::rc::Rc;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// Mutated seeds tried for each target; as many random inputs are tried beside them.
    const CASES: u32 = 128;
    /// Multiplies `CASES`, for a longer look.
    const CASES_VARIABLE: &str = "PORTCULLIS_FUZZ_CASES";
    const RANDOM_BYTES_MAX: usize = 300;
    const EDITS_MAX: usize = 5;
    /// What is put between other bytes: what HTTP, JSON, YAML, base64 and URIs are held together by.
    const WORDS: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\"",
        b"\\",
        b"/",
        b".",
        b"..",
        b"%",
        b"%2f",
        b"%2E",
        b"=",
        b"==",
        b"-",
        b"{",
        b"}",
        b"[",
        b"]",
        b"null",
        b"true",
        b"0",
        b"-1",
        b"1e400",
        b"\\u0000",
        b"\\ud800",
        b"\xff",
        b"\xc3\xa9",
        b"\xef\xbb\xbf",
        b"&a",
        b"*a",
        b"<<",
        b"!!",
        b"${",
        b"#",
        b"18446744073709551616",
    ];

    /// Holds `body` against every file of `target` in `tests/fuzz`, against mutations of them, and random bytes.
    ///
    /// # Panics
    /// When the body does. The input is named or shown as a byte string: put it into `tests/fuzz/found/<target>/`.
    pub(crate) fn hold(target: &str, body: fn(&[u8])) {
        let files = files(target);
        assert!(!files.is_empty(), "no seeds for {target}: nothing would be tried");
        for (path, bytes) in &files {
            let shown = Shown(path);
            body(bytes);
            std::mem::forget(shown);
        }
        let seeds: Rc<Vec<Vec<u8>>> = Rc::new(files.into_iter().map(|(_, bytes)| bytes).collect());
        try_all(mutated(seeds), body);
        try_all(prop::collection::vec(any::<u8>(), 0..RANDOM_BYTES_MAX).prop_map(Input), body);
    }

    /// Names the file at hand when a panic passes by.
    struct Shown<'a>(&'a Path);

    impl Drop for Shown<'_> {
        fn drop(&mut self) {
            eprintln!("the input was {}", self.0.display());
        }
    }

    /// An input, shown as one could write it.
    struct Input(Vec<u8>);

    impl fmt::Debug for Input {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "b\"{}\"", self.0.escape_ascii())
        }
    }

    fn files(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        let mut paths = Vec::new();
        for kind in ["seeds", "found"] {
            let entries = fs::read_dir(root.join(kind).join(target)).into_iter().flatten();
            paths.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
        }
        paths.sort();
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).expect("a file that was just listed can be read");
            (path, bytes)
        };
        paths.into_iter().map(read).collect()
    }

    fn try_all(inputs: impl Strategy<Value = Input>, body: fn(&[u8])) {
        let times = std::env::var(CASES_VARIABLE).ok().and_then(|times| times.parse().ok()).unwrap_or(1);
        let cases = CASES.saturating_mul(times);
        let mut runner =
            TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
        let outcome = runner.run(&inputs, |input| {
            body(&input.0);
            Ok(())
        });
        if let Err(fault) = outcome {
            panic!("{fault}");
        }
    }

    /// One change of an input. Places are taken modulo its length.
    #[derive(Clone, Debug)]
    enum Edit {
        Flip(Index, u8),
        Insert(Index, Index),
        Delete(Index, usize),
        /// A piece of another seed (or of the same), put in or put over.
        Splice {
            at: Index,
            seed: Index,
            from: Index,
            length: usize,
            over: bool,
        },
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let place = any::<Index>;
        prop_oneof![
            (place(), 1..=255_u8).prop_map(|(at, bits)| Edit::Flip(at, bits)),
            (place(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, 1 << bit)),
            (place(), place()).prop_map(|(at, word)| Edit::Insert(at, word)),
            (place(), 1..24_usize).prop_map(|(at, length)| Edit::Delete(at, length)),
            (place(), place(), place(), 1..64_usize, any::<bool>())
                .prop_map(|(at, seed, from, length, over)| Edit::Splice { at, seed, from, length, over }),
        ]
    }

    fn mutated(seeds: Rc<Vec<Vec<u8>>>) -> impl Strategy<Value = Input> {
        (any::<Index>(), prop::collection::vec(edit(), 1..=EDITS_MAX)).prop_map(move |(seed, edits)| {
            let mut bytes = seed.get(&seeds).clone();
            for edit in &edits {
                apply(edit, &seeds, &mut bytes);
            }
            Input(bytes)
        })
    }

    fn apply(edit: &Edit, seeds: &[Vec<u8>], bytes: &mut Vec<u8>) {
        let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
        match edit {
            Edit::Flip(at, bits) => {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= bits;
                }
            }
            Edit::Insert(at, word) => {
                let at = place(at, bytes);
                bytes.splice(at..at, word.get(WORDS).iter().copied());
            }
            Edit::Delete(at, length) => {
                let at = place(at, bytes);
                bytes.drain(at..bytes.len().min(at + length));
            }
            Edit::Splice { at, seed, from, length, over } => {
                let other = seed.get(seeds);
                let from = place(from, other);
                let piece = &other[from..other.len().min(from + length)];
                let at = place(at, bytes);
                let end = if *over { bytes.len().min(at + piece.len()) } else { at };
                bytes.splice(at..end, piece.iter().copied());
            }
        }
    }

    #[test]
    fn short_inputs_are_cut_everywhere_and_long_ones_often() {
        assert_eq!(cuts(b"abc").collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(cuts(b"").collect::<Vec<_>>(), [0]);
        let long = vec![b'x'; 5_000];
        let places: Vec<usize> = cuts(&long).collect();
        assert_eq!(places.len(), CUTS);
        assert!(places.iter().all(|cut| *cut <= long.len()));
        assert_eq!(places, cuts(&long).collect::<Vec<_>>());
        let between = places.iter().filter(|cut| (10..4_990).contains(*cut)).count();
        assert!(between > 10, "{places:?}");
    }

    #[test]
    #[should_panic(expected = "a seed of")]
    fn a_body_that_fails_on_a_seed_is_noticed() {
        hold("http_events", |data| assert!(data.len() < 20, "a seed of {} bytes", data.len()));
    }

    #[test]
    #[should_panic(expected = "minimal failing input: b\"")]
    fn a_body_that_fails_on_other_bytes_is_noticed() {
        hold("http_events", |data| assert!(!data.contains(&0xc0)));
    }
}
