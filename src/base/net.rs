//! Addresses and networks, as text. An IPv4 address inside an IPv6 one (`::ffff:10.0.0.1`) is that.

use std::net::IpAddr;

/// The address that a text is; `None` for what is none: with zeros before a number, with a zone, in brackets.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// A network: all addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    bits: u32,
}

impl Network {
    /// A network as one writes it: an address and how many bits of it count (RFC 4632, 3.1; RFC 4291, 2.3), or an address
    /// alone. `None` for what is none, and where a bit is set that does not count.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().ok()?;
        let first = written.to_canonical();
        let (length, written_length) = (length(first), length(written));
        let bits = match bits {
            None => written_length,
            Some(bits) => decimal(bits).filter(|bits| *bits <= written_length)?,
        };
        // The bits of an IPv4 network that is written as an IPv6 one count from the start of that. One with fewer is
        // of IPv6, and holds no address that is of IPv4.
        let (first, bits) = match bits.checked_sub(written_length - length) {
            Some(bits) => (first, bits),
            None => (written, bits),
        };
        let network = Self { first, bits };
        (network.cut(first) == value(first)).then_some(network)
    }

    /// Whether the address is in it; an address of the other kind never is.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && self.cut(address) == value(self.first)
    }

    /// The bits that count.
    fn cut(&self, address: IpAddr) -> u128 {
        let rest = length(self.first) - self.bits;
        value(address).checked_shr(rest).unwrap_or(0).checked_shl(rest).unwrap_or(0)
    }
}

fn length(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Up to three digits, no zero before others.
fn decimal(text: &str) -> Option<u32> {
    let plain = matches!(text.len(), 1..=3) && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, network: &str, want: Option<bool>) {
        let network = Network::parse(network).unwrap_or_else(|| panic!("{network} is no network"));
        assert_eq!(address(text).map(|it| network.holds(it)), want, "{text} in {network:?}");
    }

    #[test]
    fn addresses_are_in_networks() {
        check("10.1.2.3", "10.0.0.0/8", Some(true));
        check("11.1.2.3", "10.0.0.0/8", Some(false));
        check("::ffff:10.0.0.1", "10.0.0.0/8", Some(true));
        check("::FFFF:a00:1", "10.0.0.0/8", Some(true));
        check("10.0.0.1", "::ffff:10.0.0.0/104", Some(true));
        check("11.0.0.1", "::ffff:10.0.0.0/104", Some(false));
        check("10.0.0.1", "::/0", Some(false));
        check("::ffff:10.0.0.1", "::/0", Some(false));
        check("::10.0.0.1", "10.0.0.0/8", Some(false));
        check("2001:db8::1", "2001:DB8::/32", Some(true));
        check("2001:db9::1", "2001:db8::/32", Some(false));
        check("::1", "0.0.0.0/0", Some(false));
        check("255.255.255.255", "0.0.0.0/0", Some(true));
        check("::1", "::/0", Some(true));
        check("10.0.0.1", "10.0.0.1", Some(true));
        check("10.0.0.2", "10.0.0.1/32", Some(false));
        check("::1", "::1/128", Some(true));
        check("10.0.0.129", "10.0.0.128/25", Some(true));
        check("10.0.0.127", "10.0.0.128/25", Some(false));
    }

    #[test]
    fn what_is_no_address_is_unknown() {
        for text in [
            "",
            "10.0.0",
            "10.0.0.01",
            "010.0.0.1",
            "10.0.0.256",
            "0x0a.0.0.1",
            "167772161",
            "10.0.0.1 ",
            " 10.0.0.1",
            "10.0.0.1.",
            "10.0.0.1:80",
            "[::1]",
            "fe80::1%eth0",
            "::g",
            "1::2::3",
            "localhost",
            "1２.0.0.1",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_none() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "10.0.0.0/255.0.0.0",
            "10/8",
            "::/129",
            "::1/64",
            "::ffff:10.0.0.1/104",
            "::ffff:10.0.0.0/90",
            "10.0.0.0/8/8",
            "10.0.0.0/ 8",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
