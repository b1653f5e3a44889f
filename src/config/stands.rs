//! Where the rules of a policy stand in its files: what is found wrong with them only beside a catalogue is told with
//! its place, too.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::ids::RuleId;
use crate::config::fault::{Fault, Faults, Included, Weight};
use crate::config::raw::{Node, Place as At};
use crate::config::shape::join;
use crate::policy::compile::Warning;
use crate::policy::rule::PolicySet;
use crate::policy::schema::{Misfit, Unfit};
use crate::policy::table::Place;

/// Where the conditions and patterns of a policy stand.
#[derive(Clone, Debug, Default)]
pub struct Stands {
    /// Of the file that was read first.
    text: Arc<str>,
    spots: HashMap<(RuleId, What), Spot>,
    /// Lines of that file on which a secret is written.
    veiled: Vec<RangeInclusive<usize>>,
}

/// What of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Condition(Place),
    Pattern(usize),
}

#[derive(Clone, Debug)]
struct Spot {
    at: At,
    path: Box<str>,
    file: Option<Arc<Included>>,
    /// It is written elsewhere, so perhaps a secret.
    foreign: bool,
}

impl Stands {
    /// None yet, in a file of this text.
    pub(crate) fn of(text: &str) -> Self {
        Self { text: text.into(), spots: HashMap::new(), veiled: Vec::new() }
    }

    /// No fault shows these lines.
    pub(crate) fn veil(&mut self, lines: &[RangeInclusive<usize>]) {
        self.veiled = lines.to_vec();
    }

    /// A rule without faults: its number, and its path in this file.
    pub(crate) fn add(&mut self, rule: usize, node: &Node, path: &str, file: Option<&Arc<Included>>) {
        let rule = RuleId::from_index(rule);
        let mut put = |what, node: &Node, path: String| {
            let spot = Spot { at: node.at.clone(), path: path.into(), file: file.cloned(), foreign: node.foreign };
            self.spots.insert((rule, what), spot);
        };
        for key in ["permit", "forbid", "approve"] {
            let items = node.get(key).map(Node::items).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                put(What::Pattern(index), item, format!("{path}.{key}[{index}]"));
            }
        }
        if let Some(when) = node.get("when") {
            put(What::Condition(Place::When), when, join(path, "when"));
        }
        let limits = node.get("limits").map(Node::items).unwrap_or_default();
        for (at, limit) in (0..).zip(limits) {
            let path = format!("{path}.limits[{at}]");
            for key in ["sum", "once", "same"] {
                let written = limit.get(key).into_iter();
                written.for_each(|node| put(What::Condition(Place::Counted(at)), node, join(&path, key)));
            }
            let Some(by) = limit.get("by") else { continue };
            match by.text() {
                Some(_) => put(What::Condition(Place::By(at, 0)), by, join(&path, "by")),
                None => {
                    for (part, item) in (0..).zip(by.items()) {
                        put(What::Condition(Place::By(at, part)), item, format!("{path}.by[{part}]"));
                    }
                }
            }
        }
    }

    /// The file that was read first.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What a catalogue shows of this policy, in the order of its files: arguments that no tool has are errors, those
    /// that are of another type warnings, and so are patterns that are about nothing.
    #[must_use]
    pub fn faults(&self, set: &PolicySet, misfits: &[Misfit], warnings: &[Warning]) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.veiled.iter().for_each(|lines| faults.veil(lines.clone()));
        misfits.iter().for_each(|misfit| faults.take_at(self.misfit(set, misfit)));
        warnings.iter().for_each(|warning| faults.take_at(self.warning(set, warning)));
        faults.all()
    }

    fn misfit(&self, set: &PolicySet, misfit: &Misfit) -> Fault {
        let rule = set.rule(misfit.rule);
        let weight = if misfit.fault == Unfit::Absent { Weight::Error } else { Weight::Warning };
        let spot = self.spots.get(&(misfit.rule, What::Condition(misfit.place)));
        let foreign = spot.is_some_and(|spot| spot.foreign);
        let message = if foreign {
            format!("rule {}: {}, at character {} of its value", rule.id, misfit.fault, misfit.column)
        } else {
            format!("rule {}: {}: {}", rule.id, misfit.path, misfit.fault)
        };
        let hint = Some(misfit.hint.to_string()).filter(|hint| !hint.is_empty());
        let Some(spot) = spot else {
            let message = format!("{message}, at character {} of its {}", misfit.column, misfit.place);
            return Fault { file: None, weight, line: 1, column: 1, path: String::new(), message, hint, veiled: false };
        };
        let file = spot.file.as_ref().map_or(&*self.text, |file| &file.text);
        let text = misfit.place.condition(rule).map(|condition| condition.text()).unwrap_or_default();
        let at = if foreign { spot.at.clone() } else { spot.at.inside(file, text, misfit.column.saturating_sub(1)) };
        spot.fault(weight, &at, message, hint)
    }

    fn warning(&self, set: &PolicySet, warning: &Warning) -> Fault {
        let rule = set.rule(warning.rule);
        let spot = self.spots.get(&(warning.rule, What::Pattern(warning.pattern)));
        let text = rule.patterns.get(warning.pattern).map(|pattern| pattern.text()).unwrap_or_default();
        let message = match spot {
            Some(spot) if spot.foreign => warning.lacks.to_string(),
            _ => format!("`{text}`: {}", warning.lacks),
        };
        let Some(spot) = spot else {
            let message = format!("rule {}: {message}", rule.id);
            return Fault {
                file: None,
                weight: Weight::Warning,
                line: 1,
                column: 1,
                path: String::new(),
                message,
                hint: None,
                veiled: false,
            };
        };
        spot.fault(Weight::Warning, &spot.at, message, None)
    }
}

impl Spot {
    fn fault(&self, weight: Weight, at: &At, message: String, hint: Option<String>) -> Fault {
        let (file, path) = (self.file.clone(), self.path.to_string());
        Fault { file, weight, line: at.line, column: at.column, path, message, hint, veiled: false }
    }
}
