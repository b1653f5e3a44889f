//! What a modern server may send: every kind of message only where the request opted in to it, results of the kinds
//! that its caller declared to understand, and tasks under the names that their callers know (MCP 2026-07-28 basic,
//! basic/patterns, server/utilities; the extension `io.modelcontextprotocol/tasks`).

use std::cell::RefCell;

use ::ring::rand::SecureRandom as _;

use crate::base::ids::ServerId;
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::jsonrpc::answer::{Answer as Facts, ResultType};
use crate::jsonrpc::id;
use crate::jsonrpc::scan::{Envelope, Shape};
use crate::jsonrpc::text::{self, write_string};
use crate::mcp::call::{Call, Object, TaskName};
use crate::mcp::input::{self, Ask, Asks};
use crate::mcp::method::{self as methods, Sender, Verb};
use crate::mcp::notice;
use crate::mcp::optin::{Declared, LogLevel};
use crate::mcp::revision::Era;
use crate::mcp::subscription::{Becomes, Dropped, Subscription, Wants};
use crate::mcp::tasks::{Task, TaskLink};
use crate::policy::decide::{self, Question, Why};
use crate::policy::table::Table;
use crate::session::tasks::{self, TaskHandle};

use super::answer::accept as acceptable;
use super::beside::{Beside, Limits};
use super::events::Eyes;
use super::flight::Flight;
use super::judge::marks;
use super::live;
use super::refusal::Kind;
use super::relay::without_tasks;
use super::route;
use super::shard::Shard;
use super::stream::Judged;
use super::tally::Count;

/// What a request lets its server send.
#[derive(Debug, Default)]
pub(super) struct Opted {
    declared: Declared,
    log_level: Option<LogLevel>,
    more: Option<Box<More>>,
}

/// What most requests have none of.
#[derive(Debug, Default)]
struct More {
    /// As JSON text.
    progress_token: Option<Box<[u8]>>,
    /// The task it is about.
    task: Option<TaskLink>,
    subscription: Option<RefCell<Subscription>>,
}

impl Opted {
    /// What this call, whose id (JSON text) is `id`, opts in to. Of a subscription, what policy has left of it.
    pub(super) fn of(call: &Call, id: Option<&[u8]>, body: &[u8]) -> Self {
        let progress_token = call.meta.progress_token.map(|token| token.of(body).into());
        let (mut task, mut subscription) = (None, None);
        match &call.subject {
            Object::Task(name) => task = link(name, body),
            Object::Listen(listen) => {
                let wants = Wants {
                    tools: listen.tools,
                    prompts: listen.prompts,
                    resources: listen.resources,
                    uris: listen.uris.iter().map(|uri| uri.of(body).into()).collect(),
                    tasks: listen.tasks.iter().filter_map(|name| link(name, body)).collect(),
                };
                subscription = Some(RefCell::new(Subscription::new(id.unwrap_or(b"null"), wants)));
            }
            _ => {}
        }
        let more = More { progress_token, task, subscription };
        let any = more.progress_token.is_some() || more.task.is_some() || more.subscription.is_some();
        Self {
            declared: call.meta.capabilities.map(|span| Declared::read(span.of(body))).unwrap_or_default(),
            log_level: call.meta.log_level,
            more: any.then(|| Box::new(more)),
        }
    }

    fn progress_token(&self) -> Option<&[u8]> {
        self.more.as_ref()?.progress_token.as_deref()
    }

    fn task(&self) -> Option<&TaskLink> {
        self.more.as_ref()?.task.as_ref()
    }

    pub(super) fn subscription(&self) -> Option<&RefCell<Subscription>> {
        self.more.as_ref()?.subscription.as_ref()
    }
}

/// Both names of a task that was opened.
pub(super) fn link(name: &TaskName, body: &[u8]) -> Option<TaskLink> {
    let mut client = Vec::new();
    write_string(&mut client, name.text.of(body));
    Some(TaskLink { client: client.into(), server: name.opened.clone()? })
}

/// Whether a result is of a kind that this request may have. `body` is empty when it came in pieces: then what is
/// inside cannot be looked at.
pub(super) fn accept(shard: &Shard, flight: &Flight, facts: &Facts, body: &[u8]) -> Result<(), Kind> {
    let verb = flight.method.map(|method| method.verb);
    match (facts.result_type, verb) {
        (ResultType::InputRequired, Some(Verb::ToolsCall | Verb::PromptsGet | Verb::ResourcesRead)) => {
            input_required(shard, flight, body)
        }
        // It has to be renamed, so it must be here whole.
        (ResultType::Task, Some(Verb::ToolsCall)) if flight.opted.declared.has(Declared::TASKS) && !body.is_empty() => {
            Ok(())
        }
        (ResultType::InputRequired | ResultType::Task, _) => Err(Kind::ServerInvalid),
        _ => Ok(()),
    }
}

