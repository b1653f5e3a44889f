//! Several servers behind one endpoint: whose a name or a URI is, and what the client calls it.
//!
//! Nothing here decides what a caller may do. What it does hold: each name and URI of each server has exactly one
//! exposed form, which leads back to that server and nobody else.

mod names;
pub mod rewrite;
mod templates;
#[cfg(test)]
mod tests;
mod uris;
pub mod write;

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::HashMap;
use smallvec::SmallVec;

use self::names::Names;
use self::uris::Uris;
use crate::base::bits::Bits;
use crate::base::ids::ServerId;
use crate::base::limits::{MERGE_WARNINGS_MAX, TOOL_NAME_CHARACTERS_WARN};
use crate::mcp::catalog::{Catalog, EraCatalog, Item, ListKind, capability};
use crate::mcp::revision::Era;

/// One server of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its number.
    pub server: ServerId,
    /// Its name, `[a-z][a-z0-9-]*`.
    pub name: &'a str,
}

/// The servers of one endpoint as their client sees them.
#[derive(Debug)]
pub struct Merged {
    /// In the endpoint's order.
    parts: Box<[Part]>,
    servers: Box<[ServerId]>,
    /// By `ServerId`: its place in `parts`.
    places: Box<[Option<u16>]>,
    by_name: HashMap<Box<str>, u16, foldhash::fast::RandomState>,
    prefixed: bool,
    alone: Option<ServerId>,
    /// By `Era`.
    eras: [EraTable; 2],
}

#[derive(Debug)]
struct Part {
    server: ServerId,
    name: Box<str>,
    /// By `Era`: false only where it is known not to speak it.
    speaks: [bool; 2],
}

/// What is exposed in one era.
#[derive(Debug, Default)]
struct EraTable {
    /// Bare: all tools, all prompts. Prefixed: the tools that a server's own user interface may call.
    names: [Names; 2],
    uris: Uris,
    /// By member, then kind: the entries that are withheld (tools, prompts) or get a prefix (resources, templates).
    marked: Vec<[Bits; 4]>,
    /// By kind: changes with what is listed here, whoever asks.
    generations: [u64; 4],
}

/// Two servers of an endpoint with bare names have something of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// `Tools` or `Prompts`.
    pub kind: ListKind,
    /// The name.
    pub name: Box<str>,
    /// Whose is shown under it.
    pub kept: ServerId,
    /// Whose is neither shown nor called here.
    pub withheld: ServerId,
}

/// Something about an endpoint that its operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeWarning {
    /// A name that two servers have.
    Collision(Collision),
    /// A tool's exposed name is longer than `limits::TOOL_NAME_CHARACTERS_WARN` characters: common model providers refuse
    /// it.
    LongName {
        /// Whose tool it is.
        server: ServerId,
        /// As the client sees it.
        exposed: Box<str>,
    },
}

