//! One digest for each value, however it is written.

use ring::digest;

use super::value::Value;

/// SHA-256 over the canonical bytes of a JSON value: numbers, escapes, blanks and the order of members may differ. What is
/// no JSON has a digest of its own.
#[must_use]
pub fn digest(raw: &[u8]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    match Value::read(raw) {
        Some(value) => value.feed(&mut |bytes| hash.update(bytes)),
        None => {
            // No value's bytes begin so.
            hash.update(b"!");
            hash.update(raw);
        }
    }
    let mut whole = [0; 32];
    whole.copy_from_slice(hash.finish().as_ref());
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_arguments_have_the_same_digest() {
        let want = digest(br#"{"amount":2,"to":"a/b","lines":[1,{"x":null,"y":-0}]}"#);
        for same in [
            r#"{ "to" : "\u0061\/b", "lines":[1.0,{"y":0,"x":null}],"\u0061mount":0.2e1 }"#,
            "{\"lines\":[10e-1,{\"x\":null,\"y\":0.0}],\n\"to\":\"a/b\",\"amount\":2.00}",
        ] {
            assert_eq!(digest(same.as_bytes()), want, "{same}");
        }
        for other in [
            r#"{"amount":2.01,"to":"a/b","lines":[1,{"x":null,"y":-0}]}"#,
            r#"{"amount":2,"to":"a/b ","lines":[1,{"x":null,"y":-0}]}"#,
            r#"{"amount":2,"to":"a/b","lines":[{"x":null,"y":-0},1]}"#,
            r#"{"amount":2,"to":"a/b","lines":[1,{"x":null}]}"#,
            r#"{"amount":"2","to":"a/b","lines":[1,{"x":null,"y":-0}]}"#,
            "{}",
            "null",
            "nonsense",
            "",
        ] {
            assert_ne!(digest(other.as_bytes()), want, "{other}");
        }
        assert_ne!(digest(b""), digest(b"n"));
        assert_ne!(digest(b"{}"), digest(b"[]"));
    }
}
