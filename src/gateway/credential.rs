//! What a token for a server is found by, and what the plane is asked for it: the gateway's own (RFC 6749, 4.4), or one
//! for a caller in exchange for the caller's (RFC 8693). A token is for whoever has the same key, and for nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use ring::digest;
use serde_json::value::RawValue;

use crate::base::secret::Secret;
use crate::config::{Credentials, Grant, GrantMark, IdentityValue, ServerSettings};
use crate::identity::caller::Caller;
use crate::ledger::errands::ErrandKey;
use crate::upstream::state::ServerState;

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
    who(&mut hash, caller);
    finish(&mut hash)
}

/// What a server has shown a caller of its lists is found by: who that is, as in [`personal_key`]; where the server is;
/// and all that decides what it is shown for the caller: the grant, the fields it is told the caller in, and the active
/// task where one of them holds that.
#[must_use]
pub fn view_key(state: &ServerState, settings: &ServerSettings, caller: &Caller, task: Option<&str>) -> ErrandKey {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"portcullis view 2");
    hash.update(&state.digest.to_be_bytes());
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    state.instances.iter().for_each(|instance| part(&instance.digest.to_be_bytes()));
    // No other length is that of an instance's digest, a grant's mark, or nothing.
    match &settings.credentials {
        Credentials::Exchange(grant) => part(&grant.mark().0),
        _ => part(&[]),
    }
    for header in &settings.identity_headers {
        part(header.name.as_bytes());
        part(format!("{:?}", header.from).as_bytes());
    }
    let told = settings.identity_headers.iter().any(|header| header.from == IdentityValue::Task);
    part(task.filter(|_| told).unwrap_or_default().as_bytes());
    who(&mut hash, caller);
    finish(&mut hash)
}

/// All that tells one caller from another, and nothing that tells its tokens from each other.
fn who(hash: &mut digest::Context, caller: &Caller) {
    hash.update(&caller.owner.0);
    // Sorted by name. As they were written: two numbers that one type cannot tell apart are two.
    match serde_json::from_slice::<BTreeMap<String, &RawValue>>(&caller.claims) {
        Ok(claims) => {
            for (name, value) in claims.iter().filter(|(name, _)| !OF_ONE_TOKEN.contains(&name.as_str())) {
                part(hash, name.as_bytes());
                part(hash, value.get().as_bytes());
            }
        }
        // They were read before. If they cannot be now, nothing is shared.
        Err(_) => part(hash, &caller.token),
    }
}

/// What the plane is asked for where nothing is there by [`personal_key`]. `token`: the caller's own, as it came behind
/// `Bearer`. Not for an anonymous caller, which has none.
#[must_use]
pub fn personal_errand(server: u64, grant: &Arc<Grant>, caller: &Caller, token: &[u8]) -> TokenErrand {
    // What is kept of the caller outlives the call: its token does not.
    let caller = Arc::new(Caller { bearer: None, ..caller.clone() });
    let on_behalf = OnBehalf { token: Secret::new(token), caller };
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::GuardSettings;
    use crate::identity::caller::Owner;
    use crate::oauth::client::{ClientAuth, Proof};

    fn grant(scope: Option<&str>) -> Grant {
        Grant {
            token_url: "https://as.example/token".into(),
            client: ClientAuth { id: "c".into(), proof: Proof::Basic(Arc::new("s".into())) },
            scope: scope.map(str::to_owned),
            audience: Vec::new(),
            resource: Vec::new(),
            guard: GuardSettings::default(),
        }
    }

    fn caller(owner: u8, claims: &str) -> Caller {
        Caller { owner: Owner([owner; 16]), claims: claims.as_bytes().into(), ..Caller::anonymous() }
    }

    #[test]
    fn a_newer_token_of_the_same_caller_finds_the_same() {
        let key = |claims: &str| personal_key(1, &grant(None), &caller(1, claims));
        let first = key(r#"{"sub":"a","scope":"x","exp":1,"iat":1,"nbf":1,"jti":"1"}"#);
        assert_eq!(first, key(r#"{"jti":"2","iat":7,"exp":9,"scope":"x","sub":"a"}"#));
    }

    #[test]
    fn whatever_differs_is_another() {
        let mut seen = HashSet::new();
        let mut new = |key: ErrandKey| assert!(seen.insert(key), "one key for two");
        new(shared_key(1, &grant(None)));
        new(shared_key(2, &grant(None)));
        new(shared_key(1, &grant(Some("x"))));
        for claims in [
            r"{}",
            r#"{"sub":"a"}"#,
            r#"{"sub":"a","scope":"x"}"#,
            r#"{"sub":"a","scope":"x y"}"#,
            r#"{"sub":"a","tasks":["t"]}"#,
            r#"{"sub":"a","act":{"sub":"b"}}"#,
            r#"{"sub":"a","act":{"sub":"b","act":{"sub":"c"}}}"#,
            r#"{"sub":"a","tenant":36893488147419103232}"#,
            r#"{"sub":"a","tenant":36893488147419103233}"#,
        ] {
            new(personal_key(1, &grant(None), &caller(1, claims)));
            new(personal_key(1, &grant(None), &caller(2, claims)));
            new(personal_key(2, &grant(None), &caller(1, claims)));
            new(personal_key(1, &grant(Some("x")), &caller(1, claims)));
        }
        let with = |change: fn(&mut Grant)| {
            let mut grant = grant(None);
            change(&mut grant);
            shared_key(1, &grant)
        };
        new(with(|grant| grant.token_url = "https://as.example/token2".into()));
        new(with(|grant| grant.client.id = "d".into()));
        new(with(|grant| grant.client.proof = Proof::Basic(Arc::new("t".into()))));
        new(with(|grant| grant.client.proof = Proof::Post(Arc::new("s".into()))));
        new(with(|grant| grant.client.proof = Proof::None));
        new(with(|grant| grant.audience = vec!["ab".into()]));
        new(with(|grant| grant.audience = vec!["a".into(), "b".into()]));
        new(with(|grant| grant.resource = vec!["ab".into()]));
        new(with(|grant| grant.guard.private = crate::base::net::Network::parse("10.0.0.0/8").into_iter().collect()));
        new(with(|grant| grant.guard.ca = Some("ca.pem".into())));
    }
}
