//! What is weighed beside calls: what a server asks of a client, and the resource that a notification names. At this
//! moment, and after all that has happened.

use crate::base::ids::{EndpointId, ServerId};
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::mcp::input::Ask;
use crate::policy::decide::{self, Question, Scene};

use super::events::Eyes;
use super::flight::Flight;
use super::sessions::Live;
use super::shard::{Held, Shard};

/// For whom, and by which rules.
#[derive(Clone, Copy)]
pub(super) struct Beside<'a> {
    shard: &'a Shard,
    snapshot: &'a Held,
    caller: &'a Caller,
    task: ActiveTask,
    endpoint: EndpointId,
    server: ServerId,
    session: Option<[u8; 16]>,
}

/// What becomes of a limit on what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limits {
    /// It is counted.
    Taken,
    /// It is only looked at: what is asked was counted before, or is looked at again and again.
    Looked,
}

impl<'a> Beside<'a> {
    /// A request's caller and server, by the rules that it was decided by.
    pub(super) fn of(shard: &'a Shard, flight: &'a Flight) -> Self {
        Self {
            shard,
            snapshot: &flight.snapshot,
            caller: &flight.caller,
            task: flight.task,
            endpoint: flight.endpoint,
            server: flight.server,
            session: flight.session.as_ref().map(|session| session.nonce16),
        }
    }

    /// Whoever a stream is read for.
    pub(super) fn seen(eyes: &'a Eyes<'_>) -> Self {
        Self {
            shard: eyes.shard,
            snapshot: eyes.snapshot,
            caller: &eyes.caller,
            task: eyes.task,
            endpoint: eyes.endpoint,
            server: eyes.server,
            session: eyes.session.map(|session| session.nonce16),
        }
    }

    /// Whoever has a subscription, by rules that are newer than it.
    pub(super) fn listening(
        shard: &'a Shard,
        snapshot: &'a Held,
        (caller, task): (&'a Caller, ActiveTask),
        (endpoint, server): (EndpointId, ServerId),
        session: &Live,
    ) -> Self {
        let session = Some(session.nonce16);
        Self { shard, snapshot, caller, task, endpoint, server, session }
    }

    /// The same with another active task.
    pub(super) fn on(self, task: ActiveTask) -> Self {
        Self { task, ..self }
    }

    /// Whether the resource at `uri`, by its server's name, may be read; limits left out.
    pub(super) fn may_read(&self, uri: &str) -> bool {
        let Self { snapshot, caller, task, server, .. } = *self;
        self.at_this_moment(|scene| decide::readable_at(&snapshot.table, caller, task, server, uri, scene))
    }

    /// Whether the client may be asked this. Nobody is asked whether it may be.
    pub(super) fn may_ask(&self, ask: Ask, limits: Limits) -> bool {
        let Self { shard, snapshot, caller, task, server, .. } = *self;
        let question = Question::Ask(ask);
        let verdict =
            self.at_this_moment(|scene| decide::judge_at(&snapshot.table, caller, task, server, question, None, scene));
        if verdict.outcome.is_err() || verdict.asking.is_some() {
            return false;
        }
        if verdict.needs.is_empty() {
            return true;
        }
        let (counts, now) = (&shard.control.counts, shard.timers.now());
        match limits {
            Limits::Looked => counts.peek(&verdict.needs, now).is_ok(),
            // It is over as soon as it is asked: how long a person takes is counted by nobody.
            Limits::Taken => counts.reserve(&verdict.needs, now).map(|taken| counts.ended(&taken)).is_ok(),
        }
    }

    fn at_this_moment<R>(&self, then: impl FnOnce(&Scene<'_>) -> R) -> R {
        let now = self.shard.timers.last();
        let past = self.shard.control.counts.past(now);
        then(&Scene {
            body: &[],
            unix_ms: now.unix_ms,
            session: self.session,
            address: None,
            endpoint: &self.snapshot.settings.endpoints[self.endpoint.index()].path,
            method: "",
            past: &past,
        })
    }
}
