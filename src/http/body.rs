//! Bodies, piece by piece: by length, in chunks, or until the peer closes (RFC 9112 6-7).

use super::field;
use super::head::Framing;
use crate::base::limits::{
    CHUNK_EXTENSION_BYTES_MAX, CHUNK_EXTENSIONS_BYTES_MAX, FIELD_VALUE_BYTES_MAX, HEAD_BYTES_MAX, HEAD_FIELDS_MAX,
};
use crate::base::span::Span;

/// Finds the bytes of one body in what comes after its head. Holds no bytes itself.
#[derive(Clone, Debug)]
pub enum BodyDecoder {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All that comes.
    UntilClose,
}

/// What one step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many bytes of the input are dealt with.
    pub consumed: usize,
    /// The bytes of the body among them; may be none.
    pub data: Span,
    /// Whether the body has ended; what follows `consumed` belongs to another message.
    pub done: bool,
}

/// What can be wrong with a body. Where the next message begins is unknown after any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BodyFault {
    /// A chunk size is not 1 to 16 hex digits, or something else than `;` or CR LF follows it.
    #[error("malformed chunk size")]
    SizeMalformed,
    /// A chunk extension is not a name and maybe a value, without white space.
    #[error("malformed chunk extension")]
    ExtensionMalformed,
    /// Extensions of more than `CHUNK_EXTENSION_BYTES_MAX` on a line or `CHUNK_EXTENSIONS_BYTES_MAX` in all.
    #[error("chunk extensions too long")]
    ExtensionTooLong,
    /// Something else than CR LF where a line or a chunk's data must end.
    #[error("line break missing")]
    LineBreakMissing,
    /// A trailer line that is no field.
    #[error("malformed trailer")]
    TrailerMalformed,
    /// Trailers beyond the bounds of a head.
    #[error("trailers too long")]
    TrailersTooLong,
    /// The peer closed before the body had ended.
    #[error("body cut short")]
    Truncated,
}

impl BodyDecoder {
    /// The decoder for a body that is framed so.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Goes on at the start of `bytes`. Each step finds at most one run of body bytes: while the piece consumed
    /// something and is not done, call again with what it left over. A piece that consumed nothing wants more bytes.
    ///
    /// # Errors
    /// The first byte that breaks the framing. The connection must close.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Piece, BodyFault> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                Ok(Piece { consumed: taken, data: Span::new(0, taken), done: *left == 0 })
            }
            Self::Chunked(chunks) => chunks.step(bytes),
            Self::UntilClose => Ok(Piece { consumed: bytes.len(), data: Span::new(0, bytes.len()), done: false }),
        }
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::Done,
            Self::UntilClose => false,
        }
    }

    /// The peer has closed: may it, here?
    ///
    /// # Errors
    /// `Truncated` when the body had not ended.
    pub fn eof(&self) -> Result<(), BodyFault> {
        if self.is_done() || matches!(self, Self::UntilClose) { Ok(()) } else { Err(BodyFault::Truncated) }
    }
}

