//! What limits and rates count, written down: `counts.journal` in the state folder, by the thread of the ledger. A
//! change is in `counts.ring`, a file in memory, before its call leaves, so `kill -9` loses none; a power failure may
//! take what the kernel had not written back.
//!
//! When the disk refuses, it tries again. Meanwhile the ring fills, and when it is full, what would have to be counted
//! is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::base::limits::{
    COUNT_BATCH_RECORDS, COUNT_BATCHES_MAX, COUNT_FRAME_RECORDS_MAX, COUNT_RING_SLOTS, COUNT_SETTLE_MS_MAX,
    COUNTS_JOURNAL_BYTES_MIN, COUNTS_TOLD_MS, LOG_RETRY_MS,
};
use crate::ledger::counts::{Counts, Standing};
use crate::policy::counter::journal::{self, HEADER, RECORD_BYTES, Reader, Tail};
use crate::policy::counter::record::Record;
use crate::uring::mapped::Mapped;
use crate::uring::wait::clock;

use super::PlaneFault;

/// The journal of counts of one process, which has the state folder to itself.
#[derive(Debug)]
pub(super) struct CountsJournal {
    counts: Arc<Counts>,
    path: PathBuf,
    file: File,
    /// What is good of the file, bytes.
    bytes: u64,
    /// What it had when it was last begun anew.
    picture_bytes: u64,
    /// All changes below this are in it.
    number: u64,
    /// Nothing may be appended any more.
    stale: bool,
    /// When to try again.
    failing: Option<Instant>,
    told: Option<(Instant, Standing)>,
    frame: Vec<u8>,
}

