//! Asks issuers about opaque tokens (RFC 7662), for all shards, and keeps asking about those that are in use: whoever was
//! let in by one goes on only as long as its issuer says so.
//!
//! A few threads take turns. What is known and in use goes before what nobody was let in by, except with two of them: a
//! crowd that is in keeps nobody out. And that has a pace: a flood of tokens that nobody knows is a flood to no issuer. An issuer that could not be asked is left alone for a while,
//! a little longer each time, and whoever waits for its word is told so at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::rand::SystemRandom;

use crate::base::limits::{
    ERRAND_TAKE_MS, FETCH_MS_MAX, INTROSPECTION_DOUBTS_MAX, INTROSPECTION_NEGATIVE_MS, INTROSPECTION_RETRY_MS,
    INTROSPECTION_RETRY_MS_MAX, INTROSPECTION_THREADS, INTROSPECTION_THREADS_FIRST, INTROSPECTIONS_MAX,
    INTROSPECTIONS_PER_S_MAX,
};
use crate::base::time::{Moment, Now};
use crate::config::snapshot::Snapshot;
use crate::gateway::control::{Control, Life};
use crate::gateway::errand::{Inquiry, Judged};
use crate::gateway::mail::Letter;
use crate::identity::liveness::Liveness;
use crate::ledger::errands::{ErrandKey, Outcome};
use crate::oauth::assertion::AssertionFault;
use crate::oauth::client::Occasion;
use crate::oauth::introspection::{self, AnswerFault, Said};
use crate::oauth::metadata::Metadata;
use crate::uring::wait::clock;

use super::PlaneFault;
use super::fetch::{FetchFault, Fetcher};

/// Starts the threads that ask.
///
/// # Errors
/// `PlaneFault::System` when there is no thread for it.
pub(super) fn start(control: &Arc<Control>, fetcher: &Arc<Fetcher>) -> Result<(), PlaneFault> {
    let desk = Arc::new(Desk {
        control: control.clone(),
        fetcher: fetcher.clone(),
        random: SystemRandom::new(),
        kept: Mutex::default(),
        issuers: Mutex::default(),
        pace: Mutex::default(),
        swept: Mutex::new(clock().mono),
        rings: Mutex::default(),
    });
    for number in 0..INTROSPECTION_THREADS {
        let (desk, only_first) = (desk.clone(), number < INTROSPECTION_THREADS_FIRST);
        let thread = std::thread::Builder::new().name("plane-tokens".into()).spawn(move || desk.run(only_first));
        thread.map_err(|error| PlaneFault::System { what: "a thread", error })?;
    }
    Ok(())
}

/// What the threads share.
struct Desk {
    control: Arc<Control>,
    fetcher: Arc<Fetcher>,
    random: SystemRandom,
    /// Tokens in use, by when their issuer is asked again; the number tells those of one moment apart.
    kept: Mutex<BTreeMap<(Moment, u64), Kept>>,
    /// What there was with issuers.
    issuers: Mutex<HashMap<Arc<str>, Standing>>,
    /// When the next question about a token that nobody was let in by is due.
    pace: Mutex<Moment>,
    /// When what is over was last forgotten.
    swept: Mutex<Moment>,
    /// Who waits is woken by this.
    rings: Mutex<Rings>,
}

/// When those who wait for answers are woken.
#[derive(Default)]
struct Rings {
    /// Not before.
    next: Moment,
    /// A thread is about to.
    owed: bool,
}

/// A token that somebody was let in by.
struct Kept {
    key: ErrandKey,
    inquiry: Inquiry,
    claims: Arc<[u8]>,
    liveness: Arc<Liveness>,
    /// From then on, while nobody looks at it, it is let go of: before that there is time to ask again.
    lasts: Moment,
}

/// Why nothing is known of a token, and until when that is so.
#[derive(Clone, Copy)]
struct Trouble {
    word: &'static str,
    until: Moment,
}

/// What there was with an issuer.
#[derive(Clone, Copy, Default)]
struct Standing {
    /// It is left alone until this is over.
    trouble: Option<Trouble>,
    /// It was asked all the same since that began, about a token that it has known.
    probed: bool,
    /// How often in a row it said nothing, which a token may have brought about.
    doubts: u32,
    /// When a token that it has known was last hurried for that.
    hurried: Option<Moment>,
    /// For how long it was left alone the last time, milliseconds; 0 since it was heard of.
    pause_ms: u64,
    /// When the operator was told of it.
    told: Option<Moment>,
}

