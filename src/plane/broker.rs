//! Has tokens for servers fetched: each by a thread that ends with its work, so many at once for one server and for all.
//! A server whose token endpoint does not answer is asked again after a while, twice as long each time, and keeps no
//! other server's tokens waiting. What an endpoint says goes no further than this file: callers and the log hear words of
//! ours.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::rand::SystemRandom;

use crate::base::limits::{
    BROKER_LOOK_MS, ERRAND_DECLINED_MS, ERRAND_RETRY_MS_MAX, ERRAND_RETRY_MS_MIN, ERRAND_THREADS, ERRAND_WAIT_MS_MAX,
    ERRANDS_AT_ONCE_MAX, ERRANDS_MAX, ISSUED_MARGIN_MS, ISSUED_MS_DEFAULT, ISSUED_MS_MAX, TICK_MS, TOLD_AGAIN_MS,
};
use crate::base::secret::Secret;
use crate::base::time::{Moment, Now};
use crate::config::snapshot::Snapshot;
use crate::config::{Credentials, GrantMark};
use crate::gateway::control::{Control, Life};
use crate::gateway::errand::{Issued, TokenErrand};
use crate::gateway::mail::Letter;
use crate::identity::caller::Owner;
use crate::ledger::errands::{ErrandKey, Look, Outcome};
use crate::oauth::client::Occasion;
use crate::oauth::grant::{self, Declined, Token, Wish};
use crate::uring::wait::clock;

use super::PlaneFault;
use super::admin::Health;
use super::fetch::{FetchFault, Fetched, Fetcher};

/// Begins to take errands, until the gateway stops.
pub(super) fn start(control: &Arc<Control>, health: &Arc<Health>, fetcher: &Arc<Fetcher>) -> Result<(), PlaneFault> {
    let (control, health, fetcher) = (control.clone(), health.clone(), fetcher.clone());
    let broker = Arc::new(Broker { control, health, fetcher, desk: Mutex::default() });
    let fault = |error| PlaneFault::System { what: "a thread", error };
    std::thread::Builder::new().name("plane-broker".into()).spawn(move || broker.run()).map_err(fault).map(drop)
}

/// Waits for a token, from a thread of the plane that may wait. In a word why there is none.
pub(super) fn obtain(
    control: &Control,
    key: &ErrandKey,
    patience: Duration,
    errand: impl Fn() -> TokenErrand,
) -> Result<Arc<Issued>, &'static str> {
    let until = clock().mono.plus_ms(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
    loop {
        let now = clock().mono;
        match control.credentials.look(key, now, &errand) {
            Look::Have(issued) => return Ok(issued),
            Look::Failed(word, _) => return Err(word),
            Look::Full => return Err(BUSY),
            Look::Wait if now >= until || control.life() == Life::Stop => return Err("timeout"),
            Look::Wait => std::thread::sleep(Duration::from_millis(TICK_MS)),
        }
    }
}

/// How the tokens of one server are, for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialHealth {
    /// How many were asked for, by what came of it: `brought`, or a word for why not.
    pub fetches: BTreeMap<&'static str, u64>,
    /// When the gateway's own ends, seconds since 1970, where its issuer says so.
    pub expires_unix_s: Option<u64>,
    /// Why none can be had at the moment.
    pub trouble: Option<&'static str>,
}

struct Broker {
    control: Arc<Control>,
    health: Arc<Health>,
    fetcher: Arc<Fetcher>,
    desk: Mutex<Desk>,
}

/// Who is at work on what.
#[derive(Default)]
struct Desk {
    lanes: HashMap<Whose, Lane>,
    /// How many are under way at each host, of all lanes: servers may have theirs from one.
    hosts: HashMap<Box<str>, usize>,
    /// Errands that wait in all lanes.
    waiting: usize,
    threads: usize,
}

/// Tokens of one server by one grant, by its digest and that one's.
type Whose = (u64, GrantMark);

#[derive(Default)]
struct Lane {
    /// Where its endpoint is: the URL up to its path.
    host: Box<str>,
    under_way: usize,
    waiting: VecDeque<Task>,
    /// Since the last time that its endpoint was of use.
    trouble: Option<Trouble>,
    /// For whose token it was of no use last, since it was to anybody: one caller may be alone with that.
    failed_for: Option<Alone>,
    /// When the log was told of a caller whose token was not exchanged.
    told: Option<Moment>,
}

#[derive(Clone, Copy)]
struct Alone {
    owner: Owner,
    retry_ms: u64,
}

