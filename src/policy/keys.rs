//! The keys of counts: which limit, and whose. What a limit is, is digested once, when the policy is compiled; whose a
//! count is, with each call.

use std::hash::Hasher;
use std::net::IpAddr;

use ring::hmac;
use siphasher::sip128::{Hasher128, SipHasher24};
use smallvec::SmallVec;

use super::cond::Facts;
use super::cond::ast::Kind;
use super::decide::Scene;
use super::limit::{By, Limit, Party, Rate, RateOf, What};
use super::needs::{CountKey, CountSecret};
use super::rule::{Mode, PolicySet};
use super::table::{Place, Table};
use crate::base::ids::RuleId;
use crate::base::limits::LIMIT_PARTIES_MAX;

/// What every key of one limit begins with.
#[derive(Clone, Copy)]
struct Prefix {
    high: u64,
    low: u64,
}

/// The beginnings of all keys of a policy.
#[derive(Default)]
pub(super) struct Keys {
    /// By rule: where its limits begin in `limits`.
    rules: Vec<u32>,
    limits: Vec<Prefix>,
    rates: Vec<Prefix>,
    /// In which order the parties of each are written down: not as in the file, where it says nothing.
    limit_orders: Vec<Order>,
    rate_orders: Vec<Order>,
}

type Order = SmallVec<[u8; LIMIT_PARTIES_MAX]>;

/// Whose a count can be: the call, as keys see it.
#[derive(Clone, Copy)]
pub(super) struct Payer<'a> {
    pub(super) facts: Facts<'a>,
    /// `None` where nothing is known of the call but who makes it.
    pub(super) scene: Option<&'a Scene<'a>>,
    /// What the call is about, with a letter for its kind: a tool, a prompt, a URI in its normal form, a word.
    pub(super) target: (u8, &'a str),
}

impl Keys {
    pub(super) fn build(set: &PolicySet, secret: &CountSecret) -> Self {
        let mut keys = Self { rules: Vec::with_capacity(set.rules().len()), ..Self::default() };
        for rule in set.rules() {
            keys.rules.push(u32::try_from(keys.limits.len()).expect("limits are bounded"));
            let entries: Vec<(String, u64)> =
                rule.limits.iter().map(|limit| (limit_text(limit), span_ms(limit))).collect();
            for (at, ((text, span), limit)) in entries.iter().zip(&rule.limits).enumerate() {
                // The longest first: what goes over to another when one is taken out has counted at least as much.
                let before = |(place, (other, its)): (usize, &(String, u64))| {
                    other == text && (its > span || its == span && place < at)
                };
                let equal = entries.iter().enumerate().filter(|one| before(*one)).count();
                keys.limits.push(Prefix::of(secret, "limit", &rule.id, text, equal));
                keys.limit_orders.push(order(&limit.by));
            }
        }
        let rates = set.rates().iter();
        keys.rates = rates.map(|rate| Prefix::of(secret, "rate", &rate.id, &rate_text(rate), 0)).collect();
        keys.rate_orders = set.rates().iter().map(|rate| order(&rate.by)).collect();
        keys
    }

    pub(super) fn bytes(&self) -> usize {
        self.rules.len() * 4 + (self.limits.len() + self.rates.len()) * (size_of::<Prefix>() + size_of::<Order>())
    }

    fn limit(&self, rule: RuleId, limit: u16) -> (Prefix, &Order) {
        let at = self.rules[rule.index()] as usize + usize::from(limit);
        (self.limits[at], &self.limit_orders[at])
    }
}

impl Table {
    /// The key of a limit for a call; `None` where nobody owns that count, or the value that is counted is unknown.
    pub(super) fn limit_key(&self, rule: RuleId, limit: u16, payer: &Payer<'_>) -> Option<CountKey> {
        let entry = &self.set.rule(rule).limits[usize::from(limit)];
        let (prefix, order) = self.keys.limit(rule, limit);
        let mut digest = Digest::new(prefix);
        self.owner(Some((rule, limit)), (&entry.by, order), payer, &mut digest, false)?;
        let dead = self.dead(rule, Place::Counted(limit));
        match &entry.what {
            What::Once { value, .. } | What::After { same: Some(value), .. } => {
                digest.streamed(b'v', |out| value.value(&payer.facts, dead, out))?;
            }
            _ => {}
        }
        Some(digest.finish().of_shadow(self.set.rule(rule).mode == Mode::Shadow))
    }

