//! Field names the gateway knows, the fields of one head, and the byte classes both are made of.

use crate::base::limits::HEAD_BYTES_MAX;
use crate::base::span::Span;

/// How a field may travel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// An ordinary field.
    Plain,
    /// Means something to the gateway or its upstream: a client may not have it removed by naming it in `Connection`.
    Protected,
    /// Belongs to one connection and is never passed on (RFC 9110 7.6.1).
    Hop,
}

struct Row {
    name: &'static str,
    /// How its line begins.
    line: &'static str,
    key: Key,
    /// Which bits tell a capital letter from a small one, in `key`.
    case: Key,
    part: Part,
}

macro_rules! known {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $part:ident;)*) => {
        /// A field name the gateway has a use for; anything else is only ever skipped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known {$(
            $(#[$doc])*
            #[doc = concat!("`", $name, "`")]
            $variant,
        )*}

        /// All of them, in the order of their numbers.
        const KNOWN: &[(Known, Row)] = &[$(
            (Known::$variant, Row {
                name: $name,
                line: concat!($name, ": "),
                key: key($name.as_bytes()),
                case: case(key($name.as_bytes())),
                part: Part::$part,
            }),
        )*];
    };
}

known! {
    Te,                           "te",                             Hop;
    Via,                          "via",                            Plain;
    Date,                         "date",                           Plain;
    Host,                         "host",                           Protected;
    Allow,                        "allow",                          Plain;
    Accept,                       "accept",                         Protected;
    Cookie,                       "cookie",                         Plain;
    Expect,                       "expect",                         Plain;
    Origin,                       "origin",                         Protected;
    Server,                       "server",                         Plain;
    Baggage,                      "baggage",                        Protected;
    Trailer,                      "trailer",                        Hop;
    Upgrade,                      "upgrade",                        Hop;
    Location,                     "location",                       Plain;
    McpName,                      "mcp-name",                       Protected;
    Forwarded,                    "forwarded",                      Plain;
    Connection,                   "connection",                     Hop;
    KeepAlive,                    "keep-alive",                     Hop;
    McpMethod,                    "mcp-method",                     Protected;
    SetCookie,                    "set-cookie",                     Plain;
    Tracestate,                   "tracestate",                     Protected;
    UserAgent,                    "user-agent",                     Protected;
    RetryAfter,                   "retry-after",                    Plain;
    Traceparent,                  "traceparent",                    Protected;
    ContentType,                  "content-type",                   Protected;
    CacheControl,                 "cache-control",                  Plain;
    Authorization,                "authorization",                  Protected;
    LastEventId,                  "last-event-id",                  Protected;
    ContentLength,                "content-length",                 Protected;
    McpSessionId,                 "mcp-session-id",                 Protected;
    AcceptEncoding,               "accept-encoding",                Protected;
    PortcullisTask,               "portcullis-task",                Protected;
    ContentEncoding,              "content-encoding",               Protected;
    PortcullisOwner,              "portcullis-owner",               Protected;
    ProxyConnection,              "proxy-connection",               Hop;
    WwwAuthenticate,              "www-authenticate",               Plain;
    TransferEncoding,             "transfer-encoding",              Protected;
    ProxyAuthenticate,            "proxy-authenticate",             Hop;
    ProxyAuthorization,           "proxy-authorization",            Hop;
    McpProtocolVersion,           "mcp-protocol-version",           Protected;
    AccessControlRequestMethod,   "access-control-request-method",  Plain;
    AccessControlRequestHeaders,  "access-control-request-headers", Plain;
}

impl Known {
    /// The known name that `name` spells, in any case.
    #[must_use]
    #[inline]
    pub fn of(name: &[u8]) -> Option<Self> {
        let (first, last) = key(name);
        let (known, row) = KNOWN.get(usize::from(*SLOTS.get(slot(name.len(), (first, last)))?))?;
        let same = first | row.case.0 == row.key.0 && last | row.case.1 == row.key.1;
        (same && row.name.len() == name.len() && same_middle(name, row.name.as_bytes())).then_some(*known)
    }

