//! A `subscriptions/listen` stream, as its client may see it (MCP 2026-07-28 basic/patterns/subscriptions): first what
//! was acknowledged of what was asked for, then what was asked for and nothing else, each message with the
//! subscription's id. It does not know what policy lets be read: that is taken out of `Wants` before.

pub mod joint;

use std::collections::HashMap;

use crate::base::span::Span;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::id;
use crate::jsonrpc::text::{self, write_string};
use crate::mcp::method::Verb;
use crate::mcp::tasks::{Task, TaskLink, is_text};
use crate::mcp::walk;

use joint::Announced;

/// What a subscription may carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// `toolsListChanged`.
    pub tools: bool,
    /// `promptsListChanged`.
    pub prompts: bool,
    /// `resourcesListChanged`.
    pub resources: bool,
    /// `resourceSubscriptions`.
    pub uris: Vec<Box<str>>,
    /// `taskIds`.
    pub tasks: Vec<TaskLink>,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The id of the `subscriptions/listen`, as JSON text.
    id: Box<[u8]>,
    wants: Wants,
    acknowledged: bool,
}

/// What becomes of a notification of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// It goes on as it came.
    Itself,
    /// This goes on in its place.
    Instead(Vec<u8>),
    /// It goes nowhere.
    Dropped(Dropped),
}

/// Why a message of a server goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Nobody asked for it: a type that was not opted in to.
    Unasked,
    /// Before the acknowledgement.
    Early,
    /// Of another subscription, another task, another request's progress: somebody else's.
    Foreign,
    /// A second acknowledgement.
    Second,
    /// A request: a modern server has none to make.
    Request,
    /// Not for this caller: policy.
    Hidden,
    /// No such method, or not what it must be.
    Malformed,
}

impl Subscription {
    /// The stream of the `subscriptions/listen` with this id (JSON text).
    #[must_use]
    pub fn new(id: &[u8], wants: Wants) -> Self {
        Self { id: id.into(), wants, acknowledged: false }
    }

