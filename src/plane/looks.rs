//! What callers of one server were shown in looks in their names, put together: of a name for which they were shown
//! different definitions one is served, to those who were shown that one. What is there stays: no look replaces what
//! another's has brought while that holds, nor what the gateway itself was shown.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::limits::{LIST_ITEMS_MAX, VIEW_KEPT_MS, VIEWS_MAX};
use crate::base::time::Moment;
use crate::gateway::view::{Set, SetDigest};
use crate::ledger::errands::ErrandKey;
use crate::mcp::catalog::{EraCatalog, Item, ListKind, ServerCatalog};
use crate::mcp::pin::{Key, Pin};
use crate::mcp::revision::Era;

/// One look in a caller's name.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    /// Who was shown it.
    pub(super) who: ErrandKey,
    /// What.
    pub(super) set: Arc<Set>,
    /// How many changes the server had announced before.
    pub(super) announced: u64,
    /// It holds until then.
    pub(super) until: Moment,
}

/// What the looks at one server have brought.
#[derive(Default)]
pub(super) struct Looks {
    callers: HashMap<ErrandKey, Caller>,
    sets: HashMap<SetDigest, Shown>,
    /// What is in a set, once; and when it was first.
    items: HashMap<(Era, ListKind, Pin), (u64, Item)>,
    count: u64,
    /// The most changes that a look knew of.
    announced: u64,
}

struct Caller {
    set: SetDigest,
    announced: u64,
    until: Moment,
}

/// What all who have the same set were shown.
struct Shown {
    number: u64,
    set: Arc<Set>,
    /// Without what is on its lists.
    frame: ServerCatalog,
}

/// A definition that a look has brought: whether nobody's view holds it any more, and when it was first.
type Brought<'a> = (bool, u64, &'a Item);

/// All looks together.
pub(super) struct Together {
    pub(super) catalog: ServerCatalog,
    /// Of these, callers are shown different definitions at the moment: some do not see them.
    pub(super) differing: Vec<Key>,
}

impl Looks {
    /// A look has brought this. Whether something is new, or something old is no more.
    pub(super) fn take(&mut self, looked: &Looked, mut catalog: ServerCatalog, now: Moment) -> bool {
        if !self.callers.contains_key(&looked.who) && self.callers.len() >= VIEWS_MAX {
            let first = self.callers.iter().min_by_key(|(_, caller)| caller.until).map(|(who, _)| *who);
            first.map(|who| self.callers.remove(&who));
        }
        let digest = looked.set.digest();
        let caller = Caller { set: digest, announced: looked.announced, until: looked.until };
        self.callers.insert(looked.who, caller);
        self.announced = self.announced.max(looked.announced);
        let is_new = !self.sets.contains_key(&digest);
        if is_new {
            for (era, kind, list) in lists(&mut catalog) {
                for item in list.drain(..) {
                    let Some(pin) = item.pin else { continue };
                    self.count += 1;
                    self.items.entry((era, kind, pin)).or_insert((self.count, item));
                }
            }
            self.count += 1;
            self.sets.insert(digest, Shown { number: self.count, set: looked.set.clone(), frame: catalog });
        }
        self.age(now) || is_new
    }

    /// Lets go of what nobody is shown any more. Whether there was any.
    pub(super) fn age(&mut self, now: Moment) -> bool {
        self.callers.retain(|_, caller| now < caller.until.plus_ms(VIEW_KEPT_MS));
        let named: HashSet<SetDigest> = self.callers.values().map(|caller| caller.set).collect();
        let before = self.sets.len();
        self.sets.retain(|digest, _| named.contains(digest));
        if self.sets.len() == before {
            return false;
        }
        let named: HashSet<_> = self.sets.values().flat_map(|shown| shown.set.all()).collect();
        self.items.retain(|key, _| named.contains(key));
        true
    }