#[derive(Clone, Copy)]
struct Trouble {
    word: &'static str,
    retry_ms: u64,
    until: Moment,
}

struct Task {
    key: ErrandKey,
    errand: TokenErrand,
    whose: Whose,
    taken: Moment,
}

/// Why there is no token.
#[derive(Debug)]
struct Miss {
    word: &'static str,
    /// For the log.
    why: String,
    about: About,
}

/// Whose fault it is that there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// The endpoint's, or the client's that the gateway is there: nobody will have one.
    All,
    /// The one caller's: the endpoint answers, and the next may have its.
    Caller,
    /// The endpoint's, where another caller fares no better: it answers, but not as it should.
    Perhaps,
    /// Nobody's: it was not asked.
    Nobody,
}

impl Broker {
    fn run(self: &Arc<Self>) {
        let mut seen = self.control.snapshot.load_full();
        while self.control.life() != Life::Stop {
            if let Some((key, errand)) = self.control.credentials.take(Duration::from_millis(BROKER_LOOK_MS)) {
                self.receive(key, errand);
            }
            let now = self.control.snapshot.load_full();
            let same = Arc::ptr_eq(&now.revocations, &seen.revocations) && now.settings_epoch == seen.settings_epoch;
            if !same {
                self.drop_what_fell(&now);
            }
            seen = now;
        }
    }

    /// Puts an errand in line.
    fn receive(self: &Arc<Self>, key: ErrandKey, errand: TokenErrand) {
        let whose = (errand.server, errand.grant.mark());
        let task = Task { key, errand, whose, taken: clock().mono };
        let mut desk = self.desk();
        let lane = desk.lanes.entry(whose).or_default();
        if lane.host.is_empty() {
            lane.host = host(&task.errand.grant.token_url).into();
        }
        if let Some(trouble) = lane.trouble.filter(|trouble| task.taken < trouble.until) {
            drop(desk);
            return self.settle(&key, Outcome::Failed(trouble.word), trouble.until, trouble.until);
        }
        if desk.waiting >= ERRANDS_MAX {
            drop(desk);
            return self.refuse(&task);
        }
        desk.lanes.entry(whose).or_default().waiting.push_back(task);
        desk.waiting += 1;
        drop(desk);
        self.hand_out();
    }

