//! One shadow address space: a tree of tables for one guest address space as seen with certain rights.

use alloc::vec::Vec;

use rvisor_hart::Span;
use rvisor_waist::GuestVirtual;

use super::pool::{Pool, TableId};
use crate::address::MachineAddress;
use crate::arch::layout::WINDOW_SLOTS;
use crate::processor::Asid;
use crate::pte::Pte;

/// Which rights a shadow space was filled with. Translations that differ only in what SUM or MXR allow must not
/// meet in one space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The guest's privilege is S.
    pub supervisor: bool,
    /// `sstatus.SUM`; false in U-mode, where it means nothing.
    pub sum: bool,
    /// `sstatus.MXR`.
    pub mxr: bool,
}

/// What a space shadows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The guest's `satp`: root and ASID; zero without translation.
    pub satp: u64,
    /// Rights.
    pub view: View,
}

/// A page to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Address that the guest used.
    pub address: GuestVirtual,
    /// Machine address that it leads to.
    pub machine: MachineAddress,
    /// R, W and X, as bits of a PTE.
    pub rights: u64,
    /// Size of the page that the guest's tables map, in bytes.
    pub guest_size: u64,
    /// Whether 2 MiB around the address may be mapped at once.
    pub is_large: bool,
}

/// The pool has no table left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted;

/// Whether an entry points to a table of the space's own.
fn is_own_table(entry: Pte) -> bool {
    entry.is_valid() && !entry.is_leaf() && !entry.is_shared()
}

/// One tree.
pub struct Space {
    /// What it shadows.
    pub key: Key,
    /// Its number in the TLB, once it has one.
    pub asid: Option<Asid>,
    /// When it was last entered, in entries of the virtual hart.
    pub used: u64,
    root: TableId,
    window: usize,
    tables: Vec<TableId>,
    /// Where the guest's pages are larger than the shadow's: a fence of one address means all of the page.
    split: Span,
}

/// Bytes of a large page.
pub const LARGE: u64 = 2 << 20;
const PAGE: u64 = 4096;

const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize & 511
}

impl Space {
    /// An empty tree. `window` is the entry that leads to the monitor's window.
    pub fn new(key: Key, pool: &mut Pool, window: Pte) -> Result<Self, Exhausted> {
        let root = pool.take().ok_or(Exhausted)?;
        pool.set(root, WINDOW_SLOTS.start, window);
        let slot = WINDOW_SLOTS.start;
        Ok(Self { key, asid: None, used: 0, root, window: slot, tables: Vec::new(), split: Span::EMPTY })
    }

    /// Gives all tables back.
    pub fn free(self, pool: &mut Pool) {
        pool.give(self.root);
        self.tables.into_iter().for_each(|table| pool.give(table));
    }

    /// Machine address of the root.
    pub fn root(&self, pool: &Pool) -> MachineAddress {
        pool.address(self.root)
    }

    /// The slot of the monitor's window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Moves the window to a slot that the guest doesn't use, or used least recently in the order of slots: what
    /// was mapped there will be filled again.
    fn move_window(&mut self, pool: &mut Pool) {
        let entry = pool.get(self.root, self.window);
        let unused = WINDOW_SLOTS.rev().find(|slot| !pool.get(self.root, *slot).is_valid());
        let next = if self.window + 1 == WINDOW_SLOTS.end { WINDOW_SLOTS.start } else { self.window + 1 };
        let slot = unused.unwrap_or(next);
        pool.set(self.root, self.window, Pte::default());
        pool.set(self.root, slot, entry);
        self.window = slot;
        // The TLB may hold the window where it was.
        self.asid = None;
    }

    /// The table that entry `index` of `table` points to; made if there is none.
    fn child(&mut self, pool: &mut Pool, table: TableId, index: usize) -> Result<TableId, Exhausted> {
        let entry = pool.get(table, index);
        if entry.is_valid()
            && !entry.is_leaf()
            && !entry.is_shared()
            && let Some(child) = pool.at(entry.address())
        {
            return Ok(child);
        }
        let child = pool.take().ok_or(Exhausted)?;
        self.tables.push(child);
        pool.set(table, index, Pte::pointer(pool.address(child)));
        Ok(child)
    }

