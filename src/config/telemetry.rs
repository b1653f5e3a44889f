//! What is exported, where to, and what a caller's own trace is worth.

use std::sync::Arc;

use crate::base::limits::{CONFIG_ITEMS_MAX, NAME_BYTES_MAX, OTLP_INTERVAL_MS, OTLP_TIMEOUT_MS, REASON_BYTES_MAX};
use crate::base::secret::Secret;
use crate::config::auth::{OtlpSettings, TelemetrySettings, TraceContext};
use crate::config::fault::Faults;
use crate::config::fetched;
use crate::config::files::Files;
use crate::config::front;
use crate::config::raw::Node;
use crate::config::shape::{join, quote, quoted};

/// The whole block; the defaults where there is none.
pub(crate) fn telemetry(root: &Node, files: Files<'_>, faults: &mut Faults) -> TelemetrySettings {
    let mut out = TelemetrySettings::default();
    let Some(node) = root.get("telemetry") else {
        return out;
    };
    out.otlp = node.get("otlp").and_then(|otlp| collector(otlp, files, faults));
    out.traces_ppm = share(node, "traces", faults);
    out.notifications_ppm = share(node, "notification_traces", faults);
    out.context = match node.get("trace_context").and_then(Node::text) {
        Some("link") => TraceContext::Link,
        Some("drop") => TraceContext::Drop,
        _ => TraceContext::Continue,
    };
    out.baggage = fetched::one_or_several(node, "telemetry", "baggage", faults);
    if let Some(node) = node.get("baggage").filter(|_| !out.baggage.iter().all(|key| key.is_empty() || is_token(key))) {
        faults.error(&node.at, "telemetry.baggage", "has what cannot be a key of baggage", "letters, digits, - and .");
    }
    out.denial_is_error = node.get("denial_is_error").is_none_or(Node::is_true);
    out.resource = resource(node, faults);
    if node.get("session_buckets").and_then(Node::text) == Some("long") {
        out.session_buckets = Some(SESSION_BUCKETS_LONG.to_vec());
    }
    for key in ["traces", "notification_traces"] {
        if let Some(at) = node.get(key).filter(|_| !node.has("otlp") && node.is_whole()) {
            let hint = "write otlp: http://127.0.0.1:4318";
            faults.warn(&at.at, &join("telemetry", key), "nothing is recorded without a collector", hint);
        }
    }
    out
}

fn collector(node: &Node, files: Files<'_>, faults: &mut Faults) -> Option<OtlpSettings> {
    let path = "telemetry.otlp";
    if node.text().is_some() {
        return Some(OtlpSettings {
            url: base_url(node, path, faults)?,
            headers: Vec::new(),
            ca: None,
            interval_ms: OTLP_INTERVAL_MS,
            timeout_ms: OTLP_TIMEOUT_MS,
            metrics: true,
        });
    }
    let written = node.get("url");
    let url = written.and_then(|url| base_url(url, &join(path, "url"), faults));
    let headers = headers(node, path, faults);
    let ca = fetched::ca(node, path, files, faults);
    if let (Some(at), Some(url)) = (written, &url) {
        let plain = url.starts_with("http://");
        if let Some(ca) = node.get("ca").filter(|_| plain) {
            faults.error(&ca.at, &join(path, "ca"), "the URL is an http one", "write https://…, or leave `ca` out");
        }
        if plain && !headers.is_empty() && !is_near(url) {
            let message = "is an http URL: `headers` are sent in clear text";
            faults.warn(&at.at, &join(path, "url"), message, "write https://…");
        }
    }
    Some(OtlpSettings {
        url: url?,
        headers,
        ca,
        interval_ms: node.get("interval").and_then(Node::amount).unwrap_or(OTLP_INTERVAL_MS),
        timeout_ms: node.get("timeout").and_then(Node::amount).unwrap_or(OTLP_TIMEOUT_MS),
        metrics: node.get("metrics").is_none_or(Node::is_true),
    })
}

