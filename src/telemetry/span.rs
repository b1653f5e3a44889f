//! One span as an event of fixed size: what a shard knows when it is over, without one allocation, for whoever turns it
//! into bytes later.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::base::limits::{SPAN_TEXT_BYTES_EACH_MAX, SPAN_TEXT_BYTES_MAX, SPAN_TEXTS_MAX};

use super::context::Context;

/// A span that is over.
#[derive(Clone, Debug)]
pub struct SpanEvent {
    /// Its own place in the trace.
    pub context: Context,
    /// The span that it belongs under.
    pub parent: Option<Parent>,
    /// Spans that it belongs to in another way.
    pub links: [Option<Context>; 2],
    /// Whether the gateway receives or sends.
    pub side: Side,
    /// Wall clock, nanoseconds since 1970.
    pub begun_ns: u64,
    /// The same; never before `begun_ns`.
    pub ended_ns: u64,
    /// The method on the wire, one of ours.
    pub method: &'static str,
    /// The revision that is spoken; empty where it is not known.
    pub revision: &'static str,
    /// What it failed with.
    pub failure: Option<Failure>,
    /// The JSON-RPC error code of the answer.
    pub code: Option<i64>,
    /// Its status is an error; a failure may be none.
    pub is_error: bool,
    /// In our own words; empty for none.
    pub status: &'static str,
    /// How the message travelled.
    pub network: Network,
    /// The other side's address, where that is the client's.
    pub client: Option<(IpAddr, u16)>,
    /// The port of a server.
    pub port: Option<u16>,
    /// A keyed digest of the session.
    pub session: Option<[u8; 16]>,
    /// Which try this is, from 1; 0 for what is none.
    pub attempt: u16,
    /// It was answered from the catalogue.
    pub cache_hit: bool,
    /// It names a tool or prompt that is not in the catalogue.
    pub unresolved: bool,
    /// It calls a tool.
    pub executes_tool: bool,
    /// `permit`, `refuse`, `pending`; empty where nothing was decided.
    pub decision: &'static str,
    /// The record's word for why; empty for none.
    pub reason: &'static str,
    /// First six bytes of the policy's hash.
    pub policy: Option<[u8; 6]>,
    /// Shard and number of its decision in the record.
    pub record: Option<(u16, u64)>,
    /// The kind of credential that was shown; empty for none.
    pub credential: &'static str,
    /// What is text.
    pub texts: Texts,
}

/// The span that another belongs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its id.
    pub span: [u8; 8],
    /// It is somebody else's.
    pub is_remote: bool,
}

/// Whether the gateway receives or sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It receives: a message of a client.
    Server,
    /// It sends: a message to a server.
    Client,
}

/// How a message travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Over HTTP, of this version.
    Http(&'static str),
    /// Over a program's standard streams.
    Pipe,
}

/// What a span failed with: one of few words, or the code of a JSON-RPC error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// In a word.
    Word(&'static str),
    /// As JSON-RPC says it.
    Code(i64),
}

/// What a text of a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `gen_ai.tool.name`, as the catalogue has it.
    Tool,
    /// `gen_ai.prompt.name`, as the catalogue has it.
    Prompt,
    /// `mcp.resource.uri`.
    Uri,
    /// `jsonrpc.request.id`.
    Id,
    /// The configured name of the server.
    Target,
    /// The path of the endpoint.
    Route,
    /// `server.address`.
    Address,
    /// The active task.
    Task,
    /// `tracestate`.
    State,
    /// The id of a deciding rule; several of them.
    Rule,
}

/// Texts, one behind the other.
#[derive(Clone)]
pub struct Texts {
    bytes: [u8; SPAN_TEXT_BYTES_MAX],
    used: u16,
    places: [(Slot, u16, u16); SPAN_TEXTS_MAX],
    count: u8,
    left_out: u8,
}

const _: () = assert!(SPAN_TEXT_BYTES_MAX <= u16::MAX as usize, "a place in the texts fits its number");
const _: () = assert!(SPAN_TEXTS_MAX <= u8::MAX as usize, "and how many there are");
const _: () = assert!(size_of::<SpanEvent>() <= 1280, "all that wait of one shard are a few megabytes");

impl Default for Texts {
    fn default() -> Self {
        let places = [(Slot::Id, 0, 0); SPAN_TEXTS_MAX];
        Self { bytes: [0; SPAN_TEXT_BYTES_MAX], used: 0, places, count: 0, left_out: 0 }
    }
}

impl Texts {
    /// One more, if there is room for all of it; half a name would be another one.
    pub fn push(&mut self, slot: Slot, text: &str) {
        let (from, to) = (usize::from(self.used), usize::from(self.used) + text.len());
        let place = self.places.get_mut(usize::from(self.count)).filter(|_| text.len() <= SPAN_TEXT_BYTES_EACH_MAX);
        let (Some(place), Some(room), Ok(end)) = (place, self.bytes.get_mut(from..to), u16::try_from(to)) else {
            self.left_out = self.left_out.saturating_add(1);
            return;
        };
        room.copy_from_slice(text.as_bytes());
        *place = (slot, self.used, end);
        (self.used, self.count) = (end, self.count + 1);
    }

