//! What must be true of any bytes that come as a session id or a task id. See `base::fuzz` for how these are run.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::cursor::{self, Cursor, CursorFault, CursorList};
use super::owner::{SealingKey, SessionFault, SessionSeal, endpoint_hash, open, seal};
use super::tasks::{self, HandleFault, TaskHandle};
use crate::base::ids::ShardId;
use crate::base::limits::{CURSOR_BYTES, SESSION_ID_BYTES_MAX, TASK_HANDLE_BYTES_MAX, TASK_ID_BYTES_MAX};
use crate::identity::caller::Owner;
use crate::mcp::catalog::ListKind;
use crate::mcp::merge::write::Position;
use crate::mcp::revision::{Era, Revision};

/// A session id: opened only when sealing what it says gives the very same bytes; and one that is sealed from the
/// data opens to what was sealed, for its owner at its endpoint alone, and does not with one bit changed.
///
/// # Panics
/// When one of these is not true.
pub fn session_id(data: &[u8]) {
    let keys = [SealingKey::derive(&[1; 32]), SealingKey::derive(&[2; 32])];
    if let Ok(session) = open(&keys, data) {
        let sealed = URL_SAFE_NO_PAD.decode(data).expect("what opens is base64url");
        let nonce = sealed[5..].first_chunk().expect("with a nonce in it");
        let key = keys.iter().find(|key| key.id() == sealed[1..5]).expect("and the id of a key");
        assert_eq!(seal(key, &session, *nonce).as_bytes(), data, "nobody has sealed this");
    }
    assert_seals(&keys, data);
}

/// A task id: opened only when sealing what it says gives the very same bytes; and what is sealed from the data opens to
/// itself, for its owner at its server under its active task alone, and does not with one bit changed.
///
/// # Panics
/// When one of these is not true.
pub fn task_id(data: &[u8]) {
    let keys = [SealingKey::derive(&[1; 32]), SealingKey::derive(&[2; 32])];
    if let Ok(task) = tasks::open(&keys, data) {
        let sealed = URL_SAFE_NO_PAD.decode(data).expect("what opens is base64url");
        let nonce = sealed[5..].first_chunk().expect("with a nonce in it");
        let key = keys.iter().find(|key| key.id() == sealed[1..5]).expect("and the id of a key");
        assert_eq!(tasks::seal(key, &task, *nonce).as_deref().map(str::as_bytes), Some(data), "nobody has sealed this");
    }
    let id: Box<str> = String::from_utf8_lossy(data).into();
    let owner = Owner([data.first().copied().unwrap_or_default(); 16]);
    let task = TaskHandle { owner, server: 7, active: data.len() as u64, issued_at: 1, id };
    let key = &keys[data.len() % 2];
    let Some(handle) = tasks::seal(key, &task, [3; 12]) else {
        assert!(task.id.is_empty() || task.id.len() > TASK_ID_BYTES_MAX);
        return;
    };
    assert!(handle.len() <= TASK_HANDLE_BYTES_MAX && handle.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(tasks::open(&keys[..0], handle.as_bytes()).is_err());
    let opened = tasks::open(&keys, handle.as_bytes());
    assert_eq!(opened.as_ref(), Ok(&task));
    let opened = opened.expect("it was just opened");
    let of = |server, active| opened.clone().owned_by(&owner, server, active);
    assert_eq!(of(7, task.active).as_ref(), Ok(&task.id));
    assert_eq!((of(8, task.active), of(7, task.active + 1)), (Err(HandleFault::Foreign), Err(HandleFault::Foreign)));
    let mut sealed = URL_SAFE_NO_PAD.decode(&handle).expect("what we seal is base64url");
    for at in [0, 1, 5, 17, sealed.len() / 2, sealed.len() - 1, data.len() % sealed.len()] {
        sealed[at] ^= 1 << (at % 8);
        assert!(tasks::open(&keys, URL_SAFE_NO_PAD.encode(&sealed).as_bytes()).is_err(), "changed at {at}");
        sealed[at] ^= 1 << (at % 8);
    }
}

/// A cursor: opened only when sealing what it says gives the very same bytes; and one that is sealed from the data opens
/// to itself, for its owner and its list alone, and does not with one bit changed.
///
/// # Panics
/// When one of these is not true.
pub fn cursor(data: &[u8]) {
    let keys = [SealingKey::derive(&[1; 32]), SealingKey::derive(&[2; 32])];
    if let Ok(cursor) = cursor::open(&keys, data) {
        let sealed = URL_SAFE_NO_PAD.decode(data).expect("what opens is base64url");
        let nonce = sealed[5..].first_chunk().expect("with a nonce in it");
        let key = keys.iter().find(|key| key.id() == sealed[1..5]).expect("and the id of a key");
        assert_eq!(cursor::seal(key, &cursor, *nonce).as_bytes(), data, "nobody has sealed this");
    }
    let number = |at: usize| data.get(at).copied().unwrap_or_default();
    let list = CursorList {
        owner: Owner([number(0); 16]),
        endpoint: number(1).into(),
        era: if number(2) % 2 == 0 { Era::Legacy } else { Era::Modern },
        kind: ListKind::ALL[usize::from(number(3) % 4)],
        generation: data.len() as u64,
    };
    let cursor = Cursor { list, position: Position { member: number(4).into(), row: u32::from(number(5)) << 16 } };
    let sealed = cursor::seal(&keys[data.len() % 2], &cursor, [number(6); 12]);
    assert_eq!(sealed.len(), CURSOR_BYTES);
    let opened = cursor::open(&keys, sealed.as_bytes());
    assert_eq!(opened, Ok(cursor));
    assert_eq!(cursor.of(&list), Ok(cursor.position));
    for other in [
        CursorList { owner: Owner([number(0) ^ 1; 16]), ..list },
        CursorList { endpoint: list.endpoint + 1, ..list },
        CursorList { era: if list.era == Era::Legacy { Era::Modern } else { Era::Legacy }, ..list },
        CursorList { kind: ListKind::ALL[(list.kind.index() + 1) % 4], ..list },
        CursorList { generation: list.generation + 1, ..list },
    ] {
        assert_eq!(cursor.of(&other), Err(CursorFault::Foreign));
    }
    let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).expect("what we seal is base64url");
    for at in [0, 1, 5, 17, bytes.len() / 2, bytes.len() - 1, data.len() % bytes.len()] {
        bytes[at] ^= 1 << (at % 8);
        assert!(cursor::open(&keys, URL_SAFE_NO_PAD.encode(&bytes).as_bytes()).is_err(), "changed at {at}");
        bytes[at] ^= 1 << (at % 8);
    }
}

