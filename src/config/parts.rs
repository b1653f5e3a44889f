//! A policy, out of all the files that it is written in: tasks first, for rules name them; then the rules and rates.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::base::glob::Glob;
use crate::base::limits::{CONFIG_BYTES_MAX, INCLUDED_FILES_MAX, NAME_BYTES_MAX, TASKS_MAX};
use crate::config::expand::{self, Source};
use crate::config::fault::{Fault, Faults, Included};
use crate::config::files::Files;
use crate::config::raw::{self, Entry, Node, Place, Value};
use crate::config::rules::{Reader, Stand, stand};
use crate::config::schema;
use crate::config::servers::server_names;
use crate::config::settings::EndpointSettings;
use crate::config::shape::{self, join, quote, quoted};
use crate::config::stands::Stands;
use crate::identity::active::TaskNames;
use crate::policy::cond::{ClaimType, ClaimTypes};
use crate::policy::rule::PolicySet;

/// One file's share of a policy.
pub(crate) struct Part<'a> {
    pub(crate) node: Cow<'a, Node>,
    /// What paths begin with: `policy`, or nothing.
    pub(crate) path: &'static str,
    /// The text of the file that was read first.
    text: &'a str,
    /// The file, where another one includes it.
    pub(crate) file: Option<Arc<Included>>,
}

impl Part<'_> {
    /// The text of the file that it is in.
    pub(crate) fn text(&self) -> &str {
        self.file.as_ref().map_or(self.text, |file| &file.text)
    }
}

/// The policy of a whole configuration, and where its rules stand. `text` is the whole file: faults point into it.
pub(crate) fn policy(
    root: &Node,
    text: &str,
    files: Files<'_>,
    (endpoints, claims): (&[EndpointSettings], &ClaimTypes),
    faults: &mut Faults,
) -> (PolicySet, Stands) {
    let Some(node) = root.get("policy") else {
        if !root.has("policy") && !root.is_partial() {
            faults.warn(&START, "policy", "there is no policy, so everything is refused", OPEN);
        }
        return (PolicySet::empty(), Stands::default());
    };
    if !node.has("rules") && !node.has("include") && !node.is_partial() {
        faults.warn(&node.at, "policy", "there are no rules, so everything is refused", OPEN);
    }
    let first = Part { node: Cow::Borrowed(node), path: "policy", text, file: None };
    let endpoints: Vec<&str> = endpoints.iter().map(|endpoint| &*endpoint.path).collect();
    whole(first, files, (&server_names(root), &endpoints), claims, faults)
}

/// A policy that is a file of its own.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Its tasks, rules and rates.
    pub policy: PolicySet,
    /// What its claims are declared to be.
    pub claims: ClaimTypes,
    /// What its author should hear all the same.
    pub warnings: Vec<Fault>,
    /// Where its rules stand.
    pub stands: Stands,
}

/// Reads a policy alone: `tasks`, `rules`, `rates`, `include` and `claims` (types, as an issuer has them) at the top of
/// the file. `folder` is where the file lies; keys of `beside` are somebody else's, and not looked at. Servers and endpoints
/// are whatever it says.
///
/// # Errors
/// As for [`super::load`].
pub fn policy_of(text: &str, folder: &Path, source: &dyn Source, beside: &[&str]) -> Result<PolicyFile, Vec<Fault>> {
    let mut root = raw::parse(text).map_err(|fault| vec![fault])?;
    if let Value::Block(block) = &mut root.value {
        block.entries.retain(|entry| !beside.contains(&entry.key.as_str()));
    }
    let mut faults = Faults::default();
    if !shape::fit(&mut root, schema::ALONE, text, (folder, source), &mut faults) {
        return Err(faults.all());
    }
    let mut types = Types::default();
    types.read(&root, "", &mut faults);
    let claims = types.finish();
    let first = Part { node: Cow::Borrowed(&root), path: "", text, file: None };
    let (policy, stands) = whole(first, Files { folder, source }, (&[], &[]), &claims, &mut faults);
    let warnings = faults.finish()?;
    Ok(PolicyFile { policy, claims, warnings, stands })
}

/// The other files of a whole configuration's policy.
pub(crate) fn beside(
    root: &Node,
    text: &str,
    (folder, source): (&Path, &dyn Source),
    faults: &mut Faults,
) -> Vec<Node> {
    let Some(node) = root.get("policy") else {
        return Vec::new();
    };
    let mut parts = vec![Part { node: Cow::Borrowed(node), path: "policy", text, file: None }];
    included(&mut parts, Files { folder, source }, faults);
    parts.into_iter().skip(1).map(|part| part.node.into_owned()).collect()
}

