//! What a gateway holds for its clients: opening it, and what it costs in memory. All figures are of the gateway's
//! process (its resident set), not of the kernel, whose sockets cost some KiB each besides.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::traffic::{Era, Shape};
use crate::{exchange, net};

use super::gateway::Gateway;

/// After so long a connection without a request has let go of what it does not need.
pub(crate) const SETTLED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

/// Bounds that let many connections of few addresses and one subject in, and leave them time.
pub(crate) fn patient(count: u32) -> Vec<(&'static str, String)> {
    let counts = ["connections_per_address", "calls_per_subject", "streams_per_subject"];
    let mut limits: Vec<_> = counts.into_iter().map(|name| (name, (count + 64).to_string())).collect();
    limits.extend(["idle", "head", "body_time"].map(|name| (name, "10m".to_owned())));
    limits
}

/// A connection; many to one port need more than one source address.
pub(crate) fn open(shape: &Shape, number: u32) -> anyhow::Result<TcpStream> {
    let source = u8::try_from(1 + number % 16).unwrap_or(1);
    net::connect_from(source, shape.target.address, PATIENCE).with_context(|| format!("connection {}", number + 1))
}

/// A session, opened on a connection; its id.
pub(crate) fn session(shape: &Shape, socket: &mut TcpStream) -> anyhow::Result<String> {
    let answer = exchange::exchange(socket, &shape.initialize()).context("initialize")?;
    let session = answer.session().map(str::to_owned).context("initialize gave no session")?;
    exchange::exchange(socket, &shape.initialized(Some(&session))).context("initialized")?;
    Ok(session)
}

/// The stream's head has come, and of a subscription its acknowledgement.
pub(crate) fn begun(socket: &mut TcpStream, era: Era) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    let mut piece = [0; 2048];
    let has = |seen: &[u8], text: &str| memchr::memmem::find(seen, text.as_bytes()).is_some();
    while !has(&seen, "\r\n\r\n") || (era == Era::Modern && has(&seen, " 200 ") && !has(&seen, "acknowledged")) {
        match socket.read(&mut piece).context("waiting for a stream")? {
            0 => bail!("the connection ended before the stream began"),
            read => seen.extend_from_slice(&piece[..read]),
        }
    }
    anyhow::ensure!(has(&seen, "text/event-stream"), "no stream: {}", String::from_utf8_lossy(&seen));
    Ok(())
}

/// Whether the gateway has not ended it.
pub(crate) fn is_open(socket: &TcpStream) -> bool {
    let mut byte = [0];
    if socket.set_nonblocking(true).is_err() {
        return false;
    }
    match socket.peek(&mut byte) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// KiB more for each of `count`.
pub(crate) fn per(before: u64, after: u64, count: u32) -> f64 {
    after.saturating_sub(before) as f64 / 1024.0 / f64::from(count.max(1))
}

/// As people read it.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Resident bytes, counted exactly.
pub(crate) fn resident(gateway: &Gateway) -> anyhow::Result<u64> {
    field(gateway, "smaps_rollup", "Rss:")
}

/// The most resident bytes since [`forget_peak`].
pub(crate) fn peak(gateway: &Gateway) -> anyhow::Result<u64> {
    field(gateway, "status", "VmHWM:")
}

/// Begins to look for the most anew.
pub(crate) fn forget_peak(gateway: &Gateway) -> anyhow::Result<()> {
    fs::write(format!("/proc/{}/clear_refs", pid(gateway)), "5").context("the peak cannot be forgotten")
}

fn pid(gateway: &Gateway) -> u32 {
    gateway.process.family()[0]
}

fn field(gateway: &Gateway, file: &str, name: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/{file}", pid(gateway));
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    kib(&text, name).with_context(|| format!("{path} has no {name}"))
}

/// The bytes of a line such as `Rss:     1234 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn lines_of_proc() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 10 kB\nRss:   7 kB\nOdd: 7\n";
        assert_eq!(kib(text, "VmHWM:"), Some(2 << 20));
        assert_eq!(kib(text, "Rss:"), Some(7 << 10));
        assert_eq!(kib(text, "Odd:"), None);
        assert_eq!(kib(text, "Gone:"), None);
    }

    #[test]
    fn shares() {
        assert!((per(1 << 20, 3 << 20, 1024) - 2.0).abs() < 1e-9);
        assert!(per(2 << 20, 1 << 20, 10).abs() < 1e-9, "less is nothing, not much");
        assert!((mib(3 << 19) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn an_end_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = net::connect_from(3, address, PATIENCE).expect("a connection");
        let (mut server, peer) = listener.accept().expect("a connection");
        assert_eq!(peer.ip().to_string(), "127.0.1.3");
        assert!(is_open(&client));
        server.write_all(b"x").expect("it is open");
        drop(server);
        client.set_nonblocking(false).expect("a socket");
        let mut bytes = Vec::new();
        (&client).read_to_end(&mut bytes).expect("an end");
        assert!(!is_open(&client));
    }
}