    /// In the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &str)> {
        self.places[..usize::from(self.count)].iter().filter_map(|(slot, from, to)| {
            let text = self.bytes.get(usize::from(*from)..usize::from(*to))?;
            Some((*slot, std::str::from_utf8(text).ok()?))
        })
    }

    /// The first one of a kind.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&str> {
        self.iter().find(|(other, _)| *other == slot).map(|(_, text)| text)
    }

    /// How many found no room.
    #[must_use]
    pub fn left_out(&self) -> u8 {
        self.left_out
    }
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl SpanEvent {
    /// A span with nothing to say yet.
    #[must_use]
    pub fn new(context: Context, side: Side, begun_ns: u64, network: Network) -> Self {
        Self {
            context,
            parent: None,
            links: [None; 2],
            side,
            begun_ns,
            ended_ns: begun_ns,
            method: super::names::OTHER,
            revision: "",
            failure: None,
            code: None,
            is_error: false,
            status: "",
            network,
            client: None,
            port: None,
            session: None,
            attempt: 0,
            cache_hit: false,
            unresolved: false,
            executes_tool: false,
            decision: "",
            reason: "",
            policy: None,
            record: None,
            credential: "",
            texts: Texts::default(),
        }
    }

    /// It failed with this.
    pub fn fails(&mut self, failure: Failure) {
        (self.failure, self.is_error) = (Some(failure), true);
    }
}

/// A resource's URI without what may be a secret or an argument: user info, query and fragment (RFC 3986, 3). What
/// some reader may take for user info is taken for such.
#[must_use]
pub fn bare(uri: &str) -> Cow<'_, str> {
    let uri = &uri[..uri.find(['?', '#']).unwrap_or(uri.len())];
    // Some readers take a backslash for a slash, and any number of them for two.
    let slashes = ['/', '\\'];
    let scheme = uri.find([':', '/', '\\']).filter(|at| uri[*at..].starts_with(':')).map_or(0, |at| at + 1);
    let begin = uri.len() - uri[scheme..].trim_start_matches(slashes).len();
    let end = uri[begin..].find(slashes).map_or(uri.len(), |end| begin + end);
    match uri[begin..end].rfind('@') {
        Some(at) => Cow::Owned([&uri[..begin], &uri[begin + at + 1..]].concat()),
        None => Cow::Borrowed(uri),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_go_out_without_secrets() {
        for (uri, want) in [
            ("file:///home/me@work/a b.txt", "file:///home/me@work/a b.txt"),
            ("https://host:8443/x/y@z", "https://host:8443/x/y@z"),
            ("https://u:pw@host/x?sig=1&token=2", "https://host/x"),
            ("https://u@v:p@w@host", "https://host"),
            ("https://u:pw@[::1]:1/x#f?g", "https://[::1]:1/x"),
            ("https:\\\\u:pw@host\\x", "https:\\\\host\\x"),
            ("https:u:pw@host/x", "https:host/x"),
            ("//u:pw@host/x", "//host/x"),
            ("u:pw@host", "u:host"),
            ("memo://notes/1#pw@host", "memo://notes/1"),
            ("urn:isbn:1?=x", "urn:isbn:1"),
            ("é://ü:ö@ä/é?é", "é://ä/é"),
            ("?a", ""),
            ("", ""),
        ] {
            assert_eq!(bare(uri), want, "{uri}");
        }
    }

    #[test]
    fn texts_have_their_room() {
        let mut texts = Texts::default();
        texts.push(Slot::Tool, "pay");
        texts.push(Slot::Rule, "");
        texts.push(Slot::Rule, "r1");
        texts.push(Slot::Uri, &"x".repeat(SPAN_TEXT_BYTES_EACH_MAX + 1));
        texts.push(Slot::Uri, &"x".repeat(SPAN_TEXT_BYTES_EACH_MAX));
        texts.push(Slot::State, &"y".repeat(SPAN_TEXT_BYTES_EACH_MAX));
        texts.push(Slot::Id, "3");
        let got: Vec<(Slot, usize)> = texts.iter().map(|(slot, text)| (slot, text.len())).collect();
        assert_eq!(got, [(Slot::Tool, 3), (Slot::Rule, 0), (Slot::Rule, 2), (Slot::Uri, 512), (Slot::Id, 1)]);
        assert_eq!(
            (texts.get(Slot::Tool), texts.get(Slot::Rule), texts.get(Slot::Task)),
            (Some("pay"), Some(""), None)
        );
        assert_eq!(texts.left_out(), 2);
        for _ in 0..SPAN_TEXTS_MAX {
            texts.push(Slot::Rule, "r");
        }
        assert_eq!(texts.iter().count(), SPAN_TEXTS_MAX);
    }
}
