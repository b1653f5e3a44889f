//! Portcullis, an MCP gateway. This file is the floor plan, and nothing else: a room may use the rooms listed above
//! its own line, never those below (`tests/floors.rs` holds the arrows).

pub mod base;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod http;
pub mod identity;
pub mod jsonrpc;
pub mod mcp;
pub mod plane;
pub mod policy;
pub mod record;
pub mod session;
pub mod upstream;
#[allow(unsafe_code, reason = "the one room that speaks to the kernel through raw pointers")]
pub mod uring;
