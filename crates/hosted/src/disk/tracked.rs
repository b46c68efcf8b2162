//! A disk of which somebody wants to know what is written to it, to copy it while its guest goes on.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Image;

/// Bytes of what is noted as written at once.
pub const BLOCK: u64 = 64 << 10;

/// What the guest finds in a piece of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// What the disk stores itself, or a file behind it that is the machine's own.
    Own,
    /// Zeros.
    Zero,
    /// Zeros that any disk of that size has on which nothing was written.
    Empty,
    /// What the first of the files behind it has.
    Base,
}

/// A disk that notes what is written to it while that is wanted.
pub struct Tracked {
    image: Arc<dyn Image>,
    is_tracking: AtomicBool,
    /// A bit for each block.
    written: Mutex<Vec<u64>>,
}

impl Tracked {
    /// A disk that nobody tracks yet.
    #[must_use]
    pub fn new(image: Arc<dyn Image>) -> Self {
        Self { image, is_tracking: AtomicBool::new(false), written: Mutex::default() }
    }

    fn written(&self) -> MutexGuard<'_, Vec<u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to note what is written; requests under way are noted too.
    pub fn track(&self) {
        let words = self.size().div_ceil(BLOCK).div_ceil(64) as usize;
        *self.written() = vec![0; words];
        self.is_tracking.store(true, Ordering::SeqCst);
    }

    /// Ends that.
    pub fn stop_tracking(&self) {
        self.is_tracking.store(false, Ordering::SeqCst);
        *self.written() = Vec::new();
    }

    /// Takes the ranges that were written to since [`track`](Self::track) or the last time, in order.
    #[must_use]
    pub fn take_written(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let size = self.size();
        for (word, bits) in self.written().iter_mut().enumerate() {
            let taken = std::mem::take(bits);
            for bit in (0..64).filter(|bit| taken >> bit & 1 != 0) {
                let start = (word as u64 * 64 + bit) * BLOCK;
                let end = (start + BLOCK).min(size);
                match ranges.last_mut().filter(|range| range.end == start) {
                    Some(range) => range.end = end,
                    None => ranges.push(start..end),
                }
            }
        }
        ranges
    }

    /// How many bytes [`take_written`](Self::take_written) would take.
    #[must_use]
    pub fn count_written(&self) -> u64 {
        self.written().iter().map(|bits| u64::from(bits.count_ones())).sum::<u64>() * BLOCK
    }

    /// Notes what has been written, behind it: who takes the notes in between finds it the next time.
    fn note(&self, range: Range<u64>) {
        if !self.is_tracking.load(Ordering::SeqCst) || range.is_empty() {
            return;
        }
        let mut written = self.written();
        for block in range.start / BLOCK..=(range.end - 1) / BLOCK {
            if let Some(word) = written.get_mut((block / 64) as usize) {
                *word |= 1 << (block % 64);
            }
        }
    }
}

impl Image for Tracked {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn is_read_only(&self) -> bool {
        self.image.is_read_only()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.image.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        let result = self.image.write_at(offset, buffer);
        // One that fails may have written a part.
        self.note(offset..offset + buffer.len() as u64);
        result
    }

    fn flush(&self) -> io::Result<()> {
        self.image.flush()
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let result = self.image.discard(range.clone());
        self.note(range);
        result
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        let result = self.image.write_zeroes(range.clone(), unmap);
        self.note(range);
        result
    }

    fn extent(&self, range: Range<u64>) -> io::Result<(Extent, u64)> {
        self.image.extent(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DiskOptions, Format, create_empty, create_overlay, create_overlay_beside};

    const SIZE: u64 = 8 << 20;

    #[test]
    fn what_is_written_while_that_is_tracked_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        create_empty(&path, Format::Qcow2, SIZE).unwrap();
        let disk = Tracked::new(DiskOptions::new(&path).open().unwrap());
        disk.write_at(0, &[1; 512]).unwrap();
        disk.track();
        assert_eq!(disk.take_written(), []);
        disk.write_at(BLOCK - 512, &[1; 1024]).unwrap();
        disk.write_zeroes(SIZE - 512..SIZE, true).unwrap();
        disk.discard(4 * BLOCK..5 * BLOCK).unwrap();
        assert_eq!(disk.count_written(), 4 * BLOCK);
        assert_eq!(disk.take_written(), [0..2 * BLOCK, 4 * BLOCK..5 * BLOCK, SIZE - BLOCK..SIZE]);
        assert_eq!(disk.take_written(), []);
        disk.stop_tracking();
        disk.write_at(0, &[1; 512]).unwrap();
        assert_eq!((disk.take_written(), disk.count_written()), (vec![], 0));
    }

    #[test]
    fn extents_tell_the_image_from_the_files_over_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("image"), vec![7; SIZE as usize]).unwrap();
        create_overlay(&path("ready"), &path("image"), Some(Format::Raw)).unwrap();
        DiskOptions::new(path("ready")).open().unwrap().write_at(BLOCK, &[1; BLOCK as usize]).unwrap();
        create_overlay_beside(&path("disk"), "ready").unwrap();
        let disk = DiskOptions::new(path("disk")).open().unwrap();
        disk.write_at(3 * BLOCK, &[2; BLOCK as usize]).unwrap();
        disk.write_zeroes(4 * BLOCK..5 * BLOCK, true).unwrap();
        let (mut found, mut offset) = (Vec::new(), 0);
        while offset < SIZE {
            let (extent, length) = disk.extent(offset..SIZE).unwrap();
            offset += length;
            found.push((extent, offset / BLOCK));
        }
        let blocks = SIZE / BLOCK;
        let expected = [
            (Extent::Base, 1),
            (Extent::Own, 2),
            (Extent::Base, 3),
            (Extent::Own, 4),
            (Extent::Zero, 5),
            (Extent::Base, blocks),
        ];
        assert_eq!(found, expected);
    }
}
