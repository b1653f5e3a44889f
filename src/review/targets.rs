//! What rules are about: what servers offer, and where that is not known, what patterns spell.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::base::ids::ServerId;
use crate::mcp::catalog::ListKind;
use crate::mcp::input::Ask;
use crate::policy::pattern::{About, Pattern};
use crate::policy::rule::{Effect, PolicySet, Rule};
use crate::policy::uri::Target;
use crate::review::world::World;

/// One thing that rules can be about. A pattern stands for itself: a star matches a star.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The server.
    pub server: Arc<str>,
    /// What of it.
    pub of: Of,
}

/// What of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Of {
    /// A tool.
    Tool(Box<str>),
    /// A prompt.
    Prompt(Box<str>),
    /// A resource.
    Resource(Box<str>),
    /// What it asks of the client: `sampling`, `elicitation`, `roots`.
    Ask(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            Of::Tool(name) => write!(f, "{}/{name}", self.server),
            Of::Prompt(name) => write!(f, "{}!prompt:{name}", self.server),
            Of::Resource(uri) => write!(f, "{}!resource:{uri}", self.server),
            Of::Ask(word) => write!(f, "{}!{word}", self.server),
        }
    }
}

impl Place {
    /// Whether one of the rule's patterns is about it.
    pub(super) fn is_meant(&self, rule: &Rule) -> bool {
        rule.patterns.iter().any(|pattern| self.matches(pattern, rule.effect))
    }

    fn matches(&self, pattern: &Pattern, effect: Effect) -> bool {
        let about = match (pattern.about(), &self.of) {
            (About::Tool(glob), Of::Tool(name)) | (About::Prompt(glob), Of::Prompt(name)) => glob.matches(name),
            (About::Resource(glob), Of::Resource(uri)) => match (Target::resource(uri), effect) {
                (None, _) => glob.matches(uri),
                (Some(target), Effect::Permit) => target.permitted_by(glob),
                (Some(target), Effect::Forbid | Effect::Approve) => target.forbidden_by(glob),
            },
            (About::Ask(ask), Of::Ask(word)) => word_of(*ask) == *word,
            (About::NotTool, Of::Prompt(_) | Of::Resource(_) | Of::Ask(_)) => true,
            _ => false,
        };
        about && pattern.has_server(&self.server)
    }
}

/// All that the rules of either policy can be about. Of servers whose lists are known these, besides that what patterns
/// spell.
pub(super) fn places(old: &World, new: &World) -> BTreeSet<Place> {
    let mut all = BTreeSet::new();
    for world in [old, new] {
        for (_, server, kind, name) in world.catalog.numbered() {
            let Some(server) = world.servers.get(server.index()) else { continue };
            let of = if kind == ListKind::Tools { Of::Tool(name.into()) } else { Of::Prompt(name.into()) };
            all.insert(Place { server: server.clone(), of });
        }
    }
    let servers: BTreeSet<&Arc<str>> = old.servers.iter().chain(&new.servers).collect();
    let is_known = |server: &str| [old, new].into_iter().any(|world| knows(world, server));
    for pattern in [old, new].into_iter().flat_map(|world| patterns(&world.policy)) {
        let spelt: Arc<str> = Arc::from(pattern.text().split(['/', '!']).next().unwrap_or_default());
        let mut meant: Vec<&Arc<str>> = servers.iter().copied().filter(|name| pattern.has_server(name)).collect();
        if meant.is_empty() {
            meant.push(&spelt);
        }
        for server in meant {
            let listed = is_known(server);
            for of in spelt_out(pattern) {
                if !listed || !matches!(of, Of::Tool(_) | Of::Prompt(_)) {
                    all.insert(Place { server: server.clone(), of });
                }
            }
        }
    }
    all
}

fn knows(world: &World, server: &str) -> bool {
    let place = world.servers.iter().position(|name| **name == *server);
    place.is_some_and(|place| world.catalog.known(ServerId::from_index(place)))
}

fn patterns(policy: &PolicySet) -> impl Iterator<Item = &Pattern> {
    policy.rules().iter().flat_map(|rule| &rule.patterns)
}

fn spelt_out(pattern: &Pattern) -> Vec<Of> {
    let name = |skip: &str| -> Box<str> {
        let rest = pattern.text().split_once(['/', '!']).map_or("", |(_, rest)| rest);
        rest.strip_prefix(skip).unwrap_or(rest).into()
    };
    match pattern.about() {
        About::Tool(_) => vec![Of::Tool(name(""))],
        About::Prompt(_) => vec![Of::Prompt(name("prompt:"))],
        About::Resource(_) => vec![Of::Resource(name("resource:"))],
        About::Ask(ask) => vec![Of::Ask(word_of(*ask))],
        About::NotTool => {
            let asks = Ask::ALL.into_iter().map(|ask| Of::Ask(word_of(ask)));
            [Of::Prompt("*".into()), Of::Resource("*".into())].into_iter().chain(asks).collect()
        }
    }
}

fn word_of(ask: Ask) -> &'static str {
    match ask {
        Ask::Sampling => "sampling",
        Ask::Elicitation => "elicitation",
        Ask::Roots => "roots",
    }
}
