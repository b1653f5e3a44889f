//! Looks at servers' lists in callers' names, where servers know their callers: what one of them is shown, for as long
//! as the server says that it holds.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::base::limits::{ERRAND_TAKE_MS, KEEPER_STACK_BYTES, VIEW_FAILED_MS, VIEW_PUBLISHED_MS_MAX, VIEW_THREADS};
use crate::gateway::control::{Control, Life};
use crate::gateway::mail::Letter;
use crate::gateway::view::{View, ViewErrand};
use crate::ledger::errands::{ErrandKey, Outcome};
use crate::uring::wait::clock;

use super::PlaneFault;
use super::keeper::{self, News};
use super::looks::Looked;

/// Starts to look.
///
/// # Errors
/// `PlaneFault::System` when there is no thread for it.
pub(super) fn start(control: &Arc<Control>, news: &Sender<News>) -> Result<(), PlaneFault> {
    for number in 0..VIEW_THREADS {
        let (control, news) = (control.clone(), news.clone());
        let thread = std::thread::Builder::new().name(format!("plane-view-{number}")).stack_size(KEEPER_STACK_BYTES);
        let fault = |error| PlaneFault::System { what: "a thread", error };
        thread.spawn(move || run(&control, &news)).map_err(fault)?;
    }
    Ok(())
}

fn run(control: &Arc<Control>, news: &Sender<News>) {
    while control.life() == Life::Run {
        if let Some((key, errand)) = control.views.take(Duration::from_millis(ERRAND_TAKE_MS)) {
            look(control, news, &key, errand);
            control.mail.send(&Letter::Brought);
        }
    }
}

fn look(control: &Arc<Control>, news: &Sender<News>, key: &ErrandKey, errand: ViewErrand) {
    let failed = |word| {
        let until = clock().mono.plus_ms(VIEW_FAILED_MS);
        control.views.done(key, Outcome::Failed(word), until, until);
    };
    let snapshot = control.snapshot.load_full();
    let Some(server) = snapshot.server_by_digest(errand.server) else { return failed("gone") };
    let (settings, state) = (&snapshot.settings.servers[server.index()], &snapshot.states[server.index()]);
    let announced = errand.announced;
    let Some((mut catalog, patience)) = keeper::survey_as(settings, state, control, news, errand.shown) else {
        return failed("unreachable");
    };
    catalog.mark(true);
    let Some(set) = control.sets.keep(&catalog) else { return failed("full") };
    let (now, ms) = (clock().mono, u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
    let view = Arc::new(View::new(set.clone(), announced, state));
    let looked = Looked { who: *key, set, announced, until: now.plus_ms(ms) };
    let (tell, told) = channel();
    // Decided by the next snapshot: who asked is told when that is out.
    if news.send(News::View(state.clone(), Box::new(catalog), looked, tell)).is_ok() {
        let _ = told.recv_timeout(Duration::from_millis(VIEW_PUBLISHED_MS_MAX));
    }
    if state.is_over() {
        // Its settings are others now, and what is asked for is another look.
        control.views.forget(key);
        return;
    }
    control.views.done(key, Outcome::Brought(view), now.plus_ms(ms), now.plus_ms(ms - ms / 5));
}
