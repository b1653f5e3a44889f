//! What the gateway says for several servers: their lists as one, and who they are together.

use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::{Merged, uris};
use crate::base::ids::ServerId;
use crate::base::limits::{INSTRUCTIONS_BYTES_MAX, INSTRUCTIONS_SERVER_BYTES_MAX, LIST_PAGE_BYTES, LIST_PAGE_ITEMS};
use crate::base::span::Span;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::text::{inside, unescape, write_string};
use crate::mcp::catalog::{Catalog, EraCatalog, Item, ListKind, capability};
use crate::mcp::request::write_info;
use crate::mcp::revision::{Era, Revision};

/// An entry of a merged list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which of the endpoint's servers, in its order.
    pub member: u16,
    /// Which entry of that server's list.
    pub row: u32,
}

/// A server whose part of an answer is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacking<'a> {
    /// Its name.
    pub server: &'a str,
    /// What is wrong.
    pub state: Lack,
}

/// What is wrong with a server's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Nothing is known of it: its part is not there.
    Missing,
    /// Its part is what it had when it answered last.
    Stale,
}

/// One server as it introduced itself.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it offers in the era spoken.
    pub offer: &'a EraCatalog,
}

/// Who several servers are together, for the answer to `initialize` and `server/discover`.
#[derive(Clone, Copy, Debug)]
pub struct Together<'a> {
    /// Those that concern the caller and are known, in the endpoint's order.
    pub parts: &'a [Part<'a>],
    /// Another one concerns the caller and is not known yet. A session's capabilities are settled once, so those are
    /// declared that it may turn out to have.
    pub more: bool,
    /// Whether the servers' instructions are passed on.
    pub instructions: bool,
}

impl Merged {
    /// Appends the definition of an entry of `server`'s list as the client sees it.
    pub fn write_item(&self, out: &mut Vec<u8>, era: Era, server: ServerId, kind: ListKind, item: &Item) {
        let prefixed = match kind {
            ListKind::Tools | ListKind::Prompts => self.prefixed,
            ListKind::Resources => matches!(self.expose_uri(era, server, &item.name), std::borrow::Cow::Owned(_)),
            ListKind::Templates => matches!(self.expose_template(era, server, &item.name), std::borrow::Cow::Owned(_)),
        };
        self.write_marked(out, era, server, kind, item, prefixed);
    }

    /// Appends the entries of one page, parted by commas: from `from` on, those that `shown` says the caller may see.
    /// Tells where the next page starts; `None` behind the last entry.
    pub fn write_items(
        &self,
        out: &mut Vec<u8>,
        catalog: &Catalog,
        era: Era,
        kind: ListKind,
        from: Position,
        shown: &mut dyn FnMut(ServerId, &Item) -> bool,
    ) -> Option<Position> {
        let (start, mut written) = (out.len(), 0);
        for (member, part) in (0_u16..).zip(&self.parts).skip(from.member.into()) {
            let listing = catalog.server(part.server).and_then(|server| server.era(era)?.list(kind));
            let first = if member == from.member { from.row } else { 0 };
            let items = listing.into_iter().flat_map(|listing| (0_u32..).zip(&listing.items));
            for (row, item) in items.skip(first as usize) {
                let marked = self.is_marked(era, kind, member, row);
                let withheld = marked && matches!(kind, ListKind::Tools | ListKind::Prompts);
                if withheld || !shown(part.server, item) {
                    continue;
                }
                let full = written > 0 && out.len() - start + item.raw.len() > LIST_PAGE_BYTES;
                if full || written == LIST_PAGE_ITEMS {
                    return Some(Position { member, row });
                }
                if written > 0 {
                    out.push(b',');
                }
                written += 1;
                let prefixed = if matches!(kind, ListKind::Tools | ListKind::Prompts) { self.prefixed } else { marked };
                self.write_marked(out, era, part.server, kind, item, prefixed);
            }
        }
        None
    }

    fn is_marked(&self, era: Era, kind: ListKind, member: u16, row: u32) -> bool {
        let marked = self.eras[era as usize].marked.get(usize::from(member));
        marked.is_some_and(|kinds| kinds[kind.index()].get(row as usize))
    }

