//! Loads and stores: the TLB's look-up inline, everything else out of line.
//!
//! A hit needs the first byte's page to match and the access to stay inside it; alignment doesn't matter.

use rvisor_isa::{Instruction, Op};

use super::assembler::*;
use super::float::Precision;
use super::lower::{ColdKind, Lowering};
use super::registers::{FloatPlace, Place, float_place, place};
use crate::runtime::space::{TLB_ADDEND, TLB_ENTRIES, TLB_LOAD, TLB_STORE};

/// Binary logarithm of a page's size.
const PAGE_SHIFT: u8 = 12;
/// Binary logarithm of a TLB entry's size.
const ENTRY_SHIFT: u8 = 5;

/// What an access is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum For {
    Load,
    Store,
}

impl Lowering<'_> {
    /// Lowers a load or store; false for other instructions.
    pub(super) fn memory(&mut self, i: &Instruction) -> bool {
        match i.op {
            Op::Lb => self.load(i, 1, true),
            Op::Lh => self.load(i, 2, true),
            Op::Lw => self.load(i, 4, true),
            Op::Ld => self.load(i, 8, false),
            Op::Lbu => self.load(i, 1, false),
            Op::Lhu => self.load(i, 2, false),
            Op::Lwu => self.load(i, 4, false),
            Op::Sb => self.store(i, 1),
            Op::Sh => self.store(i, 2),
            Op::Sw => self.store(i, 4),
            Op::Sd => self.store(i, 8),
            Op::Flw => self.load_float(i, 4),
            Op::Fld => self.load_float(i, 8),
            Op::Fsw => self.store_float(i, 4),
            Op::Fsd => self.store_float(i, 8),
            // Hints: nothing depends on them.
            Op::PrefetchI | Op::PrefetchR | Op::PrefetchW => {}
            _ => return false,
        }
        true
    }

    fn load(&mut self, i: &Instruction, bytes: u8, signed: bool) {
        let site = self.site().access(bytes, signed, false, i.rd);
        self.address(i.rs1, i.imm);
        let back = self.asm.label();
        let thunk = self.thunks.load;
        let miss = self.add_cold(ColdKind::Access { site, back, thunk, rd: i.rd });
        self.look_up(For::Load, bytes, miss);
        let result = self.result(i.rd, RDX);
        self.asm.load(bytes, signed, result, Mem::indexed(RCX, RAX, 0, 0));
        self.put(i.rd, result);
        self.asm.bind(back);
    }

    fn store(&mut self, i: &Instruction, bytes: u8) {
        let site = self.site().access(bytes, false, false, i.rs2);
        self.address(i.rs1, i.imm);
        let back = self.asm.label();
        let thunk = self.thunks.store;
        let miss = self.add_cold(ColdKind::Access { site, back, thunk, rd: 0 });
        self.look_up(For::Store, bytes, miss);
        let value = self.get(i.rs2, RDX);
        self.asm.store(bytes, Mem::indexed(RCX, RAX, 0, 0), value);
        self.asm.bind(back);
    }

    fn load_float(&mut self, i: &Instruction, bytes: u8) {
        self.check_float();
        let site = self.site().access(bytes, false, true, i.rd);
        self.address(i.rs1, i.imm);
        let back = self.asm.label();
        let thunk = self.thunks.load;
        let miss = self.add_cold(ColdKind::Access { site, back, thunk, rd: 0 });
        self.look_up(For::Load, bytes, miss);
        let from = Mem::indexed(RCX, RAX, 0, 0);
        match (float_place(i.rd), bytes) {
            (FloatPlace::Host(xmm), 8) => self.asm.movq_load(xmm, from),
            (FloatPlace::Slot(slot), 8) => {
                self.asm.mov(Quad, RDX, from);
                self.asm.mov_to_memory(Quad, slot, RDX);
            }
            (FloatPlace::Host(xmm), _) => self.float_box(xmm, from),
            (FloatPlace::Slot(slot), _) => {
                // A narrower value is boxed: all bits above it are ones.
                self.asm.mov(Double, RDX, from);
                self.asm.mov_to_memory(Double, slot, RDX);
                self.asm.mov_imm_to_memory(Double, slot.offset(4), -1);
            }
        }
        self.asm.bind(back);
        self.float_holds(i.rd, if bytes == 4 { Precision::Single } else { Precision::Double });
    }

    fn store_float(&mut self, i: &Instruction, bytes: u8) {
        self.check_float();
        let site = self.site().access(bytes, false, true, i.rs2);
        self.address(i.rs1, i.imm);
        let back = self.asm.label();
        let thunk = self.thunks.store;
        let miss = self.add_cold(ColdKind::Access { site, back, thunk, rd: 0 });
        self.look_up(For::Store, bytes, miss);
        let to = Mem::indexed(RCX, RAX, 0, 0);
        match (float_place(i.rs2), bytes) {
            (FloatPlace::Host(xmm), 8) => self.asm.movq_store(to, xmm),
            (FloatPlace::Host(xmm), _) => self.asm.movss_store(to, xmm),
            (FloatPlace::Slot(slot), _) => {
                self.asm.mov(Quad, RDX, slot);
                self.asm.store(bytes, to, RDX);
            }
        }
        self.asm.bind(back);
    }

    /// `rax` = effective address.
    pub(super) fn address(&mut self, base: u8, displacement: i32) {
        match place(base) {
            Place::Zero => self.asm.mov_imm(RAX, displacement as i64 as u64),
            Place::Host(host) if displacement == 0 => self.asm.mov(Quad, RAX, host),
            Place::Host(host) => self.asm.lea(Quad, RAX, Mem::new(host, displacement)),
            Place::Slot(slot) => {
                self.asm.mov(Quad, RAX, slot);
                if displacement != 0 {
                    self.asm.alu_imm(Alu::Add, Quad, RAX, displacement);
                }
            }
        }
    }

    /// Looks the address in `rax` up. On a hit, `rcx` + `rax` is the host address; otherwise goes to `miss`.
    pub(super) fn look_up(&mut self, access: For, bytes: u8, miss: Label) {
        const MASK: i32 = (TLB_ENTRIES as i32 - 1) << ENTRY_SHIFT;
        let tag = match access {
            For::Load => TLB_LOAD,
            For::Store => TLB_STORE,
        };
        if self.features.bits {
            self.asm.rotate_into(Double, RCX, RAX, PAGE_SHIFT - ENTRY_SHIFT);
        } else {
            self.asm.mov(Double, RCX, RAX);
            self.asm.shift_imm(Shift::Shr, Double, RCX, PAGE_SHIFT - ENTRY_SHIFT);
        }
        self.asm.alu_imm(Alu::And, Double, RCX, MASK);
        self.asm.mov(Quad, RDX, Mem::indexed(RBP, RCX, 0, tag));
        self.asm.alu(Alu::Xor, Quad, RDX, RAX);
        self.asm.alu_imm(Alu::Cmp, Quad, RDX, 4096 - i32::from(bytes));
        self.asm.jcc(Cond::Above, miss);
        self.asm.mov(Quad, RCX, Mem::indexed(RBP, RCX, 0, TLB_ADDEND));
    }
}
