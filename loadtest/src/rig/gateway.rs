//! Portcullis with everything on: tokens, tasks, rules, the record.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::net;

use super::process::{Folder, Process};
use super::{Cores, TOOLS};

/// Where the gateway has the canned server.
pub(crate) const PATH: &str = "/s/canned/mcp";

pub(crate) const ISSUER: &str = "https://issuer.loadtest.example";
/// A tool that may be called under [`CONDITION`], where there are as many rules as that.
pub(crate) const CONDITIONAL_TOOL: &str = "tool-0004";
/// One rule, and tool, in ten: those whose number ends so.
const CONDITIONAL: u32 = 4;
/// Says no to nothing that loadtest sends, and has to be looked at each time.
const CONDITION: &str =
    "      when: args.message.size() > 0 && !args.message.startsWith(\"x\") && claims.sub != \"nobody\"\n";
const TOKEN_SECONDS: &str = "86400";

/// The gateway under way.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) port: u16,
    /// One for each subject asked for; none where callers need none.
    pub(crate) tokens: Vec<String>,
    /// Its configuration.
    file: PathBuf,
}

/// How it is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) program: &'a Path,
    pub(crate) cores: Cores,
    pub(crate) rules: u32,
    /// Callers; empty lets everybody in without a token.
    pub(crate) subjects: &'a [&'a str],
    /// Lines of the configuration's `limits`.
    pub(crate) limits: &'a [(&'a str, String)],
    /// Lines of its `sessions`.
    pub(crate) sessions: &'a [(&'a str, String)],
    /// Certificate and key, as PEM.
    pub(crate) tls: Option<(&'a str, &'a str)>,
    /// Port of its admin listener; `None` for none.
    pub(crate) admin: Option<u16>,
}

