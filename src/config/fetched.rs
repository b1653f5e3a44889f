//! What the gateway fetches for itself: from which URLs, in which networks, and who it is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use url::{Host, Url};
use zeroize::Zeroizing;

use crate::base::limits::{CONFIG_ITEMS_MAX, NETWORKS_MAX, SECRET_BYTES_MAX};
use crate::base::net::Network;
use crate::base::secret::Secret;
use crate::config::auth::GuardSettings;
use crate::config::fault::Faults;
use crate::config::files::{Files, Pem};
use crate::config::front;
use crate::config::raw::Node;
use crate::config::shape::{join, quoted};
use crate::identity::keys::Algorithm;
use crate::oauth::client::{ClientAuth, Proof, SigningKey};
use crate::oauth::guard::{self, UrlFault};

/// What may be fetched from, as `private` and `ca` of a block say it.
pub(crate) fn guard(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> GuardSettings {
    let ca = ca(node, path, files, faults);
    GuardSettings { private: networks(node, path, faults), ca }
}

/// The networks that a block names with `private`.
pub(crate) fn networks(node: &Node, path: &str, faults: &mut Faults) -> Vec<Network> {
    let Some(list) = node.get("private") else {
        return Vec::new();
    };
    let here = join(path, "private");
    if list.items().is_empty() || list.items().len() > NETWORKS_MAX {
        faults.error(&list.at, &here, format!("expected 1 to {NETWORKS_MAX} networks"), "leave it out for none");
    }
    let mut private = Vec::new();
    for (index, item) in list.items().iter().enumerate().take(NETWORKS_MAX) {
        let Some(text) = item.text() else { continue };
        match Network::parse(text) {
            Some(network) => private.push(network),
            None => {
                let message = format!("{} is not a network", quoted(item));
                let hint = "write 10.0.0.0/8, 127.0.0.1 or fd00::/8: no bit may be set behind the ones that count";
                faults.error(&item.at, &format!("{here}[{index}]"), message, hint);
            }
        }
    }
    private
}

/// The authorities that a block names with `ca`.
pub(crate) fn ca(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Option<PathBuf> {
    files.pem(node.get("ca")?, &join(path, "ca"), Pem::Certificates, faults)
}

/// The URL that `key` names, in the spelling of the URL standard; `None` where it is not written, or at fault.
pub(crate) fn url(node: &Node, path: &str, key: &str, guard: &GuardSettings, faults: &mut Faults) -> Option<Arc<str>> {
    let node = node.get(key)?;
    match fetchable(node.text()?, guard) {
        Ok(url) => Some(Arc::from(url.as_str())),
        Err(why) => {
            let message = if why == NO_URL { format!("{} {why}", quoted(node)) } else { why.to_owned() };
            if why == USER {
                faults.veil(node.at.line..=node.at.line);
            }
            let hint = if why == PLAIN { PLAIN_HINT } else { "write https://idp.example.com/path" };
            faults.error(&node.at, &join(path, key), message, hint);
            None
        }
    }
}

/// Whether this can be fetched from: https; or http on this machine's own loopback, where the operator says that it may.
///
/// What its name resolves to is looked at when it is fetched.
pub(crate) fn fetchable(text: &str, guard: &GuardSettings) -> Result<Url, &'static str> {
    let url = front::parse(text).filter(|url| matches!(url.scheme(), "http" | "https")).ok_or(NO_URL)?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(USER);
    }
    if url.port() == Some(0) {
        return Err("has port 0, which is nobody's");
    }
    let local: &[IpAddr] = match url.host() {
        Some(Host::Ipv4(address)) if address.is_loopback() => &[IpAddr::V4(address)],
        Some(Host::Ipv6(address)) if address.is_loopback() => &[IpAddr::V6(address)],
        Some(Host::Domain("localhost")) => &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        _ => &[],
    };
    let allowed = local.iter().any(|address| guard.private.iter().any(|network| network.holds(*address)));
    if url.scheme() == "http" && !allowed {
        return Err(PLAIN);
    }
    match guard::place(url.as_str(), &guard.private) {
        Err(UrlFault::Address) => Err(ELSEWHERE),
        _ => Ok(url),
    }
}

