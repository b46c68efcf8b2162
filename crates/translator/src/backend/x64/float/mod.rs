//! Floating point on the host's unit: F, D and what of Zfa is cheap. The rest is the interpreter's.
//!
//! MXCSR holds the guest's rounding mode and collects its flags. An operation's result may be a NaN that isn't
//! the canonical one: cold code replaces it. Where the host's flags would be others than RISC-V's, or its
//! result is of no use, nothing is written and cold code interprets the instruction; the flags that the
//! attempt raised must then be among the right ones.
//!
//! A register that holds a binary32 is NaN-boxed: scalar instructions keep the ones above it. One whose upper
//! half isn't all ones counts as NaN; such a register ends the block, so that it is asked about once.

mod arithmetic;
mod compare;
mod convert;
mod moves;

use std::mem::offset_of;

use rvisor_isa::{Instruction, Op};

use super::assembler::*;
use super::lower::{ColdKind, Lowering};
use super::registers::{FloatPlace, float_place};
use crate::runtime::frame::Frame;
use arithmetic::{ADD, DIV, FusedSign, MUL, SUB};
pub(super) use compare::Extreme;
use moves::Sign;

const FLOAT_READY: Mem = Mem::new(RSP, offset_of!(Frame, float_ready) as i32);

/// Registers for intermediate results.
const XMM0: Xmm = Xmm(0);
const XMM1: Xmm = Xmm(1);

/// Packed logic and comparison of integers.
const PXOR: u8 = 0xef;
const PCMPEQD: u8 = 0x76;

/// Rounding mode of an instruction that takes it from `frm`.
const DYNAMIC: u8 = 7;

/// The format of an operation's values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Precision {
    Single,
    Double,
}

const S: Precision = Precision::Single;
const D: Precision = Precision::Double;

impl Precision {
    /// Prefix of scalar arithmetic.
    const fn scalar(self) -> Prefix {
        match self {
            S => Prefix::F3,
            D => Prefix::F2,
        }
    }

    /// Prefix of comparisons that set the processor's flags.
    const fn compare(self) -> Prefix {
        match self {
            S => Prefix::None,
            D => Prefix::P66,
        }
    }

    /// A register with the canonical NaN.
    const fn canonical_nan(self) -> u64 {
        match self {
            S => 0xffff_ffff_7fc0_0000,
            D => 0x7ff8_0000_0000_0000,
        }
    }
}

/// ROUNDSD's operand for a rounding mode of an instruction, if it has that mode.
const fn host_rounding(mode: u8) -> Option<u8> {
    Some(match mode {
        0 => 0,
        1 => 3,
        2 => 1,
        3 => 2,
        DYNAMIC => 4,
        _ => return None,
    })
}

