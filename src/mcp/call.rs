//! A request, fully read and ready to be judged: era, method, and what it is about. `read` is the one way to make one.

use thiserror::Error;

use crate::base::limits::{LISTEN_TASKS_MAX, LISTEN_URIS_MAX, TRACE_FIELD_BYTES_MAX};
use crate::base::span::Span;
use crate::jsonrpc::id::Id;
use crate::jsonrpc::scan::{Envelope, Kind, Member, Shape};
use crate::jsonrpc::text;
use crate::mcp::headers::{Header, HeaderFault, decode_value};
use crate::mcp::method::{Form, Method, Sender, Subject, find};
use crate::mcp::optin::LogLevel;
use crate::mcp::revision::{Era, Revision};
use crate::mcp::walk;

/// What the head of a request said. Values without surrounding blanks; a field that is there twice gives its first
/// value and its count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// `MCP-Protocol-Version`.
    pub version: Option<&'a [u8]>,
    /// How often it is there.
    pub version_count: usize,
    /// `Mcp-Method`.
    pub method: Option<&'a [u8]>,
    /// How often it is there.
    pub method_count: usize,
    /// `Mcp-Name`.
    pub name: Option<&'a [u8]>,
    /// How often it is there.
    pub name_count: usize,
    /// `Mcp-Session-Id`; means nothing in the modern era.
    pub session: Option<&'a [u8]>,
    /// How often it is there.
    pub session_count: usize,
    /// What the session of that id speaks, where it could be opened.
    pub session_revision: Option<Revision>,
}

/// A message from a client, read. Holds places in the body, not references, so that a permit can own it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The era of the client's side.
    pub era: Era,
    /// The revision it speaks; of an `initialize`, the one to settle on.
    pub revision: Revision,
    /// Request, notification, or (legacy only) the answer to a server's request.
    pub shape: Shape,
    /// Its id; absent on a notification.
    pub id: Option<Id>,
    /// Its row of the method table; absent on an answer.
    pub method: Option<&'static Method>,
    /// What it is about.
    pub subject: Object,
    /// What its `_meta` says to the gateway.
    pub meta: Meta,
    /// `params.arguments`, where it is an object.
    pub arguments: Option<Span>,
    /// What its client brings back, where it was asked for more; modern only.
    pub returned: Option<Box<Returned>>,
}

/// What a client brings back with a call that was answered with `input_required` (MCP 2026-07-28 basic/patterns/mrtr).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// `inputResponses`.
    pub responses: Option<Member>,
    /// `requestState`.
    pub state: Option<Member>,
}

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Nothing that policy decides on.
    None,
    /// `tools/call`.
    Tool(Text),
    /// `prompts/get`.
    Prompt(Text),
    /// `resources/read`, `resources/subscribe`, `resources/unsubscribe`: the URI. The method's row tells which.
    Resource(Text),
    /// `completion/complete` of a prompt's argument: its name.
    CompletePrompt(Text),
    /// `completion/complete` of a template's variable: the URI or URI template.
    CompleteResource(Text),
    /// `subscriptions/listen`.
    Listen(Box<Listen>),
    /// `tasks/get`, `tasks/update`, `tasks/cancel`: the MCP task.
    Task(Box<TaskName>),
}

/// What a listen stream is to carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// `toolsListChanged`.
    pub tools: bool,
    /// `promptsListChanged`.
    pub prompts: bool,
    /// `resourcesListChanged`.
    pub resources: bool,
    /// `resourceSubscriptions`.
    pub uris: Vec<Text>,
    /// Where that array stands.
    pub uris_place: Option<Span>,
    /// How many it has: `uris` may lose some on the way.
    pub uris_asked: usize,
    /// `taskIds` of the tasks extension.
    pub tasks: Vec<TaskName>,
    /// Where that array stands.
    pub tasks_place: Option<Span>,
}

