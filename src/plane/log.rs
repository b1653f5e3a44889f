//! The thread that drains the shards' rings into the log. When the disk refuses, it stops draining: the rings fill up,
//! and the shards refuse calls rather than let one go unrecorded. It tries again by itself.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, sync_channel};
use std::time::Duration;

use serde_json::Value;

use crate::base::limits::{
    ADMIN_ANSWER_MS_MAX, LOG_FILE_BYTES_MAX, LOG_PAUSE_MS, LOG_PAUSE_MS_MAX, LOG_PIECE_BYTES, LOG_RETRY_MS, NOTES_MAX,
};
use crate::record::Reader;
use crate::record::frame::Frame;
use crate::record::keyed::Keys;
use crate::uring::cpu;
use crate::uring::wait::clock;

use super::admin::Health;
use super::{PlaneFault, audit, state};

/// Sees every record as it is written: the demo's stream of decisions.
pub type Watcher = Box<dyn FnMut(&Frame<'_>) + Send>;

/// By which the plane's other threads have lines written into the record: changes of what calls are decided by.
#[derive(Clone, Debug)]
pub struct Notes {
    tell: SyncSender<Note>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Note {
    kind: Kind,
    unix_ms: u64,
    event: &'static str,
    detail: Value,
    /// Whoever waits for it to be written.
    waiting: Option<Sender<()>>,
}

/// What a line is about.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Policy,
    Admin,
}

/// A way into the record, and its end for the log.
#[must_use]
pub fn notes() -> (Notes, Noted) {
    let (tell, told) = sync_channel(NOTES_MAX);
    let lost = Arc::<AtomicU64>::default();
    (Notes { tell, lost: lost.clone() }, Noted { told, lost })
}

/// What was told and is not written yet.
#[derive(Debug)]
pub struct Noted {
    told: Receiver<Note>,
    lost: Arc<AtomicU64>,
}

impl Notes {
    /// Has a line of kind `policy` written. Where too many wait, the log for operators says that this one is lost.
    pub fn tell(&self, event: &'static str, detail: Value) {
        self.put(Kind::Policy, event, detail, None);
    }

    /// Has a line of kind `admin` written: what somebody did. A subject or an agent in it is called `subject` or `agent`,
    /// beside its `issuer`. Waits a moment until it is: what somebody did and heard of is in the record then, whatever
    /// becomes of the process.
    pub fn admin(&self, event: &'static str, detail: Value) {
        let (written, waiting) = mpsc::channel();
        self.put(Kind::Admin, event, detail, Some(written));
        // Where the record cannot be written at the moment, it is said elsewhere.
        let _ = waiting.recv_timeout(Duration::from_millis(ADMIN_ANSWER_MS_MAX));
    }

    fn put(&self, kind: Kind, event: &'static str, detail: Value, waiting: Option<Sender<()>>) {
        if self.tell.try_send(Note { kind, unix_ms: clock().unix_ms, event, detail, waiting }).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a line of the record is lost: {event}");
        }
    }
}

/// The log of one process.
pub struct Log {
    dir: PathBuf,
    readers: Vec<Reader>,
    noted: Noted,
    watcher: Option<Watcher>,
    file: Option<File>,
    begun: u64,
    files: u32,
    file_bytes: u64,
    lines: audit::Lines,
    /// Rendered, not written yet.
    pending: Vec<u8>,
    /// Records that were rendered so far.
    rendered: u64,
    /// Those who wait for that.
    waiting: Vec<Sender<()>>,
    failing: bool,
    health: Arc<Health>,
}