/// Why an issuer has said nothing.
#[derive(Debug, thiserror::Error)]
enum AskFault {
    #[error("it is not configured to be asked any more")]
    Unasked,
    #[error("where it can be asked is not known: its metadata names no introspection_endpoint, or could not be read")]
    NoEndpoint,
    #[error("the gateway's own key cannot sign: {0}")]
    Assertion(#[from] AssertionFault),
    #[error(transparent)]
    Fetch(#[from] FetchFault),
    #[error("it refuses the gateway's own credentials ({0})")]
    Refused(u16),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error(transparent)]
    Answer(#[from] AnswerFault),
}

/// Of what a fault says something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Concerns {
    /// Whatever the token.
    Issuer,
    /// The issuer, if it goes on.
    Either,
    /// Nothing but the token.
    Token,
}

impl AskFault {
    /// Of what it says something. What a token alone may have brought about must not keep others waiting: its bearer
    /// chose it, and what stands before an issuer may answer some texts by itself, or hang up.
    fn concerns(&self) -> Concerns {
        match self {
            Self::Unasked | Self::NoEndpoint | Self::Assertion(_) | Self::Refused(401) => Concerns::Issuer,
            Self::Refused(403) | Self::Fetch(FetchFault::Unreachable | FetchFault::Timeout) => Concerns::Either,
            Self::Fetch(FetchFault::Busy | FetchFault::TooLarge | FetchFault::BadAnswer) => Concerns::Token,
            Self::Fetch(_) => Concerns::Issuer,
            Self::Refused(_) | Self::Status(_) | Self::Answer(_) => Concerns::Token,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::NoEndpoint => "no_endpoint",
            Self::Assertion(_) => "client_key",
            Self::Fetch(fault) => fault.word(),
            Self::Refused(_) => "client_refused",
            Self::Status(_) => "status",
            Self::Answer(_) => "bad_answer",
        }
    }
}

impl Desk {
    fn run(&self, only_first: bool) {
        while self.control.life() != Life::Stop {
            self.sweep();
            if !only_first && let Some(kept) = self.due(clock().mono) {
                self.ask_again(kept);
                continue;
            }
            let patience = if only_first { PATIENCE } else { self.patience() };
            if let Some((key, inquiry)) = self.control.introspections.take(patience) {
                self.keep_pace();
                self.ask_first(key, inquiry);
            }
        }
    }

    /// What is over goes, once in a while.
    fn sweep(&self) {
        let now = clock().mono;
        let mut swept = locked(&self.swept);
        if now < swept.plus_ms(SWEEP_MS) {
            return;
        }
        *swept = now;
        drop(swept);
        self.control.introspections.age(now, 0);
    }

