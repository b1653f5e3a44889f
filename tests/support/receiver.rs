//! A telemetry collector beside a gateway, and what it has been sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::gateway::{Gateway, Setup, eventually};
use super::http::{Response, Wire};
use super::peers::{OTLP_RECEIVER, Peers, Server, otel_peers};

/// A running collector, on OpenTelemetry's own protobuf definitions.
pub(crate) struct Collector {
    server: Server,
    pub(crate) peers: Peers,
}

/// Everything that it has been sent.
pub(crate) struct Sent(Value);

impl Collector {
    /// `None`, said aloud, where it cannot be had.
    pub(crate) fn start() -> Option<Self> {
        let peers = otel_peers()?;
        Some(Self { server: peers.serve(OTLP_RECEIVER), peers })
    }

    /// Has a gateway send it everything, soon.
    pub(crate) fn of(&self, setup: Setup) -> Setup {
        let otlp = json!({ "url": self.url(), "interval": "100ms", "timeout": "2s" });
        setup.set("/telemetry", json!({ "otlp": otlp, "traces": 1 }))
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// How it answers from now on: see the script.
    pub(crate) fn does(&self, how: &Value) {
        assert_eq!(ask(self.server.address(), "POST", "/do", &how.to_string()).status(), 200);
    }

    /// What it has been sent so far; nothing of it was wrong.
    pub(crate) fn seen(&self) -> Sent {
        let seen = ask(self.server.address(), "GET", "/seen", "").json();
        assert_eq!(seen["faults"], json!([]));
        Sent(seen)
    }

    /// The same, once it is enough.
    pub(crate) fn seen_until(&self, what: &str, enough: impl Fn(&Sent) -> bool) -> Sent {
        eventually(what, || enough(&self.seen()));
        self.seen()
    }
}

impl Sent {
    /// Spans, as they came.
    pub(crate) fn spans(&self) -> &[Value] {
        self.0["spans"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The last number of each series of a metric; of a histogram, how many observations.
    pub(crate) fn series(&self, name: &str) -> BTreeMap<String, f64> {
        let of = |one: &Value| {
            let number = one.get("value").or(one.get("count")).and_then(Value::as_f64).expect("a number");
            (words(&one["labels"]), number)
        };
        self.metrics().filter(|one| one["name"] == name).map(of).collect()
    }

    /// The last of everything.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = &Value> {
        self.0["metrics"].as_array().into_iter().flatten()
    }

    /// Anything else that the script keeps.
    pub(crate) fn get(&self, key: &str) -> &Value {
        &self.0[key]
    }
}

/// Labels as one text, `key=value`, in the order of their keys.
pub(crate) fn words(labels: &Value) -> String {
    let labels: BTreeMap<&String, &Value> = labels.as_object().into_iter().flatten().collect();
    let word = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or(&value.to_string()));
    labels.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

/// The gateway's own page of metrics, by name, then by labels as one text; what is a histogram by its count.
pub(crate) fn scraped(gateway: &Gateway) -> BTreeMap<String, BTreeMap<String, f64>> {
    let page = ask(gateway.admin, "GET", "/metrics", "").text();
    let mut all: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, number) = line.rsplit_once(' ').expect("a number at its end");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').replace("\",", "\" ").replace('"', "");
        let number = number.parse().expect("a number");
        all.entry(name.to_owned()).or_default().insert(labels, number);
    }
    all
}

fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Response {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let head = if method == "GET" { head.replace("content-length: 0\r\n", "") } else { head };
    Wire::to(address).ask(head.as_bytes())
}
