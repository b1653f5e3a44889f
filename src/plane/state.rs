//! The state folder: what must outlive a restart and is no configuration: the key that seals session ids, the one that
//! the record's digests are made with, the one that keys of counts are made with, the journal of sessions
//! (`plane::journal`), approvals (`plane::approvals`) and revocations (`plane::revoke`).

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::base::limits::{STATE_WAIT_MS_MAX, TICK_MS};

use super::PlaneFault;

/// Name of the file with the sessions' key in the state folder.
const SESSION_KEY: &str = "session.key";
/// The same of the record's.
const AUDIT_KEY: &str = "audit.key";
/// And of the counts'.
const COUNT_KEY: &str = "counts.key";

/// A folder of ours, made with mode 0700 if it is not there.
///
/// # Errors
/// `PlaneFault::File`.
pub fn folder(what: &'static str, path: &Path) -> Result<(), PlaneFault> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| PlaneFault::File {
        what,
        path: path.display().to_string(),
        error,
    })
}

/// The secret that session ids are sealed with; made at first start, mode 0600.
///
/// # Errors
/// `PlaneFault::File` when it can be neither read nor made, `PlaneFault::Key` when it is not a key,
/// `PlaneFault::KeyOpen` when others may read it.
pub fn sealing_secret(state: &Path) -> Result<[u8; 32], PlaneFault> {
    secret(state, SESSION_KEY)
}

/// The secret that the record's digests are made with; as the other one.
///
/// # Errors
/// As [`sealing_secret`].
pub fn audit_secret(state: &Path) -> Result<[u8; 32], PlaneFault> {
    secret(state, AUDIT_KEY)
}

/// The secret that the keys of counts are made with; as the other ones.
///
/// # Errors
/// As [`sealing_secret`].
pub fn count_secret(state: &Path) -> Result<[u8; 32], PlaneFault> {
    secret(state, COUNT_KEY)
}

fn secret(state: &Path, name: &str) -> Result<[u8; 32], PlaneFault> {
    folder("the state folder", state)?;
    let path = state.join(name);
    let fault = |error| PlaneFault::File { what: "the key file", path: path.display().to_string(), error };
    if !path.try_exists().map_err(fault)? {
        make_key(state, name).map_err(fault)?;
    }
    let mode = fs::metadata(&path).map_err(fault)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(PlaneFault::KeyOpen(path.display().to_string()));
    }
    let text = fs::read_to_string(&path).map_err(fault)?;
    parse(text.trim()).ok_or_else(|| PlaneFault::Key(path.display().to_string()))
}

/// Takes the state folder for this process, as long as the file that this gives is open. Waits a little for a
/// predecessor that was killed.
///
/// # Errors
/// `PlaneFault::StateTaken`; `PlaneFault::File` when it cannot be opened.
pub fn claim(state: &Path) -> Result<fs::File, PlaneFault> {
    folder("the state folder", state)?;
    let fault = |error| PlaneFault::File { what: "the state folder", path: state.display().to_string(), error };
    let folder = fs::File::open(state).map_err(fault)?;
    let until = Instant::now() + Duration::from_millis(STATE_WAIT_MS_MAX);
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(Duration::from_millis(TICK_MS)),
            Err(Errno::WOULDBLOCK) => return Err(PlaneFault::StateTaken(state.display().to_string())),
            Err(error) => return Err(fault(error.into())),
        }
    }
}

/// A file of the state folder; `None` where there is none.
///
/// # Errors
/// What the system says, and `InvalidData` for one with more than `max` bytes.
pub fn read(state: &Path, name: &str, max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(state.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    let fits = bytes.len() as u64 <= max;
    if fits { Ok(Some(bytes)) } else { Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is too large")) }
}

/// Puts a file of the state folder in the place of what was there: under another name first, so that whoever reads it
/// reads all of it, and a crash leaves one of the two. It outlives a power failure once this has returned.
///
/// # Errors
/// What the system says; what was there before is there still.
pub fn replace(state: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = state.join(format!("{name}.new"));
    let mut file = begin(state, &fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, state.join(name))?;
    // The name must outlive it as well.
    fs::File::open(state)?.sync_all()
}

/// A new file at this path of the state folder, that whoever has begun one there before has not ended.
///
/// # Errors
/// What the system says.
pub(super) fn begin(state: &Path, path: &Path) -> std::io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
    give(state, &file)?;
    Ok(file)
}

/// What root writes for a gateway of another user must be that user's.
///
/// # Errors
/// What the system says.
pub(super) fn give(state: &Path, file: &fs::File) -> std::io::Result<()> {
    let (ours, theirs) = (file.metadata()?, fs::metadata(state)?);
    if rustix::process::geteuid().is_root() && (ours.uid(), ours.gid()) != (theirs.uid(), theirs.gid()) {
        fchown(file, Some(theirs.uid()), Some(theirs.gid()))?;
    }
    Ok(())
}

/// Writes a new key, unless somebody else who starts at the same time was faster: then theirs is the key.
fn make_key(state: &Path, name: &str) -> std::io::Result<()> {
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| std::io::Error::other("no randomness"))?;
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    // Under another name first, so that a crash in between leaves no half key.
    let fresh = state.join(format!("{name}.{}", std::process::id()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(digits.as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&fresh, state.join(name));
    fs::remove_file(&fresh)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The name must outlive a power failure as well.
    fs::File::open(state)?.sync_all()
}

fn parse(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut secret = [0; 32];
    for (byte, at) in secret.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = sealing_secret(&state).unwrap();
        assert_eq!(sealing_secret(&state).unwrap(), first);
        assert_ne!(first, [0; 32]);
        let counts = count_secret(&state).unwrap();
        assert_eq!(count_secret(&state).unwrap(), counts, "a restart finds its counts again");
        assert!(counts != first && counts != audit_secret(&state).unwrap());
        for key in ["short", &"+f".repeat(32), &"g0".repeat(32)] {
            fs::write(state.join(SESSION_KEY), key).unwrap();
            assert!(matches!(sealing_secret(&state), Err(PlaneFault::Key(_))), "{key}");
        }
    }

    #[test]
    fn those_who_start_together_have_one_key() {
        let folder = tempfile::tempdir().unwrap();
        make_key(folder.path(), SESSION_KEY).unwrap();
        let first = sealing_secret(folder.path()).unwrap();
        make_key(folder.path(), SESSION_KEY).unwrap();
        assert_eq!(sealing_secret(folder.path()).unwrap(), first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_folder_is_one_gateways() {
        let folder = tempfile::tempdir().unwrap();
        let first = claim(folder.path()).unwrap();
        assert!(matches!(claim(folder.path()), Err(PlaneFault::StateTaken(_))));
        drop(first);
        claim(folder.path()).unwrap();
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        sealing_secret(folder.path()).unwrap();
        fs::set_permissions(folder.path().join(SESSION_KEY), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(sealing_secret(folder.path()), Err(PlaneFault::KeyOpen(_))));
    }
}
