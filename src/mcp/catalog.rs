//! The catalogue: tools, prompts and resources of all servers, as they defined them, tools and prompts numbered.

use std::collections::HashSet;

use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::base::ids::{ItemId, ServerId};
use crate::base::limits::{DEFINITION_BYTES_MAX, ITEM_NAME_BYTES_MAX, ITEMS_MAX, LIST_ITEMS_MAX};
use crate::base::span::Span;
use crate::jsonrpc::text;
use crate::mcp::headers::{ParamHeader, SchemaFault, param_headers};
use crate::mcp::pin::{self, Pin};
use crate::mcp::revision::{Era, Revision};
use crate::mcp::transport::Transport;
use crate::mcp::walk;

/// The four lists of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// `tools/list`.
    Tools,
    /// `prompts/list`.
    Prompts,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is called by: a tool's or prompt's name, a resource's URI, a template's URI template.
    pub name: Box<str>,
    /// The definition, in the bytes the server wrote.
    pub raw: Box<[u8]>,
    /// The headers a tool's schema asks for.
    pub params: Box<[ParamHeader]>,
    /// The number of a tool or prompt, given by `Catalog::build`; `Item::UNNUMBERED` before, and for all else.
    pub id: ItemId,
    /// Where `raw` has its name, URI or URI template: the JSON string, with its quotes.
    pub name_place: Span,
    /// Where the `raw` of a tool has the URI of its user interface: JSON strings, in the order they stand there.
    pub ui_places: Box<[Span]>,
    /// A tool that its server's own user interface may call (MCP Apps): by the name that the server gave it.
    pub for_apps: bool,
    /// Its pin, where callers of its server may be shown different things (`ServerCatalog::mark`); `None` elsewhere.
    pub pin: Option<Pin>,
    /// Callers were shown it, and the gateway itself was not.
    pub of_callers: bool,
}

impl Item {
    /// The id of what has no number; no table has such a row.
    pub const UNNUMBERED: ItemId = ItemId(u32::MAX);

    /// An entry of this name and no definition: what is known of it to those who decide.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            raw: Box::default(),
            params: Box::default(),
            id: Self::UNNUMBERED,
            name_place: Span::default(),
            ui_places: Box::default(),
            for_apps: false,
            pin: None,
            of_callers: false,
        }
    }
}

/// A list of one server, all pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the server's order.
    pub items: Vec<Item>,
    /// How long it may be kept, milliseconds: the least of its pages; `None` when the server does not say.
    pub ttl_ms: Option<u64>,
    /// Whether the server lets anyone see it (`cacheScope: public` on every page).
    pub public: bool,
    /// What it has besides and is not shown: by these names nobody else of its endpoint is meant either. At most
    /// `LIST_ITEMS_MAX`.
    pub held: Vec<Box<str>>,
}

/// What a server offers in one era.
#[derive(Clone, Debug, PartialEq)]
pub struct EraCatalog {
    /// The revision to speak with it.
    pub protocol: Revision,
    /// Its capabilities, an object.
    pub capabilities: Value,
    /// Its `serverInfo`, as it wrote it.
    pub server_info: Option<Box<[u8]>>,
    /// Its `instructions`.
    pub instructions: Option<Box<str>>,
    /// It answers lists as event streams.
    pub events: bool,
    /// Its lists, by `ListKind::index`; `None` for one it does not offer.
    pub lists: [Option<Listing>; 4],
}

/// What a server offers. One that speaks both eras has both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerCatalog {
    /// To callers of the modern era.
    pub modern: Option<EraCatalog>,
    /// To callers of the legacy era.
    pub legacy: Option<EraCatalog>,
    /// How it is spoken to.
    pub transport: Transport,
}

/// What all servers offer.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    servers: Vec<Option<ServerCatalog>>,
    /// By server, then by `Numbered`.
    names: Vec<[Names; 2]>,
    /// By `ItemId`.
    items: Vec<Owned>,
    /// By server: since when its surveys have failed, milliseconds since 1970.
    stale: Vec<Option<u64>>,
    /// By server: how often an operator's approval changed what is shown of it.
    approvals: Vec<u64>,
}

/// How much a server's part of the catalogue is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogState {
    /// The server has never been surveyed with success.
    Missing,
    /// Its last survey succeeded.
    Fresh,
    /// What it offered once: every survey since then has failed.
    Stale {
        /// When the first of them did, milliseconds since 1970.
        since_unix_ms: u64,
    },
}

type Names = HashMap<Box<str>, Place, foldhash::fast::RandomState>;

/// What a name stands for: its number, and where its definitions are.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: ItemId,
    /// Index into the list of an era, by `Era`.
    rows: [Option<u32>; 2],
}

