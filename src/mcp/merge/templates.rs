//! URI templates (RFC 6570) as far as routing needs them: could this URI be one of a template's, which of two templates
//! is narrower, and may some URI be of both. Where that cannot be told, the answer is yes: whoever asks then takes the
//! way that cannot go wrong.

use crate::base::glob::Glob;

/// A template that URIs can be compared with, each in time linear in its length.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// Every expression may be anything.
    whole: Glob,
    /// Between two `/` each, when no expression can hold one.
    segments: Option<Box<[Glob]>>,
    /// Bytes that are no expression's.
    literal: usize,
}

impl Template {
    /// `None` for what is no template: braces that do not pair, an empty expression.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts: Vec<String> = vec![String::new()];
        let (mut literal, mut open) = (0, false);
        let mut rest = text;
        loop {
            let (fixed, after) = rest.split_at(rest.find(['{', '}']).unwrap_or(rest.len()));
            for character in fixed.chars() {
                if character.is_ascii() {
                    literal += 1;
                    parts.last_mut()?.push(character);
                } else {
                    // Expanded, it may be escaped or not (RFC 6570, 3.1).
                    parts.push(String::new());
                }
            }
            if after.is_empty() {
                break;
            }
            let inside = after.strip_prefix('{')?;
            let (expression, after) = inside.split_at(inside.find(['{', '}'])?);
            rest = after.strip_prefix('}')?;
            // What these expand to may hold any character, `/` too; of the others servers take one for the end.
            open |= expression.starts_with(['+', '#', '/', '?', '&']);
            if expression.is_empty() {
                return None;
            }
            parts.push(String::new());
        }
        let whole = Glob::from_parts(parts.iter().map(String::as_str));
        Some(Self { whole, segments: (!open).then(|| segments(&parts)), literal })
    }

    /// Whether `uri` may be an expansion of it.
    pub(super) fn matches(&self, uri: &str) -> bool {
        self.whole.matches(uri)
            && self.segments.as_ref().is_none_or(|segments| {
                let mut pieces = uri.split('/');
                segments.iter().all(|segment| pieces.next().is_some_and(|piece| segment.matches(piece)))
                    && pieces.next().is_none()
            })
    }

    /// Whether some URI may be an expansion of both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.whole.overlaps(&other.whole)
            && match (&self.segments, &other.segments) {
                (Some(one), Some(two)) => one.len() == two.len() && one.iter().zip(two).all(|(a, b)| a.overlaps(b)),
                _ => true,
            }
    }

    /// What every expansion begins with.
    pub(super) fn prefix(&self) -> &str {
        self.whole.prefix()
    }

    /// Orders templates, the narrower first.
    pub(super) fn width(&self) -> impl Ord + use<> {
        (std::cmp::Reverse(self.literal), self.segments.is_none())
    }
}

/// The globs between the slashes of the literals around holes.
fn segments(parts: &[String]) -> Box<[Glob]> {
    let mut out: Vec<Vec<&str>> = vec![Vec::new()];
    for part in parts {
        let mut pieces = part.split('/');
        let first = pieces.next().unwrap_or_default();
        // A part goes on where the hole before it ended.
        if let Some(open) = out.last_mut() {
            open.push(first);
        }
        out.extend(pieces.map(|piece| vec![piece]));
    }
    out.into_iter().map(Glob::from_parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap_or_else(|| panic!("{text} is a template"))
    }

    fn check(text: &str, yes: &[&str], no: &[&str]) {
        let template = template(text);
        for uri in yes {
            assert!(template.matches(uri), "{text} {uri}");
        }
        for uri in no {
            assert!(!template.matches(uri), "{text} {uri}");
        }
    }

    #[test]
    fn what_a_template_may_become() {
        check("file:///{name}", &["file:///a", "file:///", "file:///a%2Fb"], &["file:///a/b", "file://x", "x"]);
        check("file:///{+path}", &["file:///a", "file:///a/b?c"], &["http:///a"]);
        check("x://{a}/{b}/end", &["x://1/2/end"], &["x://1/2/3/end", "x://1/end", "x://1/2/end/"]);
        check("x://{a}-{b}/c", &["x://1-2/c", "x://-/c"], &["x://12/c", "x://1/2-3/c"]);
        check("x:{/a*}", &["x:", "x:/a/b"], &["y:"]);
        check("x:a{?q,r}", &["x:a", "x:a?q=1/2"], &["x:b"]);
        check("x:plain", &["x:plain"], &["x:plain2"]);
        check("x:é{a}", &["x:é1", "x:%C3%A91"], &["y:é"]);
        for none in ["x:{", "x:}", "x:{}", "x:{a{b}}", "{a}}"] {
            assert!(Template::parse(none).is_none(), "{none}");
        }
    }

    #[test]
    fn two_templates() {
        let overlap = |one: &str, two: &str| template(one).overlaps(&template(two));
        assert!(overlap("file:///{+p}", "file:///a/{b}"));
        assert!(!overlap("file:///{p}", "file:///a/{b}"));
        assert!(overlap("x://{a}/b", "x://c/{d}"));
        assert!(!overlap("x://{a}/b", "x://{a}/c"));
        assert!(overlap("{+uri}", "x:1"));
        let narrower = |one: &str, two: &str| template(one).width() < template(two).width();
        assert!(narrower("file:///a/{b}", "file:///{+p}"));
        assert!(narrower("file:///{p}", "file:///{+p}"));
        assert!(!narrower("file:///{+p}", "file:///{+q}"));
    }
}
