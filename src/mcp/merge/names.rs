//! Names of tools and prompts at an endpoint with several servers. `prefix`: `server__name`; no server's id has an
//! underscore, so the first two of them part the one from the other, whatever the name is. `bare`: the first server, in
//! the endpoint's order, keeps a name.

use hashbrown::HashMap;
use smallvec::SmallVec;

/// Parts a server's id from a name.
pub(super) const MARK: &str = "__";

/// One kind's names in one era: which members have it.
#[derive(Debug, Default)]
pub(super) struct Names {
    owners: HashMap<Box<str>, Holders, foldhash::fast::RandomState>,
}

/// Who has a name.
#[derive(Debug, Default)]
struct Holders {
    /// In the endpoint's order, each once.
    members: SmallVec<[u16; 4]>,
    /// None of them may be meant.
    nobodys: bool,
}

impl Names {
    /// The first to come keeps the name; otherwise whoever has it.
    pub(super) fn take(&mut self, name: &str, member: u16) -> Option<u16> {
        let holders = self.holders(name);
        let first = holders.members.first().copied();
        holders.add(member);
        first
    }

    /// Only a name of one member is kept.
    pub(super) fn share(&mut self, name: &str, member: u16) {
        let holders = self.holders(name);
        holders.add(member);
        holders.nobodys = holders.members.len() > 1;
    }

    /// The names for which this is not so are nobody's.
    pub(super) fn decide(&mut self, mut keep: impl FnMut(&str, u16) -> bool) {
        for (name, holders) in &mut self.owners {
            holders.nobodys |= !holders.members.first().is_some_and(|first| keep(name, *first));
        }
    }

    /// The names that this member has, whoever is meant by them.
    pub(super) fn of(&self, member: u16) -> impl Iterator<Item = &str> {
        self.owners.iter().filter(move |(_, holders)| holders.members.contains(&member)).map(|(name, _)| &**name)
    }

    pub(super) fn owner(&self, name: &str) -> Option<u16> {
        let holders = self.owners.get(name).filter(|holders| !holders.nobodys)?;
        holders.members.first().copied()
    }

    fn holders(&mut self, name: &str) -> &mut Holders {
        self.owners.entry(name.into()).or_default()
    }
}

impl Holders {
    fn add(&mut self, member: u16) {
        if !self.members.contains(&member) {
            self.members.push(member);
        }
    }
}

/// The id in front of an exposed name, and the name.
pub(super) fn split(exposed: &str) -> Option<(&str, &str)> {
    // The id is short: a search that is prepared for long texts takes several times as long.
    let at = exposed.as_bytes().windows(MARK.len()).position(|two| two == MARK.as_bytes())?;
    let (id, rest) = exposed.split_at_checked(at)?;
    rest.strip_prefix(MARK).filter(|name| !name.is_empty()).map(|name| (id, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_part_in_one_way() {
        for (exposed, want) in [
            ("docs__search", Some(("docs", "search"))),
            ("docs___x", Some(("docs", "_x"))),
            ("docs____", Some(("docs", "__"))),
            ("docs__a__b", Some(("docs", "a__b"))),
            ("docs__", None),
            ("docs_x", None),
            ("__x", Some(("", "x"))),
            ("", None),
        ] {
            assert_eq!(split(exposed), want, "{exposed}");
        }
    }

    #[test]
    fn who_has_a_name() {
        let mut names = Names::default();
        assert_eq!((names.take("a", 1), names.take("a", 2), names.owner("a")), (None, Some(1), Some(1)));
        let mut shared = Names::default();
        for (name, member) in [("a", 1), ("b", 1), ("b", 2), ("b", 2)] {
            shared.share(name, member);
        }
        assert_eq!((shared.owner("a"), shared.owner("b"), shared.owner("c")), (Some(1), None, None));
        shared.decide(|name, _| name != "a");
        assert_eq!(shared.owner("a"), None);
        let mut of: Vec<_> = shared.of(1).collect();
        of.sort_unstable();
        assert_eq!((of, shared.of(2).collect::<Vec<_>>()), (vec!["a", "b"], vec!["b"]));
    }
}
