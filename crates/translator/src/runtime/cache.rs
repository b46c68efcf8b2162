//! The cache of translated code that all harts of a VM share.
//!
//! A block belongs to the guest physical address of its first instruction. Each remembers the bytes it was
//! made from: `fence.i` compares the blocks of pages that were written to, and removes those that differ.

use std::io::{self, Write as _};
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use rustc_hash::FxHashMap;
use rvisor_waist::PAGE_SIZE;

use crate::backend::x64::assembler::Assembler;
use crate::backend::x64::lower::{Features, Patch, Second, lower};
use crate::backend::x64::placement::Placement;
use crate::backend::x64::thunks::{self, Helpers, Thunks};
use crate::frontend::{LAST, Source, across, superblock};
use crate::ir::{Offset, Plan, Superblock};
use crate::runtime::code_memory::{CodeMemory, Part};
use crate::runtime::dump::listing;
use crate::runtime::store::record::LARGEST_CODE;
use crate::runtime::store::{Store, Wanted};
use crate::runtime::{Optimize, Options};

mod keeping;
mod page;
mod piece;
mod report;

use page::PageCode;
use piece::{Piece, pieces};
pub use report::CacheCounts;
use report::Watched;

/// Number of a block.
pub type BlockId = u32;

/// Bytes of one page of guest code, as they were when it was looked at.
pub struct PageBytes(pub [u8; PAGE_SIZE as usize]);

impl Source for PageBytes {
    fn half(&self, offset: Offset) -> u16 {
        let at = offset as usize & (PAGE_SIZE as usize - 2);
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }
}

struct Block {
    /// Guest physical address of the first instruction.
    physical: u64,
    /// What it was made from: pages, and the bytes in them.
    pieces: Vec<Piece>,
    /// Links that lead here.
    incoming: Vec<u32>,
    /// Its own.
    links: Range<u32>,
    /// The block of the other tier that was made for the same address; each goes with the other.
    partner: Option<BlockId>,
    /// How often it was entered, and its listing, for a profile.
    watched: Option<Watched>,
}

/// A jump that is linked to its target's code once that is known.
struct Link {
    /// Of the displacement.
    jump: u64,
    /// Of the number of mappings, for a jump to another page.
    mappings: Option<u64>,
    stub: u64,
    target: Option<BlockId>,
    /// Whether it was ever linked.
    was_linked: bool,
}

/// A state of a page's code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epoch(u64, u64);

/// The cache.
pub struct CodeCache {
    memory: CodeMemory,
    asm: Assembler,
    thunks: Thunks,
    /// Bytes of thunks.
    fixed: usize,
    features: Features,
    options: Options,
    /// Translations of earlier runs, and for later ones.
    store: Option<Store>,
    /// Code that is being moved to its place.
    moved: Vec<u8>,
    /// Whether several harts execute the code.
    is_shared: bool,
    blocks: Vec<Block>,
    /// The blocks' addresses: what is asked for most often stands close together.
    codes: Vec<u64>,
    links: Vec<Link>,
    by_address: FxHashMap<u64, BlockId>,
    /// By guest physical address of the page.
    pages: FxHashMap<u64, PageCode>,
    /// Blocks of instructions across page ends, by both pages.
    across: FxHashMap<(u64, u64), BlockId>,
    /// How often everything was thrown away, and the code of each page compared with what it was made from.
    epoch: u64,
    compared: FxHashMap<u64, u64>,
    /// Counts since the start.
    pub counts: CacheCounts,
}

impl CodeCache {
    /// An empty cache of `size` bytes of host code.
    pub fn new(size: usize, helpers: &Helpers, is_shared: bool, options: Options) -> io::Result<Self> {
        let mut memory = CodeMemory::new(size)?;
        let mut asm = Assembler::new();
        if !memory.prepare(LARGEST_CODE) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let base = memory.next(Part::Hot);
        asm.start(base, 0);
        let thunks = thunks::write(&mut asm, base, helpers);
        memory.append(Part::Hot, asm.finish());
        let fixed = (memory.next(Part::Hot) - base) as usize;
        let features = Features::detect();
        let store = options.store.as_deref().filter(|_| !options.profile && options.dump.is_none());
        let store = store.and_then(|directory| Store::open(directory, features.bits()));
        Ok(Self {
            memory,
            asm,
            thunks,
            fixed,
            features,
            options,
            store,
            moved: Vec::new(),
            is_shared,
            blocks: Vec::new(),
            codes: Vec::new(),
            links: Vec::new(),
            by_address: FxHashMap::default(),
            pages: FxHashMap::default(),
            across: FxHashMap::default(),
            epoch: 0,
            compared: FxHashMap::default(),
            counts: CacheCounts::default(),
        })
    }

