//! URIs at an endpoint with several servers: whose one may be, and the prefix of those that cannot pass unchanged.

use std::borrow::Cow;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::templates::Template;
use crate::base::limits::{MERGED_LOOKS_MAX, MERGED_TEMPLATES_MAX};

/// Members, in the endpoint's order.
pub(super) type Claims = SmallVec<[u16; 2]>;

type Table<T> = HashMap<Box<str>, T, foldhash::fast::RandomState>;

/// The URIs of one era.
#[derive(Debug, Default)]
pub(super) struct Uris {
    exact: Table<Claims>,
    /// The narrower first.
    templates: Vec<Ranked>,
    /// Templates by their text, and whether each passes unchanged.
    texts: Table<SmallVec<[(u16, bool); 1]>>,
    /// Members that list something of a scheme (in lower case).
    schemes: Table<Claims>,
    /// Members that have resources at all.
    offering: Claims,
    /// Members of which nothing is known: they may list anything.
    unknown: Claims,
}

#[derive(Debug)]
struct Ranked {
    member: u16,
    template: Template,
    text: Box<str>,
}

impl Uris {
    /// A member of which nothing is known.
    pub(super) fn add_unknown(&mut self, member: u16) {
        self.unknown.push(member);
    }

    /// A member that has resources. Members are added in the endpoint's order, each with all it lists.
    pub(super) fn add(&mut self, member: u16) {
        self.offering.push(member);
    }

    pub(super) fn add_resource(&mut self, member: u16, uri: &str) {
        claim(&mut self.exact, uri, member);
        self.add_scheme(member, uri);
    }

    pub(super) fn add_template(&mut self, member: u16, text: &str) {
        let claims = self.texts.entry(text.into()).or_default();
        if claims.last().is_some_and(|(last, _)| *last == member) {
            return;
        }
        claims.push((member, false));
        let Some(template) = Template::parse(text) else { return };
        self.add_scheme(member, template.prefix());
        if self.templates.len() < MERGED_TEMPLATES_MAX {
            self.templates.push(Ranked { member, template, text: text.into() });
        }
    }

    /// What the member that was called `then` has listed, as far as that is known: it is this member's.
    pub(super) fn keep_taken(&mut self, member: u16, before: &Self, then: u16) {
        for (uri, _) in before.exact.iter().filter(|(_, claims)| claims.contains(&then)) {
            self.add_resource(member, uri);
        }
        let is_its_own = |claims: &[(u16, bool)]| claims.iter().any(|(member, _)| *member == then);
        let mut templates: Vec<&str> =
            before.texts.iter().filter(|(_, claims)| is_its_own(claims)).map(|(text, _)| &**text).collect();
        templates.sort_unstable();
        templates.into_iter().for_each(|text| self.add_template(member, text));
    }

    fn add_scheme(&mut self, member: u16, uri: &str) {
        if let Some(scheme) = scheme(uri) {
            claim(&mut self.schemes, &scheme, member);
        }
    }

    /// All members have been added. Decides which templates pass unchanged: those of which every expansion leads back.
    pub(super) fn settle(&mut self) {
        self.templates.sort_by_key(|ranked| ranked.template.width());
        let mut listed: Vec<(&str, u16)> =
            self.exact.iter().filter_map(|(uri, claims)| Some((&**uri, *claims.first()?))).collect();
        listed.sort_unstable();
        for (rank, ranked) in self.templates.iter().enumerate() {
            let before = &self.templates[..rank];
            let is_taken = |other: &Ranked| other.member != ranked.member && other.template.overlaps(&ranked.template);
            let unchanged = !may_be_prefixed(ranked.template.prefix())
                && !before.iter().any(is_taken)
                && !meets_another(&listed, ranked);
            let claims = self.texts.get_mut(&ranked.text).into_iter().flatten();
            for (_, passes) in claims.filter(|(member, _)| *member == ranked.member) {
                *passes = unchanged;
            }
        }
    }

    /// Whose `uri` may be, the likeliest first, some more than once: who lists it, whose template it is, who has others
    /// of its scheme, who is not known yet, who has any.
    pub(super) fn candidates<'a>(&'a self, uri: &'a str) -> impl Iterator<Item = u16> + 'a {
        self.claims(uri).chain(self.fallback(uri))
    }

    /// The same for the text of a template, as it stands on a list.
    pub(super) fn template_candidates<'a>(&'a self, text: &'a str) -> impl Iterator<Item = u16> + 'a {
        let listed = self.texts.get(text).into_iter().flatten().map(|(member, _)| *member);
        listed.chain(self.candidates(text))
    }

    /// Whose a URI or a template's text is, to all that is known.
    pub(super) fn owner(&self, text: &str) -> Option<u16> {
        let listed = self.texts.get(text).and_then(|claims| claims.first()).map(|(member, _)| *member);
        self.claims(text).next().or(listed)
    }

