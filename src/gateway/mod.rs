//! gateway: a request's way through a shard.
//! Colour: shard. Owns: the shard, its connections, the order of a request, every way to say no.
//! Not here: how anything is parsed, verified, decided or sent (the rooms below), files, threads, signals.
//! Start at `pipeline::serve`.
//! Spec: MCP basic/transports (2025-03-26 to 2026-07-28); RFC 6750, RFC 9728 for refusals.

mod alike;
mod answer;
mod apart;
mod batch;
mod beside;
mod conn;
pub mod control;
mod cors;
pub mod credential;
mod denial;
pub mod errand;
mod events;
mod exchange;
mod flight;
mod forward;
mod gate;
mod hold;
mod joined;
mod judge;
pub mod keydesk;
mod listen;
mod lists;
mod live;
mod load;
pub mod mail;
mod merged;
mod meter;
mod modern;
mod noted;
mod pipeline;
mod public;
mod question;
pub mod refusal;
mod relay;
mod route;
pub mod run;
mod serve;
mod session;
mod sessions;
mod shard;
mod shown;
pub mod spans;
mod sse;
mod stakes;
mod stream;
pub mod tally;
mod tap;
mod traced;
pub mod view;
mod watch;
pub mod words;
