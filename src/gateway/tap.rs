//! The slim wait of a connection that only reads a stream.

use std::rc::Rc;

use crate::tls::stream::Stream;

use super::conn::Readable;
use super::serve::After;
use super::shard::{Shard, Slot};

/// A place at a stream.
#[derive(Debug)]
pub(super) enum Tap {}

/// Writes a stream's events until it ends. `wait` is the stored wait for the client's bytes, if one is under way; it
/// goes on as the wait for its next request.
#[expect(clippy::unused_async, reason = "nothing makes a tap yet")]
pub(super) async fn serve(_: &Shard, _: &Rc<Slot>, _: &Stream, tap: Tap, _wait: Option<Readable>) -> After {
    match tap {}
}
