//! Resources as policy sees them: a URI as written and in its normal form, a template by what it may expand to.
//!
//! A server may read a URI otherwise than RFC 3986 does. Where the common readings part (an escaped separator beside
//! `..`, a `..` over an empty segment or above the root, NUL), the URI counts as one that cannot be parsed.

use std::borrow::Cow;

use super::glob::Glob;
use crate::base::limits::URI_BYTES_MAX;

/// Stands for an expression while a template's literals are normalised. No URI has a control character.
const MARK: &str = "\u{1}";

/// A resource, or a resource template, ready for any number of globs.
#[derive(Clone, Debug)]
pub enum Target<'a> {
    /// One resource.
    Resource {
        /// The URI as written.
        written: &'a str,
        /// Its normal form.
        normal: Cow<'a, str>,
    },
    /// All that a template expands to.
    Template {
        /// The template as written.
        written: &'a str,
        /// What it expands to: an expression may become anything.
        expansions: Glob,
        /// Normal form of the text, each expression a mark.
        normal: Cow<'a, str>,
        /// What its expansions look like in normal form.
        normal_expansions: Glob,
    },
}

impl<'a> Target<'a> {
    /// The resource at `uri`; `None` when that is no URI (RFC 3986, so ASCII only, and never relative).
    #[must_use]
    pub fn resource(uri: &'a str) -> Option<Self> {
        Some(Self::Resource { written: uri, normal: normalise(uri)? })
    }

    /// The resources of `template`; `None` when that is no template (RFC 6570) of URIs. One without any expression is
    /// the resource it spells.
    #[must_use]
    pub fn template(template: &'a str) -> Option<Self> {
        if template.len() > URI_BYTES_MAX || template.contains(MARK) {
            return None;
        }
        let literals = literals(template)?;
        if literals.len() == 1 {
            return Self::resource(template);
        }
        let expansions = Glob::from_parts(literals.iter().copied());
        let marked = literals.join(MARK);
        // Nothing can be said about the normal form while the scheme is open.
        if !literals[0].contains(':') {
            let may_start_one = literals[0].is_empty() || is_scheme(literals[0]);
            if !may_start_one || !marked.bytes().all(is_template_byte) {
                return None;
            }
            let normal = Cow::Borrowed(template);
            return Some(Self::Template {
                written: template,
                normal_expansions: expansions.clone(),
                expansions,
                normal,
            });
        }
        let normal = normal_form(&marked, is_template_byte)?.into_owned();
        let normal_expansions = Glob::from_parts(normal.split(MARK));
        Some(Self::Template { written: template, expansions, normal: Cow::Owned(normal), normal_expansions })
    }

    /// Whether a permit of this glob reaches the resource, or one of the template's: both forms must match.
    #[must_use]
    pub fn permitted_by(&self, glob: &Glob) -> bool {
        match self {
            Self::Resource { written, normal } => glob.matches(written) && (written == normal || glob.matches(normal)),
            Self::Template { expansions, normal_expansions, .. } => {
                glob.overlaps(expansions) && glob.overlaps(normal_expansions)
            }
        }
    }

    /// Whether a forbid of this glob takes the resource, or the text of the template: one form suffices.
    #[must_use]
    pub fn forbidden_by(&self, glob: &Glob) -> bool {
        let (Self::Resource { written, normal } | Self::Template { written, normal, .. }) = self;
        glob.matches(written) || (written != normal && glob.matches(normal))
    }

    /// What every resource meant begins with, as written.
    #[must_use]
    pub fn fixed(&self) -> &str {
        match self {
            Self::Resource { written, .. } => written,
            Self::Template { expansions, .. } => expansions.prefix(),
        }
    }

    /// Whether more than one resource is meant.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Template { .. })
    }

    /// The normal form of the text.
    #[must_use]
    pub fn normal(&self) -> &str {
        let (Self::Resource { normal, .. } | Self::Template { normal, .. }) = self;
        normal
    }

    /// The text as written.
    #[must_use]
    pub fn written(&self) -> &'a str {
        let (Self::Resource { written, .. } | Self::Template { written, .. }) = self;
        written
    }
}

