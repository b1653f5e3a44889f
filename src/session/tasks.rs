//! Sealed task ids of the extension `io.modelcontextprotocol/tasks`: what a client calls a task. Inside are the
//! server's own id and whose the task is, so that it is looked up by nothing that a client could have made up.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, Nonce};
use ring::digest;
use smallvec::SmallVec;
use thiserror::Error;

use super::owner::SealingKey;
use crate::base::limits::{TASK_HANDLE_BYTES_MAX, TASK_ID_BYTES_MAX};
use crate::identity::active::{ActiveTask, TaskNames};
use crate::identity::caller::Owner;

/// What a sealed task id says, to us alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskHandle {
    /// Whose task it is.
    pub owner: Owner,
    /// [`server_mark`] of the server that runs it.
    pub server: u64,
    /// [`active_mark`] of the active task of the call that made it.
    pub active: u64,
    /// Seconds since 1970. How long a task lives is its server's affair.
    pub issued_at: u64,
    /// The server's own id; at most `limits::TASK_ID_BYTES_MAX` bytes.
    pub id: Box<str>,
}

/// Why a task id is not one. All have the same answer, that to an unknown task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandleFault {
    /// Not base64url of a sensible length, or of another version.
    #[error("not a task id of this gateway")]
    Unreadable,
    /// Sealed with a key that is not here.
    #[error("sealed with an unknown key")]
    KeyUnknown,
    /// Changed, or made up.
    #[error("not sealed by this gateway")]
    Forged,
    /// Another owner's, of another server, or of another active task.
    #[error("another caller's task")]
    Foreign,
}

/// Seals a task id: base64url, at most `limits::TASK_HANDLE_BYTES_MAX` characters, so it can stand in `Mcp-Name`.
/// `None` when the server's id is empty or over `limits::TASK_ID_BYTES_MAX`.
///
/// # Panics
/// Never with a `nonce` that differs for each message under one key; that it does is the caller's duty, and a nonce
/// used twice would break the seal of both (NIST SP 800-38D, 8).
#[must_use]
pub fn seal(key: &SealingKey, task: &TaskHandle, nonce: [u8; 12]) -> Option<String> {
    if task.id.is_empty() || task.id.len() > TASK_ID_BYTES_MAX {
        return None;
    }
    let mut sealed: SmallVec<[u8; SEALED_BYTES_MAX]> = SmallVec::new();
    sealed.push(VERSION);
    sealed.extend_from_slice(&key.id());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&task.owner.0);
    for number in [task.server, task.active, task.issued_at] {
        sealed.extend_from_slice(&number.to_be_bytes());
    }
    sealed.extend_from_slice(task.id.as_bytes());
    let (clear, fields) = sealed.split_at_mut(CLEAR_BYTES);
    let tag = key
        .key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&clear[..AAD_BYTES]), fields)
        .expect("a few hundred bytes are within AES-GCM's bound");
    sealed.extend_from_slice(tag.as_ref());
    Some(URL_SAFE_NO_PAD.encode(&sealed))
}

/// Opens a task id with whichever of the keys sealed it. Whose it is, is asked next: [`TaskHandle::owned_by`].
///
/// # Errors
/// [`HandleFault::Unreadable`], [`HandleFault::KeyUnknown`], [`HandleFault::Forged`].
pub fn open(keys: &[SealingKey], handle: &[u8]) -> Result<TaskHandle, HandleFault> {
    if handle.len() > TASK_HANDLE_BYTES_MAX {
        return Err(HandleFault::Unreadable);
    }
    let mut decoded = [0; SEALED_BYTES_MAX];
    let length = URL_SAFE_NO_PAD.decode_slice(handle, &mut decoded).map_err(|_| HandleFault::Unreadable)?;
    let sealed = &mut decoded[..length];
    if length <= CLEAR_BYTES + FIELDS_BYTES + TAG_BYTES || sealed[0] != VERSION {
        return Err(HandleFault::Unreadable);
    }
    let (clear, fields) = sealed.split_at_mut(CLEAR_BYTES);
    let (aad, nonce) = clear.split_at(AAD_BYTES);
    let key = keys.iter().find(|key| key.id() == aad[1..]).ok_or(HandleFault::KeyUnknown)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| HandleFault::Unreadable)?;
    let fields = key.key.open_in_place(nonce, Aad::from(aad), fields).map_err(|_| HandleFault::Forged)?;
    // Past the tag all is ours; what cannot be read now was sealed by another build.
    read(fields).ok_or(HandleFault::Unreadable)
}

impl TaskHandle {
    /// The server's own id, for the caller whose task it is, at its server, while the same task of the policy is active.
    ///
    /// # Errors
    /// [`HandleFault::Foreign`].
    pub fn owned_by(self, owner: &Owner, server: u64, active: u64) -> Result<Box<str>, HandleFault> {
        let theirs = self.owner != *owner || self.server != server || self.active != active;
        if theirs { Err(HandleFault::Foreign) } else { Ok(self.id) }
    }
}

/// A server by its configured name, the same in every process. Names come from the operator, so nobody searches for two
/// that collide.
#[must_use]
pub fn server_mark(name: &str) -> u64 {
    mark(b"server", name)
}

/// An active task by its name, the same under every snapshot; none, and several with none named, are two more.
#[must_use]
pub fn active_mark(active: ActiveTask, names: &TaskNames) -> u64 {
    match active {
        ActiveTask::None => 0,
        ActiveTask::Several => 1,
        ActiveTask::One(task) => mark(b"task", names.name(task)),
    }
}

