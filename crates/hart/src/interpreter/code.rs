//! Cache of prepared code, by guest physical page.
//!
//! A page's operations are made as they are first reached, in runs that end at an unconditional jump; each
//! instruction is prepared once, however many runs lead to it. Code doesn't see stores to it before
//! `fence.i`, which only counts an epoch: a page of an older epoch compares its instructions with memory when
//! it is entered next.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use rvisor_isa::{Instruction, decode};
use rvisor_waist::{GuestMemory, GuestPhysical, OutOfRange, PAGE_SIZE};

use super::fetch::load_part;
use super::op::{Code, HALFWORDS, Prepared};

/// Pages kept, some 10 KiB each; when there are more, the oldest is dropped.
const PAGES: usize = 2048;
/// Instructions prepared at a time: what follows a branch may never be reached.
const RUN: usize = 48;
const BYTES: usize = PAGE_SIZE as usize;

/// The operations of one page.
pub struct CodePage {
    physical: GuestPhysical,
    epoch: u64,
    /// Where in `operations` the instruction at each halfword is; 0 where none is prepared.
    pub entries: [u16; HALFWORDS],
    /// The first is [`Code::Unprepared`], so that index 0 is no instruction's.
    pub operations: Vec<Prepared>,
    /// Halfword of each operation's instruction.
    halfwords: Vec<u16>,
    /// Instructions that operations refer to.
    pub side: Vec<Instruction>,
    /// What memory held where instructions are prepared; an instruction alone may reach into the next page.
    source: [u8; BYTES + 2],
    /// The halfwords of `source` that are part of such instructions.
    prepared: [u64; HALFWORDS / 64],
}

impl CodePage {
    fn new(physical: GuestPhysical, epoch: u64) -> Self {
        Self {
            physical,
            epoch,
            entries: [0; HALFWORDS],
            operations: Vec::from([Prepared::new(Code::Unprepared, 0)]),
            halfwords: Vec::from([0]),
            side: Vec::new(),
            source: [0; BYTES + 2],
            prepared: [0; HALFWORDS / 64],
        }
    }

    /// Bytes from the page's start to the instruction of an operation.
    pub fn offset(&self, position: usize) -> u64 {
        u64::from(self.halfwords[position]) * 2
    }

    /// The encoding of an operation's instruction; a compressed one is zero-extended.
    pub fn bits(&self, position: usize) -> u32 {
        let at = usize::from(self.halfwords[position]) * 2;
        let half = |at: usize| u32::from(u16::from_le_bytes([self.source[at], self.source[at + 1]]));
        let low = half(at);
        if low & 3 == 3 { low | half(at + 2) << 16 } else { low }
    }

    /// A page that can hold one instruction, wherever in its page that stands.
    pub fn new_single() -> Self {
        Self::new(GuestPhysical(0), 0)
    }

    /// Position of the instruction that [`set_single`](Self::set_single) prepared.
    pub const SINGLE: usize = 1;

    /// Makes `bits`, at `offset` in its page, the only instruction. Where it may run into or jump to other
    /// instructions, it leaves the page.
    pub fn set_single(&mut self, bits: u32, offset: u64) {
        if self.operations.len() > 1 && self.offset(Self::SINGLE) == offset && self.bits(Self::SINGLE) == bits
        {
            return;
        }
        let at = offset as usize;
        self.source[at..at + 4].copy_from_slice(&bits.to_le_bytes());
        self.operations.truncate(1);
        self.halfwords.truncate(1);
        self.side.clear();
        let operation = self.prepare(bits, at / 2, false);
        self.push(operation, at / 2);
        let length = if bits & 3 == 3 { 4 } else { 2 };
        self.push(Prepared::new(Code::Leave, (at + length) as i32), at / 2);
    }

    fn push(&mut self, operation: Prepared, halfword: usize) {
        self.operations.push(operation);
        self.halfwords.push(halfword as u16);
    }

    /// Prepares the instruction at `halfword` and those behind it.
    fn prepare_run<M: GuestMemory>(&mut self, memory: &M, mut halfword: usize) -> Result<(), OutOfRange> {
        for _ in 0..RUN {
            if halfword == HALFWORDS {
                self.push(Prepared::new(Code::Leave, BYTES as i32), HALFWORDS - 1);
                return Ok(());
            }
            if self.entries[halfword] != 0 {
                self.push(Prepared::new(Code::Goto, self.entries[halfword].into()), halfword);
                return Ok(());
            }
            let bits = self.fetch(memory, halfword)?;
            let is_long = bits & 3 == 3;
            let operation = if is_long && halfword + 1 == HALFWORDS {
                Prepared::new(Code::Crossing, 0)
            } else {
                self.prepare(bits, halfword, true)
            };
            self.entries[halfword] = self.operations.len() as u16;
            self.push(operation, halfword);
            if operation.ends_run() {
                return Ok(());
            }
            halfword += if is_long { 2 } else { 1 };
        }
        let rest = if halfword == HALFWORDS {
            Prepared::new(Code::Leave, BYTES as i32)
        } else {
            Prepared::new(Code::Unprepared, halfword as i32)
        };
        self.push(rest, halfword.min(HALFWORDS - 1));
        Ok(())
    }

