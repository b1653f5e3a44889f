//! What is due for a message at its server, beside the message: the credential that the operator chose, and what of its
//! caller the server is told. Made when it is first asked for, and kept for as long as it holds.

use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::base::ids::ServerId;
use crate::base::limits::{
    CREDENTIAL_KEPT_MS, ERRAND_WAIT_MS_MAX, IDENTITY_VALUE_BYTES_MAX, SHOWN_AGE_MS, SHOWN_CHECK_MS, SHOWN_KNOWN_MAX,
    SHOWN_RETRY_MS,
};
use crate::base::secret::Secret;
use crate::base::time::Moment;
use crate::config::snapshot::Snapshot;
use crate::config::{Credentials, Grant, IdentityHeader, IdentityValue, ServerSettings, Shows};
use crate::identity::active::ActiveTask;
use crate::identity::caller::{Caller, Owner};
use crate::identity::claims::{Json, Object};
use crate::ledger::errands::{ErrandKey, Look};
use crate::record::frame::Status;
use crate::upstream::UpstreamFault;
use crate::upstream::exchange::Answer;
use crate::upstream::shown::Shown;

use super::credential;
use super::errand::{Issued, TokenErrand, brought};
use super::flight::{Ended, Flight, NEVER, end};
use super::live::Who;
use super::refusal::{Kind, Refusal};
use super::relay::withheld;
use super::shard::{Held, Shard};
use super::view::View;
use super::words;

/// Whom a message is for.
#[derive(Clone, Copy)]
pub(super) enum Whom<'a> {
    /// A caller, working on this.
    Caller(&'a Caller, ActiveTask),
    /// Nobody any more: the gateway tidies up.
    Nobody,
}

impl<'a> Whom<'a> {
    /// The name of the task that it works on.
    pub(super) fn task(self, snapshot: &Snapshot) -> Option<&str> {
        match self {
            Self::Caller(_, ActiveTask::One(task)) => Some(snapshot.settings.policy.tasks().name(task)),
            _ => None,
        }
    }

    fn owner(self) -> Option<&'a Owner> {
        if let Self::Caller(caller, _) = self { Some(&caller.owner) } else { None }
    }

    /// For whoever reads a stream.
    pub(super) fn reader(who: &'a Who, snapshot: &Snapshot) -> Self {
        // Under other settings the number of its task means nothing.
        Self::Caller(&who.caller, if who.epoch == snapshot.auth_epoch { who.task } else { ActiveTask::None })
    }

    /// For whoever used a session last, which is no matter of a task.
    pub(super) fn session(user: Option<&'a Caller>) -> Self {
        user.map_or(Self::Nobody, |caller| Self::Caller(caller, ActiveTask::None))
    }
}

/// Why a message does not go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The server is shown each caller's own credential, and this one has none.
    Anonymous,
    /// The caller's token has ended, if only just: nothing is had in exchange for it.
    Ended,
    /// What the server is to be told in this field cannot be written there.
    Unfit(Arc<str>),
    /// What the server shows this caller of its lists is not known.
    Unseen,
    /// It could not be fetched; worth another try after so long, milliseconds.
    Unavailable(u64),
}

/// What is due, where that is known.
type Found = Result<Option<Rc<Shown>>, Lack>;

/// What this shard has shown lately. Two generations, so that what is in use stays and no walk is needed.
#[derive(Default)]
pub(super) struct Cards {
    /// The settings' epoch.
    epoch: u64,
    young: Generation,
    old: Generation,
    /// When the young became old.
    turned: Moment,
}

type Generation = HashMap<CardKey, Card, RandomState>;

/// Server, the caller's token, its task where that is told. Digests that nobody can choose, but for tokens', of which
/// there are no more than issuers sign.
type CardKey = (ServerId, [u8; 16], u64);

struct Card {
    shown: Rc<Shown>,
    /// What was fetched for it.
    token: Option<Token>,
    /// What the server has shown its caller; looked for again then.
    view: Option<(Arc<View>, Moment)>,
    /// Whether it still holds is looked at again then.
    until: Moment,
}