impl CountsJournal {
    /// The journal in the state folder, which this process must have claimed. The counts, which must be empty, get what
    /// is in it and in the ring, and are kept from now on. `reader`: who is to be woken when the ring fills.
    ///
    /// # Errors
    /// `PlaneFault::Counts`, `PlaneFault::CountsRing`, `PlaneFault::File`.
    pub(super) fn open(state: &Path, counts: Arc<Counts>, reader: Arc<OnceLock<Thread>>) -> Result<Self, PlaneFault> {
        let path = state.join(JOURNAL_FILE);
        let fault = |error| PlaneFault::File { what: "the journal of counts", path: path.display().to_string(), error };
        let mut file = open_file(&path, true).map_err(fault)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fault)?;
        let foreign = |fault| PlaneFault::Counts { path: path.display().to_string(), fault };
        let mut frames = Reader::open(&bytes).map_err(foreign)?;
        for frame in &mut frames {
            frame.iter().for_each(|record| counts.replay(record));
        }
        let (used, tail, number) = (frames.used(), frames.tail(), frames.number());
        if tail == Tail::Damaged {
            tracing::warn!(
                "{} is damaged from byte {used} on: what was counted after that is only known as far as counts.ring has \
                 it, so limits may let more through than they should until their time is over",
                path.display(),
            );
        }
        if tail != Tail::Whole {
            file.set_len(used as u64).map_err(fault)?;
        }
        let mut used = used as u64;
        if used == 0 {
            file.write_all(&HEADER).map_err(fault)?;
            used = HEADER.len() as u64;
        }
        let told = None;
        let (stale, failing, frame) = (false, None, Vec::new());
        let mut journal =
            Self { counts, path, file, bytes: used, picture_bytes: 0, number, stale, failing, told, frame };
        journal.picture_bytes = (journal.counts.weight() * RECORD_BYTES) as u64;
        journal.attach(state, reader)?;
        if tail == Tail::Damaged {
            let kept = journal.begin_anew();
            kept.map_err(|error| PlaneFault::File { what: "the journal of counts", path: journal.name(), error })?;
        }
        Ok(journal)
    }

    /// Takes over what the ring has and the journal has not, and has changes kept there from now on.
    fn attach(&mut self, state: &Path, reader: Arc<OnceLock<Thread>>) -> Result<(), PlaneFault> {
        let path = state.join(RING_FILE);
        let fault = |error| PlaneFault::File { what: "the ring of counts", path: path.display().to_string(), error };
        let mut file = open_file(&path, false).map_err(fault)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fault)?;
        let foreign = |fault| PlaneFault::CountsRing { path: path.display().to_string(), fault };
        let (records, next) = Counts::read_ring(&bytes, self.number).map_err(foreign)?;
        drop(bytes);
        records.iter().for_each(|record| self.counts.replay(record));
        if next > self.number {
            let kept = self.append(next, &records);
            kept.map_err(|error| PlaneFault::File { what: "the journal of counts", path: self.name(), error })?;
        }
        let ring = Mapped::open(&file, Counts::ring_words()).map_err(fault)?;
        let urge = Box::new(move || {
            reader.get().inspect(|thread| thread.unpark());
        });
        self.counts.attach(ring, next, urge);
        // The first number of all is not 0.
        self.number = self.number.max(self.counts.next_change());
        Ok(())
    }

    /// Writes down what has changed, and forgets what is over.
    ///
    /// # Errors
    /// What the disk says; it is tried again in a while.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let before = self.failing;
        let written = self.write();
        self.failing = match &written {
            Ok(()) => None,
            Err(_) => before.filter(|until| Instant::now() < *until).or(Some(again())),
        };
        match &written {
            Ok(()) if before.is_some() => tracing::info!("the journal of counts can be written again"),
            Err(error) if before.is_none() => tracing::error!(
                "the journal of counts, {}, cannot be written: {error}; until it can, {} more changes can be kept, and \
                 then what would have to be counted is refused",
                self.name(),
                (COUNT_RING_SLOTS as u64).saturating_sub(self.counts.standing().waiting),
            ),
            _ => {}
        }
        self.counts.sweep(clock());
        self.tell();
        written
    }

    /// Writes down all there is, for good. Nobody may reserve any more.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.failing = None;
        self.turn()?;
        self.file.sync_all()
    }

    fn write(&mut self) -> io::Result<()> {
        let mut records = Vec::new();
        for _ in 0..COUNT_BATCHES_MAX {
            if self.stale {
                break;
            }
            let next = self.counts.changes(self.number, u64::MAX, COUNT_BATCH_RECORDS, &mut records);
            if next == self.number {
                break;
            }
            self.append(next, &records)?;
            records.clear();
        }
        if !self.stale && self.bytes <= COUNTS_JOURNAL_BYTES_MIN.max(2 * self.picture_bytes) {
            return Ok(());
        }
        if self.failing.is_some_and(|until| Instant::now() < until) {
            return Err(io::Error::other("it was refused a moment ago"));
        }
        self.begin_anew()
    }

    /// Appends a frame, after which the ring may forget what is below `next`.
    fn append(&mut self, next: u64, records: &[Record]) -> io::Result<()> {
        self.frame.clear();
        journal::write(&mut self.frame, next, records);
        if let Err(error) = self.file.write_all(&self.frame) {
            // What it may have written of them would be followed by the same once more.
            self.stale = self.file.set_len(self.bytes).is_err();
            return Err(error);
        }
        self.bytes += self.frame.len() as u64;
        self.number = next;
        self.counts.set_kept(next);
        Ok(())
    }

    /// Puts a picture of the counts in the place of the file. What changes meanwhile is appended to both, so that the
    /// ring does not fill.
    fn begin_anew(&mut self) -> io::Result<()> {
        let fresh = self.path.with_extension("journal.new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&fresh)?;
        let mut picture = Picture { out: io::BufWriter::new(file), bytes: 0, number: self.number, frame: Vec::new() };
        picture.put(&HEADER)?;
        let mut records = Vec::new();
        for stripe in 0..self.counts.stripes() {
            let mut from = Some(0);
            while let Some(at) = from {
                records.clear();
                let number;
                (from, number) = self.counts.picture(stripe, at, &mut records);
                // In the order in which it happened: what led to this picture before it, what followed behind it.
                self.follow(&mut picture, number)?;
                if !records.is_empty() {
                    picture.write(&records)?;
                }
            }
        }
        self.follow(&mut picture, self.counts.next_change())?;
        let Picture { out, bytes, number, .. } = picture;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        (self.file, self.bytes, self.picture_bytes, self.number, self.stale) = (file, bytes, bytes, number, false);
        self.counts.set_kept(number);
        // The name must outlive a power failure as well.
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    /// Takes changes up to a number into a picture, and into the file that it will follow.
    fn follow(&mut self, picture: &mut Picture, until: u64) -> io::Result<()> {
        let mut records = Vec::new();
        let patience = Instant::now() + Duration::from_millis(COUNT_SETTLE_MS_MAX);
        while picture.number < until {
            let next = self.counts.changes(picture.number, until, COUNT_BATCH_RECORDS, &mut records);
            if next == picture.number {
                // Somebody is writing it this moment.
                if Instant::now() > patience {
                    return Err(io::Error::other("a change was begun and not ended"));
                }
                std::thread::yield_now();
                continue;
            }
            picture.number = next;
            picture.write(&records)?;
            if !self.stale {
                self.append(next, &records)?;
            }
            records.clear();
        }
        Ok(())
    }

    /// Says in the log what was refused for want of room, but not too often.
    fn tell(&mut self) {
        let now = Instant::now();
        let due = |at: &Instant| now >= *at + Duration::from_millis(COUNTS_TOLD_MS);
        if self.told.as_ref().is_some_and(|(at, _)| !due(at)) {
            return;
        }
        let standing = self.counts.standing();
        let before = self.told.replace((now, standing)).map(|(_, before)| before).unwrap_or_default();
        if standing.no_room > before.no_room {
            tracing::warn!(
                "{} calls were refused because there is no room for another count: there are {} of limits and rates, and \
                 there can be {}; a `once` or `calls` without `per` is kept for ever",
                standing.no_room - before.no_room,
                standing.counts,
                standing.counts_max,
            );
        }
        if standing.not_kept > before.not_kept {
            tracing::warn!(
                "{} calls were refused because what they count could not be written down in time",
                standing.not_kept - before.not_kept,
            );
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// A journal that begins anew.
struct Picture {
    out: io::BufWriter<File>,
    bytes: u64,
    number: u64,
    frame: Vec<u8>,
}

impl Picture {
    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        for records in records.chunks(COUNT_FRAME_RECORDS_MAX) {
            let mut frame = std::mem::take(&mut self.frame);
            journal::write(&mut frame, self.number, records);
            let put = self.put(&frame);
            frame.clear();
            self.frame = frame;
            put?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// When to try again what is much work.
fn again() -> Instant {
    Instant::now() + Duration::from_millis(LOG_RETRY_MS)
}

fn open_file(path: &Path, append: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).append(append).create(true).truncate(false).mode(0o600).open(path)?;
    // A backup may have been copied back with another mode.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Its name in the state folder.
const JOURNAL_FILE: &str = "counts.journal";
/// And that of the ring.
const RING_FILE: &str = "counts.ring";

#[cfg(test)]
#[path = "counts_tests.rs"]
mod tests;
