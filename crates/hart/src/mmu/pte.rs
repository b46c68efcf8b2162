//! Page-table entries (Privileged ISA, "Sv39: Page-Based 39-bit Virtual-Memory System"; Svnapot, Svpbmt).

use rvisor_waist::{GuestPhysical, PAGE_SIZE};

use super::{Access, Fault};

/// A page-table entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pte(pub u64);

impl Pte {
    pub const V: u64 = 1 << 0;
    pub const R: u64 = 1 << 1;
    pub const W: u64 = 1 << 2;
    pub const X: u64 = 1 << 3;
    pub const U: u64 = 1 << 4;
    pub const G: u64 = 1 << 5;
    pub const A: u64 = 1 << 6;
    pub const D: u64 = 1 << 7;
    pub const RESERVED: u64 = 0x7f << 54;
    pub const PBMT: u64 = 3 << 61;
    pub const N: u64 = 1 << 63;

    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Physical page number.
    pub const fn ppn(self) -> u64 {
        self.0 >> 10 & ((1 << 44) - 1)
    }

    pub const fn is_pointer(self) -> bool {
        !self.has(Self::R | Self::W | Self::X)
    }

    /// Whether no bit is set that must be clear, `memory_types` telling whether Svpbmt is enabled.
    pub const fn is_valid(self, memory_types: bool) -> bool {
        let legal_type = if memory_types { self.0 & Self::PBMT != Self::PBMT } else { !self.has(Self::PBMT) };
        let legal_pointer =
            !self.is_pointer() || !self.has(Self::A | Self::D | Self::U | Self::N | Self::PBMT);
        let write_only = self.has(Self::W) && !self.has(Self::R);
        self.has(Self::V) && !write_only && !self.has(Self::RESERVED) && legal_type && legal_pointer
    }

    /// The bits that the access needs to find set.
    pub const fn accessed_bits(access: Access) -> u64 {
        match access {
            Access::Store => Self::A | Self::D,
            Access::Load | Access::Execute => Self::A,
        }
    }
}

/// A mapping that a walk found.
pub struct Leaf {
    pub pte: Pte,
    /// Where pointers say that it is.
    pub address: GuestPhysical,
    /// Where it is in memory: elsewhere, if another stage maps it.
    pub located: GuestPhysical,
    /// Number of page tables below the one it is in.
    pub level: u32,
    /// Whether this PTE or a pointer to its table is global.
    pub global: bool,
}

impl Leaf {
    /// The first physical address of the page and the page's size; a fault where the page isn't aligned or
    /// the NAPOT size is reserved.
    pub fn page(&self) -> Result<(u64, u64), Fault> {
        const NAPOT_64K: u64 = 0b1000;
        let ppn = self.pte.ppn();
        let pages = 1 << (9 * self.level);
        if ppn & (pages - 1) != 0 {
            return Err(Fault::Page);
        }
        if !self.pte.has(Pte::N) {
            return Ok((ppn * PAGE_SIZE, pages * PAGE_SIZE));
        }
        if self.level == 0 && ppn & 0xf == NAPOT_64K {
            return Ok(((ppn & !0xf) * PAGE_SIZE, 16 * PAGE_SIZE));
        }
        Err(Fault::Page)
    }
}
