//! One request and its answer on a connection that blocks: handshakes, and what is asked outside the measurement.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::net;
use crate::reply::Reader;
use crate::traffic::{Era, Shape, Target, Template};

/// Sends `request` and waits for the whole answer.
pub(crate) fn exchange(socket: &mut (impl Read + Write), request: &[u8]) -> anyhow::Result<Reader> {
    socket.write_all(request).context("sending")?;
    receive(socket)
}

/// Waits for a whole answer.
pub(crate) fn receive(socket: &mut impl Read) -> anyhow::Result<Reader> {
    let mut reader = Reader::default();
    let mut piece = [0; 32 << 10];
    loop {
        let read = socket.read(&mut piece).context("waiting for an answer")?;
        if read == 0 {
            bail!("the connection ended before the answer did");
        }
        reader.input().extend_from_slice(&piece[..read]);
        if reader.advance()? {
            return Ok(reader);
        }
    }
}

/// A connection ready for calls, in a session of its own where the era has sessions, and what a call on it looks like.
pub(crate) fn open(shape: &Shape, patience: Duration) -> anyhow::Result<(TcpStream, Template, Option<String>)> {
    let mut socket = net::connect(shape.target.address, patience).context("connecting")?;
    let session = begin(shape, &mut socket)?;
    let template = shape.call(session.as_deref())?;
    Ok((socket, template, session))
}

/// Opens a session on this connection, where the era has sessions.
pub(crate) fn begin(shape: &Shape, socket: &mut (impl Read + Write)) -> anyhow::Result<Option<String>> {
    let mut session = None;
    if shape.era == Era::Legacy {
        let answer = exchange(socket, &shape.initialize()).context("initialize")?;
        if answer.status() != 200 {
            bail!("initialize: status {}: {}", answer.status(), String::from_utf8_lossy(answer.body()));
        }
        session = answer.session().map(str::to_owned);
        let answer = exchange(socket, &shape.initialized(session.as_deref())).context("initialized")?;
        if answer.status() != 202 {
            bail!("notifications/initialized: status {}", answer.status());
        }
    }
    Ok(session)
}

/// What has reached a canned server so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) calls: u64,
    /// Those of them that showed who calls, or who has it called.
    pub(crate) shown: u64,
    pub(crate) connections: u64,
}

/// Calls that have reached the canned server behind `port` so far.
pub(crate) fn tally(port: u16) -> anyhow::Result<u64> {
    Ok(reached(port)?.calls)
}

/// What has reached the canned server behind `port` so far; asking is a connection too.
pub(crate) fn reached(port: u16) -> anyhow::Result<Reached> {
    let target = Target::local(port, "/tally");
    let mut socket = net::connect(target.address, Duration::from_secs(5)).context("the canned server is gone")?;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.path, target.host);
    let answer = exchange(&mut socket, request.as_bytes())?;
    let tally: serde_json::Value = serde_json::from_slice(answer.body()).context("the canned server's tally")?;
    let number = |name: &str| tally[name].as_u64().context("the canned server's tally lacks a number");
    Ok(Reached { calls: number("calls")?, shown: number("shown")?, connections: number("connections")? })
}