/// The running thread.
pub struct Running {
    thread: std::thread::JoinHandle<std::io::Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Log {
    /// A log in `dir`, whose first file is opened now, so that a folder that cannot be written is known at start. With
    /// `keys`, callers are written under them.
    ///
    /// # Errors
    /// `PlaneFault::File`.
    pub fn open(
        dir: PathBuf,
        readers: Vec<Reader>,
        noted: Noted,
        watcher: Option<Watcher>,
        health: Arc<Health>,
        keys: Option<Keys>,
    ) -> Result<Self, PlaneFault> {
        state::folder("the audit folder", &dir)?;
        let mut log = Self {
            dir,
            readers,
            noted,
            watcher,
            file: None,
            begun: clock().unix_ms,
            files: 0,
            file_bytes: 0,
            lines: audit::Lines::new(clock().unix_ms, keys),
            pending: Vec::new(),
            rendered: 0,
            waiting: Vec::new(),
            failing: false,
            health,
        };
        let detail = serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id() });
        log.life("started", detail);
        log.write().map_err(|error| PlaneFault::File {
            what: "the audit folder",
            path: log.dir.display().to_string(),
            error,
        })?;
        Ok(log)
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// `PlaneFault::System`.
    pub fn start(self) -> Result<Running, PlaneFault> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name("plane-audit".into())
            .spawn(move || self.run(&told))
            .map_err(|error| PlaneFault::System { what: "a thread", error })?;
        Ok(Running { thread, stop })
    }

    fn run(mut self, stop: &AtomicBool) -> std::io::Result<()> {
        cpu::name_thread("plane-audit");
        let mut pause_ms = LOG_PAUSE_MS;
        loop {
            let last = stop.load(Ordering::Acquire);
            let drained = self.turn();
            if last && (drained == 0 || self.failing) {
                break;
            }
            if last || (!self.failing && self.is_behind()) {
                continue;
            }
            // Woken by time, not by the shards: a wake would cost them more than the record itself. And it sleeps even
            // when there was something: what comes meanwhile is written at once, not each record by itself.
            pause_ms = if drained > 0 { LOG_PAUSE_MS } else { (pause_ms * 2).min(LOG_PAUSE_MS_MAX) };
            std::thread::sleep(Duration::from_millis(if self.failing { LOG_RETRY_MS } else { pause_ms }));
        }
        self.life("stopped", Value::Null);
        self.write()
    }

    /// Drains and writes once; how many frames there were.
    fn turn(&mut self) -> usize {
        let mut drained = 0;
        if !self.failing {
            for note in self.noted.told.try_iter() {
                let Note { kind, unix_ms, event, detail, waiting } = &note;
                match kind {
                    Kind::Policy => self.lines.write_policy(&mut self.pending, *unix_ms, event, detail),
                    Kind::Admin => self.lines.write_admin(&mut self.pending, *unix_ms, event, detail),
                }
                self.waiting.extend(waiting.clone());
                drained += 1;
            }
            for reader in &mut self.readers {
                let (lines, pending, watcher) = (&mut self.lines, &mut self.pending, &mut self.watcher);
                drained += reader.drain(LOG_PIECE_BYTES, |written| {
                    lines.write(pending, written);
                    if let Some(watch) = watcher
                        && let Some(frame) = written.frame()
                    {
                        watch(&frame);
                    }
                });
            }
        }
        self.rendered += drained as u64;
        let written = self.write();
        self.report();
        match written {
            Ok(()) => {
                // Who has given up does not hear it.
                self.waiting.drain(..).for_each(|waiting| _ = waiting.send(()));
                if std::mem::take(&mut self.failing) {
                    self.health.set_recording(true);
                    tracing::info!("the audit log can be written again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    self.health.set_recording(false);
                    tracing::error!(
                        "the audit log in {} cannot be written: {error}; records are kept in memory, and when that is \
                         full, calls are refused until it can",
                        self.dir.display()
                    );
                }
            }
        }
        drained
    }

    /// Whether another piece waits already.
    fn is_behind(&self) -> bool {
        self.readers.iter().any(|reader| reader.backlog() >= LOG_PIECE_BYTES)
    }

    /// Says how it stands.
    fn report(&self) {
        let backlog: usize = self.readers.iter().map(Reader::backlog).sum();
        let audit = &self.health.audit;
        audit.backlog_bytes.store((backlog + self.pending.len()) as u64, Ordering::Relaxed);
        audit.lost.store(self.noted.lost.load(Ordering::Relaxed), Ordering::Relaxed);
        if self.pending.is_empty() {
            audit.written.store(self.rendered, Ordering::Relaxed);
        }
    }

    fn life(&mut self, event: &str, detail: Value) {
        self.lines.write_life(&mut self.pending, clock().unix_ms, event, &detail);
    }

    /// Writes what is pending, into a new file where there is none or the last one is full. A line that an error tore
    /// is written again, whole, into the next file; readers leave the torn one out.
    fn write(&mut self) -> std::io::Result<()> {
        if self.file_bytes >= LOG_FILE_BYTES_MAX {
            self.file = None;
        }
        let mut written = 0;
        let result = self.write_from(&mut written);
        if result.is_err() {
            let whole = self.pending[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            if whole < written {
                self.file = None;
            }
            written = whole;
        }
        self.pending.drain(..written);
        result
    }

    fn write_from(&mut self, written: &mut usize) -> std::io::Result<()> {
        while *written < self.pending.len() {
            let file = match self.file.as_mut() {
                Some(file) => file,
                None => {
                    let path = self.dir.join(audit::file_name(self.begun, self.files));
                    let file = fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
                    self.files += 1;
                    self.file_bytes = 0;
                    self.file.insert(file?)
                }
            };
            let taken = file.write(&self.pending[*written..])?;
            if taken == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            *written += taken;
            self.file_bytes += taken as u64;
        }
        Ok(())
    }
}

impl Running {
    /// Waits until everything the shards have recorded is written. They must have ended.
    ///
    /// # Errors
    /// What kept the last records from being written: they are lost.
    pub fn finish(self) -> std::io::Result<()> {
        self.stop.store(true, Ordering::Release);
        // A panic there has been reported by the panic hook.
        self.thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the log ended unexpectedly")))
    }
}
