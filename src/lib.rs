//! Portcullis, an MCP gateway. This file is the floor plan, and nothing else: a room may use the rooms listed above
//! its own line, never those below (`tests/floors.rs` holds the arrows).

pub mod base;
#[allow(unsafe_code, reason = "the one room that speaks to the kernel through raw pointers")]
pub mod uring;
pub mod http;
pub mod tls;
pub mod jsonrpc;
pub mod mcp;
pub mod identity;
pub mod oauth;
pub mod policy;
pub mod session;
pub mod ledger;
pub mod record;
pub mod telemetry;
pub mod upstream;
pub mod stdio;
pub mod config;
pub mod gateway;
pub mod review;
pub mod plane;
pub mod demo;
