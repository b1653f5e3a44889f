//! What outlives the gateway: the journal's file, and what was being written when it died.

use portcullis::base::time::Now;
use portcullis::ledger::Ledger;

use crate::support::chaos::Draw;

/// The disk, and the thread that writes to it.
#[derive(Default)]
pub(super) struct Store {
    file: Vec<u8>,
    writing: Option<(Vec<u8>, u64)>,
    /// The journal is to be taken soon.
    pub(super) due: bool,
    taken: u64,
    pub(super) kept: u64,
}

impl Store {
    /// What changes now is safe when this is kept.
    pub(super) fn mark(&self) -> u64 {
        self.taken + 1
    }

    /// Takes the journal; `false` while the last one is still being written.
    pub(super) fn take(&mut self, ledger: &Ledger) -> bool {
        if self.writing.is_some() {
            return false;
        }
        self.due = false;
        let mut bytes = Vec::new();
        let mark = ledger.take_journal(&mut bytes);
        self.taken += 1;
        self.writing = Some((bytes, mark));
        true
    }

    /// It is written; now and then everything is, anew.
    pub(super) fn written(&mut self, ledger: &Ledger, _anew: bool) {
        if let Some((bytes, mark)) = self.writing.take() {
            self.file.extend_from_slice(&bytes);
            ledger.set_kept(mark);
            self.kept = self.taken;
        }
    }

    /// Everything is written, in order.
    pub(super) fn flush(&mut self, ledger: &Ledger) {
        self.written(ledger, false);
        self.take(ledger);
        self.written(ledger, false);
    }

    /// The process is gone: what was not written is lost, and of what was being written some may be there.
    pub(super) fn crash(&mut self, draw: &mut Draw) -> (bool, bool) {
        let Some((bytes, _)) = self.writing.take() else { return (self.due, false) };
        let some = draw.below(bytes.len() + 1);
        self.file.extend_from_slice(&bytes[..some]);
        (true, some > 0 && some < bytes.len())
    }

    pub(super) fn restore(&mut self, ledger: Ledger, _now: Now) -> Ledger {
        (self.due, self.writing) = (false, None);
        ledger
    }
}
