//! Sv39 page tables.

use core::arch::asm;

use crate::csr;

/// Bits of an entry.
pub const VALID: usize = 1 << 0;
/// Readable.
pub const READ: usize = 1 << 1;
/// Writable.
pub const WRITE: usize = 1 << 2;
/// Executable.
pub const EXECUTE: usize = 1 << 3;
/// For U-mode.
pub const USER: usize = 1 << 4;
/// Accessed and dirty.
pub const USED: usize = 1 << 6 | 1 << 7;

/// A table.
#[repr(C, align(4096))]
pub struct Table(pub [usize; 512]);

impl Table {
    /// An empty one.
    pub const fn new() -> Self {
        Self([0; 512])
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// An entry for what is at a physical address.
pub const fn entry(address: usize, rights: usize) -> usize {
    address >> 12 << 10 | rights | VALID
}

/// One address space: kernel and devices as they are, pages of a program from [`PROGRAM`](Space::PROGRAM).
pub struct Space {
    root: Table,
    middle: Table,
    leaves: Table,
    asid: usize,
}

impl Space {
    /// Where programs' pages begin; there may be 512.
    pub const PROGRAM: usize = 4 << 30;

    /// All entries empty.
    pub const fn new(asid: usize) -> Self {
        Self { root: Table::new(), middle: Table::new(), leaves: Table::new(), asid }
    }

    /// Maps kernel and devices.
    pub fn prepare(&mut self) {
        self.root.0[0] = entry(0, READ | WRITE | USED);
        self.root.0[2] = entry(2 << 30, READ | WRITE | EXECUTE | USED);
        self.root.0[4] = entry(&raw const self.middle as usize, 0);
        self.middle.0[0] = entry(&raw const self.leaves as usize, 0);
    }

    /// Maps a page of the program's at a physical address.
    pub fn map(&mut self, page: usize, address: usize, rights: usize) {
        self.leaves.0[page] = entry(address, rights | USER | USED);
    }

    /// Unmaps all but the first `from` pages.
    pub fn unmap(&mut self, from: usize) {
        self.leaves.0[from..].fill(0);
        fence(None);
    }

    /// Makes it the current one.
    pub fn switch(&self) {
        csr::write!("satp", 8 << 60 | self.asid << 44 | &raw const self.root as usize >> 12);
    }
}

/// Forgets what is known of an address, or everything.
pub fn fence(address: Option<usize>) {
    // SAFETY: fences.
    unsafe {
        match address {
            Some(address) => asm!("sfence.vma {}, zero", in(reg) address),
            None => asm!("sfence.vma"),
        }
    }
}
