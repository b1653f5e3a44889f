//! telemetry: traces and metrics in OpenTelemetry's words.
//! Colour: pure. Owns: trace context, sampling, spans as fixed-size events, metrics as families, OTLP and Prometheus as
//! bytes.
//! Not here: sockets, clocks, what calls mean.
//! Start at `context`.
//! Spec: OpenTelemetry semantic conventions for MCP (development); W3C Trace Context and Baggage; OTLP 1.

pub mod context;
pub mod family;
pub mod names;
pub mod otlp;
pub mod prometheus;
pub mod sample;
pub mod span;