    /// The resources whose changes it is about, as its server names them.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.wants.uris.iter().map(|uri| &**uri)
    }

    /// The next notification of the server: `message` has passed the scanner, and `verb` is its method.
    pub fn take(&mut self, verb: Verb, message: &[u8]) -> Becomes {
        let params = walk::member(message, walk::whole(message), "params");
        let marked = match self.marked(message, params) {
            Ok(marked) => marked,
            Err(why) => return Becomes::Dropped(why),
        };
        if verb == Verb::Acknowledged {
            return self.acknowledge(message, params);
        }
        if !self.acknowledged {
            return Becomes::Dropped(Dropped::Early);
        }
        let asked = match verb {
            Verb::ToolsChanged => self.wants.tools,
            Verb::PromptsChanged => self.wants.prompts,
            Verb::ResourcesChanged => self.wants.resources,
            // It may name a part of what was subscribed to, so it is not compared with it.
            Verb::ResourceUpdated => !self.wants.uris.is_empty(),
            Verb::TaskChanged => return self.task(message, marked),
            _ => false,
        };
        match (asked, marked) {
            (false, _) => Becomes::Dropped(Dropped::Unasked),
            (true, true) => Becomes::Itself,
            (true, false) => self.mark(message).map_or(Becomes::Dropped(Dropped::Malformed), Becomes::Instead),
        }
    }

    /// The gateway's own word that a list has changed, beside what the server says; `None` where that was not asked for,
    /// or not acknowledged yet.
    #[must_use]
    pub fn changed(&self, list: Announced) -> Option<Vec<u8>> {
        let Wants { tools, prompts, resources, .. } = self.wants;
        let wanted = self.acknowledged && [tools, prompts, resources][list as usize];
        wanted.then(|| joint::list_changed(&self.id, list))
    }

    /// Whether the server's answer is the proper end of the stream: complete, with the subscription's id.
    #[must_use]
    pub fn is_end(&self, answer: &[u8]) -> bool {
        let result = walk::member(answer, walk::whole(answer), "result");
        let kind = result.and_then(|result| walk::member(answer, result, "resultType"));
        let complete =
            kind.and_then(|kind| walk::string(answer, kind)).is_some_and(|kind| is_text(kind.of(answer), "complete"));
        complete && self.marked(answer, result) == Ok(true)
    }

    /// Whether the message has the subscription's id; an error when it has another's.
    fn marked(&self, message: &[u8], params: Option<Span>) -> Result<bool, Dropped> {
        let meta = params.and_then(|params| walk::member(message, params, "_meta"));
        match meta.and_then(|meta| walk::member(message, meta, SUBSCRIPTION_ID)) {
            None => Ok(false),
            Some(given) if id::same(given.of(message), &self.id) => Ok(true),
            Some(_) => Err(Dropped::Foreign),
        }
    }

    /// The acknowledgement: what the server honours of what it was asked for, by the client's names.
    fn acknowledge(&mut self, message: &[u8], params: Option<Span>) -> Becomes {
        if self.acknowledged {
            return Becomes::Dropped(Dropped::Second);
        }
        let honoured = params.and_then(|params| walk::member(message, params, "notifications"));
        let served = honoured.map(|honoured| self.served(message, honoured));
        let replaced = honoured.zip(served).map(|(honoured, served)| {
            let mut out = Vec::with_capacity(message.len() + served.len());
            splice(message, &[(honoured, &served)], &mut out);
            out
        });
        let marked = self.marked(message, params) == Ok(true);
        let Some(whole) = replaced.and_then(|message| if marked { Some(message) } else { self.mark(&message) }) else {
            return Becomes::Dropped(Dropped::Malformed);
        };
        self.acknowledged = true;
        Becomes::Instead(whole)
    }

    /// The filter that is honoured, as JSON text: of `honoured` only what was asked for.
    fn served(&self, message: &[u8], honoured: Span) -> Vec<u8> {
        let honours = |name: &str| walk::member(message, honoured, name);
        let mut out = vec![b'{'];
        for (name, wanted) in [
            ("toolsListChanged", self.wants.tools),
            ("promptsListChanged", self.wants.prompts),
            ("resourcesListChanged", self.wants.resources),
        ] {
            if wanted && honours(name).is_some_and(|value| value.of(message) == b"true") {
                begin_member(&mut out, name);
                out.extend_from_slice(b"true");
            }
        }
        let uris: Vec<&str> = self.wants.uris.iter().map(|uri| &**uri).collect();
        let uris = named(message, honours("resourceSubscriptions"), &uris);
        write_list(&mut out, "resourceSubscriptions", uris, |out, at| write_string(out, &self.wants.uris[at]));
        let tasks: Vec<&str> = self.wants.tasks.iter().map(|task| &*task.server).collect();
        let tasks = named(message, honours("taskIds"), &tasks);
        write_list(&mut out, "taskIds", tasks, |out, at| out.extend_from_slice(&self.wants.tasks[at].client));
        out.push(b'}');
        out
    }

    /// The state of a task, by the client's name for it.
    fn task(&self, message: &[u8], marked: bool) -> Becomes {
        let Ok(task) = Task::of_params(message) else { return Becomes::Dropped(Dropped::Malformed) };
        let Some(link) = task.find(message, &self.wants.tasks) else { return Becomes::Dropped(Dropped::Foreign) };
        let renamed = task.renamed(message, &link.client);
        let whole = if marked { Some(renamed) } else { self.mark(&renamed) };
        whole.map_or(Becomes::Dropped(Dropped::Malformed), Becomes::Instead)
    }

    /// The message with the subscription's id, which it lacks.
    fn mark(&self, message: &[u8]) -> Option<Vec<u8>> {
        let root = walk::whole(message);
        let params = walk::member(message, root, "params");
        let meta = params.and_then(|params| walk::member(message, params, "_meta"));
        let mut member = Vec::with_capacity(64 + self.id.len());
        let (open, close): (&[u8], &[u8]) = match (params, meta) {
            (_, Some(_)) => (b"", b""),
            (Some(_), None) => (b"\"_meta\":{", b"}"),
            (None, None) => (b"\"params\":{\"_meta\":{", b"}}"),
        };
        member.extend_from_slice(open);
        write_string(&mut member, SUBSCRIPTION_ID);
        member.push(b':');
        member.extend_from_slice(&self.id);
        member.extend_from_slice(close);
        let object = meta.or(params).unwrap_or(root);
        if object.of(message).first() != Some(&b'{') {
            return None;
        }
        if walk::members(message, object).next().is_some() {
            member.push(b',');
        }
        let first = object.start as usize + 1;
        let mut out = Vec::with_capacity(message.len() + member.len());
        splice(message, &[(Span::new(first, first), &member)], &mut out);
        Some(out)
    }
}

/// The result that ends a subscription, for the `subscriptions/listen` with this id (JSON text).
#[must_use]
pub fn end(id: &[u8]) -> Vec<u8> {
    let mut out = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"result\":{\"resultType\":\"complete\",\"_meta\":{");
    write_string(&mut out, SUBSCRIPTION_ID);
    out.push(b':');
    out.extend_from_slice(id);
    out.extend_from_slice(b"}}}");
    out
}

