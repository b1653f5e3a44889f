//! The kill switch: subjects, agents, tasks and tokens that are let do nothing more, whatever the rules say. A value;
//! the snapshot has the one in force, and it is asked immediately before every decision.

use std::collections::{HashMap, HashSet};
use std::fmt;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::digest;
use smallvec::SmallVec;

use super::caller::Caller;
use crate::base::limits::{REVOCATION_JTI_BYTES_MAX, REVOCATION_TEXT_BYTES_MAX, REVOCATIONS_MAX};

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Everybody, also who comes without a token.
    All,
    /// A subject; of any issuer where none is named.
    Subject {
        /// The token's `iss`.
        issuer: Option<Box<str>>,
        /// The claim that names subjects.
        subject: Box<str>,
    },
    /// An agent, whomever it acts for.
    Agent(Box<str>),
    /// A task, whoever works on it.
    Task(Box<str>),
    /// A token, by the first half of its SHA-256.
    Token([u8; 16]),
    /// Tokens with this `jti`, of any issuer.
    Jti(Box<str>),
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub target: Target,
    /// Why, for people.
    pub reason: Option<Box<str>>,
    /// Whose word it is.
    pub by: Box<str>,
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// Why a call is not decided at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// Its subject, its agent, its token, or everybody: as if its token were none.
    Caller,
    /// Its task: as if the caller did not hold it.
    Task,
}

/// Why something cannot be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeFault {
    /// There are `limits::REVOCATIONS_MAX`.
    #[error("there are {REVOCATIONS_MAX} revocations already; undo those that are of no use any more")]
    Full,
    /// A name or reason is empty, or longer than `limits::REVOCATION_TEXT_BYTES_MAX`.
    #[error("a name or reason must have between 1 and {REVOCATION_TEXT_BYTES_MAX} bytes")]
    Text,
    /// What is given for a token is none, nor anything that stands for one. The text is not repeated: it may be a part
    /// of one.
    #[error(
        "that is no token: give a whole one (without 'Bearer', or with it), 'sha256:' and 32 or 64 digits, or a 'jti' of \
         at most {REVOCATION_JTI_BYTES_MAX} letters, digits and signs; another 'jti' has its own flag, --jti"
    )]
    Token,
    /// What is given for a `jti` is a token, or a part of one, or has a control character.
    #[error(
        "that is no 'jti', but a token or a part of one, or it has control characters; a token is given with --token"
    )]
    Jti,
}

/// All that is revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// In the order they came.
    list: Vec<Revocation>,
    all: bool,
    /// With the issuers of each; `None` for any.
    subjects: HashMap<Box<str>, Issuers>,
    agents: HashSet<Box<str>>,
    tasks: HashSet<Box<str>>,
    tokens: HashSet<[u8; 16]>,
    jtis: HashSet<Box<str>>,
}

/// The issuers whose subject of one name is revoked; `None` for any.
type Issuers = SmallVec<[Option<Box<str>>; 1]>;

impl Revocations {
    /// These. Of two of one target the first counts.
    ///
    /// # Errors
    /// `RevokeFault`.
    pub fn new(list: impl IntoIterator<Item = Revocation>) -> Result<Self, RevokeFault> {
        let mut this = Self::default();
        list.into_iter().try_for_each(|revocation| this.add(revocation).map(drop))?;
        Ok(this)
    }

    /// Revokes. Whether that is new.
    ///
    /// # Errors
    /// `RevokeFault`; nothing has changed then.
    pub fn add(&mut self, revocation: Revocation) -> Result<bool, RevokeFault> {
        if !revocation.is_short() {
            return Err(RevokeFault::Text);
        }
        if self.find(&revocation.target).is_some() {
            return Ok(false);
        }
        if self.list.len() >= REVOCATIONS_MAX {
            return Err(RevokeFault::Full);
        }
        match revocation.target.clone() {
            Target::All => self.all = true,
            Target::Subject { issuer, subject } => self.subjects.entry(subject).or_default().push(issuer),
            Target::Agent(agent) => _ = self.agents.insert(agent),
            Target::Task(task) => _ = self.tasks.insert(task),
            Target::Token(token) => _ = self.tokens.insert(token),
            Target::Jti(jti) => _ = self.jtis.insert(jti),
        }
        self.list.push(revocation);
        Ok(true)
    }