/// Who the gateway is at an authorization server. `must` says why it has to prove it; `None` where it may be a public
/// client.
pub(crate) fn client(
    node: &Node,
    path: &str,
    files: Files<'_>,
    must: Option<&str>,
    faults: &mut Faults,
) -> Option<ClientAuth> {
    let id = node.get("client_id")?;
    if id.text().is_some_and(|text| text.is_empty() || !text.bytes().all(is_shown)) {
        faults.error(&id.at, &join(path, "client_id"), "is empty, or has other than visible ASCII characters", "");
    }
    let (secret, key, auth) = (node.get("client_secret"), node.get("client_key"), node.get("auth"));
    if let (Some(_), Some(key)) = (secret, key) {
        let message = "`client_secret` and `client_key` exclude each other";
        faults.error(&key.at, &join(path, "client_key"), message, "keep one of them");
    }
    if let Some(auth) = auth.filter(|_| !node.has("client_secret") && node.is_whole()) {
        faults.error(&auth.at, &join(path, "auth"), "says how `client_secret` is shown, and there is none", "");
    }
    let proof = match (secret, key) {
        (Some(secret), _) => {
            let post = auth.and_then(Node::text) == Some("post");
            let secret = Arc::new(client_secret(secret, &join(path, "client_secret"), faults)?);
            if post { Proof::Post(secret) } else { Proof::Basic(secret) }
        }
        (None, Some(key)) => Proof::PrivateKey(Arc::new(signing_key(key, &join(path, "client_key"), files, faults)?)),
        (None, None) if node.has("client_secret") || node.has("client_key") => return None,
        (None, None) => {
            if let Some(why) = must.filter(|_| node.is_whole()) {
                let hint =
                    "write client_secret: \"${file:./secrets/client}\", or client_key: { file: ./secrets/client.pem }";
                faults.error(&node.at, path, format!("has neither `client_secret` nor `client_key`: {why}"), hint);
            }
            Proof::None
        }
    };
    Some(ClientAuth { id: id.text()?.to_owned(), proof })
}

/// A client's secret (RFC 6749, A.2). One that is empty is as good as none, but perhaps it is so on this machine only.
fn client_secret(node: &Node, path: &str, faults: &mut Faults) -> Option<Secret> {
    if node.text() == Some("") {
        let message = "is empty: what it is shown to will hardly take it";
        faults.warn(&node.at, path, message, "write \"${file:./secrets/client}\"");
        return Some(Secret::default());
    }
    secret(node, path, faults, is_shown_or_blank)
}

/// A secret of these bytes only. What it says is in no message.
pub(crate) fn secret(node: &Node, path: &str, faults: &mut Faults, allowed: fn(u8) -> bool) -> Option<Secret> {
    let text = node.text()?;
    if text.is_empty() {
        faults.error(&node.at, path, "is empty", "write it as \"${file:./secrets/NAME}\" or \"${NAME}\"");
        return None;
    }
    if text.len() > SECRET_BYTES_MAX {
        faults.error(&node.at, path, format!("is longer than {SECRET_BYTES_MAX} bytes"), "");
        return None;
    }
    if !text.bytes().all(allowed) {
        let message = "has characters that it cannot have (line breaks, controls, others than ASCII)";
        let hint = "one line break at the end of a ${file:…} is taken off, and no more";
        faults.error(&node.at, path, message, hint);
        return None;
    }
    Some(Secret::new(text.as_bytes()))
}

