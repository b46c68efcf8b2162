//! Page tables (Sv39): the kernel in large pages, the same in every address space, and programs in base pages.

use core::arch::asm;
use core::cell::UnsafeCell;

const VALID: u64 = 1;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const EXECUTE: u64 = 1 << 3;
const USER: u64 = 1 << 4;
const GLOBAL: u64 = 1 << 5;
const ACCESSED_DIRTY: u64 = 3 << 6;

/// Where programs have their code.
pub const USER_CODE: usize = 0x40_0000;
/// Where programs have memory that is mapped on demand: 2 MiB.
pub const USER_MEMORY: usize = 0x60_0000;
/// Pages of that memory.
pub const USER_PAGES: usize = 512;

/// So far above where it is, all memory of the kernel is once more.
pub const ALIAS: usize = 1 << 30;

const RAM: usize = 0x8000_0000;
const LARGE: usize = 2 << 20;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: there is one hart.
unsafe impl Sync for Table {}

impl Table {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    fn set(&self, index: usize, entry: u64) {
        // SAFETY: there is one hart, and the index is taken modulo the size.
        unsafe { (self.0.get().cast::<u64>().add(index % 512)).write_volatile(entry) };
    }

    fn pointer(&self) -> u64 {
        (self.0.get() as u64 >> 12) << 10 | VALID
    }
}

/// One address space of a program; both have the same pages at first.
struct Space {
    root: Table,
    middle: Table,
    code: Table,
    memory: Table,
}

impl Space {
    const fn new() -> Self {
        Self { root: Table::new(), middle: Table::new(), code: Table::new(), memory: Table::new() }
    }
}

static KERNEL: Table = Table::new();
static SPACES: [Space; 2] = [Space::new(), Space::new()];

const fn leaf(physical: usize, rights: u64) -> u64 {
    (physical as u64 >> 12) << 10 | rights | ACCESSED_DIRTY | VALID
}

/// Builds both address spaces and switches to the first.
pub fn enable() {
    for index in 0..512 {
        let rights = READ | WRITE | EXECUTE | GLOBAL;
        KERNEL.set(index, leaf(RAM + LARGE * index, rights));
    }
    let code = crate::user::CODE.as_ptr() as usize;
    for space in &SPACES {
        space.root.set(0, space.middle.pointer());
        space.root.set(RAM >> 30, KERNEL.pointer());
        space.root.set((RAM + ALIAS) >> 30, KERNEL.pointer());
        space.middle.set(USER_CODE >> 21, space.code.pointer());
        space.middle.set(USER_MEMORY >> 21, space.memory.pointer());
        space.code.set(0, leaf(code, READ | EXECUTE | USER));
    }
    switch(0);
    // SAFETY: forgets translations only.
    unsafe { asm!("sfence.vma") };
}

/// Switches to an address space. They have different ASIDs: nothing is flushed.
pub fn switch(space: usize) {
    let root = SPACES[space & 1].root.0.get() as u64 >> 12;
    let satp = 8 << 60 | (1 + (space as u64 & 1)) << 44 | root;
    // SAFETY: the kernel is mapped alike in both.
    unsafe { asm!("csrw satp, {}", in(reg) satp) };
}

/// Maps a page of the first program's memory to one page of RAM, the same for all.
pub fn map(page: usize) {
    const SHARED: usize = RAM + 48 * (1 << 20);
    SPACES[0].memory.set(page, leaf(SHARED, READ | WRITE | USER));
    let address = USER_MEMORY + 4096 * page;
    // SAFETY: forgets translations only.
    unsafe { asm!("sfence.vma {}", in(reg) address) };
}

/// Unmaps all of the first program's memory.
pub fn unmap_all() {
    (0..USER_PAGES).for_each(|page| SPACES[0].memory.set(page, 0));
    // SAFETY: forgets translations only.
    unsafe { asm!("sfence.vma") };
}
