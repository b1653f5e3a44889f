//! What is counted: a call of the load generator's, room by room.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use portcullis::base::ids::{ServerId, ShardId, TaskId};
use portcullis::base::span::Span;
use portcullis::http::head::{Method, Progress, RequestHead, ResponseHead};
use portcullis::identity::active::{ActiveTask, TaskNames};
use portcullis::identity::cache::TokenCache;
use portcullis::identity::caller::Caller;
use portcullis::jsonrpc::{AnswerScan, Reader, Shape};
use portcullis::mcp::call::{self, Call, Given, Meta, Object, Text};
use portcullis::mcp::catalog::{Catalog, EraCatalog, Item, Listing, ServerCatalog};
use portcullis::mcp::revision::Revision;
use portcullis::policy::cond::{ClaimTypes, Condition, Purpose};
use portcullis::policy::decide::{Scene, decide};
use portcullis::policy::needs::NoPast;
use portcullis::policy::pattern::Pattern;
use portcullis::policy::rule::{Effect, PolicySet, Rule};
use portcullis::policy::table::Table;
use portcullis::record::frame::{Decision, Outcome, Status, TargetKind, Verdict};
use portcullis::record::{self, Writer};

/// One piece, ready to run.
pub(crate) enum Bench {
    RequestHead(Box<RequestHead>, Vec<u8>),
    AnswerHead(Box<ResponseHead>),
    Token(Box<TokenCache>, Vec<u8>),
    Call(Box<Reader>),
    Answer(Box<AnswerScan>, Vec<u8>),
    Decide(Box<Policy>, &'static str),
    Record(Box<Writer>, Box<record::Reader>),
}

/// Each piece: its name, what it is of, and how often it runs at least.
pub(crate) const PIECES: [(&str, &str); 9] = [
    ("request-head", "a request's head of 900 bytes, with a token"),
    ("answer-head", "an answer's head"),
    ("token", "a token seen before, of 640 bytes"),
    ("call", "a tools/call of 350 bytes, read to spans and checked"),
    ("answer", "an answer of 600 bytes that goes on as it came, skimmed"),
    ("answer-64k", "the same of 64 KiB"),
    ("decide", "a tool decided on, 100 rules"),
    ("decide-condition", "the same, with a condition on its arguments"),
    ("record", "a decision and its outcome, written and read back"),
];

const TOKEN_BYTES: usize = 640;
const NOW: u64 = 1_800_000_000;
const TOOLS: usize = 200;
const RULES: usize = 100;
const CONDITION: &str = "args.message.size() > 0 && !args.message.startsWith(\"x\")";
/// Records between two readings.
const ROUND: u32 = 64;

const BODY: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1000000007,"method":"tools/call","params":{"_meta":{"#,
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"bench","version":"0.1.0"}},"name":"echo","#,
    r#""arguments":{"message":"fedcba9876543210","note":"The quick brown fox jumps over the lazy "}}}"#
);
const ANSWER_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 600\r\n\r\n";

impl Bench {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "request-head" => Self::RequestHead(Box::new(RequestHead::new()), head()),
            "answer-head" => Self::AnswerHead(Box::new(ResponseHead::new())),
            "token" => {
                let mut cache = TokenCache::new(0x5EED);
                let token = token();
                cache.insert(&token, Caller::anonymous(), NOW);
                Self::Token(Box::new(cache), token)
            }
            "call" => Self::Call(Box::new(Reader::new(1))),
            "answer" => Self::Answer(Box::new(AnswerScan::new(1)), answer(600)),
            "answer-64k" => Self::Answer(Box::new(AnswerScan::new(1)), answer(64 << 10)),
            "decide" => Self::Decide(Box::new(Policy::new()), "tool-0005"),
            "decide-condition" => Self::Decide(Box::new(Policy::new()), "tool-0004"),
            "record" => {
                let (writer, reader) = record::ring(ShardId::from_index(0));
                Self::Record(Box::new(writer), Box::new(reader))
            }
            _ => return None,
        })
    }

    /// So often. Everything it does is checked, so that nobody counts a piece that refuses.
    pub(crate) fn run(&mut self, turns: u32) {
        for turn in 1..=turns {
            match self {
                Self::RequestHead(head, bytes) => {
                    assert_eq!(head.parse(black_box(bytes)), Ok(Progress::Complete));
                }
                Self::AnswerHead(head) => {
                    assert_eq!(head.parse(black_box(ANSWER_HEAD), Method::Post), Ok(Progress::Complete));
                }
                Self::Token(cache, token) => {
                    let found: Option<&Rc<Caller>> = cache.get(black_box(token), NOW);
                    assert!(found.is_some());
                }
                Self::Call(reader) => read_call(reader),
                Self::Answer(scan, bytes) => assert!(scan.skim(black_box(bytes)).is_ok()),
                Self::Decide(policy, tool) => policy.permits(tool),
                Self::Record(writer, reader) => {
                    write(writer);
                    if turn.is_multiple_of(ROUND) {
                        let mut frames = 0;
                        reader.drain(usize::MAX, |frame| {
                            black_box(frame);
                            frames += 1;
                        });
                        assert_eq!(frames, 2 * ROUND);
                    }
                }
            }
        }
    }
}

/// Rules as the load generator's, over one server.
pub(crate) struct Policy {
    table: Table,
    caller: Caller,
}

