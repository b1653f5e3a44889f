//! Where a message stands in somebody's trace: read from its `_meta` and from its head, and written anew on its way to a
//! server (W3C Trace Context; W3C Baggage; MCP SEP-414).

use smallvec::SmallVec;

use crate::base::limits::TRACE_FIELD_BYTES_MAX;
use crate::base::span::Span;
use crate::jsonrpc::scan::{Envelope, Kind, Member};
use crate::jsonrpc::text;
use crate::mcp::call::traceparent;

/// Bytes of a `traceparent` as it is written here.
pub const TRACEPARENT_BYTES: usize = 55;

/// One span of a trace, as others are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace; never zero.
    pub trace: [u8; 16],
    /// The span; never zero.
    pub span: [u8; 8],
    /// Trace flags (section 3.2.2.5).
    pub flags: u8,
}

/// What a caller's own trace context is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceContext {
    /// It is the parent, and its word on sampling counts.
    #[default]
    Continue,
    /// A new trace begins here, with a link to it.
    Link,
    /// It is not looked at.
    Drop,
}

/// What a message's span has to do with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The span that it belongs under.
    pub parent: Option<Context>,
    /// Spans that it belongs to in another way.
    pub links: [Option<Context>; 2],
}

impl Context {
    /// A `traceparent`, whichever version it has (section 3.2.2).
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (trace, span, flags) = traceparent(value)?;
        Some(Self { trace, span, flags })
    }

    /// Whether its trace is recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// As a `traceparent` of version 00.
    #[must_use]
    pub fn write(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&self.trace, &mut out[3..35]);
        hex(&self.span, &mut out[36..52]);
        hex(&[self.flags], &mut out[53..55]);
        out
    }
}

/// The trace is recorded (section 3.2.2.5.1).
pub const SAMPLED: u8 = 1;
/// Its id is random (level 2, section 3.2.2.5.2).
pub const RANDOM: u8 = 2;

impl Origin {
    /// Of a message with this context of its own, that came over a hop with that one.
    #[must_use]
    pub fn of(trust: TraceContext, inside: Option<Context>, hop: Option<Context>) -> Self {
        // The same span twice says nothing the second time.
        let hop = hop.filter(|hop| inside.is_none_or(|inside| (inside.trace, inside.span) != (hop.trace, hop.span)));
        match trust {
            TraceContext::Continue => match inside {
                Some(parent) => Self { parent: Some(parent), links: [hop, None] },
                None => Self { parent: hop, links: [None; 2] },
            },
            TraceContext::Link => Self { parent: None, links: [inside, hop] },
            TraceContext::Drop => Self::default(),
        }
    }
}

/// What a message's `_meta` is to say on its way to a server.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The context of the span that it is sent under, and its `tracestate`, where that span is recorded. `None`: what
    /// stands there stays, but for what is too long.
    pub recorded: Option<(&'a Context, &'a str)>,
    /// Keys of `baggage` that go on.
    pub baggage: &'a [String],
}

/// The one edit that makes `_meta` of the message in `body`, read as `envelope`, say what is `wanted`. `None` where it
/// says that already, and where it cannot say anything: an answer, or `params` that are no object. Other members keep
/// their bytes and their order.
#[must_use]
pub fn edit(body: &[u8], envelope: &Envelope, wanted: &Wanted<'_>) -> Option<(Span, Vec<u8>)> {
    envelope.method?;
    let mut scratch = Vec::new();
    let is = |member: &Member, name: &[u8]| text::same_text(member.key.of(body), name);
    let params = envelope.body;
    if let Some(meta) = envelope.body_members().iter().find(|member| is(member, b"_meta")) {
        if meta.kind != Kind::Object {
            return None;
        }
        let changes = Changes::of(body, envelope.meta_members(), wanted, &mut scratch);
        return changes.any.then(|| (meta.value, changes.written(body, envelope.meta_members())));
    }
    let changes = Changes::of(body, &[], wanted, &mut scratch);
    if !changes.any {
        return None;
    }
    let (object, mut new) = match params {
        Some(params) if params.kind == Kind::Object => (params.value.start as usize, Vec::new()),
        Some(_) => return None,
        None => (body.iter().position(|byte| *byte == b'{')?, b"\"params\":{".to_vec()),
    };
    new.extend_from_slice(b"\"_meta\":");
    new.extend_from_slice(&changes.written(body, &[]));
    if params.is_none() {
        new.push(b'}');
    }
    // The message itself has members; its parameters may have none.
    if params.is_none() || !envelope.body_members().is_empty() {
        new.push(b',');
    }
    Some((Span::new(object + 1, object + 1), new))
}

/// What becomes of the members of `_meta`.
struct Changes {
    any: bool,
    /// By the place of a member: `None` for one that goes, `Some` for one with another value.
    given: SmallVec<[(usize, Option<Vec<u8>>); 3]>,
    /// Behind them, with their names.
    more: Vec<u8>,
}

