use std::collections::BTreeMap;

use super::*;
use crate::telemetry::span::Parent;

fn event(side: Side) -> SpanEvent {
    let context = Context { trace: [1; 16], span: [2; 8], flags: 3 };
    let mut event = SpanEvent::new(context, side, 1_000, Network::Http("1.1"));
    (event.method, event.revision, event.ended_ns) = ("tools/call", "2025-11-25", 3_000);
    event
}

/// The span as a collector reads it.
fn sent(event: &SpanEvent) -> Span {
    let resource = Resource { attributes: vec![text("service.name", "portcullis")], ..Resource::default() };
    let body = request(std::slice::from_ref(event), &resource);
    let mut read = ExportTraceServiceRequest::decode(&body[..]).unwrap();
    let mut spans = read.resource_spans.remove(0);
    assert_eq!(spans.resource, Some(resource));
    let scope = spans.scope_spans.remove(0);
    assert_eq!(scope.scope.unwrap().name, "portcullis");
    assert_eq!(scope.schema_url, SCHEMA_URL);
    scope.spans.into_iter().next().unwrap()
}

/// Its attributes, as people would write them.
fn said(span: &Span) -> BTreeMap<&str, String> {
    let value = |value: &AnyValue| match value.value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => format!("#{number}"),
        Value::BoolValue(is_so) => is_so.to_string(),
        Value::ArrayValue(several) => format!(
            "{:?}",
            several
                .values
                .iter()
                .map(|it| match &it.value {
                    Some(Value::StringValue(text)) => text.as_str(),
                    _ => "?",
                })
                .collect::<Vec<_>>()
        ),
        other => panic!("{other:?}"),
    };
    let out: BTreeMap<&str, String> =
        span.attributes.iter().map(|it| (it.key.as_str(), value(it.value.as_ref().unwrap()))).collect();
    assert_eq!(out.len(), span.attributes.len(), "each key once");
    out
}

fn check(event: &SpanEvent, want: &[(&str, &str)]) {
    let span = sent(event);
    let want: BTreeMap<&str, String> = want.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    assert_eq!(said(&span), want);
}

#[test]
fn a_clients_message_is_a_server_span() {
    let mut event = event(Side::Server);
    event.parent = Some(Parent { span: [3; 8], is_remote: true });
    event.links[0] = Some(Context { trace: [4; 16], span: [5; 8], flags: 1 });
    (event.executes_tool, event.cache_hit, event.unresolved) = (true, false, false);
    event.client = Some(("192.0.2.7".parse().unwrap(), 4711));
    (event.session, event.policy, event.record) = (Some([0xaa; 16]), Some([0x10; 6]), Some((2, 77)));
    (event.decision, event.reason) = ("permit", "permit");
    for (slot, value) in [
        (Slot::Tool, "docs__search"),
        (Slot::Id, "3"),
        (Slot::Target, "docs"),
        (Slot::Route, "/mcp"),
        (Slot::Task, "triage"),
        (Slot::State, "a=1"),
        (Slot::Rule, "r1"),
        (Slot::Rule, "r2"),
    ] {
        event.texts.push(slot, value);
    }
    let span = sent(&event);
    assert_eq!(span.name, "tools/call docs__search");
    assert_eq!(span.kind, i32::from(SpanKind::Server));
    assert_eq!(
        (&span.trace_id[..], &span.span_id[..], &span.parent_span_id[..]),
        (&[1; 16][..], &[2; 8][..], &[3; 8][..])
    );
    assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1_000, 3_000));
    assert_eq!((span.trace_state.as_str(), span.flags), ("a=1", 0x303));
    assert_eq!(span.status, None, "what went well is not said to");
    assert_eq!((span.links.len(), &span.links[0].trace_id[..], span.links[0].flags), (1, &[4; 16][..], 0x301));
    check(
        &event,
        &[
            ("mcp.method.name", "tools/call"),
            ("mcp.protocol.version", "2025-11-25"),
            ("mcp.session.id", &"aa".repeat(16)),
            ("gen_ai.operation.name", "execute_tool"),
            ("gen_ai.tool.name", "docs__search"),
            ("jsonrpc.request.id", "3"),
            ("network.transport", "tcp"),
            ("network.protocol.name", "http"),
            ("network.protocol.version", "1.1"),
            ("client.address", "192.0.2.7"),
            ("client.port", "#4711"),
            ("portcullis.target", "docs"),
            ("portcullis.route", "/mcp"),
            ("portcullis.task.id", "triage"),
            ("portcullis.decision", "permit"),
            ("portcullis.decision.reason", "permit"),
            ("portcullis.policy.set", "101010101010"),
            ("portcullis.policy.ids", "[\"r1\", \"r2\"]"),
            ("portcullis.audit.seq", "#77"),
            ("portcullis.audit.shard", "#2"),
        ],
    );
}

#[test]
fn a_try_is_a_client_span() {
    let mut event = event(Side::Client);
    event.parent = Some(Parent { span: [3; 8], is_remote: false });
    (event.method, event.attempt, event.port) = ("prompts/get", 2, Some(8443));
    event.credential = "exchange";
    event.texts.push(Slot::Address, "docs.internal");
    event.texts.push(Slot::Prompt, "summary");
    event.fails(Failure::Word("timeout"));
    let span = sent(&event);
    assert_eq!(
        (span.name.as_str(), span.kind, span.flags),
        ("prompts/get summary", i32::from(SpanKind::Client), 0x103)
    );
    assert_eq!(span.status.map(|status| status.code), Some(StatusCode::Error.into()));
    check(
        &event,
        &[
            ("mcp.method.name", "prompts/get"),
            ("mcp.protocol.version", "2025-11-25"),
            ("gen_ai.prompt.name", "summary"),
            ("error.type", "timeout"),
            ("network.transport", "tcp"),
            ("network.protocol.name", "http"),
            ("network.protocol.version", "1.1"),
            ("server.address", "docs.internal"),
            ("server.port", "#8443"),
            ("portcullis.upstream.attempt", "#2"),
            ("portcullis.credential.ref", "exchange"),
        ],
    );
}

/// A program has neither an address nor a protocol of the network.
#[test]
fn a_program_is_spoken_to_through_a_pipe() {
    let mut event = event(Side::Client);
    (event.network, event.attempt) = (Network::Pipe, 1);
    check(
        &event,
        &[
            ("mcp.method.name", "tools/call"),
            ("mcp.protocol.version", "2025-11-25"),
            ("network.transport", "pipe"),
            ("portcullis.upstream.attempt", "#1"),
        ],
    );
}

#[test]
fn failures_have_their_words() {
    let mut tool = event(Side::Client);
    tool.fails(Failure::Word(names::TOOL_ERROR));
    let got = sent(&tool);
    let got = said(&got);
    assert_eq!((got["error.type"].as_str(), got.get("rpc.response.status_code")), ("tool_error", None));
    let mut code = event(Side::Client);
    code.fails(Failure::Code(-32_602));
    code.code = Some(-32_602);
    let got = sent(&code);
    let got = said(&got);
    assert_eq!((got["error.type"].as_str(), got["rpc.response.status_code"].as_str()), ("-32602", "-32602"));
    // A refusal that its operator takes for no error.
    code.is_error = false;
    assert_eq!(sent(&code).status, None);
    let mut unknown = event(Side::Server);
    (unknown.method, unknown.unresolved) = (names::OTHER, true);
    let span = sent(&unknown);
    assert_eq!((span.name.as_str(), said(&span)["portcullis.tool.unresolved"].as_str()), ("_OTHER", "true"));
}
