//! What servers are shown beside a call: the gateway's own credentials, the caller's, and what is told of the caller.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::base::limits::{CONFIG_ITEMS_MAX, NAME_BYTES_MAX, SECRET_BYTES_MAX};
use crate::base::secret::Secret;
use crate::config::auth::{Credentials, FixedField, Grant, IdentityHeader, IdentityValue};
use crate::config::fault::Faults;
use crate::config::fetched;
use crate::config::files::Files;
use crate::config::raw::{Node, Place};
use crate::config::settings::{InstanceSettings, Scheme};
use crate::config::shape::{alternatives, join, quote, quoted};
use crate::identity::claims::ClaimPath;

/// A server's `credentials`, `identity_headers` and `catalogue`.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) credentials: Credentials,
    pub(crate) identity_headers: Vec<IdentityHeader>,
    pub(crate) catalogue: Option<Credentials>,
}

/// What the server of this block is shown; `None` where that is at fault. A server with a part of it missing would be
/// another server.
pub(crate) fn shown(
    node: &Node,
    path: &str,
    instances: &[InstanceSettings],
    files: Files<'_>,
    faults: &mut Faults,
) -> Option<Shown> {
    let credentials = match node.get("credentials") {
        Some(written) => {
            let credentials = credentials(written, &join(path, "credentials"), files, faults);
            if credentials.as_ref().is_some_and(|credentials| *credentials != Credentials::Strip) {
                in_clear_text(written, &join(path, "credentials"), instances, faults);
            }
            credentials
        }
        None => (!node.has("credentials")).then_some(Credentials::Strip),
    };
    let identity_headers = identity_headers(node, path, faults);
    let catalogue = catalogue(node, path, credentials.as_ref(), files, faults);
    if let Some(Credentials::Fixed(field)) = &credentials
        && identity_headers.iter().any(|header| folded(&header.name) == folded(&field.name))
    {
        let at = node.get("identity_headers").map_or_else(Place::default, |node| node.at.clone());
        let message = format!("{} is the field of its `credentials`", quote(&field.name));
        faults.error(&at, &join(path, "identity_headers"), message, "give it another name");
    }
    Some(Shown { credentials: credentials?, identity_headers, catalogue })
}

fn credentials(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Option<Credentials> {
    match node.text() {
        Some("forward") => {
            let message = "the server gets the callers' own tokens, and with one whatever its caller may do here: right \
                           only for a server that shares the gateway's audience and is trusted as the gateway is";
            faults.warn(&node.at, path, message, "`exchange` trades them for tokens that are meant for this server");
            Some(Credentials::Forward)
        }
        Some(_) => Some(Credentials::Strip),
        None => one(node, path, files, faults),
    }
}

/// The one credential that a block has.
fn one(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Option<Credentials> {
    let mut entries = node.entries().iter();
    let Some(entry) = entries.next() else {
        if node.is_whole() {
            faults.error(&node.at, path, "has no credential", "write bearer: \"${file:./secrets/token}\"");
        }
        return None;
    };
    for other in entries {
        let message = format!("`{}` and `{}` exclude each other", entry.key, other.key);
        faults.error(&other.key_at, &join(path, &other.key), message, "keep one of them");
    }
    let written = node.get(&entry.key)?;
    let here = join(path, &entry.key);
    match entry.key.as_str() {
        "bearer" => {
            let token = fetched::secret(written, &here, faults, fetched::is_shown)?;
            Some(fixed("authorization", &[b"Bearer ", token.reveal()]))
        }
        "header" => header(written, &here, faults),
        "basic" => basic(written, &here, faults),
        "client_credentials" => {
            let why = "so nobody else can have this token";
            grant(written, &here, files, Some(why), faults).map(|grant| Credentials::ClientCredentials(Arc::new(grant)))
        }
        "exchange" => grant(written, &here, files, None, faults).map(|grant| Credentials::Exchange(Arc::new(grant))),
        _ => None,
    }
}

fn fixed(name: &str, pieces: &[&[u8]]) -> Credentials {
    let length = pieces.iter().map(|piece| piece.len()).sum();
    // As long as it will be from the start on: it never moves, so that nothing of it is left behind.
    let mut value = Vec::with_capacity(length);
    pieces.iter().for_each(|piece| value.extend_from_slice(piece));
    Credentials::Fixed(FixedField { name: Arc::from(name), value: Arc::new(Secret::new(value)) })
}

fn header(node: &Node, path: &str, faults: &mut Faults) -> Option<Credentials> {
    let name = node.get("name").and_then(|name| field_name(name, &join(path, "name"), None, faults));
    let written = node.get("value")?;
    let value = fetched::secret(written, &join(path, "value"), faults, fetched::is_shown_or_blank)?;
    if value.reveal().starts_with(b" ") || value.reveal().ends_with(b" ") {
        faults.error(&written.at, &join(path, "value"), "begins or ends with a blank", "");
    }
    Some(fixed(&name?, &[value.reveal()]))
}

/// User and password (RFC 7617, 2): in UTF-8, no colon in the user's name.
fn basic(node: &Node, path: &str, faults: &mut Faults) -> Option<Credentials> {
    let user = node.get("username")?;
    let here = join(path, "username");
    if user.text().is_some_and(|text| text.contains(':') || text.contains(char::is_control)) {
        faults.error(&user.at, &here, "has a colon or a control character, which no user has", "");
    }
    let password = node.get("password")?;
    let here = join(path, "password");
    let (user, text) = (user.text()?, password.text()?);
    if text.contains(char::is_control) || text.len() + user.len() > SECRET_BYTES_MAX / 2 {
        faults.error(&password.at, &here, "has a line break or another control character, or is too long", "");
        return None;
    }
    if text.is_empty() {
        faults.error(&password.at, &here, "is empty", "write it as \"${file:./secrets/NAME}\" or \"${NAME}\"");
        return None;
    }
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + text.len() + 1));
    pair.push_str(user);
    pair.push(':');
    pair.push_str(text);
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    Some(fixed("authorization", &[b"Basic ", encoded.as_bytes()]))
}

