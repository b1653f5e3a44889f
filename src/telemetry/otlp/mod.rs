//! OTLP 1, protobuf over HTTP: what is pushed to a collector.

pub mod common;
pub mod metrics;
pub mod traces;
