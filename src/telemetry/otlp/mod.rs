//! OTLP 1: what is pushed to a collector, as protobuf.

pub mod common;
pub mod metrics;
pub mod traces;
