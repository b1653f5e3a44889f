use std::io::Write as _;
use std::net::{TcpListener, TcpStream};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;

use super::*;
use crate::config::{Settings, load};
use crate::plane::start::first_snapshot;
use crate::policy::needs::CountSecret;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a collector was sent: the path, all fields in lower case, and the body.
struct Pushed {
    path: String,
    fields: String,
    body: Vec<u8>,
}

/// A collector that answers as it is told, one answer after the other, the last one again and again; an empty one is
/// none, ever.
struct Collector {
    url: String,
    pushed: Receiver<Pushed>,
}

impl Collector {
    fn answering(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, pushed) = mpsc::channel();
        std::thread::spawn(move || {
            let mut hung = Vec::new();
            for (turn, socket) in listener.incoming().enumerate() {
                let mut socket = socket.unwrap();
                let Some(request) = receive(&mut socket) else { continue };
                let answer = answers.get(turn).or(answers.last()).unwrap();
                if answer.is_empty() {
                    hung.push(socket);
                } else {
                    let _ = socket.write_all(answer.as_bytes());
                }
                if tell.send(request).is_err() {
                    break;
                }
            }
        });
        Self { url, pushed }
    }

    fn next(&self) -> Pushed {
        self.pushed.recv_timeout(PATIENCE).expect("something is pushed")
    }
}

fn receive(socket: &mut TcpStream) -> Option<Pushed> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 * 1024]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).ok()?.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let length: usize = length.expect("it says how long it is");
            while bytes.len() < end + 4 + length {
                let n = socket.read(&mut piece).ok().filter(|n| *n > 0)?;
                bytes.extend_from_slice(&piece[..n]);
            }
            let path = head.split(' ').nth(1)?.to_owned();
            return Some(Pushed { path, fields: head, body: bytes.split_off(end + 4) });
        }
        let n = socket.read(&mut piece).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&piece[..n]);
    }
}

/// Spans that are told.
struct Told(Receiver<Batch>);

impl Spans for Told {
    fn take(&mut self, _: &Resource, each: &mut dyn FnMut(Batch)) {
        self.0.try_iter().for_each(each);
    }

    fn dropped(&self) -> u64 {
        3
    }
}

struct Setup {
    running: Option<Running>,
    health: Arc<Health>,
    made: u64,
    tell: Sender<Batch>,
}

impl Setup {
    /// Metrics are pushed once an hour, if at all: at the start, and at the end.
    fn new(url: &str, metrics: bool, timeout_ms: u64) -> Self {
        struct Nothing;
        impl crate::config::Source for Nothing {
            fn var(&self, _: &str) -> Option<String> {
                None
            }
            fn file(&self, _: &std::path::Path) -> std::io::Result<String> {
                Err(std::io::ErrorKind::NotFound.into())
            }
        }
        let text = "auth: { anonymous: allow }\nservers: { a: { url: 'http://127.0.0.1:1/' } }\n";
        let mut settings: Settings = load(text, std::path::Path::new("."), &Nothing).unwrap().settings;
        settings.telemetry.otlp = Some(OtlpSettings {
            url: url.into(),
            headers: vec![("x-key".to_owned(), Arc::new(crate::base::secret::Secret::new(b"planted".to_vec())))],
            ca: None,
            interval_ms: 3_600_000,
            timeout_ms,
            metrics,
        });
        settings.telemetry.resource = vec![("deployment.environment.name".to_owned(), "test".to_owned())];
        let prepared = Arc::new(crate::config::snapshot::Prepared::new(&settings));
        let snapshot = first_snapshot(&Arc::new(settings), &prepared, Arc::default(), CountSecret::fixed()).unwrap();
        let control = Arc::new(Control::new(snapshot, 1).unwrap());
        let health = Arc::new(Health::new(std::iter::once("a")));
        let (tell, told) = mpsc::channel();
        let running = Some(start(&control, &health, Box::new(Told(told))).unwrap());
        // Those that the shard had no room for.
        Self { running, health, made: 3, tell }
    }

    fn make(&mut self, spans: u64, bytes: usize) {
        self.made += spans;
        self.tell.send(Batch { spans, body: vec![7; bytes] }).unwrap();
    }

    fn finish(&mut self) {
        let began = Instant::now();
        self.running.take().unwrap().finish();
        // Two seconds, on a busy machine.
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }

    fn traces(&self) -> &Signal {
        &self.health.telemetry.traces
    }

