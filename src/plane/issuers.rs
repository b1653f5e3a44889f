//! Keeps what is known of issuers: their metadata, and the keys that their tokens are verified with. One thread watches
//! over all of them; each look at an issuer has a thread of its own, so that one that hangs keeps no other waiting.
//! While an issuer cannot be asked, or says what makes no sense, its last good keys hold, but not for ever.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::base::limits::{KEYS_HOLD_MS_MIN, KEYS_LOOK_MS, KEYS_RETRY_MS, KEYS_RETRY_MS_MAX, TICK_MS};
use crate::base::time::{Moment, Now};
use crate::config::{KeysFrom, Settings};
use crate::gateway::control::{Control, Life};
use crate::gateway::mail::Letter;
use crate::identity::keyring::{Good, Standing};
use crate::identity::keys::{KeyFault, KeySet};
use crate::oauth::metadata::{self, Metadata, MetadataFault};
use crate::uring::wait::clock;

use super::PlaneFault;
use super::admin::Health;
use super::fetch::{FetchFault, Fetcher};
use super::keybook::{Asked, Entry};
use super::publish::Press;

/// What is known of an issuer's keys, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerHealth {
    /// Its `iss`.
    pub issuer: String,
    /// Where its keys come from: `file`, `url`, `discovery` or `none`.
    pub source: &'static str,
    /// `good`, `awaited` (none were had yet), `too_old` (the last good ones are no longer believed) or `none`.
    pub standing: &'static str,
    /// How many of its keys can serve.
    pub keys: usize,
    /// How many of its keys cannot, and were left out.
    pub left_out: usize,
    /// When its keys were last seen there, milliseconds since 1970; `None` for a file, and while there are none.
    pub seen_unix_ms: Option<u64>,
    /// How often they were looked at.
    pub looks: u64,
    /// And in vain.
    pub failed: u64,
    /// What is wrong, since the last look.
    pub trouble: Option<String>,
}

/// Starts to look after all issuers, until the gateway stops.
///
/// # Errors
/// `PlaneFault::System` when there is no thread for it.
pub(super) fn start(
    control: &Arc<Control>,
    press: &Arc<Press>,
    health: &Arc<Health>,
    fetcher: &Arc<Fetcher>,
) -> Result<(), PlaneFault> {
    let (tell, told) = mpsc::channel();
    let mut issuers = Issuers {
        control: control.clone(),
        press: press.clone(),
        health: health.clone(),
        fetcher: fetcher.clone(),
        minded: Vec::new(),
        epoch: None,
        tell,
        told,
        random: SystemRandom::new(),
    };
    issuers.follow();
    let fault = |error| PlaneFault::System { what: "a thread", error };
    std::thread::Builder::new().name("plane-issuers".into()).spawn(move || issuers.run()).map_err(fault)?;
    Ok(())
}

/// Waits for the first look at each issuer, until `until` at most.
pub(super) fn wait(health: &Health, until: Instant) {
    let looked = |issuer: &IssuerHealth| issuer.looks > 0 || matches!(issuer.source, "file" | "none");
    while !health.issuers().iter().all(looked) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(TICK_MS));
    }
}

/// All issuers that anything is fetched of.
struct Issuers {
    control: Arc<Control>,
    press: Arc<Press>,
    health: Arc<Health>,
    fetcher: Arc<Fetcher>,
    minded: Vec<Minded>,
    /// The number of the settings that they are of.
    epoch: Option<u64>,
    tell: Sender<Looked>,
    told: Receiver<Looked>,
    random: SystemRandom,
}

/// One of them.
struct Minded {
    asked: Arc<Asked>,
    refresh_ms: u64,
    stale_ms: u64,
    /// Whether its metadata is of use beyond its keys.
    document_wanted: bool,
    /// Where its metadata says that its keys are.
    keys_url: Option<String>,
    good: Option<(Arc<KeySet>, Now)>,
    document: Option<Arc<[u8]>>,
    too_old: bool,
    looking: bool,
    due: Moment,
    failures: u32,
    looks: u64,
    failed: u64,
    trouble: Option<String>,
}

/// A look at an issuer has ended.
struct Looked {
    asked: Arc<Asked>,
    begun: Now,
    outcome: Result<Brought, Trouble>,
}

/// What it has brought.
#[derive(Debug, Default)]
struct Brought {
    /// `None` where its keys are not fetched.
    set: Option<KeySet>,
    keys_url: Option<String>,
    /// `None` where it was not looked at.
    document: Option<Arc<[u8]>>,
    max_age_s: Option<u64>,
}

/// What a look is for.
struct Errand {
    asked: Arc<Asked>,
    /// Known, and not to be asked for again.
    keys_url: Option<String>,
    document_wanted: bool,
}