    /// Takes one back; `None` where there is none of exactly this target.
    pub fn remove(&mut self, target: &Target) -> Option<Revocation> {
        let place = self.list.iter().position(|known| known.target == *target)?;
        let undone = self.list.remove(place);
        match target {
            Target::All => self.all = false,
            Target::Subject { issuer, subject } => {
                if let Some(issuers) = self.subjects.get_mut(subject) {
                    issuers.retain(|known| known != issuer);
                    if issuers.is_empty() {
                        self.subjects.remove(subject);
                    }
                }
            }
            Target::Agent(agent) => _ = self.agents.remove(agent),
            Target::Task(task) => _ = self.tasks.remove(task),
            Target::Token(token) => _ = self.tokens.remove(token),
            Target::Jti(jti) => _ = self.jtis.remove(jti),
        }
        Some(undone)
    }

    /// Whether a call of this caller must not be decided: asked with the newest there are, immediately before each
    /// decision. `task`: the name of the active one, where there is one.
    #[must_use]
    pub fn hits(&self, caller: &Caller, task: Option<&str>) -> Option<Revoked> {
        if self.list.is_empty() {
            return None;
        }
        let of_subject = |issuers: &Issuers| {
            issuers.iter().any(|issuer| issuer.as_deref().is_none_or(|issuer| *issuer == *caller.issuer))
        };
        let is_caller = self.all
            || self.subjects.get(&*caller.subject).is_some_and(of_subject)
            || caller.agent.as_ref().is_some_and(|agent| self.agents.contains(&**agent))
            || caller.jti.as_ref().is_some_and(|jti| self.jtis.contains(&**jti))
            || !caller.anonymous && self.tokens.contains(&caller.token);
        let is_task = || task.is_some_and(|task| self.tasks.contains(task));
        if is_caller {
            return Some(Revoked::Caller);
        }
        is_task().then_some(Revoked::Task)
    }

    /// The one of this target.
    #[must_use]
    pub fn find(&self, target: &Target) -> Option<&Revocation> {
        let known = match target {
            Target::All => self.all,
            Target::Subject { issuer, subject } => {
                self.subjects.get(subject).is_some_and(|known| known.contains(issuer))
            }
            Target::Agent(agent) => self.agents.contains(agent),
            Target::Task(task) => self.tasks.contains(task),
            Target::Token(token) => self.tokens.contains(token),
            Target::Jti(jti) => self.jtis.contains(jti),
        };
        // The list is long only where somebody has revoked much; it is looked through only for what is there.
        known.then(|| self.list.iter().find(|revocation| revocation.target == *target)).flatten()
    }

    /// In the order they came.
    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.list.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl Revocation {
    fn is_short(&self) -> bool {
        let fits = |text: &str| (1..=REVOCATION_TEXT_BYTES_MAX).contains(&text.len());
        let target = match &self.target {
            Target::All | Target::Token(_) => true,
            Target::Subject { issuer, subject } => {
                // The anonymous caller's issuer is empty.
                fits(subject) && issuer.as_ref().is_none_or(|issuer| issuer.len() <= REVOCATION_TEXT_BYTES_MAX)
            }
            Target::Agent(name) | Target::Task(name) | Target::Jti(name) => fits(name),
        };
        target && fits(&self.by) && self.reason.as_ref().is_none_or(|reason| fits(reason))
    }
}

impl Target {
    /// What is meant by a text for `--token`: a whole token (its digest is kept, not the token), also one that was copied
    /// with its `Bearer`, with quotes or with line breaks; `sha256:` and the digits of its digest; or else a `jti` that
    /// cannot be taken for anything else.
    ///
    /// # Errors
    /// [`RevokeFault::Token`].
    pub fn token(text: &str) -> Result<Self, RevokeFault> {
        let (token, whole) = (bare(text), bare(text).split('.').count() == 3);
        if has_header(&token) {
            return if whole { Ok(Self::digest(&token)) } else { Err(RevokeFault::Token) };
        }
        if let Some(digits) = text.trim().strip_prefix(SHA256) {
            let digits = Some(digits).filter(|digits| matches!(digits.len(), 32 | 64));
            return digits.and_then(half).map(Self::Token).ok_or(RevokeFault::Token);
        }
        let jti = text.trim();
        let is_odd = |byte: u8| !byte.is_ascii_graphic() || QUOTES.contains(&char::from(byte));
        let fits = (1..=REVOCATION_JTI_BYTES_MAX).contains(&jti.len()) && !jti.bytes().any(is_odd);
        // Two dots are a token's, whatever is wrong with this one.
        if fits && jti.split('.').count() < 3 { Ok(Self::Jti(jti.into())) } else { Err(RevokeFault::Token) }
    }