    /// The key of an `after` for calls whose owner or `same` cannot be told: all parts of it that may be unknown are left
    /// out.
    pub(super) fn wild_key(&self, rule: RuleId, limit: u16, payer: &Payer<'_>) -> CountKey {
        let by = &self.set.rule(rule).limits[usize::from(limit)].by;
        let (prefix, order) = self.keys.limit(rule, limit);
        let mut digest = Digest::new(prefix);
        // What may be unknown is not looked at, so nothing is.
        let _ = self.owner(Some((rule, limit)), (by, order), payer, &mut digest, true);
        digest.part(b'*', &[]);
        digest.finish().of_shadow(self.set.rule(rule).mode == Mode::Shadow)
    }

    /// The key of a rate for a call; `None` where nobody owns that count.
    pub(super) fn rate_key(&self, rate: u16, payer: &Payer<'_>) -> Option<CountKey> {
        let mut digest = Digest::new(self.keys.rates[usize::from(rate)]);
        let by = (&self.set.rates()[usize::from(rate)].by, &self.keys.rate_orders[usize::from(rate)]);
        self.owner(None, by, payer, &mut digest, false)?;
        Some(digest.finish().of_shadow(false))
    }

    /// Writes down whose a count is. `wild`: without the parts that may be unknown.
    fn owner(
        &self,
        limit: Option<(RuleId, u16)>,
        (by, order): (&By, &Order),
        payer: &Payer<'_>,
        digest: &mut Digest,
        wild: bool,
    ) -> Option<()> {
        let Facts { caller, task, server, .. } = payer.facts;
        for at in order.iter().copied() {
            match &by.0[usize::from(at)] {
                Party::Subject => digest.part(b's', &caller.principal.0),
                // Every subject of an agent must find it.
                Party::Agent if wild => digest.part(b'*', caller.issuer.as_bytes()),
                Party::Task if wild => digest.part(b'*', &caller.principal.0),
                Party::Arg(_) | Party::Claim(_) | Party::Address if wild => digest.part(b'*', &[]),
                Party::Agent => {
                    digest.part(b'i', caller.issuer.as_bytes());
                    digest.part(b'a', caller.agent.as_deref()?.as_bytes());
                }
                Party::Task => {
                    digest.part(b's', &caller.principal.0);
                    digest.part(b't', task?.as_bytes());
                }
                Party::Session => match payer.scene.and_then(|scene| scene.session) {
                    Some(session) => digest.part(b'n', &session),
                    None => digest.part(b'o', &caller.owner.0),
                },
                Party::Server => digest.part(b'e', server.as_bytes()),
                Party::Tool => {
                    digest.part(b'e', server.as_bytes());
                    digest.part(payer.target.0, payer.target.1.as_bytes());
                }
                Party::Arg(value) | Party::Claim(value) => {
                    let place = |(rule, limit)| self.dead(rule, Place::By(limit, u16::from(at)));
                    let dead = limit.map_or(0, place);
                    digest.streamed(b'v', |out| value.value(&payer.facts, dead, out))?;
                }
                Party::All => digest.part(b'0', &[]),
                Party::Address => match payer.scene?.address?.to_canonical() {
                    IpAddr::V4(address) => digest.part(b'4', &address.octets()),
                    IpAddr::V6(address) => digest.part(b'6', &address.octets()),
                },
                Party::Endpoint => digest.part(b'p', payer.scene?.endpoint.as_bytes()),
                Party::Method => digest.part(b'm', payer.scene?.method.as_bytes()),
            }
        }
        Some(())
    }
}