/// Which of `wanted` the array at `given` names, in the order of `wanted`. A text costs one look-up, however many are
/// wanted: the array is the server's.
fn named(message: &[u8], given: Option<Span>, wanted: &[&str]) -> Vec<usize> {
    let Some(given) = given else { return Vec::new() };
    let mut places: HashMap<&str, Vec<usize>> = HashMap::with_capacity(wanted.len());
    for (at, text) in wanted.iter().enumerate() {
        places.entry(text).or_default().push(at);
    }
    let mut found = Vec::new();
    let mut scratch = Vec::new();
    for element in walk::elements(message, given) {
        let text = walk::string(message, element).and_then(|it| text::unescape(it.of(message), &mut scratch).ok());
        found.extend(text.and_then(|text| places.remove(text)).unwrap_or_default());
    }
    found.sort_unstable();
    found
}

/// A member that is an array of texts; left out when there is none.
fn write_list(
    out: &mut Vec<u8>,
    name: &str,
    list: impl IntoIterator<Item = usize, IntoIter: ExactSizeIterator>,
    write: impl Fn(&mut Vec<u8>, usize),
) {
    let list = list.into_iter();
    if list.len() == 0 {
        return;
    }
    begin_member(out, name);
    for (nth, at) in list.enumerate() {
        out.push(if nth == 0 { b'[' } else { b',' });
        write(out, at);
    }
    out.push(b']');
}

fn begin_member(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_string(out, name);
    out.push(b':');
}