    /// The name in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        KNOWN[self as usize].1.name
    }

    /// The name in lower case, with what stands between it and a value.
    #[inline]
    pub(super) fn line(self) -> &'static str {
        KNOWN[self as usize].1.line
    }

    /// Whether the field is another from one message to the next, most times.
    pub(super) fn is_of_one_message(self) -> bool {
        use Known::{Baggage, ContentLength, Expect, LastEventId, McpName, Traceparent, Tracestate, TransferEncoding};
        matches!(
            self,
            Baggage | ContentLength | Expect | LastEventId | McpName | Traceparent | Tracestate | TransferEncoding
        )
    }

    /// Whether the field belongs to one connection only.
    #[must_use]
    pub fn is_hop_by_hop(self) -> bool {
        KNOWN[self as usize].1.part == Part::Hop || self == Self::TransferEncoding
    }
}

/// Whether no peer may have the field of this name removed by listing it in `Connection`.
pub(super) fn is_protected(name: &[u8]) -> bool {
    let mcp = name.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"mcp-"));
    mcp || Known::of(name).is_some_and(|known| KNOWN[known as usize].1.part == Part::Protected)
}

/// Whether a field of this name, in any case, belongs to one connection and is never passed on
/// (RFC 9110 7.6.1, with the two of RFC 2616 that still occur).
#[must_use]
pub fn hop_by_hop(name: &[u8]) -> bool {
    Known::of(name).is_some_and(Known::is_hop_by_hop)
}

/// One field of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name, as the peer spelled it.
    pub name: Span,
    /// The value without white space around it; never holds CR, LF or NUL.
    pub value: Span,
    /// Which of the known names it is.
    pub known: Option<Known>,
}

/// The fields of one head, in the order of the wire. Derefs to a slice of [`Field`].
#[derive(Clone, Debug)]
pub struct Fields {
    list: Vec<Field>,
    index: Index,
}

/// Where the fields of known names stand.
#[derive(Clone, Copy, Debug)]
struct Index {
    /// Place in the list of the first field of each name, counted from one.
    first: [u8; KNOWN.len()],
    /// The names that occur more than once, as bits.
    repeated: u64,
}

impl Index {
    const EMPTY: Self = Self { first: [0; KNOWN.len()], repeated: 0 };

    /// Adds the field that is the `place`th, counted from one.
    #[inline]
    fn add(&mut self, known: Option<Known>, place: usize) {
        let Some(known) = known else { return };
        let first = &mut self.first[known as usize];
        if *first == 0 {
            *first = u8::try_from(place).expect("a head has at most HEAD_FIELDS_MAX fields");
        } else {
            self.repeated |= 1 << (known as u64);
        }
    }
}

/// The first fields of a head, by their number.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    count: usize,
    index: Index,
}

impl Marks {
    /// No field.
    pub(super) const NONE: Self = Self { count: 0, index: Index::EMPTY };
}

impl Fields {
    pub(super) fn new() -> Self {
        Self { list: Vec::new(), index: Index::EMPTY }
    }

    pub(super) fn clear(&mut self) {
        self.restore(&Marks::NONE);
    }

    /// What `restore` needs to come back to the first `count` fields.
    pub(super) fn marks(&self, count: usize) -> Marks {
        let mut index = Index::EMPTY;
        for (place, field) in self.list.iter().take(count).enumerate() {
            index.add(field.known, place + 1);
        }
        Marks { count, index }
    }

    /// Drops all fields behind those of `marks`, which must still be the first ones.
    pub(super) fn restore(&mut self, marks: &Marks) {
        self.list.truncate(marks.count);
        self.index = marks.index;
    }

