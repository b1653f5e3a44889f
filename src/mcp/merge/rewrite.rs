//! The URIs in a server's message, changed to what its client calls them. All other bytes stay as they came.

use memchr::memmem;

use crate::base::span::Span;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::text::{inside, same_text, unescape, write_string};
use crate::mcp::method::Verb;
use crate::mcp::walk::{elements, member, string, whole};

/// Whether a message may have a place for a URI that a server wrote. A look ahead, cheaper than [`rewrite_result`].
#[must_use]
pub fn mentions_uri(message: &[u8]) -> bool {
    // By what `uri` and `resourceUri` end with: each search has to be prepared, and that costs as much as itself. Any
    // of the names could be written with an escape, and what is escaped is looked at closely.
    memmem::find(message, b"ri\"").is_some()
        || memchr::memchr_iter(b'\\', message).any(|at| message.get(at + 1) == Some(&b'u'))
}

/// The message with its URIs changed by `change` (`None`: stays as it is); `None` where nothing changes. `message` has
/// passed the scanner, and is an answer to `verb`, or a notification of it.
///
/// Places: `resource_link` and embedded resources in a tool's result and a prompt's messages, `contents[].uri` of what
/// is read, the resource of `notifications/resources/updated`, the result inside an MCP task, an error's `data.uri`,
/// and the user interface in the `_meta` of a tool's result.
#[must_use]
pub fn rewrite_result(verb: Verb, message: &[u8], change: &mut dyn FnMut(&str) -> Option<String>) -> Option<Vec<u8>> {
    let mut places = places(verb, message);
    places.sort_unstable_by_key(|place| place.start);
    let mut scratch = Vec::new();
    let mut edits: Vec<(Span, Vec<u8>)> = Vec::new();
    for place in places {
        let Ok(uri) = unescape(inside(place.of(message)), &mut scratch) else { continue };
        if let Some(changed) = change(uri) {
            let mut text = Vec::with_capacity(changed.len() + 2);
            write_string(&mut text, &changed);
            edits.push((place, text));
        }
    }
    if edits.is_empty() {
        return None;
    }
    let edits: Vec<(Span, &[u8])> = edits.iter().map(|(place, text)| (*place, &text[..])).collect();
    let mut out = Vec::new();
    splice(message, &edits, &mut out);
    Some(out)
}

/// Where the URIs stand: JSON strings, each once.
fn places(verb: Verb, message: &[u8]) -> Vec<Span> {
    let mut seen = Seen { bytes: message, places: Vec::new() };
    let root = whole(message);
    if let Some(error) = seen.member(root, "error") {
        if let Some(data) = seen.member(error, "data") {
            seen.take(data, "uri");
        }
        return seen.places;
    }
    match verb {
        Verb::ResourceUpdated | Verb::TaskChanged => {
            if let Some(params) = seen.member(root, "params") {
                if verb == Verb::ResourceUpdated { seen.take(params, "uri") } else { seen.task(params) }
            }
        }
        _ => {
            if let Some(result) = seen.member(root, "result") {
                seen.result(verb, result);
            }
        }
    }
    seen.places
}

struct Seen<'a> {
    bytes: &'a [u8],
    places: Vec<Span>,
}

impl Seen<'_> {
    fn result(&mut self, verb: Verb, result: Span) {
        match verb {
            Verb::ToolsCall => self.tool_result(result),
            Verb::ResourcesRead => {
                if let Some(contents) = self.member(result, "contents") {
                    elements(self.bytes, contents).for_each(|one| self.take(one, "uri"));
                }
            }
            Verb::PromptsGet => {
                if let Some(messages) = self.member(result, "messages") {
                    for message in elements(self.bytes, messages) {
                        if let Some(content) = self.member(message, "content") {
                            self.block(content);
                        }
                    }
                }
            }
            Verb::TasksGet => self.task(result),
            _ => {}
        }
    }

    fn tool_result(&mut self, result: Span) {
        if let Some(content) = self.member(result, "content") {
            elements(self.bytes, content).for_each(|block| self.block(block));
        }
        if let Some(meta) = self.member(result, "_meta") {
            self.take(meta, "ui/resourceUri");
            if let Some(ui) = self.member(meta, "ui") {
                self.take(ui, "resourceUri");
            }
        }
    }

    /// A task's state, which ends with the result of the call that made it.
    fn task(&mut self, task: Span) {
        if let Some(result) = self.member(task, "result") {
            self.tool_result(result);
        }
        if let Some(data) = self.member(task, "error").and_then(|error| self.member(error, "data")) {
            self.take(data, "uri");
        }
    }

    /// One block of content.
    fn block(&mut self, block: Span) {
        let kind = self.member(block, "type").and_then(|kind| string(self.bytes, kind));
        let is = |name: &[u8]| kind.is_some_and(|kind| same_text(kind.of(self.bytes), name));
        if is(b"resource_link") {
            self.take(block, "uri");
        } else if is(b"resource")
            && let Some(resource) = self.member(block, "resource")
        {
            self.take(resource, "uri");
        }
    }

    fn member(&self, object: Span, name: &str) -> Option<Span> {
        member(self.bytes, object, name)
    }

    fn take(&mut self, object: Span, name: &str) {
        self.places.extend(self.member(object, name).filter(|place| string(self.bytes, *place).is_some()));
    }
}
