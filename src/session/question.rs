//! Sealed states of a question to an agent's own user: what its client brings back with the answer (`requestState`,
//! MCP 2026-07-28 basic/patterns/mrtr). Inside is whose question it is, what was asked, and what the asked-about call
//! had brought back to its server, which goes on from here once the answer is a yes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, Nonce};
use thiserror::Error;

use super::owner::SealingKey;
use crate::base::limits::{QUESTION_REST_BYTES_MAX, QUESTION_STATE_BYTES_MAX};
use crate::identity::caller::Owner;
use crate::policy::approval::{ApprovalId, ApprovalKey};

/// What a sealed state says, to us alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whose call it is about.
    pub owner: Owner,
    /// What the answer decides.
    pub approval: ApprovalId,
    /// What it is good for: the caller, the task, the definition, the arguments.
    pub key: ApprovalKey,
    /// Until when it is waited for, milliseconds since 1970.
    pub until_unix_ms: u64,
    /// Members of the call's `params` that are its server's, as JSON text; at most `limits::QUESTION_REST_BYTES_MAX`
    /// bytes, and empty for none.
    pub rest: Box<[u8]>,
}

/// Why a state that says it is ours is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QuestionFault {
    /// Not base64url of a sensible length, or of another version.
    #[error("not a state of this gateway")]
    Unreadable,
    /// Sealed with a key that is not here.
    #[error("sealed with an unknown key")]
    KeyUnknown,
    /// Changed, or made up.
    #[error("not sealed by this gateway")]
    Forged,
}

/// Whether a `requestState` says that it is ours; what does not is its server's.
#[must_use]
pub fn is_ours(state: &str) -> bool {
    state.starts_with(PREFIX)
}

/// Seals a state: at most `limits::QUESTION_STATE_BYTES_MAX` characters, none of which JSON escapes. `None` when what
/// is the server's is over its bound.
///
/// # Panics
/// Never with a `nonce` that differs for each message under one key; that it does is the caller's duty, and a nonce
/// used twice would break the seal of both (NIST SP 800-38D, 8).
#[must_use]
pub fn seal(key: &SealingKey, question: &Question, nonce: [u8; 12]) -> Option<String> {
    if question.rest.len() > QUESTION_REST_BYTES_MAX {
        return None;
    }
    let mut sealed = Vec::with_capacity(CLEAR_BYTES + FIELDS_BYTES + question.rest.len() + TAG_BYTES);
    sealed.push(VERSION);
    sealed.extend_from_slice(&key.id());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&question.owner.0);
    sealed.extend_from_slice(&question.approval.bytes());
    sealed.extend_from_slice(&question.key.bytes());
    sealed.extend_from_slice(&question.until_unix_ms.to_be_bytes());
    sealed.extend_from_slice(&question.rest);
    let (clear, fields) = sealed.split_at_mut(CLEAR_BYTES);
    let tag = key
        .key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&clear[..AAD_BYTES]), fields)
        .expect("some kilobytes are within AES-GCM's bound");
    sealed.extend_from_slice(tag.as_ref());
    let mut state = PREFIX.to_owned();
    URL_SAFE_NO_PAD.encode_string(&sealed, &mut state);
    Some(state)
}

/// Opens a state with whichever of the keys sealed it. Whose it is, what it is about and whether it is still waited for
/// is asked next.
///
/// # Errors
/// See [`QuestionFault`].
pub fn open(keys: &[SealingKey], state: &str) -> Result<Question, QuestionFault> {
    let text = state.strip_prefix(PREFIX).filter(|_| state.len() <= QUESTION_STATE_BYTES_MAX);
    let sealed = text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let mut sealed = sealed.ok_or(QuestionFault::Unreadable)?;
    if sealed.len() < CLEAR_BYTES + FIELDS_BYTES + TAG_BYTES || sealed[0] != VERSION {
        return Err(QuestionFault::Unreadable);
    }
    let (clear, fields) = sealed.split_at_mut(CLEAR_BYTES);
    let (aad, nonce) = clear.split_at(AAD_BYTES);
    let key = keys.iter().find(|key| key.id() == aad[1..]).ok_or(QuestionFault::KeyUnknown)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| QuestionFault::Unreadable)?;
    let fields = key.key.open_in_place(nonce, Aad::from(aad), fields).map_err(|_| QuestionFault::Forged)?;
    // Past the tag all is ours; what cannot be read now was sealed by another build.
    read(fields).ok_or(QuestionFault::Unreadable)
}

