//! Atomics on the host's own: A and the narrow part of Zacas.
//!
//! Where the TLB doesn't answer, it is made to if that can be, and the instruction is tried again. What remains, and what
//! isn't aligned, is left to the interpreter.

use std::mem::offset_of;

use rvisor_isa::{Instruction, Op};

use super::assembler::*;
use super::lower::{ColdKind, Lowering};
use super::memory::For;
use super::registers::Place;
use crate::runtime::frame::Frame;

const RESERVED: Mem = Mem::new(RSP, offset_of!(Frame, reserved) as i32);
const RESERVED_VALUE: Mem = Mem::new(RSP, offset_of!(Frame, reserved_value) as i32);

/// Of an atomic's `aux`.
const RELEASE: u8 = 1;

/// What an AMO makes of memory's value and the operand.
enum Combine {
    Alu(Alu),
    /// Keeps memory's value where the condition holds between it and the operand.
    Choose(Cond),
}

impl Lowering<'_> {
    /// Lowers an atomic; false for other instructions.
    pub(super) fn atomic(&mut self, i: &Instruction) -> bool {
        let (size, bytes) = match i.op {
            Op::LrW
            | Op::ScW
            | Op::AmoswapW
            | Op::AmoaddW
            | Op::AmoxorW
            | Op::AmoandW
            | Op::AmoorW
            | Op::AmominW
            | Op::AmomaxW
            | Op::AmominuW
            | Op::AmomaxuW
            | Op::AmocasW => (Double, 4),
            Op::LrD
            | Op::ScD
            | Op::AmoswapD
            | Op::AmoaddD
            | Op::AmoxorD
            | Op::AmoandD
            | Op::AmoorD
            | Op::AmominD
            | Op::AmomaxD
            | Op::AmominuD
            | Op::AmomaxuD
            | Op::AmocasD => (Quad, 8),
            _ => return false,
        };
        let access = if matches!(i.op, Op::LrW | Op::LrD) { For::Load } else { For::Store };
        let back = self.asm.label();
        let site = self.site().access(bytes, access == For::Load, false, 0);
        let thunk = self.thunks.atomic;
        let again = self.asm.here();
        let slow = self.add_cold(ColdKind::Interpret { site, back, thunk, again: Some(again) });
        self.address(i.rs1, 0);
        self.asm.test_imm(Double, RAX, i32::from(bytes) - 1);
        self.asm.jcc(Cond::NotEqual, slow);
        self.look_up(access, RAX, bytes.into(), slow);
        self.asm.alu(Alu::Add, Quad, RCX, RAX);
        match i.op {
            Op::LrW | Op::LrD => self.load_reserved(i, size),
            Op::ScW | Op::ScD => self.store_conditional(i, size),
            Op::AmocasW | Op::AmocasD => self.compare_and_swap(i, size),
            Op::AmoswapW | Op::AmoswapD => {
                self.copy(i.rs2, RAX);
                self.asm.xchg(size, Mem::new(RCX, 0), RAX);
                self.put_extended(i.rd, size);
            }
            Op::AmoaddW | Op::AmoaddD => {
                self.copy(i.rs2, RAX);
                self.asm.lock_xadd(size, Mem::new(RCX, 0), RAX);
                self.put_extended(i.rd, size);
            }
            op => self.modify(i, size, &combine(op)),
        }
        self.asm.bind(back);
        true
    }

    /// `rd` = `rax`, sign-extended from `size`.
    fn put_extended(&mut self, rd: u8, size: Size) {
        if size == Double {
            self.asm.movsxd(RAX, RAX);
        }
        self.put(rd, RAX);
    }

    fn load_reserved(&mut self, i: &Instruction, size: Size) {
        // The host lets a load pass earlier stores.
        if i.aux & RELEASE != 0 {
            self.asm.mfence();
        }
        self.asm.load(if size == Quad { 8 } else { 4 }, true, RAX, Mem::new(RCX, 0));
        self.asm.mov_to_memory(Quad, RESERVED_VALUE, RAX);
        self.tag_width(size);
        self.asm.mov_to_memory(Quad, RESERVED, RCX);
        self.put(i.rd, RAX);
    }

    /// The lowest bit of a reserved address tells 8 bytes from 4.
    fn tag_width(&mut self, size: Size) {
        if size == Quad {
            self.asm.alu_imm(Alu::Add, Quad, RCX, 1);
        }
    }

    fn store_conditional(&mut self, i: &Instruction, size: Size) {
        let fail = self.asm.label();
        let done = self.asm.label();
        self.asm.mov(Quad, RDX, RESERVED);
        self.asm.mov_imm_to_memory(Quad, RESERVED, 0);
        self.tag_width(size);
        self.asm.alu(Alu::Cmp, Quad, RCX, RDX);
        self.asm.jcc(Cond::NotEqual, fail);
        self.asm.mov(Quad, RAX, RESERVED_VALUE);
        let new = self.get(i.rs2, RDX);
        self.asm.lock_cmpxchg(size, Mem::new(RCX, if size == Quad { -1 } else { 0 }), new);
        self.asm.jcc(Cond::NotEqual, fail);
        self.asm.zero(RAX);
        self.asm.jmp(done);
        self.asm.bind(fail);
        self.asm.mov_imm(RAX, 1);
        self.asm.bind(done);
        self.put(i.rd, RAX);
    }

    fn compare_and_swap(&mut self, i: &Instruction, size: Size) {
        self.copy(i.rd, RAX);
        let new = self.get(i.rs2, RDX);
        self.asm.lock_cmpxchg(size, Mem::new(RCX, 0), new);
        self.put_extended(i.rd, size);
    }

    fn modify(&mut self, i: &Instruction, size: Size, combine: &Combine) {
        self.asm.mov(size, RAX, Mem::new(RCX, 0));
        let again = self.asm.here();
        match combine {
            Combine::Alu(op) => {
                self.asm.mov(size, RDX, RAX);
                match self.place(i.rs2) {
                    Place::Zero if *op == Alu::And => self.asm.zero(RDX),
                    Place::Zero => {}
                    Place::Host(operand) => self.asm.alu(*op, size, RDX, operand),
                    Place::Slot(operand) => self.asm.alu(*op, size, RDX, operand),
                }
            }
            Combine::Choose(condition) => {
                self.copy(i.rs2, RDX);
                self.asm.alu(Alu::Cmp, size, RAX, RDX);
                self.asm.cmov(*condition, size, RDX, RAX);
            }
        }
        self.asm.lock_cmpxchg(size, Mem::new(RCX, 0), RDX);
        self.asm.jcc(Cond::NotEqual, again);
        self.put_extended(i.rd, size);
    }
}

fn combine(op: Op) -> Combine {
    match op {
        Op::AmoxorW | Op::AmoxorD => Combine::Alu(Alu::Xor),
        Op::AmoandW | Op::AmoandD => Combine::Alu(Alu::And),
        Op::AmoorW | Op::AmoorD => Combine::Alu(Alu::Or),
        Op::AmominW | Op::AmominD => Combine::Choose(Cond::Less),
        Op::AmomaxW | Op::AmomaxD => Combine::Choose(Cond::GreaterEqual),
        Op::AmominuW | Op::AmominuD => Combine::Choose(Cond::Below),
        _ => Combine::Choose(Cond::AboveEqual),
    }
}
