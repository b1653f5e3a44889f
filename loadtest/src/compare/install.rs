//! Programs that are measured, or measure: where they are, or how they come.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::net;

/// Where `asked` is; if that is its usual name and it is missing, apt-get gets `package`, where that is allowed.
pub(super) fn program(asked: &Path, usual: &str, package: &str, allowed: bool) -> anyhow::Result<PathBuf> {
    if let Some(program) = net::find_program(asked) {
        return Ok(program);
    }
    if !allowed || asked != Path::new(usual) {
        bail!("{} is not there", asked.display());
    }
    if !get(package)? {
        // The lists may be old, or none.
        apt(&["update", "-qq"])?;
        anyhow::ensure!(get(package)?, "{usual} is missing, and apt-get cannot install it (as root?)");
    }
    net::find_program(asked).with_context(|| format!("{package} was installed, but {usual} is not there"))
}

/// One of our own programs: `asked`, or beside this one, or in target/release.
pub(super) fn own(asked: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    if let Some(program) = asked {
        return net::find_program(program).with_context(|| format!("{} is not there", program.display()));
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(name));
    let built = Path::new("target/release").join(name);
    let found = beside.into_iter().chain([built]).find(|program| program.is_file());
    found.with_context(|| {
        format!("there is no {name} beside this program nor in target/release: cargo build --release -p {name}")
    })
}

fn get(package: &str) -> anyhow::Result<bool> {
    eprintln!("apt-get install -y --no-install-recommends {package}");
    apt(&["install", "-y", "-qq", "--no-install-recommends", package])
}

/// Whether it went well.
fn apt(arguments: &[&str]) -> anyhow::Result<bool> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    Ok(status.context("there is no apt-get")?.success())
}
