//! A legacy session id is its own record: sealed, bound to its owner and endpoint, opened by any shard that has the
//! key, without asking anyone and after any restart.
//!
//! ```text
//! base64url( version 2 | key id 4 | nonce 12 | AES-256-GCM(fields) | tag 16 )
//!            '---- additional data ----'
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{digest, hkdf};
use thiserror::Error;

use crate::base::ids::ShardId;
use crate::base::limits::SESSION_ID_BYTES_MAX;
use crate::identity::caller::Owner;
use crate::mcp::revision::Revision;

/// A key that seals and opens session ids; derived once per secret.
pub struct SealingKey {
    id: [u8; 4],
    pub(super) key: LessSafeKey,
}

impl SealingKey {
    /// Derives the key, and its id, from a secret of 32 random bytes: nodes that share the secret need not agree on
    /// anything else.
    ///
    /// # Panics
    /// Never: both lengths asked of HKDF are ones it can give.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"portcullis session id 1");
        let root = salt.extract(secret);
        let key = root.expand(&[b"key"], &AES_256_GCM).expect("HKDF gives 32 bytes");
        let mut id = [0; 4];
        let okm = root.expand(&[b"id"], hkdf::HKDF_SHA256).expect("HKDF gives 32 bytes");
        let mut long = [0; 32];
        okm.fill(&mut long).expect("32 bytes were asked for");
        id.copy_from_slice(&long[..4]);
        Self { id, key: LessSafeKey::new(UnboundKey::from(key)) }
    }

    /// Tells secrets apart without telling them.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        self.id
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a session id says, to us alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSeal {
    /// The node that opened the session.
    pub node: u16,
    /// The shard where its live streams are.
    pub home: ShardId,
    /// Whose it is.
    pub owner: Owner,
    /// [`endpoint_hash`] of the endpoint's path: names outlive restarts, dense ids do not.
    pub endpoint_hash: u64,
    /// The revision agreed on.
    pub revision: Revision,
    /// The client's capabilities, as bits.
    pub capabilities: u32,
    /// Seconds since 1970.
    pub issued_at: u64,
    /// Random: two sessions of one owner in one second are two.
    pub nonce16: [u8; 16],
}

/// Why a session id is not one. All have the same answer (404); the difference is for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SessionFault {
    /// Not base64url of a sensible length, or of another version.
    #[error("not a session id of this gateway")]
    Unreadable,
    /// Sealed with a key that is not here.
    #[error("sealed with an unknown key")]
    KeyUnknown,
    /// Changed, or made up.
    #[error("not sealed by this gateway")]
    Forged,
    /// Another owner's.
    #[error("another owner's session")]
    Foreign,
    /// Of another endpoint.
    #[error("a session of another endpoint")]
    Elsewhere,
    /// It has ended: by its client, by its age, or for want of use.
    #[error("a session that has ended")]
    Ended,
    /// What was known of it is lost, and there is no room to begin anew.
    #[error("no room for one more session")]
    NoRoom,
}

/// Seals a session id: visible ASCII, `limits::SESSION_ID_BYTES_MAX` characters.
///
/// # Panics
/// Never with a `nonce` that differs for each message under one key; that it does is the caller's duty, and a nonce
/// used twice would break the seal of both (NIST SP 800-38D, 8).
#[must_use]
pub fn seal(key: &SealingKey, session: &SessionSeal, nonce: [u8; 12]) -> String {
    let mut sealed = [0; SEALED_BYTES];
    let (clear, rest) = sealed.split_at_mut(CLEAR_BYTES);
    let (fields, tag) = rest.split_at_mut(FIELDS_BYTES);
    clear[0] = VERSION;
    clear[1..AAD_BYTES].copy_from_slice(&key.id);
    clear[AAD_BYTES..].copy_from_slice(&nonce);
    write(session, fields);
    let made = key
        .key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&clear[..AAD_BYTES]), fields)
        .expect("some tens of bytes are within AES-GCM's bound");
    tag.copy_from_slice(made.as_ref());
    URL_SAFE_NO_PAD.encode(sealed)
}

/// Opens a session id with whichever of the keys sealed it. Whose it is, is asked next: [`SessionSeal::check`].
/// Allocates nothing.
///
/// # Errors
/// [`SessionFault::Unreadable`], [`SessionFault::KeyUnknown`], [`SessionFault::Forged`].
pub fn open(keys: &[SealingKey], id: &[u8]) -> Result<SessionSeal, SessionFault> {
    if id.len() > SESSION_ID_BYTES_MAX {
        return Err(SessionFault::Unreadable);
    }
    let mut sealed = [0; SEALED_BYTES];
    let length = URL_SAFE_NO_PAD.decode_slice(id, &mut sealed).map_err(|_| SessionFault::Unreadable)?;
    if length != SEALED_BYTES || sealed[0] != VERSION {
        return Err(SessionFault::Unreadable);
    }
    let (clear, fields) = sealed.split_at_mut(CLEAR_BYTES);
    let (aad, nonce) = clear.split_at(AAD_BYTES);
    let key = keys.iter().find(|key| key.id == aad[1..]).ok_or(SessionFault::KeyUnknown)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SessionFault::Unreadable)?;
    let fields = key.key.open_in_place(nonce, Aad::from(aad), fields).map_err(|_| SessionFault::Forged)?;
    // Past the tag all is ours; what cannot be read now was sealed by another build.
    read(fields).ok_or(SessionFault::Unreadable)
}

