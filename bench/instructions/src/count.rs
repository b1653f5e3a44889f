//! Counting, and comparing with what was recorded.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::pieces::PIECES;

/// More than this above what was recorded is a change for the worse; more than this below it wants recording.
const TOLERANCE_PERCENT: u64 = 3;
/// The difference of two runs is of so many turns: starting costs the same in both.
const TURNS: u32 = 1_024;

/// What came of it.
pub(crate) enum Verdict {
    Sound,
    Worse,
    /// There was nothing to compare, or nothing to count with.
    Skipped(String),
}

/// Counts each piece, and compares.
pub(crate) fn check() -> Result<Verdict, String> {
    if !has_valgrind() {
        return Ok(Verdict::Skipped("valgrind is missing (apt-get install valgrind)".to_owned()));
    }
    let place = place();
    let text = fs::read_to_string(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let (made_with, here) = (text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default(), made_with());
    if made_with != here {
        // Another compiler makes other instructions: no fault of the code's.
        println!("NOT COMPARED: recorded with {made_with}, this is {here}; `instructions --record` renews them");
        return Ok(Verdict::Sound);
    }
    let mut worse = false;
    for (name, what) in PIECES {
        let now = count(name)?;
        let recorded = recorded(&text, name).ok_or_else(|| format!("{name} was never recorded"))?;
        let percent = (now as f64 / recorded as f64 - 1.0) * 100.0;
        let verdict = judge(recorded, now);
        worse |= verdict == "WORSE";
        println!("{name:<18} {now:>8} recorded {recorded:>8} {percent:>+6.1} %  {verdict:<8} {what}");
    }
    if worse {
        println!(
            "\nMore instructions than recorded, by more than {TOLERANCE_PERCENT} %. If that is meant, say why and renew:"
        );
        println!("  cargo run --release -p instructions -- --record");
    }
    Ok(if worse { Verdict::Worse } else { Verdict::Sound })
}

/// Counts each piece, and writes that down.
pub(crate) fn record() -> Result<Verdict, String> {
    if !has_valgrind() {
        return Ok(Verdict::Skipped("valgrind is missing (apt-get install valgrind)".to_owned()));
    }
    let mut out = format!("# {}\n", made_with());
    for (name, what) in PIECES {
        let now = count(name)?;
        println!("{name:<18} {now:>8}  {what}");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name} {now}");
    }
    let place = place();
    fs::write(&place, out).map_err(|error| format!("{}: {error}", place.display()))?;
    Ok(Verdict::Sound)
}

/// Instructions of one turn.
fn count(name: &str) -> Result<u64, String> {
    let (once, twice) = (total(name, TURNS)?, total(name, 2 * TURNS)?);
    Ok(twice.saturating_sub(once) / u64::from(TURNS))
}

/// Instructions of a whole run.
fn total(name: &str, turns: u32) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let out = std::env::temp_dir().join(format!("instructions-{}.out", std::process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--error-exitcode=0"]).arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(own).arg(name).arg(turns.to_string());
    let ran = command.stdin(Stdio::null()).output().map_err(|error| format!("valgrind: {error}"))?;
    let text = fs::read_to_string(&out).unwrap_or_default();
    let _ = fs::remove_file(&out);
    if !ran.status.success() {
        return Err(format!("{name} under valgrind: {}", String::from_utf8_lossy(&ran.stderr)));
    }
    sum(&text).ok_or_else(|| format!("{name}: callgrind has counted nothing"))
}

/// The line `totals: 123` of what callgrind writes, or `summary: 123`.
fn sum(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")))?;
    line.split_whitespace().next()?.parse().ok()
}

fn recorded(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn judge(recorded: u64, now: u64) -> &'static str {
    if now * 100 > recorded * (100 + TOLERANCE_PERCENT) {
        "WORSE"
    } else if now * 100 < recorded * (100 - TOLERANCE_PERCENT) {
        "better: renew"
    } else {
        "as it was"
    }
}

/// Compiler and processor family: what decides which instructions there are, but for the code.
fn made_with() -> String {
    let said = Command::new("rustc").arg("--version").output().ok();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let version = said.split_whitespace().nth(1).unwrap_or("unknown").to_owned();
    format!("rustc {version}, {}{}", std::env::consts::ARCH, wide())
}

/// The scanners take wider steps where they can.
#[cfg(target_arch = "x86_64")]
fn wide() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx2") { " with AVX2" } else { "" }
}

#[cfg(not(target_arch = "x86_64"))]
fn wide() -> &'static str {
    ""
}

fn has_valgrind() -> bool {
    let mut command = Command::new("valgrind");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn place() -> PathBuf {
    Path::new("bench/instructions/recorded.txt").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found() {
        assert_eq!(sum("events: Ir\nsummary: 12\n\ntotals: 12\n"), Some(12));
        assert_eq!(sum("events: Ir\n"), None);
        let text = "# rustc 1\nanswer-head 7\nanswer 8\n";
        assert_eq!((recorded(text, "answer"), recorded(text, "answer-head")), (Some(8), Some(7)));
        assert_eq!(recorded(text, "token"), None);
    }

    #[test]
    fn three_per_cent_are_as_it_was() {
        assert_eq!(judge(1_000, 1_030), "as it was");
        assert_eq!(judge(1_000, 1_031), "WORSE");
        assert_eq!(judge(1_000, 969), "better: renew");
    }
}
