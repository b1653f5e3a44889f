//! The table of methods: who sends them, which revisions serve them, what policy looks at, and how they are answered.

use crate::mcp::catalog::ListKind;
use crate::mcp::catalog::ListKind::{Prompts, Resources, Templates, Tools};
use crate::mcp::input::Ask;
use crate::mcp::revision::Revision;
use crate::mcp::revision::Revision::{R2024_11_05, R2025_06_18, R2025_11_25, R2026_07_28};

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// The word to match on.
    pub verb: Verb,
    /// Its name on the wire, compared byte for byte.
    pub wire: &'static str,
    /// The first revision that serves it.
    pub from: Revision,
    /// The last revision that serves it.
    pub until: Revision,
    /// Request or notification.
    pub form: Form,
    /// Who may send it.
    pub sender: Sender,
    /// What policy looks at.
    pub subject: Subject,
    /// How it is answered.
    pub answer: Answer,
    /// The list it asks for.
    pub list: Option<ListKind>,
}

/// A method as a word of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is its wire name; the table is the documentation")]
pub enum Verb {
    Initialize,
    Ping,
    Discover,
    ToolsList,
    ToolsCall,
    PromptsList,
    PromptsGet,
    ResourcesList,
    TemplatesList,
    ResourcesRead,
    ResourcesSubscribe,
    ResourcesUnsubscribe,
    Complete,
    SetLevel,
    Listen,
    TasksGet,
    TasksUpdate,
    TasksCancel,
    SamplingCreate,
    RootsList,
    ElicitationCreate,
    Initialized,
    Cancelled,
    Progress,
    Message,
    RootsChanged,
    ToolsChanged,
    PromptsChanged,
    ResourcesChanged,
    ResourceUpdated,
    ElicitationComplete,
    Acknowledged,
    TaskChanged,
}

/// Whether an answer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Carries an id and is answered.
    Request,
    /// Carries none and is not.
    Notification,
}

/// Which side sends a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Client to server.
    Client,
    /// Server to client.
    Server,
    /// Either.
    Both,
}

/// What of a call policy decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nothing: no rule is needed.
    None,
    /// The tool named by `params.name`.
    Tool,
    /// The prompt named by `params.name`.
    Prompt,
    /// The resource of `params.uri`.
    Resource,
    /// What `params.ref` names; follows the listing of it.
    Completion,
    /// The resource of `params.uri`; follows reading.
    Subscribe,
    /// The resources of `params.notifications.resourceSubscriptions`; follows reading.
    Listen,
    /// The MCP task of `params.taskId`: it is its creator's, and needs no rule.
    Task,
}

/// The kind of answer a method has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// None: a notification.
    None,
    /// One message.
    Single,
    /// One message, perhaps after others on an event stream.
    MayStream,
    /// An event stream that lives until one side ends it.
    LongLived,
}

