//! Integer computation: I, M, Zba, Zbb, Zbs, Zicond.

use rvisor_isa::{Instruction, Op};

use super::assembler::*;
use super::lower::{ColdKind, Lowering};
use super::registers::Place;
use crate::ir::is_computation;

/// BTS, BTR and BTC, by their opcode with a register and their number with a constant.
const BIT_SET: (u8, u8) = (0xab, 5);
const BIT_CLEAR: (u8, u8) = (0xb3, 6);
const BIT_INVERT: (u8, u8) = (0xbb, 7);
/// BT
const BIT_TEST: u8 = 0xa3;

const POPCNT: u8 = 0xb8;
const TZCNT: u8 = 0xbc;
const LZCNT: u8 = 0xbd;

impl Lowering<'_> {
    /// Lowers integer computation; false for other instructions and those that the host lacks.
    pub(super) fn integer(&mut self, i: &Instruction) -> bool {
        let is_hint = i.rd == 0 && !matches!(i.op, Op::Fence | Op::Pause);
        if is_hint && is_computation(i.op) {
            return true;
        }
        match i.op {
            Op::Lui => {
                let value = i.imm as i64 as u64;
                let result = self.result(i.rd, RAX);
                self.asm.mov_imm(result, value);
                self.put(i.rd, result);
            }
            Op::Addi => self.add_immediate(i),
            Op::Xori => self.logic_immediate(Alu::Xor, i),
            Op::Ori => self.logic_immediate(Alu::Or, i),
            Op::Andi => self.logic_immediate(Alu::And, i),
            Op::Addiw => {
                let result = self.result(i.rd, RAX);
                if i.imm == 0 {
                    let source = self.operand(i.rs1, RAX);
                    self.asm.movsxd(result, source);
                } else {
                    let source = self.get(i.rs1, RAX);
                    self.asm.lea(Double, result, Mem::new(source, i.imm));
                    self.extend_result(result);
                }
                self.put(i.rd, result);
            }
            Op::Slti => self.set_if(i, Cond::Less, true),
            Op::Sltiu => self.set_if(i, Cond::Below, true),
            Op::Slt => self.set_if(i, Cond::Less, false),
            Op::Sltu => self.set_if(i, Cond::Below, false),
            Op::Slli => self.shift_immediate(Shift::Shl, Quad, i),
            Op::Srli => self.shift_immediate(Shift::Shr, Quad, i),
            Op::Srai => self.shift_immediate(Shift::Sar, Quad, i),
            Op::Slliw => self.shift_immediate(Shift::Shl, Double, i),
            Op::Srliw => self.shift_immediate(Shift::Shr, Double, i),
            Op::Sraiw => self.shift_immediate(Shift::Sar, Double, i),
            Op::Sll => self.shift(Shift::Shl, Quad, i),
            Op::Srl => self.shift(Shift::Shr, Quad, i),
            Op::Sra => self.shift(Shift::Sar, Quad, i),
            Op::Sllw => self.shift(Shift::Shl, Double, i),
            Op::Srlw => self.shift(Shift::Shr, Double, i),
            Op::Sraw => self.shift(Shift::Sar, Double, i),
            Op::Add => self.add(i),
            Op::Sub => self.arithmetic(Alu::Sub, Quad, i),
            Op::Xor => self.arithmetic(Alu::Xor, Quad, i),
            Op::Or => self.arithmetic(Alu::Or, Quad, i),
            Op::And => self.arithmetic(Alu::And, Quad, i),
            Op::Addw => self.arithmetic(Alu::Add, Double, i),
            Op::Subw => self.arithmetic(Alu::Sub, Double, i),
            Op::Fence => self.fence(i),
            Op::Pause => self.asm.call_to(self.thunks.pause),
            _ => return self.multiply(i) || self.bits(i),
        }
        true
    }

    fn add_immediate(&mut self, i: &Instruction) {
        match (self.place(i.rd), self.place(i.rs1)) {
            (rd, Place::Zero) => match rd {
                Place::Slot(slot) => self.asm.mov_imm_to_memory(Quad, slot, i.imm),
                _ => {
                    let result = self.result(i.rd, RAX);
                    self.asm.mov_imm(result, i.imm as i64 as u64);
                }
            },
            (rd, rs1) if rd == rs1 => match rd {
                Place::Host(host) => self.asm.alu_imm(Alu::Add, Quad, host, i.imm),
                Place::Slot(slot) => self.asm.alu_imm(Alu::Add, Quad, slot, i.imm),
                Place::Zero => {}
            },
            (Place::Host(rd), Place::Host(rs1)) if i.imm != 0 => {
                self.asm.lea(Quad, rd, Mem::new(rs1, i.imm));
            }
            (_, Place::Host(rs1)) if i.imm == 0 => self.put(i.rd, rs1),
            (_, Place::Host(rs1)) => {
                self.asm.lea(Quad, RAX, Mem::new(rs1, i.imm));
                self.put(i.rd, RAX);
            }
            _ => {
                let result = self.result(i.rd, RAX);
                self.copy(i.rs1, result);
                if i.imm != 0 {
                    self.asm.alu_imm(Alu::Add, Quad, result, i.imm);
                }
                self.put(i.rd, result);
            }
        }
    }

    fn logic_immediate(&mut self, op: Alu, i: &Instruction) {
        if i.rd == i.rs1
            && let Place::Slot(slot) = self.place(i.rd)
        {
            return self.asm.alu_imm(op, Quad, slot, i.imm);
        }
        let result = self.result(i.rd, RAX);
        self.copy(i.rs1, result);
        if op == Alu::Xor && i.imm == -1 {
            self.asm.not(Quad, result);
        } else {
            self.asm.alu_imm(op, Quad, result, i.imm);
        }
        self.put(i.rd, result);
    }

    fn add(&mut self, i: &Instruction) {
        // `c.mv` is an addition to `x0`.
        if i.rs1 == 0 || i.rs2 == 0 {
            return self.move_register(i.rd, i.rs1 | i.rs2);
        }
        match (self.place(i.rd), self.place(i.rs1), self.place(i.rs2)) {
            (Place::Host(rd), Place::Host(a), Place::Host(b)) if rd != a && rd != b => {
                self.asm.lea(Quad, rd, Mem::indexed(a, b, 0, 0));
            }
            (Place::Slot(_), Place::Host(a), Place::Host(b)) => {
                self.asm.lea(Quad, RAX, Mem::indexed(a, b, 0, 0));
                self.put(i.rd, RAX);
            }
            _ => self.arithmetic(Alu::Add, Quad, i),
        }
    }

    fn move_register(&mut self, rd: u8, from: u8) {
        match (self.place(rd), self.place(from)) {
            (Place::Slot(slot), Place::Zero) => self.asm.mov_imm_to_memory(Quad, slot, 0),
            (_, Place::Host(host)) => self.put(rd, host),
            _ => {
                let result = self.result(rd, RAX);
                self.copy(from, result);
                self.put(rd, result);
            }
        }
    }

    fn arithmetic(&mut self, op: Alu, size: Size, i: &Instruction) {
        if size == Quad
            && i.rd == i.rs1
            && let Place::Slot(slot) = self.place(i.rd)
        {
            let b = self.get(i.rs2, RCX);
            return self.asm.alu_to_memory(op, Quad, slot, b);
        }
        let commutes = op != Alu::Sub;
        let (a, b) = if commutes && i.rd == i.rs2 { (i.rs2, i.rs1) } else { (i.rs1, i.rs2) };
        // The result may take the place of an operand only once that has been read.
        let result = if i.rd == b && i.rd != a { RAX } else { self.result(i.rd, RAX) };
        self.copy(a, result);
        let b = self.operand(b, RCX);
        self.asm.alu(op, size, result, b);
        if size == Double {
            self.extend_result(result);
        }
        self.put(i.rd, result);
    }

    fn set_if(&mut self, i: &Instruction, condition: Cond, immediate: bool) {
        let mut condition = condition;
        if immediate {
            if i.imm == 1 && i.op == Op::Sltiu {
                condition = Cond::Equal;
                self.compare(i.rs1, 0);
            } else {
                let a = self.operand(i.rs1, RCX);
                self.asm.alu_imm(Alu::Cmp, Quad, a, i.imm);
            }
        } else if i.rs1 == 0 && i.op == Op::Sltu {
            condition = Cond::NotEqual;
            self.compare(i.rs2, 0);
        } else {
            self.compare(i.rs1, i.rs2);
        }
        self.set(i.rd, condition);
    }

    /// `rd` = whether the condition holds.
    pub(super) fn set(&mut self, rd: u8, condition: Cond) {
        self.asm.setcc(condition, RAX);
        let result = self.result(rd, RAX);
        self.asm.load(1, false, result, RAX);
        self.put(rd, result);
    }

    fn shift_immediate(&mut self, op: Shift, size: Size, i: &Instruction) {
        if size == Quad
            && i.rd == i.rs1
            && let Place::Slot(slot) = self.place(i.rd)
        {
            return self.asm.shift_imm(op, Quad, slot, i.imm as u8);
        }
        let result = self.result(i.rd, RAX);
        self.copy(i.rs1, result);
        if i.imm != 0 {
            self.asm.shift_imm(op, size, result, i.imm as u8);
        }
        if size == Double {
            self.extend_result(result);
        }
        self.put(i.rd, result);
    }

    fn shift(&mut self, op: Shift, size: Size, i: &Instruction) {
        let result = self.result(i.rd, RAX);
        if self.features.bits {
            let amount = self.get(i.rs2, RCX);
            let source = self.operand(i.rs1, RAX);
            self.asm.shift_into(op, size, result, source, amount);
        } else {
            self.copy(i.rs2, RCX);
            self.copy(i.rs1, RAX);
            self.asm.shift_cl(op, size, RAX);
            self.asm.mov(Quad, result, RAX);
        }
        if size == Double {
            self.extend_result(result);
        }
        self.put(i.rd, result);
    }

    /// Only a store followed by a load needs an instruction: hosts keep every other order by themselves.
    fn fence(&mut self, i: &Instruction) {
        const READ_OR_INPUT: i32 = 0b1010;
        const WRITE_OR_OUTPUT: i32 = 0b0101;
        const TSO: u8 = 0b1000;
        if i.imm >> 4 & WRITE_OR_OUTPUT != 0 && i.imm & READ_OR_INPUT != 0 && i.aux != TSO {
            self.asm.mfence();
        }
    }

    fn multiply(&mut self, i: &Instruction) -> bool {
        match i.op {
            Op::Mul | Op::Mulw => {
                let size = if i.op == Op::Mul { Quad } else { Double };
                let (a, b) = if i.rd == i.rs2 { (i.rs2, i.rs1) } else { (i.rs1, i.rs2) };
                let result = self.result(i.rd, RAX);
                self.copy(a, result);
                let b = self.operand(b, RCX);
                self.asm.imul(size, result, b);
                if size == Double {
                    self.extend_result(result);
                }
                self.put(i.rd, result);
            }
            Op::Mulh | Op::Mulhu | Op::Mulhsu => {
                let b = self.operand(i.rs2, RCX);
                self.copy(i.rs1, RAX);
                if i.op == Op::Mulh {
                    self.asm.imul_wide(Quad, b)
                } else {
                    self.asm.mul_wide(Quad, b)
                }
                if i.op == Op::Mulhsu {
                    // A negative first factor counted 2^64 too much.
                    self.copy(i.rs1, RAX);
                    self.asm.shift_imm(Shift::Sar, Quad, RAX, 63);
                    self.copy(i.rs2, RCX);
                    self.asm.alu(Alu::And, Quad, RAX, RCX);
                    self.asm.alu(Alu::Sub, Quad, RDX, RAX);
                }
                self.put(i.rd, RDX);
            }
            Op::Div => self.divide(i, Quad, true, false),
            Op::Divu => self.divide(i, Quad, false, false),
            Op::Rem => self.divide(i, Quad, true, true),
            Op::Remu => self.divide(i, Quad, false, true),
            Op::Divw => self.divide(i, Double, true, false),
            Op::Divuw => self.divide(i, Double, false, false),
            Op::Remw => self.divide(i, Double, true, true),
            Op::Remuw => self.divide(i, Double, false, true),
            _ => return false,
        }
        true
    }

    /// Quotient in `rax`, remainder in `rdx`; where the host would fault, cold code makes them.
    fn divide(&mut self, i: &Instruction, size: Size, signed: bool, remainder: bool) {
        let back = self.asm.label();
        let by_zero = self.asm.label();
        self.copy(i.rs2, RCX);
        let odd = self.add_cold(ColdKind::Division { back, by_zero, size, signed, dividend: i.rs1 });
        if signed {
            // Zero and -1 become 1 and 0.
            self.asm.lea(size, RAX, Mem::new(RCX, 1));
            self.asm.alu_imm(Alu::Cmp, size, RAX, 1);
            self.asm.jcc(Cond::BelowEqual, odd);
            self.copy(i.rs1, RAX);
            self.asm.sign_to_rdx(size);
            self.asm.idiv(size, RCX);
        } else {
            self.asm.test(size, RCX, RCX);
            self.asm.jcc(Cond::Equal, odd);
            self.copy(i.rs1, RAX);
            self.asm.zero(RDX);
            self.asm.div(size, RCX);
        }
        self.asm.bind(back);
        let from = if remainder { RDX } else { RAX };
        if size == Double {
            self.asm.movsxd(from, from);
        }
        self.put(i.rd, from);
    }

    /// Division by zero gives all ones and the dividend; the one overflow, by -1, the dividend and zero.
    pub(super) fn odd_division(
        &mut self,
        back: Label,
        by_zero: Label,
        size: Size,
        signed: bool,
        dividend: u8,
    ) {
        self.copy(dividend, RDX);
        if signed {
            self.asm.test(size, RCX, RCX);
            self.asm.jcc(Cond::Equal, by_zero);
            self.asm.mov(Quad, RAX, RDX);
            self.asm.neg(size, RAX);
            self.asm.zero(RDX);
            self.asm.jmp(back);
        }
        self.asm.bind(by_zero);
        self.asm.mov_imm(RAX, u64::MAX);
        self.asm.jmp(back);
    }

    fn bits(&mut self, i: &Instruction) -> bool {
        match i.op {
            Op::Sh1add => self.shift_add(i, 1, false),
            Op::Sh2add => self.shift_add(i, 2, false),
            Op::Sh3add => self.shift_add(i, 3, false),
            Op::AddUw if i.rs2 == 0 => {
                let source = self.operand(i.rs1, RAX);
                let result = self.result(i.rd, RAX);
                self.asm.mov(Double, result, source);
                self.put(i.rd, result);
            }
            Op::AddUw => self.shift_add(i, 0, true),
            Op::Sh1addUw => self.shift_add(i, 1, true),
            Op::Sh2addUw => self.shift_add(i, 2, true),
            Op::Sh3addUw => self.shift_add(i, 3, true),
            Op::SlliUw => {
                let source = self.operand(i.rs1, RAX);
                self.asm.mov(Double, RAX, source);
                self.asm.shift_imm(Shift::Shl, Quad, RAX, i.imm as u8);
                self.put(i.rd, RAX);
            }
            Op::Andn if self.features.bits => {
                let b = self.get(i.rs2, RAX);
                let a = self.operand(i.rs1, RCX);
                let result = self.result(i.rd, RAX);
                self.asm.andn(Quad, result, b, a);
                self.put(i.rd, result);
            }
            Op::Andn | Op::Orn => {
                self.copy(i.rs2, RAX);
                self.asm.not(Quad, RAX);
                let a = self.operand(i.rs1, RCX);
                self.asm.alu(if i.op == Op::Andn { Alu::And } else { Alu::Or }, Quad, RAX, a);
                self.put(i.rd, RAX);
            }
            Op::Xnor => {
                self.copy(i.rs1, RAX);
                let b = self.operand(i.rs2, RCX);
                self.asm.alu(Alu::Xor, Quad, RAX, b);
                self.asm.not(Quad, RAX);
                self.put(i.rd, RAX);
            }
            Op::Min => self.choose(i, Cond::Less),
            Op::Minu => self.choose(i, Cond::Below),
            Op::Max => self.choose(i, Cond::GreaterEqual),
            Op::Maxu => self.choose(i, Cond::AboveEqual),
            Op::Rol => self.rotate(Shift::Rol, Quad, i),
            Op::Ror => self.rotate(Shift::Ror, Quad, i),
            Op::Rolw => self.rotate(Shift::Rol, Double, i),
            Op::Rorw => self.rotate(Shift::Ror, Double, i),
            Op::Rori => self.shift_immediate(Shift::Ror, Quad, i),
            Op::Roriw => self.shift_immediate(Shift::Ror, Double, i),
            Op::Clz | Op::Ctz | Op::Cpop | Op::Clzw | Op::Ctzw | Op::Cpopw => return self.count(i),
            Op::SextB => self.extend(i, 1, true),
            Op::SextH => self.extend(i, 2, true),
            Op::ZextH => self.extend(i, 2, false),
            Op::Rev8 => {
                self.copy(i.rs1, RAX);
                self.asm.bswap(RAX);
                self.put(i.rd, RAX);
            }
            Op::OrcB => self.or_combine(i),
            Op::Bset => self.bit(i, BIT_SET.0),
            Op::Bclr => self.bit(i, BIT_CLEAR.0),
            Op::Binv => self.bit(i, BIT_INVERT.0),
            Op::Bseti => self.bit_immediate(i, BIT_SET.1),
            Op::Bclri => self.bit_immediate(i, BIT_CLEAR.1),
            Op::Binvi => self.bit_immediate(i, BIT_INVERT.1),
            Op::Bext => {
                self.copy(i.rs1, RAX);
                let bit = self.get(i.rs2, RCX);
                self.asm.bit(BIT_TEST, Quad, RAX, bit);
                self.set(i.rd, Cond::Below);
            }
            Op::Bexti => {
                self.copy(i.rs1, RAX);
                self.asm.shift_imm(Shift::Shr, Quad, RAX, i.imm as u8);
                self.asm.alu_imm(Alu::And, Double, RAX, 1);
                self.put(i.rd, RAX);
            }
            Op::Clmul | Op::Clmulh | Op::Clmulr => return self.carryless(i),
            Op::CzeroEqz => self.zero_if(i, Cond::Equal),
            Op::CzeroNez => self.zero_if(i, Cond::NotEqual),
            _ => return false,
        }
        true
    }

    fn shift_add(&mut self, i: &Instruction, scale: u8, unsigned_word: bool) {
        let index = if unsigned_word {
            let source = self.operand(i.rs1, RAX);
            self.asm.mov(Double, RAX, source);
            RAX
        } else {
            self.get(i.rs1, RAX)
        };
        let base = self.get(i.rs2, RCX);
        let result = self.result(i.rd, RAX);
        self.asm.lea(Quad, result, Mem::indexed(base, index, scale, 0));
        self.put(i.rd, result);
    }

    /// The first operand where the condition holds between it and the second, else the second.
    fn choose(&mut self, i: &Instruction, condition: Cond) {
        self.copy(i.rs1, RAX);
        let b = self.operand(i.rs2, RCX);
        self.asm.alu(Alu::Cmp, Quad, RAX, b);
        self.asm.cmov(condition.inverse(), Quad, RAX, b);
        self.put(i.rd, RAX);
    }

    fn rotate(&mut self, op: Shift, size: Size, i: &Instruction) {
        self.copy(i.rs2, RCX);
        self.copy(i.rs1, RAX);
        self.asm.shift_cl(op, size, RAX);
        if size == Double {
            self.asm.movsxd(RAX, RAX);
        }
        self.put(i.rd, RAX);
    }

    fn count(&mut self, i: &Instruction) -> bool {
        if !self.features.bits {
            return false;
        }
        let (opcode, size) = match i.op {
            Op::Clz => (LZCNT, Quad),
            Op::Ctz => (TZCNT, Quad),
            Op::Cpop => (POPCNT, Quad),
            Op::Clzw => (LZCNT, Double),
            Op::Ctzw => (TZCNT, Double),
            _ => (POPCNT, Double),
        };
        let source = self.operand(i.rs1, RAX);
        let result = self.result(i.rd, RAX);
        self.asm.count(opcode, size, result, source);
        self.put(i.rd, result);
        true
    }

    fn extend(&mut self, i: &Instruction, bytes: u8, signed: bool) {
        let source = self.operand(i.rs1, RAX);
        let result = self.result(i.rd, RAX);
        self.asm.load(bytes, signed, result, source);
        self.put(i.rd, result);
    }

    /// `orc.b`: bytes that aren't zero become all ones.
    fn or_combine(&mut self, i: &Instruction) {
        const PCMPEQB: u8 = 0x74;
        const PXOR: u8 = 0xef;
        let source = self.operand(i.rs1, RAX);
        self.asm.mov_to_xmm(Quad, Xmm(0), source);
        self.asm.sse(Prefix::P66, PXOR, Xmm(1), Xmm(1));
        self.asm.sse(Prefix::P66, PCMPEQB, Xmm(0), Xmm(1));
        self.asm.mov_from_xmm(Quad, RAX, Xmm(0));
        self.asm.not(Quad, RAX);
        self.put(i.rd, RAX);
    }

    /// The low half of the product, the high half, or the bits one place below the high half.
    fn carryless(&mut self, i: &Instruction) -> bool {
        if !self.features.carryless {
            return false;
        }
        const PUNPCKHQDQ: u8 = 0x6d;
        for (register, xmm) in [(i.rs1, Xmm(0)), (i.rs2, Xmm(1))] {
            let source = self.operand(register, RAX);
            self.asm.mov_to_xmm(Quad, xmm, source);
        }
        self.asm.pclmul(Xmm(0), Xmm(1));
        if i.op != Op::Clmulh {
            self.asm.mov_from_xmm(Quad, RAX, Xmm(0));
        }
        if i.op != Op::Clmul {
            self.asm.sse(Prefix::P66, PUNPCKHQDQ, Xmm(0), Xmm(0));
            self.asm.mov_from_xmm(Quad, RDX, Xmm(0));
        }
        if i.op == Op::Clmulr {
            self.asm.shift_imm(Shift::Shr, Quad, RAX, 63);
            self.asm.lea(Quad, RDX, Mem::indexed(RAX, RDX, 1, 0));
        }
        self.put(i.rd, if i.op == Op::Clmul { RAX } else { RDX });
        true
    }

    fn bit(&mut self, i: &Instruction, opcode: u8) {
        self.copy(i.rs1, RAX);
        let bit = self.get(i.rs2, RCX);
        self.asm.bit(opcode, Quad, RAX, bit);
        self.put(i.rd, RAX);
    }

    fn bit_immediate(&mut self, i: &Instruction, number: u8) {
        self.copy(i.rs1, RAX);
        self.asm.bit_imm(number, Quad, RAX, i.imm as u8);
        self.put(i.rd, RAX);
    }

    /// Zero where the condition holds for the second operand compared with zero, else the first.
    fn zero_if(&mut self, i: &Instruction, condition: Cond) {
        self.asm.zero(RDX);
        self.compare(i.rs2, 0);
        // Not `copy`: it would change the flags for `x0`, whose result is zero either way.
        match self.place(i.rs1) {
            Place::Zero => self.asm.mov_imm(RAX, 0),
            _ => self.copy(i.rs1, RAX),
        }
        self.asm.cmov(condition, Quad, RAX, RDX);
        self.put(i.rd, RAX);
    }
}
