//! Where the gateway itself may look: which URLs are acceptable, and which addresses behind them. A document or a token
//! is fetched from the public Internet over TLS, or from a network that the operator has named; a name that leads
//! anywhere else, today or after the next look-up, is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use url::{Host, Url};

use crate::base::limits::FETCH_URL_BYTES_MAX;
use crate::base::net::Network;

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The URL as everybody reads it: what was odd about how it was written is gone.
    pub url: String,
    /// Whether it is encrypted.
    pub secure: bool,
    /// Whom to ask.
    pub host: Target,
    /// At which port.
    pub port: u16,
}

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A name, in lower case ASCII. Each address that it has must be [`allowed`].
    Name(String),
    /// An address, which is allowed.
    Address(IpAddr),
    /// `localhost` and its like (RFC 6761, 6.3): nobody is asked, and these are the addresses that are allowed.
    Local(Vec<IpAddr>),
}

/// Why a URL is not fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum UrlFault {
    /// Over `limits::FETCH_URL_BYTES_MAX`.
    #[error("the URL is over 2 KiB")]
    TooLong,
    /// Not an absolute URL with a host, or one that parsers disagree about.
    #[error("the URL is not a plain absolute one")]
    Malformed,
    /// Neither `https`, nor `http` to this machine where that is allowed.
    #[error("the URL is not https")]
    Insecure,
    /// A name or a password before the host.
    #[error("the URL has a user part")]
    User,
    /// Something behind `#`, which no server sees.
    #[error("the URL has a fragment")]
    Fragment,
    /// Port 0.
    #[error("the URL has no port that can be asked")]
    Port,
    /// Its host is an address that may not be asked.
    #[error("the URL leads to an address that is not public, and 'private' does not name its network")]
    Address,
}

/// Reads a URL that something is to be fetched from. What is not in `private` must be public and encrypted.
///
/// # Errors
/// [`UrlFault`].
pub fn place(text: &str, private: &[Network]) -> Result<Place, UrlFault> {
    if text.len() > FETCH_URL_BYTES_MAX {
        return Err(UrlFault::TooLong);
    }
    // What the URL standard would mend is read otherwise elsewhere.
    if text.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'\\' | b'"' | b'<' | b'>' | b'`')) {
        return Err(UrlFault::Malformed);
    }
    let url = Url::parse(text).map_err(|_| UrlFault::Malformed)?;
    // `http:/host` and `http:///host` are mended, too.
    let rest = text.get(url.scheme().len()..).unwrap_or_default();
    if !rest.starts_with("://") || rest.starts_with(":///") {
        return Err(UrlFault::Malformed);
    }
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err(UrlFault::Insecure),
    };
    let authority = rest.get(3..).unwrap_or_default();
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    if authority.contains('@') {
        return Err(UrlFault::User);
    }
    if url.fragment().is_some() {
        return Err(UrlFault::Fragment);
    }
    let port = url.port_or_known_default().filter(|port| *port > 0).ok_or(UrlFault::Port)?;
    let host = target(url.host().ok_or(UrlFault::Malformed)?, private)?;
    let local = match &host {
        Target::Local(_) => true,
        Target::Address(address) => address.is_loopback(),
        Target::Name(_) => false,
    };
    if !secure && !local {
        return Err(UrlFault::Insecure);
    }
    Ok(Place { url: url.into(), secure, host, port })
}

/// Whether something may be fetched from this address: it is public, or in a network that the operator has named. One
/// that stands for no single host never is.
#[must_use]
pub fn allowed(address: IpAddr, private: &[Network]) -> bool {
    let canonical = address.to_canonical();
    let nobody = match canonical {
        IpAddr::V4(address) => address.octets()[0] == 0 || address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unspecified() || address.is_multicast(),
    };
    !nobody && (is_public(address) || private.iter().any(|network| network.holds(canonical)))
}

/// Whether an address is one host's on the public Internet (the special-purpose registries of RFC 6890).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn target(host: Host<&str>, private: &[Network]) -> Result<Target, UrlFault> {
    let address = match host {
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address),
        Host::Domain(name) => return name_target(name, private),
    };
    if allowed(address, private) { Ok(Target::Address(address)) } else { Err(UrlFault::Address) }
}

