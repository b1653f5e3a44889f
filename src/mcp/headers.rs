//! `Mcp-*` header fields and their agreement with the body (MCP 2026-07-28 basic/transports/streamable-http).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use smallvec::SmallVec;
use thiserror::Error;

use crate::base::limits::PARAM_HEADERS_MAX;
use crate::base::span::Span;
use crate::jsonrpc::text;
use crate::mcp::walk;

/// The header fields this room reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// `MCP-Protocol-Version`.
    Version,
    /// `Mcp-Method`.
    Method,
    /// `Mcp-Name`.
    Name,
    /// `Mcp-Session-Id`.
    Session,
    /// An `Mcp-Param-*` that the tool's schema declares.
    Param,
}

/// What is wrong with a header field. All of them are -32020 in the modern era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderFault {
    /// Required, and not there.
    #[error("a required header is missing")]
    Missing(Header),
    /// There more than once.
    #[error("a header is there twice")]
    Doubled(Header),
    /// A byte outside visible ASCII, space and tab.
    #[error("a header holds bytes it must not hold")]
    Bytes(Header),
    /// Between the base64 marks stands something that is not canonical base64 of UTF-8 text.
    #[error("a header is not properly encoded")]
    Encoding(Header),
    /// Says something else than the body, or the body has no such value.
    #[error("a header and the body differ")]
    Differs(Header),
}

/// One `x-mcp-header` of a tool's input schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeader {
    /// What follows `Mcp-Param-`; compared without case.
    pub header: Box<str>,
    /// Names of the properties from the root of `arguments` to the value.
    pub path: Box<[Box<str>]>,
    /// The property's type.
    pub kind: ParamKind,
}

/// The types a property with `x-mcp-header` may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// `string`.
    String,
    /// `integer`.
    Integer,
    /// `boolean`.
    Boolean,
}

/// Why a schema's `x-mcp-header` annotations make the tool invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SchemaFault {
    /// Not a string, empty, or not a token of RFC 9110.
    #[error("x-mcp-header is not a header name")]
    Name,
    /// Two properties with one name, ignoring case.
    #[error("x-mcp-header is used twice")]
    Twice,
    /// On a property that is no string, integer or boolean.
    #[error("x-mcp-header stands on a property that is no string, integer or boolean")]
    Type,
    /// Somewhere else than on a property reached through `properties` only.
    #[error("x-mcp-header stands where no argument can be named")]
    Place,
    /// More than `PARAM_HEADERS_MAX`.
    #[error("too many x-mcp-header annotations")]
    TooMany,
}

/// The value a header field means: itself, or what stands in base64 between `=?base64?` and `?=`.
/// The result is either `value` or the filled `scratch`.
///
/// # Errors
/// `Bytes` and `Encoding`, both naming `header`.
pub fn decode_value<'a>(header: Header, value: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], HeaderFault> {
    if !value.iter().all(|byte| is_plain(*byte)) {
        return Err(HeaderFault::Bytes(header));
    }
    let Some(inside) = sentinel(value) else {
        return Ok(value);
    };
    scratch.clear();
    // The standard engine takes canonical text only: padded, and no stray bits at the end.
    STANDARD.decode_vec(inside, scratch).map_err(|_| HeaderFault::Encoding(header))?;
    if std::str::from_utf8(scratch).is_err() {
        return Err(HeaderFault::Encoding(header));
    }
    Ok(scratch)
}

/// Appends `text` as a header field value: itself, or in base64 between the marks where it must be.
pub fn encode_value(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let plain = bytes.iter().all(|byte| is_plain(*byte))
        && !blank(bytes.first())
        && !blank(bytes.last())
        && sentinel(bytes).is_none();
    if plain {
        out.extend_from_slice(bytes);
        return;
    }
    out.extend_from_slice(SENTINEL_START);
    let start = out.len();
    out.resize(start + base64::encoded_len(bytes.len(), true).expect("texts are far shorter than memory"), 0);
    STANDARD.encode_slice(bytes, &mut out[start..]).expect("the room was made for it");
    out.extend_from_slice(SENTINEL_END);
}

