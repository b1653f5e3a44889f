//! The way to a server that is not somewhere on a network: who wants to speak with it dials, and gets one end of a
//! connection on which it speaks streamable HTTP.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;

/// A server in this process. From any thread.
pub trait Dial: Debug + Send + Sync {
    /// A new connection to it: a blocking stream socket, closed on exec.
    ///
    /// # Errors
    /// The process may open no more files, or the server is gone for good.
    fn dial(&self) -> io::Result<OwnedFd>;

    /// What is wrong with it, for the operator; `None` while all is well.
    fn trouble(&self) -> Option<String>;

    /// How much of what it said was dropped, because it was no message, or for nobody.
    fn dropped(&self) -> u64;
}
