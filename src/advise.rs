//! Verbs that try a policy out: explain, test, diff, replay. Nothing is called, and nothing is counted.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Read as _, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use portcullis::base::limits::REVIEW_FILE_BYTES_MAX;
use portcullis::config::cases::{self, Cases, Offer, Target};
use portcullis::config::{Fault, Loaded, Settings, Stands};
use portcullis::mcp::catalog::ListKind;
use portcullis::plane::audit;
use portcullis::plane::pins::store::Store;
use portcullis::policy::compile::{Lacks, Warning};
use portcullis::policy::needs::NoPast;
use portcullis::policy::pattern::About;
use portcullis::policy::rule::PolicySet;
use portcullis::review::ask::Asked;
use portcullis::review::diff;
use portcullis::review::replay::Replay;
use portcullis::review::run;
use portcullis::review::world::{World, catalog, suppose};
use portcullis::uring::wait::clock;

use crate::cli::{self, Explain, Format, PolicyVerb};
use crate::{System, load, print_all, told};

/// Does what the verb says.
pub(crate) fn policy(verb: &PolicyVerb) -> anyhow::Result<u8> {
    match verb {
        PolicyVerb::Explain(explain) if explain.live => crate::steer::explain(explain),
        PolicyVerb::Explain(explain) => self::explain(explain),
        PolicyVerb::Test(test) => self::test(test),
        PolicyVerb::Diff(diff) => self::diff(diff),
        PolicyVerb::Replay(replay) => self::replay(replay),
    }
}

fn explain(explain: &Explain) -> anyhow::Result<u8> {
    let Some(loaded) = load(&explain.config, false)? else { return Ok(cli::EXIT_CONFIG) };
    let settings = loaded.settings;
    let Some(known) = offers(&[&settings], explain.tools.as_deref())? else { return Ok(cli::EXIT_CONFIG) };
    let target = target(explain);
    let world = world(&settings, known, &[(explain.server.clone(), target.clone())])?;
    if explain.tools.is_some() {
        unmatched(&world);
    }
    let claims = explain.claims.as_deref().map(read).transpose()?;
    let args = explain.args.as_deref().map(read).transpose()?;
    let (caller, task) = world.caller(claims.as_deref(), &settings.issuers, explain.task.as_deref())?;
    let unix_ms = match &explain.now {
        Some(now) => moment(now)?,
        None => clock().unix_ms,
    };
    let asked = Asked {
        caller: &caller,
        task,
        server: &explain.server,
        target: &target,
        args: args.as_deref(),
        session: None,
        unix_ms,
        past: &NoPast,
    };
    let answer = world.told(&world.ask(&asked)?, &target);
    let task = explain.task.as_deref();
    match explain.format {
        Format::Text => print_all(&answer.text(&asked, task))?,
        Format::Json => print_all(&format!("{:#}\n", answer.json(&asked, task)))?,
    }
    Ok(cli::EXIT_OK)
}

/// What is asked about.
pub(crate) fn target(explain: &Explain) -> Target {
    match (&explain.tool, &explain.prompt, &explain.resource) {
        (_, Some(prompt), _) => Target::Prompt(prompt.as_str().into()),
        (_, _, Some(uri)) => Target::Resource(uri.as_str().into()),
        (tool, ..) => Target::Tool(tool.as_deref().unwrap_or_default().into()),
    }
}

fn moment(text: &str) -> anyhow::Result<u64> {
    let moment: jiff::Timestamp = text.parse().with_context(|| format!("--now: `{text}` is not a moment"))?;
    u64::try_from(moment.as_millisecond()).context("--now is before 1970")
}

fn test(test: &cli::Test) -> anyhow::Result<u8> {
    let config = match &test.config {
        Some(path) => match load(path, false)? {
            Some(loaded) => Some(loaded),
            None => return Ok(cli::EXIT_CONFIG),
        },
        None => None,
    };
    let mut tables = Vec::new();
    let mut faulty = false;
    for path in &test.files {
        match table(path)? {
            Some(table) => tables.push((path, table)),
            None => faulty = true,
        }
    }
    if faulty {
        return Ok(cli::EXIT_CONFIG);
    }
    let mut worlds = Vec::new();
    for (path, table) in tables {
        let world = table_world(path, &table, config.as_ref().map(|loaded| &loaded.settings))?;
        faulty |= is_unfit(&world, (path, &table), test.config.as_deref().zip(config.as_ref()));
        worlds.push((path, table, world));
    }
    if faulty {
        return Ok(cli::EXIT_CONFIG);
    }
    let (mut cases, mut failed) = (0, 0);
    for (path, table, world) in worlds {
        let settings = config.as_ref().filter(|_| table.policy.is_none()).map(|loaded| &loaded.settings);
        let issuers = settings.map_or(&[][..], |it| &it.issuers);
        for case in &table.cases {
            cases += 1;
            if let Err(fault) = run::run(&world, issuers, case) {
                failed += 1;
                print_all(&format!("failed: {}:{}: {}\n", path.display(), fault.line, fault.name))?;
                print_all(&fault.text.lines().map(|line| format!("  {line}\n")).collect::<String>())?;
            }
        }
    }
    let files = test.files.len();
    eprintln!("{cases} cases in {files} {}: {failed} failed", if files == 1 { "table" } else { "tables" });
    Ok(if failed == 0 { cli::EXIT_OK } else { cli::EXIT_FAILURE })
}

