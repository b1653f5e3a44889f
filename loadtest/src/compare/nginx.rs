//! nginx as a plain reverse proxy, set up as fairly as we know.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::net;
use crate::rig::Cores;
use crate::rig::process::{Folder, Process};

/// How it differs from one that forwards plain requests and answers.
#[derive(Clone, Copy, Default)]
pub(super) struct Kind<'a> {
    /// Writes an access log.
    pub(super) log: bool,
    /// Its answers are event streams.
    pub(super) events: bool,
    /// Certificate and key, as PEM.
    pub(super) tls: Option<(&'a str, &'a str)>,
}

/// Starts it in front of `upstream`; the port it listens on.
pub(super) fn start(
    program: &Path,
    cores: Cores,
    folder: &Folder,
    upstream: u16,
    kind: Kind<'_>,
) -> anyhow::Result<(Process, u16)> {
    let name = if kind.log { "nginx, with log" } else { "nginx" };
    let port = net::free_port()?;
    let place = folder.path().join(format!("nginx-{port}"));
    fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
    if let Some((certificate, key)) = kind.tls {
        fs::write(place.join("cert.pem"), certificate)?;
        fs::write(place.join("key.pem"), key)?;
    }
    let file = place.join("nginx.conf");
    fs::write(&file, config(&place, port, upstream, kind))?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&place).arg("-c").arg(&file).args(["-e", "stderr"]);
    let process = Process::start(name, command, cores.proxy, cores.load, folder)?;
    Ok((process, port))
}

fn config(place: &Path, port: u16, upstream: u16, kind: Kind<'_>) -> String {
    let place = place.display();
    // Event streams have to leave as they arrive; short answers are cheaper for nginx with buffers.
    let buffering = if kind.events { "off" } else { "on" };
    let log = if kind.log {
        format!("access_log {place}/access.log combined buffer=64k flush=1s;")
    } else {
        "access_log off;".to_owned()
    };
    let (ssl, tls) = match kind.tls {
        None => ("", String::new()),
        Some(_) => {
            let files = format!("ssl_certificate {place}/cert.pem; ssl_certificate_key {place}/key.pem;");
            (" ssl", format!("{files} ssl_protocols TLSv1.3;\n    "))
        }
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
    listen 127.0.0.1:{port}{ssl} backlog=4096;
    {tls}location / {{
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
        let place = Path::new("/x");
        let plain = config(place, 1, 2, Kind::default());
        assert!(plain.contains("access_log off;") && plain.contains("proxy_buffering on;"));
        assert!(plain.contains("listen 127.0.0.1:1 backlog") && plain.contains("server 127.0.0.1:2;"));
        assert!(!plain.contains("ssl"));
        assert_eq!(plain.matches('{').count(), plain.matches('}').count());
        let logged = config(place, 1, 2, Kind { log: true, events: true, tls: None });
        assert!(
            logged.contains("access_log /x/access.log combined buffer=64k") && logged.contains("proxy_buffering off;")
        );
        let secured = config(place, 1, 2, Kind { tls: Some(("c", "k")), ..Kind::default() });
        assert!(secured.contains("listen 127.0.0.1:1 ssl backlog") && secured.contains("ssl_protocols TLSv1.3;"));
    }
}
