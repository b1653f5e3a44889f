//! Paths into arguments and claims, as they are written: `amount`, `customer.id`, `lines[0].price`, `["odd name"]`.

use crate::base::limits::NAME_BYTES_MAX;

/// An argument to write down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgPath {
    /// As the operator wrote it.
    pub text: Box<str>,
    /// The way there, from the arguments; at least one step.
    pub steps: Vec<ArgStep>,
}

/// One step of an [`ArgPath`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgStep {
    /// The member of this name.
    Member(Box<str>),
    /// The element at this place, from 0.
    Element(u64),
}

impl ArgPath {
    /// Reads a path whose first step needs no dot.
    ///
    /// # Errors
    /// The character at fault, counted from 0.
    pub(crate) fn parse(text: &str) -> Result<Self, usize> {
        let steps = match text.starts_with('[') {
            true => steps(text),
            false => steps(&format!(".{text}")).map_err(|offset| offset.saturating_sub(1)),
        };
        Ok(Self { text: Box::from(text), steps: steps? })
    }
}

/// What follows a root: `.NAME`, `["NAME"]`, `['NAME']` and `[0]`, at least once.
///
/// # Errors
/// The character at fault, counted from 0.
pub(crate) fn steps(text: &str) -> Result<Vec<ArgStep>, usize> {
    let mut out = Vec::new();
    let mut rest = text;
    let fault = |rest: &str| text[..text.len() - rest.len()].chars().count();
    while !rest.is_empty() || out.is_empty() {
        let (step, after) = step(rest).ok_or_else(|| fault(rest))?;
        if out.len() == STEPS_MAX {
            return Err(fault(rest));
        }
        out.push(step);
        rest = after;
    }
    Ok(out)
}

fn step(text: &str) -> Option<(ArgStep, &str)> {
    if let Some(rest) = text.strip_prefix('.') {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = &rest[..end];
        let named = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && end <= NAME_BYTES_MAX;
        return named.then(|| (ArgStep::Member(Box::from(name)), &rest[end..]));
    }
    let rest = text.strip_prefix('[')?;
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        // No escapes: whoever has such names writes them as they are.
        let (name, rest) = rest[1..].split_once(quote)?;
        let plain = !name.contains('\\') && !name.contains(char::is_control) && name.len() <= NAME_BYTES_MAX;
        return plain.then_some(()).and_then(|()| Some((ArgStep::Member(Box::from(name)), rest.strip_prefix(']')?)));
    }
    let (index, rest) = rest.split_once(']')?;
    let digits = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
    Some((ArgStep::Element(digits.then(|| index.parse().ok())??), rest))
}

/// Steps of one path.
const STEPS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |text: &str, want: Result<&[ArgStep], usize>| {
            let got = ArgPath::parse(text).map(|path| path.steps);
            assert_eq!(got.as_deref(), want.as_ref().copied(), "{text}");
        };
        let member = |name: &str| ArgStep::Member(Box::from(name));
        check("amount", Ok(&[member("amount")]));
        check("customer.id", Ok(&[member("customer"), member("id")]));
        check("lines[0].price", Ok(&[member("lines"), ArgStep::Element(0), member("price")]));
        check("[\"odd name\"]['x']", Ok(&[member("odd name"), member("x")]));
        check("", Err(0));
        check("a.", Err(1));
        check("a b", Err(1));
        check("a[x]", Err(1));
        check("a[\"x]", Err(1));
        check("é", Err(0));
        check("a.1", Err(1));
        check("a[99999999999999999999999]", Err(1));
        check(&"a.".repeat(40), Err(31));
    }
}