/// Whose an id is.
#[derive(Clone, Debug)]
struct Owned {
    server: ServerId,
    kind: ListKind,
    name: Box<str>,
    /// Some definition of it has arguments that go in the head.
    params: bool,
}

/// One page of a list, as far as it is usable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the server's order.
    pub items: Vec<Item>,
    /// Where the next page starts; the empty string is a cursor too.
    pub next_cursor: Option<String>,
    /// How long it may be kept, milliseconds; `None` when the server does not say.
    pub ttl_ms: Option<u64>,
    /// Whether `cacheScope` is `public`.
    pub public: bool,
    /// What was left out: its name, as far as it had one, and why.
    pub dropped: Vec<(String, DropWhy)>,
}

/// Why a definition is left out of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DropWhy {
    /// No name, an empty or too long one, or one with control characters.
    #[error("its name cannot be used")]
    Name,
    /// Larger than `DEFINITION_BYTES_MAX`.
    #[error("its definition is too large")]
    Size,
    /// The list has an entry of this name already.
    #[error("its name is taken")]
    Duplicate,
    /// Not an object, or a tool whose `inputSchema` is not an object schema.
    #[error("its definition is malformed")]
    Malformed,
    /// Its `x-mcp-header` annotations are invalid.
    #[error("{0}")]
    Header(#[from] SchemaFault),
    /// One of its schemas refers to another document: nothing is fetched, and a client that did would be led by the
    /// server (MCP 2026-07-28 basic, "JSON Schema").
    #[error("a schema of it refers to another document")]
    Reference,
    /// The list is longer than `LIST_ITEMS_MAX`.
    #[error("the list is too long")]
    TooMany,
}

/// Why a server's answer cannot be taken into the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CatalogFault {
    /// Not the result of the method asked.
    #[error("the result is not what was asked for")]
    Malformed,
    /// The server speaks no revision of ours.
    #[error("no common protocol version")]
    Version,
}

impl ListKind {
    /// All of them, by index.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The member of a result that holds the list.
    #[must_use]
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The capability without which a server has no such list.
    #[must_use]
    pub fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources | Self::Templates => "resources",
        }
    }

    /// The method that asks for it.
    #[must_use]
    pub fn wire(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// Place in `EraCatalog::lists`.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Tools => 0,
            Self::Prompts => 1,
            Self::Resources => 2,
            Self::Templates => 3,
        }
    }
}

impl Listing {
    /// Adds a page behind the ones it has; tells what was left out, of the page and now: names taken by earlier pages,
    /// and what is beyond `LIST_ITEMS_MAX`.
    pub fn add(&mut self, page: Page) -> Vec<(String, DropWhy)> {
        let first = self.items.is_empty();
        self.public = page.public && (first || self.public);
        self.ttl_ms = if first { page.ttl_ms } else { self.ttl_ms.zip(page.ttl_ms).map(|(one, other)| one.min(other)) };
        let mut dropped = page.dropped;
        // The page's own names are distinct already.
        let taken: HashSet<&str> = self.items.iter().map(|item| &*item.name).collect();
        let (known, mut fresh): (Vec<Item>, Vec<Item>) =
            page.items.into_iter().partition(|item| taken.contains(&*item.name));
        let room = LIST_ITEMS_MAX.saturating_sub(self.items.len()).min(fresh.len());
        dropped.extend(known.into_iter().map(|item| (item.name.into(), DropWhy::Duplicate)));
        dropped.extend(fresh.drain(room..).map(|item| (item.name.into(), DropWhy::TooMany)));
        self.items.append(&mut fresh);
        let is_named =
            |(name, why): &&(String, DropWhy)| !name.is_empty() && !matches!(why, DropWhy::Name | DropWhy::Duplicate);
        dropped.iter().filter(is_named).for_each(|(name, _)| self.hold(name.as_str().into()));
        dropped
    }

    /// Keeps a name that the server has and that is not shown.
    fn hold(&mut self, name: Box<str>) {
        if self.held.len() < LIST_ITEMS_MAX {
            self.held.push(name);
        }
    }

    /// Hides the entries of these names; the names stay taken.
    pub fn hide(&mut self, is_hidden: impl Fn(&str) -> bool) {
        let (hidden, shown) = std::mem::take(&mut self.items).into_iter().partition(|item| is_hidden(&item.name));
        self.items = shown;
        hidden.into_iter().for_each(|item: Item| self.hold(item.name));
    }
}

impl ServerCatalog {
    /// What it offers in this era.
    #[must_use]
    pub fn era(&self, era: Era) -> Option<&EraCatalog> {
        match era {
            Era::Modern => self.modern.as_ref(),
            Era::Legacy => self.legacy.as_ref(),
        }
    }

