//! Pushes metrics and spans to a collector, as OTLP over HTTP. Two threads: one takes the spans from the shards, by time,
//! and one sends. Whatever the collector does, the first goes on; what finds no room is counted, and nothing waits.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use ureq::Agent;

use crate::base::limits::{
    OTLP_ANSWER_BYTES_MAX, OTLP_BATCH_SPANS_MAX, OTLP_DRAIN_MS, OTLP_LAST_MS_MAX, OTLP_PAUSE_MS, OTLP_PAUSE_MS_MAX,
    OTLP_QUEUE_BYTES_MAX, OTLP_SERIES_MAX, SPANS_MAX,
};
use crate::config::snapshot::Snapshot;
use crate::config::{OtlpSettings, TelemetrySettings};
use crate::gateway::control::Control;
use crate::gateway::spans::SpanReader;
use crate::telemetry::otlp::common::resource;
use crate::telemetry::otlp::{metrics as points, traces};
use crate::telemetry::span::SpanEvent;
use crate::uring::cpu;
use crate::uring::wait::clock;

use super::admin::Health;
use super::{PlaneFault, fetch, metrics};

/// What became of what was made for a collector.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Series of metrics.
    pub(super) metrics: Signal,
    /// Spans.
    pub(super) traces: Signal,
}

/// What became of one kind of it. At any time: made = exported + dropped + queued.
#[derive(Debug, Default)]
pub(super) struct Signal {
    exported: AtomicU64,
    /// As [`WHYS`].
    dropped: [AtomicU64; WHYS.len()],
    queued: AtomicU64,
}

/// Why something did not reach the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// A shard had made more than the plane took.
    ShardFull,
    /// More waited for the collector than may wait.
    QueueFull,
    /// The collector said that it will not have it.
    Refused,
    /// The collector could not be reached, or said nothing in time.
    Failed,
    /// The gateway ended, or was told to export no more, before it could be sent.
    Ended,
}

/// As people see them.
const WHYS: [&str; 5] = ["shard_full", "queue_full", "refused", "failed", "ended"];

impl Signal {
    /// What the collector has accepted.
    pub(super) fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// What did not reach it, by why.
    pub(super) fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        WHYS.into_iter().zip(&self.dropped).map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }

    /// What waits to be sent.
    pub(super) fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    fn drop(&self, why: Why, items: u64) {
        self.dropped[why as usize].fetch_add(items, Ordering::Relaxed);
    }

    /// A message of so many was sent, or given up.
    fn came(&self, items: u64, came: &Came) {
        match came {
            Came::Taken { rejected } => {
                let rejected = (*rejected).min(items);
                self.exported.fetch_add(items - rejected, Ordering::Relaxed);
                self.drop(Why::Refused, rejected);
            }
            Came::Refused => self.drop(Why::Refused, items),
            Came::Later { .. } => self.drop(Why::Failed, items),
        }
    }
}

/// Spans as one message.
#[derive(Debug)]
pub(super) struct Batch {
    /// How many.
    pub(super) spans: u64,
    /// An `ExportTraceServiceRequest`.
    pub(super) body: Vec<u8>,
}

/// Where spans come from.
pub(super) trait Spans: Send {
    /// Takes everything that the shards have made since it was last asked; each message is given on at once.
    fn take(&mut self, resource: &Resource, each: &mut dyn FnMut(Batch));

    /// How many found no room at their shards, since the process began.
    fn dropped(&self) -> u64;
}

/// The shards' spans.
pub(super) struct ShardSpans {
    control: Arc<Control>,
    readers: Vec<SpanReader>,
    events: Vec<SpanEvent>,
}

impl ShardSpans {
    /// Of these shards. There is one reader of each: who asks later has none.
    pub(super) fn new(control: &Arc<Control>) -> Self {
        Self { control: control.clone(), readers: control.spans.take_readers(), events: Vec::new() }
    }
}

impl Spans for ShardSpans {
    fn take(&mut self, resource: &Resource, each: &mut dyn FnMut(Batch)) {
        for reader in &mut self.readers {
            // One round of the ring: a shard that makes them faster than they are taken does not keep the others.
            for _ in 0..SPANS_MAX.div_ceil(OTLP_BATCH_SPANS_MAX) {
                self.events.clear();
                if reader.drain(OTLP_BATCH_SPANS_MAX, &mut self.events) == 0 {
                    break;
                }
                let body = traces::request(&self.events, resource);
                each(Batch { spans: self.events.len() as u64, body });
            }
        }
    }

    fn dropped(&self) -> u64 {
        self.control.spans.dropped()
    }
}

/// What both threads have.
struct Shared {
    control: Arc<Control>,
    health: Arc<Health>,
    queue: Mutex<Queue>,
    bell: Condvar,
    ending: AtomicBool,
    /// Tells this process from any other.
    instance: String,
    started_unix_ns: u64,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// Nothing more will come.
    closed: bool,
}

