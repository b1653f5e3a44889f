//! What is counted, one row each: a page of counters per shard, written by that shard, read by whoever shows them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::ids::ShardId;

use super::refusal::{self, Kind};

/// What is counted. To add one: here, and a row in [`ROWS`], in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table below is the documentation")]
pub enum Count {
    CancelsLate,
    CancelsSessionless,
    LettersMissed,
    Cancelled,
    ConnectionsMoved,
    ConnectionsNotMoved,
    AnswersDropped,
    SessionsReopened,
    SessionsEnded,
    SessionsExpired,
    StreamsResumed,
    StreamsTorn,
    EventsForeign,
    EventsInvalid,
    AsksFull,
    AsksSessionless,
    WithdrawalsLate,
    ServerUnasked,
    ServerEarly,
    ServerForeign,
    ServerSecond,
    ServerRequests,
    ServerHidden,
    ServerMalformed,
    LinesDropped,
    ServersUnhealthy,
    ServersBusy,
    SessionsMoved,
    RequestsMoved,
    ContextsMalformed,
    ContextsTooLong,
    BaggageCut,
}

/// Which heading it stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// A message or event that went no further.
    Dropped,
    /// Something that came about.
    Happened,
}

/// One row: a count as people see it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is counted.
    pub count: Count,
    /// Its heading.
    pub section: Section,
    /// Its name, in snake case.
    pub name: &'static str,
    /// What it means, in one sentence.
    pub help: &'static str,
}

const fn row(count: Count, section: Section, name: &'static str, help: &'static str) -> Row {
    Row { count, section, name, help }
}

/// The table, in the order of [`Count`].
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(Count::CancelsLate,         Section::Dropped,  "cancels_late",          "Cancellations of requests that were not under way."),
    row(Count::CancelsSessionless,  Section::Dropped,  "cancels_sessionless",   "Cancellations outside of a session, which could have met another caller's request."),
    row(Count::LettersMissed,       Section::Dropped,  "letters_missed",        "Times that a shard had so much mail that letters were left out."),
    row(Count::Cancelled,           Section::Happened, "requests_cancelled",    "Requests ended because their client took them back and their server went on."),
    row(Count::ConnectionsMoved,    Section::Happened, "connections_moved",     "Connections handed to the shard that their request belongs to."),
    row(Count::ConnectionsNotMoved, Section::Happened, "connections_not_moved", "Connections that the shard had no room for; their clients were told to try again."),
    row(Count::AnswersDropped,      Section::Dropped,  "answers_dropped",       "Clients' answers to requests that no server waits on: late, second, or another session's."),
    row(Count::SessionsReopened,    Section::Happened, "sessions_reopened",     "Sessions opened anew at a server that had forgotten them."),
    row(Count::SessionsEnded,       Section::Happened, "sessions_ended",        "Sessions ended by their clients."),
    row(Count::SessionsExpired,     Section::Happened, "sessions_expired",      "Sessions ended for want of use, by age, or to make room."),
    row(Count::StreamsResumed,      Section::Happened, "streams_resumed",       "Streams that went on where their client had left."),
    row(Count::StreamsTorn,         Section::Dropped,  "streams_torn",          "Streams that went on with a gap: what their client had missed was kept no more."),
    row(Count::EventsForeign,       Section::Dropped,  "events_foreign",        "Servers' answers on a stream where nobody asked for them."),
    row(Count::EventsInvalid,       Section::Dropped,  "events_invalid",        "Servers' events that were no messages, on sessions' own streams."),
    row(Count::AsksFull,            Section::Dropped,  "asks_full",             "Servers' requests refused because too many waited for an answer."),
    row(Count::AsksSessionless,     Section::Dropped,  "asks_sessionless",      "Requests of servers outside of a session, which no answer could find."),
    row(Count::WithdrawalsLate,     Section::Dropped,  "withdrawals_late",      "Requests that servers took back after they had been answered, or had never asked."),
    row(Count::ServerUnasked,       Section::Dropped,  "server_unasked",        "Messages of modern servers of kinds that the request had not opted in to."),
    row(Count::ServerEarly,         Section::Dropped,  "server_early",          "Messages of modern servers before a subscription's acknowledgement."),
    row(Count::ServerForeign,       Section::Dropped,  "server_foreign",        "Messages of modern servers that belong to another request, subscription or task."),
    row(Count::ServerSecond,        Section::Dropped,  "server_second",         "Second acknowledgements of one subscription."),
    row(Count::ServerRequests,      Section::Dropped,  "server_requests",       "Requests of modern servers, which have none to make."),
    row(Count::ServerHidden,        Section::Dropped,  "server_hidden",         "Notifications of modern servers about what policy hides from the caller."),
    row(Count::ServerMalformed,     Section::Dropped,  "server_malformed",      "Notifications of modern servers that no method has, or not in this form."),
    row(Count::LinesDropped,        Section::Dropped,  "sse_messages_dropped",  "Messages of HTTP+SSE servers that nobody waited for: late answers, unknown progress, more than a session without a stream keeps."),
    row(Count::ServersUnhealthy,    Section::Dropped,  "servers_unhealthy",     "Requests not sent because their server, or the instance that they belong to, is ejected."),
    row(Count::ServersBusy,         Section::Dropped,  "servers_busy",          "Requests not sent because their server had as many under way as it may have."),
    row(Count::SessionsMoved,       Section::Happened, "sessions_moved",        "Sessions opened anew at another instance, because theirs was ejected or is configured no more."),
    row(Count::RequestsMoved,       Section::Happened, "requests_moved",        "Requests that went to another instance because nothing could be sent to the first."),
    row(Count::ContextsMalformed,   Section::Dropped,  "trace_contexts_malformed", "Trace contexts of callers that were none, and were not looked at."),
    row(Count::ContextsTooLong,     Section::Dropped,  "trace_states_too_long", "Values of tracestate that were too long to go on to a server."),
    row(Count::BaggageCut,          Section::Dropped,  "baggage_cut",           "Messages whose baggage, or part of it, did not go on to a server."),
];

