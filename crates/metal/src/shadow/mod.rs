//! Shadow page tables of one virtual hart: guest virtual to machine addresses, filled as the guest touches pages.
//!
//! A *space* (`Space`) belongs to a value of `satp` and to a view: guest user, guest kernel, guest kernel with
//! SUM. Spaces are kept when the guest switches between them, each with an ASID of the hardware, so that neither a
//! system call nor a process switch flushes anything. When tables or spaces run short, what was used least recently
//! goes.
//!
//! What a page maps and with which rights is decided by `rvisor_hart`'s walk of the guest's tables; this module
//! knows nothing of the guest's.

mod fetches;
mod places;
mod pool;
mod space;
mod split;
mod stage;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;

use rvisor_isa::csr::satp;
use rvisor_waist::GuestVirtual;

use fetches::Fetches;
pub use places::Guard;
use places::Places;
pub use pool::{Pool, Table};
use space::{Exhausted, Space};
pub use space::{Key, Page, View};
use split::Split;
pub use stage::{Stage, StageMode};

use crate::copies::{Copies, Original, SLOTS};
use crate::processor::{Asid, Entry, Processor};
use crate::pte::Pte;
use crate::sequence;

/// Spaces that are kept.
const SPACES: usize = 48;
/// Least number of tables: enough for any one instruction's pages.
pub const LEAST_TABLES: u32 = 64;

/// The spaces of one guest address space, by what they are entered with.
struct Known {
    key: Key,
    generation: u64,
    window: usize,
    /// `satp`, and the space's place; zero where there is none.
    roots: [(u64, usize); 3],
}

/// The spaces of one virtual hart.
pub struct Shadow {
    pool: Pool,
    spaces: Vec<Space>,
    splits: Vec<Split>,
    places: Box<Places>,
    window: Pte,
    current: usize,
    clock: u64,
    /// What [`roots`](Self::roots) answered last, while it holds.
    known: Option<Known>,
    /// The physical hart whose TLB knows the spaces' ASIDs.
    processor: usize,
    /// See [`sequence`].
    tag: u64,
    /// What its fetches may know.
    pub fetches: Fetches,
    /// How often a page was filled.
    pub fills: u64,
}

impl Shadow {
    /// No space yet. `window` is the entry that leads to the monitor's window; `number` is the virtual hart's among all.
    pub fn new(pool: Pool, window: Pte, number: u16) -> Self {
        Self {
            tag: sequence::tag(number),
            pool,
            spaces: Vec::new(),
            splits: Vec::new(),
            places: Box::default(),
            window,
            current: 0,
            clock: 0,
            known: None,
            processor: usize::MAX,
            fetches: Fetches::default(),
            fills: 0,
        }
    }

    /// Makes the space with this key the current one, and tells how to enter it.
    pub fn enter<P: Processor>(&mut self, key: Key, processor: &mut P) -> Entry {
        if self.spaces.get(self.current).is_none_or(|space| space.key != key) {
            self.current = self.find(key);
        }
        if self.processor != processor.index() {
            // Fences since the virtual hart was last there weren't made in that hart's TLB.
            self.processor = processor.index();
            self.spaces.iter_mut().for_each(|space| space.asid = None);
            self.known = None;
        }
        self.clock += 1;
        let space = &mut self.spaces[self.current];
        space.used = self.clock;
        let asid = match space.asid {
            Some(asid) if asid.generation == processor.generation() => asid,
            _ => {
                self.known = None;
                *space.asid.insert(processor.new_asid())
            }
        };
        let space = &self.spaces[self.current];
        Entry { root: self.root(space), asid: asid.number, window: space.window() }
    }

    /// The values of `satp` for the guest's user mode, S-mode, and S-mode with SUM, as far as there are such spaces
    /// that have the window where `entry`, that of the space with this key, has it. Zero for others.
    pub fn roots<P: Processor>(&mut self, key: Key, entry: &Entry, processor: &P) -> [u64; 3] {
        if key.satp == 0 {
            return [entry.satp(); 3];
        }
        let generation = processor.generation();
        let holds = |known: &&Known| {
            let view = known.key.view;
            known.key.satp == key.satp
                && view.mxr == key.view.mxr
                && known.generation == generation
                && known.window == entry.window
        };
        let roots = match self.known.as_ref().filter(holds) {
            Some(known) => known.roots,
            None => {
                let views = [(false, false), (true, false), (true, true)];
                let roots = views.map(|(supervisor, sum)| {
                    let key = Key { view: View { supervisor, sum, ..key.view }, ..key };
                    self.ready(key, generation, entry.window).unwrap_or_default()
                });
                self.known = Some(Known { key, generation, window: entry.window, roots });
                roots
            }
        };
        for (_, place) in roots.iter().filter(|(satp, _)| *satp != 0) {
            self.spaces[*place].used = self.clock;
        }
        roots.map(|(satp, _)| satp)
    }

