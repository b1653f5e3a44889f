//! Questions to an agent's own user (`ask: elicit`): put as a result that asks for input, answered by the same call again
//! with a state that was sealed here (MCP 2026-07-28 basic/patterns/mrtr). A server that asks for input itself does so
//! behind that: what its client brings back for it waits inside of our state meanwhile. A legacy client is sent a request
//! in front of the refusal, on the stream that answers the call (MCP 2025-06-18 client/elicitation); its session's
//! answer is the decision, and the same call again is decided anew.

use ::ring::rand::SecureRandom as _;
use serde_json::{Value, json};
use smallvec::SmallVec;

use crate::base::limits::ASK_MS_MAX;
use crate::base::span::Span;
use crate::jsonrpc::scan::{Member, Shape};
use crate::jsonrpc::text;
use crate::ledger::asks::Put;
use crate::mcp::call::{Call, Returned};
use crate::mcp::input;
use crate::mcp::method::Verb;
use crate::mcp::optin::Declared;
use crate::mcp::profile::Capabilities;
use crate::mcp::revision::Era;
use crate::policy::approval::{ApprovalId, ApprovalKey, Decision};
use crate::policy::rule::AskWhom;
use crate::session::question::{self, Question};

use super::judge::Judge;
use super::refusal::{Kind, Refusal};
use super::tally::Count;
use super::words;

/// What a client brings back for the gateway.
#[derive(Debug)]
pub(super) struct Reply {
    question: Question,
    /// What its user says; `None` where that cannot be told.
    yes: Option<bool>,
}

impl Reply {
    /// What of it stays here, and what of its server's own takes its place: edits of the body, in rising order.
    pub(super) fn edits(&self, returned: &Returned, text: &[u8]) -> SmallVec<[(Span, Vec<u8>); 2]> {
        let whole = |member: &Member| Span::new(member.key.start as usize - 1, member.value.end as usize);
        let (state, responses) = (returned.state.as_ref().map(whole), returned.responses.as_ref().map(whole));
        let kept = state.filter(|_| !self.question.rest.is_empty());
        let gone = [state.filter(|_| kept.is_none()), responses];
        let mut edits: SmallVec<[(Span, Vec<u8>); 2]> =
            without(text, gone).into_iter().map(|place| (place, Vec::new())).collect();
        edits.extend(kept.map(|place| (place, self.question.rest.to_vec())));
        edits.sort_unstable_by_key(|(place, _)| place.start);
        edits
    }
}

