//! One thread per server keeps what is known of it: its addresses, its eras, its lists. It looks again when the server
//! says that something changed, when what it said has run out, when a shard could not reach it, and when its stream
//! breaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::ids::ServerId;
use crate::base::limits::{
    CATALOG_GATHER_MS, CATALOG_MS_DEFAULT, CATALOG_MS_MIN, CATALOG_RETRY_MS_MAX, ERRAND_WAIT_MS_MAX,
    KEEPER_STACK_BYTES, LEFT_OUT_LETTERS_MAX, LEFT_OUT_NAMED_MAX, LIST_PAGES_MAX, PLANE_HEARD_MAX, VIEW_LOOK_MS_MAX,
};
use crate::config::{Scheme, ServerSettings};
use crate::gateway::control::{Control, Life};
use crate::http::head::Method;
use crate::jsonrpc::scan;
use crate::mcp::catalog::{DropWhy, EraCatalog, ListKind, Listing, ServerCatalog, capability, read_page};
use crate::mcp::method::{self as methods, Sender as From_, Verb};
use crate::mcp::request;
use crate::mcp::revision::{Era, Revision};
use crate::mcp::transport::{Transport, hints_at_sse};
use crate::tls::config::Materials;
use crate::upstream::shown::Shown;
use crate::upstream::state::{Poke, ServerState};

use super::PlaneFault;
use super::client::{self, ClientFault, Heard, Response, Stream, Target};
use super::looks::Looked;
use super::places::Places;
use super::probe;
use super::programs;
use super::publish::Next;
use super::shown::{Badge, ShownFault};
use super::talk::{Talk, TalkFault};

/// News of a server, or of files.
#[derive(Debug)]
pub(super) enum News {
    /// The names of its instances resolve to these now.
    Addresses(Arc<ServerState>, Vec<Arc<[SocketAddr]>>),
    /// What it offers, as of so many announcements.
    Catalog(Arc<ServerState>, Box<ServerCatalog>, u64),
    /// What it shows one caller, who is told when that is in a snapshot.
    View(Arc<ServerState>, Box<ServerCatalog>, Looked, Sender<()>),
    /// It cannot be reached, or makes no sense.
    Trouble(Arc<ServerState>, String),
    /// Certificates or keys have changed: of listeners, or of any server.
    Certificates(Arc<Materials>),
    /// Everything is by these settings from now on; the snapshot's number is told when it is published.
    Settings(Box<Next>, Sender<u64>),
}

/// Keeps one server.
pub(super) struct Keeper {
    pub(super) name: Arc<str>,
    places: Places,
    /// As the operator says; `None` where it is to be found out.
    told: Option<Transport>,
    pub(super) target: Target,
    badge: Badge,
    /// The status with which it last refused what it was shown.
    refused: Option<u16>,
    /// It looks in a caller's name, and no longer than until then. What it hears is not for others.
    until: Option<Instant>,
    pub(super) control: Arc<Control>,
    state: Arc<ServerState>,
    pub(super) news: Sender<News>,
    session: Option<Session>,
    /// The stream of that session, where the server speaks HTTP+SSE.
    talk: Option<Talk>,
    /// A refused handshake looked like an HTTP+SSE server's.
    hinted: bool,
    next_id: u64,
    /// What the last survey could not use, in words, sorted.
    left_out: Vec<String>,
}

/// The plane's own session with a legacy server.
struct Session {
    id: Option<String>,
    introduction: request::Introduction,
}

