//! Sealed cursors: where the next page of a list starts. Inside is whose list it is and what it was when the page before
//! was made, so that a page is never put together from two different lists.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, Nonce};
use thiserror::Error;

use super::owner::SealingKey;
use crate::base::limits::CURSOR_BYTES;
use crate::identity::caller::Owner;
use crate::mcp::catalog::ListKind;
use crate::mcp::merge::write::Position;
use crate::mcp::revision::Era;

/// What a sealed cursor says, to us alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The list it is of.
    pub list: CursorList,
    /// The first entry that was not looked at yet.
    pub position: Position,
}

/// The list that a cursor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorList {
    /// Whose it is.
    pub owner: Owner,
    /// The endpoint's digest: paths outlive restarts, dense ids do not.
    pub endpoint: u64,
    /// The era it is of.
    pub era: Era,
    /// Which list.
    pub kind: ListKind,
    /// `Merged::generation` of it.
    pub generation: u64,
}

/// Why a cursor is not one. All have the same answer; its client starts again (MCP 2026-07-28
/// server/utilities/pagination).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CursorFault {
    /// Not base64url of the right length, or of another version.
    #[error("not a cursor of this gateway")]
    Unreadable,
    /// Sealed with a key that is not here.
    #[error("sealed with an unknown key")]
    KeyUnknown,
    /// Changed, or made up.
    #[error("not sealed by this gateway")]
    Forged,
    /// Another caller's, of another list, or of what the list was before.
    #[error("of another list")]
    Foreign,
}

/// Seals a cursor: base64url, `limits::CURSOR_BYTES` characters.
///
/// # Panics
/// Never with a `nonce` that differs for each message under one key; that it does is the caller's duty (NIST SP 800-38D,
/// 8).
#[must_use]
pub fn seal(key: &SealingKey, cursor: &Cursor, nonce: [u8; 12]) -> String {
    let mut sealed = [0; SEALED_BYTES];
    let mut at = 0;
    let list = &cursor.list;
    let mut put = |bytes: &[u8]| {
        sealed[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&[VERSION]);
    put(&key.id());
    put(&nonce);
    put(&list.owner.0);
    put(&list.endpoint.to_be_bytes());
    put(&list.generation.to_be_bytes());
    put(&[list.code()]);
    put(&cursor.position.member.to_be_bytes());
    put(&cursor.position.row.to_be_bytes());
    let (clear, rest) = sealed.split_at_mut(CLEAR_BYTES);
    let (fields, room) = rest.split_at_mut(FIELDS_BYTES);
    let tag = key
        .key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&clear[..AAD_BYTES]), fields)
        .expect("a few dozen bytes are within AES-GCM's bound");
    room.copy_from_slice(tag.as_ref());
    URL_SAFE_NO_PAD.encode(sealed)
}

/// Opens a cursor with whichever of the keys sealed it. Whose it is, is asked next: [`Cursor::of`].
///
/// # Errors
/// [`CursorFault::Unreadable`], [`CursorFault::KeyUnknown`], [`CursorFault::Forged`].
pub fn open(keys: &[SealingKey], cursor: &[u8]) -> Result<Cursor, CursorFault> {
    if cursor.len() != CURSOR_BYTES {
        return Err(CursorFault::Unreadable);
    }
    let mut sealed = [0; SEALED_BYTES];
    let length = URL_SAFE_NO_PAD.decode_slice(cursor, &mut sealed).map_err(|_| CursorFault::Unreadable)?;
    if length != SEALED_BYTES || sealed[0] != VERSION {
        return Err(CursorFault::Unreadable);
    }
    let (clear, fields) = sealed.split_at_mut(CLEAR_BYTES);
    let (aad, nonce) = clear.split_at(AAD_BYTES);
    let key = keys.iter().find(|key| key.id() == aad[1..]).ok_or(CursorFault::KeyUnknown)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CursorFault::Unreadable)?;
    let fields = key.key.open_in_place(nonce, Aad::from(aad), fields).map_err(|_| CursorFault::Forged)?;
    // Past the tag all is ours; what cannot be read now was sealed by another build.
    read(fields).ok_or(CursorFault::Unreadable)
}

impl Cursor {
    /// Where to go on in this list.
    ///
    /// # Errors
    /// [`CursorFault::Foreign`].
    pub fn of(&self, list: &CursorList) -> Result<Position, CursorFault> {
        if self.list == *list { Ok(self.position) } else { Err(CursorFault::Foreign) }
    }
}

impl CursorList {
    /// Era and kind as one byte.
    fn code(&self) -> u8 {
        let kind = match self.kind {
            ListKind::Tools => 0,
            ListKind::Prompts => 1,
            ListKind::Resources => 2,
            ListKind::Templates => 3,
        };
        kind | if self.era == Era::Modern { MODERN } else { 0 }
    }
}

