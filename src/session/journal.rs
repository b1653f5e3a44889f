//! The ledger's journal: what has changed, entry by entry, so that a table can be made again from it.
//!
//! ```text
//! file   magic 7 | version 1 byte | entry …
//! entry  length 4 | CRC-32 of the rest 4 | kind 1 | place 1 | fields
//! ```
//!
//! Each entry says what is, not what to add, so it may be read again over a newer table: a picture that is taken while
//! the table changes is right once the entries of that time follow it. The place is the first byte of the owner, which
//! says whose stripe an entry belongs to.

use smallvec::SmallVec;
use thiserror::Error;

use crate::base::limits::{
    JOURNAL_ENTRY_BYTES_MAX, PROFILE_BYTES_MAX, SESSION_SERVERS_MAX, SUBSCRIBED_BYTES_MAX, SUBSCRIPTIONS_MAX,
    UPSTREAM_SESSION_BYTES_MAX,
};
use crate::identity::caller::Owner;
use crate::mcp::revision::Revision;

use super::ledger::{Profile, Record, SessionKey, Terms, Upstream};
use super::owner::{revision_code, revision_of};

/// What a journal begins with.
pub const HEADER: [u8; 8] = [b'p', b'c', b'-', b's', b'e', b's', b's', VERSION];

/// Why a file is not read as a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JournalFault {
    /// It does not begin like one.
    #[error("it is not a journal of sessions")]
    Foreign,
    /// Another build wrote it.
    #[error("its version is {0}, and this build reads versions up to {VERSION}")]
    Version(u8),
}

/// How a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole entry.
    Whole,
    /// Within one, as after a crash: what is before it is all there was to keep.
    Torn,
    /// With what is no entry. Nothing behind it is read.
    Damaged,
}

/// Reads a journal, entry by entry.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    tail: Tail,
    version: u8,
}

/// One entry, whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The layout of its fields.
    version: u8,
    kind: u8,
    place: u8,
    fields: &'a [u8],
}

/// What an entry means for a stripe.
#[derive(Debug)]
pub(super) enum Change<'a> {
    Session { record: Box<Record>, profile: Option<[u8; 16]> },
    Opened { nonce: [u8; 16], upstream: Upstream },
    Used { nonce: [u8; 16], used_s: u64 },
    Level { nonce: [u8; 16], level: u8 },
    Subscribed { nonce: [u8; 16], on: bool, uri: &'a str },
    Ended { nonce: [u8; 16], issued_s: u64 },
    OverBefore { s: u64 },
}

impl<'a> Reader<'a> {
    /// A reader at the first entry. A file that a crash cut short within its header is an empty journal.
    ///
    /// # Errors
    /// `JournalFault`.
    pub fn open(bytes: &'a [u8]) -> Result<Self, JournalFault> {
        if HEADER.starts_with(bytes) {
            let tail = if bytes.is_empty() || bytes.len() == HEADER.len() { Tail::Whole } else { Tail::Torn };
            let at = if bytes.len() == HEADER.len() { bytes.len() } else { 0 };
            return Ok(Self { bytes: &bytes[..at], at, tail, version: VERSION });
        }
        match bytes.split_at_checked(HEADER.len()) {
            Some((header, _)) if header[..7] == HEADER[..7] => match header[7] {
                version @ OLDEST..=VERSION => Ok(Self { bytes, at: HEADER.len(), tail: Tail::Whole, version }),
                version => Err(JournalFault::Version(version)),
            },
            _ => Err(JournalFault::Foreign),
        }
    }