/// What an entry counts, without its numbers, however it is written.
fn limit_text(limit: &Limit) -> String {
    let what = match &limit.what {
        What::Calls { .. } => "calls".to_owned(),
        // So much for each call: a number of the file.
        What::Sum { of, .. } if matches!(of.ast().kind, Kind::Literal(_)) => "sum".to_owned(),
        What::Sum { of, .. } => format!("sum {}", of.ast().spelled()),
        What::Concurrent { .. } => "concurrent".to_owned(),
        What::Once { value, .. } => format!("once {}", value.ast().spelled()),
        What::After { patterns, same, .. } => {
            let mut patterns: Vec<&str> = patterns.iter().map(|pattern| pattern.text()).collect();
            patterns.sort_unstable();
            // No pattern has a control character.
            format!("after {}\n{:?}", patterns.join("\n"), same.as_ref().map(|same| same.ast().spelled()))
        }
    };
    format!("{what}\n{}", by_text(&limit.by))
}

/// How far back an entry looks, milliseconds.
fn span_ms(limit: &Limit) -> u64 {
    match limit.what {
        What::Calls { per_ms, .. } | What::Sum { per_ms, .. } | What::Once { per_ms, .. } => per_ms,
        What::After { within_ms, .. } => within_ms,
        What::Concurrent { .. } => None,
    }
    .unwrap_or(u64::MAX)
}

fn rate_text(rate: &Rate) -> String {
    let what = match rate.what {
        RateOf::Calls { .. } => "calls",
        RateOf::Concurrent(_) => "concurrent",
    };
    format!("{what}\n{}", by_text(&rate.by))
}

fn by_text(by: &By) -> String {
    order(by).iter().map(|at| party_text(&by.0[usize::from(*at)])).collect::<Vec<_>>().join(",")
}

/// The places of the parties, sorted by what they are.
fn order(by: &By) -> Order {
    let mut order: Order = (0..).take(by.0.len()).collect();
    order.sort_by_cached_key(|at| party_text(&by.0[usize::from(*at)]));
    order
}

fn party_text(party: &Party) -> String {
    match party {
        Party::Arg(value) | Party::Claim(value) => format!("{:?}", value.ast().spelled()),
        named => format!("{named:?}"),
    }
}

impl Prefix {
    fn of(secret: &CountSecret, kind: &str, id: &str, text: &str, equal: usize) -> Self {
        let mut hash = hmac::Context::with_key(&secret.0);
        for part in [b"portcullis count 2", kind.as_bytes(), id.as_bytes(), text.as_bytes(), &equal.to_be_bytes()] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let whole = hash.sign();
        let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| whole.as_ref()[at + byte]));
        Self { high: word(0), low: word(8) }
    }
}

/// A key in the making. Each part is followed by its length and what it is, so that no two lists of parts write the
/// same bytes: read from the end, there is one way to part them.
struct Digest(SipHasher24);

impl Digest {
    fn new(prefix: Prefix) -> Self {
        Self(SipHasher24::new_with_keys(prefix.high, prefix.low))
    }

    fn part(&mut self, kind: u8, bytes: &[u8]) {
        self.0.write(bytes);
        self.end(kind, bytes.len());
    }

    /// A part that comes in pieces; `None` where it does not come.
    fn streamed(&mut self, kind: u8, write: impl FnOnce(&mut dyn FnMut(&[u8])) -> bool) -> Option<()> {
        let mut length = 0;
        let known = write(&mut |bytes: &[u8]| {
            length += bytes.len();
            self.0.write(bytes);
        });
        self.end(kind, length);
        known.then_some(())
    }

    fn end(&mut self, kind: u8, length: usize) {
        let mut end = [kind; 9];
        end[..8].copy_from_slice(&(length as u64).to_be_bytes());
        self.0.write(&end);
    }