    /// A thread for each errand that may have one.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let mut desk = self.desk();
            let Some(task) = desk.next() else { return };
            drop(desk);
            let (broker, whose) = (self.clone(), task.whose);
            // Where there is no thread the task is gone with it: whoever waits for it is told.
            let key = task.key;
            let begun = std::thread::Builder::new()
                .name("plane-token".into())
                .stack_size(STACK_BYTES)
                .spawn(move || broker.work(&task));
            if begun.is_err() {
                self.desk().leave(&whose);
                let until = clock().mono.plus_ms(ERRAND_RETRY_MS_MIN);
                return self.settle(&key, Outcome::Failed(BUSY), until, until);
            }
        }
    }

    /// One errand, from one end to the other.
    fn work(self: &Arc<Self>, task: &Task) {
        let begun = clock();
        if begun.mono.since(task.taken) > Duration::from_millis(ERRAND_WAIT_MS_MAX) {
            // Nobody waits for it any more.
            self.refuse(task);
        } else {
            match self.fetch(task, begun) {
                Ok(issued) => self.brought(task, issued),
                Err(miss) => self.missed(task, &miss),
            }
        }
        self.desk().leave(&task.whose);
        self.hand_out();
    }

    fn brought(&self, task: &Task, issued: Issued) {
        let (until, fresh) = (issued.until, issued.fresh);
        let recovered = {
            let mut desk = self.desk();
            let lane = desk.lanes.get_mut(&task.whose);
            lane.and_then(|lane| (lane.failed_for.take(), lane.trouble.take()).1).is_some()
        };
        let name = self.name(task.whose.0);
        if recovered {
            tracing::info!("server {name}: its token endpoint gives tokens again");
        }
        let shared = issued.caller.is_none().then_some(issued.expires_unix_s);
        self.health.credential(&name, |health| {
            *health.fetches.entry("brought").or_default() += 1;
            health.trouble = None;
            health.expires_unix_s = shared.unwrap_or(health.expires_unix_s);
        });
        let issued = Arc::new(issued);
        self.settle(&task.key, Outcome::Brought(issued), until, fresh);
        // What fell while it was fetched is not kept: looked at again after it was put in place, as whoever takes
        // something back does it the other way round.
        let snapshot = self.control.snapshot.load_full();
        let is_grant = grants(&snapshot).contains(&task.whose);
        self.control.credentials.forget_if(&task.key, |issued| !is_grant || fell(&snapshot, issued));
    }

    fn missed(&self, task: &Task, miss: &Miss) {
        let now = clock().mono;
        let mut desk = self.desk();
        let lane = desk.lanes.entry(task.whose).or_default();
        let name = self.name(task.whose.0);
        let mut alone = false;
        let (until, left) = if miss.about == About::Nobody {
            (now.plus_ms(ERRAND_RETRY_MS_MIN), VecDeque::new())
        } else if miss.about == About::Caller {
            if lane.told.is_none_or(|told| now.since(told) >= Duration::from_millis(TOLD_AGAIN_MS)) {
                lane.told = Some(now);
                tracing::warn!("server {name}: no token for a caller: {}", miss.why);
            }
            // It answers: whatever was wrong is over.
            (lane.trouble, lane.failed_for) = (None, None);
            (now.plus_ms(ERRAND_DECLINED_MS), VecDeque::new())
        } else if let Some(retry_ms) = lane.alone(task, miss.about) {
            if lane.told.is_none_or(|told| now.since(told) >= Duration::from_millis(TOLD_AGAIN_MS)) {
                lane.told = Some(now);
                tracing::warn!("server {name}: no token for a caller: {}", miss.why);
            }
            alone = true;
            (now.plus_ms(retry_ms), VecDeque::new())
        } else {
            let before = lane.trouble;
            // Those that were under way together fail together: that is one failure.
            let trouble = before.filter(|trouble| now < trouble.until).unwrap_or_else(|| {
                let twice = |trouble: Trouble| trouble.retry_ms.saturating_mul(2).min(ERRAND_RETRY_MS_MAX);
                let retry_ms = before.map_or(ERRAND_RETRY_MS_MIN, twice);
                Trouble { word: miss.word, retry_ms, until: now.plus_ms(retry_ms) }
            });
            if before.is_none_or(|before| before.word != trouble.word) {
                tracing::warn!("server {name}: no token from its token endpoint: {}", miss.why);
            }
            lane.trouble = Some(trouble);
            (trouble.until, std::mem::take(&mut lane.waiting))
        };
        desk.waiting -= left.len();
        drop(desk);
        self.health.credential(&name, |health| {
            *health.fetches.entry(miss.word).or_default() += 1;
            health.trouble = match miss.about {
                About::All | About::Perhaps if !alone => Some(miss.word),
                About::Caller => None,
                _ => health.trouble,
            };
        });
        // Those that wait would fare no better.
        for key in left.iter().map(|task| &task.key).chain([&task.key]) {
            self.settle(key, Outcome::Failed(miss.word), until, until);
        }
    }

    fn refuse(&self, task: &Task) {
        let until = clock().mono.plus_ms(ERRAND_RETRY_MS_MIN);
        self.health.credential(&self.name(task.whose.0), |health| *health.fetches.entry(BUSY).or_default() += 1);
        self.settle(&task.key, Outcome::Failed(BUSY), until, until);
    }

    fn settle(&self, key: &ErrandKey, outcome: Outcome<Arc<Issued>>, until: Moment, stale: Moment) {
        self.control.credentials.done(key, outcome, until, stale);
        self.control.mail.send(&Letter::Brought);
    }

    fn fetch(&self, task: &Task, begun: Now) -> Result<Issued, Miss> {
        let TokenErrand { grant, on_behalf, .. } = &task.errand;
        let caller = on_behalf.as_ref().map(|it| &it.caller);
        if caller.is_some_and(|caller| caller.expires <= begun.unix_s()) {
            return Err(Miss::of_nobody("ended"));
        }
        let wish = Wish {
            client: &grant.client,
            subject: on_behalf.as_ref().map(|it| &it.token),
            scope: grant.scope.as_deref(),
            audience: &grant.audience,
            resource: &grant.resource,
        };
        let random = SystemRandom::new();
        let occasion = Occasion { endpoint: &grant.token_url, now_unix_s: begun.unix_s(), random: &random };
        let request = wish.request(&occasion).map_err(|fault| Miss::of_all("client_key", fault.to_string()))?;
        let authorization = request.authorization.as_ref().map(|value| ("authorization", value));
        let headers: Vec<(&str, &Secret)> = authorization.into_iter().collect();
        let fetched = self.fetcher.post_form(&grant.token_url, &grant.guard, &headers, &request.body);
        let fetched = fetched.map_err(|fault| match fault {
            // Its host has as many requests as it may: no fault of its own.
            FetchFault::Busy => Miss::of_nobody(BUSY),
            fault => Miss::of_all(fault.word(), fault.to_string()),
        })?;
        let token = read(&fetched, on_behalf.is_some()).map_err(|miss| Miss {
            about: if miss.about == About::All && on_behalf.is_some() && answers(&fetched) {
                About::Perhaps
            } else {
                miss.about
            },
            ..miss
        })?;
        let ends = caller.map(|caller| caller.expires);
        issued(task, token, begun, ends).ok_or_else(|| {
            // An exchanged one may well end with the one it was given for.
            let about = if on_behalf.is_some() { About::Caller } else { About::All };
            Miss { word: "ended", why: "what it gave had ended when it came".to_owned(), about }
        })
    }

    /// What is of no use any more is kept no longer: tokens of callers that are revoked, and of grants that are gone.
    fn drop_what_fell(&self, snapshot: &Snapshot) {
        let grants = grants(snapshot);
        self.control.credentials.retain(|_, issued| {
            issued.is_none_or(|issued| grants.contains(&(issued.server, issued.grant)) && !fell(snapshot, issued))
        });
        self.desk()
            .lanes
            .retain(|whose, lane| grants.contains(whose) || lane.under_way > 0 || !lane.waiting.is_empty());
        let own = |server: u64| {
            let server = snapshot.prepared.server_by_digest(server)?;
            Some(&*snapshot.settings.servers[server.index()].name)
        };
        let named: HashSet<&str> = grants.iter().filter_map(|(server, _)| own(*server)).collect();
        self.health.keep_credentials(&named);
    }

    fn name(&self, server: u64) -> String {
        let snapshot = self.control.snapshot.load();
        let server = snapshot.prepared.server_by_digest(server);
        server.map_or_else(|| "(gone)".to_owned(), |server| snapshot.settings.servers[server.index()].name.to_string())
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    /// The next errand that may be worked on: of the lane that has least under way, so that a slow one holds up itself.
    fn next(&mut self) -> Option<Task> {
        if self.threads >= ERRAND_THREADS {
            return None;
        }
        let free = |host: &str| self.hosts.get(host).is_none_or(|count| *count < ERRANDS_AT_ONCE_MAX);
        let may = self.lanes.values_mut();
        let may = may.filter(|lane| !lane.waiting.is_empty() && lane.under_way < lane.at_once() && free(&lane.host));
        let lane = may.min_by_key(|lane| lane.under_way)?;
        let task = lane.waiting.pop_front()?;
        lane.under_way += 1;
        *self.hosts.entry(lane.host.clone()).or_default() += 1;
        self.waiting -= 1;
        self.threads += 1;
        Some(task)
    }

    /// One is worked on no more. A lane that has something under way is there.
    fn leave(&mut self, whose: &Whose) {
        self.threads -= 1;
        let Some(lane) = self.lanes.get_mut(whose) else { return };
        lane.under_way -= 1;
        if let Some(count) = self.hosts.get_mut(&lane.host) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&lane.host);
            }
        }
        let is_idle = lane.under_way == 0
            && lane.waiting.is_empty()
            && lane.trouble.is_none()
            && lane.told.is_none()
            && lane.failed_for.is_none();
        if is_idle {
            self.lanes.remove(whose);
        }
    }
}