/// Every method there is, with the first and the last revision that serve it. A name has a second row where a revision
/// changed who sends it. Of tasks the modern extension (`io.modelcontextprotocol/tasks`) is served, the experiment of
/// 2025-11-25 is not. What a modern server asks of its client (sampling, elicitation, roots) is no message of its own
/// but stands in an `input_required` result. The first rows are found first.
#[rustfmt::skip]
pub const METHODS: &[Method] = &[
    request(     "tools/call",                               Verb::ToolsCall,            R2024_11_05, R2026_07_28, Sender::Client, Subject::Tool,       Answer::MayStream),
    list(        "tools/list",                               Verb::ToolsList,            R2024_11_05, R2026_07_28, Tools),
    request(     "initialize",                               Verb::Initialize,           R2024_11_05, R2025_11_25, Sender::Client, Subject::None,       Answer::Single),
    request(     "ping",                                     Verb::Ping,                 R2024_11_05, R2025_11_25, Sender::Both,   Subject::None,       Answer::Single),
    request(     "server/discover",                          Verb::Discover,             R2026_07_28, R2026_07_28, Sender::Client, Subject::None,       Answer::Single),
    list(        "prompts/list",                             Verb::PromptsList,          R2024_11_05, R2026_07_28, Prompts),
    request(     "prompts/get",                              Verb::PromptsGet,           R2024_11_05, R2026_07_28, Sender::Client, Subject::Prompt,     Answer::MayStream),
    list(        "resources/list",                           Verb::ResourcesList,        R2024_11_05, R2026_07_28, Resources),
    list(        "resources/templates/list",                 Verb::TemplatesList,        R2024_11_05, R2026_07_28, Templates),
    request(     "resources/read",                           Verb::ResourcesRead,        R2024_11_05, R2026_07_28, Sender::Client, Subject::Resource,   Answer::MayStream),
    request(     "resources/subscribe",                      Verb::ResourcesSubscribe,   R2024_11_05, R2025_11_25, Sender::Client, Subject::Subscribe,  Answer::Single),
    request(     "resources/unsubscribe",                    Verb::ResourcesUnsubscribe, R2024_11_05, R2025_11_25, Sender::Client, Subject::Subscribe,  Answer::Single),
    request(     "completion/complete",                      Verb::Complete,             R2024_11_05, R2026_07_28, Sender::Client, Subject::Completion, Answer::Single),
    request(     "logging/setLevel",                         Verb::SetLevel,             R2024_11_05, R2025_11_25, Sender::Client, Subject::None,       Answer::Single),
    request(     "subscriptions/listen",                     Verb::Listen,               R2026_07_28, R2026_07_28, Sender::Client, Subject::Listen,     Answer::LongLived),
    request(     "tasks/get",                                Verb::TasksGet,             R2026_07_28, R2026_07_28, Sender::Client, Subject::Task,       Answer::Single),
    request(     "tasks/update",                             Verb::TasksUpdate,          R2026_07_28, R2026_07_28, Sender::Client, Subject::Task,       Answer::Single),
    request(     "tasks/cancel",                             Verb::TasksCancel,          R2026_07_28, R2026_07_28, Sender::Client, Subject::Task,       Answer::Single),
    request(     "sampling/createMessage",                   Verb::SamplingCreate,       R2024_11_05, R2025_11_25, Sender::Server, Subject::None,       Answer::Single),
    request(     "roots/list",                               Verb::RootsList,            R2024_11_05, R2025_11_25, Sender::Server, Subject::None,       Answer::Single),
    request(     "elicitation/create",                       Verb::ElicitationCreate,    R2025_06_18, R2025_11_25, Sender::Server, Subject::None,       Answer::Single),
    notification("notifications/initialized",                Verb::Initialized,          R2024_11_05, R2025_11_25, Sender::Client),
    notification("notifications/cancelled",                  Verb::Cancelled,            R2024_11_05, R2026_07_28, Sender::Both),
    notification("notifications/progress",                   Verb::Progress,             R2024_11_05, R2025_11_25, Sender::Both),
    notification("notifications/progress",                   Verb::Progress,             R2026_07_28, R2026_07_28, Sender::Server),
    notification("notifications/message",                    Verb::Message,              R2024_11_05, R2026_07_28, Sender::Server),
    notification("notifications/roots/list_changed",         Verb::RootsChanged,         R2024_11_05, R2025_11_25, Sender::Client),
    notification("notifications/tools/list_changed",         Verb::ToolsChanged,         R2024_11_05, R2026_07_28, Sender::Server),
    notification("notifications/prompts/list_changed",       Verb::PromptsChanged,       R2024_11_05, R2026_07_28, Sender::Server),
    notification("notifications/resources/list_changed",     Verb::ResourcesChanged,     R2024_11_05, R2026_07_28, Sender::Server),
    notification("notifications/resources/updated",          Verb::ResourceUpdated,      R2024_11_05, R2026_07_28, Sender::Server),
    notification("notifications/elicitation/complete",       Verb::ElicitationComplete,  R2025_11_25, R2025_11_25, Sender::Server),
    notification("notifications/subscriptions/acknowledged", Verb::Acknowledged,         R2026_07_28, R2026_07_28, Sender::Server),
    notification("notifications/tasks",                      Verb::TaskChanged,          R2026_07_28, R2026_07_28, Sender::Server),
];

/// The row of `wire` in `revision`, as sent by `sender`: `Client` or `Server`; rows of `Both` answer to either.
#[must_use]
pub fn find(wire: &[u8], revision: Revision, sender: Sender) -> Option<&'static Method> {
    METHODS.iter().find(|method| {
        method.wire.len() == wire.len()
            && method.wire.as_bytes() == wire
            && method.from <= revision
            && revision <= method.until
            && (method.sender == sender || method.sender == Sender::Both)
    })
}

impl Method {
    /// Whether a server says with it that one of its lists changed.
    #[must_use]
    pub fn announces_change(&self) -> bool {
        matches!(self.verb, Verb::ToolsChanged | Verb::PromptsChanged | Verb::ResourcesChanged)
    }

    /// Whether it may stand in a batch: what comes before the handshake cannot, for there is nothing to send along with
    /// it (2025-03-26 basic/lifecycle).
    #[must_use]
    pub fn batchable(&self) -> bool {
        self.verb != Verb::Initialize
    }

    /// What a server asks of the client with it: sampling, elicitation, roots.
    #[must_use]
    pub fn ask(&self) -> Option<Ask> {
        match self.verb {
            Verb::SamplingCreate => Some(Ask::Sampling),
            Verb::ElicitationCreate => Some(Ask::Elicitation),
            Verb::RootsList => Some(Ask::Roots),
            _ => None,
        }
    }

