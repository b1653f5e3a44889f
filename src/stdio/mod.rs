//! stdio: servers that are programs: their children, and a server of streamable HTTP in front of them.
//! Colour: shard. Owns: the children, on one thread of their own, and what is under way at them.
//! Not here: who may call what; the settings' text; catalogues. Nothing of a request ever becomes part of a command.
//! Start at `host::Host`, then `serve`.
//! Spec: MCP 2025-11-25 and 2026-07-28 basic/transports, "stdio"; basic/lifecycle, "Shutdown"; execve(2), setpgid(2).

mod chatter;
mod child;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod host;
mod house;
pub mod process;
pub mod restart;
mod serve;
pub mod split;
