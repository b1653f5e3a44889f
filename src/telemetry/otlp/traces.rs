//! Spans as an `ExportTraceServiceRequest` (OTLP 1, opentelemetry/proto/trace/v1).

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use crate::telemetry::context::{Context, hex};
use crate::telemetry::names;
use crate::telemetry::span::{Failure, Network, Side, Slot, SpanEvent};

use super::common::{SCHEMA_URL, scope, text};

/// The body of `POST /v1/traces` for these spans.
#[must_use]
pub fn request(events: &[SpanEvent], resource: &Resource) -> Vec<u8> {
    let scope_spans =
        ScopeSpans { scope: Some(scope()), spans: events.iter().map(span).collect(), schema_url: SCHEMA_URL.into() };
    let resource_spans = ResourceSpans {
        resource: Some(resource.clone()),
        scope_spans: vec![scope_spans],
        schema_url: SCHEMA_URL.into(),
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

fn span(event: &SpanEvent) -> Span {
    let links: Vec<Link> = event.links.iter().flatten().map(link).collect();
    let parent = event.parent.as_ref();
    let remote = if parent.is_some_and(|parent| parent.is_remote) { IS_REMOTE } else { 0 };
    Span {
        trace_id: event.context.trace.to_vec(),
        span_id: event.context.span.to_vec(),
        trace_state: event.texts.get(Slot::State).unwrap_or_default().into(),
        parent_span_id: parent.map(|parent| parent.span.to_vec()).unwrap_or_default(),
        flags: u32::from(event.context.flags) | HAS_IS_REMOTE | remote,
        name: name(event),
        kind: match event.side {
            Side::Server => SpanKind::Server,
            Side::Client => SpanKind::Client,
        }
        .into(),
        start_time_unix_nano: event.begun_ns,
        end_time_unix_nano: event.ended_ns.max(event.begun_ns),
        attributes: attributes(event),
        dropped_attributes_count: u32::from(event.texts.left_out()),
        links,
        status: event.is_error.then(|| Status { message: event.status.into(), code: StatusCode::Error.into() }),
        ..Span::default()
    }
}

/// `Span.flags`: it is known whether the parent is somebody else's.
const HAS_IS_REMOTE: u32 = 0x100;
/// And it is.
const IS_REMOTE: u32 = 0x200;

fn link(context: &Context) -> Link {
    Link {
        trace_id: context.trace.to_vec(),
        span_id: context.span.to_vec(),
        flags: u32::from(context.flags) | HAS_IS_REMOTE | IS_REMOTE,
        ..Link::default()
    }
}

/// The method, and what it is about where the catalogue has that.
fn name(event: &SpanEvent) -> String {
    match event.texts.get(Slot::Tool).or(event.texts.get(Slot::Prompt)) {
        Some(target) => format!("{} {target}", event.method),
        None => event.method.into(),
    }
}

fn attributes(event: &SpanEvent) -> Vec<KeyValue> {
    let mut out = Vec::with_capacity(24);
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            out.push(text(key, value));
        }
    };
    put(names::METHOD, event.method);
    put(names::PROTOCOL_VERSION, event.revision);
    if event.executes_tool {
        put(names::OPERATION, names::EXECUTE_TOOL);
    }
    match event.failure {
        Some(Failure::Word(word)) => put(names::ERROR_TYPE, word),
        Some(Failure::Code(code)) => put(names::ERROR_TYPE, &code.to_string()),
        None => {}
    }
    put(names::STATUS_CODE, &event.code.map(|code| code.to_string()).unwrap_or_default());
    match event.network {
        Network::Http(version) => {
            put(names::TRANSPORT, "tcp");
            put(names::NETWORK_PROTOCOL, "http");
            put(names::NETWORK_VERSION, version);
        }
        Network::Pipe => put(names::TRANSPORT, "pipe"),
    }
    put(names::CLIENT_ADDRESS, &event.client.map(|(address, _)| address.to_string()).unwrap_or_default());
    put(names::SESSION, &event.session.map(|digest| digits(&digest)).unwrap_or_default());
    put(names::DECISION, event.decision);
    put(names::REASON, event.reason);
    put(names::POLICY_SET, &event.policy.map(|hash| digits(&hash)).unwrap_or_default());
    put(names::CREDENTIAL, event.credential);
    for (slot, value) in event.texts.iter() {
        if let Some(key) = key(slot) {
            put(key, value);
        }
    }
    rest(event, &mut out);
    out
}

/// What is no text.
fn rest(event: &SpanEvent, out: &mut Vec<KeyValue>) {
    let mut number = |key: &str, value: Option<u64>| {
        if let Some(value) = value {
            out.push(attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX))));
        }
    };
    number(names::CLIENT_PORT, event.client.map(|(_, port)| port.into()));
    number(names::SERVER_PORT, event.port.map(u64::from));
    number(names::ATTEMPT, (event.attempt > 0).then_some(event.attempt.into()));
    number(names::AUDIT_SEQ, event.record.map(|(_, seq)| seq));
    number(names::AUDIT_SHARD, event.record.map(|(shard, _)| shard.into()));
    let rules = event.texts.iter().filter(|(slot, _)| *slot == Slot::Rule).map(|(_, rule)| rule);
    if !event.decision.is_empty() {
        out.push(texts(names::POLICY_IDS, rules));
    }
    for (key, is_so) in [(names::CACHE_HIT, event.cache_hit), (names::UNRESOLVED, event.unresolved)] {
        if is_so {
            out.push(attribute(key, Value::BoolValue(true)));
        }
    }
}

/// The attribute that a text is; `None` for what is written elsewhere.
fn key(slot: Slot) -> Option<&'static str> {
    match slot {
        Slot::Tool => Some(names::TOOL),
        Slot::Prompt => Some(names::PROMPT),
        Slot::Uri => Some(names::RESOURCE_URI),
        Slot::Id => Some(names::REQUEST_ID),
        Slot::Target => Some(names::TARGET),
        Slot::Route => Some(names::ROUTE),
        Slot::Address => Some(names::SERVER_ADDRESS),
        Slot::Task => Some(names::TASK),
        Slot::State | Slot::Rule => None,
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn texts<'a>(key: &str, values: impl Iterator<Item = &'a str>) -> KeyValue {
    let value = |value: &str| AnyValue { value: Some(Value::StringValue(value.into())) };
    attribute(key, Value::ArrayValue(ArrayValue { values: values.map(value).collect() }))
}

fn digits(bytes: &[u8]) -> String {
    let mut out = vec![0; 2 * bytes.len()];
    hex(bytes, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests;
