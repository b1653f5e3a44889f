//! The kill switch's file, `revocations.json` in the state folder, and its hand: what is revoked is written down, and in
//! force on every shard, before whoever revokes hears that it is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base::limits::REVOCATIONS_FILE_BYTES_MAX;
use crate::gateway::control::Control;
use crate::identity::revoked::{Revocation, Revocations, RevokeFault, Target};

use super::pins::store::utc;
use super::publish::{self, Press};
use super::{PlaneFault, state};

/// Its name.
pub const FILE: &str = "revocations.json";
/// Version of its form.
const VERSION: u64 = 1;

/// Revokes, in a gateway that runs.
#[derive(Debug)]
pub(super) struct Switch {
    state: PathBuf,
    control: Arc<Control>,
    press: Arc<Press>,
    /// One change at a time, from the file to the shards.
    turn: Mutex<()>,
}

/// What came of a change.
#[derive(Debug)]
pub(super) struct Done {
    /// The revocation that is in force, or was.
    pub(super) revocation: Revocation,
    /// It is another than before: new, or gone.
    pub(super) changed: bool,
    /// It is written down. One that is not ends with the process.
    pub(super) kept: bool,
    /// Shards that may still decide by what was before: none, unless the machine hangs.
    pub(super) behind: usize,
}

/// Why nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum SwitchFault {
    /// It is not revoked.
    #[error("{0} is not revoked")]
    Unknown(Target),
    /// It cannot be.
    #[error(transparent)]
    Revoke(#[from] RevokeFault),
    /// The file.
    #[error("cannot write {path}: {error}")]
    File {
        /// Where it is.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file, at its reading; or somebody else has the state folder.
    #[error(transparent)]
    Plane(#[from] PlaneFault),
}

impl Switch {
    pub(super) fn new(state: &Path, control: Arc<Control>, press: Arc<Press>) -> Self {
        Self { state: state.to_owned(), control, press, turn: Mutex::new(()) }
    }

    /// What is revoked.
    pub(super) fn now(&self) -> Arc<Revocations> {
        self.control.snapshot.load().revocations.clone()
    }

    /// Revokes. When this returns with none behind, no shard decides for it any more. It is in force also where it cannot
    /// be written down: an emergency does not wait for a disk.
    pub(super) fn revoke(&self, revocation: Revocation) -> Result<Done, SwitchFault> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Revocations::clone(&self.now());
        let changed = next.add(revocation.clone())?;
        let revocation = next.find(&revocation.target).cloned().unwrap_or(revocation);
        let number = self.press.revoke(Arc::new(next.clone()));
        // Once more where it was there before: it may not have been written then.
        let written = write(&self.state, &next);
        if let Err(fault) = &written {
            tracing::error!("{fault}: what is revoked is in force, but a restart would forget it");
        }
        let behind = publish::seen(&self.control, number);
        Ok(Done { revocation, changed, kept: written.is_ok(), behind })
    }

    /// Lets in again. Written down first: what a restart would revoke again is revoked.
    pub(super) fn undo(&self, target: &Target) -> Result<Done, SwitchFault> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Revocations::clone(&self.now());
        let revocation = next.remove(target).ok_or_else(|| SwitchFault::Unknown(target.clone()))?;
        write(&self.state, &next)?;
        let number = self.press.revoke(Arc::new(next));
        Ok(Done { revocation, changed: true, kept: true, behind: publish::seen(&self.control, number) })
    }
}

/// Changes the file of a state folder that no gateway uses. Gives what `change` gives.
///
/// # Errors
/// `SwitchFault`; nothing has changed then. `PlaneFault::StateTaken` in it where a gateway runs.
pub fn offline<T>(
    state: &Path,
    change: impl FnOnce(&mut Revocations) -> Result<T, SwitchFault>,
) -> Result<T, SwitchFault> {
    let _claimed = state::claim(state)?;
    let before = read(state)?;
    let mut next = before.clone();
    let done = change(&mut next)?;
    if next != before {
        write(state, &next)?;
    }
    Ok(done)
}

