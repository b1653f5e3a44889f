//! A new configuration for a running gateway: read, checked whole, and only then swapped in; the old one stays where
//! there is a fault. Asked for by a signal or over the admin listener, or because the files have changed.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::base::glob::Glob;
use crate::base::limits::CERTS_LOOK_MS;
use crate::config::snapshot::{Prepared, PreparedServer, Snapshot};
use crate::config::{self, Fault, Settings, Shards, Source, Stands, Weight};
use crate::gateway::control::{Control, Life};
use crate::mcp::catalog::Catalog;
use crate::policy::table::Table;

use super::admin::Health;
use super::certs::{Certs, Stamp};
use super::keeper::{self, News};
use super::programs;
use super::publish::{self, Next};
use super::states::states;
use super::{PlaneFault, notify};

/// The file that a gateway was started with, and what looks up the files and variables that it names.
#[derive(Clone)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Looks things up.
    pub source: Arc<dyn Source + Send + Sync>,
}

/// Brings a running gateway new settings.
pub struct Reloader {
    config: Option<ConfigFile>,
    fixed: Fixed,
    /// Where the listeners really are.
    bound: Vec<SocketAddr>,
    control: Arc<Control>,
    health: Arc<Health>,
    news: Sender<News>,
    /// Wakes the thread that watches.
    ask: SyncSender<()>,
    /// Held while settings and certificates are made and until they are sent: they go together.
    certs: Mutex<Certs>,
    /// Held for a whole reload.
    files: Mutex<Files>,
}

