//! Conversions between the formats, and to and from integers.

use rvisor_isa::Instruction;

use super::super::assembler::*;
use super::super::lower::Lowering;
use super::super::registers::{FloatPlace, float_place};
use super::{DYNAMIC, PXOR, Precision, XMM0, host_rounding};

/// Between the formats.
const CONVERT: u8 = 0x5a;
/// From an integer.
const FROM_INTEGER: u8 = 0x2a;
/// To an integer, towards zero.
const TRUNCATE: u8 = 0x2c;
/// To an integer, as MXCSR says.
const TO_INTEGER: u8 = 0x2d;

/// Round towards zero.
const RTZ: u8 = 1;

impl Lowering<'_> {
    /// `fcvt.d.s`, which is exact.
    pub(super) fn widen(&mut self, i: &Instruction) -> bool {
        self.float_reads(Precision::Single, [i.rs1]);
        let result = self.float_result(i.rd);
        let source = self.float_operand(i.rs1);
        if source != result.into() {
            self.asm.sse(Prefix::P66, PXOR, result, result);
        }
        self.asm.sse(Prefix::F3, CONVERT, result, source);
        self.float_finish(i.rd, result, Precision::Double);
        true
    }

    /// `fcvt.s.d`
    pub(super) fn narrow(&mut self, i: &Instruction) -> bool {
        if i.aux != DYNAMIC {
            return false;
        }
        self.check_float();
        let result = if i.rd == i.rs1 { XMM0 } else { self.float_result(i.rd) };
        let source = self.float_operand(i.rs1);
        self.all_ones(result);
        self.asm.sse(Prefix::F2, CONVERT, result, source);
        self.float_finish(i.rd, result, Precision::Single);
        true
    }

    /// `fcvt` from an integer of `size`.
    pub(super) fn float_from_integer(
        &mut self,
        i: &Instruction,
        precision: Precision,
        size: Size,
        signed: bool,
    ) -> bool {
        let is_exact = precision == Precision::Double && size == Double;
        // 64 bits are exact too where the significand holds them.
        let is_exact_if_small = precision == Precision::Double && signed;
        if i.aux != DYNAMIC && !is_exact && !is_exact_if_small {
            return false;
        }
        self.check_float();
        let back = self.asm.label();
        let (source, size) = match (size, signed) {
            (_, true) => (self.operand(i.rs1, RAX), size),
            (Double, false) => {
                let source = self.operand(i.rs1, RAX);
                self.asm.mov(Double, RAX, source);
                (RAX.into(), Quad)
            }
            (Quad, false) => {
                let source = self.get(i.rs1, RAX);
                let large = self.add_interpreted(back);
                self.asm.test(Quad, source, source);
                self.asm.jcc(Cond::Sign, large);
                (source.into(), Quad)
            }
        };
        if i.aux != DYNAMIC && !is_exact {
            let large = self.add_interpreted(back);
            self.asm.mov(Quad, RCX, source);
            self.asm.shift_imm(Shift::Sar, Quad, RCX, 53);
            self.asm.alu_imm(Alu::Add, Quad, RCX, 1);
            self.asm.alu_imm(Alu::Cmp, Quad, RCX, 1);
            self.asm.jcc(Cond::Above, large);
        }
        let result = self.float_result(i.rd);
        match precision {
            Precision::Single => self.all_ones(result),
            Precision::Double => self.asm.sse(Prefix::P66, PXOR, result, result),
        }
        self.asm.sse_from_int(precision.scalar(), FROM_INTEGER, size, result, source);
        self.float_put(i.rd, result);
        self.asm.bind(back);
        self.float_holds(i.rd, precision);
        true
    }

    /// `fcvt` to an integer of `size`. Numbers out of range raise NV alone, so before an unsigned conversion,
    /// or a rounding on its own, which may raise NX, the range is checked.
    pub(super) fn integer_from_float(
        &mut self,
        i: &Instruction,
        precision: Precision,
        size: Size,
        signed: bool,
    ) -> bool {
        let is_direct = matches!(i.aux, RTZ | DYNAMIC);
        let Some(mode) = host_rounding(i.aux).filter(|_| is_direct || self.features.round) else {
            return false;
        };
        self.float_reads(precision, [i.rs1]);
        let back = self.asm.label();
        let invalid = self.add_interpreted(back);
        if !(signed && is_direct) {
            // What is below the limit stays in range when it is rounded up.
            let limit = match (size, signed) {
                (Double, true) => 30,
                (Double, false) if i.aux == RTZ => 32,
                (Double, false) => 31,
                (Quad, _) => 63,
            };
            self.check_magnitude(i.rs1, precision, signed, limit, invalid);
        }
        let mut source = self.float_operand(i.rs1);
        if !is_direct {
            self.asm.round(precision == Precision::Double, XMM0, source, mode);
            source = XMM0.into();
        }
        let opcode = if i.aux == DYNAMIC { TO_INTEGER } else { TRUNCATE };
        let width = if signed && is_direct { size } else { Quad };
        self.asm.sse_to_int(precision.scalar(), opcode, width, RAX, source);
        if signed && is_direct {
            // Only the smallest integer overflows: it stands for whatever is out of range.
            self.asm.alu_imm(Alu::Cmp, size, RAX, 1);
            self.asm.jcc(Cond::Overflow, invalid);
        }
        if size == Double {
            let result = self.result(i.rd, RAX);
            self.asm.movsxd(result, RAX);
            self.put(i.rd, result);
        } else {
            self.put(i.rd, RAX);
        }
        self.asm.bind(back);
        true
    }

    /// Goes to `outside` unless the number's magnitude is below 2^`limit`, and if unsigned, its sign is clear.
    fn check_magnitude(
        &mut self,
        register: u8,
        precision: Precision,
        signed: bool,
        limit: i32,
        outside: Label,
    ) {
        let (size, fraction, bias, exponents) = match precision {
            Precision::Single => (Double, 23, 127, 0xff),
            Precision::Double => (Quad, 52, 1023, 0x7ff),
        };
        match float_place(register) {
            FloatPlace::Host(xmm) => self.asm.mov_from_xmm(size, RAX, xmm),
            FloatPlace::Slot(slot) => self.asm.mov(size, RAX, slot),
        }
        self.asm.shift_imm(Shift::Shr, size, RAX, fraction);
        if signed {
            self.asm.alu_imm(Alu::And, Double, RAX, exponents);
        }
        self.asm.alu_imm(Alu::Cmp, Double, RAX, bias + limit);
        self.asm.jcc(Cond::AboveEqual, outside);
    }
}
