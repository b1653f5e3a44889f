//! What must be true of any bytes that come as HTTP. See `base::fuzz` for how these are run.

use super::body::{self, BodyDecoder, BodyFault};
use super::field::{Fields, Known};
use super::head::{Framing, HeadFault, Method, Progress, RequestHead, ResponseHead, Version};
use super::sse::{self, EventParser, SseFault};
use crate::base::fuzz::cuts;
use crate::base::limits::{
    CHUNK_EXTENSION_BYTES_MAX, CHUNK_EXTENSIONS_BYTES_MAX, FIELD_VALUE_BYTES_MAX, HEAD_BYTES_MAX, HEAD_FIELDS_MAX,
};

/// A request head: the same however it comes; what is accepted has one framing, one host and a path that is no other.
///
/// # Panics
/// When one of these is not true.
pub fn request_head(data: &[u8]) {
    let mut head = RequestHead::new();
    let whole = head.parse(data);
    let mut pieces = RequestHead::new();
    for cut in cuts(data) {
        let again = match pieces.parse(&data[..cut]) {
            Ok(Progress::Partial) => pieces.parse(data),
            early => early,
        };
        assert_eq!(again, whole, "cut at {cut}");
        if again == Ok(Progress::Complete) {
            assert_same_request(&pieces, &head);
        } else if again == Ok(Progress::Partial) {
            // What it read so far would be continued.
            pieces = RequestHead::new();
        }
    }
    assert_eq!(byte_by_byte(data, |bytes| pieces.parse(bytes)), whole, "byte by byte");
    if whole == Ok(Progress::Complete) {
        assert_same_request(&pieces, &head);
        assert_sound_request(data, &head);
    }
}

/// A response head, as an answer to GET and to HEAD.
///
/// # Panics
/// When it depends on how it comes, or what is accepted is not sound.
pub fn response_head(data: &[u8]) {
    for answer_to in [Method::Get, Method::Head] {
        let mut head = ResponseHead::new();
        let whole = head.parse(data, answer_to);
        let mut pieces = ResponseHead::new();
        for cut in cuts(data) {
            let again = match pieces.parse(&data[..cut], answer_to) {
                Ok(Progress::Partial) => pieces.parse(data, answer_to),
                early => early,
            };
            assert_eq!(again, whole, "cut at {cut}");
            if again == Ok(Progress::Complete) {
                assert_same_response(&pieces, &head);
            } else if again == Ok(Progress::Partial) {
                pieces = ResponseHead::new();
            }
        }
        assert_eq!(byte_by_byte(data, |bytes| pieces.parse(bytes, answer_to)), whole, "byte by byte");
        if whole == Ok(Progress::Complete) {
            assert_same_response(&pieces, &head);
            assert_sound_response(data, &head, answer_to);
        }
    }
}