    /// Whether `uri` leads back to this member as it is.
    pub(super) fn leads_back(&self, member: u16, uri: &str) -> bool {
        match self.claims(uri).next() {
            Some(first) => first == member,
            // Clients may fetch these themselves, so they are changed for nothing less than another's claim.
            None if is_web(uri) => true,
            None => self.unknown.is_empty() && self.fallback(uri).next() == Some(member),
        }
    }

    /// Whether this member's template passes as it is.
    pub(super) fn template_leads_back(&self, member: u16, text: &str) -> bool {
        self.texts.get(text).into_iter().flatten().any(|claim| *claim == (member, true))
    }

    /// Those who list `uri`, then those with a template that it fits.
    fn claims<'a>(&'a self, uri: &'a str) -> impl Iterator<Item = u16> + 'a {
        let exact = self.exact.get(uri).into_iter().flatten().copied();
        let fitting = self.templates.iter().filter(move |ranked| ranked.template.matches(uri));
        exact.chain(fitting.map(|ranked| ranked.member))
    }

    fn fallback(&self, uri: &str) -> impl Iterator<Item = u16> {
        let listing = scheme(uri).and_then(|scheme| self.schemes.get(&*scheme));
        // A scheme that nobody is known to have is rather that of a server nobody knows than any other's.
        listing.into_iter().flatten().chain(&self.unknown).chain(&self.offering).copied()
    }
}

/// The URI with the server's id in front: `mcp+ID:URI`, but `ui://mcp+ID+…`, since hosts look at that scheme.
pub(super) fn prefixed(id: &str, uri: &str) -> String {
    let (before, mark, rest) = match uri.strip_prefix(UI) {
        Some(rest) => (UI, '+', rest),
        None => ("", ':', uri),
    };
    let mut out = String::with_capacity(uri.len() + id.len() + PREFIX.len() + 1);
    for part in [before, PREFIX, id] {
        out.push_str(part);
    }
    out.push(mark);
    out.push_str(rest);
    out
}

/// The server's id in front of such a URI, and the URI without it.
pub(super) fn unprefixed(uri: &str) -> Option<(&str, Cow<'_, str>)> {
    if let Some(rest) = uri.strip_prefix(PREFIX) {
        let (id, rest) = rest.split_once(':')?;
        return Some((id, Cow::Borrowed(rest)));
    }
    let (id, rest) = uri.strip_prefix(UI)?.strip_prefix(PREFIX)?.split_once('+')?;
    Some((id, Cow::Owned(format!("{UI}{rest}"))))
}

/// Where in such a text the id's prefix is put, as the bytes in front of it.
pub(super) fn prefix_at(text: &[u8]) -> usize {
    if text.starts_with(UI.as_bytes()) { UI.len() } else { 0 }
}

/// What is put there.
pub(super) fn write_prefix(out: &mut Vec<u8>, id: &str, after: usize) {
    out.extend_from_slice(PREFIX.as_bytes());
    out.extend_from_slice(id.as_bytes());
    out.push(if after == 0 { b':' } else { b'+' });
}

/// Whether an expansion that begins with this may look as if it had a prefix.
fn may_be_prefixed(begin: &str) -> bool {
    let ui = format!("{UI}{PREFIX}");
    [PREFIX, &ui].into_iter().any(|form| begin.starts_with(form) || form.starts_with(begin))
}

/// Whether a URI that is another's may be an expansion of this template.
fn meets_another(listed: &[(&str, u16)], ranked: &Ranked) -> bool {
    let prefix = ranked.template.prefix();
    let from = listed.partition_point(|(uri, _)| *uri < prefix);
    let within = listed[from..].iter().take_while(|(uri, _)| uri.starts_with(prefix));
    let mut others = within.filter(|(_, member)| *member != ranked.member);
    let meets = others.by_ref().take(MERGED_LOOKS_MAX).any(|(uri, _)| ranked.template.matches(uri));
    meets || others.next().is_some()
}

fn claim(table: &mut Table<Claims>, text: &str, member: u16) {
    let claims = table.entry(text.into()).or_default();
    if claims.last() != Some(&member) {
        claims.push(member);
    }
}

/// The scheme of a URI, in lower case (RFC 3986, 3.1).
fn scheme(uri: &str) -> Option<Cow<'_, str>> {
    let (scheme, _) = uri.split_once(':')?;
    let is_one = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_one {
        return None;
    }
    let lower = scheme.bytes().all(|byte| !byte.is_ascii_uppercase());
    Some(if lower { Cow::Borrowed(scheme) } else { Cow::Owned(scheme.to_ascii_lowercase()) })
}

fn is_web(uri: &str) -> bool {
    scheme(uri).is_some_and(|scheme| matches!(&*scheme, "http" | "https"))
}

const PREFIX: &str = "mcp+";
/// Hosts of MCP Apps look for user interfaces under this scheme alone (SEP-1865).
const UI: &str = "ui://";
