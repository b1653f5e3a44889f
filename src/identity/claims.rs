//! Token JSON, read strictly: a member twice in any object is an error, and so is a claim of the wrong type, never
//! "absent" (RFC 7519 section 4 lets a reader take the last of two; then two readers disagree).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

/// A JSON value of a token, borrowing from its bytes where nothing was escaped. Nesting is bounded by `serde_json`
/// (128), size by `limits::TOKEN_BYTES_MAX`.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number that fits.
    Whole(u64),
    /// Any other number: negative, with a fraction or exponent, or above `u64`.
    Number(f64),
    /// Text, unescaped.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object.
    Object(Object<'a>),
}

/// The members of an object, each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object<'a> {
    /// Sorted by name.
    members: Vec<(Cow<'a, str>, Json<'a>)>,
}

/// What is wrong with a token's JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JsonFault {
    /// Not one JSON object in UTF-8, or a member occurs twice in it or in an object inside.
    #[error("not one JSON object, or a member twice")]
    Malformed,
    /// A member has another JSON type than it must have.
    #[error("a member has the wrong JSON type")]
    WrongType,
}

impl<'a> Object<'a> {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// [`JsonFault::Malformed`], also for numbers no float can hold (`1e400`) and lone surrogates.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JsonFault> {
        match serde_json::from_slice(bytes) {
            Ok(Json::Object(object)) => Ok(object),
            Ok(_) | Err(_) => Err(JsonFault::Malformed),
        }
    }

    /// The member of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        let place = self.members.binary_search_by(|(held, _)| (**held).cmp(name)).ok()?;
        Some(&self.members[place].1)
    }

    /// The member of this name as text; `None` when there is no such member.
    ///
    /// # Errors
    /// [`JsonFault::WrongType`] when it is anything but text, `null` included.
    pub fn text(&self, name: &str) -> Result<Option<&str>, JsonFault> {
        self.get(name).map(Json::as_text).transpose()
    }

    /// The member of this name as a time (RFC 7519 `NumericDate`, which may have a fraction).
    ///
    /// # Errors
    /// [`JsonFault::WrongType`] when it is no number, negative, or beyond the year 9999 (milliseconds, most likely).
    pub fn date(&self, name: &str) -> Result<Option<Date>, JsonFault> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Whole(whole)) if *whole <= DATE_MAX => Ok(Some(Date { floor: *whole, ceil: *whole })),
            Some(Json::Number(number)) => Date::of(*number).map(Some).ok_or(JsonFault::WrongType),
            Some(_) => Err(JsonFault::WrongType),
        }
    }
}

/// A moment in seconds since 1970, rounded both ways, so that a fraction never lengthens a token's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// The last whole second not after it.
    pub floor: u64,
    /// The first whole second not before it.
    pub ceil: u64,
}

impl Date {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in 0..=DATE_MAX, and whole")]
    #[expect(clippy::cast_precision_loss, reason = "DATE_MAX is far below 2^53")]
    fn of(seconds: f64) -> Option<Self> {
        let sane = seconds.is_sign_positive() && seconds <= DATE_MAX as f64;
        sane.then(|| Self { floor: seconds.floor() as u64, ceil: seconds.ceil() as u64 })
    }
}

impl<'a> Json<'a> {
    /// The text that this is.
    ///
    /// # Errors
    /// [`JsonFault::WrongType`] for anything else.
    pub fn as_text(&self) -> Result<&str, JsonFault> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(JsonFault::WrongType),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Whole(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "a negative number is never a valid claim; its size is no matter")]
    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(u64::try_from(value).map_or(Json::Number(value as f64), Json::Whole))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Json<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Json<'de>)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<Name<'de>, _>()? {
            members.push((name.0, value));
        }
        // Sorting finds a double in n log n: a token full of members costs no more than its signature.
        members.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(A::Error::custom("a member twice"));
        }
        Ok(Json::Object(Object { members }))
    }
}

/// A member name; `Cow` itself would always copy.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(JsonVisitor)? {
            Json::Text(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("a name is text")),
        }
    }
}

/// 9999-12-31T23:59:59Z: the last second that RFC 3339 can write.
const DATE_MAX: u64 = 253_402_300_799;

/// Where in the claims something stands: `claims.sub`, `claims.realm.tasks`, `claims["https://example.com/tasks"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath {
    steps: Box<[Box<str>]>,
}

/// What is wrong with a path as written in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClaimPathFault {
    /// Does not begin with `claims`.
    #[error("a claim path begins with `claims.` or `claims[\"`")]
    NotClaims,
    /// Ends after `claims`.
    #[error("a claim path names a claim")]
    Empty,
    /// A step that is neither `.name` (letters, digits, `_`, `-`) nor `["name"]` without `"` or `\` inside.
    #[error("a step of a claim path is `.name` or `[\"name\"]`")]
    Step,
}