impl Changes {
    fn of(body: &[u8], members: &[Member], wanted: &Wanted<'_>, scratch: &mut Vec<u8>) -> Self {
        let find = |name: &[u8]| members.iter().position(|member| text::same_text(member.key.of(body), name));
        let at = |place: Option<usize>| place.and_then(|place| Some((place, members.get(place)?)));
        let mut changes = Self { any: false, given: SmallVec::new(), more: Vec::new() };
        if let Some((context, _)) = wanted.recorded {
            let written = json_text(&String::from_utf8_lossy(&context.write()));
            changes.give(find(b"traceparent"), b"traceparent", Some(written));
        }
        let state = at(find(b"tracestate"));
        match (state, wanted.recorded) {
            (Some((place, member)), None) if member.value.len() > TRACE_FIELD_BYTES_MAX => {
                changes.give(Some(place), b"", None);
            }
            (Some((place, member)), Some((_, state))) => {
                let said = member.text().and_then(|inside| text::unescape(inside.of(body), scratch).ok());
                if said != Some(state) || state.is_empty() {
                    changes.give(Some(place), b"", Some(state).filter(|state| !state.is_empty()).map(json_text));
                }
            }
            (None, Some((_, state))) if !state.is_empty() => changes.give(None, b"tracestate", Some(json_text(state))),
            _ => {}
        }
        if let Some((place, member)) = at(find(b"baggage")) {
            let inside = member.text().and_then(|inside| text::unescape(inside.of(body), scratch).ok());
            match inside.map_or(Kept::None, |value| kept(value, wanted.baggage)) {
                Kept::All => {}
                Kept::Some(value) => changes.give(Some(place), b"", Some(json_text(&value))),
                Kept::None => changes.give(Some(place), b"", None),
            }
        }
        changes
    }

    fn give(&mut self, place: Option<usize>, name: &[u8], value: Option<Vec<u8>>) {
        self.any = true;
        match (place, value) {
            (Some(place), value) => self.given.push((place, value)),
            (None, Some(value)) => {
                self.more.push(b',');
                self.more.push(b'"');
                self.more.extend_from_slice(name);
                self.more.extend_from_slice(b"\":");
                self.more.extend_from_slice(&value);
            }
            (None, None) => {}
        }
    }

    fn written(&self, body: &[u8], members: &[Member]) -> Vec<u8> {
        let bytes: usize = members.iter().map(|member| member.key.len() + member.value.len() + 4).sum();
        let mut out = Vec::with_capacity(bytes + self.more.len() + 64);
        for (place, member) in members.iter().enumerate() {
            let given = self.given.iter().find(|(given, _)| *given == place).map(|(_, value)| value.as_deref());
            if given == Some(None) {
                continue;
            }
            out.push(b',');
            let key = Span::new(member.key.start as usize - 1, member.value.start as usize);
            out.extend_from_slice(key.of(body));
            out.extend_from_slice(given.flatten().unwrap_or(member.value.of(body)));
        }
        out.extend_from_slice(&self.more);
        match out.first_mut() {
            Some(first) => *first = b'{',
            None => out.push(b'{'),
        }
        out.push(b'}');
        out
    }
}

/// What of a `baggage` goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it, as it came.
    All,
    /// This.
    Some(String),
    /// Nothing.
    None,
}

/// What of a `baggage` goes on: the members with these keys, of one that is not too long (W3C Baggage, section 3.3).
#[must_use]
pub fn kept(value: &str, allowed: &[String]) -> Kept {
    if allowed.is_empty() || value.len() > TRACE_FIELD_BYTES_MAX {
        return Kept::None;
    }
    let goes = |member: &&str| {
        let key = member.split_once('=').map(|(key, _)| key.trim_matches([' ', '\t']));
        key.is_some_and(|key| allowed.iter().any(|allowed| allowed == key))
    };
    // Nothing that could end a field goes into one.
    let visible = value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
    let members: SmallVec<[&str; 8]> = value.split(',').filter(goes).filter(|_| visible).collect();
    match members.len() {
        0 => Kept::None,
        some if some == value.split(',').count() => Kept::All,
        _ => Kept::Some(members.join(",")),
    }
}

/// A `tracestate` that can be handed on: nothing that could end a field is in it, and it is not too long. Empty where it
/// cannot.
#[must_use]
pub fn state(value: &str) -> &str {
    let fits = value.len() <= TRACE_FIELD_BYTES_MAX && value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if fits { value.trim_matches(' ') } else { "" }
}

fn json_text(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    text::write_string(&mut out, text);
    out
}

/// Writes `bytes` as digits; `out` has room for two of each.
pub(crate) fn hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests;