    /// The next token in use whose issuer is to be asked again by now.
    fn due(&self, now: Moment) -> Option<Kept> {
        let mut kept = locked(&self.kept);
        let first = kept.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// How long there is nothing to do but to wait for somebody.
    fn patience(&self) -> Duration {
        let kept = locked(&self.kept);
        let next = kept.first_key_value().map_or(PATIENCE, |((due, _), _)| due.since(clock().mono));
        // Another thread's work may be due before.
        next.min(PATIENCE)
    }

    /// Not faster than `limits::INTROSPECTIONS_PER_S_MAX`, all threads together.
    fn keep_pace(&self) {
        let step_ms = 1000 / INTROSPECTIONS_PER_S_MAX;
        let now = clock().mono;
        let due = {
            let mut pace = locked(&self.pace);
            let due = (*pace).max(now);
            *pace = due.plus_ms(step_ms);
            due
        };
        std::thread::sleep(due.since(now));
    }

    /// A token that nobody was let in by.
    fn ask_first(&self, key: ErrandKey, inquiry: Inquiry) {
        let snapshot = self.control.snapshot.load_full();
        let outcome = match self.trouble(&inquiry.issuer, false) {
            Some(trouble) => Err(trouble),
            None => self.ask(&snapshot, &inquiry).map_err(|fault| self.failed(&inquiry.issuer, &fault, false)),
        };
        let now = clock();
        match outcome {
            Ok((Said::Active { claims, expires }, cache_ms)) => {
                let until = now.mono.plus_ms(believed_ms(now, cache_ms, expires));
                let liveness = Arc::new(Liveness::until(until));
                self.believe(now.mono, until, Kept { key, inquiry, claims, liveness, lasts: until });
            }
            Ok((Said::Inactive, _)) => self.disbelieve(&key, now.mono),
            Err(Trouble { word, until }) => {
                self.control.introspections.done(&key, Outcome::Failed(word), until, until);
            }
        }
        self.ring();
    }

    /// Tells all shards, once in a while for all answers: each time, everybody who waits looks.
    fn ring(&self) {
        let now = clock().mono;
        let due = {
            let mut rings = locked(&self.rings);
            if rings.owed {
                // What is there by now is there by then.
                return;
            }
            rings.owed = true;
            rings.next.max(now)
        };
        std::thread::sleep(due.since(now));
        *locked(&self.rings) = Rings { next: clock().mono.plus_ms(RING_MS), owed: false };
        self.control.mail.send(&Letter::Brought);
    }

    /// A token that somebody was let in by, if anybody still wants it.
    fn ask_again(&self, kept: Kept) {
        if kept.liveness.has_ended() {
            return;
        }
        if !kept.liveness.take_looked() {
            let now = clock().mono;
            if now < kept.lasts {
                // Somebody may still come, or may just not have looked yet.
                return self.keep(now.plus_ms(LOOK_AGAIN_MS).min(kept.lasts), kept);
            }
            if self.lets_go(&kept) {
                return;
            }
        }
        let snapshot = self.control.snapshot.load_full();
        let trouble = self.trouble(&kept.inquiry.issuer, true);
        let said = match trouble {
            Some(trouble) => Err(trouble),
            None => match self.ask(&snapshot, &kept.inquiry) {
                Err(AskFault::Unasked) => Ok((Said::Inactive, 0)),
                said => said.map_err(|fault| self.failed(&kept.inquiry.issuer, &fault, true)),
            },
        };
        let now = clock();
        match said {
            Ok((Said::Active { claims, expires }, cache_ms)) => {
                let until = now.mono.plus_ms(believed_ms(now, cache_ms, expires));
                let liveness = if introspection::same(&claims, &kept.claims) {
                    kept.liveness.confirm(until);
                    kept.liveness.clone()
                } else {
                    // It is another caller now, whom nobody has been let in as.
                    kept.liveness.end();
                    Arc::new(Liveness::until(until))
                };
                self.believe(now.mono, until, Kept { claims, liveness, ..kept });
            }
            Ok((Said::Inactive, _)) => {
                kept.liveness.end();
                self.disbelieve(&kept.key, now.mono);
            }
            Err(Trouble { until, word: _ }) if now.mono < kept.liveness.believed_until() => {
                // Nobody may be looking by chance in so short a time.
                let _ = kept.liveness.is_alive(now.mono);
                self.keep(until, kept);
            }
            // It is not believed any more, and asked about anew when somebody comes with it.
            Err(_) => {}
        }
    }

    /// Tells all shards that a token is active, and has its issuer asked again before that is not believed any more.
    fn believe(&self, now: Moment, until: Moment, kept: Kept) {
        let lasts_ms = u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX);
        let judged = Judged::Active { claims: kept.claims.clone(), liveness: kept.liveness.clone() };
        self.control.introspections.done(&kept.key, Outcome::Brought(Arc::new(judged)), until, until);
        let lasts = until.less_ms((lasts_ms * LET_GO_PERCENT / 100).min(FETCH_MS_MAX));
        self.keep(now.plus_ms(lasts_ms * ASK_AGAIN_PERCENT / 100), Kept { lasts, ..kept });
    }

    /// A token that nobody looks at: who comes with it later waits for the answer as one who comes the first time, also
    /// where it would be believed for a while, because nobody would ask before that is over. Not where somebody has
    /// looked in this moment.
    fn lets_go(&self, kept: &Kept) -> bool {
        let this = |judged: &Arc<Judged>| match &**judged {
            Judged::Active { liveness, .. } => Arc::ptr_eq(liveness, &kept.liveness),
            Judged::Inactive => false,
        };
        // First, so that whoever finds it let go of does not find it here again.
        self.control.introspections.forget_if(&kept.key, this);
        kept.liveness.let_go()
    }

