//! The side that clients see: listeners, the public URL, and the names the gateway answers to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use url::Url;

use crate::base::limits::LISTENERS_MAX;
use crate::config::fault::Faults;
use crate::config::files::Files;
use crate::config::raw::{Node, Place};
use crate::config::settings::{ListenSettings, Scheme};
use crate::config::shape::{join, quoted};
use crate::config::tls;

/// The listeners; the default when there is none or when all are at fault.
pub(crate) fn listeners(root: &Node, files: Files<'_>, faults: &mut Faults) -> Vec<ListenSettings> {
    let default = vec![ListenSettings { address: LISTEN_DEFAULT, tls: None }];
    let Some(node) = root.get("listen") else {
        return default;
    };
    let issuers = root.get("auth").and_then(|auth| auth.get("issuers"));
    let tokens = issuers.is_some_and(|issuers| !issuers.items().is_empty());
    let alone = node.items().is_empty() && node.text().is_some();
    let items = if alone { std::slice::from_ref(node) } else { node.items() };
    if items.is_empty() || items.len() > LISTENERS_MAX {
        faults.error(&node.at, "listen", format!("expected 1 to {LISTENERS_MAX} listeners"), "");
    }
    let mut out: Vec<ListenSettings> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = if alone { "listen".to_owned() } else { format!("listen[{index}]") };
        let written = item.get("tls");
        let tls = written.map(|tls| tls::listener(tls, &join(&path, "tls"), files, faults));
        let plain = !item.has("tls") && !item.is_partial();
        let (item, path) = match item.get("address") {
            Some(address) => (address, join(&path, "address")),
            None => (item, path),
        };
        let Some(address) = address(item, &path, faults) else {
            continue;
        };
        if address.port() != 0 && out.iter().any(|other| other.address == address) {
            faults.error(&item.at, &path, "stands twice", "keep one of them");
        }
        if plain && tokens && !address.ip().is_loopback() {
            let message = format!("{address} is not on loopback and has no `tls`: tokens travel in clear text there");
            faults.warn(&item.at, &path, message, PLAIN_HINT);
        }
        out.push(ListenSettings { address, tls });
    }
    if out.is_empty() { default } else { out }
}

/// The admin listener, if there is to be one.
pub(crate) fn admin(root: &Node, listen: &[ListenSettings], faults: &mut Faults) -> Option<SocketAddr> {
    let node = root.get("admin");
    if node.is_some_and(|node| node.text() == Some("off")) || (node.is_none() && root.has("admin")) {
        return None;
    }
    let admin = match node {
        Some(node) => address(node, "admin", faults)?,
        None => ADMIN_DEFAULT,
    };
    let at = node.or_else(|| root.get("listen")).map_or_else(Place::default, |node| node.at.clone());
    if listen.iter().any(|listener| collide(listener.address, admin)) {
        let message = format!("{admin}, the admin listener, is a listener for clients too");
        faults.error(&at, if node.is_some() { "admin" } else { "listen" }, message, "give `admin` another port");
    }
    if !admin.ip().is_loopback() {
        let message = "the admin listener is not on loopback, and asks nobody for a token";
        faults.warn(&at, "admin", message, "write 127.0.0.1, or keep others away from it");
    }
    Some(admin)
}

/// What the file says about names; what it leaves out follows from the listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Front {
    public_url: Option<String>,
    hosts: Option<Vec<String>>,
    origins: Option<Vec<String>>,
}

/// The names the gateway has.
pub(crate) struct Names {
    pub(crate) public_url: String,
    pub(crate) hosts: Vec<String>,
    pub(crate) origins: Vec<String>,
}

impl Front {
    pub(crate) fn read(root: &Node, listen: &[ListenSettings], faults: &mut Faults) -> Self {
        let public_url = root.get("public_url").and_then(|node| public_url(node, listen, faults));
        let first = listen[0].address.ip();
        if !root.has("public_url") && first.is_unspecified() {
            let at = root.get("listen").map_or_else(Place::default, |node| node.at.clone());
            let message = format!("`public_url` is missing, and {first} is no address to call");
            faults.error(&at, "listen", message, "write public_url: https://tools.example.com");
        }
        let list = |key: &str, read: fn(&Node, &str, &mut Faults) -> Option<String>, faults: &mut Faults| {
            let items = root.get(key)?.items().iter().enumerate();
            Some(items.filter_map(|(index, item)| read(item, &format!("{key}[{index}]"), faults)).collect())
        };
        Self { public_url, hosts: list("hosts", host, faults), origins: list("origins", origin, faults) }
    }

