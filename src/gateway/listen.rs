//! `subscriptions/listen` on an endpoint of several servers (MCP 2026-07-28 basic/patterns/subscriptions): decided on as
//! a whole, acknowledged here and at once, and heard from each server that has something to say about it. What becomes
//! of the lists, the gateway tells by itself.

use std::cell::RefCell;
use std::rc::Rc;

use crate::base::ids::ServerId;
use crate::http::head::Framing;
use crate::mcp::call::{Call, Object, TaskName};
use crate::mcp::catalog::{EraCatalog, ListKind, capability, extension};
use crate::mcp::optin::{Declared, TASKS_EXTENSION};
use crate::mcp::subscription::joint::{Asked, Joint, Named};
use crate::mcp::tasks::TaskLink;
use crate::policy::decide::{self, Permit, Scene};
use crate::session::tasks;

use super::conn::{Body, Conn};
use super::flight::{Flight, Next, Taken, Whose};
use super::judge::Judge;
use super::live::{Listening, Who};
use super::modern;
use super::refusal::{Kind, Refusal};
use super::session::write_head;
use super::sessions;
use super::shard::Shard;
use super::tap::{Ending, Tap};
use super::traced;

/// Decides on it, records that, and begins the stream.
///
/// # Errors
/// Where the client has not said that it knows tasks, or there is no room for the record.
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    call: Box<Call>,
) -> Result<Next, Refusal> {
    let text = conn.body_bytes(body);
    let (call, at) = opened(shard, &Judge::new(shard, conn, body, flight), flight, call, text)?;
    let judge = Judge::new(shard, conn, body, flight);
    judge.unrevoked(&call)?;
    let (permit, whose) = decided(flight, call, &judge.scene())?;
    let mut servers = whose.iter().map(|(server, _)| *server).chain(at.iter().copied());
    if let Some(first) = servers.next().filter(|first| servers.all(|server| server == *first)) {
        // The record names a server where there is one that it is about.
        (flight.server, flight.whose) = (first, Whose::One(None));
    }
    let asked = asked(flight, &permit, text, whose, &at);
    let (joint, first) = Joint::new(flight.id.as_deref().unwrap_or(b"null"), text, asked);
    let declared = permit.call().meta.capabilities.map(|span| Declared::read(span.of(text))).unwrap_or_default();
    let recorded = Judge::new(shard, conn, body, flight).record(permit)?;
    let ending = recorded.seq().map(|seq| Ending { seq, began: flight.began, request_bytes: flight.request_bytes });
    let digest = flight.snapshot.prepared.endpoints[flight.endpoint.index()].digest;
    let session = sessions::nameless(shard, &flight.caller, digest, flight.revision)?;
    let listening = Listening { recorded, declared, joint: RefCell::new(joint), fan: traced::fan(flight) };
    let mut out = Vec::with_capacity(256);
    write_head(conn, shard, &mut out, Framing::Chunked);
    let (feed, key) = shard.feeds.subscribe(shard, flight, session, listening, &first);
    // From here on it is the tap's: the place at the stream, its subject's share, and the outcome.
    let stakes = flight.stakes.take();
    let tap = Tap {
        feed,
        key,
        who: Rc::new(Who::of(flight)),
        payer: flight.payer,
        ending,
        stakes,
        span: traced::lasts(shard, flight),
    };
    flight.taken.set(Taken::Nothing);
    conn.send(shard, &out).await;
    Ok(Next::Stream(Box::new(tap)))
}

