//! What is compared with what, on which load, and what should come of it.

use std::fmt;

use clap::ValueEnum;

use crate::cli::Compare;

/// Calls that are measured beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scene {
    /// Plain calls, short answers: everybody.
    Calls,
    /// The same, TLS 1.3 to the client: nginx.
    Tls,
    /// Answers that are event streams of 10: nginx, unbuffered.
    Events,
    /// Answers of 64 KiB: nginx.
    Large,
    /// One of 20 servers with 50 tools each, by its prefixed name, beside its own endpoint.
    Merged,
    /// In a session, beside a modern call.
    Legacy,
    /// Two shards beside one.
    Shards,
    /// 10 and 100 times as many servers and tools, rules, sessions.
    Growth,
}

/// Whom Portcullis is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rival {
    /// nginx, which forwards and does nothing else.
    Nginx,
    /// nginx with a buffered access log.
    NginxLog,
    /// HAProxy with one thread, which forwards and does nothing else.
    Haproxy,
    /// The gateway's own ring, forwarding bytes with nothing switched on.
    Hop,
    /// The canned server itself: the ceiling of calls per second. Only where it is asked for.
    Nothing,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Rival(Rival),
    /// The gateway, as it is meant.
    Portcullis,
    /// The gateway at the endpoint of a single server, where it is measured beside itself.
    Alone,
    /// The gateway at the endpoint of all servers.
    Merged,
    /// The gateway, called without a session.
    Modern,
    /// The gateway, called in sessions.
    Legacy,
    /// The gateway with one shard.
    OneShard,
    /// The gateway with two shards.
    TwoShards,
    /// The gateway with more of something.
    Grown(What, Times),
}

/// What there is more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Servers, each with tools and rules of its own.
    Servers,
    Rules,
    Sessions,
}

/// How often there is what there is once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    One,
    Ten,
    Hundred,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many connections.
    Closed(u32),
    /// So many calls a second.
    Open { rate: u32, connections: u32 },
}

/// Of whose CPU time a ratio is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// The threads that carry calls.
    Serving,
    Whole,
}

/// Two who are compared: CPU time of a share of the first, by that of the whole of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) own: Who,
    pub(crate) share: Share,
    pub(crate) base: Who,
}

/// The most that a ratio should be.
struct Goal {
    scene: Scene,
    load: Load,
    pair: Pair,
    most: f64,
}

/// Over so many connections calls come that have a schedule.
pub(crate) const OPEN_CONNECTIONS: u32 = 64;
/// Of the scene with event streams: K - 1 of progress and the result.
pub(crate) const EVENTS: u32 = 10;
/// Of a request.
pub(crate) const BODY_BYTES: usize = 350;
pub(crate) const ANSWER_BYTES: usize = 600;
pub(crate) const LARGE_ANSWER_BYTES: usize = 64 << 10;
pub(crate) const MERGED_SERVERS: u16 = 20;
/// Of each of them.
pub(crate) const MERGED_TOOLS: u32 = 50;
/// Of rules and sessions, those there are once.
pub(crate) const GROWN_FROM: u32 = 100;

const OPEN: Load = Load::Open { rate: 20_000, connections: OPEN_CONNECTIONS };

const NGINX: Pair = own(Share::Serving, Rival::Nginx);
const NGINX_WHOLE: Pair = own(Share::Whole, Rival::Nginx);
const NGINX_LOG: Pair = own(Share::Whole, Rival::NginxLog);
const HAPROXY: Pair = own(Share::Serving, Rival::Haproxy);
const HOP: Pair = own(Share::Serving, Rival::Hop);
const MERGED: Pair = Pair { own: Who::Merged, share: Share::Serving, base: Who::Alone };
const LEGACY: Pair = Pair { own: Who::Legacy, share: Share::Serving, base: Who::Modern };
const SHARDS: Pair = Pair { own: Who::TwoShards, share: Share::Serving, base: Who::OneShard };
const GROWTH: [Pair; 6] = [
    grown(What::Servers, Times::Ten),
    grown(What::Servers, Times::Hundred),
    grown(What::Rules, Times::Ten),
    grown(What::Rules, Times::Hundred),
    grown(What::Sessions, Times::Ten),
    grown(What::Sessions, Times::Hundred),
];
/// Of a call where there is more of something, by one where there is not.
const GROWTH_MOST: f64 = 1.05;

