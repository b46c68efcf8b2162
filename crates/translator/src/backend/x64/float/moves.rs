//! Moves between register files, sign injection, immediates: bits alone, no flags.

use rvisor_hart::float::{self, load_immediate, nan_box};
use rvisor_isa::Instruction;

use super::super::assembler::*;
use super::super::lower::Lowering;
use super::super::registers::{FloatPlace, Place, float_place};
use super::{PXOR, Precision, XMM0, XMM1};

const PAND: u8 = 0xdb;
/// `!first & second`
const PANDN: u8 = 0xdf;
const POR: u8 = 0xeb;

/// The sign that `fsgnj`, `fsgnjn` and `fsgnjx` give their first operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sign {
    /// The second's.
    Copied,
    /// The opposite of the second's.
    Negated,
    /// Both signs' product.
    Multiplied,
}

impl Lowering<'_> {
    pub(super) fn inject_sign(&mut self, i: &Instruction, precision: Precision, sign: Sign) {
        self.float_reads(precision, [i.rs1, i.rs2]);
        if i.rs1 == i.rs2 {
            let result = self.float_result(i.rd);
            self.float_copy(i.rs1, result);
            if sign != Sign::Copied {
                self.sign_mask(precision);
            }
            if sign == Sign::Multiplied {
                self.asm.sse(Prefix::P66, POR, result, XMM1);
            }
            if sign != Sign::Copied {
                self.asm.sse(Prefix::P66, PXOR, result, XMM1);
            }
            self.float_put(i.rd, result);
        } else {
            // The first operand, its sign changed where a mask says so.
            self.float_copy(i.rs2, XMM0);
            let a = self.float_get(i.rs1, Xmm(2));
            self.sign_mask(precision);
            if sign != Sign::Multiplied {
                self.asm.sse(Prefix::P66, PXOR, XMM0, a);
            }
            let mask = if sign == Sign::Negated { PANDN } else { PAND };
            self.asm.sse(Prefix::P66, mask, XMM0, XMM1);
            self.asm.sse(Prefix::P66, PXOR, XMM0, a);
            self.float_put(i.rd, XMM0);
        }
        self.float_holds(i.rd, precision);
    }

    /// `xmm1` = the sign bit.
    fn sign_mask(&mut self, precision: Precision) {
        self.all_ones(XMM1);
        self.asm.shift_vector(Shift::Shl, XMM1, 63);
        if precision == Precision::Single {
            self.asm.shift_vector(Shift::Shr, XMM1, 32);
        }
    }

    pub(super) fn move_to_integer(&mut self, i: &Instruction, precision: Precision) {
        self.check_float();
        let result = self.result(i.rd, RAX);
        let size = if precision == Precision::Double { Quad } else { Double };
        match float_place(i.rs1) {
            FloatPlace::Host(xmm) => self.asm.mov_from_xmm(size, result, xmm),
            FloatPlace::Slot(slot) => self.asm.mov(size, result, slot),
        }
        if precision == Precision::Single {
            self.asm.movsxd(result, result);
        }
        self.put(i.rd, result);
    }

    pub(super) fn move_from_integer(&mut self, i: &Instruction, precision: Precision) {
        self.check_float();
        if precision == Precision::Double && self.place(i.rs1) != Place::Zero {
            let source = self.get(i.rs1, RAX);
            self.float_put_integer(i.rd, source);
        } else if precision == Precision::Double {
            let result = self.float_result(i.rd);
            self.asm.sse(Prefix::P66, PXOR, result, result);
            self.float_put(i.rd, result);
        } else {
            let source = self.operand(i.rs1, RAX);
            let result = self.float_result(i.rd);
            self.float_box(result, source);
            self.float_put(i.rd, result);
        }
        self.float_holds(i.rd, precision);
    }

    pub(super) fn load_immediate(&mut self, i: &Instruction, precision: Precision) {
        self.check_float();
        let value = match precision {
            Precision::Single => nan_box::<float::Single>(load_immediate::<float::Single>(i.rs1)),
            Precision::Double => load_immediate::<float::Double>(i.rs1),
        };
        self.asm.mov_imm(RAX, value);
        self.float_put_integer(i.rd, RAX);
        self.float_holds(i.rd, precision);
    }
}
