//! Rules + catalogue -> table. The plane's work: it may take its time, and it compiles anew when either changes.

use std::sync::Arc;

use foldhash::HashMap;

use super::glob::Glob;
use super::pattern::{About, Pattern};
use super::rule::{Effect, PolicySet, Rule};
use super::table::{Class, Globs, Named, Names, Plane, Reaches, Row, Says, Table, merge};
use super::uri::Target;
use crate::base::ids::{ItemId, RuleId, ServerId};
use crate::base::limits::RULES_NAMED_MAX;
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
}

impl Table {
    /// Compiles the rules against what is known of the servers; `servers` are their names by `ServerId`.
    ///
    /// Rules that reach only what no catalogue has take effect when compiled again with one that has it.
    #[must_use]
    pub fn compile(set: &Arc<PolicySet>, servers: &[Arc<str>], catalog: &Catalog) -> (Self, Vec<Warning>) {
        let names = Names::build(catalog.numbered(), servers.len());
        let index = Index::build(servers, catalog);
        let mut drafts = Drafts { always: Draft::default(), tasks: Vec::new() };
        let mut warnings = Vec::new();
        for (number, rule) in set.rules().iter().enumerate() {
            let id = RuleId::from_index(number);
            for (place, pattern) in rule.patterns.iter().enumerate() {
                let reached = index.servers(pattern);
                let mut found = false;
                for &server in &reached {
                    drafts.note(rule, server, pattern.about());
                    found |= index.reach(&names, server, pattern, &mut |reach| drafts.add(rule, id, reach));
                }
                let is_known = |server: &ServerId| catalog.known(*server);
                if reached.is_empty() {
                    warnings.push(Warning { rule: id, pattern: place, lacks: Lacks::Server });
                } else if !found && reached.iter().all(is_known) && !index.offers(catalog, &reached, pattern) {
                    warnings.push(Warning { rule: id, pattern: place, lacks: Lacks::Match });
                }
            }
        }
        (Self { set: Arc::clone(set), names, everyone: drafts.finish() }, warnings)
    }
}

/// What one pattern reaches.
enum Reach<'a> {
    /// A tool, a prompt, or what a server asks.
    Number(usize),
    /// Resources.
    Resources(ServerId, &'a Glob),
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

    /// Everything the pattern reaches at one server. Whether that is something the server is known to have.
    fn reach<'b>(
        &'b self,
        names: &Names,
        server: ServerId,
        pattern: &'b Pattern,
        add: &mut dyn FnMut(Reach<'b>),
    ) -> bool {
        let mut found = false;
        let mut items = |list: &[(&str, ItemId)], glob: &Glob, add: &mut dyn FnMut(Reach<'b>)| {
            for id in matching(list, glob) {
                found = true;
                add(Reach::Number(id.index()));
            }
        };
        let ask = |ask| Reach::Number(names.ask(server, ask).expect("the server is one of the configuration"));
        match pattern.about() {
            About::Tool(glob) => items(&self.tools[server.index()], glob, add),
            About::Prompt(glob) => items(&self.prompts[server.index()], glob, add),
            About::Resource(glob) => add(Reach::Resources(server, glob)),
            About::Ask(one) => {
                found = true;
                add(ask(*one));
            }
            About::NotTool => {
                items(&self.prompts[server.index()], &self.any, add);
                found = true;
                add(Reach::Resources(server, &self.any));
                Ask::ALL.into_iter().for_each(|one| add(ask(one)));
            }
        }
        found
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

struct Drafts {
    always: Draft,
    tasks: Vec<Option<Box<Draft>>>,
}

/// A row while rules are being added, in the order of the file.
#[derive(Default)]
struct Draft {
    numbers: [HashMap<u32, Named>; 3],
    globs: Vec<[HashMap<Glob, Named>; 3]>,
    reach: Reaches,
}

impl Drafts {
    fn add(&mut self, rule: &Rule, id: RuleId, reach: Reach<'_>) {
        let says = match (rule.effect, &rule.reason) {
            (Effect::Permit, _) => Says::Permit,
            (Effect::Forbid | Effect::Approve, None) => Says::Silent,
            (Effect::Forbid | Effect::Approve, Some(_)) => Says::Reasoned,
        };
        self.of(rule, |draft| draft.add(says, id, &reach));
    }

    /// Writes down what the rule may say of a server, of which nothing may be known yet.
    fn note(&mut self, rule: &Rule, server: ServerId, about: &About) {
        let kinds: &[usize] = match about {
            About::Tool(_) => &[0],
            About::Prompt(_) => &[1],
            About::Resource(_) => &[2],
            About::NotTool => &[1, 2],
            About::Ask(_) => &[],
        };
        let all = match about {
            About::Tool(glob) | About::Prompt(glob) | About::Resource(glob) => {
                glob.is_prefix() && glob.prefix().is_empty()
            }
            About::NotTool | About::Ask(_) => true,
        };
        let noted = |draft: &mut Draft| match (rule.effect, &rule.reason) {
            (Effect::Permit, _) => kinds.iter().for_each(|kind| draft.reach.some[*kind].set(server.index())),
            (Effect::Forbid | Effect::Approve, None) if all => {
                kinds.iter().for_each(|kind| draft.reach.hides_all[*kind].set(server.index()));
            }
            (Effect::Forbid | Effect::Approve, _) => {}
        };
        self.of(rule, noted);
    }

    /// The rows that a rule belongs to.
    fn of(&mut self, rule: &Rule, mut to: impl FnMut(&mut Draft)) {
        if rule.tasks.is_empty() {
            to(&mut self.always);
        }
        for task in &rule.tasks {
            if self.tasks.len() <= task.index() {
                self.tasks.resize_with(task.index() + 1, || None);
            }
            to(self.tasks[task.index()].get_or_insert_default());
        }
    }

    fn finish(self) -> Class {
        let tasks = self.tasks.into_iter().map(|draft| draft.map(|draft| Box::new(draft.finish())));
        Class { always: self.always.finish(), tasks: tasks.collect() }
    }
}

impl Draft {
    fn add(&mut self, says: Says, rule: RuleId, reach: &Reach<'_>) {
        let named = match reach {
            Reach::Number(number) => {
                let number = u32::try_from(*number).expect("numbers are bounded as ids are");
                self.numbers[says.index()].entry(number).or_default()
            }
            Reach::Resources(server, glob) => {
                if self.globs.len() <= server.index() {
                    self.globs.resize_with(server.index() + 1, Default::default);
                }
                self.globs[server.index()][says.index()].entry((*glob).clone()).or_default()
            }
        };
        // Rules come in order, so a full list stays as it is.
        if named.len() < RULES_NAMED_MAX {
            merge(named, &[rule]);
        }
    }

    fn finish(self) -> Row {
        Row {
            planes: self.numbers.map(Plane::build),
            resources: self.globs.into_iter().map(|globs| globs.map(Globs::build)).collect(),
            reach: self.reach,
        }
    }
}