/// What must be true.
const GOALS: [Goal; 21] = [
    goal(Scene::Calls, Load::Closed(1), NGINX, 1.0),
    goal(Scene::Calls, Load::Closed(16), NGINX, 0.75),
    goal(Scene::Calls, Load::Closed(64), NGINX, 0.72),
    goal(Scene::Calls, Load::Closed(256), NGINX, 0.70),
    goal(Scene::Calls, OPEN, NGINX, 1.0),
    goal(Scene::Calls, Load::Closed(16), NGINX_LOG, 0.82),
    goal(Scene::Calls, Load::Closed(64), NGINX_LOG, 0.80),
    goal(Scene::Calls, Load::Closed(256), NGINX_LOG, 0.76),
    goal(Scene::Calls, Load::Closed(1), HAPROXY, 1.0),
    goal(Scene::Calls, Load::Closed(16), HAPROXY, 0.75),
    goal(Scene::Calls, Load::Closed(64), HAPROXY, 0.75),
    goal(Scene::Calls, Load::Closed(256), HAPROXY, 0.65),
    goal(Scene::Calls, OPEN, HAPROXY, 1.0),
    goal(Scene::Calls, Load::Closed(64), HOP, 1.12),
    goal(Scene::Tls, Load::Closed(16), NGINX, 0.55),
    goal(Scene::Tls, Load::Closed(64), NGINX, 0.55),
    goal(Scene::Events, Load::Closed(64), NGINX, 0.75),
    goal(Scene::Large, Load::Closed(16), NGINX, 1.15),
    goal(Scene::Merged, Load::Closed(64), MERGED, 1.10),
    goal(Scene::Legacy, Load::Closed(64), LEGACY, 1.10),
    goal(Scene::Shards, Load::Closed(64), SHARDS, 1.10),
];

/// System calls of the shard threads for each call, by connections.
const SYSTEM_CALLS: [(u32, f64); 2] = [(16, 0.6), (64, 0.15)];

impl Scene {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Calls => "plain calls",
            Self::Tls => "TLS 1.3 to the client",
            Self::Events => "event streams of 10",
            Self::Large => "answers of 64 KiB",
            Self::Merged => "20 servers × 50 tools",
            Self::Legacy => "sessions",
            Self::Shards => "two shards",
            Self::Growth => "more of it",
        }
    }

    /// Who takes part, whatever was asked for.
    pub(crate) fn cast(self) -> &'static [Who] {
        use Rival::{Haproxy, Hop, Nginx, NginxLog, Nothing};
        match self {
            Self::Calls => &[
                Who::Rival(Nginx),
                Who::Rival(NginxLog),
                Who::Rival(Haproxy),
                Who::Rival(Hop),
                Who::Portcullis,
                Who::Rival(Nothing),
            ],
            Self::Tls | Self::Events | Self::Large => &[Who::Rival(Nginx), Who::Portcullis],
            Self::Merged => &[Who::Alone, Who::Merged],
            Self::Legacy => &[Who::Modern, Who::Legacy],
            Self::Shards => &[Who::OneShard, Who::TwoShards],
            Self::Growth => &[
                Who::Grown(What::Servers, Times::One),
                Who::Grown(What::Servers, Times::Ten),
                Who::Grown(What::Servers, Times::Hundred),
                Who::Grown(What::Rules, Times::One),
                Who::Grown(What::Rules, Times::Ten),
                Who::Grown(What::Rules, Times::Hundred),
                Who::Grown(What::Sessions, Times::One),
                Who::Grown(What::Sessions, Times::Ten),
                Who::Grown(What::Sessions, Times::Hundred),
            ],
        }
    }

    /// Who takes part.
    pub(crate) fn who(self, options: &Compare) -> Vec<Who> {
        let wanted = |who: &Who| match who {
            Who::Rival(Rival::Nothing) => options.beside.contains(&Rival::Nothing),
            Who::Rival(rival) => options.beside.is_empty() || options.beside.contains(rival),
            _ => true,
        };
        self.cast().iter().copied().filter(wanted).collect()
    }

    pub(crate) fn loads(self, options: &Compare) -> Vec<Load> {
        let closed = |connections: &[u32]| connections.iter().copied().map(Load::Closed).collect::<Vec<_>>();
        match self {
            Self::Calls => {
                let rates = options.rates.iter().copied().filter(|rate| *rate > 0);
                let open = rates.map(|rate| Load::Open { rate, connections: OPEN_CONNECTIONS });
                closed(&options.connections).into_iter().chain(open).collect()
            }
            Self::Tls => closed(&[16, 64]),
            Self::Large => closed(&[16]),
            Self::Events | Self::Merged | Self::Legacy | Self::Shards | Self::Growth => closed(&[64]),
        }
    }

    /// Who is compared with whom.
    pub(crate) fn pairs(self) -> &'static [Pair] {
        match self {
            Self::Calls => &[NGINX, NGINX_WHOLE, NGINX_LOG, HAPROXY, HOP],
            Self::Tls | Self::Events | Self::Large => &[NGINX],
            Self::Merged => &[MERGED],
            Self::Legacy => &[LEGACY],
            Self::Shards => &[SHARDS],
            Self::Growth => &GROWTH,
        }
    }

    /// The most that this ratio should be; `None` where nobody has said.
    pub(crate) fn goal(self, load: Load, pair: Pair) -> Option<f64> {
        if self == Self::Growth {
            return Some(GROWTH_MOST);
        }
        let goal = GOALS.iter().find(|goal| goal.scene == self && goal.load == load && goal.pair == pair);
        goal.map(|goal| goal.most)
    }

    /// The most system calls for each call.
    pub(crate) fn system_calls(self, load: Load) -> Option<f64> {
        let Load::Closed(connections) = load else { return None };
        let goal = SYSTEM_CALLS.iter().find(|(of, _)| self == Self::Calls && *of == connections);
        goal.map(|(_, most)| *most)
    }
}

