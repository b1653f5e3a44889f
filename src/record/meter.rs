//! What calls came to and how long they took, counted for each tool and method. A shard writes to rows of its own and
//! to nobody else's, so that a call costs a few plain additions; whoever shows the figures reads all rows. Which names
//! there are follows from the settings and the catalogue alone: no caller can make another one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::base::ids::{ItemId, RuleId, ServerId, ShardId};
use crate::mcp::catalog::{Catalog, ListKind};
use crate::mcp::method::{METHODS, Verb};
use crate::mcp::revision::Revision;

/// Upper bounds of an operation's buckets, nanoseconds: those that OpenTelemetry advises for MCP.
pub const OPERATION_NS: [u64; 14] = [
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    120_000_000_000,
    300_000_000_000,
];

/// Upper bounds of the gateway's own time's buckets, nanoseconds: the others could not show it.
pub const OVERHEAD_NS: [u64; 12] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 50_000_000];

/// Why a decision was made: the words of the record, and one for those that are none of them.
pub const REASONS: [&str; 24] = [
    "permit",
    "no_match",
    "forbid",
    "task",
    "method",
    "capability",
    "catalog",
    "header",
    "record",
    "unreachable",
    "ask",
    "params",
    "condition",
    "unknown",
    "scope",
    "limit",
    "rate",
    PENDING,
    "denied",
    "unasked",
    "approvals_full",
    "counts_full",
    "revoked",
    OTHER,
];

/// The word for what waits for an approval.
pub const PENDING: &str = "approval";

/// What a call would have come to with the rules in shadow.
pub const SHADOW: [&str; 3] = ["permit", "refuse", "pending"];

/// The place of the word for what was permitted.
pub const PERMIT: usize = 0;

/// What an operation failed with: `tool_error` for a tool's own error, the code of a JSON-RPC error, or in a word what
/// kept the answer away.
pub const FAILURES: [&str; 21] = [
    "tool_error",
    "timeout",
    "unreachable",
    "cut",
    "invalid",
    "cancelled",
    "-32700",
    "-32600",
    "-32601",
    "-32602",
    "-32603",
    "-32000",
    "-32001",
    "-32002",
    "-32020",
    "-32021",
    "-32022",
    "-32042",
    "-31403",
    "busy",
    OTHER,
];

/// What stands for every name that is not in the catalogue, and for every word that is not in a table.
pub const OTHER: &str = "_OTHER";

/// How an operation ended, as far as its own cost goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its server, or the gateway in its place, answered it with a result.
    Answered,
    /// It went to a server, and failed.
    Failed,
    /// It went nowhere.
    Refused,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Refused];

    /// As people see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// How one operation came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// What it failed with, an index into [`FAILURES`]; `None` for what succeeded.
    pub failure: Option<usize>,
    /// From its first byte to the last of its answer, nanoseconds.
    pub total_ns: u64,
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its method.
    pub verb: Verb,
    /// The server that it is for; `None` where it is for none, or for several.
    pub server: Option<ServerId>,
    /// The tool or prompt that it names, where the catalogue has it.
    pub item: Option<ItemId>,
    /// The revision that it is spoken in.
    pub revision: Revision,
}

/// The meters of one snapshot: by its ids, so that nothing is looked up by name. Those of what stays are carried from
/// one to the next.
#[derive(Debug, Default)]
pub struct Meters {
    shards: usize,
    /// By `ItemId`.
    items: Vec<Arc<ItemMeter>>,
    /// By `ServerId`.
    servers: Vec<Arc<ServerMeter>>,
    /// Of what is for no server, or for several.
    nobody: Arc<ServerMeter>,
    /// By `RuleId`.
    rules: Vec<Arc<RuleMeter>>,
}

/// What is counted of a rule, which is little and rare: all shards write to it.
#[derive(Debug, Default)]
pub struct RuleMeter {
    /// Its id.
    pub id: Arc<str>,
    unknown: AtomicU64,
    /// As [`SHADOW`].
    shadow: [AtomicU64; SHADOW.len()],
}

/// The meter of one tool or prompt.
#[derive(Debug)]
pub struct ItemMeter {
    /// Whose it is.
    pub server: Arc<str>,
    /// `Tools` or `Prompts`.
    pub kind: ListKind,
    /// Its name there.
    pub name: Box<str>,
    rows: Rows,
}

/// The meters of what concerns a server and no tool or prompt in the catalogue, by method.
#[derive(Debug)]
pub struct ServerMeter {
    /// Its name; empty for what is no server's.
    pub name: Arc<str>,
    methods: [Rows; METHOD_COUNT],
}