/// An MCP task, as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskName {
    /// The client's name for it: what the gateway sealed.
    pub text: Text,
    /// The server's own, once the client's was opened and found to be this caller's. Nothing goes to a server without.
    pub opened: Option<Box<str>>,
}

/// A JSON string of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its place, between the quotes.
    pub span: Span,
    /// What it means, where that differs from the bytes there: it has escapes.
    pub unescaped: Option<Box<str>>,
}

/// What `params._meta` says to the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `portcullis/task`.
    pub task: Option<Text>,
    /// `progressToken`, as JSON text: a string with its quotes, or an integer.
    pub progress_token: Option<Span>,
    /// `traceparent`, between the quotes; only one that W3C Trace Context allows.
    pub traceparent: Option<Span>,
    /// `tracestate`, between the quotes.
    pub tracestate: Option<Span>,
    /// `baggage`, between the quotes.
    pub baggage: Option<Span>,
    /// There is a `traceparent`, and it is none that W3C Trace Context allows.
    pub traceparent_malformed: bool,
    /// Some of it may have to stay here: there is a `baggage`, whatever it is, or a `tracestate` that is too long.
    pub cuts: bool,
    /// `io.modelcontextprotocol/clientCapabilities`, as JSON text; modern only.
    pub capabilities: Option<Span>,
    /// `io.modelcontextprotocol/logLevel`; modern only.
    pub log_level: Option<LogLevel>,
}

/// Everything a message can be refused for here. The status is 400 where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CallFault {
    /// Modern: `_meta` or a required key of it is absent or of the wrong type. -32602.
    #[error("_meta lacks a required key")]
    MetaMissing(MetaKey),
    /// Modern: a header is missing, doubled, badly encoded, or differs from the body. -32020.
    #[error("{0}")]
    HeaderMismatch(#[from] HeaderFault),
    /// A version that is not spoken in this way. -32022 with `supported` (`Revision::MODERN`) and `requested`, which is
    /// the value of `MCP-Protocol-Version`.
    #[error("unsupported protocol version")]
    UnsupportedVersion,
    /// Legacy, within a session: the version header is none that we know. A plain 400.
    #[error("unknown protocol version")]
    VersionUnknown,
    /// Legacy: the session or version header is there twice. A plain 400.
    #[error("a header is there twice")]
    Doubled,
    /// No such method in this revision. -32601; 404 in the modern era, 200 in the legacy one. A notification has no
    /// answer but a 4xx.
    #[error("unknown method")]
    MethodUnknown(Era),
    /// Modern: a client must not send results or errors. -32600.
    #[error("a client sends no responses in this revision")]
    ResponseRefused,
    /// A method that is a request came without an id. -32600.
    #[error("a request needs an id")]
    FormMismatch(Era),
    /// A control character in a method, tool, prompt or resource name. -32602; 400 in both eras.
    #[error("a name holds control characters")]
    NameInvalid,
    /// In `ref` or `notifications`, a name that equals a known one but for case. -32600; 400 in both eras.
    #[error("a member's name differs from a known one only in case")]
    CaseTwin,
    /// A member of `params` is missing or of the wrong type. -32602; 200 in both eras, as an answer to the call itself.
    #[error("a parameter is missing or malformed")]
    ParamsInvalid(Era, Param),
    /// `_meta["portcullis/task"]` is no string. Answered as any task that cannot be the active one.
    #[error("the task is not named by a string")]
    TaskInvalid,
}

/// A required key of `_meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// `_meta` itself.
    Meta,
    /// `io.modelcontextprotocol/protocolVersion`.
    ProtocolVersion,
    /// `io.modelcontextprotocol/clientCapabilities`.
    ClientCapabilities,
}

/// A member of `params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// `name`.
    Name,
    /// `uri`.
    Uri,
    /// `ref`, or what it needs.
    Ref,
    /// `arguments`.
    Arguments,
    /// `notifications`, or what it needs.
    Notifications,
    /// `protocolVersion` of an `initialize`.
    ProtocolVersion,
    /// `_meta`, its `progressToken` or its `logLevel`.
    Meta,
    /// `taskId`.
    TaskId,
}

