//! Sums, products, quotients, roots, fused multiply-adds, rounding to integers.

use rvisor_isa::Instruction;

use super::super::assembler::*;
use super::super::lower::Lowering;
use super::{DYNAMIC, Precision, XMM0, XMM1, compare, host_rounding};

// Opcodes of scalar arithmetic.
pub(super) const ADD: u8 = 0x58;
pub(super) const MUL: u8 = 0x59;
pub(super) const SUB: u8 = 0x5c;
pub(super) const DIV: u8 = 0x5e;
const SQRT: u8 = 0x51;

/// Signs of a fused multiply-add, by the host's opcode that adds the product to its first operand. RISC-V
/// names them after the negated sum, the host after the negated product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum FusedSign {
    /// `a * b + c`
    Madd = 0xb9,
    /// `a * b - c`
    Msub = 0xbb,
    /// `-(a * b) + c`
    Nmsub = 0xbd,
    /// `-(a * b) - c`
    Nmadd = 0xbf,
}

impl Lowering<'_> {
    pub(super) fn float_binary(&mut self, i: &Instruction, precision: Precision, opcode: u8) -> bool {
        if i.aux != DYNAMIC {
            return false;
        }
        self.float_reads(precision, [i.rs1, i.rs2]);
        // NaNs become canonical, whichever operand they come from.
        let commutes = matches!(opcode, ADD | MUL);
        let (a, b) = if commutes && i.rd == i.rs2 { (i.rs2, i.rs1) } else { (i.rs1, i.rs2) };
        let result = if i.rd == b && i.rd != a { XMM0 } else { self.float_result(i.rd) };
        self.float_copy(a, result);
        let b = self.float_operand(b);
        self.asm.sse(precision.scalar(), opcode, result, b);
        self.float_finish(i.rd, result, precision);
        true
    }

    pub(super) fn float_root(&mut self, i: &Instruction, precision: Precision) -> bool {
        if i.aux != DYNAMIC {
            return false;
        }
        self.float_reads(precision, [i.rs1]);
        let result = self.float_result(i.rd);
        self.float_copy(i.rs1, result);
        self.asm.sse(precision.scalar(), SQRT, result, result);
        self.float_finish(i.rd, result, precision);
        true
    }

    pub(super) fn fused(&mut self, i: &Instruction, precision: Precision, sign: FusedSign) -> bool {
        if i.aux != DYNAMIC || !self.features.fma {
            return false;
        }
        self.float_reads(precision, [i.rs1, i.rs2, i.rs3]);
        self.float_copy(i.rs3, XMM0);
        let a = self.float_get(i.rs1, XMM1);
        let b = self.float_operand(i.rs2);
        let size = if precision == Precision::Double { Quad } else { Double };
        self.asm.fma(size, sign as u8, XMM0, a, b);
        // The host doesn't call infinity times zero plus NaN invalid, RISC-V does: so NaNs are interpreted.
        let back = self.asm.label();
        let nan = self.add_interpreted(back);
        self.asm.sse(precision.compare(), compare::UCOMIS, XMM0, XMM0);
        self.asm.jcc(Cond::Parity, nan);
        self.float_put(i.rd, XMM0);
        self.asm.bind(back);
        self.float_holds(i.rd, precision);
        true
    }

    /// `fround`, and `froundnx`, which says when the result is inexact.
    pub(super) fn float_round(&mut self, i: &Instruction, precision: Precision, inexact: bool) -> bool {
        const SILENT: u8 = 8;
        let Some(mode) = host_rounding(i.aux).filter(|_| self.features.round) else { return false };
        self.float_reads(precision, [i.rs1]);
        let result = self.float_result(i.rd);
        self.float_copy(i.rs1, result);
        let mode = if inexact { mode } else { mode | SILENT };
        self.asm.round(precision == Precision::Double, result, result, mode);
        self.float_finish(i.rd, result, precision);
        true
    }
}