    /// Gives all that it has its pin, and says whether callers were shown it or the gateway itself.
    pub fn mark(&mut self, of_callers: bool) {
        for era in [self.modern.as_mut(), self.legacy.as_mut()].into_iter().flatten() {
            for kind in ListKind::ALL {
                for item in era.lists[kind.index()].iter_mut().flat_map(|list| &mut list.items) {
                    item.pin = pin::pin(kind, &item.raw);
                    item.of_callers = of_callers;
                }
            }
        }
    }
}

impl EraCatalog {
    /// One of its lists.
    #[must_use]
    pub fn list(&self, kind: ListKind) -> Option<&Listing> {
        self.lists[kind.index()].as_ref()
    }
}

impl Catalog {
    /// Numbers the tools and prompts of all servers (by `ServerId`; `None` = not yet known): one id for each distinct
    /// server, kind and name, the same in both eras, from 0 without gaps. Beyond `ITEMS_MAX` the later ones leave
    /// their lists.
    #[must_use]
    pub fn build(mut servers: Vec<Option<ServerCatalog>>) -> Self {
        let mut names: Vec<[Names; 2]> = Vec::with_capacity(servers.len());
        let mut items = Vec::new();
        for (index, server) in servers.iter_mut().enumerate() {
            let mut tables = [Names::default(), Names::default()];
            for (era, offer) in server.iter_mut().flat_map(ServerCatalog::eras) {
                for (table, kind) in tables.iter_mut().zip(NUMBERED) {
                    let Some(listing) = &mut offer.lists[kind.index()] else {
                        continue;
                    };
                    number(table, listing, era, &mut |name: &str| {
                        let id = ItemId::from_index(items.len());
                        (items.len() < ITEMS_MAX).then(|| {
                            let server = ServerId::from_index(index);
                            items.push(Owned { server, kind, name: name.into(), params: false });
                            id
                        })
                    });
                    for item in listing.items.iter().filter(|item| !item.params.is_empty()) {
                        if let Some(owned) = items.get_mut(item.id.index()) {
                            owned.params = true;
                        }
                    }
                }
            }
            names.push(tables);
        }
        let stale = vec![None; servers.len()];
        let approvals = vec![0; servers.len()];
        Self { servers, names, items, stale, approvals }
    }

    /// An operator's approvals have changed what is shown of the server so often since the start.
    pub fn mark_approvals(&mut self, server: ServerId, count: u64) {
        if let Some(approvals) = self.approvals.get_mut(server.index()) {
            *approvals = count;
        }
    }

    /// How often an operator's approval has changed what is shown of the server: a change of its lists of which the
    /// server itself says nothing.
    #[must_use]
    pub fn approvals(&self, server: ServerId) -> u64 {
        self.approvals.get(server.index()).copied().unwrap_or(0)
    }

    /// The server's surveys have failed since then, milliseconds since 1970: what is known of it is kept.
    pub fn mark_stale(&mut self, server: ServerId, since_unix_ms: u64) {
        if let Some(stale) = self.stale.get_mut(server.index()) {
            *stale = Some(since_unix_ms);
        }
    }

    /// How much is to be thought of what is known of the server. An id of another catalogue is `Missing`.
    #[must_use]
    pub fn state(&self, server: ServerId) -> CatalogState {
        match self.stale.get(server.index()) {
            _ if !self.known(server) => CatalogState::Missing,
            Some(Some(since_unix_ms)) => CatalogState::Stale { since_unix_ms: *since_unix_ms },
            _ => CatalogState::Fresh,
        }
    }

    /// How many ids were given: every `ItemId` is below this.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// The server, kind and name behind each id, in order of id.
    pub fn numbered(&self) -> impl Iterator<Item = (ItemId, ServerId, ListKind, &str)> {
        let rows = self.items.iter().enumerate();
        rows.map(|(index, item)| (ItemId::from_index(index), item.server, item.kind, &*item.name))
    }

    /// Whether some definition of a tool has arguments that go in the head, too; also where the id is not known here.
    #[must_use]
    pub fn may_have_params(&self, id: ItemId) -> bool {
        self.items.get(id.index()).is_none_or(|item| item.params)
    }

    /// How many servers there are, known or not.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Everything one server offers; `None` when it is not yet known.
    #[must_use]
    pub fn server(&self, server: ServerId) -> Option<&ServerCatalog> {
        self.servers.get(server.index())?.as_ref()
    }

    /// Whether the server has been asked with success.
    #[must_use]
    pub fn known(&self, server: ServerId) -> bool {
        self.server(server).is_some()
    }

