//! Event streams: a reader that may stop at any byte, and a writer (WHATWG HTML 9.2.5-9.2.6).

use crate::base::limits::{EVENT_BYTES_KEPT, EVENT_BYTES_MAX};
use memchr::{memchr, memchr2};

/// One event, or the parts of one that were there. A block that only sets an id or a retry is an event here too, so
/// that a relay passes it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// `id`; empty means that the last id is forgotten.
    pub id: Option<&'a [u8]>,
    /// `event`
    pub name: Option<&'a [u8]>,
    /// `data`, its lines joined by LF.
    pub data: Option<&'a [u8]>,
    /// `retry`, milliseconds.
    pub retry: Option<u64>,
}

/// What can be wrong with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SseFault {
    /// What an event holds and its next line are together more than `EVENT_BYTES_MAX`.
    #[error("event too long")]
    TooLong,
    /// CR, LF or NUL in an id or a name that is to be written.
    #[error("line break or NUL in an event's id or name")]
    LineBreak,
}

/// Reads events from the pieces a stream comes in. Holds at most one event and one unfinished line, together no more
/// than `EVENT_BYTES_MAX`; comments are not held.
#[derive(Clone, Debug, Default)]
pub struct EventParser {
    /// The line that has not ended yet; of a comment nothing is kept.
    line: Vec<u8>,
    data: Vec<u8>,
    id: Vec<u8>,
    name: Vec<u8>,
    retry: Option<u64>,
    has: Has,
    /// The event has ended and waits to be taken.
    ready: bool,
    /// The last byte was a CR: an LF right after it belongs to it.
    after_cr: bool,
    in_comment: bool,
    /// How much of a byte order mark has been seen; all of it once the stream is past its start.
    bom: usize,
    dropped: u64,
}

/// Which fields the event has.
#[derive(Clone, Copy, Debug, Default)]
struct Has {
    id: bool,
    name: bool,
    data: bool,
    /// NUL in its id or name: the event will be dropped.
    nul: bool,
}

impl EventParser {
    /// A reader at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins anew, at the start of another stream; keeps a little of its memory.
    pub fn reset(&mut self) {
        self.forget();
        self.line.clear();
        self.line.shrink_to(EVENT_BYTES_KEPT);
        (self.after_cr, self.in_comment, self.bom, self.dropped) = (false, false, 0, 0);
    }

    /// Goes on at the start of `bytes`, up to and with the end of the next event, and says how far it came. When
    /// `ready` says so, take the event before the next push, which forgets it and gives its memory back; a push of no
    /// bytes does only that, for a stream that falls idle.
    ///
    /// # Errors
    /// `TooLong`; the stream must end then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, SseFault> {
        if self.ready {
            self.forget();
        }
        let mut at = self.skip_bom(bytes);
        while at < bytes.len() && !self.ready {
            if std::mem::take(&mut self.after_cr) && bytes[at] == b'\n' {
                at += 1;
                continue;
            }
            let rest = &bytes[at..];
            if let Some(usual) = self.usual_line(rest)? {
                at += usual;
                continue;
            }
            let end = memchr2(b'\r', b'\n', rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            at += piece.len();
            if let Some(end) = end {
                at += 1;
                self.after_cr = rest[end] == b'\r';
                self.end_line(piece)?;
            } else {
                self.keep(piece)?;
            }
        }
        Ok(at)
    }