impl Cards {
    /// What is there and still holds.
    fn get(&mut self, epoch: u64, key: &CardKey, now: Moment, forgotten: impl Fn() -> u64) -> Option<Rc<Shown>> {
        if self.epoch != epoch {
            return None;
        }
        let holds =
            |card: &Card| now < card.until && card.token.as_ref().is_none_or(|token| token.forgotten == forgotten());
        if let Some(card) = self.young.get(key) {
            return holds(card).then(|| card.shown.clone());
        }
        let card = self.old.remove(key).filter(holds)?;
        let found = card.shown.clone();
        self.young.insert(*key, card);
        Some(found)
    }

    fn put(&mut self, epoch: u64, key: CardKey, card: Card, now: Moment) {
        if self.epoch > epoch {
            // Of settings that are gone, for a call that is still under way by them.
            return;
        }
        if self.epoch < epoch {
            *self = Self { epoch, turned: now, ..Self::default() };
        }
        if self.young.len() >= SHOWN_KNOWN_MAX / 2 {
            self.turn(now);
        }
        self.young.insert(key, card);
    }

    fn turn(&mut self, now: Moment) {
        (self.old, self.turned) = (std::mem::take(&mut self.young), now);
    }

    /// Lets go of what has been out of use for a while.
    pub(super) fn age(&mut self, now: Moment) {
        if now >= self.turned.plus_ms(SHOWN_AGE_MS) {
            self.turn(now);
        }
    }

    /// What was fetched for this one, if it is still the one that is shown.
    fn token(&self, key: &CardKey, shown: &Rc<Shown>) -> Option<&Token> {
        let card = self.young.get(key).or_else(|| self.old.get(key))?;
        card.token.as_ref().filter(|_| Rc::ptr_eq(&card.shown, shown))
    }

    /// The view of it.
    fn view(&self, epoch: u64, key: &CardKey, now: Moment) -> Option<Arc<View>> {
        let card = self.young.get(key).filter(|_| self.epoch == epoch)?;
        card.view.as_ref().filter(|(_, until)| now < *until).map(|(view, _)| view.clone())
    }

    /// The view of one that is made anew by the same token.
    fn take_view(&mut self, epoch: u64, key: &CardKey, token: Option<&Token>) -> Option<(Arc<View>, Moment)> {
        let card = self.young.get_mut(key).filter(|_| self.epoch == epoch)?;
        let same = card.token.as_ref().zip(token).is_some_and(|(a, b)| Arc::ptr_eq(&a.issued, &b.issued));
        card.view.take().filter(|_| same)
    }