    /// The member of `params` that `Mcp-Name` repeats in the modern era, for the methods that need that header.
    #[must_use]
    pub fn named_by(&self) -> Option<&'static str> {
        match self.verb {
            Verb::ToolsCall | Verb::PromptsGet => Some("name"),
            Verb::ResourcesRead => Some("uri"),
            Verb::TasksGet | Verb::TasksUpdate | Verb::TasksCancel => Some("taskId"),
            _ => None,
        }
    }
}

const fn request(
    wire: &'static str,
    verb: Verb,
    from: Revision,
    until: Revision,
    sender: Sender,
    subject: Subject,
    answer: Answer,
) -> Method {
    Method { verb, wire, from, until, form: Form::Request, sender, subject, answer, list: None }
}

const fn list(wire: &'static str, verb: Verb, from: Revision, until: Revision, kind: ListKind) -> Method {
    let mut row = request(wire, verb, from, until, Sender::Client, Subject::None, Answer::Single);
    row.list = Some(kind);
    row
}

const fn notification(wire: &'static str, verb: Verb, from: Revision, until: Revision, sender: Sender) -> Method {
    let mut row = request(wire, verb, from, until, sender, Subject::None, Answer::None);
    row.form = Form::Notification;
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGACY: [Revision; 4] = [R2024_11_05, Revision::R2025_03_26, R2025_06_18, R2025_11_25];

    /// The revisions whose table has the method, for one sender.
    fn check(wire: &str, sender: Sender, want: &[Revision]) {
        let got: Vec<Revision> =
            Revision::ALL.into_iter().filter(|revision| find(wire.as_bytes(), *revision, sender).is_some()).collect();
        assert_eq!(got, want, "{wire} from {sender:?}");
    }

    #[test]
    fn revisions_serve_what_their_schemas_define() {
        for wire in [
            "initialize",
            "notifications/initialized",
            "ping",
            "logging/setLevel",
            "resources/subscribe",
            "resources/unsubscribe",
            "notifications/roots/list_changed",
            "notifications/progress",
        ] {
            check(wire, Sender::Client, &LEGACY);
        }
        for wire in [
            "tools/list",
            "tools/call",
            "prompts/list",
            "prompts/get",
            "resources/list",
            "resources/templates/list",
            "resources/read",
            "completion/complete",
            "notifications/cancelled",
        ] {
            check(wire, Sender::Client, &Revision::ALL);
        }
        for wire in ["server/discover", "subscriptions/listen", "tasks/get", "tasks/update", "tasks/cancel"] {
            check(wire, Sender::Client, &[R2026_07_28]);
            check(wire, Sender::Server, &[]);
        }
        for wire in
            ["tasks/result", "tasks/list", "notifications/tasks", "TOOLS/CALL", "tools/call ", "", "rpc.discover"]
        {
            check(wire, Sender::Client, &[]);
        }
    }

    #[test]
    fn servers_send_what_their_schemas_define() {
        check("ping", Sender::Server, &LEGACY);
        check("sampling/createMessage", Sender::Server, &LEGACY);
        check("roots/list", Sender::Server, &LEGACY);
        check("elicitation/create", Sender::Server, &[R2025_06_18, R2025_11_25]);
        check("notifications/elicitation/complete", Sender::Server, &[R2025_11_25]);
        check("notifications/subscriptions/acknowledged", Sender::Server, &[R2026_07_28]);
        check("notifications/tasks", Sender::Server, &[R2026_07_28]);
        check("notifications/tasks/status", Sender::Server, &[]);
        for wire in [
            "notifications/cancelled",
            "notifications/progress",
            "notifications/message",
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed",
            "notifications/resources/updated",
        ] {
            check(wire, Sender::Server, &Revision::ALL);
        }
        check("tools/call", Sender::Server, &[]);
        check("sampling/createMessage", Sender::Client, &[]);
        check("notifications/message", Sender::Client, &[]);
    }

    #[test]
    fn rows_hang_together() {
        for method in METHODS {
            assert!(method.from <= method.until, "{}", method.wire);
            assert!(method.until.is_modern() || method.until == Revision::NEWEST_LEGACY, "{}", method.wire);
            let notifies = method.wire.starts_with("notifications/");
            assert_eq!(method.form == Form::Notification, notifies, "{}", method.wire);
            assert_eq!(method.answer == Answer::None, notifies, "{}", method.wire);
            assert_eq!(method.list.is_some(), method.wire.ends_with("/list") && method.wire != "roots/list");
            let rows = METHODS
                .iter()
                .filter(|row| row.wire == method.wire && row.from <= method.until && method.from <= row.until);
            assert_eq!(rows.count(), 1, "{}: one row per revision", method.wire);
        }
        for ask in Ask::ALL {
            let row = find(ask.wire().as_bytes(), R2025_11_25, Sender::Server).unwrap();
            assert_eq!(row.ask(), Some(ask));
        }
    }
}
