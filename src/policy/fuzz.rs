//! What must be true of any URI and template that policy looks at. See `base::fuzz` for how these are run.

use super::glob::Glob;
use super::uri::{self, Target};
use crate::base::limits::URI_BYTES_MAX;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn uris_hold() {
        hold("policy_uri", uri);
    }
}