    pub fn thunks(&self) -> &Thunks {
        &self.thunks
    }

    /// The block at a guest physical address.
    pub fn find(&self, physical: u64) -> Option<BlockId> {
        self.by_address.get(&physical).copied()
    }

    pub fn code(&self, block: BlockId) -> u64 {
        self.codes[block as usize]
    }

    /// Whether there is no code of a page.
    pub fn is_empty(&self, page: u64) -> bool {
        self.pages.get(&page).is_none_or(|page| page.blocks.is_empty())
    }

    /// Whether there is room for another block.
    pub fn has_room(&self) -> bool {
        self.memory.has_room(LARGEST_CODE)
    }

    /// Makes code of the superblock at `entry` of the guest physical page `page`, which holds `bytes`: what is
    /// kept of it, else a translation.
    pub fn translate(&mut self, page: u64, entry: Offset, bytes: &PageBytes) -> BlockId {
        let id = self.take(page, page, Wanted::InPage(entry, bytes)).unwrap_or_else(|| {
            let block = superblock(bytes, entry);
            let pieces = pieces(page, &block, bytes);
            self.add(page, &block, pieces, None)
        });
        self.by_address.insert(page + entry as u64, id);
        for link in self.pages.entry(page).or_default().waited(entry as u64) {
            self.link(link, id, 0);
        }
        id
    }

    /// Whether the second tier may be asked for a trace from an address, whose block only the first has made.
    pub fn may_optimize(&self, physical: u64) -> bool {
        self.options.optimize == Optimize::Hot
            && self.find(physical).is_some_and(|block| self.blocks[block as usize].partner.is_none())
    }

    /// Whether the second tier translates everything at once.
    pub fn optimizes_always(&self) -> bool {
        self.options.optimize == Optimize::Always
    }

    /// What changes when code of a page may have been found to be out of date.
    pub fn epoch(&self, page: u64) -> Epoch {
        Epoch(self.epoch, self.compared.get(&page).copied().unwrap_or(0))
    }

    /// Adds the second tier's code of `trace`, which was read from `bytes` when the page's epoch was `epoch`; from
    /// now on it runs instead of the first tier's block. False where it came too late, or there is no room.
    pub fn replace(
        &mut self,
        page: u64,
        trace: &Superblock,
        plan: &Plan,
        bytes: &PageBytes,
        epoch: Epoch,
    ) -> bool {
        let physical = page + trace.entry as u64;
        let Some(old) = self.find(physical) else { return false };
        if epoch != self.epoch(page) || !self.has_room() || self.blocks[old as usize].partner.is_some() {
            return false;
        }
        let first_tier = self.code(old) + NOTHING;
        let second = Second { plan, first_tier };
        let pieces = pieces(page, trace, bytes);
        let new = self.add(page, trace, pieces, Some(&second));
        self.counts.traces += 1;
        self.counts.traced += trace.nodes.len() as u64;
        self.by_address.insert(physical, new);
        let code = self.code(new);
        let incoming = std::mem::take(&mut self.blocks[old as usize].incoming);
        for &number in &incoming {
            let link = &mut self.links[number as usize];
            if link.target == Some(old) {
                link.target = Some(new);
                self.memory.patch_jump(link.jump, code);
            }
        }
        self.blocks[new as usize].incoming.extend(incoming);
        self.blocks[new as usize].partner = Some(old);
        self.blocks[old as usize].partner = Some(new);
        // Whoever holds the old address finds the way from there.
        let start = first_tier - NOTHING;
        self.memory.patch_start(start, to(JMP, start, code));
        true
    }

    /// The block of the instruction across the end of `page`, whose other half is in the page `next`.
    pub fn find_across(&self, page: u64, next: u64) -> Option<BlockId> {
        self.across.get(&(page, next)).copied()
    }

    /// Translates the instruction across the end of `page`; `None` where it is for the interpreter.
    pub fn translate_across(&mut self, page: u64, next: u64, low: u16, high: u16) -> Option<BlockId> {
        let bits = u32::from(low) | u32::from(high) << 16;
        let id = match self.take(page, next, Wanted::Across(bits.to_le_bytes())) {
            Some(id) => id,
            None => {
                let block = across(bits)?;
                let piece = |page, start, half: u16| Piece {
                    page,
                    range: start..start + 2,
                    bytes: half.to_le_bytes().into(),
                };
                let pieces = vec![piece(page, LAST as u16, low), piece(next, 0, high)];
                self.add(page, &block, pieces, None)
            }
        };
        self.across.insert((page, next), id);
        Some(id)
    }

