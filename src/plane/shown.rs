//! What the plane itself shows a server, for which it looks at no caller's: the server's own credential where that is the
//! same for all, else what the operator says that its catalogue is looked at with.

use std::sync::Arc;
use std::time::Duration;

use crate::base::limits::CREDENTIAL_KEPT_MS;
use crate::config::{Credentials, ServerSettings};
use crate::gateway::control::Control;
use crate::gateway::credential;
use crate::gateway::errand::Issued;
use crate::ledger::errands::ErrandKey;
use crate::session::owner::name_hash;
use crate::upstream::shown::Shown;
use crate::uring::wait::clock;

use super::broker;

/// Why a server cannot be shown what is due, in a word.
#[derive(Debug, thiserror::Error)]
#[error("the gateway has no credential for it: {0}")]
pub(super) struct ShownFault(&'static str);

/// A token that was fetched, and by what it is found.
type Token = (ErrandKey, Arc<Issued>);

/// What one server is shown by the plane.
#[derive(Debug)]
pub(super) struct Badge {
    /// The server, by its digest.
    server: u64,
    credentials: Credentials,
    /// What was shown last, and the token in it where that was fetched.
    last: Option<(Arc<Shown>, Option<Token>)>,
}

impl Badge {
    /// Of a server with these settings.
    pub(super) fn of(settings: &ServerSettings) -> Self {
        let credentials = match &settings.catalogue {
            Some(catalogue) => catalogue.clone(),
            None if settings.credentials.is_personal() => Credentials::Strip,
            None => settings.credentials.clone(),
        };
        Self { server: name_hash(&settings.name), credentials, last: None }
    }

    /// For whom this is due.
    pub(super) fn showing(shown: Shown) -> Self {
        Self { server: 0, credentials: Credentials::Strip, last: Some((Arc::new(shown), None)) }
    }

    /// What is due now; `None` for nothing. A token that has to be fetched is waited for.
    ///
    /// # Errors
    /// `ShownFault`, when that cannot be had, or not soon enough.
    pub(super) fn due(&mut self, control: &Control, patience: Duration) -> Result<Option<Arc<Shown>>, ShownFault> {
        let (value, issued) = match &self.credentials {
            Credentials::Strip | Credentials::Forward | Credentials::Exchange(_) => {
                return Ok(self.last.as_ref().map(|(shown, _)| shown.clone()));
            }
            Credentials::Fixed(field) if self.last.is_none() => {
                let fields = [(&*field.name, field.value.reveal())];
                (Shown::new(&fields, 0), None)
            }
            Credentials::Fixed(_) => return Ok(self.last.as_ref().map(|(shown, _)| shown.clone())),
            Credentials::ClientCredentials(grant) => {
                let key = credential::shared_key(self.server, grant);
                let errand = || credential::shared_errand(self.server, grant);
                let issued = broker::obtain(control, &key, patience, errand).map_err(ShownFault)?;
                if let Some((shown, Some((_, known)))) = &self.last
                    && Arc::ptr_eq(known, &issued)
                {
                    return Ok(Some(shown.clone()));
                }
                (Shown::new(&[("authorization", issued.value.reveal())], 0), Some((key, issued)))
            }
        };
        let shown = Arc::new(value.map_err(|_| ShownFault("it is none that a field can hold"))?);
        self.last = Some((shown.clone(), issued));
        Ok(Some(shown))
    }

    /// The server has refused it: a token that was fetched a while ago is fetched anew.
    pub(super) fn refused(&self, control: &Control) {
        if let Some((_, Some((key, issued)))) = &self.last
            && clock().mono >= issued.fetched.plus_ms(CREDENTIAL_KEPT_MS)
        {
            control.credentials.forget_if(key, |held| Arc::ptr_eq(held, issued));
        }
    }
}
