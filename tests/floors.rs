//! The house's own rules, as tests, so that `cargo test` is the whole truth about them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A function longer than this is two functions.
const FUNCTION_LINES_MAX: usize = 70;
/// Of a rule's faults, so many are shown.
const SHOWN_MAX: usize = 20;
/// What a pure room must not name: sockets, files, clocks, threads, locks, globals, logs, the environment.
const IMPURE: &[&str] = &[
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "std::fs",
    "File::open",
    "SystemTime",
    "Instant",
    "std::thread",
    "thread::spawn",
    "Mutex",
    "RwLock",
    "Condvar",
    "OnceLock",
    "LazyLock",
    "thread_local!",
    "AtomicU64",
    "AtomicUsize",
    "AtomicBool",
    "static mut",
    "std::env",
    "tracing::",
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
    "dbg!",
    "monoio",
    "rustix",
    "socket2",
];
/// Globals that a pure room has for a reason, each named with it.
const ALLOWED: &[(&str, &str)] = &[
    ("src/identity/provider.rs", "OnceLock"), // the crypto provider's tables, constant once made
    ("src/identity/provider.rs", "LazyLock"),
    ("src/identity/liveness.rs", "AtomicBool"), // what an issuer says of one token, told to all who were let in by it
    ("src/identity/liveness.rs", "AtomicU64"),
    ("src/policy/classes.rs", "OnceLock"), // what is kept there could be made anew at any time, and would be the same
    ("src/policy/classes.rs", "AtomicUsize"), // how much of that there is
];

/// The one file outside of uring with an unsafe block, and only one: the call into code for processors with AVX2.
const UNSAFE_CALL: &str = "src/jsonrpc/lanes.rs";

