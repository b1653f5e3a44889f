//! TLS on both sides: what a listener shows its clients, and how a server is known.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use rustls::pki_types::ServerName;

use crate::base::limits::CERTIFICATES_MAX;
use crate::config::fault::Faults;
use crate::config::files::{Files, Pem};
use crate::config::raw::Node;
use crate::config::settings::{CertPaths, ClientCert, ListenTls, ServerTls};
use crate::config::shape::{join, quoted};

/// A listener's `tls`, without what is at fault in it.
pub(crate) fn listener(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> ListenTls {
    lonely(node, path, faults);
    let mut certificates: Vec<CertPaths> = pair(node, path, files, faults).into_iter().collect();
    if let Some(more) = node.get("certificates") {
        let here = join(path, "certificates");
        if more.items().is_empty() || more.items().len() > CERTIFICATES_MAX {
            faults.error(&more.at, &here, format!("expected 1 to {CERTIFICATES_MAX} certificates"), "");
        }
        for (index, item) in more.items().iter().enumerate().take(CERTIFICATES_MAX) {
            certificates.extend(pair(item, &format!("{here}[{index}]"), files, faults));
        }
    }
    let any = ["cert", "key", "certificates"].iter().any(|key| node.has(key));
    if !any && node.is_whole() {
        let hint = "write tls: { cert: ./tls/cert.pem, key: ./tls/key.pem }";
        faults.error(&node.at, path, "has no certificate", hint);
    }
    let (client_ca, client) = clients(node, path, files, faults);
    ListenTls { certificates, client_ca, client }
}

/// What a listener wants of its clients' certificates.
fn clients(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> (Option<PathBuf>, ClientCert) {
    let wanted = node.get("client_certificate");
    let Some(authority) = node.get("client_ca") else {
        if let Some(wanted) = wanted.filter(|_| !node.has("client_ca") && node.is_whole()) {
            let message = "without `client_ca` no client's certificate can be checked";
            let hint = "name the authorities it must come from: client_ca: ./tls/clients.pem";
            faults.error(&wanted.at, &join(path, "client_certificate"), message, hint);
        }
        return (None, ClientCert::None);
    };
    let file = files.pem(authority, &join(path, "client_ca"), Pem::Certificates, faults);
    let request = wanted.is_some_and(|wanted| wanted.text() == Some("request"));
    (file, if request { ClientCert::Request } else { ClientCert::Require })
}

/// A server's `tls` as written.
#[derive(Default)]
pub(crate) struct Written {
    name: Option<String>,
    ca: Option<PathBuf>,
    identity: Option<CertPaths>,
}

impl Written {
    /// What it means for an instance at `host`, a URL's host.
    pub(crate) fn of(&self, host: &str) -> ServerTls {
        let name = self.name.clone().or_else(|| name(host)).unwrap_or_else(|| host.to_owned());
        ServerTls { name, ca: self.ca.clone(), identity: self.identity.clone() }
    }
}

/// A server's `tls`.
pub(crate) fn server(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Written {
    lonely(node, path, faults);
    let written = node.get("name");
    let own = written.and_then(|node| name(node.text()?));
    if let (Some(node), None) = (written, &own) {
        let message = format!("{} is not a host name or an address", quoted(node));
        faults.error(&node.at, &join(path, "name"), message, "write crm.internal.example, without scheme and port");
    }
    let ca = node.get("ca").and_then(|ca| files.pem(ca, &join(path, "ca"), Pem::Certificates, faults));
    Written { name: own, ca, identity: pair(node, path, files, faults) }
}

/// The name a certificate must have for this host, in lower case; `None` where no certificate can. An IPv6 address may
/// stand in brackets, a host name may end with the root's dot: certificates have neither (RFC 5280, 4.2.1.6).
pub(crate) fn name(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().ok().map(|address| address.to_string());
    }
    let bare = host.strip_suffix('.').unwrap_or(host);
    let name = ServerName::try_from(bare).ok().filter(|_| !bare.ends_with('.'))?;
    Some(name.to_str().to_ascii_lowercase())
}

/// A certificate is nothing without its key, nor a key without its certificate.
fn lonely(node: &Node, path: &str, faults: &mut Faults) {
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        let Some(at) = node.get(one).filter(|_| !node.has(other) && node.is_whole()) else {
            continue;
        };
        let hint = format!("name it too: {other}: ./tls/{other}.pem");
        faults.error(&at.at, &join(path, one), format!("needs its `{other}`"), hint);
    }
}

/// A certificate and its key, where both are written and neither is at fault.
fn pair(node: &Node, path: &str, files: Files<'_>, faults: &mut Faults) -> Option<CertPaths> {
    let mut file = |key: &str, what| files.pem(node.get(key)?, &join(path, key), what, faults);
    let (cert, key) = (file("cert", Pem::Certificates), file("key", Pem::Key));
    Some(CertPaths { cert: cert?, key: key? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates() {
        let check = |host: &str, want: Option<&str>| assert_eq!(name(host).as_deref(), want, "{host}");
        check("crm.internal.example", Some("crm.internal.example"));
        check("CRM.Internal.Example.", Some("crm.internal.example"));
        check("under_score.example", Some("under_score.example"));
        check("localhost", Some("localhost"));
        check("xn--mnchen-3ya.example", Some("xn--mnchen-3ya.example"));
        check("192.0.2.1", Some("192.0.2.1"));
        check("[2001:DB8::1]", Some("2001:db8::1"));
        check("2001:db8::1", Some("2001:db8::1"));
        for bad in [
            "",
            ".",
            "a..b",
            "-a.example",
            "a!b",
            "a b",
            "a:1",
            "https://a",
            "*.a",
            "münchen.example",
            "[a]",
            "[1.2.3.4]",
        ] {
            check(bad, None);
        }
        check(&"a".repeat(64), None);
    }
}