    fn forget(&mut self, key: &CardKey) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

/// What is due at a server for a message for `whom`, waited for until `until` at most.
///
/// # Errors
/// Why the message does not go.
pub(super) async fn due(shard: &Shard, snapshot: &Held, server: ServerId, whom: Whom<'_>, until: Moment) -> Found {
    match at_hand(shard, snapshot, server, whom) {
        Some(found) => found,
        None => Box::pin(fetched(shard, snapshot, server, whom, until)).await,
    }
}

/// What is due for whoever reads a stream, or did last, which may be long ago.
///
/// # Errors
/// `Unreachable`, where nothing may be shown in its name any more too.
pub(super) async fn due_to(
    shard: &Shard,
    snapshot: &Held,
    server: ServerId,
    who: &Who,
    until: Moment,
) -> Result<Option<Rc<Shown>>, UpstreamFault> {
    if matches!(snapshot.prepared.servers[server.index()].shows, Shows::Callers { .. }) {
        let now = shard.timers.last();
        let good = who.caller.expires > now.unix_s() && snapshot.stands(&who.caller, now.mono);
        if !good || who.is_revoked(snapshot) {
            return Err(UpstreamFault::Unreachable);
        }
    }
    due(shard, snapshot, server, Whom::reader(who, snapshot), until).await.map_err(|_| UpstreamFault::Unreachable)
}

/// The same as [`due`], where nothing has to be waited for; else `None`.
pub(super) fn at_hand(shard: &Shard, snapshot: &Held, server: ServerId, whom: Whom<'_>) -> Option<Found> {
    let shows = snapshot.prepared.servers[server.index()].shows;
    if shows == Shows::Nothing {
        return Some(Ok(None));
    }
    let key = card_key(server, shows, whom);
    let (now, forgotten) = (shard.timers.last().mono, || shard.control.credentials.forgotten());
    let known = shard.cards.borrow_mut().get(snapshot.settings_epoch, &key, now, forgotten);
    known.map(|shown| Ok(Some(shown))).or_else(|| looked_up(shard, snapshot, server, whom))
}

/// As [`at_hand`], of what the shard does not know, or not any more.
fn looked_up(shard: &Shard, snapshot: &Held, server: ServerId, whom: Whom<'_>) -> Option<Found> {
    let wanted = match Wanted::of(snapshot, server, whom, shard.timers.last().unix_s()) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return Some(made(shard, snapshot, server, whom, None)),
        Err(lack) => return Some(Err(lack)),
    };
    let forgotten = shard.control.credentials.forgotten();
    match shard.control.credentials.look(&wanted.key, shard.timers.last().mono, || wanted.errand()) {
        Look::Have(issued) => {
            let token = Token { key: wanted.key, issued, forgotten };
            Some(made(shard, snapshot, server, whom, Some(token)))
        }
        Look::Failed(_, retry_ms) => Some(Err(Lack::Unavailable(retry_ms))),
        Look::Full => Some(Err(Lack::Unavailable(SHOWN_RETRY_MS))),
        Look::Wait => None,
    }
}

/// What is not at hand: the plane fetches it.
async fn fetched(shard: &Shard, snapshot: &Held, server: ServerId, whom: Whom<'_>, until: Moment) -> Found {
    let Some(wanted) = Wanted::of(snapshot, server, whom, shard.timers.last().unix_s())? else {
        return made(shard, snapshot, server, whom, None);
    };
    let until = until.min(shard.timers.now().mono.plus_ms(ERRAND_WAIT_MS_MAX));
    let mut forgotten = 0;
    let look = || {
        forgotten = shard.control.credentials.forgotten();
        shard.control.credentials.look(&wanted.key, shard.timers.last().mono, || wanted.errand())
    };
    match brought(shard, whom.owner(), until, look).await {
        Look::Have(issued) => {
            let token = Token { key: wanted.key, issued, forgotten };
            made(shard, snapshot, server, whom, Some(token))
        }
        Look::Failed(_, retry_ms) => Err(Lack::Unavailable(retry_ms)),
        Look::Wait | Look::Full => Err(Lack::Unavailable(SHOWN_RETRY_MS)),
    }
}

/// A token that has to be fetched.
struct Wanted<'a> {
    key: ErrandKey,
    /// The server, by its digest.
    server: u64,
    grant: &'a Arc<Grant>,
    /// In exchange for this caller's.
    on_behalf: Option<(&'a Caller, &'a Secret)>,
}

impl<'a> Wanted<'a> {
    /// What has to be fetched for it; `None` for nothing.
    fn of(snapshot: &'a Snapshot, server: ServerId, whom: Whom<'a>, now_s: u64) -> Result<Option<Self>, Lack> {
        let digest = snapshot.prepared.servers[server.index()].digest;
        Ok(match &snapshot.settings.servers[server.index()].credentials {
            Credentials::Strip | Credentials::Fixed(_) | Credentials::Forward => None,
            Credentials::ClientCredentials(grant) => {
                let key = credential::shared_key(digest, grant);
                Some(Self { key, server: digest, grant, on_behalf: None })
            }
            Credentials::Exchange(grant) => match whom {
                Whom::Nobody => None,
                Whom::Caller(caller, _) => {
                    let on_behalf = Some((caller, bearer(caller)?));
                    // It was let in within the leeway for clocks, which its issuer has not.
                    if caller.expires <= now_s {
                        return Err(Lack::Ended);
                    }
                    let key = credential::personal_key(digest, grant, caller);
                    Some(Self { key, server: digest, grant, on_behalf })
                }
            },
        })
    }

