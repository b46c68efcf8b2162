//! Instructions on `sstatus`: what is only bits is done in the sequence, the rest by a routine of the trampoline, or the
//! monitor.

use core::mem::offset_of;

use rvisor_isa::csr::{SSTATUS, mstatus};
use rvisor_isa::{Instruction, Op};

use super::{Compiler, HartContext, Step, T0, T1, T2};
use crate::sequence::assembler::Label;

impl Compiler<'_> {
    /// The guest's `sstatus` to t0; the field FS is the hardware's.
    fn old_status(&mut self) {
        self.load(T0, field!(privileged.status));
        self.read_csr(T1, SSTATUS);
        self.load(T2, field!(privileged.status_float));
        self.put(Op::And, T1, T1, T2);
        self.put(Op::Or, T0, T0, T1);
    }

    pub(super) fn status(&mut self, step: &Step, refused: Label) {
        let Instruction { op, rd, rs1, .. } = step.instruction;
        let immediate = matches!(op, Op::Csrrsi | Op::Csrrci);
        // Of the bits that an immediate operand reaches only SIE can be written.
        let bits = if immediate { u64::from(rs1) & mstatus::SIE } else { 0 };
        match op {
            Op::Csrrsi if bits != 0 => {
                self.load(T0, field!(privileged.held));
                self.assembler.branch(Op::Bne, T0, 0, refused);
                self.assign_old_status(rd);
                self.load(T1, field!(privileged.status));
                self.put_immediate(Op::Ori, T1, T1, bits as i32);
                self.store(T1, field!(privileged.status));
            }
            Op::Csrrci if bits != 0 => {
                self.assign_old_status(rd);
                self.load(T1, field!(privileged.status));
                self.put_immediate(Op::Andi, T1, T1, !(bits as i32));
                self.store(T1, field!(privileged.status));
            }
            _ if immediate || op != Op::Csrrw && rs1 == 0 => self.assign_old_status(rd),
            _ => self.change_status(op, rd, rs1, refused),
        }
    }

    fn assign_old_status(&mut self, rd: u8) {
        if rd != 0 {
            self.old_status();
            self.assign(rd, T0);
        }
    }

    /// Setting, clearing and writing with a register. What is more than bits is apart.
    fn change_status(&mut self, op: Op, rd: u8, rs1: u8, refused: Label) {
        self.old_status();
        let operand = self.source(rs1, T2);
        match op {
            Op::Csrrw => self.put(Op::Xor, T1, T0, operand),
            Op::Csrrs => {
                self.put_immediate(Op::Xori, T1, T0, -1);
                self.put(Op::And, T1, T1, operand);
            }
            _ => self.put(Op::And, T1, T0, operand),
        }
        self.load(T2, field!(privileged.status_writable));
        self.put(Op::And, T1, T1, T2);
        self.load(T2, field!(privileged.status_watched));
        self.put(Op::And, T2, T1, T2);
        let (effects, back) = (self.assembler.label(), self.assembler.label());
        self.assembler.branch(Op::Bne, T2, 0, effects);
        self.effects.push((effects, back, refused));
        self.assembler.place(back);
        self.load(T2, field!(privileged.status));
        self.put(Op::Xor, T2, T2, T1);
        self.store(T2, field!(privileged.status));
        self.assign(rd, T0);
    }

    pub(super) fn put_effects(&mut self) {
        for (effects, back, refused) in core::mem::take(&mut self.effects) {
            self.assembler.place(effects);
            self.assembler.jump_far(T2, self.routines.status, true);
            self.assembler.jump(back);
            self.assembler.jump(refused);
        }
    }
}
