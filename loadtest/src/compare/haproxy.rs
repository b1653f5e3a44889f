//! HAProxy as a plain reverse proxy with one thread, set up as fairly as we know.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::net;
use crate::rig::Cores;
use crate::rig::process::{Folder, Process};

/// Starts it in front of `upstream`; the port it listens on.
pub(super) fn start(program: &Path, cores: Cores, folder: &Folder, upstream: u16) -> anyhow::Result<(Process, u16)> {
    let port = net::free_port()?;
    let file = folder.path().join(format!("haproxy-{port}.cfg"));
    fs::write(&file, config(port, upstream)).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&file);
    let process = Process::start("HAProxy", command, cores.proxy, cores.load, folder)?;
    Ok((process, port))
}

fn config(port: u16, upstream: u16) -> String {
    format!(
        "global
  nbthread 1
  maxconn 8192
defaults
  mode http
  no log
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
  option http-keep-alive
  # By default a client's first request opens a connection of its own.
  http-reuse always
frontend clients
  bind 127.0.0.1:{port} backlog 4096
  default_backend canned
backend canned
  # As many kept connections as there are, and none is closed for being many.
  server canned 127.0.0.1:{upstream} pool-max-conn -1 pool-purge-delay 300s
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_between_two_ports() {
        let text = config(1, 2);
        assert!(text.contains("nbthread 1\n") && text.contains("bind 127.0.0.1:1 "), "{text}");
        assert!(text.contains("server canned 127.0.0.1:2 pool-max-conn -1"), "{text}");
    }
}