/// The URL that the paths of the signals are put behind (OTLP/HTTP): without its final `/`.
fn base_url(node: &Node, path: &str, faults: &mut Faults) -> Option<Arc<str>> {
    let url = front::parse(node.text()?).filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = url else {
        let message = format!("{} is not an http or https URL", quoted(node));
        faults.error(&node.at, path, message, "write http://127.0.0.1:4318");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        faults.veil(node.at.line..=node.at.line);
        faults.error(&node.at, path, "has a user or a password", "write it into `headers`");
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() || url.port() == Some(0) {
        faults.error(&node.at, path, "has a query, a #fragment or port 0", "write the base URL alone");
        return None;
    }
    let text = url.as_str().trim_end_matches('/');
    if ["/v1/traces", "/v1/metrics", "/v1/logs"].iter().any(|end| text.ends_with(end)) {
        let hint = "leave /v1/… out: each signal has its own";
        faults.error(&node.at, path, "is the URL of one signal, not the one that all of them are behind", hint);
    }
    if url.port_or_known_default() == Some(4317) {
        let message = "4317 is the port of OTLP over gRPC by convention, and the gateway speaks OTLP over HTTP";
        faults.warn(&node.at, path, message, "that one's is 4318");
    }
    Some(Arc::from(text))
}

fn is_near(url: &str) -> bool {
    let host = front::parse(url).and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn headers(node: &Node, path: &str, faults: &mut Faults) -> Vec<(String, Arc<Secret>)> {
    let Some(node) = node.get("headers") else {
        return Vec::new();
    };
    let path = join(path, "headers");
    if node.entries().len() > CONFIG_ITEMS_MAX {
        faults.error(&node.at, &path, format!("over {CONFIG_ITEMS_MAX} fields"), "");
    }
    let mut out: Vec<(String, Arc<Secret>)> = Vec::new();
    for entry in node.entries().iter().take(CONFIG_ITEMS_MAX) {
        let here = join(&path, &entry.key);
        let name = entry.key.to_ascii_lowercase();
        if !is_token(&name) || OURS.contains(&name.as_str()) {
            let message = format!("{} is no field that can be added", quote(&entry.key));
            faults.error(&entry.key_at, &here, message, "write Authorization, or what the collector calls its key");
            continue;
        }
        if out.iter().any(|(other, _)| *other == name) {
            faults.error(&entry.key_at, &here, "stands twice: case makes no difference", "keep one of them");
            continue;
        }
        let value = fetched::secret(&entry.node, &here, faults, fetched::is_shown_or_blank);
        out.extend(value.map(|value| (name, Arc::new(value))));
    }
    out
}

/// Of one, in millionths.
fn share(node: &Node, key: &str, faults: &mut Faults) -> u32 {
    let Some(node) = node.get(key) else { return 0 };
    let path = join("telemetry", key);
    let Some(share) = node.text().and_then(|text| text.parse::<f64>().ok()) else {
        return 0;
    };
    if share > 1.0 {
        faults.error(&node.at, &path, "must be from 0 to 1", "0.01 is one in a hundred");
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    let ppm = (share * 1e6).round() as u32;
    if ppm == 0 && share > 0.0 {
        faults.error(&node.at, &path, "is less than one in a million", "write 0, or 0.000001");
    }
    ppm
}

fn resource(node: &Node, faults: &mut Faults) -> Vec<(String, String)> {
    let Some(node) = node.get("resource") else {
        return Vec::new();
    };
    let path = "telemetry.resource";
    if node.entries().len() > CONFIG_ITEMS_MAX {
        faults.error(&node.at, path, format!("over {CONFIG_ITEMS_MAX} attributes"), "");
    }
    let mut out = Vec::new();
    for entry in node.entries().iter().take(CONFIG_ITEMS_MAX) {
        let here = join(path, &entry.key);
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if entry.key.is_empty() || entry.key.len() > NAME_BYTES_MAX || !entry.key.bytes().all(name) {
            let message = format!("{} is not an attribute's name", quote(&entry.key));
            faults.error(&entry.key_at, &here, message, "write deployment.environment.name");
        }
        if SAID.contains(&entry.key.as_str()) {
            faults.error(&entry.key_at, &here, "is what the gateway says of itself", "leave it out");
        }
        if entry.node.text().is_some_and(|text| text.len() > REASON_BYTES_MAX) {
            faults.error(&entry.node.at, &here, format!("is longer than {REASON_BYTES_MAX} bytes"), "");
        }
        out.extend(entry.node.text().map(|text| (entry.key.clone(), text.to_owned())));
    }
    out
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// For sessions of hours and days, seconds.
const SESSION_BUCKETS_LONG: [u64; 12] = [1, 10, 60, 300, 900, 3_600, 7_200, 14_400, 28_800, 86_400, 259_200, 604_800];
/// Fields of a push that are the gateway's to write.
const OURS: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
];
/// Attributes of the resource that the gateway writes itself.
const SAID: [&str; 3] = ["service.name", "service.version", "service.instance.id"];