fn whole<'a>(
    first: Part<'a>,
    files: Files<'_>,
    known: (&[&str], &[&str]),
    claims: &ClaimTypes,
    faults: &mut Faults,
) -> (PolicySet, Stands) {
    let stands = Stands::of(first.text);
    let mut parts = vec![first];
    included(&mut parts, files, faults);
    let tasks = tasks(&parts, faults);
    let mut reader = Reader::new(&tasks, known, claims, (faults, stands));
    let rules = parts.iter().flat_map(|part| reader.rules(part)).collect();
    let rates = reader.rates(&parts[0]);
    let stands = std::mem::take(&mut reader.stands);
    faults.look_at(None);
    (PolicySet::with_rates(tasks, rules, rates), stands)
}

/// The tasks of all parts.
fn tasks(parts: &[Part<'_>], faults: &mut Faults) -> TaskNames {
    let mut names: Vec<&str> = Vec::new();
    let mut first: HashMap<&str, Stand> = HashMap::new();
    for part in parts {
        let Some(node) = part.node.get("tasks") else { continue };
        let path = join(part.path, "tasks");
        faults.look_at(part.file.clone());
        if names.len() + node.entries().len() > TASKS_MAX {
            faults.error(&node.at, &path, format!("over {TASKS_MAX} tasks"), "");
            return TaskNames::default();
        }
        for Entry { key, key_at, .. } in node.entries() {
            let path = join(&path, key);
            // A task is named in a header and in a list with blanks between.
            let plain = key.bytes().all(|b| b.is_ascii_graphic() && b != b',');
            if key.is_empty() || !plain || key.len() > NAME_BYTES_MAX {
                let message = format!("{} is not a task's name", quote(key));
                let hint = format!("1 to {NAME_BYTES_MAX} visible ASCII characters, no blank, no comma");
                faults.error(key_at, &path, message, hint);
            }
            if let Some(first) = first.get(&**key) {
                let message = format!("stands twice; first on {}", stand(first));
                faults.error(key_at, &path, message, "keep one of them");
                continue;
            }
            first.insert(key, (key_at.line, part.file.clone()));
            names.push(key);
        }
    }
    TaskNames::new(names)
}

/// Adds the files that `include` of the first part names.
fn included(parts: &mut Vec<Part<'_>>, files: Files<'_>, faults: &mut Faults) {
    let Some(node) = parts[0].node.get("include").cloned() else {
        return;
    };
    let path = join(parts[0].path, "include");
    let mut known = HashSet::new();
    let mut bytes = parts[0].text.len();
    for (index, item) in node.items().iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(pattern) = files.path(item, &path, faults) else { continue };
        let found = match find(&pattern, files.source) {
            Ok(found) => found,
            Err(error) => {
                let message = format!("{} cannot be looked up: {}", quoted(item), expand::why(error.kind()));
                faults.error(&item.at, &path, message, "");
                continue;
            }
        };
        let mut none = true;
        for file in found {
            let text = match files.source.file(&file) {
                Ok(text) => text,
                // Where a folder was any, the file need not be in each.
                Err(error) if absent(&error) => continue,
                Err(error) => {
                    none = false;
                    let message = format!("{} cannot be read: {}", shown(&file, item), expand::why(error.kind()));
                    faults.error(&item.at, &path, message, "the user that the gateway runs as must be able to read it");
                    continue;
                }
            };
            none = false;
            if !known.insert(file.clone()) {
                continue;
            }
            bytes += text.len();
            if known.len() > INCLUDED_FILES_MAX || bytes > CONFIG_BYTES_MAX {
                let message =
                    format!("over {INCLUDED_FILES_MAX} files, or {CONFIG_BYTES_MAX} bytes of all files together");
                faults.error(&item.at, &path, message, "");
                return;
            }
            parts.extend(part(file, text, (parts[0].text, known.len()), files.source, faults));
        }
        if none {
            let hint = "relative paths start at the folder of the configuration";
            faults.error(&item.at, &path, format!("{} finds no file", quoted(item)), hint);
        }
    }
}

