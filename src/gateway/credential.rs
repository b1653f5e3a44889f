//! What a token for a server is found by, and what the plane is asked for it: the gateway's own (RFC 6749, 4.4), or one
//! for a caller in exchange for the caller's (RFC 8693). A token is for whoever has the same key, and for nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use ring::digest;
use serde_json::value::RawValue;

use crate::base::secret::Secret;
use crate::config::{Grant, GrantMark};
use crate::identity::caller::Caller;
use crate::ledger::errands::ErrandKey;

use super::errand::{OnBehalf, TokenErrand};

/// What the gateway's own token for a server is found by: one for all callers. `server`: its digest
/// ([`crate::config::snapshot::PreparedServer::digest`]).
#[must_use]
pub fn shared_key(server: u64, grant: &Grant) -> ErrandKey {
    let mut hash = begin(b"shared", server, &grant.mark());
    finish(&mut hash)
}

/// What the plane is asked for where nothing is there by [`shared_key`].
#[must_use]
pub fn shared_errand(server: u64, grant: &Arc<Grant>) -> TokenErrand {
    TokenErrand { grant: grant.clone(), server, on_behalf: None }
}

/// What a token for a server on behalf of a caller is found by. All that its issuer may go by is in it: who the caller is
/// (its owner), and every claim of its token but for those that tell one token from the next of the same caller. Two
/// tokens that differ in scope, task, tenant or acting chain never share one; two that are the same but newer do.
///
/// Hashes the claims: to be asked where the shard has nothing remembered.
#[must_use]
pub fn personal_key(server: u64, grant: &Grant, caller: &Caller) -> ErrandKey {
    let mut hash = begin(b"personal", server, &grant.mark());
    hash.update(&caller.owner.0);
    // Sorted by name. As they were written: two numbers that one type cannot tell apart are two.
    match serde_json::from_slice::<BTreeMap<String, &RawValue>>(&caller.claims) {
        Ok(claims) => {
            for (name, value) in claims.iter().filter(|(name, _)| !OF_ONE_TOKEN.contains(&name.as_str())) {
                part(&mut hash, name.as_bytes());
                part(&mut hash, value.get().as_bytes());
            }
        }
        // They were read before. If they cannot be now, nothing is shared.
        Err(_) => part(&mut hash, &caller.token),
    }
    finish(&mut hash)
}

/// What the plane is asked for where nothing is there by [`personal_key`]. `token`: the caller's own, as it came behind
/// `Bearer`. Not for an anonymous caller, which has none.
#[must_use]
pub fn personal_errand(server: u64, grant: &Arc<Grant>, caller: &Caller, token: &[u8]) -> TokenErrand {
    let on_behalf = OnBehalf { token: Secret::new(token), caller: Arc::new(caller.clone()) };
    TokenErrand { grant: grant.clone(), server, on_behalf: Some(on_behalf) }
}

fn begin(kind: &[u8], server: u64, grant: &GrantMark) -> digest::Context {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"portcullis credential 1");
    part(&mut hash, kind);
    hash.update(&server.to_be_bytes());
    hash.update(&grant.0);
    hash
}

/// With its length before it, so that no two different lists spell the same bytes.
fn part(hash: &mut digest::Context, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

fn finish(hash: &mut digest::Context) -> ErrandKey {
    let mut key = [0; 32];
    key.copy_from_slice(hash.clone().finish().as_ref());
    key
}

/// Claims that are of one token, and say nothing of its caller (RFC 7519, 4.1).
const OF_ONE_TOKEN: [&str; 4] = ["exp", "iat", "jti", "nbf"];
