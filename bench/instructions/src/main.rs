//! Instructions of the pure rooms on the way of a call, counted by valgrind's callgrind and compared with those recorded in
//! `bench/instructions/recorded.txt`. Wall time lies on a busy machine; instructions do not.
//!
//! `instructions` counts and compares, `instructions --record` counts and records, `instructions PIECE TURNS` is what runs
//! under valgrind.

mod count;
mod pieces;

use std::process::ExitCode;

use count::Verdict;
use pieces::Bench;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => told(count::check()),
        ["--record"] => told(count::record()),
        [piece, turns] => match (Bench::named(piece), turns.parse()) {
            (Some(mut bench), Ok(turns)) => {
                bench.run(turns);
                ExitCode::SUCCESS
            }
            _ => usage(),
        },
        _ => usage(),
    }
}

fn told(verdict: Result<Verdict, String>) -> ExitCode {
    match verdict {
        Ok(Verdict::Sound) => ExitCode::SUCCESS,
        Ok(Verdict::Skipped(why)) => {
            println!("NOT COUNTED: {why}");
            // In CI nothing is left out silently; elsewhere valgrind need not be there.
            if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Ok(Verdict::Worse) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: instructions [--record | PIECE TURNS]");
    ExitCode::FAILURE
}