    fn finish(self) -> CountKey {
        CountKey(self.0.finish128().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart_and_pieces_are_not() {
        let prefix = Prefix::of(&CountSecret::fixed(), "limit", "r", "calls", 0);
        let key = |parts: &[(u8, &[u8])]| {
            let mut digest = Digest::new(prefix);
            parts.iter().for_each(|(kind, bytes)| digest.part(*kind, bytes));
            digest.finish()
        };
        let keys = [
            key(&[]),
            key(&[(b's', b"ab")]),
            key(&[(b't', b"ab")]),
            key(&[(b's', b"a"), (b's', b"b")]),
            key(&[(b's', b"b"), (b's', b"a")]),
            key(&[(b's', b""), (b's', b"ab")]),
        ];
        for (at, one) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|other| other == one), Some(at));
        }
        let mut pieces = Digest::new(prefix);
        let whole = pieces.streamed(b's', |out| {
            out(b"a");
            out(b"");
            out(b"b");
            true
        });
        assert_eq!((whole, pieces.finish()), (Some(()), keys[1]));
        assert!(Digest::new(prefix).streamed(b's', |_| false).is_none());
    }

    /// Whose counts of one rule are the same before and after a change of its limits.
    #[test]
    fn a_count_survives_a_change_of_the_file() {
        let condition = |text: &str| {
            let purpose = crate::policy::cond::Purpose::Sum;
            std::sync::Arc::new(
                crate::policy::cond::Condition::parse(text, purpose, &crate::policy::cond::ClaimTypes::default())
                    .unwrap(),
            )
        };
        let calls =
            |per_ms| Limit { what: What::Calls { max: 9, per_ms }, by: By(SmallVec::from_iter([Party::Subject])) };
        let sum = |text: &str, by: &[Party]| {
            let what = What::Sum { of: condition(text), max: crate::policy::cond::Number::ZERO, per_ms: None };
            Limit { what, by: By(by.iter().cloned().collect()) }
        };
        let prefixes = |limits: &[Limit]| {
            let rule = super::super::rule::Rule { limits: limits.to_vec(), ..super::super::rule::Rule::default() };
            let names = crate::identity::active::TaskNames::new([""; 0]);
            let keys = Keys::build(&PolicySet::with_rates(names, vec![rule], Vec::new()), &CountSecret::fixed());
            keys.limits.iter().map(|prefix| (prefix.high, prefix.low)).collect::<Vec<_>>()
        };
        let (minute, day) = (calls(Some(60_000)), calls(Some(86_400_000)));
        let both = prefixes(&[minute.clone(), day.clone()]);
        assert_ne!(both[0], both[1]);
        assert_eq!(prefixes(&[day.clone(), minute]), [both[1], both[0]], "in another order");
        assert_eq!(prefixes(&[day]), both[1..], "without the other one");
        let subject = [Party::Subject];
        let one = |text: &str| prefixes(&[sum(text, &subject)]);
        assert_eq!(one("500"), one("600"), "a number of the file");
        assert_eq!(one("args.a*args.b"), one("(args[\"a\"]) * args.b"));
        for other in ["args.a + args.b", "args.a * args.c", "args.b * args.a", "args.a * claims.b", "500"] {
            assert_ne!(one("args.a * args.b"), one(other));
        }
        assert_eq!(
            prefixes(&[sum("1", &[Party::Subject, Party::Tool])]),
            prefixes(&[sum("1", &[Party::Tool, Party::Subject])])
        );
        assert_ne!(prefixes(&[sum("1", &[Party::Subject, Party::Tool])]), one("1"));
    }

    #[test]
    fn a_prefix_is_of_what_is_counted_by_which_rule() {
        let secret = CountSecret::fixed();
        let prefixes = [
            (&secret, "limit", "r", "calls", 0),
            (&secret, "limit", "r", "calls", 1),
            (&secret, "limit", "q", "calls", 0),
            (&secret, "rate", "r", "calls", 0),
            (&CountSecret::derive(&[1; 32]), "limit", "r", "calls", 0),
        ];
        let words: std::collections::BTreeSet<_> = prefixes
            .iter()
            .map(|(secret, kind, id, text, equal)| Prefix::of(secret, kind, id, text, *equal))
            .map(|p| (p.high, p.low))
            .collect();
        assert_eq!(words.len(), prefixes.len());
    }
}
