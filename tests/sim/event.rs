//! What can happen, and to whom. Numbers name things that may be gone by then: what is for nobody is dropped, as a packet is.

use portcullis::session::way::In;

/// A connection of a client.
pub(super) type ConnNo = u64;
/// One message's work at the gateway.
pub(super) type TaskNo = u64;
/// An answer of a server that is still coming, as its connection.
pub(super) type UpNo = u64;
/// A server's stream of events, whatever carries it.
pub(super) type FlowNo = u64;
/// A stream's log at the gateway.
pub(super) type OutletNo = u64;
/// What a call, a notification, or a server's question carries, and nothing else in the world.
pub(super) type Token = u64;

/// What is due.
#[derive(Debug)]
pub(super) enum Event {
    /// A client does something.
    Client(usize),
    /// A client answers what it was asked, and perhaps again.
    AnswerAsk { listener: usize, minted: u64, token: Token },
    /// A client comes back to a stream.
    Return { listener: usize },
    /// A connection's network breaks.
    Break(ConnNo),
    /// A request is read by a shard.
    Request(ConnNo),
    /// The gateway notices that a client has left.
    Gone(ConnNo),
    /// Something arrives at the client.
    Reply(ConnNo, Reply),
    /// Whether an ended session's end is safe is looked at.
    EndKept { conn: ConnNo, mark: u64 },
    /// A message's way goes on.
    Way(TaskNo, In),
    /// A handshake is read by a server; `life` of the gateway when it left.
    Handshake { task: TaskNo, server: usize, life: u32 },
    /// What came of it.
    Shaken { task: TaskNo, server: usize, opened: Option<Box<[u8]>>, declined: bool },
    /// A message is read by a server.
    Message { up: UpNo, server: usize, what: Message },
    /// A session's end is read by its server.
    Delete { server: usize, id: Box<[u8]> },
    /// A task has run for as long as it may.
    Timeout(TaskNo),
    /// A cancelled call had its time to end by itself.
    CancelCut(TaskNo),
    /// A server's stream goes on.
    Flow { server: usize, flow: FlowNo },
    /// A server does something by itself.
    Server(usize),
    /// Something of a server's answer is at the gateway.
    Word(UpNo, Word),
    /// A tap is written to.
    Tap { shard: usize, outlet: OutletNo, conn: ConnNo, life: u32 },
    /// A feeder tries again.
    Feed { shard: usize, outlet: OutletNo, server: usize, life: u32 },
    /// The gateway looks after what it has.
    Tick { life: u32 },
    /// The journal is taken.
    Journal { life: u32 },
    /// And is written.
    Written { life: u32 },
    /// The gateway dies, or stops in order, and starts again.
    Restart { killed: bool },
}

/// What is sent to a server.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A request: it is executed.
    Call { session: Box<[u8]>, token: Token, id: u64 },
    /// The client's level for logs.
    Level { session: Box<[u8]> },
    /// An answer to what the server asked under `raw`.
    Answer { session: Box<[u8]>, raw: Box<[u8]>, token: Token },
    /// A call is not wanted any more.
    Cancelled { session: Box<[u8]>, id: u64 },
    /// The session's own stream, or one that goes on behind an event.
    Get { session: Box<[u8]>, after: Option<(FlowNo, u64)> },
}

impl Message {
    /// The server's session it is sent in.
    pub(super) fn session(&self) -> &[u8] {
        match self {
            Self::Call { session, .. }
            | Self::Level { session, .. }
            | Self::Answer { session, .. }
            | Self::Cancelled { session, .. }
            | Self::Get { session, .. } => session,
        }
    }
}

/// What a server answers with, piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It does not know the session.
    Unknown,
    /// It has no such stream (405).
    NoStream,
    /// 202.
    Accepted,
    /// The answer, as JSON.
    Json(Token),
    /// The head of a stream of events.
    Begin,
    /// An event of a flow, with its place there.
    Event(FlowNo, u64, Happening),
    /// The stream ends as it should.
    End,
    /// The connection breaks.
    Cut,
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// A notification.
    Note(Token),
    /// The server asks the client, under an id of its own.
    Ask { raw: u64, token: Token },
    /// It no longer wants to know.
    Withdrawn { raw: u64 },
    /// The answer to the call whose stream it is.
    Answer(Token),
    /// Nothing: an id to come back with.
    Prime,
}

/// What a client gets.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// A session's id.
    Session(String),
    /// The answer to a call.
    Answer(Token),
    /// Done.
    Accepted,
    /// The session has ended.
    Ended,
    /// 404.
    Unknown,
    /// 401.
    TokenExpired,
    /// No room, or no such thing now.
    Refused,
    /// What is asked for cannot be told any more: a stream that is not kept.
    StreamGone,
    /// A JSON-RPC error: whether it was executed is not known.
    Fault,
    /// A JSON-RPC error: it was cancelled.
    Cancelled,
    /// The head of a stream.
    Stream,
    /// Some of a stream.
    Events(Vec<u8>),
    /// Its clean end.
    End,
}
