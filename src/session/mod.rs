//! session: what is remembered between two calls.
//! Colour: pure. Owns: sealed session ids, task ids and cursors, and whose they are; a message's way to its server's session; one
//! stripe of the ledger; what a session's client is still to be sent.
//! Not here: sockets, clocks, random sources, secrets on disk, JSON text, policy.
//! Start at `owner::open`.
//! Spec: MCP 2025-03-26 to 2025-11-25 basic/transports, "Session Management"; NIST SP 800-38D; RFC 5869.

pub mod cursor;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod herald;
pub mod journal;
pub mod ledger;
pub mod line;
pub mod outlet;
pub mod owner;
pub mod question;
pub mod tasks;
pub mod way;