impl Who {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rival(Rival::Nginx) => "nginx",
            Self::Rival(Rival::NginxLog) => "nginx, with log",
            Self::Rival(Rival::Haproxy) => "HAProxy",
            Self::Rival(Rival::Hop) => "bare hop",
            Self::Rival(Rival::Nothing) => "nothing between",
            Self::Portcullis => "portcullis",
            Self::Alone => "own endpoint",
            Self::Merged => "merged endpoint",
            Self::Modern => "modern call",
            Self::Legacy => "call in a session",
            Self::OneShard => "one shard",
            Self::TwoShards => "two shards",
            Self::Grown(What::Servers, Times::One) => "1 server",
            Self::Grown(What::Servers, Times::Ten) => "10 servers",
            Self::Grown(What::Servers, Times::Hundred) => "100 servers",
            Self::Grown(What::Rules, Times::One) => "100 rules",
            Self::Grown(What::Rules, Times::Ten) => "1,000 rules",
            Self::Grown(What::Rules, Times::Hundred) => "10,000 rules",
            Self::Grown(What::Sessions, Times::One) => "100 sessions",
            Self::Grown(What::Sessions, Times::Ten) => "1,000 sessions",
            Self::Grown(What::Sessions, Times::Hundred) => "10,000 sessions",
        }
    }

    /// Whether it is a gateway of ours.
    pub(crate) fn is_own(self) -> bool {
        !matches!(self, Self::Rival(_))
    }
}

impl Times {
    /// How many of what there is `once` of.
    pub(crate) fn of(self, once: u32) -> u32 {
        match self {
            Self::One => once,
            Self::Ten => once * 10,
            Self::Hundred => once * 100,
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = match self.share {
            Share::Serving => "shard threads",
            Share::Whole => "whole process",
        };
        write!(f, "{}, {share} / {}", self.own.name(), self.base.name())
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(1) => f.write_str("1 connection"),
            Self::Closed(connections) => write!(f, "{connections} connections"),
            Self::Open { rate, connections } => write!(f, "{rate}/s over {connections}"),
        }
    }
}

const fn own(share: Share, rival: Rival) -> Pair {
    Pair { own: Who::Portcullis, share, base: Who::Rival(rival) }
}

const fn grown(what: What, times: Times) -> Pair {
    Pair { own: Who::Grown(what, times), share: Share::Serving, base: Who::Grown(what, Times::One) }
}

const fn goal(scene: Scene, load: Load, pair: Pair, most: f64) -> Goal {
    Goal { scene, load, pair, most }
}