    /// What the server offers: to the gateway itself (`own`), and to callers. Of several definitions of a name it is the
    /// gateway's; else of those that hold the one that is `known`, else the one that was there first.
    pub(super) fn together(
        &self,
        own: Option<&ServerCatalog>,
        now: Moment,
        known: impl Fn(&Key, &Pin) -> bool,
    ) -> Together {
        let live: HashSet<SetDigest> = self.live(now);
        let pins: HashSet<_> = self
            .sets
            .values()
            .filter(|shown| live.contains(&shown.set.digest()))
            .flat_map(|shown| shown.set.all())
            .collect();
        let mut catalog = self.frame(own, &live);
        let mut differing = Vec::new();
        let mut items: HashMap<(Era, ListKind), Vec<Brought<'_>>> = HashMap::new();
        for ((era, kind, pin), (number, item)) in &self.items {
            let is_over = !pins.contains(&(*era, *kind, *pin));
            items.entry((*era, *kind)).or_default().push((is_over, *number, item));
        }
        for (era, kind, list) in lists(&mut catalog) {
            let Some(mut all) = items.remove(&(era, kind)) else { continue };
            let mut taken: HashMap<Box<str>, Option<Pin>> =
                list.iter().map(|item| (item.name.clone(), item.pin)).collect();
            let is_unknown = |item: &Item| !item.pin.is_some_and(|pin| known(&Key::new(kind, &item.name), &pin));
            all.sort_by_cached_key(|(is_over, number, item)| (*is_over, is_unknown(item), *number));
            let room = LIST_ITEMS_MAX.saturating_sub(list.len());
            let mut chosen: Vec<(u64, &Item)> = Vec::new();
            for (is_over, number, item) in all {
                match taken.get(&item.name) {
                    Some(other) if *other != item.pin && !is_over => differing.push(Key::new(kind, &item.name)),
                    Some(_) => {}
                    None if chosen.len() >= room => break,
                    None => {
                        taken.insert(item.name.clone(), item.pin);
                        chosen.push((number, item));
                    }
                }
            }
            chosen.sort_unstable_by_key(|(number, _)| *number);
            list.extend(chosen.into_iter().map(|(_, item)| item.clone()));
        }
        differing.sort_unstable();
        differing.dedup();
        Together { catalog, differing }
    }

    /// The sets of those whose view still holds.
    fn live(&self, now: Moment) -> HashSet<SetDigest> {
        let holds = |caller: &&Caller| now < caller.until && caller.announced >= self.announced;
        self.callers.values().filter(holds).map(|caller| caller.set).collect()
    }

    /// Everything but what is on the lists: the gateway's, else that of whoever was there first; but what a server says
    /// in words only where it says the same to all.
    fn frame(&self, own: Option<&ServerCatalog>, live: &HashSet<SetDigest>) -> ServerCatalog {
        let mut shown: Vec<&Shown> = self.sets.values().collect();
        shown.sort_unstable_by_key(|shown| (!live.contains(&shown.set.digest()), shown.number));
        let mut frames = own.into_iter().chain(shown.into_iter().map(|shown| &shown.frame));
        let mut catalog = frames.next().cloned().unwrap_or_default();
        for frame in frames {
            for (mine, other) in [(&mut catalog.modern, &frame.modern), (&mut catalog.legacy, &frame.legacy)] {
                let (Some(mine), Some(other)) = (mine.as_mut(), other) else {
                    *mine = mine.take().or_else(|| other.clone());
                    continue;
                };
                for (list, others) in mine.lists.iter_mut().zip(&other.lists) {
                    *list = list.take().or_else(|| others.clone());
                }
            }
        }
        let owns = [own.is_some_and(|own| own.modern.is_some()), own.is_some_and(|own| own.legacy.is_some())];
        for ((era, offer), owns) in eras(&mut catalog).into_iter().zip(owns) {
            let Some(offer) = offer.as_mut().filter(|_| !owns) else { continue };
            let others: Vec<&EraCatalog> = {
                let counts = |shown: &&Shown| live.is_empty() || live.contains(&shown.set.digest());
                self.sets.values().filter(counts).filter_map(|shown| shown.frame.era(era)).collect()
            };
            if others.iter().any(|other| other.instructions != offer.instructions) {
                offer.instructions = None;
            }
            if others.iter().any(|other| other.server_info != offer.server_info) {
                offer.server_info = None;
            }
        }
        catalog
    }
}

