//! What people were asked and decided, written down as it happens: `approvals.journal` in the state folder, a line for
//! each change. A change counts once its line is written, so that after a crash (`kill -9`) what was used is used, and
//! what was decided is decided. What people decide is on the disk before they hear so; what else there is, within about
//! a second.
//!
//! The file is written anew when it has grown. Changes that come meanwhile go to both files: the new one gets them
//! behind the picture of the whole, and what is read twice changes nothing.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::limits::{APPROVALS_FILE_BYTES_MAX, APPROVALS_FILE_BYTES_MIN, APPROVALS_LOOK_MS, HOUSEKEEPING_MS};
use crate::base::time::Now;
use crate::ledger::approvals::{Approvals, Keep};
use crate::policy::approval::Change;
use crate::uring::cpu;
use crate::uring::wait::clock;

use super::{PlaneFault, state};

/// Name of the file in the state folder.
const FILE: &str = "approvals.journal";
/// Its first line.
const HEADER: &[u8] = b"portcullis approvals 1\n";

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    state: PathBuf,
    approvals: Arc<Approvals>,
    pen: Mutex<Pen>,
    /// Counts up when the file begins to be written anew, and when it is.
    generation: AtomicU64,
    /// Something is not on the disk yet.
    dirty: AtomicBool,
    /// It is known that it cannot be written.
    failing: AtomicBool,
}

/// The hand that writes.
#[derive(Debug)]
struct Pen {
    file: Arc<File>,
    /// Whole lines, bytes.
    bytes: u64,
    /// What it had when it was last begun anew.
    picture_bytes: u64,
    /// It ends with half a line: nothing can follow.
    torn: bool,
    /// Lines that came since the whole is being written anew.
    meanwhile: Option<Vec<u8>>,
}

/// The thread that looks after it.
#[derive(Debug)]
pub(super) struct Running {
    thread: std::thread::JoinHandle<io::Result<()>>,
    stop: Arc<AtomicBool>,
}

/// Opens the file of a state folder that this process has claimed, and starts its thread.
///
/// # Errors
/// As [`Journal::open`]; `PlaneFault::System`.
pub(super) fn begin(state: &Path, approvals: &Arc<Approvals>) -> Result<(Arc<Journal>, Running), PlaneFault> {
    let journal = Journal::open(state, approvals.clone())?;
    let running = journal.clone().start()?;
    Ok((journal, running))
}

impl Journal {
    /// The file of a state folder that this process has claimed. The approvals, which must be empty, get what is in it,
    /// and are written down here from now on.
    ///
    /// # Errors
    /// `PlaneFault::Approvals` where it is none, or damaged other than at its end; `PlaneFault::File` where it cannot be
    /// written.
    pub(super) fn open(state: &Path, approvals: Arc<Approvals>) -> Result<Arc<Self>, PlaneFault> {
        let path = state.join(FILE);
        let name = || path.display().to_string();
        let unread = |why: String| PlaneFault::Approvals { path: name(), why };
        let now = clock();
        let written = state::read(state, FILE, APPROVALS_FILE_BYTES_MAX).map_err(|error| unread(error.to_string()))?;
        if let Some(bytes) = written {
            replay(&bytes, &approvals, now).map_err(unread)?;
        }
        approvals.sweep(now);
        let fault = |error| PlaneFault::File { what: "the approvals", path: name(), error };
        // Begun anew at each start: what a crash tore is gone then, and what has expired.
        let (file, bytes) = fresh(state, &approvals).map_err(fault)?;
        settle(state).map_err(fault)?;
        let pen = Pen { file: Arc::new(file), bytes, picture_bytes: bytes, torn: false, meanwhile: None };
        let journal = Arc::new(Self {
            state: state.to_owned(),
            approvals,
            pen: Mutex::new(pen),
            generation: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            failing: AtomicBool::new(false),
        });
        journal.approvals.set_keeper(Box::new(Keeper(journal.clone())));
        Ok(journal)
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// `PlaneFault::System`.
    pub(super) fn start(self: Arc<Self>) -> Result<Running, PlaneFault> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name("plane-approvals".into())
            .spawn(move || self.run(&told))
            .map_err(|error| PlaneFault::System { what: "a thread", error })?;
        Ok(Running { thread, stop })
    }