/// The normal form of a URI: scheme and host in lower case, `.` and `..` resolved, escapes of unreserved characters
/// undone, other escapes with capital digits. `None` when it cannot be parsed, is longer than [`URI_BYTES_MAX`], or
/// can be read in two ways.
#[must_use]
pub fn normalise(uri: &str) -> Option<Cow<'_, str>> {
    if is_plain(uri) { Some(Cow::Borrowed(uri)) } else { normal_form(uri, is_uri_byte) }
}

/// Whether `uri` is so simple that it is its own normal form: the common case, without building that form.
fn is_plain(uri: &str) -> bool {
    let is_lower = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let Some(colon) = uri.bytes().take(32).position(|byte| byte == b':') else {
        return false;
    };
    let (scheme, rest) = uri.as_bytes().split_at(colon);
    let Some(rest) = rest.strip_prefix(b"://") else {
        return false;
    };
    let path = &rest[rest.iter().position(|byte| !is_lower(byte)).unwrap_or(rest.len())..];
    let mut before = 0;
    uri.len() <= URI_BYTES_MAX
        && scheme.first().is_some_and(u8::is_ascii_lowercase)
        && scheme.iter().all(is_lower)
        && path.first().is_none_or(|byte| *byte == b'/')
        && path.iter().all(|&byte| {
            let is_dotted = before == b'/' && byte == b'.';
            before = byte;
            (is_unreserved(byte) || byte == b'/') && !is_dotted
        })
}

/// The literals around a template's expressions.
fn literals(template: &str) -> Option<Vec<&str>> {
    let mut literals = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (literal, after) = (&rest[..at], rest[at..].strip_prefix('{')?);
        let end = after.find(['{', '}'])?;
        let is_expression = after.as_bytes()[..end].iter().all(u8::is_ascii_graphic);
        if end == 0 || !is_expression || after.as_bytes()[end] != b'}' {
            return None;
        }
        literals.push(literal);
        rest = &after[end + 1..];
    }
    literals.push(rest);
    Some(literals)
}

type Allowed = fn(u8) -> bool;

fn is_uri_byte(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&'..=b'/' | b':' | b';' | b'=' | b'?' | b'@' | b'#' | b'[' | b']' | b'%')
}

fn is_template_byte(byte: u8) -> bool {
    is_uri_byte(byte) || byte == MARK.as_bytes()[0]
}

fn is_unreserved(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~')
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn normal_form(uri: &str, allowed: Allowed) -> Option<Cow<'_, str>> {
    if uri.len() > URI_BYTES_MAX || !uri.bytes().all(allowed) {
        return None;
    }
    let (scheme, rest) = uri.split_once(':')?;
    if !is_scheme(scheme) {
        return None;
    }
    let (rest, fragment) = cut(rest, '#');
    let (rest, query) = cut(rest, '?');
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(authority), path)
        }
        None => (None, rest),
    };
    // `[`, `]` stand around an address only; `#` once.
    if [Some(path), query, fragment].into_iter().flatten().any(|part| part.contains(['[', ']', '#'])) {
        return None;
    }
    let mut out = String::with_capacity(uri.len());
    out.extend(scheme.chars().map(|c| c.to_ascii_lowercase()));
    out.push(':');
    if let Some(authority) = authority {
        out.push_str("//");
        push_authority(&mut out, authority)?;
    }
    push_path(&mut out, path, authority.is_some())?;
    for (sign, part) in [('?', query), ('#', fragment)] {
        if let Some(part) = part {
            out.push(sign);
            push_escaped(&mut out, part, u8::to_owned)?;
        }
    }
    Some(if out == uri { Cow::Borrowed(uri) } else { Cow::Owned(out) })
}