impl ClaimPath {
    /// Reads a path.
    ///
    /// # Errors
    /// [`ClaimPathFault`].
    pub fn parse(text: &str) -> Result<Self, ClaimPathFault> {
        let mut rest = text.strip_prefix("claims").ok_or(ClaimPathFault::NotClaims)?;
        if !(rest.is_empty() || rest.starts_with(['.', '['])) {
            return Err(ClaimPathFault::NotClaims);
        }
        let mut steps: Vec<Box<str>> = Vec::new();
        while !rest.is_empty() {
            let (step, after) = if let Some(dotted) = rest.strip_prefix('.') {
                let end = dotted.find(['.', '[']).unwrap_or(dotted.len());
                let plain = dotted[..end].chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
                if !plain {
                    return Err(ClaimPathFault::Step);
                }
                dotted.split_at(end)
            } else {
                let quoted = rest.strip_prefix("[\"").ok_or(ClaimPathFault::Step)?;
                let (step, after) = quoted.split_once("\"]").ok_or(ClaimPathFault::Step)?;
                if step.contains(['"', '\\']) {
                    return Err(ClaimPathFault::Step);
                }
                (step, after)
            };
            if step.is_empty() {
                return Err(ClaimPathFault::Step);
            }
            steps.push(step.into());
            rest = after;
        }
        if steps.is_empty() { Err(ClaimPathFault::Empty) } else { Ok(Self { steps: steps.into() }) }
    }

    /// What stands there; `None` when a member on the way or the last is absent.
    ///
    /// # Errors
    /// [`JsonFault::WrongType`] when a value on the way is no object.
    pub fn find<'o, 'a>(&self, claims: &'o Object<'a>) -> Result<Option<&'o Json<'a>>, JsonFault> {
        let mut here = claims;
        let mut steps = self.steps.iter();
        let mut found = steps.next().and_then(|step| here.get(step));
        for step in steps {
            match found {
                None => return Ok(None),
                Some(Json::Object(inner)) => here = inner,
                Some(_) => return Err(JsonFault::WrongType),
            }
            found = here.get(step);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<(), JsonFault>) {
        assert_eq!(Object::parse(text.as_bytes()).map(drop), want, "{text}");
    }

    /// [K6] A member twice at any depth, and numbers that are none.
    #[test]
    fn doubles_and_other_nonsense_are_refused() {
        check(r#"{"a":1,"b":{"a":1}}"#, Ok(()));
        check(" {} ", Ok(()));
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
            r#"{"a":1e400}"#,
            r#"{"a":NaN}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":1}x"#,
            r#"{"a":1,}"#,
            "[]",
            "null",
            "",
            "\u{feff}{}",
        ] {
            check(text, Err(JsonFault::Malformed));
        }
        assert_eq!(Object::parse(b"{\"a\":\"\xff\"}"), Err(JsonFault::Malformed));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        check(&deep, Err(JsonFault::Malformed));
    }

    /// [K6] A time is a number of seconds that a clock can show.
    #[test]
    fn a_date_is_a_sane_number() {
        let date = |text: &str| Object::parse(format!("{{\"exp\":{text}}}").as_bytes()).unwrap().date("exp");
        assert_eq!(date("17"), Ok(Some(Date { floor: 17, ceil: 17 })));
        assert_eq!(date("17.5"), Ok(Some(Date { floor: 17, ceil: 18 })));
        assert_eq!(date("1.7e1"), Ok(Some(Date { floor: 17, ceil: 17 })));
        assert_eq!(date("253402300799"), Ok(Some(Date { floor: DATE_MAX, ceil: DATE_MAX })));
        for wrong in ["-1", "-0", "-0.0", "1e300", "253402300800", "18446744073709551615", "18446744073709551616"] {
            assert_eq!(date(wrong), Err(JsonFault::WrongType), "{wrong}");
        }
        for wrong in ["\"17\"", "[17]", "null", "true", "{}"] {
            assert_eq!(date(wrong), Err(JsonFault::WrongType), "{wrong}");
        }
        assert_eq!(Object::default().date("exp"), Ok(None));
    }

    #[test]
    fn paths_lead_to_claims() {
        let claims = Object::parse(br#"{"sub":"s","a":{"b":"deep"},"https://x.y/t":"t","a.b":"no"}"#).unwrap();
        let find = |path: &str| ClaimPath::parse(path).unwrap().find(&claims).map(|found| found.cloned());
        let text = |text: &'static str| Ok(Some(Json::Text(Cow::Borrowed(text))));
        assert_eq!(find("claims.sub"), text("s"));
        assert_eq!(find("claims.a.b"), text("deep"));
        assert_eq!(find("claims[\"a\"].b"), text("deep"));
        assert_eq!(find("claims[\"https://x.y/t\"]"), text("t"));
        assert_eq!(find("claims.none"), Ok(None));
        assert_eq!(find("claims.none.more"), Ok(None));
        assert_eq!(find("claims.a.none"), Ok(None));
        assert_eq!(find("claims.sub.more"), Err(JsonFault::WrongType));
    }

    #[test]
    fn a_path_is_written_one_way() {
        let fault = |path: &str| ClaimPath::parse(path).unwrap_err();
        for path in ["sub", "", "claim.sub", "claimsub", "subject"] {
            assert_eq!(fault(path), ClaimPathFault::NotClaims, "{path}");
        }
        assert_eq!(fault("claims"), ClaimPathFault::Empty);
        for path in [
            "claims.",
            "claims..a",
            "claims.a.",
            "claims[a]",
            "claims[\"a\"",
            "claims[\"\"]",
            "claims.a b",
            "claims.a]",
        ] {
            assert_eq!(fault(path), ClaimPathFault::Step, "{path}");
        }
    }
}
