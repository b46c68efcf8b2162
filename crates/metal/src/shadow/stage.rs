//! The hardware's second translation of one virtual hart (G-stage, Sv39x4): guest physical to machine addresses.
//!
//! Pages of 2 MiB are mapped when the guest first touches them. What isn't RAM is a device.

use alloc::boxed::Box;
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

/// Tables of the second stage, and their number in the TLB.
pub struct Stage {
    tables: Box<[Table]>,
    /// Place of the root, and its machine address.
    root: (usize, MachineAddress),
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
    pub fn new(ram: &Range<GuestPhysical>, locate: impl FnOnce(&[Table]) -> MachineAddress) -> Self {
        let gigabytes = ram.start.0 / GIB..ram.end.0.div_ceil(GIB);
        let count = 2 * ROOT_TABLES - 1 + (gigabytes.end - gigabytes.start);
        let tables: Box<[Table]> = (0..count).map(|_| Table::new()).collect();
        let machine = locate(&tables);
        let skipped = (machine.0 / 4096).next_multiple_of(ROOT_TABLES) - machine.0 / 4096;
        let root = (skipped as usize, machine.offset(4096 * skipped));
        for (table, gigabyte) in (skipped + ROOT_TABLES..).zip(gigabytes) {
            let slot = gigabyte as usize;
            let part = &tables[root.0 + slot / ENTRIES % ROOT_TABLES as usize];
            part.set(slot % ENTRIES, Pte::pointer(machine.offset(4096 * table)));
        }
        let fetches = Fetches::default();
        Self { tables, root, ram: ram.clone(), vmid: None, processor: usize::MAX, fetches, fills: 0 }
    }

    /// Maps the 2 MiB around an address of the guest's RAM, whose first byte is at `machine`. The caller
    /// fences.
    pub fn fill(&mut self, address: GuestPhysical, machine: MachineAddress) {
        if !self.ram.contains(&address) {
            return;
        }
        self.fills += 1;
        let table = self.root.0 + (ROOT_TABLES + (address.0 / GIB - self.ram.start.0 / GIB)) as usize;
        let rights = Pte::R | Pte::W | Pte::X | Pte::U;
        self.tables[table].set((address.0 / LARGE) as usize % ENTRIES, Pte::leaf(machine, rights));
    }

    /// Forgets everything: the guest's memory is given back.
    pub fn clear(&mut self) {
        for table in &self.tables[self.root.0 + ROOT_TABLES as usize..] {
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
        StageEntry { root: satp::SV39 << satp::MODE_SHIFT | self.root.1.page_number(), vmid: vmid.number }
    }
}
