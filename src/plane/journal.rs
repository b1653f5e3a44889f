//! The thread that writes down what the ledger remembers, so that sessions outlive a restart, and one that has ended
//! stays ended: `sessions.journal` in the state folder. What it wrote outlives the process (`kill -9`); a power failure
//! may take what the kernel had not written back.
//!
//! When the disk refuses, it tries again. Meanwhile sessions go on; only who ends one has to wait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::base::limits::{JOURNAL_BYTES_MIN, JOURNAL_PAUSE_MS, LOG_RETRY_MS};
use crate::ledger::Ledger;
use crate::ledger::counts::Counts;
use crate::session::journal::{HEADER, Tail};
use crate::uring::cpu;
use crate::uring::wait::clock;

use super::PlaneFault;
use super::counts::CountsJournal;

/// The journal of one process, which has the state folder to itself.
#[derive(Debug)]
pub(super) struct Journal {
    ledger: Arc<Ledger>,
    path: PathBuf,
    /// Locked as long as it is open.
    folder: File,
    file: File,
    /// What is good of the file, bytes.
    bytes: u64,
    /// What it had when it was last begun anew.
    picture_bytes: u64,
    /// Taken, and not written yet.
    pending: Vec<u8>,
    mark: u64,
    /// The file no longer follows from the table: nothing is appended any more.
    stale: bool,
    failing: bool,
    /// What limits and rates count is written down by the same thread.
    counts: Option<CountsJournal>,
    /// That thread.
    thread: Arc<OnceLock<std::thread::Thread>>,
}

