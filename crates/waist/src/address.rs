//! Guest addresses, one type for each space.

use core::fmt;

/// Bytes in a base page (Privileged ISA, "Sv39: Page-Based 39-bit Virtual-Memory System").
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further on; wraps at 2^64.
            #[inline]
            #[must_use]
            pub const fn offset(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// The start of the base page that holds this address.
            #[inline]
            #[must_use]
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Bytes from the start of the base page to this address.
            #[inline]
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Whether the address is a multiple of `alignment`, a power of two.
            #[inline]
            #[must_use]
            pub const fn is_aligned(self, alignment: u64) -> bool {
                self.0 & (alignment - 1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// An address as a guest's program or kernel uses it, before its own page tables.
    GuestVirtual
}
address! {
    /// An address on the guest's board: after the guest's page tables, before the monitor's map.
    GuestPhysical
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_offset_split_an_address() {
        let address = GuestPhysical(0x8000_1234);
        assert_eq!(address.page(), GuestPhysical(0x8000_1000));
        assert_eq!(address.page_offset(), 0x234);
        assert!(address.is_aligned(4) && !address.is_aligned(8));
    }
}