/// A private key for client assertions.
fn signing_key(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Option<SigningKey> {
    let file = node.get("file")?;
    let here = join(path, "file");
    let algorithm = node.get("algorithm").and_then(Node::text).and_then(Algorithm::parse).unwrap_or(Algorithm::Es256);
    // What a mistaken file most likely is, is said as for any other.
    files.pem(file, &here, Pem::Key, faults)?;
    let (_, text) = files.read(file, &here, faults)?;
    let text = Zeroizing::new(text);
    let said = |key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    match SigningKey::from_pem(&text, algorithm, said("key_id"), said("audience")) {
        Ok(key) => Some(key),
        Err(fault) => {
            faults.error(&file.at, &here, format!("{}: {fault}", quoted(file)), "");
            None
        }
    }
}

/// One text or several, none empty and none twice; nothing where `key` is not written.
pub(crate) fn one_or_several(node: &Node, path: &str, key: &str, faults: &mut Faults) -> Vec<String> {
    let Some(node) = node.get(key) else {
        return Vec::new();
    };
    let here = join(path, key);
    let alone = std::slice::from_ref(node);
    let items = if node.text().is_some() { alone } else { node.items() };
    if items.is_empty() || items.iter().any(|item| item.text() == Some("")) {
        faults.error(&node.at, &here, "must not be empty", "leave it out for the default");
    }
    if items.len() > CONFIG_ITEMS_MAX {
        faults.error(&node.at, &here, format!("over {CONFIG_ITEMS_MAX} of them"), "");
    }
    let mut out: Vec<String> = Vec::new();
    for (index, item) in items.iter().enumerate().take(CONFIG_ITEMS_MAX) {
        let Some(text) = item.text() else { continue };
        if out.iter().any(|other| other == text) {
            faults.error(&item.at, &format!("{here}[{index}]"), "stands twice", "keep one of them");
        }
        out.push(text.to_owned());
    }
    out
}

/// A scope (RFC 6749, 3.3).
pub(crate) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| is_shown(b) && b != b'"' && b != b'\\')
}

/// Visible ASCII.
pub(crate) fn is_shown(b: u8) -> bool {
    b.is_ascii_graphic()
}

/// Visible ASCII, and the blank.
pub(crate) fn is_shown_or_blank(b: u8) -> bool {
    b.is_ascii_graphic() || b == b' '
}

const USER: &str = "has a user, a password or a #fragment";
const NO_URL: &str = "is not an https URL";
const ELSEWHERE: &str = "leads to an address that is not public, and `private` does not name its network";
const PLAIN: &str = "is an http URL: what it is asked and what it answers could be read and changed on the way";
const PLAIN_HINT: &str = "write https://…; http is for this machine alone, where `private` names it: [127.0.0.1/32]";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_fetched() {
        let guard = |networks: &[&str]| GuardSettings {
            private: networks.iter().map(|text| Network::parse(text).expect("a network")).collect(),
            ca: None,
        };
        let check = |text: &str, networks: &[&str], want: Result<&str, &str>| {
            let got = fetchable(text, &guard(networks));
            assert_eq!(got.as_ref().map(Url::as_str).map_err(|why| *why), want, "{text} {networks:?}");
        };
        check("https://idp.example.com", &[], Ok("https://idp.example.com/"));
        check("https://IDP.example.com:443/a?b", &[], Ok("https://idp.example.com/a?b"));
        check("https://10.0.0.1/", &[], Err(ELSEWHERE));
        check("https://10.0.0.1/", &["10.0.0.0/8"], Ok("https://10.0.0.1/"));
        check("https://localhost/", &[], Err(ELSEWHERE));
        check("https://[::ffff:127.0.0.1]/", &[], Err(ELSEWHERE));
        check("http://idp.example.com/", &["0.0.0.0/0", "::/0"], Err(PLAIN));
        check("http://127.0.0.1:1/", &[], Err(PLAIN));
        check("http://127.0.0.1:1/", &["10.0.0.0/8"], Err(PLAIN));
        check("http://127.0.0.1:1/", &["127.0.0.0/8"], Ok("http://127.0.0.1:1/"));
        // The same address, as the URL standard reads it.
        check("http://0x7f.1:1/", &["127.0.0.0/8"], Ok("http://127.0.0.1:1/"));
        check("http://[::1]:1/", &["127.0.0.0/8"], Err(PLAIN));
        check("http://[::1]:1/", &["::1"], Ok("http://[::1]:1/"));
        check("http://localhost:1/", &["::1"], Ok("http://localhost:1/"));
        check("http://localhost:1/", &["10.0.0.0/8"], Err(PLAIN));
        check("http://localhost.example:1/", &["127.0.0.0/8"], Err(PLAIN));
        check("http://10.0.0.1/", &["10.0.0.0/8"], Err(PLAIN));
        for bad in ["", "idp.example.com", "ftp://x/", "https://", "https://a b/", "https:\\\\a", "file:///etc/passwd"]
        {
            check(bad, &["0.0.0.0/0"], Err(NO_URL));
        }
        check("https://u@a/", &[], Err("has a user, a password or a #fragment"));
        check("https://a/#f", &[], Err("has a user, a password or a #fragment"));
        check("https://a:0/", &[], Err("has port 0, which is nobody's"));
    }
}
