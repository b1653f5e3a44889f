//! Values taken apart and owned, and arithmetic as at school: what the slow twin counts with. It shares nothing with
//! `value` and `number`, so that neither can be wrong alone.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(String),
    List(Vec<Plain>),
    /// By name, in the order of their bytes.
    Object(BTreeMap<String, Plain>),
}

impl Plain {
    /// `None` for what is no JSON.
    pub(super) fn read(raw: &[u8]) -> Option<Self> {
        let raw: &RawValue = serde_json::from_slice(raw).ok()?;
        Self::of(raw)
    }

    fn of(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        Some(match text.chars().next()? {
            'n' => Self::Null,
            't' => Self::Bool(true),
            'f' => Self::Bool(false),
            '"' => Self::Text(serde_json::from_str(text).ok()?),
            '[' => {
                let all: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                Self::List(all.into_iter().map(Self::of).collect::<Option<_>>()?)
            }
            '{' => {
                let all: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
                let member = |(name, value)| Some((name, Self::of(value)?));
                Self::Object(all.into_iter().map(member).collect::<Option<_>>()?)
            }
            _ => Self::Number(Decimal::read(text)?),
        })
    }

    /// Whether the other is of the same type.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Canonical bytes, which are compared across versions: `n`, `t`, `f`; a number as `#`, its sign, the sign and digits
    /// of its size, `.`, its digits, `;` (zero: `#;`); a text in `"` and the byte 255; a list in brackets; an object's
    /// names and values in braces.
    pub(super) fn spell(&self, out: &mut Vec<u8>) {
        let text = |text: &str, out: &mut Vec<u8>| {
            out.push(b'"');
            out.extend_from_slice(text.as_bytes());
            out.push(255);
        };
        match self {
            Self::Null => out.push(b'n'),
            Self::Bool(true) => out.push(b't'),
            Self::Bool(false) => out.push(b'f'),
            Self::Number(number) => out.extend_from_slice(number.spelled().as_bytes()),
            Self::Text(it) => text(it, out),
            Self::List(all) => {
                out.push(b'[');
                all.iter().for_each(|one| one.spell(out));
                out.push(b']');
            }
            Self::Object(all) => {
                out.push(b'{');
                for (name, value) in all {
                    text(name, out);
                    value.spell(out);
                }
                out.push(b'}');
            }
        }
    }
}

/// A whole number of any length: its digits, the last one first, without zeros at the front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    negative: bool,
    digits: Vec<u8>,
}

impl Whole {
    fn new(negative: bool, mut digits: Vec<u8>) -> Self {
        while digits.last() == Some(&0) {
            digits.pop();
        }
        Self { negative: negative && !digits.is_empty(), digits }
    }

    fn read(negative: bool, text: &str) -> Self {
        Self::new(negative, text.bytes().rev().map(|digit| digit - b'0').collect())
    }

    fn of(value: usize) -> Self {
        Self::read(false, &value.to_string())
    }

    fn text(&self) -> String {
        self.digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect()
    }

    fn negated(&self) -> Self {
        Self::new(!self.negative, self.digits.clone())
    }

    fn size_order(&self, other: &Self) -> Ordering {
        let lengths = self.digits.len().cmp(&other.digits.len());
        lengths.then_with(|| self.digits.iter().rev().cmp(other.digits.iter().rev()))
    }

    fn plus(&self, other: &Self) -> Self {
        let length = self.digits.len().max(other.digits.len());
        let digit = |of: &Self, at: usize| i16::from(of.digits.get(at).copied().unwrap_or(0));
        let (large, small) = if self.size_order(other).is_ge() { (self, other) } else { (other, self) };
        let alike = self.negative == other.negative;
        let (mut sum, mut carried) = (Vec::new(), 0);
        for at in 0..=length {
            let place = digit(large, at) + carried + if alike { digit(small, at) } else { -digit(small, at) };
            sum.push(u8::try_from(place.rem_euclid(10)).unwrap_or(0));
            carried = place.div_euclid(10);
        }
        Self::new(large.negative, sum)
    }

