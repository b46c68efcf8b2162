//! The hardware's second translation of one virtual hart (G-stage, Sv39x4 or Sv48x4): guest physical to machine addresses.
//!
//! Pages of 2 MiB are mapped when the guest first touches them. What isn't RAM is a device.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use rvisor_isa::csr::satp;
use rvisor_waist::GuestPhysical;

use super::fetches::Fetches;
use super::pool::{ENTRIES, Table};
use crate::address::MachineAddress;
use crate::processor::Asid;
use crate::pte::Pte;
use crate::virtualization::{StageEntry, VirtualProcessor};

const LARGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// The root is four tables in a row, at a multiple of its size.
const ROOT_TABLES: u64 = 4;
/// Bytes that a table leads to whose entries are of 1 GiB.
const MIDDLE: u64 = ENTRIES as u64 * GIB;

/// How many levels the tables have: the mode of `hgatp` (Privileged ISA, "Two-Stage Address Translation").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StageMode {
    /// Three, for guest physical addresses of 41 bits.
    Sv39x4,
    /// Four, for 50 bits.
    Sv48x4,
}

impl StageMode {
    /// The mode, where `hgatp` has it.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::Sv39x4 => satp::SV39 << satp::MODE_SHIFT,
            Self::Sv48x4 => satp::SV48 << satp::MODE_SHIFT,
        }
    }
}

/// What the hardware finds on its way from a guest physical address.
pub struct StageWalk {
    /// Each entry that it reads, from the root on: its level, where it is, what it is.
    pub steps: Vec<(u32, MachineAddress, Pte)>,
    /// Where the way ends; `None` where nothing is mapped.
    pub machine: Option<MachineAddress>,
}

/// Tables of the second stage, and their number in the TLB.
pub struct Stage {
    tables: Box<[Table]>,
    /// Where the first of them is.
    first: MachineAddress,
    mode: StageMode,
    root: MachineAddress,
    /// Place of the first table that maps pages; there is one for each GiB.
    pages: usize,
    ram: Range<GuestPhysical>,
    vmid: Option<Asid>,
    /// The physical hart whose TLB knows the VMID.
    processor: usize,
    /// What its fetches may know.
    pub fetches: Fetches,
    /// How often a page was mapped.
    pub fills: u64,
}

impl Stage {
    /// Bytes of a page.
    pub const PAGE: u64 = LARGE;

    /// Tables for a guest's memory, which begins at a multiple of 1 GiB; nothing is mapped. `locate` tells the
    /// machine address of the first one, which the others follow.
    pub fn new(
        ram: &Range<GuestPhysical>,
        mode: StageMode,
        locate: impl FnOnce(&[Table]) -> MachineAddress,
    ) -> Self {
        let gigabytes = ram.start.0 / GIB..ram.end.0.div_ceil(GIB);
        // The tables whose entries are of 1 GiB: the root itself, or with one level more what it leads to.
        let middle = match mode {
            StageMode::Sv39x4 => 0..ROOT_TABLES,
            StageMode::Sv48x4 => ram.start.0 / MIDDLE..ram.end.0.div_ceil(MIDDLE),
        };
        let root_tables = if mode == StageMode::Sv39x4 { 0 } else { ROOT_TABLES };
        let upper = root_tables + (middle.end - middle.start);
        let count = ROOT_TABLES - 1 + upper + (gigabytes.end - gigabytes.start);
        let tables: Box<[Table]> = (0..count).map(|_| Table::new()).collect();
        let machine = locate(&tables);
        let root = (machine.0 / 4096).next_multiple_of(ROOT_TABLES) - machine.0 / 4096;
        let pointer = |table: u64| Pte::pointer(machine.offset(4096 * table));
        if mode == StageMode::Sv48x4 {
            for (table, slot) in (root + root_tables..).zip(middle.clone()) {
                let (part, slot) = (slot as usize / ENTRIES, slot as usize % ENTRIES);
                tables[root as usize + part].set(slot, pointer(table));
            }
        }
        for (table, gigabyte) in (root + upper..).zip(gigabytes) {
            let part = root + root_tables + (gigabyte / ENTRIES as u64 - middle.start);
            tables[part as usize].set(gigabyte as usize % ENTRIES, pointer(table));
        }
        Self {
            tables,
            first: machine,
            mode,
            root: machine.offset(4096 * root),
            pages: (root + upper) as usize,
            ram: ram.clone(),
            vmid: None,
            processor: usize::MAX,
            fetches: Fetches::default(),
            fills: 0,
        }
    }

