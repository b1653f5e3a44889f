//! The admin listener: is the process alive, is it ready, what does it know of its servers. On an address of its own,
//! loopback by default; nothing here changes anything.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::limits::{ADMIN_ANSWER_MS_MAX, HEAD_BYTES_MAX, HOUSEKEEPING_MS};
use crate::gateway::control::{Control, Life};
use crate::gateway::tally::Section;
use crate::http::head::{Framing, Method, Progress, RequestHead};
use crate::http::reply;
use crate::mcp::catalog::{ListKind, ServerCatalog};
use crate::mcp::transport::Transport;
use crate::uring::wait::clock;

use super::PlaneFault;
use super::endpoints;
pub use super::surveys::SurveyHealth;

/// What is known of the servers, for people.
#[derive(Debug)]
pub struct Health {
    /// The log can be written.
    recording: AtomicBool,
    servers: Mutex<Vec<ServerHealth>>,
    reload: Mutex<Option<ReloadHealth>>,
}

/// How the last reload went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadHealth {
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What was wrong; the settings before stay then. Empty where it went well.
    pub faults: Vec<String>,
    /// How many reloads there have been, this one too.
    pub tried: u64,
    /// How many of them were refused.
    pub failed: u64,
}

/// What is known of one server.
#[derive(Clone, Debug, Default)]
pub struct ServerHealth {
    /// Its configured name.
    pub name: String,
    /// Its catalogue is known.
    pub known: bool,
    /// The eras it speaks, newest first.
    pub eras: Vec<&'static str>,
    /// How messages travel to it, where that is known.
    pub transport: Option<Transport>,
    /// How many tools it offers.
    pub tools: usize,
    /// What is wrong with it.
    pub trouble: Option<String>,
    /// How its catalogue is.
    pub survey: SurveyHealth,
}

impl Health {
    /// Nothing known yet of these servers.
    #[must_use]
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let servers = names.map(|name| ServerHealth { name: name.to_owned(), ..ServerHealth::default() }).collect();
        Self { recording: AtomicBool::new(true), servers: Mutex::new(servers), reload: Mutex::default() }
    }

    /// Whether the log can be written.
    #[must_use]
    pub fn recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    pub(super) fn set_recording(&self, recording: bool) {
        self.recording.store(recording, Ordering::Relaxed);
    }

    /// What is known now.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerHealth> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the last reload went; `None` before the first.
    #[must_use]
    pub fn reload(&self) -> Option<ReloadHealth> {
        self.reload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A reload has ended, with these faults.
    pub(super) fn reloaded(&self, faults: Vec<String>) {
        let mut reload = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let (tried, failed) = reload.as_ref().map_or((0, 0), |before| (before.tried, before.failed));
        let failed = failed + u64::from(!faults.is_empty());
        *reload = Some(ReloadHealth { at_unix_ms: clock().unix_ms, faults, tried: tried + 1, failed });
    }

    /// These servers are all there are from now on, in this order.
    pub(super) fn keep<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before: HashMap<String, ServerHealth> =
            servers.drain(..).map(|server| (server.name.clone(), server)).collect();
        let new = |name: &str| ServerHealth { name: name.to_owned(), ..ServerHealth::default() };
        servers.extend(names.map(|name| before.remove(name).unwrap_or_else(|| new(name))));
    }

    pub(super) fn set_survey(&self, server: &str, survey: SurveyHealth) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = servers.iter_mut().find(|known| known.name == server) {
            health.survey = survey;
        }
    }

    pub(super) fn set(&self, server: &str, catalog: Option<&ServerCatalog>, trouble: Option<&str>) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(health) = servers.iter_mut().find(|known| known.name == server) else { return };
        health.known = catalog.is_some();
        health.trouble = trouble.map(str::to_owned);
        health.transport = catalog.map(|catalog| catalog.transport);
        health.eras.clear();
        health.tools = 0;
        for era in catalog.iter().flat_map(|catalog| [catalog.modern.as_ref(), catalog.legacy.as_ref()]).flatten() {
            health.eras.push(era.protocol.as_str());
            health.tools = health.tools.max(era.list(ListKind::Tools).map_or(0, |list| list.items.len()));
        }
    }
}

/// Listens, and answers from a thread of its own until the process ends. Says where.
///
/// # Errors
/// `PlaneFault::Listen` or `PlaneFault::System`.
pub fn start(address: SocketAddr, control: Arc<Control>, health: Arc<Health>) -> Result<SocketAddr, PlaneFault> {
    let listener = TcpListener::bind(address).map_err(|error| PlaneFault::Listen { address, error })?;
    let address = listener.local_addr().map_err(|error| PlaneFault::Listen { address, error })?;
    std::thread::Builder::new()
        .name("plane-admin".into())
        .spawn(move || {
            for socket in listener.incoming() {
                match socket {
                    // One at a time, each within a bound: this is for probes and people.
                    Ok(socket) => _ = answer(socket, &control, &health),
                    // Out of descriptors, most likely.
                    Err(_) => std::thread::sleep(Duration::from_millis(HOUSEKEEPING_MS)),
                }
            }
        })
        .map_err(|error| PlaneFault::System { what: "a thread", error })?;
    Ok(address)
}