    /// The names, for listeners that are known to the last port.
    pub(crate) fn names(&self, listen: &[ListenSettings]) -> Names {
        let first = || origin_of(listen[0].scheme(), &listen[0].address.to_string());
        let public_url = self.public_url.clone().unwrap_or_else(first);
        let (scheme, authority) = public_url.split_once("://").expect("a public URL has a scheme");
        let public_scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
        let mut hosts = with_default_port(authority, public_scheme);
        let local: Vec<(Scheme, String)> = listen.iter().flat_map(local_names).collect();
        match &self.hosts {
            Some(written) => hosts.extend(written.iter().flat_map(|host| with_ports(host, listen))),
            None => {
                let own =
                    |listener: &ListenSettings| with_default_port(&listener.address.to_string(), listener.scheme());
                hosts.extend(listen.iter().flat_map(own));
                hosts.extend(local.iter().flat_map(|(scheme, name)| with_default_port(name, *scheme)));
            }
        }
        let mut origins = vec![public_url.clone()];
        match &self.origins {
            Some(written) => origins.extend(written.iter().cloned()),
            None => origins.extend(local.iter().map(|(scheme, name)| origin_of(*scheme, name))),
        }
        Names { public_url, hosts: distinct(hosts), origins: distinct(origins) }
    }
}

/// An address and port.
fn address(node: &Node, path: &str, faults: &mut Faults) -> Option<SocketAddr> {
    let text = node.text()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let hint = match text.rsplit_once(':') {
        Some(("localhost", port)) => format!("an address, not a name: 127.0.0.1:{port}"),
        Some(("" | "*", port)) => format!("0.0.0.0:{port} is every address of this machine"),
        _ => "write 127.0.0.1:8080 or [::1]:8080".to_owned(),
    };
    let hint = if node.foreign { String::new() } else { hint };
    faults.error(&node.at, path, format!("{} is not an address and port", quoted(node)), hint.as_str());
    None
}

fn public_url(node: &Node, listen: &[ListenSettings], faults: &mut Faults) -> Option<String> {
    let url = origin(node, "public_url", faults)?;
    if url.starts_with("http://") && listen.iter().all(|listener| listener.tls.is_some()) {
        faults.warn(&node.at, "public_url", "is an http URL, and every listener speaks TLS only", "write https://…");
        return Some(url);
    }
    let private = ["http://localhost", "http://127.", "http://[::1]"];
    if url.starts_with("http://") && !private.iter().any(|local| url.starts_with(local)) {
        let message = "tokens for an http URL travel in plain text";
        faults.warn(&node.at, "public_url", message, PLAIN_URL_HINT);
    }
    Some(url)
}

/// Scheme and authority as RFC 6454 serialises them: lower case, no default port.
fn origin(node: &Node, path: &str, faults: &mut Faults) -> Option<String> {
    let text = node.text()?;
    let url = parse(text).filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = url.filter(|url| url.username().is_empty() && url.password().is_none()) else {
        let message = format!("{} is not an http or https URL", quoted(node));
        faults.error(&node.at, path, message, "write https://tools.example.com");
        return None;
    };
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        let hint = format!("write {}", url.origin().ascii_serialization());
        let hint = if node.foreign { "" } else { &hint };
        faults.error(&node.at, path, "must be scheme and authority only", hint);
        return None;
    }
    Some(url.origin().ascii_serialization())
}

/// A host, and a port if one is written.
fn host(node: &Node, path: &str, faults: &mut Faults) -> Option<String> {
    let text = node.text()?;
    let url = parse(&format!("http://{text}")).filter(|url| url.path() == "/" && !text.contains(['/', '@', '?', '#']));
    let Some(host) = url.as_ref().and_then(Url::host_str) else {
        let message = format!("{} is not a host", quoted(node));
        faults.error(&node.at, path, message, "write tools.example.com or tools.example.com:8443");
        return None;
    };
    // The parser forgets a port 80 that was written.
    let port = text.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok());
    Some(port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Strictly: what the URL standard would mend (blanks, backslashes) is no URL here.
pub(crate) fn parse(text: &str) -> Option<Url> {
    let odd = text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\');
    Url::parse(text).ok().filter(|url| !odd && url.has_host())
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (any || one.ip() == other.ip())
}

/// What a client on this machine may call the listener, with its port, and how it speaks there.
fn local_names(listener: &ListenSettings) -> Vec<(Scheme, String)> {
    let (ip, port) = (listener.address.ip(), listener.address.port());
    let local = ip.is_loopback() || ip.is_unspecified();
    let name = |name| (listener.scheme(), format!("{name}:{port}"));
    let names = local.then(|| ["localhost", "127.0.0.1", "[::1]"].map(name));
    names.into_iter().flatten().collect()
}

/// As a browser serialises it (RFC 6454, 6.2): the scheme's own port is left out.
fn origin_of(scheme: Scheme, authority: &str) -> String {
    let bare = authority.strip_suffix(&format!(":{}", scheme.port())).unwrap_or(authority);
    format!("{}://{bare}", scheme.as_str())
}

fn with_ports(host: &str, listen: &[ListenSettings]) -> Vec<String> {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let ports = listen.iter().filter(|_| !has_port).map(|listener| format!("{host}:{}", listener.address.port()));
    std::iter::once(host.to_owned()).chain(ports).collect()
}

/// A client leaves the scheme's default port out, or does not.
fn with_default_port(authority: &str, scheme: Scheme) -> Vec<String> {
    let default = scheme.port();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let mut out = vec![authority.to_owned()];
    match authority.strip_suffix(&format!(":{default}")) {
        Some(bare) => out.push(bare.to_owned()),
        None if !has_port => out.push(format!("{authority}:{default}")),
        None => {}
    }
    out
}

fn distinct(names: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        if !out.contains(&name) {
            out.push(name);
        }
    }
    out
}

