//! jsonrpc: one envelope, read once, strictly.
//! Colour: pure. Owns: the grammar of JSON, the shape of a JSON-RPC message, ids, spans into a body and edits on them.
//! Not here: what a method or a member means, HTTP, sockets, values (numbers and texts stay bytes).
//! Start at `scan::Reader::read`; long answers at `answer::AnswerScan::feed`.
//! Spec: RFC 8259; JSON-RPC 2.0; MCP basic (ids are strings or integers, `params` is an object); 2025-03-26 basic, batching.

pub mod answer;
pub mod batch;
pub mod edit;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod id;
#[allow(unsafe_code, reason = "one call into code for processors with AVX2")]
mod lanes;
mod machine;
mod marks;
mod quick;
pub mod scan;
mod skim;
#[cfg(test)]
mod tests;
pub mod text;
#[cfg(test)]
mod twin_tests;

pub use answer::{Answer, AnswerScan, ResultType, answer_of};
pub use id::Id;
pub use scan::{Envelope, Kind, Member, Reader, ScanFault, Shape, read};
