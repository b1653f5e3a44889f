//! What was fetched of issuers, found again by what it was fetched by: so that it outlives a change of the settings, and
//! what was fetched for other settings is never taken for theirs.

use std::sync::Arc;

use crate::config::snapshot::{FetchedKeys, Snapshot};
use crate::config::{GuardSettings, IssuerSource, KeysFrom, Settings};
use crate::identity::keyring::{Good, Keyring, Standing};
use crate::identity::keys::{Algorithm, KeySet};
use crate::identity::token::Issuer;

/// What all fetched of an issuer depends on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) issuer: Arc<str>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) keys: KeysFrom,
    pub(super) guard: GuardSettings,
}

impl Asked {
    pub(super) fn of(issuer: &Issuer, source: &IssuerSource) -> Self {
        Self {
            issuer: issuer.issuer.clone(),
            algorithms: issuer.algorithms.clone(),
            keys: source.keys.clone(),
            guard: source.guard.clone(),
        }
    }
}

/// What is known of one issuer.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) asked: Arc<Asked>,
    pub(super) standing: Standing,
    /// Its metadata, as it came.
    pub(super) document: Option<Arc<[u8]>>,
}

/// What is known of all issuers.
#[derive(Debug, Default)]
pub(super) struct KeyBook(Vec<Entry>);

impl KeyBook {
    /// From now on this is known.
    pub(super) fn write(&mut self, entry: Entry) {
        self.0.retain(|known| known.asked.issuer != entry.asked.issuer);
        self.0.push(entry);
    }

    /// What is known of other issuers than these settings' is forgotten.
    pub(super) fn keep(&mut self, settings: &Settings) {
        let wanted: Vec<Asked> = all(settings).collect();
        self.0.retain(|entry| wanted.contains(&entry.asked));
    }

    /// What is known for these settings, with the number that it has after what `before` had.
    pub(super) fn read(&self, settings: &Settings, before: &Snapshot) -> FetchedKeys {
        let (standings, documents): (Vec<Standing>, Vec<_>) = all(settings).map(|asked| self.find(&asked)).unzip();
        let keys = Keyring::new(standings);
        let keys_epoch = before.keys_epoch + u64::from(lost_any(before, settings, &keys));
        FetchedKeys { keys: Arc::new(keys), keys_epoch, documents: documents.into() }
    }

    fn find(&self, asked: &Asked) -> (Standing, Option<Arc<[u8]>>) {
        let entry = self.0.iter().find(|entry| *entry.asked == *asked);
        let standing = match &asked.keys {
            KeysFrom::File(set) => good_for_ever(set),
            KeysFrom::Url(_) | KeysFrom::Discovery | KeysFrom::None => {
                entry.map(|entry| entry.standing.clone()).unwrap_or_default()
            }
        };
        (standing, entry.and_then(|entry| entry.document.clone()))
    }
}

/// A file is as new as itself.
fn good_for_ever(set: &Arc<KeySet>) -> Standing {
    Standing::Good(Good { set: set.clone(), seen_unix_s: u64::MAX })
}

fn all(settings: &Settings) -> impl Iterator<Item = Asked> {
    settings.issuers.iter().zip(&settings.sources).map(|(issuer, source)| Asked::of(issuer, source))
}

/// Whether a key that tokens may have been verified with is one no more.
fn lost_any(before: &Snapshot, settings: &Settings, keys: &Keyring) -> bool {
    before.settings.issuers.iter().enumerate().any(|(place, issuer)| {
        let now = settings.issuers.iter().position(|other| other.issuer == issuer.issuer);
        before.keys.marks(place).any(|mark| !now.is_some_and(|now| keys.holds(now, mark)))
    })
}