    /// Exported, and dropped by why, of the spans: together they are those that were made.
    fn came(&self) -> (u64, Vec<(&'static str, u64)>) {
        let dropped: Vec<_> = self.traces().dropped().filter(|(_, count)| *count > 0).collect();
        let all = self.traces().exported() + dropped.iter().map(|it| it.1).sum::<u64>();
        assert_eq!(all, self.made, "{dropped:?}");
        (self.traces().exported(), dropped)
    }

    fn wait(&self, what: &str, is: impl Fn(&Signal) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self.traces()) {
            assert!(Instant::now() < until, "not {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";

#[test]
fn metrics_and_spans_arrive_and_the_last_ones_too() {
    let collector = Collector::answering(&[FINE]);
    let mut setup = Setup::new(&collector.url, true, 5_000);
    let first = collector.next();
    assert_eq!(first.path, "/v1/metrics");
    assert!(first.fields.contains("content-type: application/x-protobuf"), "{}", first.fields);
    assert!(first.fields.contains("x-key: planted"), "{}", first.fields);
    let request = ExportMetricsServiceRequest::decode(&*first.body).expect("protobuf");
    let metrics = &request.resource_metrics[0];
    let keys: Vec<&str> = metrics.resource.as_ref().unwrap().attributes.iter().map(|it| &*it.key).collect();
    let want = [
        "service.name",
        "service.version",
        "service.instance.id",
        "portcullis.policy.set",
        "deployment.environment.name",
    ];
    assert_eq!(keys, want);
    assert!(metrics.scope_metrics[0].metrics.iter().any(|metric| metric.name == "portcullis.ready"));
    setup.make(5, 100);
    let spans = collector.next();
    assert_eq!((&*spans.path, spans.body.len()), ("/v1/traces", 100));
    setup.wait("sent", |traces| traces.exported() == 5);
    setup.make(2, 50);
    setup.finish();
    let mut last = [collector.next().path, collector.next().path];
    last.sort();
    assert_eq!(last, ["/v1/metrics", "/v1/traces"]);
    assert_eq!(setup.came(), (7, vec![("shard_full", 3)]));
    assert!(setup.health.telemetry.metrics.exported() > 0);
}

#[test]
fn a_busy_collector_gets_it_later() {
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
    let answers = Box::leak(Box::new([busy, busy, FINE]));
    let collector = Collector::answering(answers);
    let mut setup = Setup::new(&collector.url, false, 5_000);
    setup.make(5, 100);
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(collector.next().body.len(), 100);
    }
    assert!(began.elapsed() > Duration::from_secs(1), "after as long as it said");
    setup.wait("sent", |traces| traces.exported() == 5);
    setup.finish();
    assert_eq!(setup.came(), (5, vec![("shard_full", 3)]));
}

/// A pause of no length is none: the same would be sent as fast as it is refused.
#[test]
fn a_collector_that_says_at_once_is_given_time() {
    let busy = "HTTP/1.1 429 Busy\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
    let answers = Box::leak(Box::new([busy, FINE]));
    let collector = Collector::answering(answers);
    let mut setup = Setup::new(&collector.url, false, 5_000);
    setup.make(5, 100);
    let began = Instant::now();
    collector.next();
    collector.next();
    assert!(began.elapsed() >= Duration::from_millis(OTLP_PAUSE_MS - 10));
    setup.wait("sent", |traces| traces.exported() == 5);
    setup.finish();
}

/// Whoever has nowhere to send to does not look for something to do all the time.
#[test]
fn without_a_way_it_is_quiet() {
    let mut setup = Setup::new("http://127.0.0.1:1", false, 5_000);
    let shared = setup.running.as_ref().unwrap().shared.clone();
    let settings = shared.control.snapshot.load().settings.telemetry.clone();
    let mut exporter = Exporter::new(shared);
    assert_eq!(exporter.patience(), Duration::from_millis(OTLP_DRAIN_MS));
    let ca = Some(std::path::PathBuf::from("/nowhere/at/all.pem"));
    let otlp = OtlpSettings { ca, ..settings.otlp.clone().unwrap() };
    let unreadable = TelemetrySettings { otlp: Some(otlp), ..settings.clone() };
    exporter.reach(&unreadable);
    let until = exporter.pause_until;
    assert!(exporter.agent.is_none() && until > Instant::now());
    assert_eq!(exporter.patience(), Duration::from_millis(OTLP_DRAIN_MS));
    exporter.reach(&unreadable);
    assert_eq!(exporter.pause_until, until, "the file is not read again at once");
    // Others are reached at once.
    exporter.reach(&settings);
    assert!(exporter.agent.is_some() && exporter.pause_until <= Instant::now());
    assert_eq!(exporter.patience(), Duration::from_millis(1), "metrics are due");
    setup.finish();
}

#[test]
fn what_is_refused_is_not_sent_again() {
    // 404, then two of three rejected (`partial_success { rejected_spans: 2 }`).
    let partial = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\x0a\x02\x08\x02";
    let answers = Box::leak(Box::new(["HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", partial]));
    let collector = Collector::answering(answers);
    let mut setup = Setup::new(&collector.url, false, 5_000);
    setup.make(5, 100);
    collector.next();
    setup.make(3, 10);
    assert_eq!(collector.next().body.len(), 10);
    setup.wait("sent", |traces| traces.exported() == 1);
    setup.finish();
    assert_eq!(setup.came(), (1, vec![("shard_full", 3), ("refused", 7)]));
}

#[test]
fn a_hanging_collector_keeps_nobody() {
    let collector = Collector::answering(&[""]);
    let mut setup = Setup::new(&collector.url, true, 60_000);
    assert_eq!(collector.next().path, "/v1/metrics");
    let mut waiting = 0;
    // While it hangs, spans are taken from the shards all the same; those that find no room are dropped.
    for _ in 0..5 {
        setup.make(10, OTLP_QUEUE_BYTES_MAX / 4);
        waiting += 10;
        setup.wait("taken", |traces| traces.queued() + traces.dropped().map(|it| it.1).sum::<u64>() == waiting + 3);
    }
    setup.finish();
    assert_eq!(setup.came(), (0, vec![("shard_full", 3), ("queue_full", 10), ("ended", 40)]));
}

#[test]
fn a_dead_collector_is_tried_again() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut setup = Setup::new(&format!("http://{address}"), true, 5_000);
    setup.make(4, 10);
    setup.wait("waiting", |traces| traces.queued() == 4);
    setup.finish();
    assert_eq!(setup.came(), (0, vec![("shard_full", 3), ("ended", 4)]));
}
