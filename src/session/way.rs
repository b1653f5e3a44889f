//! One legacy message's way to its server's session: who the session is, which of the server's sessions is its, opening
//! one when there is none, and once more when the server has forgotten it.
//!
//! ```text
//! Visit --> Claim --> Open --> Send --> Deliver
//!             ^  \            ^ |
//!         Wait +--+-----------+ | Forgotten, the first time
//!             ^                 |
//!             +-----------------+
//! ```
//!
//! A driver does what it was told and hands in what came of it, until it is told to deliver or to refuse.

use thiserror::Error;

use crate::base::time::Moment;

/// One message's way. Made with the first thing to do, by [`Way::new`].
#[derive(Clone, Copy, Debug)]
pub struct Way {
    state: State,
    reach: Reach,
    /// The epoch it was sent to last, or is about to be; 0 for none.
    epoch: u32,
    forgotten: bool,
    /// What was forgotten first was no news: another had opened a newer one already.
    behind: bool,
    deadline: Moment,
}

/// Which of a server's sessions a message may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Whichever is the newest: a request, or a notification that means as much in a new one.
    Newest,
    /// That of this epoch alone: an answer to what the server asked in it, or a stream taken up again. It means nothing
    /// to a newer one, so nothing is opened for it and it is sent once.
    Epoch(u32),
}

/// What came of what was to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    /// Of [`Do::Visit`].
    Visited(Visited),
    /// Of [`Do::Claim`].
    Claimed(Claimed),
    /// Of [`Do::Open`]: the server's session is there, and the ledger has it under this epoch.
    Opened {
        /// From 1.
        epoch: u32,
    },
    /// Of [`Do::Open`]: the server could not be reached, or gave no answer. The lead is given back.
    Unreachable,
    /// Of [`Do::Open`]: the server wants no handshake with this client. The lead is given back.
    Declined,
    /// Of [`Do::Open`]: it was opened, but the lead had lapsed meanwhile and another has it; what was opened is ended at
    /// the server.
    Overtaken,
    /// Of [`Do::Open`]: it was opened, but the session was ended meanwhile; what was opened is ended at the server.
    Ended,
    /// Of [`Do::Send`]: whatever the exchange ended with, an answer or a fault, but for the next one.
    Answered,
    /// Of [`Do::Send`]: the server does not know this session, so it has provably not executed the message.
    Forgotten,
    /// Of [`Do::Wait`]: the pause is over.
    Time,
}

/// What the ledger says of a session that is new to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visited {
    /// There is a record.
    Known {
        /// Of the session at this message's server; 0 when none was opened yet.
        epoch: u32,
    },
    /// There was none, nor had it ended: the record went with a crash, and begins anew.
    Lost,
    /// It has ended, or can no longer be told from one that has.
    Ended,
    /// As lost, but there is no room for it to begin anew.
    Full,
}

/// What the ledger says to who would open a session at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Another opened a newer one already.
    Open {
        /// Above the stale one.
        epoch: u32,
    },
    /// It is this message's to open.
    Lead,
    /// Another is at it.
    Wait,
    /// The session has ended.
    Ended,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Ask the ledger for the session.
    Visit,
    /// Claim the session at the server.
    Claim {
        /// The epoch that is of no use any more; 0 when none was seen.
        stale: u32,
    },
    /// Open a session at the server, with the client's own profile, and tell the ledger.
    Open,
    /// Send the message in the server's session of this epoch.
    Send {
        /// From 1.
        epoch: u32,
    },
    /// Pause for `limits::WAY_WAIT_MS`.
    Wait,
    /// Give the client what the exchange ended with: the way is over.
    Deliver,
    /// Give the client this: the way is over. The message was not executed.
    Refuse(WayFault),
}

/// Why a message did not get to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WayFault {
    /// The session has ended. The client is told that it is unknown (404), and opens a new one.
    #[error("the session has ended")]
    Ended,
    /// The session was lost in a crash, and others have taken its room.
    #[error("there is no room for the session to begin anew")]
    Full,
    /// The server forgot a session that it had just opened, so it keeps none (404 to the client).
    #[error("the server forgets its sessions at once")]
    Forgotten,
    /// The server does not open a session for this client any more (404: it may come to other terms with a new one).
    #[error("the server declined to open the session again")]
    Declined,
    /// No connection to the server, or no answer to the handshake.
    #[error("the server cannot be reached")]
    Unreachable,
    /// Others were opening the session for as long as this message could wait.
    #[error("the server's session did not open in time")]
    Late,
    /// The one session of the server that the message could go to is gone.
    #[error("the server's session it belongs to is gone")]
    Gone,
    /// The driver reported what it was not asked for; nothing is sent after that.
    #[error("out of turn")]
    OutOfTurn,
}

