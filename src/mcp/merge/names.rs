//! Names of tools and prompts at an endpoint with several servers. `prefix`: `server__name`; no server's id has an
//! underscore, so the first two of them part the one from the other, whatever the name is. `bare`: the first server, in
//! the endpoint's order, keeps a name.

use hashbrown::HashMap;

/// Parts a server's id from a name.
pub(super) const MARK: &str = "__";

/// One kind's names in one era: which member has it.
#[derive(Debug, Default)]
pub(super) struct Names {
    owners: HashMap<Box<str>, Owner, foldhash::fast::RandomState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    One(u16),
    /// Of several, none may be meant.
    Several,
}

impl Names {
    /// The first to come keeps the name; otherwise whoever has it.
    pub(super) fn take(&mut self, name: &str, member: u16) -> Option<u16> {
        match self.owners.get(name) {
            Some(Owner::One(first)) => Some(*first),
            Some(Owner::Several) => None,
            None => {
                self.owners.insert(name.into(), Owner::One(member));
                None
            }
        }
    }

    /// Only a name of one member is kept.
    pub(super) fn share(&mut self, name: &str, member: u16) {
        let owner = self.owners.entry(name.into()).or_insert(Owner::One(member));
        if *owner != Owner::One(member) {
            *owner = Owner::Several;
        }
    }

    /// Forgets the names for which this is not so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&str, u16) -> bool) {
        self.owners.retain(|name, owner| matches!(owner, Owner::One(member) if keep(name, *member)));
    }

    pub(super) fn owner(&self, name: &str) -> Option<u16> {
        match self.owners.get(name)? {
            Owner::One(member) => Some(*member),
            Owner::Several => None,
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
        shared.retain(|name, _| name != "a");
        assert_eq!(shared.owner("a"), None);
    }
}
