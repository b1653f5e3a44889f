//! Start and stop, in order: everything that can fail fails before the first connection is taken; what a client or an
//! auditor counts on ends last.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::ids::ShardId;
use crate::base::limits::{PORT_WAIT_MS_MAX, START_WAIT_MS_MAX, TICK_MS};
use crate::config::snapshot::{Parts, Prepared, Snapshot};
use crate::config::{KeysFrom, Settings, Shards};
use crate::gateway::control::{Control, Life};
use crate::gateway::run;
use crate::identity::keyring::Keyring;
use crate::identity::provider;
use crate::mcp::catalog::Catalog;
use crate::policy::needs::CountSecret;
use crate::record::keyed::Keys;
use crate::record::{self, Writer};
use crate::session::owner::SealingKey;
use crate::stdio::host::Host;
use crate::tls::config::Materials;
use crate::uring::ring::{Choice, Driver, RingFault};
use crate::uring::{cpu, socket};

use super::admin::{self, Desk, Health};
use super::certs::Certs;
use super::fetch::Fetcher;
use super::introspect;
use super::journal::{self, Journal};
use super::keeper::{self, News};
use super::log::{self, Log, Watcher};
use super::orders::Orders;
use super::people::People;
use super::publish::{Next, Press, Publisher};
use super::reload::{Begin, ConfigFile, Reloader};
use super::revoke::{self, Switch};
use super::states::states;
use super::{PlaneFault, approvals, broker, issuers, otlp, state, views};

/// What a gateway is started with, beside its settings.
#[derive(Default)]
pub struct Options {
    /// Which driver the shards use.
    pub driver: Choice,
    /// Sees every record.
    pub watcher: Option<Watcher>,
    /// Where its settings came from; without it there is no reload.
    pub config: Option<ConfigFile>,
}

/// A running gateway.
pub struct Gateway {
    /// Its settings, with the addresses it really listens on.
    pub settings: Arc<Settings>,
    /// How its shards speak to the kernel.
    pub driver: Driver,
    /// How many shards there are.
    pub shards: usize,
    /// Where its admin listener is.
    pub admin: Option<SocketAddr>,
    /// What is known of its servers.
    pub health: Arc<Health>,
    reloader: Arc<Reloader>,
    control: Arc<Control>,
    threads: Vec<JoinHandle<Result<(), RingFault>>>,
    log: log::Running,
    journal: journal::Running,
    approvals: approvals::Running,
    otlp: otlp::Running,
}

/// Ends a gateway from elsewhere.
#[derive(Clone)]
pub struct Handle {
    control: Arc<Control>,
    reloader: Arc<Reloader>,
}

impl Handle {
    /// Takes nothing new, finishes what there is.
    pub fn drain(&self) {
        self.control.set_life(Life::Drain);
    }

    /// Ends what is under way, too.
    pub fn stop(&self) {
        self.control.set_life(Life::Stop);
    }

    /// Asks for a reload, without waiting for it.
    pub fn reload(&self) {
        self.reloader.ask();
    }

    pub(super) fn control(&self) -> Arc<Control> {
        self.control.clone()
    }
}

