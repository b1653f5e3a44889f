//! From one configuration to the next: which callers that were verified under the one are the same under the other, and
//! what their tasks and endpoints are called there. Whoever outlasts a reload goes on by this; whoever comes anew is
//! verified anew.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::ids::{EndpointId, TaskId};
use crate::identity::active::ActiveTask;
use crate::identity::caller::Caller;
use crate::policy::rule::PolicySet;

use super::{EndpointSettings, Settings};

/// What callers of the epoch before are in this one.
#[derive(Debug, Default)]
pub struct Succession {
    /// The epoch before; `None` where there is none, and nobody goes on.
    from: Option<u64>,
    /// Whoever came without a token still may.
    anonymous: bool,
    /// The issuers whose tokens are verified as before.
    issuers: Vec<Arc<str>>,
    /// By the tasks' ids before.
    tasks: Vec<Option<TaskId>>,
    /// By the endpoints' ids before.
    endpoints: Vec<Option<EndpointId>>,
    /// There is an endpoint that an issuer's audience is not enough for.
    apart: bool,
    /// What the `who` of rules come to is asked of this one.
    policy: Arc<PolicySet>,
}

impl Succession {
    /// From the settings of the epoch `from` to others.
    #[must_use]
    pub fn new(from: u64, before: &Settings, now: &Settings) -> Self {
        let (old, new) = (before.policy.tasks(), now.policy.tasks());
        // A token may name a task that was not known when it was verified: nobody has kept that.
        let learned = new.iter().any(|(_, name)| old.id(name).is_none());
        let same = before.issuers.iter().zip(&before.sources).filter(|(issuer, source)| {
            let mut others = now.issuers.iter().zip(&now.sources);
            others.any(|(other, theirs)| other == *issuer && theirs.keys == source.keys)
        });
        let issuers = same.filter(|_| !learned).map(|(issuer, _)| issuer.issuer.clone()).collect();
        let tasks = old.iter().map(|(_, name)| new.id(name)).collect();
        let named = |one: &EndpointSettings, it: &EndpointSettings| {
            (&one.resource, &one.audience) == (&it.resource, &it.audience)
        };
        let place = |one: &EndpointSettings| now.endpoints.iter().position(|it| named(one, it));
        let endpoints = before.endpoints.iter().map(|endpoint| place(endpoint).map(EndpointId::from_index));
        let anonymous = before.anonymous && now.anonymous;
        let policy = now.policy.clone();
        let apart = now.endpoints.iter().any(|endpoint| !endpoint.audience.is_empty());
        Self { from: Some(from), anonymous, issuers, tasks, endpoints: endpoints.collect(), apart, policy }
    }

    /// A caller that was verified in `epoch`; `None` where only its token could tell who it is now.
    #[must_use]
    pub fn caller(&self, epoch: u64, caller: &Caller) -> Option<Caller> {
        let known = if caller.anonymous { self.anonymous } else { self.issuers.contains(&caller.issuer) };
        let everywhere = self.apart && !caller.anonymous && caller.endpoints.is_all();
        if self.from != Some(epoch) || !known || everywhere {
            return None;
        }
        let mut tasks: SmallVec<[TaskId; 4]> = caller.tasks.iter().filter_map(|task| self.task_id(*task)).collect();
        tasks.sort_unstable();
        let endpoints = caller.endpoints.renumbered(&self.endpoints);
        let mut caller = Caller { tasks, endpoints, ..caller.clone() };
        caller.heads = self.policy.heads_of(&caller);
        Some(caller)
    }

    /// What it works on, as a task of [`Succession::caller`]'s; `None` where that is gone.
    #[must_use]
    pub fn task(&self, task: ActiveTask, now: &Caller) -> Option<ActiveTask> {
        match task {
            ActiveTask::None => Some(ActiveTask::None),
            ActiveTask::One(task) => self.task_id(task).map(ActiveTask::One),
            ActiveTask::Several => (now.tasks.len() > 1).then_some(ActiveTask::Several),
        }
    }

    /// Itself, where it leads from this epoch.
    #[must_use]
    pub fn from(&self, epoch: u64) -> Option<&Self> {
        (self.from == Some(epoch)).then_some(self)
    }

    /// What a task is called here; `None` where it is gone.
    #[must_use]
    pub fn task_id(&self, before: TaskId) -> Option<TaskId> {
        self.tasks.get(before.index()).copied().flatten()
    }
}

/// Whether callers verified under one configuration are exactly the same under another.
#[must_use]
pub fn same_callers(before: &Settings, now: &Settings) -> bool {
    let endpoints = |settings: &Settings| -> Vec<(String, String, Vec<String>)> {
        let names = |it: &EndpointSettings| (it.path.clone(), it.resource.clone(), it.audience.clone());
        settings.endpoints.iter().map(names).collect()
    };
    before.anonymous == now.anonymous
        && before.issuers == now.issuers
        && before.sources == now.sources
        && before.policy.tasks() == now.policy.tasks()
        && before.policy.heads() == now.policy.heads()
        && endpoints(before) == endpoints(now)
        // Who was known without its token must bring it once more.
        && (before.keeps_tokens() || !now.keeps_tokens())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::config::{Source, load};
    use crate::identity::caller::Endpoints;

    struct Nothing;

    impl Source for Nothing {
        fn var(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn settings(second: &str) -> Settings {
        let text = format!(
            "auth: {{ issuers: [{{ issuer: https://i.example, audience: api://all, jwks: {{ url: https://i.example/keys }} }}] }}\n\
             servers: {{ a: {{ url: \"http://127.0.0.1:1/mcp\" }} }}\n\
             endpoints: {{ /mcp: {{ servers: [a] }}, /b: {{ servers: [a]{second} }} }}\n"
        );
        load(&text, Path::new("/"), &Nothing).expect("it loads").settings
    }

    /// What an issuer's audience opens is not what an endpoint with one of its own is: nobody goes on there by it.
    #[test]
    fn an_endpoint_gets_an_audience_of_its_own() {
        let (plain, apart) = (settings(""), settings(", audience: api://b"));
        assert!(same_callers(&plain, &plain) && !same_callers(&plain, &apart));
        let here = Caller { issuer: "https://i.example".into(), anonymous: false, ..Caller::anonymous() };
        let everywhere = Caller { endpoints: Endpoints::all(), ..here.clone() };
        assert!(Succession::new(1, &plain, &plain).caller(1, &everywhere).is_some());
        assert!(Succession::new(1, &plain, &apart).caller(1, &everywhere).is_none());
        let mut both = Endpoints::none();
        [EndpointId(0), EndpointId(1)].into_iter().for_each(|endpoint| both.insert(endpoint));
        let named = Caller { endpoints: both, ..here };
        let now = Succession::new(1, &plain, &apart).caller(1, &named).expect("it goes on where it was");
        assert!(now.endpoints.contains(EndpointId(0)) && !now.endpoints.contains(EndpointId(1)));
    }
}