impl Judge<'_> {
    /// What a call brings back that was asked here, opened; `None` for what is its server's.
    ///
    /// # Errors
    /// A state that says it is ours, and was never given to this caller.
    pub(super) fn answer(&self, call: &Call) -> Result<Option<Box<Reply>>, Refusal> {
        let Some(returned) = &call.returned else { return Ok(None) };
        let mut scratch = Vec::new();
        let state = returned.state.and_then(Member::text);
        let state = state.and_then(|state| text::unescape(state.of(self.text), &mut scratch).ok());
        let Some(state) = state.filter(|state| question::is_ours(state)) else { return Ok(None) };
        let opened = question::open(&self.shard.sealing, state).ok();
        let Some(question) = opened.filter(|question| question.owner == self.flight.caller.owner) else {
            // One answer for every cause.
            return Err(self.refused(call, &[], Kind::ParamsInvalid).saying(FOREIGN));
        };
        let responses = returned.responses.map(|responses| responses.value.of(self.text));
        let yes = responses.and_then(|responses| input::decision(responses, ENTRY, APPROVE));
        Ok(Some(Box::new(Reply { question, yes })))
    }

    /// Why this caller's own user cannot be asked about a call; `None` where they can.
    pub(super) fn unaskable(&self, call: &Call) -> Option<&'static str> {
        let verb = call.method.map(|method| method.verb);
        let declared = call.meta.capabilities.map(|span| Declared::read(span.of(self.text))).unwrap_or_default();
        let session = self.flight.session.as_ref().filter(|_| call.era == Era::Legacy);
        // Over HTTP+SSE a session has its id, and the revision in it, before its client says anything of itself.
        let old = session.is_none_or(|session| !session.revision.has_elicitation());
        let forms = match session {
            Some(session) => Capabilities(session.capabilities).has_forms(),
            None => declared.has(Declared::FORM),
        };
        if call.era == Era::Legacy && old {
            Some(TOO_OLD)
        } else if !matches!(verb, Some(Verb::ToolsCall | Verb::PromptsGet | Verb::ResourcesRead)) {
            Some("nobody can be asked about a request of this kind")
        } else if !forms {
            Some("its client cannot ask its user: it does not declare the capability 'elicitation'")
        } else {
            None
        }
    }

    /// The request to a legacy client that asks its user: to go in front of the answer to the call it is about, on the
    /// same stream (MCP 2025-06-18 basic/transports).
    pub(super) fn request(&self, approval: ApprovalId, until_unix_ms: u64, message: &str) -> Request {
        let Some(session) = &self.flight.session else { return Request::Full };
        let (shard, now) = (self.shard, self.shard.timers.now());
        // One that was lost on its way is asked anew some time.
        let wait_ms = until_unix_ms.saturating_sub(now.unix_ms).min(ASK_MS_MAX);
        let (minted, until) = (shard.feeds.mint(shard.id), now.mono.plus_ms(wait_ms));
        match shard.control.asks.put_own(session.nonce16, minted, approval, now.mono, until) {
            Put::Known => Request::Known,
            Put::Full => {
                shard.count(Count::AsksFull);
                Request::Full
            }
            Put::New => {
                let params = json!({ "message": message, "requestedSchema": schema() });
                let request =
                    json!({ "jsonrpc": "2.0", "id": minted, "method": "elicitation/create", "params": params });
                Request::New(request.to_string().into())
            }
        }
    }

    /// Whether a message answers such a request; then what the user says is a decision, for the same call again. What
    /// says nothing, or comes too late, decides nothing: the call is asked about anew.
    pub(super) fn answered(&self, call: &Call) -> bool {
        let (Shape::Result | Shape::Error, Some(session), Some(id)) = (call.shape, &self.flight.session, call.id)
        else {
            return false;
        };
        let minted = std::str::from_utf8(id.raw(self.text)).ok().and_then(|id| id.parse().ok());
        let now = self.shard.timers.now();
        let asks = &self.shard.control.asks;
        let Some(approval) = minted.and_then(|minted| asks.take_own(session.nonce16, minted, now.mono)) else {
            return false;
        };
        if let Some(yes) = input::answered(self.text, APPROVE) {
            let decision = Decision { yes, by: "user".into(), note: None, at_unix_ms: now.unix_ms };
            // Where it does not hold, the book says how the call stands when it comes again.
            let _ = self.shard.control.approvals.decide(approval, decision, AskWhom::Elicit, now);
        }
        true
    }

    /// What the user said to exactly this call, where they said something that is still waited for, becomes a decision.
    /// One that comes too late, or a second time, decides nothing: the call is asked about anew.
    pub(super) fn heed(&self, key: &ApprovalKey) {
        let now = self.shard.timers.now();
        let Some(answer) = &self.flight.answer else { return };
        let Question { approval, until_unix_ms, .. } = answer.question;
        let Some(yes) = answer.yes.filter(|_| answer.question.key == *key && until_unix_ms > now.unix_ms) else {
            return;
        };
        let decision = Decision { yes, by: "user".into(), note: None, at_unix_ms: now.unix_ms };
        // Where it does not hold, the book says next how the call stands.
        let _ = self.shard.control.approvals.decide(approval, decision, AskWhom::Elicit, now);
    }

    /// What a call carries for its server, which our own state has to keep meanwhile: members of `params`.
    pub(super) fn rest(&self, call: &Call) -> Box<[u8]> {
        if let Some(answer) = &self.flight.answer {
            return answer.question.rest.clone();
        }
        let Some(returned) = &call.returned else { return Box::default() };
        let mut rest = Vec::new();
        // Without our state, what answers us answers nobody.
        let ours = |responses: &Member| input::answers(responses.value.of(self.text), ENTRY);
        let responses = returned.responses.filter(|responses| !ours(responses));
        for member in [returned.state, responses].into_iter().flatten() {
            if !rest.is_empty() {
                rest.push(b',');
            }
            rest.extend_from_slice(Span::new(member.key.start as usize - 1, member.value.end as usize).of(self.text));
        }
        rest.into()
    }

    /// The result that asks, JSON text. `None` where its state cannot be sealed.
    pub(super) fn question(&self, asked: Elicited<'_>) -> Option<String> {
        let question = Question {
            owner: self.flight.caller.owner,
            approval: asked.approval,
            key: *asked.key,
            until_unix_ms: asked.until_unix_ms,
            rest: asked.rest,
        };
        let mut nonce = [0; 12];
        self.shard.random.fill(&mut nonce).ok()?;
        let state = question::seal(self.shard.sealing.first()?, &question, nonce)?;
        let params = json!({ "mode": "form", "message": asked.message, "requestedSchema": schema() });
        let detail = words::refusal("approval", asked.reason, None, Some(&asked.approval.to_string()));
        let result = json!({
            "resultType": "input_required",
            "inputRequests": { ENTRY: { "method": "elicitation/create", "params": params } },
            "requestState": state,
            "_meta": detail,
        });
        Some(result.to_string())
    }
}

