//! Reads two things out of a certificate that rustls keeps to itself: the names it is for, and when it expires.
//! It is given certificates that the operator wrote down, and finds nothing in what is no certificate.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The DNS names of a certificate (RFC 5280, 4.2.1.6), in lower case, wildcards (`*.example.com`) among them.
#[must_use]
pub fn dns_names(certificate: &[u8]) -> Vec<String> {
    names(certificate).unwrap_or_default()
}

/// When a certificate expires (RFC 5280, 4.1.2.5), seconds since 1970; `None` where that cannot be read.
#[must_use]
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    let mut fields = fields(certificate)?;
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields.next()?;
    }
    let mut validity = fields.next()?.inside(SEQUENCE)?;
    validity.next()?;
    let end = validity.next()?;
    let text = std::str::from_utf8(end.body).ok()?.strip_suffix('Z')?;
    let (year, rest) = match end.tag {
        // Two digits: 50 to 99 are of the last century.
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let two = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let time = DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

fn names(certificate: &[u8]) -> Option<Vec<String>> {
    let extensions = fields(certificate)?.find(|field| field.tag == EXTENSIONS)?;
    for extension in Items(extensions.body).next()?.inside(SEQUENCE)? {
        let mut parts = extension.inside(SEQUENCE)?;
        if parts.next()?.body != SUBJECT_ALT_NAME {
            continue;
        }
        // Perhaps `critical` comes first.
        let value = parts.find(|part| part.tag == OCTET_STRING)?;
        let names = Items(value.body).next()?.inside(SEQUENCE)?;
        let dns = names.filter(|name| name.tag == DNS_NAME).filter_map(|name| std::str::from_utf8(name.body).ok());
        return Some(dns.map(str::to_ascii_lowercase).collect());
    }
    None
}

/// The fields of the part that is signed, from the serial number on.
fn fields(certificate: &[u8]) -> Option<Items<'_>> {
    let mut signed = Items(certificate).next()?.inside(SEQUENCE)?.next()?.inside(SEQUENCE)?;
    let after_version = signed.0;
    let first = signed.next()?;
    Some(if first.tag == VERSION { signed } else { Items(after_version) })
}

struct Item<'a> {
    tag: u8,
    body: &'a [u8],
}

impl<'a> Item<'a> {
    fn inside(&self, tag: u8) -> Option<Items<'a>> {
        (self.tag == tag).then_some(Items(self.body))
    }
}

/// The values one after another in some DER (X.690, 8.1), up to the first that is cut.
#[derive(Clone, Copy)]
struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // DER has no indefinite length, and nothing here has four gigabytes.
            0x80 | 0x85.. => return None,
            0x81..=0x84 => {
                let (len, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
            }
        };
        let (body, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(Item { tag, body })
    }
}

const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, of the signed part.
const VERSION: u8 = 0xa0;
/// `[3]`, of the signed part.
const EXTENSIONS: u8 = 0xa3;
/// `[2]`, of a general name.
const DNS_NAME: u8 = 0x82;
/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