impl Lane {
    /// One alone, to see, where the last one failed.
    fn at_once(&self) -> usize {
        if self.trouble.is_some() { 1 } else { ERRANDS_AT_ONCE_MAX }
    }

    /// Where a caller may be alone with its failure: after how long its token is asked for again, milliseconds. Not where
    /// another's was the last that failed.
    fn alone(&mut self, task: &Task, about: About) -> Option<u64> {
        let owner = task.errand.on_behalf.as_ref().filter(|_| about == About::Perhaps)?.caller.owner;
        if self.trouble.is_some() || self.failed_for.is_some_and(|alone| alone.owner != owner) {
            return None;
        }
        let twice = |alone: Alone| alone.retry_ms.saturating_mul(2).min(ERRAND_RETRY_MS_MAX);
        let retry_ms = self.failed_for.map_or(ERRAND_RETRY_MS_MIN, twice);
        self.failed_for = Some(Alone { owner, retry_ms });
        Some(retry_ms)
    }
}

impl Miss {
    fn of_all(word: &'static str, why: String) -> Self {
        Self { word, why, about: About::All }
    }

    fn of_nobody(word: &'static str) -> Self {
        Self { word, why: word.to_owned(), about: About::Nobody }
    }
}

/// What an endpoint answers (RFC 6749, 5).
fn read(fetched: &Fetched, exchanged: bool) -> Result<Token, Miss> {
    match fetched.status {
        200 if fetched.content_type != "application/json" => {
            Err(Miss::of_all("bad_answer", "the answer is not application/json".to_owned()))
        }
        200 => grant::token(fetched.body.reveal(), exchanged)
            .map_err(|fault| Miss::of_all("bad_answer", fault.to_string())),
        // Which of these statuses comes with which word is up to the endpoint.
        400..=407 | 409..=428 => {
            let declined = Declined::read(fetched.body.reveal());
            let why = format!("it answers {} ({})", fetched.status, declined.as_str());
            let about = if exchanged && declined.is_personal() { About::Caller } else { About::All };
            Err(Miss { word: declined.as_str(), why, about })
        }
        status => Err(Miss::of_all("bad_status", format!("it answers with status {status}"))),
    }
}