/// What is asked.
pub(super) struct Elicited<'a> {
    /// What the answer decides.
    pub(super) approval: ApprovalId,
    pub(super) key: &'a ApprovalKey,
    /// Milliseconds since 1970.
    pub(super) until_unix_ms: u64,
    /// For the user.
    pub(super) message: &'a str,
    /// The rule's sentence.
    pub(super) reason: Option<&'a str>,
    /// See [`Judge::rest`].
    pub(super) rest: Box<[u8]>,
}

/// What became of a question to a legacy client's user.
pub(super) enum Request {
    /// It is to be sent: one line of JSON.
    New(Box<str>),
    /// It was sent, and is not answered yet.
    Known,
    /// Too many are not.
    Full,
}

/// The form that is asked for.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { APPROVE: { "type": "boolean", "title": "Allow this one call", "default": false } },
        "required": [APPROVE],
    })
}

/// The places to leave out so that an object loses these members, each with one comma: in rising order, apart from each
/// other.
fn without(body: &[u8], members: [Option<Span>; 2]) -> SmallVec<[Span; 2]> {
    let mut members: SmallVec<[Span; 2]> = members.into_iter().flatten().collect();
    members.sort_unstable_by_key(|place| place.start);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    if let [first, second] = members[..] {
        let between = &body[first.end as usize..second.start as usize];
        if between.iter().all(|byte| blank(byte) || *byte == b',') {
            members = SmallVec::from_slice(&[Span { start: first.start, end: second.end }]);
        }
    }
    for place in &mut members {
        let after = body[place.end as usize..].iter().position(|byte| !blank(byte));
        let after = after.map(|blanks| place.end as usize + blanks).filter(|at| body[*at] == b',');
        let before = body[..place.start as usize].iter().rposition(|byte| !blank(byte)).filter(|at| body[*at] == b',');
        *place = match (after, before) {
            (Some(comma), _) => Span::new(place.start as usize, comma + 1),
            (None, Some(comma)) => Span::new(comma, place.end as usize),
            (None, None) => *place,
        };
    }
    members
}

/// The name of our one request for input.
const ENTRY: &str = "portcullis_approval";
/// The one thing that it asks for.
const APPROVE: &str = "approve";
const FOREIGN: &str = "Invalid params: this requestState was not given to this caller.";
const TOO_OLD: &str = "this gateway can ask the user of a client only over streamable HTTP in MCP 2025-06-18 or later: \
                       call with such a revision, or have the operator let a person decide ('ask: person')";
