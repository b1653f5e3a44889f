//! What must be true of any condition, URI and template that policy looks at. See `base::fuzz` for how these are run.

use std::sync::Arc;

use super::cond::{ClaimTypes, Condition, Facts, Purpose, Truth};
use super::glob::Glob;
use super::uri::{self, Target};
use crate::base::limits::{COND_PATHS_MAX, URI_BYTES_MAX};
use crate::identity::caller::Caller;

/// A URI or a template: the normal form is its own normal form, holds nothing that is left to resolve, and a glob that
/// spells either form forbids it, while both must match to permit.
///
/// # Panics
/// When one of these is not true.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(normal) = uri::normalise(text) {
        assert!(text.len() <= URI_BYTES_MAX && normal.is_ascii() && normal.len() <= text.len());
        assert_eq!(uri::normalise(&normal).as_deref(), Some(&*normal), "a normal form is its own");
        assert_nothing_to_resolve(&normal);
        let target = Target::resource(text).expect("what has a normal form is a resource");
        assert_eq!((target.normal(), target.written(), target.is_open()), (&*normal, text, false));
        let (written, resolved) = (Glob::from_parts([text]), Glob::from_parts([&*normal]));
        assert!(target.forbidden_by(&written) && target.forbidden_by(&resolved));
        assert_eq!(target.permitted_by(&written), *normal == *text, "a permit must match both forms");
        assert!(target.permitted_by(&Glob::new("*")) && !target.permitted_by(&Glob::new("")));
    } else {
        assert!(Target::resource(text).is_none());
    }
    if let Some(target) = Target::template(text) {
        assert!(text.len() <= URI_BYTES_MAX && target.written() == text);
        assert!(target.is_open() == text.contains('{') && text.starts_with(target.fixed()) || !target.is_open());
        assert!(target.permitted_by(&Glob::new("*")) && target.forbidden_by(&Glob::from_parts([text])));
    }
    let glob = Glob::new(text);
    assert!(glob.matches(text), "a star matches a star");
    assert!(glob.overlaps(&glob) && text.starts_with(glob.prefix()));
    assert_eq!(glob.literal().is_none(), text.contains('*'));
}

fn assert_nothing_to_resolve(normal: &str) {
    let (scheme, rest) = normal.split_once(':').expect("a URI has a scheme");
    assert!(!scheme.is_empty() && !scheme.bytes().any(|byte| byte.is_ascii_uppercase()));
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = match path.strip_prefix("//") {
        Some(rest) => rest.find('/').map_or("", |slash| &rest[slash..]),
        None => path,
    };
    assert!(!path.split('/').any(|segment| matches!(segment, "." | "..")), "dots are left in {path}");
    for escape in normal.split('%').skip(1) {
        let value = u8::from_str_radix(&escape[..2], 16).expect("two digits follow");
        assert!(!escape[..2].bytes().any(|byte| byte.is_ascii_lowercase()), "capital digits");
        assert!(value != 0 && !value.is_ascii_alphanumeric() && !b"-._~".contains(&value), "%{escape}");
    }
}

/// A condition, a zero byte, and the arguments it is asked of (claims likewise): a text is refused at one of its own
/// characters or compiled, and then comes to something whatever the bytes are: what can be told, a list could have said.
///
/// # Panics
/// When one of these is not true.
pub fn condition(data: &[u8]) {
    let (text, about) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    let about = about.get(1..).unwrap_or_default();
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let mut caller = Caller::anonymous();
    caller.claims = Arc::from(about);
    let facts = Facts { caller: &caller, args: Some(about), task: None, tool: "t", server: "s", now_s: 1_700_000_000 };
    for purpose in [Purpose::Who, Purpose::When, Purpose::Sum, Purpose::Value, Purpose::Claim] {
        let condition = match Condition::parse(text, purpose, &ClaimTypes::default()) {
            Ok(condition) => condition,
            Err(fault) => {
                assert!(!fault.problem.is_empty() && (1..=text.chars().count() + 1).contains(&fault.column));
                continue;
            }
        };
        assert!(condition.text() == text && condition.arg_paths().len() <= COND_PATHS_MAX);
        let (truth, unknown) = (condition.truth(&facts, 0), condition.unknown(&facts, 0));
        if matches!(purpose, Purpose::Who | Purpose::When) {
            assert!(condition.could(&facts).has(truth), "what is was said to be possible");
            assert_eq!(unknown.is_some(), truth == Truth::Unknown, "what is unknown has a place");
        }
        let fed = |dead| {
            let mut bytes = Vec::new();
            condition.value(&facts, dead, &mut |some| bytes.extend_from_slice(some)).then_some(bytes)
        };
        assert_eq!(fed(0), fed(0));
        assert!(condition.number(&facts, 0).is_none() || fed(0).is_some(), "a number is a value");
        let _ = (fed(u64::MAX), condition.truth(&facts, u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn uris_hold() {
        hold("policy_uri", uri);
    }

    #[test]
    fn conditions_hold() {
        hold("policy_condition", condition);
    }
}