/// Where the gateway's program is: `asked`, or beside this one, or in target/release.
pub(crate) fn program(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(program) = asked {
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
pub(crate) fn start(setup: &Setup<'_>, folder: &Folder, upstream: u16) -> anyhow::Result<Gateway> {
    start_as(setup, folder, &[PATH], &|base, port| config(setup, base, port, upstream))
}

/// Starts it with a configuration made from its public URL and port. Tokens: for each path one of each subject.
pub(crate) fn start_as(
    setup: &Setup<'_>,
    folder: &Folder,
    paths: &[&str],
    config: &dyn Fn(&str, u16) -> String,
) -> anyhow::Result<Gateway> {
    let port = net::free_port()?;
    let place = folder.path().join(format!("portcullis-{port}"));
    fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let base = format!("{}://127.0.0.1:{port}", if setup.tls.is_some() { "https" } else { "http" });
    let mut tokens = Vec::new();
    for path in paths {
        for subject in setup.subjects {
            tokens.push(mint(setup.program, &place, &format!("{base}{path}"), subject)?);
        }
    }
    if let Some((certificate, key)) = setup.tls {
        fs::write(place.join("cert.pem"), certificate)?;
        fs::write(place.join("key.pem"), key)?;
    }
    let file = place.join("portcullis.yaml");
    fs::write(&file, config(&base, port))?;
    let process = launch(setup, &file, folder)?;
    Ok(Gateway { process, port, tokens, file })
}

/// Starts one that has ended again, on what it left behind.
pub(crate) fn restart(setup: &Setup<'_>, folder: &Folder, gateway: Gateway) -> anyhow::Result<Gateway> {
    let Gateway { port, tokens, file, .. } = gateway;
    let process = launch(setup, &file, folder)?;
    Ok(Gateway { process, port, tokens, file })
}

fn launch(setup: &Setup<'_>, file: &Path, folder: &Folder) -> anyhow::Result<Process> {
    let mut command = Command::new(setup.program);
    command.arg("run").arg("--config").arg(file).env("NO_COLOR", "1");
    Process::start("portcullis", command, setup.cores.proxy, setup.cores.load, folder)
}

impl Gateway {
    /// Gives it another configuration file, which it has not read yet.
    pub(crate) fn write(&self, config: &str) -> anyhow::Result<()> {
        fs::write(&self.file, config).with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// What allows orders over its admin listener.
    pub(crate) fn admin_token(&self) -> anyhow::Result<String> {
        let file = self.file.with_file_name("state").join("admin.token");
        let token = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(token.trim().to_owned())
    }

    /// What it keeps in its state folder under this name, bytes.
    pub(crate) fn state_bytes(&self, name: &str) -> u64 {
        std::fs::metadata(self.file.with_file_name("state").join(name)).map_or(0, |file| file.len())
    }
}

fn mint(program: &Path, place: &Path, audience: &str, subject: &str) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.arg("token").arg("--key").arg(place.join("issuer"));
    command.args(["--issuer", ISSUER, "--audience", audience]);
    command.args(["--subject", subject, "--agent", "loadtest", "--task", "load", "--expires", TOKEN_SECONDS]);
    let output = command.output().context("portcullis token")?;
    if !output.status.success() {
        bail!("portcullis token: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let token = String::from_utf8(output.stdout).context("portcullis token")?;
    Ok(token.trim().to_owned())
}

/// One server and the rules asked for. Paths in it start at its folder.
pub(crate) fn config(setup: &Setup<'_>, base: &str, port: u16, upstream: u16) -> String {
    let anonymous = setup.subjects.is_empty();
    let auth = if anonymous {
        "  anonymous: allow\n".to_owned()
    } else {
        format!("  issuers:\n    - issuer: {ISSUER}\n      jwks: {{ file: ./issuer.jwks.json }}\n")
    };
    let listen = if setup.tls.is_some() {
        format!("\n  - address: 127.0.0.1:{port}\n    tls: {{ cert: ./cert.pem, key: ./key.pem }}")
    } else {
        format!(" 127.0.0.1:{port}")
    };
    let admin = setup.admin.map_or_else(|| "off".to_owned(), |port| format!("127.0.0.1:{port}"));
    let mut out = format!(
        "listen:{listen}
public_url: {base}
shards: 1
admin: {admin}
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
    for number in 1..setup.rules {
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
        if number % 10 == CONDITIONAL {
            out.push_str(CONDITION);
        }
    }
    for (block, lines) in [("limits", setup.limits), ("sessions", setup.sessions)] {
        if !lines.is_empty() {
            let _ = writeln!(out, "{block}:");
        }
        for (name, value) in lines {
            let _ = writeln!(out, "  {name}: {value}");
        }
    }
    out.push_str("audit:\n  dir: ./audit\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup<'a>(rules: u32, subjects: &'a [&'a str]) -> Setup<'a> {
        let cores = Cores { proxy: 0, load: 1 };
        Setup { program: Path::new("x"), cores, rules, subjects, limits: &[], sessions: &[], tls: None, admin: None }
    }

    #[test]
    fn as_many_rules_as_asked() {
        for rules in [1, 100, 1_000] {
            let text = config(&setup(rules, &["a"]), "http://x", 1, 2);
            assert_eq!(text.matches("    - id: ").count(), rules as usize);
            assert!(text.contains("shards: 1\n") && text.contains("jwks: { file: ./issuer.jwks.json }"));
        }
        let text = config(&setup(1, &[]), "http://x", 1, 2);
        assert!(text.contains("anonymous: allow") && !text.contains("issuers") && !text.contains("tasks: ["));
    }

    #[test]
    fn one_tool_in_ten_has_a_condition() {
        let text = config(&setup(100, &["a"]), "http://x", 1, 2);
        let rule = format!("permit: [canned/{CONDITIONAL_TOOL}]\n      tasks: [load, review]\n{CONDITION}");
        assert!(text.contains(&rule), "{text}");
        assert_eq!(text.matches("      when: ").count(), 10);
    }

    #[test]
    fn limits_and_tls_where_asked() {
        let plain = config(&setup(1, &["a"]), "http://x", 1, 2);
        assert!(plain.contains("listen: 127.0.0.1:1\n") && !plain.contains("limits:") && !plain.contains("tls:"));
        let limits = [("idle", "5m".to_owned()), ("calls", "7".to_owned())];
        let sessions = [("idle", "1h".to_owned())];
        let both = Setup { limits: &limits, sessions: &sessions, tls: Some(("c", "k")), ..setup(1, &["a"]) };
        let text = config(&both, "https://x", 1, 2);
        assert!(text.contains("limits:\n  idle: 5m\n  calls: 7\nsessions:\n  idle: 1h\naudit:"), "{text}");
        assert!(text.contains("listen:\n  - address: 127.0.0.1:1\n    tls: { cert: ./cert.pem, key: ./key.pem }\n"));
    }
}
