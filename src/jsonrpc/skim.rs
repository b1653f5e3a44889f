//! Over what lies deep in an answer, from the bracket that opens it to the one that closes it. What is seen to: the
//! text is UTF-8, strings are closed and have no control characters, brackets match and are not too deep, and outside
//! of strings stands nothing that JSON does not have there, so that no reader, however lenient, sees a string begin or
//! end elsewhere. What is not: the order of values, commas and colons, the form of numbers and escapes, names that
//! stand twice.

use std::ops::Range;

use super::lanes::Lanes;
use super::machine::Tail;
use super::scan::ScanFault;
use crate::base::limits::DEPTH_MAX;

/// How far it has come. It stops and goes on at any byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skim {
    /// Containers open around the one that is skimmed.
    floor: usize,
    pub(super) depth: usize,
    /// A bit per open container, the innermost lowest: is it an object?
    objects: u64,
    pub(super) quoted: bool,
    /// The last byte was a backslash that counts.
    pub(super) escaped: bool,
    /// Bytes that must follow in a UTF-8 sequence.
    pub(super) tail: Tail,
}

/// How a piece came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skimmed {
    /// The container ended before this place.
    End(usize),
    /// The piece did.
    More,
    /// This byte is wrong.
    Fault(ScanFault, usize),
}

impl Skim {
    /// For a container within `depth` others, of which `objects` are objects.
    #[inline]
    pub(super) fn new(depth: usize, objects: u64) -> Self {
        Self { floor: depth, depth, objects, quoted: false, escaped: false, tail: Tail::NONE }
    }

    /// On from `at`, which for a new one is its opening bracket.
    #[inline]
    pub(super) fn run(&mut self, lanes: Lanes, piece: &[u8], at: usize) -> Skimmed {
        lanes.skim(self, piece, at)
    }

    /// Byte by byte: what the other way has to agree with.
    pub(super) fn slowly(&mut self, piece: &[u8], range: Range<usize>) -> Skimmed {
        for (at, &byte) in piece.iter().enumerate().take(range.end).skip(range.start) {
            if self.quoted {
                if let Err(fault) = self.in_text(byte) {
                    return Skimmed::Fault(fault, at);
                }
                continue;
            }
            match byte {
                b'"' => self.quoted = true,
                b'{' | b'[' | b'}' | b']' => match self.bracket(byte) {
                    Ok(true) => return Skimmed::End(at + 1),
                    Ok(false) => {}
                    Err(fault) => return Skimmed::Fault(fault, at),
                },
                _ if is_outside(byte) => {}
                _ => return Skimmed::Fault(ScanFault::Syntax, at),
            }
        }
        Skimmed::More
    }

    fn in_text(&mut self, byte: u8) -> Result<(), ScanFault> {
        if self.tail.left > 0 {
            self.tail = self.tail.then(byte).ok_or(ScanFault::InvalidUtf8)?;
        } else if byte < 0x20 {
            return Err(ScanFault::ControlCharacter);
        } else if byte >= 0x80 {
            self.escaped = false;
            self.tail = Tail::behind(byte).ok_or(ScanFault::InvalidUtf8)?;
        } else if self.escaped {
            self.escaped = false;
        } else {
            self.escaped = byte == b'\\';
            self.quoted = byte != b'"';
        }
        Ok(())
    }

    /// Takes the brackets of a block, outside of strings, one after the other.
    #[inline(always)]
    pub(super) fn brackets(&mut self, block: &[u8; 64], brackets: u64) -> Skimmed {
        let mut left = brackets;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            match self.bracket(block[at % 64]) {
                Ok(false) => {}
                Ok(true) => return Skimmed::End(at.wrapping_add(1)),
                Err(fault) => return Skimmed::Fault(fault, at),
            }
        }
        Skimmed::More
    }

    /// A bracket outside of strings; tells whether it was the last.
    #[inline(always)]
    pub(super) fn bracket(&mut self, byte: u8) -> Result<bool, ScanFault> {
        let object = u64::from(byte >> 5 & 1);
        // The bit that tells `{` and `[` from `}` and `]`.
        if byte & 2 != 0 {
            if self.depth >= DEPTH_MAX {
                return Err(ScanFault::TooDeep);
            }
            self.objects = self.objects << 1 | object;
            self.depth = self.depth.wrapping_add(1);
            return Ok(false);
        }
        if self.objects & 1 != object {
            return Err(ScanFault::Syntax);
        }
        self.objects >>= 1;
        self.depth = self.depth.wrapping_sub(1);
        Ok(self.depth == self.floor)
    }
}

/// How many bytes there are of a character that goes on behind these.
pub(super) fn open_tail(bytes: &[u8]) -> usize {
    let mut last = bytes.iter().rev().zip(1..=3);
    let begin = last.find(|(byte, _)| **byte >= 0xc0);
    // It goes on if it is longer than what there is of it: of two bytes from c0 on, of three from e0 on, then of four.
    begin.map_or(0, |(byte, back)| if *byte >= [0xc0, 0xe0, 0xf0][back - 1] { back } else { 0 })
}

/// Whether JSON has this byte outside of strings: white space, punctuation, numbers, `true`, `false`, `null`.
pub(super) const fn is_outside(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t' | b'\n' | b'\r' | b'"' | b',' | b':' | b'{' | b'}' | b'[' | b']' | b'+' | b'-' | b'.' | b'0'
            ..=b'9' | b'e' | b'E' | b't' | b'r' | b'u' | b'f' | b'a' | b'l' | b's' | b'n'
    )
}
