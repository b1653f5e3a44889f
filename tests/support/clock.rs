//! A wall clock for one gateway that its test moves: a library put in front of the C library's, made with the compiler
//! that linked the tests.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::gateway::Setup;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");

/// A clock that goes as everybody's, until it is moved.
pub(crate) struct Clock {
    file: File,
    path: PathBuf,
    library: PathBuf,
    _folder: TempDir,
}

impl Clock {
    /// Right.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let library = folder.path().join("clock.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).args([SOURCE, "-ldl"]);
        let made = compiler.output().expect("the tests were linked by cc");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let path = folder.path().join("offset");
        fs::write(&path, 0i64.to_ne_bytes()).expect("the temporary folder can be written");
        let file = File::options().write(true).open(&path).expect("it was written just now");
        Self { file, path, library, _folder: folder }
    }

    /// For this gateway.
    pub(crate) fn of(&self, setup: Setup) -> Setup {
        setup.environment("LD_PRELOAD", &self.library).environment("PORTCULLIS_TEST_CLOCK", &self.path)
    }

    /// Puts it so many seconds ahead of the right time, or behind it.
    pub(crate) fn jump(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("the file is there");
    }
}
