//! Servers, and the endpoints in front of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::ids::ServerId;
use crate::base::limits::{ENDPOINTS_MAX, NAME_BYTES_MAX, SERVERS_MAX};
use crate::config::fault::{Faults, nearest};
use crate::config::files::Files;
use crate::config::front;
use crate::config::raw::{Entry, Node};
use crate::config::settings::{EndpointSettings, Limits, Scheme, ServerSettings};
use crate::config::shape::{join, quote, quoted};
use crate::config::tls;
use crate::mcp::transport::Transport;

/// The servers, in the order of the file; those at fault are left out.
pub(crate) fn servers(root: &Node, limits: &Limits, files: Files<'_>, faults: &mut Faults) -> Vec<ServerSettings> {
    let Some(node) = root.get("servers") else {
        return Vec::new();
    };
    if node.entries().is_empty() || node.entries().len() > SERVERS_MAX {
        let message = format!("expected 1 to {SERVERS_MAX} servers");
        faults.error(&node.at, "servers", message, "write servers: { docs: { url: http://127.0.0.1:9001/mcp } }");
    }
    node.entries().iter().filter_map(|entry| server(entry, limits, files, faults)).collect()
}

/// The names of all servers in the file, those at fault too: so nothing that speaks of one is called unknown.
pub(crate) fn server_names(root: &Node) -> Vec<&str> {
    let servers = root.get("servers").map(Node::entries).unwrap_or_default();
    servers.iter().map(|entry| entry.key.as_str()).collect()
}

/// The endpoints as written (else `/mcp`, where there is one server), then each server's own.
pub(crate) fn endpoints(root: &Node, faults: &mut Faults) -> Vec<EndpointSettings> {
    let names = server_names(root);
    let numbers: HashMap<&str, usize> = names.iter().enumerate().map(|(index, name)| (*name, index)).collect();
    let mut out = Vec::new();
    match (root.get("endpoints"), names.as_slice()) {
        (Some(node), _) => {
            if node.entries().len() > ENDPOINTS_MAX {
                faults.error(&node.at, "endpoints", format!("over {ENDPOINTS_MAX} endpoints"), "");
            }
            out.extend(node.entries().iter().map(|entry| endpoint(entry, &numbers, faults)));
        }
        (None, [_]) => out.push(EndpointSettings::new(DEFAULT_PATH, vec![ServerId(0)])),
        (None, []) => {}
        (None, [first, ..]) => {
            let servers = root.entries().iter().find(|entry| entry.key == "servers");
            let message = "without `endpoints`, `/mcp` would have all servers, which this version does not do yet: each \
                           is at /s/NAME/mcp only";
            let hint = format!("to choose one: endpoints: {{ /mcp: {{ servers: [{first}] }} }}");
            let Some(servers) = servers else { return out };
            faults.warn(&servers.key_at, "servers", message, hint);
        }
    }
    let own = |(index, name): (usize, &&str)| {
        EndpointSettings::new(&format!("/s/{name}/mcp"), vec![ServerId::from_index(index)])
    };
    out.extend(names.iter().enumerate().take(SERVERS_MAX).map(own));
    out
}

impl EndpointSettings {
    fn new(path: &str, servers: Vec<ServerId>) -> Self {
        Self { path: path.to_owned(), resource: String::new(), servers, sse: false }
    }
}

fn server(entry: &Entry, limits: &Limits, files: Files<'_>, faults: &mut Faults) -> Option<ServerSettings> {
    let path = join("servers", &entry.key);
    server_name(entry, &path, faults);
    let node = &entry.node;
    let (url, urls) = (node.get("url"), node.get("urls"));
    if let (Some(_), Some(urls)) = (url, urls) {
        faults.error(&urls.at, &join(&path, "urls"), "`url` and `urls` exclude each other", "keep one of them");
    } else if !node.has("url") && !node.has("urls") && node.is_whole() {
        faults.error(&entry.key_at, &path, "has no `url`", "write url: http://127.0.0.1:9001/mcp");
    }
    if let Some(urls) = urls {
        match urls.items() {
            [_] => {}
            [] => faults.error(&urls.at, &join(&path, "urls"), "is empty", "name an instance"),
            [..] => {
                let instead = "name one instance, or a load balancer in front of them that keeps sessions together";
                faults.later(&urls.at, &join(&path, "urls"), "`urls` with several instances", instead);
                urls.items().iter().enumerate().skip(1).for_each(|(index, item)| {
                    server_url(item, &format!("{path}.urls[{index}]"), faults);
                });
            }
        }
    }
    let first = urls.and_then(|urls| urls.items().first()).map(|first| (first, format!("{path}.urls[0]")));
    let place =
        url.map(|url| (url, join(&path, "url"))).or(first).and_then(|(url, here)| server_url(url, &here, faults));
    let tls_path = join(&path, "tls");
    let tls = node.get("tls").map(|tls| tls::server(tls, &tls_path, files, faults));
    let place = place?;
    if let (Scheme::Http, Some(tls)) = (place.scheme, node.get("tls")) {
        faults.error(&tls.at, &tls_path, "the URL is an http one", "write https://… as its URL, or leave `tls` out");
    }
    let tls = match place.scheme {
        Scheme::Http => None,
        Scheme::Https => Some(tls.unwrap_or_default().of(&place.host)),
    };
    Some(ServerSettings {
        name: Arc::from(entry.key.as_str()),
        scheme: place.scheme,
        host: place.host,
        port: place.port,
        path: place.target,
        timeout_ms: node.get("timeout").and_then(Node::amount).unwrap_or(limits.call_ms_max),
        tls,
        transport: node.get("transport").and_then(Node::text).and_then(|word| {
            [Transport::Http, Transport::Sse].into_iter().find(|transport| transport.as_str() == word)
        }),
    })
}