    fn run(&self, stop: &AtomicBool) -> io::Result<()> {
        cpu::name_thread("plane-approvals");
        let looks = APPROVALS_LOOK_MS / HOUSEKEEPING_MS;
        for look in 1_u64.. {
            if stop.load(Ordering::Acquire) {
                break;
            }
            std::thread::sleep(Duration::from_millis(HOUSEKEEPING_MS));
            if look % looks == 0 {
                self.approvals.sweep(clock());
                // Tried again in a moment; whoever needs it written hears that it is not.
                let _ = self.sync();
                let _ = self.look();
            }
        }
        self.sync()
    }

    /// All that was written until now outlives a power failure.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn sync(&self) -> io::Result<()> {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let file = self.pen().file.clone();
        file.sync_data().inspect_err(|_| self.dirty.store(true, Ordering::Release))
    }

    /// Writes it anew where that is due.
    fn look(&self) -> io::Result<()> {
        let due = {
            let pen = self.pen();
            pen.torn || pen.bytes > APPROVALS_FILE_BYTES_MIN.max(2 * pen.picture_bytes)
        };
        if due { self.begin_anew() } else { Ok(()) }
    }

    fn begin_anew(&self) -> io::Result<()> {
        self.pen().meanwhile = Some(Vec::new());
        // After that: whoever wrote before it and made the change only after the picture sees another number.
        self.generation.fetch_add(1, Ordering::SeqCst);
        let begun = picture(&self.state, &self.approvals);
        let mut pen = self.pen();
        let meanwhile = pen.meanwhile.take().unwrap_or_default();
        let done = begun.and_then(|(mut file, bytes)| {
            file.write_all(&meanwhile)?;
            fs::rename(self.state.join(new()), self.state.join(FILE))?;
            Ok((file, bytes + meanwhile.len() as u64))
        });
        self.generation.fetch_add(1, Ordering::SeqCst);
        let (file, bytes) = done?;
        *pen = Pen { file: Arc::new(file), bytes, picture_bytes: bytes, torn: false, meanwhile: None };
        drop(pen);
        self.dirty.store(true, Ordering::Release);
        settle(&self.state)
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut pen = self.pen();
        if pen.torn {
            return Err(io::Error::other("its last line is torn, and it cannot be written anew"));
        }
        if let Err(error) = (&*pen.file).write_all(line) {
            // Half a line would spoil the next one.
            pen.torn = pen.file.set_len(pen.bytes).is_err();
            return Err(error);
        }
        pen.bytes += line.len() as u64;
        if let Some(meanwhile) = &mut pen.meanwhile {
            meanwhile.extend_from_slice(line);
        }
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    fn pen(&self) -> MutexGuard<'_, Pen> {
        self.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the ledger writes through.
struct Keeper(Arc<Journal>);

impl Keep for Keeper {
    fn keep(&self, change: &Change) -> Option<u64> {
        let generation = self.generation();
        let line = line(change)?;
        match self.0.write(&line) {
            Ok(()) => {
                if self.0.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("approvals can be written again");
                }
                Some(generation)
            }
            Err(error) => {
                if !self.0.failing.swap(true, Ordering::Relaxed) {
                    let path = self.0.state.join(FILE);
                    tracing::error!(
                        "approvals cannot be written to {}: {error}; until they can, calls that need one are refused",
                        path.display()
                    );
                }
                None
            }
        }
    }

    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::SeqCst)
    }
}

impl Running {
    /// Ends the thread, with all on the disk. The shards must have ended.
    ///
    /// # Errors
    /// What kept it from being there.
    pub(super) fn finish(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Release);
        // A panic there has been reported by the panic hook.
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread ended unexpectedly")))
    }
}

/// A change as a line: the checksum of its JSON text, that text.
fn line(change: &Change) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(change).ok()?;
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend_from_slice(&json);
    line.push(b'\n');
    Some(line)
}

fn unline(line: &[u8]) -> Option<Change> {
    let (sum, json) = line.split_at_checked(9)?;
    let sum = u32::from_str_radix(str::from_utf8(sum).ok()?.strip_suffix(' ')?, 16).ok()?;
    (crc32fast::hash(json) == sum).then(|| serde_json::from_slice(json).ok()).flatten()
}

