//! Writes a guest's RAM to a file: once while the guest runs, then what has changed since while it stands still, so that
//! it stands still for a moment only.
//!
//! What has changed is found by comparing: no support of the host's kernel is needed, and comparing is several times
//! faster than writing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rvisor_waist::{GuestMemory, PAGE_SIZE};

use crate::HostMemory;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages looked at at a time.
const CHUNK: usize = 64;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// A file that becomes a copy of RAM, with holes where RAM is zero.
pub struct MemoryCopy {
    file: File,
    /// Pages that aren't holes.
    written: Vec<bool>,
}

impl MemoryCopy {
    /// A copy of `memory` in a new file, with nothing in it yet.
    ///
    /// # Errors
    /// If the file can't be made as large.
    pub fn new(memory: &HostMemory, file: File) -> io::Result<Self> {
        let range = memory.range();
        let size = range.end.0 - range.start.0;
        file.set_len(size)?;
        Ok(Self { file, written: vec![false; size.div_ceil(PAGE_SIZE) as usize] })
    }

    /// Writes what differs. Returns how many pages that were.
    ///
    /// # Errors
    /// What the host says, mostly that its disk is full.
    pub fn update(&mut self, memory: &HostMemory) -> io::Result<u64> {
        let occupied = memory.occupied_pages();
        let mut changed = 0;
        let (mut now, mut before) = (vec![0; CHUNK * PAGE], vec![0; CHUNK * PAGE]);
        for first in (0..self.written.len()).step_by(CHUNK) {
            let pages = first..(first + CHUNK).min(self.written.len());
            let is_empty = |page: usize| !self.written[page] && !occupied[page];
            if pages.clone().all(is_empty) {
                continue;
            }
            let offset = first as u64 * PAGE_SIZE;
            let (now, before) = (&mut now[..pages.len() * PAGE], &mut before[..pages.len() * PAGE]);
            let read = memory.read(memory.range().start.offset(offset), now);
            read.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            if self.written[pages.clone()].contains(&true) {
                self.file.read_exact_at(before, offset)?;
            } else {
                before.fill(0);
            }
            changed += self.update_chunk(first, now, before)?;
        }
        Ok(changed)
    }

    /// Writes the pages from `first` on that differ, those next to each other at once.
    fn update_chunk(&mut self, first: usize, now: &[u8], before: &[u8]) -> io::Result<u64> {
        let differs = |page: usize| now[page * PAGE..][..PAGE] != before[page * PAGE..][..PAGE];
        let (mut page, mut changed) = (0, 0);
        while page < now.len() / PAGE {
            let start = page;
            while page < now.len() / PAGE && differs(page) {
                self.written[first + page] |= now[page * PAGE..][..PAGE] != ZEROS;
                page += 1;
            }
            if page > start {
                let bytes = &now[start * PAGE..page * PAGE];
                self.file.write_all_at(bytes, (first + start) as u64 * PAGE_SIZE)?;
                changed += (page - start) as u64;
            } else {
                page += 1;
            }
        }
        Ok(changed)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the host says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use rvisor_waist::GuestPhysical;

    use super::*;

    const BASE: GuestPhysical = GuestPhysical(0x8000_0000);
    const SIZE: u64 = 8 << 20;

    fn restored(file: &File) -> HostMemory {
        HostMemory::copy_of(BASE, SIZE, file.try_clone().unwrap()).unwrap()
    }

    #[test]
    fn second_pass_writes_what_has_changed() {
        use std::os::unix::fs::MetadataExt;
        let memory = HostMemory::new(BASE, SIZE).unwrap().with_page_map(HostMemory::page_map());
        memory.store(BASE.offset(0x5008), 7_u64).unwrap();
        memory.store(BASE.offset(SIZE - 8), 8_u64).unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut copy = MemoryCopy::new(&memory, file.try_clone().unwrap()).unwrap();
        assert_eq!(copy.update(&memory).unwrap(), 2);
        assert!(file.metadata().unwrap().blocks() * 512 < 64 << 10, "the rest is holes");
        memory.store(BASE.offset(0x5008), 0_u64).unwrap();
        memory.store(BASE.offset(0x20_0000), 9_u64).unwrap();
        assert_eq!(copy.update(&memory).unwrap(), 2);
        assert_eq!(copy.update(&memory).unwrap(), 0);
        let second = restored(&file);
        let words = [0x5008, SIZE - 8, 0x20_0000, 0x30_0000].map(|at| second.load::<u64>(BASE.offset(at)));
        assert_eq!(words, [Ok(0), Ok(8), Ok(9), Ok(0)]);
    }

    #[test]
    fn copies_of_one_file_keep_their_writes_to_themselves() {
        let memory = HostMemory::new(BASE, SIZE).unwrap();
        memory.store(BASE.offset(0x1000), 1_u64).unwrap();
        let file = tempfile::tempfile().unwrap();
        MemoryCopy::new(&memory, file.try_clone().unwrap()).unwrap().update(&memory).unwrap();
        let (one, other) = (restored(&file).with_page_map(HostMemory::page_map()), restored(&file));
        one.store(BASE.offset(0x1000), 2_u64).unwrap();
        one.store(BASE.offset(0x9000), 3_u64).unwrap();
        assert_eq!(other.load::<u64>(BASE.offset(0x1000)), Ok(1));
        // And a copy of a copy has both.
        let third = tempfile::tempfile().unwrap();
        MemoryCopy::new(&one, third.try_clone().unwrap()).unwrap().update(&one).unwrap();
        let third = restored(&third);
        assert_eq!(third.load::<u64>(BASE.offset(0x1000)), Ok(2));
        assert_eq!(third.load::<u64>(BASE.offset(0x9000)), Ok(3));
    }

    #[test]
    fn file_that_is_too_short_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE - 1).unwrap();
        assert!(HostMemory::copy_of(BASE, SIZE, file).is_err());
    }
}