    fn disbelieve(&self, key: &ErrandKey, now: Moment) {
        let until = now.plus_ms(INTROSPECTION_NEGATIVE_MS);
        self.control.introspections.done(key, Outcome::Brought(Arc::new(Judged::Inactive)), until, until);
    }

    fn keep(&self, due: Moment, kept: Kept) {
        let mut all = locked(&self.kept);
        if all.len() >= INTROSPECTIONS_MAX {
            return;
        }
        let number = all.range((due, 0)..=(due, u64::MAX)).next_back().map_or(0, |((_, number), _)| number + 1);
        all.insert((due, number), kept);
    }

    /// Has an issuer asked at once about a token that it has known; whether there is one.
    fn hurries(&self, issuer: &Arc<str>, now: Moment) -> bool {
        let mut kept = locked(&self.kept);
        let place = kept.iter().find(|(_, kept)| kept.inquiry.issuer == *issuer).map(|(place, _)| *place);
        let Some(one) = place.and_then(|place| kept.remove(&place)) else { return false };
        drop(kept);
        // As somebody who looks: it is not let go of instead.
        let _ = one.liveness.is_alive(now);
        self.keep(now, one);
        true
    }

    /// What an issuer says of a token, and for how long that is believed, milliseconds.
    fn ask(&self, snapshot: &Snapshot, inquiry: &Inquiry) -> Result<(Said, u64), AskFault> {
        let settings = &snapshot.settings;
        let place = settings.issuers.iter().position(|issuer| issuer.issuer == inquiry.issuer);
        let place = place.ok_or(AskFault::Unasked)?;
        let source = &settings.sources[place];
        let asking = source.introspection.as_ref().ok_or(AskFault::Unasked)?;
        let url = match &asking.url {
            Some(url) => url.clone(),
            None => discovered(snapshot, place).ok_or(AskFault::NoEndpoint)?,
        };
        let mut form = introspection::question(inquiry.token.reveal());
        let occasion = Occasion { endpoint: &url, now_unix_s: clock().unix_s(), random: &self.random };
        let proof = asking.client.prove(&mut form, &occasion)?;
        let fields: Vec<_> = proof.iter().map(|value| ("authorization", value)).collect();
        let answer = self.fetcher.post_form(&url, &source.guard, &fields, &form.finish())?;
        match answer.status {
            200 => {}
            status @ (400 | 401 | 403) => return Err(AskFault::Refused(status)),
            status => return Err(AskFault::Status(status)),
        }
        let said = introspection::read(answer.body.reveal(), &answer.content_type, inquiry.token.reveal())?;
        self.heard_of(&inquiry.issuer);
        Ok((said, asking.cache_ms))
    }

    /// Whether an issuer is left alone at the moment. It is asked once all the same about a token that it has `known`,
    /// which is none that anybody made up.
    fn trouble(&self, issuer: &Arc<str>, known: bool) -> Option<Trouble> {
        let mut issuers = locked(&self.issuers);
        let standing = issuers.get_mut(issuer)?;
        let trouble = standing.trouble.filter(|trouble| clock().mono < trouble.until)?;
        let probes = known && !std::mem::replace(&mut standing.probed, true);
        (!probes).then_some(trouble)
    }

    /// An issuer has answered.
    fn heard_of(&self, issuer: &Arc<str>) {
        let mut issuers = locked(&self.issuers);
        let Some(standing) = issuers.get_mut(issuer) else { return };
        (standing.doubts, standing.hurried) = (0, None);
        if standing.pause_ms == 0 {
            return;
        }
        (standing.trouble, standing.pause_ms) = (None, 0);
        drop(issuers);
        tracing::info!("issuer {issuer}: it says again which opaque tokens are good");
    }

    /// Whether a token that an issuer has known tells soon how it is with that issuer.
    fn is_settled_by_known(&self, issuer: &Arc<str>, standing: &mut Standing, now: Moment) -> bool {
        if standing.hurried.is_some_and(|hurried| now < hurried.plus_ms(FETCH_MS_MAX)) {
            return true;
        }
        let hurries = self.hurries(issuer, now);
        standing.hurried = hurries.then_some(now);
        hurries
    }