/// Whether the `Mcp-Param-*` fields say what the arguments say. `given` are (name after the prefix, value) of all such
/// fields in the request; undeclared ones are ignored. `args` is the JSON text of `params.arguments`, already scanned.
///
/// # Errors
/// The first fault, naming `Header::Param`.
pub fn check_params<'h>(
    declared: &[ParamHeader],
    given: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    args: Option<&[u8]>,
) -> Result<(), HeaderFault> {
    if declared.is_empty() {
        return Ok(());
    }
    let given: SmallVec<[(&[u8], &[u8]); 16]> = given.collect();
    let mut scratch = Vec::new();
    for param in declared {
        let mut fields = given.iter().filter(|(name, _)| name.eq_ignore_ascii_case(param.header.as_bytes()));
        let field = fields.next();
        if fields.next().is_some() {
            return Err(HeaderFault::Doubled(Header::Param));
        }
        let argument = args.and_then(|args| argument(args, &param.path).map(|span| span.of(args)));
        match (field, argument) {
            (None, None) => {}
            (None, Some(_)) => return Err(HeaderFault::Missing(Header::Param)),
            (Some(_), None) => return Err(HeaderFault::Differs(Header::Param)),
            (Some((_, value)), Some(argument)) => {
                let value = decode_value(Header::Param, value, &mut scratch)?;
                if !says(value, argument) {
                    return Err(HeaderFault::Differs(Header::Param));
                }
            }
        }
    }
    Ok(())
}

/// The `x-mcp-header` annotations of a tool's input schema.
///
/// # Errors
/// One bad annotation makes the tool invalid: it must not be listed.
pub fn param_headers(input_schema: &Value) -> Result<Vec<ParamHeader>, SchemaFault> {
    let mut found = Vec::new();
    collect(input_schema, Some(&mut Vec::new()), &mut found)?;
    Ok(found)
}

const SENTINEL_START: &[u8] = b"=?base64?";
const SENTINEL_END: &[u8] = b"?=";
const ANNOTATION: &str = "x-mcp-header";

/// What stands between the marks; `None` for a value that means itself.
fn sentinel(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(SENTINEL_START)?.strip_suffix(SENTINEL_END)
}

/// Visible ASCII, space or tab (RFC 9110 section 5.5 without obs-text).
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e | b'\t')
}

/// The argument at `path`, unless it is absent or null.
fn argument(args: &[u8], path: &[Box<str>]) -> Option<Span> {
    let found = path.iter().try_fold(walk::whole(args), |value, name| walk::member(args, value, name))?;
    (found.of(args) != b"null").then_some(found)
}

/// Whether a decoded header value says what an argument (JSON text) says: strings as they are, numbers by value,
/// booleans by word. Objects and arrays have no header form.
fn says(value: &[u8], argument: &[u8]) -> bool {
    match argument.first() {
        Some(b'"') => {
            let mut scratch = Vec::new();
            text::unescape(text::inside(argument), &mut scratch).is_ok_and(|text| text.as_bytes() == value)
        }
        Some(b't' | b'f') => argument == value,
        Some(b'-' | b'0'..=b'9') => {
            let number = Number::read(argument);
            number.is_some() && number == Number::read(value)
        }
        _ => false,
    }
}

/// A decimal number without its spelling: sign, digits without zeros at either end, power of ten.
#[derive(PartialEq, Eq)]
struct Number {
    negative: bool,
    digits: SmallVec<[u8; 32]>,
    exponent: i64,
}

impl Number {
    fn read(text: &[u8]) -> Option<Self> {
        let (negative, text) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&text[..at], std::str::from_utf8(&text[at + 1..]).ok()?.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(at) if at + 1 < mantissa.len() => (&mantissa[..at], &mantissa[at + 1..]),
            Some(_) => return None,
            None => (mantissa, &[][..]),
        };
        if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return None;
        }
        let mut digits: SmallVec<[u8; 32]> =
            whole.iter().chain(fraction).copied().skip_while(|digit| *digit == b'0').collect();
        let mut exponent = i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent += 1;
        }
        if digits.is_empty() {
            return Some(Self { negative: false, digits, exponent: 0 });
        }
        Some(Self { negative, digits, exponent })
    }
}