    /// The id of a tool, in whichever era it is offered.
    #[must_use]
    pub fn tool(&self, server: ServerId, name: &str) -> Option<ItemId> {
        Some(self.place(server, ListKind::Tools, name)?.id)
    }

    /// The id of a prompt, in whichever era it is offered.
    #[must_use]
    pub fn prompt(&self, server: ServerId, name: &str) -> Option<ItemId> {
        Some(self.place(server, ListKind::Prompts, name)?.id)
    }

    /// The definition of a tool in this era.
    #[must_use]
    pub fn tool_item(&self, server: ServerId, era: Era, name: &str) -> Option<&Item> {
        self.item(server, ListKind::Tools, era, name)
    }

    /// The definition of a prompt in this era.
    #[must_use]
    pub fn prompt_item(&self, server: ServerId, era: Era, name: &str) -> Option<&Item> {
        self.item(server, ListKind::Prompts, era, name)
    }

    fn place(&self, server: ServerId, kind: ListKind, name: &str) -> Option<&Place> {
        self.names.get(server.index())?.get(kind.index())?.get(name)
    }

    fn item(&self, server: ServerId, kind: ListKind, era: Era, name: &str) -> Option<&Item> {
        let row = self.place(server, kind, name)?.rows[era as usize]?;
        self.server(server)?.era(era)?.list(kind)?.items.get(row as usize)
    }
}

/// Gives ids to one list of one era, `next` making new ones while there are any. What gets none leaves the list.
fn number(table: &mut Names, listing: &mut Listing, era: Era, next: &mut dyn FnMut(&str) -> Option<ItemId>) {
    let mut row = 0_u32;
    listing.items.retain_mut(|item| {
        if !table.contains_key(&item.name) {
            let Some(id) = next(&item.name) else {
                return false;
            };
            table.insert(item.name.clone(), Place { id, rows: [None; 2] });
        }
        let Some(place) = table.get_mut(&item.name) else {
            return false;
        };
        // A name twice in one list has one definition: the first.
        if place.rows[era as usize].is_some() {
            return false;
        }
        place.rows[era as usize] = Some(row);
        item.id = place.id;
        row += 1;
        true
    });
}

/// Reads one page of a list: the `result` object of an answer that passed the scanner. Definitions that cannot be used
/// are left out, the rest is kept.
///
/// # Errors
/// `CatalogFault::Malformed` when it is no such result.
pub fn read_page(kind: ListKind, result: &[u8]) -> Result<Page, CatalogFault> {
    let malformed = |_| CatalogFault::Malformed;
    let result: ListResult<'_> = serde_json::from_slice(result).map_err(malformed)?;
    let list = match kind {
        ListKind::Tools => result.tools,
        ListKind::Prompts => result.prompts,
        ListKind::Resources => result.resources,
        ListKind::Templates => result.templates,
    };
    let list = list.ok_or(CatalogFault::Malformed)?;
    let mut page = Page {
        next_cursor: result.next_cursor,
        ttl_ms: result.ttl_ms.as_ref().and_then(milliseconds),
        public: result.cache_scope.as_ref().and_then(Value::as_str) == Some("public"),
        ..Page::default()
    };
    let mut taken: HashSet<Box<str>> = HashSet::new();
    for raw in list {
        match definition(kind, raw.get()) {
            Ok(item) if page.items.len() == LIST_ITEMS_MAX => page.dropped.push((item.name.into(), DropWhy::TooMany)),
            Ok(item) if !taken.insert(item.name.clone()) => page.dropped.push((item.name.into(), DropWhy::Duplicate)),
            Ok(item) => page.items.push(item),
            Err(dropped) => page.dropped.push(dropped),
        }
    }
    Ok(page)
}

/// Whether a capability of this name is declared.
#[must_use]
pub fn capability(catalog: &EraCatalog, name: &str) -> bool {
    catalog.capabilities.get(name).is_some_and(Value::is_object)
}

/// Whether an extension of this name is declared.
#[must_use]
pub fn extension(catalog: &EraCatalog, name: &str) -> bool {
    let extensions = catalog.capabilities.get("extensions");
    extensions.and_then(|extensions| extensions.get(name)).is_some_and(Value::is_object)
}

