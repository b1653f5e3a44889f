//! What is counted, as families: Prometheus and OTLP are shown the same. Every label is a name of the configuration, of
//! a catalogue, or of a table of ours: no caller can make another series.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::InstanceSettings;
use crate::config::snapshot::Snapshot;
use crate::gateway::control::{Busy, Control, Life};
use crate::gateway::tally::{self, Section};
use crate::identity::keyring::Standing;
use crate::mcp::catalog::ListKind;
use crate::record::meter::{Labels, OPERATION_NS, OVERHEAD_NS, OperationSeries, PENDING};
use crate::session::ledger::LENGTHS_S;
use crate::telemetry::family::{Families, Kind, Observed, bounds};
use crate::telemetry::names;
use crate::upstream::breaker::{State, View};
use crate::uring::wait::clock;

use super::admin::{Health, ServerHealth};

/// Everything, as it is now.
pub(super) fn families(control: &Control, health: &Health) -> Families {
    let snapshot = control.snapshot.load();
    let mut text = Families::default();
    operations(&mut text, &snapshot);
    sessions(&mut text, &snapshot, control);
    decisions(&mut text, &snapshot, control);
    own_time(&mut text, control);
    shards(&mut text, control);
    servers(&mut text, &snapshot, health);
    instances(&mut text, &snapshot);
    issuers(&mut text, &snapshot, control);
    credentials(&mut text, health);
    audit(&mut text, control, health);
    telemetry(&mut text, health);
    counts(&mut text, control);
    process(&mut text, control, health);
    text
}

fn operations(text: &mut Families, snapshot: &Snapshot) {
    let bounds = bounds(&OPERATION_NS);
    let series = |text: &mut Families, series: OperationSeries<'_>, transport: &str| {
        let mut labels = of(&series.labels);
        labels.push((names::PROTOCOL_VERSION, series.revision.as_str()));
        labels.push((names::TRANSPORT, transport));
        labels.push((names::ERROR_TYPE, series.failure.unwrap_or_default()));
        text.series(&labels, Observed::of(&bounds, &series.counted));
    };
    text.family(
        "mcp.server.operation.duration",
        "s",
        Kind::Histogram,
        "Requests and notifications, from their first byte to the last of their answer.",
    );
    snapshot.meters.operations(|it| series(text, it, "tcp"));
    let programs: Vec<&str> =
        snapshot.settings.servers.iter().filter(|it| it.command().is_some()).map(|it| &*it.name).collect();
    text.family(
        "mcp.client.operation.duration",
        "s",
        Kind::Histogram,
        "What was sent to servers on behalf of callers, each attempt, from its sending to the last of its answer.",
    );
    snapshot.meters.attempts(|it| {
        let transport = if programs.contains(&it.labels.server) { "pipe" } else { "tcp" };
        series(text, it, transport);
    });
}

