//! One `subscriptions/listen` over many servers: what its client asked for, split among the servers that have something
//! to say about it, and put together again. What lists change, nobody is asked: that is the gateway's own to say.
//!
//! Each server gets a `subscriptions/listen` under the id of the client's own, so what comes back is marked as the client
//! expects it; each has its stream to itself, and none of them can end, or speak for, another's.

use crate::jsonrpc::text::write_string;
use crate::mcp::method::Verb;
use crate::mcp::notice::renamed;
use crate::mcp::tasks::TaskLink;
use crate::mcp::walk;

use super::{Becomes, Dropped, SUBSCRIPTION_ID, Subscription, Wants, write_list};

/// A list that clients are told the change of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Announced {
    /// `notifications/tools/list_changed`.
    Tools,
    /// `notifications/prompts/list_changed`.
    Prompts,
    /// `notifications/resources/list_changed`: resources or templates.
    Resources,
}

/// A resource that is subscribed to, under both of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// As its client wrote it.
    pub client: Box<str>,
    /// As its server knows it.
    pub server: Box<str>,
}

/// What a client is to be told, in the order in which it asked; servers by the hash of their name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Which lists, by [`Announced`].
    pub lists: [bool; 3],
    /// Which resources, and whose they are.
    pub uris: Vec<(u64, Named)>,
    /// Which tasks, and whose they are.
    pub tasks: Vec<(u64, TaskLink)>,
}

/// One stream, and its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joint {
    id: Box<[u8]>,
    /// The request's `_meta`, as JSON text.
    meta: Box<[u8]>,
    lists: [bool; 3],
    parts: Vec<Part>,
}

/// What one server has to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    server: u64,
    stream: Subscription,
    /// The client's names of the resources, in the order of the stream's own.
    clients: Vec<Box<str>>,
}

impl Announced {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Tools, Self::Prompts, Self::Resources];

    /// The notification's name.
    #[must_use]
    pub fn wire(self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources => "notifications/resources/list_changed",
        }
    }

    /// The notification, for the stream of a session.
    #[must_use]
    pub fn message(self) -> Vec<u8> {
        let mut out = b"{\"jsonrpc\":\"2.0\",\"method\":".to_vec();
        write_string(&mut out, self.wire());
        out.push(b'}');
        out
    }
}

impl Joint {
    /// The stream of this `subscriptions/listen`, `request`, with the `id` (JSON text), and its first message: what of
    /// `asked` is honoured, which is all of it.
    #[must_use]
    pub fn new(id: &[u8], request: &[u8], asked: Asked) -> (Self, Vec<u8>) {
        let meta = walk::member(request, walk::whole(request), "params");
        let meta = meta.and_then(|params| walk::member(request, params, "_meta"));
        let meta = meta.map_or(&b"{}"[..], |meta| meta.of(request));
        let first = acknowledgement(id, &asked);
        let mut wants: Vec<(u64, Wants, Vec<Box<str>>)> = Vec::new();
        let mut part = |server: u64| {
            wants.iter().position(|(known, ..)| *known == server).unwrap_or_else(|| {
                wants.push((server, Wants::default(), Vec::new()));
                wants.len() - 1
            })
        };
        let servers = asked.uris.iter().map(|(server, _)| *server).chain(asked.tasks.iter().map(|(server, _)| *server));
        let places: Vec<usize> = servers.map(&mut part).collect();
        let (uris, tasks) = places.split_at(asked.uris.len());
        for (at, (_, named)) in uris.iter().zip(asked.uris) {
            wants[*at].1.uris.push(named.server);
            wants[*at].2.push(named.client);
        }
        for (at, (_, task)) in tasks.iter().zip(asked.tasks) {
            wants[*at].1.tasks.push(task);
        }
        let parts = wants.into_iter().map(|(server, wants, clients)| Part {
            server,
            stream: Subscription::new(id, wants),
            clients,
        });
        (Self { id: id.into(), meta: meta.into(), lists: asked.lists, parts: parts.collect() }, first)
    }

    /// The servers that have something to say, by the hash of their name; a part is called by its place here.
    pub fn servers(&self) -> impl Iterator<Item = u64> {
        self.parts.iter().map(|part| part.server)
    }

    /// The resources that a part subscribes to, as their server knows them.
    pub fn uris(&self, part: usize) -> impl Iterator<Item = &str> {
        self.parts[part].stream.wants.uris.iter().map(|uri| &**uri)
    }

    /// The id of the client's request, as JSON text.
    #[must_use]
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// The request to a part's server. What it says from now on begins with an acknowledgement, again.
    pub fn request(&mut self, part: usize) -> Vec<u8> {
        let stream = &mut self.parts[part].stream;
        stream.acknowledged = false;
        let mut out = Vec::with_capacity(256 + self.meta.len());
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(&self.id);
        out.extend_from_slice(b",\"method\":\"subscriptions/listen\",\"params\":{\"_meta\":");
        out.extend_from_slice(&self.meta);
        out.extend_from_slice(b",\"notifications\":{");
        let Wants { uris, tasks, .. } = &stream.wants;
        write_list(&mut out, "resourceSubscriptions", 0..uris.len(), |out, at| write_string(out, &uris[at]));
        write_list(&mut out, "taskIds", 0..tasks.len(), |out, at| write_string(out, &tasks[at].server));
        out.extend_from_slice(b"}}}");
        out
    }