/// Why a look was in vain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Trouble {
    #[error("it is no URL that metadata could be behind")]
    NoPlace,
    #[error("{url}: {why}")]
    At { url: String, why: Why },
    #[error("there is no thread to look with")]
    NoThread,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Fetch(#[from] FetchFault),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error(transparent)]
    Metadata(#[from] MetadataFault),
    #[error("the document does not say where the keys are (jwks_uri)")]
    NoKeys,
    #[error(transparent)]
    Keys(#[from] KeyFault),
}

impl Trouble {
    /// Whether it says that the keys known here are good no more: its issuer has withdrawn all, or anybody may sign.
    fn withdraws(&self) -> bool {
        matches!(self, Self::At { why: Why::Keys(KeyFault::Private | KeyFault::Empty), .. })
    }
}

impl Issuers {
    fn run(mut self) {
        while self.control.life() != Life::Stop {
            let asked = self.control.key_desk.take(Duration::from_millis(KEYS_LOOK_MS));
            self.follow();
            while let Ok(looked) = self.told.try_recv() {
                self.looked(looked);
            }
            let now = clock();
            for place in 0..self.minded.len() {
                let minded = &self.minded[place];
                if !minded.looking && (minded.due <= now.mono || asked.contains(&minded.asked.issuer)) {
                    // Whoever asks for a key has no use for the metadata again, unless that may be what is wrong.
                    let by_time = minded.due <= now.mono || minded.trouble.is_some();
                    self.look(place, now, by_time);
                }
                self.age(place, now);
            }
            self.report();
        }
    }

    /// Takes up the settings of this moment, where they are others.
    fn follow(&mut self) {
        let snapshot = self.control.snapshot.load();
        if self.epoch == Some(snapshot.settings_epoch) {
            return;
        }
        self.epoch = Some(snapshot.settings_epoch);
        let mut before = std::mem::take(&mut self.minded);
        let mut desk = Vec::new();
        for mut minded in minded(&snapshot.settings) {
            let known = before.iter().position(|known| known.asked == minded.asked);
            // Nobody waits for what is fetched of an issuer whose keys are not.
            if minded.fetches_keys() {
                desk.push((minded.asked.issuer.clone(), known.is_some()));
            }
            if let Some(known) = known {
                let known = before.swap_remove(known);
                let look = minded.document_wanted && known.document.is_none();
                let due = if look { clock().mono } else { known.due.min(clock().mono.plus_ms(minded.refresh_ms)) };
                let Minded { asked, refresh_ms, stale_ms, document_wanted, .. } = minded;
                minded = Minded { asked, refresh_ms, stale_ms, document_wanted, due, ..known };
            }
            self.minded.push(minded);
        }
        self.control.key_desk.keep(desk.into_iter());
        // What is under way for settings that are gone is told to nobody: whoever waits for it asks again.
        self.control.mail.send(&Letter::Brought);
        self.report();
    }

    fn look(&mut self, place: usize, now: Now, everything: bool) {
        let minded = &mut self.minded[place];
        minded.looking = true;
        let errand = Errand {
            asked: minded.asked.clone(),
            keys_url: minded.keys_url.clone().filter(|_| !everything),
            document_wanted: minded.document_wanted,
        };
        let asked = minded.asked.clone();
        self.control.key_desk.begin(&asked.issuer, now);
        let (fetcher, tell, control) = (self.fetcher.clone(), self.tell.clone(), self.control.clone());
        let work = move || {
            let (asked, outcome) = (errand.asked.clone(), run(&fetcher, &errand));
            // Nobody listens any more only when the process is ending.
            let _ = tell.send(Looked { asked, begun: now, outcome });
            control.key_desk.ring();
        };
        if std::thread::Builder::new().name("plane-keys".into()).spawn(work).is_err() {
            self.looked(Looked { asked, begun: now, outcome: Err(Trouble::NoThread) });
        }
    }

    fn looked(&mut self, looked: Looked) {
        let Looked { asked, begun, outcome } = looked;
        let Some(minded) = self.minded.iter_mut().find(|minded| minded.asked == asked) else { return };
        minded.looking = false;
        minded.looks += 1;
        let seen = match outcome {
            Ok(brought) => {
                let waits_ms = minded.brought(brought, begun);
                minded.due = begun.mono.plus_ms(less_some(&self.random, waits_ms));
                Some(self.press.learn(minded.entry()))
            }
            Err(trouble) => {
                let believed = !minded.too_old;
                let waits_ms = minded.was_in_vain(&trouble);
                minded.due = clock().mono.plus_ms(less_some(&self.random, waits_ms));
                if believed && minded.too_old {
                    let name = &asked.issuer;
                    tracing::error!("issuer {name}: none of its keys is believed any more, until it has others");
                    self.press.learn(minded.entry());
                }
                None
            }
        };
        self.control.key_desk.end(&asked.issuer, seen, minded.due);
        self.control.mail.send(&Letter::Brought);
    }

    /// Keys that were not seen for too long are believed no more.
    fn age(&mut self, place: usize, now: Now) {
        let minded = &mut self.minded[place];
        let Some((_, seen)) = &minded.good else { return };
        if minded.too_old || now.mono < seen.mono.plus_ms(minded.stale_ms) {
            return;
        }
        minded.too_old = true;
        tracing::warn!(
            "issuer {}: its keys were last seen {} s ago, longer than they are believed ('jwks.stale'): its tokens are \
             answered with 503 until it can be asked again",
            minded.asked.issuer,
            now.mono.since(seen.mono).as_secs()
        );
        self.press.learn(minded.entry());
    }

    fn report(&self) {
        let snapshot = self.control.snapshot.load();
        let known = |issuer: &str| self.minded.iter().find(|minded| &*minded.asked.issuer == issuer);
        let issuers = snapshot.settings.issuers.iter().zip(&snapshot.settings.sources);
        let rows = issuers.map(|(issuer, source)| {
            let minded = known(&issuer.issuer);
            let mut row = minded.map(Minded::health).unwrap_or_default();
            row.issuer = issuer.issuer.to_string();
            match &source.keys {
                KeysFrom::File(set) => {
                    (row.source, row.standing) = ("file", "good");
                    (row.keys, row.left_out, row.seen_unix_ms) = (set.len(), set.left_out(), None);
                }
                KeysFrom::Url(_) => row.source = "url",
                KeysFrom::Discovery => row.source = "discovery",
                KeysFrom::None => (row.source, row.standing) = ("none", "none"),
            }
            row
        });
        self.health.set_issuers(rows.collect());
    }
}

/// The issuers of these settings that anything is fetched of.
fn minded(settings: &Settings) -> Vec<Minded> {
    let all = settings.issuers.iter().zip(&settings.sources).enumerate();
    let minded = all.filter_map(|(place, (issuer, source))| {
        let unplaced = source.introspection.as_ref().is_some_and(|introspection| introspection.url.is_none());
        // Clients of 2025-03-26 can only be sent to one issuer.
        let shown = settings.legacy_metadata && place == 0;
        let document_wanted = unplaced || shown;
        let fetched = matches!(source.keys, KeysFrom::Url(_) | KeysFrom::Discovery);
        (fetched || document_wanted).then(|| Minded {
            asked: Arc::new(Asked::of(issuer, source)),
            refresh_ms: source.refresh_ms,
            stale_ms: source.stale_ms,
            document_wanted,
            keys_url: None,
            good: None,
            document: None,
            too_old: false,
            looking: false,
            due: Moment(0),
            failures: 0,
            looks: 0,
            failed: 0,
            trouble: None,
        })
    });
    minded.collect()
}

impl Minded {
    fn fetches_keys(&self) -> bool {
        matches!(self.asked.keys, KeysFrom::Url(_) | KeysFrom::Discovery)
    }

    /// Keeps it; says how long it holds, milliseconds.
    fn brought(&mut self, brought: Brought, begun: Now) -> u64 {
        let name = &self.asked.issuer;
        if self.trouble.take().is_some() {
            tracing::info!("issuer {name}: it can be asked again");
        }
        self.failures = 0;
        self.too_old = false;
        self.keys_url = brought.keys_url.or(self.keys_url.take());
        self.document = brought.document.or(self.document.take());
        if let Some(set) = brought.set {
            if self.good.as_ref().is_none_or(|(known, _)| **known != set) {
                tracing::info!("issuer {name}: {} keys, and {} that cannot serve", set.len(), set.left_out());
            }
            self.good = Some((Arc::new(set), begun));
        }
        let fresh_ms = brought.max_age_s.map(|age_s| age_s.saturating_mul(1000).max(KEYS_HOLD_MS_MIN));
        self.refresh_ms.min(fresh_ms.unwrap_or(u64::MAX))
    }

    /// Says how long to wait before another look, milliseconds.
    fn was_in_vain(&mut self, trouble: &Trouble) -> u64 {
        self.failed += 1;
        self.too_old |= self.good.is_some() && trouble.withdraws();
        let trouble = trouble.to_string();
        if self.trouble.as_ref() != Some(&trouble) {
            let hint = if self.good.is_none() && self.fetches_keys() {
                ": until it can, its tokens are answered with 503"
            } else {
                ""
            };
            tracing::warn!("issuer {} cannot be asked: {trouble}{hint}", self.asked.issuer);
        }
        self.trouble = Some(trouble);
        let waits_ms = KEYS_RETRY_MS.saturating_mul(1 << self.failures.min(16)).min(KEYS_RETRY_MS_MAX);
        self.failures += 1;
        waits_ms
    }

    fn standing(&self) -> Standing {
        match &self.good {
            None => Standing::Awaited,
            Some(_) if self.too_old => Standing::TooOld,
            Some((set, seen)) => Standing::Good(Good { set: set.clone(), seen_unix_s: seen.unix_s() }),
        }
    }

    fn entry(&self) -> Entry {
        Entry { asked: self.asked.clone(), standing: self.standing(), document: self.document.clone() }
    }

    fn health(&self) -> IssuerHealth {
        let set = self.good.as_ref().map(|(set, _)| set);
        IssuerHealth {
            issuer: String::new(),
            source: "",
            standing: match self.standing() {
                Standing::Awaited => "awaited",
                Standing::TooOld => "too_old",
                Standing::Good(_) => "good",
            },
            keys: set.map_or(0, |set| set.len()),
            left_out: set.map_or(0, |set| set.left_out()),
            seen_unix_ms: self.good.as_ref().map(|(_, seen)| seen.unix_ms),
            looks: self.looks,
            failed: self.failed,
            trouble: self.trouble.clone(),
        }
    }
}

/// Up to a tenth less: what began together does not go on together.
fn less_some(random: &SystemRandom, ms: u64) -> u64 {
    let mut drawn = [0];
    // Without randomness it is all of it.
    let _ = random.fill(&mut drawn);
    ms - ms / 10 * u64::from(drawn[0]) / 256
}

/// Looks at an issuer.
fn run(fetcher: &Fetcher, errand: &Errand) -> Result<Brought, Trouble> {
    let asked = &*errand.asked;
    let discovers = asked.keys == KeysFrom::Discovery;
    let mut brought = Brought { keys_url: errand.keys_url.clone(), ..Brought::default() };
    if (discovers || errand.document_wanted) && brought.keys_url.is_none() {
        let found = discover(fetcher, asked, discovers)?;
        brought.keys_url = found.keys;
        brought.document = Some(found.raw);
    }
    let url = match &asked.keys {
        KeysFrom::Url(url) => Some(&**url),
        KeysFrom::Discovery => brought.keys_url.as_deref(),
        KeysFrom::File(_) | KeysFrom::None => None,
    };
    if let Some(url) = url {
        let (set, max_age_s) = keys(fetcher, asked, url).map_err(|why| at(url, why))?;
        (brought.set, brought.max_age_s) = (Some(set), max_age_s);
    }
    Ok(brought)
}

fn keys(fetcher: &Fetcher, asked: &Asked, url: &str) -> Result<(KeySet, Option<u64>), Why> {
    let answer = fetcher.get(url, &asked.guard, "application/jwk-set+json, application/json")?;
    if answer.status != 200 {
        return Err(Why::Status(answer.status));
    }
    let set = KeySet::parse(answer.body.reveal(), &asked.algorithms)?;
    Ok((set, answer.max_age_s))
}

/// The first document of the issuer's own among the places where one may be.
fn discover(fetcher: &Fetcher, asked: &Asked, keys_wanted: bool) -> Result<Metadata, Trouble> {
    let mut told: Option<(bool, Trouble)> = None;
    for url in &metadata::places(&asked.issuer) {
        let why = match document(fetcher, asked, url) {
            Ok(found) if keys_wanted && found.keys.is_none() => Why::NoKeys,
            Ok(found) => return Ok(found),
            // The others are at the same host.
            Err(Why::Fetch(fault)) if !matches!(fault, FetchFault::Redirect | FetchFault::TooLarge) => {
                return Err(at(url, fault.into()));
            }
            Err(why) => why,
        };
        // That one is not there says less than what is wrong with another.
        let telling = !matches!(why, Why::Status(404));
        if told.as_ref().is_none_or(|(known, _)| telling && !known) {
            told = Some((telling, at(url, why)));
        }
    }
    Err(told.map_or(Trouble::NoPlace, |(_, trouble)| trouble))
}

fn document(fetcher: &Fetcher, asked: &Asked, url: &str) -> Result<Metadata, Why> {
    let answer = fetcher.get(url, &asked.guard, "application/json")?;
    if answer.status != 200 {
        return Err(Why::Status(answer.status));
    }
    Ok(Metadata::parse(answer.body.reveal(), &asked.issuer)?)
}

/// The URL may be the other side's own: it was judged, and is cut.
fn at(url: &str, why: Why) -> Trouble {
    let plain = url.chars().filter(char::is_ascii_graphic).take(URL_LETTERS_SHOWN).collect();
    Trouble::At { url: plain, why }
}

/// What is shown of a URL, letters.
const URL_LETTERS_SHOWN: usize = 200;