/// Makes the changes that a file tells of. What a crash tore at its end was never relied on.
fn replay(bytes: &[u8], approvals: &Approvals, now: Now) -> Result<(), String> {
    if bytes.is_empty() || HEADER.starts_with(bytes) {
        return Ok(());
    }
    let Some(rest) = bytes.strip_prefix(HEADER) else {
        return Err("it is not a file of approvals, or of another version of this program".to_owned());
    };
    let mut torn: Option<usize> = None;
    for (index, line) in rest.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let whole = line.strip_suffix(b"\n").and_then(unline);
        match (whole, torn) {
            (Some(change), None) => approvals.replay(change, now),
            // Behind a tear there is nothing: this is damage of another kind.
            (Some(_), Some(at)) => return Err(format!("line {at} is damaged")),
            (None, _) => torn = torn.or(Some(index + 2)),
        }
    }
    if let Some(at) = torn {
        tracing::warn!("approvals: line {at} of the file, its last, is torn by a crash and left out");
    }
    Ok(())
}

/// A new file with the whole in it, under another name.
fn picture(state: &Path, approvals: &Approvals) -> io::Result<(File, u64)> {
    let file = state::begin(state, &state.join(new()))?;
    let mut bytes = HEADER.len() as u64;
    let mut out = io::BufWriter::with_capacity(64 * 1024, file);
    out.write_all(HEADER)?;
    for change in approvals.picture() {
        let line = line(&change).ok_or_else(|| io::Error::other("an approval cannot be written as JSON"))?;
        out.write_all(&line)?;
        bytes += line.len() as u64;
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok((file, bytes))
}

/// The same in its place, while nobody else writes.
fn fresh(state: &Path, approvals: &Approvals) -> io::Result<(File, u64)> {
    let begun = picture(state, approvals)?;
    fs::rename(state.join(new()), state.join(FILE))?;
    Ok(begun)
}

/// The name must outlive a power failure as well.
fn settle(state: &Path) -> io::Result<()> {
    File::open(state)?.sync_all()
}

fn new() -> String {
    format!("{FILE}.new")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::identity::active::{ActiveTask, TaskNames};
    use crate::identity::caller::Owner;
    use crate::policy::approval::{About, ApprovalId, ApprovalKey, Asked, Decision, Stand, State, Terms};
    use crate::policy::rule::AskWhom;

    fn open(state: &Path) -> (Arc<Journal>, Arc<Approvals>) {
        let approvals = Arc::new(Approvals::new());
        (Journal::open(state, approvals.clone()).unwrap(), approvals)
    }

    fn ask(approvals: &Approvals, name: &str, bytes: usize) -> Stand {
        let tasks = TaskNames::default();
        let mut principal = [0; 16];
        principal[..name.len().min(16)].copy_from_slice(&name.as_bytes()[..name.len().min(16)]);
        let asked = Asked {
            principal: Owner(principal),
            task: ActiveTask::None,
            tasks: &tasks,
            server: "s",
            method: "tools/call",
            name,
            definition: None,
            whom: AskWhom::Person,
        };
        let arguments = format!("{{\"text\":\"\u{202e}{}\"}}", "x".repeat(bytes));
        let about = About { subject: "b\nob", name, arguments: arguments.as_bytes(), ..About::default() };
        let terms = Terms { expires_ms: 3_600_000, whom: AskWhom::Person };
        approvals.ask(&ApprovalKey::of(&asked, |_| {}), asked.principal, terms, &about, clock())
    }

    fn id(stand: Stand) -> ApprovalId {
        match stand {
            Stand::Pending { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    fn decide(approvals: &Approvals, id: ApprovalId, yes: bool) {
        let decision = Decision { yes, by: "anna".into(), note: Some("o\nk".into()), at_unix_ms: clock().unix_ms };
        approvals.decide(id, decision, AskWhom::Person, clock()).unwrap();
    }

    #[test]
    fn what_was_decided_and_used_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, approvals) = open(folder.path());
        let [waits, approved, denied, used, back] =
            ["waits", "approved", "denied", "used", "back"].map(|name| id(ask(&approvals, name, 10)));
        for (id, yes) in [(approved, true), (denied, false), (used, true), (back, true)] {
            decide(&approvals, id, yes);
        }
        assert!(matches!(ask(&approvals, "used", 10), Stand::Granted(_)));
        let Stand::Granted(granted) = ask(&approvals, "back", 10) else { panic!("it was approved") };
        approvals.give_back(&granted);
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // As after `kill -9`: nothing is closed in order. Three times, the second one from a picture.
        drop(journal);
        for _ in 0..3 {
            let (_journal, again) = open(folder.path());
            let state = |id| again.show(id, clock()).map(|shown| shown.state);
            assert_eq!(state(waits), Some(State::Waiting));
            assert_eq!(state(approved), Some(State::Approved));
            assert_eq!(state(denied), Some(State::Denied));
            assert_eq!(state(used), Some(State::Used));
            assert_eq!(state(back), Some(State::Approved));
            let shown = again.show(denied, clock()).unwrap();
            assert_eq!(shown.request, approvals.show(denied, clock()).unwrap().request);
            assert_eq!(shown.decision.unwrap().note.as_deref(), Some("o\nk"));
            assert_eq!(again.waiting(), 1);
        }
    }

    #[test]
    fn a_torn_end_is_left_out_and_damage_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, approvals) = open(folder.path());
        let first = id(ask(&approvals, "first", 10));
        let whole = fs::read(folder.path().join(FILE)).unwrap();
        let second = id(ask(&approvals, "second", 10));
        let both = fs::read(folder.path().join(FILE)).unwrap();
        drop((journal, approvals));
        for cut in [whole.len() + 1, both.len() - 1, whole.len() + 20] {
            fs::write(folder.path().join(FILE), &both[..cut]).unwrap();
            let (_journal, again) = open(folder.path());
            assert!(again.show(first, clock()).is_some() && again.show(second, clock()).is_none(), "cut at {cut}");
            // Nothing torn is left for what follows.
            let third = id(ask(&again, "third", 10));
            let (_journal, again) = open(folder.path());
            assert!(again.show(first, clock()).is_some() && again.show(third, clock()).is_some());
        }
        let mut damaged = both.clone();
        damaged[HEADER.len() + 30] ^= 1;
        for bytes in [&damaged[..], b"portcullis approvals 2\n", b"something else"] {
            fs::write(folder.path().join(FILE), bytes).unwrap();
            let fault = Journal::open(folder.path(), Arc::new(Approvals::new())).unwrap_err();
            assert!(matches!(fault, PlaneFault::Approvals { .. }), "{fault}");
            assert!(fault.to_string().contains(FILE), "{fault}");
            assert_eq!(fs::read(folder.path().join(FILE)).unwrap(), bytes, "it is left as it was");
        }
        fs::write(folder.path().join(FILE), &HEADER[..7]).unwrap();
        assert!(open(folder.path()).1.list(clock()).is_empty(), "a crash at the first start");
    }

    #[test]
    fn a_file_that_has_grown_is_written_anew_while_others_write() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, approvals) = open(folder.path());
        // Each of them uses its yes, and is asked about again: old ones make room.
        std::thread::scope(|scope| {
            for hand in ["left", "right"] {
                let (approvals, journal) = (&approvals, &journal);
                scope.spawn(move || {
                    for _ in 0..40 {
                        let id = id(ask(approvals, hand, 60_000));
                        decide(approvals, id, true);
                        assert!(matches!(ask(approvals, hand, 60_000), Stand::Granted(_)));
                        // One thread looks after the file.
                        if hand == "left" {
                            journal.look().unwrap();
                        }
                    }
                });
            }
        });
        let waiting = id(ask(&approvals, "left", 60_000));
        journal.begin_anew().unwrap();
        let bytes = fs::metadata(folder.path().join(FILE)).unwrap().len();
        assert_eq!(bytes, journal.pen().bytes);
        let all = approvals.list(clock());
        drop((journal, approvals));
        let (_journal, again) = open(folder.path());
        let states = |list: Vec<crate::policy::approval::Shown>| -> Vec<(ApprovalId, State)> {
            list.into_iter().map(|shown| (shown.id, shown.state)).collect()
        };
        assert_eq!(states(again.list(clock())), states(all));
        assert_eq!(again.show(waiting, clock()).unwrap().state, State::Waiting);
    }

    #[test]
    fn what_cannot_be_written_is_refused_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, approvals) = open(folder.path());
        let first = id(ask(&approvals, "first", 10));
        // A file that takes nothing: opened to be read only.
        let real = std::mem::replace(&mut journal.pen().file, Arc::new(File::open(folder.path().join(FILE)).unwrap()));
        assert!(matches!(ask(&approvals, "second", 10), Stand::Unkept));
        assert!(journal.pen().torn, "it could not be cut either");
        journal.pen().file = real;
        assert!(matches!(ask(&approvals, "second", 10), Stand::Unkept), "until it is begun anew");
        journal.look().unwrap();
        let second = id(ask(&approvals, "second", 10));
        let (_journal, again) = open(folder.path());
        assert!([first, second].iter().all(|id| again.show(*id, clock()).is_some()));
    }
}