    /// What the plane is asked.
    fn errand(&self) -> TokenErrand {
        match self.on_behalf {
            None => credential::shared_errand(self.server, self.grant),
            Some((caller, token)) => credential::personal_errand(self.server, self.grant, caller, token.reveal()),
        }
    }
}

/// A caller's own token.
fn bearer(caller: &Caller) -> Result<&Secret, Lack> {
    // Only for a moment after other settings have come there is none of a caller that has come with one.
    let none = || if caller.anonymous { Lack::Anonymous } else { Lack::Unavailable(SHOWN_RETRY_MS) };
    caller.bearer.as_deref().ok_or_else(none)
}

/// A token that was fetched.
struct Token {
    /// By what it is found.
    key: ErrandKey,
    issued: Arc<Issued>,
    /// How many had been forgotten before it was looked for: where it is one of those since, nobody says so.
    forgotten: u64,
}

/// Makes it, with the token that was fetched for it, and keeps it.
fn made(shard: &Shard, snapshot: &Held, server: ServerId, whom: Whom<'_>, token: Option<Token>) -> Found {
    let settings = &snapshot.settings.servers[server.index()];
    let task = whom.task(snapshot);
    let value = token.as_ref().map(|token| &token.issued.value);
    let Some(shown) = shown(settings, whom, task, value)? else { return Ok(None) };
    let shown = Rc::new(shown);
    let now = shard.timers.last().mono;
    // What is about to end is fetched anew meanwhile: it is looked for now and then.
    let soon = now.plus_ms(SHOWN_CHECK_MS);
    let until = token.as_ref().map_or(NEVER, |token| token.issued.fresh.max(soon).min(token.issued.until));
    let shows = snapshot.prepared.servers[server.index()].shows;
    let (key, mut cards) = (card_key(server, shows, whom), shard.cards.borrow_mut());
    // By the same token it has seen the same.
    let view = cards.take_view(snapshot.settings_epoch, &key, token.as_ref());
    let card = Card { shown: shown.clone(), token, view, until };
    cards.put(snapshot.settings_epoch, key, card, now);
    Ok(Some(shown))
}

/// What a server with these settings is shown; `None` for nothing.
fn shown(
    settings: &ServerSettings,
    whom: Whom<'_>,
    task: Option<&str>,
    token: Option<&Secret>,
) -> Result<Option<Shown>, Lack> {
    let forwarded: Secret;
    let credential: Option<(&str, &[u8])> = match (&settings.credentials, whom, token) {
        (Credentials::Fixed(field), _, _) => Some((&field.name, field.value.reveal())),
        (Credentials::Forward, Whom::Caller(caller, _), _) => {
            forwarded = Secret::new([b"Bearer ", bearer(caller)?.reveal()].concat());
            Some((AUTHORIZATION, forwarded.reveal()))
        }
        (Credentials::ClientCredentials(_) | Credentials::Exchange(_), _, Some(token)) => {
            Some((AUTHORIZATION, token.reveal()))
        }
        _ => None,
    };
    let told = match whom {
        Whom::Caller(caller, _) => told(&settings.identity_headers, caller, task)?,
        Whom::Nobody => Told::new(),
    };
    let told = told.iter().map(|(name, value)| (&**name, value.as_bytes()));
    let fields: SmallVec<[(&str, &[u8]); 8]> = credential.into_iter().chain(told).collect();
    if fields.is_empty() {
        return Ok(None);
    }
    let mark = match whom {
        Whom::Caller(caller, _) if settings.credentials.is_personal() => mark(&caller.owner),
        _ => 0,
    };
    Shown::new(&fields, mark).map(Some).map_err(|_| Lack::Unavailable(SHOWN_RETRY_MS))
}