/// The running threads.
pub(super) struct Running {
    shared: Arc<Shared>,
    ended: Receiver<()>,
}

/// Starts both threads. They do next to nothing while there is no collector.
///
/// # Errors
/// `PlaneFault::System`.
pub(super) fn start(
    control: &Arc<Control>,
    health: &Arc<Health>,
    spans: Box<dyn Spans>,
) -> Result<Running, PlaneFault> {
    let mut bytes = [0; 16];
    // Without randomness two gateways may look like one, nothing more.
    let _ = SystemRandom::new().fill(&mut bytes);
    let shared = Arc::new(Shared {
        control: control.clone(),
        health: health.clone(),
        queue: Mutex::default(),
        bell: Condvar::new(),
        ending: AtomicBool::new(false),
        instance: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        started_unix_ns: now_unix_ns(),
    });
    let (end, ended) = mpsc::channel();
    let fault = |error| PlaneFault::System { what: "a thread", error };
    let (one, other) = (shared.clone(), shared.clone());
    std::thread::Builder::new().name("plane-spans".into()).spawn(move || take(&one, spans)).map_err(fault)?;
    let exporter = move || Exporter::new(other).run(&end);
    std::thread::Builder::new().name("plane-otlp".into()).spawn(exporter).map_err(fault)?;
    Ok(Running { shared, ended })
}

impl Running {
    /// What there is still goes out, for as long as that may take; the rest is dropped. The shards must have ended.
    pub(super) fn finish(self) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.bell.notify_all();
        // A little longer than the last message may take; who hangs then is left behind.
        let _ = self.ended.recv_timeout(Duration::from_millis(OTLP_LAST_MS_MAX + OTLP_DRAIN_MS));
        let traces = &self.shared.health.telemetry.traces;
        let left = traces.queued();
        if left > 0 {
            traces.drop(Why::Ended, left);
            tracing::warn!("{left} spans did not reach the collector");
        }
    }
}

impl Shared {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn traces(&self) -> &Signal {
        &self.health.telemetry.traces
    }

    /// Spans wait for the collector, if there is room.
    fn push(&self, batch: Batch) {
        let mut queue = self.queue();
        if queue.bytes + batch.body.len() > OTLP_QUEUE_BYTES_MAX {
            drop(queue);
            return self.traces().drop(Why::QueueFull, batch.spans);
        }
        queue.bytes += batch.body.len();
        self.traces().queued.fetch_add(batch.spans, Ordering::Relaxed);
        queue.batches.push_back(batch);
        self.bell.notify_all();
    }

    /// Those that wait are of no use any more.
    fn discard(&self, why: Why) {
        let batches = {
            let mut queue = self.queue();
            queue.bytes = 0;
            std::mem::take(&mut queue.batches)
        };
        for batch in batches {
            self.traces().queued.fetch_sub(batch.spans, Ordering::Relaxed);
            self.traces().drop(why, batch.spans);
        }
    }

    fn resource(&self, snapshot: &Snapshot) -> Resource {
        resource(&self.instance, &metrics::policy(snapshot), &snapshot.settings.telemetry.resource)
    }
}

/// Takes spans from the shards, until the end.
fn take(shared: &Shared, mut spans: Box<dyn Spans>) {
    cpu::name_thread("plane-spans");
    let mut lost = 0;
    loop {
        let last = shared.is_ending();
        let snapshot = shared.control.snapshot.load_full();
        let exports = snapshot.settings.telemetry.otlp.is_some();
        spans.take(&shared.resource(&snapshot), &mut |batch| {
            if exports { shared.push(batch) } else { shared.traces().drop(Why::Ended, batch.spans) }
        });
        let dropped = spans.dropped();
        shared.traces().drop(Why::ShardFull, dropped - lost);
        lost = dropped;
        if last {
            break;
        }
        // Woken by time, not by the shards.
        let queue = shared.queue();
        let wait = Duration::from_millis(OTLP_DRAIN_MS);
        drop(shared.bell.wait_timeout_while(queue, wait, |_| !shared.is_ending()));
    }
    shared.queue().closed = true;
    shared.bell.notify_all();
}

/// Sends what there is.
struct Exporter {
    shared: Arc<Shared>,
    /// The way to the collector, and which one that is.
    agent: Option<(OtlpSettings, Agent)>,
    /// To which there is no way: its authorities cannot be read.
    unread: Option<OtlpSettings>,
    metrics_due: Instant,
    /// Nothing is sent before, because the collector said so or could not be reached.
    pause_until: Instant,
    pause_ms: u64,
    /// The end: nothing takes longer.
    until: Option<Instant>,
    troubled: bool,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// It is there, but for so many items of it.
    Taken {
        /// As the collector says.
        rejected: u64,
    },
    /// It is of no use to send it again.
    Refused,
    /// It may be sent again, after so long if the collector says so.
    Later {
        /// Milliseconds.
        after_ms: Option<u64>,
        /// What happened, for people.
        why: String,
    },
}