fn name_target(name: &str, private: &[Network]) -> Result<Target, UrlFault> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.is_empty() || bare.split('.').any(str::is_empty) {
        return Err(UrlFault::Malformed);
    }
    if bare != "localhost" && !bare.ends_with(".localhost") {
        return Ok(Target::Name(name.to_owned()));
    }
    let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let local: Vec<IpAddr> = local.into_iter().filter(|address| allowed(*address, private)).collect();
    if local.is_empty() { Err(UrlFault::Address) } else { Ok(Target::Local(local)) }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let value = address.to_bits();
    SPECIAL_V4.iter().all(|(first, bits)| (value ^ first.to_bits()) >> (32 - bits) != 0)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let value = address.to_bits();
    let within = |first: Ipv6Addr, bits: u32| (value ^ first.to_bits()) >> (128 - bits) == 0;
    let embedded = |shift: u32| {
        let cut = u32::try_from((value >> shift) & u128::from(u32::MAX)).unwrap_or(0);
        is_public_v4(Ipv4Addr::from_bits(cut))
    };
    if within(NAT64, 96) {
        // Behind DNS64 every IPv4 host looks like this (RFC 6052, 2.1).
        return embedded(0);
    }
    if within(SIX_TO_FOUR, 16) {
        return embedded(80);
    }
    within(GLOBAL_V6, 3) && SPECIAL_V6.iter().all(|(first, bits)| !within(*first, *bits))
}

/// What is not public (IANA's registry of special-purpose IPv4 addresses, and what is for many hosts).
const SPECIAL_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private (RFC 1918)
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // shared by a carrier's customers (RFC 6598)
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local; a cloud's metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 31, 196, 0), 24), // AS112
    (Ipv4Addr::new(192, 52, 193, 0), 24), // AMT
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relays, deprecated
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(192, 175, 48, 0), 24), // AS112
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved, broadcast
];

