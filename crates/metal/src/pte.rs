//! Page-table entries that the monitor writes (Privileged ISA, "Sv39: Page-Based 39-bit Virtual-Memory System").

use crate::address::MachineAddress;

/// A page-table entry for the hardware.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl Pte {
    /// Valid.
    pub const V: u64 = 1 << 0;
    /// Readable.
    pub const R: u64 = 1 << 1;
    /// Writable.
    pub const W: u64 = 1 << 2;
    /// Executable.
    pub const X: u64 = 1 << 3;
    /// For U-mode.
    pub const U: u64 = 1 << 4;
    /// Accessed and dirty: set from the start, so that hardware without Svadu doesn't ask.
    const AD: u64 = 3 << 6;

    /// Of the bits that are left to software: see [`shared_pointer`](Self::shared_pointer).
    const SHARED: u64 = 1 << 8;

    /// A page at `address` with the given rights.
    #[must_use]
    pub const fn leaf(address: MachineAddress, rights: u64) -> Self {
        Self(address.page_number() << 10 | Self::AD | rights | Self::V)
    }

    /// A pointer to a table.
    #[must_use]
    pub const fn pointer(table: MachineAddress) -> Self {
        Self(table.page_number() << 10 | Self::V)
    }

    /// A pointer to a table that other tables point to as well.
    #[must_use]
    pub const fn shared_pointer(table: MachineAddress) -> Self {
        Self(table.page_number() << 10 | Self::SHARED | Self::V)
    }

    /// Whether it points to a table that others point to as well.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }

    /// Whether it maps or points to anything.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::V != 0
    }

    /// Whether it maps a page.
    #[must_use]
    pub const fn is_leaf(self) -> bool {
        self.0 & (Self::R | Self::W | Self::X) != 0
    }

    /// The page or table.
    #[must_use]
    pub const fn address(self) -> MachineAddress {
        MachineAddress((self.0 >> 10 & ((1 << 44) - 1)) << 12)
    }

    /// R, W, X and U.
    #[must_use]
    pub const fn rights(self) -> u64 {
        self.0 & (Self::R | Self::W | Self::X | Self::U)
    }
}
