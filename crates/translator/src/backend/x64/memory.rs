//! Loads and stores: the TLB's look-up inline, everything else out of line.
//!
//! A hit needs the first byte's page to match and the access to stay inside it; alignment doesn't matter.

use rvisor_isa::{Instruction, Op};

use super::assembler::*;
use super::float::Precision;
use super::lower::{ColdKind, Lowering};
use super::registers::{FloatPlace, Place, float_place};
use crate::ir::{Access, Check, Node, Slot, access};
use crate::runtime::frame::Frame;
use crate::runtime::space::{TLB_ADDEND, TLB_ENTRIES, TLB_LOAD, TLB_STEP, TLB_STORE};

/// Binary logarithm of a page's size.
const PAGE_SHIFT: u8 = 12;
/// Binary logarithm of a TLB entry's size.
const ENTRY_SHIFT: u8 = TLB_STEP.ilog2() as u8;

/// What an access is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum For {
    Load,
    Store,
}

/// Loads and stores that one look-up serves.
struct Group {
    length: usize,
    /// Displacement of the first byte, and of the one behind the last.
    first: i32,
    last: i32,
    stores: bool,
}

impl Group {
    /// More bytes than this too often span two pages.
    const SPAN: i32 = 512;

    fn of(nodes: &[Node]) -> Option<Self> {
        let base = nodes.first()?.instruction.rs1;
        let mut group = Self { length: 0, first: i32::MAX, last: i32::MIN, stores: false };
        for node in nodes {
            let i = &node.instruction;
            let Some(access) = access(i) else { break };
            let (first, last) = (i.imm.min(group.first), (i.imm + i32::from(access.bytes)).max(group.last));
            if i.rs1 != base || last - first > Self::SPAN {
                break;
            }
            group = Self { length: group.length + 1, first, last, stores: group.stores || access.is_store };
            if !access.is_store && !access.is_float && i.rd == base {
                break;
            }
        }
        (group.length >= 2).then_some(group)
    }
}

