//! nginx as a plain reverse proxy, set up as fairly as we know.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::cli::Compare;
use crate::net;

use crate::rig::process::{Folder, Process};

/// Where nginx is; installs it if it is missing and that is allowed.
pub(super) fn program(options: &Compare) -> anyhow::Result<PathBuf> {
    if let Some(program) = net::find_program(&options.nginx) {
        return Ok(program);
    }
    if options.no_install || options.nginx != Path::new("nginx") {
        bail!("{} is not there", options.nginx.display());
    }
    eprintln!("nginx is missing: apt-get install -y --no-install-recommends nginx");
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "--no-install-recommends", "nginx"]).env("DEBIAN_FRONTEND", "noninteractive");
    let installed = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let installed = installed.context("nginx is missing, and there is no apt-get to install it with")?;
    if !installed.success() {
        bail!("nginx is missing, and apt-get cannot install it (as root, after apt-get update?)");
    }
    net::find_program(&options.nginx).context("nginx was installed, but is not there")
}

/// Starts it in front of `upstream`; the port it listens on.
pub(super) fn start(
    program: &Path,
    options: &Compare,
    folder: &Folder,
    upstream: u16,
    log: bool,
) -> anyhow::Result<(Process, u16)> {
    let name = if log { "nginx, with log" } else { "nginx" };
    let place = folder.path().join(if log { "nginx-log" } else { "nginx" });
    fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let port = net::free_port()?;
    let file = place.join("nginx.conf");
    fs::write(&file, config(&place, port, upstream, options.calls.events > 0, log))?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&place).arg("-c").arg(&file).args(["-e", "stderr"]);
    let process = Process::start(name, command, options.proxy_core, options.load_core, folder)?;
    Ok((process, port))
}

fn config(place: &Path, port: u16, upstream: u16, events: bool, log: bool) -> String {
    let place = place.display();
    // Event streams have to leave as they arrive; short answers are cheaper for nginx with buffers.
    let buffering = if events { "off" } else { "on" };
    let log = if log {
        format!("access_log {place}/access.log combined buffer=64k flush=1s;")
    } else {
        "access_log off;".to_owned()
    };
    format!(
        "worker_processes 1;
daemon off;
pid {place}/nginx.pid;
error_log stderr warn;
events {{
  use epoll;
  # Its limit of open files is ours, which is raised as far as it goes.
  worker_connections 8192;
}}
http {{
  {log}
  # The default of 8 KiB spools larger bodies to disk; that of 1 KiB takes a second buffer for heads with a token.
  client_body_buffer_size 64k;
  client_header_buffer_size 4k;
  client_max_body_size 8m;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_time 24h;
  keepalive_timeout 300s;
  upstream canned {{
    server 127.0.0.1:{upstream};
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_time 24h;
    keepalive_timeout 300s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://canned;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering {buffering};
      proxy_buffers 16 16k;
      proxy_busy_buffers_size 32k;
    }}
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_the_two() {
        let plain = config(Path::new("/x"), 1, 2, false, false);
        assert!(plain.contains("access_log off;") && plain.contains("proxy_buffering on;"));
        assert!(plain.contains("listen 127.0.0.1:1 ") && plain.contains("server 127.0.0.1:2;"));
        let logged = config(Path::new("/x"), 1, 2, true, true);
        assert!(
            logged.contains("access_log /x/access.log combined buffer=64k") && logged.contains("proxy_buffering off;")
        );
        assert_eq!(plain.matches('{').count(), plain.matches('}').count());
    }
}
