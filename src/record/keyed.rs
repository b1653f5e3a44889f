//! Digests under a key of the gateway's own: who has the record alone can neither try out arguments nor tell subjects,
//! and without the key nobody can any more.

use ring::hmac;

/// The keys of a state folder.
#[derive(Clone, Debug)]
pub struct Keys {
    arguments: hmac::Key,
    callers: hmac::Key,
    sessions: hmac::Key,
}

impl Keys {
    /// The keys that follow from a secret.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> Self {
        let master = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = |label: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&master, label).as_ref());
        Self {
            arguments: key(b"portcullis record arguments 1"),
            callers: key(b"portcullis record callers 1"),
            sessions: key(b"portcullis telemetry sessions 1"),
        }
    }

    /// HMAC-SHA-256 of a call's arguments as they were written, cut to 128 bits (RFC 2104, section 5). Never zero, which
    /// stands for none.
    #[must_use]
    pub fn arguments(&self, written: &[u8]) -> [u8; 16] {
        cut(hmac::sign(&self.arguments, written))
    }

    /// The same of a session's id, by which its spans are found together and nothing can be done with it.
    #[must_use]
    pub fn session(&self, id: &[u8]) -> [u8; 16] {
        cut(hmac::sign(&self.sessions, id))
    }

    /// The same of a subject, or an agent, of this issuer: two kinds of names under one issuer have nothing to do with
    /// each other.
    #[must_use]
    pub fn caller(&self, kind: Name, issuer: &str, name: &str) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.callers);
        context.update(&[kind as u8]);
        context.update(&(issuer.len() as u64).to_be_bytes());
        context.update(issuer.as_bytes());
        context.update(name.as_bytes());
        cut(context.sign())
    }
}

/// What a name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Name {
    /// A subject.
    Subject,
    /// An agent.
    Agent,
}

fn cut(tag: hmac::Tag) -> [u8; 16] {
    let mut cut = [0; 16];
    cut.copy_from_slice(&tag.as_ref()[..16]);
    if cut == [0; 16] {
        cut[0] = 1;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_differ_where_their_parts_do() {
        let keys = [Keys::derive(&[1; 32]), Keys::derive(&[2; 32])];
        let mut all = Vec::new();
        for keys in &keys {
            for written in [&b"{}"[..], b"{ }", b"{\"a\":1}"] {
                all.push(keys.arguments(written));
                all.push(keys.session(written));
            }
            for kind in [Name::Subject, Name::Agent] {
                for (issuer, name) in [("i", "s"), ("is", ""), ("", "is"), ("i", "sa")] {
                    all.push(keys.caller(kind, issuer, name));
                }
            }
        }
        for (index, digest) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == digest), Some(index));
        }
        assert_eq!(keys[0].arguments(b"{}"), Keys::derive(&[1; 32]).arguments(b"{}"));
    }
}
