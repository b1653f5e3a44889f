//! Bytes put one behind the other where there is room for them: a record costs its writers little more than the copy.

/// Two decimal digits of every number below a hundred.
const PAIRS: [[u8; 2]; 100] = pairs();
/// Two hexadecimal digits of every byte.
const HEX: [[u8; 2]; 256] = hex();

/// Puts bytes into a slice. What finds no room is left out, with all that would come behind it.
#[derive(Debug)]
pub struct Put<'a> {
    room: &'a mut [u8],
    all: usize,
}

impl<'a> Put<'a> {
    /// From the slice's first byte on.
    #[must_use]
    pub fn new(room: &'a mut [u8]) -> Self {
        let all = room.len();
        Self { room, all }
    }

    /// What has been put so far, bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.all.saturating_sub(self.room.len())
    }

    /// Whether nothing has been put so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes whose number is known beforehand: no more than a move or two.
    #[inline]
    pub fn array<const N: usize>(&mut self, bytes: &[u8; N]) {
        if let Some(place) = self.place() {
            *place = *bytes;
        }
    }

    /// Room to be filled in later.
    #[inline]
    pub fn place<const N: usize>(&mut self) -> Option<&'a mut [u8; N]> {
        let Some((place, rest)) = std::mem::take(&mut self.room).split_first_chunk_mut() else { return no_room() };
        self.room = rest;
        Some(place)
    }

    /// Any bytes.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(to) = self.take(bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// A number in decimal digits.
    #[inline]
    pub fn number(&mut self, number: u64) {
        let mut rest = number;
        let Some(to) = self.take(number.checked_ilog10().map_or(1, |log| log as usize + 1)) else { return };
        let mut places = to.rchunks_exact_mut(2);
        for place in places.by_ref() {
            place.copy_from_slice(pair(rest));
            rest /= 100;
        }
        if let [digit] = places.into_remainder() {
            *digit = pair(rest)[1];
        }
    }

    /// The last three decimal digits of a number.
    #[inline]
    pub fn thousandths(&mut self, number: u64) {
        let [tens, ones] = *pair(number);
        self.array(&[pair(number / 100 % 10)[1], tens, ones]);
    }

    /// Two hexadecimal digits for each byte.
    #[inline]
    pub fn hex<const N: usize>(&mut self, bytes: &[u8; N]) {
        let Some(to) = self.take(2 * N) else { return };
        for (to, byte) in to.as_chunks_mut().0.iter_mut().zip(bytes) {
            *to = hex_of(*byte);
        }
    }

    #[inline]
    fn take(&mut self, n: usize) -> Option<&'a mut [u8]> {
        let Some((to, rest)) = std::mem::take(&mut self.room).split_at_mut_checked(n) else { return no_room() };
        self.room = rest;
        Some(to)
    }
}

/// Both hexadecimal digits of a byte.
#[must_use]
#[inline]
pub fn hex_of(byte: u8) -> [u8; 2] {
    HEX[usize::from(byte)]
}

/// The last two decimal digits of a number.
#[inline]
fn pair(number: u64) -> &'static [u8; 2] {
    // Below a hundred it fits any integer.
    &PAIRS[usize::try_from(number % 100).unwrap_or_default()]
}

#[cold]
fn no_room<T: Default>() -> T {
    debug_assert!(false, "its maker asked for enough room");
    T::default()
}

const fn pairs() -> [[u8; 2]; 100] {
    let mut pairs = [[b'0'; 2]; 100];
    let (mut at, mut tens) = (0, b'0');
    while at < 100 {
        let mut ones = b'0';
        while ones <= b'9' {
            pairs[at] = [tens, ones];
            (at, ones) = (at + 1, ones + 1);
        }
        tens += 1;
    }
    pairs
}

const fn hex() -> [[u8; 2]; 256] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut hex = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        hex[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_everywhere() {
        let around = (0..20).map(|n| 10u64.pow(n)).flat_map(|n| [n - 1, n, n + 1]);
        for number in around.chain([u64::MAX, 1_795_406_979_984]) {
            let mut room = [0; 32];
            let mut put = Put::new(&mut room);
            put.number(number);
            put.array(b".");
            put.thousandths(number);
            let len = put.len();
            assert_eq!(room[..len], *format!("{number}.{:03}", number % 1000).as_bytes());
        }
    }

    #[test]
    fn bytes_as_hexadecimal_digits() {
        let all: [u8; 256] = std::array::from_fn(|byte| u8::try_from(byte).unwrap());
        let mut room = [0; 512];
        Put::new(&mut room).hex(&all);
        assert_eq!(room, *all.map(|byte| format!("{byte:02x}")).concat().as_bytes());
    }

    #[test]
    fn one_behind_the_other() {
        let mut room = [b'-'; 8];
        let mut put = Put::new(&mut room);
        assert!(put.is_empty());
        put.array(b"ab");
        put.bytes(b"");
        put.bytes(b"cde");
        assert_eq!(put.len(), 5);
        assert_eq!(room, *b"abcde---");
    }
}
