//! The admin listener: is the process alive, is it ready, what does it know of its servers, what did it count. On an
//! address of its own, loopback by default. Whoever may read the state folder may tell it to reload and to drain.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::limits::{
    ADMIN_ANSWER_MS_MAX, ADMIN_BODY_BYTES_MAX, ADMIN_HEAD_MS_MAX, ADMIN_STRANGERS_MAX, ADMIN_WORKERS_MAX,
    HEAD_BYTES_MAX, HOUSEKEEPING_MS,
};
use crate::gateway::control::{Busy, Control, Life};
use crate::gateway::tally::Section;
use crate::http::field::Known;
use crate::http::head::{Framing, Method, Progress, RequestHead};
use crate::http::reply;
use crate::ledger::counts::Standing;
use crate::mcp::catalog::{ListKind, ServerCatalog};
use crate::mcp::transport::Transport;
use crate::record::own::Quantiles;
use crate::telemetry::prometheus;
use crate::uring::wait::clock;

use super::broker::CredentialHealth;
pub use super::issuers::IssuerHealth;
use super::orders::{Order, Orders};
use super::otlp::Sent;
use super::people::{self, People};
pub use super::surveys::SurveyHealth;
use super::{PlaneFault, endpoints, metrics, misfits, probe};

/// What is known of the servers, for people.
#[derive(Debug)]
pub struct Health {
    /// The log can be written.
    recording: AtomicBool,
    servers: Mutex<Vec<ServerHealth>>,
    issuers: Mutex<Vec<IssuerHealth>>,
    reload: Mutex<Option<ReloadHealth>>,
    /// How the record is doing.
    pub(super) audit: AuditHealth,
    /// What became of what was made for a collector.
    pub(super) telemetry: Sent,
}

/// How the record is doing.
#[derive(Debug, Default)]
pub(super) struct AuditHealth {
    /// Records that were written.
    pub(super) written: AtomicU64,
    /// Those that found no room on their way to the log.
    pub(super) lost: AtomicU64,
    /// Those that wait for the log, and those that wait for the disk; bytes.
    pub(super) backlog_bytes: AtomicU64,
}

/// How the last reload went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadHealth {
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What was wrong; the settings before stay then. Empty where it went well.
    pub faults: Vec<String>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
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
    /// How the tokens are that are fetched for it; `None` where none were.
    pub credential: Option<CredentialHealth>,
}

impl Health {
    /// Nothing known yet of these servers.
    #[must_use]
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let servers = names.map(|name| ServerHealth { name: name.to_owned(), ..ServerHealth::default() }).collect();
        Self {
            recording: AtomicBool::new(true),
            servers: Mutex::new(servers),
            issuers: Mutex::default(),
            reload: Mutex::default(),
            audit: AuditHealth::default(),
            telemetry: Sent::default(),
        }
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

    /// What is known of the issuers now, in the order of the configuration.
    #[must_use]
    pub fn issuers(&self) -> Vec<IssuerHealth> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_issuers(&self, issuers: Vec<IssuerHealth>) {
        *self.issuers.lock().unwrap_or_else(PoisonError::into_inner) = issuers;
    }