/// Writes the `result` object of a list that the gateway answers itself, on one page. `server_info` (JSON text) goes
/// into the `_meta` of a modern answer. What one caller may see is nobody else's, so a modern answer is always private
/// (MCP 2026-07-28 server/utilities/caching).
pub fn write_list_result<'a>(
    out: &mut Vec<u8>,
    kind: ListKind,
    era: Era,
    items: impl Iterator<Item = &'a Item>,
    ttl_ms: u64,
    server_info: Option<&[u8]>,
) {
    out.extend_from_slice(match era {
        Era::Modern => b"{\"resultType\":\"complete\",\"",
        Era::Legacy => b"{\"",
    });
    out.extend_from_slice(kind.member().as_bytes());
    out.extend_from_slice(b"\":[");
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&item.raw);
    }
    out.push(b']');
    if era == Era::Modern {
        out.extend_from_slice(b",\"ttlMs\":");
        out.extend_from_slice(itoa::Buffer::new().format(ttl_ms).as_bytes());
        out.extend_from_slice(b",\"cacheScope\":\"private\"");
        if let Some(server_info) = server_info {
            out.extend_from_slice(b",\"_meta\":{\"io.modelcontextprotocol/serverInfo\":");
            out.extend_from_slice(server_info);
            out.push(b'}');
        }
    }
    out.push(b'}');
}

/// A non-negative number of milliseconds; negative ones mean 0 (MCP 2026-07-28 server/utilities/caching).
pub(crate) fn milliseconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_i64().map(|_| 0))
}

/// The kinds that have numbers, by their index in a server's tables: the same as `ListKind::index`.
const NUMBERED: [ListKind; 2] = [ListKind::Tools, ListKind::Prompts];
const _: () = assert!(LIST_ITEMS_MAX <= u32::MAX as usize, "a row of a list fits 32 bits");

impl ServerCatalog {
    fn eras(&mut self) -> impl Iterator<Item = (Era, &mut EraCatalog)> {
        let modern = self.modern.iter_mut().map(|offer| (Era::Modern, offer));
        modern.chain(self.legacy.iter_mut().map(|offer| (Era::Legacy, offer)))
    }
}

/// The result of any of the four list methods.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListResult<'a> {
    #[serde(borrow, default)]
    tools: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    prompts: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    resources: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default, rename = "resourceTemplates")]
    templates: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    next_cursor: Option<String>,
    #[serde(default)]
    ttl_ms: Option<Value>,
    #[serde(default)]
    cache_scope: Option<Value>,
}

/// Reads one definition, or says by what name and why it is left out.
fn definition(kind: ListKind, raw: &str) -> Result<Item, (String, DropWhy)> {
    if raw.len() > DEFINITION_BYTES_MAX {
        return Err((String::new(), DropWhy::Size));
    }
    let value: Value = serde_json::from_str(raw).map_err(|_| (String::new(), DropWhy::Malformed))?;
    if !value.is_object() {
        return Err((String::new(), DropWhy::Malformed));
    }
    let named_by = match kind {
        ListKind::Tools | ListKind::Prompts => "name",
        ListKind::Resources => "uri",
        ListKind::Templates => "uriTemplate",
    };
    let name = value.get(named_by).and_then(Value::as_str).unwrap_or_default();
    let short = !matches!(kind, ListKind::Tools | ListKind::Prompts) || name.len() <= ITEM_NAME_BYTES_MAX;
    if name.is_empty() || !short || name.chars().any(char::is_control) {
        let shown = name.chars().filter(|character| !character.is_control()).take(64).collect();
        return Err((shown, DropWhy::Name));
    }
    let params = match kind {
        ListKind::Tools => tool_params(&value).map_err(|why| (name.to_owned(), why))?,
        _ => Vec::new(),
    };
    let malformed = || (name.to_owned(), DropWhy::Malformed);
    let bytes = raw.as_bytes();
    let name_place = walk::member(bytes, walk::whole(bytes), named_by).ok_or_else(malformed)?;
    // Both readers must mean the same: what is decided on is what is shown.
    if !text::unescape(text::inside(name_place.of(bytes)), &mut Vec::new()).is_ok_and(|text| text == name) {
        return Err(malformed());
    }
    let (ui_places, for_apps) = if kind == ListKind::Tools { user_interface(bytes) } else { Default::default() };
    Ok(Item {
        name: name.into(),
        raw: bytes.into(),
        params: params.into(),
        id: Item::UNNUMBERED,
        name_place,
        ui_places: ui_places.into(),
        for_apps,
        pin: None,
        of_callers: false,
    })
}

/// Where a tool names its user interface, and whether that may call it (MCP Apps, SEP-1865: a tool is for the model and
/// for apps where `visibility` does not say otherwise).
fn user_interface(tool: &[u8]) -> (Vec<Span>, bool) {
    let Some(meta) = walk::member(tool, walk::whole(tool), "_meta") else {
        return (Vec::new(), false);
    };
    let flat = walk::member(tool, meta, "ui/resourceUri").filter(|place| walk::string(tool, *place).is_some());
    let ui = walk::member(tool, meta, "ui").filter(|ui| ui.of(tool).first() == Some(&b'{'));
    let nested = ui.and_then(|ui| walk::member(tool, ui, "resourceUri"));
    let mut places: Vec<Span> =
        flat.into_iter().chain(nested.filter(|place| walk::string(tool, *place).is_some())).collect();
    places.sort_unstable_by_key(|place| place.start);
    let visible = ui.and_then(|ui| walk::member(tool, ui, "visibility"));
    let to_apps = visible
        .is_none_or(|list| walk::elements(tool, list).any(|who| text::same_text(text::inside(who.of(tool)), b"app")));
    let has_one = ui.is_some() || flat.is_some();
    (places, has_one && to_apps)
}