/// A chunked body, between any two bytes of it.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    state: State,
    /// Of the size that is being read, or of the data still to come.
    left: u64,
    digits: u8,
    /// Extension bytes of this line, and of all lines.
    extension: usize,
    extensions: usize,
    /// Trailer bytes, trailer lines, and bytes of this line's value.
    trailer: usize,
    trailer_lines: usize,
    value: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Before the first byte of an extension's name.
    ExtensionName,
    ExtensionNameRest,
    /// Before the first byte of an extension's value.
    ExtensionValue,
    ExtensionValueRest,
    ExtensionQuoted,
    ExtensionEscape,
    ExtensionQuotedEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunks {
    fn step(&mut self, bytes: &[u8]) -> Result<Piece, BodyFault> {
        let mut at = 0;
        let mut data = Span::default();
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                if !data.is_empty() {
                    break;
                }
                let here = bytes.len() - at;
                let taken = usize::try_from(self.left).map_or(here, |left| left.min(here));
                data = Span::new(at, at + taken);
                at += taken;
                self.left -= taken as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self.next(bytes[at])?;
                at += 1;
            }
        }
        Ok(Piece { consumed: at, data, done: self.state == State::Done })
    }

    /// The state after `byte`, outside of chunk data.
    fn next(&mut self, byte: u8) -> Result<State, BodyFault> {
        match self.state {
            State::Size => self.next_in_size(byte),
            State::SizeLf if byte == b'\n' && self.left > 0 => Ok(State::Data),
            State::SizeLf if byte == b'\n' => Ok(State::Trailer),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                self.digits = 0;
                self.extension = 0;
                Ok(State::Size)
            }
            State::EndLf if byte == b'\n' => Ok(State::Done),
            State::SizeLf | State::DataCr | State::DataLf | State::EndLf => Err(BodyFault::LineBreakMissing),
            State::Trailer | State::TrailerName | State::TrailerValue | State::TrailerLf => self.next_in_trailer(byte),
            State::Data | State::Done => unreachable!("`step` deals with these"),
            _ => self.next_in_extension(byte),
        }
    }

    fn next_in_size(&mut self, byte: u8) -> Result<State, BodyFault> {
        match byte {
            b'\r' if self.digits > 0 => Ok(State::SizeLf),
            b';' if self.digits > 0 => self.next_in_extension(byte),
            _ => {
                let digit = char::from(byte).to_digit(16).ok_or(BodyFault::SizeMalformed)?;
                if self.digits == SIZE_DIGITS_MAX {
                    return Err(BodyFault::SizeMalformed);
                }
                self.digits += 1;
                self.left = self.left << 4 | u64::from(digit);
                Ok(State::Size)
            }
        }
    }

    /// RFC 9112 7.1.1, but for the white space it tolerates: `;` name, and maybe `=` and a token or a quoted string.
    fn next_in_extension(&mut self, byte: u8) -> Result<State, BodyFault> {
        self.extension += 1;
        self.extensions += 1;
        if self.extension > CHUNK_EXTENSION_BYTES_MAX || self.extensions > CHUNK_EXTENSIONS_BYTES_MAX {
            return Err(BodyFault::ExtensionTooLong);
        }
        let token = field::is_token_byte(byte);
        let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        match (self.state, byte) {
            (State::ExtensionName | State::ExtensionNameRest, _) if token => Ok(State::ExtensionNameRest),
            (State::ExtensionNameRest, b'=') => Ok(State::ExtensionValue),
            (State::ExtensionValue, b'"') => Ok(State::ExtensionQuoted),
            (State::ExtensionValue | State::ExtensionValueRest, _) if token => Ok(State::ExtensionValueRest),
            (State::ExtensionQuoted, b'"') => Ok(State::ExtensionQuotedEnd),
            (State::ExtensionQuoted, b'\\') => Ok(State::ExtensionEscape),
            (State::ExtensionQuoted | State::ExtensionEscape, _) if text => Ok(State::ExtensionQuoted),
            (State::Size | State::ExtensionNameRest | State::ExtensionValueRest | State::ExtensionQuotedEnd, b';') => {
                Ok(State::ExtensionName)
            }
            (State::ExtensionNameRest | State::ExtensionValueRest | State::ExtensionQuotedEnd, b'\r') => {
                Ok(State::SizeLf)
            }
            _ => Err(BodyFault::ExtensionMalformed),
        }
    }

    /// Trailers are read as fields of a head are, and forgotten: none may become one (RFC 9110 6.5.1).
    fn next_in_trailer(&mut self, byte: u8) -> Result<State, BodyFault> {
        self.trailer += 1;
        if self.trailer > HEAD_BYTES_MAX {
            return Err(BodyFault::TrailersTooLong);
        }
        match (self.state, byte) {
            (State::Trailer, b'\r') => Ok(State::EndLf),
            (State::Trailer, _) if field::is_token_byte(byte) => {
                self.trailer_lines += 1;
                let within = self.trailer_lines <= HEAD_FIELDS_MAX;
                within.then_some(State::TrailerName).ok_or(BodyFault::TrailersTooLong)
            }
            (State::TrailerName, b':') => {
                self.value = 0;
                Ok(State::TrailerValue)
            }
            (State::TrailerName, _) if field::is_token_byte(byte) => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => {
                self.value += 1;
                let within = self.value <= FIELD_VALUE_BYTES_MAX;
                within.then_some(State::TrailerValue).ok_or(BodyFault::TrailersTooLong)
            }
            (State::TrailerLf, b'\n') => Ok(State::Trailer),
            (State::TrailerLf, _) => Err(BodyFault::LineBreakMissing),
            _ => Err(BodyFault::TrailerMalformed),
        }
    }
}

