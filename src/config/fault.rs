//! What is wrong with a configuration, and where. A text that came from a variable or a file is never quoted.

use std::fmt::{self, Display, Formatter, Write};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use crate::config::raw::Place;

/// One thing the operator has to know, at one place of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file that it is in; `None` for the one that was read.
    pub file: Option<Arc<Included>>,
    /// Whether the file can be used all the same.
    pub weight: Weight,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key's path (`servers.docs.url`, `policy.rules[2].permit[0]`); empty for the whole file.
    pub path: String,
    /// What is wrong; one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// A secret is written on that line: the line is not shown.
    pub veiled: bool,
}

/// A file that another one includes.
#[derive(Clone, PartialEq, Eq)]
pub struct Included {
    /// As it is shown: its folder is that of the file that includes it.
    pub name: String,
    /// What it says.
    pub text: String,
    /// Its place among all that are included, from 1.
    pub number: usize,
}

impl fmt::Debug for Included {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// How bad a [`Fault`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The file is refused.
    Error,
    /// The file is used; the operator is told.
    Warning,
}

impl Fault {
    /// For a terminal: the message, the place as editors link it, the line itself with a caret, the hint. `file` is
    /// the name to show of the file that was read; `text` is what was parsed of it. Ends with a newline.
    #[must_use]
    pub fn render(&self, file: &str, text: &str) -> String {
        let (file, text) = self.file.as_ref().map_or((file, text), |own| (&own.name, &own.text));
        let word = match self.weight {
            Weight::Error => "error",
            Weight::Warning => "warning",
        };
        let mut out = format!("{word}: {}", Subject(self));
        let gutter = self.line.to_string().len();
        // Writing to a String cannot fail.
        let _ = write!(out, "\n{:gutter$}--> {file}:{}:{}", "", self.line, self.column);
        if let Some(line) = line_of(text, self.line).filter(|_| !self.veiled) {
            let (shown, caret) = excerpt(line, self.column.saturating_sub(1));
            let _ = write!(out, "\n{:gutter$} |\n{} | {shown}\n{:gutter$} | {:caret$}^", "", self.line, "", "");
        }
        if let Some(hint) = &self.hint {
            let _ = write!(out, "\n{:gutter$} = {hint}", "");
        }
        out.push('\n');
        out
    }

    /// Not knowing what stands on its line, for that could not be read: the line is not shown where it names a secret.
    pub(crate) fn veiled_beside(mut self, text: &str, names: &[&str]) -> Self {
        let line = line_of(text, self.line).unwrap_or_default();
        self.veiled |= names.iter().any(|name| line.contains(name));
        self
    }

    /// On one line, for a log: with the file's name, `file` where it is the one that was read.
    #[must_use]
    pub fn told(&self, file: &str) -> String {
        let name = if self.file.is_some() { String::new() } else { format!("{file}:") };
        format!("{name}{self}")
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.name)?;
        }
        write!(f, "{}:{}: {}", self.line, self.column, Subject(self))?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for Fault {}

/// The faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    all: Vec<Fault>,
    /// The file that is looked at.
    file: Option<Arc<Included>>,
    /// Lines of the file that was read first on which a secret is written.
    veiled: Vec<RangeInclusive<usize>>,
}

impl Faults {
    /// From here on faults are in this file: `None` for the one that was read.
    pub(crate) fn look_at(&mut self, file: Option<Arc<Included>>) {
        self.file = file;
    }

    /// On these lines of the file that was read first, a secret is written.
    pub(crate) fn veil(&mut self, lines: RangeInclusive<usize>) {
        self.veiled.push(lines);
    }

    /// Those lines.
    pub(crate) fn veiled(&self) -> &[RangeInclusive<usize>] {
        &self.veiled
    }

    /// One that was found by somebody else, in the file that is looked at.
    pub(crate) fn take(&mut self, fault: Fault) {
        self.all.push(Fault { file: self.file.clone(), ..fault });
    }

    /// One that says itself which file it is in.
    pub(crate) fn take_at(&mut self, fault: Fault) {
        self.all.push(fault);
    }

    pub(crate) fn error(&mut self, at: &Place, path: &str, message: impl Into<String>, hint: impl Into<Hint>) {
        self.push(Weight::Error, at, path, message.into(), hint.into());
    }

    pub(crate) fn warn(&mut self, at: &Place, path: &str, message: impl Into<String>, hint: impl Into<Hint>) {
        self.push(Weight::Warning, at, path, message.into(), hint.into());
    }

    /// What the file asks for is understood, and not done: `what` is the key or the word, `instead` what to do.
    pub(crate) fn later(&mut self, at: &Place, path: &str, what: &str, instead: &str) {
        self.error(at, path, format!("this version does not do {what} yet"), instead);
    }

    /// The warnings; as soon as there is an error, everything.
    pub(crate) fn finish(self) -> Result<Vec<Fault>, Vec<Fault>> {
        let errors = self.all.iter().any(|fault| fault.weight == Weight::Error);
        if errors { Err(self.all()) } else { Ok(self.all()) }
    }

    /// Everything, in the order of the file, and then of those that it includes.
    pub(crate) fn all(mut self) -> Vec<Fault> {
        let file = |fault: &Fault| fault.file.as_ref().map_or(0, |file| file.number);
        self.all.sort_by_key(|fault| (file(fault), fault.line, fault.column));
        for fault in self.all.iter_mut().filter(|fault| fault.file.is_none()) {
            fault.veiled |= self.veiled.iter().any(|lines| lines.contains(&fault.line));
        }
        self.all
    }

