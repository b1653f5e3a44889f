//! What was reached. A simulation that never gets to what it is for passes as well; this one does not.

macro_rules! seen {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often each thing happened.
        #[derive(Clone, Copy, Debug, Default)]
        pub(super) struct Seen {
            /// Events of the run.
            pub(super) steps: u64,
            $($(#[$doc])* pub(super) $name: u64,)*
        }

        impl Seen {
            /// Adds another run's.
            pub(super) fn add(&mut self, other: &Self) {
                self.steps += other.steps;
                $(self.$name += other.$name;)*
            }

            /// Each, by its name.
            pub(super) fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

seen! {
    /// Sessions began.
    opened,
    /// One owner had too many, and could not have another.
    capped,
    /// One went for a newer one of its owner's.
    made_room,
    /// All together were too many.
    full,
    /// The ledger ended one that was idle or too old.
    idle_expired,
    /// DELETE was answered.
    gone,
    /// An ended session was refused.
    ended_refused,
    /// Another owner's session was refused.
    foreign_refused,
    /// A server's session was opened again.
    reopened,
    /// Or for the first time, at a server after the first.
    opened_late,
    /// A lost record began anew.
    lost,
    /// There was no room for that.
    lost_full,
    /// A message waited for what another shard opened.
    waited,
    /// And got it.
    waited_for,
    /// It waited for too long.
    waited_out,
    /// A lease lapsed, and another had opened meanwhile.
    overtaken,
    /// A session ended while one was opened for it.
    ended_meanwhile,
    /// A server forgot at once what it had opened.
    forgotten_twice,
    /// A server could not be reached.
    unreachable,
    /// A server declined a handshake.
    declined,
    /// What was for an old session of a server went nowhere.
    epoch_gone,
    /// Calls executed.
    executed,
    /// And answered to the client.
    answered,
    /// An answer came as JSON.
    answered_json,
    /// An answer came on a stream.
    answered_event,
    /// A call was cancelled.
    cancelled,
    /// A cancellation was for nothing.
    cancelled_late,
    /// A call took too long.
    timed_out,
    /// An expired token was refused.
    token_expired,
    /// A stream ended with its token.
    stream_token_expired,
    /// A request went to another shard.
    handed_over,
    /// Session streams were attached to.
    listened,
    /// A stream went on behind its last event.
    resumed,
    /// And got what it had missed.
    resumed_with_events,
    /// Some of what it had missed was kept no more.
    torn,
    /// There was nothing left of it.
    spent,
    /// It was kept no more at all.
    replay_refused,
    /// Notifications that arrived.
    noted,
    /// Streams of which nothing may be missing, and nothing was.
    streams_whole,
    /// Sessions whose own stream was never torn, and had everything.
    homes_whole,
    /// A log had no room, and its server had to wait.
    held_back,
    /// A server hung up to be polled.
    hung_up,
    /// And was.
    polled,
    /// A server's own stream was fetched again behind its last event.
    fed_again,
    /// Servers asked.
    asked,
    /// Clients were asked.
    shown,
    /// And their answers arrived.
    ask_answered,
    /// An answer came too late.
    ask_late,
    /// A second answer.
    ask_second,
    /// An answer by somebody else.
    ask_foreign,
    /// A question was taken back.
    ask_withdrawn,
    /// There was no room for a question.
    ask_refused,
    /// The gateway was killed.
    killed,
    /// It was stopped, and started again.
    restarted,
    /// What was being written when it was killed was lost.
    journal_lost,
    /// Or written in part.
    journal_torn,
    /// The journal was written anew.
    compacted,
    /// A server lost all its sessions.
    server_restarted,
    /// A server forgot a session.
    server_forgot,
    /// Clock leaps.
    leapt,
    /// The wall clock was set.
    clock_set,
}
