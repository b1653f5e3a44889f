//! Looks whether the instances of a server are alive, each in turn, so that one that is ill is ejected before a call
//! finds out, and one that is well again is asked again. Any answer below 500 is a sign of life.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::limits::{HEALTH_INTERVAL_MS_MIN, HEALTH_PROBE_MS_MAX};
use crate::config::ServerSettings;
use crate::config::snapshot::Snapshot;
use crate::gateway::control::{Control, Life};
use crate::http::head::Method;
use crate::session::owner::name_hash;
use crate::upstream::UpstreamFault;
use crate::upstream::breaker::{Entry, Failure, Terms, Verdict};
use crate::upstream::state::ServerState;
use crate::uring::wait::clock;

use super::client::{self, ClientFault, Target};
use super::places::said;
use super::shown::Badge;

/// Starts to look after a server's instances; that ends when its state is over. Nothing is started where the settings
/// say so.
///
/// # Errors
/// When there is no thread for it.
pub(super) fn start(server: &ServerSettings, state: &Arc<ServerState>, control: &Arc<Control>) -> std::io::Result<()> {
    if server.health.interval_ms == 0 || server.instances().is_empty() {
        return Ok(());
    }
    let prober = Prober {
        state: state.clone(),
        control: control.clone(),
        interval: Duration::from_millis(server.health.interval_ms),
        terms: Terms::new(server.health.failures, server.health.open_ms),
        badge: Badge::of(server),
    };
    let name: String = format!("probe-{}", server.name).chars().take(15).collect();
    std::thread::Builder::new().name(name).spawn(move || prober.run()).map(|_| ())
}

struct Prober {
    state: Arc<ServerState>,
    control: Arc<Control>,
    interval: Duration,
    terms: Terms,
    badge: Badge,
}

impl Prober {
    fn run(mut self) {
        let mut due = Instant::now() + self.interval;
        while self.control.life() == Life::Run && !self.state.is_over() {
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                std::thread::sleep(left.min(Duration::from_millis(HEALTH_INTERVAL_MS_MIN)));
                continue;
            }
            for place in 0..self.state.instances.len() {
                self.look(place);
            }
            due = Instant::now() + self.interval;
        }
    }

    /// One probe of one instance. One that is ejected is left alone until its time is up, and is then asked once.
    fn look(&mut self, place: usize) {
        let snapshot = self.control.snapshot.load();
        let Some(mut target) = target(&snapshot, &self.state, place) else { return };
        // It lives without, too: what it says to that is an answer.
        target.shown = self.badge.due(&self.control, Duration::ZERO).unwrap_or_default();
        let breaker = &self.state.instances[place].breaker;
        let Entry::Go(pass) = breaker.enter(self.terms, clock().mono) else { return };
        let patience = self.interval.min(Duration::from_millis(HEALTH_PROBE_MS_MAX));
        let fields = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        let body = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let verdict = match client::knock(&target, Method::Post, &fields, Some(body), patience) {
            Ok(status @ 500..) => Verdict::Failed(Failure::Status(status)),
            Ok(_) => Verdict::Well,
            Err(fault) => Verdict::of(Err(of_fault(&fault))),
        };
        if breaker.leave(self.terms, pass, verdict, clock().mono) {
            self.state.poke.ring();
        }
    }
}

/// Where an instance is; `None` where this snapshot is not the state's, or the name does not resolve.
fn target(snapshot: &Snapshot, state: &Arc<ServerState>, place: usize) -> Option<Target> {
    let server = snapshot.server_by_digest(state.digest)?;
    let ours = snapshot.states.get(server.index()).is_some_and(|known| Arc::ptr_eq(known, state));
    let addresses = snapshot.addresses.get(server.index())?.get(place)?;
    let settings = snapshot.settings.servers.get(server.index())?.instances().get(place)?;
    (ours && !addresses.is_empty()).then(|| Target {
        addresses: addresses.to_vec(),
        host: settings.authority(),
        path: settings.path.clone(),
        scheme: settings.scheme,
        tls: snapshot.tls.side(server, place).cloned(),
        shown: None,
        way: None,
    })
}

fn of_fault(fault: &ClientFault) -> UpstreamFault {
    match fault {
        ClientFault::NoAddress => UpstreamFault::NoAddress,
        ClientFault::Io(_) => UpstreamFault::Unreachable,
        ClientFault::NoTls => UpstreamFault::Untrusted,
        ClientFault::Program(fault) => *fault,
        ClientFault::Timeout => UpstreamFault::Timeout,
        ClientFault::Cut => UpstreamFault::Cut,
        ClientFault::BadAnswer | ClientFault::TooLarge | ClientFault::Refused(_) => UpstreamFault::BadAnswer,
    }
}

/// What is known of the instances of the server with this name, for `/status`.
pub(super) fn status(snapshot: &Snapshot, name: &str) -> Value {
    let Some(server) = snapshot.server_by_digest(name_hash(name)) else { return json!([]) };
    let (settings, state) = (&snapshot.settings.servers[server.index()], &snapshot.states[server.index()]);
    let now = clock();
    let instances = settings.instances().iter().zip(&state.instances).map(|(instance, state)| {
        let view = state.breaker.view();
        let ago_ms = u64::try_from(now.mono.since(view.since).as_millis()).unwrap_or(u64::MAX);
        let since = (view.since.0 > 0).then(|| now.unix_ms.saturating_sub(ago_ms));
        let last = Some(said(&view)).filter(|said| !said.is_empty());
        json!({
            "url": instance.url(), "state": view.state.as_str(), "since_unix_ms": since, "failures": view.failures,
            "ejections": view.ejections, "refused": view.refused, "last_failure": last,
        })
    });
    Value::Array(instances.collect())
}
