//! The issuers: whose tokens are believed, and where what that takes is fetched from.

use std::sync::Arc;

use crate::base::limits::{INTROSPECTION_CACHE_MS, ISSUERS_MAX, KEYS_REFRESH_MS, KEYS_STALE_MS};
use crate::config::auth::{GuardSettings, IntrospectionSettings, IssuerSource, KeysFrom};
use crate::config::fault::Faults;
use crate::config::fetched;
use crate::config::files::Files;
use crate::config::raw::{Node, Value};
use crate::config::shape::{join, quoted};
use crate::identity::claims::ClaimPath;
use crate::identity::keys::{Algorithm, KeySet};
use crate::identity::token::{Issuer, TYP_DEFAULT};

/// The issuers, in the order of the file; those at fault are left out.
pub(crate) fn issuers(root: &Node, files: Files<'_>, faults: &mut Faults) -> Vec<(Issuer, IssuerSource)> {
    let Some(node) = root.get("auth").and_then(|auth| auth.get("issuers")) else {
        return Vec::new();
    };
    if node.items().len() > ISSUERS_MAX {
        faults.error(&node.at, "auth.issuers", format!("over {ISSUERS_MAX} issuers"), "");
    }
    let mut out: Vec<(Issuer, IssuerSource)> = Vec::new();
    let mut asked = None;
    for (index, item) in node.items().iter().enumerate().take(ISSUERS_MAX) {
        let path = format!("auth.issuers[{index}]");
        if let Some(node) = item.get("introspection")
            && let Some(first) = asked.replace(index)
        {
            let message = format!("auth.issuers[{first}] has it: whose an opaque token is, it does not say");
            faults.error(&node.at, &join(&path, "introspection"), message, "keep one of them");
        }
        let Some(issuer) = issuer(item, &path, files, faults) else {
            continue;
        };
        if let Some(name) = item.get("issuer").filter(|_| out.iter().any(|(other, _)| other.issuer == issuer.0.issuer))
        {
            faults.error(&name.at, &join(&path, "issuer"), format!("{} stands twice", quoted(name)), "");
        }
        out.push(issuer);
    }
    out
}

/// Scopes that a client is told to ask for first.
pub(crate) fn scopes(root: &Node, faults: &mut Faults) -> Vec<String> {
    let Some(auth) = root.get("auth") else {
        return Vec::new();
    };
    let scopes = fetched::one_or_several(auth, "auth", "scopes", faults);
    if let Some(node) = auth.get("scopes") {
        for (index, item) in node.items().iter().enumerate() {
            if item.text().is_some_and(|text| !text.is_empty() && !fetched::is_scope(text)) {
                let message = format!("{} is not a scope", quoted(item));
                let hint = "visible ASCII characters but \" and \\, no blank: each is an item of its own";
                faults.error(&item.at, &format!("auth.scopes[{index}]"), message, hint);
            }
        }
    }
    scopes
}

/// Whether the metadata of the issuer is shown at the gateway's own origin, where old clients look for it.
pub(crate) fn legacy_metadata(root: &Node, faults: &mut Faults) -> bool {
    let Some(auth) = root.get("auth") else { return false };
    let Some(node) = auth.get("legacy_metadata").filter(|node| node.is_true()) else {
        return false;
    };
    let issuers = auth.get("issuers").map(Node::items).unwrap_or_default();
    if let [only] = issuers {
        // What is wrong with them is told where they are read.
        let guard = GuardSettings { private: fetched::networks(only, "", &mut Faults::default()), ca: None };
        let url = only.get("issuer").and_then(Node::text);
        if url.is_some_and(|url| !is_discoverable(url, &guard)) {
            faults.error(&node.at, "auth.legacy_metadata", NO_DISCOVERY, "leave it out");
        }
    } else if !auth.is_partial() {
        let message = "such clients know of one issuer only, and here is not one";
        faults.error(&node.at, "auth.legacy_metadata", message, "leave it out");
    }
    true
}