    /// How the space with this key is entered, and its place, if that needs no more than a write of `satp`.
    fn ready(&self, key: Key, generation: u64, window: usize) -> Option<(u64, usize)> {
        let place = self.spaces.iter().position(|space| space.key == key)?;
        let space = &self.spaces[place];
        let asid = space.asid.filter(|asid| asid.generation == generation && space.window() == window)?;
        let root = self.root(space);
        Some((Entry { root, asid: asid.number, window }.satp(), place))
    }

    /// The virtual hart's tag: what keeps its sequences apart from others'.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.tag
    }

    fn root(&self, space: &Space) -> u64 {
        satp::SV39 << satp::MODE_SHIFT | space.root(&self.pool).page_number()
    }

    fn find(&mut self, key: Key) -> usize {
        if let Some(index) = self.spaces.iter().position(|space| space.key == key) {
            return index;
        }
        if self.spaces.len() >= SPACES {
            self.drop_oldest();
        }
        loop {
            match Space::new(key, &mut self.pool, self.window) {
                Ok(space) => {
                    self.spaces.push(space);
                    return self.spaces.len() - 1;
                }
                // Every table that isn't free belongs to a space, or to several.
                Err(Exhausted) => self.make_room(key),
            }
        }
    }

    /// Frees tables: those of the space that was used least recently, of this one last, and with that all that several share.
    fn make_room(&mut self, key: Key) {
        for space in self.spaces.iter_mut().filter(|space| space.key == key) {
            space.used = u64::MAX;
        }
        if self.spaces.len() <= 1 {
            self.drop_splits();
        }
        self.drop_oldest();
    }

    fn drop_oldest(&mut self) {
        let oldest = self.spaces.iter().enumerate().min_by_key(|(_, space)| space.used);
        if let Some((index, _)) = oldest {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        self.known = None;
        let space = self.spaces.swap_remove(index);
        space.free(&mut self.pool);
        // Indices have changed; the next entry looks for its space.
        self.current = usize::MAX;
    }

    /// Forgets everything: the guest's memory is given back.
    pub fn clear(&mut self) {
        while !self.spaces.is_empty() {
            self.remove(0);
        }
        self.drop_splits();
        *self.places = Places::default();
        self.fetches.clear();
    }

    /// Maps a page in the space with this key.
    pub fn fill<P: Processor>(&mut self, key: Key, page: &Page, processor: &mut P) {
        self.fills += 1;
        loop {
            let index = self.find(key);
            let space = &mut self.spaces[index];
            let asid = space.asid;
            match space.fill(&mut self.pool, page) {
                Ok(()) => {
                    if let Some(Asid { number, .. }) = space.asid {
                        processor.fence_page(page.address.0, number);
                    }
                    if space.asid != asid {
                        self.known = None;
                    }
                    self.current = index;
                    return;
                }
                // Each time a space goes, this one at the latest; an empty one has room for a page.
                Err(Exhausted) => self.make_room(key),
            }
        }
    }

    /// Carries out an `sfence.vma` of an address, or all, in an address space, or all.
    pub fn fence<P: Processor>(
        &mut self,
        address: Option<GuestVirtual>,
        asid: Option<u16>,
        processor: &mut P,
    ) {
        for index in (0..self.spaces.len()).rev() {
            let space = &mut self.spaces[index];
            let is_meant = asid.is_none_or(|asid| (space.key.satp >> satp::ASID_SHIFT) as u16 == asid);
            // Without translation there is nothing that a fence could change.
            if !is_meant || space.key.satp == 0 {
                continue;
            }
            match (address, space.asid) {
                (Some(address), known) if space.forget(&mut self.pool, address) => {
                    if let Some(asid) = known {
                        processor.fence_page(address.0, asid.number);
                    }
                }
                _ => self.remove(index),
            }
        }
    }

    /// Tables in use and all tables.
    #[cfg(test)]
    fn left(&self) -> usize {
        self.pool.left()
    }
}