    /// The next notification of a part's server, `verb` being its method: what the client gets of it, if anything.
    /// A resource goes by the client's name for it; one that is only a part of what was subscribed to by `expose`.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub fn take(
        &mut self,
        part: usize,
        verb: Verb,
        message: &[u8],
        expose: impl FnOnce(&str) -> String,
    ) -> Result<Option<Vec<u8>>, Dropped> {
        let Part { stream, clients, .. } = &mut self.parts[part];
        let said = match stream.take(verb, message) {
            Becomes::Dropped(why) => return Err(why),
            Becomes::Itself => message.to_vec(),
            Becomes::Instead(said) => said,
        };
        match verb {
            // The client has one since the stream began.
            Verb::Acknowledged => Ok(None),
            Verb::ResourceUpdated => {
                let known = |uri: &str| {
                    let place = stream.wants.uris.iter().position(|known| **known == *uri);
                    place.map_or_else(|| expose(uri), |place| clients[place].to_string())
                };
                renamed(&said, known).map(Some).ok_or(Dropped::Malformed)
            }
            _ => Ok(Some(said)),
        }
    }

    /// The gateway's own word that a list has changed, if the client asked for it.
    #[must_use]
    pub fn changed(&self, list: Announced) -> Option<Vec<u8>> {
        self.lists[list as usize].then(|| list_changed(&self.id, list))
    }
}

/// The same on the stream of the `subscriptions/listen` with this id (JSON text).
pub(super) fn list_changed(id: &[u8], list: Announced) -> Vec<u8> {
    let mut out = b"{\"jsonrpc\":\"2.0\",\"method\":".to_vec();
    write_string(&mut out, list.wire());
    out.extend_from_slice(b",\"params\":{");
    write_mark(&mut out, id);
    out.extend_from_slice(b"}}");
    out
}

