//! uring: the kernel: sockets, timers, buffers, cores; the only room where `unsafe` may live.
//! Colour: shard. Owns: one shard's runtime, its sockets, pooled buffers and timer wheel.
//! Not here: HTTP, JSON, MCP, TLS, policy; who is served, and for how long.
//! Start at `ring::Driver`, then `socket::Socket` and `wait::Timers`.
//! Spec: io_uring(7), tcp(7), shutdown(2).
//!
//! The house rule on I/O: nothing in flight is ever dropped. What must end early is ended from outside, by
//! `shutdown(2)` on its socket (a deadline, a drain, a peer that is gone), and then ends by itself.

pub mod bell;
pub mod buffer;
pub mod child;
pub mod cpu;
pub mod mapped;
pub mod ring;
pub mod socket;
pub mod spin;
mod ticks;
pub mod wait;

#[cfg(test)]
mod tests;
