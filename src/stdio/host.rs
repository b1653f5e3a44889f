//! The children's thread, and the doors that lead to it from others.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::uring::bell::{self, Bell, Ear};
use crate::uring::ring::{self, Driver};

use super::house::House;
use super::process::{Event, Launch};
use crate::upstream::dial::Dial;

/// All servers that are programs: one thread serves them, from the first that is opened until the gateway ends.
#[derive(Debug)]
pub struct Host {
    driver: Driver,
    post: Arc<Post>,
    running: Mutex<Running>,
}

#[derive(Debug)]
enum Running {
    No(Ear),
    Yes(JoinHandle<()>),
    Over,
}

/// Leads to one server, whose children end when it is dropped.
#[derive(Debug)]
pub struct Door {
    number: u64,
    post: Arc<Post>,
    notes: Arc<Notes>,
}

/// What the operator is told of a server.
#[derive(Debug, Default)]
pub(super) struct Notes {
    trouble: Mutex<Option<(String, Instant)>>,
    pub(super) dropped: AtomicU64,
}

/// What other threads have for this one: as much as there are connections and children.
#[derive(Debug)]
pub(super) struct Post {
    orders: Mutex<VecDeque<Order>>,
    bell: Bell,
    doors: AtomicU64,
}

#[derive(Debug)]
pub(super) enum Order {
    /// A server, from now on.
    Open(u64, Opening),
    /// A connection to it.
    Dial(u64, OwnedFd),
    /// It is no server any more.
    Close(u64),
    /// News of a child.
    Child(u64, Event),
    /// The end of all.
    Stop,
}

/// What there is to know of a server.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) name: Arc<str>,
    pub(super) launch: Arc<Launch>,
    pub(super) shared: bool,
    pub(super) notes: Arc<Notes>,
}

impl Host {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn new(driver: Driver) -> io::Result<Self> {
        let (bell, ear) = bell::pair()?;
        let post = Arc::new(Post { orders: Mutex::default(), bell, doors: AtomicU64::new(0) });
        Ok(Self { driver, post, running: Mutex::new(Running::No(ear)) })
    }

    /// A server that is begun in this way. No child is begun before it is needed. `shared`: one child serves all.
    ///
    /// # Errors
    /// When there can be no thread, or the host has ended.
    pub fn open(&self, name: Arc<str>, launch: Launch, shared: bool) -> io::Result<Door> {
        self.run()?;
        let number = self.post.doors.fetch_add(1, Ordering::Relaxed);
        let notes = Arc::new(Notes::default());
        let opening = Opening { name, launch: Arc::new(launch), shared, notes: notes.clone() };
        self.post.send(Order::Open(number, opening));
        Ok(Door { number, post: self.post.clone(), notes })
    }

    /// Ends all children, kindly first, and waits until they have ended: for some seconds at most.
    pub fn stop(&self) {
        let before = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *running, Running::Over)
        };
        if let Running::Yes(thread) = before {
            self.post.send(Order::Stop);
            // Its panic is out already.
            let _ = thread.join();
        }
    }

    fn run(&self) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *running, Running::Over) {
            Running::No(ear) => {
                let (driver, post) = (self.driver.clone(), self.post.clone());
                let thread = std::thread::Builder::new().name("plane-stdio".into());
                *running = Running::Yes(thread.spawn(move || host(&driver, post, ear))?);
                Ok(())
            }
            Running::Over => Err(io::ErrorKind::NotConnected.into()),
            yes => {
                *running = yes;
                Ok(())
            }
        }
    }
}

fn host(driver: &Driver, post: Arc<Post>, ear: Ear) {
    let work = async {
        let ear = ear.listen()?;
        let house = House::new(post.clone());
        ring::spawn(house.timers.clone().run());
        ring::spawn(house.clone().keep());
        let mut stopped = false;
        while !stopped && ear.rung().await {
            for order in post.take() {
                stopped |= matches!(order, Order::Stop);
                house.obey(order);
            }
        }
        // Children tell their ends by the same way.
        while !house.is_empty() && ear.rung().await {
            post.take().into_iter().for_each(|order| house.obey(order));
        }
        house.timers.stop();
        ear.stop();
        io::Result::Ok(())
    };
    match driver.run(work) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("no program can be run as a server: {error}"),
        Err(fault) => tracing::error!("no program can be run as a server: {fault}"),
    }
}

impl Post {
    pub(super) fn send(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
        self.bell.ring();
    }

    fn take(&self) -> VecDeque<Order> {
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Notes {
    /// Something is wrong, and it is tried again at `again`.
    pub(super) fn say(&self, trouble: String, again: Instant) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some((trouble, again));
    }

    /// All is well.
    pub(super) fn well(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Dial for Door {
    fn dial(&self) -> io::Result<OwnedFd> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        self.post.send(Order::Dial(self.number, far));
        Ok(near)
    }

    fn trouble(&self) -> Option<String> {
        let trouble = self.notes.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (what, again) = trouble.as_ref()?;
        let left = again.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000);
        Some(if left == 0 {
            format!("its program {what}")
        } else {
            format!("its program {what}, restarting in {left} s")
        })
    }

    fn dropped(&self) -> u64 {
        self.notes.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.post.send(Order::Close(self.number));
    }
}
