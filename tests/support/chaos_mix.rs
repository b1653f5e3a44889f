//! What a hunt for mix-ups draws. All clients use one request id and one progress token, servers give their sessions,
//! questions and events the same names over and over; each call is told from all others by its value alone, and each
//! session by its tag.

use super::chaos::{BLOCK, Draw, Odds, value};
use super::mcp::LEGACY;

/// The request id of every message that is alone.
pub(crate) const ID: u64 = 0;
/// The revisions of sessions; the first one has batches.
pub(crate) const REVISIONS: [&str; 3] = ["2025-03-26", "2025-06-18", LEGACY];

/// What a client does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Waits for its answer, and comes back for it if the stream ends before.
    Plain,
    /// Leaves before the answer.
    Left,
    /// Leaves within the stream, and comes back for the rest.
    Cut,
    /// Leaves within the stream for good.
    CutForGood,
    /// Takes the call back, on another connection.
    Cancel,
    /// Answers what the server asks of it.
    Asked(Answering),
    /// Reads messages of the session's own stream.
    Heard,
    /// The same; the stream is cut, and goes on.
    HeardCut,
    /// Ends the session behind the answer, and tries it once more.
    Ended,
    /// Ends the session while the call is under way.
    EndedAmid,
    /// Calls what policy hides.
    Hidden,
    /// Sends the whole block as one array.
    Batch,
}

/// How a client answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answering {
    Right,
    /// And once more.
    Twice,
    /// First as somebody else, in another session.
    Elsewhere,
    /// When the server has taken its question back.
    Late,
}

/// How a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    /// An event stream with progress.
    Events,
    /// The same; the server hangs up in the middle, and the client comes back for the rest.
    Polled,
}

/// What becomes of the server's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgets {
    Nothing,
    /// It is not known when the call comes: 404.
    Before,
    /// The same, said as many servers do: 400.
    Mumbling,
    /// It is forgotten behind the answer.
    After,
}

/// One call, as drawn.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    pub(crate) number: u64,
    pub(crate) value: String,
    pub(crate) modern: bool,
    pub(crate) deed: Deed,
    pub(crate) form: Form,
    pub(crate) forgets: Forgets,
    /// Messages before the answer.
    pub(crate) steps: u64,
    /// After so many the stream is cut, if it is.
    pub(crate) cut_after: u64,
    /// The server asks on the session's own stream; else on the call's.
    pub(crate) asks_apart: bool,
    /// The server heeds a cancellation by saying nothing more; else it answers all the same.
    pub(crate) heeds: bool,
    /// The server cuts the session's own stream between two messages.
    pub(crate) own_cut: bool,
    /// Milliseconds that the server takes.
    pub(crate) delay: u64,
    /// On a connection of its own.
    pub(crate) alone: bool,
}

impl Mix {
    /// The call of that number.
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        let batch = Draw::of(seed, number / BLOCK, 1).chance(6);
        let mut draw = Draw::of(seed, number, 2);
        let deed = if batch { Deed::Batch } else { draw.among(DEEDS) };
        let modern = matches!(deed, Deed::Plain | Deed::Left | Deed::Hidden) && draw.chance(55);
        let mut form = draw.among(FORMS);
        let mut forgets = draw.among(FORGETS);
        match deed {
            Deed::Cut | Deed::CutForGood if form == Form::Json => form = Form::Events,
            Deed::Cancel | Deed::Asked(_) => form = Form::Events,
            Deed::Heard | Deed::HeardCut => form = Form::Json,
            Deed::Plain | Deed::Cut => {}
            _ if form == Form::Polled => form = Form::Events,
            _ => {}
        }
        if modern && form == Form::Polled {
            form = Form::Events;
        }
        let asks_apart = draw.chance(30);
        // What it has said in a session that it has forgotten is of no use to anybody.
        let held = matches!(deed, Deed::Asked(_)) && asks_apart || matches!(deed, Deed::Heard | Deed::HeardCut);
        let polled = form == Form::Polled;
        if modern || held || polled || deed == Deed::Batch && forgets == Forgets::After {
            forgets = Forgets::Nothing;
        }
        let steps = draw.within(2..6) as u64;
        Self {
            number,
            value: value(seed, number),
            modern,
            deed,
            form,
            forgets,
            steps,
            cut_after: 1 + draw.below(steps as usize - 1) as u64,
            asks_apart,
            heeds: draw.chance(40),
            own_cut: draw.chance(12),
            delay: if draw.chance(25) { draw.within(1..40) as u64 } else { 0 },
            alone: draw.chance(20),
        }
    }

    /// The call that carries `value`; `None` where no call of this run does.
    pub(crate) fn carrying(seed: u64, value: &str) -> Option<Self> {
        let number = u64::from_str_radix(value.get(16..32)?, 16).ok()?;
        (super::chaos::value(seed, number) == value).then(|| Self::of(seed, number))
    }

    /// The tool that it calls.
    pub(crate) fn tool(&self) -> &'static str {
        if self.deed == Deed::Hidden { "secret" } else { "echo" }
    }

    /// Whether the session's own stream must be open for it.
    pub(crate) fn needs_own(&self) -> bool {
        matches!(self.deed, Deed::Heard | Deed::HeardCut) || matches!(self.deed, Deed::Asked(_)) && self.asks_apart
    }

    /// The request id: one for all, but in a batch each must have its own.
    pub(crate) fn id(&self) -> u64 {
        if self.deed == Deed::Batch { ID + self.number % BLOCK } else { ID }
    }
}

/// A message's place in what was said in one context: `OWNER#PLACE`.
pub(crate) fn said(owner: &str, place: u64) -> String {
    format!("m:{owner}#{place}")
}

/// Whose message that is, and its place.
pub(crate) fn heard(text: &str) -> Option<(String, u64)> {
    let (owner, place) = text.strip_prefix("m:")?.split_once('#')?;
    Some((owner.to_owned(), place.parse().ok()?))
}

/// The odds of each thing that a client does.
pub(crate) const DEEDS: &[Odds<Deed>] = &[
    (Deed::Plain, 460),
    (Deed::Left, 30),
    (Deed::Cut, 90),
    (Deed::CutForGood, 20),
    (Deed::Cancel, 50),
    (Deed::Asked(Answering::Right), 60),
    (Deed::Asked(Answering::Twice), 30),
    (Deed::Asked(Answering::Elsewhere), 30),
    (Deed::Asked(Answering::Late), 30),
    (Deed::Heard, 60),
    (Deed::HeardCut, 60),
    (Deed::Ended, 30),
    (Deed::EndedAmid, 20),
    (Deed::Hidden, 30),
];

/// The odds of each way in which a server answers.
pub(crate) const FORMS: &[Odds<Form>] = &[(Form::Json, 45), (Form::Events, 45), (Form::Polled, 10)];

/// The odds of a session being forgotten.
pub(crate) const FORGETS: &[Odds<Forgets>] =
    &[(Forgets::Nothing, 84), (Forgets::Before, 6), (Forgets::Mumbling, 4), (Forgets::After, 6)];
