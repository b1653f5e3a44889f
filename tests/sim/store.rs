//! What outlives the gateway: the journal's file, and what was being written when it died. As `plane::journal` does it,
//! on a disk of the world's own.

use std::convert::Infallible;

use portcullis::ledger::Ledger;
use portcullis::session::journal::{HEADER, Tail};

use crate::support::chaos::Draw;

/// The disk, and the thread that writes to it.
pub(super) struct Store {
    file: Vec<u8>,
    writing: Option<Writing>,
    /// The journal is to be taken soon.
    pub(super) due: bool,
    taken: u64,
    pub(super) kept: u64,
}

/// What is on its way to the disk.
struct Writing {
    bytes: Vec<u8>,
    mark: u64,
    /// Which of those that were taken it is.
    number: u64,
    /// It takes the file's place when it is whole.
    anew: bool,
}

impl Store {
    pub(super) fn new() -> Self {
        Self { file: HEADER.to_vec(), writing: None, due: false, taken: 0, kept: 0 }
    }

    /// What changes now is safe when this is kept.
    pub(super) fn mark(&self) -> u64 {
        self.taken + 1
    }

    /// Takes what has changed, or all there is; `false` while the last is still being written.
    pub(super) fn take(&mut self, ledger: &Ledger, anew: bool) -> bool {
        if self.writing.is_some() {
            return false;
        }
        self.due = false;
        let mut bytes = Vec::new();
        let taken = if anew { picture(ledger, &mut bytes) } else { ledger.take_journal(&mut bytes) };
        assert!(taken.whole, "few changes are all kept");
        self.taken += 1;
        self.writing = Some(Writing { bytes, mark: taken.mark, number: self.taken, anew });
        true
    }

    /// It is written.
    pub(super) fn written(&mut self, ledger: &Ledger) {
        let Some(writing) = self.writing.take() else { return };
        if writing.anew {
            self.file = writing.bytes;
        } else {
            self.file.extend_from_slice(&writing.bytes);
        }
        ledger.set_kept(writing.mark);
        self.kept = writing.number;
    }

    /// Everything is written, in order.
    pub(super) fn flush(&mut self, ledger: &Ledger) {
        self.written(ledger);
        self.take(ledger, false);
        self.written(ledger);
    }

    /// The process is gone: what was not written is lost, and of what was being written some may be there. Whether
    /// something was lost.
    pub(super) fn crash(&mut self, draw: &mut Draw) -> bool {
        let due = std::mem::take(&mut self.due);
        let Some(writing) = self.writing.take().filter(|writing| !writing.anew) else { return due };
        let some = draw.below(writing.bytes.len() + 1);
        self.file.extend_from_slice(&writing.bytes[..some]);
        some < writing.bytes.len()
    }

    /// Fills an empty ledger with what is in the file. Whether the file ended within an entry.
    pub(super) fn restore(&mut self, ledger: &Ledger) -> bool {
        let restored = ledger.restore(&self.file).expect("it was written here");
        assert_ne!(restored.tail, Tail::Damaged, "a crash tears and does no more");
        self.file.truncate(restored.used);
        picture(ledger, &mut Vec::new());
        restored.tail == Tail::Torn
    }
}

fn picture(ledger: &Ledger, bytes: &mut Vec<u8>) -> portcullis::ledger::Taken {
    let Ok(taken) = ledger.picture(|piece| {
        bytes.extend_from_slice(piece);
        Ok::<_, Infallible>(())
    });
    taken
}