/// Reads a message from a client: `given` in the head, `body` as received, `envelope` as scanned from it.
///
/// # Errors
/// The first fault, in the order the specification's conformance suite expects: `_meta` complete, version of header and
/// body equal, version supported, other headers equal, method known, parameters well-formed. A batch never gets here, only its
/// messages do: the scanner refuses arrays.
pub fn read(given: &Given<'_>, body: &[u8], envelope: &Envelope) -> Result<Call, CallFault> {
    let mut at = Places::default();
    at.find(body, envelope);
    let message = Message { given, body, envelope, at: &at };
    match message.spoken()? {
        Spoken::Modern => message.read_modern(),
        Spoken::Legacy(revision) => message.read_legacy(revision),
    }
}

/// Whether a batch may come under this head: what it says of the revision, by the rules of [`read`], means the one that
/// has batches. Each message of the batch is read under the same head by itself.
#[must_use]
pub fn takes_batch(given: &Given<'_>) -> bool {
    let once = given.version_count <= 1 && given.session_count <= 1;
    let said = given.version.map_or(Some(Revision::UNSAID), Revision::parse);
    let spoken = said.map(|said| given.session_revision.filter(|_| !said.is_modern()).unwrap_or(said));
    once && spoken.is_some_and(Revision::takes_batches)
}

impl Text {
    /// The text, in the body it was read from.
    #[must_use]
    pub fn of<'a>(&'a self, body: &'a [u8]) -> &'a str {
        match &self.unescaped {
            Some(text) => text,
            None => std::str::from_utf8(self.span.of(body)).expect("the scanner passed UTF-8 only"),
        }
    }

    /// Its bytes, which are UTF-8.
    #[must_use]
    pub fn bytes<'a>(&'a self, body: &'a [u8]) -> &'a [u8] {
        self.unescaped.as_deref().map_or_else(|| self.span.of(body), str::as_bytes)
    }

    /// The text at `span`, between the quotes.
    fn read(body: &[u8], span: Span) -> Option<Self> {
        let inside = span.of(body);
        if !text::has_escape(inside) {
            return Some(Self { span, unescaped: None });
        }
        let mut scratch = Vec::new();
        let unescaped = text::unescape(inside, &mut scratch).ok()?;
        Some(Self { span, unescaped: Some(unescaped.into()) })
    }
}

impl Object {
    /// The one name or URI it holds.
    #[must_use]
    pub fn text(&self) -> Option<&Text> {
        match self {
            Self::Tool(text)
            | Self::Prompt(text)
            | Self::Resource(text)
            | Self::CompletePrompt(text)
            | Self::CompleteResource(text) => Some(text),
            Self::None | Self::Listen(_) | Self::Task(_) => None,
        }
    }
}

impl Object {
    /// The same, to be told of by another name.
    pub fn text_mut(&mut self) -> Option<&mut Text> {
        match self {
            Self::Tool(text)
            | Self::Prompt(text)
            | Self::Resource(text)
            | Self::CompletePrompt(text)
            | Self::CompleteResource(text) => Some(text),
            Self::None | Self::Listen(_) | Self::Task(_) => None,
        }
    }
}

/// Which era a message belongs to. It is decided by what the message says, never by what the server behind speaks.
enum Spoken {
    Modern,
    Legacy(Revision),
}

/// What is being read.
struct Message<'a> {
    given: &'a Given<'a>,
    body: &'a [u8],
    envelope: &'a Envelope,
    at: &'a Places,
}