/// Fields and what they hold.
type Told = SmallVec<[(Arc<str>, String); 4]>;

/// What a server is told of a caller. Nothing stands in for what its token does not say.
fn told(headers: &[IdentityHeader], caller: &Caller, task: Option<&str>) -> Result<Told, Lack> {
    if headers.is_empty() || caller.anonymous {
        return Ok(Told::new());
    }
    let claims = Object::parse(&caller.claims).unwrap_or_default();
    let mut told = Told::new();
    for header in headers {
        let unfit = || Lack::Unfit(header.name.clone());
        let value = match &header.from {
            IdentityValue::Subject => Some(caller.subject.to_string()),
            IdentityValue::Agent => caller.agent.as_deref().map(str::to_owned),
            IdentityValue::Issuer => Some(caller.issuer.to_string()),
            IdentityValue::Task => task.map(str::to_owned),
            IdentityValue::Claim(path) => match path.find(&claims).map_err(|_| unfit())? {
                None | Some(Json::Null) => None,
                Some(Json::Array(items)) => Some(listed(items).ok_or_else(unfit)?),
                Some(value) => Some(written(value).ok_or_else(unfit)?),
            },
        };
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        if !fits(&value) {
            return Err(unfit());
        }
        told.push((header.name.clone(), value));
    }
    Ok(told)
}

