//! Shadow tables beside copies of the guest's text (`crate::copies`): what the guest's kernel executes there is mapped to the
//! copies, and what they are copies of can't be written to.
//!
//! A large page of the guest's with such pages in it is *split*: one table of 512 entries, all of them made at once, which all
//! spaces that map it alike point to.

use super::{Copies, Exhausted, Guard, GuestVirtual, Key, Original, Page, Pte, SLOTS, Shadow, Vec};
use crate::address::MachineAddress;
use crate::copies::PAGE;
use crate::processor::Processor;
use crate::shadow::pool::TableId;
use crate::shadow::space::LARGE;

/// A table of base pages in place of a large page.
pub struct Split {
    kind: Kind,
    table: TableId,
}

/// Spaces that have the same kind share its table.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    address: u64,
    machine: MachineAddress,
    rights: u64,
    has_copies: bool,
}

/// Whether copies are executed in spaces with this key: those of the guest's kernel, with translation.
const fn has_copies(key: &Key) -> bool {
    key.satp != 0 && key.view.supervisor
}

impl Shadow {
    /// The generation of the guest's copies that the tables are of.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.places.generation
    }

    /// The numbers of the copies' places, by slot, and what changes with them.
    #[must_use]
    pub fn place_numbers(&self) -> (&[u64; SLOTS], u64) {
        self.places.numbers()
    }

    /// Makes the tables what today's copies want.
    #[cold]
    pub fn keep_up<P: Processor>(&mut self, copies: &Copies, processor: &mut P) {
        let (generation, all) = copies.all();
        self.places.generation = generation;
        self.places.retain(|original| all.contains(original));
        let mut pages: Vec<u64> = all.iter().map(|original| original.machine.page_number()).collect();
        pages.sort_unstable();
        let mut large: Vec<u64> = pages.iter().map(|page| page * PAGE / LARGE).collect();
        large.dedup();
        let is_stale = |entry: Pte, size: u64| {
            let machine = entry.address();
            copies.contains(machine)
                || large.contains(&(machine.0 / LARGE))
                    && (size == LARGE
                        || entry.rights() & (Pte::W | Pte::X) != 0
                            && pages.binary_search(&machine.page_number()).is_ok())
        };
        for space in &mut self.spaces {
            if space.forget_where(&mut self.pool, is_stale) {
                space.asid = None;
            }
        }
        self.give_splits();
        self.known = None;
        // Copies are made where others may have been.
        processor.fence_instructions();
    }

    /// Forgets all tables that spaces share.
    pub(super) fn drop_splits(&mut self) {
        for space in &mut self.spaces {
            if space.forget_where(&mut self.pool, |_, _| false) {
                space.asid = None;
            }
        }
        self.give_splits();
        self.known = None;
    }

    fn give_splits(&mut self) {
        for split in self.splits.drain(..) {
            self.pool.give(split.table);
        }
    }

    /// Whether what the guest executes at an address in the space with this key is a copy.
    #[must_use]
    pub fn executes_copy(&self, key: &Key, address: u64, copies: &Copies) -> bool {
        let space = self.spaces.iter().find(|space| space.key == *key);
        let entry = space.and_then(|space| space.find(&self.pool, GuestVirtual(address)));
        entry.is_some_and(|entry| copies.contains(entry.address()))
    }

    /// The copy that the guest's kernel executes at an address, whichever its address space.
    #[must_use]
    pub fn copy_at(&self, address: u64) -> Option<Original> {
        self.places.at(address & !(PAGE - 1))
    }

    /// The place of a copy, which is to be executed at `page`. `None` where it has another, or another copy has that.
    pub fn place(&mut self, original: &Original, page: u64) -> Option<Guard> {
        if !self.places.is_free(original, page) {
            return self.places.get(original, page);
        }
        for index in (0..self.spaces.len()).rev() {
            let space = &self.spaces[index];
            if space.key.view.supervisor && space.find(&self.pool, GuestVirtual(page)).is_some() {
                self.remove(index);
            }
        }
        self.places.set(original, page);
        self.places.get(original, page)
    }

    /// The copies in whose places something else would be, were this page mapped.
    pub fn displaced(&self, key: &Key, page: &Page) -> Vec<Original> {
        if !key.view.supervisor {
            return Vec::new();
        }
        let size = if page.is_large { LARGE } else { PAGE };
        let (start, machine) = (page.address.0 & !(size - 1), page.machine.0 & !(size - 1));
        let is_displaced = |(original, place): &(Original, u64)| {
            let offset = place.wrapping_sub(start);
            offset < size && (!has_copies(key) || original.machine.0 != machine + offset)
        };
        self.places.iter().filter(is_displaced).map(|(original, _)| original).collect()
    }

    /// Maps a page near copies, as [`fill`](Self::fill) does others.
    pub fn fill_near<P: Processor>(&mut self, key: Key, page: &Page, near: &[Original], processor: &mut P) {
        if page.is_large {
            self.fills += 1;
            while self.fill_split(key, page, near, processor).is_err() {
                self.make_room(key);
            }
            return;
        }
        let machine = MachineAddress(page.machine.0 & !(PAGE - 1));
        let address = page.address.0 & !(PAGE - 1);
        let page = match near.iter().find(|original| original.machine == machine) {
            Some(original) => {
                let (machine, rights) = self.beside(&key, address, page.rights, original);
                Page { machine, rights, ..*page }
            }
            None => *page,
        };
        self.fill(key, &page, processor);
    }

    /// What is mapped where a page has a copy, and with which rights.
    fn beside(&mut self, key: &Key, address: u64, rights: u64, original: &Original) -> (MachineAddress, u64) {
        if has_copies(key) && rights & Pte::X != 0 && self.place(original, address).is_some() {
            (original.copy, Pte::X)
        } else {
            (original.machine, rights & !Pte::W)
        }
    }

    fn fill_split<P: Processor>(
        &mut self,
        key: Key,
        page: &Page,
        near: &[Original],
        processor: &mut P,
    ) -> Result<(), Exhausted> {
        let (address, machine) =
            (page.address.0 & !(LARGE - 1), MachineAddress(page.machine.0 & !(LARGE - 1)));
        let kind = Kind { address, machine, rights: page.rights, has_copies: has_copies(&key) };
        // What was allowed before stays, where it leads to the same place.
        let index = self.find(key);
        let known = self.spaces[index].shared(&self.pool, page.address);
        let known = self.splits.iter().find(|split| known == Some(split.table)).map(|split| split.kind);
        let known = known.filter(|known| *known == Kind { rights: known.rights, ..kind });
        let kind = Kind { rights: kind.rights | known.map_or(0, |known| known.rights), ..kind };
        // It may make spaces go.
        let mut beside = Vec::new();
        for original in near {
            let offset = original.machine.0.wrapping_sub(machine.0);
            if offset < LARGE {
                let (machine, rights) = self.beside(&key, address + offset, kind.rights, original);
                beside.push(((offset / PAGE) as usize, Pte::leaf(machine, rights | Pte::U)));
            }
        }
        let index = self.find(key);
        let table = match self.splits.iter().find(|split| split.kind == kind) {
            Some(split) => split.table,
            None => {
                let table = self.pool.take().ok_or(Exhausted)?;
                for index in 0..(LARGE / PAGE) as usize {
                    let machine = machine.offset(PAGE * index as u64);
                    self.pool.set(table, index, Pte::leaf(machine, kind.rights | Pte::U));
                }
                beside.iter().for_each(|(index, entry)| self.pool.set(table, *index, *entry));
                self.splits.push(Split { kind, table });
                table
            }
        };
        let space = &mut self.spaces[index];
        let asid = space.asid;
        if space.fill_shared(&mut self.pool, page.address, table)? {
            // More than one page may be other than the TLB has it.
            space.asid = None;
        } else if let Some(asid) = space.asid {
            processor.fence_page(page.address.0, asid.number);
        }
        if space.asid != asid {
            self.known = None;
        }
        self.current = index;
        Ok(())
    }
}
