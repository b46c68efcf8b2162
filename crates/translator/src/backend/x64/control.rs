//! Branches, jumps, and the ways out of a superblock.
//!
//! A way out charges the instructions executed so far; where none are left, the run ends there. A jump inside
//! the page is linked to its target's code for good; one to another page holds as long as the mappings do
//! under which it was linked.

use std::mem::offset_of;

use rvisor_isa::{Instruction, Op};

use super::assembler::*;
use super::lower::{ColdKind, Lowering, Patch};
use super::registers::Place;
use crate::frontend::LAST;
use crate::ir::{End, Offset};
use crate::runtime::frame::Frame;
use crate::runtime::space::JUMP_FOLD;

pub(super) const PAGE: i32 = offset_of!(Frame, page) as i32;
pub(super) const MAPPINGS: i32 = offset_of!(Frame, mappings) as i32;
pub(super) const JUMPS: i32 = offset_of!(Frame, jumps) as i32;
const JUMP_MASK: i32 = offset_of!(Frame, jump_mask) as i32;

const fn is_in_page(target: Offset) -> bool {
    0 <= target && target < 4096
}

impl Lowering<'_> {
    pub(super) fn end(&mut self, end: End) {
        match end {
            End::Fall(target) => self.goto(target, self.index),
            End::Call(target) => {
                let node = self.node;
                self.page_address(node.instruction.rd, node.next());
                self.goto(target, self.index + 1);
            }
            End::Indirect => self.indirect(),
            End::System => {
                self.asm.mov_imm(RDX, self.site().bits().into());
                self.asm.mov_imm(RCX, self.node.bits.into());
                self.asm.jmp_to(self.thunks.system);
            }
            End::Interpret(offset) => {
                self.node.offset = offset;
                self.asm.mov_imm(RDX, self.site().bits().into());
                self.asm.jmp_to(self.thunks.step);
            }
        }
    }

    /// Charges instructions and goes on at an offset.
    pub(super) fn goto(&mut self, target: Offset, charge: u32) {
        self.charge(target, charge);
        let depends_on_next = self.last_reaches_over && target == LAST && target != self.entry;
        if is_in_page(target) && !depends_on_next { self.goto_near(target) } else { self.goto_far(target) }
    }

    fn charge(&mut self, target: Offset, charge: u32) {
        if charge != 0 {
            self.asm.alu_imm(Alu::Sub, Double, RBX, charge as i32);
            let out = self.add_cold(ColdKind::Budget(target));
            self.asm.jcc(Cond::Sign, out);
        }
    }

    fn goto_near(&mut self, target: Offset) {
        if target == self.entry {
            self.go_to_start();
            return self.asm.jmp(self.start_of_loop);
        }
        let patch = self.patches.len();
        let stub = self.add_cold(ColdKind::Link { patch });
        self.patches.push(Patch { jump: 0, mappings: None, target, stub: 0, number: 0 });
        self.asm.align(4, 1);
        self.patches[patch].jump = self.asm.position() as u32 + 1;
        self.asm.jmp(stub);
    }

    fn goto_far(&mut self, target: Offset) {
        let patch = self.patches.len();
        let stub = self.add_cold(ColdKind::Link { patch });
        self.patches.push(Patch { jump: 0, mappings: None, target, stub: 0, number: 0 });
        /// The constant stands behind opcode, ModRM, SIB and a displacement of 8 bits.
        const CONSTANT: usize = 4;
        const { assert!(MAPPINGS < 128) };
        self.asm.align(4, CONSTANT);
        self.patches[patch].mappings = Some((self.asm.position() + CONSTANT) as u32);
        self.asm.cmp_imm32(Mem::new(RSP, MAPPINGS), 0);
        self.asm.jcc(Cond::NotEqual, stub);
        if !is_in_page(target) {
            self.asm.alu_imm(Alu::Add, Quad, Mem::new(RSP, PAGE), target & !0xfff);
        }
        self.asm.align(4, 1);
        self.patches[patch].jump = self.asm.position() as u32 + 1;
        self.asm.jmp(stub);
    }

    pub(super) fn link_stub(&mut self, patch: usize) {
        self.patches[patch].stub = self.asm.position() as u32;
        let Patch { target, mappings, .. } = self.patches[patch];
        self.target_address(target);
        self.asm.mov_imm(RDX, (self.first_patch + patch as u32).into());
        self.patches[patch].number = self.asm.position() as u32 - 4;
        let thunk = if mappings.is_some() { self.thunks.far_link } else { self.thunks.link };
        self.asm.jmp_to(thunk);
    }

    /// The same for the target of an indirect jump in `rax`.
    pub(super) fn out_of_budget_indirect(&mut self) {
        self.asm.alu_imm(Alu::And, Quad, RAX, -2);
        self.end_slice();
    }

    pub(super) fn out_of_budget(&mut self, target: Offset) {
        self.target_address(target);
        self.end_slice();
    }

    /// Leaves the guest at the address in `rax`.
    pub(super) fn end_slice(&mut self) {
        self.asm.mov_imm(RDX, self.entry as u64);
        self.asm.jmp_to(self.thunks.budget);
    }

    /// `rax` = virtual address of an offset.
    fn target_address(&mut self, target: Offset) {
        self.asm.mov(Quad, RAX, Mem::new(RSP, PAGE));
        self.asm.alu_imm(Alu::Add, Quad, RAX, target);
    }

    fn indirect(&mut self) {
        let i = self.node.instruction;
        let node = self.node;
        if i.rs1 == 0 {
            self.asm.mov_imm(RAX, i.imm as i64 as u64 & !1);
        } else {
            self.copy(i.rs1, RAX);
            if i.imm != 0 {
                self.asm.alu_imm(Alu::Add, Quad, RAX, i.imm);
            }
        }
        if i.rd != 0 {
            let link = self.result(i.rd, RCX);
            self.asm.mov(Quad, link, Mem::new(RSP, PAGE));
            self.asm.alu_imm(Alu::Add, Quad, link, node.next());
            self.put(i.rd, link);
        }
        self.asm.alu_imm(Alu::Sub, Double, RBX, self.index as i32 + 1);
        let out = self.add_cold(ColdKind::EndSlice);
        self.asm.jcc(Cond::Sign, out);
        // The jump cache is indexed by the address in halfwords, folded; its entries are 16 bytes. Nothing in it matches
        // an odd address: the bit is ignored elsewhere, where it is rarely set.
        self.asm.mov(Double, RCX, RAX);
        self.asm.shift_imm(Shift::Shr, Double, RCX, JUMP_FOLD);
        self.asm.alu(Alu::Xor, Double, RCX, RAX);
        self.asm.alu(Alu::And, Double, RCX, Mem::new(RSP, JUMP_MASK));
        self.asm.mov(Quad, RDX, Mem::new(RSP, JUMPS));
        self.asm.alu(Alu::Cmp, Quad, RAX, Mem::indexed(RDX, RCX, 3, 0));
        self.asm.jcc_to(Cond::NotEqual, self.thunks.lookup);
        self.asm.alu_imm(Alu::And, Quad, RAX, -4096);
        self.asm.mov_to_memory(Quad, Mem::new(RSP, PAGE), RAX);
        self.asm.jmp_reg(Mem::indexed(RDX, RCX, 3, 8));
    }

    pub(super) fn branch(&mut self, i: &Instruction) {
        let target = self.node.offset + i.imm;
        let condition = match i.op {
            Op::Beq => Cond::Equal,
            Op::Bne => Cond::NotEqual,
            Op::Blt => Cond::Less,
            Op::Bge => Cond::GreaterEqual,
            Op::Bltu => Cond::Below,
            _ => Cond::AboveEqual,
        };
        self.compare(i.rs1, i.rs2);
        if target == self.entry {
            // A loop: the way back shall be short.
            let done = self.asm.label();
            self.asm.jcc(condition.inverse(), done);
            let onward = self.go_to_start();
            self.asm.alu_imm(Alu::Sub, Double, RBX, self.index as i32 + 1);
            let start = self.start_of_loop;
            self.asm.jcc(Cond::NoSign, start);
            let out = self.add_cold(ColdKind::Budget(target));
            self.asm.jmp(out);
            self.asm.bind(done);
            self.set_assignment(onward);
        } else {
            let (way_out, condition) = match self.node.taken {
                true => (self.node.next(), condition.inverse()),
                false => (target, condition),
            };
            let taken = self.add_cold(ColdKind::Taken { target: way_out, charge: self.index + 1 });
            self.asm.jcc(condition, taken);
        }
    }

    /// Sets flags for `a` compared with `b`.
    pub(super) fn compare(&mut self, a: u8, b: u8) {
        match (self.place(a), self.place(b)) {
            (Place::Host(a), Place::Zero) => self.asm.test(Quad, a, a),
            (Place::Slot(a), Place::Zero) => self.asm.alu_imm(Alu::Cmp, Quad, a, 0),
            _ => {
                let a = self.get(a, RAX);
                let b = self.operand(b, RCX);
                self.asm.alu(Alu::Cmp, Quad, a, b);
            }
        }
    }
}