impl Gateway {
    /// Starts everything. The servers get a moment to introduce themselves; those that do not are tried again in the
    /// background.
    ///
    /// # Errors
    /// `PlaneFault`; nothing is left running then that matters.
    pub fn start(mut settings: Settings, options: Options) -> Result<Self, PlaneFault> {
        // mimalloc asks for pages of 2 MiB: a shard has little that is worth them (no CPU time was seen), and a few small
        // things in use would hold each. For the whole process; where it may not be done, it costs memory only.
        let _ = rustix::thread::disable_transparent_huge_pages(true);
        provider::install();
        let files = cpu::raise_file_limit().soft;
        let driver = Driver::probe(options.driver)?;
        let sealing: Arc<[SealingKey]> = [SealingKey::derive(&state::sealing_secret(&settings.state)?)].into();
        let cpus = cpu::allowed_cpus().unwrap_or_default();
        let shards = match settings.shards {
            Shards::Auto => cpus.len().max(1),
            Shards::Count(count) => usize::from(count),
        };
        let asked = settings.clone();
        let listeners = listen(&mut settings, shards)?;
        let settings = Arc::new(settings);
        let prepared = Arc::new(Prepared::new(&settings));
        let (certs, tls) = Certs::load(&settings)?;
        let (control, claimed) = begin(&settings, &prepared, tls, shards, &driver)?;
        let journal = Journal::open(claimed, &settings.state, control.ledger.clone())?;
        let journal = journal.with_counts(control.counts.clone())?.start()?;
        let (decided, approvals) = approvals::begin(&settings.state, &control.approvals)?;
        let health = Arc::new(Health::new(settings.servers.iter().map(|server| &*server.name)));

        let (writers, readers): (Vec<Writer>, Vec<_>) =
            (0..shards).map(|shard| record::ring(ShardId::from_index(shard))).unzip();
        let (notes, noted) = log::notes();
        let keys = Keys::derive(&state::audit_secret(&settings.state)?);
        let subjects = settings.audit.keyed_subjects.then(|| keys.clone());
        let folder = settings.audit_dir.clone();
        let log = Log::open(folder, readers, noted, options.watcher, health.clone(), subjects)?.start()?;
        let (news, heard) = mpsc::channel();
        let begin = Begin {
            config: options.config,
            control: control.clone(),
            health: health.clone(),
            news: news.clone(),
            certs,
        };
        let bound = settings.listen.iter().map(|listener| listener.address).collect();
        let (reloader, asked_for) = Reloader::new(begin, &asked, bound);
        let reloader = Arc::new(reloader);
        let (states, tls) = (control.snapshot.load().states.clone(), control.snapshot.load().tls.clone());
        let now = Next { settings: settings.clone(), prepared, states, tls };
        let press = Arc::new(Press::new(control.clone()));
        let publisher = Publisher::new(now, press.clone(), health.clone(), notes.clone());
        fetch(&control, &press, &health, &news)?;
        let switch = Switch::new(&settings.state, control.clone(), press);
        let people = People { control: control.clone(), switch, journal: decided, notes };
        let admin = attend(&settings, &health, &reloader, people)?;
        let otlp = otlp::start(&control, &health, Box::new(otlp::ShardSpans::new(&control)))?;
        keep(&reloader, asked_for, publisher, heard, &news, &control)?;
        wait_for_others(&settings, &control, &health);

        let mut threads = Vec::with_capacity(shards);
        for (index, (listeners, record)) in listeners.into_iter().zip(writers).enumerate() {
            let start = run::Start {
                id: ShardId::from_index(index),
                driver: driver.clone(),
                listeners,
                control: control.clone(),
                record,
                sealing: sealing.clone(),
                keys: keys.clone(),
                files,
            };
            threads.push(run_shard(start, cpus.get(index % cpus.len().max(1)).copied())?);
        }
        Ok(Self { settings, driver, shards, admin, health, reloader, control, threads, log, journal, approvals, otlp })
    }

    /// What brings it new settings.
    #[must_use]
    pub fn reloader(&self) -> Arc<Reloader> {
        self.reloader.clone()
    }

    /// To end it from another thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { control: self.control.clone(), reloader: self.reloader.clone() }
    }

    /// Waits until the shards have ended, which they do when told to, and the record is written to its end.
    ///
    /// # Errors
    /// When a shard could not run.
    pub fn wait(self) -> Result<(), PlaneFault> {
        let mut result = Ok(());
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => result = Err(fault.into()),
                Err(_) => {
                    // A panic: its message is out. The others must not go on without their sibling.
                    self.control.set_life(Life::Stop);
                    let error = std::io::Error::other("a shard ended unexpectedly");
                    result = Err(PlaneFault::System { what: "to go on", error });
                }
            }
        }
        self.control.set_life(Life::Stop);
        self.control.programs.get().inspect(|programs| programs.stop());
        let path = self.settings.audit_dir.display().to_string();
        let written =
            self.log.finish().map_err(|error| PlaneFault::File { what: "the last records are lost:", path, error });
        let path = self.settings.state.display().to_string();
        let lost = |what, error| PlaneFault::File { what, path: path.clone(), error };
        let kept = self.journal.finish().map_err(|error| lost("sessions are lost:", error));
        let decided = self.approvals.finish().map_err(|error| lost("approvals are lost:", error));
        // Last: whatever a collector does, what a client or an auditor counts on is kept by now.
        self.otlp.finish();
        result.and(written).and(kept).and(decided)
    }
}