/// Several values in one field; `None` where they could not be told apart again.
fn listed(items: &[Json<'_>]) -> Option<String> {
    let written = items.iter().map(|item| written(item).filter(|item| fits(item) && !item.contains(',')));
    Some(written.collect::<Option<Vec<_>>>()?.join(","))
}

/// One value; `None` for what is none, or cannot be written as it was.
fn written(value: &Json<'_>) -> Option<String> {
    match value {
        Json::Text(text) => Some(text.clone().into_owned()),
        Json::Whole(number) => Some(number.to_string()),
        // Beyond that a float may be another number than the one that was written.
        Json::Number(number) if number.abs() < EXACT => Some(number.to_string()),
        Json::Bool(flag) => Some(flag.to_string()),
        Json::Number(_) | Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Whether a server reads it as it is: blanks at its ends would be taken off (RFC 9110, 5.5), and of other letters
/// nobody knows how they are written.
fn fits(value: &str) -> bool {
    let plain = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    plain
        && !value.is_empty()
        && !value.starts_with(' ')
        && !value.ends_with(' ')
        && value.len() <= IDENTITY_VALUE_BYTES_MAX
}

/// What connections that have carried an owner's own credential are told apart by.
fn mark(owner: &Owner) -> u64 {
    let (half, _) = owner.0.split_at(8);
    half.iter().fold(0, |mark, byte| mark << 8 | u64::from(*byte)) | 1
}

fn card_key(server: ServerId, shows: Shows, whom: Whom<'_>) -> CardKey {
    match (shows, whom) {
        (Shows::Callers { tasks: true }, Whom::Caller(caller, ActiveTask::One(task))) => {
            (server, caller.token, 1 + u64::from(task.0))
        }
        (Shows::Callers { .. }, Whom::Caller(caller, _)) => (server, caller.token, 0),
        (Shows::Callers { .. }, Whom::Nobody) => (server, [0xff; 16], 0),
        (Shows::Nothing | Shows::Alike, _) => (server, [0; 16], 0),
    }
}

/// What a server has shown the caller of its lists, as far as this shard knows.
pub(super) fn view_of(shard: &Shard, snapshot: &Snapshot, server: ServerId, whom: Whom<'_>) -> Option<Arc<View>> {
    let key = card_key(server, snapshot.prepared.servers[server.index()].shows, whom);
    shard.cards.borrow().view(snapshot.settings_epoch, &key, shard.timers.last().mono)
}

/// Keeps that for a moment.
pub(super) fn keep_view(shard: &Shard, snapshot: &Snapshot, server: ServerId, whom: Whom<'_>, view: &Arc<View>) {
    let key = card_key(server, snapshot.prepared.servers[server.index()].shows, whom);
    let until = shard.timers.last().mono.plus_ms(SHOWN_CHECK_MS);
    let mut cards = shard.cards.borrow_mut();
    if cards.epoch == snapshot.settings_epoch
        && let Some(card) = cards.young.get_mut(&key)
    {
        card.view = Some((view.clone(), until));
    }
}

/// A server has refused what it was shown for `whom`. A token that was fetched is fetched anew for the next call, unless
/// that was done just now: a server that refuses everything makes nobody fetch all the time.
pub(super) fn refused_by(shard: &Shard, snapshot: &Held, server: ServerId, whom: Whom<'_>, shown: Option<&Rc<Shown>>) {
    let Some(shown) = shown else { return };
    let key = card_key(server, snapshot.prepared.servers[server.index()].shows, whom);
    let mut cards = shard.cards.borrow_mut();
    let Some(token) = cards.token(&key, shown) else { return };
    if shard.timers.last().mono >= token.issued.fetched.plus_ms(CREDENTIAL_KEPT_MS) {
        // Another may have forgotten it, and have a newer one already.
        shard.control.credentials.forget_if(&token.key, |held| Arc::ptr_eq(held, &token.issued));
        cards.forget(&key);
    }
}

impl Flight {
    /// Whom it is for.
    pub(super) fn whom(&self) -> Whom<'_> {
        Whom::Caller(&self.caller, self.task)
    }

    /// Its server does not let the gateway in with what it was shown. What the server wants instead (its challenge) is
    /// the gateway's affair: a client that heeded it would send its next token to somebody else.
    pub(super) fn refused_us(&self, shard: &Shard, answer: Answer) -> Refusal {
        refused_by(shard, &self.snapshot, self.server, self.whom(), self.shown.as_ref());
        let words = match (&self.snapshot.settings.servers[self.server.index()].credentials, answer.status()) {
            (Credentials::Forward, _) => "refused the token that this call came with, which was passed on to it",
            (Credentials::Exchange(_), _) => {
                "refused the token that the gateway has for it in exchange for the call's own"
            }
            (Credentials::Strip, 401) => "wants a credential, and the gateway is configured to show it none",
            _ => "refused the gateway's own credentials; its operator has to look",
        };
        let sentence = format!("The server '{}' {words}.", self.snapshot.settings.servers[self.server.index()].name);
        withheld(shard, self, answer, Kind::ServerRefusedUs).saying(sentence)
    }

    /// What it is answered with where what is due at its server is not to be had; recorded.
    pub(super) fn lacks(&self, shard: &Shard, lack: &Lack) -> Refusal {
        let refusal = self.worded(lack);
        let code = refusal.kind.row().code;
        end(shard, self, Ended { code, ..Ended::of(Status::Unreachable, refusal.status()) });
        refusal
    }

    /// The same, in words.
    pub(super) fn worded(&self, lack: &Lack) -> Refusal {
        let server = &self.snapshot.settings.servers[self.server.index()].name;
        match lack {
            Lack::Unseen => Refusal::from(Kind::CatalogUnknown).recorded(),
            Lack::Anonymous => self.reasoned(Kind::CredentialAbsent).saying(format!(
                "The server '{server}' is only called with a token of the caller's own, and this request came without one."
            )),
            Lack::Ended => self.reasoned(Kind::CredentialAbsent).saying(format!(
                "The token that this call came with has ended, and the server '{server}' is only called with one that \
                 the gateway gets in exchange for it; come with a new one."
            )),
            Lack::Unfit(field) => self.reasoned(Kind::IdentityUnfit).saying(format!(
                "The server '{server}' is to be told in the field {field} what the token says of its bearer, and that \
                 cannot be written there; the call was not sent."
            )),
            Lack::Unavailable(retry_ms) => self.later(Kind::CredentialUnavailable, *retry_ms).saying(format!(
                "The gateway could not get a credential for the server '{server}', so the call was not sent; try again \
                 in {} s.",
                words::seconds(*retry_ms)
            )),
        }
    }
}

const AUTHORIZATION: &str = "authorization";

/// Whole numbers below it are exact as floats.
const EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use crate::identity::claims::ClaimPath;

    use super::*;

    fn caller(claims: &str) -> Caller {
        let bearer = Some(Arc::new(Secret::from("abc")));
        Caller { claims: Arc::from(claims.as_bytes()), anonymous: false, bearer, ..Caller::anonymous() }
    }

    fn check(claims: &str, want: Result<Option<&str>, ()>) {
        let from = IdentityValue::Claim(ClaimPath::parse("claims.x").unwrap());
        let headers = [IdentityHeader { name: Arc::from("x-x"), from }];
        let told = told(&headers, &caller(claims), None).map_err(drop);
        assert_eq!(
            told.map(|told| told.first().map(|(_, value)| value.clone())),
            want.map(|it| it.map(str::to_owned)),
            "{claims}"
        );
    }

    #[test]
    fn an_identity_is_told_as_it_is_or_not_at_all() {
        check("{}", Ok(None));
        check(r#"{"x":null}"#, Ok(None));
        check(r#"{"x":""}"#, Ok(None));
        check(r#"{"x":[]}"#, Ok(None));
        check(r#"{"x":"a b, c"}"#, Ok(Some("a b, c")));
        check(r#"{"x":["a","b c",3,true]}"#, Ok(Some("a,b c,3,true")));
        check(r#"{"x":18446744073709551615}"#, Ok(Some("18446744073709551615")));
        check(r#"{"x":-7}"#, Ok(Some("-7")));
        check(r#"{"x":2.5}"#, Ok(Some("2.5")));
        for claims in [
            r#"{"x":18446744073709551616}"#,
            r#"{"x":"é"}"#,
            r#"{"x":" a"}"#,
            r#"{"x":"a "}"#,
            r#"{"x":"a\nb"}"#,
            r#"{"x":"a\u0000"}"#,
            r#"{"x":{}}"#,
            r#"{"x":["a,b"]}"#,
            r#"{"x":[""]}"#,
            r#"{"x":[null]}"#,
            r#"{"x":[["a"]]}"#,
        ] {
            check(claims, Err(()));
        }
        let headers = [IdentityHeader { name: Arc::from("x-user"), from: IdentityValue::Subject }];
        assert!(told(&headers, &Caller::anonymous(), None).unwrap().is_empty(), "nobody is no identity");
    }

    #[test]
    fn what_is_out_of_use_is_let_go_of() {
        let mut cards = Cards::default();
        let key = |number: u8| (ServerId(0), [number; 16], 0);
        let card = || Card { shown: Rc::default(), token: None, view: None, until: NEVER };
        let has = |cards: &mut Cards, epoch, number| cards.get(epoch, &key(number), Moment(0), || 0).is_some();
        cards.put(1, key(1), card(), Moment(0));
        cards.put(1, key(2), card(), Moment(0));
        assert!(has(&mut cards, 1, 1) && !has(&mut cards, 2, 1) && !has(&mut cards, 1, 3));
        cards.turn(Moment(1));
        assert!(has(&mut cards, 1, 1), "what is asked for stays");
        cards.turn(Moment(2));
        cards.turn(Moment(3));
        assert!(!has(&mut cards, 1, 2));
        for number in 0..SHOWN_KNOWN_MAX * 2 {
            let mut token = [0; 16];
            token[..8].copy_from_slice(&number.to_be_bytes());
            cards.put(1, (ServerId(0), token, 0), card(), Moment(0));
        }
        assert!(cards.young.len() + cards.old.len() <= SHOWN_KNOWN_MAX);
        cards.put(2, key(1), card(), Moment(0));
        assert!(cards.old.is_empty() && has(&mut cards, 2, 1));
        cards.put(1, key(2), card(), Moment(0));
        assert!(!has(&mut cards, 2, 2), "of settings that are gone");
    }
}