    /// An earlier build wrote it: it can be read, but nothing can be appended.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.version < VERSION
    }

    /// How many bytes were read: all that is to be kept.
    #[must_use]
    pub fn used(&self) -> usize {
        self.at
    }

    /// How it ends, once there is no next entry.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// The entry just read means nothing: the journal ends in front of it.
    pub fn reject(&mut self, entry: &Entry<'_>) {
        self.at -= FRAME_BYTES + KIND_BYTES + entry.fields.len();
        self.bytes = &self.bytes[..self.at];
        self.tail = Tail::Damaged;
    }

    fn entry(&self) -> Result<Entry<'a>, Tail> {
        let rest = &self.bytes[self.at..];
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(Tail::Torn)?;
        let (sum, rest) = rest.split_first_chunk::<4>().ok_or(Tail::Torn)?;
        let count = u32::from_be_bytes(*length) as usize;
        if !(KIND_BYTES..=JOURNAL_ENTRY_BYTES_MAX).contains(&count) {
            return Err(Tail::Damaged);
        }
        let (payload, _) = rest.split_at_checked(count).ok_or(Tail::Torn)?;
        if checksum(length, payload) != u32::from_be_bytes(*sum) {
            return Err(Tail::Damaged);
        }
        match payload {
            [kind, place, fields @ ..] => Ok(Entry { version: self.version, kind: *kind, place: *place, fields }),
            _ => Err(Tail::Damaged),
        }
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.at == self.bytes.len() {
            return None;
        }
        match self.entry() {
            Ok(entry) => {
                self.at += FRAME_BYTES + KIND_BYTES + entry.fields.len();
                Some(entry)
            }
            Err(tail) => {
                self.tail = tail;
                self.bytes = &self.bytes[..self.at];
                None
            }
        }
    }
}

impl<'a> Entry<'a> {
    /// The first byte of the owner it is about; of no meaning for a profile.
    #[must_use]
    pub fn place(&self) -> u8 {
        self.place
    }

    /// The profile that later entries refer to by its digest, if it is one.
    #[must_use]
    pub fn profile(&self) -> Option<&'a [u8]> {
        (self.kind == PROFILE).then_some(self.fields)
    }

    /// What it means for a stripe; `None` for what this build cannot have written.
    pub(super) fn change(&self) -> Option<Change<'a>> {
        let mut fields = Fields(self.fields, self.version);
        let change = match self.kind {
            SESSION => fields.session()?,
            OPENED => Change::Opened { nonce: fields.take()?, upstream: fields.upstream()? },
            USED => Change::Used { nonce: fields.take()?, used_s: fields.number()? },
            LEVEL => Change::Level { nonce: fields.take()?, level: fields.byte()? },
            SUBSCRIBED => Change::Subscribed { nonce: fields.take()?, on: fields.byte()? == 1, uri: fields.text()? },
            ENDED => Change::Ended { nonce: fields.take()?, issued_s: fields.number()? },
            OVER_BEFORE => Change::OverBefore { s: fields.number()? },
            _ => return None,
        };
        fields.0.is_empty().then_some(change)
    }
}

/// Writes down a profile.
pub fn write_profile(out: &mut Vec<u8>, profile: &Profile) {
    framed(out, PROFILE, 0, |out| out.extend_from_slice(profile.json()));
}

/// Writes down all there is of a session.
pub(super) fn write_session(out: &mut Vec<u8>, record: &Record) {
    framed(out, SESSION, record.key.owner.0[0], |out| {
        out.extend_from_slice(&record.key.owner.0);
        out.extend_from_slice(&record.key.nonce);
        out.extend_from_slice(&record.terms.endpoint.to_be_bytes());
        out.push(revision_code(record.terms.revision));
        out.extend_from_slice(&record.terms.capabilities.to_be_bytes());
        out.extend_from_slice(&record.terms.issued_s.to_be_bytes());
        out.extend_from_slice(&record.used_s.to_be_bytes());
        out.extend_from_slice(&[u8::from(record.level.is_some()), record.level.unwrap_or_default()]);
        out.push(u8::from(record.profile.is_some()));
        if let Some(profile) = &record.profile {
            out.extend_from_slice(&profile.digest());
        }
        count(out, record.upstreams.len());
        record.upstreams.iter().for_each(|upstream| write_upstream(out, upstream));
        count(out, record.subscriptions.len());
        record.subscriptions.iter().for_each(|uri| long(out, uri.as_bytes()));
    });
}

/// Writes down that a session was opened at a server.
pub(super) fn write_opened(out: &mut Vec<u8>, key: &SessionKey, upstream: &Upstream) {
    framed(out, OPENED, key.owner.0[0], |out| {
        out.extend_from_slice(&key.nonce);
        write_upstream(out, upstream);
    });
}

