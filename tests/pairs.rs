//! Each SDK as a client and as a server, in the same era, through a gateway with two shards, with what only a real pair
//! shows: asking, telling, cut streams taken up again, a server that was restarted, a session that was ended.
//!
//! [`PAIRS`] says who meets whom, [`STEPS`] what they do; what a peer cannot do is a row of it in [`Side`].

use std::io::Write as _;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::Wire;
use crate::support::mcp::session_request;
use crate::support::oracle;
use crate::support::peers::{
    CONFORMANCE_SERVER, EVERYTHING_SERVER, FASTMCP_SERVER, PY_CLIENT, PY_SERVER, PY1_SERVER, Peers, RMCP_CLIENT,
    RMCP_SERVER, Sdk, Server, TS_CLIENT, TS1_SERVER, everything_steps, node_peers, python_peers, rmcp_peers,
};
use crate::support::relay::Relay;

/// A pair, and the test it is part of.
struct Pair(Peer, Peer);

/// An SDK, as a client or as a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    TypeScript2,
    TypeScript1,
    Python2,
    Python1,
    FastMcp,
    Rust,
    Everything,
}

use Peer::{Everything, FastMcp, Python1, Python2, Rust, TypeScript1, TypeScript2};

/// Every SDK with its own server and with another's; every server with one client.
const PAIRS: [Pair; 18] = [
    Pair(TypeScript2, TypeScript2),
    Pair(TypeScript2, TypeScript1),
    Pair(TypeScript2, Python2),
    Pair(TypeScript2, Python1),
    Pair(TypeScript2, FastMcp),
    Pair(TypeScript2, Rust),
    Pair(TypeScript2, Everything),
    Pair(TypeScript1, TypeScript1),
    Pair(TypeScript1, Everything),
    Pair(Python2, Python2),
    Pair(Python2, Everything),
    Pair(Python1, Python1),
    Pair(Python1, Everything),
    Pair(FastMcp, FastMcp),
    Pair(FastMcp, Python2),
    Pair(Rust, Rust),
    Pair(Rust, Python2),
    Pair(Rust, Everything),
];