fn cut(text: &str, sign: char) -> (&str, Option<&str>) {
    text.split_once(sign).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// `[user@]host[:port]`, the host in lower case.
fn push_authority(out: &mut String, authority: &str) -> Option<()> {
    let (user, place) = authority.split_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
    if let Some(user) = user {
        if user.contains(['[', ']']) {
            return None;
        }
        push_escaped(out, user, u8::to_owned)?;
        out.push('@');
    }
    let host_end = if place.starts_with('[') { place.find(']')? + 1 } else { place.find(':').unwrap_or(place.len()) };
    let (host, port) = place.split_at(host_end);
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let is_address = |byte: u8| is_unreserved(byte) || b"!$&'()*+,;=:".contains(&byte);
        if address.is_empty() || !address.bytes().all(is_address) {
            return None;
        }
    } else if host.contains(['[', ']', '@']) {
        return None;
    }
    push_escaped(out, host, u8::to_ascii_lowercase)?;
    if let Some(digits) = port.strip_prefix(':') {
        if !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == MARK.as_bytes()[0]) {
            return None;
        }
    } else if !port.is_empty() {
        return None;
    }
    out.push_str(port);
    Some(())
}

/// RFC 3986 5.2.4, but for what file systems would read otherwise.
fn push_path(out: &mut String, path: &str, after_authority: bool) -> Option<()> {
    let from = out.len();
    let mut segment_starts = Vec::new();
    let (rooted, segments) = path.strip_prefix('/').map_or((false, path), |rest| (true, rest));
    if rooted {
        out.push('/');
    }
    let mut pieces = segments.split('/').peekable();
    while let Some(piece) = pieces.next() {
        let is_last = pieces.peek().is_none();
        let at = out.len();
        push_escaped(out, piece, u8::to_owned)?;
        match &out[at..] {
            "." => out.truncate(at),
            ".." => {
                let parent: usize = segment_starts.pop()?;
                if parent + 1 == at {
                    return None;
                }
                out.truncate(parent);
            }
            other => {
                if hides_dots(other) {
                    return None;
                }
                segment_starts.push(at);
                if !is_last {
                    out.push('/');
                }
            }
        }
    }
    // Without an authority, `//` would read as the start of one.
    (after_authority || !out[from..].starts_with("//")).then_some(())
}

/// Whether whoever undoes `%2F` or `%5C` as well finds `.` or `..` in the segment.
fn hides_dots(segment: &str) -> bool {
    segment.contains('%') && segment.replace("%5C", "%2F").split("%2F").any(|piece| matches!(piece, "." | ".."))
}

