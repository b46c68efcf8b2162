//! Devices on the board, and what they drive.

use crate::{OutOfRange, StateError, StateReader, StateWriter};

/// Ticks a second of the board's `time` counter and of ACLINT MTIMER: 10 MHz, as QEMU's `virt` has it.
pub const TIMEBASE_FREQUENCY: u64 = 10_000_000;

/// Size of a device access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

impl Width {
    /// Size in bytes: 1, 2, 4 or 8.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }

    /// The width of `bytes`, or `None` for a size that no device access has.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        Some(match bytes {
            1 => Self::Byte,
            2 => Self::Half,
            4 => Self::Word,
            8 => Self::Double,
            _ => return None,
        })
    }

    /// The low bits of `value` that an access of this width moves.
    #[must_use]
    pub const fn truncate(self, value: u64) -> u64 {
        value & (u64::MAX >> (64 - 8 * self.bytes()))
    }
}

/// A device front end mapped into the board's address space.
///
/// The board calls it under a lock, one access at a time. `offset` is in bytes from the device's base and is
/// below the size the board gave it, but neither aligned nor restricted to existing registers: guests are
/// hostile. A register that doesn't exist reads zero and ignores writes unless the device's specification
/// says otherwise; an access the hardware would answer with a bus error returns [`OutOfRange`], which reaches
/// the guest as an access fault.
pub trait Device: Send {
    /// Loads from a register; the result is zero-extended.
    fn read(&mut self, offset: u64, width: Width) -> Result<u64, OutOfRange>;

    /// Stores to a register; bits of `value` above `width` are zero.
    fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), OutOfRange>;

    /// Called after the home signalled that the device's back end has something: input, room for output, or
    /// completed requests.
    fn poll(&mut self) {}

    /// Returns to the state after power-on; the back end stays attached.
    fn reset(&mut self);

    /// Writes down all that the guest could tell of the device, after finishing what the back end has been given.
    /// No hart runs meanwhile.
    ///
    /// # Errors
    /// [`StateError::Unsupported`] where the device isn't part of the format: its machine can't be saved.
    fn save(&mut self, _state: &mut StateWriter) -> Result<(), StateError> {
        Err(StateError::Unsupported("a device"))
    }

    /// Takes over what a device of the same kind has written down, and drives its lines accordingly. It has just been
    /// made.
    ///
    /// # Errors
    /// If that makes no sense; the device is of no use then.
    fn restore(&mut self, _state: &mut StateReader<'_>) -> Result<(), StateError> {
        Err(StateError::Unsupported("a device"))
    }
}

/// A level-triggered interrupt wire from a device.
pub trait InterruptLine: Send + Sync {
    /// Drives the wire.
    fn set(&self, level: bool);
}

/// Time as the guest is told it.
pub trait Clock: Send + Sync {
    /// Ticks of [`TIMEBASE_FREQUENCY`] since power-on.
    fn ticks(&self) -> u64;

    /// Nanoseconds since 1970-01-01T00:00:00Z, for the real-time clock.
    fn wall_nanoseconds(&self) -> u64;
}