    /// How the last reload went; `None` before the first.
    #[must_use]
    pub fn reload(&self) -> Option<ReloadHealth> {
        self.reload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A reload has ended, with these faults, after so many milliseconds.
    pub(super) fn reloaded(&self, faults: Vec<String>, took_ms: u64) {
        let mut reload = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let (tried, failed) = reload.as_ref().map_or((0, 0), |before| (before.tried, before.failed));
        let failed = failed + u64::from(!faults.is_empty());
        *reload = Some(ReloadHealth { at_unix_ms: clock().unix_ms, faults, took_ms, tried: tried + 1, failed });
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

    /// Something has become of a token for this server.
    pub(super) fn credential(&self, server: &str, change: impl FnOnce(&mut CredentialHealth)) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = servers.iter_mut().find(|known| known.name == server) {
            change(health.credential.get_or_insert_default());
        }
    }

    /// Tokens are fetched for these servers only.
    pub(super) fn keep_credentials(&self, servers: &HashSet<&str>) {
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter_mut().filter(|it| !servers.contains(&*it.name)).for_each(|it| it.credential = None);
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

/// What the admin listener knows, and what it may do.
pub struct Desk {
    /// The gateway.
    pub control: Arc<Control>,
    /// What is known of its servers.
    pub health: Arc<Health>,
    /// What it can be told to do.
    pub orders: Orders,
    /// What people decide there.
    pub(super) people: People,
    /// Requests of theirs that are being worked on.
    pub(super) at_work: AtomicUsize,
}

/// Listens, and answers from a thread of its own until the process ends. Says where.
///
/// # Errors
/// `PlaneFault::Listen` or `PlaneFault::System`.
pub fn start(address: SocketAddr, desk: Desk) -> Result<SocketAddr, PlaneFault> {
    let listener = TcpListener::bind(address).map_err(|error| PlaneFault::Listen { address, error })?;
    let address = listener.local_addr().map_err(|error| PlaneFault::Listen { address, error })?;
    let (desk, hall) = (Arc::new(desk), Arc::new(Hall::default()));
    std::thread::Builder::new()
        .name("plane-admin".into())
        .spawn(move || {
            for socket in listener.incoming() {
                // Out of descriptors, or of threads, most likely.
                if socket.and_then(|socket| receive(socket, &desk, &hall)).is_err() {
                    std::thread::sleep(Duration::from_millis(HOUSEKEEPING_MS));
                }
            }
        })
        .map_err(|error| PlaneFault::System { what: "a thread", error })?;
    Ok(address)
}

/// Serves a connection on a thread of its own: who says nothing keeps nobody waiting, least of all who revokes.
fn receive(socket: TcpStream, desk: &Arc<Desk>, hall: &Arc<Hall>) -> std::io::Result<()> {
    let place = hall.enter(socket);
    let desk = desk.clone();
    let work = move || _ = answer(place, &desk);
    std::thread::Builder::new().name("plane-asked".into()).spawn(work).map(drop)
}

/// The connections whose token was not seen yet, oldest first.
#[derive(Default)]
struct Hall {
    strangers: Mutex<VecDeque<Arc<TcpStream>>>,
    left: Condvar,
}

impl Hall {
    /// Takes a connection in. Where there are as many as may be, the oldest ends.
    fn enter(self: &Arc<Self>, socket: TcpStream) -> Place {
        let socket = Arc::new(socket);
        let mut strangers = self.strangers();
        while strangers.len() >= ADMIN_STRANGERS_MAX {
            if let Some(oldest) = strangers.front() {
                // Its thread notices, and leaves.
                let _ = oldest.shutdown(Shutdown::Both);
            }
            strangers = self.left.wait(strangers).unwrap_or_else(PoisonError::into_inner);
        }
        strangers.push_back(socket.clone());
        Place { hall: self.clone(), socket }
    }

    fn strangers(&self) -> MutexGuard<'_, VecDeque<Arc<TcpStream>>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, and its place among those whose token was not seen.
struct Place {
    hall: Arc<Hall>,
    socket: Arc<TcpStream>,
}

impl Place {
    /// Its token is right: from here on it makes room for nobody.
    fn known(self) -> Arc<TcpStream> {
        self.socket.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hall.strangers().retain(|other| !Arc::ptr_eq(other, &self.socket));
        self.hall.left.notify_all();
    }
}

/// An answer, but for its body's length.
struct Page {
    status: u16,
    media: &'static str,
    body: String,
}

impl Page {
    fn json(status: u16, body: impl Into<String>) -> Self {
        Self { status, media: "application/json", body: body.into() }
    }
}

fn answer(place: Place, desk: &Desk) -> std::io::Result<()> {
    let began = Instant::now();
    let (head_until, until) =
        (began + Duration::from_millis(ADMIN_HEAD_MS_MAX), began + Duration::from_millis(ADMIN_ANSWER_MS_MAX));
    let socket = &*place.socket;
    let mut bytes = Vec::new();
    let mut head = RequestHead::new();
    let complete = loop {
        match head.parse(&bytes) {
            Ok(Progress::Complete) => break true,
            Ok(Progress::Partial) if bytes.len() <= HEAD_BYTES_MAX => {}
            Ok(Progress::Partial) | Err(_) => break false,
        }
        let Some(left) = left(head_until) else { return Ok(()) };
        socket.set_read_timeout(Some(left))?;
        let mut piece = [0; 2048];
        let n = { socket }.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..n]);
    };
    let (path, order) = (head.path.of(&bytes), Order::of(head.path.of(&bytes)));
    let page = match (head.method, order) {
        _ if !complete => Page::json(400, PAGES),
        _ if !is_local(head.host.of(&bytes)) => {
            Page::json(403, "{\"error\":\"name this listener by its address, or localhost\"}\n")
        }
        (Method::Post, Some(order)) => {
            if desk.orders.allows(head.get(&bytes, Known::Authorization)) {
                return carry_out(&place.known(), desk, order);
            }
            Page::json(401, TOKEN)
        }
        _ if people::is_theirs(path) => {
            if desk.orders.allows(head.get(&bytes, Known::Authorization)) {
                return attend(&place.known(), desk, &head, bytes, until);
            }
            Page::json(401, TOKEN)
        }
        (_, Some(_)) => Page::json(405, "{\"error\":\"POST\"}\n"),
        (Method::Get | Method::Head, None) => page(path, &desk.control, &desk.health),
        _ => Page::json(400, PAGES),
    };
    write(socket, &page, head.method != Method::Head, until)
}

/// Does as told.
fn carry_out(socket: &TcpStream, desk: &Desk, order: Order) -> std::io::Result<()> {
    let (status, body) = desk.orders.carry_out(order, &desk.control);
    let until = Instant::now() + Duration::from_millis(ADMIN_ANSWER_MS_MAX);
    // Whoever asked may have gone; it is done all the same.
    write(socket, &Page::json(status, body), true, until)
}

/// Does what a person wants.
fn attend(socket: &TcpStream, desk: &Desk, head: &RequestHead, bytes: Vec<u8>, until: Instant) -> std::io::Result<()> {
    let result = if desk.at_work.fetch_add(1, Ordering::AcqRel) < ADMIN_WORKERS_MAX {
        work(socket, desk, head, bytes, until)
    } else {
        let (status, body) = people::refused(503, "too many requests are being worked on");
        write(socket, &Page::json(status, body), head.method != Method::Head, until)
    };
    desk.at_work.fetch_sub(1, Ordering::AcqRel);
    result
}

fn work(
    mut socket: &TcpStream,
    desk: &Desk,
    head: &RequestHead,
    mut bytes: Vec<u8>,
    until: Instant,
) -> std::io::Result<()> {
    let with_body = head.method != Method::Head;
    let length = match head.framing {
        Framing::None => 0,
        Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Framing::Chunked | Framing::UntilClose => usize::MAX,
    };
    if length > ADMIN_BODY_BYTES_MAX {
        let (status, body) = people::refused(413, "the body must have a Content-Length, of 2 MiB at most");
        return write(socket, &Page::json(status, body), with_body, until);
    }
    while bytes.len() < head.end + length {
        let Some(left) = left(until) else { return Ok(()) };
        socket.set_read_timeout(Some(left))?;
        let mut piece = [0; 16 * 1024];
        let n = socket.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..n]);
    }
    let (status, body) = desk.people.answer(head.method, head.path.of(&bytes), &bytes[head.end..head.end + length]);
    let until = Instant::now() + Duration::from_millis(ADMIN_ANSWER_MS_MAX);
    write(socket, &Page::json(status, body), with_body, until)
}

