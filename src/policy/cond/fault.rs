//! How faults of conditions are made: at a byte, which becomes a character's column, with what to write instead.

use super::CondFault;

/// What is wrong, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    at: usize,
    problem: String,
    hint: String,
}

/// A fault at this byte.
pub(super) fn fault(at: usize, problem: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault { at, problem: problem.into(), hint: hint.into() }
}

impl Fault {
    /// The same for those outside: columns count characters.
    pub(super) fn in_text(self, text: &str) -> CondFault {
        let before = &text[..text.floor_char_boundary(self.at)];
        CondFault { column: before.chars().count() + 1, problem: self.problem, hint: self.hint }
    }
}

/// A hint at the name that was probably meant; empty where none is near.
pub(in crate::policy) fn nearest<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    let lower = written.to_ascii_lowercase();
    let far = |name: &str| strsim::damerau_levenshtein(&lower, &name.to_ascii_lowercase());
    let Some((distance, name)) = names.into_iter().map(|name| (far(name), name)).min() else {
        return String::new();
    };
    let near = distance <= name.chars().count().max(written.chars().count()) / 3;
    if near { format!("did you mean `{name}`?") } else { String::new() }
}