    /// An issuer has not said anything of a token. Where that is not the token's doing, it is left alone for a while.
    /// Where it may be, one that the issuer has `known` decides, as long as there is one.
    fn failed(&self, issuer: &Arc<str>, fault: &AskFault, known: bool) -> Trouble {
        let now = clock().mono;
        let mut issuers = locked(&self.issuers);
        let standing = issuers.entry(issuer.clone()).or_default();
        let mut trouble = Trouble { word: fault.word(), until: now.plus_ms(INTROSPECTION_RETRY_MS) };
        let concerns = fault.concerns();
        standing.doubts += u32::from(concerns == Concerns::Either && standing.doubts < INTROSPECTION_DOUBTS_MAX);
        let doubted = concerns == Concerns::Either
            && (known
                || standing.doubts >= INTROSPECTION_DOUBTS_MAX && !self.is_settled_by_known(issuer, standing, now));
        if concerns == Concerns::Issuer || doubted {
            match standing.trouble.filter(|before| now < before.until) {
                // Others have found that out at the same time.
                Some(before) => trouble = before,
                None => {
                    let longer = (2 * standing.pause_ms).clamp(INTROSPECTION_RETRY_MS, INTROSPECTION_RETRY_MS_MAX);
                    (standing.pause_ms, trouble.until) = (longer, now.plus_ms(longer));
                    (standing.trouble, standing.probed) = (Some(trouble), false);
                }
            }
        }
        let news = standing.told.is_none_or(|told| told.plus_ms(TOLD_MS) <= now);
        if news {
            standing.told = Some(now);
        }
        drop(issuers);
        if news {
            tracing::warn!("issuer {issuer}: it does not say whether an opaque token is good: {fault}");
        }
        trouble
    }
}

/// Where an issuer's own metadata says that it can be asked.
fn discovered(snapshot: &Snapshot, place: usize) -> Option<Arc<str>> {
    let document = snapshot.documents.get(place)?.as_deref()?;
    let metadata = Metadata::parse(document, &snapshot.settings.issuers[place].issuer).ok()?;
    metadata.introspection.map(Arc::from)
}

/// For how long an answer is believed, milliseconds: not beyond the token's own end, and a second at least, because that is
/// written in whole seconds.
fn believed_ms(now: Now, cache_ms: u64, expires: Option<u64>) -> u64 {
    let left_ms = expires.map_or(u64::MAX, |expires| expires.saturating_mul(1000).saturating_sub(now.unix_ms));
    cache_ms.min(left_ms).max(BELIEVED_MS_MIN)
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Operators hear of the same issuer's troubles once in so long, milliseconds: bearers of bad tokens must not fill the log.
const TOLD_MS: u64 = 60_000;
/// And the least that an answer is believed for, milliseconds.
const BELIEVED_MS_MIN: u64 = 1_000;
/// Between two times that what is over is forgotten, milliseconds.
const SWEEP_MS: u64 = 60_000;
/// A thread that waits for work looks around after so long at the latest: others find out what is to be asked again.
const PATIENCE: Duration = Duration::from_millis(ERRAND_TAKE_MS);
/// Between two times that those who wait are woken, milliseconds.
const RING_MS: u64 = 25;
/// A token that nobody looked at is looked at again after so long, milliseconds.
const LOOK_AGAIN_MS: u64 = 1_000;
/// While nobody looks at it, it is let go of when so much of the time is left for which its issuer's answer is believed.
const LET_GO_PERCENT: u64 = 20;
/// An issuer is asked again when so much of the time has passed for which its answer is believed.
const ASK_AGAIN_PERCENT: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_believed_for_a_while() {
        let now = Now { unix_ms: 100_900, ..Now::default() };
        let check =
            |cache_ms, expires, want| assert_eq!(believed_ms(now, cache_ms, expires), want, "{cache_ms} {expires:?}");
        check(30_000, None, 30_000);
        check(30_000, Some(110), 9_100);
        check(30_000, Some(90), 1_000);
        check(1_500, None, 1_500);
        check(0, None, 1_000);
        check(0, Some(u64::MAX), 1_000);
    }
}