/// What the plane and the shards have in common, with who is revoked in it before anybody asks; and the state folder,
/// which is this process's from then on.
fn begin(
    settings: &Arc<Settings>,
    prepared: &Arc<Prepared>,
    tls: Arc<Materials>,
    shards: usize,
    driver: &Driver,
) -> Result<(Arc<Control>, File), PlaneFault> {
    let lack = |error| PlaneFault::System { what: "descriptors", error };
    let claimed = state::claim(&settings.state)?;
    let secret = CountSecret::derive(&state::count_secret(&settings.state)?);
    let mut snapshot = first_snapshot(settings, prepared, tls, secret).map_err(lack)?;
    snapshot.revocations = Arc::new(revoke::read(&settings.state)?);
    let control = Arc::new(Control::new(snapshot, shards).map_err(lack)?);
    // Nobody else has it yet, so it is not set yet.
    let _ = control.programs.set(Host::new(driver.clone()).map_err(lack)?);
    Ok((control, claimed))
}

/// Opens the admin listener, where there is to be one.
fn attend(
    settings: &Settings,
    health: &Arc<Health>,
    reloader: &Arc<Reloader>,
    people: People,
) -> Result<Option<SocketAddr>, PlaneFault> {
    let Some(address) = settings.admin else { return Ok(None) };
    let orders = Orders::new(&settings.state, reloader.clone())?;
    let (control, health) = (people.control.clone(), health.clone());
    admin::start(address, Desk { control, health, orders, people, at_work: AtomicUsize::new(0) }).map(Some)
}

/// Every shard's own listeners on every address. A port left to the system is chosen once and kept for all.
fn listen(settings: &mut Settings, shards: usize) -> Result<Vec<Vec<std::net::TcpListener>>, PlaneFault> {
    let mut all: Vec<Vec<std::net::TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
    let mut bound = Vec::with_capacity(settings.listen.len());
    for wanted in &settings.listen {
        // Alone first: two gateways sharing a port by accident would each get half of the traffic.
        let mut address = wanted.address;
        if address.port() != 0 {
            claim(address).map_err(|error| PlaneFault::Listen { address, error })?;
        }
        for listeners in &mut all {
            let listener = socket::listen(address, socket::Options::default())
                .map_err(|error| PlaneFault::Listen { address, error })?;
            address = listener.local_addr().map_err(|error| PlaneFault::Listen { address, error })?;
            listeners.push(listener);
        }
        bound.push(address);
    }
    settings.bound(&bound);
    Ok(all)
}