const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
const PLAIN_HINT: &str = "give it tls: { cert: PATH, key: PATH }, or keep all but a proxy that ends TLS away from it";
const PLAIN_URL_HINT: &str = "give the listener `tls` or end TLS in front of the gateway, and write https://…";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{CertPaths, ClientCert, ListenTls};

    fn names(front: &Front, listen: &[&str]) -> Names {
        let plain = |text: &&str| ListenSettings { address: text.parse().expect("an address"), tls: None };
        front.names(&listen.iter().map(plain).collect::<Vec<_>>())
    }

    fn encrypted(address: &str) -> ListenSettings {
        let pair = CertPaths { cert: "cert.pem".into(), key: "key.pem".into() };
        let tls = ListenTls { certificates: vec![pair], client_ca: None, client: ClientCert::None };
        ListenSettings { address: address.parse().expect("an address"), tls: Some(tls) }
    }

    #[test]
    fn names_follow_the_scheme_of_each_listener() {
        let plain = ListenSettings { address: "127.0.0.1:80".parse().expect("an address"), tls: None };
        let got = Front::default().names(&[encrypted("127.0.0.1:443"), plain, encrypted("[::1]:8443")]);
        assert_eq!(got.public_url, "https://127.0.0.1");
        for host in ["127.0.0.1", "127.0.0.1:443", "localhost:443", "localhost", "127.0.0.1:80", "[::1]:8443"] {
            assert!(got.hosts.iter().any(|name| name == host), "{host}: {:?}", got.hosts);
        }
        let want = ["https://127.0.0.1", "https://localhost", "https://[::1]"];
        assert_eq!(got.origins[..3], want);
        for origin in ["http://localhost", "https://localhost:8443", "http://127.0.0.1"] {
            assert!(got.origins.iter().any(|name| name == origin), "{origin}: {:?}", got.origins);
        }
        let foreign =
            |name: &&String| name.ends_with(":443") || name.ends_with(":80") || *name == "http://localhost:8443";
        assert_eq!(got.origins.iter().find(foreign), None);
    }

    #[test]
    fn names_follow_from_the_listeners() {
        let got = names(&Front::default(), &["127.0.0.1:8080"]);
        assert_eq!(got.public_url, "http://127.0.0.1:8080");
        assert_eq!(got.hosts, ["127.0.0.1:8080", "localhost:8080", "[::1]:8080"]);
        assert_eq!(got.origins, ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"]);
    }

    #[test]
    fn the_public_name_is_always_one() {
        let front = Front {
            public_url: Some("https://tools.example.com".to_owned()),
            hosts: Some(vec!["gate.internal".to_owned(), "gate.internal:1".to_owned(), "[fd00::1]".to_owned()]),
            origins: Some(vec!["https://app.example.com".to_owned()]),
        };
        let got = names(&front, &["10.0.0.1:80", "127.0.0.1:8080"]);
        assert_eq!(
            got.hosts,
            [
                "tools.example.com",
                "tools.example.com:443",
                "gate.internal",
                "gate.internal:80",
                "gate.internal:8080",
                "gate.internal:1",
                "[fd00::1]",
                "[fd00::1]:80",
                "[fd00::1]:8080",
            ]
        );
        assert_eq!(got.origins, ["https://tools.example.com", "https://app.example.com"]);
    }

    #[test]
    fn a_default_port_may_be_left_out() {
        let got = names(&Front::default(), &["127.0.0.1:80"]);
        assert!(got.hosts.iter().any(|host| host == "localhost") && got.hosts.iter().any(|host| host == "127.0.0.1"));
        assert!(got.origins.iter().any(|origin| origin == "http://localhost"));
        assert_eq!(got.public_url, "http://127.0.0.1");
    }

    #[test]
    fn listeners_collide() {
        let check = |one: &str, other: &str, want| {
            assert_eq!(collide(one.parse().expect("one"), other.parse().expect("other")), want, "{one} {other}");
        };
        check("127.0.0.1:1", "127.0.0.1:1", true);
        check("127.0.0.1:1", "127.0.0.1:2", false);
        check("0.0.0.0:1", "127.0.0.1:1", true);
        check("127.0.0.2:1", "127.0.0.1:1", false);
        check("127.0.0.1:0", "127.0.0.1:0", false);
    }
}
