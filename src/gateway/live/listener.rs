//! A modern subscription at several servers: each one's part of it, asked for again when it ends.

use std::cell::RefCell;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::base::limits::{STREAM_RETRY_MS, STREAM_RETRY_MS_MAX};
use crate::gateway::answer::{Media, deadline, media, retire};
use crate::gateway::beside::Beside;
use crate::gateway::events;
use crate::gateway::exchange::{self, Lanes, Wish};
use crate::gateway::modern;
use crate::gateway::route;
use crate::gateway::shard::{Held, Shard};
use crate::gateway::shown::{self, Whom};
use crate::gateway::traced::{self, Fan, Lasting};
use crate::http::field::Known;
use crate::http::head::Method;
use crate::jsonrpc::answer::Answer as Facts;
use crate::jsonrpc::scan::Shape;
use crate::mcp::method::{self as methods, Sender, Verb};
use crate::mcp::optin::Declared;
use crate::mcp::revision::Revision;
use crate::mcp::subscription::joint::{Announced, Joint};
use crate::mcp::subscription::{self, Dropped};
use crate::record::Recorded;
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::{Answer, Clearance, Request};

use super::feeder::{Over, Source, Weighed, finished, read};
use super::tend::place;
use super::{Feed, Part, changed};

/// What a client listens to.
pub(in crate::gateway) struct Listening {
    /// The leave to.
    pub(in crate::gateway) recorded: Recorded,
    /// What it can be asked for.
    pub(in crate::gateway) declared: Declared,
    pub(in crate::gateway) joint: RefCell<Joint>,
    /// What its parts are recorded under, where they are.
    pub(in crate::gateway) fan: Option<Box<Fan>>,
}

impl Listening {
    /// The gateway's own word that a list has changed, where that was asked for.
    pub(super) fn changed(&self, list: Announced) -> Option<Vec<u8>> {
        self.joint.borrow().changed(list)
    }

    /// The last message of all.
    pub(super) fn end(&self) -> Vec<u8> {
        subscription::end(self.joint.borrow().id())
    }

    /// Whether all that it was let subscribe to may still be read.
    pub(super) fn is_allowed(&self, shard: &Shard, feed: &Feed, snapshot: &Held) -> bool {
        // Where the endpoint is gone, the stream ends for that.
        let Some(endpoint) = snapshot.endpoint_by_digest(feed.endpoint) else { return true };
        let (joint, who) = (self.joint.borrow(), feed.who.borrow());
        let parts = feed.parts.borrow();
        parts.iter().filter(|part| !part.gone.get()).all(|part| {
            let Some(server) = snapshot.server_by_digest(part.server) else { return true };
            let beside = Beside::listening(shard, snapshot, (&who.caller, who.task), (endpoint, server), &feed.session);
            joint.uris(part.place).all(|uri| beside.may_read(uri))
        })
    }
}

/// Has a server's part heard for as long as somebody listens.
pub(super) async fn keep_heard(shard: &Rc<Shard>, feed: &Rc<Feed>, part: &Part, listening: &Listening) {
    let mut pause_ms = 0;
    while feed.wants(shard, part) {
        let begun = shard.timers.now().mono;
        let place = place(shard, feed, part).await;
        if let Ok((answer, span)) = ask(shard, feed, part, listening).await {
            let over = Box::pin(read(shard, feed, part, answer, &mut Source::default())).await;
            if let Some(span) = span {
                span.end(shard, failure(over));
            }
        }
        drop(place);
        // One that lasted is asked for again soon, one that ends as it begins less and less often.
        let lasted = shard.timers.now().mono >= begun.plus_ms(STREAM_RETRY_MS_MAX);
        pause_ms = if lasted { STREAM_RETRY_MS } else { (2 * pause_ms).clamp(STREAM_RETRY_MS, STREAM_RETRY_MS_MAX) };
        let until = shard.timers.now().mono.plus_ms(pause_ms);
        while shard.timers.now().mono < until && feed.wants(shard, part) {
            changed(shard, feed, until.min(feed.until(shard))).await;
        }
    }
}

/// What a part's span has failed with.
fn failure(over: Over) -> Option<&'static str> {
    match over {
        Over::Broken => Some("cut"),
        Over::Invalid => Some("invalid"),
        Over::Answered | Over::Clean | Over::Unwanted => None,
    }
}