/// The tasks that it names, each opened where it is this caller's; and the servers that they are at.
fn opened(
    shard: &Shard,
    judge: &Judge<'_>,
    flight: &Flight,
    mut call: Box<Call>,
    text: &[u8],
) -> Result<(Box<Call>, Vec<ServerId>), Refusal> {
    let Object::Listen(listen) = &call.subject else { return Ok((call, Vec::new())) };
    if listen.tasks_place.is_none() {
        return Ok((call, Vec::new()));
    }
    let serves = |server: &ServerId| flight.offer(*server).is_some_and(|it| extension(it, TASKS_EXTENSION));
    let servers = servers(flight);
    judge.may_have_tasks(&call, servers.iter().any(serves))?;
    let mut at = Vec::new();
    if let Object::Listen(listen) = &mut call.subject {
        for task in &mut listen.tasks {
            let Some((server, id)) = open(shard, flight, task, text).filter(|(server, _)| serves(server)) else {
                continue;
            };
            task.opened = Some(id);
            at.push(server);
        }
    }
    Ok((call, at))
}

/// The server that a task of this caller's is at, and its id there.
fn open(shard: &Shard, flight: &Flight, task: &TaskName, text: &[u8]) -> Option<(ServerId, Box<str>)> {
    let handle = tasks::open(&shard.sealing, task.text.of(text).as_bytes()).ok()?;
    let settings = &flight.snapshot.settings;
    let mark = |server: &ServerId| tasks::server_mark(&settings.servers[server.index()].name);
    let server = servers(flight).iter().copied().find(|server| mark(server) == handle.server)?;
    let active = tasks::active_mark(flight.task, settings.policy.tasks());
    let id = handle.owned_by(&flight.caller.owner, mark(&server), active).ok()?;
    Some((server, id))
}

/// What of it may be, and whose each resource is: one that may be read, at a server that tells of changes.
fn decided(flight: &Flight, call: Box<Call>, scene: &Scene<'_>) -> Result<(Permit, decide::Whose), Refusal> {
    let (snapshot, caller) = (&flight.snapshot, &flight.caller);
    let merged = &snapshot.merged[flight.endpoint.index()];
    let mut may = |server: ServerId, uri: &str| modern::is_shown(&snapshot.table, caller, flight.task, server, uri);
    let tells = |server: ServerId| flight.offer(server).is_some_and(subscribes);
    let whose = |uri: &str| {
        let (server, own) = merged.route(flight.era, uri, &mut may)?;
        tells(server).then(|| (server, own.into()))
    };
    let first = servers(flight).first().copied().unwrap_or_default();
    decide::decide_listen_at(&snapshot.table, caller, flight.task, first, call, scene, whose)
        .map_err(|_| Kind::ResourceUnknown.into())
}

/// What the decision has left, as it is asked of servers.
fn asked(flight: &Flight, permit: &Permit, text: &[u8], whose: decide::Whose, at: &[ServerId]) -> Asked {
    let Object::Listen(listen) = &permit.call().subject else { return Asked::default() };
    let digest = |server: ServerId| flight.snapshot.prepared.servers[server.index()].digest;
    let has = |kind: ListKind| servers(flight).iter().any(|server| offers(flight, *server, kind));
    let uris = listen.uris.iter().zip(whose);
    let uris = uris.map(|(uri, (server, own))| (digest(server), Named { client: uri.of(text).into(), server: own }));
    let link = |task| modern::link(task, text);
    let tasks = listen.tasks.iter().zip(at).filter_map(|(task, at)| Some((digest(*at), link(task)?)));
    let tasks: Vec<(u64, TaskLink)> = tasks.collect();
    Asked {
        lists: [
            listen.tools && has(ListKind::Tools),
            listen.prompts && has(ListKind::Prompts),
            listen.resources && has(ListKind::Resources),
        ],
        uris: uris.collect(),
        tasks,
    }
}

/// Whether there is such a list, or may come to be one.
fn offers(flight: &Flight, server: ServerId, kind: ListKind) -> bool {
    let known = flight.snapshot.catalog.known(server);
    !known || flight.offer(server).is_some_and(|offered| capability(offered, kind.capability()))
}

fn subscribes(offered: &EraCatalog) -> bool {
    offered.capabilities["resources"]["subscribe"] == true
}

fn servers(flight: &Flight) -> &[ServerId] {
    flight.snapshot.merged[flight.endpoint.index()].servers()
}
