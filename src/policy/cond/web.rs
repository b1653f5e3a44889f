//! URLs, as text: what every client would make of one, or nothing.

use std::fmt::Write as _;
use std::net::IpAddr;

use smallvec::SmallVec;
use url::Host;

use crate::base::limits::URL_AUTHORITY_BYTES_MAX;

/// What a condition may know of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: Lower,
    host: Option<Lower>,
    port: Option<u16>,
}

/// Reads one: [`Url::parse`].
#[must_use]
pub fn url(text: &str) -> Option<Url> {
    Url::parse(text)
}

impl Url {
    /// The URL that a text is. `None` for what is none (RFC 3986, 3), and for what clients read differently: with a user
    /// part, a backslash, a blank or a control character, without the host that its scheme must have.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !text.chars().all(|letter| letter != '\\' && !letter.is_whitespace() && !letter.is_control()) {
            return None;
        }
        let (scheme, rest) = text.split_once(':')?;
        let scheme = read_scheme(scheme)?;
        let port = SCHEMES.iter().find(|(known, _)| *known == scheme.text());
        let Some(rest) = rest.strip_prefix("//") else {
            // Some clients add the slashes that are missing, others do not.
            return port.is_none().then_some(Self { scheme, host: None, port: None });
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.len() > URL_AUTHORITY_BYTES_MAX || authority.contains('@') {
            return None;
        }
        let (host, written) = split_port(authority)?;
        if host.is_empty() {
            let may_be_none = port.is_none() && written.is_none();
            return may_be_none.then_some(Self { scheme, host: None, port: None });
        }
        let port = written.or_else(|| port.map(|(_, port)| *port));
        Some(Self { scheme, host: Some(read_host(host)?), port })
    }

    /// In lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.scheme.text()
    }

    /// In lower case and punycode, no dot at the end. An IPv6 address without its brackets, in its shortest form; an IPv4
    /// address, and one inside an IPv6 one, in four numbers. `None` where the URL has none.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_ref().map(Lower::text)
    }

    /// As written, else what the scheme has; `None` where that is not known.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// A short text of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lower(SmallVec<[u8; 64]>);

impl Lower {
    fn of(text: &str) -> Self {
        Self(text.bytes().map(|byte| byte.to_ascii_lowercase()).collect())
    }

    fn text(&self) -> &str {
        // Made of whole texts.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Write for Lower {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// RFC 3986, 3.1.
fn read_scheme(text: &str) -> Option<Lower> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    (text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(fine)).then(|| Lower::of(text))
}

/// Host, brackets and all, and port as written.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end);
    let Some(digits) = rest.strip_prefix(':') else {
        return rest.is_empty().then_some((host, None));
    };
    // RFC 3986, 3.2.3: none behind the colon is as no colon.
    let port = digits.bytes().try_fold(0_u16, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })?;
    Some((host, (!digits.is_empty()).then_some(port)))
}

fn read_host(text: &str) -> Option<Lower> {
    if is_plain_name(text) {
        let name = text.strip_suffix('.').unwrap_or(text);
        return Some(Lower::of(name));
    }
    let mut host = Lower::default();
    let address = match Host::parse(text).ok()? {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(&name);
            let named = !name.is_empty() && !name.split('.').any(str::is_empty);
            return named.then(|| Lower::of(name));
        }
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address).to_canonical(),
    };
    write!(host, "{address}").ok()?;
    Some(host)
}

/// Whether it is the name that it spells: no escape, no other letter than ASCII's, no punycode that could be wrong, and
/// no number at the end, which would be an address.
fn is_plain_name(text: &str) -> bool {
    let mut last = "";
    for label in text.strip_suffix('.').unwrap_or(text).split('.') {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let puny = label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
        if label.is_empty() || puny || !label.bytes().all(fine) {
            return false;
        }
        last = label;
    }
    last.starts_with(|first: char| first.is_ascii_alphabetic())
}