impl Lowering<'_> {
    /// Makes sure that floating-point instructions may be executed here: once for each block, since only
    /// system instructions can change it.
    pub(super) fn check_float(&mut self) {
        if !self.float_checked {
            self.float_checked = true;
            let site = self.site();
            let off = self.add_cold(ColdKind::Step { site });
            self.asm.cmp_byte(FLOAT_READY, 0);
            self.asm.jcc(Cond::Equal, off);
        }
    }

    /// Lowers a floating-point instruction; false for others, and for those that are left to the interpreter.
    pub(super) fn float(&mut self, i: &Instruction) -> bool {
        let is_done = self.float_arithmetic(i) || self.float_move(i) || self.float_conversion(i);
        if !is_done {
            // Whatever it is that the interpreter writes.
            self.boxed &= !(1 << i.rd);
        }
        is_done
    }

    fn float_arithmetic(&mut self, i: &Instruction) -> bool {
        match i.op {
            Op::FaddS => self.float_binary(i, S, ADD),
            Op::FaddD => self.float_binary(i, D, ADD),
            Op::FsubS => self.float_binary(i, S, SUB),
            Op::FsubD => self.float_binary(i, D, SUB),
            Op::FmulS => self.float_binary(i, S, MUL),
            Op::FmulD => self.float_binary(i, D, MUL),
            Op::FdivS => self.float_binary(i, S, DIV),
            Op::FdivD => self.float_binary(i, D, DIV),
            Op::FsqrtS => self.float_root(i, S),
            Op::FsqrtD => self.float_root(i, D),
            Op::FmaddS => self.fused(i, S, FusedSign::Madd),
            Op::FmaddD => self.fused(i, D, FusedSign::Madd),
            Op::FmsubS => self.fused(i, S, FusedSign::Msub),
            Op::FmsubD => self.fused(i, D, FusedSign::Msub),
            Op::FnmsubS => self.fused(i, S, FusedSign::Nmsub),
            Op::FnmsubD => self.fused(i, D, FusedSign::Nmsub),
            Op::FnmaddS => self.fused(i, S, FusedSign::Nmadd),
            Op::FnmaddD => self.fused(i, D, FusedSign::Nmadd),
            Op::FroundS => self.float_round(i, S, false),
            Op::FroundD => self.float_round(i, D, false),
            Op::FroundnxS => self.float_round(i, S, true),
            Op::FroundnxD => self.float_round(i, D, true),
            Op::FminS => self.float_extreme(i, S, Extreme::Minimum),
            Op::FminD => self.float_extreme(i, D, Extreme::Minimum),
            Op::FmaxS => self.float_extreme(i, S, Extreme::Maximum),
            Op::FmaxD => self.float_extreme(i, D, Extreme::Maximum),
            _ => false,
        }
    }

    fn float_move(&mut self, i: &Instruction) -> bool {
        match i.op {
            Op::FsgnjS => self.inject_sign(i, S, Sign::Copied),
            Op::FsgnjD => self.inject_sign(i, D, Sign::Copied),
            Op::FsgnjnS => self.inject_sign(i, S, Sign::Negated),
            Op::FsgnjnD => self.inject_sign(i, D, Sign::Negated),
            Op::FsgnjxS => self.inject_sign(i, S, Sign::Multiplied),
            Op::FsgnjxD => self.inject_sign(i, D, Sign::Multiplied),
            Op::FmvXW => self.move_to_integer(i, S),
            Op::FmvXD => self.move_to_integer(i, D),
            Op::FmvWX => self.move_from_integer(i, S),
            Op::FmvDX => self.move_from_integer(i, D),
            Op::FliS => self.load_immediate(i, S),
            Op::FliD => self.load_immediate(i, D),
            _ => return false,
        }
        true
    }

    fn float_conversion(&mut self, i: &Instruction) -> bool {
        match i.op {
            Op::FeqS => self.float_equal(i, S),
            Op::FeqD => self.float_equal(i, D),
            Op::FltS => self.float_less(i, S, Cond::Above, true),
            Op::FltD => self.float_less(i, D, Cond::Above, true),
            Op::FleS => self.float_less(i, S, Cond::AboveEqual, true),
            Op::FleD => self.float_less(i, D, Cond::AboveEqual, true),
            Op::FltqS => self.float_less(i, S, Cond::Above, false),
            Op::FltqD => self.float_less(i, D, Cond::Above, false),
            Op::FleqS => self.float_less(i, S, Cond::AboveEqual, false),
            Op::FleqD => self.float_less(i, D, Cond::AboveEqual, false),
            Op::FcvtDS => return self.widen(i),
            Op::FcvtSD => return self.narrow(i),
            Op::FcvtWS => return self.integer_from_float(i, S, Double, true),
            Op::FcvtWD => return self.integer_from_float(i, D, Double, true),
            Op::FcvtWuS => return self.integer_from_float(i, S, Double, false),
            Op::FcvtWuD => return self.integer_from_float(i, D, Double, false),
            Op::FcvtLS => return self.integer_from_float(i, S, Quad, true),
            Op::FcvtLD => return self.integer_from_float(i, D, Quad, true),
            Op::FcvtLuS => return self.integer_from_float(i, S, Quad, false),
            Op::FcvtLuD => return self.integer_from_float(i, D, Quad, false),
            Op::FcvtSW => return self.float_from_integer(i, S, Double, true),
            Op::FcvtDW => return self.float_from_integer(i, D, Double, true),
            Op::FcvtSWu => return self.float_from_integer(i, S, Double, false),
            Op::FcvtDWu => return self.float_from_integer(i, D, Double, false),
            Op::FcvtSL => return self.float_from_integer(i, S, Quad, true),
            Op::FcvtDL => return self.float_from_integer(i, D, Quad, true),
            Op::FcvtSLu => return self.float_from_integer(i, S, Quad, false),
            Op::FcvtDLu => return self.float_from_integer(i, D, Quad, false),
            _ => return false,
        }
        true
    }

    /// Starts an instruction that reads these registers: floating point is on, and binary32 values are boxed.
    fn float_reads<const N: usize>(&mut self, precision: Precision, registers: [u8; N]) {
        self.check_float();
        if precision == D {
            return;
        }
        for register in registers {
            if self.boxed & 1 << register == 0 {
                self.boxed |= 1 << register;
                let site = self.site();
                let unboxed = self.add_cold(ColdKind::Step { site });
                match float_place(register) {
                    FloatPlace::Host(xmm) => {
                        self.asm.mov_from_xmm(Quad, RAX, xmm);
                        self.asm.shift_imm(Shift::Sar, Quad, RAX, 32);
                        self.asm.alu_imm(Alu::Cmp, Double, RAX, -1);
                    }
                    FloatPlace::Slot(slot) => self.asm.alu_imm(Alu::Cmp, Double, slot.offset(4), -1),
                }
                self.asm.jcc(Cond::NotEqual, unboxed);
            }
        }
    }

    /// Notes what a register holds from now on.
    pub(super) fn float_holds(&mut self, register: u8, precision: Precision) {
        match precision {
            S => self.boxed |= 1 << register,
            D => self.boxed &= !(1 << register),
        }
    }

    /// A guest register as a scalar operand. Packed instructions can't take it: they read 16 bytes.
    fn float_operand(&self, register: u8) -> Rm {
        match float_place(register) {
            FloatPlace::Host(xmm) => xmm.into(),
            FloatPlace::Slot(slot) => slot.into(),
        }
    }

    fn float_copy(&mut self, register: u8, to: Xmm) {
        match float_place(register) {
            FloatPlace::Host(xmm) if xmm == to => {}
            FloatPlace::Host(xmm) => self.asm.movaps(to, xmm),
            FloatPlace::Slot(slot) => self.asm.movq_load(to, slot),
        }
    }

    /// A register that holds a guest register: its own, or `spare` after loading it.
    fn float_get(&mut self, register: u8, spare: Xmm) -> Xmm {
        match float_place(register) {
            FloatPlace::Host(xmm) => xmm,
            FloatPlace::Slot(slot) => {
                self.asm.movq_load(spare, slot);
                spare
            }
        }
    }

    fn float_put(&mut self, register: u8, from: Xmm) {
        match float_place(register) {
            FloatPlace::Host(xmm) if xmm == from => {}
            FloatPlace::Host(xmm) => self.asm.movaps(xmm, from),
            FloatPlace::Slot(slot) => self.asm.movq_store(slot, from),
        }
    }

    /// The register in which to compute `rd`: its own, or `xmm0`.
    fn float_result(&self, rd: u8) -> Xmm {
        match float_place(rd) {
            FloatPlace::Host(xmm) => xmm,
            FloatPlace::Slot(_) => XMM0,
        }
    }

    /// Ends an instruction whose flags are right and whose result is too, unless it is a NaN.
    fn float_finish(&mut self, rd: u8, result: Xmm, precision: Precision) {
        let back = self.asm.label();
        let nan = self.add_cold(ColdKind::CanonicalNan { rd, precision, back });
        self.asm.sse(precision.compare(), compare::UCOMIS, result, result);
        self.asm.jcc(Cond::Parity, nan);
        self.float_put(rd, result);
        self.asm.bind(back);
        self.float_holds(rd, precision);
    }

    pub(super) fn canonical_nan(&mut self, rd: u8, precision: Precision, back: Label) {
        self.asm.mov_imm(RAX, precision.canonical_nan());
        self.float_put_integer(rd, RAX);
        self.asm.jmp(back);
    }

    fn float_put_integer(&mut self, rd: u8, from: Reg) {
        match float_place(rd) {
            FloatPlace::Host(xmm) => self.asm.mov_to_xmm(Quad, xmm, from),
            FloatPlace::Slot(slot) => self.asm.mov_to_memory(Quad, slot, from),
        }
    }

    /// `to` = the NaN-boxed binary32 in 32 bits of memory or of a general-purpose register.
    pub(super) fn float_box(&mut self, to: Xmm, from: impl Into<Rm>) {
        self.asm.mov_to_xmm(Double, XMM1, from);
        self.all_ones(to);
        self.asm.movss(to, XMM1);
    }

    fn all_ones(&mut self, to: Xmm) {
        self.asm.sse(Prefix::P66, PCMPEQD, to, to);
    }
}