    fn write_marked(&self, out: &mut Vec<u8>, era: Era, server: ServerId, kind: ListKind, item: &Item, prefixed: bool) {
        let part = self.place(server).and_then(|at| self.part(at)).filter(|_| self.alone.is_none());
        let Some(part) = part.filter(|_| (prefixed || !item.ui_places.is_empty()) && item.name_place.len() >= 2) else {
            out.extend_from_slice(&item.raw);
            return;
        };
        if prefixed && item.ui_places.is_empty() && matches!(kind, ListKind::Tools | ListKind::Prompts) {
            let (before, after) = item.raw.split_at(item.name_place.start as usize + 1);
            for piece in [before, part.name.as_bytes(), super::names::MARK.as_bytes(), after] {
                out.extend_from_slice(piece);
            }
            return;
        }
        let mut edits: SmallVec<[(Span, SmallVec<[u8; 64]>); 3]> = SmallVec::new();
        if prefixed {
            edits.push(match kind {
                ListKind::Tools | ListKind::Prompts => {
                    // No id has a character that JSON escapes.
                    let at = item.name_place.start as usize + 1;
                    (Span::new(at, at), [part.name.as_bytes(), super::names::MARK.as_bytes()].concat().into())
                }
                ListKind::Resources | ListKind::Templates => uri_edit(item, &part.name),
            });
        }
        for place in &item.ui_places {
            let mut scratch = Vec::new();
            let uri = unescape(inside(place.of(&item.raw)), &mut scratch).unwrap_or_default();
            if let std::borrow::Cow::Owned(exposed) = self.expose_uri(era, server, uri) {
                let mut text = Vec::with_capacity(exposed.len() + 2);
                write_string(&mut text, &exposed);
                edits.push((*place, text.into()));
            }
        }
        edits.sort_unstable_by_key(|(span, _)| span.start);
        let edits: SmallVec<[(Span, &[u8]); 3]> = edits.iter().map(|(span, text)| (*span, &text[..])).collect();
        splice(&item.raw, &edits, out);
    }
}

/// The prefix of a resource's or template's URI.
fn uri_edit(item: &Item, id: &str) -> (Span, SmallVec<[u8; 64]>) {
    let mut text = Vec::new();
    let written = inside(item.name_place.of(&item.raw));
    let after = uris::prefix_at(written);
    if after == uris::prefix_at(item.name.as_bytes()) {
        uris::write_prefix(&mut text, id, after);
        let at = item.name_place.start as usize + 1 + after;
        return (Span::new(at, at), text.into());
    }
    // Escaped where the prefix has to go.
    write_string(&mut text, &uris::prefixed(id, &item.name));
    (item.name_place, text.into())
}

/// Appends the `result` object of a list up to its first entry.
pub fn start_list_result(out: &mut Vec<u8>, era: Era, kind: ListKind) {
    out.extend_from_slice(match era {
        Era::Modern => b"{\"resultType\":\"complete\",\"",
        Era::Legacy => b"{\"",
    });
    out.extend_from_slice(kind.member().as_bytes());
    out.extend_from_slice(b"\":[");
}

/// Appends the rest of it, from behind its last entry. What one caller may see is nobody else's, so a modern answer is
/// always private (MCP 2026-07-28 server/utilities/caching).
pub fn end_list_result(out: &mut Vec<u8>, era: Era, ttl_ms: u64, next: Option<&str>, lacking: &[Lacking<'_>]) {
    out.push(b']');
    if let Some(next) = next {
        out.extend_from_slice(b",\"nextCursor\":");
        write_string(out, next);
    }
    if era == Era::Modern {
        out.extend_from_slice(b",\"ttlMs\":");
        out.extend_from_slice(itoa::Buffer::new().format(ttl_ms).as_bytes());
        out.extend_from_slice(b",\"cacheScope\":\"private\"");
    }
    if era == Era::Modern || !lacking.is_empty() {
        out.extend_from_slice(b",\"_meta\":{");
        if era == Era::Modern {
            write_server_info(out);
        }
        if !lacking.is_empty() {
            out.extend_from_slice(if era == Era::Modern { b"," } else { b"" });
            write_lacking(out, lacking);
        }
        out.push(b'}');
    }
    out.push(b'}');
}

/// Appends the `result` object of `initialize`, in a legacy revision.
pub fn write_initialize_result(
    out: &mut Vec<u8>,
    revision: Revision,
    together: &Together<'_>,
    lacking: &[Lacking<'_>],
) {
    out.extend_from_slice(b"{\"protocolVersion\":");
    write_string(out, revision.as_str());
    out.extend_from_slice(b",\"capabilities\":");
    out.extend_from_slice(Value::Object(together.capabilities(Era::Legacy)).to_string().as_bytes());
    out.extend_from_slice(b",\"serverInfo\":");
    write_info(out);
    together.write_instructions(out);
    if !lacking.is_empty() {
        out.extend_from_slice(b",\"_meta\":{");
        write_lacking(out, lacking);
        out.push(b'}');
    }
    out.push(b'}');
}

/// Appends the `result` object of `server/discover`.
pub fn write_discover_result(out: &mut Vec<u8>, together: &Together<'_>, ttl_ms: u64, lacking: &[Lacking<'_>]) {
    out.extend_from_slice(b"{\"resultType\":\"complete\",\"supportedVersions\":");
    let spoken: Value = Revision::MODERN.into_iter().map(Revision::as_str).collect();
    out.extend_from_slice(spoken.to_string().as_bytes());
    out.extend_from_slice(b",\"capabilities\":");
    out.extend_from_slice(Value::Object(together.capabilities(Era::Modern)).to_string().as_bytes());
    together.write_instructions(out);
    out.extend_from_slice(b",\"ttlMs\":");
    out.extend_from_slice(itoa::Buffer::new().format(ttl_ms).as_bytes());
    out.extend_from_slice(b",\"cacheScope\":\"private\",\"_meta\":{");
    write_server_info(out);
    if !lacking.is_empty() {
        out.push(b',');
        write_lacking(out, lacking);
    }
    out.extend_from_slice(b"}}");
}

/// The member of `_meta` that says who answers.
fn write_server_info(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"io.modelcontextprotocol/serverInfo\":");
    write_info(out);
}