/// What came of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The first snapshot with the new settings.
    pub snapshot: u64,
    /// Servers that are new, have other settings, are as they were, are gone.
    pub added: Vec<String>,
    /// See `added`.
    pub changed: Vec<String>,
    /// See `added`.
    pub kept: usize,
    /// See `added`.
    pub removed: Vec<String>,
    /// How many rules there are now.
    pub rules: usize,
    /// What the operator should hear all the same, each with its place.
    pub warnings: Vec<String>,
    /// Shards that have not taken up the new settings within `RELOAD_SEEN_MS_MAX`: none, unless the machine hangs.
    pub behind: usize,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// Why everything stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadFault {
    /// The gateway was started without a file.
    #[error("this gateway was started without a configuration file")]
    NoFile,
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Where it is.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The file has faults.
    #[error("{}", shown(path, faults))]
    Config {
        /// The file.
        path: String,
        /// All that is wrong with it, in its order; warnings too.
        faults: Vec<Fault>,
    },
    /// These keys cannot change while the gateway runs.
    #[error("{}", unchangeable(.0))]
    Fixed(Vec<&'static str>),
    /// A certificate, a key or the system.
    #[error(transparent)]
    Plane(#[from] PlaneFault),
    /// The gateway is about to end.
    #[error("the gateway is ending")]
    Ending,
}

/// What is settled for as long as the process runs.
#[derive(Clone, PartialEq, Eq)]
struct Fixed {
    /// As the file says it: port 0 too.
    listen: Vec<(SocketAddr, bool)>,
    shards: Shards,
    admin: Option<SocketAddr>,
    state: PathBuf,
    audit_dir: PathBuf,
    keyed_subjects: bool,
}

/// What the files were when they were last read, and when they were last looked at: a change counts once it has stood
/// still for one look, for editors write in several steps.
#[derive(Default)]
struct Files {
    named: Vec<Named>,
    read: Vec<Look>,
    seen: Vec<Look>,
}

/// What a configuration names.
enum Named {
    File(PathBuf),
    /// Those names in a folder that match.
    Names(PathBuf, Glob),
}

/// How one of them looked.
#[derive(Clone, PartialEq, Eq)]
enum Look {
    /// `None` while it is not there.
    File(Option<Stamp>),
    /// In their order; `None` where the folder cannot be read.
    Names(Option<Vec<String>>),
}

impl Named {
    fn look(&self, source: &dyn Source) -> Look {
        match self {
            Self::File(path) => Look::File(Stamp::of(path)),
            Self::Names(folder, names) => Look::of_names(&source.list(folder, names)),
        }
    }
}

impl Look {
    fn of_names(found: &io::Result<Vec<String>>) -> Self {
        let sorted = found.as_ref().ok().map(|names| {
            let mut names = names.clone();
            names.sort();
            names
        });
        Self::Names(sorted)
    }
}

/// What a reloader is made with.
pub(super) struct Begin {
    pub(super) config: Option<ConfigFile>,
    pub(super) control: Arc<Control>,
    pub(super) health: Arc<Health>,
    pub(super) news: Sender<News>,
    pub(super) certs: Certs,
}

impl Reloader {
    /// For a gateway whose file says `asked`, and that listens where `bound` says. Also what its watch is asked by.
    pub(super) fn new(begin: Begin, asked: &Settings, bound: Vec<SocketAddr>) -> (Self, Receiver<()>) {
        let (ask, asked_for) = mpsc::sync_channel(1);
        let Begin { config, control, health, news, certs } = begin;
        let this = Self {
            config,
            fixed: Fixed::of(asked),
            bound,
            control,
            health,
            news,
            ask,
            certs: Mutex::new(certs),
            files: Mutex::default(),
        };
        (this, asked_for)
    }

    /// Reads the file again and puts it into force. When this returns well, no shard decides by the settings before.
    /// One at a time: a second one waits for the first.
    ///
    /// # Errors
    /// `ReloadFault`: the settings before stay, all of them.
    pub fn reload(&self) -> Result<Report, ReloadFault> {
        let mut files = locked(&self.files);
        let begun = Instant::now();
        let result = notify::reloading(|| self.load(&mut files));
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let result = result.map(|report| Report { took_ms, ..report });
        let faults = match &result {
            Ok(report) => {
                tracing::info!("the configuration is read again: {report}");
                report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                Vec::new()
            }
            Err(fault) => {
                tracing::error!("the configuration stays as it was: {fault}");
                fault.lines()
            }
        };
        self.health.reloaded(faults, took_ms);
        result
    }

    /// Asks for a reload without waiting for it: several at once are one.
    pub fn ask(&self) {
        // Full: it is asked for already.
        let _ = self.ask.try_send(());
    }

    /// Watches the files until the gateway stops, and does what is asked for.
    pub(super) fn watch(&self, asked: &Receiver<()>) {
        let begun = self.config.as_ref().map(|config| self.read(config));
        if let Some(Ok((_, _, files))) = begun {
            *locked(&self.files) = files;
        }
        while self.control.life() == Life::Run {
            match asked.recv_timeout(Duration::from_millis(CERTS_LOOK_MS)) {
                // How it went is told where it is looked for.
                Ok(()) => _ = self.reload(),
                Err(RecvTimeoutError::Timeout) if self.has_changed() => _ = self.reload(),
                Err(RecvTimeoutError::Timeout) => self.look_at_certs(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether the file, or one that it names, has changed since it was read, and stands still now.
    fn has_changed(&self) -> bool {
        let Some(config) = &self.config else { return false };
        let mut files = locked(&self.files);
        let now: Vec<Look> = files.named.iter().map(|named| named.look(&*config.source)).collect();
        // The file itself is first; while it is not there, it is on its way.
        let there = matches!(now.first(), Some(Look::File(Some(_))));
        let stands = now == files.seen;
        let changed = now != files.read;
        files.seen = now;
        there && stands && changed
    }

    fn look_at_certs(&self) {
        let mut certs = locked(&self.certs);
        if let Some(materials) = certs.look() {
            // Nobody listens any more only when the process is ending.
            let _ = self.news.send(News::Certificates(materials));
        }
    }

    fn load(&self, files: &mut Files) -> Result<Report, ReloadFault> {
        let config = self.config.as_ref().ok_or(ReloadFault::NoFile)?;
        if self.control.life() != Life::Run {
            return Err(ReloadFault::Ending);
        }
        let path = config.path.display().to_string();
        // Tried once, whatever comes of it: a file with a fault is read again when it has changed.
        let (path, loaded) = match self.read(config) {
            Ok((path, loaded, read)) => {
                *files = read;
                (path, loaded)
            }
            Err(error) => {
                files.read.clone_from(&files.seen);
                return Err(ReloadFault::Read { path, error });
            }
        };
        let config::Loaded { mut settings, warnings, stands } =
            loaded.map_err(|faults| ReloadFault::Config { path: path.clone(), faults })?;
        self.fixed.check(&settings)?;
        settings.bound(&self.bound);
        let mut report = self.swap(settings, (&path, &stands))?;
        report.warnings = warnings.iter().map(|warning| warning.told(&path)).collect();
        Ok(report)
    }

    /// Reads the file, and notes which files it names.
    fn read(&self, config: &ConfigFile) -> io::Result<(String, Result<config::Loaded, Vec<Fault>>, Files)> {
        let noting = Noting { source: &*config.source, named: RefCell::new(Vec::new()) };
        let text = noting.file(&config.path)?;
        let folder = config.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let loaded = config::load(&text, folder, &noting);
        let Noting { named, .. } = noting;
        let (named, read): (Vec<Named>, Vec<Look>) = named.into_inner().into_iter().unzip();
        Ok((config.path.display().to_string(), loaded, Files { named, seen: read.clone(), read }))
    }

    /// Puts settings into force, once everything that can fail has not.
    fn swap(&self, settings: Settings, (path, stands): (&str, &Stands)) -> Result<Report, ReloadFault> {
        let settings = Arc::new(settings);
        let before = self.control.snapshot.load_full();
        let prepared = Arc::new(Prepared::new(&settings));
        let faults = unfit(&settings, &known(&before, &prepared), stands);
        if faults.iter().any(|fault| fault.weight == Weight::Error) {
            return Err(ReloadFault::Config { path: path.to_owned(), faults });
        }
        let states = states(&settings, &prepared, Some(&before))
            .map_err(|error| PlaneFault::System { what: "an event descriptor", error })?;
        let mut certs = locked(&self.certs);
        let (next, tls) = certs.next(&settings)?;
        if let Some(programs) = self.control.programs.get() {
            for (server, state) in settings.servers.iter().zip(&states) {
                // Before anybody looks for it; what is wrong with it, its keeper says.
                let _ = programs::open(programs, server, state);
            }
        }
        let (told, number) = mpsc::channel();
        let next_settings = Next { settings: settings.clone(), prepared, states: states.clone(), tls };
        let sent = self.news.send(News::Settings(Box::new(next_settings), told));
        *certs = next;
        drop(certs);
        let number = sent.ok().and_then(|()| number.recv().ok()).ok_or(ReloadFault::Ending)?;
        let mut report = Report { snapshot: number, rules: settings.policy.rules().len(), ..Report::default() };
        for (server, state) in settings.servers.iter().zip(&states) {
            let old = before.server_by_digest(state.digest).map(|old| &before.states[old.index()]);
            match old {
                Some(old) if Arc::ptr_eq(old, state) => {
                    report.kept += 1;
                    continue;
                }
                Some(_) => report.changed.push(server.name.to_string()),
                None => report.added.push(server.name.to_string()),
            }
            if let Err(fault) = keeper::start(server, state, &self.control, &self.news) {
                let _ = self.news.send(News::Trouble(state.clone(), fault.to_string()));
            }
        }
        let gone = before.settings.servers.iter().filter(|old| settings.servers.iter().all(|new| new.name != old.name));
        report.removed = gone.map(|server| server.name.to_string()).collect();
        report.behind = publish::seen(&self.control, number);
        Ok(report)
    }
}

/// What is known of servers that stay where they are.
fn known(before: &Snapshot, prepared: &Prepared) -> Catalog {
    let known = |server: &PreparedServer| {
        let old = before.prepared.server_by_digest(server.digest)?;
        let stays = before.prepared.servers[old.index()].instances == server.instances;
        before.catalog.server(old).filter(|_| stays).cloned()
    };
    Catalog::build(prepared.servers.iter().map(known).collect())
}

/// The arguments that rules ask for and no tool is known to have.
fn unfit(settings: &Settings, catalog: &Catalog, stands: &Stands) -> Vec<Fault> {
    let names: Vec<Arc<str>> = settings.servers.iter().map(|server| server.name.clone()).collect();
    let (table, _) = Table::compile(&settings.policy, &names, catalog);
    stands.faults(&settings.policy, table.misfits(), &[])
}

impl Report {
    /// For the admin listener.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "ok": self.behind == 0, "snapshot": self.snapshot, "rules": self.rules,
            "servers": {
                "added": self.added, "changed": self.changed, "kept": self.kept, "removed": self.removed,
            },
            "warnings": self.warnings, "shards_behind": self.behind, "took_ms": self.took_ms,
        })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { added, changed, kept, removed, rules, took_ms, .. } = self;
        write!(f, "{rules} rules; servers: {kept} as before")?;
        for (word, names) in [("new", added), ("changed", changed), ("gone", removed)] {
            if !names.is_empty() {
                write!(f, ", {word}: {}", names.join(" "))?;
            }
        }
        if self.behind > 0 {
            write!(f, "; {} shards have not taken it up yet", self.behind)?;
        }
        write!(f, "; {took_ms} ms")
    }
}

impl ReloadFault {
    /// One line for each thing that is wrong, with its place where it has one.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Config { path, faults } => {
                let errors = faults.iter().filter(|fault| fault.weight == Weight::Error);
                errors.map(|fault| fault.told(path)).collect()
            }
            other => vec![other.to_string()],
        }
    }

    /// For the admin listener.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "ok": false, "faults": self.lines() })
    }
}