/// Whether rules ask for arguments that none of the tools has which a table lists; shows which.
fn is_unfit(world: &World, (path, table): (&Path, &Cases), config: Option<(&Path, &Loaded)>) -> bool {
    if table.offers.is_none() {
        return false;
    }
    let (path, stands) = match config.filter(|_| table.policy.is_none()) {
        Some((path, loaded)) => (path, &loaded.stands),
        None => (path, &table.stands),
    };
    told(&stands.faults(&world.policy, world.table.misfits(), &[]), &path.display().to_string(), stands) > 0
}

/// A table; `None` where it has faults, which are shown then.
fn table(path: &Path) -> anyhow::Result<Option<Cases>> {
    let text = read(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(shown(path, &text, cases::cases(&text, folder, &System)).inspect(|table| {
        for warning in &table.warnings {
            eprint!("{}", warning.render(&path.display().to_string(), &text));
        }
    }))
}

/// What was read; or its faults, shown.
fn shown<T>(path: &Path, text: &str, read: Result<T, Vec<Fault>>) -> Option<T> {
    let name = path.display().to_string();
    read.map_err(|faults| faults.iter().for_each(|fault| eprint!("{}", fault.render(&name, text)))).ok()
}

fn table_world(path: &Path, table: &Cases, config: Option<&Settings>) -> anyhow::Result<World> {
    let named: Vec<(String, Target)> = table
        .cases
        .iter()
        .flat_map(|case| &case.steps)
        .map(|step| (step.server.to_string(), step.target.clone()))
        .collect();
    match (&table.policy, config) {
        (None, Some(settings)) => {
            let known = match &table.offers {
                Some(offers) => offers.clone(),
                None => pinned(settings)?,
            };
            world(settings, known, &named)
        }
        (Some(policy), _) => {
            let offers = table.offers.clone();
            let servers: BTreeSet<&str> = named.iter().map(|(server, _)| server.as_str()).collect();
            let offered = offers.iter().flatten().map(|offer| offer.server.as_str());
            let servers: BTreeSet<&str> = servers.into_iter().chain(offered).collect();
            let servers: Vec<Arc<str>> = servers.into_iter().map(Arc::from).collect();
            let is_known = offers.is_some();
            let world = build(Arc::new(policy.clone()), servers, offers.unwrap_or_default(), &named)?;
            if is_known {
                unmatched(&world);
            }
            Ok(world)
        }
        (None, None) => bail!("{} has no rules: name a configuration with --config", path.display()),
    }
}

fn diff(verb: &cli::Diff) -> anyhow::Result<u8> {
    let (Some(old), Some(new)) = (load(&verb.old, false)?, load(&verb.new, false)?) else {
        return Ok(cli::EXIT_CONFIG);
    };
    let (old, new) = (old.settings, new.settings);
    let Some(known) = offers(&[&old, &new], verb.tools.as_deref())? else { return Ok(cli::EXIT_CONFIG) };
    let diff = diff::diff(&world(&old, known.clone(), &[])?, &world(&new, known, &[])?);
    match verb.format {
        Format::Text => print_all(&diff.text())?,
        Format::Json => print_all(&format!("{:#}\n", diff.json()))?,
    }
    Ok(if diff.is_empty() { cli::EXIT_OK } else { cli::EXIT_FAILURE })
}

fn replay(verb: &cli::Replay) -> anyhow::Result<u8> {
    let Some(loaded) = load(&verb.config, false)? else { return Ok(cli::EXIT_CONFIG) };
    let world = world(&loaded.settings, Vec::new(), &[])?;
    let mut replay = Replay::new(&world);
    let cannot = || format!("cannot read the record in {}", verb.record.display());
    if verb.record.is_dir() {
        let mut lines = Lines { replay: &mut replay, line: Vec::new() };
        let torn = audit::export(&verb.record, &mut lines).with_context(cannot)?;
        if torn > 0 {
            eprintln!("{torn} line(s) torn by a crash were left out");
        }
    } else {
        let file = std::fs::File::open(&verb.record).with_context(cannot)?;
        for line in std::io::BufReader::new(file).lines() {
            replay.line(&line.with_context(cannot)?);
        }
    }
    match verb.format {
        Format::Text => print_all(&replay.text())?,
        Format::Json => print_all(&format!("{:#}\n", replay.json()))?,
    }
    Ok(if replay.changes() { cli::EXIT_FAILURE } else { cli::EXIT_OK })
}

/// Takes the record line by line.
struct Lines<'a, 'w> {
    replay: &'a mut Replay<'w>,
    line: Vec<u8>,
}

impl Write for Lines<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                self.replay.line(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is wrong with a policy beside the definitions that the state folder remembers; nothing where it remembers none,
/// or is not to be read by whoever asks.
pub(crate) fn beside_pins(settings: &Settings, stands: &Stands) -> anyhow::Result<Vec<Fault>> {
    let known = match pinned(settings) {
        Ok(known) => known,
        Err(error) => {
            eprintln!("the pins were not looked at: {error:#}");
            return Ok(Vec::new());
        }
    };
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let world = world(settings, known, &[])?;
    // Resources come and go, and a server that no pattern fits was told before.
    let warnings: Vec<Warning> =
        world.warnings.iter().filter(|it| it.lacks == Lacks::Match && is_listed(&world, it)).copied().collect();
    Ok(stands.faults(&world.policy, world.table.misfits(), &warnings))
}

/// Whether it is about tools or prompts.
fn is_listed(world: &World, warning: &Warning) -> bool {
    let pattern = world.policy.rule(warning.rule).patterns.get(warning.pattern);
    pattern.is_some_and(|pattern| matches!(pattern.about(), About::Tool(_) | About::Prompt(_)))
}

/// What servers offer: as a file says, else as the state folders remember. `None` where the file has faults, which are
/// shown then.
fn offers(settings: &[&Settings], tools: Option<&Path>) -> anyhow::Result<Option<Vec<Offer>>> {
    if let Some(path) = tools {
        let text = read(path)?;
        return Ok(shown(path, &text, cases::offers(&text)));
    }
    let mut all: Vec<Offer> = Vec::new();
    for settings in settings {
        for offer in pinned(settings)? {
            if !all.iter().any(|known| known.server == offer.server) {
                all.push(offer);
            }
        }
    }
    Ok(Some(all))
}

/// The definitions that a state folder remembers.
fn pinned(settings: &Settings) -> anyhow::Result<Vec<Offer>> {
    let store = Store::new(&settings.state);
    let mut all = Vec::new();
    for server in &settings.servers {
        let Some(book) = store.read(&server.name)? else { continue };
        let mut offer = Offer { server: server.name.to_string(), ..Offer::default() };
        for (key, pins) in &book.known {
            let list = match key.kind() {
                ListKind::Tools => &mut offer.tools,
                ListKind::Prompts => &mut offer.prompts,
                ListKind::Resources | ListKind::Templates => continue,
            };
            let text = pins.iter().find_map(|pin| pin.definition.as_ref()).map(|text| text.get().to_owned());
            let bare = || {
                let schema = if key.kind() == ListKind::Tools { ",\"inputSchema\":{\"type\":\"object\"}" } else { "" };
                format!("{{\"name\":{}{schema}}}", serde_json::Value::from(key.name()))
            };
            list.push(text.unwrap_or_else(bare).into());
        }
        all.push(offer);
    }
    Ok(all)
}

fn world(settings: &Settings, known: Vec<Offer>, named: &[(String, Target)]) -> anyhow::Result<World> {
    let servers = settings.servers.iter().map(|server| server.name.clone()).collect();
    build(settings.policy.clone(), servers, known, named)
}

/// Shows which patterns are about nothing that servers are known to offer.
fn unmatched(world: &World) {
    for warning in &world.warnings {
        let rule = world.policy.rule(warning.rule);
        // A file of tools says nothing of resources.
        if warning.lacks == Lacks::Room {
            eprintln!("warning: {}: {}", rule.id, warning.lacks);
            continue;
        }
        if let Some(pattern) = rule.patterns.get(warning.pattern).filter(|_| is_listed(world, warning)) {
            eprintln!("warning: {}: {}: {}", rule.id, pattern.text(), warning.lacks);
        }
    }
}

/// Of servers of which nothing is known, what is named is there.
fn build(
    policy: Arc<PolicySet>,
    servers: Vec<Arc<str>>,
    mut known: Vec<Offer>,
    named: &[(String, Target)],
) -> anyhow::Result<World> {
    let supposed = suppose(named.iter().map(|(server, target)| (server.as_str(), target)));
    for offer in supposed {
        if !known.iter().any(|it| it.server == offer.server) {
            known.push(offer);
        }
    }
    match catalog(&servers, &known) {
        Ok(catalog) => Ok(World::new(policy, servers, catalog)),
        Err(faults) => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            bail!("definitions that cannot be used: {}", faults.join("; "))
        }
    }
}

/// A file given on the command line; `-` is standard input.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    let mut text = String::new();
    let most = REVIEW_FILE_BYTES_MAX as u64 + 1;
    if path == "-" {
        std::io::stdin().take(most).read_to_string(&mut text).with_context(cannot)?;
    } else {
        std::fs::File::open(path).with_context(cannot)?.take(most).read_to_string(&mut text).with_context(cannot)?;
    }
    if text.len() > REVIEW_FILE_BYTES_MAX {
        bail!("{} is longer than {REVIEW_FILE_BYTES_MAX} bytes", path.display());
    }
    Ok(text)
}