impl Way {
    /// A message that may wait until `deadline`, at a shard that has `seen` its session with this server's epoch (0:
    /// none at this server yet), or not at all (`None`).
    #[must_use]
    pub fn new(seen: Option<u32>, reach: Reach, deadline: Moment) -> (Self, Do) {
        let mut way = Self { state: State::Visiting, reach, epoch: 0, forgotten: false, behind: false, deadline };
        let first = match seen {
            None => Do::Visit,
            Some(epoch) => way.known(epoch),
        };
        (way, first)
    }

    /// Takes what came of the last thing to do, and says the next.
    pub fn step(&mut self, input: In, now: Moment) -> Do {
        match (self.state, input) {
            (State::Visiting, In::Visited(Visited::Known { epoch })) => self.known(epoch),
            (State::Visiting, In::Visited(Visited::Lost)) => self.known(0),
            (State::Visiting, In::Visited(Visited::Full)) => self.refuse(WayFault::Full),
            (State::Visiting, In::Visited(Visited::Ended))
            | (State::Claiming, In::Claimed(Claimed::Ended))
            | (State::Opening, In::Ended) => self.refuse(WayFault::Ended),
            (State::Claiming, In::Claimed(Claimed::Open { epoch })) => {
                if self.forgotten && !self.behind {
                    (self.forgotten, self.behind) = (false, true);
                }
                self.send(epoch)
            }
            (State::Opening, In::Opened { epoch }) => self.send(epoch),
            (State::Claiming, In::Claimed(Claimed::Lead)) => self.turn(State::Opening, Do::Open),
            (State::Claiming, In::Claimed(Claimed::Wait)) if now < self.deadline => self.turn(State::Waiting, Do::Wait),
            (State::Waiting, In::Time) | (State::Opening, In::Overtaken) if now < self.deadline => self.claim(),
            (State::Claiming, In::Claimed(Claimed::Wait))
            | (State::Waiting, In::Time)
            | (State::Opening, In::Overtaken) => self.refuse(WayFault::Late),
            (State::Opening, In::Unreachable) => self.refuse(WayFault::Unreachable),
            (State::Opening, In::Declined) => self.refuse(WayFault::Declined),
            (State::Sending, In::Answered) => self.turn(State::Over, Do::Deliver),
            (State::Sending, In::Forgotten) => self.forgotten(),
            _ => self.refuse(WayFault::OutOfTurn),
        }
    }

    /// The shard has the session, with this epoch at the server.
    fn known(&mut self, epoch: u32) -> Do {
        match self.reach {
            Reach::Epoch(only) if only != epoch || epoch == 0 => self.refuse(WayFault::Gone),
            _ if epoch == 0 => self.claim(),
            _ => self.send(epoch),
        }
    }

    /// The one thing after which a message is sent again, and that once; twice where this shard was behind the others.
    fn forgotten(&mut self) -> Do {
        match self.reach {
            Reach::Epoch(_) => self.refuse(WayFault::Gone),
            Reach::Newest if self.forgotten => self.refuse(WayFault::Forgotten),
            Reach::Newest => {
                self.forgotten = true;
                self.claim()
            }
        }
    }

    fn claim(&mut self) -> Do {
        self.turn(State::Claiming, Do::Claim { stale: self.epoch })
    }

    fn send(&mut self, epoch: u32) -> Do {
        self.epoch = epoch;
        self.turn(State::Sending, Do::Send { epoch })
    }

    fn refuse(&mut self, fault: WayFault) -> Do {
        self.turn(State::Over, Do::Refuse(fault))
    }

    fn turn(&mut self, state: State, next: Do) -> Do {
        self.state = state;
        next
    }
}