/// The first 64 bits of SHA-256 over what it is and its name.
fn mark(what: &[u8], name: &str) -> u64 {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [what, b" ", name.as_bytes()] {
        hash.update(part);
    }
    hash.finish().as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn read(fields: &[u8]) -> Option<TaskHandle> {
    let (owner, fields) = fields.split_first_chunk()?;
    let (server, fields) = fields.split_first_chunk()?;
    let (active, fields) = fields.split_first_chunk()?;
    let (issued_at, id) = fields.split_first_chunk()?;
    Some(TaskHandle {
        owner: Owner(*owner),
        server: u64::from_be_bytes(*server),
        active: u64::from_be_bytes(*active),
        issued_at: u64::from_be_bytes(*issued_at),
        id: std::str::from_utf8(id).ok()?.into(),
    })
}

/// Changes with the layout of the fields. No version of a session id: under one key, the one never opens as the other.
const VERSION: u8 = 0x81;
/// Version and key id.
const AAD_BYTES: usize = 1 + 4;
/// What is not encrypted: the above and the nonce.
const CLEAR_BYTES: usize = AAD_BYTES + 12;
/// The fields without the server's id.
const FIELDS_BYTES: usize = 16 + 8 + 8 + 8;
const TAG_BYTES: usize = 16;
const SEALED_BYTES_MAX: usize = CLEAR_BYTES + FIELDS_BYTES + TASK_ID_BYTES_MAX + TAG_BYTES;

const _: () =
    assert!(SEALED_BYTES_MAX.div_ceil(3) * 4 <= TASK_HANDLE_BYTES_MAX, "the longest sealed id is within what is read");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::ids::TaskId;
    use crate::session::owner;

    fn task(id: &str) -> TaskHandle {
        TaskHandle { owner: Owner([9; 16]), server: 7, active: 5, issued_at: 1_800_000_000, id: id.into() }
    }

    fn key(secret: u8) -> SealingKey {
        SealingKey::derive(&[secret; 32])
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_key_alone() {
        let handle = seal(&key(1), &task("786512e2"), [4; 12]).unwrap();
        assert!(handle.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
        assert_eq!(open(&[key(2), key(1)], handle.as_bytes()), Ok(task("786512e2")));
        assert_eq!(open(&[key(2)], handle.as_bytes()), Err(HandleFault::KeyUnknown));
        assert_eq!(open(&[], handle.as_bytes()), Err(HandleFault::KeyUnknown));
    }

    #[test]
    fn it_is_its_owners_at_its_server_in_its_task() {
        let check = |owner: u8, server, active, want: bool| {
            let id = task("t").owned_by(&Owner([owner; 16]), server, active);
            assert_eq!(id, if want { Ok("t".into()) } else { Err(HandleFault::Foreign) });
        };
        check(9, 7, 5, true);
        check(8, 7, 5, false);
        check(9, 6, 5, false);
        check(9, 7, 4, false);
    }

    #[test]
    fn marks_differ_where_names_do() {
        let names = TaskNames::new(["research", "server"]);
        let active = |active| active_mark(active, &names);
        let one = |index| active(ActiveTask::One(TaskId::from_index(index)));
        let marks = [active(ActiveTask::None), active(ActiveTask::Several), one(0), one(1), server_mark("server")];
        for (index, mark) in marks.iter().enumerate() {
            assert_eq!(marks.iter().position(|other| other == mark), Some(index));
        }
        // By name, whatever its number: a restart may number anew.
        assert_eq!(one(0), active_mark(ActiveTask::One(TaskId::from_index(1)), &TaskNames::new(["a", "research"])));
    }

    #[test]
    fn bounds_and_junk() {
        let keys = [key(1)];
        let longest = "x".repeat(TASK_ID_BYTES_MAX);
        let handle = seal(&keys[0], &task(&longest), [0; 12]).unwrap();
        assert_eq!(open(&keys, handle.as_bytes()), Ok(task(&longest)));
        assert_eq!(seal(&keys[0], &task(&"x".repeat(TASK_ID_BYTES_MAX + 1)), [0; 12]), None);
        assert_eq!(seal(&keys[0], &task(""), [0; 12]), None);
        for junk in ["", "gQ", "786512e2-9e0d-44bd-8f29-789f320fe840", &handle[..80], &"A".repeat(10_000)] {
            assert_eq!(open(&keys, junk.as_bytes()), Err(HandleFault::Unreadable), "{junk}");
        }
        for index in 0..handle.len() {
            let mut changed = handle.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert!(open(&keys, &changed).is_err(), "{index}");
        }
    }

    #[test]
    fn a_task_is_no_session() {
        let keys = [key(1)];
        let handle = seal(&keys[0], &task(&"x".repeat(60)), [2; 12]).unwrap();
        let mut sealed = URL_SAFE_NO_PAD.decode(handle).unwrap();
        // Not as it is, and not as any version that a session id may have.
        for version in 0..=u8::MAX {
            sealed[0] = version;
            assert!(owner::open(&keys, URL_SAFE_NO_PAD.encode(&sealed).as_bytes()).is_err(), "{version}");
        }
    }

    proptest! {
        #[test]
        fn seal_and_open_agree(
            (owner, nonce) in any::<([u8; 16], [u8; 12])>(),
            (server, active, issued_at) in any::<(u64, u64, u64)>(),
            id in ".{1,64}",
        ) {
            let task = TaskHandle { owner: Owner(owner), server, active, issued_at, id: id.into() };
            let handle = seal(&key(1), &task, nonce).unwrap();
            prop_assert_eq!(open(&[key(1)], handle.as_bytes()), Ok(task));
        }

        #[test]
        fn no_bytes_panic(handle in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(open(&[key(1)], &handle).is_err());
        }
    }
}