/// Why a server could not be surveyed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Client(#[from] ClientFault),
    #[error("it speaks no version of MCP that this gateway speaks")]
    NoEra,
    #[error("its {0} cannot be used")]
    Unusable(&'static str),
    #[error("it does not let the gateway in (status {0})")]
    Refused(u16),
    #[error(transparent)]
    Shown(#[from] ShownFault),
    #[error("it is another server now")]
    Gone,
    #[error("its session has ended")]
    SessionEnded,
    #[error(transparent)]
    Talk(#[from] TalkFault),
}

/// Starts to keep a server; that ends when its state is over.
///
/// # Errors
/// `PlaneFault::System` when there is no thread for it.
pub(super) fn start(
    server: &ServerSettings,
    state: &Arc<ServerState>,
    control: &Arc<Control>,
    news: &Sender<News>,
) -> Result<(), PlaneFault> {
    if let Some(Err(trouble)) = control.programs.get().map(|programs| programs::open(programs, server, state)) {
        // Nobody listens any more only when the process is ending.
        let _ = news.send(News::Trouble(state.clone(), trouble));
        return Ok(());
    }
    let fault = |error| PlaneFault::System { what: "a thread", error };
    probe::start(server, state, control).map_err(fault)?;
    let keeper = Keeper::new(server, state.clone(), control.clone(), news.clone());
    let name: String = format!("plane-{}", server.name).chars().take(15).collect();
    let thread = std::thread::Builder::new().name(name).stack_size(KEEPER_STACK_BYTES).spawn(move || keeper.run());
    thread.map(|_| ()).map_err(fault)
}

/// Why a look in a caller's name came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unseen {
    /// The server does not let the caller in with what it was shown.
    Refused,
    /// It is there no more, or is another one now: it was shown nothing.
    Gone,
    /// It does not answer, or makes no sense.
    Failed,
}

/// What a server offers to whom this is due, and how long that holds. What is due is shown to this very server, and by
/// no other settings: that is looked at before anything goes there.
///
/// # Errors
/// `Unseen`, where it does not say.
pub(super) fn survey_as(
    server: &ServerSettings,
    state: &Arc<ServerState>,
    control: &Arc<Control>,
    news: &Sender<News>,
    shown: Shown,
) -> Result<(ServerCatalog, Duration), Unseen> {
    let mut keeper = Keeper::new(server, state.clone(), control.clone(), news.clone());
    keeper.badge = Badge::showing(shown);
    keeper.until = Some(Instant::now() + Duration::from_millis(VIEW_LOOK_MS_MAX));
    // Where it is, its own keeper says.
    let _ = keeper.places.resolve();
    if !keeper.is_ours() || !keeper.aim() {
        return Err(Unseen::Gone);
    }
    let catalog = keeper.survey_somewhere();
    keeper.leave();
    let catalog = catalog.map_err(|_| match keeper.refused {
        _ if !keeper.is_ours() => Unseen::Gone,
        Some(_) => Unseen::Refused,
        None => Unseen::Failed,
    })?;
    let patience = patience(&catalog);
    Ok((catalog, patience))
}

impl Keeper {
    fn new(settings: &ServerSettings, state: Arc<ServerState>, control: Arc<Control>, news: Sender<News>) -> Self {
        let places = Places::new(settings);
        let target = match state.way() {
            Some(way) => {
                let (host, path) = ("stdio".to_owned(), "/".to_owned());
                let (scheme, way) = (Scheme::Http, Some(way.clone()));
                Target { addresses: Vec::new(), host, path, scheme, tls: None, shown: None, way }
            }
            None => places.target(None),
        };
        Self {
            name: settings.name.clone(),
            badge: Badge::of(settings),
            refused: None,
            until: None,
            places,
            target,
            told: settings.transport,
            control,
            state,
            news,
            session: None,
            talk: None,
            hinted: false,
            next_id: 1,
            left_out: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        let mut retry_ms = CATALOG_MS_MIN / 4;
        let mut begun: Option<Instant> = None;
        while self.is_needed() {
            self.rest(begun);
            begun = Some(Instant::now());
            self.resolve();
            // That may take long.
            if !self.is_needed() {
                break;
            }
            let announced = self.poke().announced();
            let before = std::mem::take(&mut self.left_out);
            match self.survey_somewhere() {
                Ok(catalog) => {
                    self.tell_left_out(&before);
                    retry_ms = CATALOG_MS_MIN / 4;
                    let patience = patience(&catalog);
                    let listens = wants_stream(&catalog);
                    let modern = catalog.modern.is_some();
                    self.tell(News::Catalog(self.state.clone(), Box::new(catalog), announced));
                    self.linger(announced, patience, listens, modern);
                }
                Err(trouble) => {
                    self.left_out = before;
                    begun = None;
                    self.forget();
                    self.tell(News::Trouble(self.state.clone(), self.said(&trouble)));
                    self.pause(Duration::from_millis(retry_ms));
                    retry_ms = (retry_ms * 2).min(CATALOG_RETRY_MS_MAX);
                }
            }
        }
        self.leave();
    }

    /// Changes that come close together make one survey: it waits a little for more of them, and does not begin sooner
    /// than `CATALOG_MS_MIN` after one that succeeded.
    fn rest(&mut self, begun: Option<Instant>) {
        let Some(begun) = begun else { return };
        let now = Instant::now();
        let until = (now + Duration::from_millis(CATALOG_GATHER_MS)).max(begun + Duration::from_millis(CATALOG_MS_MIN));
        while Instant::now() < until && self.is_needed() {
            let left = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(CATALOG_GATHER_MS));
            // A stream that stays open is read, or each message that waits there would ask for a survey of its own.
            match self.talk.as_mut().map(|talk| talk.next(self.state.poke.bell(), left)) {
                None => std::thread::sleep(left),
                Some(Heard::Message(message)) => self.heed(&message),
                Some(Heard::Bell) => self.poke().hush(),
                Some(Heard::Silence) => {}
                Some(Heard::End) => self.forget(),
            }
        }
    }

    /// Says what is left out of the catalogue, where that was not so before.
    fn tell_left_out(&mut self, before: &[String]) {
        // A server with both eras has most of them in both.
        self.left_out.sort_unstable();
        self.left_out.dedup();
        let mut fresh = self.left_out.iter().filter(|one| before.binary_search(one).is_err());
        for one in fresh.by_ref().take(LEFT_OUT_NAMED_MAX) {
            tracing::warn!("server {}: {one}", self.name);
        }
        let more = fresh.count();
        if more > 0 {
            tracing::warn!("server {}: {more} more are left out", self.name);
        }
    }

    /// Whether it is to go on: its server is one still, as it was.
    fn is_needed(&self) -> bool {
        self.control.life() == Life::Run && !self.state.is_over()
    }

    /// Whether the newest snapshot has the very server that it looks at: another of the same name may be somewhere else.
    fn is_ours(&self) -> bool {
        let snapshot = self.control.snapshot.load();
        let state = snapshot.server_by_digest(self.state.digest).and_then(|it| snapshot.states.get(it.index()));
        !self.state.is_over() && state.is_some_and(|state| Arc::ptr_eq(state, &self.state))
    }

    /// What is wrong, for people. Of a program more is known than that it does not answer.
    fn said(&self, trouble: &Trouble) -> String {
        let known = self.target.way.as_ref().filter(|_| matches!(trouble, Trouble::Client(_)));
        known.and_then(|way| way.trouble()).unwrap_or_else(|| trouble.to_string())
    }

    fn poke(&self) -> &Poke {
        &self.state.poke
    }

    fn tell(&self, news: News) {
        // Nobody listens any more only when the process is ending.
        let _ = self.news.send(news);
    }

    /// Names become addresses here, never on a shard.
    fn resolve(&mut self) {
        let again = self.poke().take_unreachable();
        if self.target.way.is_some() {
            return;
        }
        if again {
            self.places.forget_names();
        }
        self.resolve_names();
        self.places.tell(&self.state);
        if self.places.is_stranded(&self.state) && self.places.advance(&self.state) {
            self.forget();
        }
        self.aim();
    }

    fn resolve_names(&mut self) {
        if let Some(addresses) = self.places.resolve() {
            self.tell(News::Addresses(self.state.clone(), addresses));
        }
    }

    /// Certificates may have changed since the last time; a connection that is there goes on with those it has. `false`
    /// where the snapshot has another server of this name, or none: what is there to speak TLS with is not for this one.
    fn aim(&mut self) -> bool {
        let snapshot = self.control.snapshot.load();
        let server = snapshot.server_by_digest(self.state.digest);
        let ours = |server: &ServerId| {
            snapshot.states.get(server.index()).is_some_and(|known| Arc::ptr_eq(known, &self.state))
        };
        let Some(server) = server.filter(ours) else { return false };
        self.target = self.places.target(snapshot.tls.side(server, self.places.at()).cloned());
        true
    }

    /// The survey of one instance, which stands for all; where it fails, of the next.
    fn survey_somewhere(&mut self) -> Result<ServerCatalog, Trouble> {
        let mut survey = self.survey();
        for _ in 1..self.places.count() {
            if survey.is_ok() || !self.is_needed() {
                break;
            }
            self.forget();
            if self.places.advance(&self.state) {
                if !self.aim() {
                    break;
                }
                survey = self.survey();
            }
        }
        survey
    }

    /// Everything the server offers, over the transport it speaks. That is found by asking: where a POST is refused as
    /// an HTTP+SSE server would, an event stream is looked for (MCP 2026-07-28 basic/transports/streamable-http,
    /// "HTTP+SSE").
    fn survey(&mut self) -> Result<ServerCatalog, Trouble> {
        if self.talk.is_some() || self.told == Some(Transport::Sse) {
            return self.over_sse();
        }
        self.hinted = false;
        match self.over_http() {
            Err(Trouble::NoEra) if self.hinted && self.told.is_none() && self.target.way.is_none() => {
                match self.over_sse() {
                    // Not such a server either; what it said first is what is wrong with it.
                    Err(Trouble::Talk(TalkFault::NoStream)) => Err(Trouble::NoEra),
                    other => other,
                }
            }
            other => other,
        }
    }

    /// The handshake and the lists on an event stream. A session that broke since the last time is opened anew, once.
    fn over_sse(&mut self) -> Result<ServerCatalog, Trouble> {
        if self.talk.is_some() {
            match self.spoken() {
                Err(Trouble::Client(_)) => self.forget(),
                other => return other,
            }
        }
        let fields = [("accept", "text/event-stream"), ("user-agent", USER_AGENT)];
        self.show()?;
        self.talk = Some(Talk::open(&self.target, &fields)?);
        self.spoken()
    }

    fn spoken(&mut self) -> Result<ServerCatalog, Trouble> {
        let introduction = self.handshake()?.ok_or(Trouble::NoEra)?;
        let revision = introduction.revisions.first().copied().unwrap_or(Revision::NEWEST_LEGACY);
        let legacy = Some(self.offers(Era::Legacy, revision, introduction)?);
        Ok(ServerCatalog { modern: None, legacy, transport: Transport::Sse })
    }

    /// The plane's own session is over.
    fn forget(&mut self) {
        self.session = None;
        self.talk = None;
    }

    /// Everything the server offers, in each era it speaks. Era is found by asking, never by calling a tool
    /// (MCP 2026-07-28 basic/versioning).
    fn over_http(&mut self) -> Result<ServerCatalog, Trouble> {
        self.refused = None;
        let modern = self.discover()?;
        let modern = match modern {
            Some(introduction) => Some(self.offers(Era::Modern, Revision::NEWEST, introduction)?),
            None => None,
        };
        let legacy = match self.handshake()? {
            Some(introduction) => {
                let revision = introduction.revisions.first().copied().unwrap_or(Revision::NEWEST_LEGACY);
                match self.offers(Era::Legacy, revision, introduction) {
                    Err(Trouble::SessionEnded) => {
                        // Forgotten in between: once more, from the start.
                        self.session = None;
                        let again = self.handshake()?.ok_or(Trouble::SessionEnded)?;
                        Some(self.offers(Era::Legacy, revision, again)?)
                    }
                    other => Some(other?),
                }
            }
            None => None,
        };
        if modern.is_none() && legacy.is_none() {
            if let Some(status) = self.refused {
                return Err(Trouble::Refused(status));
            }
            return Err(Trouble::NoEra);
        }
        let transport = if self.target.way.is_some() { Transport::Stdio } else { Transport::Http };
        Ok(ServerCatalog { modern, legacy, transport })
    }

    fn discover(&mut self) -> Result<Option<request::Introduction>, Trouble> {
        let id = self.id();
        let response = self.post(Era::Modern, Verb::Discover, id, &request::request_discover(id))?;
        Ok(result_of(&response, id).and_then(|result| request::read_discover(&result).ok()))
    }

    /// The plane's own session, opened where there is none.
    fn handshake(&mut self) -> Result<Option<request::Introduction>, Trouble> {
        if let Some(session) = &self.session {
            return Ok(Some(session.introduction.clone()));
        }
        let id = self.id();
        let body = request::request_initialize(id, Revision::NEWEST_LEGACY);
        let response = self.post(Era::Legacy, Verb::Initialize, id, &body)?;
        let Some(introduction) = result_of(&response, id).and_then(|result| request::read_initialize(&result).ok())
        else {
            self.hinted = hints_at_sse(response.status, any_error_of(&response));
            return Ok(None);
        };
        self.session = Some(Session { id: response.session, introduction: introduction.clone() });
        self.post(Era::Legacy, Verb::Initialized, 0, &request::notify_initialized())?;
        Ok(Some(introduction))
    }

    fn offers(
        &mut self,
        era: Era,
        protocol: Revision,
        introduction: request::Introduction,
    ) -> Result<EraCatalog, Trouble> {
        let mut catalog = EraCatalog {
            events: false,
            protocol,
            capabilities: introduction.capabilities,
            server_info: introduction.server_info,
            instructions: introduction.instructions,
            lists: [None, None, None, None],
        };
        for kind in ListKind::ALL {
            let name = match kind {
                ListKind::Tools => "tools",
                ListKind::Prompts => "prompts",
                ListKind::Resources | ListKind::Templates => "resources",
            };
            if capability(&catalog, name) {
                let (listing, events) = self.list(era, kind)?;
                catalog.lists[kind.index()] = listing;
                catalog.events |= events;
            }
        }
        Ok(catalog)
    }

    /// All pages of a list, and whether they came as event streams; `None` where the server has no such list although it declares the capability.
    fn list(&mut self, era: Era, kind: ListKind) -> Result<(Option<Listing>, bool), Trouble> {
        let verb = match kind {
            ListKind::Tools => Verb::ToolsList,
            ListKind::Prompts => Verb::PromptsList,
            ListKind::Resources => Verb::ResourcesList,
            ListKind::Templates => Verb::TemplatesList,
        };
        let mut listing = Listing::default();
        let mut cursor: Option<String> = None;
        for page in 0..LIST_PAGES_MAX {
            let id = self.id();
            let body = request::request_list(id, kind, era, cursor.as_deref());
            let response = self.post(era, verb, id, &body)?;
            if response.status == 404 && era == Era::Legacy {
                return Err(Trouble::SessionEnded);
            }
            let Some(result) = result_of(&response, id) else {
                let missing = page == 0 && error_of(&response, id) == Some(-32_601);
                return if missing { Ok((None, false)) } else { Err(Trouble::Unusable(verb_name(verb))) };
            };
            let read = read_page(kind, &result).map_err(|_| Trouble::Unusable(verb_name(verb)))?;
            cursor.clone_from(&read.next_cursor);
            let dropped = listing.add(read);
            let said = |(name, why): (String, DropWhy)| {
                let name: String = name.chars().take(LEFT_OUT_LETTERS_MAX).collect();
                format!("{name:?} of {} is left out: {why}", verb_name(verb))
            };
            self.left_out.extend(dropped.into_iter().map(said));
            if cursor.is_none() {
                return Ok((Some(listing), response.events));
            }
        }
        Err(Trouble::Unusable("list, which does not end,"))
    }

    /// Waits until it is time to look again, listening where the server offers a stream.
    fn linger(&mut self, announced: u64, patience: Duration, listens: bool, modern: bool) {
        let until = Instant::now() + patience;
        let mut stream = if listens && self.talk.is_none() { self.listen(modern) } else { None };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.is_needed() || self.poke().announced() > announced {
                return;
            }
            self.places.tell(&self.state);
            if self.places.is_stranded(&self.state) {
                return;
            }
            if self.poke().take_unreachable() {
                self.places.forget_names();
                if self.places.count() <= 1 {
                    return;
                }
                // Of another instance, most likely; this one would say so by its stream.
                self.resolve_names();
            }
            let bell = self.state.poke.bell();
            let heard = match (&mut self.talk, &mut stream) {
                (Some(talk), _) => Some(talk.next(bell, left)),
                (None, stream) => stream.as_mut().map(|stream| stream.next(bell, left)),
            };
            match heard {
                None => {
                    self.pause(left);
                }
                Some(Heard::Message(message)) => self.heed(&message),
                Some(Heard::Bell) => self.poke().hush(),
                Some(Heard::Silence) => return,
                Some(Heard::End) => {
                    // It may have restarted with other tools; or it ends its streams as a habit.
                    if self.talk.is_some() {
                        self.forget();
                    }
                    self.pause(Duration::from_millis(CATALOG_MS_MIN));
                    return;
                }
            }
        }
    }

    fn pause(&self, patience: Duration) {
        let bell = self.poke().bell();
        let (_, rung) = client::wait(None, bell, patience);
        if rung {
            self.poke().hush();
        }
    }

    /// A message of the server that is no answer.
    fn heed(&mut self, message: &[u8]) {
        // What is said while it looks in a caller's name it is about to see: nobody has to look again for that.
        if self.until.is_none() && announces_change(message) {
            self.poke().changed();
        }
        self.decline(message);
    }

    /// The plane declares what clients can do, so that a server shows all it has; asked itself, it has nothing to say.
    fn decline(&mut self, message: &[u8]) {
        let Ok(envelope) = scan::read(message) else { return };
        let Some(id) = envelope.id.filter(|_| envelope.shape == scan::Shape::Request) else { return };
        let id = String::from_utf8_lossy(id.raw(message)).into_owned();
        let body = if envelope.method_name(message) == Some(b"ping") {
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}")
        } else {
            let why = "the gateway looks at lists only";
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32601,\"message\":\"{why}\"}}}}")
        };
        // A server that does not take it learns nothing worse from its own timeout.
        let _ = self.post(Era::Legacy, Verb::Initialized, 0, body.as_bytes());
    }

    fn listen(&mut self, modern: bool) -> Option<Stream> {
        self.show().ok()?;
        let (method, body, era) = if modern {
            let id = self.id();
            (Method::Post, Some(request_listen(id)), Era::Modern)
        } else {
            self.session.as_ref()?.id.as_ref()?;
            (Method::Get, None, Era::Legacy)
        };
        let mut fields = self.fields(era, Verb::Listen);
        fields.retain(|(name, _)| method == Method::Post || !name.eq_ignore_ascii_case("content-type"));
        let borrowed: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client::listen(&self.target, method, &borrowed, body.as_deref()).ok().flatten()
    }

    /// Ends the plane's own session.
    fn leave(&mut self) {
        if self.session.as_ref().is_some_and(|session| session.id.is_some()) {
            // In a caller's name only within its time, and where it was.
            if self.show().is_err() && self.until.is_some() {
                return;
            }
            let fields = self.fields(Era::Legacy, Verb::Ping);
            let borrowed: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let _ = client::ask(&self.target, Method::Delete, &borrowed, None, |_| true);
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// What the server is shown with whatever goes there next.
    fn show(&mut self) -> Result<(), Trouble> {
        if let Some(until) = self.until {
            // Before anything of a caller's goes there.
            if !self.is_ours() {
                return Err(Trouble::Gone);
            }
            if Instant::now() >= until {
                return Err(ClientFault::Timeout.into());
            }
        }
        let shown = self.badge.due(&self.control, Duration::from_millis(ERRAND_WAIT_MS_MAX))?;
        self.talk.iter_mut().for_each(|talk| talk.shows(shown.clone()));
        self.target.shown = shown;
        Ok(())
    }

    fn post(&mut self, era: Era, verb: Verb, id: u64, body: &[u8]) -> Result<Response, Trouble> {
        self.show()?;
        let fields = self.fields(era, verb);
        let borrowed: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let wanted = |message: &[u8]| answers(message, id);
        let Some(talk) = &mut self.talk else {
            let response = client::ask(&self.target, Method::Post, &borrowed, Some(body), wanted)?;
            if matches!(response.status, 401 | 403) {
                self.refused = Some(response.status);
                self.badge.refused(&self.control);
            }
            return Ok(response);
        };
        let answer = talk.say(&borrowed, body, (id != 0).then_some(&wanted))?;
        // A server may wait for its own answers before it goes on.
        let most = if id == 0 { 0 } else { PLANE_HEARD_MAX };
        for _ in 0..most {
            let Some(message) = self.talk.as_mut().and_then(Talk::heard) else { break };
            self.heed(&message);
        }
        Ok(Response { status: 200, session: None, events: false, messages: answer.into_iter().collect() })
    }

    fn fields(&self, era: Era, verb: Verb) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json, text/event-stream".to_owned()),
            ("user-agent", USER_AGENT.to_owned()),
        ];
        match (era, &self.session) {
            (Era::Modern, _) => {
                fields.push(("mcp-protocol-version", Revision::NEWEST.as_str().to_owned()));
                fields.push(("mcp-method", verb_name(verb).to_owned()));
            }
            (Era::Legacy, Some(session)) => {
                let revision = session.introduction.revisions.first().copied().unwrap_or(Revision::NEWEST_LEGACY);
                fields.push(("mcp-protocol-version", revision.as_str().to_owned()));
                fields.extend(session.id.iter().map(|id| ("mcp-session-id", id.clone())));
            }
            (Era::Legacy, None) => {}
        }
        fields
    }
}