/// What is revoked, as the state folder says; nothing where there is no file.
///
/// # Errors
/// `PlaneFault::Revocations`: a gateway that cannot read them does not start.
pub fn read(state: &Path) -> Result<Revocations, PlaneFault> {
    let path = || state.join(FILE).display().to_string();
    let fault = |why: String| PlaneFault::Revocations { path: path(), why };
    let bytes = state::read(state, FILE, REVOCATIONS_FILE_BYTES_MAX).map_err(|error| fault(error.to_string()))?;
    let Some(bytes) = bytes else { return Ok(Revocations::default()) };
    let version: Version = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
    if version.v != VERSION {
        return Err(fault("another version of this program wrote it".to_owned()));
    }
    let file: File = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
    let mut list = Vec::with_capacity(file.revoked.len());
    for entry in file.revoked {
        let target = Target::of(&entry.kind, &entry.name, entry.issuer.as_deref());
        let target = target.ok_or_else(|| fault(format!("there is no {} {:?}", entry.kind, entry.name)))?;
        let at: Timestamp = entry.at.parse().map_err(|_| fault(format!("{:?} is no time", entry.at)))?;
        let at_unix_ms = u64::try_from(at.as_millisecond()).unwrap_or(0);
        list.push(Revocation { target, reason: entry.reason, by: entry.by, at_unix_ms });
    }
    Revocations::new(list).map_err(|error| fault(error.to_string()))
}

/// As the admin listener shows them.
#[must_use]
pub fn to_json(revocations: &Revocations) -> Value {
    let all: Vec<Entry> = revocations.iter().map(Entry::of).collect();
    json!({ "revocations": all })
}

fn write(state: &Path, revocations: &Revocations) -> Result<(), SwitchFault> {
    let fault = |error| SwitchFault::File { path: state.join(FILE).display().to_string(), error };
    let file = File { v: VERSION, revoked: revocations.iter().map(Entry::of).collect() };
    let mut text = serde_json::to_vec_pretty(&file).map_err(|error| fault(error.into()))?;
    text.push(b'\n');
    state::replace(state, FILE, &text).map_err(fault)
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    v: u64,
    revoked: Vec<Entry>,
}

/// One revocation, as the file and the admin listener write it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    kind: Box<str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    name: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Box<str>>,
    by: Box<str>,
    at: Box<str>,
}

impl Entry {
    pub(super) fn of(revocation: &Revocation) -> Self {
        let Revocation { target, reason, by, at_unix_ms } = revocation;
        Self {
            kind: target.kind().into(),
            name: target.name().into(),
            issuer: target.issuer().map(Into::into),
            reason: reason.clone(),
            by: by.clone(),
            at: utc(*at_unix_ms).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn revocation(name: &str) -> Revocation {
        let target = Target::Subject { issuer: Some("https://issuer.example".into()), subject: name.into() };
        Revocation { target, reason: Some("lost \u{202e}laptop\n".into()), by: "anna".into(), at_unix_ms: 1_000 }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_empty(), "there is no file yet");
        let all = ["bob", "\u{1b}[2K", "eve"].map(revocation);
        let others = [Target::All, Target::Token([3; 16]), Target::Jti("j".into()), Target::Task("t".into())];
        let others = others.map(|target| Revocation { target, reason: None, ..revocation("x") });
        let all: Vec<Revocation> = all.into_iter().chain(others).collect();
        let added = offline(folder.path(), |revoked| {
            for revocation in &all {
                revoked.add(revocation.clone())?;
            }
            Ok(revoked.len())
        });
        assert_eq!(added.unwrap(), 7);
        assert_eq!(read(folder.path()).unwrap(), Revocations::new(all).unwrap());
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        offline(folder.path(), |revoked| revoked.remove(&Target::All).ok_or(SwitchFault::Unknown(Target::All)))
            .unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 6);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_cannot_be_read_is_said_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        for text in [
            "",
            "{",
            "{\"v\":1}",
            "{\"v\":2,\"revoked\":[]}",
            "{\"v\":1,\"revoked\":[{\"kind\":\"subject\",\"name\":\"a\",\"by\":\"b\",\"at\":\"never\"}]}",
            "{\"v\":1,\"revoked\":[{\"kind\":\"nobody\",\"name\":\"a\",\"by\":\"b\",\"at\":\"2026-01-01T00:00:00Z\"}]}",
            "{\"v\":1,\"revoked\":[{\"kind\":\"agent\",\"name\":\"\",\"by\":\"b\",\"at\":\"2026-01-01T00:00:00Z\"}]}",
            "{\"v\":1,\"revoked\":[],\"more\":1}",
        ] {
            fs::write(&path, text).unwrap();
            let fault = read(folder.path()).unwrap_err();
            assert!(matches!(fault, PlaneFault::Revocations { .. }), "{text}: {fault}");
            assert!(fault.to_string().contains(FILE), "{fault}");
            assert!(offline(folder.path(), |_| Ok(())).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_folder_in_use_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let claimed = state::claim(folder.path()).unwrap();
        let taken = offline(folder.path(), |revoked| Ok(revoked.add(revocation("bob"))?));
        assert!(matches!(taken, Err(SwitchFault::Plane(PlaneFault::StateTaken(_)))));
        drop(claimed);
        assert!(offline(folder.path(), |revoked| Ok(revoked.add(revocation("bob"))?)).unwrap());
    }
}
