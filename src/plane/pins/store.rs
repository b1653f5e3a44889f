//! The pins of each server as a file in the state folder, `pins/SERVER.json`: written whole under another name and
//! renamed, by the gateway and by `portcullis pins`, one at a time.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::book::Book;
use crate::base::limits::{PINS_FILE_BYTES_MAX, STATE_WAIT_MS_MAX, TICK_MS};
use crate::plane::state;

/// Version of the file's form.
const VERSION: u64 = 1;
/// Whoever writes holds this.
const LOCK: &str = ".lock";

/// The folder of pins.
#[derive(Debug)]
pub struct Store {
    state: PathBuf,
    dir: PathBuf,
}

/// By what a file is told from the one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// Why pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsFault {
    /// The system refuses it.
    #[error("{path}: {error}")]
    File {
        /// Which file or folder.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is not what a gateway wrote.
    #[error("{path} is not a file of pins ({error}); mend it, or remove it to have everything looked at anew")]
    Malformed {
        /// Which file.
        path: String,
        /// Where it is wrong.
        error: serde_json::Error,
    },
    /// A later version wrote it.
    #[error("{0} was written by a later version of this program")]
    Later(String),
    /// It is larger than any that a gateway writes.
    #[error("{0} is too large")]
    TooLarge(String),
    /// Somebody else writes, and does not end.
    #[error("{0} is held by another process")]
    Held(String),
}

/// The right to write.
#[derive(Debug)]
pub struct Held<'a> {
    store: &'a Store,
    _lock: fs::File,
}

#[derive(Serialize, Deserialize)]
struct File<B> {
    v: u64,
    server: String,
    pins: B,
}

impl Store {
    /// The pins in this state folder.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned(), dir: state.join("pins") }
    }

    /// What is written of a server; `None` where there is nothing yet.
    ///
    /// # Errors
    /// `PinsFault`.
    pub fn read(&self, server: &str) -> Result<Option<Book>, PinsFault> {
        let path = self.path(server);
        let name = || path.display().to_string();
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PinsFault::File { path: name(), error }),
        };
        let mut text = Vec::new();
        file.take(PINS_FILE_BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(|error| PinsFault::File { path: name(), error })?;
        if text.len() as u64 > PINS_FILE_BYTES_MAX {
            return Err(PinsFault::TooLarge(name()));
        }
        let malformed = |error| PinsFault::Malformed { path: name(), error };
        let version: Version = serde_json::from_slice(&text).map_err(malformed)?;
        if version.v > VERSION {
            return Err(PinsFault::Later(name()));
        }
        let file: File<Book> = serde_json::from_slice(&text).map_err(malformed)?;
        Ok(Some(file.pins))
    }

    /// Changes what is written of a server, while nobody else does. `change` gets the book, says whether there was none
    /// before, and whether it is to be written.
    ///
    /// # Errors
    /// `PinsFault`; what was written before is there still.
    pub fn update<T>(&self, server: &str, change: impl FnOnce(&mut Book, bool) -> (bool, T)) -> Result<T, PinsFault> {
        let held = self.hold()?;
        let book = self.read(server)?;
        let first = book.is_none();
        let mut book = book.unwrap_or_default();
        let (dirty, result) = change(&mut book, first);
        if dirty {
            held.write(server, &book)?;
        }
        Ok(result)
    }

    /// Keeps everybody else from writing, for as long as what this gives is there.
    ///
    /// # Errors
    /// `PinsFault`.
    pub fn hold(&self) -> Result<Held<'_>, PinsFault> {
        Ok(Held { store: self, _lock: self.lock()? })
    }

    /// The stamp of what is written now; `None` where there is nothing.
    #[must_use]
    pub fn stamp(&self, server: &str) -> Option<Stamp> {
        let meta = fs::metadata(self.path(server)).ok()?;
        Some(Stamp { inode: meta.ino(), bytes: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }

    fn path(&self, server: &str) -> PathBuf {
        // Names of servers are letters, digits and hyphens.
        self.dir.join(format!("{server}.json"))
    }

    fn lock(&self) -> Result<fs::File, PinsFault> {
        let fault = |error| PinsFault::File { path: self.dir.display().to_string(), error };
        if !self.dir.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(fault)?;
            state::give(&self.state, &fs::File::open(&self.dir).map_err(fault)?).map_err(fault)?;
        }
        let lock = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(self.dir.join(LOCK));
        let lock = lock.map_err(fault)?;
        state::give(&self.state, &lock).map_err(fault)?;
        let until = Instant::now() + Duration::from_millis(STATE_WAIT_MS_MAX);
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(Duration::from_millis(TICK_MS)),
                Err(Errno::WOULDBLOCK) => return Err(PinsFault::Held(self.dir.join(LOCK).display().to_string())),
                Err(error) => return Err(fault(error.into())),
            }
        }
    }
}

