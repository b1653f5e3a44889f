//! SIGTERM and SIGINT drain; the second one ends at once. SIGHUP reads the configuration again.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::start::Handle;
use super::{PlaneFault, notify};

/// Signals caught from now on, to be obeyed once there is something to steer: one that comes in between waits.
pub struct Caught(Signals);

/// Catches SIGTERM, SIGINT and SIGHUP. Belongs before anything that must not be left behind.
///
/// # Errors
/// `PlaneFault::System`.
pub fn catch() -> Result<Caught, PlaneFault> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    signals.map(Caught).map_err(|error| PlaneFault::System { what: "signal handlers", error })
}

impl Caught {
    /// Lets the signals steer the gateway.
    ///
    /// # Errors
    /// `PlaneFault::System`.
    pub fn steer(self, handle: Handle) -> Result<(), PlaneFault> {
        let Self(mut signals) = self;
        std::thread::Builder::new()
            .name("plane-signals".into())
            .spawn(move || {
                let mut draining = false;
                for signal in signals.forever() {
                    match signal {
                        SIGHUP => handle.reload(),
                        _ if draining => {
                            tracing::warn!("ending at once");
                            handle.stop();
                        }
                        _ => {
                            tracing::info!("draining: no new connections; calls under way may finish");
                            draining = true;
                            handle.drain();
                            notify::stopping();
                        }
                    }
                }
            })
            .map_err(|error| PlaneFault::System { what: "a thread", error })?;
        Ok(())
    }
}