    fn push(&mut self, weight: Weight, at: &Place, path: &str, message: String, hint: Hint) {
        let path = path.to_owned();
        let file = self.file.clone();
        self.all.push(Fault {
            file,
            weight,
            line: at.line,
            column: at.column,
            path,
            message,
            hint: hint.0,
            veiled: false,
        });
    }
}

/// What to do about a fault, if anything can be said.
pub(crate) struct Hint(Option<String>);

impl From<&str> for Hint {
    fn from(hint: &str) -> Self {
        Self((!hint.is_empty()).then(|| hint.to_owned()))
    }
}

impl From<String> for Hint {
    fn from(hint: String) -> Self {
        Self(Some(hint))
    }
}

impl From<Option<String>> for Hint {
    fn from(hint: Option<String>) -> Self {
        Self(hint)
    }
}

/// `did you mean …?`, when one of `names` is near enough to what was written.
pub(crate) fn nearest<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> Option<String> {
    let far = |name: &str| strsim::damerau_levenshtein(&written.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let (distance, name) = names.into_iter().map(|name| (far(name), name)).min()?;
    let near = distance <= name.chars().count().max(written.chars().count()) / 3;
    near.then(|| format!("did you mean `{name}`?"))
}

struct Subject<'a>(&'a Fault);

impl Display for Subject<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.0.path.is_empty() {
            write!(f, "{}: ", self.0.path)?;
        }
        f.write_str(&self.0.message)
    }
}

/// The lines, from 1, that these bytes of a text are on; as [`line_of`] counts them.
pub(crate) fn lines_of(text: &str, bytes: &Range<usize>) -> RangeInclusive<usize> {
    let number = |at: usize| {
        let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
        let ends =
            |(at, byte): (usize, &u8)| *byte == b'\n' || *byte == b'\r' && text.as_bytes().get(at + 1) != Some(&b'\n');
        before.iter().enumerate().filter(|one| ends(*one)).count() + 1
    };
    number(bytes.start)..=number(bytes.end)
}

/// The line of that number, from 1, as YAML counts them: CR LF, LF and CR each end one (YAML 1.2, 5.4).
fn line_of(text: &str, number: usize) -> Option<&str> {
    let mut rest = text;
    for _ in 1..number {
        let end = rest.find(['\r', '\n'])?;
        rest = rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..]);
    }
    rest.split(['\r', '\n']).next()
}

/// The part of `line` around `column` (from 0) that fits a terminal, and where in it the column is. Whatever could
/// move the cursor or give orders to the terminal is shown as a blank.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let from = column.saturating_sub(COLUMNS_BEFORE);
    let shown = line.chars().skip(from).take(COLUMNS_SHOWN);
    let shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    (shown.trim_end().to_owned(), column - from)
}

const COLUMNS_BEFORE: usize = 70;
const COLUMNS_SHOWN: usize = 110;

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: usize, column: usize, hint: Option<&str>) -> Fault {
        Fault {
            file: None,
            weight: Weight::Error,
            line,
            column,
            path: "servers.docs.url".to_owned(),
            message: "is not a URL".to_owned(),
            hint: hint.map(str::to_owned),
            veiled: false,
        }
    }

    #[test]
    fn the_caret_stands_under_the_column() {
        let text = "servers:\n  docs:\n    url: nowhere\n";
        assert_eq!(
            fault(3, 10, Some("write http://…")).render("gate.yaml", text),
            "error: servers.docs.url: is not a URL\n --> gate.yaml:3:10\n  |\n3 |     url: nowhere\n  |          ^\n  \
             = write http://…\n"
        );
    }

    #[test]
    fn the_nearest_name() {
        let check = |written, want: Option<&str>| {
            let got = nearest(written, ["permit", "forbid", "tasks", "id"]);
            assert_eq!(got, want.map(|name| format!("did you mean `{name}`?")));
        };
        check("premit", Some("permit"));
        check("Tasks", Some("tasks"));
        check("task", Some("tasks"));
        check("allow", None);
        check("x", None);
    }

    #[test]
    fn a_line_that_is_not_there_is_not_shown() {
        assert_eq!(
            fault(9, 1, None).render("gate.yaml", "a: 1\n"),
            "error: servers.docs.url: is not a URL\n --> gate.yaml:9:1\n"
        );
    }

    #[test]
    fn a_line_with_a_secret_is_not_shown() {
        let veiled = Fault { veiled: true, ..fault(1, 4, None) };
        assert_eq!(veiled.render("f", "a: hunter2\n"), "error: servers.docs.url: is not a URL\n --> f:1:4\n");
    }

    #[test]
    fn a_line_ends_as_yaml_ends_it() {
        let text = "a\r\nb\rc\n\nd";
        let got: Vec<_> = (1..=6).map(|number| line_of(text, number)).collect();
        assert_eq!(got, [Some("a"), Some("b"), Some("c"), Some(""), Some("d"), None]);
    }

    #[test]
    fn long_lines_are_cut_and_escapes_are_blanked() {
        let line = format!("{}\x1b[31m{}", "a".repeat(500), "b".repeat(500));
        let shown = fault(1, 501, None).render("f", &line);
        assert!(!shown.contains('\x1b'));
        assert!(shown.lines().all(|line| line.chars().count() < 130), "{shown}");
        let caret = shown.lines().last().expect("a caret line").find('^').expect("a caret");
        let source = shown.lines().nth(3).expect("a source line");
        assert_eq!(source.find(" [31m"), Some(caret));
    }
}
