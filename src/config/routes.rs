//! The endpoints in front of the servers.

use std::collections::HashMap;

use crate::base::ids::ServerId;
use crate::base::limits::{ENDPOINTS_MAX, NAME_BYTES_MAX, SERVERS_MAX};
use crate::config::fault::{Faults, nearest};
use crate::config::fetched;
use crate::config::raw::{Entry, Node};
use crate::config::servers::server_names;
use crate::config::settings::{EndpointSettings, Names};
use crate::config::shape::{join, quoted};

/// The endpoints as written (else `/mcp`, with all servers), then each server's own.
pub(crate) fn endpoints(root: &Node, faults: &mut Faults) -> Vec<EndpointSettings> {
    let names = server_names(root);
    let numbers: HashMap<&str, usize> = names.iter().enumerate().map(|(index, name)| (*name, index)).collect();
    let all = names.iter().enumerate().take(SERVERS_MAX);
    let mut out = Vec::new();
    match root.get("endpoints") {
        Some(node) => {
            if node.entries().len() > ENDPOINTS_MAX {
                faults.error(&node.at, "endpoints", format!("over {ENDPOINTS_MAX} endpoints"), "");
            }
            out.extend(node.entries().iter().map(|entry| endpoint(entry, &numbers, faults)));
        }
        None if names.is_empty() => {}
        None => {
            let servers = all.clone().map(|(index, _)| ServerId::from_index(index)).collect();
            out.push(EndpointSettings::new(DEFAULT_PATH, servers));
        }
    }
    let own = |(index, name): (usize, &&str)| {
        EndpointSettings::new(&format!("/s/{name}/mcp"), vec![ServerId::from_index(index)])
    };
    out.extend(all.map(own));
    out
}

impl EndpointSettings {
    fn new(path: &str, servers: Vec<ServerId>) -> Self {
        let names = if servers.len() > 1 { Names::Prefix } else { Names::Bare };
        Self {
            path: path.to_owned(),
            resource: String::new(),
            audience: Vec::new(),
            servers,
            names,
            instructions: true,
            sse: false,
        }
    }
}

fn endpoint(entry: &Entry, servers: &HashMap<&str, usize>, faults: &mut Faults) -> EndpointSettings {
    let path = join("endpoints", &entry.key);
    if let Some((message, hint)) = path_fault(&entry.key) {
        faults.error(&entry.key_at, &path, message, hint);
    }
    let node = &entry.node;
    let mut out = EndpointSettings::new(&entry.key, members(node, &path, servers, faults));
    out.audience = fetched::one_or_several(node, &path, "audience", faults);
    out.sse = node.get("sse").is_some_and(Node::is_true);
    out.instructions = node.get("instructions").is_none_or(Node::is_true);
    match node.get("names").and_then(Node::text) {
        Some("bare") => out.names = Names::Bare,
        Some("prefix") => out.names = Names::Prefix,
        _ => {}
    }
    out
}

/// The servers behind an endpoint. One that stands twice would collide with itself.
fn members(node: &Node, path: &str, servers: &HashMap<&str, usize>, faults: &mut Faults) -> Vec<ServerId> {
    let Some(list) = node.get("servers") else {
        return Vec::new();
    };
    let here = join(path, "servers");
    if list.items().is_empty() {
        faults.error(&list.at, &here, "is empty", "name the server: [docs]");
    }
    let mut out = Vec::new();
    for (index, item) in list.items().iter().enumerate() {
        let Some(name) = item.text() else { continue };
        let here = format!("{here}[{index}]");
        match servers.get(name).map(|index| ServerId::from_index(*index)) {
            Some(server) if out.contains(&server) => {
                faults.error(&item.at, &here, format!("{} stands twice", quoted(item)), "keep one of them");
            }
            Some(server) => out.push(server),
            None => {
                let hint = nearest(name, servers.keys().copied()).filter(|_| !item.foreign);
                faults.error(&item.at, &here, format!("no server is called {}", quoted(item)), hint);
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