/// How long a catalogue holds: the least that one of its lists says, within bounds.
fn patience(catalog: &ServerCatalog) -> Duration {
    let eras = [catalog.modern.as_ref(), catalog.legacy.as_ref()];
    let lists = eras.into_iter().flatten().flat_map(|era| era.lists.iter().flatten());
    let ttl_ms = lists.filter_map(|list| list.ttl_ms).filter(|ttl| *ttl > 0).min();
    Duration::from_millis(ttl_ms.unwrap_or(CATALOG_MS_DEFAULT).clamp(CATALOG_MS_MIN, CATALOG_MS_DEFAULT))
}

/// Whether the server says that it announces changes of any list.
fn wants_stream(catalog: &ServerCatalog) -> bool {
    let eras = [catalog.modern.as_ref(), catalog.legacy.as_ref()];
    eras.into_iter().flatten().any(|era| {
        ["tools", "prompts", "resources"].iter().any(|name| {
            era.capabilities.get(name).and_then(|capability| capability.get("listChanged")) == Some(&Value::Bool(true))
        })
    })
}

/// A listen stream for all three lists (MCP 2026-07-28 basic/patterns/subscriptions).
fn request_listen(id: u64) -> Vec<u8> {
    let body = serde_json::json!({
        "jsonrpc": "2.0", "id": id, "method": "subscriptions/listen",
        "params": {
            "notifications": { "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true },
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": Revision::NEWEST.as_str(),
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": { "name": request::NAME, "version": request::VERSION },
            },
        },
    });
    body.to_string().into_bytes()
}