impl Policy {
    fn new() -> Self {
        let rule = |number: usize| {
            let tool = format!("canned/tool-{number:04}");
            let (effect, pattern, tasks) = match number % 5 {
                0 => (Effect::Permit, tool, Vec::new()),
                1 => (Effect::Forbid, format!("*/tool-{:04}", number + 100), Vec::new()),
                2 => (Effect::Permit, format!("canned/tool-0{}*", number % 2), vec![TaskId(1)]),
                3 => (Effect::Permit, tool, vec![TaskId(0)]),
                _ => (Effect::Permit, tool, vec![TaskId(0), TaskId(1)]),
            };
            let when = Condition::parse(CONDITION, Purpose::When, &ClaimTypes::default()).expect("written above");
            Rule {
                id: Arc::from(format!("rule-{number:04}")),
                effect,
                patterns: vec![Pattern::parse(&pattern).expect("written above")],
                tasks,
                when: (number % 10 == 4).then(|| Arc::new(when)),
                ..Rule::default()
            }
        };
        let tasks = TaskNames::new(["load", "review"]);
        let set = Arc::new(PolicySet::new(tasks, (0..RULES).map(rule).collect()));
        let (table, _) = Table::compile(&set, &[Arc::from("canned")], &catalog());
        Self { table, caller: Caller { tasks: [TaskId(0)].into_iter().collect(), ..Caller::anonymous() } }
    }

    fn permits(&self, tool: &str) {
        let arguments = BODY.find("{\"message\"").unwrap_or(0);
        let call = Call {
            era: Revision::NEWEST.era(),
            revision: Revision::NEWEST,
            shape: Shape::Request,
            id: None,
            method: None,
            subject: Object::Tool(Text { span: Span::new(0, tool.len()), unescaped: None }),
            meta: Meta::default(),
            arguments: Some(Span::new(arguments, BODY.len() - 2)),
            returned: None,
        };
        let scene = Scene {
            body: BODY.as_bytes(),
            unix_ms: 0,
            session: None,
            address: None,
            endpoint: "/mcp",
            method: "tools/call",
            past: &NoPast,
        };
        let task = ActiveTask::One(TaskId(0));
        let decided = decide(&self.table, &self.caller, task, ServerId(0), black_box(call), black_box(tool), &scene);
        assert!(decided.is_ok());
    }
}

fn read_call(reader: &mut Reader) {
    let given = Given {
        version: Some(b"2026-07-28"),
        version_count: 1,
        method: Some(b"tools/call"),
        method_count: 1,
        name: Some(b"echo"),
        name_count: 1,
        ..Given::default()
    };
    let body = black_box(BODY.as_bytes());
    let envelope = reader.read(body).expect("a sound request");
    assert!(call::read(&given, body, envelope).is_ok());
}

fn write(writer: &Writer) {
    let decision = Decision {
        unix_ms: NOW * 1000,
        issuer: "https://issuer.example",
        subject: "alice",
        agent: "agent-7",
        task: "load",
        method: "tools/call",
        server: "canned",
        target: "echo",
        kind: TargetKind::Tool,
        verdict: Verdict::Permit,
        reason: "permitted",
        rules: &["load-may-echo"],
        protocol: "2026-07-28",
        ..Decision::default()
    };
    let outcome = Outcome {
        unix_ms: NOW * 1000,
        status: Status::Ok,
        http: 200,
        is_error: false,
        code: 0,
        total_us: 250,
        upstream_us: 200,
        request_bytes: 350,
        answer_bytes: 600,
    };
    let seq = writer.refused(black_box(&decision)).expect("there is room");
    writer.ended(seq, black_box(&outcome));
}

fn catalog() -> Catalog {
    let items = (0..TOOLS).map(|number| Item::named(&format!("tool-{number:04}"))).collect();
    let tools = Listing { items, ..Listing::default() };
    let era = EraCatalog {
        events: false,
        protocol: Revision::NEWEST,
        capabilities: Default::default(),
        server_info: None,
        instructions: None,
        lists: [Some(tools), None, None, None],
    };
    Catalog::build(vec![Some(ServerCatalog { modern: Some(era), ..ServerCatalog::default() })])
}

fn head() -> Vec<u8> {
    let token = String::from_utf8(token()).expect("letters");
    let head = format!(
        "POST /s/canned/mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: application/json, text/event-stream\r\nAuthorization: Bearer {token}\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\nContent-Type: application/json\r\nContent-Length: 350\r\n\r\n"
    );
    head.into_bytes()
}

fn token() -> Vec<u8> {
    b"eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.".iter().copied().cycle().take(TOKEN_BYTES).collect()
}

fn answer(bytes: usize) -> Vec<u8> {
    let (open, close) = (
        r#"{"jsonrpc":"2.0","id":1000000007,"result":{"content":[{"type":"text","text":"fedcba9876543210; "#,
        r#""}],"resultType":"complete"}}"#,
    );
    let text = "The quick brown fox jumps over the lazy dog; ";
    let padding: String = text.chars().cycle().take(bytes - open.len() - close.len()).collect();
    format!("{open}{padding}{close}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_does_what_it_is_counted_for() {
        for (name, _) in PIECES {
            Bench::named(name).expect("it is in the table").run(2 * ROUND);
        }
        assert!(Bench::named("nothing").is_none());
    }
}
