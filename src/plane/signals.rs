//! SIGTERM and SIGINT drain; the second one ends at once.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::PlaneFault;
use super::start::Handle;

/// Lets signals steer the gateway.
///
/// # Errors
/// `PlaneFault::System`.
pub fn obey(handle: Handle) -> Result<(), PlaneFault> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| PlaneFault::System { what: "signal handlers", error })?;
    std::thread::Builder::new()
        .name("plane-signals".into())
        .spawn(move || {
            let mut draining = false;
            for signal in signals.forever() {
                match signal {
                    SIGHUP => {
                        tracing::warn!("SIGHUP: this version does not reload; restart to use a new configuration")
                    }
                    _ if draining => {
                        tracing::warn!("ending at once");
                        handle.stop();
                    }
                    _ => {
                        tracing::info!("draining: no new connections; calls under way may finish");
                        draining = true;
                        handle.drain();
                    }
                }
            }
        })
        .map_err(|error| PlaneFault::System { what: "a thread", error })?;
    Ok(())
}
