//! What must be true of any message and any header that claims to describe it. See `base::fuzz` for how these are run.

use std::borrow::Cow;

use super::call::{self, Call, CallFault, Given, Object};
use super::catalog::{Catalog, EraCatalog, ListKind, Listing, ServerCatalog, read_page};
use super::headers::{self, Header, HeaderFault, ParamHeader, ParamKind};
use super::merge::rewrite::{mentions_uri, rewrite_result};
use super::merge::{Member, Merged};
use super::method::Verb;
use super::revision::{Era, Revision};
use super::subscription::{Becomes, Subscription, Wants};
use super::tasks::TaskLink;
use crate::base::ids::ServerId;
use crate::base::span::Span;
use crate::jsonrpc::text::write_string;
use crate::jsonrpc::{Envelope, Shape, answer_of, read};

/// A header value: what is decoded is text that encodes to a value that decodes to it; one text has one spelling in
/// base64; and an argument is agreed with exactly when it is the same text.
///
/// # Panics
/// When one of these is not true.
pub fn header_value(data: &[u8]) {
    let mut scratch = Vec::new();
    if let Ok(decoded) = headers::decode_value(Header::Name, data, &mut scratch) {
        let decoded = std::str::from_utf8(decoded).expect("what is decoded is text");
        assert_round_trip(decoded);
        if decoded.as_bytes() != data {
            let mut inside = data.strip_prefix(b"=?base64?").expect("only the marks give another meaning");
            inside = inside.strip_suffix(b"?=").expect("both marks");
            assert_eq!(base64::Engine::encode(&BASE64, decoded).as_bytes(), inside, "one spelling");
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert_round_trip(text);
    }
    let (one, other) = data.split_at(data.len() / 2);
    let (one, other) = (String::from_utf8_lossy(one), String::from_utf8_lossy(other));
    for (said, meant) in [(&one, &other), (&one, &one)] {
        let mut field = Vec::new();
        headers::encode_value(said, &mut field);
        let agreed = agrees(&field, |args| write_string(args, meant));
        assert_eq!(agreed.is_ok(), said == meant, "{said:?} {meant:?}");
    }
    // As they are: nothing to say but that it ends.
    let _ = agrees(data, |args| args.extend_from_slice(data));
}

/// A body, under the heads that a client may send with it: what is accepted agrees with its head, in every era.
///
/// # Panics
/// When one of these is not true.
pub fn call(data: &[u8]) {
    let Ok(envelope) = read(data) else {
        return;
    };
    let legacy = Given { version: Some(b"2025-11-25"), version_count: 1, ..Given::default() };
    for given in [Given::default(), legacy] {
        if let Ok(call) = call::read(&given, data, &envelope) {
            assert_sound(data, &envelope, &call);
        }
    }
    let method = envelope.method_name(data).unwrap_or_default();
    let named = ["name", "uri", "taskId"].map(|member| name_of(data, &envelope, member));
    for name in named.iter().flatten().map(|name| Some(&name[..])).chain([None]) {
        let right = Given {
            version: Some(Revision::NEWEST.as_str().as_bytes()),
            version_count: 1,
            method: Some(method),
            method_count: 1,
            name,
            name_count: usize::from(name.is_some()),
            ..Given::default()
        };
        let Ok(call) = call::read(&right, data, &envelope) else {
            continue;
        };
        assert_sound(data, &envelope, &call);
        if call.era == Era::Modern {
            assert_lies_are_found(data, &envelope, &right, &call);
        }
    }
}

/// A server's message, on a subscription to everything: what becomes of it is a message that the scanner takes, with
/// the subscription's id, and names no task but by its client's name.
///
/// # Panics
/// When one of these is not true.
pub fn subscription(data: &[u8]) {
    const ID: &[u8] = b"\"s\"";
    let Ok(facts) = answer_of(data) else {
        return;
    };
    let task = TaskLink { client: b"\"Q2xpZW50\""[..].into(), server: "t".into() };
    let wants = Wants { tools: true, prompts: true, resources: true, uris: vec!["a:b".into()], tasks: vec![task] };
    let mut stream = Subscription::new(ID, wants);
    assert!(!stream.is_end(data) || facts.shape == Shape::Result);
    if facts.shape != Shape::Notification {
        return;
    }
    assert!(matches!(stream.take(Verb::ToolsChanged, data), Becomes::Dropped(_)), "nothing comes first");
    assert_told(&mut stream.clone(), Verb::Acknowledged, data);
    let acknowledgement = br#"{"jsonrpc":"2.0","method":"a","params":{"notifications":{}}}"#;
    assert!(matches!(stream.take(Verb::Acknowledged, acknowledgement), Becomes::Instead(_)));
    for verb in [Verb::ToolsChanged, Verb::ResourceUpdated, Verb::TaskChanged, Verb::Progress] {
        assert_told(&mut stream, verb, data);
    }
}

fn assert_told(stream: &mut Subscription, verb: Verb, data: &[u8]) {
    let told = match stream.take(verb, data) {
        Becomes::Itself => data.to_vec(),
        Becomes::Instead(told) => told,
        Becomes::Dropped(_) => return,
    };
    let text = String::from_utf8_lossy(&told);
    assert!(verb != Verb::Progress, "nobody asked for it: {text}");
    let shape = answer_of(&told).map(|facts| facts.shape);
    assert_eq!(shape, Ok(Shape::Notification), "{text}");
    // Numbers that no float holds are no matter of ours.
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&told) else { return };
    let params = &value["params"];
    assert_eq!(params["_meta"]["io.modelcontextprotocol/subscriptionId"], "s", "{text}");
    match verb {
        Verb::TaskChanged => assert_eq!(params["taskId"], "Q2xpZW50", "{text}"),
        Verb::Acknowledged => {
            let served = params["notifications"].as_object().expect("an object");
            for (name, value) in served {
                let flag = name.ends_with("Changed") && *value == true;
                let own = [("resourceSubscriptions", "a:b"), ("taskIds", "Q2xpZW50")];
                assert!(
                    flag || own.iter().any(|(list, one)| name == list && *value == serde_json::json!([one])),
                    "{text}"
                );
            }
        }
        _ => {}
    }
}

