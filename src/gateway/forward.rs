//! A permitted, recorded message on its way to its server: the head written anew, the body as received, the wait that
//! notices when nobody waits any more, and the one outcome.

use smallvec::SmallVec;

use crate::base::span::Span;
use crate::http::field::Known;
use crate::http::head::Method;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::text::write_string;
use crate::mcp::call::{Call, Object, TaskName};
use crate::mcp::headers::encode_value;
use crate::mcp::method::Verb;
use crate::mcp::revision::Era;
use crate::record::Recorded;
use crate::record::frame::Status;
use crate::upstream::exchange::{Clearance, Composed, Lane, Request};

use super::conn::{Body, Conn};
use super::exchange::{USER_AGENT, lane, legacy_fields, watched};
use super::flight::{Ended, Flight, Next, end, failed};
use super::modern::Opted;
use super::refusal::{Kind, Refusal};
use super::relay;
use super::shard::Shard;

/// Sends a permitted message and gives the client what comes back.
pub(super) async fn serve(
    shard: &Shard,
    conn: &mut Conn,
    body: &Body,
    flight: &mut Flight,
    recorded: Recorded,
) -> Result<Next, Refusal> {
    if flight.era == Era::Modern {
        flight.opted = Opted::of(recorded.permit().call(), flight.id.as_deref(), conn.body_bytes(body));
    }
    let snapshot = flight.snapshot.clone();
    let lane = lane(&snapshot, flight.server);
    let Some(request) = compose(shard, conn, body, flight, &recorded, &lane) else {
        end(shard, flight, Ended::of(Status::Unreachable, 503));
        return Err(Refusal::from(Kind::NoBuffer).recorded());
    };
    let timeout = snapshot.settings.servers[flight.server.index()].timeout_ms;
    let deadline = shard.timers.last().mono.plus_ms(timeout);
    let slot = conn.slot.clone();
    let abort = &slot.abort;
    abort.reset();
    flight.sent = shard.timers.last().mono;
    let sent = watched(shard, conn, flight.era == Era::Modern, &lane, request, deadline, abort).await;
    flight.answered = shard.timers.now().mono;
    let result = match sent {
        Ok(answer) => relay::answer(shard, conn, flight, answer, abort, timeout).await,
        Err(fault) => Err(failed(shard, flight, fault)),
    };
    abort.reset();
    result
}