/// Collects the annotations below `schema`. `path` leads there from the root through `properties` only; `None` where
/// no argument can be named. Recursion is bounded by the depth that the JSON reader accepts.
fn collect(
    schema: &Value,
    mut path: Option<&mut Vec<Box<str>>>,
    found: &mut Vec<ParamHeader>,
) -> Result<(), SchemaFault> {
    let Value::Object(schema) = schema else {
        return Ok(());
    };
    if let Some(name) = schema.get(ANNOTATION) {
        annotation(schema, name, path.as_deref().map(Vec::as_slice), found)?;
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        for (name, property) in properties {
            let Some(path) = path.as_deref_mut() else {
                collect(property, None, found)?;
                continue;
            };
            path.push(name.as_str().into());
            collect(property, Some(&mut *path), found)?;
            path.pop();
        }
    }
    for (keyword, below) in schema {
        match below {
            Value::Array(schemas) if SUBSCHEMAS.contains(&keyword.as_str()) => {
                schemas.iter().try_for_each(|schema| collect(schema, None, found))?;
            }
            Value::Object(schemas) if NAMED_SUBSCHEMAS.contains(&keyword.as_str()) => {
                schemas.values().try_for_each(|schema| collect(schema, None, found))?;
            }
            _ if SUBSCHEMAS.contains(&keyword.as_str()) => collect(below, None, found)?,
            _ => {}
        }
    }
    Ok(())
}

/// Checks one annotation and adds it.
fn annotation(
    schema: &Map<String, Value>,
    name: &Value,
    path: Option<&[Box<str>]>,
    found: &mut Vec<ParamHeader>,
) -> Result<(), SchemaFault> {
    let path = path.filter(|path| !path.is_empty()).ok_or(SchemaFault::Place)?;
    let name = name.as_str().filter(|name| is_token(name)).ok_or(SchemaFault::Name)?;
    let kind = match schema.get("type").and_then(Value::as_str) {
        Some("string") => ParamKind::String,
        Some("integer") => ParamKind::Integer,
        Some("boolean") => ParamKind::Boolean,
        _ => return Err(SchemaFault::Type),
    };
    if found.iter().any(|other| other.header.eq_ignore_ascii_case(name)) {
        return Err(SchemaFault::Twice);
    }
    if found.len() >= PARAM_HEADERS_MAX {
        return Err(SchemaFault::TooMany);
    }
    found.push(ParamHeader { header: name.into(), path: path.into(), kind });
    Ok(())
}

/// 1*tchar (RFC 9110 section 5.6.2).
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Keywords whose value is a schema, or an array of schemas, that stands for no nameable argument.
const SUBSCHEMAS: &[&str] = &[
    "items",
    "additionalItems",
    "prefixItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "propertyNames",
    "contentSchema",
    "oneOf",
    "anyOf",
    "allOf",
    "not",
    "if",
    "then",
    "else",
];