/// A session whose bearer was found to own it: the proof that its stream may be opened, and that it may be ended.
#[derive(Clone, Debug)]
pub struct Session(SessionSeal);

impl std::ops::Deref for Session {
    type Target = SessionSeal;

    fn deref(&self) -> &SessionSeal {
        &self.0
    }
}

impl SessionSeal {
    /// The session, for its owner at its endpoint.
    ///
    /// # Errors
    /// As [`SessionSeal::check`].
    pub fn owned_by(self, owner: &Owner, endpoint_hash: u64) -> Result<Session, SessionFault> {
        self.check(owner, endpoint_hash).map(|()| Session(self))
    }

    /// Whether this caller may use it at this endpoint.
    ///
    /// # Errors
    /// [`SessionFault::Foreign`], [`SessionFault::Elsewhere`].
    pub fn check(&self, owner: &Owner, endpoint_hash: u64) -> Result<(), SessionFault> {
        if self.owner != *owner {
            return Err(SessionFault::Foreign);
        }
        if self.endpoint_hash != endpoint_hash {
            return Err(SessionFault::Elsewhere);
        }
        Ok(())
    }
}

/// A server by its name, the same in every process; told apart as endpoints are.
#[must_use]
pub fn name_hash(name: &str) -> u64 {
    endpoint_hash(name)
}