/// The schemes whose port is known; a URL of theirs has a host.
const SCHEMES: &[(&str, u16)] = &[("ftp", 21), ("http", 80), ("https", 443), ("ws", 80), ("wss", 443)];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, scheme: &str, host: &str, port: u16) {
        let url = Url::parse(text).unwrap_or_else(|| panic!("{text} is no URL"));
        assert_eq!((url.scheme(), url.host(), url.port()), (scheme, Some(host), Some(port)), "{text}");
    }

    #[test]
    fn urls_are_what_clients_make_of_them() {
        check("https://example.com", "https", "example.com", 443);
        check("HTTPS://Example.COM:8443/a?b#c", "https", "example.com", 8443);
        check("http://example.com.", "http", "example.com", 80);
        check("http://example.com.:80/", "http", "example.com", 80);
        check("http://example.com:/", "http", "example.com", 80);
        check("http://example.com:00081", "http", "example.com", 81);
        check("ws://a_b-c.test?x=//y", "ws", "a_b-c.test", 80);
        check("wss://example.com#@other.com", "wss", "example.com", 443);
        check("http://bücher.example", "http", "xn--bcher-kva.example", 80);
        check("http://BÜCHER.example.", "http", "xn--bcher-kva.example", 80);
        check("http://XN--BCHER-KVA.example", "http", "xn--bcher-kva.example", 80);
        check("http://ｅｘａｍｐｌｅ。com。", "http", "example.com", 80);
        check("http://ex%61mple.com", "http", "example.com", 80);
        check("http://127.1", "http", "127.0.0.1", 80);
        check("http://0x7f.0.0.1.", "http", "127.0.0.1", 80);
        check("http://2130706433/", "http", "127.0.0.1", 80);
        check("http://[::1]:8080/", "http", "::1", 8080);
        check("http://[0:0::0:1]", "http", "::1", 80);
        check("http://[::FFFF:10.0.0.1]", "http", "10.0.0.1", 80);
        check("foo://example.com:99", "foo", "example.com", 99);
        check("ftp://example.com/a@b", "ftp", "example.com", 21);
        check("http://a1.b2c", "http", "a1.b2c", 80);
    }

    #[test]
    fn what_clients_read_differently_is_unknown() {
        for text in [
            "",
            "example.com",
            "//example.com",
            "/a",
            ":",
            "1a://b",
            "http:",
            "http:example.com",
            "http:/example.com",
            "http://",
            "http:///example.com",
            "http://:80",
            "http://user@example.com",
            "http://a:b@example.com",
            "http://@example.com",
            "http://good.com\\@evil.com",
            "http:\\\\example.com",
            "http://example.com /",
            " http://example.com",
            "http://example.com\n",
            "http://exa\tmple.com",
            "http://example.com/\0",
            "http://example.com/\u{a0}",
            "http://example.com/\u{2028}",
            "http://a..b",
            "http://.a",
            "http://a..",
            "http://.",
            "http://example.com:65536",
            "http://example.com:8a",
            "http://example.com:80:80",
            "http://example.com:-1",
            "http://[::1",
            "http://[::1]x",
            "http://[fe80::1%25eth0]",
            "http://[1.2.3.4]",
            "http://1.2.3.256",
            "http://1.2.3.4.5",
            "http://a%2fb",
            "http://a%40b",
            "http://a%",
            "http://xn--a",
            "http://a<b",
            "http://a,b|c",
        ] {
            assert_eq!(Url::parse(text), None, "{text:?}");
        }
        let long = format!("http://{}", "a".repeat(URL_AUTHORITY_BYTES_MAX + 1));
        assert_eq!(Url::parse(&long), None);
    }

    #[test]
    fn a_url_may_have_no_host() {
        for text in ["mailto:a@b.com", "file:///etc/passwd", "data:,x", "file:/x", "urn:isbn:1"] {
            let url = Url::parse(text).unwrap_or_else(|| panic!("{text} is no URL"));
            assert_eq!((url.host(), url.port()), (None, None), "{text}");
            assert_eq!(Some(url.scheme()), text.split(':').next());
        }
        let url = Url::parse("ssh://h").unwrap();
        assert_eq!((url.host(), url.port()), (Some("h"), None));
        assert_eq!(Url::parse("foo://:80/"), None);
    }

    /// The short way says what the long one says.
    #[test]
    fn plain_names_are_what_the_parser_makes_of_them() {
        for name in ["example.com", "EXAMPLE.com.", "a", "a-b_c.d--e.f1", "ab--cd.x", "-a-.b", "1.a", "0x1.b"] {
            assert!(is_plain_name(name), "{name}");
            let Ok(Host::Domain(parsed)) = Host::parse(name) else { panic!("{name}") };
            assert_eq!(read_host(name).unwrap().text(), parsed.trim_end_matches('.'), "{name}");
        }
    }
}
