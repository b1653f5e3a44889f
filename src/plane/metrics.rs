//! What is counted, in the text format that Prometheus reads (version 0.0.4). Every label is a name of the
//! configuration, of a catalogue, or of a table of ours: no caller can make another series.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use crate::config::InstanceSettings;
use crate::config::snapshot::Snapshot;
use crate::gateway::control::{Busy, Control, Life};
use crate::gateway::tally::{self, Section};
use crate::mcp::catalog::ListKind;
use crate::record::meter::{Counted, Labels, OPERATION_NS, OVERHEAD_NS, PENDING};
use crate::upstream::breaker::{State, View};
use crate::uring::wait::clock;

use super::admin::Health;

/// Its media type.
pub(super) const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything, as it is now.
pub(super) fn page(control: &Control, health: &Health) -> String {
    let snapshot = control.snapshot.load();
    let mut text = Text(String::with_capacity(64 * 1024));
    operations(&mut text, &snapshot);
    decisions(&mut text, &snapshot, control);
    own_time(&mut text, &snapshot);
    shards(&mut text, control);
    servers(&mut text, &snapshot, health);
    instances(&mut text, &snapshot);
    counts(&mut text, control);
    process(&mut text, control, health);
    text.0
}

fn operations(text: &mut Text, snapshot: &Snapshot) {
    let name = "mcp_server_operation_duration_seconds";
    text.family(
        name,
        Kind::Histogram,
        "Requests and notifications, from their first byte to the last of their answer.",
    );
    snapshot.meters.operations(|series| {
        let mut labels = of(&series.labels);
        labels.push(("mcp_protocol_version", series.revision.as_str()));
        labels.push(("network_transport", "tcp"));
        labels.extend(series.failure.map(|failure| ("error_type", failure)));
        text.histogram(name, &labels, &OPERATION_NS, &series.counted);
    });
}

fn decisions(text: &mut Text, snapshot: &Snapshot, control: &Control) {
    let name = "portcullis_decisions_total";
    text.family(name, Kind::Counter, "Decisions, by what they were about and why they came out so.");
    snapshot.meters.decisions(|about, reason, count| {
        let mut labels = of(&about);
        let decision = match reason {
            "permit" => "permit",
            PENDING => "pending",
            _ => "refuse",
        };
        labels.push(("portcullis_decision", decision));
        labels.push(("portcullis_decision_reason", reason));
        labels.push(("mode", "enforce"));
        text.sample(name, &labels, count);
    });
    let name = "portcullis_policy_unknown_total";
    text.family(name, Kind::Counter, "Conditions and limits of a rule that could not be evaluated.");
    for (rule, count) in snapshot.meters.unknowns() {
        text.sample(name, &[("rule", rule)], count);
    }
    let name = "portcullis_policy_misfits";
    text.family(name, Kind::Gauge, "Arguments that a rule's conditions ask for and none of its tools has, or has so.");
    let mut misfits: BTreeMap<&str, u64> = BTreeMap::new();
    for misfit in snapshot.table.misfits() {
        *misfits.entry(&snapshot.settings.policy.rule(misfit.rule).id).or_default() += 1;
    }
    for (rule, count) in misfits {
        text.sample(name, &[("rule", rule)], count);
    }
    let name = "portcullis_shadow_decisions_total";
    text.family(name, Kind::Counter, "What calls would have come to with a rule in shadow.");
    for (rule, verdict, count) in snapshot.meters.shadows() {
        text.sample(name, &[("rule", rule), ("verdict", verdict)], count);
    }
    let name = "portcullis_requests_refused_total";
    text.family(name, Kind::Counter, "Requests refused before there was anything to decide on, by why.");
    for (reason, count) in control.tally.refusals() {
        text.sample(name, &[("reason", reason)], count);
    }
}

fn own_time(text: &mut Text, snapshot: &Snapshot) {
    let name = "portcullis_overhead_duration_seconds";
    text.family(
        name,
        Kind::Histogram,
        "What a request took without the wait for its server, where it was answered in one piece.",
    );
    snapshot.meters.own_time(|method, way, counted| {
        let labels = [("mcp_method_name", method), ("outcome", way.as_str())];
        text.histogram(name, &labels, &OVERHEAD_NS, &counted);
    });
}

