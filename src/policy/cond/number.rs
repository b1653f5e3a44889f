//! Numbers as they are written: exact, never through a float.

use std::cmp::Ordering;
use std::fmt;

use smallvec::SmallVec;

/// A number of at most 38 significant digits and a power of ten, in lowest terms: no zero ends its digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    digits: i128,
    exponent: i32,
}

impl Number {
    /// Nothing.
    pub const ZERO: Self = Self { digits: 0, exponent: 0 };

    /// A number as JSON writes it (RFC 8259, 6); `None` where it has more than 38 significant digits, or a power of ten
    /// that 32 bits do not hold.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Written::parse(text)?.number()
    }

    /// A whole number.
    #[must_use]
    pub fn whole(value: i64) -> Self {
        let (digits, zeros) = lowest(u128::from(value.unsigned_abs()));
        let digits = digits.cast_signed();
        Self { digits: if value < 0 { -digits } else { digits }, exponent: zeros.cast_signed() }
    }

    /// The sum; `None` beyond 38 digits.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        if self.digits == 0 || other.digits == 0 {
            return Some(if self.digits == 0 { other } else { self });
        }
        let (high, low) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        // The last digit of the lower one is no zero, so where they are apart it ends the sum: what has too many digits
        // here has them in the end. At most 2e38 + 1e38, which 128 bits hold.
        let apart = u32::try_from(i64::from(high.exponent) - i64::from(low.exponent)).ok()?;
        let raised = high.digits.unsigned_abs().checked_mul(10_u128.checked_pow(apart)?)?;
        let lower = low.digits.unsigned_abs();
        let (negative, sum) = if high.is_negative() == low.is_negative() {
            (high.is_negative(), raised.checked_add(lower)?)
        } else {
            (high.is_negative() == (raised >= lower), raised.abs_diff(lower))
        };
        Self::of(negative, sum, i64::from(low.exponent))
    }

    /// The difference; `None` beyond 38 digits.
    #[must_use]
    pub fn minus(self, other: Self) -> Option<Self> {
        self.plus(Self { digits: -other.digits, ..other })
    }

    /// The product; `None` beyond 38 digits.
    #[must_use]
    pub fn times(self, other: Self) -> Option<Self> {
        let (mut one, mut two) = (self.digits.unsigned_abs(), other.digits.unsigned_abs());
        if one == 0 || two == 0 {
            return Some(Self::ZERO);
        }
        // Zeros at the end of a product come of twos in the one and fives in the other. They are taken out first, since
        // what is left then has as many digits as it will have.
        let mut exponent = i64::from(self.exponent) + i64::from(other.exponent);
        for _ in 0..2 {
            while one.is_multiple_of(2) && two.is_multiple_of(5) {
                (one, two, exponent) = (one / 2, two / 5, exponent + 1);
            }
            (one, two) = (two, one);
        }
        Self::of(self.is_negative() != other.is_negative(), one.checked_mul(two)?, exponent)
    }

    /// Whether it is below nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.digits < 0
    }

    /// Digits and power of ten, for what writes it down.
    #[must_use]
    pub fn parts(self) -> (i128, i32) {
        (self.digits, self.exponent)
    }

    /// The number of these digits and this power of ten; `None` beyond 38 digits.
    #[must_use]
    pub fn of_parts(digits: i128, exponent: i32) -> Option<Self> {
        Self::of(digits < 0, digits.unsigned_abs(), i64::from(exponent))
    }

    /// The number if it is whole, not negative, and small enough.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        let power = 10_u64.checked_pow(u32::try_from(self.exponent).ok()?)?;
        u64::try_from(self.digits).ok()?.checked_mul(power)
    }

    fn of(negative: bool, digits: u128, exponent: i64) -> Option<Self> {
        if digits == 0 {
            return Some(Self::ZERO);
        }
        let (digits, zeros) = lowest(digits);
        if digits >= TOO_MANY {
            return None;
        }
        let digits = digits.cast_signed();
        let exponent = i32::try_from(exponent.checked_add(i64::from(zeros))?).ok()?;
        Some(Self { digits: if negative { -digits } else { digits }, exponent })
    }

    /// Its digits, of which there are so many, without the sign.
    fn spelled(self) -> SmallVec<[u8; DIGITS_MAX]> {
        let mut text = SmallVec::new();
        let mut left = self.digits.unsigned_abs();
        while left > 0 {
            // The rest of a division by ten.
            text.push(b'0' + u8::try_from(left % 10).unwrap_or(0));
            left /= 10;
        }
        text.reverse();
        text
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.digits.signum().cmp(&other.digits.signum());
        if signs.is_ne() || self.digits == 0 {
            return signs;
        }
        let (one, two) = (self.digits.unsigned_abs(), other.digits.unsigned_abs());
        let (of_one, of_two) = (one.ilog10(), two.ilog10());
        let first = |count: u32, exponent: i32| i64::from(count) + i64::from(exponent);
        let sizes = first(of_one, self.exponent).cmp(&first(of_two, other.exponent)).then_with(|| {
            // The same size: the one with fewer digits gets zeros behind. Neither has more than 38 then.
            let raised = |digits: u128, by: u32| digits * 10_u128.pow(by);
            raised(one, of_two.saturating_sub(of_one)).cmp(&raised(two, of_one.saturating_sub(of_two)))
        });
        if self.is_negative() { sizes.reverse() } else { sizes }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// In plain digits where that is short, else with a power of ten; either way as JSON writes it.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spelled = self.spelled();
        let digits = str::from_utf8(&spelled).unwrap_or_default();
        f.write_str(if self.is_negative() { "-" } else { "" })?;
        let places = usize::try_from(self.exponent.unsigned_abs()).unwrap_or(usize::MAX);
        if self.digits == 0 {
            f.write_str("0")
        } else if places > PLAIN_ZEROS_MAX {
            write!(f, "{digits}e{}", self.exponent)
        } else if self.exponent >= 0 {
            write!(f, "{digits}{:0<places$}", "")
        } else if digits.len() > places {
            let (whole, fraction) = digits.split_at(digits.len() - places);
            write!(f, "{whole}.{fraction}")
        } else {
            write!(f, "0.{digits:0>places$}")
        }
    }
}