/// The size line of a chunk that holds so many bytes.
#[derive(Clone, Copy, Debug)]
pub struct ChunkSize {
    text: [u8; SIZE_DIGITS_MAX as usize + 2],
    start: usize,
}

impl ChunkSize {
    /// The line for `length` bytes. A chunk of no bytes would end the body; that is what [`write_last_chunk`] is for.
    #[must_use]
    pub fn of(length: usize) -> Self {
        let mut text = [b'\n'; SIZE_DIGITS_MAX as usize + 2];
        let mut start = SIZE_DIGITS_MAX as usize;
        text[start] = b'\r';
        let mut rest = length;
        loop {
            start -= 1;
            text[start] = b"0123456789abcdef"[rest % 16];
            rest /= 16;
            if rest == 0 {
                return Self { text, start };
            }
        }
    }

    /// The line with its line break.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// Appends `data` as one chunk; nothing when it is empty, since that would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        out.extend_from_slice(ChunkSize::of(data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the end of a chunked body.
pub fn write_last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(LAST_CHUNK);
}

/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What fits 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a decoder makes of the input: its data, how much belonged to the body, whether it ended.
    type Outcome = Result<(Vec<u8>, usize, bool), BodyFault>;

    fn decode(framing: Framing, pieces: &[&[u8]]) -> Outcome {
        let mut decoder = BodyDecoder::new(framing);
        let (mut data, mut consumed) = (Vec::new(), 0);
        for piece in pieces {
            let mut at = 0;
            loop {
                let found = decoder.step(&piece[at..])?;
                data.extend_from_slice(found.data.of(&piece[at..]));
                at += found.consumed;
                consumed += found.consumed;
                assert_eq!(found.done, decoder.is_done());
                if found.done {
                    return Ok((data, consumed, true));
                }
                if found.consumed == 0 {
                    assert_eq!(at, piece.len(), "a decoder takes all it is given until the body ends");
                    break;
                }
            }
        }
        Ok((data, consumed, false))
    }

    #[track_caller]
    fn check(framing: Framing, input: &str, want: Result<(&str, &str, bool), BodyFault>) {
        let input = input.as_bytes();
        let want = want.map(|(data, rest, done)| (data.as_bytes().to_vec(), input.len() - rest.len(), done));
        assert_eq!(decode(framing, &[input]), want, "{:?}", String::from_utf8_lossy(input));
        for cut in 0..=input.len() {
            assert_eq!(decode(framing, &[&input[..cut], &input[cut..]]), want, "cut at {cut}");
        }
    }

    #[test]
    fn lengths() {
        check(Framing::None, "GET", Ok(("", "GET", true)));
        check(Framing::Length(0), "", Ok(("", "", true)));
        check(Framing::Length(3), "abcd", Ok(("abc", "d", true)));
        check(Framing::Length(3), "ab", Ok(("ab", "", false)));
        check(Framing::Length(u64::MAX), "ab", Ok(("ab", "", false)));
        check(Framing::UntilClose, "ab", Ok(("ab", "", false)));
    }

    /// [H8] [H9] Chunks, extensions and trailers: only the data comes out.
    #[test]
    fn chunks() {
        for (input, data, rest, done) in [
            ("0\r\n\r\n", "", "", true),
            ("0\r\n\r\nGET", "", "GET", true),
            ("5\r\nhello\r\n0\r\n\r\nx", "hello", "x", true),
            ("5\r\nhello\r\n6\r\n world\r\n000\r\n\r\n", "hello world", "", true),
            ("A\r\n0123456789\r\n00000000000000a\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", "", true),
            ("1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", "\r\n", "", true),
            ("5;a\r\nhello\r\n0;b=c;d=\"e \\\"f\";g\r\n\r\n", "hello", "", true),
            ("0\r\nX-Sum: abc\r\nContent-Length:7\r\nA:\r\n\r\n", "", "", true),
            ("5\r\nhello\r\n", "hello", "", false),
            ("5\r\nhel", "hel", "", false),
            ("ffffffffffffffff\r\nhel", "hel", "", false),
            ("0\r\n", "", "", false),
        ] {
            check(Framing::Chunked, input, Ok((data, rest, done)));
        }
    }

    /// [H7] [H8] [H9] The first byte that breaks a chunked body.
    #[test]
    fn chunk_faults() {
        use BodyFault::*;
        for (input, want) in [
            ("\r\n", SizeMalformed),
            ("g\r\n", SizeMalformed),
            (" 5\r\n", SizeMalformed),
            ("5 \r\n", SizeMalformed),
            ("5\t;a\r\n", SizeMalformed),
            ("+5\r\n", SizeMalformed),
            ("-1\r\n", SizeMalformed),
            ("0x5\r\n", SizeMalformed),
            ("1_0\r\n", SizeMalformed),
            (";a\r\n", SizeMalformed),
            ("5\nhello", SizeMalformed),
            ("5\0\r\n", SizeMalformed),
            ("FFFFFFFFFFFFFFFF0\r\n", SizeMalformed),
            ("00000000000000005\r\n", SizeMalformed),
            ("5\rhello\r\n", LineBreakMissing),
            ("5\r\nhello0\r\n", LineBreakMissing),
            ("5\r\nhello!!\r\n", LineBreakMissing),
            ("5\r\nhello\n0\r\n", LineBreakMissing),
            ("5\r\nhello\r0\r\n", LineBreakMissing),
            ("5\r\nhello\r\n\r\n", SizeMalformed),
            ("5;\r\n", ExtensionMalformed),
            ("5;;a\r\n", ExtensionMalformed),
            ("5; a\r\n", ExtensionMalformed),
            ("5;a =b\r\n", ExtensionMalformed),
            ("5;a=\r\n", ExtensionMalformed),
            ("5;a=\"b\r\n", ExtensionMalformed),
            ("5;a=\"b\"c\r\n", ExtensionMalformed),
            ("5;a=b\"\r\n", ExtensionMalformed),
            ("5;a=b=c\r\n", ExtensionMalformed),
            ("5;a\n", ExtensionMalformed),
            ("5;\n", ExtensionMalformed),
            ("5;a\rX", LineBreakMissing),
            ("5;\0a\r\n", ExtensionMalformed),
            ("5;bad[=x\r\n", ExtensionMalformed),
            ("0\r\n\n", TrailerMalformed),
            ("0\r\n\rX", LineBreakMissing),
            ("0\r\n:a\r\n", TrailerMalformed),
            ("0\r\nA\r\n", TrailerMalformed),
            ("0\r\nA : b\r\n", TrailerMalformed),
            ("0\r\n A: b\r\n", TrailerMalformed),
            ("0\r\nA: b\n", TrailerMalformed),
            ("0\r\nA: b\rc", LineBreakMissing),
            ("0\r\nA: b\r\n c\r\n", TrailerMalformed),
            ("0\r\nA: \0\r\n", TrailerMalformed),
        ] {
            check(Framing::Chunked, input, Err(want));
        }
    }

    /// [H8] [H9] Extensions and trailers are bounded, to the byte.
    #[test]
    fn bounds() {
        let whole = |text: String| decode(Framing::Chunked, &[text.as_bytes()]).map(|found| found.2);
        let extension = |length: usize| format!(";{}", "a".repeat(length - 1));
        assert_eq!(whole(format!("0{}\r\n\r\n", extension(CHUNK_EXTENSION_BYTES_MAX - 1))), Ok(true));
        let long = format!("0{}\r\n\r\n", extension(CHUNK_EXTENSION_BYTES_MAX));
        assert_eq!(whole(long), Err(BodyFault::ExtensionTooLong), "the byte that ends an extension counts too");
        let lines = CHUNK_EXTENSIONS_BYTES_MAX / 128;
        let line = format!("1{}\r\nx\r\n", extension(127));
        assert_eq!(whole(format!("{}0\r\n\r\n", line.repeat(lines))), Ok(true));
        assert_eq!(whole(line.repeat(lines + 1)), Err(BodyFault::ExtensionTooLong));

        let trailers = |lines: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(lines));
        assert_eq!(whole(trailers(HEAD_FIELDS_MAX)), Ok(true));
        assert_eq!(whole(trailers(HEAD_FIELDS_MAX + 1)), Err(BodyFault::TrailersTooLong));
        let trailer = |length: usize| format!("0\r\na:{}\r\n\r\n", "b".repeat(length));
        assert_eq!(whole(trailer(FIELD_VALUE_BYTES_MAX)), Ok(true));
        assert_eq!(whole(trailer(FIELD_VALUE_BYTES_MAX + 1)), Err(BodyFault::TrailersTooLong));
        assert_eq!(whole(format!("0\r\n{}", "a".repeat(HEAD_BYTES_MAX + 1))), Err(BodyFault::TrailersTooLong));
    }

    /// [H16] A body of announced length, or in chunks, does not end with its connection.
    #[test]
    fn only_some_bodies_may_end_with_the_connection() {
        let after = |framing, text: &[u8]| {
            let mut decoder = BodyDecoder::new(framing);
            decoder.step(text).unwrap();
            decoder.eof()
        };
        assert_eq!(after(Framing::UntilClose, b"a"), Ok(()));
        assert_eq!(after(Framing::Length(1), b"a"), Ok(()));
        assert_eq!(after(Framing::None, b""), Ok(()));
        assert_eq!(after(Framing::Chunked, b"0\r\n\r\n"), Ok(()));
        assert_eq!(after(Framing::Length(2), b"a"), Err(BodyFault::Truncated));
        assert_eq!(after(Framing::Chunked, b"1\r\na\r\n"), Err(BodyFault::Truncated));
        assert_eq!(after(Framing::Chunked, b"0\r\n"), Err(BodyFault::Truncated));
    }

    fn chunked() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            &b"0"[..],
            b"1",
            b"2",
            b"f",
            b"\r\n",
            b"\r",
            b"\n",
            b";",
            b"a",
            b"=",
            b"\"",
            b"\\",
            b" ",
            b":",
            b"\0",
            b"0\r\n",
            b"1\r\nx\r\n",
            b"3;a=b\r\nxyz\r\n",
            b"\r\n\r\n",
            b"T: v\r\n",
        ]);
        prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
    }

    proptest! {
        /// [H7] [H8] [H9] A chunked body means the same however it is cut, byte by byte too.
        #[test]
        fn a_cut_anywhere_changes_nothing(input in chunked()) {
            let whole = decode(Framing::Chunked, &[&input]);
            for cut in 0..=input.len() {
                prop_assert_eq!(&decode(Framing::Chunked, &[&input[..cut], &input[cut..]]), &whole);
            }
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            prop_assert_eq!(&decode(Framing::Chunked, &bytes), &whole);
        }

        #[test]
        fn what_is_written_is_read_again(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
            let mut out = Vec::new();
            for piece in &pieces {
                write_chunk(&mut out, piece);
            }
            write_last_chunk(&mut out);
            prop_assert_eq!(decode(Framing::Chunked, &[&out]), Ok((pieces.concat(), out.len(), true)));
        }

        #[test]
        fn size_lines(length in any::<usize>()) {
            let (found, want) = (ChunkSize::of(length), format!("{length:x}\r\n"));
            prop_assert_eq!(found.as_bytes(), want.as_bytes());
        }
    }
}
