//! A bell: wakes a shard from any other thread. It has no cross-thread waker of its own; what it can wait for is a
//! socket, so the bell is a pair of them, and a byte on its way is a ring.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

use crate::uring::socket::Socket;

/// The end that is rung, from any thread.
#[derive(Debug)]
pub struct Bell {
    rung: Arc<AtomicBool>,
    far: OwnedFd,
}

/// The other end, on its way to the shard that listens.
#[derive(Debug)]
pub struct Ear {
    rung: Arc<AtomicBool>,
    near: OwnedFd,
}

/// The other end, on its shard.
#[derive(Clone)]
pub struct Listening {
    rung: Arc<AtomicBool>,
    socket: Socket,
}

/// What a bell takes of the process's descriptors.
pub const DESCRIPTORS: usize = 2;

/// A bell and the ear that hears it.
///
/// # Errors
/// The process may open no more files.
pub fn pair() -> io::Result<(Bell, Ear)> {
    let (far, near) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let rung = Arc::new(AtomicBool::new(false));
    Ok((Bell { rung: rung.clone(), far }, Ear { rung, near }))
}

impl Bell {
    /// Rings. What was written before is seen by whoever is woken; rung already and not heard yet, it costs one
    /// atomic operation and no system call.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // One byte at most is on its way, so there is always room; nobody listens any more when it fails.
            let _ = rustix::net::send(&self.far, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

impl Ear {
    /// Listens on this shard from now on; what was rung before is heard.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    ///
    /// # Panics
    /// Outside `Driver::run`, as everything here.
    pub fn listen(self) -> io::Result<Listening> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Ok(Listening { rung: self.rung, socket: Socket::adopt(self.near, nowhere)? })
    }
}

impl Listening {
    /// Waits for a ring; `false` when there will be none: after [`Listening::stop`], or when the bell is gone. To be
    /// awaited to its end, from one task only.
    pub async fn rung(&self) -> bool {
        if self.socket.readable().await.is_err() || self.socket.is_shutdown() {
            return false;
        }
        // The byte first, then the flag: a ring from here on sends a byte of its own.
        let there = self.socket.discard();
        // Read and written in one: what the last ringer wrote before, even one that rang in vain, is seen from here on.
        self.rung.swap(false, Ordering::AcqRel);
        there
    }

    /// Ends a wait that is under way, and every later one.
    pub fn stop(&self) {
        self.socket.shutdown();
    }
}