/// Escapes of unreserved characters undone, the others with capital digits; `fold` for all that is not an escape.
/// `None` for half an escape and for NUL, where many a reader's text ends.
fn push_escaped(out: &mut String, text: &str, fold: fn(&u8) -> u8) -> Option<()> {
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            out.push(char::from(fold(byte)));
            continue;
        }
        let [high, low, after @ ..] = rest else {
            return None;
        };
        rest = after;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match digit(*high)? << 4 | digit(*low)? {
            0 => return None,
            value if is_unreserved(value) => out.push(char::from(fold(&value))),
            _ => out.extend(['%', char::from(high.to_ascii_uppercase()), char::from(low.to_ascii_uppercase())]),
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(uri: &str, want: Option<&str>) {
        assert_eq!(normalise(uri).as_deref(), want, "{uri:?}");
    }

    #[test]
    fn normal_forms() {
        for same in [
            "file:///a/b",
            "test://static/resource/1",
            "urn:isbn:1",
            "x:",
            "x://",
            "http://h:80/?q#f",
            "http://h/a//b/",
            "http://[::1]:8080/",
            "ui://w?a=/../b",
            "file:///a%2Fb",
            "x:/..a/.b/...",
        ] {
            check(same, Some(same));
        }
        check("FILE:///A", Some("file:///A"));
        check("Http://User@HOST.Example:80/P", Some("http://User@host.example:80/P"));
        check("http://%48%4fst%2a/", Some("http://host%2A/"));
        check("http://[FE80::A]/", Some("http://[fe80::a]/"));
        check("file:///a/./b/../c", Some("file:///a/c"));
        check("file:///a/b/..", Some("file:///a/"));
        check("file:///a/.", Some("file:///a/"));
        check("file:///a/%2e%2E/c", Some("file:///c"));
        check("file:///%61%2d%7E%7b%c3%bc", Some("file:///a-~%7B%C3%BC"));
        check("http://h/a//b/../c", Some("http://h/a//c"));
        check("x:a/./b", Some("x:a/b"));
        check("x:a/../b", Some("x:b"));
        check("x://h?%2e%2e/%41", Some("x://h?../A"));
    }

    #[test]
    fn what_cannot_be_parsed() {
        for uri in [
            "",
            "a",
            "/a",
            "//h/a",
            ":a",
            "1x:a",
            "x y:a",
            "x:a b",
            "x:\u{fc}",
            "x:\\a",
            "x:%",
            "x:%4",
            "x:%zz",
            "x:%+1",
            "x:a%00b",
            "x:a#b#c",
            "x:a[b]",
            "http://a@b@c/",
            "http://[::1/",
            "http://[]/",
            "http://[%41]/",
            "http://[::1]x/",
            "http://h:8x/",
            "http://h:1:2/",
            "http://a]b/",
            "x:{a}",
            "x:\u{1}",
            "x:a\nb",
        ] {
            check(uri, None);
        }
        check(&format!("x:{}", "a".repeat(URI_BYTES_MAX)), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways() {
        for uri in [
            "file:///../a",
            "file:///a/../../b",
            "x:../a",
            "file:///a//../b",
            "file:///a//b/../../c",
            "x:/a/..//b",
            "file:///a/..%2fb",
            "file:///a/%2E%2e%5Cb",
            "file:///a%2f../b",
            "file:///a%5c.%5cb",
        ] {
            check(uri, None);
        }
    }

    fn check_template(template: &str, glob: &str, want: (bool, bool)) {
        let target = Target::template(template).unwrap();
        let glob = Glob::new(glob);
        assert_eq!((target.permitted_by(&glob), target.forbidden_by(&glob)), want, "{template:?} and {glob:?}");
    }

    #[test]
    fn templates() {
        check_template("file:///{path}", "file:///secret/*", (true, false));
        check_template("file:///{path}", "file:///secret/x", (true, false));
        check_template("file:///{path}", "*", (true, true));
        check_template("file:///pub/{path}", "file:///secret/*", (false, false));
        check_template("file:///secret/{path}", "file:///secret/*", (true, true));
        check_template("FILE:///secret/{path}", "file:///secret/*", (false, true));
        check_template("file:///pub/../secret/{p}", "file:///pub/*", (false, true));
        check_template("file:///pub/../secret/{p}", "file:///secret/*", (false, true));
        check_template("{+uri}", "file:///a", (true, false));
        check_template("fi{a}:///b", "file:///*", (true, false));
        check_template("x://{a}/{b}{?c,d}", "x://h/y?c=1", (true, false));
        check_template("x://{a}/{b}", "x://{a}/{b}", (true, true));
        check_template("x://no/expression", "x://no/*", (true, true));
        for no_template in [
            "x:{",
            "x:}",
            "x:{}",
            "x:{a{b}}",
            "x:a}b{",
            "x: {a}",
            "plain",
            "plain/{a}:",
            "x:{a b}",
            "1:{a}",
            "1{a}",
            "x{a} ",
        ] {
            assert!(Target::template(no_template).is_none(), "{no_template:?}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own(uri in "[xX]:(//[aB@:%4])?[/.a%2eFf5Cc0?#]{0,14}") {
            if let Some(normal) = normalise(&uri) {
                let again = normalise(&normal);
                prop_assert_eq!(again.as_deref(), Some(&*normal));
            }
        }

        #[test]
        fn a_plain_uri_is_its_own(uri in "[ax]{1,2}:(//[aB.@:]{0,2})?[/.a%~2?]{0,8}") {
            if is_plain(&uri) {
                prop_assert!(matches!(normal_form(&uri, is_uri_byte), Some(Cow::Borrowed(_))), "{}", uri);
            }
        }

        #[test]
        fn any_text_is_looked_at_without_harm(uri in "\\PC*") {
            let _ = (normalise(&uri), Target::template(&uri).is_some());
        }
    }
}
