//! What a child writes, taken apart into lines (MCP basic/transports, "stdio": messages are delimited by newlines, and
//! hold none). Whatever the pieces are in which it arrives, the lines are the same.

use crate::base::limits::BUFFER_BYTES;

/// Takes a child's output apart. It holds one line that is not complete, no longer than its bound.
#[derive(Debug)]
pub struct Splitter {
    line: Vec<u8>,
    line_max: usize,
    /// The line under way was too long, and what is left of it is thrown away.
    skipping: bool,
    too_long: u64,
}

impl Splitter {
    /// For lines of at most `line_max` bytes, their ends not counted.
    #[must_use]
    pub fn new(line_max: usize) -> Self {
        Self { line: Vec::new(), line_max, skipping: false, too_long: 0 }
    }

    /// The next bytes: each line that is complete with them goes to `each`, without its end (`\n` or `\r\n`). Empty ones
    /// do not.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            let (rest, behind) = (&bytes[..at], &bytes[at + 1..]);
            bytes = behind;
            if self.skipping {
                self.skipping = false;
            } else if self.line.is_empty() {
                self.tell(rest, &mut each);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(rest);
                self.tell(&line, &mut each);
                // A child that falls silent holds no more than it does before it begins.
                if line.capacity() <= BUFFER_BYTES {
                    line.clear();
                    self.line = line;
                }
            }
        }
        if self.skipping {
            return;
        }
        // The end of the line may still be `\r\n`, which is not counted.
        if self.line.len() + bytes.len() > self.line_max + 1 {
            self.skip();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    /// What is held of a line that is not complete, bytes: one more than a line may have, at most.
    #[must_use]
    pub fn held(&self) -> usize {
        self.line.len()
    }

    /// How many lines were too long.
    #[must_use]
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    fn tell(&mut self, line: &[u8], each: &mut impl FnMut(&[u8])) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.line_max {
            self.too_long += 1;
        } else if !line.is_empty() {
            each(line);
        }
    }

    fn skip(&mut self) {
        self.line = Vec::new();
        self.skipping = true;
        self.too_long += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(line_max: usize, pieces: &[&str], want: &[&str], too_long: u64) {
        let mut splitter = Splitter::new(line_max);
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.push(piece.as_bytes(), |line| lines.push(String::from_utf8_lossy(line).into_owned()));
        }
        assert_eq!((lines, splitter.too_long()), (want.iter().map(|it| (*it).to_owned()).collect(), too_long));
    }

    #[test]
    fn lines_are_found_in_any_pieces() {
        check(8, &["{}\n{}"], &["{}"], 0);
        check(8, &["{", "}", "\n", "[]\r", "\n"], &["{}", "[]"], 0);
        check(8, &["\n\r\n\n"], &[], 0);
        check(8, &["a\rb\n"], &["a\rb"], 0);
        // Too long by one, found at its end, or before.
        check(4, &["12345\n", "1234\r\n", "12345\r\n"], &["1234"], 2);
        check(4, &["123456", "7\n", "ok\n"], &["ok"], 1);
        check(4, &["12345", "\r\n", "ok\n"], &["ok"], 1);
        check(0, &["\n", "x\n"], &[], 1);
    }

    #[test]
    fn a_silent_child_holds_no_more_than_before() {
        let mut splitter = Splitter::new(1 << 20);
        splitter.push(&vec![b'x'; 1 << 20], |_| {});
        let mut lines = 0;
        splitter.push(b"\n", |line| lines += line.len());
        assert_eq!((lines, splitter.line.capacity()), (1 << 20, 0));
    }

    proptest! {
        #[test]
        fn lines_are_those_of_splitting(data in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200)) {
            crate::stdio::fuzz::lines(&data);
        }
    }
}