/// The headers of a tool, once its schema is one for an object.
fn tool_params(tool: &Value) -> Result<Vec<ParamHeader>, DropWhy> {
    let schema = tool.get("inputSchema").ok_or(DropWhy::Malformed)?;
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err(DropWhy::Malformed);
    }
    if [Some(schema), tool.get("outputSchema")].into_iter().flatten().any(refers_out) {
        return Err(DropWhy::Reference);
    }
    Ok(param_headers(schema)?)
}

/// Whether anything in a schema refers to somewhere else than itself. Examples and constants count too: readers that
/// resolve references first do not know what a schema is.
fn refers_out(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => members.iter().any(|(name, value)| {
            let leads = matches!(name.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef");
            let out = value.as_str().is_some_and(|target| !target.starts_with('#'));
            leads && out || refers_out(value)
        }),
        Value::Array(list) => list.iter().any(refers_out),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: ListKind, result: &Value, names: &[&str], dropped: &[(&str, DropWhy)]) -> Page {
        let page = read_page(kind, result.to_string().as_bytes()).unwrap();
        assert_eq!(page.items.iter().map(|item| &*item.name).collect::<Vec<_>>(), names);
        let left_out: Vec<_> = page.dropped.iter().map(|(name, why)| (name.as_str(), *why)).collect();
        assert_eq!(left_out, dropped);
        page
    }

    fn tool(name: &str) -> Value {
        json!({"name": name, "inputSchema": {"type": "object"}})
    }

    #[test]
    fn pages_keep_what_can_be_used() {
        let bad_header = json!({"name": "h", "inputSchema": {"type": "object", "properties":
            {"a": {"type": "number", "x-mcp-header": "A"}}}});
        let big = json!({"name": "big", "description": "x".repeat(DEFINITION_BYTES_MAX)});
        let tools = json!([
            tool("a"), tool("a"), tool(""), tool("n\u{0}ul"), tool(&"x".repeat(ITEM_NAME_BYTES_MAX + 1)),
            bad_header, big,
            {"name": "no schema"}, {"name": "array", "inputSchema": {"type": "array"}}, "text", {"inputSchema": {}},
            tool("b"),
        ]);
        let long = "x".repeat(64);
        let page = check(
            ListKind::Tools,
            &json!({"tools": tools, "nextCursor": "", "ttlMs": 5, "cacheScope": "public", "resultType": "complete"}),
            &["a", "b"],
            &[
                ("a", DropWhy::Duplicate),
                ("", DropWhy::Name),
                ("nul", DropWhy::Name),
                (&long, DropWhy::Name),
                ("h", DropWhy::Header(SchemaFault::Type)),
                ("", DropWhy::Size),
                ("no schema", DropWhy::Malformed),
                ("array", DropWhy::Malformed),
                ("", DropWhy::Malformed),
                ("", DropWhy::Name),
            ],
        );
        assert_eq!((page.next_cursor.as_deref(), page.ttl_ms, page.public), (Some(""), Some(5), true));
    }

    #[test]
    fn references_stay_within_a_definition() {
        let with = |name: &str, input: Value, output: Value| json!({"name": name, "inputSchema": {"type": "object", "properties": {"a": input}}, "outputSchema": output});
        let tools = json!([
            with("inside", json!({"$ref": "#/$defs/a"}), json!({"$ref": "#"})),
            with("property", json!({"properties": {"$ref": {"type": "string"}}}), json!({})),
            with("anchor", json!({"$dynamicRef": "#node"}), json!(true)),
            with("web", json!({"$ref": "https://evil.test/schema.json"}), json!({})),
            with("file", json!({"items": [{"$ref": "file:///etc/passwd#/a"}]}), json!({})),
            with("relative", json!({}), json!({"anyOf": [{"$dynamicRef": "other.json"}]})),
            with("old", json!({"$recursiveRef": ""}), json!({})),
            tool("last"),
        ]);
        let why = DropWhy::Reference;
        check(
            ListKind::Tools,
            &json!({"tools": tools}),
            &["inside", "property", "anchor", "last"],
            &[("web", why), ("file", why), ("relative", why), ("old", why)],
        );
    }

    #[test]
    fn each_list_has_its_member_and_its_name() {
        check(ListKind::Prompts, &json!({"prompts": [{"name": "p"}]}), &["p"], &[]);
        let many = json!({"resources": [{"uri": "file:///a", "name": "n"}, {"name": "n"}]});
        check(ListKind::Resources, &many, &["file:///a"], &[("", DropWhy::Name)]);
        let templates = json!({"resourceTemplates": [{"uriTemplate": "file:///{path}", "name": "n"}], "ttlMs": -3});
        assert_eq!(check(ListKind::Templates, &templates, &["file:///{path}"], &[]).ttl_ms, Some(0));
        let wrong = [
            json!({"tools": []}),
            json!({}),
            json!({"prompts": {}}),
            json!([]),
            json!({"prompts": [], "nextCursor": 1}),
        ];
        for result in wrong {
            assert_eq!(read_page(ListKind::Prompts, result.to_string().as_bytes()), Err(CatalogFault::Malformed));
        }
    }

    #[test]
    fn definitions_keep_their_bytes() {
        let schema = r#"{"type":"object","properties":{"r":{"type":"string","x-mcp-header":"R"}}}"#;
        let raw = format!(r#"{{ "name":"a\u0062", "x" : 1.50, "inputSchema":{schema} }}"#);
        let page = read_page(ListKind::Tools, format!("{{\"tools\":[ {raw} ]}}").as_bytes()).unwrap();
        assert_eq!((&*page.items[0].name, &*page.items[0].raw), ("ab", raw.as_bytes()));
        assert_eq!(&*page.items[0].params[0].header, "R");
        assert_eq!(page.items[0].id, Item::UNNUMBERED);
    }

    #[test]
    fn pages_add_up() {
        let page = |names: &[&str], ttl_ms: Value, scope: &str| {
            let tools: Vec<Value> = names.iter().map(|name| tool(name)).collect();
            let result = json!({"tools": tools, "ttlMs": ttl_ms, "cacheScope": scope});
            read_page(ListKind::Tools, result.to_string().as_bytes()).unwrap()
        };
        let mut listing = Listing::default();
        assert_eq!(listing.add(page(&["a", "b"], json!(9), "public")), []);
        assert_eq!(listing.add(page(&["b", "c"], json!(7), "public")), [("b".to_owned(), DropWhy::Duplicate)]);
        assert_eq!((listing.items.len(), listing.ttl_ms, listing.public), (3, Some(7), true));
        listing.add(page(&["d"], Value::Null, "private"));
        assert_eq!((listing.items.len(), listing.ttl_ms, listing.public), (4, None, false));
        let many: Vec<String> = (0..LIST_ITEMS_MAX).map(|n| format!("t{n}")).collect();
        let dropped = listing.add(page(&many.iter().map(String::as_str).collect::<Vec<_>>(), json!(1), "public"));
        assert_eq!((listing.items.len(), dropped.len()), (LIST_ITEMS_MAX, 4));
        assert_eq!(dropped[3], (format!("t{}", LIST_ITEMS_MAX - 1), DropWhy::TooMany));
    }

    fn offer(protocol: Revision, tools: &[&str], prompts: &[&str]) -> EraCatalog {
        let listing = |names: &[&str]| Listing {
            items: names
                .iter()
                .map(|name| {
                    let raw = format!("{{\"{}\":\"{name}\"}}", protocol.as_str());
                    Item { raw: raw.into_bytes().into(), ..Item::named(name) }
                })
                .collect(),
            ..Listing::default()
        };
        let lists = [Some(listing(tools)), Some(listing(prompts)), Some(listing(&["file:///x"])), None];
        EraCatalog {
            protocol,
            events: false,
            capabilities: json!({"tools": {}, "logging": null}),
            server_info: None,
            instructions: None,
            lists,
        }
    }

    #[test]
    fn numbers_are_dense_and_the_same_in_both_eras() {
        let catalog = Catalog::build(vec![
            Some(ServerCatalog {
                modern: Some(offer(Revision::R2026_07_28, &["a", "b"], &["a"])),
                legacy: Some(offer(Revision::R2025_11_25, &["b", "c"], &[])),
                ..ServerCatalog::default()
            }),
            None,
            Some(ServerCatalog {
                legacy: Some(offer(Revision::R2025_06_18, &["a", "a"], &[])),
                ..ServerCatalog::default()
            }),
        ]);
        let numbered: Vec<_> =
            catalog.numbered().map(|(id, server, kind, name)| (id.0, server.0, kind, name)).collect();
        assert_eq!(
            numbered,
            [
                (0, 0, ListKind::Tools, "a"),
                (1, 0, ListKind::Tools, "b"),
                (2, 0, ListKind::Prompts, "a"),
                (3, 0, ListKind::Tools, "c"),
                (4, 2, ListKind::Tools, "a"),
            ]
        );
        assert_eq!((catalog.items(), catalog.servers()), (5, 3));
        for (id, server, kind, name) in catalog.numbered() {
            let found = if kind == ListKind::Tools { catalog.tool(server, name) } else { catalog.prompt(server, name) };
            assert_eq!(found, Some(id));
        }
        let (first, unknown, last) = (ServerId(0), ServerId(1), ServerId(2));
        assert!(catalog.known(first) && !catalog.known(unknown) && catalog.known(last) && !catalog.known(ServerId(9)));
        let mut aged = catalog.clone();
        aged.mark_stale(last, 7);
        aged.mark_stale(unknown, 7);
        aged.mark_stale(ServerId(9), 7);
        assert_eq!(aged.state(first), CatalogState::Fresh);
        assert_eq!(aged.state(last), CatalogState::Stale { since_unix_ms: 7 });
        assert_eq!((aged.state(unknown), aged.state(ServerId(9))), (CatalogState::Missing, CatalogState::Missing));
        assert_eq!(catalog.tool(first, "A"), None);
        assert_eq!(catalog.tool(unknown, "a"), None);
        assert_eq!(catalog.tool(ServerId(9), "a"), None);
        assert_eq!(catalog.prompt(last, "a"), None);
        let b = |era| catalog.tool_item(first, era, "b").unwrap();
        assert_eq!((b(Era::Modern).id, b(Era::Legacy).id), (ItemId(1), ItemId(1)));
        assert_eq!(
            (&*b(Era::Modern).raw, &*b(Era::Legacy).raw),
            (&br#"{"2026-07-28":"b"}"#[..], &br#"{"2025-11-25":"b"}"#[..])
        );
        assert_eq!(catalog.tool_item(first, Era::Legacy, "a"), None);
        assert!(catalog.prompt_item(first, Era::Modern, "a").is_some());
        let lists = &catalog.server(last).unwrap().legacy.as_ref().unwrap().lists;
        assert_eq!(lists[0].as_ref().unwrap().items.len(), 1, "a name twice in a list counts once");
        assert_eq!(lists[2].as_ref().unwrap().items[0].id, Item::UNNUMBERED);
    }

    #[test]
    fn there_are_only_so_many_numbers() {
        let names: Vec<String> = (0..LIST_ITEMS_MAX).map(|n| format!("t{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let server =
            || Some(ServerCatalog { modern: Some(offer(Revision::NEWEST, &names, &[])), ..ServerCatalog::default() });
        let servers = ITEMS_MAX / LIST_ITEMS_MAX + 1;
        let catalog = Catalog::build((0..servers).map(|_| server()).collect());
        assert_eq!(catalog.items(), ITEMS_MAX);
        let last = ServerId::from_index(servers - 1);
        let left = catalog.server(last).unwrap().era(Era::Modern).unwrap().list(ListKind::Tools).unwrap().items.len();
        assert_eq!(left, ITEMS_MAX % LIST_ITEMS_MAX);
        assert!(catalog.tool_item(last, Era::Modern, names[left - 1]).is_some());
        assert!(catalog.tool(last, names[left]).is_none());
    }

    #[test]
    fn capabilities_are_objects() {
        let offer = offer(Revision::NEWEST, &[], &[]);
        assert!(capability(&offer, "tools") && !capability(&offer, "logging") && !capability(&offer, "prompts"));
    }

    #[test]
    fn lists_are_written_for_their_era() {
        let offer = offer(Revision::NEWEST, &["a", "b"], &[]);
        let written = |kind: ListKind, era, info: Option<&str>| {
            let mut out = Vec::new();
            let items = offer.list(kind).into_iter().flat_map(|listing| &listing.items);
            write_list_result(&mut out, kind, era, items, 60_000, info.map(str::as_bytes));
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        let tools = json!([{"2026-07-28": "a"}, {"2026-07-28": "b"}]);
        assert_eq!(written(ListKind::Tools, Era::Legacy, Some("{}")), json!({"tools": tools}));
        assert_eq!(written(ListKind::Prompts, Era::Legacy, None), json!({"prompts": []}));
        assert_eq!(
            written(ListKind::Tools, Era::Modern, Some(r#"{"name":"p"}"#)),
            json!({"resultType": "complete", "tools": tools, "ttlMs": 60_000, "cacheScope": "private",
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "p"}}})
        );
        assert_eq!(
            written(ListKind::Templates, Era::Modern, None),
            json!({"resultType": "complete", "resourceTemplates": [], "ttlMs": 60_000, "cacheScope": "private"})
        );
    }
}