fn read(fields: &[u8]) -> Option<Cursor> {
    let (owner, fields) = fields.split_first_chunk()?;
    let (endpoint, fields) = fields.split_first_chunk()?;
    let (generation, fields) = fields.split_first_chunk()?;
    let ([code], fields) = fields.split_first_chunk()?;
    let (member, fields) = fields.split_first_chunk()?;
    let row = fields.try_into().ok()?;
    let list = CursorList {
        owner: Owner(*owner),
        endpoint: u64::from_be_bytes(*endpoint),
        era: if code & MODERN == 0 { Era::Legacy } else { Era::Modern },
        kind: *ListKind::ALL.get(usize::from(code & !MODERN))?,
        generation: u64::from_be_bytes(*generation),
    };
    Some(Cursor { list, position: Position { member: u16::from_be_bytes(*member), row: u32::from_be_bytes(row) } })
}

/// Changes with the layout of the fields. No version of a session id or a task id: under one key, none opens as another.
const VERSION: u8 = 0xc1;
const MODERN: u8 = 0x80;
/// Version and key id.
const AAD_BYTES: usize = 1 + 4;
/// What is not encrypted: the above and the nonce.
const CLEAR_BYTES: usize = AAD_BYTES + 12;
const FIELDS_BYTES: usize = 16 + 8 + 8 + 1 + 2 + 4;
const TAG_BYTES: usize = 16;
const SEALED_BYTES: usize = CLEAR_BYTES + FIELDS_BYTES + TAG_BYTES;

const _: () = assert!(SEALED_BYTES.is_multiple_of(3) && SEALED_BYTES / 3 * 4 == CURSOR_BYTES, "without padding");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::{owner, tasks};

    fn key(secret: u8) -> SealingKey {
        SealingKey::derive(&[secret; 32])
    }

    fn cursor() -> Cursor {
        let list = CursorList {
            owner: Owner([9; 16]),
            endpoint: 7,
            era: Era::Legacy,
            kind: ListKind::Templates,
            generation: 5,
        };
        Cursor { list, position: Position { member: 3, row: 1_000 } }
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_key_alone() {
        let sealed = seal(&key(1), &cursor(), [4; 12]);
        assert_eq!(open(&[key(2), key(1)], sealed.as_bytes()), Ok(cursor()));
        assert_eq!(open(&[key(2)], sealed.as_bytes()), Err(CursorFault::KeyUnknown));
        for junk in ["", "2", &sealed[1..], &"A".repeat(CURSOR_BYTES), &"!".repeat(CURSOR_BYTES)] {
            assert_eq!(open(&[key(1)], junk.as_bytes()), Err(CursorFault::Unreadable), "{junk}");
        }
        let mut changed = sealed.into_bytes();
        changed[40] = if changed[40] == b'A' { b'B' } else { b'A' };
        assert_eq!(open(&[key(1)], &changed), Err(CursorFault::Forged));
    }

    #[test]
    fn it_is_of_one_list() {
        let of = |list: CursorList| cursor().of(&list);
        let list = cursor().list;
        assert_eq!(of(list), Ok(Position { member: 3, row: 1_000 }));
        for other in [
            CursorList { owner: Owner([8; 16]), ..list },
            CursorList { endpoint: 8, ..list },
            CursorList { era: Era::Modern, ..list },
            CursorList { kind: ListKind::Resources, ..list },
            CursorList { generation: 6, ..list },
        ] {
            assert_eq!(of(other), Err(CursorFault::Foreign));
        }
    }

    #[test]
    fn a_cursor_is_nothing_else() {
        let mut sealed = URL_SAFE_NO_PAD.decode(seal(&key(1), &cursor(), [2; 12])).unwrap();
        for version in 0..=u8::MAX {
            sealed[0] = version;
            let text = URL_SAFE_NO_PAD.encode(&sealed);
            assert!(owner::open(&[key(1)], text.as_bytes()).is_err(), "{version}");
            assert!(tasks::open(&[key(1)], text.as_bytes()).is_err(), "{version}");
        }
    }

    proptest! {
        #[test]
        fn seal_and_open_agree(
            (owner, nonce) in any::<([u8; 16], [u8; 12])>(),
            (endpoint, generation, member, row) in any::<(u64, u64, u16, u32)>(),
            kind in 0..4_usize,
        ) {
            let list = CursorList {
                owner: Owner(owner), endpoint, era: Era::Modern, kind: ListKind::ALL[kind], generation,
            };
            let cursor = Cursor { list, position: Position { member, row } };
            prop_assert_eq!(open(&[key(1)], seal(&key(1), &cursor, nonce).as_bytes()), Ok(cursor));
        }
    }
}