/// Writes down when a session was last used.
pub(super) fn write_used(out: &mut Vec<u8>, key: &SessionKey, used_s: u64) {
    framed(out, USED, key.owner.0[0], |out| {
        out.extend_from_slice(&key.nonce);
        out.extend_from_slice(&used_s.to_be_bytes());
    });
}

/// Writes down a log level.
pub(super) fn write_level(out: &mut Vec<u8>, key: &SessionKey, level: u8) {
    framed(out, LEVEL, key.owner.0[0], |out| {
        out.extend_from_slice(&key.nonce);
        out.push(level);
    });
}

/// Writes down whether a session is subscribed to a resource.
pub(super) fn write_subscribed(out: &mut Vec<u8>, key: &SessionKey, on: bool, uri: &str) {
    framed(out, SUBSCRIBED, key.owner.0[0], |out| {
        out.extend_from_slice(&key.nonce);
        out.push(u8::from(on));
        long(out, uri.as_bytes());
    });
}

/// Writes down that a session is over.
pub(super) fn write_ended(out: &mut Vec<u8>, place: u8, nonce: &[u8; 16], issued_s: u64) {
    framed(out, ENDED, place, |out| {
        out.extend_from_slice(nonce);
        out.extend_from_slice(&issued_s.to_be_bytes());
    });
}

/// Writes down before when sessions without a record are over.
pub(super) fn write_over_before(out: &mut Vec<u8>, place: u8, s: u64) {
    framed(out, OVER_BEFORE, place, |out| out.extend_from_slice(&s.to_be_bytes()));
}

fn write_upstream(out: &mut Vec<u8>, upstream: &Upstream) {
    out.extend_from_slice(&upstream.server.to_be_bytes());
    out.extend_from_slice(&upstream.instance.to_be_bytes());
    out.extend_from_slice(&upstream.epoch.to_be_bytes());
    out.push(revision_code(upstream.revision));
    long(out, &upstream.id);
}

fn framed(out: &mut Vec<u8>, kind: u8, place: u8, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    out.extend_from_slice(&[kind, place]);
    fields(out);
    let length = u32::try_from(out.len() - start - FRAME_BYTES).unwrap_or(u32::MAX).to_be_bytes();
    let sum = checksum(&length, &out[start + FRAME_BYTES..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + FRAME_BYTES].copy_from_slice(&sum.to_be_bytes());
}

fn long(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Whatever is counted here is bounded far below 2^16.
fn count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

/// What is left of an entry, in the layout of this version.
struct Fields<'a>(&'a [u8], u8);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn small(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        self.take().map(u16::from_be_bytes).map(usize::from)
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let count = self.count()?;
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.long()?).ok()
    }

    fn revision(&mut self) -> Option<Revision> {
        revision_of(self.byte()?)
    }

    fn upstream(&mut self) -> Option<Upstream> {
        Some(Upstream {
            server: self.number()?,
            // Servers were at one place.
            instance: if self.1 == OLDEST { 0 } else { self.number()? },
            epoch: self.small()?,
            revision: self.revision()?,
            id: self.long().filter(|id| id.len() <= UPSTREAM_SESSION_BYTES_MAX)?.into(),
        })
    }

    fn session(&mut self) -> Option<Change<'a>> {
        let key = SessionKey { owner: Owner(self.take()?), nonce: self.take()? };
        let endpoint = self.number()?;
        let revision = self.revision()?;
        let capabilities = self.small()?;
        let terms = Terms { endpoint, revision, capabilities, issued_s: self.number()? };
        let used_s = self.number()?;
        let (has_level, level) = (self.byte()? == 1, self.byte()?);
        let profile = if self.byte()? == 1 { Some(self.take()?) } else { None };
        let upstreams = (0..self.count()?).map(|_| self.upstream()).collect::<Option<SmallVec<[Upstream; 1]>>>()?;
        let subscriptions = (0..self.count()?).map(|_| self.text().map(Box::from)).collect::<Option<_>>()?;
        let level = has_level.then_some(level);
        let record = Box::new(Record::new(key, terms, used_s, level, None, subscriptions, upstreams));
        Some(Change::Session { record, profile })
    }
}