/// Texts that two servers list as tools, resources and templates, half of the lines each: whatever they are, each is
/// exposed under a name of its own that leads back, at an endpoint with prefixes as at one without.
///
/// # Panics
/// When one of these is not true.
pub fn merged(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.lines().take(16).collect();
    let (one, two) = lines.split_at(lines.len() / 2);
    let offer = |lines: &[&str]| {
        let listing = |kind: ListKind, name: &str| {
            let entries: Vec<_> = lines
                .iter()
                .map(|line| serde_json::json!({ name: line, "inputSchema": { "type": "object" } }))
                .collect();
            let page = serde_json::json!({ kind.member(): entries }).to_string();
            let mut listing = Listing::default();
            listing.add(read_page(kind, page.as_bytes()).expect("a list was written"));
            Some(listing)
        };
        let lists = [
            listing(ListKind::Tools, "name"),
            None,
            listing(ListKind::Resources, "uri"),
            listing(ListKind::Templates, "uriTemplate"),
        ];
        let offer = EraCatalog {
            protocol: Revision::NEWEST,
            capabilities: serde_json::json!({ "resources": {} }),
            server_info: None,
            instructions: None,
            events: false,
            lists,
        };
        Some(ServerCatalog { modern: Some(offer), ..ServerCatalog::default() })
    };
    let catalog = Catalog::build(vec![offer(one), offer(two)]);
    let members = [Member { server: ServerId(0), name: "one" }, Member { server: ServerId(1), name: "two" }];
    for prefixed in [true, false] {
        assert_leads_back(&Merged::build(&members, prefixed, &catalog).0, &catalog);
    }
}