/// One row for each shard, made when it is first written to.
#[derive(Debug, Default)]
struct Rows(OnceLock<Box<[OnceLock<Box<Row>>]>>);

/// On cache lines of its own: another shard's is next to it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Row {
    decisions: [AtomicU64; REASONS.len()],
    /// As the gateway's clients see them.
    operations: Operations,
    /// As the gateway sees its servers.
    attempts: Operations,
}

type Operations = [OnceLock<Box<Operation>>; Revision::ALL.len()];

#[derive(Debug, Default)]
struct Operation {
    good: Durations,
    failed: [OnceLock<Box<Durations>>; FAILURES.len()],
}

type Durations = Histogram<{ OPERATION_NS.len() + 1 }>;

/// Observations, by bucket; the last one has no upper bound.
#[derive(Debug)]
struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    sum_ns: AtomicU64,
}

/// A histogram as read, of all shards together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// By bucket, not cumulative; the last one has no upper bound.
    pub buckets: Vec<u64>,
    /// Of all observations, nanoseconds.
    pub sum_ns: u64,
}

/// One series of operations, as read.
#[derive(Clone, Debug)]
pub struct OperationSeries<'a> {
    /// Method, server, tool or prompt.
    pub labels: Labels<'a>,
    /// The revision it was spoken in.
    pub revision: Revision,
    /// An entry of [`FAILURES`]; `None` for success.
    pub failure: Option<&'static str>,
    /// Its durations.
    pub counted: Counted,
}

/// What a series is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels<'a> {
    /// As the wire has it.
    pub method: &'static str,
    /// The server's name; empty for none.
    pub server: &'a str,
    /// The tool's name; [`OTHER`] for those not in the catalogue; `None` where the method has none.
    pub tool: Option<&'a str>,
    /// The prompt's, likewise.
    pub prompt: Option<&'a str>,
}