fn acknowledgement(id: &[u8], asked: &Asked) -> Vec<u8> {
    let mut out = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{".to_vec();
    write_mark(&mut out, id);
    out.extend_from_slice(b",\"notifications\":{");
    for (name, wanted) in ["toolsListChanged", "promptsListChanged", "resourcesListChanged"].iter().zip(asked.lists) {
        if wanted {
            super::begin_member(&mut out, name);
            out.extend_from_slice(b"true");
        }
    }
    let Asked { uris, tasks, .. } = asked;
    write_list(&mut out, "resourceSubscriptions", 0..uris.len(), |out, at| write_string(out, &uris[at].1.client));
    write_list(&mut out, "taskIds", 0..tasks.len(), |out, at| out.extend_from_slice(&tasks[at].1.client));
    out.extend_from_slice(b"}}}");
    out
}

fn write_mark(out: &mut Vec<u8>, id: &[u8]) {
    out.extend_from_slice(b"\"_meta\":{");
    write_string(out, SUBSCRIPTION_ID);
    out.push(b':');
    out.extend_from_slice(id);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn named(client: &str, server: &str) -> Named {
        Named { client: client.into(), server: server.into() }
    }

    fn task(name: &str) -> TaskLink {
        TaskLink { client: format!("\"C-{name}\"").into_bytes().into(), server: name.into() }
    }

    /// Server 1 has two resources and a task, server 2 a resource of the same name, server 3 a task.
    fn joint() -> (Joint, Value) {
        let asked = Asked {
            lists: [true, false, true],
            uris: vec![(1, named("a:1", "a:1")), (2, named("mcp+two:a:1", "a:1")), (1, named("a:2", "a:2"))],
            tasks: vec![(3, task("t3")), (1, task("t1"))],
        };
        let (joint, first) = Joint::new(b"\"s\"", br#"{"params":{"x":{},"_meta":{"v":"1"}}}"#, asked);
        (joint, serde_json::from_slice(&first).unwrap())
    }

    fn note(method: &str, mut params: Value, id: Option<&str>) -> Vec<u8> {
        if let Some(id) = id {
            params["_meta"] = json!({ SUBSCRIPTION_ID: id });
        }
        json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string().into_bytes()
    }

    fn acknowledge(joint: &mut Joint, part: usize) {
        let message = note("notifications/subscriptions/acknowledged", json!({ "notifications": {} }), Some("s"));
        let said = joint.take(part, Verb::Acknowledged, &message, |_| unreachable!());
        assert_eq!(said, Ok(None), "the client has its own");
    }

    #[test]
    fn the_client_hears_at_once_what_is_honoured() {
        let (_, first) = joint();
        let want = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {
            "_meta": { SUBSCRIPTION_ID: "s" },
            "notifications": {
                "toolsListChanged": true, "resourcesListChanged": true,
                "resourceSubscriptions": ["a:1", "mcp+two:a:1", "a:2"], "taskIds": ["C-t3", "C-t1"],
            },
        }});
        assert_eq!(first, want);
        let (joint, first) = Joint::new(b"7", b"{}", Asked::default());
        assert_eq!(joint.servers().count(), 0);
        let first: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(first["params"], json!({ "_meta": { SUBSCRIPTION_ID: 7 }, "notifications": {} }));
    }

    #[test]
    fn each_server_is_asked_for_its_own_part_by_its_own_names() {
        let (mut joint, _) = joint();
        assert_eq!(joint.servers().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(joint.uris(0).collect::<Vec<_>>(), ["a:1", "a:2"]);
        let want = [
            json!({ "resourceSubscriptions": ["a:1", "a:2"], "taskIds": ["t1"] }),
            json!({ "resourceSubscriptions": ["a:1"] }),
            json!({ "taskIds": ["t3"] }),
        ];
        for (part, want) in want.into_iter().enumerate() {
            let request: Value = serde_json::from_slice(&joint.request(part)).unwrap();
            let params = json!({ "_meta": { "v": "1" }, "notifications": want });
            let whole = json!({ "jsonrpc": "2.0", "id": "s", "method": "subscriptions/listen", "params": params });
            assert_eq!(request, whole);
        }
    }

    #[test]
    fn what_servers_say_goes_by_the_clients_names() {
        let (mut joint, _) = joint();
        for part in 0..3 {
            acknowledge(&mut joint, part);
        }
        let mut check = |part, uri: &str, want: &str| {
            let message = note("notifications/resources/updated", json!({ "uri": uri, "x": 1 }), None);
            let said = joint.take(part, Verb::ResourceUpdated, &message, |uri| format!("mcp+exposed:{uri}"));
            let said: Value = serde_json::from_slice(&said.unwrap().unwrap()).unwrap();
            assert_eq!(said["params"], json!({ "uri": want, "x": 1, "_meta": { SUBSCRIPTION_ID: "s" } }));
        };
        check(0, "a:1", "a:1");
        check(1, "a:1", "mcp+two:a:1");
        check(0, "a:1/part", "mcp+exposed:a:1/part");
        let message = note("notifications/tasks", json!({ "taskId": "t1", "status": "working" }), Some("s"));
        let said = joint.take(0, Verb::TaskChanged, &message, |_| unreachable!()).unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&said).unwrap()["params"]["taskId"], "C-t1");
        assert_eq!(joint.take(2, Verb::TaskChanged, &message, |_| unreachable!()), Err(Dropped::Foreign));
    }

    #[test]
    fn no_server_speaks_for_what_it_was_not_asked() {
        let (mut joint, _) = joint();
        let updated = note("notifications/resources/updated", json!({ "uri": "a:1" }), Some("s"));
        let take = |joint: &mut Joint, part, verb, message: &[u8]| joint.take(part, verb, message, str::to_owned);
        assert_eq!(take(&mut joint, 0, Verb::ResourceUpdated, &updated), Err(Dropped::Early));
        acknowledge(&mut joint, 0);
        assert!(take(&mut joint, 0, Verb::ResourceUpdated, &updated).is_ok());
        let foreign = note("notifications/resources/updated", json!({ "uri": "a:1" }), Some("other"));
        assert_eq!(take(&mut joint, 0, Verb::ResourceUpdated, &foreign), Err(Dropped::Foreign));
        let changed = note("notifications/tools/list_changed", json!({}), Some("s"));
        assert_eq!(take(&mut joint, 0, Verb::ToolsChanged, &changed), Err(Dropped::Unasked), "the gateway says that");
        acknowledge(&mut joint, 2);
        assert_eq!(take(&mut joint, 2, Verb::ResourceUpdated, &updated), Err(Dropped::Unasked));
        // A second request is acknowledged anew.
        assert!(!joint.request(0).is_empty());
        assert_eq!(take(&mut joint, 0, Verb::ResourceUpdated, &updated), Err(Dropped::Early));
    }

    #[test]
    fn the_gateway_says_what_was_asked_for() {
        let (joint, _) = joint();
        let said: Vec<Option<Value>> =
            Announced::ALL.map(|list| joint.changed(list).map(|said| serde_json::from_slice(&said).unwrap())).into();
        let want = |method: &str| {
            Some(json!({ "jsonrpc": "2.0", "method": method, "params": { "_meta": { SUBSCRIPTION_ID: "s" } } }))
        };
        let (tools, resources) = ("notifications/tools/list_changed", "notifications/resources/list_changed");
        assert_eq!(said, [want(tools), None, want(resources)]);
        let plain: Value = serde_json::from_slice(&Announced::Prompts.message()).unwrap();
        assert_eq!(plain, json!({ "jsonrpc": "2.0", "method": "notifications/prompts/list_changed" }));
    }
}