fn assert_leads_back(merged: &Merged, catalog: &Catalog) {
    let mut seen = std::collections::HashSet::new();
    for server in merged.servers() {
        let offer = catalog.server(*server).and_then(|server| server.era(Era::Modern)).expect("both are known");
        let items = |kind| offer.list(kind).into_iter().flat_map(|list| &list.items);
        for tool in items(ListKind::Tools) {
            let exposed = merged.expose_name(*server, &tool.name);
            let found = merged.resolve(Era::Modern, ListKind::Tools, &exposed).expect("somebody has it");
            if merged.withheld(Era::Modern, ListKind::Tools, *server, tool) {
                assert_ne!(found.0, *server);
            } else {
                assert_eq!(found, (*server, &*tool.name));
                assert!(seen.insert((0, exposed.into_owned())), "{tool:?} is somebody else's");
            }
        }
        for resource in items(ListKind::Resources) {
            let exposed = merged.expose_uri(Era::Modern, *server, &resource.name);
            let found = merged.route(Era::Modern, &exposed, &mut |_, _| true);
            assert_eq!(found, Some((*server, Cow::Borrowed(&*resource.name))), "{exposed:?}");
            assert!(seen.insert((1, exposed.into_owned())), "{resource:?} is somebody else's");
        }
        for template in items(ListKind::Templates) {
            let exposed = merged.expose_template(Era::Modern, *server, &template.name);
            let found = merged.route_template(Era::Modern, &exposed, &mut |_, _| true);
            assert_eq!(found, Some((*server, Cow::Borrowed(&*template.name))), "{exposed:?}");
            assert!(seen.insert((2, exposed.into_owned())), "{template:?} is somebody else's");
        }
    }
}

/// A server's message: its URIs changed and changed back, it says what it said, and in the same bytes where no text has
/// an escape.
///
/// # Panics
/// When that is not so.
pub fn rewrite(data: &[u8]) {
    if answer_of(data).is_err() {
        return;
    }
    for verb in [Verb::ToolsCall, Verb::ResourcesRead, Verb::PromptsGet, Verb::TasksGet, Verb::ResourceUpdated] {
        let mut uris = 0;
        let there = rewrite_result(verb, data, &mut |uri| {
            uris += 1;
            Some(format!("mcp+x:{uri}"))
        });
        let Some(there) = there else {
            assert_eq!(uris, 0);
            continue;
        };
        assert!(answer_of(&there).is_ok() && mentions_uri(data));
        let mut back = 0;
        let again = rewrite_result(verb, &there, &mut |uri| {
            back += 1;
            uri.strip_prefix("mcp+x:").map(str::to_owned)
        });
        let again = again.expect("they can be changed again");
        assert_eq!(uris, back);
        if data.contains(&b'\\') {
            let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
            assert_eq!(value(&again), value(data));
        } else {
            assert_eq!(again, data);
        }
    }
}

/// The headers of a modern call, each changed or taken away in turn.
fn assert_lies_are_found(data: &[u8], envelope: &Envelope, right: &Given<'_>, call: &Call) {
    for lie in [Given { method: Some(b"ping/pong"), ..*right }, Given { method_count: 2, ..*right }] {
        assert!(call::read(&lie, data, envelope).is_err(), "{lie:?}");
    }
    // A notification need not say its revision, so its header alone may.
    if call.shape != Shape::Request {
        return;
    }
    for lie in [Given { version: Some(b"2025-11-25"), ..*right }, Given { version_count: 2, ..*right }] {
        assert!(call::read(&lie, data, envelope).is_err(), "{lie:?}");
    }
    for lie in [Given { method: None, method_count: 0, ..*right }, Given { version: None, version_count: 0, ..*right }]
    {
        let read = call::read(&lie, data, envelope);
        assert!(matches!(read, Err(CallFault::HeaderMismatch(HeaderFault::Missing(_)))), "{lie:?} {read:?}");
    }
    if call.method.is_some_and(|method| method.named_by().is_some()) {
        for (name, name_count) in [(None, 0), (right.name, 2), (Some(&b"another name"[..]), 1)] {
            let lie = Given { name, name_count, ..*right };
            let is_it =
                name.is_some_and(|name| call.subject.text().is_some_and(|text| text.of(data).as_bytes() == name));
            assert!(call::read(&lie, data, envelope).is_err() || (is_it && name_count == 1), "{lie:?}");
        }
    }
}