/// The bytes as a request target: what is accepted is read in the same way by another parser (that of the `url`
/// crate), which finds nothing in it to normalise, and undoing its escapes adds no separator.
///
/// # Panics
/// When the two readings differ.
pub fn target(data: &[u8]) {
    let mut head = RequestHead::new();
    for method in [&b"GET "[..], b"OPTIONS ", b"CONNECT "] {
        let host: &[u8] = if method == b"CONNECT " { data } else { b"a.example" };
        let request = [method, data, b" HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat();
        if head.parse(&request) != Ok(Progress::Complete) {
            continue;
        }
        if request.len() == head.end {
            assert!(head.target.of(&request) == data || data.iter().any(|byte| matches!(byte, b' ' | b'\r')));
        }
        assert_path(head.path.of(&request));
        let path = text(head.path.of(&request));
        let whole = format!("http://a.example{path}");
        if let (false, Ok(url)) = (path.is_empty(), url::Url::parse(&whole)) {
            assert_eq!(url.path(), path, "another parser would route it elsewhere");
            assert_eq!(url.host_str(), Some("a.example"));
        }
        if let Some(query) = head.query {
            let query = query.of(&request);
            assert!(query.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#'));
        }
    }
}

/// A chunked body: the same however it comes, the data that a simple reader finds, and no byte behind it.
///
/// # Panics
/// When one of these is not true.
pub fn chunked(data: &[u8]) {
    let whole = decode(&[data]);
    for cut in cuts(data) {
        assert_eq!(decode(&[&data[..cut], &data[cut..]]), whole, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(decode(&bytes), whole, "byte by byte");
    if let Ok((body, consumed, done)) = &whole {
        assert!(*done || *consumed == data.len(), "a decoder takes all it is given until the body ends");
        if *done {
            assert_eq!(simple_chunks(&data[..*consumed]).as_ref(), Some(body), "another reader finds other data");
        }
    }
    // And what we write is read again: `data` in two chunks.
    let (one, two) = data.split_at(data.len() / 2);
    let mut written = Vec::new();
    body::write_chunk(&mut written, one);
    body::write_chunk(&mut written, two);
    body::write_last_chunk(&mut written);
    let length = written.len();
    written.extend_from_slice(b"GET");
    assert_eq!(decode(&[&written]), Ok((data.to_vec(), length, true)));
}

/// An event stream: the same events however it comes, and written anew they are the same events again.
///
/// # Panics
/// When one of these is not true.
pub fn events(data: &[u8]) {
    let whole = relay(&[data]);
    for cut in cuts(data) {
        assert_eq!(relay(&[&data[..cut], &data[cut..]]), whole, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(relay(&bytes), whole, "byte by byte");
    let again = relay(&[&whole.written]);
    assert_eq!(again.written, whole.written, "written anew, parsed again");
    assert_eq!((again.events, again.dropped, again.fault), (whole.events, 0, None));
}

/// Calls `parse` with ever more of `data` until it decides.
fn byte_by_byte(
    data: &[u8],
    mut parse: impl FnMut(&[u8]) -> Result<Progress, HeadFault>,
) -> Result<Progress, HeadFault> {
    for end in 0..data.len() {
        match parse(&data[..end]) {
            Ok(Progress::Partial) => {}
            decided => return decided,
        }
    }
    parse(data)
}

fn assert_same_request(one: &RequestHead, other: &RequestHead) {
    let line = |head: &RequestHead| (head.method, head.version, head.target, head.path, head.query, head.host);
    let rest = |head: &RequestHead| (head.framing, head.keep_alive, head.expect_continue, head.end);
    assert_eq!(line(one), line(other));
    assert_eq!(rest(one), rest(other));
    assert_eq!(one.fields[..], other.fields[..]);
}

fn assert_same_response(one: &ResponseHead, other: &ResponseHead) {
    let rest = |head: &ResponseHead| (head.status, head.version, head.framing, head.keep_alive, head.end);
    assert_eq!(rest(one), rest(other));
    assert_eq!(one.fields[..], other.fields[..]);
}

fn assert_sound_request(data: &[u8], head: &RequestHead) {
    let model = SimpleHead::of(data, head.end);
    assert_sound_fields(data, head.end, &head.fields, &model);
    assert_eq!(model.named("host").len(), 1, "exactly one Host");
    assert_eq!(head.host.of(data), model.named("host")[0]);
    assert!(!head.host.of(data).iter().any(|byte| b"@/\\,?# %".contains(byte)), "a host and a port, no more");
    let target = head.target.of(data);
    if let Some(slashes) = target.windows(3).position(|three| three == b"://") {
        // In front of the path it is a scheme, and what follows is the host.
        let authority = target[slashes + 3..].split(|byte| b"/?".contains(byte)).next();
        let absolute = !target[..slashes].iter().any(|byte| b"/?".contains(byte));
        assert!(!absolute || authority.is_some_and(|host| host.eq_ignore_ascii_case(head.host.of(data))));
    }
    assert_path(head.path.of(data));
    assert!(head.target.len() <= FIELD_VALUE_BYTES_MAX && !head.target.is_empty());
    for part in [head.path, head.query.unwrap_or(head.path)] {
        assert!(head.target.start <= part.start && part.end <= head.target.end, "the target holds its parts");
    }
    let coded = model.named("transfer-encoding");
    let lengths = model.named("content-length");
    match head.framing {
        Framing::None => assert!(coded.is_empty() && lengths.is_empty()),
        Framing::Length(length) => {
            assert!(coded.is_empty() && lengths.len() == 1 && number(lengths[0]) == Some(length))
        }
        Framing::Chunked => {
            assert!(lengths.is_empty() && coded.len() == 1 && coded[0].eq_ignore_ascii_case(b"chunked"));
            assert_eq!(head.version, Version::Http11);
        }
        Framing::UntilClose => unreachable!("a request has an end of its own"),
    }
    let expected = model.named("expect");
    assert!(expected.iter().all(|value| value.eq_ignore_ascii_case(b"100-continue")));
    assert!(!head.expect_continue || !expected.is_empty());
}

fn assert_sound_response(data: &[u8], head: &ResponseHead, answer_to: Method) {
    let model = SimpleHead::of(data, head.end);
    assert_sound_fields(data, head.end, &head.fields, &model);
    assert!((100..=599).contains(&head.status) && head.status != 101);
    assert_eq!(head.is_interim(), head.status < 200);
    let coded = model.named("transfer-encoding");
    let lengths = model.named("content-length");
    assert!(coded.len() + lengths.len() <= 1, "one framing at most");
    let bodiless = head.is_interim() || matches!(head.status, 204 | 304) || answer_to == Method::Head;
    assert_eq!(head.framing == Framing::None, bodiless);
    if let Framing::Length(length) = head.framing {
        assert_eq!(number(lengths[0]), Some(length));
    }
    assert!(head.framing != Framing::Chunked || coded[0].eq_ignore_ascii_case(b"chunked"));
    assert!(head.framing != Framing::UntilClose || (!head.keep_alive && coded.is_empty() && lengths.is_empty()));
}

fn assert_sound_fields(data: &[u8], end: usize, fields: &Fields, model: &SimpleHead<'_>) {
    assert!(end <= data.len().min(HEAD_BYTES_MAX) && data[..end].ends_with(b"\r\n\r\n"));
    assert!(fields.len() <= HEAD_FIELDS_MAX);
    assert_eq!(fields.len(), model.fields.len(), "another reader finds other fields");
    for (field, (name, value)) in fields.iter().zip(&model.fields) {
        assert_eq!((field.name.of(data), field.value.of(data)), (*name, *value));
        assert_eq!(field.known, Known::of(name));
        assert!(value.len() <= FIELD_VALUE_BYTES_MAX);
        let Some(known) = field.known else { continue };
        assert!(name.eq_ignore_ascii_case(known.name().as_bytes()));
        let all = model.named(known.name());
        assert_eq!(fields.count(known), all.len());
        assert_eq!(fields.is_repeated(known), all.len() > 1);
        assert_eq!(fields.get(data, known), Some(all[0]));
        assert!(fields.all(data, known).eq(all));
    }
}

/// A head as the simplest reader takes it: lines at CR LF, names before the first colon.
struct SimpleHead<'a> {
    fields: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> SimpleHead<'a> {
    /// # Panics
    /// When the accepted head is not even that.
    fn of(data: &'a [u8], end: usize) -> Self {
        let head = &data[..end - 4];
        assert!(!head.iter().any(|byte| *byte == 0 || *byte == 0x7f), "no NUL, no DEL");
        let mut lines = Vec::new();
        let mut start = 0;
        for (at, pair) in head.windows(2).enumerate() {
            assert!((pair[0] == b'\r') == (pair[1] == b'\n'), "CR and LF stand together only");
            if pair == b"\r\n" {
                lines.push(&head[start..at]);
                start = at + 2;
            }
        }
        lines.push(&head[start..]);
        let field = |line: &&'a [u8]| {
            let colon = line.iter().position(|byte| *byte == b':').expect("a field line has a colon");
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            assert!(!name.is_empty() && name.iter().all(token), "a field name is a token");
            assert!(value.iter().all(|byte| *byte >= b' ' || *byte == b'\t'), "a value has no controls");
            (name, value.trim_ascii())
        };
        Self { fields: lines[1..].iter().map(field).collect() }
    }

    fn named(&self, name: &str) -> Vec<&'a [u8]> {
        let named = |field: &&(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().filter(named).map(|field| field.1).collect()
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().all(u8::is_ascii_digit).then(|| text(digits).parse().ok()).flatten()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A path of ours, before and after its escapes are undone, has no part that some reader takes for more than a name.
fn assert_path(path: &[u8]) {
    assert!(path.is_empty() || path[0] == b'/');
    let mut undone = Vec::new();
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'%' {
            let value = u8::from_str_radix(text(&rest[..2]), 16).expect("two digits follow");
            assert!(!b"/\\.;%".contains(&value) && !value.is_ascii_control(), "an escape that hides a sign");
            undone.push(value);
            rest = &rest[2..];
        } else {
            undone.push(*byte);
        }
    }
    assert!(!undone.iter().any(|byte| matches!(byte, b'\\' | b';' | b'%')));
    let mut segments = undone.split(|byte| *byte == b'/');
    assert_eq!(segments.next().map(<[u8]>::len), Some(0));
    let count = segments.clone().count();
    for (index, segment) in segments.enumerate() {
        assert!(!segment.is_empty() || index + 1 == count, "no empty segment but the last");
        assert!(segment != b"." && !segment.windows(2).any(|two| two == b".."), "no dots");
    }
}

type Decoded = Result<(Vec<u8>, usize, bool), BodyFault>;

fn decode(pieces: &[&[u8]]) -> Decoded {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut data, mut consumed) = (Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let found = decoder.step(rest)?;
            assert!(found.consumed > 0 && found.consumed <= rest.len(), "a step goes on");
            data.extend_from_slice(found.data.of(&rest[..found.consumed]));
            consumed += found.consumed;
            rest = &rest[found.consumed..];
            assert_eq!((found.done, found.done), (decoder.is_done(), decoder.eof().is_ok()));
            if found.done {
                return Ok((data, consumed, true));
            }
        }
    }
    Ok((data, consumed, false))
}

/// The data of a whole chunked body, by the simplest reader there is.
fn simple_chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let line_end = |rest: &[u8]| rest.windows(2).position(|two| two == b"\r\n");
    let (mut data, mut extensions) = (Vec::new(), 0);
    loop {
        let line = &rest[..line_end(rest)?];
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let extension = line.len() - digits.len();
        extensions += extension;
        let bounded = extension <= CHUNK_EXTENSION_BYTES_MAX && extensions <= CHUNK_EXTENSIONS_BYTES_MAX;
        let size = usize::from_str_radix(text(digits), 16).ok()?;
        if !bounded || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = &rest[line.len() + 2..];
        if size == 0 {
            break;
        }
        data.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
    // Trailers, up to the empty line, which must be the end.
    let mut trailers = 0;
    while !rest.starts_with(b"\r\n") {
        rest = &rest[line_end(rest)? + 2..];
        trailers += 1;
    }
    (rest.len() == 2 && trailers <= HEAD_FIELDS_MAX).then_some(data)
}

/// What became of a stream.
#[derive(Debug, Default, PartialEq)]
struct Relayed {
    written: Vec<u8>,
    events: usize,
    dropped: u64,
    fault: Option<SseFault>,
}

fn relay(pieces: &[&[u8]]) -> Relayed {
    let mut parser = EventParser::new();
    let mut out = Relayed::default();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match parser.push(rest) {
                Ok(consumed) => rest = &rest[consumed..],
                Err(fault) => {
                    out.fault = Some(fault);
                    return out;
                }
            }
            out.dropped = parser.dropped();
            if parser.ready() {
                out.events += 1;
                let event = parser.event();
                assert!(!event.data.is_some_and(|data| data.contains(&b'\r')), "a CR has ended its line");
                sse::write_event(&mut out.written, &event).expect("what was read can be written");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    /// [H1] [H2] [H3] [H4] [H5] [H6] [H7] [H10] Heads that are accepted are those that the simplest reader reads alike.
    #[test]
    fn request_heads_hold() {
        hold("http_request_head", request_head);
    }

    #[test]
    fn response_heads_hold() {
        hold("http_response_head", response_head);
    }

    /// [O1] A path that is accepted is the same path to others, before and after its escapes are undone.
    #[test]
    fn targets_hold() {
        hold("http_target", target);
    }

    /// [H8] [H9] A chunked body has the data that the simplest strict reader finds, and its trailers are not seen.
    #[test]
    fn chunked_bodies_hold() {
        hold("http_chunked", chunked);
    }

    /// [S1] Events are the same however they come, and the same again when they are written anew.
    #[test]
    fn event_streams_hold() {
        hold("http_events", events);
    }
}
