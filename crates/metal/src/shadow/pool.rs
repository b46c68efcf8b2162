//! The memory that one virtual hart's shadow tables are made of. It is all there from the start, so that a guest
//! that maps a lot runs short of its own tables and nobody else's.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::MachineAddress;
use crate::pte::Pte;

/// Entries of a table.
pub const ENTRIES: usize = 512;

/// A page table. The hardware reads it while the monitor writes.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; ENTRIES]);

impl Table {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }

    pub(super) fn get(&self, index: usize) -> Pte {
        Pte(self.0[index % ENTRIES].load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, index: usize, pte: Pte) {
        self.0[index % ENTRIES].store(pte.0, Ordering::Release);
    }
}

/// A table of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableId(u32);

/// Tables, all of one virtual hart.
pub struct Pool {
    tables: Box<[Table]>,
    machine: MachineAddress,
    free: Vec<TableId>,
}

impl Pool {
    /// A pool of `count` tables; `locate` tells the machine address of the first one, which the others follow.
    pub fn new(count: u32, locate: impl FnOnce(&[Table]) -> MachineAddress) -> Self {
        let tables: Box<[Table]> = (0..count).map(|_| Table::new()).collect();
        let machine = locate(&tables);
        Self { tables, machine, free: (0..count).rev().map(TableId).collect() }
    }

    /// An empty table; `None` where all are in use.
    pub fn take(&mut self) -> Option<TableId> {
        let id = self.free.pop()?;
        self.tables[id.0 as usize].0.iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
        Some(id)
    }

    /// Gives a table back.
    pub fn give(&mut self, id: TableId) {
        self.free.push(id);
    }

    /// Tables that are left.
    pub fn left(&self) -> usize {
        self.free.len()
    }

    /// Where a table is.
    pub fn address(&self, id: TableId) -> MachineAddress {
        self.machine.offset(4096 * u64::from(id.0))
    }

    /// The table at an address; `None` if it isn't of this pool.
    pub fn at(&self, address: MachineAddress) -> Option<TableId> {
        let index = address.0.wrapping_sub(self.machine.0) / 4096;
        (index < self.tables.len() as u64).then_some(TableId(index as u32))
    }

    /// An entry of a table.
    pub fn get(&self, id: TableId, index: usize) -> Pte {
        self.tables[id.0 as usize].get(index)
    }

    /// The valid entries of a table, with their places.
    pub fn entries(&self, id: TableId) -> impl Iterator<Item = (usize, Pte)> {
        let entries = self.tables[id.0 as usize].0.iter().map(|entry| Pte(entry.load(Ordering::Relaxed)));
        entries.enumerate().filter(|(_, entry)| entry.is_valid())
    }

    /// Changes an entry of a table.
    pub fn set(&mut self, id: TableId, index: usize, pte: Pte) {
        self.tables[id.0 as usize].set(index, pte);
    }
}
