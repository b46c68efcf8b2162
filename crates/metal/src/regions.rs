//! Which machine memory is free, while the heap doesn't exist yet.

use core::ops::Range;

use crate::address::MachineAddress;

/// Ranges that don't overlap.
#[derive(Clone, Debug)]
pub struct Regions {
    ranges: [Range<u64>; Regions::MOST],
    count: usize,
}

impl Regions {
    /// Ranges beyond this number are forgotten: memory that isn't used.
    const MOST: usize = 64;

    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: [const { 0..0 }; Self::MOST], count: 0 }
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = Range<MachineAddress>> {
        self.ranges[..self.count].iter().map(|range| MachineAddress(range.start)..MachineAddress(range.end))
    }

    /// Adds a range that overlaps none.
    pub fn add(&mut self, range: Range<MachineAddress>) {
        if range.start < range.end && self.count < Self::MOST {
            self.ranges[self.count] = range.start.0..range.end.0;
            self.count += 1;
        }
    }

    /// Takes a range out, whichever of it is there; ends are rounded outwards to pages.
    pub fn remove(&mut self, range: Range<MachineAddress>) {
        let hole = range.start.0 & !4095..range.end.0.checked_next_multiple_of(4096).unwrap_or(u64::MAX);
        let old = core::mem::take(self);
        for piece in old.iter() {
            let (start, end) = (piece.start.0, piece.end.0);
            if hole.end <= start || end <= hole.start {
                self.add(piece);
            } else {
                self.add(piece.start..MachineAddress(hole.start.max(start)));
                self.add(MachineAddress(hole.end.min(end))..piece.end);
            }
        }
    }

    /// Takes `size` bytes at a multiple of `alignment`, a power of two, as high as possible.
    pub fn take(&mut self, size: u64, alignment: u64) -> Option<Range<MachineAddress>> {
        let start = |range: &Range<u64>| {
            let start = range.end.checked_sub(size)? & !(alignment - 1);
            (start >= range.start).then_some(start)
        };
        let start = self.ranges[..self.count].iter().filter_map(start).max()?;
        let taken = MachineAddress(start)..MachineAddress(start + size);
        self.remove(taken.clone());
        Some(taken)
    }

    /// Bytes in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ranges[..self.count].iter().map(|range| range.end - range.start).sum()
    }
}

impl Default for Regions {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn range(start: u64, end: u64) -> Range<MachineAddress> {
        MachineAddress(start)..MachineAddress(end)
    }

    #[test]
    fn holes_split_and_trim_ranges() {
        let mut regions = Regions::new();
        regions.add(range(0x10000, 0x20000));
        regions.remove(range(0x12001, 0x12002));
        regions.remove(range(0, 0x11000));
        regions.remove(range(0x1f800, 0x90000));
        let left: Vec<_> = regions.iter().collect();
        assert_eq!(left, [range(0x11000, 0x12000), range(0x13000, 0x1f000)]);
        assert_eq!(regions.total(), 0xd000);
    }

    #[test]
    fn taken_memory_is_aligned_and_gone() {
        let mut regions = Regions::new();
        regions.add(range(0x10000, 0x25000));
        assert_eq!(regions.take(0x4000, 0x8000), Some(range(0x20000, 0x24000)));
        assert_eq!(regions.take(0x4000, 0x8000), Some(range(0x18000, 0x1c000)));
        assert_eq!(regions.take(0x10000, 0x1000), None);
        assert_eq!(regions.take(u64::MAX, 0x1000), None);
    }
}
