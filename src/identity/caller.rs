//! A caller: the verified subject, the agent acting for it, and what the token lets it work on.

use std::sync::Arc;

use ring::digest;
use smallvec::SmallVec;

use super::keys::KeyMark;
use super::liveness::Liveness;
use crate::base::ids::{EndpointId, TaskId};
use crate::base::secret::Secret;

/// Whom sessions, handles and caches belong to: SHA-256 over issuer, subject and agent, cut to 128 bits.
///
/// Each part is preceded by its length (and the agent by whether there is one), so that no two different callers
/// spell the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub [u8; 16]);

impl Owner {
    /// The owner that this issuer, subject and agent make.
    #[must_use]
    pub fn of(issuer: &str, subject: &str, agent: Option<&str>) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"portcullis owner 1");
        for part in [Some(issuer), Some(subject), agent] {
            hash.update(&[u8::from(part.is_some())]);
            let part = part.unwrap_or_default();
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut cut = [0; 16];
        cut.copy_from_slice(&hash.finish().as_ref()[..16]);
        Self(cut)
    }
}

/// The endpoints that a token is good for: its audience named them, or names all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    all: bool,
    words: SmallVec<[u64; 2]>,
}

impl Endpoints {
    /// Every endpoint, also ones that a reload adds.
    #[must_use]
    pub fn all() -> Self {
        Self { all: true, words: SmallVec::new() }
    }

    /// Whether they are what [`Endpoints::all`] says.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// No endpoint yet.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn insert(&mut self, endpoint: EndpointId) {
        let word = endpoint.index() / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (endpoint.index() % 64);
    }

    /// Whether the token may be used there.
    #[must_use]
    pub fn contains(&self, endpoint: EndpointId) -> bool {
        let word = self.words.get(endpoint.index() / 64).copied().unwrap_or(0);
        self.all || word >> (endpoint.index() % 64) & 1 == 1
    }

    /// The same endpoints under other ids: `ids` has the new one of each old one, `None` for one that is gone.
    #[must_use]
    pub fn renumbered(&self, ids: &[Option<EndpointId>]) -> Self {
        let mut new = Self { all: self.all, words: SmallVec::new() };
        let kept = ids.iter().enumerate().filter(|(old, _)| self.contains(EndpointId::from_index(*old)));
        kept.filter_map(|(_, id)| *id).for_each(|id| new.insert(id));
        new
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.words.iter().all(|&word| word == 0)
    }
}

/// Who calls. Its tasks and endpoints are ids of one snapshot: a caller never outlives the snapshot it was
/// verified under (`TokenCache::clear`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's `iss`; empty for the anonymous caller.
    pub issuer: Arc<str>,
    /// The claim that the issuer's `subject` names; `anonymous` for the anonymous caller.
    pub subject: Arc<str>,
    /// The client acting for the subject, when the token tells.
    pub agent: Option<Arc<str>>,
    /// Digest of the three above.
    pub owner: Owner,
    /// Digest of issuer and subject alone: what is counted by subject, whichever agent acts for it.
    pub principal: Owner,
    /// The tasks of the token that the policy knows; sorted, no task twice.
    pub tasks: SmallVec<[TaskId; 4]>,
    /// Where the token may be used.
    pub endpoints: Endpoints,
    /// The token's `exp`, seconds since 1970, without leeway; `u64::MAX` for the anonymous caller.
    pub expires: u64,
    /// Came without a token (only under `auth.anonymous: allow`).
    pub anonymous: bool,
    /// The token's claims as they came: one JSON object in UTF-8, each member once; `{}` for the anonymous caller.
    pub claims: Arc<[u8]>,
    /// What the token's `scope` or `scp` holds; sorted, none twice.
    pub scopes: Arc<[Box<str>]>,
    /// The first half of the token's SHA-256; zero for the anonymous caller.
    pub token: [u8; 16],
    /// The token itself, where a server may be shown it or what it is exchanged for; else it is not kept.
    pub bearer: Option<Arc<Secret>>,
    /// The token's `jti`.
    pub jti: Option<Arc<str>>,
    /// The key that its token was verified with; `None` for what no key of ours has to do with.
    pub key: Option<KeyMark>,
    /// What its issuer says about its token, where only the issuer can say it.
    pub liveness: Option<Arc<Liveness>>,
    /// What the policy's `who` conditions come to for it, by their numbers.
    pub heads: Heads,
}

/// What conditions on callers come to for one of them: two bits for each, whether it holds and whether it is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heads(pub SmallVec<[u64; 2]>);

impl Heads {
    /// Condition `number` holds.
    pub fn set_true(&mut self, number: usize) {
        self.set(2 * number);
    }

    /// Condition `number` is unknown.
    pub fn set_unknown(&mut self, number: usize) {
        self.set(2 * number + 1);
    }

    /// Whether condition `number` holds.
    #[must_use]
    pub fn is_true(&self, number: usize) -> bool {
        self.get(2 * number)
    }

    /// Whether condition `number` is unknown.
    #[must_use]
    pub fn is_unknown(&self, number: usize) -> bool {
        self.get(2 * number + 1)
    }

    fn set(&mut self, bit: usize) {
        if self.0.len() <= bit / 64 {
            self.0.resize(bit / 64 + 1, 0);
        }
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn get(&self, bit: usize) -> bool {
        self.0.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}

impl Caller {
    /// The subject `anonymous`: no issuer, no claims, no tasks, one owner for all, every endpoint.
    ///
    /// No token can make the same owner: a configured issuer is never the empty string. Made once and kept; it
    /// allocates.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            issuer: Arc::from(""),
            subject: Arc::from("anonymous"),
            agent: None,
            owner: Owner::of("", "anonymous", None),
            principal: Owner::of("", "anonymous", None),
            tasks: SmallVec::new(),
            endpoints: Endpoints::all(),
            expires: u64::MAX,
            anonymous: true,
            claims: Arc::from(&b"{}"[..]),
            scopes: Arc::from([]),
            token: [0; 16],
            bearer: None,
            jti: None,
            key: None,
            liveness: None,
            heads: Heads::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_differ_where_the_parts_do() {
        let owners = [
            Owner::of("i", "s", None),
            Owner::of("i", "s", Some("")),
            Owner::of("i", "s", Some("a")),
            Owner::of("is", "", None),
            Owner::of("", "is", None),
            Owner::of("i", "sa", None),
            Caller::anonymous().owner,
        ];
        for (index, owner) in owners.iter().enumerate() {
            assert_eq!(owners.iter().position(|other| other == owner), Some(index));
        }
    }

    #[test]
    fn endpoints_hold_what_was_inserted() {
        let mut some = Endpoints::none();
        assert!(some.is_empty());
        some.insert(EndpointId(3));
        some.insert(EndpointId(700));
        assert!(some.contains(EndpointId(3)) && some.contains(EndpointId(700)));
        assert!(!some.contains(EndpointId(4)) && !some.contains(EndpointId(65_535)));
        assert!(Endpoints::all().contains(EndpointId(65_535)) && !Endpoints::all().is_empty());
    }
}
