//! Rules + catalogue -> table. The plane's work: it may take its time, and it compiles anew when either changes.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use smallvec::SmallVec;

use super::classes::Classes;
use super::glob::Glob;
use super::keys::Keys;
use super::limit::What;
use super::needs::CountSecret;
use super::pattern::{About, Pattern};
use super::rule::{Effect, Mode, PolicySet, Rule};
use super::schema;
use super::table::{
    Bundle, GlobEntry, Globs, Group, GroupIndex, Maybe, Members, Named, Names, Plane, Reaches, Says, Site, Spots,
    Table, Watch, Where, merge,
};
use super::uri::Target;
use crate::base::bits::Bits;
use crate::base::ids::{ItemId, RuleId, ServerId, TaskId};
use crate::base::limits::NEEDS_MAX;
use crate::mcp::catalog::{Catalog, ListKind};
use crate::mcp::input::Ask;

/// A pattern that does nothing today. Policy may still mean it: what appears later is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Whose it is.
    pub rule: RuleId,
    /// Its place in `Rule::patterns`.
    pub pattern: usize,
    /// What it lacks.
    pub lacks: Lacks,
}

/// What a pattern lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lacks {
    /// No server of the configuration has such an id.
    #[error("no server of this name")]
    Server,
    /// All servers it is about are known, and none has anything it matches.
    #[error("matches nothing that its servers offer")]
    Match,
    /// With this rule, a call can need more of limits, rates and notes of `after` than can be counted.
    #[error(
        "with this rule's limits a call could need over {NEEDS_MAX} counts, and would always be refused; have fewer rules \
         with limits or `after` about one tool"
    )]
    Room,
}

impl Table {
    /// Compiles the rules against what is known of the servers; `servers` are their names by `ServerId`.
    ///
    /// Rules that reach only what no catalogue has take effect when compiled again with one that has it. The keys of its
    /// counts have no secret: for counts that nobody else fills.
    #[must_use]
    pub fn compile(set: &Arc<PolicySet>, servers: &[Arc<str>], catalog: &Catalog) -> (Self, Vec<Warning>) {
        Self::keyed(set, servers, catalog, &CountSecret::fixed())
    }

    /// The same, with counts whose keys are made with a secret.
    #[must_use]
    pub fn keyed(
        set: &Arc<PolicySet>,
        servers: &[Arc<str>],
        catalog: &Catalog,
        secret: &CountSecret,
    ) -> (Self, Vec<Warning>) {
        let names = Names::build(catalog.numbered(), servers.len());
        let index = Index::build(servers, catalog);
        let mut draft = Draft::new(&index, &names, catalog);
        let heads: HashMap<_, u32> = set.heads().iter().cloned().zip(0..).collect();
        let (mut warnings, mut about) = (Vec::new(), Vec::with_capacity(set.rules().len()));
        for (number, rule) in set.rules().iter().enumerate() {
            let id = RuleId::from_index(number);
            let head = rule.who.as_ref().map(|who| heads[who]);
            about.push(draft.add(rule, id, head, &mut warnings));
        }
        let (watches, watched) = draft.watches(set);
        let rated = draft.rated(set);
        warnings.extend(draft.crowds(set, &about, &rated));
        let mut extra = watched.numbers.bits().clone();
        extra.or_assign(rated.numbers.bits());
        if set.rates().iter().any(|rate| rate.on.is_empty()) {
            (0..names.numbers()).for_each(|number| extra.set(number));
        }
        let (dead, misfits) = schema::check(set, &names, (servers, catalog), &draft.members, &about);
        let (groups, members, sites) = draft.finish(names.numbers());
        let table = Self {
            set: Arc::clone(set),
            servers: servers.to_vec(),
            classes: Classes::new(&groups),
            groups,
            members,
            sites,
            watches,
            watched,
            rated,
            extra,
            keys: Keys::build(set, secret),
            has_shadows: set.rules().iter().any(|rule| rule.mode == Mode::Shadow),
            dead,
            misfits,
            names,
        };
        (table, warnings)
    }
}

/// Whether a rule's say hangs on more than whether its group applies.
fn is_slow(rule: &Rule) -> bool {
    let Rule { effect, when, scopes, limits, mode, .. } = rule;
    let is_bound = when.is_some() || !scopes.is_empty() || !limits.is_empty();
    is_bound || *mode == Mode::Shadow || *effect == Effect::Approve
}