    /// Translates a block and adds it.
    fn add(
        &mut self,
        page: u64,
        block: &Superblock,
        pieces: Vec<Piece>,
        second: Option<&Second<'_>>,
    ) -> BlockId {
        let (hot, cold) = self.prepare();
        self.asm.start(hot, cold);
        let first_link = self.links.len() as u32;
        let entered = self.options.profile.then(Box::<AtomicU64>::default);
        let counter = entered.as_ref().map(|entered| entered.as_ptr() as u64);
        let lowered = lower(&mut self.asm, &self.thunks, self.features, block, first_link, counter, second);
        self.asm.finish();
        let (code, placement) = (self.asm.code(), self.asm.placement());
        append(&mut self.memory, code, placement);
        let length = code.len() as u32;
        let plan = second.map(|second| second.plan);
        if let Some(dump) = &mut self.options.dump
            && let Err(error) =
                writeln!(dump, "{}", listing(page, block, plan, placement, code, &lowered.marks))
        {
            log::error!("can't write the translations: {error}; their file ends here");
            self.options.dump = None;
        }
        let watched = entered.map(|entered| {
            let (block, marks) = (block.clone(), lowered.marks.clone());
            Watched { entered, block, plan: plan.cloned(), page, placement, code: code.into(), marks }
        });
        // What the second tier makes depends on what was executed, not on guest code alone.
        if second.is_none() {
            self.keep(page, block, &lowered, &pieces);
        }
        self.counts.blocks += 1;
        self.counts.instructions += block.nodes.len() as u64;
        self.counts.bytes += u64::from(length);
        let physical = page + block.entry as u64;
        let code = placement.address(lowered.start);
        let block = Block { physical, pieces, incoming: Vec::new(), links: 0..0, partner: None, watched };
        self.insert(page, placement, code, block, lowered.patches.into_iter())
    }

    /// Makes room for a block: where its parts will run.
    fn prepare(&mut self) -> (u64, u64) {
        let is_prepared = self.memory.prepare(LARGEST_CODE);
        assert!(is_prepared, "the caller made room");
        (self.memory.next(Part::Hot), self.memory.next(Part::Cold))
    }

    /// Makes a block known, and where its code is.
    fn insert(
        &mut self,
        page: u64,
        placement: Placement,
        code: u64,
        block: Block,
        patches: impl Iterator<Item = Patch>,
    ) -> BlockId {
        let id = self.blocks.len() as BlockId;
        for piece in &block.pieces {
            let ids = &mut self.pages.entry(piece.page).or_default().blocks;
            if ids.last() != Some(&id) {
                ids.push(id);
            }
        }
        self.blocks.push(block);
        self.codes.push(code);
        let first_link = self.links.len() as u32;
        for patch in patches {
            let number = self.links.len() as u32;
            self.links.push(Link {
                jump: placement.address(patch.jump),
                mappings: patch.mappings.map(|at| placement.address(at)),
                stub: placement.address(patch.stub),
                target: None,
                was_linked: false,
            });
            // Jumps inside the page need not wait to be taken, only for their target's block.
            if patch.mappings.is_none() {
                match self.find(page + patch.target as u64) {
                    Some(target) => self.link(number, target, 0),
                    None => self.pages.entry(page).or_default().wait(patch.target as u64, number),
                }
            }
        }
        self.blocks[id as usize].links = first_link..self.links.len() as u32;
        id
    }

    /// Whether a jump leads to another page.
    pub fn is_far(&self, link: u32) -> bool {
        self.links[link as usize].mappings.is_some()
    }

    /// Links a jump to a block; one to another page holds under `mappings` only.
    ///
    /// Where several harts execute the code, a jump to another page is linked to one target only, ever: a hart
    /// may stand between its comparison and its jump.
    pub fn link(&mut self, link: u32, target: BlockId, mappings: u32) {
        let pieces = &self.blocks[target as usize].pieces;
        // Another hart's `fence.i` may have removed it by now.
        if pieces.is_empty() {
            return;
        }
        let reaches_over = pieces.first().map(|piece| piece.page) != pieces.last().map(|piece| piece.page);
        let code = self.code(target);
        let entry = &mut self.links[link as usize];
        // What it is depends on mappings, unlike the jump.
        if reaches_over && entry.mappings.is_none() {
            return;
        }
        match (entry.target, entry.mappings) {
            (Some(old), Some(_)) if old != target && self.is_shared => return,
            (None, Some(_)) if entry.was_linked && self.is_shared => return,
            (Some(_), None) => return,
            (Some(old), Some(at)) if old == target => return self.memory.patch(at, mappings),
            (_, at) => {
                entry.was_linked = true;
                entry.target = Some(target);
                self.memory.patch_jump(entry.jump, code);
                if let Some(at) = at {
                    self.memory.patch(at, mappings);
                }
            }
        }
        self.note_incoming(target, link);
    }