    /// What is meant by a text for `--jti`: exactly that, unless it is a token or a part of one.
    ///
    /// # Errors
    /// [`RevokeFault::Jti`].
    pub fn jti(text: &str) -> Result<Self, RevokeFault> {
        let is_jti = !text.chars().any(char::is_control) && !has_header(&bare(text));
        if is_jti { Ok(Self::Jti(text.into())) } else { Err(RevokeFault::Jti) }
    }

    fn digest(token: &str) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&digest::digest(&digest::SHA256, token.as_bytes()).as_ref()[..16]);
        Self::Token(half)
    }

    /// The word for its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Subject { .. } => "subject",
            Self::Agent(_) => "agent",
            Self::Task(_) => "task",
            Self::Token(_) => "token",
            Self::Jti(_) => "jti",
        }
    }

    /// The name in it; of a token its digest's digits, of all nothing.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Subject { subject: name, .. } | Self::Agent(name) | Self::Task(name) | Self::Jti(name) => {
                name.to_string()
            }
            Self::Token(token) => token.iter().fold(SHA256.to_owned(), |text, byte| text + &format!("{byte:02x}")),
        }
    }

    /// The issuer in it.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::Subject { issuer, .. } => issuer.as_deref(),
            _ => None,
        }
    }

    /// The target of these three; `None` where they make none.
    #[must_use]
    pub fn of(kind: &str, name: &str, issuer: Option<&str>) -> Option<Self> {
        if issuer.is_some() && kind != "subject" {
            return None;
        }
        Some(match kind {
            "all" if name.is_empty() => Self::All,
            "subject" => Self::Subject { issuer: issuer.map(Into::into), subject: name.into() },
            "agent" => Self::Agent(name.into()),
            "task" => Self::Task(name.into()),
            "token" => Self::Token(half(name.strip_prefix(SHA256)?)?),
            "jti" => Self::Jti(name.into()),
            _ => return None,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        let name = self.name();
        if !name.is_empty() {
            write!(f, " {name}")?;
        }
        self.issuer().map_or(Ok(()), |issuer| write!(f, " of {issuer}"))
    }
}

/// A token as it was issued, of one that was copied from a header, a file or a terminal.
fn bare(text: &str) -> String {
    let edge = |letter: char| letter.is_whitespace() || QUOTES.contains(&letter);
    let mut rest = text.trim_matches(edge);
    for word in ["authorization:", "bearer"] {
        let (first, behind) = rest.split_at_checked(word.len()).unwrap_or((rest, ""));
        if first.eq_ignore_ascii_case(word) {
            rest = behind.trim_matches(edge);
        }
    }
    rest.chars().filter(|letter| !edge(*letter)).collect()
}

/// Whether it begins with a header as tokens have one: a JSON object, encoded.
fn has_header(token: &str) -> bool {
    let header = token.split('.').next().unwrap_or_default();
    // Loosely: one that is refused for its encoding is a secret too.
    let text = HEADER.decode(header.as_bytes()).unwrap_or_default();
    let members = text.trim_ascii().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    // Not by its first letters alone: so begins many a UUID too.
    members.is_some_and(|members| members.first() == Some(&b'"') || members == b"}")
}

/// Sixteen bytes of hexadecimal digits; what follows them is not looked at, but must be digits too.
fn half(digits: &str) -> Option<[u8; 16]> {
    if digits.len() < 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut half = [0; 16];
    for (byte, pair) in half.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(half)
}

const SHA256: &str = "sha256:";
/// What a token is often put between.
const QUOTES: [char; 4] = ['"', '\'', '`', ','];
const HEADER: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn revocation(target: Target) -> Revocation {
        Revocation { target, reason: None, by: "anna".into(), at_unix_ms: 1 }
    }

    fn caller() -> Caller {
        Caller {
            issuer: Arc::from("https://issuer.example"),
            subject: Arc::from("bob"),
            agent: Some(Arc::from("desk-agent")),
            anonymous: false,
            token: [7; 16],
            bearer: None,
            jti: Some(Arc::from("id-1")),
            ..Caller::anonymous()
        }
    }

    fn subject(issuer: Option<&str>, subject: &str) -> Target {
        Target::Subject { issuer: issuer.map(Into::into), subject: subject.into() }
    }

    #[test]
    fn each_target_hits_what_it_names() {
        let check = |target: Target, want: Option<Revoked>| {
            let mut revoked = Revocations::new([revocation(target.clone())]).unwrap();
            assert_eq!(revoked.hits(&caller(), Some("refund")), want, "{target}");
            assert_eq!(revoked.find(&target).map(|it| &it.target), Some(&target));
            assert!(revoked.remove(&target).is_some() && revoked.remove(&target).is_none());
            assert_eq!(revoked, Revocations::default(), "nothing is left of {target}");
            assert_eq!(revoked.hits(&caller(), Some("refund")), None);
        };
        let all = Some(Revoked::Caller);
        check(Target::All, all);
        check(subject(None, "bob"), all);
        check(subject(Some("https://issuer.example"), "bob"), all);
        check(subject(Some("https://other.example"), "bob"), None);
        check(subject(Some(""), "bob"), None);
        check(subject(None, "Bob"), None);
        check(Target::Agent("desk-agent".into()), all);
        check(Target::Agent("bob".into()), None);
        check(Target::Token([7; 16]), all);
        check(Target::Token([0; 16]), None);
        check(Target::Jti("id-1".into()), all);
        check(Target::Jti("id-2".into()), None);
        check(Target::Task("refund".into()), Some(Revoked::Task));
        check(Target::Task("triage".into()), None);
    }

    #[test]
    fn a_caller_counts_before_its_task() {
        let both = [Target::Task("refund".into()), subject(None, "bob")].map(revocation);
        assert_eq!(Revocations::new(both).unwrap().hits(&caller(), Some("refund")), Some(Revoked::Caller));
        let task = Revocations::new([revocation(Target::Task("refund".into()))]).unwrap();
        assert_eq!(task.hits(&caller(), None), None);
    }

    #[test]
    fn who_comes_without_a_token_can_be_revoked() {
        let hits = |target| Revocations::new([revocation(target)]).unwrap().hits(&Caller::anonymous(), None);
        assert_eq!(hits(Target::All), Some(Revoked::Caller));
        assert_eq!(hits(subject(None, "anonymous")), Some(Revoked::Caller));
        assert_eq!(hits(subject(Some(""), "anonymous")), Some(Revoked::Caller));
        assert_eq!(hits(Target::Token([0; 16])), None);
    }

    #[test]
    fn of_two_subjects_of_one_name_one_can_be_undone() {
        let two = [subject(Some("https://issuer.example"), "bob"), subject(Some("https://other.example"), "bob")];
        let mut revoked = Revocations::new(two.clone().map(revocation)).unwrap();
        assert!(revoked.remove(&two[1]).is_some());
        assert_eq!(revoked.hits(&caller(), None), Some(Revoked::Caller));
        assert!(revoked.remove(&subject(None, "bob")).is_none(), "that one never was");
        assert!(revoked.remove(&two[0]).is_some());
        assert_eq!(revoked.hits(&caller(), None), None);
    }

    fn encoded(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn a_token_is_one_however_it_was_copied() {
        for header in [r#"{"alg":"RS256"}"#, "{\n \"alg\": \"EdDSA\"}", " \t{\"alg\":\"none\"}", "\r\n{}"] {
            let token = format!("{}.{}.{}", encoded(header), encoded(r#"{"sub":"bob"}"#), "c2lnbmF0dXJl".repeat(5));
            let want = Target::digest(&token);
            let (half, rest) = token.split_at(token.len() / 2);
            for copied in [
                token.clone(),
                format!("Bearer {token}"),
                format!("bearer   {token}\n"),
                format!("Authorization: Bearer {token}\r\n"),
                format!("\"{token}\""),
                format!("'Bearer {token}'"),
                format!("Bearer \"{token}\","),
                format!("{half}\n{rest}"),
                format!("`{half}\r\n  {rest}`"),
            ] {
                assert_eq!(Target::token(&copied), Ok(want.clone()), "{copied}");
                assert_eq!(Target::jti(&copied), Err(RevokeFault::Jti), "{copied}");
            }
            // A part of one is as secret, and says nothing of which.
            for part in [token.rsplit_once('.').unwrap().0, token.split('.').next().unwrap(), &format!("{token}.x.y")] {
                assert_eq!(Target::token(part), Err(RevokeFault::Token), "{part}");
                assert_eq!(Target::jti(part), Err(RevokeFault::Jti), "{part}");
            }
            let odd = format!("{}=.{}.x", encoded(header), encoded("{}"));
            assert!(matches!(Target::token(&odd), Ok(Target::Token(_)) | Err(RevokeFault::Token)), "{odd}");
        }
    }

    #[test]
    fn what_is_no_token_is_a_jti_only_where_it_looks_like_one() {
        let digits = "ab".repeat(32);
        for (text, want) in [
            ("0e5ca1a4-7f1c-4a55-9f51-2f6d2b9b1d9c", Ok(Target::Jti("0e5ca1a4-7f1c-4a55-9f51-2f6d2b9b1d9c".into()))),
            ("e30ca1a4-7f1c-4a55-9f51-2f6d2b9b1d9c", Ok(Target::Jti("e30ca1a4-7f1c-4a55-9f51-2f6d2b9b1d9c".into()))),
            ("eyes-only", Ok(Target::Jti("eyes-only".into()))),
            (" id-1\n", Ok(Target::Jti("id-1".into()))),
            ("https://issuer.example/7", Ok(Target::Jti("https://issuer.example/7".into()))),
            (&*format!("sha256:{digits}"), Ok(Target::Token([0xab; 16]))),
            (&*format!("sha256:{}", &digits[1..]), Err(RevokeFault::Token)),
            ("sha256:", Err(RevokeFault::Token)),
            ("", Err(RevokeFault::Token)),
            ("\"id-1\"", Err(RevokeFault::Token)),
            ("Bearer id-1", Err(RevokeFault::Token)),
            ("two words", Err(RevokeFault::Token)),
            ("a.b.c", Err(RevokeFault::Token)),
            ("idé", Err(RevokeFault::Token)),
            (&*"x".repeat(REVOCATION_JTI_BYTES_MAX), Ok(Target::Jti("x".repeat(REVOCATION_JTI_BYTES_MAX).into()))),
            (&*"x".repeat(REVOCATION_JTI_BYTES_MAX + 1), Err(RevokeFault::Token)),
        ] {
            assert_eq!(Target::token(text), want, "{text}");
        }
        for odd in ["a.b.c", "two words", "idé", "\"id-1\"", &"x".repeat(1_000)] {
            assert_eq!(Target::jti(odd), Ok(Target::Jti(odd.into())));
        }
        assert_eq!(Target::jti("a\nb"), Err(RevokeFault::Jti));
    }

    #[test]
    fn there_are_no_more_than_fit() {
        let mut revoked = Revocations::default();
        let name = |number: usize| Target::Agent(number.to_string().into());
        for number in 0..REVOCATIONS_MAX {
            assert_eq!(revoked.add(revocation(name(number))), Ok(true));
        }
        assert_eq!(revoked.add(revocation(name(7))), Ok(false), "it is there");
        assert_eq!(revoked.add(revocation(Target::All)), Err(RevokeFault::Full));
        assert_eq!((revoked.len(), revoked.is_empty()), (REVOCATIONS_MAX, false));
        let long = "x".repeat(REVOCATION_TEXT_BYTES_MAX + 1);
        for target in [Target::Agent("".into()), Target::Task(long.as_str().into())] {
            assert_eq!(Revocations::default().add(revocation(target)), Err(RevokeFault::Text));
        }
        let reason = Revocation { reason: Some(long.into()), ..revocation(Target::All) };
        assert_eq!(Revocations::default().add(reason), Err(RevokeFault::Text));
    }

    #[test]
    fn a_token_is_kept_as_its_digest() {
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2ln";
        let whole = Target::token(token).unwrap();
        assert!(matches!(whole, Target::Token(_)));
        assert_eq!(Target::token(&whole.name()).as_ref(), Ok(&whole));
        assert!(!whole.to_string().contains("ey"));
        let digest: String = digest::digest(&digest::SHA256, token.as_bytes())
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(Target::token(&format!("sha256:{digest}")), Ok(whole));
    }

    #[test]
    fn a_target_is_read_as_it_is_written() {
        let all = [
            Target::All,
            subject(None, "bob"),
            subject(Some("https://i"), "bob"),
            Target::Agent("a".into()),
            Target::Task("t".into()),
            Target::Token([9; 16]),
            Target::Jti("j".into()),
        ];
        for target in all {
            assert_eq!(Target::of(target.kind(), &target.name(), target.issuer()), Some(target));
        }
        for (kind, name, issuer) in
            [("all", "x", None), ("agent", "a", Some("i")), ("token", "sha256:zz", None), ("nobody", "x", None)]
        {
            assert_eq!(Target::of(kind, name, issuer), None, "{kind}");
        }
    }
}
