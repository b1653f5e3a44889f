//! A collector that takes spans as OTLP over HTTP, and remembers them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use serde_json::json;

use super::gateway::PATIENCE;

/// A running one; stops when dropped.
pub(crate) struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    spans: Mutex<Vec<Seen>>,
    changed: Condvar,
    stop: AtomicBool,
}

/// A span, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) span: Span,
    /// `service.name` and the like.
    pub(crate) resource: Vec<(String, String)>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if of_thread.stop.load(Ordering::Acquire) {
                    return;
                }
                let shared = of_thread.clone();
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { address, shared }
    }

    /// `telemetry` of a gateway that records everything, and sends it here.
    pub(crate) fn settings(&self) -> serde_json::Value {
        json!({ "otlp": { "url": format!("http://{}", self.address), "metrics": false }, "traces": 1 })
    }

    /// All that came so far.
    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.shared.spans.lock().expect("no thread of it panics").clone()
    }

    /// The spans of a trace, once there are as many as that: those of clients' messages first, then by time.
    #[track_caller]
    pub(crate) fn trace(&self, trace: &str, count: usize) -> Vec<Seen> {
        let of = |spans: &[Seen]| spans.iter().filter(|it| it.trace() == trace).cloned().collect::<Vec<_>>();
        let until = Instant::now() + PATIENCE;
        let mut spans = self.shared.spans.lock().expect("no thread of it panics");
        loop {
            let mut found = of(&spans);
            if found.len() >= count {
                found.sort_by_key(|it| (it.span.kind != SpanKind::Server as i32, it.span.start_time_unix_nano));
                assert_eq!(found.len(), count, "more spans than that: {found:#?}");
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} spans of {trace} came: {found:#?}", found.len());
            spans = self.shared.changed.wait_timeout(spans, left).expect("no thread of it panics").0;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

impl Seen {
    /// Its trace, 32 digits.
    pub(crate) fn trace(&self) -> String {
        digits(&self.span.trace_id)
    }

    /// Its id, 16 digits.
    pub(crate) fn id(&self) -> String {
        digits(&self.span.span_id)
    }

    /// Its parent; empty for none.
    pub(crate) fn parent(&self) -> String {
        digits(&self.span.parent_span_id)
    }

    /// Trace and span of what it is linked to.
    pub(crate) fn links(&self) -> Vec<(String, String)> {
        self.span.links.iter().map(|link| (digits(&link.trace_id), digits(&link.span_id))).collect()
    }

    /// An attribute, as people would write it; empty where it is not there.
    pub(crate) fn get(&self, key: &str) -> String {
        let of = self.span.attributes.iter().find(|it| it.key == key).and_then(|it| it.value.as_ref()?.value.as_ref());
        match of {
            None => String::new(),
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(is_so)) => is_so.to_string(),
            Some(Value::ArrayValue(values)) => {
                let texts = values.values.iter().filter_map(|it| match &it.value {
                    Some(Value::StringValue(text)) => Some(text.as_str()),
                    _ => None,
                });
                texts.collect::<Vec<_>>().join(",")
            }
            Some(other) => panic!("{key} is {other:?}"),
        }
    }

    /// Its attributes' names, in order.
    pub(crate) fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.span.attributes.iter().map(|it| it.key.as_str()).collect();
        keys.sort_unstable();
        keys
    }

    /// Whether the gateway received what it is about.
    pub(crate) fn is_server(&self) -> bool {
        self.span.kind == SpanKind::Server as i32
    }

    /// Whether its status is an error.
    pub(crate) fn is_error(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == 2)
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve(stream: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some((target, body)) = request(&mut reader) {
        if target == "/v1/traces" {
            let read = ExportTraceServiceRequest::decode(&body[..]).expect("what is exported is an export");
            let mut spans = shared.spans.lock().expect("no thread of it panics");
            for of in read.resource_spans {
                let text = |it: &opentelemetry_proto::tonic::common::v1::KeyValue| match &it.value.as_ref()?.value {
                    Some(Value::StringValue(text)) => Some((it.key.clone(), text.clone())),
                    _ => None,
                };
                let resource = of.resource.unwrap_or_default();
                let resource: Vec<_> = resource.attributes.iter().filter_map(text).collect();
                let all = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(all.map(|span| Seen { span, resource: resource.clone() }));
            }
            shared.changed.notify_all();
        }
        let mut writer = stream;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if writer.write_all(answer).is_err() {
            return;
        }
    }
}

/// The target and the body of a request.
fn request(reader: &mut BufReader<&TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let field = line.trim_end().to_ascii_lowercase();
        if field.is_empty() {
            break;
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((target, body))
}