/// Asks a server for its part, whose span is open from then on.
async fn ask(
    shard: &Shard,
    feed: &Feed,
    part: &Part,
    listening: &Listening,
) -> Result<(Answer, Option<Box<Lasting>>), UpstreamFault> {
    let snapshot = shard.snapshot();
    let server = snapshot.server_by_digest(part.server).ok_or(UpstreamFault::NoAddress)?;
    let body = listening.joint.borrow_mut().request(part.place);
    let who = feed.who.borrow().clone();
    let key = {
        if who.epoch != snapshot.auth_epoch {
            // Its task is one of rules that are gone; it ends, or is carried over, in a moment.
            return Err(UpstreamFault::Abandoned);
        }
        exchange::shared_key(&snapshot, server, &who.caller.owner, who.task)
    };
    let until = deadline(shard, snapshot.settings.servers[server.index()].timeout_ms);
    let shown = shown::due_to(shard, &snapshot, server, &who, until).await?;
    let lane = Lanes::new(&snapshot, server, Wish::Key(key), shown.as_ref()).next(shard);
    let lane = lane.map(exchange::patient).ok_or(UpstreamFault::NoAddress)?;
    let fan = listening.fan.as_deref();
    let span = fan.map(|fan| fan.attempt(shard, &snapshot, server, &lane));
    let (body, parent) = traced::asked_for(shard, &snapshot, fan.zip(span.as_deref()), body);
    let mut fields: SmallVec<[(Known, &[u8]); 12]> = SmallVec::new();
    fields.push((Known::McpProtocolVersion, Revision::R2026_07_28.as_str().as_bytes()));
    fields.push((Known::McpMethod, b"subscriptions/listen"));
    fields.extend(parent.as_ref().map(|parent| (Known::Traceparent, &parent[..])));
    let request = Request {
        method: Method::Post,
        usual: true,
        fields: &fields,
        params: &[],
        body: Some(&body),
        repeatable: true,
    };
    let clearance = Clearance::Call(&listening.recorded);
    let request = shard.upstreams.compose(clearance, &lane, &request).ok_or(UpstreamFault::NoBuffer)?;
    part.abort.reset();
    part.at.set(lane.instance.digest);
    let mut work = std::pin::pin!(shard.upstreams.exchange(&lane, request, until, &part.abort));
    let result = finished(shard, feed, part, work.as_mut()).await;
    if matches!(result, Err(UpstreamFault::Unreachable | UpstreamFault::NoAddress)) {
        lane.state.poke.unreachable();
    }
    let answer = match result {
        Ok(answer) => answer,
        Err(fault) => {
            span.into_iter().for_each(|span| span.end(shard, Some(traced::fault_word(fault))));
            return Err(fault);
        }
    };
    if answer.status() == 200 && media(&answer) == Media::Events {
        return Ok((answer, span));
    }
    if matches!(answer.status(), 401 | 403) {
        shown::refused_by(shard, &snapshot, server, Whom::reader(&who, &snapshot), shown.as_ref());
    }
    span.into_iter().for_each(|span| span.end(shard, Some("invalid")));
    // Whose connection it is next, is no affair of this stream's.
    part.abort.reset();
    retire(shard, answer).await;
    Err(UpstreamFault::BadAnswer)
}

/// What becomes of a message of a server's.
pub(super) fn weigh(
    shard: &Shard,
    feed: &Feed,
    part: &Part,
    listening: &Listening,
    facts: &Facts,
    data: &[u8],
) -> Weighed {
    let dropped = |why| {
        modern::count_dropped(shard, why);
        Weighed::Drop
    };
    match facts.shape {
        // Its end, good or bad: it costs nobody else anything.
        Shape::Result | Shape::Error => return Weighed::End,
        Shape::Request => return dropped(Dropped::Request),
        Shape::Notification => {}
    }
    let (snapshot, who) = (shard.snapshot(), feed.who.borrow().clone());
    let Some(eyes) = feed.eyes(shard, &snapshot, &who, part).filter(|_| who.epoch == snapshot.auth_epoch) else {
        return dropped(Dropped::Hidden);
    };
    let mut reader = shard.reader();
    let Ok(envelope) = reader.read(data) else { return dropped(Dropped::Malformed) };
    let name = envelope.method_name(data).unwrap_or_default();
    let Some(method) = methods::find(name, Revision::R2026_07_28, Sender::Server) else {
        return dropped(Dropped::Malformed);
    };
    if method.announces_change() {
        // Its client hears from the gateway what there is to hear.
        snapshot.states[eyes.server.index()].poke.changed();
        return Weighed::Drop;
    }
    let hidden = match method.verb {
        Verb::ResourceUpdated => !events::is_readable(&eyes, envelope, data),
        Verb::TaskChanged => !modern::is_task_askable(&eyes, listening.declared, data),
        _ => false,
    };
    if hidden {
        return dropped(Dropped::Hidden);
    }
    let taken = listening.joint.borrow_mut().take(part.place, method.verb, data, |uri| eyes.exposed(uri).into_owned());
    match taken {
        Ok(Some(message)) if method.verb == Verb::TaskChanged => {
            Weighed::Changed(route::expose(&eyes, method.verb, None, &message).unwrap_or(message))
        }
        Ok(Some(message)) => Weighed::Changed(message),
        Ok(None) => Weighed::Drop,
        Err(why) => dropped(why),
    }
}