fn assert_seals(keys: &[SealingKey; 2], data: &[u8]) {
    let number = |at: usize| u64::from(data.get(at).copied().unwrap_or_default());
    let mut nonce = [0; 12];
    nonce.iter_mut().zip(data).for_each(|(nonce, byte)| *nonce = *byte);
    let session = SessionSeal {
        node: 3,
        home: ShardId(5),
        owner: Owner([data.first().copied().unwrap_or_default(); 16]),
        endpoint_hash: endpoint_hash("/mcp"),
        revision: Revision::ALL[data.len() % Revision::ALL.len()],
        capabilities: 7,
        issued_at: number(1) << 24 | number(2),
        nonce16: [9; 16],
    };
    let key = &keys[data.len() % 2];
    let id = seal(key, &session, nonce);
    assert!(id.len() == SESSION_ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(open(keys, id.as_bytes()).as_ref(), Ok(&session));
    assert!(open(&keys[..0], id.as_bytes()).is_err());
    let mut stranger = session.owner;
    stranger.0[15] ^= 1;
    assert_eq!(session.check(&session.owner, endpoint_hash("/mcp")), Ok(()));
    assert_eq!(session.check(&stranger, endpoint_hash("/mcp")), Err(SessionFault::Foreign));
    assert_eq!(session.check(&session.owner, endpoint_hash("/mcp/")), Err(SessionFault::Elsewhere));
    let mut sealed = URL_SAFE_NO_PAD.decode(&id).expect("what we seal is base64url");
    for at in [0, 1, 5, 17, sealed.len() / 2, sealed.len() - 1, data.len() % sealed.len()] {
        sealed[at] ^= 1 << (at % 8);
        assert!(open(keys, URL_SAFE_NO_PAD.encode(&sealed).as_bytes()).is_err(), "changed at {at}");
        sealed[at] ^= 1 << (at % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn session_ids_hold() {
        hold("session_id", session_id);
    }

    #[test]
    fn cursors_hold() {
        hold("cursor", cursor);
    }

    #[test]
    fn task_ids_hold() {
        hold("task_id", task_id);
    }
}