fn server_name(entry: &Entry, path: &str, faults: &mut Faults) {
    let name = &entry.key;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(letters) {
        let message = format!("{} is not a server's name", quote(name));
        faults.error(&entry.key_at, path, message, "a-z first, then a-z, 0-9 and -");
    } else if name.len() > NAME_BYTES_MAX {
        faults.error(&entry.key_at, path, format!("a name has at most {NAME_BYTES_MAX} characters"), "");
    }
}

/// What a server's URL says.
struct Url {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Path with query.
    target: String,
}

fn server_url(node: &Node, path: &str, faults: &mut Faults) -> Option<Url> {
    let parsed = front::parse(node.text()?).and_then(|url| {
        let scheme = [Scheme::Http, Scheme::Https].into_iter().find(|scheme| scheme.as_str() == url.scheme())?;
        Some((scheme, url))
    });
    let Some((scheme, url)) = parsed else {
        let message = format!("{} is not an http or https URL", quoted(node));
        faults.error(&node.at, path, message, "write http://127.0.0.1:9001/mcp");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        faults.error(&node.at, path, "a server's URL has no user, no password and no #fragment", "");
        return None;
    }
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let port = url.port_or_known_default().filter(|port| *port != 0);
    let Some((host, port)) = url.host_str().zip(port) else {
        faults.error(&node.at, path, "port 0 is no server's", "");
        return None;
    };
    if scheme == Scheme::Https && tls::name(host).is_none() {
        faults.error(&node.at, path, "no certificate can have this host's name", "");
        return None;
    }
    Some(Url { scheme, host: host.to_owned(), port, target })
}

fn endpoint(entry: &Entry, servers: &HashMap<&str, usize>, faults: &mut Faults) -> EndpointSettings {
    let path = join("endpoints", &entry.key);
    if let Some((message, hint)) = path_fault(&entry.key) {
        faults.error(&entry.key_at, &path, message, hint);
    }
    let mut out = EndpointSettings::new(&entry.key, Vec::new());
    out.sse = entry.node.get("sse").is_some_and(Node::is_true);
    let Some(list) = entry.node.get("servers") else {
        return out;
    };
    let here = join(&path, "servers");
    match list.items() {
        [] => faults.error(&list.at, &here, "is empty", "name the server: [docs]"),
        [_] => {}
        [..] => {
            let instead = "give each server an endpoint of its own; it is at /s/NAME/mcp too";
            faults.later(&list.at, &here, "several servers on one endpoint", instead);
        }
    }
    for (index, item) in list.items().iter().enumerate() {
        let Some(name) = item.text() else { continue };
        match servers.get(name) {
            Some(index) => out.servers.push(ServerId::from_index(*index)),
            None => {
                let hint = nearest(name, servers.keys().copied()).filter(|_| !item.foreign);
                faults.error(
                    &item.at,
                    &format!("{here}[{index}]"),
                    format!("no server is called {}", quoted(item)),
                    hint,
                );
            }
        }
    }
    out
}

/// What is wrong with an endpoint's path. Only what needs no escape: so a path has one spelling.
fn path_fault(path: &str) -> Option<(&'static str, &'static str)> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'.' | b'_' | b'~');
    let mut segments = path.split('/').skip(1);
    if !path.starts_with('/') {
        return Some(("a path starts with /", "write /mcp"));
    }
    if path.len() > NAME_BYTES_MAX || !path.bytes().all(plain) {
        return Some(("a path has letters, digits, and - . _ ~ between its /, 128 characters at most", ""));
    }
    if path != "/" && segments.any(|segment| matches!(segment, "" | "." | "..")) {
        return Some(("a path has no empty segment, no . and no ..", "leave the / at its end out"));
    }
    if path == "/s" || path.starts_with("/s/") || path.starts_with("/.well-known") {
        return Some((
            "this path is the gateway's own",
            "choose one that starts neither with /s/ nor with /.well-known",
        ));
    }
    None
}

const DEFAULT_PATH: &str = "/mcp";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for good in ["/", "/mcp", "/mcp/research", "/a-b_c.d~e/1", "/search"] {
            assert_eq!(path_fault(good), None, "{good}");
        }
        for bad in
            ["", "mcp", "/mcp/", "//", "/a//b", "/a/../b", "/.", "/a%2fb", "/a;b", "/a?b", "/é", "/s", "/s/x/mcp"]
        {
            assert!(path_fault(bad).is_some(), "{bad}");
        }
        assert!(path_fault("/.well-known/oauth-protected-resource").is_some());
    }
}