/// Policy decides what a server may ask of the client, inside an `input_required` result too, and the client what it
/// can be asked (MCP 2026-07-28 basic/patterns/mrtr).
fn input_required(shard: &Shard, flight: &Flight, body: &[u8]) -> Result<(), Kind> {
    let party = Beside::of(shard, flight);
    if body.is_empty() {
        let all = flight.opted.declared.has(Declared::ASKS)
            && Ask::ALL.into_iter().all(|ask| party.may_ask(ask, Limits::Looked));
        return if all { Ok(()) } else { Err(Kind::AskForbidden) };
    }
    let mut reader = shard.reader();
    let envelope = reader.read(body).map_err(|_| Kind::ServerInvalid)?;
    let result = envelope.body.ok_or(Kind::ServerInvalid)?.value.of(body);
    askable(shard, flight, input::asks(result).map_err(|_| Kind::ServerInvalid)?, Limits::Taken)
}

fn askable(shard: &Shard, flight: &Flight, asks: Asks, limits: Limits) -> Result<(), Kind> {
    let party = Beside::of(shard, flight);
    if !asks.iter().all(|ask| party.may_ask(ask, limits)) {
        return Err(Kind::AskForbidden);
    }
    if flight.opted.declared.has(asks.needs()) { Ok(()) } else { Err(Kind::ServerInvalid) }
}

/// An accepted answer, where it does not go as it came.
///
/// # Errors
/// What is wrong with it: then it must be withheld.
pub(super) fn rewritten(shard: &Shard, flight: &Flight, facts: &Facts, body: &[u8]) -> Result<Option<Vec<u8>>, Kind> {
    if flight.era == Era::Legacy || facts.shape != Shape::Result {
        return Ok(None);
    }
    match flight.method.map(|method| method.verb) {
        Some(Verb::ToolsCall) if facts.result_type == ResultType::Task => sealed(shard, flight, body).map(Some),
        Some(Verb::TasksGet) => state(shard, flight, body).map(Some),
        // Acknowledgements are empty; but if one names a task, it is this one.
        Some(Verb::TasksUpdate | Verb::TasksCancel) if Task::of_result(body).is_ok() => {
            state(shard, flight, body).map(Some)
        }
        Some(Verb::Discover) => Ok(without_tasks(body, true)),
        _ => Ok(None),
    }
}

/// A task that a call became, by a name that is good for this caller alone.
fn sealed(shard: &Shard, flight: &Flight, body: &[u8]) -> Result<Vec<u8>, Kind> {
    let task = Task::of_result(body).map_err(|_| Kind::ServerInvalid)?;
    askable(shard, flight, task.asks(body).map_err(|_| Kind::ServerInvalid)?, Limits::Looked)?;
    let mut scratch = Vec::new();
    let id = task.id(body, &mut scratch).map_err(|_| Kind::ServerInvalid)?;
    let (server, active) = marks(flight);
    let issued_at = shard.timers.now().unix_s();
    let handle = TaskHandle { owner: flight.caller.owner, server, active, issued_at, id: id.into() };
    let mut nonce = [0; 12];
    shard.random.fill(&mut nonce).map_err(|_| Kind::NoBuffer)?;
    let handle = shard.sealing.first().and_then(|key| tasks::seal(key, &handle, nonce)).ok_or(Kind::ServerInvalid)?;
    let mut text = Vec::with_capacity(handle.len() + 2);
    write_string(&mut text, &handle);
    Ok(task.renamed(body, &text))
}

/// The state of the task that was asked for, by the name it was asked for with.
fn state(shard: &Shard, flight: &Flight, body: &[u8]) -> Result<Vec<u8>, Kind> {
    let asked = flight.opted.task().ok_or(Kind::ServerInvalid)?;
    let task = Task::of_result(body).map_err(|_| Kind::ServerInvalid)?;
    task.find(body, std::slice::from_ref(asked)).ok_or(Kind::ServerInvalid)?;
    askable(shard, flight, task.asks(body).map_err(|_| Kind::ServerInvalid)?, Limits::Looked)?;
    Ok(task.renamed(body, &asked.client))
}

/// What a message on a modern stream may become: `facts` and `data` are the scanner's reading of it and its bytes.
pub(super) fn judge(shard: &Shard, flight: &Flight, facts: Facts, data: &[u8]) -> Judged {
    match facts.shape {
        Shape::Result | Shape::Error => answer(shard, flight, facts, data),
        Shape::Request => dropped(shard, Dropped::Request),
        Shape::Notification => notification(shard, flight, data),
    }
}

fn answer(shard: &Shard, flight: &Flight, facts: Facts, data: &[u8]) -> Judged {
    let ours = flight.id.as_ref().zip(facts.id.as_ref()).is_some_and(|(asked, given)| id::same(asked, given));
    if !ours {
        return dropped(shard, Dropped::Foreign);
    }
    let accepted = acceptable(shard, flight, &facts, data, 200);
    let other = match accepted.and_then(|()| rewritten(shard, flight, &facts, data)) {
        Ok(other) => route::exposed(flight, other.as_deref().unwrap_or(data)).or(other),
        Err(kind) => {
            flight.did.set(false);
            return Judged::Withheld(kind);
        }
    };
    let subscription = flight.opted.subscription().filter(|_| facts.shape == Shape::Result);
    if subscription.is_some_and(|subscription| !subscription.borrow().is_end(data)) {
        // It ends, but not as the specification says it: the gateway does.
        return Judged::Over;
    }
    Judged::Final(facts, other)
}