/// Keywords whose value is an object of such schemas.
const NAMED_SUBSCHEMAS: &[&str] = &["patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(value: &str, want: Result<&str, HeaderFault>) {
        let mut scratch = b"old".to_vec();
        let got = decode_value(Header::Name, value.as_bytes(), &mut scratch);
        assert_eq!(got.map(|bytes| std::str::from_utf8(bytes).unwrap()), want, "{value}");
    }

    #[test]
    fn values_mean_themselves_or_what_is_encoded() {
        let encoding = Err(HeaderFault::Encoding(Header::Name));
        check("get_weather", Ok("get_weather"));
        check("", Ok(""));
        check("two words\tand a tab", Ok("two words\tand a tab"));
        check("=?base64?SGVsbG8=?=", Ok("Hello"));
        check("=?base64?4pyT?=", Ok("\u{2713}"));
        check("=?base64??=", Ok(""));
        check("SGVsbG8=", Ok("SGVsbG8="));
        check("=?base64?SGVsbG8=", Ok("=?base64?SGVsbG8="));
        check("SGVsbG8=?=", Ok("SGVsbG8=?="));
        check("=?BASE64?SGVsbG8=?=", Ok("=?BASE64?SGVsbG8=?="));
        check("=?base64?=", Ok("=?base64?="));
        check("=?base64?SGVsbG8?=", encoding);
        check("=?base64?SGVs!!!bG8=?=", encoding);
        check("=?base64?SGVsbG9=?=", encoding);
        check("=?base64?SGVs bG8=?=", encoding);
        check("=?base64?SGVsbG8-?=", encoding);
        check("=?base64?/w==?=", encoding);
        check("caf\u{e9}", Err(HeaderFault::Bytes(Header::Name)));
        check("a\u{7f}b", Err(HeaderFault::Bytes(Header::Name)));
        check("a\u{0}b", Err(HeaderFault::Bytes(Header::Name)));
    }

    #[test]
    fn what_must_be_encoded_is() {
        for (text, want) in [
            ("plain", "plain"),
            ("", ""),
            ("a b", "a b"),
            (" a", "=?base64?IGE=?="),
            ("a\t", "=?base64?YQk=?="),
            ("\u{2713}", "=?base64?4pyT?="),
            ("a\nb", "=?base64?YQpi?="),
            ("=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?="),
        ] {
            let mut out = b"x".to_vec();
            encode_value(text, &mut out);
            assert_eq!(std::str::from_utf8(&out[1..]).unwrap(), want);
        }
    }

    fn declared() -> Vec<ParamHeader> {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "count": {"type": "integer", "x-mcp-header": "count"},
            "deep": {"type": "object", "properties": {"dry": {"type": "boolean", "x-mcp-header": "Dry-Run"}}},
            "other": {"type": "string"},
        }});
        param_headers(&schema).unwrap()
    }

    fn params(given: &[(&str, &str)], args: Option<&str>) -> Result<(), HeaderFault> {
        let given = given.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        check_params(&declared(), given, args.map(str::as_bytes))
    }

    #[test]
    fn params_and_arguments_agree() {
        for (given, args) in [
            (&[][..], None),
            (&[], Some("{}")),
            (&[], Some(r#"{"other":"x","region":null,"deep":{}}"#)),
            (&[("Unknown", "x")], Some("{}")),
            (&[("region", "eu")], Some(r#"{"region":"eu"}"#)),
            (&[("REGION", "=?base64?ZXU=?=")], Some(r#"{"region":"\u0065u"}"#)),
            (&[("Region", "")], Some(r#"{"region":""}"#)),
            (&[("Region", "true")], Some(r#"{"region":"true"}"#)),
            (&[("Count", "42")], Some(r#"{"count":42}"#)),
            (&[("Count", "42.0")], Some(r#"{"count":42}"#)),
            (&[("Count", "42")], Some(r#"{"count":4.2e1}"#)),
            (&[("Count", "-0")], Some(r#"{"count":0}"#)),
            (&[("Count", "9007199254740993")], Some(r#"{"count":9007199254740993}"#)),
            (&[("Dry-Run", "false")], Some(r#"{"deep":{"dry":false}}"#)),
            (&[("Dry-Run", "true")], Some(r#" { "d\u0065ep" : { "dry" : true } } "#)),
        ] {
            assert_eq!(params(given, args), Ok(()), "{given:?} {args:?}");
        }
    }

    #[test]
    fn params_that_disagree_are_refused() {
        let differs = HeaderFault::Differs(Header::Param);
        for (given, args, want) in [
            (&[][..], Some(r#"{"region":"eu"}"#), HeaderFault::Missing(Header::Param)),
            (&[], Some(r#"{"region":""}"#), HeaderFault::Missing(Header::Param)),
            (&[("Region", "eu"), ("region", "eu")], Some(r#"{"region":"eu"}"#), HeaderFault::Doubled(Header::Param)),
            (&[("Region", "eu")], None, differs),
            (&[("Region", "eu")], Some("{}"), differs),
            (&[("Region", "null")], Some(r#"{"region":null}"#), differs),
            (&[("Region", "EU")], Some(r#"{"region":"eu"}"#), differs),
            (&[("Region", "eu")], Some(r#"{"region":["eu"]}"#), differs),
            (&[("Count", "43")], Some(r#"{"count":42}"#), differs),
            (&[("Count", "9007199254740992")], Some(r#"{"count":9007199254740993}"#), differs),
            (&[("Count", "0x2a")], Some(r#"{"count":42}"#), differs),
            (&[("Count", "42.")], Some(r#"{"count":42}"#), differs),
            (&[("Count", "1e99999999999")], Some(r#"{"count":1e99999999999}"#), differs),
            (&[("Dry-Run", "True")], Some(r#"{"deep":{"dry":true}}"#), differs),
            (&[("Region", "=?base64?ZXU?=")], Some(r#"{"region":"eu"}"#), HeaderFault::Encoding(Header::Param)),
            (&[("Region", "e\u{fc}")], Some(r#"{"region":"eu"}"#), HeaderFault::Bytes(Header::Param)),
        ] {
            assert_eq!(params(given, args), Err(want), "{given:?} {args:?}");
        }
    }

    #[test]
    fn annotations_name_path_and_type() {
        let mut found = declared();
        found.sort_by(|one, other| one.header.cmp(&other.header));
        let paths: Vec<String> = found.iter().map(|param| param.path.join(".")).collect();
        assert_eq!(paths, ["deep.dry", "region", "count"]);
        assert_eq!(found[0].kind, ParamKind::Boolean);
        // A property may be called like the annotation, and values are no schemas.
        let schema = json!({"properties": {"x-mcp-header": {"type": "string"}}, "default": {"x-mcp-header": 1}});
        assert_eq!(param_headers(&schema), Ok(Vec::new()));
    }

    #[test]
    fn one_bad_annotation_is_one_too_many() {
        let on = |kind: Value, name: Value| json!({"properties": {"a": {"type": kind, "x-mcp-header": name}}});
        let below = |keyword: &str, schema: Value| json!({"properties": {"a": {keyword: schema}}});
        let good = json!({"type": "string", "x-mcp-header": "A"});
        let named = json!({"b": good});
        for (schema, want) in [
            (on(json!("string"), json!("")), SchemaFault::Name),
            (on(json!("string"), json!(1)), SchemaFault::Name),
            (on(json!("string"), json!("a b")), SchemaFault::Name),
            (on(json!("string"), json!("a:b")), SchemaFault::Name),
            (on(json!("string"), json!("a\r\nb")), SchemaFault::Name),
            (on(json!("string"), json!("\u{e9}")), SchemaFault::Name),
            (on(json!("number"), json!("A")), SchemaFault::Type),
            (on(json!("object"), json!("A")), SchemaFault::Type),
            (on(json!("array"), json!("A")), SchemaFault::Type),
            (on(json!(["string", "null"]), json!("A")), SchemaFault::Type),
            (on(Value::Null, json!("A")), SchemaFault::Type),
            (json!({"type": "object", "x-mcp-header": "A"}), SchemaFault::Place),
            (json!({"properties": {"a": good, "b": {"type": "string", "x-mcp-header": "a"}}}), SchemaFault::Twice),
            (below("items", good.clone()), SchemaFault::Place),
            (below("items", json!({"properties": named})), SchemaFault::Place),
            (below("oneOf", json!([good])), SchemaFault::Place),
            (below("anyOf", json!([{"properties": named}])), SchemaFault::Place),
            (below("allOf", json!([good])), SchemaFault::Place),
            (below("not", good.clone()), SchemaFault::Place),
            (below("if", good.clone()), SchemaFault::Place),
            (below("then", good.clone()), SchemaFault::Place),
            (below("else", good.clone()), SchemaFault::Place),
            (below("additionalProperties", good.clone()), SchemaFault::Place),
            (below("patternProperties", named.clone()), SchemaFault::Place),
            (below("$defs", named), SchemaFault::Place),
        ] {
            assert_eq!(param_headers(&schema), Err(want), "{schema}");
        }
        let many: Map<String, Value> = (0..=PARAM_HEADERS_MAX)
            .map(|n| (format!("p{n}"), json!({"type": "string", "x-mcp-header": format!("P{n}")})))
            .collect();
        assert_eq!(param_headers(&json!({"properties": many})), Err(SchemaFault::TooMany));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in any::<String>()) {
            let mut out = Vec::new();
            encode_value(&text, &mut out);
            let mut scratch = Vec::new();
            prop_assert_eq!(decode_value(Header::Name, &out, &mut scratch), Ok(text.as_bytes()));
        }

        #[test]
        fn numbers_are_compared_by_value(
            number in -1_000_000_i64..1_000_000,
            other in -1_000_000_i64..1_000_000,
            zeros in 0_usize..4,
        ) {
            let spelt = format!("{number}{}e-{zeros}", "0".repeat(zeros));
            prop_assert!(says(number.to_string().as_bytes(), spelt.as_bytes()));
            prop_assert_eq!(says(other.to_string().as_bytes(), spelt.as_bytes()), number == other);
        }
    }
}