    #[inline]
    pub(super) fn push(&mut self, field: Field) {
        self.list.push(field);
        self.index.add(field.known, self.list.len());
    }

    /// The value of the first field of that name. Where a second one would matter, ask [`Fields::count`].
    #[must_use]
    #[inline]
    pub fn get<'a>(&self, bytes: &'a [u8], known: Known) -> Option<&'a [u8]> {
        Some(self.span(known)?.of(bytes))
    }

    /// Where the value of the first field of that name stands.
    #[must_use]
    #[inline]
    pub fn span(&self, known: Known) -> Option<Span> {
        let first = usize::from(self.index.first[known as usize]);
        Some(self.list[first.checked_sub(1)?].value)
    }

    /// Whether more than one field has that name.
    #[must_use]
    #[inline]
    pub fn is_repeated(&self, known: Known) -> bool {
        self.index.repeated & (1 << (known as u64)) != 0
    }

    /// How many fields have that name.
    #[must_use]
    pub fn count(&self, known: Known) -> usize {
        if self.is_repeated(known) {
            self.list.iter().filter(|field| field.known == Some(known)).count()
        } else {
            usize::from(self.index.first[known as usize] != 0)
        }
    }

    /// The values of all fields of that name.
    pub fn all<'a>(&self, bytes: &'a [u8], known: Known) -> impl Iterator<Item = &'a [u8]> {
        let first = usize::from(self.index.first[known as usize]);
        let from = first.checked_sub(1).unwrap_or(self.list.len());
        self.list[from..].iter().filter(move |field| field.known == Some(known)).map(|field| field.value.of(bytes))
    }

    /// The fields `Mcp-Param-…` (MCP 2026-07-28, Streamable HTTP): the name after the prefix, as it was spelled, and
    /// the value, still encoded.
    pub fn params<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.list.iter().filter(|field| field.known.is_none()).filter_map(move |field| {
            let name = field.name.of(bytes);
            Some((after_param_prefix(name)?, field.value.of(bytes)))
        })
    }

    /// Whether `field` must not be passed on: it belongs to this connection by its name, or `Connection` lists it.
    #[must_use]
    pub fn is_hop_by_hop(&self, bytes: &[u8], field: &Field) -> bool {
        let name = field.name.of(bytes);
        field.known.is_some_and(Known::is_hop_by_hop)
            || self.all(bytes, Known::Connection).flat_map(elements).any(|listed| listed.eq_ignore_ascii_case(name))
    }
}

impl std::ops::Deref for Fields {
    type Target = [Field];

    fn deref(&self) -> &[Field] {
        &self.list
    }
}

/// What follows `Mcp-Param-`, in any case, when something does.
pub(super) fn after_param_prefix(name: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = name.split_at_checked(PARAM_PREFIX.len())?;
    (!rest.is_empty() && prefix.eq_ignore_ascii_case(PARAM_PREFIX)).then_some(rest)
}

/// The elements of a comma-separated value, without white space around them; empty ones too.
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// `value` without spaces and tabs around it.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether `byte` may stand in a token, that is in a method or a field name (RFC 9110 5.6.2).
#[inline]
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether `text` is a token.
pub fn is_token(text: &[u8]) -> bool {
    // Without an early end: nearly all are tokens, and short.
    text.iter().fold(!text.is_empty(), |token, byte| token & is_token_byte(*byte))
}

/// The first byte at or after `from` that may not stand in a field value (RFC 9110 5.5: anything but controls; a tab
/// may). Looks at many bytes at a time, since values are most of a head.
#[inline(always)]
pub(super) fn value_end(bytes: &[u8], from: usize) -> Option<usize> {
    // Most values are short: their end is looked for here, that of others by a call.
    let near = bytes.get(from..)?;
    let (words, _) = near.as_chunks::<8>();
    let mut at = from;
    for word in words.iter().take(NEAR_WORDS) {
        let controls = control_bits(u64::from_le_bytes(*word));
        if controls != 0 {
            // The lowest bit is always right, but a tab it may be.
            let found = at + controls.trailing_zeros() as usize / 8;
            return if bytes.get(found) == Some(&b'\t') { value_end_far(bytes, found) } else { Some(found) };
        }
        at += 8;
    }
    value_end_far(bytes, at)
}

