//! oauth: what the gateway says and reads as a client of authorization servers.
//! Colour: pure. Owns: metadata documents, requests for tokens and their answers, introspection, client assertions, which
//! addresses may be fetched from.
//! Not here: fetching anything, caches, clocks.
//! Start at `client` for who the gateway is there, `guard` for where it may look.
//! Spec: RFC 6749, 7009, 7523, 7662, 8414, 8693, 8707; OpenID Connect Discovery 1.0; MCP authorization.

pub mod assertion;
pub mod client;
pub mod form;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod grant;
pub mod guard;
pub mod introspection;
pub mod metadata;
pub mod resource;
