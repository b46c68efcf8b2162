//! Operands of 32-bit instructions: the fields each occupies (Unprivileged ISA, "Base Instruction Formats").

use crate::field::{Field, Slot, piece};

/// One operand, as the assembler sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operand {
    /// Integer registers.
    Rd,
    Rs1,
    Rs2,
    /// Even-numbered registers that name a pair.
    RdPair,
    Rs2Pair,
    /// Floating-point registers.
    Fd,
    Fs1,
    Fs2,
    Fs3,
    /// Rounding mode.
    Rm,
    /// Sign-extended 12 bits.
    Imm12,
    /// Upper 20 bits.
    Upper,
    /// Shift amounts.
    Shamt5,
    Shamt6,
    /// PC-relative targets of branches and of `jal`.
    BranchTarget,
    JumpTarget,
    /// `imm(rs1)`, in the layouts of loads, stores and prefetches.
    LoadAddress,
    StoreAddress,
    PrefetchAddress,
    /// `(rs1)`.
    Address,
    /// Ordering bits of atomics.
    AqRl,
    /// Predecessor and successor sets and the mode of `fence`.
    FenceSets,
    /// The fields of `fence.i` that are reserved and ignored.
    FenceIReserved,
    /// CSR number.
    Csr,
    /// Five-bit immediate in `rs1`'s place.
    Zimm,
    /// Index into the table of floating-point constants.
    FliIndex,
}

const RD: Field = Field::plain(Slot::Rd, &[piece(7, 5, 0)]);
const RS1: Field = Field::plain(Slot::Rs1, &[piece(15, 5, 0)]);
const RS2: Field = Field::plain(Slot::Rs2, &[piece(20, 5, 0)]);
const RS3: Field = Field::plain(Slot::Rs3, &[piece(27, 5, 0)]);
const RD_PAIR: Field = Field::plain(Slot::Rd, &[piece(8, 4, 1)]);
const RS2_PAIR: Field = Field::plain(Slot::Rs2, &[piece(21, 4, 1)]);
const RM: Field = Field::plain(Slot::Aux, &[piece(12, 3, 0)]);
const AQ_RL: Field = Field::plain(Slot::Aux, &[piece(25, 2, 0)]);
const FM: Field = Field::plain(Slot::Aux, &[piece(28, 4, 0)]);
const FENCE_SETS: Field = Field::plain(Slot::Imm, &[piece(20, 8, 0)]);
const SHAMT5: Field = Field::plain(Slot::Imm, &[piece(20, 5, 0)]);
const SHAMT6: Field = Field::plain(Slot::Imm, &[piece(20, 6, 0)]);
const CSR: Field = Field::plain(Slot::Imm, &[piece(20, 12, 0)]);
/// Immediates, by the letter of the format.
const IMM_I: Field = Field::signed(&[piece(20, 12, 0)]);
const IMM_S: Field = Field::signed(&[piece(25, 7, 5), piece(7, 5, 0)]);
const IMM_S_UPPER: Field = Field::signed(&[piece(25, 7, 5)]);
const IMM_B: Field = Field::signed(&[piece(31, 1, 12), piece(7, 1, 11), piece(25, 6, 5), piece(8, 4, 1)]);
const IMM_U: Field = Field::signed(&[piece(12, 20, 12)]);
const IMM_J: Field = Field::signed(&[piece(31, 1, 20), piece(12, 8, 12), piece(20, 1, 11), piece(21, 10, 1)]);
const IGNORED_RD: Field = Field::plain(Slot::Ignored, &[piece(7, 5, 0)]);
const IGNORED_RS1: Field = Field::plain(Slot::Ignored, &[piece(15, 5, 0)]);
const IGNORED_IMM: Field = Field::plain(Slot::Ignored, &[piece(20, 12, 0)]);

impl Operand {
    /// The fields of the encoding that the operand occupies.
    pub(crate) const fn fields(self) -> &'static [Field] {
        match self {
            Self::Rd | Self::Fd => &[RD],
            Self::Rs1 | Self::Fs1 | Self::Address | Self::Zimm | Self::FliIndex => &[RS1],
            Self::Rs2 | Self::Fs2 => &[RS2],
            Self::Fs3 => &[RS3],
            Self::RdPair => &[RD_PAIR],
            Self::Rs2Pair => &[RS2_PAIR],
            Self::Rm => &[RM],
            Self::Imm12 => &[IMM_I],
            Self::Upper => &[IMM_U],
            Self::Shamt5 => &[SHAMT5],
            Self::Shamt6 => &[SHAMT6],
            Self::BranchTarget => &[IMM_B],
            Self::JumpTarget => &[IMM_J],
            Self::LoadAddress => &[IMM_I, RS1],
            Self::StoreAddress => &[IMM_S, RS1],
            Self::PrefetchAddress => &[IMM_S_UPPER, RS1],
            Self::AqRl => &[AQ_RL],
            Self::FenceSets => &[FENCE_SETS, FM, IGNORED_RD, IGNORED_RS1],
            Self::FenceIReserved => &[IGNORED_RD, IGNORED_RS1, IGNORED_IMM],
            Self::Csr => &[CSR],
        }
    }

    /// The bits of the encoding that the operands occupy.
    pub(crate) const fn mask(operands: &[Self]) -> u32 {
        let mut mask = 0;
        let mut i = 0;
        while i < operands.len() {
            let fields = operands[i].fields();
            let mut j = 0;
            while j < fields.len() {
                mask |= fields[j].mask();
                j += 1;
            }
            i += 1;
        }
        mask
    }
}