    /// Maps the 2 MiB around an address of the guest's RAM, whose first byte is at `machine`. The caller
    /// fences.
    pub fn fill(&mut self, address: GuestPhysical, machine: MachineAddress) {
        if !self.ram.contains(&address) {
            return;
        }
        self.fills += 1;
        let table = self.pages + (address.0 / GIB - self.ram.start.0 / GIB) as usize;
        let rights = Pte::R | Pte::W | Pte::X | Pte::U;
        self.tables[table].set((address.0 / LARGE) as usize % ENTRIES, Pte::leaf(machine, rights));
    }

    /// What the hardware finds from an address on (Privileged ISA, "Two-Stage Address Translation").
    #[must_use]
    pub fn walk(&self, address: GuestPhysical) -> StageWalk {
        let levels = if self.mode == StageMode::Sv39x4 { 3 } else { 4 };
        let mut walk = StageWalk { steps: Vec::new(), machine: None };
        if address.0 >> (14 + 9 * levels) != 0 {
            return walk;
        }
        let mut table = self.root;
        for level in (0..levels).rev() {
            // The root has two bits more.
            let bits = if level == levels - 1 { 11 } else { 9 };
            let at = table.offset(8 * (address.0 >> (12 + 9 * level) & ((1 << bits) - 1)));
            let place = at.0 - self.first.0;
            let entry = self.tables[(place / 4096) as usize].get((place % 4096 / 8) as usize);
            walk.steps.push((level, at, entry));
            if !entry.is_valid() {
                return walk;
            }
            if entry.is_leaf() {
                walk.machine = Some(entry.address().offset(address.0 & ((1 << (12 + 9 * level)) - 1)));
                return walk;
            }
            table = entry.address();
        }
        walk
    }

    /// Forgets everything: the guest's memory is given back.
    pub fn clear(&mut self) {
        for table in &self.tables[self.pages..] {
            (0..ENTRIES).for_each(|index| table.set(index, Pte::default()));
        }
        // The TLB knows the memory under the old number only.
        self.vmid = None;
        self.fetches.clear();
    }

    /// How a physical hart enters the guest.
    pub fn enter<P: VirtualProcessor>(&mut self, processor: &mut P) -> StageEntry {
        if self.processor != processor.index() {
            // Fences since the virtual hart was last there weren't made in that hart's TLB.
            self.processor = processor.index();
            self.vmid = None;
        }
        let vmid = match self.vmid {
            Some(vmid) if vmid.generation == processor.vmid_generation() => vmid,
            _ => *self.vmid.insert(processor.new_vmid()),
        };
        StageEntry { root: self.mode.bits() | self.root.page_number(), vmid: vmid.number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not at a multiple of a root's size.
    const TABLES: MachineAddress = MachineAddress(0x9000_1000);

    fn walk(stage: &Stage, address: u64) -> Option<MachineAddress> {
        stage.walk(GuestPhysical(address)).machine
    }

    #[test]
    fn what_is_filled_is_found_in_each_mode_until_it_is_cleared() {
        // The second ends in the next table of entries of 1 GiB.
        for (mode, start, size) in [
            (StageMode::Sv39x4, 2 * GIB, 3 * GIB),
            (StageMode::Sv39x4, MIDDLE - GIB, 2 * GIB),
            (StageMode::Sv48x4, 2 * GIB, 3 * GIB),
            (StageMode::Sv48x4, MIDDLE - GIB, 2 * GIB),
            (StageMode::Sv48x4, ENTRIES as u64 * MIDDLE - GIB, 2 * GIB),
        ] {
            let ram = GuestPhysical(start)..GuestPhysical(start + size);
            let mut stage = Stage::new(&ram, mode, |_| TABLES);
            assert!(stage.root.0.is_multiple_of(4096 * ROOT_TABLES));
            let places = [start, start + GIB + 5 * LARGE, start + size - LARGE];
            for (number, place) in (1..).zip(places) {
                assert_eq!(walk(&stage, place), None);
                stage.fill(GuestPhysical(place), MachineAddress(number * GIB));
            }
            for (number, place) in (1..).zip(places) {
                assert_eq!(walk(&stage, place + 0x1234), Some(MachineAddress(number * GIB + 0x1234)));
            }
            assert_eq!((walk(&stage, start + LARGE), walk(&stage, start - GIB)), (None, None));
            stage.clear();
            assert!(places.iter().all(|place| walk(&stage, *place).is_none()));
        }
    }
}