/// Whether what it answers may be about the one token that it was given: it may have stumbled over that, or have had
/// enough of its bearer. What it says with other words (RFC 6749, 5.2) is plain.
fn answers(fetched: &Fetched) -> bool {
    matches!(fetched.status, 200 | 408 | 429 | 500..)
}

/// A token as it is kept; `None` for one that is over. `ends`: the caller's own ends then, seconds since 1970.
fn issued(task: &Task, token: Token, begun: Now, ends: Option<u64>) -> Option<Issued> {
    let life_ms = match token.expires_in_s {
        Some(seconds) => {
            let life_ms = seconds.saturating_mul(1000).min(ISSUED_MS_MAX);
            life_ms - (life_ms / 10).max(ISSUED_MARGIN_MS).min(life_ms / 2)
        }
        None => ISSUED_MS_DEFAULT,
    };
    let left_ms = ends.map_or(u64::MAX, |ends| ends.saturating_mul(1000).saturating_sub(begun.unix_ms));
    let fresh_ms = if left_ms <= life_ms {
        // A newer one for the same caller's token would end no later.
        left_ms
    } else {
        // Between three quarters and four fifths of it: what was fetched together is not fetched anew together.
        life_ms / 100 * (75 + u64::from(task.key[31] % 6))
    };
    let life_ms = life_ms.min(left_ms);
    let (fetched, until) = (clock().mono, begun.mono.plus_ms(life_ms));
    let mut value = Vec::with_capacity(7 + token.value.reveal().len());
    value.extend_from_slice(b"Bearer ");
    value.extend_from_slice(token.value.reveal());
    (fetched < until).then(|| Issued {
        value: Secret::new(value),
        expires_unix_s: token.expires_in_s.map(|seconds| begun.unix_s().saturating_add(seconds)),
        fetched,
        fresh: begun.mono.plus_ms(fresh_ms),
        until,
        caller: task.errand.on_behalf.as_ref().map(|it| it.caller.clone()),
        server: task.whose.0,
        grant: task.whose.1,
    })
}

/// A URL up to its path.
fn host(url: &str) -> &str {
    let rest = url.find("://").map_or(0, |place| place + 3);
    let end = url[rest..].find(['/', '?', '#']).map_or(url.len(), |place| rest + place);
    &url[..end]
}

/// Whether its caller is revoked.
fn fell(snapshot: &Snapshot, issued: &Issued) -> bool {
    issued.caller.as_ref().is_some_and(|caller| snapshot.revocations.hits(caller, None).is_some())
}

/// All grants there are.
fn grants(snapshot: &Snapshot) -> HashSet<Whose> {
    let servers = snapshot.settings.servers.iter().zip(&snapshot.prepared.servers);
    let of = |credentials: Option<&Credentials>| match credentials {
        Some(Credentials::ClientCredentials(grant) | Credentials::Exchange(grant)) => Some(grant.mark()),
        _ => None,
    };
    let all = servers.flat_map(|(server, prepared)| {
        let marks = [of(Some(&server.credentials)), of(server.catalogue.as_ref())];
        marks.into_iter().flatten().map(|mark| (prepared.digest, mark))
    });
    all.collect()
}

/// As many wait as may.
const BUSY: &str = "busy";
/// A TLS handshake and a body on the heap need a part of it.
const STACK_BYTES: usize = 1 << 20;

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
