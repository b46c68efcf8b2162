//! Machine addresses: the third level of the memory map. The other two, [`GuestVirtual`](rvisor_waist::GuestVirtual)
//! and [`GuestPhysical`](rvisor_waist::GuestPhysical), are the waist's.

use core::fmt;

/// An address of the hardware's memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct MachineAddress(pub u64);

impl MachineAddress {
    /// The address `bytes` further on; wraps at 2^64.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Whether the address is a multiple of `alignment`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }

    /// Number of the base page that holds the address.
    #[must_use]
    pub const fn page_number(self) -> u64 {
        self.0 >> 12
    }
}

impl fmt::Debug for MachineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineAddress({:#x})", self.0)
    }
}

impl fmt::Display for MachineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
