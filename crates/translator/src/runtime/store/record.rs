//! A block in a form that can be put anywhere: what it was made from, its code, and what has to be corrected in
//! that at another address.
//!
//! In the file, numbers are little-endian: a head of six halfwords and four words, then tables and bytes
//! as [`Record`]'s fields say. See the head's parts in [`Record::parse`].

use std::ops::Range;

use rvisor_waist::PAGE_SIZE;

use crate::backend::x64::lower::Patch;
use crate::backend::x64::placement::{Placement, move_apart};
use crate::backend::x64::thunks::Thunks;
use crate::frontend::LAST;
use crate::ir::Offset;

/// Most bytes of code of one block.
pub const LARGEST_CODE: usize = 64 << 10;

/// What a block is made from, apart from its guest code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Offset of its first instruction in the page.
    pub entry: Offset,
    /// Whether it is the instruction across the end of its page.
    pub is_across: bool,
    /// Whether the instruction at the page's last halfword must reach into the next page; `None` where that
    /// doesn't matter.
    pub reaches_over: Option<bool>,
    /// Guest instructions.
    pub nodes: u16,
}

/// Where a displacement to a thunk stands in the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThunkUse {
    /// From the start of the code.
    pub at: u32,
    /// Number of the thunk, see [`Thunks::all`].
    pub thunk: u8,
}

/// A block to be written.
pub struct Parts<'a> {
    pub origin: Origin,
    /// Guest code: ranges of offsets, and the bytes there. Of the instruction across pages, the second half
    /// stands in the next page.
    pub pieces: &'a [(Range<u16>, &'a [u8])],
    /// Where it is entered, from the start of the code.
    pub start: u32,
    pub thunks: &'a [ThunkUse],
    pub patches: &'a [Patch],
    /// Where it runs, and from where on it is cold.
    pub placement: Placement,
    /// Where displacements from one part to the other stand in the code.
    pub crossings: &'a [u32],
    pub code: &'a [u8],
}

/// A block read from bytes, which are known to be sound: no place in it lies outside its code.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub origin: Origin,
    pub start: u32,
    /// Where the cold part starts, from the start of the code.
    pub split: u32,
    ranges: &'a [u8],
    guest: &'a [u8],
    thunks: &'a [u8],
    patches: &'a [u8],
    crossings: &'a [u8],
    /// Its code, linked to nothing, and as if its parts stood together.
    pub code: &'a [u8],
}

const HEAD: usize = 28;
const RANGE: usize = 4;
const THUNK: usize = 4;
const PATCH: usize = 20;
const CROSSING: usize = 4;

/// Stands for the constant that a jump inside the page doesn't have.
const NONE: u32 = u32::MAX;

const ACROSS: u16 = 1;
const REACH_MATTERS: u16 = 2;
const REACHES: u16 = 4;

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Parts<'_> {
    /// Appends the block's record.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Origin { entry, is_across, reaches_over, nodes } = self.origin;
        let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
        let flags = flag(is_across, ACROSS)
            | flag(reaches_over.is_some(), REACH_MATTERS)
            | flag(reaches_over == Some(true), REACHES);
        let counts = [self.pieces.len(), self.thunks.len(), self.patches.len()].map(|count| count as u16);
        for number in [entry as u16, flags, nodes].into_iter().chain(counts) {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.start.to_le_bytes());
        let (split, gap) = (self.placement.split, self.placement.gap());
        for number in [self.code.len() as u32, split, self.crossings.len() as u32] {
            out.extend(number.to_le_bytes());
        }
        for (range, _) in self.pieces {
            out.extend(range.start.to_le_bytes());
            out.extend(range.end.to_le_bytes());
        }
        self.pieces.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes));
        for use_ in self.thunks {
            out.extend((use_.at | u32::from(use_.thunk) << 24).to_le_bytes());
        }
        for &Patch { jump, mappings, target, stub, number } in self.patches {
            for value in [jump, mappings.unwrap_or(NONE), target as u32, stub, number] {
                out.extend(value.to_le_bytes());
            }
        }
        self.crossings.iter().for_each(|at| out.extend(at.to_le_bytes()));
        let start = out.len();
        out.extend_from_slice(self.code);
        move_apart(&mut out[start..], split, self.crossings.iter().copied(), gap.wrapping_neg());
        // What depends on the address or the block's number: the same block gives the same record.
        let changing = self.thunks.iter().map(|use_| use_.at).chain(self.patches.iter().map(|p| p.number));
        for at in changing {
            out[start + at as usize..][..4].fill(0);
        }
    }
}