/// CRC-32 (IEEE 802.3) of an entry's length and what follows.
fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(payload);
    hasher.finalize()
}

/// Changes with the layout of entries.
const VERSION: u8 = 2;
/// The oldest layout that is read: in it, nothing says at which instance a server's session is.
const OLDEST: u8 = 1;
/// Length and checksum.
const FRAME_BYTES: usize = 8;
/// Kind and place.
const KIND_BYTES: usize = 2;

const PROFILE: u8 = 1;
const SESSION: u8 = 2;
const OPENED: u8 = 3;
const USED: u8 = 4;
const LEVEL: u8 = 5;
const SUBSCRIBED: u8 = 6;
const ENDED: u8 = 7;
const OVER_BEFORE: u8 = 8;

const _: () = assert!(
    128 + SESSION_SERVERS_MAX * (23 + UPSTREAM_SESSION_BYTES_MAX) + SUBSCRIPTIONS_MAX * 2 + SUBSCRIBED_BYTES_MAX
        <= JOURNAL_ENTRY_BYTES_MAX,
    "the largest session is one entry"
);
const _: () = assert!(PROFILE_BYTES_MAX + KIND_BYTES <= JOURNAL_ENTRY_BYTES_MAX, "a profile is one entry");

#[cfg(test)]
pub(crate) use tests::old_file;

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal as the first version wrote it: one session, at a server whose instance it does not say, opened again
    /// there since.
    pub(crate) fn old_file(key: &SessionKey, terms: Terms, server: u64, id: &[u8]) -> Vec<u8> {
        let upstream = |out: &mut Vec<u8>, epoch: u32| {
            out.extend_from_slice(&server.to_be_bytes());
            out.extend_from_slice(&epoch.to_be_bytes());
            out.push(revision_code(terms.revision));
            long(out, id);
        };
        let mut out = HEADER.to_vec();
        out[7] = OLDEST;
        framed(&mut out, SESSION, key.owner.0[0], |out| {
            out.extend_from_slice(&key.owner.0);
            out.extend_from_slice(&key.nonce);
            out.extend_from_slice(&terms.endpoint.to_be_bytes());
            out.push(revision_code(terms.revision));
            out.extend_from_slice(&terms.capabilities.to_be_bytes());
            out.extend_from_slice(&terms.issued_s.to_be_bytes());
            out.extend_from_slice(&terms.issued_s.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0]);
            count(out, 1);
            upstream(out, 1);
            count(out, 0);
        });
        framed(&mut out, OPENED, key.owner.0[0], |out| {
            out.extend_from_slice(&key.nonce);
            upstream(out, 2);
        });
        out
    }

    #[test]
    fn an_old_journal_is_read() {
        let key = SessionKey { owner: Owner([7; 16]), nonce: [9; 16] };
        let terms = Terms { endpoint: 1, revision: Revision::R2025_06_18, capabilities: 3, issued_s: 1000 };
        let file = old_file(&key, terms, 5, b"up");
        let mut reader = Reader::open(&file).unwrap();
        assert!(reader.is_old() && !Reader::open(&HEADER).unwrap().is_old());
        let Some(Change::Session { record, profile: None }) = reader.next().and_then(|entry| entry.change()) else {
            panic!("a session")
        };
        let upstream =
            |epoch| Upstream { server: 5, instance: 0, epoch, revision: terms.revision, id: (*b"up").into() };
        assert_eq!((record.key, record.terms, &record.upstreams[..]), (key, terms, &[upstream(1)][..]));
        let Some(Change::Opened { nonce, upstream: opened }) = reader.next().and_then(|entry| entry.change()) else {
            panic!("opened again")
        };
        assert_eq!((nonce, opened), (key.nonce, upstream(2)));
        assert!(reader.next().is_none() && reader.tail() == Tail::Whole);
        assert_eq!(Reader::open(b"pc-sess\x03").err(), Some(JournalFault::Version(3)));
        assert_eq!(Reader::open(b"pc-sess\x00").err(), Some(JournalFault::Version(0)));
    }
}
