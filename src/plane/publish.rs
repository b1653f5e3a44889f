//! Puts news of servers together into the next snapshot and publishes it, swapped whole. News that comes together
//! makes one snapshot.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::ids::ServerId;
use crate::base::limits::{PUBLISH_GATHER_MS, PUBLISH_MS_MIN, RELOAD_SEEN_MS_MAX, TICK_MS, VIEWS_TEND_MS};
use crate::config::snapshot::{Parts, Prepared, Snapshot};
use crate::config::succession::{Succession, same_callers};
use crate::config::{Credentials, Grant, ServerSettings, Settings};
use crate::gateway::control::{Control, Life};
use crate::identity::revoked::Revocations;
use crate::policy::compile::Warning;
use crate::tls::config::Materials;
use crate::upstream::state::ServerState;
use crate::uring::wait::clock;

use super::admin::Health;
use super::endpoints::Told;
use super::keeper::News;
use super::keybook::{Entry, KeyBook};
use super::log::Notes;
use super::misfits;
use super::surveys::{Surveys, Weight};

/// By which snapshots come out, one after the other, each with its number: those of what was found out, and those of who
/// is revoked and of issuers' keys, which wait for nothing to be compiled.
#[derive(Debug)]
pub(super) struct Press {
    control: Arc<Control>,
    out: Mutex<Out>,
}

/// What is out.
#[derive(Debug)]
struct Out {
    /// The number of the last snapshot.
    last: u64,
    /// What is known of issuers.
    book: KeyBook,
}

impl Press {
    /// The first snapshot is out.
    pub(super) fn new(control: Arc<Control>) -> Self {
        let out = Mutex::new(Out { last: control.snapshot.load().number, book: KeyBook::default() });
        Self { control, out }
    }

    /// Who is revoked now is revoked in the next one too, and what is known of its issuers is in it.
    fn publish(&self, mut snapshot: Snapshot) -> u64 {
        let mut out = self.out();
        out.last += 1;
        let current = self.control.snapshot.load();
        snapshot.revocations = current.revocations.clone();
        out.book.keep(&snapshot.settings);
        let fetched = out.book.read(&snapshot.settings, &current);
        self.control.snapshot.store(Arc::new(snapshot.keyed(fetched, out.last)));
        out.last
    }

    /// From now on these are revoked. Once [`seen`] of its number gives 0, nothing is
    /// decided by what was revoked before.
    pub(super) fn revoke(&self, revocations: Arc<Revocations>) -> u64 {
        let mut out = self.out();
        out.last += 1;
        let snapshot = self.control.snapshot.load().revoking(revocations, out.last);
        self.control.snapshot.store(Arc::new(snapshot));
        out.last
    }