fn verb_name(verb: Verb) -> &'static str {
    methods::METHODS.iter().find(|row| row.verb == verb).map_or("?", |row| row.wire)
}

/// An answer's parts, in its own bytes: lists may have more members than a message on a shard may.
#[derive(serde::Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Value>,
}

fn parts(message: &[u8], id: u64) -> Option<Parts<'_>> {
    let parts: Parts<'_> = serde_json::from_slice(message).ok()?;
    let ours = parts.id.is_some_and(|given| given.get() == id.to_string());
    (ours && (parts.result.is_some() || parts.error.is_some())).then_some(parts)
}

fn answers(message: &[u8], id: u64) -> bool {
    parts(message, id).is_some()
}

/// The `result` of the answer to `id`.
fn result_of(response: &Response, id: u64) -> Option<Vec<u8>> {
    let parts = response.messages.iter().find_map(|message| parts(message, id))?;
    parts.result.map(|result| result.get().as_bytes().to_vec())
}

/// The code of an error, whomever it answers: servers that know no session leave the id out.
fn any_error_of(response: &Response) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Refused {
        error: Value,
    }
    let refused: Refused = response.messages.iter().find_map(|message| serde_json::from_slice(message).ok())?;
    refused.error.get("code")?.as_i64()
}

fn error_of(response: &Response, id: u64) -> Option<i64> {
    let parts = response.messages.iter().find_map(|message| parts(message, id))?;
    parts.error?.get("code")?.as_i64()
}

/// Whether a message of the server says that a list changed.
fn announces_change(message: &[u8]) -> bool {
    let Ok(envelope) = scan::read(message) else { return false };
    let name = envelope.method_name(message).unwrap_or_default();
    let eras = [Revision::NEWEST, Revision::NEWEST_LEGACY];
    let method = eras.into_iter().find_map(|revision| methods::find(name, revision, From_::Server));
    method.is_some_and(methods::Method::announces_change)
}

const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