/// What rules say where they apply.
fn says(rule: &Rule) -> Says {
    match (rule.effect, &rule.reason) {
        (Effect::Permit, _) => Says::Permit,
        (Effect::Forbid | Effect::Approve, None) => Says::Silent,
        (Effect::Forbid | Effect::Approve, Some(_)) => Says::Reasoned,
    }
}

/// The servers and their names, ordered for looking up by glob.
struct Index<'a> {
    servers: &'a [Arc<str>],
    by_name: HashMap<&'a str, ServerId>,
    /// Tools and prompts of each server, sorted by name.
    tools: Vec<Vec<(&'a str, ItemId)>>,
    prompts: Vec<Vec<(&'a str, ItemId)>>,
    any: Glob,
}

impl<'a> Index<'a> {
    fn build(servers: &'a [Arc<str>], catalog: &'a Catalog) -> Self {
        let (mut tools, mut prompts) = (vec![Vec::new(); servers.len()], vec![Vec::new(); servers.len()]);
        for (id, server, kind, name) in catalog.numbered() {
            let list = if kind == ListKind::Tools { &mut tools } else { &mut prompts };
            if let Some(list) = list.get_mut(server.index()) {
                list.push((name, id));
            }
        }
        tools.iter_mut().chain(&mut prompts).for_each(|list| list.sort_unstable());
        let numbered = servers.iter().enumerate();
        let by_name = numbered.map(|(index, name)| (&**name, ServerId::from_index(index))).collect();
        Self { servers, by_name, tools, prompts, any: Glob::new("*") }
    }

    /// The servers a pattern is about.
    fn servers(&self, pattern: &Pattern) -> Vec<ServerId> {
        match pattern.server().literal() {
            Some(name) => self.by_name.get(name).copied().into_iter().collect(),
            None => {
                let numbered = self.servers.iter().enumerate();
                numbered.filter(|(_, name)| pattern.has_server(name)).map(|(at, _)| ServerId::from_index(at)).collect()
            }
        }
    }

    /// The numbers that the pattern reaches at one server. Whether it reaches something that is known there.
    fn reach(&self, names: &Names, server: ServerId, pattern: &Pattern, out: &mut Vec<u32>) -> bool {
        let before = out.len();
        let mut items = |list: &[(&str, ItemId)], glob: &Glob| out.extend(matching(list, glob).map(|id| id.0));
        let ask = |ask| {
            let number = names.ask(server, ask).expect("the server is one of the configuration");
            u32::try_from(number).expect("numbers are bounded as ids are")
        };
        match pattern.about() {
            About::Tool(glob) => items(&self.tools[server.index()], glob),
            About::Prompt(glob) => items(&self.prompts[server.index()], glob),
            About::Resource(_) => {}
            About::Ask(one) => out.push(ask(*one)),
            About::NotTool => {
                items(&self.prompts[server.index()], &self.any);
                out.extend(Ask::ALL.into_iter().map(ask));
            }
        }
        out.len() > before
    }

    /// Whether one of the servers lists a resource or template that the pattern is about.
    fn offers(&self, catalog: &Catalog, servers: &[ServerId], pattern: &Pattern) -> bool {
        let About::Resource(glob) = pattern.about() else {
            return false;
        };
        let is_meant = |target: Option<Target<'_>>| {
            target.is_some_and(|target| target.permitted_by(glob) || target.forbidden_by(glob))
        };
        let eras = servers.iter().filter_map(|server| catalog.server(*server));
        eras.flat_map(|server| server.modern.iter().chain(&server.legacy)).any(|era| {
            let items = |kind| era.list(kind).into_iter().flat_map(|list| &list.items);
            items(ListKind::Resources).any(|item| is_meant(Target::resource(&item.name)))
                || items(ListKind::Templates).any(|item| is_meant(Target::template(&item.name)))
        })
    }
}

/// The entries of a sorted list that match. Only those that begin as the glob does are looked at.
fn matching(list: &[(&str, ItemId)], glob: &Glob) -> impl Iterator<Item = ItemId> {
    let list = &list[list.partition_point(|(name, _)| *name < glob.prefix())..];
    let list = &list[..list.partition_point(|(name, _)| name.starts_with(glob.prefix()))];
    let settled = glob.is_prefix();
    list.iter().filter(move |(name, _)| settled || glob.matches(name)).map(|(_, id)| *id)
}

/// What one pattern is about.
struct Reach {
    servers: Vec<ServerId>,
    site: Option<Site>,
    numbers: Vec<u32>,
    /// Whether it reaches something that its servers are known to have, or may come to have.
    lacks: Option<Lacks>,
}