impl Merged {
    /// What these servers, in this order and known as `catalog` knows them, look like behind one endpoint; `prefixed`
    /// puts each one's name in front of its tools' and prompts'. At most `limits::MERGE_WARNINGS_MAX` warnings.
    #[must_use]
    pub fn build(members: &[Member<'_>], prefixed: bool, catalog: &Catalog) -> (Self, Vec<MergeWarning>) {
        Self::follow(None, members, prefixed, catalog)
    }

    /// The same, where the endpoint has looked like `before`: what a server had there that nothing is known of now stays
    /// its own until that is known again.
    #[must_use]
    pub fn follow(
        before: Option<&Self>,
        members: &[Member<'_>],
        prefixed: bool,
        catalog: &Catalog,
    ) -> (Self, Vec<MergeWarning>) {
        let alone = match members {
            [member] if !prefixed => Some(member.server),
            _ => None,
        };
        let part = |member: &Member<'_>| Part {
            server: member.server,
            name: member.name.into(),
            speaks: ERAS.map(|era| catalog.server(member.server).is_none_or(|server| server.era(era).is_some())),
        };
        let numbered = || (0_u16..).zip(members);
        let mut places = vec![None; members.iter().map(|member| member.server.index() + 1).max().unwrap_or(0)];
        numbered().for_each(|(at, member)| places[member.server.index()] = Some(at));
        let mut merged = Self {
            parts: members.iter().map(part).collect(),
            servers: members.iter().map(|member| member.server).collect(),
            places: places.into(),
            by_name: numbered().map(|(at, member)| (member.name.into(), at)).collect(),
            prefixed,
            alone,
            eras: Default::default(),
        };
        let mut warnings = Vec::new();
        if alone.is_none() {
            for era in ERAS {
                merged.eras[era as usize] = merged.table(era, catalog, before, &mut warnings);
            }
        }
        (merged, warnings)
    }

    /// The one server of an endpoint that shows it as it is: nothing has to be looked up or changed.
    #[must_use]
    #[inline]
    pub fn alone(&self) -> Option<ServerId> {
        self.alone
    }

    /// The servers, in the endpoint's order.
    #[must_use]
    pub fn servers(&self) -> &[ServerId] {
        &self.servers
    }

    /// Whether the names of tools and prompts have their server's in front.
    #[must_use]
    pub fn prefixed(&self) -> bool {
        self.prefixed
    }

    /// A tool's or prompt's exposed name: its server and its name there, which is always the end of the exposed one (or
    /// all of it). `None`: nobody's. Where names have a prefix, whether that server has such a thing is for whoever
    /// decides.
    #[must_use]
    pub fn resolve<'n>(&self, era: Era, kind: ListKind, exposed: &'n str) -> Option<(ServerId, &'n str)> {
        if let Some(server) = self.alone {
            return Some((server, exposed));
        }
        if self.prefixed
            && let Some((id, name)) = names::split(exposed)
            && let Some(at) = self.by_name.get(id)
        {
            return self.speaker(era, *at).map(|part| (part.server, name));
        }
        let names = self.eras[era as usize].names.get(kind.index())?;
        Some((self.part(names.owner(exposed)?)?.server, exposed))
    }