fn grant(node: &Node, path: &str, files: Files<'_>, must: Option<&str>, faults: &mut Faults) -> Option<Grant> {
    let guard = fetched::guard(node, path, files, faults);
    let token_url = fetched::url(node, path, "token_url", &guard, faults);
    let client = fetched::client(node, path, files, must, faults);
    let scope = node.get("scope");
    if let Some(node) = scope.filter(|node| node.text().is_some_and(|text| !text.split(' ').all(fetched::is_scope))) {
        let message = format!("{} is not a list of scopes", quoted(node));
        faults.error(&node.at, &join(path, "scope"), message, "write scopes with one blank between them: read write");
    }
    let audience = fetched::one_or_several(node, path, "audience", faults);
    let resource = fetched::one_or_several(node, path, "resource", faults);
    if let Some(node) = node.get("resource") {
        // An absolute URI without a fragment (RFC 8707, 2).
        let is_uri = |text: &String| text.is_empty() || url::Url::parse(text).is_ok_and(|url| url.fragment().is_none());
        if !resource.iter().all(is_uri) {
            let message = "is not a URL without a #fragment";
            faults.error(&node.at, &join(path, "resource"), message, "`audience` takes any name");
        }
    }
    let scope = scope.and_then(Node::text).map(str::to_owned);
    Some(Grant { token_url: token_url?, client: client?, scope, audience, resource, guard })
}

/// What the gateway looks at the catalogue with, where callers differ in what they are shown.
fn catalogue(
    node: &Node,
    path: &str,
    credentials: Option<&Credentials>,
    files: Files<'_>,
    faults: &mut Faults,
) -> Option<Credentials> {
    let written = node.get("catalogue")?;
    let here = join(path, "catalogue");
    if credentials.is_some_and(|credentials| !credentials.is_personal()) {
        let message =
            "is for servers with `forward` or `exchange`: others are asked with the same `credentials` as always";
        faults.error(&written.at, &here, message, "leave it out");
    }
    one(written, &here, files, faults)
}

fn identity_headers(node: &Node, path: &str, faults: &mut Faults) -> Vec<IdentityHeader> {
    let Some(node) = node.get("identity_headers") else {
        return Vec::new();
    };
    let path = join(path, "identity_headers");
    if node.entries().is_empty() || node.entries().len() > CONFIG_ITEMS_MAX {
        faults.error(&node.at, &path, format!("expected 1 to {CONFIG_ITEMS_MAX} fields"), "write X-User: claims.sub");
    }
    let mut out: Vec<IdentityHeader> = Vec::new();
    for entry in node.entries().iter().take(CONFIG_ITEMS_MAX) {
        let here = join(&path, &entry.key);
        let key = Node::text_at(&entry.key, &entry.key_at);
        let name = field_name(&key, &here, Some(AUTHORIZATION), faults);
        let Some(from) = identity_value(&entry.node, &here, faults) else { continue };
        let Some(name) = name else { continue };
        if out.iter().any(|other| folded(&other.name) == folded(&name)) {
            let message = format!("{} stands twice: case, `-` and `_` make no difference", quote(&entry.key));
            faults.error(&entry.key_at, &here, message, "keep one of them");
            continue;
        }
        out.push(IdentityHeader { name: Arc::from(name), from });
    }
    out
}