/// A table in the making. Patterns and lists of them are looked up once, however many rules have them.
struct Draft<'a> {
    index: &'a Index<'a>,
    names: &'a Names,
    catalog: &'a Catalog,
    reaches: HashMap<&'a str, Arc<Reach>>,
    members: Vec<Members>,
    by_patterns: HashMap<Vec<&'a str>, u32>,
    sites: Vec<Bits>,
    by_site: HashMap<&'a Glob, Site>,
    groups: HashMap<(Option<TaskId>, Option<u32>), GroupDraft<'a>>,
}

#[derive(Default)]
struct GroupDraft<'a> {
    bundles: Vec<BundleDraft<'a>>,
    by_members: HashMap<u32, usize>,
    reach: Reaches,
}

struct BundleDraft<'a> {
    bundle: Bundle,
    slow: Vec<RuleId>,
    patterns: &'a [Pattern],
    permits: bool,
    refuses: bool,
}

impl<'a> Draft<'a> {
    fn new(index: &'a Index<'a>, names: &'a Names, catalog: &'a Catalog) -> Self {
        Self {
            index,
            names,
            catalog,
            reaches: HashMap::new(),
            members: Vec::new(),
            by_patterns: HashMap::new(),
            sites: Vec::new(),
            by_site: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    fn reach(&mut self, pattern: &'a Pattern) -> Arc<Reach> {
        if let Some(known) = self.reaches.get(pattern.text()) {
            return Arc::clone(known);
        }
        let servers = self.index.servers(pattern);
        let (mut numbers, mut found) = (Vec::new(), false);
        for server in &servers {
            found |= self.index.reach(self.names, *server, pattern, &mut numbers);
        }
        found |= matches!(pattern.about(), About::NotTool) && !servers.is_empty();
        let is_known = |server: &ServerId| self.catalog.known(*server);
        let lacks = if servers.is_empty() {
            Some(Lacks::Server)
        } else if !found && servers.iter().all(is_known) && !self.index.offers(self.catalog, &servers, pattern) {
            Some(Lacks::Match)
        } else {
            None
        };
        let site = match (pattern.server().literal(), &*servers) {
            (_, []) => None,
            (Some(_), [one, ..]) => Some(Site::One(*one)),
            (None, all) => Some(*self.by_site.entry(pattern.server()).or_insert_with(|| {
                self.sites.push(all.iter().map(|server| server.index()).collect());
                Site::Several(narrow(self.sites.len() - 1))
            })),
        };
        let reach = Arc::new(Reach { servers, site, numbers, lacks });
        self.reaches.insert(pattern.text(), Arc::clone(&reach));
        reach
    }

    /// The set of numbers that any of these patterns is about.
    fn members(&mut self, patterns: &'a [Pattern]) -> u32 {
        let texts: Vec<&str> = patterns.iter().map(Pattern::text).collect();
        if let Some(known) = self.by_patterns.get(&texts) {
            return *known;
        }
        let mut numbers: Vec<u32> = Vec::new();
        for pattern in patterns {
            numbers.extend_from_slice(&self.reach(pattern).numbers);
        }
        numbers.sort_unstable();
        numbers.dedup();
        self.members.push(Members::build(numbers));
        let place = narrow(self.members.len() - 1);
        self.by_patterns.insert(texts, place);
        place
    }

    /// Adds a rule, and gives the place of its set of numbers.
    fn add(&mut self, rule: &'a Rule, id: RuleId, head: Option<u32>, warnings: &mut Vec<Warning>) -> u32 {
        let members = self.members(&rule.patterns);
        for (pattern, reach) in rule.patterns.iter().map(|pattern| self.reach(pattern)).enumerate() {
            warnings.extend(reach.lacks.map(|lacks| Warning { rule: id, pattern, lacks }));
        }
        let reaches: Vec<_> = rule.patterns.iter().map(|pattern| (pattern.about(), self.reach(pattern))).collect();
        let mut tasks: SmallVec<[Option<TaskId>; 4]> = rule.tasks.iter().copied().map(Some).collect();
        tasks.sort_unstable();
        tasks.dedup();
        if tasks.is_empty() {
            tasks.push(None);
        }
        for task in tasks {
            let group = self.groups.entry((task, head)).or_default();
            group.add(rule, id, members);
            reaches.iter().for_each(|(about, reach)| note(&mut group.reach, rule, id, about, reach));
        }
        members
    }

    /// Where things are that have these patterns, each with an id.
    fn places(&mut self, all: &[(u32, &'a [Pattern])]) -> Where {
        let mut sites: HashMap<Site, HashMap<&Glob, SmallVec<[u32; 2]>>> = HashMap::new();
        for (id, patterns) in all {
            for pattern in *patterns {
                let glob = match pattern.about() {
                    About::Resource(glob) => glob,
                    About::NotTool => &self.index.any,
                    About::Tool(_) | About::Prompt(_) | About::Ask(_) => continue,
                };
                let Some(site) = self.reach(pattern).site else { continue };
                let ids = sites.entry(site).or_default().entry(glob).or_default();
                if ids.last() != Some(id) {
                    ids.push(*id);
                }
            }
        }
        let (mut own, mut wide) = (Vec::new(), Vec::new());
        for (site, globs) in sites {
            let entries = globs.into_iter().map(|(glob, ids)| GlobEntry { glob: glob.clone(), site, ids });
            match site {
                Site::One(server) => own.push((server, Globs::build(entries.collect()))),
                Site::Several(_) => wide.extend(entries),
            }
        }
        own.sort_unstable_by_key(|(server, _)| *server);
        Where { own, wide: Globs::build(wide) }
    }

    /// The entries of `after`, and which calls they are about.
    fn watches(&mut self, set: &'a PolicySet) -> (Vec<Watch>, Spots) {
        let (mut watches, mut both, mut either) = (Vec::new(), Vec::new(), Vec::new());
        for (number, rule) in set.rules().iter().enumerate() {
            for (limit, entry) in (0..).zip(&rule.limits) {
                let What::After { patterns, .. } = &entry.what else { continue };
                let list = if rule.effect == Effect::Permit { &mut both } else { &mut either };
                list.push((narrow(watches.len()), &**patterns));
                watches.push(Watch { rule: RuleId::from_index(number), limit });
            }
        }
        (watches, self.spots(&both, &either))
    }

    fn rated(&mut self, set: &'a PolicySet) -> Spots {
        let named = (0..).zip(set.rates()).filter(|(_, rate)| !rate.on.is_empty());
        let either: Vec<_> = named.map(|(place, rate)| (place, &*rate.on)).collect();
        self.spots(&[], &either)
    }

    /// The rules with which a call of some tool or prompt would need too much, each once. What is only for some tasks or
    /// callers, or in shadow, is left out: seldom is it all of one call.
    fn crowds(&mut self, set: &'a PolicySet, about: &[u32], rated: &Spots) -> Vec<Warning> {
        let everywhere = set.rates().iter().filter(|rate| rate.on.is_empty()).count();
        let mut needs: Vec<usize> =
            (0..self.names.numbers()).map(|number| everywhere + rated.numbers.of(number).len()).collect();
        let mut warnings = Vec::new();
        for (number, rule) in set.rules().iter().enumerate() {
            let mut is_over = false;
            let mut add = |members: &Members, more: usize| {
                members.each(|number| {
                    needs[number] += more;
                    is_over |= needs[number] > NEEDS_MAX;
                });
            };
            match rule.effect {
                _ if rule.mode == Mode::Shadow || rule.limits.is_empty() => {}
                Effect::Permit if rule.tasks.is_empty() && rule.who.is_none() => {
                    add(&self.members[about[number] as usize], rule.limits.len());
                }
                Effect::Permit => {}
                // Every call that it waits for is noted, whoever makes it.
                Effect::Forbid | Effect::Approve => {
                    for limit in &rule.limits {
                        let What::After { patterns, .. } = &limit.what else { continue };
                        let place = self.members(patterns);
                        add(&self.members[place as usize], 1);
                    }
                }
            }
            if is_over {
                warnings.push(Warning { rule: RuleId::from_index(number), pattern: 0, lacks: Lacks::Room });
            }
        }
        warnings
    }

    fn spots(&mut self, both: &[(u32, &'a [Pattern])], either: &[(u32, &'a [Pattern])]) -> Spots {
        let mut lists: Vec<Vec<u32>> = Vec::new();
        if !both.is_empty() || !either.is_empty() {
            lists.resize(self.names.numbers(), Vec::new());
        }
        for (id, patterns) in both.iter().chain(either) {
            let place = self.members(patterns);
            self.members[place as usize].each(|number| lists[number].push(*id));
        }
        lists.iter_mut().for_each(|list| list.sort_unstable());
        let numbers = Plane::build(lists.iter().map(|list| &**list));
        Spots { numbers, both: self.places(both), either: self.places(either) }
    }

    fn finish(mut self, numbers: usize) -> (Vec<Group>, Vec<Members>, Vec<Bits>) {
        let mut drafts: Vec<_> = std::mem::take(&mut self.groups).into_iter().collect();
        drafts.sort_unstable_by_key(|(key, _)| *key);
        let mut groups = Vec::with_capacity(drafts.len());
        for ((task, head), GroupDraft { bundles, reach, .. }) in drafts {
            let of = |wanted: fn(&BundleDraft<'_>) -> bool| -> Vec<(u32, &'a [Pattern])> {
                let numbered = (0..).zip(&bundles).filter(|(_, bundle)| wanted(bundle));
                numbered.map(|(at, bundle)| (at, bundle.patterns)).collect()
            };
            let (permits, refusals) = (of(|bundle| bundle.permits), of(|bundle| bundle.refuses));
            let (permits, refusals) = (self.places(&permits), self.places(&refusals));
            let finished = |draft: BundleDraft<'_>| Bundle { slow: draft.slow.into(), ..draft.bundle };
            let bundles: Vec<Bundle> = bundles.into_iter().map(finished).collect();
            let index = (bundles.len() > BUNDLES_WALKED_MAX).then(|| Box::new(index(&bundles, &self.members, numbers)));
            groups.push(Group { task, head, bundles, index, permits, refusals, reach });
        }
        (groups, self.members, self.sites)
    }
}

impl<'a> GroupDraft<'a> {
    fn add(&mut self, rule: &'a Rule, id: RuleId, members: u32) {
        let at = *self.by_members.entry(members).or_insert_with(|| {
            let bundle = Bundle { members, ..Bundle::default() };
            let (slow, patterns) = (Vec::new(), &*rule.patterns);
            self.bundles.push(BundleDraft { bundle, slow, patterns, permits: false, refuses: false });
            self.bundles.len() - 1
        });
        let draft = &mut self.bundles[at];
        draft.permits |= rule.effect == Effect::Permit;
        draft.refuses |= rule.effect != Effect::Permit;
        if is_slow(rule) {
            draft.slow.push(id);
        } else {
            merge(&mut draft.bundle.plain[says(rule).index()], &[id]);
        }
    }
}

/// Writes down what a rule may say of its servers, of which nothing may be known yet.
fn note(reach: &mut Reaches, rule: &Rule, id: RuleId, about: &About, to: &Reach) {
    let kinds = match about {
        About::Tool(_) => [true, false, false],
        About::Prompt(_) => [false, true, false],
        About::Resource(_) => [false, false, true],
        About::NotTool => [false, true, true],
        About::Ask(_) => [false; 3],
    };
    let all = match about {
        About::Tool(glob) | About::Prompt(glob) | About::Resource(glob) => glob.is_prefix() && glob.prefix().is_empty(),
        About::NotTool | About::Ask(_) => true,
    };
    let hides = rule.effect == Effect::Forbid && rule.reason.is_none() && all;
    if rule.mode == Mode::Shadow || rule.effect == Effect::Forbid && !hides {
        return;
    }
    if is_slow(rule) {
        reach.maybe.extend(to.site.map(|site| Maybe { rule: id, site, kinds }));
        return;
    }
    let bits = if hides { &mut reach.hides_all } else { &mut reach.some };
    for (_, bits) in kinds.iter().zip(bits).filter(|(kind, _)| **kind) {
        to.servers.iter().for_each(|server| bits.set(server.index()));
    }
}

/// What many bundles say, by number.
fn index(bundles: &[Bundle], members: &[Members], numbers: usize) -> GroupIndex {
    let plain = Says::ALL.map(|says| {
        let mut lists = vec![Named::new(); numbers];
        for bundle in bundles.iter().filter(|bundle| !bundle.plain[says.index()].is_empty()) {
            members[bundle.members as usize].each(|number| merge(&mut lists[number], &bundle.plain[says.index()]));
        }
        Plane::build(lists.iter().map(|list| &**list))
    });
    let mut lists: Vec<Vec<u32>> = vec![Vec::new(); numbers];
    for (at, bundle) in (0..).zip(bundles).filter(|(_, bundle)| !bundle.slow.is_empty()) {
        members[bundle.members as usize].each(|number| lists[number].push(at));
    }
    GroupIndex { plain, slow: Plane::build(lists.iter().map(|list| &**list)) }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("rules and their patterns are bounded")
}

/// A group of no more bundles is walked; one of more is looked up by number.
const BUNDLES_WALKED_MAX: usize = 24;