/// Sessions that have ended, by the bounds that the operator wants.
fn sessions(text: &mut Families, snapshot: &Snapshot, control: &Control) {
    let help = "Sessions of clients that have ended, from their beginning, which is known to the second.";
    text.family("mcp.server.session.duration", "s", Kind::Histogram, help);
    let bounds: Arc<[f64]> = match &snapshot.settings.telemetry.session_buckets {
        Some(bounds) => bounds.iter().map(|bound| whole(*bound)).collect(),
        None => bounds(&OPERATION_NS),
    };
    for (revision, length) in control.ledger.lengths().each() {
        let mut buckets = vec![0; bounds.len() + 1];
        for (place, count) in length.buckets.iter().enumerate() {
            let most = LENGTHS_S.get(place).map_or(f64::INFINITY, |bound| whole(*bound));
            buckets[bounds.partition_point(|bound| *bound < most)] += count;
        }
        let labels = [(names::PROTOCOL_VERSION, revision.as_str()), (names::NETWORK_PROTOCOL, "http")];
        text.series(&labels, Observed { bounds: bounds.clone(), buckets, sum: whole(length.sum_s) });
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of sessions stay far below what a float holds exactly")]
fn whole(seconds: u64) -> f64 {
    seconds as f64
}

fn decisions(text: &mut Families, snapshot: &Snapshot, control: &Control) {
    text.family(
        "portcullis.decisions",
        "{decision}",
        Kind::Counter,
        "Decisions, by what they were about and why they came out so.",
    );
    snapshot.meters.decisions(|about, reason, count| {
        let mut labels = of(&about);
        let decision = match reason {
            "permit" => "permit",
            PENDING => "pending",
            _ => "refuse",
        };
        labels.push((names::DECISION, decision));
        labels.push((names::REASON, reason));
        labels.push(("mode", "enforce"));
        text.series(&labels, count);
    });
    let help = "Conditions and limits of a rule that could not be evaluated.";
    text.family("portcullis.policy.unknown", "{condition}", Kind::Counter, help);
    for (rule, count) in snapshot.meters.unknowns() {
        text.series(&[("rule", rule)], count);
    }
    let help = "Arguments that a rule's conditions ask for and none of its tools has, or has so.";
    text.family("portcullis.policy.misfits", "{argument}", Kind::Gauge, help);
    let mut misfits: BTreeMap<&str, u64> = BTreeMap::new();
    for misfit in snapshot.table.misfits() {
        *misfits.entry(&snapshot.settings.policy.rule(misfit.rule).id).or_default() += 1;
    }
    for (rule, count) in misfits {
        text.series(&[("rule", rule)], count);
    }
    let help = "What calls would have come to with a rule in shadow.";
    text.family("portcullis.shadow.decisions", "{decision}", Kind::Counter, help);
    for (rule, verdict, count) in snapshot.meters.shadows() {
        text.series(&[("rule", rule), ("verdict", verdict)], count);
    }
    let help = "Requests refused before there was anything to decide on, by why.";
    text.family("portcullis.requests.refused", "{request}", Kind::Counter, help);
    for (reason, count) in control.tally.refusals() {
        text.series(&[("reason", reason)], count);
    }
}

fn own_time(text: &mut Families, control: &Control) {
    text.family(
        "portcullis.overhead.duration",
        "s",
        Kind::Histogram,
        "What a request took without the wait for its server, where it was answered in one piece.",
    );
    let bounds = bounds(&OVERHEAD_NS);
    control.overhead.total().each(|method, way, counted| {
        let labels = [(names::METHOD, method), ("outcome", way.as_str())];
        text.series(&labels, Observed::of(&bounds, &counted));
    });
}

fn shards(text: &mut Families, control: &Control) {
    let busy: Vec<_> = control.gauges.iter().enumerate().map(|(shard, busy)| (shard.to_string(), busy)).collect();
    let mut gauge = |name: &'static str, unit, help: &'static str, value: fn(&Busy) -> u64| {
        text.family(name, unit, Kind::UpDown, help);
        for (shard, busy) in &busy {
            text.series(&[("shard", shard)], value(busy));
        }
    };
    gauge("portcullis.connections", "{connection}", "Connections of clients.", |busy| busy.connections);
    let help = "Requests under way that count against their subject.";
    gauge("portcullis.calls_in_flight", "{call}", help, |busy| busy.calls);
    gauge("portcullis.streams.active", "{stream}", "Open event streams.", |busy| busy.streams);
    gauge("portcullis.buffer", "By", "Buffers in use.", |busy| busy.buffer_bytes);
    let help = "Sessions of clients that are remembered.";
    text.one("portcullis.sessions.active", "{session}", Kind::UpDown, help, control.ledger.len());
    let counts = control.counts.standing().counts;
    text.one("portcullis.counts", "{count}", Kind::UpDown, "Counts of limits and rates.", counts);
    let waiting = control.approvals.waiting();
    text.one("portcullis.approvals.waiting", "{approval}", Kind::UpDown, "Calls that wait for a person.", waiting);
}

fn servers(text: &mut Families, snapshot: &Snapshot, health: &Health) {
    let (servers, now) = (health.servers(), clock().unix_ms);
    let mut each = |name: &'static str, unit, help: &'static str, value: &dyn Fn(&ServerHealth) -> Option<u64>| {
        text.family(name, unit, Kind::Gauge, help);
        for server in &servers {
            if let Some(value) = value(server) {
                text.series(&[(names::TARGET, &server.name)], value);
            }
        }
    };
    let up = |server: &ServerHealth| Some(u64::from(server.known && server.trouble.is_none()));
    each("portcullis.server.up", "", "Whether the last look at a server succeeded.", &up);
    let known = |server: &ServerHealth| Some(u64::from(server.known));
    each("portcullis.catalog.known", "", "Whether it is known what a server offers.", &known);
    let age = |server: &ServerHealth| Some(now.saturating_sub(server.survey.surveyed_unix_ms?) / 1000);
    each("portcullis.catalog.age", "s", "Since what a server offers was last asked for with success.", &age);
    let waiting = |server: &ServerHealth| Some(server.survey.pins.waiting as u64);
    each(
        "portcullis.pins.waiting",
        "{definition}",
        "Definitions that are hidden until somebody approves them.",
        &waiting,
    );
    let help = "Tools, prompts and resources of a server that were added, removed or changed since its first survey.";
    text.family("portcullis.catalog.changes", "{definition}", Kind::Counter, help);
    for server in &servers {
        for (kind, count) in ["added", "removed", "changed"].into_iter().zip(server.survey.changes.counts()) {
            text.series(&[(names::TARGET, &server.name), ("kind", kind)], count);
        }
    }
    catalog(text, snapshot);
}

fn catalog(text: &mut Families, snapshot: &Snapshot) {
    let mut tools = vec![0_u64; snapshot.settings.servers.len()];
    let mut prompts = tools.clone();
    for (_, server, kind, _) in snapshot.catalog.numbered() {
        let counts = if kind == ListKind::Prompts { &mut prompts } else { &mut tools };
        if let Some(count) = counts.get_mut(server.index()) {
            *count += 1;
        }
    }
    for (name, unit, help, counts) in [
        ("portcullis.catalog.tools", "{tool}", "Tools that a server offers and that are not withheld.", &tools),
        ("portcullis.catalog.prompts", "{prompt}", "Prompts that a server offers and that are not withheld.", &prompts),
    ] {
        text.family(name, unit, Kind::Gauge, help);
        for (server, count) in snapshot.settings.servers.iter().zip(counts) {
            text.series(&[(names::TARGET, &server.name)], *count);
        }
    }
    let help = "Names at endpoints that are too long, or withheld because another server has them.";
    text.one("portcullis.catalog.collisions", "{name}", Kind::Gauge, help, snapshot.merge_warnings.len());
}

fn instances(text: &mut Families, snapshot: &Snapshot) {
    let mut rows = Vec::new();
    for (server, state) in snapshot.settings.servers.iter().zip(&snapshot.states) {
        let mut urls: Vec<String> = server.instances().iter().map(InstanceSettings::url).collect();
        if urls.is_empty() {
            urls.push("command".to_owned());
        }
        for (place, (url, instance)) in urls.iter().zip(&state.instances).enumerate() {
            // URLs may differ in their queries alone, which are not shown.
            let again = urls[..place].iter().filter(|other| *other == url).count();
            let url = if again == 0 { url.clone() } else { format!("{url}#{}", again + 1) };
            rows.push((server.name.clone(), url, instance.breaker.view()));
        }
    }
    let mut family = |name: &'static str, unit, kind, help: &'static str, value: fn(&View) -> u64| {
        text.family(name, unit, kind, help);
        for (server, url, view) in &rows {
            text.series(&[(names::TARGET, server), ("upstream", url)], value(view));
        }
    };
    let healthy = |view: &View| u64::from(view.state == State::Closed);
    family("portcullis.upstream.healthy", "", Kind::Gauge, "Whether an instance of a server is used.", healthy);
    let help = "How often an instance was ejected.";
    family("portcullis.upstream.ejections", "{ejection}", Kind::Counter, help, |view| view.ejections);
    let help = "Requests that were not sent because their instance was ejected.";
    family("portcullis.upstream.refused", "{request}", Kind::Counter, help, |view| view.refused);
    let help = "Requests under way at a server whose `concurrency` is bounded.";
    text.family("portcullis.upstream.inflight", "{request}", Kind::UpDown, help);
    for (server, state) in snapshot.settings.servers.iter().zip(&snapshot.states) {
        if server.concurrency.is_some() {
            text.series(&[(names::TARGET, &server.name)], state.seats.taken() as u64);
        }
    }
}

/// What issuers are asked for: their keys, what they say of opaque tokens, tokens for servers.
fn issuers(text: &mut Families, snapshot: &Snapshot, control: &Control) {
    let issuers =
        || snapshot.settings.issuers.iter().enumerate().map(|(index, it)| (&*it.issuer, snapshot.keys.of(index)));
    let help = "Whether an issuer's keys are known and not too old: tokens can be verified.";
    text.family("portcullis.issuer.keys.good", "", Kind::Gauge, help);
    for (issuer, standing) in issuers() {
        text.series(&[("issuer", issuer)], matches!(standing, Standing::Good(_)));
    }
    let help = "Since an issuer's keys were last seen there; not of those in files.";
    text.family("portcullis.issuer.keys.age", "s", Kind::Gauge, help);
    let now = clock().unix_s();
    for (issuer, standing) in issuers() {
        if let Standing::Good(good) = standing
            && good.seen_unix_s != u64::MAX
        {
            text.series(&[("issuer", issuer)], now.saturating_sub(good.seen_unix_s));
        }
    }
    let standings =
        [("credentials", control.credentials.standing()), ("introspections", control.introspections.standing())];
    text.family("portcullis.fetched.held", "{token}", Kind::UpDown, "What was fetched and is kept, by what it is.");
    for (kind, (held, _)) in standings {
        text.series(&[("kind", kind)], held);
    }
    text.family("portcullis.fetched.waiting", "{token}", Kind::UpDown, "What waits to be fetched, by what it is.");
    for (kind, (_, waiting)) in standings {
        text.series(&[("kind", kind)], waiting);
    }
}

/// Tokens that were fetched for servers.
fn credentials(text: &mut Families, health: &Health) {
    let servers = health.servers();
    let all = || servers.iter().filter_map(|server| Some((&*server.name, server.credential.as_ref()?)));
    let help = "Tokens for a server that were asked for, by what came of it.";
    text.family("portcullis.credential.fetches", "{fetch}", Kind::Counter, help);
    for (server, credential) in all() {
        for (outcome, count) in &credential.fetches {
            text.series(&[(names::TARGET, server), ("outcome", outcome)], *count);
        }
    }
    let help = "Until the token that all callers share ends, where its issuer says when.";
    text.family("portcullis.credential.expires_in", "s", Kind::Gauge, help);
    let now = clock().unix_s();
    for (server, credential) in all() {
        if let Some(ends) = credential.expires_unix_s {
            text.series(&[(names::TARGET, server)], ends.saturating_sub(now));
        }
    }
    let help = "Whether a token for a server can be had, as far as is known.";
    text.family("portcullis.credential.good", "", Kind::Gauge, help);
    for (server, credential) in all() {
        text.series(&[(names::TARGET, server)], credential.trouble.is_none());
    }
}

fn audit(text: &mut Families, control: &Control, health: &Health) {
    let recording = health.recording();
    text.one("portcullis.audit.writable", "", Kind::Gauge, "Whether the record can be written.", recording);
    let audit = &health.audit;
    let written = audit.written.load(Ordering::Relaxed);
    text.one("portcullis.audit.records", "{record}", Kind::Counter, "Records that were written.", written);
    let lost = audit.lost.load(Ordering::Relaxed) + control.gauges.iter().map(|busy| busy.records_lost).sum::<u64>();
    let help = "Records that could not be kept: of callers that are not known in a flood, and of changes.";
    text.one("portcullis.audit.lost", "{record}", Kind::Counter, help, lost);
    let backlog = audit.backlog_bytes.load(Ordering::Relaxed);
    let help = "Records in memory that wait to be written.";
    text.one("portcullis.audit.backlog", "By", Kind::UpDown, help, backlog);
}

/// What was made for a collector, and what became of it. Both go on counting where there is none any more.
fn telemetry(text: &mut Families, health: &Health) {
    let signals = [("metrics", &health.telemetry.metrics), ("traces", &health.telemetry.traces)];
    let help = "Messages of metrics and spans that the collector has accepted, by signal.";
    text.family("portcullis.telemetry.exported", "{item}", Kind::Counter, help);
    for (signal, sent) in signals {
        text.series(&[("signal", signal)], sent.exported());
    }
    let help = "Messages of metrics and spans that did not reach a collector, by signal and why.";
    text.family("portcullis.telemetry.dropped", "{item}", Kind::Counter, help);
    for (signal, sent) in signals {
        for (why, count) in sent.dropped() {
            text.series(&[("signal", signal), ("reason", why)], count);
        }
    }
    let help = "Messages of metrics and spans that wait to be sent, by signal.";
    text.family("portcullis.telemetry.queue", "{item}", Kind::UpDown, help);
    for (signal, sent) in signals {
        text.series(&[("signal", signal)], sent.queued());
    }
}

/// The whole table of counts: those of one heading begin alike.
fn counts(text: &mut Families, control: &Control) {
    for row in tally::ROWS {
        let name = match row.section {
            Section::Dropped => format!("portcullis.dropped.{}", row.name),
            Section::Happened => format!("portcullis.{}", row.name),
        };
        text.one(name, "{event}", Kind::Counter, row.help, control.tally.total(row.count));
    }
}

fn process(text: &mut Families, control: &Control, health: &Health) {
    let snapshot = control.snapshot.load();
    let ready = control.life() == Life::Run && health.recording();
    text.one("portcullis.ready", "", Kind::Gauge, "Whether new requests are taken.", ready);
    let help = "How many states of settings and catalogue there were.";
    text.one("portcullis.snapshot", "", Kind::Gauge, help, snapshot.number);
    let help = "How often the configuration was read again.";
    text.family("portcullis.policy.reloads", "{reload}", Kind::Counter, help);
    let (tried, failed) = health.reload().map_or((0, 0), |reload| (reload.tried, reload.failed));
    text.series(&[("outcome", "ok")], tried.saturating_sub(failed));
    text.series(&[("outcome", "refused")], failed);
    text.family("portcullis.build.info", "", Kind::Gauge, "The version, as a label.");
    text.series(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
    text.family("portcullis.policy.set.info", "", Kind::Gauge, "The hash of the rules in force, as a label.");
    text.series(&[(names::POLICY_SET, &policy(&snapshot))], 1_u64);
    let rules = snapshot.settings.policy.rules().len();
    text.one("portcullis.policy.rules", "{rule}", Kind::Gauge, "Rules in force.", rules);
    let help = "Subjects, agents and tokens that are revoked.";
    text.one("portcullis.revocations", "{revocation}", Kind::Gauge, help, snapshot.revocations.len());
    if let Some(bytes) = resident_bytes() {
        let help = "Memory of the process that is in RAM.";
        text.one("process.resident_memory", "By", Kind::Gauge, help, bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.one("process.open_fds", "", Kind::Gauge, "Descriptors that the process has open.", open.count());
    }
}

/// The rules in force, in 12 hexadecimal digits.
pub(super) fn policy(snapshot: &Snapshot) -> String {
    snapshot.prepared.policy.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The labels of what a series is about; empty where it is about none.
fn of<'a>(labels: &Labels<'a>) -> Vec<(&'static str, &'a str)> {
    vec![
        (names::METHOD, labels.method),
        (names::TARGET, labels.server),
        (names::TOOL, labels.tool.unwrap_or_default()),
        (names::PROMPT, labels.prompt.unwrap_or_default()),
    ]
}
