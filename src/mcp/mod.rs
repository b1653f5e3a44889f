//! mcp: what the envelope means.
//! Colour: pure. Owns: the table of methods, the revisions, the era of a call, the catalogue of all servers.
//! Not here: sockets, sessions, who calls and what they may; HTTP status codes.
//! Start at `call::read`.
//! Spec: MCP 2026-07-28 basic, basic/transports/streamable-http, server/*; 2025-03-26 to 2025-11-25 the same pages.

pub mod call;
pub mod catalog;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod headers;
pub mod input;
pub mod merge;
pub mod method;
pub mod notice;
pub mod optin;
pub mod pin;
pub mod profile;
pub mod request;
pub mod revision;
pub mod subscription;
pub mod tasks;
pub mod transport;
mod walk;