fn issuer(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Option<(Issuer, IssuerSource)> {
    let name = node.get("issuer");
    if let Some(name) = name.filter(|name| name.text() == Some("")) {
        faults.error(&name.at, &join(path, "issuer"), "is empty", "write the `iss` of its tokens");
    }
    let algorithms: Vec<Algorithm> = match texts(node, path, "algorithms", faults) {
        Some(names) => names.iter().filter_map(|name| Algorithm::parse(name)).collect(),
        None => Algorithm::all().collect(),
    };
    let audience = match node.get("audience").and_then(Node::text) {
        Some(audience) => Some(vec![audience.to_owned()]),
        None => texts(node, path, "audience", faults),
    };
    let typ = texts(node, path, "typ", faults).unwrap_or_else(|| TYP_DEFAULT.map(str::to_owned).to_vec());
    let subject = claim(node, path, "subject", "claims.sub", faults);
    let agent = claim(node, path, "agent", "claims.client_id", faults);
    let tasks = claim(node, path, "tasks", "claims.tasks", faults);
    let source = source(node, path, &algorithms, files, faults);
    let issuer = Arc::from(name?.text()?);
    let (subject, agent, tasks) = (subject?, agent?, tasks?);
    Some((Issuer { issuer, audience, algorithms, typ, subject, agent, tasks }, source?))
}

/// Where its keys come from, and how it is asked.
fn source(
    node: &Node,
    path: &str,
    algorithms: &[Algorithm],
    files: Files<'_>,
    faults: &mut Faults,
) -> Option<IssuerSource> {
    let guard = fetched::guard(node, path, files, faults);
    let introspection = introspection(node, path, &guard, files, faults);
    let (refresh_ms, stale_ms) = times(node, path, faults);
    let keys = keys(node, path, (algorithms, &guard), files, faults)?;
    let asks = introspection.as_ref().is_some_and(|asked| asked.url.is_none());
    if let (true, Some(name)) = (keys == KeysFrom::Discovery || asks, node.get("issuer"))
        && name.text().is_some_and(|url| !url.is_empty() && !is_discoverable(url, &guard))
    {
        let hint = match keys {
            KeysFrom::Discovery => "write jwks: { url: … } or jwks: { file: … }",
            _ => "write introspection: { url: … }",
        };
        faults.error(&name.at, &join(path, "issuer"), NO_DISCOVERY, hint);
    }
    if keys == KeysFrom::None
        && !node.has("introspection")
        && node.is_whole()
        && let Some(jwks) = node.get("jwks")
    {
        let message = "without keys its tokens can only be asked about, and there is no `introspection`";
        faults.error(&jwks.at, &join(path, "jwks"), message, "write introspection: { client_id: …, … }");
    }
    if introspection.is_none() && node.has("introspection") {
        return None;
    }
    Some(IssuerSource { keys, guard, refresh_ms, stale_ms, introspection })
}

fn keys(
    node: &Node,
    path: &str,
    (algorithms, guard): (&[Algorithm], &GuardSettings),
    files: Files<'_>,
    faults: &mut Faults,
) -> Option<KeysFrom> {
    let Some(jwks) = node.get("jwks") else {
        return (!node.has("jwks")).then_some(KeysFrom::Discovery);
    };
    if jwks.text() == Some("off") {
        return Some(KeysFrom::None);
    }
    let path = join(path, "jwks");
    if let Some(file) = jwks.get("file") {
        for key in ["url", "refresh", "stale"] {
            if let Some(other) = jwks.get(key) {
                let hint = "a file is read again when it changes: keep one of them";
                faults.error(&other.at, &join(&path, key), "does not go with `file`", hint);
            }
        }
        return key_set(file, &join(&path, "file"), algorithms, files, faults).map(|set| KeysFrom::File(Arc::new(set)));
    }
    if jwks.has("url") {
        return fetched::url(jwks, &path, "url", guard, faults).map(KeysFrom::Url);
    }
    (!jwks.has("file") && !matches!(jwks.value, Value::Bad)).then_some(KeysFrom::Discovery)
}

/// How often keys are looked at, and how old they may be.
fn times(node: &Node, path: &str, faults: &mut Faults) -> (u64, u64) {
    let jwks = node.get("jwks");
    let amount = |key: &str| jwks.and_then(|jwks| jwks.get(key)).and_then(Node::amount);
    let stale = amount("stale");
    let refresh_ms = amount("refresh").unwrap_or(KEYS_REFRESH_MS.min(stale.unwrap_or(KEYS_REFRESH_MS)));
    let stale_ms = stale.unwrap_or(KEYS_STALE_MS.max(refresh_ms));
    if let Some(at) = jwks.and_then(|jwks| jwks.get("stale")).filter(|_| stale_ms < refresh_ms) {
        let message = "is shorter than `refresh`: keys would be too old before they are looked at again";
        faults.error(&at.at, &join(path, "jwks.stale"), message, "make it several times as long");
    }
    (refresh_ms, stale_ms)
}

fn introspection(
    node: &Node,
    path: &str,
    guard: &GuardSettings,
    files: Files<'_>,
    faults: &mut Faults,
) -> Option<IntrospectionSettings> {
    let node = node.get("introspection")?;
    let path = join(path, "introspection");
    let url = fetched::url(node, &path, "url", guard, faults);
    let why = "an issuer does not tell just anybody about tokens";
    let client = fetched::client(node, &path, files, Some(why), faults);
    if url.is_none() && node.has("url") {
        return None;
    }
    let cache_ms = node.get("cache").and_then(Node::amount).unwrap_or(INTROSPECTION_CACHE_MS);
    Some(IntrospectionSettings { url, client: client?, cache_ms })
}

/// Whether the metadata of an issuer of this name can be found (RFC 8414, 2).
fn is_discoverable(issuer: &str, guard: &GuardSettings) -> bool {
    fetched::fetchable(issuer, guard).is_ok_and(|url| url.query().is_none())
}

fn key_set(node: &Node, path: &str, algorithms: &[Algorithm], files: Files<'_>, faults: &mut Faults) -> Option<KeySet> {
    let (_, json) = files.read(node, path, faults)?;
    match KeySet::parse(json.as_bytes(), algorithms) {
        Ok(keys) => Some(keys),
        Err(fault) => {
            faults.error(&node.at, path, format!("{}: {fault}", quoted(node)), "");
            None
        }
    }
}

/// A list of texts, none empty; `None` where it is not written.
fn texts(node: &Node, path: &str, key: &str, faults: &mut Faults) -> Option<Vec<String>> {
    let node = node.get(key)?;
    let empty = |item: &Node| item.text() == Some("");
    if node.items().is_empty() || node.items().iter().any(empty) {
        faults.error(&node.at, &join(path, key), "must not be empty", "leave it out for the default");
    }
    Some(node.items().iter().filter_map(Node::text).map(str::to_owned).collect())
}

fn claim(node: &Node, path: &str, key: &str, default: &str, faults: &mut Faults) -> Option<ClaimPath> {
    let written = node.get(key);
    match ClaimPath::parse(written.and_then(Node::text).unwrap_or(default)) {
        Ok(claim) => Some(claim),
        Err(fault) => {
            if let Some(node) = written {
                let message = format!("{} is not a claim: {fault}", quoted(node));
                faults.error(&node.at, &join(path, key), message, "write claims.NAME or claims[\"NAME\"]");
            }
            None
        }
    }
}

const NO_DISCOVERY: &str =
    "is no URL that metadata could be behind (https, no query; http on loopback alone, where `private` names it)";