impl Lowering<'_> {
    /// Lowers a load or store; false for other instructions.
    pub(super) fn memory(&mut self, i: &Instruction) -> bool {
        // Hints: nothing depends on them.
        if matches!(i.op, Op::PrefetchI | Op::PrefetchR | Op::PrefetchW) {
            return true;
        }
        let Some(access) = access(i) else { return false };
        self.single(i, &access);
        true
    }

    fn single(&mut self, i: &Instruction, access: &Access) {
        let &Access { bytes, signed, is_float, is_store } = access;
        if is_float {
            self.check_float();
        }
        let register = if is_store { i.rs2 } else { i.rd };
        let site = self.site().access(bytes, signed, is_float, register);
        let (kind, thunk) =
            if is_store { (For::Store, self.thunks.store) } else { (For::Load, self.thunks.load) };
        // What a helper loads for a floating-point register, it puts there itself.
        let rd = if is_store || is_float { 0 } else { i.rd };
        let back = self.asm.label();
        let address = self.address_register(i.rs1, i.imm);
        let miss = self.add_cold(ColdKind::Access { site, back, thunk, address, rd });
        self.look_up(kind, address, bytes.into(), miss);
        self.transfer(i, access, Mem::indexed(RCX, address, 0, 0));
        self.asm.bind(back);
    }

    /// Moves what the access moves. Uses `rdx` alone besides the address.
    fn transfer(&mut self, i: &Instruction, access: &Access, at: Mem) {
        let &Access { bytes, signed, is_float, is_store } = access;
        match (is_store, is_float) {
            (false, false) => self.load_from(i.rd, bytes, signed, at),
            (true, false) => self.store_to(i.rs2, bytes, at),
            (false, true) => self.load_float_from(i.rd, bytes, at),
            (true, true) => self.store_float_to(i.rs2, bytes, at),
        }
    }

    fn load_from(&mut self, rd: u8, bytes: u8, signed: bool, from: Mem) {
        let result = self.result(rd, RDX);
        self.asm.load(bytes, signed, result, from);
        self.put(rd, result);
    }

    fn store_to(&mut self, rs2: u8, bytes: u8, to: Mem) {
        match self.place(rs2) {
            Place::Zero => self.asm.store_zero(bytes, to),
            _ => {
                let value = self.get(rs2, RDX);
                self.asm.store(bytes, to, value);
            }
        }
    }

    fn load_float_from(&mut self, rd: u8, bytes: u8, from: Mem) {
        match (float_place(rd), bytes) {
            (FloatPlace::Host(xmm), 8) => self.asm.movq_load(xmm, from),
            (FloatPlace::Slot(slot), 8) => {
                self.asm.mov(Quad, RDX, from);
                self.asm.mov_to_memory(Quad, slot, RDX);
            }
            // A narrower value is boxed: all bits above it are ones.
            (FloatPlace::Host(xmm), _) => self.float_box(xmm, from),
            (FloatPlace::Slot(slot), _) => {
                self.asm.mov(Double, RDX, from);
                self.asm.mov_to_memory(Double, slot, RDX);
                self.asm.mov_imm_to_memory(Double, slot.offset(4), -1);
            }
        }
        self.float_holds(rd, if bytes == 4 { Precision::Single } else { Precision::Double });
    }

    fn store_float_to(&mut self, rs2: u8, bytes: u8, to: Mem) {
        match (float_place(rs2), bytes) {
            (FloatPlace::Host(xmm), 8) => self.asm.movq_store(to, xmm),
            (FloatPlace::Host(xmm), _) => self.asm.movss_store(to, xmm),
            (FloatPlace::Slot(slot), _) => {
                self.asm.mov(Quad, RDX, slot);
                self.asm.store(bytes, to, RDX);
            }
        }
    }

    /// Lowers the loads and stores at the start of `nodes` that one look-up can serve: those off the same base
    /// register, close to each other. Returns how many, 0 where it isn't worth it.
    pub(super) fn group(&mut self, nodes: &[Node]) -> usize {
        let Some(group) = Group::of(nodes) else { return 0 };
        let nodes = &nodes[..group.length];
        self.node = nodes[0];
        if nodes.iter().any(|node| access(&node.instruction).is_some_and(|access| access.is_float)) {
            self.check_float();
        }
        let back = self.asm.label();
        let apart = self.add_cold(ColdKind::Apart { nodes: nodes.to_vec(), index: self.index, back });
        let address = self.address_register(nodes[0].instruction.rs1, group.first);
        let kind = if group.stores { For::Store } else { For::Load };
        self.look_up(kind, address, group.last - group.first, apart);
        for node in nodes {
            let i = &node.instruction;
            if let Some(access) = access(i) {
                self.transfer(i, &access, Mem::indexed(RCX, address, 0, i.imm - group.first));
            }
        }
        self.asm.bind(back);
        group.length
    }

    /// Looks up what several accesses will need, and keeps its host address; `rcx` holds it too.
    pub(super) fn check(&mut self, check: &Check) {
        let &Check { slot, base, first, last, stores } = check;
        let miss = self.add_cold(ColdKind::FirstTier { offset: self.node.offset, index: self.index });
        let address = self.address_register(base, first);
        self.look_up(if stores { For::Store } else { For::Load }, address, last - first, miss);
        self.asm.alu(Alu::Add, Quad, RCX, address);
        self.asm.mov_to_memory(Quad, Mem::new(RSP, Frame::checked_offset(slot)), RCX);
        self.in_rcx = Some(slot);
    }

    /// An access at a displacement from the address that was looked up.
    pub(super) fn checked(&mut self, i: &Instruction, slot: Slot, displacement: i32) {
        let Some(access) = access(i) else { return };
        if access.is_float {
            self.check_float();
        }
        if self.in_rcx != Some(slot) {
            self.asm.mov(Quad, RCX, Mem::new(RSP, Frame::checked_offset(slot)));
            self.in_rcx = Some(slot);
        }
        self.transfer(i, &access, Mem::new(RCX, displacement));
    }

    /// The register that holds an effective address: the base's own where nothing is added, else `rax`.
    fn address_register(&mut self, base: u8, displacement: i32) -> Reg {
        match self.place(base) {
            Place::Host(host) if displacement == 0 => host,
            _ => {
                self.address(base, displacement);
                RAX
            }
        }
    }

    /// `rax` = effective address.
    pub(super) fn address(&mut self, base: u8, displacement: i32) {
        match self.place(base) {
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

    /// Looks an address up. On a hit, `rcx` plus the address is the host address; otherwise goes to `miss`.
    pub(super) fn look_up(&mut self, access: For, address: Reg, bytes: i32, miss: Label) {
        const MASK: i32 = (TLB_ENTRIES as i32 - 1) << ENTRY_SHIFT;
        let tag = match access {
            For::Load => TLB_LOAD,
            For::Store => TLB_STORE,
        };
        if self.features.bits {
            self.asm.rotate_into(Double, RCX, address, PAGE_SHIFT - ENTRY_SHIFT);
        } else {
            self.asm.mov(Double, RCX, address);
            self.asm.shift_imm(Shift::Shr, Double, RCX, PAGE_SHIFT - ENTRY_SHIFT);
        }
        self.asm.alu_imm(Alu::And, Double, RCX, MASK);
        self.asm.mov(Quad, RDX, Mem::indexed(RBP, RCX, 0, tag));
        self.asm.alu(Alu::Xor, Quad, RDX, address);
        self.asm.alu_imm(Alu::Cmp, Quad, RDX, 4096 - bytes);
        self.asm.jcc(Cond::Above, miss);
        self.asm.mov(Quad, RCX, Mem::indexed(RBP, RCX, 0, tag + TLB_ADDEND));
    }
}