/// A test file that no list names is never run, and nobody notices.
#[test]
fn every_test_file_is_run() {
    let mut faults = Vec::new();
    for list in all_files(Path::new("tests")).into_iter().filter(|file| file.ends_with("mod.rs")) {
        let named = fs::read_to_string(&list).unwrap();
        for file in fs::read_dir(list.parent().unwrap()).unwrap().filter_map(Result::ok).map(|entry| entry.path()) {
            let (stem, rust) = (file.file_stem().unwrap_or_default().to_string_lossy(), file.extension());
            let is_named = stem == "mod" || named.contains(&format!("mod {stem};"));
            if rust.is_some_and(|it| it == "rs") && !is_named {
                faults.push(format!("{}: no `mod {stem};` in {}", file.display(), list.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The floor plan is the `pub mod` list of src/lib.rs, lowest floor first.
#[test]
fn arrows_point_down() {
    let rooms = rooms();
    let mut faults = Vec::new();
    for (here, room) in rooms.iter().enumerate() {
        each_line(&room_path(room), &mut |place, line| {
            if line.contains("crate::{") || line.contains("super::super") {
                faults.push(format!("{place}: name the room: `use crate::room::…`"));
            }
            for used in line.split("crate::").skip(1) {
                let name = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                if rooms.iter().position(|room| room == name).is_some_and(|there| there > here) {
                    faults.push(format!("{place}: {room} reaches up to {name}"));
                }
            }
        });
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(SHOWN_MAX)].join("\n"));
}

/// Every folder of src is a room of the plan, and every room of the plan is there.
#[test]
fn the_plan_is_complete() {
    let mut planned = rooms();
    planned.sort();
    let mut built: Vec<String> = fs::read_dir("src")
        .expect("the tests run in the crate's folder")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    built.sort();
    assert_eq!(planned, built);
}

#[test]
fn every_door_has_its_card() {
    let mut faults = Vec::new();
    for room in rooms() {
        let card = card(&room);
        let text = card.join("\n");
        let says = |word: &str| text.contains(word);
        if !card.first().is_some_and(|line| line.starts_with(&format!("//! {room}: "))) {
            faults.push(format!("{room}: its card does not begin with its name"));
        }
        for word in ["Colour: ", "Owns: ", "Not here: ", "Start at ", "Spec: "] {
            if !says(word) {
                faults.push(format!("{room}: its card lacks {word:?}"));
            }
        }
        // The colour of a room with two ends is the word it begins with.
        if !["pure", "shard", "between", "plane"].iter().any(|colour| says(&format!("Colour: {colour}"))) {
            faults.push(format!("{room}: no such colour"));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(SHOWN_MAX)].join("\n"));
}

#[test]
fn pure_rooms_touch_nothing() {
    let pure: Vec<String> = rooms().into_iter().filter(|room| card(room).join("\n").contains("Colour: pure")).collect();
    assert!(pure.len() >= 8, "the pure rooms were not found: {pure:?}");
    let mut faults = Vec::new();
    for room in pure {
        each_line(&room_path(&room), &mut |place, line| {
            let file = place.split(':').next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| names_it(line, word)) {
                if !ALLOWED.contains(&(file, word)) {
                    faults.push(format!("{place}: {room} is pure and names {word}"));
                }
            }
        });
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(SHOWN_MAX)].join("\n"));
}

#[test]
fn unsafe_lives_in_one_room() {
    let mut faults = Vec::new();
    let (mut blocks, mut outside) = (0, 0);
    for file in files(Path::new("src")) {
        let name = file.display().to_string();
        let text = read(&file);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !["unsafe {", "unsafe impl", "unsafe fn"].iter().any(|form| code.contains(form)) {
                continue;
            }
            blocks += 1;
            let above = &lines[index.saturating_sub(12)..index];
            outside += usize::from(name == UNSAFE_CALL);
            if !name.starts_with("src/uring/") && name != UNSAFE_CALL {
                faults.push(format!("{name}:{}: unsafe outside of uring", index + 1));
            } else if !above.iter().any(|line| line.contains("SAFETY")) {
                faults.push(format!("{name}:{}: unsafe without SAFETY", index + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(SHOWN_MAX)].join("\n"));
    assert!(blocks > 0, "no unsafe found at all: the check would pass on nothing");
    assert!(outside <= 1, "{UNSAFE_CALL} has {outside} unsafe blocks, and may have one");
}

#[test]
fn functions_fit_a_screen() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for file in files(Path::new("src")).into_iter().chain(files(Path::new("tests"))) {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let opened = lines[index..].iter().find(|line| line.ends_with(['{', ';', '}']));
            if !starts_function(line) || opened.is_none_or(|line| !line.ends_with('{')) {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let close = format!("{}}}", " ".repeat(indent));
            // Formatted code closes a body with a brace in the column its first line begins in.
            let Some(length) = lines[index..].iter().position(|line| **line == close) else { continue };
            seen += 1;
            if length + 1 > FUNCTION_LINES_MAX {
                faults.push(format!("{}:{}: {} lines: {}", file.display(), index + 1, length + 1, line.trim()));
            }
        }
    }
    assert!(seen > 200, "only {seen} functions found: the check would pass on nothing");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(SHOWN_MAX)].join("\n"));
}

#[test]
fn nothing_unwraps_outside_of_tests() {
    let mut faults = Vec::new();
    for file in files(Path::new("src")) {
        if is_test_file(&file) {
            continue;
        }
        for (number, line) in product_lines(&read(&file)) {
            let code = line.split("//").next().unwrap_or_default();
            for word in [".unwrap()", "panic!(", "todo!(", "unimplemented!(", ".unwrap_err()"] {
                if code.contains(word) {
                    faults.push(format!("{}:{number}: {word}", file.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(SHOWN_MAX)].join("\n"));
}

/// No code, word or comment of the project leads outside of it.
#[test]
fn nothing_names_a_machine() {
    let mut faults = Vec::new();
    let roots = ["src", "tests", "bench", "examples", "loadtest/src", "tuning", ".ci"];
    let needles = [["/work", "/"].concat(), ["/tmp", "/plan"].concat(), ["/root", "/"].concat()];
    for root in roots {
        for file in all_files(Path::new(root)) {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            for (number, line) in text.lines().enumerate() {
                if needles.iter().any(|needle| line.contains(needle)) {
                    faults.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..faults.len().min(SHOWN_MAX)].join("\n"));
}

fn rooms() -> Vec<String> {
    let map = read(Path::new("src/lib.rs"));
    let room = |line: &str| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    let rooms: Vec<String> = map.lines().filter_map(room).collect();
    assert!(rooms.len() > 1, "no floor plan found: the checks would pass on nothing");
    rooms
}

fn room_path(room: &str) -> PathBuf {
    let folder = Path::new("src").join(room);
    if folder.is_dir() { folder } else { folder.with_extension("rs") }
}

/// The first comment of a room.
fn card(room: &str) -> Vec<String> {
    let path = room_path(room);
    let path = if path.is_dir() { path.join("mod.rs") } else { path };
    read(&path).lines().take_while(|line| line.starts_with("//!")).map(str::to_owned).collect()
}

/// Every line of a room that is neither a comment nor a test.
fn each_line(root: &Path, each: &mut impl FnMut(&str, &str)) {
    for file in files(root) {
        if is_test_file(&file) {
            continue;
        }
        for (number, line) in product_lines(&read(&file)) {
            let code = line.split("//").next().unwrap_or_default();
            if !code.trim().is_empty() {
                each(&format!("{}:{number}", file.display()), code);
            }
        }
    }
}

/// The lines in front of a file's tests, which are its last part, and without single items for tests.
fn product_lines(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let all: Vec<&str> = text.lines().collect();
    for (index, line) in all.iter().enumerate() {
        let next = all.get(index + 1).copied().unwrap_or_default();
        if line.trim() == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{') {
            break;
        }
        lines.push((index + 1, *line));
    }
    lines
}

fn is_test_file(file: &Path) -> bool {
    let name = file.file_stem().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
    name == "tests" || name.ends_with("_tests") || file.components().any(|part| part.as_os_str() == "tests")
}

fn starts_function(line: &str) -> bool {
    let code = line.trim_start();
    let words = ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "async fn ", "const fn ", "pub const fn "];
    let more = ["pub async fn ", "pub(super) async fn ", "pub(crate) async fn ", "pub(crate) const fn ", "unsafe fn "];
    words.iter().chain(&more).any(|word| code.starts_with(word))
}

/// Whether a line names this word, as a word.
fn names_it(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let ends_open = word.ends_with(|c: char| !c.is_alphanumeric());
        !inside(before) && (ends_open || !inside(after))
    })
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = all_files(root);
    found.retain(|file| file.extension().is_some_and(|it| it == "rs"));
    found
}

fn all_files(root: &Path) -> Vec<PathBuf> {
    if root.is_file() {
        return vec![root.to_owned()];
    }
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        // What a fuzzer leaves behind is not ours: its build, what it learned, what it found.
        let built = path.join("CACHEDIR.TAG").exists();
        if built || path.ends_with("fuzz/corpus") || path.ends_with("fuzz/artifacts") {
            continue;
        }
        let below = if path.is_dir() { all_files(&path) } else { vec![path.clone()] };
        found.insert(path, below);
    }
    found.into_values().flatten().collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

/// What must not come in with a dependency: a second runtime, a second TLS or crypto stack, a parser nobody keeps.
#[test]
fn nothing_unwanted_is_built() {
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(names.contains(&"monoio"), "the lock file is not what it was taken for");
    for unwanted in ["tokio", "aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls", "serde_yaml", "serde_yml"] {
        assert!(!names.contains(&unwanted), "{unwanted} has come in: `cargo tree -i {unwanted}` says with what");
    }
}