/// What the driver is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Visiting,
    Claiming,
    Waiting,
    Opening,
    Sending,
    Over,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEADLINE: Moment = Moment(1_000);

    /// Steps at moment 0 and wants these to do, the first of which is said by `new`.
    fn check(seen: Option<u32>, reach: Reach, inputs: &[In], want: &[Do]) {
        let (mut way, first) = Way::new(seen, reach, DEADLINE);
        let mut got = vec![first];
        got.extend(inputs.iter().map(|&input| way.step(input, Moment(0))));
        assert_eq!(got, want, "{seen:?} {reach:?} {inputs:?}");
    }

    const ANYTHING: [Do; 5] = [Do::Visit, Do::Claim { stale: 0 }, Do::Open, Do::Send { epoch: 1 }, Do::Wait];
    const LEAD: In = In::Claimed(Claimed::Lead);
    const WAIT: In = In::Claimed(Claimed::Wait);

    fn known(epoch: u32) -> In {
        In::Visited(Visited::Known { epoch })
    }

    fn open(epoch: u32) -> In {
        In::Claimed(Claimed::Open { epoch })
    }

    #[test]
    fn what_the_shard_knows_is_sent_at_once() {
        check(Some(3), Reach::Newest, &[In::Answered], &[Do::Send { epoch: 3 }, Do::Deliver]);
    }

    #[test]
    fn a_session_new_to_the_shard_is_asked_for() {
        check(None, Reach::Newest, &[known(2), In::Answered], &[Do::Visit, Do::Send { epoch: 2 }, Do::Deliver]);
        let ended = In::Visited(Visited::Ended);
        check(None, Reach::Newest, &[ended], &[Do::Visit, Do::Refuse(WayFault::Ended)]);
        let full = In::Visited(Visited::Full);
        check(None, Reach::Newest, &[full], &[Do::Visit, Do::Refuse(WayFault::Full)]);
    }

    #[test]
    fn a_lost_one_and_one_without_this_server_are_opened() {
        let want = [Do::Visit, Do::Claim { stale: 0 }, Do::Open, Do::Send { epoch: 1 }, Do::Deliver];
        for visited in [In::Visited(Visited::Lost), known(0)] {
            check(None, Reach::Newest, &[visited, LEAD, In::Opened { epoch: 1 }, In::Answered], &want);
        }
        check(Some(0), Reach::Newest, &[LEAD, In::Opened { epoch: 1 }, In::Answered], &want[1..]);
    }

    #[test]
    fn what_another_opens_is_waited_for() {
        let want = [
            Do::Claim { stale: 0 },
            Do::Wait,
            Do::Claim { stale: 0 },
            Do::Wait,
            Do::Claim { stale: 0 },
            Do::Send { epoch: 1 },
        ];
        check(Some(0), Reach::Newest, &[WAIT, In::Time, WAIT, In::Time, open(1)], &want);
        // Who led did not come through, and now it is this one's turn.
        check(Some(0), Reach::Newest, &[WAIT, In::Time, LEAD], &[want[0], want[1], want[2], Do::Open]);
    }

    #[test]
    fn the_wait_ends() {
        let late = Do::Refuse(WayFault::Late);
        for (input, at) in [(WAIT, 1_000), (WAIT, 5_000)] {
            let (mut way, _) = Way::new(Some(0), Reach::Newest, DEADLINE);
            assert_eq!(way.step(input, Moment(at)), late);
        }
        let (mut way, _) = Way::new(Some(0), Reach::Newest, DEADLINE);
        assert_eq!(way.step(WAIT, Moment(999)), Do::Wait);
        assert_eq!(way.step(In::Time, Moment(1_000)), late);
        let (mut way, _) = Way::new(Some(0), Reach::Newest, DEADLINE);
        assert_eq!(way.step(LEAD, Moment(2_000)), Do::Open, "a lead is never just let lie");
        assert_eq!(way.step(In::Overtaken, Moment(2_000)), late);
    }

    #[test]
    fn a_forgotten_session_is_opened_once_more() {
        check(
            Some(4),
            Reach::Newest,
            &[In::Forgotten, LEAD, In::Opened { epoch: 5 }, In::Answered],
            &[Do::Send { epoch: 4 }, Do::Claim { stale: 4 }, Do::Open, Do::Send { epoch: 5 }, Do::Deliver],
        );
        let refused = Do::Refuse(WayFault::Forgotten);
        check(
            Some(4),
            Reach::Newest,
            &[In::Forgotten, LEAD, In::Opened { epoch: 5 }, In::Forgotten],
            &[Do::Send { epoch: 4 }, Do::Claim { stale: 4 }, Do::Open, Do::Send { epoch: 5 }, refused],
        );
    }

    #[test]
    fn what_this_shard_had_missed_does_not_count() {
        let first = [Do::Send { epoch: 4 }, Do::Claim { stale: 4 }, Do::Send { epoch: 6 }, Do::Claim { stale: 6 }];
        let inputs = [In::Forgotten, open(6), In::Forgotten, LEAD, In::Opened { epoch: 7 }, In::Forgotten];
        let refused = Do::Refuse(WayFault::Forgotten);
        check(Some(4), Reach::Newest, &inputs, &[&first[..], &[Do::Open, Do::Send { epoch: 7 }, refused]].concat());
        // And that once: a server whose sessions last for no call is not asked for ever.
        let inputs = [In::Forgotten, open(6), In::Forgotten, open(8), In::Forgotten];
        check(Some(4), Reach::Newest, &inputs, &[&first[..], &[Do::Send { epoch: 8 }, refused]].concat());
    }

    #[test]
    fn an_open_that_fails_refuses() {
        for (input, fault) in
            [(In::Unreachable, WayFault::Unreachable), (In::Declined, WayFault::Declined), (In::Ended, WayFault::Ended)]
        {
            check(Some(0), Reach::Newest, &[LEAD, input], &[Do::Claim { stale: 0 }, Do::Open, Do::Refuse(fault)]);
        }
        check(
            Some(2),
            Reach::Newest,
            &[In::Forgotten, LEAD, In::Overtaken, open(4)],
            &[Do::Send { epoch: 2 }, Do::Claim { stale: 2 }, Do::Open, Do::Claim { stale: 2 }, Do::Send { epoch: 4 }],
        );
    }

    #[test]
    fn what_belongs_to_one_epoch_goes_nowhere_else() {
        let gone = Do::Refuse(WayFault::Gone);
        check(Some(2), Reach::Epoch(2), &[In::Answered], &[Do::Send { epoch: 2 }, Do::Deliver]);
        check(Some(2), Reach::Epoch(2), &[In::Forgotten], &[Do::Send { epoch: 2 }, gone]);
        check(None, Reach::Epoch(2), &[known(2)], &[Do::Visit, Do::Send { epoch: 2 }]);
        for seen in [0, 1, 3] {
            check(Some(seen), Reach::Epoch(2), &[], &[gone]);
            check(None, Reach::Epoch(2), &[known(seen)], &[Do::Visit, gone]);
        }
        check(Some(0), Reach::Epoch(0), &[], &[gone]);
        check(None, Reach::Epoch(2), &[In::Visited(Visited::Lost)], &[Do::Visit, gone]);
    }

    /// What a driver may report after this; `choice` picks one.
    fn fitting(after: Do, choice: u8) -> In {
        let of = |them: &[In]| them[usize::from(choice) % them.len()];
        let epoch = 1 + u32::from(choice >> 4);
        match after {
            Do::Visit => of(&[known(0), known(epoch), In::Visited(Visited::Lost), In::Visited(Visited::Ended)]),
            Do::Claim { .. } => of(&[open(epoch), LEAD, WAIT, WAIT, In::Claimed(Claimed::Ended)]),
            Do::Open => of(&[
                In::Opened { epoch },
                In::Opened { epoch },
                In::Unreachable,
                In::Declined,
                In::Overtaken,
                In::Ended,
            ]),
            Do::Send { .. } => of(&[In::Answered, In::Forgotten, In::Forgotten]),
            Do::Wait | Do::Deliver | Do::Refuse(_) => In::Time,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn nothing_is_sent_twice_but_what_was_forgotten(
            seen in prop::option::of(0..4u32),
            only in prop::option::of(0..4u32),
            choices in prop::collection::vec(any::<(u8, u8)>(), 0..24),
        ) {
            let reach = only.map_or(Reach::Newest, Reach::Epoch);
            let (mut way, mut last) = Way::new(seen, reach, DEADLINE);
            let mut sends = u32::from(matches!(last, Do::Send { .. }));
            let mut forgotten = 0;
            for (at, (kind, choice)) in choices.into_iter().enumerate() {
                // One in sixteen is what the driver was not asked for, or perhaps was.
                let asked = if kind < 16 { ANYTHING[usize::from(kind) % ANYTHING.len()] } else { last };
                let input = fitting(asked, choice);
                if matches!(last, Do::Deliver | Do::Refuse(_)) {
                    prop_assert_eq!(way.step(input, Moment(0)), Do::Refuse(WayFault::OutOfTurn));
                    continue;
                }
                let before = last;
                last = way.step(input, Moment(at as u64));
                forgotten += u32::from(input == In::Forgotten && matches!(before, Do::Send { .. }));
                if let Do::Send { epoch } = last {
                    sends += 1;
                    prop_assert!(epoch > 0 && only.is_none_or(|only| only == epoch));
                    prop_assert!(!matches!(before, Do::Send { .. }), "two in a row");
                }
                prop_assert!(sends <= 1 + forgotten.min(2));
                prop_assert!(only.is_none() || !matches!(last, Do::Open | Do::Claim { .. }), "opened for an old one");
            }
        }
    }
}