/// An included file, if it can be read at all.
fn part<'a>(
    path: PathBuf,
    text: String,
    (first, number): (&'a str, usize),
    source: &dyn Source,
    faults: &mut Faults,
) -> Option<Part<'a>> {
    let name = path.strip_prefix(".").unwrap_or(&path).display().to_string();
    let file = Arc::new(Included { name, text, number });
    faults.look_at(Some(file.clone()));
    let read = match raw::parse(&file.text) {
        Ok(mut root) => {
            let folder = path.parent().unwrap_or(Path::new("."));
            let whole = shape::fit(&mut root, schema::INCLUDED, &file.text, (folder, source), faults);
            whole.then_some(root)
        }
        Err(fault) => {
            faults.take(fault);
            None
        }
    };
    faults.look_at(None);
    Some(Part { node: Cow::Owned(read?), path: "", text: first, file: Some(file) })
}

/// The files that a pattern could mean, in their order: `*` is any run of characters of one name, but for the dot that
/// hides a name.
fn find(pattern: &Path, source: &dyn Source) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = match component {
            Component::Normal(name) => name.to_str().filter(|name| name.contains('*')),
            _ => None,
        };
        let Some(name) = name else {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        };
        let glob = Glob::new(name);
        let mut next = Vec::new();
        for folder in &found {
            let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let names = match source.list(place, &glob) {
                Err(error) if absent(&error) => continue,
                names => names?,
            };
            let shown = names.into_iter().filter(|found| name.starts_with('.') || !found.starts_with('.'));
            next.extend(shown.map(|name| folder.join(name)));
            if next.len() > INCLUDED_FILES_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        found = next;
    }
    found.sort();
    Ok(found)
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A path for a message: not where a secret could be in it.
fn shown(path: &Path, item: &Node) -> String {
    if item.foreign { quoted(item) } else { quote(&path.display().to_string()) }
}

/// The types that claims are declared to have, by one issuer or several.
#[derive(Default)]
pub(crate) struct Types(Vec<(Box<str>, Option<ClaimType>)>);

impl Types {
    /// Adds those of `claims` in this block. What two declare differently has no type.
    pub(crate) fn read(&mut self, node: &Node, path: &str, faults: &mut Faults) {
        let Some(node) = node.get("claims") else {
            return;
        };
        for Entry { key, key_at, node: kind } in node.entries() {
            let path = join(&join(path, "claims"), key);
            let name = key.strip_prefix("claims.").unwrap_or(key);
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.split('.').any(str::is_empty) {
                faults.error(key_at, &path, format!("{} is not a claim", quote(key)), "write groups or realm.roles");
            }
            let Some(kind) = claim_type(kind, &path, faults) else { continue };
            match self.0.iter_mut().find(|(known, _)| **known == *name) {
                Some((_, known)) if *known == Some(kind) => {}
                Some((_, known)) => {
                    *known = None;
                    let message = "another issuer declares it differently, so it is not checked";
                    faults.warn(key_at, &path, message, "");
                }
                None => self.0.push((Box::from(name), Some(kind))),
            }
        }
    }

    pub(crate) fn finish(self) -> ClaimTypes {
        let mut declared: Vec<_> = self.0.into_iter().filter_map(|(name, kind)| Some((name, kind?))).collect();
        declared.sort_by(|one: &(Box<str>, ClaimType), other| one.0.cmp(&other.0));
        ClaimTypes { declared }
    }
}

fn claim_type(node: &Node, path: &str, faults: &mut Faults) -> Option<ClaimType> {
    let list = node.text().is_none();
    let word = match node.items() {
        _ if !list => node.text(),
        [one] => one.text(),
        items => {
            if !matches!(node.value, Value::Bad) && !items.iter().any(|item| matches!(item.value, Value::Bad)) {
                faults.error(&node.at, path, "a list's type is one word", "write [text], or list for a mixed one");
            }
            None
        }
    };
    Some(match (word?, list) {
        ("text", false) => ClaimType::Text,
        ("text", true) => ClaimType::Texts,
        ("number", false) => ClaimType::Number,
        ("number", true) => ClaimType::Numbers,
        ("bool", false) => ClaimType::Bool,
        ("list", false) => ClaimType::List,
        ("object", false) => ClaimType::Object,
        _ => return None,
    })
}

const OPEN: &str = "to open it: policy: { rules: [{ id: open, permit: [\"*/*\"] }] }";
const START: Place = Place { line: 1, column: 1, spelt: 0..0 };