/// The members that this room goes by.
#[derive(Default)]
struct Places {
    // Of `params`.
    meta: Option<Member>,
    name: Option<Member>,
    uri: Option<Member>,
    arguments: Option<Member>,
    reference: Option<Member>,
    notifications: Option<Member>,
    protocol_version: Option<Member>,
    task_id: Option<Member>,
    returned: Returned,
    // Of its `_meta`.
    said: Option<Member>,
    capabilities: Option<Member>,
    task: Option<Member>,
    progress_token: Option<Member>,
    traceparent: Option<Member>,
    tracestate: Option<Member>,
    baggage: Option<Member>,
    log_level: Option<Member>,
}

impl Places {
    /// All of them in one pass. A result or error has none: what a client puts there is for a server.
    fn find(&mut self, body: &[u8], envelope: &Envelope) {
        if !matches!(envelope.shape, Shape::Request | Shape::Notification) {
            return;
        }
        // The scanner refuses every escape in these names but `\/`, and a slash is in none of the first kind.
        for member in envelope.body_members() {
            let place = match member.key.of(body) {
                b"_meta" => &mut self.meta,
                b"name" => &mut self.name,
                b"uri" => &mut self.uri,
                b"arguments" => &mut self.arguments,
                b"ref" => &mut self.reference,
                b"notifications" => &mut self.notifications,
                b"protocolVersion" => &mut self.protocol_version,
                b"taskId" => &mut self.task_id,
                b"inputResponses" => &mut self.returned.responses,
                b"requestState" => &mut self.returned.state,
                _ => continue,
            };
            *place = Some(*member);
        }
        for member in envelope.meta_members() {
            let key = member.key.of(body);
            if let Some(place) = self.of_meta(key) {
                *place = Some(*member);
            } else if text::has_escape(key) {
                self.find_escaped(key, *member);
            }
        }
    }

    /// The place of a member of `_meta`, by its name without escapes.
    #[inline]
    fn of_meta(&mut self, key: &[u8]) -> Option<&mut Option<Member>> {
        Some(match key {
            PROTOCOL_VERSION_KEY => &mut self.said,
            CLIENT_CAPABILITIES_KEY => &mut self.capabilities,
            TASK_KEY => &mut self.task,
            LOG_LEVEL_KEY => &mut self.log_level,
            b"progressToken" => &mut self.progress_token,
            b"traceparent" => &mut self.traceparent,
            b"tracestate" => &mut self.tracestate,
            b"baggage" => &mut self.baggage,
            _ => return None,
        })
    }

    #[cold]
    fn find_escaped(&mut self, key: &[u8], member: Member) {
        let mut scratch = Vec::new();
        if let Some(place) = text::unescape(key, &mut scratch).ok().and_then(|key| self.of_meta(key.as_bytes())) {
            *place = Some(member);
        }
    }
}