/// An endpoint by its path, the same in every process: the first 64 bits of its SHA-256. Endpoints come from the
/// operator, so nobody searches for two that collide.
///
/// # Panics
/// Never: SHA-256 has more than 8 bytes.
#[must_use]
pub fn endpoint_hash(path: &str) -> u64 {
    let whole = digest::digest(&digest::SHA256, path.as_bytes());
    u64::from_be_bytes(*whole.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

/// The fields, one behind the other; `into` is as long as they are.
fn write(session: &SessionSeal, into: &mut [u8]) {
    let mut rest = into;
    let mut put = |bytes: &[u8]| {
        let (here, behind) = std::mem::take(&mut rest).split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        rest = behind;
    };
    put(&session.node.to_be_bytes());
    put(&session.home.0.to_be_bytes());
    put(&session.owner.0);
    put(&session.endpoint_hash.to_be_bytes());
    put(&[revision_code(session.revision)]);
    put(&session.capabilities.to_be_bytes());
    put(&session.issued_at.to_be_bytes());
    put(&session.nonce16);
}

fn read(fields: &[u8]) -> Option<SessionSeal> {
    let (node, fields) = fields.split_first_chunk()?;
    let (home, fields) = fields.split_first_chunk()?;
    let (owner, fields) = fields.split_first_chunk()?;
    let (endpoint_hash, fields) = fields.split_first_chunk()?;
    let (revision, fields) = fields.split_first()?;
    let (capabilities, fields) = fields.split_first_chunk()?;
    let (issued_at, fields) = fields.split_first_chunk()?;
    let (nonce16, fields) = fields.split_first_chunk()?;
    if !fields.is_empty() {
        return None;
    }
    Some(SessionSeal {
        node: u16::from_be_bytes(*node),
        home: ShardId(u16::from_be_bytes(*home)),
        owner: Owner(*owner),
        endpoint_hash: u64::from_be_bytes(*endpoint_hash),
        revision: revision_of(*revision)?,
        capabilities: u32::from_be_bytes(*capabilities),
        issued_at: u64::from_be_bytes(*issued_at),
        nonce16: *nonce16,
    })
}

pub(super) fn revision_code(revision: Revision) -> u8 {
    REVISIONS.iter().find(|row| row.1 == revision).expect("every revision has a code").0
}

pub(super) fn revision_of(code: u8) -> Option<Revision> {
    REVISIONS.iter().find(|row| row.0 == code).map(|row| row.1)
}

/// Codes outlive builds: a row is added, never changed.
const REVISIONS: [(u8, Revision); 5] = [
    (1, Revision::R2024_11_05),
    (2, Revision::R2025_03_26),
    (3, Revision::R2025_06_18),
    (4, Revision::R2025_11_25),
    (5, Revision::R2026_07_28),
];

/// Changes with the layout of the fields.
const VERSION: u8 = 2;
/// Version and key id.
const AAD_BYTES: usize = 1 + 4;
/// What is not encrypted: the above and the nonce.
const CLEAR_BYTES: usize = AAD_BYTES + 12;
const FIELDS_BYTES: usize = 2 + 2 + 16 + 8 + 1 + 4 + 8 + 16;
const TAG_BYTES: usize = 16;
const SEALED_BYTES: usize = CLEAR_BYTES + FIELDS_BYTES + TAG_BYTES;

const _: () = assert!((SEALED_BYTES * 4).div_ceil(3) == SESSION_ID_BYTES_MAX, "a sealed id is as long as what is read");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> SessionSeal {
        SessionSeal {
            node: 3,
            home: ShardId(5),
            owner: Owner([9; 16]),
            endpoint_hash: endpoint_hash("/mcp"),
            revision: Revision::R2025_06_18,
            capabilities: 0b1011,
            issued_at: 1_800_000_000,
            nonce16: [1; 16],
        }
    }

    fn check(keys: &[SealingKey], id: &[u8], want: Result<SessionSeal, SessionFault>) {
        assert_eq!(open(keys, id), want, "{}", String::from_utf8_lossy(id));
    }

    #[test]
    fn what_was_sealed_is_opened_by_its_key_alone() {
        let (old, new) = (SealingKey::derive(&[1; 32]), SealingKey::derive(&[2; 32]));
        let id = seal(&old, &session(), [4; 12]);
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
        check(std::slice::from_ref(&old), id.as_bytes(), Ok(session()));
        check(std::slice::from_ref(&new), id.as_bytes(), Err(SessionFault::KeyUnknown));
        check(&[], id.as_bytes(), Err(SessionFault::KeyUnknown));
        // Derived anew, as after a restart or on another node.
        check(&[new, SealingKey::derive(&[1; 32])], id.as_bytes(), Ok(session()));
        // Same id, other key: as if a peer had guessed which key is in use.
        let imposter = SealingKey { id: old.id, ..SealingKey::derive(&[3; 32]) };
        check(&[imposter], id.as_bytes(), Err(SessionFault::Forged));
    }

    #[test]
    fn an_id_has_one_length() {
        let key = [SealingKey::derive(&[1; 32])];
        assert_eq!(seal(&key[0], &session(), [0; 12]).len(), SESSION_ID_BYTES_MAX);
    }

    #[test]
    fn junk_is_unreadable() {
        let key = [SealingKey::derive(&[1; 32])];
        let id = seal(&key[0], &session(), [0; 12]);
        let other_version = format!("B{}", &id[1..]);
        let long = "A".repeat(10_000);
        for junk in ["", "A", "AQ", "abc def", "0b7c6ad4-2d0b-4a70-a2f5-9f9e3d1c9f55", &id[..40], &other_version, &long]
        {
            check(&key, junk.as_bytes(), Err(SessionFault::Unreadable));
        }
        for suffix in ["=", "\n", ".", "A"] {
            assert!(open(&key, format!("{id}{suffix}").as_bytes()).is_err(), "{suffix:?}");
        }
        check(&key, &[0xFF; 100], Err(SessionFault::Unreadable));
        check(&key, &[b'A'; SESSION_ID_BYTES_MAX], Err(SessionFault::Unreadable));
    }

    #[test]
    fn another_owner_or_endpoint_is_told_apart() {
        let session = session();
        assert_eq!(session.check(&Owner([9; 16]), endpoint_hash("/mcp")), Ok(()));
        assert_eq!(session.check(&Owner([8; 16]), endpoint_hash("/mcp")), Err(SessionFault::Foreign));
        assert_eq!(session.check(&Owner([9; 16]), endpoint_hash("/s/a/mcp")), Err(SessionFault::Elsewhere));
    }

    #[test]
    fn every_revision_survives() {
        let key = [SealingKey::derive(&[1; 32])];
        for revision in Revision::ALL {
            let session = SessionSeal { revision, ..session() };
            let id = seal(&key[0], &session, [0; 12]);
            check(&key, id.as_bytes(), Ok(session));
        }
    }

    #[test]
    fn no_single_character_can_be_changed() {
        let key = [SealingKey::derive(&[1; 32])];
        let id = seal(&key[0], &session(), [7; 12]).into_bytes();
        for index in 0..id.len() {
            for other in *b"ABQgw-_019" {
                let mut changed = id.clone();
                changed[index] = other;
                assert_eq!(open(&key, &changed).is_ok(), changed == id, "{index}");
            }
        }
    }

    proptest! {
        #[test]
        fn seal_and_open_agree(
            (node, home, capabilities, issued_at) in any::<(u16, u16, u32, u64)>(),
            (owner, nonce16, nonce) in any::<([u8; 16], [u8; 16], [u8; 12])>(),
        ) {
            let key = [SealingKey::derive(&[1; 32])];
            let session = SessionSeal {
                node, home: ShardId(home), owner: Owner(owner), capabilities, issued_at, nonce16, ..session()
            };
            let id = seal(&key[0], &session, nonce);
            prop_assert_eq!(open(&key, id.as_bytes()), Ok(session));
        }

        #[test]
        fn no_bytes_panic(id in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(open(&[SealingKey::derive(&[1; 32])], &id).is_err());
        }
    }
}
