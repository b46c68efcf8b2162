//! Fields of an encoding: which of its bits hold which part of an [`Instruction`].
//!
//! Decoding and encoding are the two directions of the same description, so they can't disagree.

use crate::Instruction;

/// Part of an [`Instruction`] that a field fills.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Rd,
    Rs1,
    Rs2,
    Rs3,
    Aux,
    Imm,
    /// Bits that software may set and hardware ignores.
    Ignored,
}

/// Consecutive bits: `width` bits at `from` in the encoding are the bits at `to` in the value.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub from: u32,
    pub width: u32,
    pub to: u32,
}

impl Piece {
    const fn mask(self) -> u32 {
        ((1 << self.width) - 1) << self.from
    }
}

/// Where one slot's value is found in an encoding.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub slot: Slot,
    pub pieces: &'static [Piece],
    pub signed: bool,
    /// Added to the value: 8 for the three-bit register numbers of compressed instructions.
    pub base: u32,
}

impl Field {
    /// A field of consecutive bits.
    pub(crate) const fn plain(slot: Slot, pieces: &'static [Piece]) -> Self {
        Self { slot, pieces, signed: false, base: 0 }
    }

    /// A field that is sign-extended from its highest bit.
    pub(crate) const fn signed(pieces: &'static [Piece]) -> Self {
        Self { slot: Slot::Imm, pieces, signed: true, base: 0 }
    }

    /// The bits of the encoding that the field occupies.
    pub(crate) const fn mask(&self) -> u32 {
        let mut mask = 0;
        let mut i = 0;
        while i < self.pieces.len() {
            mask |= self.pieces[i].mask();
            i += 1;
        }
        mask
    }

    /// Number of significant bits of the value.
    fn value_bits(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.to + piece.width).max().unwrap_or(0)
    }

    /// Moves the field from the encoding into its slot.
    pub(crate) fn extract(&self, bits: u32, instruction: &mut Instruction) {
        let mut value = self.base;
        for piece in self.pieces {
            value |= ((bits & piece.mask()) >> piece.from) << piece.to;
        }
        if self.signed {
            let unused = 32 - self.value_bits();
            value = (((value << unused) as i32) >> unused) as u32;
        }
        self.slot.set(instruction, value as i32);
    }

    /// The bits of the encoding that hold the slot's value; what doesn't fit is lost.
    pub(crate) fn insert(&self, instruction: &Instruction) -> u32 {
        let value = self.slot.get(instruction) as u32;
        self.pieces.iter().fold(0, |bits, piece| bits | (((value >> piece.to) << piece.from) & piece.mask()))
    }
}

impl Slot {
    pub(crate) fn get(self, instruction: &Instruction) -> i32 {
        match self {
            Self::Rd => instruction.rd.into(),
            Self::Rs1 => instruction.rs1.into(),
            Self::Rs2 => instruction.rs2.into(),
            Self::Rs3 => instruction.rs3.into(),
            Self::Aux => instruction.aux.into(),
            Self::Imm => instruction.imm,
            Self::Ignored => 0,
        }
    }

    pub(crate) fn set(self, instruction: &mut Instruction, value: i32) {
        match self {
            Self::Rd => instruction.rd = value as u8,
            Self::Rs1 => instruction.rs1 = value as u8,
            Self::Rs2 => instruction.rs2 = value as u8,
            Self::Rs3 => instruction.rs3 = value as u8,
            Self::Aux => instruction.aux = value as u8,
            Self::Imm => instruction.imm = value,
            Self::Ignored => {}
        }
    }
}

/// Shorthand for tables: `width` bits at `from` are the value's bits at `to`.
pub(crate) const fn piece(from: u32, width: u32, to: u32) -> Piece {
    Piece { from, width, to }
}