    fn times(&self, other: &Self) -> Self {
        let mut places = vec![0_u64; self.digits.len() + other.digits.len()];
        for (at, one) in self.digits.iter().enumerate() {
            for (other_at, other) in other.digits.iter().enumerate() {
                places[at + other_at] += u64::from(*one) * u64::from(*other);
            }
        }
        let mut carried = 0;
        let carry = |place: &u64| {
            carried += *place;
            let digit = u8::try_from(carried % 10).unwrap_or(0);
            carried /= 10;
            digit
        };
        Self::new(self.negative != other.negative, places.iter().map(carry).collect())
    }

    /// With so many zeros behind.
    fn raised(&self, zeros: usize) -> Self {
        Self::new(self.negative, [vec![0; zeros], self.digits.clone()].concat())
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.size_order(other),
            (true, true) => other.size_order(self),
        }
    }

    fn small(&self) -> Option<i64> {
        (self.digits.len() < 18)
            .then(|| self.digits.iter().rev().fold(0, |sum, digit| sum * 10 + i64::from(*digit)))
            .map(|value| if self.negative { -value } else { value })
    }
}

/// `digits` times ten to the power of `power`. No zero is last, and nothing has the power zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    digits: Whole,
    power: Whole,
}

impl Decimal {
    /// `None` for what JSON would not write.
    pub(super) fn read(text: &str) -> Option<Self> {
        // Whether it is one, serde_json says.
        let _: &RawValue = serde_json::from_str(text).ok().filter(|raw: &&RawValue| raw.get() == text)?;
        let lower = text.to_ascii_lowercase();
        let (mantissa, power) = lower.split_once('e').unwrap_or((&lower, "0"));
        let unsigned = mantissa.trim_start_matches('-');
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        if !unsigned.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        let power = Whole::read(power.starts_with('-'), power.trim_start_matches(['-', '+']));
        let digits = Whole::read(mantissa.starts_with('-'), &format!("{whole}{fraction}"));
        Some(Self::new(digits, power.plus(&Whole::of(fraction.len()).negated())))
    }

    fn new(digits: Whole, power: Whole) -> Self {
        let zeros = digits.digits.iter().take_while(|digit| **digit == 0).count();
        if digits.digits.is_empty() {
            return Self { power: Whole::of(0), digits };
        }
        let kept = Whole::new(digits.negative, digits.digits[zeros..].to_vec());
        Self { digits: kept, power: power.plus(&Whole::of(zeros)) }
    }

    pub(super) fn of(value: u64) -> Self {
        Self::new(Whole::read(false, &value.to_string()), Whole::of(0))
    }