/// A number as JSON writes it, taken apart: `0.d…` times ten to `lead` and to `power`, where `d…` are the digits of
/// `whole` and `fraction`, of which neither the first nor the last is a zero. Of any length.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    lead: i64,
    power_negative: bool,
    power: &'a [u8],
}

impl<'a> Written<'a> {
    /// `None` for what is no number (RFC 8259, 6).
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let signed = text.as_bytes();
        let rest = signed.strip_prefix(b"-").unwrap_or(signed);
        let negative = rest.len() < signed.len();
        let (whole, rest) = take_digits(rest)?;
        if whole.len() > 1 && whole[0] == b'0' {
            return None;
        }
        let (fraction, rest) = match rest.strip_prefix(b".") {
            Some(rest) => take_digits(rest)?,
            None => (&rest[..0], rest),
        };
        let (power_negative, power) = match rest.split_first() {
            None => (false, rest),
            Some((b'e' | b'E', rest)) => {
                let unsigned = rest.strip_prefix(b"-").or_else(|| rest.strip_prefix(b"+")).unwrap_or(rest);
                let (power, behind) = take_digits(unsigned)?;
                if !behind.is_empty() {
                    return None;
                }
                (rest[0] == b'-', without_leading(power))
            }
            Some(_) => return None,
        };
        Some(Self { negative, power_negative, power, ..Self::digits(whole, fraction)? })
    }

    fn digits(whole: &'a [u8], fraction: &'a [u8]) -> Option<Self> {
        let mut whole = without_leading(whole);
        let mut fraction = without_trailing(fraction);
        let mut lead = i64::try_from(whole.len()).ok()?;
        if fraction.is_empty() {
            whole = without_trailing(whole);
        }
        if whole.is_empty() {
            let zeros = fraction.len();
            fraction = without_leading(fraction);
            lead = -i64::try_from(zeros - fraction.len()).ok()?;
        }
        Some(Self { negative: false, whole, fraction, lead, power_negative: false, power: &[] })
    }

    /// As a number to compute with.
    fn number(&self) -> Option<Number> {
        let count = self.whole.len() + self.fraction.len();
        if count == 0 {
            return Some(Number::ZERO);
        }
        if count > DIGITS_MAX || self.power.len() > POWER_DIGITS_MAX {
            return None;
        }
        let digits = if count <= DIGITS_OF_A_WORD {
            i128::from(self.each_digit().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0')))
        } else {
            self.each_digit().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0')).cast_signed()
        };
        let power = self.power.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        let power = if self.power_negative { -power } else { power };
        let exponent = i32::try_from(power + self.lead - i64::try_from(count).ok()?).ok()?;
        Some(Number { digits: if self.negative { -digits } else { digits }, exponent })
    }

    fn each_digit(&self) -> impl Iterator<Item = u8> + '_ {
        self.whole.iter().chain(self.fraction).copied()
    }

    fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    /// `lead` and `power` together: whether it is negative, and its digits without zeros before them.
    fn size(&self) -> (bool, SmallVec<[u8; 24]>) {
        if self.power.len() <= POWER_DIGITS_MAX {
            let power = self.power.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
            let size = if self.power_negative { self.lead - power } else { self.lead + power };
            let mut buffer = itoa::Buffer::new();
            return (size < 0, SmallVec::from_slice(buffer.format(size.unsigned_abs()).as_bytes()));
        }
        // Longer than any lead, so the sign is the power's. The lead is carried from the last digit to the first.
        let mut digits = SmallVec::from_slice(self.power);
        let mut carried = if self.power_negative { -self.lead } else { self.lead };
        for digit in digits.iter_mut().rev() {
            let sum = i64::from(*digit - b'0') + carried;
            *digit = b'0' + u8::try_from(sum.rem_euclid(10)).unwrap_or(0);
            carried = sum.div_euclid(10);
        }
        if carried > 0 {
            digits.insert_from_slice(0, itoa::Buffer::new().format(carried).as_bytes());
        }
        let zeros = digits.len() - without_leading(&digits).len();
        digits.drain(..zeros);
        (self.power_negative, digits)
    }

    /// By value.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let sign = |it: &Self| match (it.is_zero(), it.negative) {
            (true, _) => 0,
            (false, negative) => 1 - 2 * i8::from(negative),
        };
        let signs = sign(self).cmp(&sign(other));
        if signs.is_ne() || self.is_zero() {
            return signs;
        }
        let ((below, size), (other_below, other_size)) = (self.size(), other.size());
        let sizes = match (below, other_below) {
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (both, _) => {
                let order = size.len().cmp(&other_size.len()).then_with(|| size.cmp(&other_size));
                if both { order.reverse() } else { order }
            }
        };
        let order = sizes.then_with(|| self.each_digit().cmp(other.each_digit()));
        if self.negative { order.reverse() } else { order }
    }

    /// The same bytes for the same value, other ones for another; a semicolon ends them.
    pub(super) fn feed(&self, out: &mut dyn FnMut(&[u8])) {
        if !self.is_zero() {
            let (below, size) = self.size();
            out(if self.negative { b"-" } else { b"+" });
            out(if below { b"-" } else { b"+" });
            out(&size);
            out(b".");
            out(self.whole);
            out(self.fraction);
        }
        out(b";");
    }
}