/// Sees that nobody else listens there; waits a little for a predecessor that was killed.
fn claim(address: SocketAddr) -> std::io::Result<()> {
    let until = Instant::now() + Duration::from_millis(PORT_WAIT_MS_MAX);
    loop {
        match socket::listen(address, socket::Options { reuse_port: false, backlog: 1 }) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(TICK_MS));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Threads that fetch: issuers' keys and documents, tokens for servers, what issuers say of tokens, callers' own views.
fn fetch(
    control: &Arc<Control>,
    press: &Arc<Press>,
    health: &Arc<Health>,
    news: &mpsc::Sender<News>,
) -> Result<(), PlaneFault> {
    let fetcher = Arc::new(Fetcher::new());
    issuers::start(control, press, health, &fetcher)?;
    broker::start(control, health, &fetcher)?;
    views::start(control, news)?;
    introspect::start(control, &fetcher)
}

/// A thread per server, one that watches files, and one that publishes what they find.
fn keep(
    reloader: &Arc<Reloader>,
    asked: mpsc::Receiver<()>,
    publisher: Publisher,
    heard: mpsc::Receiver<News>,
    news: &mpsc::Sender<News>,
    control: &Arc<Control>,
) -> Result<(), PlaneFault> {
    let fault = |error| PlaneFault::System { what: "a thread", error };
    let snapshot = control.snapshot.load_full();
    for (server, state) in snapshot.settings.servers.iter().zip(&snapshot.states) {
        keeper::start(server, state, control, news)?;
    }
    let watch = reloader.clone();
    std::thread::Builder::new().name("plane-files".into()).spawn(move || watch.watch(&asked)).map_err(fault)?;
    std::thread::Builder::new().name("plane".into()).spawn(move || publisher.run(&heard)).map_err(fault)?;
    Ok(())
}

/// A snapshot without anything found out yet.
pub(super) fn first_snapshot(
    settings: &Arc<Settings>,
    prepared: &Arc<Prepared>,
    tls: Arc<Materials>,
    count_secret: CountSecret,
) -> std::io::Result<Snapshot> {
    let states = states(settings, prepared, None)?;
    let addresses = states.iter().map(|state| vec![Arc::default(); state.instances.len()]).collect();
    let keys = Arc::new(file_keys(settings));
    let (settings, prepared, catalog) = (settings.clone(), prepared.clone(), Catalog::default());
    let parts = Parts {
        settings,
        prepared,
        catalog,
        states,
        addresses,
        tls,
        revocations: Arc::default(),
        keys,
        documents: Arc::default(),
        keys_epoch: 0,
        count_secret,
        before: None,
        meters: Arc::default(),
        auth_epoch: 0,
        settings_epoch: 0,
        succession: Arc::default(),
        number: 0,
    };
    Ok(Snapshot::new(parts).0)
}

/// The keys that stand in files; the others are awaited.
pub(super) fn file_keys(settings: &Settings) -> Keyring {
    Keyring::of_files(settings.sources.iter().map(|source| match &source.keys {
        KeysFrom::File(set) => Some(set),
        KeysFrom::Url(_) | KeysFrom::Discovery | KeysFrom::None => None,
    }))
}

/// Servers and issuers get a moment to introduce themselves.
fn wait_for_others(settings: &Settings, control: &Control, health: &Health) {
    let until = Instant::now() + Duration::from_millis(START_WAIT_MS_MAX);
    while Instant::now() < until {
        let told = health.servers().iter().all(|server| server.known || server.trouble.is_some());
        let published = control.snapshot.load().number > 0 || settings.servers.is_empty();
        if told && published {
            break;
        }
        std::thread::sleep(Duration::from_millis(TICK_MS));
    }
    issuers::wait(health, until);
}

/// A shard that panics takes the others along at once (where a panic does not end the process anyway): without one of
/// its shards the gateway leaves every n-th connection unanswered.
struct Sibling(Arc<Control>);

impl Drop for Sibling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_life(Life::Stop);
        }
    }
}

fn run_shard(start: run::Start, cpu: Option<usize>) -> Result<JoinHandle<Result<(), RingFault>>, PlaneFault> {
    std::thread::Builder::new()
        .name(format!("shard-{}", start.id.0))
        .spawn(move || {
            let _sibling = Sibling(start.control.clone());
            if let Some(cpu) = cpu {
                // A mask may shrink between looking and pinning; unpinned still works.
                let _ = cpu::pin(cpu);
            }
            run::run(start)
        })
        .map_err(|error| PlaneFault::System { what: "a thread", error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load};

    struct Nothing;

    impl Source for Nothing {
        fn var(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &std::path::Path) -> std::io::Result<String> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    /// [R4] In a build that unwinds, one shard's panic stops all.
    #[test]
    fn a_panic_stops_the_siblings() {
        let text = "auth: { anonymous: allow }\nservers: { a: { url: 'http://127.0.0.1:1/' } }\n";
        let settings = load(text, std::path::Path::new("."), &Nothing).unwrap().settings;
        let prepared = Arc::new(Prepared::new(&settings));
        let snapshot = first_snapshot(&Arc::new(settings), &prepared, Arc::default(), CountSecret::fixed())
            .expect("an event descriptor");
        let control = Arc::new(Control::new(snapshot, 1).expect("an event descriptor"));
        let ended = |panics: bool| {
            let sibling = Sibling(control.clone());
            let thread = std::thread::spawn(move || {
                let _sibling = sibling;
                assert!(!panics, "on purpose");
            });
            (thread.join().is_err(), control.life())
        };
        assert_eq!(ended(false), (false, Life::Run));
        assert_eq!(ended(true), (true, Life::Stop));
    }
}