fn notification(shard: &Shard, flight: &Flight, data: &[u8]) -> Judged {
    let mut reader = shard.reader();
    let Ok(envelope) = reader.read(data) else { return dropped(shard, Dropped::Malformed) };
    noticed(shard, flight, envelope, data)
}

/// What a notification may become that was read.
pub(super) fn noticed(shard: &Shard, flight: &Flight, envelope: &Envelope, data: &[u8]) -> Judged {
    let name = envelope.method_name(data).unwrap_or_default();
    let Some(method) = methods::find(name, flight.revision, Sender::Server) else {
        return dropped(shard, Dropped::Malformed);
    };
    if method.announces_change() {
        flight.snapshot.states[flight.server.index()].poke.changed();
    }
    let hidden = match method.verb {
        Verb::ResourceUpdated => !readable(&Eyes::of(shard, flight, &shard.snapshot()), envelope, data),
        Verb::TaskChanged => !task_askable(shard, flight, data),
        _ => false,
    };
    if hidden {
        return dropped(shard, Dropped::Hidden);
    }
    match flight.opted.subscription() {
        Some(subscription) => match subscription.borrow_mut().take(method.verb, data) {
            Becomes::Itself => Judged::Forward,
            Becomes::Instead(data) => Judged::Instead(data),
            Becomes::Dropped(why) => dropped(shard, why),
        },
        None => match beside_an_answer(&flight.opted, method.verb, envelope, data) {
            None if method.verb == Verb::Message && live::is_merged(&flight.snapshot, flight.endpoint) => {
                let server = &flight.snapshot.settings.servers[flight.server.index()].name;
                notice::logged(data, server).map_or(Judged::Drop, Judged::Instead)
            }
            None => Judged::Forward,
            Some(why) => dropped(shard, why),
        },
    }
}

/// What may come before an answer, on its stream: the request's own progress, and log messages as severe as it asked
/// for. What tells of changes belongs on a subscription. Gives why a notification may not.
fn beside_an_answer(opted: &Opted, verb: Verb, envelope: &Envelope, data: &[u8]) -> Option<Dropped> {
    match verb {
        Verb::Progress => {
            let Some(token) = opted.progress_token() else { return Some(Dropped::Unasked) };
            let given = envelope.param(data, "progressToken");
            let ours = given.is_some_and(|given| id::same(given.value.of(data), token));
            (!ours).then_some(Dropped::Foreign)
        }
        Verb::Message => {
            let Some(least) = opted.log_level else { return Some(Dropped::Unasked) };
            let level = envelope.param(data, "level").and_then(|level| LogLevel::parse(level.text()?.of(data)));
            (level < Some(least)).then_some(Dropped::Unasked)
        }
        _ => Some(Dropped::Unasked),
    }
}

/// Whether a caller sees a resource at all: read it may be, or refused with a reason.
pub(super) fn is_shown(table: &Table, caller: &Caller, task: ActiveTask, server: ServerId, uri: &str) -> bool {
    decide::judge(table, caller, task, server, Question::Read(uri)).outcome != Err(Why::Hidden)
}

/// Whether the resource that a notification is about may be read.
fn readable(eyes: &Eyes<'_>, envelope: &Envelope, data: &[u8]) -> bool {
    let uri = envelope.param(data, "uri").and_then(|member| member.text());
    let mut scratch = Vec::new();
    let uri = uri.and_then(|span| text::unescape(span.of(data), &mut scratch).ok());
    uri.is_some_and(|uri| eyes.may_read(uri))
}

/// Whether the client of a stream, which declared so much, may be asked what the task in a notification asks.
pub(super) fn is_task_askable(eyes: &Eyes<'_>, declared: Declared, data: &[u8]) -> bool {
    let may = |ask| Beside::seen(eyes).may_ask(ask, Limits::Looked);
    let asks = Task::of_params(data).and_then(|task| task.asks(data));
    asks.is_ok_and(|asks| asks.iter().all(may) && declared.has(asks.needs()))
}

/// Whether the client may be asked what the task in a notification asks.
fn task_askable(shard: &Shard, flight: &Flight, data: &[u8]) -> bool {
    let asks = Task::of_params(data).and_then(|task| task.asks(data));
    asks.is_ok_and(|asks| askable(shard, flight, asks, Limits::Looked).is_ok())
}

/// One message less, counted by why.
fn dropped(shard: &Shard, why: Dropped) -> Judged {
    count_dropped(shard, why);
    Judged::Drop
}

/// See there.
pub(super) fn count_dropped(shard: &Shard, why: Dropped) {
    shard.count(match why {
        Dropped::Unasked => Count::ServerUnasked,
        Dropped::Early => Count::ServerEarly,
        Dropped::Foreign => Count::ServerForeign,
        Dropped::Second => Count::ServerSecond,
        Dropped::Request => Count::ServerRequests,
        Dropped::Hidden => Count::ServerHidden,
        Dropped::Malformed => Count::ServerMalformed,
    });
}