fn identity_value(node: &Node, path: &str, faults: &mut Faults) -> Option<IdentityValue> {
    let text = node.text()?;
    let value = match text {
        "subject" => IdentityValue::Subject,
        "agent" => IdentityValue::Agent,
        "issuer" => IdentityValue::Issuer,
        "task" => IdentityValue::Task,
        claim => match ClaimPath::parse(claim) {
            Ok(claim) => IdentityValue::Claim(claim),
            Err(_) => {
                let words = ["subject", "agent", "issuer", "task"].map(quote).to_vec();
                let message = format!("{} is not {}, and not a claim", quoted(node), alternatives(words));
                faults.error(&node.at, path, message, "write claims.NAME or claims[\"NAME\"]");
                return None;
            }
        },
    };
    Some(value)
}

/// The name of a field that the gateway may add, in lower case (RFC 9110, 5.1).
fn field_name(node: &Node, path: &str, but: Option<&str>, faults: &mut Faults) -> Option<String> {
    let text = node.text()?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(token) {
        let message = format!("{} is not the name of a field", quoted(node));
        faults.error(&node.at, path, message, "letters, digits and -");
        return None;
    }
    let name = text.to_ascii_lowercase();
    let spelt = folded(&name);
    let taken = RESERVED.contains(&spelt.as_str())
        || RESERVED_BEGINNINGS.iter().any(|beginning| spelt.starts_with(beginning))
        || but.is_some_and(|but| but == spelt);
    if taken {
        let message = format!("{} is a field that means something else on the way to the server", quoted(node));
        faults.error(&node.at, path, message, "give it a name of its own: X-…");
        return None;
    }
    Some(name)
}

/// A field's name as the most careless of readers takes it: `_` is `-`.
pub(crate) fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// A credential is as good as a password to whoever reads it on the way.
fn in_clear_text(node: &Node, path: &str, instances: &[InstanceSettings], faults: &mut Faults) {
    let is_far = |instance: &&InstanceSettings| {
        let address = instance.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        instance.scheme == Scheme::Http && instance.host != "localhost" && !address.is_ok_and(|ip| ip.is_loopback())
    };
    if let Some(instance) = instances.iter().find(is_far) {
        let message = format!("is sent in clear text to {}", instance.host);
        faults.warn(&node.at, path, message, "write https://… as the server's URL");
    }
}

const AUTHORIZATION: &str = "authorization";
/// Fields that say how a message is to be read, where it goes, or who sent it; those of MCP and of traces.
const RESERVED: [&str; 17] = [
    "host",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "cookie",
    "set-cookie",
    "last-event-id",
    "forwarded",
    "traceparent",
    "tracestate",
    "baggage",
    "origin",
    "via",
];
const RESERVED_BEGINNINGS: [&str; 6] = ["content-", "accept", "mcp-", "proxy-", "x-forwarded-", "portcullis-"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_the_gateway_may_add() {
        let check = |name: &str, header: bool, identity: bool| {
            let node = Node::text_at(name, &Place::default());
            let may = |but| field_name(&node, "", but, &mut Faults::default()).is_some();
            assert_eq!((may(None), may(Some(AUTHORIZATION))), (header, identity), "{name}");
        };
        check("X-Api-Key", true, true);
        check("x_user", true, true);
        check("api.key~1", true, true);
        check("Authorization", true, false);
        for name in ["Host", "CONNECTION", "Content-Length", "content_type", "Transfer_Encoding", "TE", "Trailer"] {
            check(name, false, false);
        }
        for name in ["Cookie", "Accept", "Accept-Encoding", "Mcp-Session-Id", "mcp_method", "MCP-Protocol-Version"] {
            check(name, false, false);
        }
        for name in ["Last-Event-Id", "Proxy-Authorization", "X-Forwarded-For", "x_forwarded_host", "Forwarded"] {
            check(name, false, false);
        }
        for name in
            ["traceparent", "Tracestate", "baggage", "Upgrade", "Portcullis-Task", "", "a b", "a:b", "a\r\nb", "é"]
        {
            check(name, false, false);
        }
    }
}