fn shown(path: &str, faults: &[Fault]) -> String {
    let errors = faults.iter().filter(|fault| fault.weight == Weight::Error);
    errors.map(|fault| fault.told(path)).collect::<Vec<_>>().join("; ")
}

fn unchangeable(keys: &[&str]) -> String {
    format!("'{}' cannot change while the gateway runs: restart it for that", keys.join("', '"))
}

impl Fixed {
    fn of(settings: &Settings) -> Self {
        Self {
            listen: settings.listen.iter().map(|listener| (listener.address, listener.tls.is_some())).collect(),
            shards: settings.shards,
            admin: settings.admin,
            state: settings.state.clone(),
            audit_dir: settings.audit_dir.clone(),
            keyed_subjects: settings.audit.keyed_subjects,
        }
    }

    fn check(&self, settings: &Settings) -> Result<(), ReloadFault> {
        let new = Self::of(settings);
        let keys = [
            ("listen", self.listen == new.listen),
            ("shards", self.shards == new.shards),
            ("admin", self.admin == new.admin),
            ("state", self.state == new.state),
            ("audit.dir", self.audit_dir == new.audit_dir),
            ("audit.subject", self.keyed_subjects == new.keyed_subjects),
        ];
        let changed: Vec<&'static str> = keys.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect();
        if changed.is_empty() { Ok(()) } else { Err(ReloadFault::Fixed(changed)) }
    }
}

/// Notes each file that is asked for, as it was before it was read, and each search for files.
struct Noting<'a> {
    source: &'a dyn Source,
    named: RefCell<Vec<(Named, Look)>>,
}

impl Source for Noting<'_> {
    fn var(&self, name: &str) -> Option<String> {
        self.source.var(name)
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        let look = Look::File(Stamp::of(path));
        self.named.borrow_mut().push((Named::File(path.to_owned()), look));
        self.source.file(path)
    }

    fn list(&self, folder: &Path, names: &Glob) -> io::Result<Vec<String>> {
        let found = self.source.list(folder, names);
        let look = Look::of_names(&found);
        self.named.borrow_mut().push((Named::Names(folder.to_owned(), names.clone()), look));
        found
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