/// What a call says of its body stands there.
fn assert_sound(data: &[u8], envelope: &Envelope, call: &Call) {
    assert_eq!((call.shape, call.id), (envelope.shape, envelope.id));
    assert_eq!(call.era, call.revision.era());
    if let Some(method) = call.method {
        assert_eq!(Some(method.wire.as_bytes()), envelope.method_name(data));
    }
    if let Some(text) = call.subject.text() {
        let text = text.of(data);
        let value: Option<serde_json::Value> = serde_json::from_slice(data).ok();
        if let Some(params) = value.as_ref().and_then(|value| value.get("params")) {
            let inside = |member: &str| [params.get(member), params.get("ref").and_then(|it| it.get(member))];
            let places = ["name", "uri"].map(inside);
            assert!(
                places.iter().flatten().flatten().any(|place| place.as_str() == Some(text)),
                "{text:?} is what it is about"
            );
        }
        if !matches!(call.subject, Object::Resource(_) | Object::CompleteResource(_)) {
            assert!(!text.chars().any(|c| c.is_ascii_control()), "a name has no controls");
        }
    }
    if let Object::Listen(listen) = &call.subject {
        assert!(listen.uris.iter().all(|uri| uri.of(data).len() <= data.len()));
        assert_eq!(listen.uris.len(), listen.uris_asked);
        assert!(listen.tasks.iter().all(|task| task.opened.is_none()), "nobody has opened a task yet");
    }
    if let Object::Task(task) = &call.subject {
        assert!(task.opened.is_none(), "nobody has opened it yet");
    }
    let meta = &call.meta;
    let spans =
        [call.arguments, meta.progress_token, meta.traceparent, meta.tracestate, meta.baggage, meta.capabilities];
    let inside = |span: &Span| span.end as usize <= data.len();
    assert!(spans.iter().flatten().all(inside), "spans are places in the body");
    assert!(call.arguments.is_none_or(|arguments| arguments.of(data).starts_with(b"{")));
}

/// The member of `params`, as its header would say it.
fn name_of(data: &[u8], envelope: &Envelope, member: &str) -> Option<Vec<u8>> {
    let span = envelope.param(data, member)?.text()?;
    let mut scratch = Vec::new();
    let text = crate::jsonrpc::text::unescape(span.of(data), &mut scratch).ok()?;
    let mut out = Vec::new();
    headers::encode_value(text, &mut out);
    Some(out)
}

fn assert_round_trip(text: &str) {
    let mut field = Vec::new();
    headers::encode_value(text, &mut field);
    assert!(field.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')), "a field value is plain ASCII");
    assert!(field.trim_ascii().len() == field.len(), "and loses nothing at its ends");
    let mut scratch = Vec::new();
    assert_eq!(headers::decode_value(Header::Name, &field, &mut scratch), Ok(text.as_bytes()));
}

/// Whether the field `Mcp-Param-P` agrees with the argument `p`, which `write` appends as JSON text.
fn agrees(field: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Result<(), HeaderFault> {
    let declared = [ParamHeader { header: "P".into(), path: ["p".into()].into(), kind: ParamKind::String }];
    let mut args = b"{\"p\":".to_vec();
    write(&mut args);
    args.push(b'}');
    headers::check_params(&declared, [(&b"p"[..], field)].into_iter(), Some(&args))
}

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn header_values_hold() {
        hold("mcp_header_value", header_value);
    }

    #[test]
    fn merged_names_hold() {
        hold("mcp_merged", merged);
    }

    #[test]
    fn rewritten_uris_hold() {
        hold("mcp_rewrite", rewrite);
    }

    #[test]
    fn subscriptions_hold() {
        hold("mcp_subscription", subscription);
    }

    /// [E8] [E9] The headers of a modern call say what its body says, or it is refused.
    #[test]
    fn calls_hold() {
        hold("mcp_call", call);
    }
}