/// The member of `_meta` that says whose part is not as it should be.
fn write_lacking(out: &mut Vec<u8>, lacking: &[Lacking<'_>]) {
    out.extend_from_slice(b"\"portcullis/servers\":[");
    for (index, lacking) in lacking.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",{\"server\":" } else { b"{\"server\":" });
        write_string(out, lacking.server);
        out.extend_from_slice(match lacking.state {
            Lack::Missing => b",\"state\":\"missing\"}",
            Lack::Stale => b",\"state\":\"stale\"}",
        });
    }
    out.push(b']');
}

impl Together<'_> {
    /// What they can do together: what any of them can, as far as the gateway can pass it on. That a list changed the
    /// gateway can always tell.
    fn capabilities(&self, era: Era) -> Map<String, Value> {
        let any = |name: &str| self.parts.iter().any(|part| capability(part.offer, name));
        let mut out = Map::new();
        for (name, lists) in
            [("tools", true), ("prompts", true), ("resources", true), ("completions", false), ("logging", false)]
        {
            if !(any(name) || self.more && lists) {
                continue;
            }
            let mut settings = Map::new();
            if lists {
                settings.insert("listChanged".to_owned(), Value::Bool(true));
            }
            if name == "resources" && self.parts.iter().any(|part| subscribes(part.offer)) {
                settings.insert("subscribe".to_owned(), Value::Bool(true));
            }
            out.insert(name.to_owned(), Value::Object(settings));
        }
        let extensions = self.extensions(era);
        if !extensions.is_empty() {
            out.insert("extensions".to_owned(), Value::Object(extensions));
        }
        out
    }

    /// Extensions that the gateway knows, their settings merged; others only while one server alone has any.
    fn extensions(&self, era: Era) -> Map<String, Value> {
        let declared = |part: &Part<'_>| part.offer.capabilities.get("extensions").and_then(Value::as_object).cloned();
        let known = |name: &str| match era {
            Era::Modern => EXTENSIONS.contains(&name),
            Era::Legacy => EXTENSIONS_LEGACY.contains(&name),
        };
        let all: Vec<Map<String, Value>> = self.parts.iter().filter_map(declared).collect();
        let with_others = all.iter().filter(|one| one.keys().any(|name| !EXTENSIONS.contains(&name.as_str()))).count();
        let mut out = Map::new();
        for (name, settings) in all.into_iter().flatten() {
            let foreign = !EXTENSIONS.contains(&name.as_str());
            if !settings.is_object() || !(known(&name) || foreign && with_others == 1) {
                continue;
            }
            match out.get_mut(&name) {
                Some(before) => merge(before, settings),
                None => drop(out.insert(name, settings)),
            }
        }
        out
    }

    /// The `instructions` member, each server's under a heading.
    fn write_instructions(&self, out: &mut Vec<u8>) {
        let mut text = String::new();
        for part in self.parts.iter().filter(|_| self.instructions) {
            let Some(own) = part.offer.instructions.as_deref().filter(|own| !own.trim().is_empty()) else { continue };
            let own = &own[..own.floor_char_boundary(INSTRUCTIONS_SERVER_BYTES_MAX)];
            let gap = if text.is_empty() { "" } else { "\n\n" };
            if text.len() + gap.len() + part.name.len() + own.len() + 5 > INSTRUCTIONS_BYTES_MAX {
                break;
            }
            for piece in [gap, "## ", part.name, "\n\n", own] {
                text.push_str(piece);
            }
        }
        if !text.is_empty() {
            out.extend_from_slice(b",\"instructions\":");
            write_string(out, &text);
        }
    }
}

fn subscribes(offer: &EraCatalog) -> bool {
    offer.capabilities.get("resources").and_then(|resources| resources.get("subscribe")) == Some(&Value::Bool(true))
}

/// Settings of one extension at two servers: lists are joined, switches are on where one is, the first says the rest.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                match into.get_mut(&name) {
                    Some(before) => merge(before, value),
                    None => drop(into.insert(name, value)),
                }
            }
        }
        (Value::Array(into), Value::Array(more)) => {
            for value in more {
                if !into.contains(&value) {
                    into.push(value);
                }
            }
        }
        (Value::Bool(into), Value::Bool(more)) => *into |= more,
        _ => {}
    }
}

/// What the gateway understands, or can pass on as it is: tasks (SEP-1686) and MCP Apps (SEP-1865).
const EXTENSIONS: [&str; 2] = ["io.modelcontextprotocol/tasks", "io.modelcontextprotocol/ui"];
/// Tasks are the modern era's.
const EXTENSIONS_LEGACY: [&str; 1] = ["io.modelcontextprotocol/ui"];
