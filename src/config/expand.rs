//! `${VAR}`, `${VAR:-default}` and `${file:PATH}` inside texts. What they stand for is not looked at again: a
//! variable whose value has a `${` in it means just that.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::base::glob::Glob;
use crate::base::limits::CONFIG_TEXT_BYTES_MAX;

/// Where variables and files come from: this room looks at neither itself.
pub trait Source {
    /// The variable's value, if it is set and is text.
    fn var(&self, name: &str) -> Option<String>;

    /// The whole of a file that the configuration names.
    ///
    /// # Errors
    /// As reading a file to a string has them; not being UTF-8 is one of them.
    fn file(&self, path: &Path) -> io::Result<String>;

    /// The names in a folder that match, in whatever order, of files and folders; for `policy.include`.
    ///
    /// # Errors
    /// As reading a folder has them; by default, that this is not done here.
    fn list(&self, folder: &Path, names: &Glob) -> io::Result<Vec<String>> {
        let _ = (folder, names);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// `text` with everything replaced, or `None` when there is nothing to replace.
pub(crate) fn expand(text: &str, folder: &Path, source: &dyn Source) -> Result<Option<String>, Vec<ExpandFault>> {
    if !text.contains(OPEN) {
        return Ok(None);
    }
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        push(&mut out, &rest[..at]);
        let inner = &rest[at + OPEN.len()..];
        let offset = text[..text.len() - rest.len() + at].chars().count();
        let Some(end) = end_of(inner) else {
            faults.push(ExpandFault { offset, kind: ExpandKind::Open });
            break;
        };
        match one(&inner[..end], folder, source) {
            Ok(value) => push(&mut out, &value),
            Err(kind) => faults.push(ExpandFault { offset, kind }),
        }
        rest = &inner[end + 1..];
        if out.len() > CONFIG_TEXT_BYTES_MAX {
            faults.push(ExpandFault { offset, kind: ExpandKind::Long });
            break;
        }
    }
    push(&mut out, rest);
    if faults.is_empty() { Ok(Some(mem::take(&mut *out))) } else { Err(faults) }
}

/// Appends, and wipes what it has to move away from: it may be a secret.
fn push(out: &mut Zeroizing<String>, piece: &str) {
    if out.capacity() - out.len() < piece.len() {
        let mut larger = Zeroizing::new(String::with_capacity(2 * out.len() + piece.len()));
        larger.push_str(out);
        *out = larger;
    }
    out.push_str(piece);
}

/// Where the `}` of what `inner` begins with is: a file's path may have variables in it.
fn end_of(inner: &str) -> Option<usize> {
    let mut from = 0;
    if inner.starts_with(FILE) {
        while let Some(at) = inner[from..].find(OPEN).filter(|at| inner[from..].find('}').is_none_or(|end| *at < end)) {
            from += at + OPEN.len();
            from += inner[from..].find('}')? + 1;
        }
    }
    inner[from..].find('}').map(|end| from + end)
}

/// `path` as the file means it: relative ones start at the file's folder.
pub(crate) fn resolve(path: &str, folder: &Path) -> PathBuf {
    folder.join(path.strip_prefix("./").unwrap_or(path))
}

/// A reading fault in the words of a shell.
pub(crate) fn why(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::InvalidData => "it is not UTF-8".to_owned(),
        kind => kind.to_string(),
    }
}

/// A replacement that cannot be made, and the character of the text (from 0) where it starts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExpandFault {
    pub(crate) offset: usize,
    pub(crate) kind: ExpandKind,
}

/// Why a replacement cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpandKind {
    #[error("`${{` without its `}}`")]
    Open,
    #[error("`{0}` is not the name of a variable")]
    Name(String),
    #[error("the variable {0} is not set")]
    Unset(String),
    #[error("the file {0} cannot be read: {reason}", reason = why(*.1))]
    File(String, io::ErrorKind),
    #[error("longer than {CONFIG_TEXT_BYTES_MAX} bytes once its variables and files are in it")]
    Long,
}

impl ExpandKind {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unset(name) => Some(format!("set it, or give a default: ${{{name}:-…}}")),
            Self::File(..) => Some("relative paths start at the folder of the configuration".to_owned()),
            Self::Name(_) => Some("write ${NAME}, ${NAME:-default} or ${file:PATH}".to_owned()),
            Self::Open | Self::Long => None,
        }
    }
}