fn write(mut socket: &TcpStream, page: &Page, with_body: bool, until: Instant) -> std::io::Result<()> {
    let mut out = Vec::with_capacity(256 + page.body.len());
    reply::write_status(&mut out, page.status);
    let mut field = |name, value: &str| _ = reply::write_field(&mut out, name, value.as_bytes());
    field("content-type", page.media);
    field("cache-control", "no-store");
    field("connection", "close");
    match page.status {
        401 => field("www-authenticate", "Bearer"),
        405 => field("allow", "POST"),
        _ => {}
    }
    reply::finish(&mut out, Framing::Length(page.body.len() as u64));
    if with_body {
        out.extend_from_slice(page.body.as_bytes());
    }
    let mut rest = &out[..];
    while !rest.is_empty() {
        let Some(left) = left(until) else { return Ok(()) };
        socket.set_write_timeout(Some(left))?;
        let n = socket.write(rest)?;
        rest = &rest[n..];
    }
    Ok(())
}

/// How much time is left; `None` for none.
fn left(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| *left > Duration::from_millis(1))
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

/// What is known of an issuer's keys.
fn issuer(issuer: &IssuerHealth) -> Value {
    let age_ms = issuer.seen_unix_ms.map(|seen| clock().unix_ms.saturating_sub(seen));
    json!({
        "issuer": issuer.issuer, "source": issuer.source, "looks": issuer.looks, "failed": issuer.failed,
        "trouble": issuer.trouble,
        "keys": { "state": issuer.standing, "usable": issuer.keys, "left_out": issuer.left_out, "age_ms": age_ms },
    })
}