    /// From now on this is known of an issuer: in the snapshot with this number, whose settings may have no use for it.
    pub(super) fn learn(&self, entry: Entry) -> u64 {
        let mut out = self.out();
        out.last += 1;
        out.book.write(entry);
        let current = self.control.snapshot.load();
        let fetched = out.book.read(&current.settings, &current);
        self.control.snapshot.store(Arc::new(current.keyed(fetched, out.last)));
        out.last
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until every shard decides by this snapshot; how many do not.
pub(super) fn seen(control: &Control, number: u64) -> usize {
    let until = Instant::now() + Duration::from_millis(RELOAD_SEEN_MS_MAX);
    loop {
        let behind = control.seen.behind(number);
        if behind == 0 || control.life() == Life::Stop || Instant::now() >= until {
            return behind;
        }
        std::thread::sleep(Duration::from_millis(TICK_MS));
    }
}

/// Makes snapshots.
pub(super) struct Publisher {
    control: Arc<Control>,
    health: Arc<Health>,
    now: Next,
    /// By `ServerId`, as the states.
    servers: Vec<Known>,
    surveys: Surveys,
    epochs: Epochs,
    press: Arc<Press>,
    warned: Vec<Warning>,
    /// Those who wait for what is known to be in a snapshot.
    awaited: Vec<Sender<()>>,
    told: Told,
    misfits: misfits::Told,
    notes: Notes,
}

/// What a configuration comes to before anything is found out.
#[derive(Clone, Debug)]
pub(super) struct Next {
    pub(super) settings: Arc<Settings>,
    pub(super) prepared: Arc<Prepared>,
    pub(super) states: Vec<Arc<ServerState>>,
    pub(super) tls: Arc<Materials>,
}

/// How many configurations there have been, and what leads from the last one to this.
#[derive(Clone, Default)]
struct Epochs {
    auth: u64,
    settings: u64,
    succession: Arc<Succession>,
}

#[derive(Clone, Default)]
struct Known {
    /// By instance; none until a name was resolved.
    addresses: Vec<Arc<[SocketAddr]>>,
    announced: u64,
}

impl Publisher {
    pub(super) fn new(now: Next, press: Arc<Press>, health: Arc<Health>, notes: Notes) -> Self {
        let control = press.control.clone();
        let servers = vec![Known::default(); now.states.len()];
        let surveys = Surveys::new(&now.settings.state, notes.clone());
        let epochs = Epochs::default();
        let told = Told::default();
        let (warned, misfits) = (Vec::new(), misfits::Told::default());
        Self {
            control,
            health,
            now,
            servers,
            surveys,
            epochs,
            press,
            warned,
            awaited: Vec::new(),
            told,
            misfits,
            notes,
        }
    }

    /// Publishes until the gateway stops.
    pub(super) fn run(mut self, news: &Receiver<News>) {
        let mut weight = Weight::None;
        let mut published: Option<Instant> = None;
        let mut tended = Instant::now();
        while self.control.life() == Life::Run {
            match news.recv_timeout(Duration::from_millis(PUBLISH_GATHER_MS * 10)) {
                Ok(first) => {
                    weight = weight.max(self.take(first));
                    let until = Instant::now() + Duration::from_millis(PUBLISH_GATHER_MS);
                    while let Ok(more) = news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                        weight = weight.max(self.take(more));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            weight = weight.max(self.surveys.look(&self.now.settings.servers));
            if tended.elapsed() >= Duration::from_millis(VIEWS_TEND_MS) {
                tended = Instant::now();
                self.control.views.age(clock().mono, 0);
                weight = weight.max(self.surveys.age(&self.now.settings.servers));
            }
            let rested = published.is_none_or(|at| at.elapsed() >= Duration::from_millis(PUBLISH_MS_MIN));
            if weight == Weight::AtOnce || weight == Weight::Snapshot && rested {
                let _ = self.publish();
                published = Some(Instant::now());
                weight = Weight::None;
            }
            // What is known but not published is not told yet: shards wait for it.
            if weight == Weight::None {
                // Whoever asked may have given up.
                self.awaited.drain(..).for_each(|told| _ = told.send(()));
                self.report();
            }
        }
    }

    /// How much this changes. What a keeper says whose server is gone, or another one now, is nothing.
    fn take(&mut self, news: News) -> Weight {
        match news {
            News::Addresses(state, addresses) => {
                let Some(server) = self.server(&state) else { return Weight::None };
                self.servers[server].addresses = addresses;
                Weight::AtOnce
            }
            News::Certificates(tls) => {
                self.now.tls = tls;
                Weight::AtOnce
            }
            News::Catalog(state, catalog, announced) => {
                let Some(server) = self.server(&state) else { return Weight::None };
                self.servers[server].announced = announced;
                self.surveys.found(&self.now.settings.servers[server], *catalog)
            }
            News::View(state, catalog, looked, told) => {
                self.awaited.push(told);
                let Some(server) = self.server(&state) else { return Weight::None };
                self.surveys.shown_to_one(&self.now.settings.servers[server], &looked, *catalog)
            }
            News::Trouble(state, trouble) => {
                let Some(server) = self.server(&state) else { return Weight::None };
                self.surveys.failed(&self.now.settings.servers[server], trouble)
            }
            News::Settings(next, told) => {
                let number = self.adopt(*next);
                // Whoever asked may have given up.
                let _ = told.send(number);
                Weight::None
            }
        }
    }

    fn server(&self, state: &Arc<ServerState>) -> Option<usize> {
        let server = self.now.prepared.server_by_digest(state.digest)?.index();
        self.now.states.get(server).filter(|known| Arc::ptr_eq(known, state)).map(|_| server)
    }

    /// Everything is by these settings from now on, by the snapshot of which this is the number. What was found out of
    /// servers that are where they were is kept.
    fn adopt(&mut self, next: Next) -> u64 {
        let before = std::mem::replace(&mut self.now, next);
        let mut servers = Vec::with_capacity(self.now.states.len());
        for (state, settings) in self.now.states.iter().zip(&self.now.settings.servers) {
            let old = before.prepared.server_by_digest(state.digest).map(ServerId::index);
            let addresses = old.map(|old| carried(&before.states[old], &self.servers[old].addresses, state));
            let old = old.filter(|old| same_places(&before.states[*old], state));
            let shows = |old: &usize| same_shown(&before.settings.servers[*old], settings);
            if old.as_ref().is_none_or(|old| !shows(old)) {
                self.surveys.forget(&settings.name);
            }
            let known = old.map(|old| self.servers[old].clone()).unwrap_or_default();
            let same = old.is_some_and(|old| Arc::ptr_eq(&before.states[old], state));
            let known = Known { addresses: addresses.unwrap_or_default(), ..known };
            servers.push(if same { known } else { Known { announced: 0, ..known } });
        }
        self.servers = servers;
        self.epochs.settings += 1;
        if !same_callers(&before.settings, &self.now.settings) {
            let succession = Succession::new(self.epochs.auth, &before.settings, &self.now.settings);
            self.epochs.succession = Arc::new(succession);
            self.epochs.auth += 1;
        }
        self.health.keep(self.now.settings.servers.iter().map(|server| &*server.name));
        let number = self.publish();
        // What callers were shown by servers that were set up otherwise.
        let states = &self.now.states;
        self.control.views.retain(|_, view| view.is_some_and(|view| states.iter().any(|state| view.is_of(state))));
        // There may be other issuers.
        self.control.key_desk.ring();
        self.report();
        self.control.ledger.set_bounds(self.now.settings.sessions);
        for state in &before.states {
            if self.server(state).is_none() {
                state.end();
            }
        }
        number
    }

    fn publish(&mut self) -> u64 {
        let Next { settings, prepared, states, tls } = self.now.clone();
        let catalog = self.surveys.catalog(&settings.servers);
        let addresses = self.servers.iter().zip(&states).map(|(known, state)| {
            let mut addresses = known.addresses.clone();
            addresses.resize_with(state.instances.len(), Arc::default);
            addresses
        });
        let before = self.control.snapshot.load_full();
        let (snapshot, warnings) = Snapshot::new(Parts {
            addresses: addresses.collect(),
            settings,
            prepared,
            catalog,
            states,
            tls,
            revocations: before.revocations.clone(),
            // The press knows better.
            keys: before.keys.clone(),
            documents: before.documents.clone(),
            keys_epoch: before.keys_epoch,
            count_secret: before.count_secret.clone(),
            meters: before.meters.clone(),
            before: Some(before),
            auth_epoch: self.epochs.auth,
            settings_epoch: self.epochs.settings,
            succession: self.epochs.succession.clone(),
            number: 0,
        });
        self.told.tell(&snapshot);
        self.misfits.tell(&snapshot, &self.notes);
        let number = self.press.publish(snapshot);
        for warning in &warnings {
            if !self.warned.contains(warning) {
                let rule = self.now.settings.policy.rule(warning.rule);
                let pattern = rule.patterns[warning.pattern].text();
                tracing::warn!("rule {}: pattern {pattern}: {}", rule.id, warning.lacks);
            }
        }
        self.warned = warnings;
        number
    }

    /// Tells shards and the admin listener what is known now.
    fn report(&self) {
        for ((known, state), settings) in self.servers.iter().zip(&self.now.states).zip(&self.now.settings.servers) {
            let name = &*settings.name;
            let shown = self.surveys.shown(name);
            if shown.is_some() {
                state.poke.set_fresh(known.announced);
            }
            self.health.set(name, shown, self.surveys.trouble(name));
            self.health.set_survey(name, self.surveys.health(name));
        }
    }
}

/// The addresses of those of a server's instances that it had before.
fn carried(before: &ServerState, addresses: &[Arc<[SocketAddr]>], now: &ServerState) -> Vec<Arc<[SocketAddr]>> {
    let known = |digest: u64| before.instances.iter().position(|instance| instance.digest == digest);
    let carried = now.instances.iter().map(|instance| known(instance.digest).and_then(|at| addresses.get(at)).cloned());
    carried.map(Option::unwrap_or_default).collect()
}

/// Whether what was seen of a server may still be shown to whom it was shown. Where everybody sees the same, before and
/// now, a secret that has changed changes nothing of that; where callers see what is theirs, only what is asked for and
/// told in the same way is the same, whatever it is proved with.
fn same_shown(before: &ServerSettings, now: &ServerSettings) -> bool {
    let asked = |one: &Grant, other: &Grant| {
        one.token_url == other.token_url
            && one.client.id == other.client.id
            && (&one.scope, &one.audience, &one.resource) == (&other.scope, &other.audience, &other.resource)
    };
    let alike = match (&before.credentials, &now.credentials) {
        (Credentials::Forward, Credentials::Forward) => true,
        (Credentials::Exchange(one), Credentials::Exchange(other)) => asked(one, other),
        (one, other) => return !one.is_personal() && !other.is_personal(),
    };
    let kind = |server: &ServerSettings| server.catalogue.as_ref().map(std::mem::discriminant);
    alike && kind(before) == kind(now) && before.identity_headers == now.identity_headers
}

/// Whether a server is at the same places, in the same order.
fn same_places(before: &ServerState, now: &ServerState) -> bool {
    let digests =
        |state: &ServerState| -> Vec<u64> { state.instances.iter().map(|instance| instance.digest).collect() };
    digests(before) == digests(now)
}
