//! A VM's RAM, as engines and devices see it.

use core::fmt;
use core::ops::Range;

use crate::{CodePages, GuestPhysical};

/// An access that touches a byte outside the VM's RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfRange;

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("address outside the guest's memory")
    }
}

impl core::error::Error for OutOfRange {}

mod sealed {
    pub trait Sealed {}
}

/// An unsigned integer that one load or store moves: `u8`, `u16`, `u32` or `u64`.
pub trait Word: sealed::Sealed + Copy + Eq + Send + Sync + 'static {
    /// Size in bytes: 1, 2, 4 or 8.
    const SIZE: u64;
    /// Zero-extends to 64 bits.
    fn widen(self) -> u64;
    /// Takes the low bits of `value`.
    fn truncate(value: u64) -> Self;
}

macro_rules! word {
    ($($t:ty)*) => {$(
        impl sealed::Sealed for $t {}
        impl Word for $t {
            const SIZE: u64 = size_of::<$t>() as u64;
            #[inline(always)]
            fn widen(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as $t
            }
        }
    )*};
}
word!(u8 u16 u32 u64);

/// Width of an atomic memory operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtomicWidth {
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

/// The RAM of one VM: one contiguous range of guest physical addresses, shared by all harts and devices.
///
/// Values are little-endian. A naturally aligned `load` or `store` is single-copy atomic (RISC-V Unprivileged
/// ISA, "RVWMO"); a misaligned one may be split. All plain accesses are relaxed: order comes from the
/// engine's fences. Every method checks bounds and fails with [`OutOfRange`] without touching anything; a
/// range that wraps around 2^64 is out of range too.
pub trait GuestMemory: Send + Sync {
    /// The guest physical range that is RAM.
    fn range(&self) -> Range<GuestPhysical>;

    /// Loads one word.
    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange>
    where
        Self: Sized;

    /// Stores one word.
    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange>
    where
        Self: Sized;

    /// Sequentially consistent compare-and-exchange of an aligned word of 4 or 8 bytes (values in the low
    /// bits). Returns the value found: the exchange happened if it equals `expected`. A misaligned address is
    /// [`OutOfRange`]: engines check alignment before.
    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange>;

    /// Compare-and-exchange of an aligned 16 bytes, for `amocas.q` (Zacas). Returns the value found.
    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange>;

    /// Copies out `buffer.len()` bytes.
    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange>;

    /// Copies in `buffer.len()` bytes.
    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange>;

    /// Sets `length` bytes to zero.
    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange>;

    /// The guest doesn't need what is in `length` bytes any more: from now on they hold what they held or zeros, until
    /// they are written to. Who can gives their memory to others.
    fn release(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        let (range, end) = (self.range(), address.0.checked_add(length).ok_or(OutOfRange)?);
        if address < range.start || end > range.end.0 { Err(OutOfRange) } else { Ok(()) }
    }

    /// Where writes to pages with translated code are noted, if this memory does that. All methods that write
    /// then do.
    fn code_pages(&self) -> Option<&CodePages> {
        None
    }
}