/// What of its definitions waits for a person.
fn pins(survey: &SurveyHealth) -> Value {
    let pins = survey.pins;
    json!({ "waiting": pins.waiting, "reported": pins.reported, "flagged": pins.flagged, "differing": survey.differing })
}

/// What a shard has to do.
fn shard(busy: Busy) -> Value {
    let Busy { connections, calls, streams, buffer_bytes, .. } = busy;
    json!({ "connections": connections, "calls": calls, "streams": streams, "buffer_bytes": buffer_bytes })
}

/// How it stands with what limits and rates count.
fn counts(standing: Standing) -> Value {
    let Standing { counts, counts_max, waiting, no_room, not_kept } = standing;
    json!({ "counts": counts, "counts_max": counts_max, "waiting": waiting, "no_room": no_room, "not_kept": not_kept })
}

/// What requests took without the wait for their servers, microseconds, since the process began.
fn overhead(quantiles: Quantiles) -> Value {
    let Quantiles { p50_ns, p99_ns, p999_ns } = quantiles;
    let micros = |ns: u64| (ns as f64) / 1e3;
    json!({ "p50": micros(p50_ns), "p99": micros(p99_ns), "p999": micros(p999_ns) })
}

/// How the last reload went.
fn reloaded(reload: &ReloadHealth) -> Value {
    json!({
        "at_ms": reload.at_unix_ms, "ok": reload.faults.is_empty(), "faults": reload.faults,
        "took_ms": reload.took_ms, "tried": reload.tried, "failed": reload.failed,
    })
}

fn page(path: &[u8], control: &Control, health: &Health) -> Page {
    let recording = health.recording();
    let ready = control.life() == Life::Run && recording;
    match path {
        b"/healthz" => Page::json(200, "{\"alive\":true}\n"),
        b"/readyz" => Page::json(if ready { 200 } else { 503 }, format!("{{\"ready\":{ready}}}\n")),
        b"/metrics" => {
            let body = prometheus::page(&metrics::families(control, health));
            Page { status: 200, media: prometheus::MEDIA, body }
        }
        b"/status" => {
            let snapshot = control.snapshot.load();
            let servers: Vec<_> = health
                .servers()
                .into_iter()
                .map(|server| {
                    json!({
                        "name": server.name, "known": server.known, "protocols": server.eras,
                        "transport": server.transport.map(Transport::as_str),
                        "tools": server.tools, "trouble": server.trouble,
                        "server": server.survey.version, "catalog": catalog(&server.survey),
                        "pins": pins(&server.survey), "instances": probe::status(&snapshot, &server.name),
                    })
                })
                .collect();
            let version = env!("CARGO_PKG_VERSION");
            let snapshot = control.snapshot.load();
            let shards: Vec<_> = control.gauges.iter().map(shard).collect();
            Page::json(
                200,
                format!(
                    "{:#}\n",
                    json!({
                        "version": version, "ready": ready, "recording": recording, "servers": servers,
                        "issuers": health.issuers().iter().map(issuer).collect::<Vec<_>>(),
                        "snapshot": snapshot.number,
                        "policy": snapshot.settings.policy.hex12(), "misfits": misfits::status(&snapshot),
                        "draining": control.life() != Life::Run,
                        "sessions": control.ledger.len(), "counts": counts(control.counts.standing()), "shards": shards,
                        "approvals": control.approvals.waiting(), "revocations": snapshot.revocations.len(),
                        "endpoints": endpoints::status(&snapshot),
                        "overhead_us": control.overhead.total().quantiles().map(overhead),
                        "reload": health.reload().as_ref().map(reloaded),
                        "happened": control.tally.under(Section::Happened),
                        "dropped": control.tally.under(Section::Dropped),
                    })
                ),
            )
        }
        _ => Page::json(404, PAGES),
    }
}

const TOKEN: &str = "{\"error\":\"the token is in the state folder: Authorization: Bearer TOKEN\"}\n";
const PAGES: &str = "{\"error\":\"GET /healthz, /readyz, /status or /metrics; POST /reload or /drain; with the token also \
                     /approvals and /revocations, and POST /explain\"}\n";
