//! What a running machine has in memory and on its disks, and what of it has changed since: for somebody who copies it
//! elsewhere while it runs.
//!
//! Harts stand still for a moment when changes are taken, since an engine's right to store to a page unseen is given up
//! between two slices. Devices don't: what they write is noted behind it, and so taken the next time at the latest.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use rvisor_waist::{CodePages, GuestMemory, PAGE_SIZE};

use crate::disk::{BLOCK, Extent, Image, Tracked};
use crate::machine::Machine;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages given at once.
pub const MOST_PAGES: usize = 64;
/// Bytes of a disk given at once.
pub const MOST_BYTES: u64 = 4 * BLOCK;

/// Where a copy is made. A range is given as bytes, or as zeros.
pub trait Copier {
    /// Pages that follow each other, at most [`MOST_PAGES`], by the number of the first from the beginning of RAM.
    ///
    /// # Errors
    /// What it says ends the copying; the same for the others.
    fn memory(&mut self, first: u64, bytes: &[u8]) -> io::Result<()>;
    /// So many pages of zeros.
    fn zero_memory(&mut self, first: u64, pages: u64) -> io::Result<()>;
    /// At most [`MOST_BYTES`] of a disk.
    fn disk(&mut self, disk: usize, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Zeros of a disk.
    fn zero_disk(&mut self, disk: usize, range: Range<u64>) -> io::Result<()>;
}

/// What is to be copied, or was.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Amount {
    /// Pages of memory.
    pub pages: u64,
    /// Bytes of disks.
    pub disk: u64,
}

/// Changes of a machine, noted until this is dropped. There is one at a time.
pub struct Changes<'a> {
    machine: &'a Machine,
    is_first: bool,
}

impl Machine {
    /// Begins to note changes. `None` if the machine is ending.
    #[must_use]
    pub fn changes(&self) -> Option<Changes<'_>> {
        self.images().iter().for_each(|image| image.track());
        let changes = Changes { machine: self, is_first: true };
        self.briefly(|| changes.pages().track())?;
        Some(changes)
    }
}

impl Changes<'_> {
    fn pages(&self) -> &CodePages {
        self.machine.vm().memory().written_pages()
    }

    /// What has changed since it was copied last.
    #[must_use]
    pub fn left(&self) -> Amount {
        let disk = self.machine.images().iter().map(|image| image.count_written()).sum();
        Amount { pages: self.pages().count_touched(), disk }
    }

    /// Copies all that there is the first time, then what has changed since: what the disks have over the first of the
    /// files behind them, and memory.
    ///
    /// # Errors
    /// If a disk can't be read, the machine is ending, or the copier fails.
    pub fn copy(&mut self, to: &mut dyn Copier) -> io::Result<Amount> {
        let mut amount = Amount::default();
        let all = std::mem::take(&mut self.is_first);
        for (number, image) in self.machine.images().iter().enumerate() {
            let written = image.take_written();
            let whole = all.then(|| 0..image.size());
            for range in whole.into_iter().chain(written.into_iter().filter(|_| !all)) {
                amount.disk += copy_disk((number, image), range, all, to)?;
            }
        }
        let mut pages = Vec::new();
        let ended = || io::Error::other("the machine is ending");
        self.machine.briefly(|| self.pages().take_touched(|page| pages.push(page))).ok_or_else(ended)?;
        if all {
            // What wasn't touched until now is to be copied too, but for what never was.
            let occupied = self.machine.vm().memory().occupied_pages();
            pages = (0..).zip(occupied).filter(|(_, occupied)| *occupied).map(|(page, _)| page).collect();
        }
        amount.pages = self.copy_memory(&pages, all, to)?;
        Ok(amount)
    }

    /// Copies these pages, which are in order. Zeros are left out in what is all new.
    fn copy_memory(&self, pages: &[u64], new: bool, to: &mut dyn Copier) -> io::Result<u64> {
        let memory = self.machine.vm().memory();
        let start = memory.range().start;
        let (mut buffer, mut copied) = (vec![0; MOST_PAGES * PAGE], 0);
        for run in pages.chunk_by(|one, next| one + 1 == *next).flat_map(|run| run.chunks(MOST_PAGES)) {
            let buffer = &mut buffer[..run.len() * PAGE];
            memory.read(start.offset(run[0] * PAGE_SIZE), buffer).map_err(io::Error::other)?;
            let mut first = run[0];
            for alike in buffer.as_chunks::<PAGE>().0.chunk_by(|one, next| is_zero(one) == is_zero(next)) {
                let count = alike.len() as u64;
                if !is_zero(&alike[0]) {
                    to.memory(first, alike.as_flattened())?;
                    copied += count;
                } else if !new {
                    to.zero_memory(first, count)?;
                    copied += count;
                }
                first += count;
            }
        }
        Ok(copied)
    }
}

impl Drop for Changes<'_> {
    fn drop(&mut self) {
        self.pages().stop_tracking();
        self.machine.images().iter().for_each(|image| image.stop_tracking());
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Copies a range of a disk; returns how many bytes of it aren't the base's. To a new copy, what is empty isn't.
fn copy_disk(
    (number, image): (usize, &Arc<Tracked>),
    range: Range<u64>,
    new: bool,
    to: &mut dyn Copier,
) -> io::Result<u64> {
    let (mut offset, mut copied, mut buffer) = (range.start, 0, vec![0; MOST_BYTES as usize]);
    while offset < range.end {
        let (extent, length) = image.extent(offset..range.end)?;
        let end = (offset + length).min(range.end);
        match extent {
            Extent::Base => {}
            Extent::Empty if new => {}
            Extent::Zero | Extent::Empty => {
                to.zero_disk(number, offset..end)?;
            }
            Extent::Own => {
                copied += end - offset;
                let mut at = offset;
                while at < end {
                    let piece = &mut buffer[..(end - at).min(MOST_BYTES) as usize];
                    image.read_at(at, piece)?;
                    if is_zero(piece) {
                        to.zero_disk(number, at..at + piece.len() as u64)?;
                    } else {
                        to.disk(number, at, piece)?;
                    }
                    at += piece.len() as u64;
                }
            }
        }
        offset = end;
    }
    Ok(copied)
}