fn eras(catalog: &mut ServerCatalog) -> [(Era, &mut Option<EraCatalog>); 2] {
    [(Era::Modern, &mut catalog.modern), (Era::Legacy, &mut catalog.legacy)]
}

/// What is on each of its lists.
fn lists(catalog: &mut ServerCatalog) -> impl Iterator<Item = (Era, ListKind, &mut Vec<Item>)> {
    let offers = eras(catalog).into_iter().filter_map(|(era, offer)| Some((era, offer.as_mut()?)));
    offers.flat_map(|(era, offer)| {
        let lists = ListKind::ALL.into_iter().zip(&mut offer.lists);
        lists.filter_map(move |(kind, list)| Some((era, kind, &mut list.as_mut()?.items)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::view::Sets;
    use crate::mcp::catalog::{Listing, read_page};
    use crate::mcp::revision::Revision;

    /// Tools of a name and a description.
    fn catalog(tools: &[(&str, &str)], instructions: Option<&str>, of_callers: bool) -> ServerCatalog {
        let tools: Vec<_> = tools
            .iter()
            .map(|(name, said)| json!({ "name": name, "description": said, "inputSchema": { "type": "object" } }))
            .collect();
        let page = read_page(ListKind::Tools, json!({ "tools": tools }).to_string().as_bytes()).expect("a page");
        let mut list = Listing::default();
        assert!(list.add(page).is_empty());
        let offer = EraCatalog {
            protocol: Revision::NEWEST,
            capabilities: json!({ "tools": {} }),
            server_info: None,
            instructions: instructions.map(Into::into),
            events: false,
            lists: [Some(list), None, None, None],
        };
        let mut catalog = ServerCatalog { modern: Some(offer), ..ServerCatalog::default() };
        catalog.mark(of_callers);
        catalog
    }

    #[derive(Default)]
    struct Scene {
        looks: Looks,
        sets: Sets,
    }

    impl Scene {
        /// At `at` this caller is shown this, for 100 ms.
        fn look(&mut self, who: u8, at: u64, announced: u64, tools: &[(&str, &str)]) -> bool {
            let said = format!("for {who}");
            let catalog = catalog(tools, Some(&said), true);
            let set = self.sets.keep(&catalog).expect("there is room");
            let looked = Looked { who: [who; 32], set, announced, until: moment(at + 100) };
            self.looks.take(&looked, catalog, moment(at))
        }

        fn served(&self, at: u64, own: Option<&ServerCatalog>) -> (Vec<String>, Vec<String>) {
            self.preferring(at, own, |_, _| false)
        }

        fn preferring(
            &self,
            at: u64,
            own: Option<&ServerCatalog>,
            known: impl Fn(&Key, &Pin) -> bool,
        ) -> (Vec<String>, Vec<String>) {
            let together = self.looks.together(own, moment(at), known);
            let text = |item: &Item| {
                let raw: serde_json::Value = serde_json::from_slice(&item.raw).expect("JSON");
                format!("{} {}", item.name, raw["description"].as_str().unwrap_or_default())
            };
            let offer = together.catalog.modern.expect("it was shown");
            let items = offer.list(ListKind::Tools).map(|list| list.items.iter().map(text).collect());
            (items.unwrap_or_default(), together.differing.iter().map(ToString::to_string).collect())
        }
    }

    fn moment(ms: u64) -> Moment {
        Moment(0).plus_ms(ms)
    }

    #[test]
    fn what_one_was_shown_replaces_nothing_of_anothers() {
        let mut scene = Scene::default();
        assert!(scene.look(1, 0, 0, &[("sum", "good"), ("a", "x")]));
        assert!(scene.look(2, 10, 0, &[("sum", "bad"), ("b", "x")]));
        let (tools, differing) = scene.served(20, None);
        assert_eq!(tools, ["sum good", "a x", "b x"]);
        assert_eq!(differing, ["tool:sum"]);
        // Whoever was first is gone: the other's is served, and the first's again only when the other's is over.
        assert_eq!(scene.served(105, None).0[..], ["a x", "sum bad", "b x"]);
        scene.look(2, 110, 1, &[("sum", "bad"), ("b", "x")]);
        assert_eq!(scene.served(120, None).0[1], "sum bad");
        // But as soon as the first is shown it again, which nobody forgot meanwhile.
        scene.look(1, 130, 1, &[("sum", "good"), ("a", "x")]);
        assert_eq!(
            scene.served(140, None),
            (vec!["sum good".into(), "a x".into(), "b x".into()], vec!["tool:sum".into()])
        );
    }

    #[test]
    fn the_gateways_own_goes_before_all() {
        let mut scene = Scene::default();
        scene.look(1, 0, 0, &[("sum", "bad"), ("a", "x")]);
        let own = catalog(&[("sum", "own"), ("mine", "x")], Some("of the gateway"), false);
        assert_eq!(scene.served(20, Some(&own)).0, ["sum own", "mine x", "a x"]);
        let together = scene.looks.together(Some(&own), moment(20), |_, _| false);
        let offer = together.catalog.modern.expect("it is there");
        assert_eq!(offer.instructions.as_deref(), Some("of the gateway"));
        let of_callers: Vec<bool> =
            offer.lists[0].iter().flat_map(|list| &list.items).map(|item| item.of_callers).collect();
        assert_eq!(of_callers, [false, false, true]);
    }

    #[test]
    fn what_a_person_has_approved_is_not_hidden_for_anothers() {
        let mut scene = Scene::default();
        scene.look(2, 0, 0, &[("sum", "bad")]);
        scene.look(1, 10, 0, &[("sum", "good")]);
        assert_eq!(scene.served(20, None).0, ["sum bad"]);
        let good = catalog(&[("sum", "good")], None, true);
        let good = good.modern.and_then(|offer| offer.lists[0].as_ref()?.items[0].pin);
        assert_eq!(scene.preferring(20, None, |_, pin| Some(*pin) == good).0, ["sum good"]);
    }

    #[test]
    fn what_a_server_says_differently_is_said_to_nobody() {
        let mut scene = Scene::default();
        scene.look(1, 0, 0, &[("a", "x")]);
        let said = |scene: &Scene| {
            let together = scene.looks.together(None, moment(20), |_, _| false);
            together.catalog.modern.and_then(|offer| offer.instructions)
        };
        assert_eq!(said(&scene).as_deref(), Some("for 1"));
        scene.look(2, 10, 0, &[("a", "x")]);
        assert_eq!(said(&scene), None);
    }

    #[test]
    fn a_change_is_served_once_its_caller_has_seen_it() {
        let mut scene = Scene::default();
        scene.look(1, 0, 0, &[("sum", "old")]);
        assert!(scene.look(1, 10, 0, &[("sum", "new")]), "nobody has the old one any more");
        assert_eq!(scene.served(20, None), (vec!["sum new".into()], vec![]));
        // One that has not looked since the server has announced it keeps nobody from it.
        scene.look(2, 30, 1, &[("sum", "newest")]);
        assert_eq!(scene.served(40, None), (vec!["sum newest".into()], vec![]));
    }

    #[test]
    fn what_nobody_is_shown_goes_after_a_while() {
        let mut scene = Scene::default();
        scene.look(1, 0, 0, &[("a", "x")]);
        scene.look(2, 50, 0, &[("b", "x")]);
        assert!(!scene.looks.age(moment(100 + VIEW_KEPT_MS - 1)));
        assert!(scene.looks.age(moment(100 + VIEW_KEPT_MS)));
        assert_eq!(scene.served(100 + VIEW_KEPT_MS, None).0, ["b x"]);
        assert_eq!((scene.looks.callers.len(), scene.looks.sets.len(), scene.looks.items.len()), (1, 1, 1));
    }
}