impl Held<'_> {
    /// Writes a server's book in place of what was there.
    ///
    /// # Errors
    /// `PinsFault`; what was written before is there still.
    pub fn write(&self, server: &str, book: &Book) -> Result<(), PinsFault> {
        let path = self.store.path(server);
        let name = || path.display().to_string();
        let written = File { v: VERSION, server: server.to_owned(), pins: book };
        let mut text = serde_json::to_vec(&written).map_err(|error| PinsFault::Malformed { path: name(), error })?;
        text.push(b'\n');
        let fresh = self.store.dir.join(format!("{server}.json.new"));
        let done = (|| {
            match fs::remove_file(&fresh) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(&text)?;
            state::give(&self.store.state, &file)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            // The name must outlive a power failure as well.
            fs::File::open(&self.store.dir)?.sync_all()
        })();
        done.map_err(|error| PinsFault::File { path: name(), error })
    }
}

/// A moment as pins write it.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms / 1000).ok().and_then(|second| Timestamp::from_second(second).ok());
    time.map_or_else(String::new, |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::mcp::catalog::ListKind;
    use crate::mcp::pin::{Key, pin};
    use crate::plane::pins::book::Offered;

    const RAW: &[u8] = b"{ \"name\":\"a\",\n \"n\":1.50 }";

    fn fill(book: &mut Book, first: bool) {
        let pin = pin(ListKind::Tools, RAW).unwrap();
        let offered = Offered::from([(Key::new(ListKind::Tools, "a \u{202e}:b"), vec![(pin, RAW)])]);
        book.look(&offered, true, first, "2026-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        assert!(store.read("a").unwrap().is_none());
        assert_eq!(store.stamp("a"), None);
        let fill = |book: &mut Book, first: bool| {
            fill(book, first);
            (true, first)
        };
        assert!(store.update("a", fill).unwrap());
        let stamp = store.stamp("a").unwrap();
        let book = store.read("a").unwrap().unwrap();
        assert_eq!(book.waiting.keys().next().unwrap().name(), "a \u{202e}:b");
        let text = book.waiting.values().next().unwrap()[0].definition.as_ref().unwrap().get().as_bytes();
        assert_eq!(text, RAW, "as the server wrote it");
        assert!(!store.update("a", |_, first| (false, first)).unwrap());
        assert_eq!(store.stamp("a"), Some(stamp), "nothing to write, nothing written");
        store.update("a", |_, _| (true, ())).unwrap();
        assert_ne!(store.stamp("a"), Some(stamp));
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("pins"), mode("pins/a.json"), mode("pins/.lock")), (0o700, 0o600, 0o600));
    }

    #[test]
    fn what_cannot_be_read_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        store.update("a", |_, _| (true, ())).unwrap();
        let path = folder.path().join("pins/a.json");
        for (text, later) in [("{", false), ("{\"v\":1}", false), ("{\"v\":2,\"new\":[]}", true), ("[]", false)] {
            fs::write(&path, text).unwrap();
            let fault = store.update("a", |_, _| (true, ())).unwrap_err();
            assert_eq!(matches!(fault, PinsFault::Later(_)), later, "{text}: {fault}");
            assert!(later || matches!(fault, PinsFault::Malformed { .. }), "{text}: {fault}");
            assert!(fault.to_string().contains("pins/a.json"), "{fault}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn one_writes_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let held = store.hold().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| Store::new(folder.path()).update("a", |_, _| (true, ())));
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(store.stamp("a"), None, "the other one waits");
            drop(held);
            other.join().unwrap().unwrap();
        });
        let held = store.hold().unwrap();
        assert!(matches!(store.update("a", |_, _| (true, ())), Err(PinsFault::Held(_))));
        drop(held);
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(utc(1_000), "1970-01-01T00:00:01Z");
    }
}