/// The counters of all shards.
#[derive(Debug)]
pub struct Tally {
    pages: Vec<Page>,
}

/// One shard's counters, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Page {
    counts: [AtomicU64; ROWS.len()],
    /// Requests refused without a decision, in the order of the table of refusals.
    refused: [AtomicU64; refusal::ROWS.len()],
}

impl Default for Page {
    fn default() -> Self {
        let zero = |_| AtomicU64::new(0);
        Self { counts: std::array::from_fn(zero), refused: std::array::from_fn(zero) }
    }
}

impl Tally {
    /// For so many shards, nothing counted yet.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { pages: (0..shards).map(|_| Page::default()).collect() }
    }

    /// One more, on a shard's page.
    pub fn add(&self, shard: ShardId, count: Count) {
        self.raise(shard, count, 1);
    }

    /// So many more.
    pub fn raise(&self, shard: ShardId, count: Count, by: u64) {
        if let Some(page) = self.pages.get(shard.index())
            && let Some(counter) = page.counts.get(count as usize)
        {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// One more request that was refused without a decision on it.
    pub fn refused(&self, shard: ShardId, kind: Kind) {
        if let Some(page) = self.pages.get(shard.index())
            && let Some(counter) = page.refused.get(kind as usize)
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests were refused without a decision, by the word for it; each word once.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        let mut out = BTreeMap::new();
        for row in refusal::ROWS {
            let of =
                |page: &Page| page.refused.get(row.kind as usize).map_or(0, |counter| counter.load(Ordering::Relaxed));
            *out.entry(row.word).or_default() += self.pages.iter().map(of).sum::<u64>();
        }
        out
    }

    /// How many on all shards.
    #[must_use]
    pub fn total(&self, count: Count) -> u64 {
        let of = |page: &Page| page.counts.get(count as usize).map_or(0, |counter| counter.load(Ordering::Relaxed));
        self.pages.iter().map(of).sum()
    }

    /// What stands under a heading, by name.
    #[must_use]
    pub fn under(&self, section: Section) -> serde_json::Map<String, serde_json::Value> {
        let rows = ROWS.iter().filter(|row| row.section == section);
        rows.map(|row| (row.name.to_owned(), self.total(row.count).into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_row() {
        for (place, row) in ROWS.iter().enumerate() {
            assert_eq!(row.count as usize, place, "{}", row.name);
            assert!(row.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", row.name);
            assert!(row.help.ends_with('.'), "{}", row.name);
            assert_eq!(ROWS.iter().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
        }
    }

    #[test]
    fn shards_count_together() {
        let tally = Tally::new(2);
        tally.add(ShardId(0), Count::Cancelled);
        tally.add(ShardId(1), Count::Cancelled);
        tally.add(ShardId(2), Count::Cancelled);
        assert_eq!(tally.total(Count::Cancelled), 2, "and a shard that is none does not");
        assert_eq!(tally.under(Section::Happened)["requests_cancelled"], 2);
        assert_eq!(tally.under(Section::Dropped)["cancels_late"], 0);
    }
}