fn shards(text: &mut Text, control: &Control) {
    let busy: Vec<_> = control.gauges.iter().enumerate().map(|(shard, busy)| (shard.to_string(), busy)).collect();
    let mut gauge = |name, help, value: fn(&Busy) -> u64| {
        text.family(name, Kind::Gauge, help);
        for (shard, busy) in &busy {
            text.sample(name, &[("shard", shard)], value(busy));
        }
    };
    gauge("portcullis_connections", "Connections of clients.", |busy| busy.connections);
    gauge("portcullis_calls_in_flight", "Requests under way that count against their subject.", |busy| busy.calls);
    gauge("portcullis_streams_active", "Open event streams.", |busy| busy.streams);
    gauge("portcullis_buffer_bytes", "Buffers in use.", |busy| busy.buffer_bytes);
    text.one(
        "portcullis_sessions_active",
        Kind::Gauge,
        "Sessions of clients that are remembered.",
        control.ledger.len(),
    );
    text.one("portcullis_counts", Kind::Gauge, "Counts of limits and rates.", control.counts.standing().counts);
}

fn servers(text: &mut Text, snapshot: &Snapshot, health: &Health) {
    let servers = health.servers();
    let name = "portcullis_server_up";
    text.family(name, Kind::Gauge, "Whether the last look at a server succeeded.");
    for server in &servers {
        let up = server.known && server.trouble.is_none();
        text.sample(name, &[("portcullis_target", &server.name)], u8::from(up));
    }
    let name = "portcullis_catalog_known";
    text.family(name, Kind::Gauge, "Whether it is known what a server offers.");
    for server in &servers {
        text.sample(name, &[("portcullis_target", &server.name)], u8::from(server.known));
    }
    let name = "portcullis_catalog_age_seconds";
    text.family(name, Kind::Gauge, "Since what a server offers was last asked for with success.");
    let now = clock().unix_ms;
    for server in &servers {
        if let Some(at) = server.survey.surveyed_unix_ms {
            text.sample(name, &[("portcullis_target", &server.name)], now.saturating_sub(at) / 1000);
        }
    }
    let name = "portcullis_pins_waiting";
    text.family(name, Kind::Gauge, "Definitions that are hidden until somebody approves them.");
    for server in &servers {
        text.sample(name, &[("portcullis_target", &server.name)], server.survey.pins.waiting);
    }
    let mut tools = vec![0_u64; snapshot.settings.servers.len()];
    let mut prompts = tools.clone();
    for (_, server, kind, _) in snapshot.catalog.numbered() {
        let counts = if kind == ListKind::Prompts { &mut prompts } else { &mut tools };
        if let Some(count) = counts.get_mut(server.index()) {
            *count += 1;
        }
    }
    for (name, help, counts) in [
        ("portcullis_catalog_tools", "Tools that a server offers and that are not withheld.", &tools),
        ("portcullis_catalog_prompts", "Prompts that a server offers and that are not withheld.", &prompts),
    ] {
        text.family(name, Kind::Gauge, help);
        for (server, count) in snapshot.settings.servers.iter().zip(counts) {
            text.sample(name, &[("portcullis_target", &server.name)], count);
        }
    }
    text.one(
        "portcullis_catalog_collisions",
        Kind::Gauge,
        "Names at endpoints that are too long, or withheld because another server has them.",
        snapshot.merge_warnings.len(),
    );
}

fn instances(text: &mut Text, snapshot: &Snapshot) {
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
    let mut family = |name, kind, help, value: fn(&View) -> u64| {
        text.family(name, kind, help);
        for (server, url, view) in &rows {
            text.sample(name, &[("portcullis_target", server), ("upstream", url)], value(view));
        }
    };
    let healthy = |view: &View| u64::from(view.state == State::Closed);
    family("portcullis_upstream_healthy", Kind::Gauge, "Whether an instance of a server is used.", healthy);
    let ejections = "How often an instance was ejected.";
    family("portcullis_upstream_ejections_total", Kind::Counter, ejections, |view| view.ejections);
    let refused = "Requests that were not sent because their instance was ejected.";
    family("portcullis_upstream_refused_total", Kind::Counter, refused, |view| view.refused);
    let name = "portcullis_upstream_inflight";
    text.family(name, Kind::Gauge, "Requests under way at a server whose `concurrency` is bounded.");
    for (server, state) in snapshot.settings.servers.iter().zip(&snapshot.states) {
        if server.concurrency.is_some() {
            text.sample(name, &[("portcullis_target", &server.name)], state.seats.taken());
        }
    }
}

