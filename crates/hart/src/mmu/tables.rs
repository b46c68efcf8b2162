//! What walks remember of page tables.

use rvisor_waist::GuestPhysical;

/// Remembers the last level's page table of some regions, so that most walks are one step long. Holds until the
/// next fence (Privileged ISA, "Supervisor Memory-Management Fence Instruction").
pub struct TableCache([KnownTable; TableCache::ENTRIES]);

/// The registers that a walk depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Roots {
    /// That of the stage itself.
    pub table: u64,
    /// That of the stage that maps its tables, or what stands for none.
    pub beneath: u64,
}

#[derive(Clone, Copy)]
struct KnownTable {
    /// Virtual address of the region, and the registers and the count of fences at which the table was found.
    region: u64,
    roots: Roots,
    fences: u64,
    table: Table,
}

/// A page table.
#[derive(Clone, Copy)]
pub struct Table {
    /// Where pointers say that it is.
    pub address: GuestPhysical,
    /// Where it is in memory: elsewhere, if another stage maps it.
    pub located: GuestPhysical,
    /// Whether a pointer to it is global.
    pub global: bool,
}

impl TableCache {
    const ENTRIES: usize = 64;
    /// Bits of the address inside what one table of the last level maps.
    const REGION_BITS: u32 = 21;

    pub const fn new() -> Self {
        let table = Table { address: GuestPhysical(0), located: GuestPhysical(0), global: false };
        let none = KnownTable { region: 1, roots: Roots { table: 0, beneath: 0 }, fences: 0, table };
        Self([none; Self::ENTRIES])
    }

    const fn region(address: u64) -> u64 {
        address >> Self::REGION_BITS << Self::REGION_BITS
    }

    const fn index(address: u64) -> usize {
        (address >> Self::REGION_BITS) as usize % Self::ENTRIES
    }

    pub fn find(&self, address: u64, roots: Roots, fences: u64) -> Option<Table> {
        let known = &self.0[Self::index(address)];
        (known.region == Self::region(address) && known.roots == roots && known.fences == fences)
            .then_some(known.table)
    }

    pub fn add(&mut self, address: u64, roots: Roots, fences: u64, table: Table) {
        self.0[Self::index(address)] = KnownTable { region: Self::region(address), roots, fences, table };
    }
}