/// The running thread.
#[derive(Debug)]
pub(super) struct Running {
    thread: std::thread::JoinHandle<io::Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Journal {
    /// The journal in the state folder, which `folder` has claimed. The ledger, which must be empty, gets what is in it.
    ///
    /// # Errors
    /// `PlaneFault::Journal`, `PlaneFault::File`.
    pub(super) fn open(folder: File, state: &Path, ledger: Arc<Ledger>) -> Result<Self, PlaneFault> {
        let path = state.join(JOURNAL_FILE);
        let fault =
            |error| PlaneFault::File { what: "the journal of sessions", path: path.display().to_string(), error };
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).map_err(fault)?;
        // A backup may have been copied back with another mode; what servers call their sessions is nobody's business.
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(fault)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fault)?;
        let journal = |fault| PlaneFault::Journal { path: path.display().to_string(), fault };
        let restored = ledger.restore(&bytes).map_err(journal)?;
        drop(bytes);
        if restored.tail == Tail::Damaged {
            tracing::warn!(
                "{} is damaged from byte {} on: sessions that are not before that are over",
                path.display(),
                restored.used
            );
            ledger.distrust(clock().unix_s());
        }
        if restored.tail != Tail::Whole {
            file.set_len(restored.used as u64).map_err(fault)?;
        }
        let mut used = restored.used as u64;
        if used == 0 {
            file.write_all(&HEADER).map_err(fault)?;
            used = HEADER.len() as u64;
        }
        let mut picture_bytes = 0;
        let Ok(taken) = ledger.picture(|piece| {
            picture_bytes += piece.len() as u64;
            Ok::<_, std::convert::Infallible>(())
        });
        let (mark, pending) = (taken.mark, Vec::new());
        let mut journal = Self {
            ledger,
            path,
            folder,
            file,
            bytes: used,
            picture_bytes,
            pending,
            mark,
            stale: false,
            failing: false,
            counts: None,
            thread: Arc::default(),
        };
        if restored.tail == Tail::Damaged || restored.old {
            let path = journal.path.display().to_string();
            let fault = |error| PlaneFault::File { what: "the journal of sessions", path, error };
            journal.begin_anew().map_err(fault)?;
        }
        Ok(journal)
    }

    /// The same, and what limits and rates count: the counts, which must be empty, get what is in their journal.
    ///
    /// # Errors
    /// `PlaneFault::Counts`, `PlaneFault::CountsRing`, `PlaneFault::File`.
    pub(super) fn with_counts(mut self, counts: Arc<Counts>) -> Result<Self, PlaneFault> {
        let state = self.path.parent().unwrap_or(Path::new("."));
        self.counts = Some(CountsJournal::open(state, counts, self.thread.clone())?);
        Ok(self)
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// `PlaneFault::System`.
    pub(super) fn start(self) -> Result<Running, PlaneFault> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name("plane-ledger".into())
            .spawn(move || self.run(&told))
            .map_err(|error| PlaneFault::System { what: "a thread", error })?;
        Ok(Running { thread, stop })
    }

    fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        cpu::name_thread("plane-ledger");
        _ = self.thread.set(std::thread::current());
        loop {
            let last = stop.load(Ordering::Acquire);
            let written = self.turn();
            if last {
                let counted = self.counts.take().map_or(Ok(()), CountsJournal::finish);
                return written.and_then(|()| self.file.sync_all()).and(counted);
            }
            if let Some(counts) = &mut self.counts {
                // What goes wrong is in the log.
                _ = counts.turn();
            }
            let pause_ms = if self.failing { LOG_RETRY_MS } else { JOURNAL_PAUSE_MS };
            // Woken before that when much is counted.
            std::thread::park_timeout(Duration::from_millis(pause_ms));
        }
    }

    /// Writes down what has changed.
    fn turn(&mut self) -> io::Result<()> {
        let written = self.write();
        match &written {
            Ok(()) => {
                self.ledger.set_kept(self.mark);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the journal of sessions can be written again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(
                        "the journal of sessions, {}, cannot be written: {error}; until it can, a session that is ended \
                         is not confirmed to its client, and a crash loses what began",
                        self.path.display()
                    );
                }
            }
        }
        written
    }

    fn write(&mut self) -> io::Result<()> {
        if !self.stale && self.pending.is_empty() {
            let taken = self.ledger.take_journal(&mut self.pending);
            self.mark = taken.mark;
            self.stale = !taken.whole;
        }
        if self.stale || self.bytes > JOURNAL_BYTES_MIN.max(2 * self.picture_bytes) {
            return self.begin_anew();
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(&self.pending) {
            // What it may have written of them would be followed by the same once more.
            self.stale = self.file.set_len(self.bytes).is_err();
            return Err(error);
        }
        self.bytes += self.pending.len() as u64;
        self.pending.clear();
        self.pending.shrink_to(PENDING_KEPT_BYTES);
        Ok(())
    }

    /// Puts a picture of the ledger in the place of the file.
    fn begin_anew(&mut self) -> io::Result<()> {
        // From here on only a picture will do: the ledger forgets what it had for the old file.
        self.stale = true;
        self.pending = Vec::new();
        let fresh = self.path.with_extension("journal.new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&fresh)?;
        let mut out = io::BufWriter::with_capacity(PENDING_KEPT_BYTES, file);
        let mut bytes = 0;
        let taken = self.ledger.picture(|piece| {
            bytes += piece.len() as u64;
            out.write_all(piece)
        })?;
        if !taken.whole {
            return Err(io::Error::other("more changes meanwhile than can be kept"));
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        self.file = file;
        (self.bytes, self.picture_bytes, self.mark, self.stale) = (bytes, bytes, taken.mark, false);
        // The name must outlive a power failure as well.
        self.folder.sync_all()
    }
}

impl Running {
    /// Waits until all that the ledger remembers is written. The shards must have ended.
    ///
    /// # Errors
    /// What kept it from being written.
    pub(super) fn finish(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Release);
        // A panic there has been reported by the panic hook.
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the journal ended unexpectedly")))
    }
}

/// Its name in the state folder.
const JOURNAL_FILE: &str = "sessions.journal";
/// Buffered at once, bytes.
const PENDING_KEPT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use crate::identity::caller::Owner;
    use crate::mcp::revision::Revision;
    use crate::session::journal::JournalFault;
    use crate::session::journal::old_file;
    use crate::session::ledger::{Bounds, SessionKey, Terms, Upstream, Visit};

    use super::*;
    use crate::plane::state;

    const TERMS: Terms = Terms { endpoint: 1, revision: Revision::R2025_06_18, capabilities: 0, issued_s: 1000 };

    fn key(number: u32) -> SessionKey {
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&number.to_be_bytes());
        SessionKey { owner: Owner([number.to_be_bytes()[3]; 16]), nonce }
    }

    fn enter(ledger: &Ledger, number: u32) {
        let upstream =
            Upstream { server: 1, instance: 2, epoch: 1, revision: Revision::R2025_06_18, id: (*b"up").into() };
        assert_eq!(ledger.enter(key(number), TERMS, b"{}", Some(upstream), 1000), Ok(()));
    }

    fn open(state: &Path) -> Journal {
        Journal::open(state::claim(state).unwrap(), state, Arc::new(Ledger::new(Bounds::default()))).unwrap()
    }

    fn is_known(ledger: &Ledger, number: u32) -> bool {
        matches!(ledger.visit(&key(number), TERMS, 1000), Visit::Known(_))
    }

    #[test]
    fn what_was_kept_outlives_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        enter(&journal.ledger, 1);
        enter(&journal.ledger, 2);
        let ended = journal.ledger.end(&key(1), TERMS, 1000);
        assert!(!journal.ledger.is_kept(ended.mark));
        journal.turn().unwrap();
        assert!(journal.ledger.is_kept(ended.mark));
        enter(&journal.ledger, 3);
        // Nothing more is written.
        drop(journal);
        let journal = open(folder.path());
        assert_eq!(journal.ledger.len(), 1);
        assert!(is_known(&journal.ledger, 2));
        assert_eq!(journal.ledger.visit(&key(1), TERMS, 1000), Visit::Ended);
        assert_eq!(journal.ledger.visit(&key(3), TERMS, 1000), Visit::Lost);
        let mode = fs::metadata(&journal.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_end_of_the_thread_writes_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(folder.path());
        let ledger = journal.ledger.clone();
        let running = journal.start().unwrap();
        enter(&ledger, 1);
        running.finish().unwrap();
        assert!(is_known(&open(folder.path()).ledger, 1));
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        enter(&journal.ledger, 1);
        journal.turn().unwrap();
        let whole = journal.bytes;
        enter(&journal.ledger, 2);
        journal.turn().unwrap();
        journal.file.set_len(journal.bytes - 1).unwrap();
        drop(journal);
        let mut journal = open(folder.path());
        assert_eq!((journal.bytes, journal.ledger.len()), (whole, 1));
        enter(&journal.ledger, 3);
        journal.turn().unwrap();
        drop(journal);
        let journal = open(folder.path());
        assert!(is_known(&journal.ledger, 1) && is_known(&journal.ledger, 3));
        assert_eq!(journal.ledger.visit(&key(2), TERMS, 1000), Visit::Lost);
    }

    #[test]
    fn behind_damage_nothing_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        enter(&journal.ledger, 1);
        journal.turn().unwrap();
        let path = journal.path.clone();
        drop(journal);
        let mut bytes = fs::read(&path).unwrap();
        let good = bytes.len();
        bytes.extend_from_slice(&[0; 64]);
        fs::write(&path, &bytes).unwrap();
        for _ in 0..2 {
            let journal = open(folder.path());
            assert!(is_known(&journal.ledger, 1));
            assert_eq!(journal.ledger.visit(&key(2), TERMS, 1000), Visit::Ended, "it may have ended");
            assert!(journal.bytes > good as u64, "which is written down too");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JOURNAL_FILE);
        for (content, want) in
            [(&b"pc-sess\x03rest"[..], JournalFault::Version(3)), (b"something else", JournalFault::Foreign)]
        {
            fs::write(&path, content).unwrap();
            let claimed = state::claim(folder.path()).unwrap();
            let opened = Journal::open(claimed, folder.path(), Arc::new(Ledger::new(Bounds::default())));
            assert!(matches!(opened, Err(PlaneFault::Journal { fault, .. }) if fault == want), "{want}");
            assert_eq!(fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn an_old_one_is_written_anew_before_anything_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JOURNAL_FILE);
        fs::write(&path, old_file(&key(1), TERMS, 1, b"up")).unwrap();
        let mut journal = open(folder.path());
        assert!(is_known(&journal.ledger, 1));
        assert_eq!(fs::read(&path).unwrap()[..8], HEADER);
        enter(&journal.ledger, 2);
        journal.turn().unwrap();
        drop(journal);
        let journal = open(folder.path());
        assert!(is_known(&journal.ledger, 1) && is_known(&journal.ledger, 2));
    }

    #[test]
    fn a_long_journal_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        enter(&journal.ledger, 0);
        for round in 0..JOURNAL_BYTES_MIN / 1000 + 1 {
            for number in 1..=20 {
                let number = u32::try_from(round).unwrap() * 100 + number;
                enter(&journal.ledger, number);
                let _ = journal.ledger.end(&key(number), TERMS, 1_000_000);
            }
            journal.turn().unwrap();
        }
        assert!(journal.bytes < JOURNAL_BYTES_MIN, "{} bytes", journal.bytes);
        assert_eq!(journal.bytes, fs::metadata(&journal.path).unwrap().len());
        drop(journal);
        let journal = open(folder.path());
        assert_eq!(journal.ledger.len(), 1);
        assert!(is_known(&journal.ledger, 0));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_disk_that_refuses_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        enter(&journal.ledger, 1);
        journal.turn().unwrap();
        journal.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mark = journal.ledger.end(&key(1), TERMS, 1000).mark;
        enter(&journal.ledger, 2);
        assert!(journal.turn().is_err());
        assert!(journal.failing && !journal.ledger.is_kept(mark));
        journal.turn().unwrap();
        assert!(!journal.failing && journal.ledger.is_kept(mark));
        drop(journal);
        let journal = open(folder.path());
        assert!(is_known(&journal.ledger, 2));
        assert_eq!(journal.ledger.visit(&key(1), TERMS, 1000), Visit::Ended);
    }
}