impl<'a> Record<'a> {
    /// The record at the start of `bytes`; `None` where there is no sound one.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(HEAD)?;
        let flags = half(head, 2);
        let origin = Origin {
            entry: half(head, 0).into(),
            is_across: flags & ACROSS != 0,
            reaches_over: (flags & REACH_MATTERS != 0).then_some(flags & REACHES != 0),
            nodes: half(head, 4),
        };
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at_checked(length)?;
            rest = left;
            Some(taken)
        };
        let [pieces, thunks, patches] = [6, 8, 10].map(|at| usize::from(half(head, at)));
        let [start, length, split, crossings] = [12, 16, 20, 24].map(|at| word(head, at));
        let ranges = take(pieces * RANGE)?;
        let mut guest = 0;
        for range in ranges.chunks_exact(RANGE) {
            guest += usize::from(half(range, 2).checked_sub(half(range, 0))?);
        }
        let record = Self {
            origin,
            start,
            split,
            ranges,
            guest: take(guest)?,
            thunks: take(thunks * THUNK)?,
            patches: take(patches * PATCH)?,
            crossings: take(crossings as usize * CROSSING)?,
            code: take(length as usize)?,
        };
        record.is_sound().then_some(record)
    }

    fn is_sound(&self) -> bool {
        let length = self.code.len() as u32;
        let split = self.split;
        // And in one part.
        let is_inside =
            |at: u32| at.checked_add(4).is_some_and(|end| end <= length && (at >= split || end <= split));
        let is_patchable = |at: u32| is_inside(at) && at.is_multiple_of(4);
        let Origin { entry, is_across, .. } = self.origin;
        let last = LAST as u16;
        let has_origin = (0..=LAST).contains(&entry)
            && entry % 2 == 0
            && self.ranges().all(|range| range.start < range.end && u64::from(range.end) <= PAGE_SIZE)
            && if is_across {
                self.ranges().eq([last..last + 2, 0..2])
            } else {
                self.ranges().next().is_some_and(|range| Offset::from(range.start) == entry)
            };
        has_origin
            && self.code.len() <= LARGEST_CODE
            && self.start.is_multiple_of(8)
            && self.start.checked_add(8).is_some_and(|end| end <= split)
            && split <= length
            && split.is_multiple_of(4)
            && self.crossings().all(is_inside)
            && self.thunks().all(|use_| is_inside(use_.at) && usize::from(use_.thunk) < Thunks::COUNT)
            && self.patches().all(|patch| {
                is_patchable(patch.jump)
                    && patch.mappings.is_none_or(is_patchable)
                    && patch.stub < length
                    && is_inside(patch.number)
            })
    }

    fn ranges(&self) -> impl Iterator<Item = Range<u16>> + use<'a> {
        self.ranges.chunks_exact(RANGE).map(|range| half(range, 0)..half(range, 2))
    }

    /// Guest code, as in [`Parts::pieces`].
    pub fn pieces(&self) -> impl Iterator<Item = (Range<u16>, &'a [u8])> + use<'a> {
        let mut rest = self.guest;
        self.ranges().map(move |range| {
            let (bytes, left) = rest.split_at(range.len());
            rest = left;
            (range, bytes)
        })
    }

    pub fn thunks(&self) -> impl Iterator<Item = ThunkUse> + use<'a> {
        self.thunks.chunks_exact(THUNK).map(|bytes| {
            let value = word(bytes, 0);
            ThunkUse { at: value & 0xff_ffff, thunk: (value >> 24) as u8 }
        })
    }

    pub fn patches(&self) -> impl Iterator<Item = Patch> + use<'a> {
        self.patches.chunks_exact(PATCH).map(|bytes| Patch {
            jump: word(bytes, 0),
            mappings: Some(word(bytes, 4)).filter(|&at| at != NONE),
            target: word(bytes, 8) as Offset,
            stub: word(bytes, 12),
            number: word(bytes, 16),
        })
    }

    /// Where displacements from one part to the other stand in the code.
    pub fn crossings(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.crossings.chunks_exact(CROSSING).map(|bytes| word(bytes, 0))
    }

    /// Bytes of the record.
    pub fn length(&self) -> usize {
        let tables = self.ranges.len() + self.thunks.len() + self.patches.len() + self.crossings.len();
        HEAD + tables + self.guest.len() + self.code.len()
    }

    /// Whether another record is of the same guest code.
    pub fn is_same_guest_code(&self, other: &Record<'_>) -> bool {
        (self.origin, self.ranges, self.guest) == (other.origin, other.ranges, other.guest)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A record of a block whose guest code is `guest`, at `entry`.
    pub fn record(entry: u16, guest: &[u8]) -> Vec<u8> {
        let patch = Patch { jump: 16, mappings: None, target: 0x40, stub: 20, number: 24 };
        let parts = Parts {
            origin: Origin { entry: entry.into(), is_across: false, reaches_over: None, nodes: 2 },
            pieces: &[(entry..entry + guest.len() as u16, guest)],
            start: 8,
            thunks: &[ThunkUse { at: 28, thunk: 3 }],
            patches: &[patch],
            placement: Placement { hot: 0x1000, cold: 0x2000, split: 20 },
            crossings: &[16],
            code: &[0x90; 32],
        };
        let mut bytes = Vec::new();
        parts.write(&mut bytes);
        bytes
    }

    #[test]
    fn record_is_read_back() {
        let bytes = record(0x10, &[1, 2, 3, 4]);
        let record = Record::parse(&bytes).expect("it is sound");
        assert_eq!((record.origin.entry, record.origin.nodes, record.start), (0x10, 2, 8));
        assert!(record.pieces().eq([(0x10..0x14, &[1, 2, 3, 4][..])]));
        assert!(record.thunks().eq([ThunkUse { at: 28, thunk: 3 }]));
        assert_eq!(record.patches().next().map(|patch| (patch.jump, patch.target)), Some((16, 0x40)));
        assert!(record.crossings().eq([16]) && record.split == 20);
        // As if the parts stood together.
        let mut code = record.code.to_vec();
        move_apart(&mut code, 20, record.crossings(), 0x2000 - 0x1000 - 20);
        assert_eq!((&code[..24], &code[24..]), (&[0x90; 24][..], &[0; 8][..]));
        assert_ne!(code, record.code);
    }

    #[test]
    fn cut_record_is_refused() {
        let bytes = record(0x10, &[1, 2, 3, 4]);
        for length in 0..bytes.len() {
            assert!(Record::parse(&bytes[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn places_outside_the_code_are_refused() {
        let bytes = record(0x10, &[1, 2, 3, 4]);
        let (thunk, patch) = (HEAD + RANGE + 4, HEAD + RANGE + 4 + THUNK);
        let crossing = patch + PATCH;
        let cases: [(usize, &[u8]); 11] = [
            (thunk, &[29, 0, 0, 3]),
            (thunk, &[28, 0, 0, Thunks::COUNT as u8]),
            (patch, &[32, 0, 0, 0]),
            (patch, &[18, 0, 0, 0]),
            (patch + 4, &[2, 0, 0, 0]),
            (patch + 12, &[32, 0, 0, 0]),
            (20, &[33, 0, 0, 0]),
            (20, &[12, 0, 0, 0]),
            (crossing, &[18, 0, 0, 0]),
            (patch + 16, &[0xff, 0xff, 0xff, 0xff]),
            (12, &[12, 0, 0, 0]),
        ];
        for (at, wrong) in cases {
            let mut bytes = bytes.clone();
            bytes[at..][..wrong.len()].copy_from_slice(wrong);
            assert!(Record::parse(&bytes).is_none(), "{at}: {wrong:?}");
        }
    }
}