/// The whole table of counts: those of one heading begin alike.
fn counts(text: &mut Text, control: &Control) {
    for row in tally::ROWS {
        let name = match row.section {
            Section::Dropped => format!("portcullis_dropped_{}_total", row.name),
            Section::Happened => format!("portcullis_{}_total", row.name),
        };
        text.one(&name, Kind::Counter, row.help, control.tally.total(row.count));
    }
}

fn process(text: &mut Text, control: &Control, health: &Health) {
    let snapshot = control.snapshot.load();
    let recording = health.recording();
    let ready = control.life() == Life::Run && recording;
    text.one("portcullis_ready", Kind::Gauge, "Whether new requests are taken.", u8::from(ready));
    text.one("portcullis_audit_writable", Kind::Gauge, "Whether the record can be written.", u8::from(recording));
    text.one(
        "portcullis_snapshot",
        Kind::Gauge,
        "How many states of settings and catalogue there were.",
        snapshot.number,
    );
    let name = "portcullis_policy_reloads_total";
    text.family(name, Kind::Counter, "How often the configuration was read again.");
    let (tried, failed) = health.reload().map_or((0, 0), |reload| (reload.tried, reload.failed));
    text.sample(name, &[("outcome", "ok")], tried.saturating_sub(failed));
    text.sample(name, &[("outcome", "refused")], failed);
    let name = "portcullis_build_info";
    text.family(name, Kind::Gauge, "The version, as a label.");
    text.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let name = "portcullis_policy_set_info";
    text.family(name, Kind::Gauge, "The hash of the rules in force, as a label.");
    let hash: String = snapshot.prepared.policy.iter().map(|byte| format!("{byte:02x}")).collect();
    text.sample(name, &[("portcullis_policy_set", &hash)], 1);
    text.one("portcullis_policy_rules", Kind::Gauge, "Rules in force.", snapshot.settings.policy.rules().len());
    if let Some(bytes) = resident_bytes() {
        text.one("process_resident_memory_bytes", Kind::Gauge, "Memory of the process that is in RAM.", bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.one("process_open_fds", Kind::Gauge, "Descriptors that the process has open.", open.count());
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The labels of what a series is about. One that would be empty is left out.
fn of<'a>(labels: &Labels<'a>) -> Vec<(&'static str, &'a str)> {
    let mut out = vec![("mcp_method_name", labels.method)];
    out.extend(Some(labels.server).filter(|server| !server.is_empty()).map(|server| ("portcullis_target", server)));
    out.extend(labels.tool.map(|tool| ("gen_ai_tool_name", tool)));
    out.extend(labels.prompt.map(|prompt| ("gen_ai_prompt_name", prompt)));
    out
}

/// What a family of samples is.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The page under construction. Writing to a String cannot fail.
struct Text(String);

impl Text {
    /// Begins a family: its samples follow before the next one's.
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {word}\n");
    }

    /// A family of one.
    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push_str(if index == 0 { "{" } else { "," });
            let _ = write!(self.0, "{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], bounds_ns: &[u64], counted: &Counted) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (place, count) in counted.buckets.iter().enumerate() {
            below += count;
            let bound = bounds_ns.get(place).map_or_else(|| "+Inf".to_owned(), |ns| seconds(*ns).to_string());
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.sample(&bucket, &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, seconds(counted.sum_ns));
        self.sample(&format!("{name}_count"), labels, below);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sum of more than a hundred days loses some nanoseconds")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text(String::new());
        text.family("a", Kind::Gauge, "one\\two\nthree");
        text.sample("a", &[("b", "say \"hi\"\\\n"), ("c", "")], 1.5);
        assert_eq!(text.0, "# HELP a one\\\\two\\nthree\n# TYPE a gauge\na{b=\"say \\\"hi\\\"\\\\\\n\",c=\"\"} 1.5\n");
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut text = Text(String::new());
        let counted = Counted { buckets: vec![1, 0, 2], sum_ns: 1_500_000_000 };
        text.histogram("h", &[("m", "x")], &[5_000, 10_000_000], &counted);
        assert_eq!(
            text.0,
            "h_bucket{m=\"x\",le=\"0.000005\"} 1\nh_bucket{m=\"x\",le=\"0.01\"} 1\nh_bucket{m=\"x\",le=\"+Inf\"} 3\n\
             h_sum{m=\"x\"} 1.5\nh_count{m=\"x\"} 3\n"
        );
    }
}
