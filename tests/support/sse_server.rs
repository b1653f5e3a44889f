//! A server that speaks HTTP+SSE of 2024-11-05 and nothing else: a stream at `/sse`, and messages POSTed to the URI that
//! its first event names. It remembers everything, as [`Upstream`] does, and misbehaves as it is told.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::gateway::PATIENCE;
use super::upstream::{Acted, Eras, Out, Plan, Reserved, Seen, Upstream, introduced, said, standard};

/// One stream: a session.
pub(crate) struct Line {
    /// Its number, from 0.
    pub(crate) number: usize,
    socket: Mutex<TcpStream>,
}

impl Line {
    /// Sends a message.
    pub(crate) fn event(&self, message: &Value) {
        self.raw(&format!("event: message\ndata: {message}\n\n"));
    }

    /// Sends these bytes of the stream.
    pub(crate) fn raw(&self, bytes: &str) {
        let mut socket = self.socket.lock().unwrap_or_else(|held| held.into_inner());
        let _ = socket.write_all(format!("{:x}\r\n{bytes}\r\n", bytes.len()).as_bytes());
    }

    /// Cuts it.
    pub(crate) fn cut(&self) {
        let socket = self.socket.lock().unwrap_or_else(|held| held.into_inner());
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// The streams that are open.
#[derive(Default)]
struct Lines {
    open: Mutex<Vec<Arc<Line>>>,
    opened: AtomicUsize,
}

impl Lines {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Line>>> {
        self.open.lock().unwrap_or_else(|held| held.into_inner())
    }
}

type Script = dyn Fn(&Seen, &Line, &mut Out<'_>) -> Acted + Send + Sync;
type Endpoint = dyn Fn(usize) -> String + Send + Sync;

/// A server being put together.
pub(crate) struct SsePlan {
    tools: Vec<String>,
    endpoint: Box<Endpoint>,
    script: Box<Script>,
}

impl SsePlan {
    /// With these tools, well behaved.
    pub(crate) fn tools(names: &[&str]) -> Self {
        Self {
            tools: names.iter().map(|name| (*name).to_owned()).collect(),
            endpoint: Box::new(|line| format!("event: endpoint\ndata: /messages?session={line}\n\n")),
            script: Box::new(|_, _, _| Acted::Default),
        }
    }

    /// With these bytes at the start of each stream, by its number.
    pub(crate) fn endpoint(mut self, endpoint: impl Fn(usize) -> String + Send + Sync + 'static) -> Self {
        self.endpoint = Box::new(endpoint);
        self
    }

    /// Asked first about every message, with the stream of its session.
    pub(crate) fn script(
        mut self,
        script: impl Fn(&Seen, &Line, &mut Out<'_>) -> Acted + Send + Sync + 'static,
    ) -> Self {
        self.script = Box::new(script);
        self
    }

    /// On a port of its own.
    pub(crate) fn start(self) -> SseServer {
        self.start_at(Reserved::new())
    }

    /// On this port.
    pub(crate) fn start_at(self, place: Reserved) -> SseServer {
        let Self { tools, endpoint, script } = self;
        let lines = Arc::new(Lines::default());
        let here = lines.clone();
        let names: Vec<&str> = tools.iter().map(String::as_str).collect();
        let plan = Plan::tools(&names).eras(Eras::Legacy).script(move |seen, out| {
            match (seen.http.as_str(), seen.target.split('?').next().unwrap_or_default()) {
                ("GET", "/sse") => stream(&here, &endpoint, out),
                ("POST", "/messages") => message(&here, &script, seen, out),
                _ => out.json(405, "allow: GET\r\n", &json!({ "detail": "Method Not Allowed" })),
            }
            Acted::Done
        });
        SseServer { upstream: place.start(plan), lines }
    }
}

/// A running server.
pub(crate) struct SseServer {
    pub(crate) upstream: Upstream,
    lines: Arc<Lines>,
}

impl SseServer {
    /// Where its streams begin.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/sse", self.upstream.address())
    }

    /// The streams that are open at this moment, oldest first.
    pub(crate) fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.open().clone()
    }

    /// How many streams there ever were.
    pub(crate) fn opened(&self) -> usize {
        self.lines.opened.load(Ordering::Acquire)
    }

    /// Waits until exactly so many streams are open.
    #[track_caller]
    pub(crate) fn wait_lines(&self, count: usize) -> Vec<Arc<Line>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            if lines.len() == count {
                return lines;
            }
            assert!(Instant::now() < until, "{} streams are open, not {count}", lines.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Offers these tools from now on, and says so on every stream.
    pub(crate) fn change_tools(&self, names: &[&str]) {
        self.upstream.change_tools(names);
        let message = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
        self.lines().iter().for_each(|line| line.event(&message));
    }
}

/// A session begins; it is over when either side closes the stream.
fn stream(lines: &Lines, endpoint: &Endpoint, out: &mut Out<'_>) {
    let number = lines.opened.fetch_add(1, Ordering::AcqRel);
    let line = Arc::new(Line { number, socket: Mutex::new(out.keep()) });
    out.stream();
    // Open before the client can know.
    lines.open().push(line.clone());
    line.raw(&endpoint(number));
    while !out.gone(Duration::from_secs(3600)) {}
    lines.open().retain(|open| open.number != number);
    out.note(format!("line {number} closed"));
    out.close();
}

fn message(lines: &Lines, script: &Script, seen: &Seen, out: &mut Out<'_>) {
    let session = seen.target.split_once("session=").and_then(|(_, number)| number.parse().ok());
    let Some(line) = lines.open().iter().find(|line| Some(line.number) == session).cloned() else {
        return out.json(404, "", &json!({ "detail": "Session not found" }));
    };
    if let Acted::Done = script(seen, &line, out) {
        return;
    }
    out.empty(202);
    if seen.message.get("id").is_none() || seen.method().is_empty() {
        return;
    }
    line.event(&match seen.method() {
        "initialize" => introduced(seen),
        "tools/call" => said(seen, seen.value()),
        method => standard(seen, method, &out.tools()),
    });
}
