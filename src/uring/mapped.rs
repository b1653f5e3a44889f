//! A file in memory: words that any thread may read and write, and that outlive the process, however it ends. A power
//! failure may take what the kernel has not written back.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Words of a file.
#[derive(Debug)]
pub struct Mapped {
    map: MmapRaw,
    words: usize,
}

impl Mapped {
    /// Maps the first words of a file, to which nobody else may have a handle that makes it shorter: whoever touches a
    /// word that is no longer there ends the process. The disk must have room for all of them.
    ///
    /// # Errors
    /// What fallocate(2) and mmap(2) say.
    pub fn open(file: &File, words: usize) -> io::Result<Self> {
        let bytes = words * size_of::<u64>();
        // Now, since a write to memory has nobody to tell that the disk is full.
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes as u64) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(file, bytes)?,
            allocated => allocated?,
        }
        let map = MmapOptions::new().len(bytes).map_raw(file)?;
        Ok(Self { map, words })
    }

    /// How many words there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// A word; 0 beyond the last.
    #[must_use]
    pub fn load(&self, at: usize, order: Ordering) -> u64 {
        self.word(at).map_or(0, |word| word.load(order))
    }

    /// Writes a word; beyond the last, nowhere.
    pub fn store(&self, at: usize, value: u64, order: Ordering) {
        if let Some(word) = self.word(at) {
            word.store(value, order);
        }
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        if at >= self.words {
            return None;
        }
        // SAFETY: the map is as long as `words` and begins on a page, so word `at` is within it and aligned; it lives as
        // long as `self`, and nothing but atomic operations touches it. What another process writes there is as a store.
        // JUSTIFICATION: a change of a count must outlive the process from the moment it is made; a system call for each
        // would cost more than the reservation it is for (bench/limits.rs).
        Some(unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(at)) })
    }
}

/// Writes zeros where the file system cannot set room aside.
fn fill(mut file: &File, bytes: usize) -> io::Result<()> {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    file.seek(SeekFrom::End(0))?;
    let zeros = [0; 4096];
    let mut left = bytes.saturating_sub(there);
    while left > 0 {
        let piece = left.min(zeros.len());
        file.write_all(&zeros[..piece])?;
        left -= piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_outlive_their_map() {
        let file = tempfile::tempfile().unwrap();
        let map = Mapped::open(&file, 1024).unwrap();
        assert_eq!((map.len(), map.is_empty(), file.metadata().unwrap().len()), (1024, false, 8192));
        map.store(1023, 7, Ordering::Release);
        map.store(1024, 8, Ordering::Release);
        drop(map);
        let map = Mapped::open(&file, 1024).unwrap();
        let words = [0, 1023, 1024].map(|at| map.load(at, Ordering::Acquire));
        assert_eq!(words, [0, 7, 0]);
    }

    #[test]
    fn a_file_is_filled_where_room_cannot_be_set_aside() {
        let file = tempfile::tempfile().unwrap();
        fill(&file, 5000).unwrap();
        fill(&file, 5000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000);
    }
}
