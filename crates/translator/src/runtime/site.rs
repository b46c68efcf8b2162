//! Names an instruction of translated code for the helpers that finish it.

use crate::ir::Offset;

/// An instruction: where it stands in its page, and how many of its superblock were executed before it. For
/// loads and stores also what they do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site(u32);

impl Site {
    const SIGNED: u32 = 1 << 22;
    const FLOAT: u32 = 1 << 23;
    const LONG: u32 = 1 << 29;

    pub const fn new(offset: Offset, index: u32, length: u8) -> Self {
        let long = if length == 4 { Self::LONG } else { 0 };
        Self(offset as u32 & 0xfff | index << 12 | long)
    }

    /// With an access of `bytes` (1, 2, 4 or 8) from or to `register`.
    pub const fn access(self, bytes: u8, signed: bool, float: bool, register: u8) -> Self {
        let flags = if signed { Self::SIGNED } else { 0 } | if float { Self::FLOAT } else { 0 };
        Self(self.0 | bytes.trailing_zeros() << 20 | flags | (register as u32) << 24)
    }

    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub const fn bits(self) -> u32 {
        self.0
    }

    pub const fn offset(self) -> u64 {
        (self.0 & 0xfff) as u64
    }

    /// Instructions of the superblock executed before.
    pub const fn index(self) -> u32 {
        self.0 >> 12 & 0xff
    }

    /// Bytes of the instruction.
    pub const fn length(self) -> u64 {
        if self.0 & Self::LONG != 0 { 4 } else { 2 }
    }

    /// Bytes of the access.
    pub const fn bytes(self) -> u64 {
        1 << (self.0 >> 20 & 3)
    }

    pub const fn is_signed(self) -> bool {
        self.0 & Self::SIGNED != 0
    }

    pub const fn is_float(self) -> bool {
        self.0 & Self::FLOAT != 0
    }

    pub const fn register(self) -> u8 {
        (self.0 >> 24) as u8 & 31
    }
}
