//! What a task of this shard waits for: messages that another task brings, and the moment at which something is so.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::UpstreamFault;

/// Wakes a task of this shard that waits for something to become so.
#[derive(Default)]
pub struct Nudge(RefCell<Option<Waker>>);

impl Nudge {
    /// Has it look again.
    pub fn ring(&self) {
        let waker = self.0.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until `so`. One task at a time; dropping it early is fine.
    pub async fn until(&self, so: impl Fn() -> bool) {
        poll_fn(|cx| {
            if so() {
                return Poll::Ready(());
            }
            *self.0.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// What came for somebody.
pub struct Said {
    /// The message.
    pub message: Vec<u8>,
    /// It is the answer.
    pub last: bool,
}

/// Messages for one call, or for a session's own stream.
#[derive(Default)]
pub struct Inbox {
    said: RefCell<VecDeque<Said>>,
    bytes: Cell<usize>,
    /// What the server said to the message itself, or what went wrong with it.
    pub posted: Cell<Option<Result<u16, UpstreamFault>>>,
    nudge: RefCell<Rc<Nudge>>,
}

impl Inbox {
    /// Empty; who waits for it waits on `nudge`.
    #[must_use]
    pub fn new(nudge: &Rc<Nudge>) -> Rc<Self> {
        Rc::new(Self { nudge: RefCell::new(nudge.clone()), ..Self::default() })
    }

    /// From now on somebody else waits for it.
    pub fn read_by(&self, nudge: &Rc<Nudge>) {
        let before = self.nudge.replace(nudge.clone());
        before.ring();
    }

    /// Brings a message.
    pub fn push(&self, said: Said) {
        self.bytes.set(self.bytes.get() + said.message.len());
        self.said.borrow_mut().push_back(said);
        self.ring();
    }

    /// Nothing more comes, for this reason; what has come is read first.
    pub fn fail(&self, fault: UpstreamFault) {
        self.posted.set(Some(Err(fault)));
        self.ring();
    }

    /// Has whoever waits for it look again.
    pub fn ring(&self) {
        let nudge = self.nudge.borrow().clone();
        nudge.ring();
    }

    /// The oldest message.
    pub fn take(&self) -> Option<Said> {
        let said = self.said.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - said.message.len());
        Some(said)
    }

    /// What waits in it, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Whether nothing waits in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.said.borrow().is_empty()
    }

    /// The message did not get to its server, as far as is known.
    #[must_use]
    pub fn failed(&self) -> Option<Result<u16, UpstreamFault>> {
        self.posted.get().filter(|posted| !matches!(posted, Ok(200..=299)))
    }
}