/// The request as the server gets it. Of the caller's head only what MCP defines is written anew; nothing of it is
/// copied through, least of all its credentials.
fn compose(
    shard: &Shard,
    conn: &Conn,
    body: &Body,
    flight: &Flight,
    recorded: &Recorded,
    lane: &Lane<'_>,
) -> Option<Composed> {
    let bytes = conn.bytes();
    let head = &conn.head;
    let call = recorded.permit().call();
    let text = conn.body_bytes(body);
    let mut task = Vec::new();
    if let Object::Task(name) = &call.subject {
        encode_value(theirs(name), &mut task);
    }
    let mut fields: SmallVec<[(&'static str, &[u8]); 12]> = SmallVec::new();
    fields.push(("content-type", b"application/json"));
    fields.push(("accept", b"application/json, text/event-stream"));
    fields.push(("accept-encoding", b"identity"));
    fields.push(("user-agent", USER_AGENT));
    let mut params: SmallVec<[(&[u8], &[u8]); 4]> = SmallVec::new();
    match flight.era {
        Era::Modern => {
            for known in [Known::McpProtocolVersion, Known::McpMethod] {
                fields.extend(head.get(bytes, known).map(|value| (known.name(), value)));
            }
            // The name that the server knows, where the client knows another.
            let name = if task.is_empty() { head.get(bytes, Known::McpName) } else { Some(&*task) };
            fields.extend(name.map(|value| (Known::McpName.name(), value)));
            // Some servers read `_` in a field's name as `-` (RFC 3875, 4.1.18): one that is not checked against the
            // body could pass for one that is.
            params.extend(head.params(bytes).filter(|(name, _)| !name.contains(&b'_')));
        }
        Era::Legacy => legacy_fields(flight, &mut fields),
    }
    for known in [Known::Traceparent, Known::Tracestate] {
        fields.extend(head.get(bytes, known).map(|value| (known.name(), value)));
    }
    let edited = edited(call, text);
    let request = Request {
        method: Method::Post,
        fields: &fields,
        params: &params,
        body: Some(edited.as_deref().unwrap_or(text)),
        // A tool call is written at most once; anything else may meet a kept connection that has just been closed.
        repeatable: call.method.is_none_or(|method| method.verb != Verb::ToolsCall),
    };
    shard.upstreams.compose(Clearance::Call(recorded), lane, &request)
}

/// The body with the edits that a decision asks for: a listen stream loses the resources that may not be read, and tasks
/// go by their server's own names. `None` where it goes as it came.
fn edited(call: &Call, text: &[u8]) -> Option<Vec<u8>> {
    let mut edits: SmallVec<[(Span, Vec<u8>); 2]> = SmallVec::new();
    match &call.subject {
        Object::Task(task) => {
            let inside = task.text.span;
            edits.push((Span::new(inside.start as usize - 1, inside.end as usize + 1), json_text(theirs(task))));
        }
        Object::Listen(listen) => {
            if let Some(place) = listen.uris_place.filter(|_| listen.uris.len() < listen.uris_asked) {
                edits.push((place, json_texts(listen.uris.iter().map(|uri| uri.of(text)))));
            }
            if let Some(place) = listen.tasks_place {
                edits.push((place, json_texts(listen.tasks.iter().map(theirs))));
            }
        }
        _ => {}
    }
    if edits.is_empty() {
        return None;
    }
    edits.sort_unstable_by_key(|(place, _)| place.start);
    let edits: SmallVec<[(Span, &[u8]); 2]> = edits.iter().map(|(place, new)| (*place, &**new)).collect();
    let mut out = Vec::new();
    splice(text, &edits, &mut out);
    Some(out)
}

/// The server's own name of a task. A permit has only tasks that were opened; no name at all would be nobody's task.
fn theirs(task: &TaskName) -> &str {
    task.opened.as_deref().unwrap_or_default()
}

fn json_text(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    out
}

fn json_texts<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut out = vec![b'['];
    for text in texts {
        if out.len() > 1 {
            out.push(b',');
        }
        write_string(&mut out, text);
    }
    out.push(b']');
    out
}

#[cfg(test)]
mod tests {
    use crate::jsonrpc::scan;
    use crate::mcp::call::{self, Given};

    use super::*;

    /// The body that goes when of the two resources asked for only `keep` may be read, and only the second task is the
    /// caller's; the rest of it is `extra`.
    fn check(extra: &str, filters: &str, keep: usize, want: Option<&str>) {
        let body = |filters: &str| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"subscriptions/listen\",\"params\":{{{extra}\"notifications\":\
                 {{{filters}}},\"_meta\":{{\
                 \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
                 \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}"
            )
        };
        let asked = body(filters);
        let mut call = read(&asked, "subscriptions/listen", None);
        let Object::Listen(listen) = &mut call.subject else { panic!("not a listen") };
        listen.uris.truncate(keep);
        if !listen.tasks.is_empty() {
            listen.tasks.remove(0);
            listen.tasks[0].opened = Some("b\"2".into());
        }
        let sent = edited(&call, asked.as_bytes()).map(|sent| String::from_utf8(sent).unwrap());
        assert_eq!(sent, want.map(body), "every other byte as it came");
    }

    fn read(body: &str, method: &str, name: Option<&str>) -> Call {
        let given = Given {
            version: Some(b"2026-07-28"),
            version_count: 1,
            method: Some(method.as_bytes()),
            method_count: 1,
            name: name.map(str::as_bytes),
            name_count: usize::from(name.is_some()),
            ..Given::default()
        };
        let envelope = scan::read(body.as_bytes()).unwrap();
        call::read(&given, body.as_bytes(), &envelope).unwrap()
    }

    #[test]
    fn what_may_not_be_read_is_not_asked_for() {
        let uris = r#""resourceSubscriptions": ["a:open", "a:shut"] "#;
        let open = r#""resourceSubscriptions": ["a:open"] "#;
        check("", uris, 2, None);
        check("", uris, 1, Some(open));
        // Numbers that no float holds are legal, and must neither stop the edit nor be written anew.
        check("\"x\":[1e999,123456789012345678901234567890],", uris, 1, Some(open));
        let tasks = r#""taskIds":[ "A1" , "B2" ]"#;
        let own = r#""taskIds":["b\"2"]"#;
        check("", tasks, 0, Some(own));
        check("", &format!("{tasks},{uris}"), 1, Some(&format!("{own},{open}")));
        check("", &format!("{uris},{tasks}"), 1, Some(&format!("{open},{own}")));
    }

    #[test]
    fn a_task_goes_by_its_servers_name() {
        let body = |id: &str| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tasks/get\",\"params\":{{\"taskId\": {id},\"_meta\":{{\
                 \"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\
                 \"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}"
            )
        };
        let asked = body("\"A1\"");
        let mut call = read(&asked, "tasks/get", Some("A1"));
        let Object::Task(task) = &mut call.subject else { panic!("not a task") };
        task.opened = Some("786512e2".into());
        let sent = edited(&call, asked.as_bytes()).map(|sent| String::from_utf8(sent).unwrap());
        assert_eq!(sent, Some(body("\"786512e2\"")));
    }
}