/// Calls `then` with a number as it would be written.
pub(super) fn written<R>(number: Number, then: impl FnOnce(&Written<'_>) -> R) -> R {
    let digits = number.spelled();
    // At most 38 digits: the conversion holds.
    let lead = i64::try_from(digits.len()).unwrap_or(0) + i64::from(number.exponent);
    let negative = number.is_negative();
    then(&Written { negative, whole: &digits, fraction: &[], lead, power_negative: false, power: &[] })
}

/// The digits that `text` begins with, of which there is one at least, and what follows.
fn take_digits(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn without_leading(digits: &[u8]) -> &[u8] {
    let first = digits.iter().position(|&digit| digit != b'0').unwrap_or(digits.len());
    &digits[first..]
}

fn without_trailing(digits: &[u8]) -> &[u8] {
    let end = digits.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
    &digits[..end]
}

/// Without the zeros at the end, and how many these were.
fn lowest(digits: u128) -> (u128, u32) {
    let mut zeros = 0;
    let mut left = digits;
    // Divisions of 64 bits are ten times as fast, and most numbers are short.
    while left > u128::from(u64::MAX) && left.is_multiple_of(10) {
        (left, zeros) = (left / 10, zeros + 1);
    }
    if let Ok(mut short) = u64::try_from(left) {
        while short != 0 && short.is_multiple_of(10) {
            (short, zeros) = (short / 10, zeros + 1);
        }
        left = u128::from(short);
    }
    (left, zeros)
}

/// Significant digits of a number that is computed with.
const DIGITS_MAX: usize = 38;
/// Any of so many fit into 64 bits.
const DIGITS_OF_A_WORD: usize = 19;
/// The first number of more.
const TOO_MANY: u128 = 10_u128.pow(38);
/// Digits of a power of ten that 64 bits hold, with room for any length of a message.
const POWER_DIGITS_MAX: usize = 17;
/// Zeros that are written before a number is written with a power of ten.
const PLAIN_ZEROS_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap_or_else(|| panic!("{text} is no number"))
    }

    /// Parts and text of a number as it is written.
    fn check(text: &str, parts: (i128, i32), shown: &str) {
        let number = number(text);
        assert_eq!(number.parts(), parts, "{text}");
        assert_eq!(number.to_string(), shown, "{text}");
        assert_eq!(Number::parse(shown), Some(number), "what is shown can be read: {shown}");
    }

    #[test]
    fn numbers_are_in_lowest_terms() {
        check("0", (0, 0), "0");
        check("-0", (0, 0), "0");
        check("0.000e7", (0, 0), "0");
        check("0e99999999999999999999", (0, 0), "0");
        check("2.0", (2, 0), "2");
        check("0.2e1", (2, 0), "2");
        check("20E-1", (2, 0), "2");
        check("100", (1, 2), "100");
        check("-12.50", (-125, -1), "-12.5");
        check("0.001", (1, -3), "0.001");
        check("1.05e-2", (105, -4), "0.0105");
        check("9007199254740993", (9_007_199_254_740_993, 0), "9007199254740993");
        check("1e400", (1, 400), "1e400");
        check("-2.5e-400", (-25, -401), "-25e-401");
        check("1e999999999", (1, 999_999_999), "1e999999999");
        check("1e+0000000000000000000000000000000000003", (1, 3), "1000");
        check(&format!("{}e-1", i64::MAX), (i64::MAX.into(), -1), "922337203685477580.7");
        check(&"9".repeat(38), (10_i128.pow(38) - 1, 0), &"9".repeat(38));
        check(&format!("1{}", "0".repeat(500)), (1, 500), "1e500");
        check(&format!("0.{}1{}", "0".repeat(99), "0".repeat(99)), (1, -100), "1e-100");
    }

    #[test]
    fn what_is_too_long_or_no_number_is_none() {
        for text in ["1e99999999999", "1e2147483648", "1e-99999999999999999999", &"1".repeat(39), "0.1e-2147483648"] {
            assert_eq!(Number::parse(text), None, "{text}");
            assert!(Written::parse(text).is_some(), "{text} is a number all the same");
        }
        for text in
            ["", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "1e1.0", "0x1", "1 ", " 1", "1f", "NaN", "--1"]
        {
            assert!(Number::parse(text).is_none() && Written::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn sums_and_products_are_exact() {
        let sum = |one: &str, two: &str| number(one).plus(number(two));
        let product = |one: &str, two: &str| number(one).times(number(two));
        assert_eq!(sum("0.1", "0.2"), Some(number("0.3")));
        assert_eq!(number("1").minus(number("0.9")), Some(number("0.1")));
        assert_eq!(sum("9007199254740993", "1"), Some(number("9007199254740994")));
        assert_eq!(sum("5", "-5"), Some(Number::ZERO));
        assert_eq!(sum("1e400", "1e400"), Some(number("2e400")));
        assert_eq!(sum("1e400", "1"), None);
        assert_eq!(sum("1e999999999", "0"), Some(number("1e999999999")));
        assert_eq!(sum("1e2147483647", "1e-2147483648"), None);
        let nines = "9".repeat(38);
        assert_eq!(sum(&nines, "1"), Some(number("1e38")));
        assert_eq!(sum(&nines, "2"), None);
        assert_eq!(sum(&nines, &nines), None);
        assert_eq!(sum("1e38", "-1"), Some(number(&nines)));
        let low = "-90000000000000000000000000000000000001";
        assert_eq!(sum("18e37", low), Some(number("89999999999999999999999999999999999999")));
        assert_eq!(sum("2e38", low), None);
        assert_eq!(product("4.99", "100"), Some(number("499")));
        assert_eq!(product("-0.5", "0.2"), Some(number("-0.1")));
        assert_eq!(product("0", "1e999999999"), Some(Number::ZERO));
        assert_eq!(product("1e2000000000", "1e2000000000"), None, "32 bits do not hold the power");
        // 2^100 * 5^50 has 66 digits, of which 50 are zeros.
        let (twos, fives) = (1_u128 << 100, 5_u128.pow(50));
        assert_eq!(product(&twos.to_string(), &fives.to_string()), Some(number(&format!("{}e50", 1_u64 << 50))));
        assert_eq!(product(&fives.to_string(), &twos.to_string()), Some(number(&format!("{}e50", 1_u64 << 50))));
        assert_eq!(product(&nines, &nines), None);
        // A hundred sums to the cent.
        let cents = (0..100).try_fold(Number::ZERO, |sum, _| sum.plus(number("0.01")));
        assert_eq!(cents, Some(Number::whole(1)));
    }

    #[test]
    fn numbers_are_ordered_by_value() {
        let rising = [
            "-1e999999999",
            "-10",
            "-9.99",
            "-1",
            "-0.1",
            "-1e-999999999",
            "0",
            "1e-400",
            "0.0999999",
            "0.1",
            "0.2",
            "1",
            "1.000000001",
            "2",
            "9007199254740992",
            "9007199254740993",
            "1e38",
            "1e400",
            "1e999999999",
        ];
        for (at, one) in rising.iter().enumerate() {
            for (other_at, other) in rising.iter().enumerate() {
                assert_eq!(number(one).cmp(&number(other)), at.cmp(&other_at), "{one} {other}");
                let (one, other) = (Written::parse(one).unwrap(), Written::parse(other).unwrap());
                assert_eq!(one.compare(&other), at.cmp(&other_at));
            }
        }
    }

    #[test]
    fn long_numbers_compare_exactly() {
        let long = "1".repeat(50);
        let huge = "9".repeat(60);
        let rising = [
            format!("-1e{huge}"),
            format!("-{long}1"),
            format!("-{long}"),
            format!("-1e-{huge}"),
            "0".to_owned(),
            format!("1e-{huge}0"),
            format!("1e-{huge}"),
            format!("10e-{huge}"),
            "1e-99999999999999999999".to_owned(),
            format!("0.{long}"),
            format!("0.{long}01"),
            format!("{long}.5"),
            "1e50".to_owned(),
            "1e99999999999999998".to_owned(),
            "1e99999999999999999".to_owned(),
            "1e100000000000000000".to_owned(),
            "100e99999999999999999".to_owned(),
            format!("0.1e{huge}"),
            format!("1e{huge}"),
            format!("1e1{}", "0".repeat(60)),
        ];
        for (at, one) in rising.iter().enumerate() {
            for (other_at, other) in rising.iter().enumerate() {
                let (one, other) = (Written::parse(one).unwrap(), Written::parse(other).unwrap());
                assert_eq!(one.compare(&other), at.cmp(&other_at), "{at} {other_at}");
            }
        }
        let same = [format!("1e{huge}"), format!("0.01e1{}1", "0".repeat(59)), format!("10e{}8", "9".repeat(59))];
        let fed: Vec<Vec<u8>> = same.iter().map(|text| fed(text)).collect();
        assert!(fed.iter().all(|bytes| *bytes == fed[0]), "{same:?}");
    }

    fn fed(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        Written::parse(text).unwrap().feed(&mut |some| bytes.extend_from_slice(some));
        if let Some(number) = Number::parse(text) {
            let mut again = Vec::new();
            written(number, |it| it.feed(&mut |some| again.extend_from_slice(some)));
            assert_eq!(bytes, again, "{text}");
        }
        bytes
    }

    proptest! {
        /// Against plain arithmetic of hundredths.
        #[test]
        fn arithmetic_agrees_with_hundredths(one in -10_i128.pow(15)..10_i128.pow(15), two in -10_i128.pow(15)..10_i128.pow(15)) {
            let (left, right) = (Number::of_parts(one, -2).unwrap(), Number::of_parts(two, -2).unwrap());
            prop_assert_eq!(left.plus(right), Number::of_parts(one + two, -2));
            prop_assert_eq!(left.minus(right), Number::of_parts(one - two, -2));
            prop_assert_eq!(left.times(right), Number::of_parts(one * two, -4));
            prop_assert_eq!(left.cmp(&right), one.cmp(&two));
        }

        /// Two ways to write a number are one number, whichever they are.
        #[test]
        fn order_and_bytes_agree(one in "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,4})?(e-?[0-9]{1,2})?", two in "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,4})?(e-?[0-9]{1,2})?") {
            let order = number(&one).cmp(&number(&two));
            prop_assert_eq!(Written::parse(&one).unwrap().compare(&Written::parse(&two).unwrap()), order);
            prop_assert_eq!(fed(&one) == fed(&two), order.is_eq());
            prop_assert_eq!(number(&one) == number(&two), order.is_eq());
            prop_assert_eq!(Number::parse(&number(&one).to_string()), Some(number(&one)));
        }
    }
}