impl Message<'_> {
    /// The table "era of an incoming POST" of a dual-era endpoint. A session id alone makes nothing legacy.
    fn spoken(&self) -> Result<Spoken, CallFault> {
        if self.at.said.is_some() {
            return Ok(Spoken::Modern);
        }
        if self.method() == b"initialize" {
            return self.negotiated().map(Spoken::Legacy);
        }
        let session = self.given.session_revision.filter(|revision| !revision.is_modern());
        let Some(version) = self.given.version else {
            return Ok(Spoken::Legacy(session.unwrap_or(Revision::UNSAID)));
        };
        match Revision::parse(version) {
            Some(revision) if revision.is_modern() => Ok(Spoken::Modern),
            // What was negotiated holds; there are clients that send one fixed version.
            Some(revision) => Ok(Spoken::Legacy(session.unwrap_or(revision))),
            None if self.given.session.is_some() => Err(CallFault::VersionUnknown),
            None => Err(CallFault::UnsupportedVersion),
        }
    }

    /// What an `initialize` settles on.
    fn negotiated(&self) -> Result<Revision, CallFault> {
        let asked = self.text(self.at.protocol_version);
        let asked = asked.ok_or(CallFault::ParamsInvalid(Era::Legacy, Param::ProtocolVersion))?;
        Ok(Revision::negotiate(asked.bytes(self.body)))
    }

    fn read_modern(&self) -> Result<Call, CallFault> {
        let request = match self.envelope.shape {
            Shape::Request => true,
            Shape::Notification => false,
            Shape::Result | Shape::Error => return Err(CallFault::ResponseRefused),
        };
        if request || self.at.said.is_some() {
            self.check_required_meta()?;
        }
        let revision = self.check_version(request)?;
        once(Header::Method, self.given.method_count)?;
        match self.given.method {
            Some(method) if method == self.method() => {}
            Some(_) => return Err(HeaderFault::Differs(Header::Method).into()),
            // The header rules name requests only.
            None if !request => {}
            None => return Err(HeaderFault::Missing(Header::Method).into()),
        }
        let row = find(self.method(), revision, Sender::Client);
        match row.filter(|_| request).and_then(Method::named_by) {
            Some("name") => self.check_name(self.at.name)?,
            Some("taskId") => self.check_name(self.at.task_id)?,
            Some(_) => self.check_name(self.at.uri)?,
            None => {}
        }
        self.read_method(revision, row)
    }

    fn read_legacy(&self, revision: Revision) -> Result<Call, CallFault> {
        if self.given.version_count > 1 || self.given.session_count > 1 {
            return Err(CallFault::Doubled);
        }
        if matches!(self.envelope.shape, Shape::Result | Shape::Error) {
            return Ok(Call {
                era: Era::Legacy,
                revision,
                shape: self.envelope.shape,
                id: self.envelope.id,
                method: None,
                subject: Object::None,
                meta: Meta::default(),
                arguments: None,
                returned: None,
            });
        }
        self.read_method(revision, find(self.method(), revision, Sender::Client))
    }

    /// The rest of a request or notification, once era and headers are settled.
    fn read_method(&self, revision: Revision, row: Option<&'static Method>) -> Result<Call, CallFault> {
        let era = revision.era();
        let Some(method) = row else {
            let clean = std::str::from_utf8(self.method()).is_ok_and(|method| !has_controls(method));
            return Err(if clean { CallFault::MethodUnknown(era) } else { CallFault::NameInvalid });
        };
        match (self.envelope.shape, method.form) {
            (Shape::Request, Form::Notification) => return Err(CallFault::MethodUnknown(era)),
            (Shape::Notification, Form::Request) => return Err(CallFault::FormMismatch(era)),
            _ => {}
        }
        Ok(Call {
            era,
            revision,
            shape: self.envelope.shape,
            id: self.envelope.id,
            method: Some(method),
            subject: self.subject(era, method.subject)?,
            meta: self.meta(era)?,
            arguments: self.arguments(era, method.subject)?,
            returned: self.returned(era),
        })
    }

    /// MCP 2026-07-28 basic, "Request metadata".
    fn check_required_meta(&self) -> Result<(), CallFault> {
        let is = |member: Option<Member>, kind| member.is_some_and(|member| member.kind == kind);
        for (member, kind, key) in [
            (self.at.meta, Kind::Object, MetaKey::Meta),
            (self.at.said, Kind::String, MetaKey::ProtocolVersion),
            (self.at.capabilities, Kind::Object, MetaKey::ClientCapabilities),
        ] {
            if !is(member, kind) {
                return Err(CallFault::MetaMissing(key));
            }
        }
        Ok(())
    }

    /// The version of header and body, once they are known to agree and to be modern.
    fn check_version(&self, request: bool) -> Result<Revision, CallFault> {
        once(Header::Version, self.given.version_count)?;
        let said = self.text(self.at.said);
        let said = said.as_ref().map(|said| said.bytes(self.body));
        let version = match (self.given.version, said) {
            (None, _) if request => return Err(HeaderFault::Missing(Header::Version).into()),
            (Some(header), Some(said)) if header != said => {
                return Err(HeaderFault::Differs(Header::Version).into());
            }
            (Some(version), _) | (None, Some(version)) => version,
            (None, None) => return Err(CallFault::UnsupportedVersion),
        };
        Revision::parse(version).filter(|revision| revision.is_modern()).ok_or(CallFault::UnsupportedVersion)
    }

    /// `Mcp-Name` against the member of `params` that it repeats. Where neither is there, the parameters are at fault,
    /// not the header.
    fn check_name(&self, named: Option<Member>) -> Result<(), CallFault> {
        once(Header::Name, self.given.name_count)?;
        let named = self.text(named);
        let Some(header) = self.given.name else {
            return if named.is_some() { Err(HeaderFault::Missing(Header::Name).into()) } else { Ok(()) };
        };
        let mut scratch = Vec::new();
        let header = decode_value(Header::Name, header, &mut scratch)?;
        if named.is_some_and(|named| named.bytes(self.body) == header) {
            Ok(())
        } else {
            Err(HeaderFault::Differs(Header::Name).into())
        }
    }

    fn subject(&self, era: Era, subject: Subject) -> Result<Object, CallFault> {
        let named = CallFault::ParamsInvalid(era, Param::Name);
        Ok(match subject {
            Subject::None => Object::None,
            Subject::Tool => Object::Tool(self.named(self.at.name, named)?),
            Subject::Prompt => Object::Prompt(self.named(self.at.name, named)?),
            Subject::Resource | Subject::Subscribe => {
                Object::Resource(self.named(self.at.uri, CallFault::ParamsInvalid(era, Param::Uri))?)
            }
            Subject::Completion => self.completed(era)?,
            Subject::Listen => Object::Listen(Box::new(self.listen(era)?)),
            Subject::Task => {
                let text = self.named(self.at.task_id, CallFault::ParamsInvalid(era, Param::TaskId))?;
                Object::Task(Box::new(TaskName { text, opened: None }))
            }
        })
    }

    fn named(&self, member: Option<Member>, fault: CallFault) -> Result<Text, CallFault> {
        self.clean(self.text(member).ok_or(fault)?)
    }

    /// `ref` of `completion/complete`.
    fn completed(&self, era: Era) -> Result<Object, CallFault> {
        let fault = CallFault::ParamsInvalid(era, Param::Ref);
        let reference = self.at.reference.filter(|member| member.kind == Kind::Object).ok_or(fault)?;
        let (mut kind, mut name, mut uri) = (None, None, None);
        for (key, value) in walk::members(self.body, reference.value) {
            let slot = match self.known(key, &["type", "name", "uri"], fault)? {
                Some(0) => &mut kind,
                Some(1) => &mut name,
                Some(_) => &mut uri,
                None => continue,
            };
            *slot = Some(walk::string(self.body, value).and_then(|span| Text::read(self.body, span)).ok_or(fault)?);
        }
        match kind.ok_or(fault)?.of(self.body) {
            "ref/prompt" => self.clean(name.ok_or(fault)?).map(Object::CompletePrompt),
            "ref/resource" => self.clean(uri.ok_or(fault)?).map(Object::CompleteResource),
            _ => Err(fault),
        }
    }

    /// `notifications` of `subscriptions/listen`. A filter we do not know would ask the server for what no rule has
    /// looked at, so it is refused.
    fn listen(&self, era: Era) -> Result<Listen, CallFault> {
        let fault = CallFault::ParamsInvalid(era, Param::Notifications);
        let filters = self.at.notifications.filter(|member| member.kind == Kind::Object).ok_or(fault)?;
        let names =
            ["toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions", "taskIds"];
        let mut listen = Listen::default();
        for (key, value) in walk::members(self.body, filters.value) {
            let flag = match self.known(key, &names, fault)?.ok_or(fault)? {
                0 => &mut listen.tools,
                1 => &mut listen.prompts,
                2 => &mut listen.resources,
                3 => {
                    listen.uris = self.texts(value, LISTEN_URIS_MAX, fault)?;
                    (listen.uris_place, listen.uris_asked) = (Some(value), listen.uris.len());
                    continue;
                }
                _ => {
                    let tasks = self.texts(value, LISTEN_TASKS_MAX, fault)?;
                    listen.tasks = tasks.into_iter().map(|text| TaskName { text, opened: None }).collect();
                    listen.tasks_place = Some(value);
                    continue;
                }
            };
            *flag = match value.of(self.body) {
                b"true" => true,
                b"false" => false,
                _ => return Err(fault),
            };
        }
        Ok(listen)
    }

    /// An array of at most `max` strings.
    fn texts(&self, value: Span, max: usize, fault: CallFault) -> Result<Vec<Text>, CallFault> {
        if value.of(self.body).first() != Some(&b'[') {
            return Err(fault);
        }
        let mut texts = Vec::new();
        for element in walk::elements(self.body, value) {
            if texts.len() == max {
                return Err(fault);
            }
            let text = walk::string(self.body, element).and_then(|span| Text::read(self.body, span));
            texts.push(self.clean(text.ok_or(fault)?)?);
        }
        Ok(texts)
    }

    /// What `_meta` says to the gateway.
    fn meta(&self, era: Era) -> Result<Meta, CallFault> {
        let fault = CallFault::ParamsInvalid(era, Param::Meta);
        if self.at.meta.is_some_and(|member| member.kind != Kind::Object) {
            return Err(fault);
        }
        let token = self.at.progress_token.map(|member| self.token(member).ok_or(fault));
        let task = self.at.task.map(|member| self.text(Some(member)).ok_or(CallFault::TaskInvalid));
        let proper = |span: &Span| is_traceparent(span.of(self.body));
        let traceparent = self.at.traceparent.and_then(Member::text).filter(proper);
        let long = |member: Member| member.value.len() > TRACE_FIELD_BYTES_MAX;
        Ok(Meta {
            task: task.transpose()?,
            progress_token: token.transpose()?,
            traceparent_malformed: self.at.traceparent.is_some() && traceparent.is_none(),
            cuts: self.at.baggage.is_some() || self.at.tracestate.is_some_and(long),
            traceparent,
            tracestate: self.at.tracestate.and_then(Member::text),
            baggage: self.at.baggage.and_then(Member::text),
            capabilities: self.at.capabilities.filter(|_| era == Era::Modern).map(|member| member.value),
            log_level: self
                .at
                .log_level
                .filter(|_| era == Era::Modern)
                .map(|it| self.level(it).ok_or(fault))
                .transpose()?,
        })
    }

    fn level(&self, member: Member) -> Option<LogLevel> {
        LogLevel::parse(member.text()?.of(self.body))
    }

    /// A `progressToken`: a string or an integer.
    fn token(&self, member: Member) -> Option<Span> {
        let raw = member.value.of(self.body);
        let whole = !raw.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
        (member.kind == Kind::String || (member.kind == Kind::Number && whole)).then_some(member.value)
    }

    /// `params.arguments`; null is as good as none.
    fn arguments(&self, era: Era, subject: Subject) -> Result<Option<Span>, CallFault> {
        if !matches!(subject, Subject::Tool | Subject::Prompt) {
            return Ok(None);
        }
        match self.at.arguments {
            Some(Member { kind: Kind::Object, value, .. }) => Ok(Some(value)),
            None | Some(Member { kind: Kind::Null, .. }) => Ok(None),
            Some(_) => Err(CallFault::ParamsInvalid(era, Param::Arguments)),
        }
    }

    /// `params.inputResponses` and `params.requestState`, where one of them is there.
    fn returned(&self, era: Era) -> Option<Box<Returned>> {
        let any = self.at.returned.responses.is_some() || self.at.returned.state.is_some();
        (any && era == Era::Modern).then(|| Box::new(self.at.returned.clone()))
    }

    /// Which of `names` a member is called. Names that a careless parser could take for one of them are refused; so
    /// are escaped ones, since nobody has a reason to write them.
    fn known(&self, key: Span, names: &[&str], fault: CallFault) -> Result<Option<usize>, CallFault> {
        let key = key.of(self.body);
        if let Some(at) = names.iter().position(|name| name.as_bytes() == key) {
            return Ok(Some(at));
        }
        if text::has_escape(key) || !key.is_ascii() {
            return Err(fault);
        }
        let twin = names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(key));
        if twin { Err(CallFault::CaseTwin) } else { Ok(None) }
    }

    fn clean(&self, text: Text) -> Result<Text, CallFault> {
        // Of ASCII nothing has to be decoded.
        let is_plain = text.bytes(self.body).iter().all(|byte| (0x20..0x7f).contains(byte));
        if !is_plain && has_controls(text.of(self.body)) { Err(CallFault::NameInvalid) } else { Ok(text) }
    }

    fn text(&self, member: Option<Member>) -> Option<Text> {
        Text::read(self.body, member?.text()?)
    }

    fn method(&self) -> &[u8] {
        self.envelope.method_name(self.body).unwrap_or_default()
    }
}

