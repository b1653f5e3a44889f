//! The demo's folder: configuration, key, tokens, state and record. Without `--dir` it is a new one under the system's
//! temporary folder, and goes when the demo ends.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Error, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use crate::identity::mint::MintKey;
use crate::plane::{PlaneFault, state};

/// Keeps the development issuer's key between two runs in one folder.
const KEY_FILE: &str = "issuer.key";

const WHAT: &str = "the demo's folder";

pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Made by us for this run.
    pub(super) temporary: bool,
}

impl Folder {
    /// The folder asked for, or a new one.
    ///
    /// # Errors
    /// `PlaneFault::File`.
    pub(super) fn open(dir: Option<PathBuf>, random: &SystemRandom) -> Result<Self, PlaneFault> {
        if let Some(path) = dir {
            state::folder(WHAT, &path)?;
            let fault = |error| fault(&path, error);
            // As commands printed for another shell need it.
            return Ok(Self { path: fs::canonicalize(&path).map_err(fault)?, temporary: false });
        }
        let parent = std::env::temp_dir();
        loop {
            let mut name = [0; 4];
            random.fill(&mut name).map_err(|_| fault(&parent, Error::other("no randomness")))?;
            let path = parent.join(format!("portcullis-demo-{:08x}", u32::from_ne_bytes(name)));
            // Never one that is already there: somebody else may have put it in our way.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path, temporary: true }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(fault(&path, error)),
            }
        }
    }

    /// Writes a file that only its owner may read.
    ///
    /// # Errors
    /// `PlaneFault::File`.
    pub(super) fn write(&self, name: &str, text: &[u8]) -> Result<(), PlaneFault> {
        let path = self.path.join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text)).map_err(|error| fault(&path, error))
    }

    /// The issuer's key: the one of an earlier run in this folder, or a new one.
    ///
    /// # Errors
    /// `PlaneFault::File`.
    pub(super) fn key(&self, random: &SystemRandom) -> Result<MintKey, PlaneFault> {
        let path = self.path.join(KEY_FILE);
        let key = match fs::read(&path) {
            Ok(pkcs8) => MintKey::from_pkcs8(&pkcs8, random).map_err(|error| fault(&path, Error::other(error)))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = MintKey::generate(random).map_err(|error| fault(&path, Error::other(error)))?;
                self.write(KEY_FILE, key.pkcs8())?;
                key
            }
            Err(error) => return Err(fault(&path, error)),
        };
        self.write("jwks.json", key.key_set().as_bytes())?;
        Ok(key)
    }

    /// Leaves nothing behind that we made for this run alone.
    pub(super) fn remove(&self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!("{WHAT} {} could not be removed: {error}", self.path.display());
        }
    }
}

fn fault(path: &Path, error: Error) -> PlaneFault {
    PlaneFault::File { what: WHAT, path: path.display().to_string(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_ours_goes_and_a_users_stays() {
        let random = SystemRandom::new();
        let ours = Folder::open(None, &random).unwrap();
        ours.key(&random).unwrap();
        assert!(ours.path.join(KEY_FILE).exists());
        ours.remove();
        assert!(!ours.path.exists());

        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("kept");
        let first = Folder::open(Some(path.clone()), &random).unwrap();
        let id = first.key(&random).unwrap().id().to_owned();
        first.remove();
        let again = Folder::open(Some(path), &random).unwrap();
        assert_eq!(again.key(&random).unwrap().id(), id);
    }
}
