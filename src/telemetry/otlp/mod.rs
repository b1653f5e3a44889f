//! OTLP: what is exported, as protobuf.

pub mod common;
pub mod traces;