/// Refuses a header that is there more than once: two parsers, two meanings.
fn once(header: Header, count: usize) -> Result<(), HeaderFault> {
    if count > 1 { Err(HeaderFault::Doubled(header)) } else { Ok(()) }
}

/// Whether a name holds NUL or another control character.
fn has_controls(name: &str) -> bool {
    name.bytes().any(|byte| byte.is_ascii_control()) || (!name.is_ascii() && name.chars().any(char::is_control))
}

/// `version "-" trace-id "-" parent-id "-" trace-flags` (W3C Trace Context section 3.2.2).
fn is_traceparent(value: &[u8]) -> bool {
    traceparent(value).is_some()
}

/// The three parts of a `traceparent` that say something: trace, span, flags. Every call with a context comes through
/// here, so it is one pass without a branch for each digit.
pub(crate) fn traceparent(value: &[u8]) -> Option<([u8; 16], [u8; 8], u8)> {
    let (head, more) = value.split_first_chunk::<55>()?;
    let mut bad = 0;
    let [version] = digits(&head[..2], &mut bad);
    let trace: [u8; 16] = digits(&head[3..35], &mut bad);
    let span: [u8; 8] = digits(&head[36..52], &mut bad);
    let [flags] = digits(&head[53..], &mut bad);
    let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let end = more.is_empty() || (version != 0 && more[0] == b'-');
    let proper = bad == 0 && dashes && version != 0xff && end && trace != [0; 16] && span != [0; 8];
    proper.then_some((trace, span, flags))
}

/// Two hexadecimal digits for each byte; `bad` is not zero any more where there is something else.
fn digits<const N: usize>(text: &[u8], bad: &mut u8) -> [u8; N] {
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        *bad |= (high | low) & 0xf0;
        *byte = high << 4 | low & 0x0f;
    }
    out
}

/// What a byte is as a digit, in lower case; 255 for what is none.
const DIGITS: [u8; 256] = {
    let mut table = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    table
};

/// `_meta` key: the revision a request speaks.
pub(crate) const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key: what the client can do.
pub(crate) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const PROTOCOL_VERSION_KEY: &[u8] = PROTOCOL_VERSION.as_bytes();
const CLIENT_CAPABILITIES_KEY: &[u8] = CLIENT_CAPABILITIES.as_bytes();
const LOG_LEVEL_KEY: &[u8] = LOG_LEVEL.as_bytes();
const TASK_KEY: &[u8] = TASK.as_bytes();
/// `_meta` key: the least severe log messages that are wanted.
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// `_meta` key: the task a call belongs to.
const TASK: &str = "portcullis/task";

#[cfg(test)]
mod tests;