    /// Remembers that a link leads to a block. Links that lead elsewhere by now are forgotten before their list
    /// grows.
    fn note_incoming(&mut self, target: BlockId, link: u32) {
        let incoming = &mut self.blocks[target as usize].incoming;
        if incoming.len() == incoming.capacity() {
            let links = &self.links;
            incoming.retain(|&link| links[link as usize].target == Some(target));
            incoming.sort_unstable();
            incoming.dedup();
        }
        incoming.push(link);
    }

    /// Removes the blocks of a page that weren't made from `bytes`. Whether any is left.
    pub fn validate(&mut self, page: u64, bytes: &PageBytes) -> bool {
        *self.compared.entry(page).or_default() += 1;
        let Some(known) = self.pages.get(&page) else { return false };
        let is_stale = |&id: &BlockId| {
            let pieces = &self.blocks[id as usize].pieces;
            pieces.iter().any(|piece| piece.page == page && !piece.is_current(bytes))
        };
        let stale: Vec<_> = known.blocks.iter().copied().filter(is_stale).collect();
        stale.into_iter().for_each(|id| self.remove(id));
        !self.is_empty(page)
    }

    fn remove(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if block.pieces.is_empty() {
            return;
        }
        self.counts.removed += 1;
        if let Some(partner) = block.partner.take() {
            self.blocks[partner as usize].partner = None;
            self.remove(partner);
        }
        let block = &mut self.blocks[id as usize];
        let incoming = std::mem::take(&mut block.incoming);
        let pieces = std::mem::take(&mut block.pieces);
        for piece in &pieces {
            if let Some(known) = self.pages.get_mut(&piece.page) {
                known.forget_links(&block.links);
                known.blocks.retain(|&other| other != id);
                if known.blocks.is_empty() {
                    self.pages.remove(&piece.page);
                }
            }
        }
        if self.by_address.get(&block.physical) == Some(&id) {
            self.by_address.remove(&block.physical);
        }
        if let [first, second] = &pieces[..] {
            let key = (first.page, second.page);
            if self.across.get(&key) == Some(&id) {
                self.across.remove(&key);
            }
        }
        // Whoever still holds its address finds the way to the monitor there.
        let code = self.code(id);
        self.memory.patch_start(code, to(CALL, code, self.thunks.dead));
        for number in incoming {
            let link = &mut self.links[number as usize];
            if link.target == Some(id) {
                match link.mappings {
                    // Its jump still leads here, for a hart that has compared already.
                    Some(at) => self.memory.patch(at, 0),
                    None => {
                        link.target = None;
                        self.memory.patch_jump(link.jump, link.stub);
                    }
                }
            }
        }
    }

    /// Throws everything away. No hart may be in translated code.
    pub fn clear(&mut self) {
        self.epoch += 1;
        self.compared.clear();
        self.memory.truncate(self.fixed);
        self.blocks.clear();
        self.codes.clear();
        self.links.clear();
        self.by_address.clear();
        self.pages.clear();
        self.across.clear();
        self.counts.flushes += 1;
    }

    /// Whether a profile is made.
    pub fn is_profiled(&self) -> bool {
        self.options.profile
    }

    /// Guest physical pages that there is code of.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().copied()
    }
}

/// `call` and `jmp` with a 32-bit displacement.
const CALL: u8 = 0xe8;
const JMP: u8 = 0xe9;
/// Bytes of the no-operation at a block's start.
const NOTHING: u64 = 8;

/// An instruction of 5 bytes at `address` that leads to `target`.
fn to(opcode: u8, address: u64, target: u64) -> [u8; 5] {
    let [a, b, c, d] = (target.wrapping_sub(address + 5) as u32).to_le_bytes();
    [opcode, a, b, c, d]
}

/// Puts code into its place.
fn append(memory: &mut CodeMemory, code: &[u8], placement: Placement) {
    let (hot, cold) = code.split_at(placement.split as usize);
    let appended = memory.append(Part::Hot, hot) && memory.append(Part::Cold, cold);
    assert!(appended, "room was made");
}

#[cfg(test)]
mod tests;
