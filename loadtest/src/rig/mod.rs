//! What a measurement stands on: the gateway, the canned server behind it, and a folder for what they write.

pub(crate) mod bench;
pub(crate) mod environment;
pub(crate) mod figures;
pub(crate) mod gateway;
pub(crate) mod held;
pub(crate) mod process;
pub(crate) mod sink;

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use process::{Folder, Process};

/// Tools of the canned server beside `echo`.
pub(crate) const TOOLS: u32 = 200;

/// Who runs where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Whoever is measured.
    pub(crate) proxy: usize,
    /// Load and canned server.
    pub(crate) load: usize,
}

/// The canned server with these options of `upstream`, and its port.
pub(crate) fn canned(options: &[String], cores: Cores, folder: &Folder) -> anyhow::Result<(Process, u16)> {
    let (process, ports) = canned_ports(&[&[format!("--tools={TOOLS}")], options].concat(), cores, folder)?;
    Ok((process, ports[0]))
}

/// The same with as many tools and ports as the options say; at least one port.
pub(crate) fn canned_ports(options: &[String], cores: Cores, folder: &Folder) -> anyhow::Result<(Process, Vec<u16>)> {
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    command.args(["upstream", "--until-stdin-ends"]).args(options);
    let mut process = Process::start_heard("canned server", command, cores.load, cores.load, folder)?;
    let line = process.line()?;
    let ports = line.strip_prefix("listening ").map(|ports| ports.split_whitespace().map(str::parse).collect());
    let ports: Option<Vec<u16>> = ports.and_then(Result::ok).filter(|ports: &Vec<u16>| !ports.is_empty());
    Ok((process, ports.with_context(|| format!("the canned server said {line:?}"))?))
}

/// Writes `text` to `place`, whose folder is made where it is missing.
pub(crate) fn write_figures(place: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    std::fs::write(place, text).with_context(|| format!("cannot write {}", place.display()))?;
    println!("All figures: {}", place.display());
    Ok(())
}