fn one(inner: &str, folder: &Path, source: &dyn Source) -> Result<Zeroizing<String>, ExpandKind> {
    if let Some(path) = inner.strip_prefix(FILE) {
        // systemd, for one, hands secrets over as files in a folder that a variable names.
        let path = &*match path.contains(OPEN) {
            true => expand(path, folder, source).map_err(|mut faults| faults.remove(0).kind)?.unwrap_or_default(),
            false => path.to_owned(),
        };
        let found = source.file(&resolve(path, folder));
        let found = found.map_err(|error| ExpandKind::File(path.to_owned(), error.kind()))?;
        let mut found = Zeroizing::new(found);
        // Editors end a file with a newline that no secret has.
        let kept = found.strip_suffix('\n').unwrap_or(&found);
        let kept = kept.strip_suffix('\r').unwrap_or(kept).len();
        found.truncate(kept);
        return Ok(found);
    }
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    if !is_name(name) {
        return Err(ExpandKind::Name(name.to_owned()));
    }
    // As in a shell, `:-` also stands in for a variable that is set to nothing.
    match (source.var(name).map(Zeroizing::new), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(Zeroizing::new(default.to_owned())),
        (None, None) => Err(ExpandKind::Unset(name.to_owned())),
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

const OPEN: &str = "${";
const FILE: &str = "file:";

#[cfg(test)]
mod tests {
    use super::*;

    struct House;

    impl Source for House {
        fn var(&self, name: &str) -> Option<String> {
            match name {
                "PORT" => Some("8080".to_owned()),
                "FOLDER" => Some("/etc/gate/secrets".to_owned()),
                "EMPTY" => Some(String::new()),
                "TRICK" => Some("${PORT}".to_owned()),
                "BIG" => Some("x".repeat(CONFIG_TEXT_BYTES_MAX + 1)),
                _ => None,
            }
        }

        fn file(&self, path: &Path) -> io::Result<String> {
            match path.to_str() {
                Some("/etc/gate/secrets/token") => Ok("s3cret\r\n".to_owned()),
                Some("/abs") => Ok("two\n\n".to_owned()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    #[track_caller]
    fn check(input: &str, want: Result<Option<&str>, &[(usize, ExpandKind)]>) {
        let got = expand(input, Path::new("/etc/gate"), &House);
        let want = want.map(|text| text.map(str::to_owned)).map_err(|faults| {
            let faults = faults.iter().map(|(offset, kind)| (*offset, kind.to_string()));
            faults.collect::<Vec<_>>()
        });
        let got = got.map_err(|faults| faults.iter().map(|f| (f.offset, f.kind.to_string())).collect::<Vec<_>>());
        assert_eq!(got, want, "{input}");
    }

    #[test]
    fn replaces() {
        check("nothing $HERE {at} all", Ok(None));
        check("${PORT}", Ok(Some("8080")));
        check("${file:${FOLDER}/token}!", Ok(Some("s3cret!")));
        check("${file:${NONE:-/abs}}${PORT}", Ok(Some("two\n8080")));
        check("a${PORT}b${PORT}c", Ok(Some("a8080b8080c")));
        check("${NONE:-x:-y}", Ok(Some("x:-y")));
        check("${NONE:-}", Ok(Some("")));
        check("${EMPTY:-z}|${EMPTY}", Ok(Some("z|")));
        check("${PORT:-1}", Ok(Some("8080")));
        check("${TRICK}", Ok(Some("${PORT}")));
        check("${file:./secrets/token}", Ok(Some("s3cret")));
        check("${file:/abs}", Ok(Some("two\n")));
    }

    #[test]
    fn reports_each_fault_at_its_character() {
        check("é${NONE}-${PORT", Err(&[(1, ExpandKind::Unset("NONE".into())), (9, ExpandKind::Open)]));
        check("${a b}", Err(&[(0, ExpandKind::Name("a b".into()))]));
        check("${}", Err(&[(0, ExpandKind::Name(String::new()))]));
        check("${1A:-x}", Err(&[(0, ExpandKind::Name("1A".into()))]));
        check("${file:no}", Err(&[(0, ExpandKind::File("no".into(), io::ErrorKind::NotFound))]));
        check("${BIG}", Err(&[(0, ExpandKind::Long)]));
    }
}