    /// Maps a page. What was mapped at the address before stays only where it leads to the same place. The caller
    /// fences the address.
    pub fn fill(&mut self, pool: &mut Pool, page: &Page) -> Result<(), Exhausted> {
        let address = page.address.0;
        if index(address, 2) == self.window {
            self.move_window(pool);
        }
        let size = if page.is_large { LARGE } else { PAGE };
        if page.guest_size > size {
            self.split.add(address, page.guest_size);
        }
        let (mut table, mut slot) = (self.child(pool, self.root, index(address, 2))?, index(address, 1));
        if !page.is_large {
            (table, slot) = (self.child(pool, table, slot)?, index(address, 0));
        }
        let start = MachineAddress(page.machine.0 & !(size - 1));
        let old = pool.get(table, slot);
        let known = if old.is_leaf() && old.address() == start { old.rights() } else { 0 };
        pool.set(table, slot, Pte::leaf(start, page.rights | known | Pte::U));
        Ok(())
    }

    /// Maps 2 MiB by a table that stays the caller's, of entries for all pages around the address. The caller fences
    /// the address; everything, where the answer is that something was mapped there before.
    pub fn fill_shared(
        &mut self,
        pool: &mut Pool,
        address: GuestVirtual,
        table: TableId,
    ) -> Result<bool, Exhausted> {
        let address = address.0;
        if index(address, 2) == self.window {
            self.move_window(pool);
        }
        self.split.add(address & !(LARGE - 1), LARGE);
        let (parent, slot) = (self.child(pool, self.root, index(address, 2))?, index(address, 1));
        let old = pool.get(parent, slot);
        pool.set(parent, slot, Pte::shared_pointer(pool.address(table)));
        if let Some(own) = Some(old).filter(|old| is_own_table(*old)).and_then(|old| pool.at(old.address())) {
            self.tables.retain(|table| *table != own);
            pool.give(own);
        }
        Ok(old.is_valid() && old != Pte::shared_pointer(pool.address(table)))
    }

    /// The shared table that maps an address.
    pub fn shared(&self, pool: &Pool, address: GuestVirtual) -> Option<TableId> {
        let entry = pool.get(self.root, index(address.0, 2));
        let parent =
            Some(entry).filter(|entry| is_own_table(*entry)).and_then(|entry| pool.at(entry.address()))?;
        let entry = pool.get(parent, index(address.0, 1));
        if entry.is_valid() && entry.is_shared() { pool.at(entry.address()) } else { None }
    }

    /// Forgets the pages of which `is_stale` says so, by the entry and its bytes, and what shared tables map. Whether there were any.
    pub fn forget_where(&mut self, pool: &mut Pool, is_stale: impl Fn(Pte, u64) -> bool) -> bool {
        let mut stale = Vec::new();
        for (slot, entry) in pool.entries(self.root) {
            let Some(middle) = Some(entry)
                .filter(|entry| slot != self.window && is_own_table(*entry))
                .and_then(|entry| pool.at(entry.address()))
            else {
                continue;
            };
            for (slot, entry) in pool.entries(middle) {
                if entry.is_shared() || entry.is_leaf() && is_stale(entry, LARGE) {
                    stale.push((middle, slot));
                } else if is_own_table(entry)
                    && let Some(table) = pool.at(entry.address())
                {
                    let pages = pool.entries(table).filter(|(_, entry)| is_stale(*entry, PAGE));
                    stale.extend(pages.map(|(slot, _)| (table, slot)));
                }
            }
        }
        stale.iter().for_each(|(table, slot)| pool.set(*table, *slot, Pte::default()));
        !stale.is_empty()
    }

    /// The entry that maps an address.
    pub fn find(&self, pool: &Pool, address: GuestVirtual) -> Option<Pte> {
        let mut table = self.root;
        for level in (0..=2).rev() {
            let slot = index(address.0, level);
            if level == 2 && slot == self.window {
                return None;
            }
            let entry = pool.get(table, slot);
            if !entry.is_valid() {
                return None;
            }
            if entry.is_leaf() {
                return Some(entry);
            }
            table = pool.at(entry.address())?;
        }
        None
    }

    /// Forgets what is mapped at an address. False where that is more than one entry: then the whole space has
    /// to go.
    pub fn forget(&mut self, pool: &mut Pool, address: GuestVirtual) -> bool {
        if self.split.contains(address.0) {
            return false;
        }
        let mut table = self.root;
        for level in (0..=2).rev() {
            let slot = index(address.0, level);
            if level == 2 && slot == self.window {
                return true;
            }
            let entry = pool.get(table, slot);
            if !entry.is_valid() {
                return true;
            }
            if entry.is_leaf() {
                pool.set(table, slot, Pte::default());
                return true;
            }
            let Some(next) = pool.at(entry.address()) else { return true };
            table = next;
        }
        true
    }
}