/// All that is given out for hosts of the Internet (RFC 4291, 2.4). IPv4-mapped addresses are not among them, nor are
/// loopback, link-local and site-local ones, unique local ones and multicast.
const GLOBAL_V6: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);
/// And what of that is not.
const SPECIAL_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments; Teredo, benchmarks, ORCHID
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48), // AS112
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];
/// The well-known prefix of NAT64, with an IPv4 address at its end.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
/// 6to4 (RFC 3056), with an IPv4 address behind it.
const SIX_TO_FOUR: Ipv6Addr = Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0);

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| Network::parse(text).unwrap()).collect()
    }

    /// Where a URL leads, as `HOST:PORT`.
    fn check(url: &str, private: &[&str], want: Result<&str, UrlFault>) {
        let got = place(url, &networks(private)).map(|place| match place.host {
            Target::Name(name) => format!("{name}:{}", place.port),
            Target::Address(address) => format!("{address}:{}", place.port),
            Target::Local(addresses) => format!("{addresses:?}:{}", place.port),
        });
        assert_eq!(got, want.map(str::to_owned), "{url} {private:?}");
    }

    #[test]
    fn https_to_names_and_public_addresses() {
        check("https://idp.example.com", &[], Ok("idp.example.com:443"));
        check("https://idp.example.com:8443/a/b?c=d", &[], Ok("idp.example.com:8443"));
        check("HTTPS://IDP.Example.COM/", &[], Ok("idp.example.com:443"));
        check("https://idp.example.com./", &[], Ok("idp.example.com.:443"));
        check("https://xn--bcher-kva.example/", &[], Ok("xn--bcher-kva.example:443"));
        check("https://8.8.8.8/", &[], Ok("8.8.8.8:443"));
        check("https://[2606:4700::1]/", &[], Ok("2606:4700::1:443"));
        // Neither is the name that it begins or ends with.
        check("https://localhost.example.com/", &[], Ok("localhost.example.com:443"));
        check("https://notlocalhost/", &[], Ok("notlocalhost:443"));
    }

    #[test]
    fn addresses_in_whatever_spelling_are_seen() {
        for url in [
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://0x7f000001/",
            "https://017700000001/",
            "https://2130706433/",
            "https://127.1/",
            "https://127.0.0.1./",
            "https://%31%32%37.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[::ffff:8.8.8.8]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::127.0.0.1]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[2002:7f00:1::]/",
            "https://[2002:a9fe:a9fe::1]/",
            "https://[fe80::1]/",
            "https://[fec0::1]/",
            "https://[fd00:ec2::254]/",
            "https://[ff02::1]/",
            "https://[::]/",
            "https://0.0.0.0/",
            "https://0/",
            "https://10.0.0.1/",
            "https://172.16.0.1/",
            "https://192.168.1.1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://100.64.0.1/",
            "https://100.100.100.200/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost:8443/",
            "http://127.0.0.1/",
            "http://localhost/",
        ] {
            check(url, &[], Err(UrlFault::Address));
        }
    }

    #[test]
    fn what_the_operator_names_is_allowed() {
        check("https://127.0.0.1:1/", &["127.0.0.0/8"], Ok("127.0.0.1:1"));
        check("https://0x7f.1/", &["127.0.0.0/8"], Ok("127.0.0.1:443"));
        check("https://[::ffff:127.0.0.1]/", &["127.0.0.0/8"], Ok("::ffff:127.0.0.1:443"));
        check("https://10.1.2.3/", &["127.0.0.0/8", "10.0.0.0/8"], Ok("10.1.2.3:443"));
        check("https://11.1.2.3/", &["10.0.0.0/8"], Ok("11.1.2.3:443"));
        check("https://192.168.1.1/", &["10.0.0.0/8"], Err(UrlFault::Address));
        check("https://[fd00::1]/", &["fc00::/7"], Ok("fd00::1:443"));
        check("https://169.254.169.254/", &["169.254.0.0/16"], Ok("169.254.169.254:443"));
        check("https://localhost/", &["127.0.0.0/8"], Ok("[127.0.0.1]:443"));
        check("https://localhost/", &["::1", "127.0.0.1"], Ok("[127.0.0.1, ::1]:443"));
        // No one host is behind these.
        for url in ["https://0.0.0.0/", "https://224.0.0.1/", "https://[ff02::1]/", "https://[::]/"] {
            check(url, &["0.0.0.0/0", "::/0"], Err(UrlFault::Address));
        }
        // A gateway's address of another kind is not the network that it leads to.
        check("https://[64:ff9b::10.0.0.1]/", &["10.0.0.0/8"], Err(UrlFault::Address));
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        check("http://127.0.0.1:8080/x", &["127.0.0.0/8"], Ok("127.0.0.1:8080"));
        check("http://localhost/", &["127.0.0.1"], Ok("[127.0.0.1]:80"));
        check("http://[::1]/", &["::1"], Ok("::1:80"));
        for url in ["http://idp.example.com/", "http://8.8.8.8/", "http://10.0.0.1/"] {
            check(url, &["10.0.0.0/8", "127.0.0.0/8"], Err(UrlFault::Insecure));
        }
        for url in ["ftp://127.0.0.1/", "ws://idp.example.com/", "file://idp/etc/passwd", "gopher://idp/"] {
            check(url, &["127.0.0.0/8"], Err(UrlFault::Insecure));
        }
    }

    #[test]
    fn what_parsers_disagree_about_is_refused() {
        for (url, want) in [
            ("https://user@idp.example.com/", UrlFault::User),
            ("https://user:pass@idp.example.com/", UrlFault::User),
            ("https://@idp.example.com/", UrlFault::User),
            ("https://:@idp.example.com/", UrlFault::User),
            ("https://idp.example.com@127.0.0.1/", UrlFault::User),
            ("https://127.0.0.1#@idp.example.com/", UrlFault::Fragment),
            ("https://idp.example.com/#x", UrlFault::Fragment),
            ("https://idp.example.com/#", UrlFault::Fragment),
            ("https://idp.example.com:0/", UrlFault::Port),
            ("https://idp.example.com:65536/", UrlFault::Malformed),
            ("https://idp.example.com\\@evil.example/", UrlFault::Malformed),
            ("https:\\\\idp.example.com/", UrlFault::Malformed),
            ("https:/idp.example.com/", UrlFault::Malformed),
            ("https:idp.example.com/", UrlFault::Malformed),
            ("https:///idp.example.com/", UrlFault::Malformed),
            (" https://idp.example.com/", UrlFault::Malformed),
            ("https://idp.example.com/ x", UrlFault::Malformed),
            ("https://idp.exam\nple.com/", UrlFault::Malformed),
            ("https://idp.example.com/\r\nHost: evil", UrlFault::Malformed),
            ("https://b\u{fc}cher.example/", UrlFault::Malformed),
            ("https://idp\u{3002}example.com/", UrlFault::Malformed),
            ("https://%00/", UrlFault::Malformed),
            ("https://a..example/", UrlFault::Malformed),
            ("https://[fe80::1%25eth0]/", UrlFault::Malformed),
            ("https://[::1/", UrlFault::Malformed),
            ("https://", UrlFault::Malformed),
            ("//idp.example.com/", UrlFault::Malformed),
            ("idp.example.com", UrlFault::Malformed),
            ("", UrlFault::Malformed),
            ("data:text/plain,x", UrlFault::Malformed),
        ] {
            check(url, &[], Err(want));
        }
        let long = format!("https://idp.example.com/{}", "x".repeat(FETCH_URL_BYTES_MAX));
        check(&long, &[], Err(UrlFault::TooLong));
    }

    #[test]
    fn every_special_range_from_end_to_end() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "255.255.255.255"),
            ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            for address in [first, last] {
                let address: IpAddr = address.parse().unwrap();
                assert!(!is_public(address) && !allowed(address, &[]), "{address}");
            }
        }
        for address in [
            "1.0.0.0",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2606:4700::1",
            "3ffe:ffff::",
            "3fff:1000::",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(is_public(address) && allowed(address, &[]), "{address}");
        }
    }
}