fn answer(mut socket: TcpStream, control: &Control, health: &Health) -> std::io::Result<()> {
    let until = Instant::now() + Duration::from_millis(ADMIN_ANSWER_MS_MAX);
    socket.set_write_timeout(Some(Duration::from_millis(ADMIN_ANSWER_MS_MAX)))?;
    let mut bytes = Vec::new();
    let mut head = RequestHead::new();
    let complete = loop {
        match head.parse(&bytes) {
            Ok(Progress::Complete) => break true,
            Ok(Progress::Partial) if bytes.len() <= HEAD_BYTES_MAX => {}
            Ok(Progress::Partial) | Err(_) => break false,
        }
        // For the whole request: this thread serves everybody, one after the other.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        if left <= Duration::from_millis(1) {
            return Ok(());
        }
        socket.set_read_timeout(Some(left))?;
        let mut piece = [0; 2048];
        let n = socket.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..n]);
    };
    let (status, body) = if complete && !is_local(head.host.of(&bytes)) {
        (403, "{\"error\":\"name this listener by its address, or localhost\"}\n".to_owned())
    } else if complete && matches!(head.method, Method::Get | Method::Head) {
        page(head.path.of(&bytes), control, health)
    } else {
        (400, "{\"error\":\"GET /healthz, /readyz or /status\"}\n".to_owned())
    };
    let mut out = Vec::with_capacity(256 + body.len());
    reply::write_status(&mut out, status);
    for (name, value) in [("content-type", "application/json"), ("cache-control", "no-store"), ("connection", "close")]
    {
        let _ = reply::write_field(&mut out, name, value.as_bytes());
    }
    reply::finish(&mut out, Framing::Length(body.len() as u64));
    if head.method != Method::Head {
        out.extend_from_slice(body.as_bytes());
    }
    socket.write_all(&out)
}

/// An address, `localhost`, or nothing (HTTP/1.0): a page in a browser that had its own name pointed here shows that name.
fn is_local(host: &[u8]) -> bool {
    let host = String::from_utf8_lossy(host);
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit())).map_or(&*host, |it| it.0);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

/// How old what is known of a server is, and since when it is no longer looked at with success.
fn catalog(survey: &SurveyHealth) -> Value {
    let now = clock().unix_ms;
    let age = |since: Option<u64>| since.map(|since| now.saturating_sub(since));
    let state = match (survey.surveyed_unix_ms, survey.stale_unix_ms) {
        (None, _) => "missing",
        (Some(_), None) => "fresh",
        (Some(_), Some(_)) => "stale",
    };
    json!({ "state": state, "age_ms": age(survey.surveyed_unix_ms), "stale_ms": age(survey.stale_unix_ms) })
}

/// What of its definitions waits for a person.
fn pins(survey: &SurveyHealth) -> Value {
    let pins = survey.pins;
    json!({ "waiting": pins.waiting, "reported": pins.reported, "flagged": pins.flagged })
}

/// How the last reload went.
fn reloaded(reload: &ReloadHealth) -> Value {
    json!({
        "at_ms": reload.at_unix_ms, "ok": reload.faults.is_empty(), "faults": reload.faults,
        "tried": reload.tried, "failed": reload.failed,
    })
}

fn page(path: &[u8], control: &Control, health: &Health) -> (u16, String) {
    let recording = health.recording();
    let ready = control.life() == Life::Run && recording;
    match path {
        b"/healthz" => (200, "{\"alive\":true}\n".to_owned()),
        b"/readyz" => (if ready { 200 } else { 503 }, format!("{{\"ready\":{ready}}}\n")),
        b"/status" => {
            let servers: Vec<_> = health
                .servers()
                .into_iter()
                .map(|server| {
                    json!({
                        "name": server.name, "known": server.known, "protocols": server.eras,
                        "transport": server.transport.map(Transport::as_str),
                        "tools": server.tools, "trouble": server.trouble,
                        "server": server.survey.version, "catalog": catalog(&server.survey),
                        "pins": pins(&server.survey),
                    })
                })
                .collect();
            let version = env!("CARGO_PKG_VERSION");
            (
                200,
                format!(
                    "{:#}\n",
                    json!({
                        "version": version, "ready": ready, "recording": recording, "servers": servers,
                        "endpoints": endpoints::status(&control.snapshot.load()),
                        "snapshot": control.snapshot.load().number,
                        "reload": health.reload().as_ref().map(reloaded),
                        "happened": control.tally.under(Section::Happened),
                        "dropped": control.tally.under(Section::Dropped),
                    })
                ),
            )
        }
        _ => (404, "{\"error\":\"GET /healthz, /readyz or /status\"}\n".to_owned()),
    }
}
