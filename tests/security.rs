//! The checklist of SECURITY.md against the tests: every rule that is said to hold is named by a test that holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// A line of the checklist: section letter and number.
type Number = (char, u32);

/// Each numbered line is named by a test that runs, and no test names a line that is not there.
#[test]
fn every_line_of_the_checklist_has_its_test() {
    let checklist = checklist(&fs::read_to_string("SECURITY.md").expect("the tests run in the crate's folder"));
    let mut tests = BTreeMap::new();
    for folder in ["src", "tests"] {
        collect(Path::new(folder), &mut tests);
    }
    let held: BTreeSet<Number> = tests.values().flatten().copied().collect();
    let mut faults = String::new();
    let missing: Vec<String> = checklist
        .iter()
        .filter(|(number, there)| **there && !held.contains(number))
        .map(|(it, _)| shown(*it))
        .collect();
    if !missing.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(faults, "{} lines that no test names: {}", missing.len(), missing.join(" "));
    }
    for (test, numbers) in &tests {
        for number in numbers.iter().filter(|number| !checklist.contains_key(number)) {
            let _ = writeln!(faults, "{test} names [{}], which is not in SECURITY.md", shown(*number));
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// Sections count from 1 without a gap, so that a number is never given to another line by accident.
#[test]
fn the_checklist_counts_without_gaps() {
    let text = fs::read_to_string("SECURITY.md").expect("the tests run in the crate's folder");
    let order: Vec<Number> = text.lines().filter_map(line).map(|(number, _)| number).collect();
    let mut next = BTreeMap::new();
    for (section, number) in order {
        let expected = next.entry(section).or_insert(1);
        assert_eq!(number, *expected, "section {section}");
        *expected += 1;
    }
    assert_eq!(next.keys().collect::<String>(), "BCDEHIKLOPRST", "the sections");
}

/// What counts as naming a line, and what does not.
#[test]
fn a_name_stands_above_a_test() {
    let text = [
        "/// [A1] Above a test, [B2]",
        "/// on two lines [C3]; [not], [`D4`], [d5], [E], [F6 ] and [67] are no names.",
        "#[test]",
        "#[cfg(any(",
        "    unix,",
        "))]",
        "fn first() {",
        "    /// [G7] Above no test.",
        "    fn inner() {}",
        "}",
        "/// [H8] Never run.",
        "#[test]",
        "#[ignore = \"bug: [I9]\"]",
        "fn second() {}",
        "/// [J1] A blank line ends it.",
        "",
        "#[test]",
        "fn third() {}",
        "    #[test]",
        "    /// [K2] In either order.",
        "    fn fourth(x in 0..1) {}",
    ];
    let mut tests = BTreeMap::new();
    named("f.rs", &text.join("\n"), &mut tests);
    let want =
        [("f.rs: first".to_owned(), vec![('A', 1), ('B', 2), ('C', 3)]), ("f.rs: fourth".to_owned(), vec![('K', 2)])];
    assert_eq!(tests, BTreeMap::from(want));
    let list = checklist("- **A1** Holds.\n- **A2** *Not there yet*: later.\n- A3 is none\n  - **A4** nor this\n");
    assert_eq!(list, BTreeMap::from([(('A', 1), true), (('A', 2), false)]));
}

/// The numbered lines, and whether each is said to hold.
fn checklist(text: &str) -> BTreeMap<Number, bool> {
    text.lines().filter_map(line).collect()
}

/// `- **H1** …`, or `- **H1** *Not there yet*…`.
fn line(line: &str) -> Option<(Number, bool)> {
    let (name, rest) = line.strip_prefix("- **")?.split_once("**")?;
    Some((number(name)?, !rest.trim_start().starts_with("*Not there yet*")))
}

fn number(name: &str) -> Option<Number> {
    let mut chars = name.chars();
    let section = chars.next().filter(char::is_ascii_uppercase)?;
    let digits = chars.as_str();
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((section, digits.parse().ok().filter(|_| plain)?))
}

fn shown((section, number): Number) -> String {
    format!("{section}{number}")
}

/// Every test below `folder` that names lines, by place.
fn collect(folder: &Path, tests: &mut BTreeMap<String, Vec<Number>>) {
    for entry in fs::read_dir(folder).expect("the folder can be read").filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests/security.rs") {
            named(&path.display().to_string(), &fs::read_to_string(&path).expect("a file of ours"), tests);
        }
    }
}

/// The tests of one file that run and name lines in the comment directly above them.
fn named(place: &str, text: &str, tests: &mut BTreeMap<String, Vec<Number>>) {
    let mut numbers = Vec::new();
    let (mut test, mut ignored, mut open) = (false, false, false);
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///") {
            let inside = comment.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
            numbers.extend(inside.filter_map(|(name, _)| number(name)));
        } else if line.starts_with("#[") || open {
            test |= line == "#[test]";
            ignored |= line.starts_with("#[ignore");
            open = !line.ends_with(']');
        } else {
            if let Some((_, rest)) = line.split_once("fn ")
                && test
                && !ignored
                && !numbers.is_empty()
            {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                tests.insert(format!("{place}: {name}"), std::mem::take(&mut numbers));
            }
            numbers.clear();
            (test, ignored) = (false, false);
        }
    }
}