    /// Whether an event has ended.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// The event that has ended; parts of one, or nothing, while `ready` is false.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        Event {
            id: self.has.id.then_some(&self.id),
            name: self.has.name.then_some(&self.name),
            data: self.has.data.then_some(&self.data),
            retry: self.retry,
        }
    }

    /// How many events were dropped for a NUL in their id or name.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many bytes at the start of `bytes` belong to the byte order mark that a stream may start with.
    fn skip_bom(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.bom < BOM.len() && at < bytes.len() {
            if bytes[at] == BOM[self.bom] {
                self.bom += 1;
                at += 1;
            } else {
                // What looked like one is the start of a line.
                self.line.extend_from_slice(&BOM[..self.bom]);
                self.bom = BOM.len();
            }
        }
        at
    }

    /// Deals with a whole line at the start of `rest` that nearly every event has, and needs no search for its end; says
    /// how long it was.
    fn usual_line(&mut self, rest: &[u8]) -> Result<Option<usize>, SseFault> {
        if !self.line.is_empty() || self.in_comment {
            return Ok(None);
        }
        if rest.first() == Some(&b'\n') {
            self.end_event();
            return Ok(Some(1));
        }
        if !rest.starts_with(NAMED_MESSAGE) {
            return Ok(None);
        }
        self.check_room(NAMED_MESSAGE.trim_ascii_end())?;
        self.has.name = true;
        b"message".as_slice().clone_into(&mut self.name);
        Ok(Some(NAMED_MESSAGE.len()))
    }

    /// Keeps the part of a line that has come.
    fn keep(&mut self, piece: &[u8]) -> Result<(), SseFault> {
        self.in_comment |= self.line.is_empty() && piece.first() == Some(&b':');
        if !self.in_comment {
            self.check_room(piece)?;
            self.line.extend_from_slice(piece);
        }
        Ok(())
    }

    /// Deals with the line that ends with `piece`.
    fn end_line(&mut self, piece: &[u8]) -> Result<(), SseFault> {
        if std::mem::take(&mut self.in_comment) || (self.line.is_empty() && piece.first() == Some(&b':')) {
            return Ok(());
        }
        self.check_room(piece)?;
        if self.line.is_empty() {
            self.read_line(piece);
            return Ok(());
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(piece);
        self.read_line(&line);
        line.clear();
        line.shrink_to(EVENT_BYTES_KEPT);
        self.line = line;
        Ok(())
    }

    /// Whether `piece` may join the line. Counted in bytes of the wire, so that it does not matter how a line is cut.
    fn check_room(&self, piece: &[u8]) -> Result<(), SseFault> {
        let held = self.data.len() + self.id.len() + self.name.len() + self.line.len();
        if held + piece.len() <= EVENT_BYTES_MAX { Ok(()) } else { Err(SseFault::TooLong) }
    }

    fn read_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            return self.end_event();
        }
        let colon = if line.starts_with(b"data:") { Some(4) } else { memchr(b':', line) };
        let (name, value) = match colon {
            None => (line, &line[line.len()..]),
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
        };
        match name {
            b"data" => {
                if self.has.data {
                    self.data.push(b'\n');
                }
                self.has.data = true;
                self.data.extend_from_slice(value);
            }
            b"id" => {
                self.has.id = true;
                self.has.nul |= memchr(0, value).is_some();
                value.clone_into(&mut self.id);
            }
            b"event" => {
                self.has.name = true;
                self.has.nul |= memchr(0, value).is_some();
                value.clone_into(&mut self.name);
            }
            b"retry" => self.retry = read_number(value).or(self.retry),
            // Fields nobody knows are skipped.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let has = self.has;
        if has.nul {
            self.dropped += 1;
            self.forget();
        } else {
            self.ready = has.id || has.name || has.data || self.retry.is_some();
        }
    }

    fn forget(&mut self) {
        for field in [&mut self.data, &mut self.id, &mut self.name] {
            field.clear();
            field.shrink_to(EVENT_BYTES_KEPT);
        }
        self.retry = None;
        self.has = Has::default();
        self.ready = false;
    }
}

/// Appends one event. Its data is split into lines at CR LF, CR and LF.
///
/// # Errors
/// `LineBreak` when the id or the name would be read as something else; nothing is written then.
pub fn write_event(out: &mut Vec<u8>, event: &Event<'_>) -> Result<(), SseFault> {
    let lines = [event.id, event.name];
    if lines.iter().flatten().any(|value| value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))) {
        return Err(SseFault::LineBreak);
    }
    if let Some(id) = event.id {
        write_line(out, b"id: ", id);
    }
    if let Some(name) = event.name {
        write_line(out, b"event: ", name);
    }
    if let Some(retry) = event.retry {
        write_line(out, b"retry: ", itoa::Buffer::new().format(retry).as_bytes());
    }
    if let Some(data) = event.data {
        each_line(data, |line| write_line(out, b"data: ", line));
    }
    out.push(b'\n');
    Ok(())
}

/// Appends a comment, which every reader skips, between two events.
pub fn write_comment(out: &mut Vec<u8>, text: &[u8]) {
    each_line(text, |line| write_line(out, b": ", line));
    out.push(b'\n');
}

fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Calls `line` with each line of `text`, at least once.
fn each_line(text: &[u8], mut line: impl FnMut(&[u8])) {
    let mut rest = text;
    while let Some(end) = memchr2(b'\r', b'\n', rest) {
        line(&rest[..end]);
        let after = &rest[end + 1..];
        rest = if rest[end] == b'\r' { after.strip_prefix(b"\n").unwrap_or(after) } else { after };
    }
    line(rest);
}

/// Digits only; a number that does not fit is none.
fn read_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// The line that names an event as MCP does.
const NAMED_MESSAGE: &[u8] = b"event: message\n";

const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All events of `text`, pushed in two pieces cut at `cut`, written out again; then the fault, if there was one.
    fn relay(text: &[u8], cut: usize) -> (Vec<u8>, Option<SseFault>) {
        relay_pieces([&text[..cut], &text[cut..]].into_iter())
    }

    /// The same, in these pieces.
    fn relay_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<SseFault>) {
        let mut parser = EventParser::new();
        let mut out = Vec::new();
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() {
                match parser.push(&piece[at..]) {
                    Ok(consumed) => at += consumed,
                    Err(fault) => return (out, Some(fault)),
                }
                if parser.ready() {
                    write_event(&mut out, &parser.event()).expect("what was read can be written");
                }
            }
        }
        (out, None)
    }

    #[track_caller]
    fn check(text: &str, want: &str) {
        for cut in 0..=text.len() {
            let (out, fault) = relay(text.as_bytes(), cut);
            assert_eq!((String::from_utf8_lossy(&out).as_ref(), fault), (want, None), "{text:?} cut at {cut}");
        }
        let (out, fault) = relay_pieces(text.as_bytes().chunks(1));
        assert_eq!((String::from_utf8_lossy(&out).as_ref(), fault), (want, None), "{text:?} byte by byte");
    }

    /// [S1] Events in every shape, cut anywhere and byte by byte, written out again.
    #[test]
    fn events() {
        check("", "");
        check("data: a\n\n", "data: a\n\n");
        check("data:a\r\rdata: b\r\n\r\ndata:  c\n\r", "data: a\n\ndata: b\n\ndata:  c\n\n");
        check("data: a\ndata: b\n\n", "data: a\ndata: b\n\n");
        check("data\n\ndata\ndata\n\n", "data: \n\ndata: \ndata: \n\n");
        check("\u{feff}data: a\n\n", "data: a\n\n");
        check("\u{feff}\u{feff}data: a\n\ndata: b\n\n", "data: b\n\n");
        check(": ping\n\n:\n\n\n\n\r\n", "");
        check(": ping\ndata: a\n: pong\n\n", "data: a\n\n");
        check("id: 7\nevent: message\nretry: 15\ndata: a\n\n", "id: 7\nevent: message\nretry: 15\ndata: a\n\n");
        check("id: 7\ndata:\n\n", "id: 7\ndata: \n\n");
        check("id: 7\n\nretry: 3\n\nid\n\n", "id: 7\n\nretry: 3\n\nid: \n\n");
        check("id: 1\nid: 2\ndata: a\n\n", "id: 2\ndata: a\n\n");
        check("retry: x\nretry: +1\nretry:\nretry: 99999999999999999999\n\n", "");
        check("other: a\n data: b\nDATA: c\n\n", "");
        check("id: a\0b\ndata: a\n\ndata: b\n\n", "data: b\n\n");
        check("event: \0\ndata: a\n\ndata: \0\n\n", "data: \0\n\n");
        check("data: never ends", "");
        check("data: never ends\n", "");
    }

    #[test]
    fn an_event_ends_at_the_first_byte_of_its_last_line_break() {
        let mut parser = EventParser::new();
        assert_eq!(parser.push(b"data: a\r\n\r\ndata: b\n\n"), Ok(10));
        assert!(parser.ready());
        assert_eq!(parser.event(), Event { data: Some(b"a"), ..Event::default() });
        assert_eq!(parser.push(b"\ndata: b\n\n"), Ok(10));
        assert_eq!(parser.event().data, Some(&b"b"[..]));
        assert_eq!(parser.push(b""), Ok(0));
        assert!(!parser.ready());
        assert_eq!(parser.event(), Event::default());
    }

    /// [S1] A NUL in the id or the name drops the event.
    #[test]
    fn dropped_events_are_counted() {
        let mut parser = EventParser::new();
        let text = b"id: \0\ndata: a\n\nevent: \0\n\n";
        assert_eq!(parser.push(text), Ok(text.len()));
        assert_eq!((parser.ready(), parser.dropped()), (false, 2));
    }

    /// [S1] One event is bounded, to the byte.
    #[test]
    fn one_event_is_bounded_however_it_comes() {
        for fits in [true, false] {
            let mut text = b"data: ".to_vec();
            text.resize(EVENT_BYTES_MAX + usize::from(!fits), b'x');
            text.extend_from_slice(b"\n\n");
            let fault = (!fits).then_some(SseFault::TooLong);
            for cut in [0, 1, 6, 1000, EVENT_BYTES_MAX - 1, EVENT_BYTES_MAX, EVENT_BYTES_MAX + 1, text.len()] {
                assert_eq!(relay(&text, cut).1, fault, "{fits} {cut}");
            }
        }
        // Many lines are one event; an endless comment is held nowhere.
        let lines = b"data: 0123456789\n".repeat(EVENT_BYTES_MAX / 11 + 1);
        assert_eq!(relay(&lines, 0).1, Some(SseFault::TooLong));
        let mut parser = EventParser::new();
        for _ in 0..3 {
            parser.push(b":").unwrap();
            parser.push(&vec![b'x'; EVENT_BYTES_MAX]).unwrap();
        }
        assert!(parser.line.capacity() <= EVENT_BYTES_KEPT);
    }

    #[test]
    fn a_large_event_leaves_no_memory_behind() {
        let mut parser = EventParser::new();
        parser.push(b"data: ").unwrap();
        parser.push(&vec![b'x'; 500_000]).unwrap();
        parser.push(b"\n\n").unwrap();
        assert_eq!(parser.event().data.map(<[u8]>::len), Some(500_000));
        parser.push(b"").unwrap();
        let held = [&parser.line, &parser.data, &parser.id, &parser.name].map(Vec::capacity);
        assert!(held.iter().sum::<usize>() <= 4 * EVENT_BYTES_KEPT, "{held:?}");
    }

    /// [S1] CR, LF and CR LF in data become lines; in an id or a name they are refused.
    #[test]
    fn writing() {
        let mut out = Vec::new();
        for event in [
            Event { id: Some(b"a\nb"), ..Event::default() },
            Event { name: Some(b"a\rb"), ..Event::default() },
            Event { id: Some(b"\0"), ..Event::default() },
        ] {
            assert_eq!(write_event(&mut out, &event), Err(SseFault::LineBreak));
        }
        assert!(out.is_empty());
        write_event(&mut out, &Event { data: Some(b"a\rb\nc\r\nd\n\re"), ..Event::default() }).unwrap();
        write_comment(&mut out, b"");
        write_comment(&mut out, b"x\ndata: y");
        let want = "data: a\ndata: b\ndata: c\ndata: d\ndata: \ndata: e\n\n: \n\n: x\n: data: y\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            &b"data"[..],
            b"id",
            b"event",
            b"retry",
            b":",
            b": ",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"a",
            b"7",
            b"\0",
            b"\xef",
            b"\xef\xbb\xbf",
            b"\xff",
        ]);
        prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
    }

    proptest! {
        /// [S1] A stream means the same however it is cut, byte by byte too.
        #[test]
        fn a_cut_anywhere_changes_nothing(text in stream()) {
            let whole = relay(&text, 0);
            for cut in 1..=text.len() {
                prop_assert_eq!(&relay(&text, cut), &whole);
            }
            prop_assert_eq!(&relay_pieces(text.chunks(1)), &whole);
        }

        #[test]
        fn what_is_written_is_read_again(
            id in prop::option::of("[^\r\n\0]{0,9}"),
            name in prop::option::of("[^\r\n\0]{0,9}"),
            data in prop::option::of("[^\r]{0,30}"),
            retry in prop::option::of(any::<u64>()),
        ) {
            let bytes = |text: &'_ Option<String>| text.clone().map(String::into_bytes);
            let (id, name, data) = (bytes(&id), bytes(&name), bytes(&data));
            let event = Event { id: id.as_deref(), name: name.as_deref(), data: data.as_deref(), retry };
            let mut out = Vec::new();
            write_event(&mut out, &event).unwrap();
            let mut parser = EventParser::new();
            prop_assert_eq!(parser.push(&out), Ok(out.len()));
            prop_assert_eq!(parser.ready(), event != Event::default());
            prop_assert_eq!(parser.event(), event);
        }
    }
}