fn read(fields: &[u8]) -> Option<Question> {
    let (owner, fields) = fields.split_first_chunk()?;
    let (approval, fields) = fields.split_first_chunk()?;
    let (key, fields) = fields.split_first_chunk()?;
    let (until_unix_ms, rest) = fields.split_first_chunk()?;
    Some(Question {
        owner: Owner(*owner),
        approval: ApprovalId::new(*approval),
        key: ApprovalKey::from_bytes(*key),
        until_unix_ms: u64::from_be_bytes(*until_unix_ms),
        rest: rest.into(),
    })
}

/// What every state of ours begins with, so that a server's own is told from it.
const PREFIX: &str = "portcullis.";
/// Changes with the layout of the fields. No version of a session id, a task or a cursor: under one key, none opens as
/// another.
const VERSION: u8 = 0xa1;
/// Version and key id.
const AAD_BYTES: usize = 1 + 4;
/// What is not encrypted: the above and the nonce.
const CLEAR_BYTES: usize = AAD_BYTES + 12;
/// The fields without what is the server's.
const FIELDS_BYTES: usize = 16 + 10 + 32 + 8;
const TAG_BYTES: usize = 16;

const _: () = assert!(
    PREFIX.len() + (CLEAR_BYTES + FIELDS_BYTES + QUESTION_REST_BYTES_MAX + TAG_BYTES).div_ceil(3) * 4
        <= QUESTION_STATE_BYTES_MAX,
    "the longest state is within what is read"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::tasks;

    fn question(rest: &[u8]) -> Question {
        Question {
            owner: Owner([9; 16]),
            approval: ApprovalId::new([3; 10]),
            key: ApprovalKey::from_bytes([7; 32]),
            until_unix_ms: 1_800_000_000_000,
            rest: rest.into(),
        }
    }

    fn key(secret: u8) -> SealingKey {
        SealingKey::derive(&[secret; 32])
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_key_alone() {
        for rest in [&b""[..], b"\"requestState\":\"s\""] {
            let state = seal(&key(1), &question(rest), [4; 12]).unwrap();
            assert!(
                is_ours(&state) && state.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            );
            assert_eq!(open(&[key(2), key(1)], &state), Ok(question(rest)));
            assert_eq!(open(&[key(2)], &state), Err(QuestionFault::KeyUnknown));
        }
    }

    #[test]
    fn bounds_and_junk() {
        let keys = [key(1)];
        let longest = question(&vec![b'x'; QUESTION_REST_BYTES_MAX]);
        let state = seal(&keys[0], &longest, [0; 12]).unwrap();
        assert_eq!(open(&keys, &state), Ok(longest));
        assert_eq!(seal(&keys[0], &question(&vec![b'x'; QUESTION_REST_BYTES_MAX + 1]), [0; 12]), None);
        let state = seal(&keys[0], &question(b""), [0; 12]).unwrap();
        let long = format!("{PREFIX}{}", "A".repeat(QUESTION_STATE_BYTES_MAX));
        for junk in ["", "state-1", PREFIX, &state[1..], &state[..60], &long] {
            assert_eq!(open(&keys, junk), Err(QuestionFault::Unreadable), "{junk}");
        }
        for index in PREFIX.len()..state.len() {
            let mut changed = state.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert!(open(&keys, std::str::from_utf8(&changed).unwrap()).is_err(), "{index}");
        }
    }

    #[test]
    fn a_question_is_no_task() {
        let state = seal(&key(1), &question(b""), [2; 12]).unwrap();
        let mut sealed = URL_SAFE_NO_PAD.decode(&state[PREFIX.len()..]).unwrap();
        for version in 0..=u8::MAX {
            sealed[0] = version;
            assert!(tasks::open(&[key(1)], URL_SAFE_NO_PAD.encode(&sealed).as_bytes()).is_err(), "{version}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(sealed in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,80}") {
            let state = [PREFIX, &URL_SAFE_NO_PAD.encode(&sealed)].concat();
            prop_assert!(open(&[key(1)], &state).is_err());
            prop_assert!(open(&[key(1)], &text).is_err());
        }
    }
}
