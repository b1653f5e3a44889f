//! Portcullis with everything on: tokens, tasks, rules, the record.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cli::Compare;
use crate::net;

use super::process::{Folder, Process};

/// Tools of the canned server beside `echo`.
pub(super) const TOOLS: u32 = 200;
/// Where the gateway has the canned server.
pub(super) const PATH: &str = "/s/canned/mcp";

const ISSUER: &str = "https://issuer.loadtest.example";
const TOKEN_SECONDS: &str = "86400";

/// The gateway under way.
pub(super) struct Gateway {
    pub(super) process: Process,
    pub(super) port: u16,
    pub(super) token: Option<String>,
}

/// Where the gateway's program is.
pub(super) fn program(options: &Compare) -> anyhow::Result<PathBuf> {
    if let Some(program) = &options.portcullis {
        return net::find_program(program).with_context(|| format!("{} is not there", program.display()));
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("portcullis"));
    let built = Path::new("target/release/portcullis").to_owned();
    beside
        .into_iter()
        .chain([built])
        .find(|program| program.is_file())
        .context("there is no portcullis beside this program nor in target/release: cargo build --release, or --portcullis FILE, or --only-nginx")
}

/// Starts it in front of the canned server on `upstream`.
pub(super) fn start(program: &Path, options: &Compare, folder: &Folder, upstream: u16) -> anyhow::Result<Gateway> {
    let place = folder.path().join("portcullis");
    fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let port = net::free_port()?;
    let token = if options.anonymous { None } else { Some(mint(program, &place, port)?) };
    let file = place.join("portcullis.yaml");
    fs::write(&file, config(port, upstream, options.rules, options.anonymous))?;
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(&file).env("NO_COLOR", "1");
    let process = Process::start("portcullis", command, options.proxy_core, options.load_core, folder)?;
    Ok(Gateway { process, port, token })
}

fn mint(program: &Path, place: &Path, port: u16) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.arg("token").arg("--key").arg(place.join("issuer"));
    command.args(["--issuer", ISSUER, "--audience", &format!("http://127.0.0.1:{port}{PATH}")]);
    command.args(["--subject", "loadtest", "--agent", "loadtest", "--task", "load", "--expires", TOKEN_SECONDS]);
    let output = command.output().context("portcullis token")?;
    if !output.status.success() {
        bail!("portcullis token: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let token = String::from_utf8(output.stdout).context("portcullis token")?;
    Ok(token.trim().to_owned())
}

/// Paths in it start at its folder.
fn config(port: u16, upstream: u16, rules: u32, anonymous: bool) -> String {
    let auth = if anonymous {
        "  anonymous: allow\n".to_owned()
    } else {
        format!("  issuers:\n    - issuer: {ISSUER}\n      jwks: {{ file: ./issuer.jwks.json }}\n")
    };
    let mut out = format!(
        "listen: 127.0.0.1:{port}
public_url: http://127.0.0.1:{port}
shards: 1
admin: off
state: ./state
auth:
{auth}servers:
  canned:
    url: http://127.0.0.1:{upstream}/mcp
policy:
  tasks:
    load: What the load generator works on.
    review: Something else.
  rules:
    - id: load-may-echo
      permit: [canned/echo]
"
    );
    if !anonymous {
        out.push_str("      tasks: [load]\n");
    }
    for number in 1..rules {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "    - id: rule-{number:04}");
        let tool = number % TOOLS;
        let _ = match number % 5 {
            0 => writeln!(out, "      forbid: [canned/tool-{tool:04}]\n      tasks: [review]"),
            1 => writeln!(out, "      forbid: [\"*/tool-{tool:04}\"]"),
            2 => writeln!(out, "      permit: [canned/tool-0{}*]\n      tasks: [review]", number % 2),
            3 => writeln!(out, "      permit: [canned/tool-{tool:04}, \"canned!prompt:p{number}-*\"]"),
            _ => writeln!(out, "      permit: [canned/tool-{tool:04}]\n      tasks: [load, review]"),
        };
    }
    out.push_str("audit:\n  dir: ./audit\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rules_as_asked() {
        for rules in [1, 100, 1_000] {
            let text = config(1, 2, rules, false);
            assert_eq!(text.matches("    - id: ").count(), rules as usize);
            assert!(text.contains("shards: 1\n") && text.contains("jwks: { file: ./issuer.jwks.json }"));
        }
        let text = config(1, 2, 1, true);
        assert!(text.contains("anonymous: allow") && !text.contains("issuers") && !text.contains("tasks: ["));
    }
}
