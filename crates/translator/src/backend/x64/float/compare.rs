//! Comparisons, minimum and maximum.

use rvisor_isa::Instruction;

use super::super::assembler::*;
use super::super::lower::{ColdKind, Lowering};
use super::{Precision, XMM0, XMM1};
use crate::runtime::site::Site;

/// UCOMISS, UCOMISD: a signalling NaN is invalid.
pub(super) const UCOMIS: u8 = 0x2e;
/// COMISS, COMISD: any NaN is invalid.
const COMIS: u8 = 0x2f;

/// Which of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Extreme {
    Minimum,
    Maximum,
}

impl Extreme {
    /// Of two numbers that differ.
    const fn opcode(self) -> u8 {
        match self {
            Self::Minimum => 0x5d,
            Self::Maximum => 0x5f,
        }
    }

    /// Of two that are equal, which may be zeros of either sign: ORPS, ANDPS.
    const fn of_equal(self) -> u8 {
        match self {
            Self::Minimum => 0x56,
            Self::Maximum => 0x54,
        }
    }
}

impl Lowering<'_> {
    pub(super) fn float_equal(&mut self, i: &Instruction, precision: Precision) {
        self.float_reads(precision, [i.rs1, i.rs2]);
        let a = self.float_get(i.rs1, XMM0);
        let b = self.float_operand(i.rs2);
        self.asm.sse(precision.compare(), UCOMIS, a, b);
        self.asm.setcc(Cond::NoParity, RAX);
        self.asm.setcc(Cond::Equal, RCX);
        self.asm.alu(Alu::And, Double, RAX, RCX);
        let result = self.result(i.rd, RAX);
        self.asm.load(1, false, result, RAX);
        self.put(i.rd, result);
    }

    /// `condition` says how the second operand compares with the first; it doesn't hold for NaNs.
    pub(super) fn float_less(
        &mut self,
        i: &Instruction,
        precision: Precision,
        condition: Cond,
        signalling: bool,
    ) {
        self.float_reads(precision, [i.rs1, i.rs2]);
        let b = self.float_get(i.rs2, XMM0);
        let a = self.float_operand(i.rs1);
        self.asm.sse(precision.compare(), if signalling { COMIS } else { UCOMIS }, b, a);
        self.set(i.rd, condition);
    }

    pub(super) fn float_extreme(&mut self, i: &Instruction, precision: Precision, extreme: Extreme) -> bool {
        self.float_reads(precision, [i.rs1, i.rs2]);
        self.float_copy(i.rs1, XMM0);
        let b = self.float_operand(i.rs2);
        let (back, done) = (self.asm.label(), self.asm.label());
        let site = self.site();
        let odd = self.add_cold(ColdKind::Extreme { site, back, done, extreme, second: i.rs2 });
        self.asm.sse(precision.compare(), UCOMIS, XMM0, b);
        // Equal or a NaN.
        self.asm.jcc(Cond::Equal, odd);
        self.asm.sse(precision.scalar(), extreme.opcode(), XMM0, b);
        self.asm.bind(back);
        self.float_put(i.rd, XMM0);
        self.asm.bind(done);
        self.float_holds(i.rd, precision);
        true
    }

    /// The first operand is in `xmm0`, the flags of the comparison are set.
    pub(in super::super) fn odd_extreme(
        &mut self,
        site: Site,
        back: Label,
        done: Label,
        extreme: Extreme,
        second: u8,
    ) {
        let nan = self.asm.label();
        self.asm.jcc(Cond::Parity, nan);
        let second = self.float_get(second, XMM1);
        self.asm.sse(Prefix::None, extreme.of_equal(), XMM0, second);
        self.asm.jmp(back);
        self.asm.bind(nan);
        self.asm.mov_imm(RDX, site.bits().into());
        self.asm.call_to(self.thunks.interpret);
        self.asm.jmp(done);
    }
}
