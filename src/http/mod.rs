//! http: HTTP/1.1 as bytes.
//! Colour: pure. Owns: request and response heads, body framing, event streams, the writing of heads.
//! Not here: sockets, time, JSON, MCP, status codes for refusals, who may call what.
//! Start at `head::RequestHead::parse`.
//! Spec: RFC 9110, RFC 9112; WHATWG HTML 9.2 (event streams).

pub mod body;
pub mod field;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod head;
mod opening;
pub mod reply;
pub mod sse;
mod target;