/// Whether `text` may be written as a field value.
#[inline]
pub(super) fn is_value(text: &[u8]) -> bool {
    // Most are short: the last word may lie upon the one before. A tab is looked at again.
    let controls = match (text.last_chunk::<8>(), text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(last), _, _) if text.len() <= 64 => {
            text.as_chunks::<8>().0.iter().fold(control_bits(u64::from_le_bytes(*last)), |all, word| {
                all | control_bits(u64::from_le_bytes(*word))
            })
        }
        (None, Some(first), Some(last)) => {
            control_bits(u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last)))
        }
        _ => 1,
    };
    controls == 0 || value_end(text, 0).is_none()
}

/// As `value_end`.
#[inline(never)]
fn value_end_far(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    // A token is hundreds of bytes long.
    let mut long = from.saturating_add(32);
    while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<16>) {
        if at >= long {
            at = skip_plain(bytes, at);
            long = at.saturating_add(64);
        } else if may_end_value(block)
            && let Some(found) = value_control_in(block)
        {
            return Some(at + found);
        } else {
            at += 16;
        }
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|byte| is_value_control(*byte)).map(|found| at + found)
}

/// From where on there may be a control, at or after `from`: everything before it is none.
#[inline(always)]
fn skip_plain(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(many) = bytes.get(at..).and_then(<[u8]>::first_chunk::<64>)
        && !may_end_value(many)
    {
        at += 64;
    }
    at
}

/// Whether there is a control among `bytes`. Without a branch for each, so that the compiler takes them by vectors.
#[inline(always)]
fn may_end_value<const N: usize>(bytes: &[u8; N]) -> bool {
    bytes.iter().fold(false, |found, byte| found | ((*byte < b' ') | (*byte == 0x7f)))
}

/// Which of them is the first that may not stand in a value.
#[inline(always)]
fn value_control_in(block: &[u8; 16]) -> Option<usize> {
    let (halves, _) = block.as_chunks::<8>();
    let mut at = 0;
    for half in halves {
        let controls = control_bits(u64::from_le_bytes(*half));
        if controls != 0 {
            // The lowest bit is always right, but a tab it may be.
            at += controls.trailing_zeros() as usize / 8;
            return if block.get(at) == Some(&b'\t') { value_control_behind_tab(block) } else { Some(at) };
        }
        at += 8;
    }
    None
}

#[cold]
fn value_control_behind_tab(block: &[u8; 16]) -> Option<usize> {
    block.iter().position(|byte| is_value_control(*byte))
}

