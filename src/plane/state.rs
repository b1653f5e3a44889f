//! The state folder: what must outlive a restart and is no configuration. For now the key that seals session ids.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use ring::rand::{SecureRandom as _, SystemRandom};

use super::PlaneFault;

/// Name of the key file in the state folder.
const KEY_FILE: &str = "session.key";

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
/// `PlaneFault::File` when it can be neither read nor made, `PlaneFault::Key` when it is not a key.
pub fn sealing_secret(state: &Path) -> Result<[u8; 32], PlaneFault> {
    folder("the state folder", state)?;
    let path = state.join(KEY_FILE);
    let fault = |error| PlaneFault::File { what: "the key file", path: path.display().to_string(), error };
    match fs::read_to_string(&path) {
        Ok(text) => parse(text.trim()).ok_or_else(|| PlaneFault::Key(path.display().to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut secret = [0; 32];
            SystemRandom::new().fill(&mut secret).map_err(|_| fault(std::io::Error::other("no randomness")))?;
            let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            // Under another name first, so that a crash in between leaves no half key.
            let fresh = state.join(format!("{KEY_FILE}.{}", std::process::id()));
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)
                .map_err(fault)?;
            file.write_all(digits.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)?;
            fs::rename(&fresh, &path).map_err(fault)?;
            Ok(secret)
        }
        Err(error) => Err(fault(error)),
    }
}

fn parse(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.is_ascii() {
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
        fs::write(state.join(KEY_FILE), "short").unwrap();
        assert!(matches!(sealing_secret(&state), Err(PlaneFault::Key(_))));
    }
}
