//! The monitor's own page tables (Sv39): each page is writable or executable, never both.

use core::mem::offset_of;
use core::ops::Range;

use super::assembly as asm;
use super::context::HartContext;
use super::layout::{self, DIRECT_MAP_SIZE, IMAGE_BASE, MONITOR_ASID, WINDOW_SLOTS};
use crate::address::MachineAddress;
use crate::pte::Pte;

const PAGE: u64 = 4096;

/// A page table.
#[repr(C, align(4096))]
struct Table([u64; 512]);

/// Takes pages for tables from the start of a range of unused memory.
pub struct TablePages {
    free: Range<u64>,
}

impl TablePages {
    /// Tables come from `free`, which is page-aligned and reached through the direct map.
    ///
    /// # Safety
    /// Nobody else uses the memory.
    pub const unsafe fn new(free: Range<MachineAddress>) -> Self {
        Self { free: free.start.0..free.end.0 }
    }

    /// What is left, rounded to whole pages.
    pub fn rest(self) -> Range<MachineAddress> {
        MachineAddress(self.free.start)..MachineAddress(self.free.end)
    }

    /// One zeroed page.
    ///
    /// # Panics
    /// If there is none: before any guest runs.
    pub fn take(&mut self) -> MachineAddress {
        let page = self.free.start;
        self.free.start += PAGE;
        assert!(self.free.start <= self.free.end, "no memory for the monitor's page tables");
        // SAFETY: unused memory by the contract of `new`, mapped by the direct map.
        unsafe { core::ptr::write_bytes(layout::direct(MachineAddress(page)) as *mut u8, 0, PAGE as usize) };
        MachineAddress(page)
    }
}

/// The tables of the monitor while they are made.
pub struct AddressSpace {
    root: MachineAddress,
    pages: TablePages,
}

impl AddressSpace {
    /// An empty one.
    pub fn new(mut pages: TablePages) -> Self {
        Self { root: pages.take(), pages }
    }

    fn table(&mut self, at: MachineAddress) -> &mut Table {
        // SAFETY: tables come from `TablePages` only, so this is one, and nobody else has a reference: the borrow
        // of `self` is exclusive.
        unsafe { &mut *(layout::direct(at) as *mut Table) }
    }

    fn map_one(&mut self, address: u64, pte: Pte, level: u32) {
        let mut table = self.root;
        for above in (level + 1..=2).rev() {
            let index = (address >> (12 + 9 * above)) as usize & 511;
            let entry = Pte(self.table(table).0[index]);
            table = if entry.is_valid() {
                entry.address()
            } else {
                let new = self.pages.take();
                self.table(table).0[index] = Pte::pointer(new).0;
                new
            };
        }
        self.table(table).0[(address >> (12 + 9 * level)) as usize & 511] = pte.0;
    }

    /// Maps a range of pages with the rights `rights`, in pages as large as alignment allows.
    pub fn map(&mut self, mut address: u64, memory: Range<MachineAddress>, rights: u64) {
        let mut at = memory.start;
        while at < memory.end {
            let fits = |level: &u32| {
                let size = PAGE << (9 * level);
                (address | at.0).is_multiple_of(size) && memory.end.0 - at.0 >= size
            };
            let level = [2, 1].into_iter().find(fits).unwrap_or(0);
            self.map_one(address, Pte::leaf(at, rights), level);
            let size = PAGE << (9 * level);
            (address, at) = (address.wrapping_add(size), at.offset(size));
        }
    }

    /// Maps a range of machine memory at its place in the direct map.
    pub fn map_direct(&mut self, memory: Range<MachineAddress>) {
        let end = memory.end.min(MachineAddress(DIRECT_MAP_SIZE));
        if memory.start < end {
            self.map(layout::direct(memory.start), memory.start..end, Pte::R | Pte::W);
        }
    }

    /// Maps the image, whose first byte is at `load`, section by section; not the page below the first hart's stack.
    pub fn map_image(&mut self, load: MachineAddress) {
        let machine = |symbol: u64| load.offset(symbol - IMAGE_BASE);
        let (ends, guard) = (image_ends(), &raw const asm::stack_guard as u64);
        for (section, rights) in [
            (IMAGE_BASE..ends[0], Pte::R | Pte::X),
            (ends[0]..ends[1], Pte::R),
            (ends[1]..guard, Pte::R | Pte::W),
            (guard + PAGE..ends[2], Pte::R | Pte::W),
        ] {
            self.map(section.start, machine(section.start)..machine(section.end), rights);
        }
    }

    /// Maps the stacks of all harts but the first, one after the other in `memory`.
    pub fn map_stacks(&mut self, memory: Range<MachineAddress>) {
        const SIZE: u64 = layout::HART_STACK as u64;
        for (hart, at) in (1..).zip((memory.start.0..memory.end.0).step_by(SIZE as usize)) {
            let memory = MachineAddress(at)..MachineAddress(at + SIZE);
            self.map(layout::stack(hart).start, memory, Pte::R | Pte::W);
        }
    }

    /// Makes the window with the trampoline at machine address `code` and the contexts of the harts, and maps it
    /// in every slot of the upper half. Returns the entry that a shadow root needs in one of its slots.
    pub fn map_window(&mut self, code: MachineAddress, contexts: &[MachineAddress]) -> Pte {
        let first = WINDOW_SLOTS.start;
        self.map_one(layout::window(first) + layout::TRAMPOLINE, Pte::leaf(code, Pte::R | Pte::X), 0);
        let (code, end) = (offset_of!(HartContext, code) as u64, size_of::<HartContext>() as u64);
        for (hart, context) in contexts.iter().enumerate() {
            let address = layout::window(first) + layout::context_offset(hart);
            // Page by page: a large one would have the space behind in it.
            for offset in (0..end).step_by(PAGE as usize) {
                let rights = if offset < code { Pte::R | Pte::W } else { Pte::R | Pte::X };
                self.map_one(address + offset, Pte::leaf(context.offset(offset), rights), 0);
            }
        }
        let root = self.root;
        let table = self.table(root);
        let window = table.0[first];
        table.0[WINDOW_SLOTS].fill(window);
        Pte(window)
    }

    /// The value of `satp`, and the memory that is left.
    pub fn finish(self) -> (u64, Range<MachineAddress>) {
        const SV39: u64 = 8;
        (SV39 << 60 | MONITOR_ASID << 44 | self.root.page_number(), self.pages.rest())
    }
}

/// Ends of text, constants and data, in the image's addresses.
pub fn image_ends() -> [u64; 3] {
    [&raw const asm::__text_end, &raw const asm::__rodata_end, &raw const asm::__image_end]
        .map(|symbol| symbol as u64)
}