    /// A URI as the client wrote it: its server, and the URI there. `may` says of a server and its URI whether the
    /// caller may know of it; those it may not know of are passed over, so that what is hidden leads where it would if
    /// it did not exist. Where nobody is left, the one that it would be is named, for the record: the decision refuses
    /// it. `None`: nobody's.
    ///
    /// In order: a `mcp+SERVER:` in front (or `ui://mcp+SERVER+…`), who lists it, whose template it fits (the narrower
    /// first), who lists others of its scheme, of whom nothing is known yet, who has resources.
    #[must_use]
    pub fn route<'u>(
        &self,
        era: Era,
        uri: &'u str,
        may: &mut dyn FnMut(ServerId, &str) -> bool,
    ) -> Option<(ServerId, Cow<'u, str>)> {
        self.lead(era, uri, may, |uris| Box::new(uris.candidates(uri)))
    }

    /// The same for what a completion refers to: a template as it was listed, or a URI.
    #[must_use]
    pub fn route_template<'u>(
        &self,
        era: Era,
        template: &'u str,
        may: &mut dyn FnMut(ServerId, &str) -> bool,
    ) -> Option<(ServerId, Cow<'u, str>)> {
        self.lead(era, template, may, |uris| Box::new(uris.template_candidates(template)))
    }

    /// What the client calls this server's tool or prompt.
    #[must_use]
    pub fn expose_name<'n>(&self, server: ServerId, name: &'n str) -> Cow<'n, str> {
        match self.place(server).and_then(|at| self.part(at)) {
            Some(part) if self.prefixed => Cow::Owned([&part.name, names::MARK, name].concat()),
            _ => Cow::Borrowed(name),
        }
    }

    /// What the client calls this server's URI: the URI itself where it leads back, and where it is one of the web that
    /// nobody else lists; else with a prefix.
    #[must_use]
    pub fn expose_uri<'u>(&self, era: Era, server: ServerId, uri: &'u str) -> Cow<'u, str> {
        self.exposed(server, uri, |at| self.uri_leads_back(era, at, uri))
    }

    /// What the client calls this server's URI template. Every expansion of it leads back to the server.
    #[must_use]
    pub fn expose_template<'u>(&self, era: Era, server: ServerId, template: &'u str) -> Cow<'u, str> {
        self.exposed(server, template, |at| self.eras[era as usize].uris.template_leads_back(at, template))
    }

    /// Whether this entry of a server's list is neither listed nor called here: its name belongs to an earlier server.
    #[must_use]
    pub fn withheld(&self, era: Era, kind: ListKind, server: ServerId, item: &Item) -> bool {
        let bare = self.alone.is_none() && !self.prefixed;
        let names = self.eras[era as usize].names.get(kind.index()).filter(|_| bare);
        names.is_some_and(|names| names.owner(&item.name) != self.place(server))
    }

    /// A number that changes when what this endpoint lists of a kind does, whoever asks. The same in every process of
    /// this build.
    #[must_use]
    pub fn generation(&self, era: Era, kind: ListKind) -> u64 {
        self.eras[era as usize].generations[kind.index()]
    }

    /// A member that may speak this era.
    fn speaker(&self, era: Era, at: u16) -> Option<&Part> {
        self.part(at).filter(|part| part.speaks[era as usize])
    }

    fn part(&self, at: u16) -> Option<&Part> {
        self.parts.get(usize::from(at))
    }

    fn place(&self, server: ServerId) -> Option<u16> {
        *self.places.get(server.index())?
    }

    fn lead<'u, 'c>(
        &'c self,
        era: Era,
        uri: &'u str,
        may: &mut dyn FnMut(ServerId, &str) -> bool,
        candidates: impl FnOnce(&'c Uris) -> Box<dyn Iterator<Item = u16> + 'c>,
    ) -> Option<(ServerId, Cow<'u, str>)> {
        if let Some(server) = self.alone {
            return Some((server, Cow::Borrowed(uri)));
        }
        if let Some((at, own)) = self.unprefixed(uri) {
            return self.speaker(era, at).map(|part| (part.server, own));
        }
        let mut asked: SmallVec<[u16; 8]> = SmallVec::new();
        let uris = &self.eras[era as usize].uris;
        for at in candidates(uris) {
            let Some(part) = self.part(at).filter(|_| !asked.contains(&at)) else { continue };
            if may(part.server, uri) {
                return Some((part.server, Cow::Borrowed(uri)));
            }
            asked.push(at);
        }
        Some((self.part(uris.owner(uri)?)?.server, Cow::Borrowed(uri)))
    }

    /// The member named in front of a URI, and the URI there.
    fn unprefixed<'u>(&self, uri: &'u str) -> Option<(u16, Cow<'u, str>)> {
        let (id, own) = uris::unprefixed(uri)?;
        Some((*self.by_name.get(id)?, own))
    }

    fn uri_leads_back(&self, era: Era, at: u16, uri: &str) -> bool {
        self.unprefixed(uri).is_none() && self.eras[era as usize].uris.leads_back(at, uri)
    }

    fn exposed<'u>(&self, server: ServerId, text: &'u str, leads_back: impl FnOnce(u16) -> bool) -> Cow<'u, str> {
        match self.place(server).and_then(|at| Some((at, self.part(at)?))) {
            Some((at, part)) if self.alone.is_none() && !leads_back(at) => Cow::Owned(uris::prefixed(&part.name, text)),
            _ => Cow::Borrowed(text),
        }
    }

    fn table(&self, era: Era, catalog: &Catalog, before: Option<&Self>, warnings: &mut Vec<MergeWarning>) -> EraTable {
        let mut table = EraTable::default();
        table.marked.resize_with(self.parts.len(), Default::default);
        for (at, part) in (0_u16..).zip(&self.parts) {
            let Some(server) = catalog.server(part.server) else {
                table.uris.add_unknown(at);
                before.into_iter().for_each(|before| self.keep_taken(&mut table, era, at, before));
                continue;
            };
            let Some(offer) = server.era(era) else { continue };
            self.add_names(&mut table, at, offer, warnings);
            add_uris(&mut table.uris, at, offer);
        }
        if self.prefixed {
            self.keep_apps(era, catalog, &mut table);
        }
        table.uris.settle();
        self.mark_uris(era, catalog, &mut table);
        for kind in ListKind::ALL {
            table.generations[kind.index()] = self.digest(era, catalog, &table, kind);
        }
        table
    }

    /// The names of one member.
    fn add_names(&self, table: &mut EraTable, at: u16, offer: &EraCatalog, warnings: &mut Vec<MergeWarning>) {
        let mut warn = |warning: MergeWarning| {
            if warnings.len() < MERGE_WARNINGS_MAX && !warnings.contains(&warning) {
                warnings.push(warning);
            }
        };
        let server = self.parts[usize::from(at)].server;
        for kind in [ListKind::Tools, ListKind::Prompts] {
            let names = &mut table.names[kind.index()];
            for (row, item) in offer.list(kind).into_iter().flat_map(|list| &list.items).enumerate() {
                let exposed = self.expose_name(server, &item.name);
                let long = exposed.chars().nth(TOOL_NAME_CHARACTERS_WARN).is_some();
                if self.prefixed {
                    names.share(&item.name, at);
                } else if let Some(first) = names.take(&item.name, at) {
                    table.marked[usize::from(at)][kind.index()].set(row);
                    let kept = self.parts[usize::from(first)].server;
                    warn(MergeWarning::Collision(Collision { kind, name: item.name.clone(), kept, withheld: server }));
                    continue;
                }
                if long && kind == ListKind::Tools {
                    warn(MergeWarning::LongName { server, exposed: exposed.into() });
                }
            }
            offer.list(kind).into_iter().flat_map(|list| &list.held).for_each(|name| self.reserve(names, name, at));
        }
    }

    /// A name that is this member's, shown or not.
    fn reserve(&self, names: &mut Names, name: &str, at: u16) {
        if self.prefixed {
            names.share(name, at);
        } else {
            let _ = names.take(name, at);
        }
    }

    /// What a member of which nothing is known had when the endpoint looked like `before`: nobody else gets it while it
    /// may be back.
    fn keep_taken(&self, table: &mut EraTable, era: Era, at: u16, before: &Self) {
        let Some(then) = before.by_name.get(&self.parts[usize::from(at)].name) else { return };
        let known = &before.eras[era as usize];
        for (names, known) in table.names.iter_mut().zip(&known.names) {
            known.of(*then).for_each(|name| self.reserve(names, name, at));
        }
        table.uris.keep_taken(at, &known.uris, *then);
    }

    /// Of the shared names only those stay that are one server's alone and that its user interface may call: the HTML
    /// that a server wrote knows its tools by their own names (MCP Apps).
    fn keep_apps(&self, era: Era, catalog: &Catalog, table: &mut EraTable) {
        table.names[ListKind::Tools.index()].decide(|name, at| {
            let tool = self.part(at).and_then(|part| catalog.tool_item(part.server, era, name));
            tool.is_some_and(|tool| tool.for_apps)
        });
        table.names[ListKind::Prompts.index()] = Names::default();
    }

    fn mark_uris(&self, era: Era, catalog: &Catalog, table: &mut EraTable) {
        for (at, part) in (0_u16..).zip(&self.parts) {
            for kind in [ListKind::Resources, ListKind::Templates] {
                let items = catalog.server(part.server).and_then(|server| server.era(era)?.list(kind));
                for (row, item) in items.into_iter().flat_map(|list| &list.items).enumerate() {
                    let leads_back = match kind {
                        ListKind::Templates => table.uris.template_leads_back(at, &item.name),
                        _ => self.unprefixed(&item.name).is_none() && table.uris.leads_back(at, &item.name),
                    };
                    if !leads_back {
                        table.marked[usize::from(at)][kind.index()].set(row);
                    }
                }
            }
        }
    }

    fn digest(&self, era: Era, catalog: &Catalog, table: &EraTable, kind: ListKind) -> u64 {
        let mut hash = foldhash::quality::FixedState::default().build_hasher();
        self.prefixed.hash(&mut hash);
        for (at, part) in self.parts.iter().enumerate() {
            part.name.hash(&mut hash);
            let items = catalog.server(part.server).and_then(|server| server.era(era)?.list(kind));
            for (row, item) in items.into_iter().flat_map(|list| &list.items).enumerate() {
                item.raw.hash(&mut hash);
                table.marked[at][kind.index()].get(row).hash(&mut hash);
            }
        }
        hash.finish()
    }
}

/// What one member lists.
fn add_uris(uris: &mut Uris, at: u16, offer: &EraCatalog) {
    if capability(offer, ListKind::Resources.capability()) {
        uris.add(at);
    }
    let items = |kind| offer.list(kind).into_iter().flat_map(|list| &list.items);
    let held = |kind| offer.list(kind).into_iter().flat_map(|list| &list.held);
    items(ListKind::Resources).for_each(|item| uris.add_resource(at, &item.name));
    held(ListKind::Resources).for_each(|uri| uris.add_resource(at, uri));
    items(ListKind::Templates).for_each(|item| uris.add_template(at, &item.name));
    held(ListKind::Templates).for_each(|text| uris.add_template(at, text));
}

/// Both, by their numbers.
const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];