impl Meters {
    /// For so many shards, with no server yet.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { shards, ..Self::default() }
    }

    /// Those of the next snapshot, which has these servers (names by `ServerId`), these rules (ids by `RuleId`) and this
    /// catalogue. What was there before goes on counting; what is there no more is forgotten.
    #[must_use]
    pub fn next<'a>(&self, servers: &[Arc<str>], rules: impl Iterator<Item = &'a Arc<str>>, catalog: &Catalog) -> Self {
        let before: HashMap<&str, &Arc<ServerMeter>> = self.servers.iter().map(|meter| (&*meter.name, meter)).collect();
        let named =
            |name: &Arc<str>| before.get(&**name).map_or_else(|| Arc::new(ServerMeter::new(name)), |it| (*it).clone());
        let before: HashMap<_, &Arc<ItemMeter>> =
            self.items.iter().map(|meter| ((&*meter.server, meter.kind, &*meter.name), meter)).collect();
        let item = |server: &Arc<str>, kind, name: &str| match before.get(&(&**server, kind, name)) {
            Some(meter) => (*meter).clone(),
            None => Arc::new(ItemMeter { server: server.clone(), kind, name: name.into(), rows: Rows::default() }),
        };
        let before: HashMap<&str, &Arc<RuleMeter>> = self.rules.iter().map(|meter| (&*meter.id, meter)).collect();
        let rule = |id: &Arc<str>| match before.get(&**id) {
            Some(meter) => (*meter).clone(),
            None => Arc::new(RuleMeter { id: id.clone(), ..RuleMeter::default() }),
        };
        let nameless: Arc<str> = Arc::default();
        let items = catalog.numbered();
        Self {
            shards: self.shards,
            items: items
                .map(|(_, id, kind, name)| item(servers.get(id.index()).unwrap_or(&nameless), kind, name))
                .collect(),
            servers: servers.iter().map(named).collect(),
            nobody: self.nobody.clone(),
            rules: rules.map(rule).collect(),
        }
    }

    /// Something was unknown to a rule.
    pub fn unknown(&self, rule: RuleId) {
        if let Some(meter) = self.rules.get(rule.index()) {
            meter.unknown.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// With this rule, which is in shadow, a call would have come to this, a place in [`SHADOW`].
    pub fn shadowed(&self, rule: RuleId, verdict: usize) {
        if let Some(counter) = self.rules.get(rule.index()).and_then(|meter| meter.shadow.get(verdict)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every rule that something was unknown to, and how often.
    pub fn unknowns(&self) -> impl Iterator<Item = (&str, u64)> {
        let counted = self.rules.iter().map(|meter| (&*meter.id, meter.unknown.load(Ordering::Relaxed)));
        counted.filter(|(_, count)| *count > 0)
    }

    /// Every rule in shadow that would have had a say, the verdict, and how often.
    pub fn shadows(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        let each = self.rules.iter().flat_map(|meter| {
            let counts = SHADOW.iter().zip(&meter.shadow);
            counts.map(|(verdict, count)| (&*meter.id, *verdict, count.load(Ordering::Relaxed)))
        });
        each.filter(|(_, _, count)| *count > 0)
    }

    /// One operation of a shard has ended.
    pub fn observe(&self, shard: ShardId, about: &About, came: &Came) {
        if let Some(row) = self.rows(about).of(shard, self.shards) {
            observe(&row.operations, about.revision, came);
        }
    }

    /// What a shard sent to a server has been answered, or not.
    pub fn attempted(&self, shard: ShardId, about: &About, came: &Came) {
        if let Some(row) = self.rows(about).of(shard, self.shards) {
            observe(&row.attempts, about.revision, came);
        }
    }

    /// What a shard sent to a server has been answered, or not, and with it the operation, if it was not counted before.
    pub fn ended(&self, shard: ShardId, about: &About, attempt: Option<&Came>, operation: Option<&Came>) {
        let Some(row) = self.rows(about).of(shard, self.shards) else { return };
        for (operations, came) in [(&row.attempts, attempt), (&row.operations, operation)] {
            if let Some(came) = came {
                observe(operations, about.revision, came);
            }
        }
    }

    /// One decision of a shard, for a reason of [`REASONS`].
    pub fn decided(&self, shard: ShardId, about: &About, reason: usize) {
        if let Some(row) = self.rows(about).of(shard, self.shards)
            && let Some(counter) = row.decisions.get(reason)
        {
            raise(counter, 1);
        }
    }

    fn rows(&self, about: &About) -> &Rows {
        if let Some(item) = about.item.and_then(|item| self.items.get(item.index())) {
            return &item.rows;
        }
        let server = about.server.and_then(|server| self.servers.get(server.index())).unwrap_or(&self.nobody);
        &server.methods[about.verb as usize]
    }

    /// Every series of operations that has an observation.
    pub fn operations(&self, each: impl FnMut(OperationSeries<'_>)) {
        self.each_operation(|row| &row.operations, each);
    }

    /// The same of what was sent to servers: an operation has as many as there were attempts at it.
    pub fn attempts(&self, each: impl FnMut(OperationSeries<'_>)) {
        self.each_operation(|row| &row.attempts, each);
    }

    fn each_operation(&self, which: fn(&Row) -> &Operations, mut each: impl FnMut(OperationSeries<'_>)) {
        self.each_rows(|labels, rows| {
            for revision in Revision::ALL {
                let operations = || rows.all().filter_map(|row| which(row)[revision as usize].get());
                let mut emit = |failure: Option<&'static str>, counted: Counted| {
                    if counted.count() > 0 {
                        each(OperationSeries { labels, revision, failure, counted });
                    }
                };
                emit(None, Counted::of(OPERATION_NS.len() + 1, operations().map(|it| &it.good)));
                for (index, failure) in FAILURES.iter().enumerate() {
                    let failed = operations().filter_map(|operation| operation.failed[index].get().map(|it| &**it));
                    emit(Some(*failure), Counted::of(OPERATION_NS.len() + 1, failed));
                }
            }
        });
    }

    /// Every series of decisions that has one: what it is about, its reason, and how many there were.
    pub fn decisions(&self, mut each: impl FnMut(Labels<'_>, &'static str, u64)) {
        self.each_rows(|labels, rows| {
            for (index, reason) in REASONS.iter().enumerate() {
                let count = rows.all().map(|row| row.decisions[index].load(Ordering::Relaxed)).sum();
                if count > 0 {
                    each(labels, reason, count);
                }
            }
        });
    }

    fn each_rows(&self, mut each: impl FnMut(Labels<'_>, &Rows)) {
        for item in &self.items {
            let name = Some(&*item.name);
            let labels = |method, tool, prompt| Labels { method, server: &item.server, tool, prompt };
            match item.kind {
                ListKind::Prompts => each(labels("prompts/get", None, name), &item.rows),
                _ => each(labels("tools/call", name, None), &item.rows),
            }
        }
        for server in self.servers.iter().chain([&self.nobody]) {
            for (verb, method) in methods() {
                let tool = (verb == Verb::ToolsCall).then_some(OTHER);
                let prompt = (verb == Verb::PromptsGet).then_some(OTHER);
                each(Labels { method, server: &server.name, tool, prompt }, &server.methods[verb as usize]);
            }
        }
    }
}

impl Counted {
    fn of<'a, const N: usize>(buckets: usize, all: impl Iterator<Item = &'a Histogram<N>>) -> Self {
        let mut sum = Self { buckets: vec![0; buckets], sum_ns: 0 };
        for histogram in all {
            for (total, bucket) in sum.buckets.iter_mut().zip(&histogram.buckets) {
                *total += bucket.load(Ordering::Relaxed);
            }
            sum.sum_ns = sum.sum_ns.saturating_add(histogram.sum_ns.load(Ordering::Relaxed));
        }
        sum
    }

    /// How many observations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl ServerMeter {
    fn new(name: &Arc<str>) -> Self {
        Self { name: name.clone(), methods: std::array::from_fn(|_| Rows::default()) }
    }
}

impl Default for ServerMeter {
    fn default() -> Self {
        Self::new(&Arc::default())
    }
}

impl Rows {
    /// The row of a shard; `None` for a shard that is none.
    fn of(&self, shard: ShardId, shards: usize) -> Option<&Row> {
        let rows = self.0.get_or_init(|| (0..shards).map(|_| OnceLock::new()).collect());
        rows.get(shard.index()).map(|row| &**row.get_or_init(Box::default))
    }

    fn all(&self) -> impl Iterator<Item = &Row> {
        self.0.get().into_iter().flatten().filter_map(|row| row.get().map(|row| &**row))
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bounds: &[u64], ns: u64) {
        // Most are short: they are not looked for.
        let is_first = bounds.first().is_none_or(|bound| ns <= *bound);
        let place = if is_first { 0 } else { bounds.partition_point(|bound| *bound < ns) };
        if let Some(bucket) = self.buckets.get(place) {
            raise(bucket, 1);
            raise(&self.sum_ns, ns);
        }
    }
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

fn observe(operations: &Operations, revision: Revision, came: &Came) {
    let operation = operations[revision as usize].get_or_init(Box::default);
    match came.failure.and_then(|failure| operation.failed.get(failure)) {
        None => operation.good.observe(&OPERATION_NS, came.total_ns),
        Some(failed) => failed.get_or_init(Box::default).observe(&OPERATION_NS, came.total_ns),
    }
}

/// The place of a word in a table whose last row stands for all others.
#[must_use]
pub fn place(table: &[&str], word: &str) -> usize {
    table.iter().position(|row| *row == word).unwrap_or(table.len() - 1)
}

/// Each verb once, with its name on the wire.
pub(super) fn methods() -> impl Iterator<Item = (Verb, &'static str)> {
    let first = |(index, method): &(usize, &'static crate::mcp::method::Method)| {
        METHODS[..*index].iter().all(|before| before.verb != method.verb)
    };
    METHODS.iter().enumerate().filter(first).map(|(_, method)| (method.verb, method.wire))
}

/// One writer: an addition needs no lock of the bus, only that a reader never sees half of it.
fn raise(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// The last verb's number and one.
pub(super) const METHOD_COUNT: usize = Verb::TaskChanged as usize + 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::catalog::{EraCatalog, Item, Listing, ServerCatalog};

    fn catalog(tools: &[&str]) -> Catalog {
        let listing = Listing { items: tools.iter().map(|name| Item::named(name)).collect(), ..Listing::default() };
        let offers = EraCatalog {
            protocol: Revision::NEWEST,
            capabilities: serde_json::json!({}),
            server_info: None,
            instructions: None,
            events: false,
            lists: [Some(listing), None, None, None],
        };
        Catalog::build(vec![Some(ServerCatalog { modern: Some(offers), ..ServerCatalog::default() })])
    }

    fn none() -> impl Iterator<Item = &'static Arc<str>> {
        [].iter()
    }

    fn about(verb: Verb, item: Option<u32>) -> About {
        About { verb, server: Some(ServerId(0)), item: item.map(ItemId), revision: Revision::NEWEST }
    }

    fn came(failure: Option<&str>, total_ns: u64) -> Came {
        Came { failure: failure.map(|word| place(&FAILURES, word)), total_ns }
    }

    fn counts(meters: &Meters) -> Vec<(String, Option<&'static str>, u64)> {
        let mut out = Vec::new();
        meters.operations(|series| {
            let Labels { method, server, tool, .. } = series.labels;
            out.push((format!("{method} {server} {tool:?}"), series.failure, series.counted.count()));
        });
        out
    }

    #[test]
    fn each_tool_has_its_own_and_all_unknown_ones_share_one() {
        let meters = Meters::new(2).next(&["docs".into()], none(), &catalog(&["a", "b"]));
        let call = |shard, item, came| meters.observe(ShardId(shard), &about(Verb::ToolsCall, item), &came);
        call(0, Some(0), came(None, 1));
        call(1, Some(0), came(None, 1));
        call(1, Some(1), came(Some("tool_error"), 1));
        call(0, None, came(Some("-32602"), 1));
        call(0, Some(7), came(Some("-32602"), 1));
        // A shard that is none counts nothing.
        call(2, Some(0), came(None, 1));
        meters.observe(ShardId(0), &About { server: None, ..about(Verb::Initialize, None) }, &came(None, 1));
        let tool = |name: &str| format!("tools/call docs Some({name:?})");
        assert_eq!(
            counts(&meters),
            [
                (tool("a"), None, 2),
                (tool("b"), Some("tool_error"), 1),
                (tool(OTHER), Some("-32602"), 2),
                ("initialize  None".to_owned(), None, 1),
            ]
        );
    }

    #[test]
    fn what_stays_goes_on_counting_and_what_goes_is_forgotten() {
        let names: [Arc<str>; 1] = ["docs".into()];
        let first = Meters::new(1).next(&names, none(), &catalog(&["a", "b"]));
        first.observe(ShardId(0), &about(Verb::ToolsCall, Some(0)), &came(None, 1));
        first.observe(ShardId(0), &about(Verb::ToolsCall, Some(1)), &came(None, 1));
        first.observe(ShardId(0), &about(Verb::Ping, None), &came(None, 1));
        // `b` has another id now, and `a` is gone.
        let second = first.next(&names, none(), &catalog(&["b", "c"]));
        second.observe(ShardId(0), &about(Verb::ToolsCall, Some(0)), &came(None, 1));
        let want = [("tools/call docs Some(\"b\")".to_owned(), None, 2), ("ping docs None".to_owned(), None, 1)];
        assert_eq!(counts(&second), want);
        assert_eq!(counts(&second.next(&["other".into()], none(), &Catalog::default())), []);
    }

    #[test]
    fn buckets_hold_what_is_not_above_their_bound() {
        let histogram = Durations::default();
        for ns in [0, 10_000_000, 10_000_001, 300_000_000_000, 300_000_000_001, u64::MAX / 2] {
            histogram.observe(&OPERATION_NS, ns);
        }
        let counted = Counted::of(15, [&histogram].into_iter());
        assert_eq!((counted.buckets[0], counted.buckets[1], counted.buckets[13], counted.buckets[14]), (2, 1, 1, 2));
        assert_eq!(counted.count(), 6);
        assert!(OPERATION_NS.is_sorted() && OVERHEAD_NS.is_sorted());
    }

    #[test]
    fn decisions_by_reason() {
        let meters = Meters::new(1).next(&["docs".into()], none(), &catalog(&["a"]));
        let decide = |item, reason| meters.decided(ShardId(0), &about(Verb::ToolsCall, item), place(&REASONS, reason));
        decide(Some(0), "permit");
        decide(Some(0), "permit");
        decide(None, "no_match");
        decide(None, "nothing that is in the table");
        let mut got = Vec::new();
        meters.decisions(|labels, reason, count| got.push((labels.tool.map(str::to_owned), reason, count)));
        let tool = |name: &str| Some(name.to_owned());
        assert_eq!(got, [(tool("a"), "permit", 2), (tool(OTHER), "no_match", 1), (tool(OTHER), OTHER, 1)]);
    }

    #[test]
    fn rules_are_carried_by_their_ids() {
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let first = Meters::new(1).next(&[], [&one, &two].into_iter(), &Catalog::default());
        first.unknown(RuleId(1));
        first.shadowed(RuleId(0), 1);
        // No such rule, no such verdict.
        first.unknown(RuleId(2));
        first.shadowed(RuleId(0), SHADOW.len());
        let second = first.next(&[], [&two].into_iter(), &Catalog::default());
        second.unknown(RuleId(0));
        assert_eq!(first.shadows().collect::<Vec<_>>(), [("one", "refuse", 1)]);
        assert_eq!(second.unknowns().collect::<Vec<_>>(), [("two", 2)]);
        assert_eq!(second.shadows().count(), 0);
    }

    #[test]
    fn the_first_reason_is_a_permit() {
        assert_eq!(REASONS[PERMIT], "permit");
        assert_eq!((REASONS.last(), FAILURES.last()), (Some(&OTHER), Some(&OTHER)));
    }

    #[test]
    fn every_verb_has_a_place_and_a_name() {
        let all: Vec<Verb> = methods().map(|(verb, _)| verb).collect();
        assert_eq!(all.len(), METHOD_COUNT);
        assert!(all.iter().all(|verb| (*verb as usize) < METHOD_COUNT));
    }
}
