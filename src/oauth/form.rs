//! Forms (`application/x-www-form-urlencoded`), which hold secrets here: wiped when they are let go of.

use zeroize::Zeroize as _;

use crate::base::secret::Secret;

/// The body of a POST, as it grows.
#[derive(Default)]
pub struct Form(Vec<u8>);

/// What a form is called.
pub const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

impl Form {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more parameter. Empty values are left out: they would mean the same (RFC 6749, 3.2).
    pub fn add(&mut self, name: &str, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        if !self.0.is_empty() {
            self.push(b'&');
        }
        self.encode(name.as_bytes());
        self.push(b'=');
        self.encode(value);
    }

    /// The bytes to send.
    #[must_use]
    pub fn finish(self) -> Secret {
        Secret::new(self.0.as_slice())
    }

    fn encode(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b' ' => self.push(b'+'),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => self.push(byte),
                _ => {
                    self.push(b'%');
                    self.push(HEX[usize::from(byte >> 4)]);
                    self.push(HEX[usize::from(byte & 15)]);
                }
            }
        }
    }

    /// Where it must move to grow, what it leaves behind is wiped.
    fn push(&mut self, byte: u8) {
        if self.0.len() == self.0.capacity() {
            let mut larger = Vec::with_capacity((self.0.len() * 2).max(1024));
            larger.extend_from_slice(&self.0);
            self.0.zeroize();
            self.0 = larger;
        }
        self.0.push(byte);
    }
}

impl Drop for Form {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Form({} bytes)", self.0.len())
    }
}

/// One value, encoded as in a form (RFC 6749, appendix B).
#[must_use]
pub fn encoded(value: &[u8]) -> Secret {
    let mut form = Form::new();
    form.encode(value);
    form.finish()
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_as_forms_are() {
        // RFC 6749, appendix B.
        assert_eq!(encoded(" %&+£€".as_bytes()).reveal(), b"+%25%26%2B%C2%A3%E2%82%AC");
        let mut form = Form::new();
        form.add("grant_type", b"client_credentials");
        form.add("scope", b"");
        form.add("resource", b"https://a.example/b?c=d&e#f");
        let want = "grant_type=client_credentials&resource=https%3A%2F%2Fa.example%2Fb%3Fc%3Dd%26e%23f";
        assert_eq!(form.finish().reveal(), want.as_bytes());
    }

    #[test]
    fn url_reads_what_was_written() {
        let long: Vec<(String, Vec<u8>)> =
            (0..200).map(|n| (format!("n {n}&="), format!("{n}=é\n\0%41+ ").repeat(9).into_bytes())).collect();
        let mut form = Form::new();
        long.iter().for_each(|(name, value)| form.add(name, value));
        let sent = form.finish();
        let read = url::form_urlencoded::parse(sent.reveal());
        let read: Vec<(String, Vec<u8>)> =
            read.map(|(name, value)| (name.into_owned(), value.into_owned().into_bytes())).collect();
        assert_eq!(read, long);
    }
}