/// The first colon, if it does not stand within the last few bytes.
#[inline(always)]
pub(super) fn colon(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for word in bytes.as_chunks::<8>().0 {
        let colon = u64::from_le_bytes(*word) ^ (LOW * b':' as u64);
        let stops = colon.wrapping_sub(LOW) & !colon & (LOW * 0x80);
        // The lowest bit is always right.
        if stops != 0 {
            return Some(at + stops.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    None
}

/// The first colon or control at or after `from`.
#[inline]
pub(super) fn name_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let colon = word ^ (LOW * b':' as u64);
        let stops = control_bits(word) | (colon.wrapping_sub(LOW) & !colon & (LOW * 0x80));
        // The lowest bit is always right.
        if stops != 0 {
            return Some(at + stops.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|byte| *byte == b':' || byte.is_ascii_control()).map(|found| at + found)
}

#[inline]
fn is_value_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// The high bit of each byte that is a control; of some that are not too, but only above one that is.
#[inline]
fn control_bits(word: u64) -> u64 {
    let below_space = word.wrapping_sub(LOW * 0x20) & !word;
    let erased = word ^ (LOW * 0x7f);
    let delete = erased.wrapping_sub(LOW) & !erased;
    (below_space | delete) & (LOW * 0x80)
}

/// The first and the last eight bytes of a name, which may be the same; of a short one all of it.
type Key = (u64, u64);

#[inline(always)]
const fn key(name: &[u8]) -> Key {
    if let (Some(first), Some(last)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        return (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64);
    }
    let mut word = 0;
    let mut at = 0;
    while at < name.len() {
        word = word << 8 | name[at] as u64;
        at += 1;
    }
    (word, 0)
}

/// 0x20 where a name in small letters has one: setting it makes a capital letter small. No other byte becomes a `-` or a
/// digit by it, as a control would.
const fn case(key: Key) -> Key {
    (case_of(key.0), case_of(key.1))
}

const fn case_of(word: u64) -> u64 {
    let (bytes, mut case, mut at) = (word.to_le_bytes(), [0; 8], 0);
    while at < 8 {
        if bytes[at].is_ascii_lowercase() {
            case[at] = 0x20;
        }
        at += 1;
    }
    u64::from_le_bytes(case)
}

/// Where in `SLOTS` a name of this length and key, in any case, is looked for.
#[inline(always)]
const fn slot(length: usize, key: Key) -> usize {
    let mixed = (key.0 | (LOW * 0x20)) ^ (key.1 | (LOW * 0x20)).rotate_left(MIX.0) ^ (length as u64).wrapping_mul(LOW);
    (mixed.wrapping_mul(MIX.1) >> (64 - SLOTS_BITS)) as usize
}

/// Whether the bytes that `key` did not look at agree too.
#[inline(always)]
fn same_middle(name: &[u8], lower: &[u8]) -> bool {
    let Some(end) = name.len().checked_sub(8).filter(|end| *end > 8) else { return true };
    match (name.get(8..end), lower.get(8..end)) {
        (Some(given), Some(wanted)) => given.eq_ignore_ascii_case(wanted),
        _ => false,
    }
}

const PARAM_PREFIX: &[u8] = b"mcp-param-";
/// A one in each byte.
const LOW: u64 = 0x0101_0101_0101_0101;
/// Words of a value that are looked at before it is taken for a long one.
const NEAR_WORDS: usize = 3;
const SLOTS_BITS: u32 = 7;
/// Found by trying: no two known names have one slot.
const MIX: (u32, u64) = (13, 0x54ed_02dd_e9ef_fcb1);
/// No known name.
const NONE: u8 = u8::MAX;

/// The row of the one known name that may stand there.
const SLOTS: [u8; 1 << SLOTS_BITS] = {
    let mut slots = [NONE; 1 << SLOTS_BITS];
    let mut at = 0;
    while at < KNOWN.len() {
        assert!(KNOWN[at].0 as usize == at, "a variant's number is its row");
        let row = &KNOWN[at].1;
        let slot = &mut slots[slot(row.name.len(), row.key)];
        assert!(*slot == NONE, "each known name has a slot of its own");
        #[expect(clippy::cast_possible_truncation, reason = "at most 64 rows, asserted below")]
        let here = at as u8;
        *slot = here;
        at += 1;
    }
    slots
};

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let byte = at as u8;
        table[at] = byte.is_ascii_alphanumeric();
        at += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

const _: () = assert!(KNOWN.len() <= 64, "a set of known names is one word");
const _: () = assert!(
    crate::base::limits::HEAD_FIELDS_MAX * size_of::<Field>() + size_of::<Fields>() < HEAD_BYTES_MAX,
    "what a head is parsed into is smaller than the largest head"
);
const _: () = assert!(crate::base::limits::HEAD_FIELDS_MAX < 255, "the place of a field fits a byte");

#[cfg(test)]
mod tests {
    use super::*;

    /// [O2] A name is known in any case, and no other spelling of it is: `_` is not `-`.
    #[test]
    fn every_known_name_is_found_in_any_case() {
        for (known, row) in KNOWN {
            assert_eq!(row.name, row.name.to_ascii_lowercase());
            assert_eq!(Known::of(row.name.as_bytes()), Some(*known));
            assert_eq!(Known::of(row.name.to_ascii_uppercase().as_bytes()), Some(*known));
            assert_eq!(known.name(), row.name);
            // One byte off anywhere is another name.
            for at in 0..row.name.len() {
                for other in 0..=255_u8 {
                    let mut name = row.name.as_bytes().to_vec();
                    let same = other.to_ascii_lowercase() == name[at];
                    name[at] = other;
                    let found = Known::of(&name) == Some(*known);
                    assert_eq!(found, same, "{:?}", String::from_utf8_lossy(&name));
                }
            }
        }
        for name in [
            "",
            "x",
            "content_length",
            "mcp_session_id",
            "authorization_",
            "transfer_encoding",
            "mcp-param-region",
            "hosts",
            &"a".repeat(40),
        ] {
            assert_eq!(Known::of(name.as_bytes()), None);
        }
    }

    /// [H17] The fields that belong to one connection.
    #[test]
    fn fields_of_one_connection() {
        let hops = [
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authenticate",
            "Proxy-Authorization",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Upgrade",
        ];
        for name in hops {
            assert!(hop_by_hop(name.as_bytes()), "{name}");
        }
        for name in ["Host", "Content-Length", "Mcp-Session-Id", "X-Anything", ""] {
            assert!(!hop_by_hop(name.as_bytes()), "{name}");
        }
    }

    /// [H7] No control byte gets into a value, wherever it stands.
    #[test]
    fn a_value_ends_at_its_first_control() {
        for length in 0..40 {
            for at in 0..length {
                for byte in 0..=255_u8 {
                    let mut bytes = vec![b'\t'; length];
                    bytes[at] = byte;
                    let ends = (byte < 0x20 && byte != b'\t') || byte == 0x7f;
                    assert_eq!(value_end(&bytes, 0), ends.then_some(at), "{byte:#x} at {at} of {length}");
                    assert_eq!(value_end(&bytes, at + 1), None);
                }
            }
        }
    }

    /// [H7] [H19] Nor into one that is written.
    #[test]
    fn what_may_be_written_as_a_value() {
        for length in 0..80 {
            assert!(is_value(&vec![b'\t'; length]) && is_value(&vec![0xff; length]));
            for at in 0..length {
                for byte in 0..=255_u8 {
                    let mut bytes = vec![b'a'; length];
                    bytes[at] = byte;
                    let control = (byte < 0x20 && byte != b'\t') || byte == 0x7f;
                    assert_eq!(is_value(&bytes), !control, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    /// [H6] [H7] Nor into a name.
    #[test]
    fn a_name_ends_at_its_first_colon_or_control() {
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=255_u8 {
                    let mut bytes = vec![b'a'; length];
                    bytes[at] = byte;
                    let ends = byte < 0x20 || byte == 0x7f || byte == b':';
                    assert_eq!(name_end(&bytes, 0), ends.then_some(at), "{byte:#x} at {at} of {length}");
                    assert_eq!(name_end(&bytes, at + 1), None);
                }
            }
        }
    }

    #[test]
    fn names_after_the_param_prefix() {
        assert_eq!(after_param_prefix(b"Mcp-Param-Region"), Some(&b"Region"[..]));
        assert_eq!(after_param_prefix(b"MCP-PARAM-x"), Some(&b"x"[..]));
        assert_eq!(after_param_prefix(b"Mcp-Param-"), None);
        assert_eq!(after_param_prefix(b"Mcp-Paramx-y"), None);
        assert_eq!(after_param_prefix(b"Mcp"), None);
    }
}