    /// Itself, if it can be computed with: 38 digits, and a power of ten of 32 bits.
    fn short(self) -> Option<Self> {
        let power = self.power.small().filter(|power| i32::try_from(*power).is_ok());
        (self.digits.digits.len() <= 38 && power.is_some()).then_some(self)
    }

    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        let (one, other) = (self.clone().short()?, other.clone().short()?);
        if one.digits.digits.is_empty() || other.digits.digits.is_empty() {
            return Some(if one.digits.digits.is_empty() { other } else { one });
        }
        let (powers, other_powers) = (one.power.small()?, other.power.small()?);
        let low = powers.min(other_powers);
        let raised = |it: &Self, power: i64| {
            // The other's last digit stands that far from this one's first: no zeros, and more than 38 digits.
            let apart = usize::try_from(power - low).ok().filter(|apart| *apart <= 100)?;
            Some(it.digits.raised(apart))
        };
        let sum = raised(&one, powers)?.plus(&raised(&other, other_powers)?);
        let low = if powers < other_powers { one.power } else { other.power };
        Self::new(sum, low).short()
    }

    pub(super) fn negated(&self) -> Option<Self> {
        let short = self.clone().short()?;
        Some(Self { digits: short.digits.negated(), power: short.power })
    }

    pub(super) fn times(&self, other: &Self) -> Option<Self> {
        let (one, other) = (self.clone().short()?, other.clone().short()?);
        Self::new(one.digits.times(&other.digits), one.power.plus(&other.power)).short()
    }

    /// Where its first digit stands: 1 for 1 to 9, 0 for 0.1.
    fn size(&self) -> Whole {
        self.power.plus(&Whole::of(self.digits.digits.len()))
    }

    pub(super) fn order(&self, other: &Self) -> Ordering {
        let sign = |it: &Self| match (it.digits.digits.is_empty(), it.digits.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let signs = sign(self).cmp(&sign(other));
        if signs.is_ne() || sign(self) == 0 {
            return signs;
        }
        let order = self.size().order(&other.size());
        let order = order.then_with(|| self.digits.text().cmp(&other.digits.text()));
        if self.digits.negative { order.reverse() } else { order }
    }

    /// As JSON writes it, if it can be computed with.
    pub(super) fn text(&self) -> Option<String> {
        let short = self.clone().short()?;
        let sign = if short.digits.negative { "-" } else { "" };
        let digits = short.digits.text();
        Some(format!("{sign}{}e{}", if digits.is_empty() { "0" } else { &digits }, short.power.small()?))
    }

    fn spelled(&self) -> String {
        if self.digits.digits.is_empty() {
            return "#;".to_owned();
        }
        let sign = |negative: bool| if negative { '-' } else { '+' };
        let size = self.size();
        let size_text = if size.digits.is_empty() { "0".to_owned() } else { size.text() };
        format!("#{}{}{size_text}.{};", sign(self.digits.negative), sign(size.negative), self.digits.text())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::value::{Num, Value};
    use super::super::{Number, number};
    use super::*;

    /// Numbers of all lengths, near each other often enough.
    fn any_number() -> impl Strategy<Value = String> {
        let digits = prop_oneof!["[0-9]{1,3}", "[09]{1,5}", "[0-9]{30,42}", "9{36,40}"];
        let power = prop_oneof![
            4 => Just(String::new()),
            4 => (-40_i32..40).prop_map(|power| format!("e{power}")),
            1 => "E\\+?0{0,2}214748364[5-9]",
            1 => "e-214748364[5-9]",
            1 => "e-?9{15,40}",
        ];
        ("-?", digits, prop_oneof![Just(String::new()), "\\.[0-9]{1,4}", "\\.[09]{1,30}"], power).prop_map(
            |(sign, digits, fraction, power)| {
                let whole = digits.trim_start_matches('0');
                format!("{sign}{}{fraction}{power}", if whole.is_empty() { "0" } else { whole })
            },
        )
    }

    fn same(exact: Option<Number>, plain: Option<Decimal>) {
        assert_eq!(
            exact.map(|it| it.to_string()),
            plain.as_ref().and_then(Decimal::text).map(|it| number::Number::parse(&it).unwrap().to_string())
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        /// Two ways to count, made apart, come to the same.
        #[test]
        fn numbers_agree(one in any_number(), other in any_number()) {
            let (left, right) = (Num::read(&one).unwrap(), Num::read(&other).unwrap());
            let (plain, plain_other) = (Decimal::read(&one).unwrap(), Decimal::read(&other).unwrap());
            prop_assert_eq!(left.cmp(&right), plain.order(&plain_other));
            prop_assert_eq!(left.exact().is_some(), plain.clone().short().is_some());
            if let (Some(left), Some(right)) = (left.exact(), right.exact()) {
                same(left.plus(right), plain.plus(&plain_other));
                same(left.minus(right), plain_other.negated().and_then(|it| plain.plus(&it)));
                same(left.times(right), plain.times(&plain_other));
            }
            let (mut fed, mut spelled) = (Vec::new(), Vec::new());
            Value::Number(left).feed(&mut |bytes| fed.extend_from_slice(bytes));
            Plain::Number(plain).spell(&mut spelled);
            prop_assert_eq!(fed, spelled);
        }
    }

    #[test]
    fn what_json_would_not_write_is_none() {
        for text in ["", "-", "01", "1.", "null", " 1", "[1]", "\"1\"", "+1"] {
            assert_eq!(Decimal::read(text), None, "{text}");
        }
        assert_eq!(Plain::read(b"{"), None);
    }
}