    fn prepare(&mut self, bits: u32, halfword: usize, near: bool) -> Prepared {
        let Some(instruction) = decode(bits) else { return Prepared::new(Code::Illegal, 0) };
        let operation = Prepared::from_instruction(&instruction, halfword as u16 * 2, self.side.len(), near);
        if operation.is_kept() {
            self.side.push(instruction);
        }
        operation
    }

    /// The instruction at `halfword`, or of one that crosses into the next page its first half.
    fn fetch<M: GuestMemory>(&mut self, memory: &M, halfword: usize) -> Result<u32, OutOfRange> {
        let page = self.physical.0;
        let bits = rvisor_isa::read(page + halfword as u64 * 2, |address, part| {
            if address - page == PAGE_SIZE { Ok(0) } else { load_part(memory, GuestPhysical(address), part) }
        })?;
        self.note_source(halfword, bits as u16);
        if bits & 3 == 3 && halfword + 1 < HALFWORDS {
            self.note_source(halfword + 1, (bits >> 16) as u16);
        }
        Ok(bits)
    }

    fn note_source(&mut self, halfword: usize, value: u16) {
        self.source[halfword * 2..][..2].copy_from_slice(&value.to_le_bytes());
        self.prepared[halfword / 64] |= 1 << (halfword % 64);
    }

    /// Whether the prepared instructions are still those in memory.
    fn is_current<M: GuestMemory>(&self, memory: &M) -> bool {
        self.prepared.iter().enumerate().all(|(group, &prepared)| {
            let start = group * GROUP_BYTES;
            let then = &self.source[start..start + GROUP_BYTES];
            let mut now = [0; GROUP_BYTES];
            prepared == 0
                || memory.read(self.physical.offset(start as u64), &mut now).is_ok()
                    && (*then == now || agree(prepared, then, &now))
        })
    }
}

/// Bytes of source for each word of [`CodePage::prepared`].
const GROUP_BYTES: usize = 2 * u64::BITS as usize;

/// Whether two groups have the same in the halfwords that are prepared.
fn agree(prepared: u64, then: &[u8], now: &[u8]) -> bool {
    let halves = then.chunks_exact(2).zip(now.chunks_exact(2));
    halves.enumerate().all(|(half, (then, now))| prepared >> half & 1 == 0 || then == now)
}

/// All prepared code of a hart.
pub struct CodeCache {
    pages: Vec<Box<CodePage>>,
    by_address: BTreeMap<u64, u32>,
    oldest: PageIndex,
}

/// The place of a page in the cache.
pub type PageIndex = usize;

impl CodeCache {
    pub fn new() -> Self {
        Self { pages: Vec::new(), by_address: BTreeMap::new(), oldest: 0 }
    }

    #[inline(always)]
    pub fn page(&self, index: PageIndex) -> &CodePage {
        &self.pages[index]
    }

    /// Position of the instruction at `halfword` of a page, if it is prepared and up to date.
    #[inline(always)]
    pub fn position(&self, index: PageIndex, epoch: u64, halfword: usize) -> Option<usize> {
        let page = self.pages.get(index)?;
        let position = usize::from(page.entries[halfword % HALFWORDS]);
        (page.epoch == epoch && position != 0).then_some(position)
    }

    /// The page at `physical`, if there is one.
    pub fn find(&self, physical: GuestPhysical) -> Option<PageIndex> {
        self.by_address.get(&physical.0).map(|&index| index as usize)
    }

    /// Whether adding a page takes the place of another.
    pub fn is_full(&self) -> bool {
        self.pages.len() == PAGES
    }

    /// Adds the page at `physical`, all of which is RAM.
    pub fn add(&mut self, physical: GuestPhysical, epoch: u64) -> PageIndex {
        let page = CodePage::new(physical, epoch);
        let index = if self.is_full() {
            let index = self.oldest;
            self.oldest = (index + 1) % PAGES;
            self.by_address.remove(&self.pages[index].physical.0);
            *self.pages[index] = page;
            index
        } else {
            self.pages.push(Box::new(page));
            self.pages.len() - 1
        };
        self.by_address.insert(physical.0, index as u32);
        index
    }

    /// Brings a page up to `epoch` and prepares the instruction at `halfword` unless it is. Returns its
    /// position.
    pub fn prepare<M: GuestMemory>(
        &mut self,
        index: PageIndex,
        epoch: u64,
        memory: &M,
        halfword: usize,
    ) -> Result<usize, OutOfRange> {
        let page = &mut self.pages[index];
        if page.epoch != epoch {
            if page.is_current(memory) {
                page.epoch = epoch;
            } else {
                **page = CodePage::new(page.physical, epoch);
            }
        }
        if page.entries[halfword] == 0 {
            page.prepare_run(memory, halfword)?;
        }
        Ok(page.entries[halfword].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_gives_the_oldest_page_away() {
        let page = |number: usize| GuestPhysical(number as u64 * PAGE_SIZE);
        let mut cache = CodeCache::new();
        for number in 0..PAGES {
            assert_eq!(cache.add(page(number), 0), number);
        }
        assert!(cache.is_full());
        assert_eq!(cache.add(page(PAGES), 0), 0);
        assert_eq!(cache.add(page(PAGES + 1), 0), 1);
        assert_eq!((cache.find(page(0)), cache.find(page(1))), (None, None));
        assert_eq!((cache.find(page(2)), cache.find(page(PAGES))), (Some(2), Some(0)));
    }
}