impl Exporter {
    fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        let (metrics_due, pause_until) = (now, now);
        let (agent, unread) = (None, None);
        Self { shared, agent, unread, metrics_due, pause_until, pause_ms: 0, until: None, troubled: false }
    }

    fn run(mut self, end: &Sender<()>) {
        cpu::name_thread("plane-otlp");
        while !self.is_over() {
            let snapshot = self.shared.control.snapshot.load_full();
            self.reach(&snapshot.settings.telemetry);
            if self.agent.is_none() {
                self.shared.discard(Why::Ended);
            }
            let paused = Instant::now() < self.pause_until && self.until.is_none();
            if !paused {
                self.push_metrics(&snapshot);
                self.push_spans();
            }
            self.wait();
        }
        let _ = end.send(());
    }

    /// Whether everything is done, or there is no time left for it.
    fn is_over(&mut self) -> bool {
        let shared = self.shared.clone();
        if self.until.is_none() && shared.is_ending() {
            // The last figures go out, whenever they were due.
            self.until = Some(Instant::now() + Duration::from_millis(OTLP_LAST_MS_MAX));
            self.metrics_due = Instant::now();
        }
        let Some(until) = self.until else { return false };
        let queue = shared.queue();
        let done = queue.closed && queue.batches.is_empty() && self.metrics_due > Instant::now();
        done || Instant::now() >= until || (queue.closed && self.agent.is_none())
    }

    /// Sees that the way leads to the collector of these settings.
    fn reach(&mut self, settings: &TelemetrySettings) {
        let Some(wanted) = &settings.otlp else {
            (self.agent, self.unread) = (None, None);
            return;
        };
        if self.agent.as_ref().is_some_and(|(known, _)| known == wanted) {
            return;
        }
        let unread = self.unread.as_ref() == Some(wanted);
        if unread && Instant::now() < self.pause_until {
            return;
        }
        self.agent = match fetch::collector(wanted.ca.as_deref(), Duration::from_millis(wanted.timeout_ms)) {
            Ok(agent) => Some((wanted.clone(), agent)),
            Err(fault) => {
                self.trouble(&fault.to_string());
                self.pause_ms = if unread { self.pause_ms } else { 0 };
                self.pause(None);
                (self.agent, self.unread) = (None, Some(wanted.clone()));
                return;
            }
        };
        self.unread = None;
        (self.metrics_due, self.pause_until, self.pause_ms) = (Instant::now(), Instant::now(), 0);
    }

    /// Sends the figures of now, where they are due. What does not arrive is said again, with what has come since, the
    /// next time: a message that failed is not kept.
    fn push_metrics(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let Some((settings, _)) = &self.agent else { return };
        if now < self.metrics_due {
            return;
        }
        self.metrics_due = now + Duration::from_millis(settings.interval_ms);
        if !settings.metrics {
            return;
        }
        let shared = self.shared.clone();
        let families = metrics::families(&shared.control, &shared.health);
        let span = points::Span { start_unix_ns: shared.started_unix_ns, now_unix_ns: now_unix_ns() };
        let signal = &shared.health.telemetry.metrics;
        for (series, request) in points::requests(&families, &shared.resource(snapshot), span, OTLP_SERIES_MAX) {
            let rejected = |body: &[u8]| {
                let answer = ExportMetricsServiceResponse::decode(body).unwrap_or_default();
                answer.partial_success.map_or(0, |it| it.rejected_data_points)
            };
            let came = self.send("/v1/metrics", &request.encode_to_vec(), rejected);
            signal.came(series, &came);
            if self.heed(&came) {
                break;
            }
        }
    }

    /// Sends the spans that wait, oldest first, until there are none or the collector asks for a pause.
    fn push_spans(&mut self) {
        let shared = self.shared.clone();
        while self.agent.is_some() && self.until.is_none_or(|until| Instant::now() < until) {
            let batch = {
                let mut queue = shared.queue();
                let Some(batch) = queue.batches.pop_front() else { return };
                queue.bytes -= batch.body.len();
                batch
            };
            let rejected = |body: &[u8]| {
                let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
                answer.partial_success.map_or(0, |it| it.rejected_spans)
            };
            let came = self.send("/v1/traces", &batch.body, rejected);
            if self.heed(&came) {
                // It goes first, when it is time again.
                let mut queue = shared.queue();
                queue.bytes += batch.body.len();
                queue.batches.push_front(batch);
                return;
            }
            shared.traces().queued.fetch_sub(batch.spans, Ordering::Relaxed);
            shared.traces().came(batch.spans, &came);
            if Instant::now() >= self.metrics_due {
                return;
            }
        }
    }

    /// One message.
    fn send(&self, path: &str, body: &[u8], rejected: impl FnOnce(&[u8]) -> i64) -> Came {
        let later = |why: String| Came::Later { after_ms: None, why };
        let Some((settings, agent)) = &self.agent else { return later("there is no collector".to_owned()) };
        let mut timeout = Duration::from_millis(settings.timeout_ms);
        if let Some(until) = self.until {
            timeout = timeout.min(until.saturating_duration_since(Instant::now())).max(Duration::from_millis(1));
        }
        let mut request = agent.post(format!("{}{path}", settings.url)).content_type("application/x-protobuf");
        for (name, value) in &settings.headers {
            let Ok(value) = fetch::sensitive(value) else { return later("a header is none".to_owned()) };
            request = request.header(name.as_str(), value);
        }
        let mut answer = match request.config().timeout_global(Some(timeout)).build().send(body) {
            Ok(answer) => answer,
            // Says nothing of what the other side wrote, and nothing of the fields.
            Err(fault) => return later(word(&fault).to_owned()),
        };
        let status = answer.status().as_u16();
        match status {
            200..=299 => {
                let mut said = Vec::new();
                let read = answer.body_mut().as_reader().take(OTLP_ANSWER_BYTES_MAX).read_to_end(&mut said);
                let rejected = if read.is_ok() { rejected(&said) } else { 0 };
                Came::Taken { rejected: u64::try_from(rejected).unwrap_or(0) }
            }
            429 | 502..=504 => {
                let field = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
                let after_ms = field.and_then(|value| value.trim().parse::<u64>().ok());
                let after_ms = after_ms.map(|s| s.saturating_mul(1000).min(OTLP_PAUSE_MS_MAX));
                Came::Later { after_ms, why: format!("it answers {status}") }
            }
            _ => Came::Refused,
        }
    }

    /// Does as an answer wants; whether nothing more is to be sent for now.
    fn heed(&mut self, came: &Came) -> bool {
        let Came::Later { after_ms, why } = came else {
            if *came == Came::Refused {
                self.trouble("it refuses what is sent");
            } else if std::mem::take(&mut self.troubled) {
                tracing::info!("the collector takes telemetry again");
            }
            self.pause_ms = 0;
            return false;
        };
        self.trouble(why);
        self.pause(*after_ms);
        true
    }

    /// Nothing is sent for a while: longer each time, or as long as the collector says, but never at once.
    fn pause(&mut self, after_ms: Option<u64>) {
        self.pause_ms = (self.pause_ms * 2).clamp(OTLP_PAUSE_MS, OTLP_PAUSE_MS_MAX);
        let pause_ms = after_ms.unwrap_or(self.pause_ms).max(OTLP_PAUSE_MS);
        self.pause_until = Instant::now() + Duration::from_millis(pause_ms);
    }

    /// Says what is wrong, once.
    fn trouble(&mut self, why: &str) {
        if !std::mem::replace(&mut self.troubled, true) {
            tracing::warn!("telemetry does not reach its collector: {why}; what finds no room is dropped and counted");
        }
    }

    /// Until there is something to do.
    fn wait(&self) {
        let pause = self.pause_until.saturating_duration_since(Instant::now());
        let wait = self.patience();
        let idle = |queue: &mut Queue| {
            let nothing = queue.batches.is_empty() || !pause.is_zero() || self.agent.is_none();
            nothing && !(queue.closed || (self.shared.is_ending() && self.until.is_none()))
        };
        let queue = self.shared.queue();
        drop(self.shared.bell.wait_timeout_while(queue, wait, idle));
    }

    /// After how long it looks again, whether anything was heard or not. Without a collector nothing is ever due.
    fn patience(&self) -> Duration {
        let (now, most) = (Instant::now(), Duration::from_millis(OTLP_DRAIN_MS));
        if self.agent.is_none() {
            return most;
        }
        let due = self.metrics_due.max(self.pause_until);
        due.saturating_duration_since(now).clamp(Duration::from_millis(1), most)
    }
}

/// What kept a message from arriving, for people.
fn word(fault: &ureq::Error) -> &'static str {
    match fault {
        ureq::Error::Timeout(_) => "it does not answer in time",
        ureq::Error::HostNotFound => "its name does not resolve",
        ureq::Error::ConnectionFailed | ureq::Error::Io(_) => "it cannot be reached",
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => "its certificate is not one to trust, or it speaks no TLS",
        _ => "it does not speak HTTP as it should",
    }
}

fn now_unix_ns() -> u64 {
    clock().unix_ms.saturating_mul(1_000_000)
}

#[cfg(test)]
#[path = "otlp_tests.rs"]
mod tests;