/// `_meta` key: the subscription that a message belongs to.
const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(id: &str) -> Subscription {
        let task = |name: &str| TaskLink { client: format!("\"C-{name}\"").into_bytes().into(), server: name.into() };
        let wants = Wants {
            tools: true,
            uris: vec!["a:1".into(), "a:2".into()],
            tasks: vec![task("t1"), task("t2")],
            ..Wants::default()
        };
        Subscription::new(id.as_bytes(), wants)
    }

    /// A notification with these params; `$` stands for the key of the subscription's id.
    fn note(method: &str, params: &str) -> String {
        let params = params.replace('$', SUBSCRIPTION_ID);
        format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)
    }

    #[track_caller]
    fn becomes(stream: &mut Subscription, verb: Verb, message: &str, want: Result<&str, Dropped>) {
        let got = match stream.take(verb, message.as_bytes()) {
            Becomes::Itself => Ok(message.to_owned()),
            Becomes::Instead(bytes) => Ok(String::from_utf8(bytes).unwrap()),
            Becomes::Dropped(why) => Err(why),
        };
        assert_eq!(got.as_deref(), want.map(|want| want.replace('$', SUBSCRIPTION_ID)).as_deref(), "{message}");
    }

    const ACK: &str = "notifications/subscriptions/acknowledged";

    fn acknowledged(id: &str) -> Subscription {
        let mut stream = subscription(id);
        let whole = r#"{"toolsListChanged":true,"resourceSubscriptions":["a:1","a:2"],"taskIds":["t1","t2"]}"#;
        let message = note(ACK, &format!(r#"{{"notifications":{whole},"_meta":{{"$":{id}}}}}"#));
        let want = message.replace(r#"["t1","t2"]"#, r#"["C-t1","C-t2"]"#);
        becomes(&mut stream, Verb::Acknowledged, &message, Ok(&want));
        stream
    }

    #[test]
    fn the_acknowledgement_says_what_was_asked_for_and_is_honoured() {
        let check = |honoured: &str, want: &str| {
            let params = |filter: &str| note(ACK, &format!(r#"{{"notifications":{filter},"_meta":{{"$":7,"x":1}}}}"#));
            becomes(&mut subscription("7"), Verb::Acknowledged, &params(honoured), Ok(&params(want)));
        };
        check("{}", "{}");
        check(r#"{"toolsListChanged":false,"promptsListChanged":true,"later":true}"#, "{}");
        check(r#"{"toolsListChanged":true,"resourceSubscriptions":["a:3"]}"#, r#"{"toolsListChanged":true}"#);
        check(
            r#"{"resourceSubscriptions":["a:2","b:9","a\u003a1",4,"a:2"],"taskIds":["t2","t9","C-t1"]}"#,
            r#"{"resourceSubscriptions":["a:1","a:2"],"taskIds":["C-t2"]}"#,
        );
        check(r#"{"resourceSubscriptions":"a:1"}"#, "{}");
    }

    #[test]
    fn the_acknowledgement_comes_first_and_once() {
        let mut stream = subscription("\"s\"");
        let changed = note("notifications/tools/list_changed", r#"{"_meta":{"$":"s"}}"#);
        becomes(&mut stream, Verb::ToolsChanged, &changed, Err(Dropped::Early));
        // One that says nothing is none.
        becomes(&mut stream, Verb::Acknowledged, &note(ACK, r#"{"_meta":{"$":"s"}}"#), Err(Dropped::Malformed));
        becomes(
            &mut stream,
            Verb::Acknowledged,
            &note(ACK, r#"{"notifications":{},"_meta":{"$":"o"}}"#),
            Err(Dropped::Foreign),
        );
        // One without the id is given it.
        let bare = note(ACK, r#"{"notifications":{"toolsListChanged":true}}"#);
        let want = note(ACK, r#"{"_meta":{"$":"s"},"notifications":{"toolsListChanged":true}}"#);
        becomes(&mut stream, Verb::Acknowledged, &bare, Ok(&want));
        becomes(&mut stream, Verb::Acknowledged, &bare, Err(Dropped::Second));
        becomes(&mut stream, Verb::ToolsChanged, &changed, Ok(&changed));
    }

    #[test]
    fn only_what_was_asked_for() {
        let mut stream = acknowledged("1");
        let mut check = |verb, want: Result<(), Dropped>| {
            let message = note("notifications/x", r#"{"uri":"a:1/part","_meta":{"$":1}}"#);
            becomes(&mut stream, verb, &message, want.map(|()| &*message));
        };
        check(Verb::ToolsChanged, Ok(()));
        check(Verb::ResourceUpdated, Ok(()));
        for verb in [Verb::PromptsChanged, Verb::ResourcesChanged, Verb::Progress, Verb::Message, Verb::Cancelled] {
            check(verb, Err(Dropped::Unasked));
        }
        let mut bare = Subscription::new(b"1", Wants::default());
        bare.acknowledged = true;
        let update = note("notifications/resources/updated", r#"{"uri":"a:1"}"#);
        becomes(&mut bare, Verb::ResourceUpdated, &update, Err(Dropped::Unasked));
    }

    #[test]
    fn every_message_has_the_id_of_its_subscription_with_its_type() {
        for (id, foreign) in [("1", r#""1""#), (r#""1""#, "1"), ("1", "2"), ("1", "null"), ("1", "{}")] {
            let mut stream = acknowledged(id);
            let with =
                |value: &str| note("notifications/tools/list_changed", &format!(r#"{{"_meta":{{"$":{value}}}}}"#));
            becomes(&mut stream, Verb::ToolsChanged, &with(id), Ok(&with(id)));
            becomes(&mut stream, Verb::ToolsChanged, &with(foreign), Err(Dropped::Foreign));
        }
        let mut stream = acknowledged("1");
        let method = "notifications/tools/list_changed";
        let mut check = |message: &str, want: &str| becomes(&mut stream, Verb::ToolsChanged, message, Ok(want));
        check(&note(method, "{}"), &note(method, r#"{"_meta":{"$":1}}"#));
        check(&note(method, r#"{ "x":1}"#), &note(method, r#"{"_meta":{"$":1}, "x":1}"#));
        check(&note(method, r#"{"_meta":{}}"#), &note(method, r#"{"_meta":{"$":1}}"#));
        check(&note(method, r#"{"_meta":{"a":{}}}"#), &note(method, r#"{"_meta":{"$":1,"a":{}}}"#));
        check(
            &format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#),
            &format!(r#"{{"params":{{"_meta":{{"$":1}}}},"jsonrpc":"2.0","method":"{method}"}}"#),
        );
        let odd = note(method, r#"{"_meta":[]}"#);
        becomes(&mut stream, Verb::ToolsChanged, &odd, Err(Dropped::Malformed));
    }

    #[test]
    fn tasks_go_by_their_clients_names() {
        let mut stream = acknowledged("1");
        let with = |id: &str, meta: &str| {
            note("notifications/tasks", &format!(r#"{{{meta}"taskId":{id},"status":"working"}}"#))
        };
        let meta = r#""_meta":{"$":1},"#;
        becomes(&mut stream, Verb::TaskChanged, &with(r#""t2""#, meta), Ok(&with(r#""C-t2""#, meta)));
        becomes(&mut stream, Verb::TaskChanged, &with(r#""t1""#, ""), Ok(&with(r#""C-t1""#, meta)));
        becomes(&mut stream, Verb::TaskChanged, &with(r#""t9""#, meta), Err(Dropped::Foreign));
        becomes(&mut stream, Verb::TaskChanged, &with(r#""C-t1""#, meta), Err(Dropped::Foreign));
        becomes(&mut stream, Verb::TaskChanged, &with("1", meta), Err(Dropped::Malformed));
    }

    #[test]
    fn the_end_is_complete_and_names_the_subscription() {
        let stream = subscription("\"s\"");
        assert!(stream.is_end(&end(b"\"s\"")));
        assert!(!stream.is_end(&end(b"1")));
        for result in
            [r#"{"resultType":"complete"}"#, r#"{"resultType":"task","_meta":{"$":"s"}}"#, r#"{"_meta":{"$":"s"}}"#]
        {
            let answer = format!(r#"{{"jsonrpc":"2.0","id":"s","result":{result}}}"#).replace('$', SUBSCRIPTION_ID);
            assert!(!stream.is_end(answer.as_bytes()), "{answer}");
        }
    }
}
