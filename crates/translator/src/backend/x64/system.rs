//! System instructions that need no helper: the CSR accesses of trap handlers and critical sections, and
//! `cbo.zero`.

use std::mem::offset_of;

use rvisor_hart::Csrs;
use rvisor_isa::csr::{self, mstatus};
use rvisor_isa::{Instruction, Op};

use super::assembler::*;
use super::lower::{ColdKind, Lowering};
use super::memory::For;
use super::thunks::HOST_FLAGS;
use crate::runtime::frame::Frame;

const ZERO_READY: Mem = Mem::new(RSP, offset_of!(Frame, zero_ready) as i32);
const IS_SUPERVISOR: Mem = Mem::new(RSP, offset_of!(Frame, is_supervisor) as i32);
const IS_HELD_BACK: Mem = Mem::new(RSP, offset_of!(Frame, is_held_back) as i32);
const CSR: Mem = Mem::new(RSP, offset_of!(Frame, supervisor_csrs) as i32);
const FLOAT_CSR: Mem = Mem::new(RSP, offset_of!(Frame, csrs) as i32);
const GUEST_MXCSR: Mem = Mem::new(RSP, offset_of!(Frame, guest_mxcsr) as i32);
const SCRATCH: Mem = Mem::new(RSP, offset_of!(Frame, scratch) as i32);
const TLB: Mem = Mem::new(RSP, offset_of!(Frame, tlb) as i32);
const TLB_WITHOUT_USER: Mem = Mem::new(RSP, offset_of!(Frame, supervisor_tlbs) as i32);
const TLB_WITH_USER: Mem = TLB_WITHOUT_USER.offset(8);
const MSTATUS: Mem = Mem::new(RCX, offset_of!(Csrs, mstatus) as i32);

/// Bytes that `cbo.zero` clears.
const BLOCK: i32 = 64;

/// What a CSR instruction does that needs no helper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Simple {
    /// Reads a register that is nothing but bits.
    Read(usize),
    /// Writes one, all of whose bits can be written.
    Swap(usize),
    /// Writes `sepc`, whose lowest bit stays zero.
    WriteSepc,
    /// Clears bits of `sstatus` that only hold interrupts back: SIE.
    Mask,
    /// Sets SIE.
    Unmask,
    /// Reads `sstatus`.
    ReadStatus,
    /// Reads `fflags`.
    ReadFlags,
    /// Writes `fflags`.
    SwapFlags,
    /// Sets or clears in `sstatus` what a register says, which may be SUM alone.
    Status,
    /// The same, or a write of all of it, on the ways into and out of the kernel.
    ReplaceStatus,
}

/// What is simple about a CSR instruction, if it is.
pub fn simple(i: &Instruction) -> Option<Simple> {
    let number = i.imm as u16;
    let reads_only = matches!(i.op, Op::Csrrs | Op::Csrrc | Op::Csrrsi | Op::Csrrci) && i.rs1 == 0;
    let sie = i.rs1 == mstatus::SIE as u8;
    match number {
        csr::SSTATUS if reads_only => Some(Simple::ReadStatus),
        csr::SSTATUS if i.rd == 0 && matches!(i.op, Op::Csrrs | Op::Csrrc) => Some(Simple::Status),
        csr::SSTATUS if matches!(i.op, Op::Csrrw | Op::Csrrs | Op::Csrrc) => Some(Simple::ReplaceStatus),
        csr::SSTATUS if i.op == Op::Csrrci && sie => Some(Simple::Mask),
        csr::SSTATUS if i.op == Op::Csrrsi && sie => Some(Simple::Unmask),
        csr::FFLAGS if reads_only => Some(Simple::ReadFlags),
        csr::FFLAGS if i.op == Op::Csrrw => Some(Simple::SwapFlags),
        csr::SSCRATCH if i.op == Op::Csrrw => Some(Simple::Swap(offset_of!(Csrs, sscratch))),
        csr::SSCRATCH if reads_only => Some(Simple::Read(offset_of!(Csrs, sscratch))),
        csr::SEPC if i.op == Op::Csrrw && i.rd == 0 => Some(Simple::WriteSepc),
        csr::SEPC if reads_only => Some(Simple::Read(offset_of!(Csrs, sepc))),
        csr::SCAUSE if reads_only => Some(Simple::Read(offset_of!(Csrs, scause))),
        csr::STVAL if reads_only => Some(Simple::Read(offset_of!(Csrs, stval))),
        _ => None,
    }
}

impl Lowering<'_> {
    /// Lowers a simple system instruction; false for others.
    pub(super) fn system(&mut self, i: &Instruction) -> bool {
        if i.op == Op::CboZero {
            self.zero_block(i);
            return true;
        }
        let is_csr = matches!(i.op, Op::Csrrw | Op::Csrrs | Op::Csrrc | Op::Csrrwi | Op::Csrrsi | Op::Csrrci);
        match simple(i) {
            Some(simple) if is_csr => {
                self.simple_csr(i, simple);
                true
            }
            _ => false,
        }
    }

    fn simple_csr(&mut self, i: &Instruction, simple: Simple) {
        if matches!(simple, Simple::ReadFlags | Simple::SwapFlags) {
            return self.float_flags(i, simple);
        }
        let site = self.site();
        if simple == Simple::Status {
            return self.change_status(i);
        }
        let other = self.add_cold(ColdKind::Step { site });
        if simple == Simple::ReplaceStatus {
            return self.replace_status(i, other);
        }
        self.asm.cmp_byte(IS_SUPERVISOR, 0);
        self.asm.jcc(Cond::Equal, other);
        if simple == Simple::Unmask {
            self.asm.cmp_byte(IS_HELD_BACK, 0);
            self.asm.jcc(Cond::NotEqual, other);
        }
        self.asm.mov(Quad, RCX, CSR);
        match simple {
            Simple::Status | Simple::ReplaceStatus | Simple::ReadFlags | Simple::SwapFlags => {}
            Simple::Read(offset) => {
                self.asm.mov(Quad, RAX, Mem::new(RCX, offset as i32));
                self.put(i.rd, RAX);
            }
            Simple::Swap(offset) => {
                let register = Mem::new(RCX, offset as i32);
                self.asm.mov(Quad, RAX, register);
                let new = self.get(i.rs1, RDX);
                self.asm.mov_to_memory(Quad, register, new);
                self.put(i.rd, RAX);
            }
            Simple::WriteSepc => {
                self.copy(i.rs1, RAX);
                self.asm.alu_imm(Alu::And, Quad, RAX, -2);
                self.asm.mov_to_memory(Quad, Mem::new(RCX, offset_of!(Csrs, sepc) as i32), RAX);
            }
            Simple::ReadStatus => self.read_status(i.rd, MSTATUS),
            Simple::Mask => {
                self.read_status(i.rd, MSTATUS);
                self.asm.alu_imm(Alu::And, Quad, MSTATUS, !(mstatus::SIE as i32));
            }
            Simple::Unmask => {
                self.read_status(i.rd, MSTATUS);
                self.asm.alu_imm(Alu::Or, Quad, MSTATUS, mstatus::SIE as i32);
            }
        }
    }

    /// Does to `sstatus` what a CSR instruction says; `other` does what the thunk doesn't.
    pub(super) fn replace_status(&mut self, i: &Instruction, other: Label) {
        self.asm.cmp_byte(IS_SUPERVISOR, 0);
        self.asm.jcc(Cond::Equal, other);
        self.asm.mov(Quad, RCX, CSR);
        self.copy(i.rs1, RAX);
        match i.op {
            Op::Csrrs => self.asm.alu(Alu::Or, Quad, RAX, MSTATUS),
            Op::Csrrc => {
                self.asm.not(Quad, RAX);
                self.asm.alu(Alu::And, Quad, RAX, MSTATUS);
            }
            _ => {}
        }
        self.asm.call_to(self.thunks.status);
        self.asm.jcc(Cond::NotEqual, other);
        self.read_status(i.rd, SCRATCH);
        self.float_checked = false;
    }

    /// Sets or clears what a register says, at once if that is SUM, which only selects another TLB, or at most SIE.
    fn change_status(&mut self, i: &Instruction) {
        let sets = i.op == Op::Csrrs;
        let done = self.asm.label();
        let site = self.site();
        let other = self.add_cold(ColdKind::Status { instruction: *i, site, back: done });
        self.asm.cmp_byte(IS_SUPERVISOR, 0);
        self.asm.jcc(Cond::Equal, other);
        let value = self.get(i.rs1, RAX);
        let interrupts = self.asm.label();
        self.asm.alu_imm(Alu::Cmp, Quad, value, mstatus::SUM as i32);
        self.asm.jcc(Cond::NotEqual, interrupts);
        self.asm.mov(Quad, RDX, if sets { TLB_WITH_USER } else { TLB_WITHOUT_USER });
        self.asm.test(Quad, RDX, RDX);
        self.asm.jcc(Cond::Equal, other);
        self.asm.mov(Quad, RCX, CSR);
        if sets {
            self.asm.alu_imm(Alu::Or, Quad, MSTATUS, mstatus::SUM as i32);
        } else {
            self.asm.alu_imm(Alu::And, Quad, MSTATUS, !(mstatus::SUM as i32));
        }
        self.asm.mov_to_memory(Quad, TLB, RDX);
        self.asm.mov(Quad, RBP, RDX);
        self.asm.jmp(done);
        self.asm.bind(interrupts);
        self.asm.test_imm(Quad, value, !(mstatus::SIE as i32));
        self.asm.jcc(Cond::NotEqual, other);
        if sets {
            self.asm.cmp_byte(IS_HELD_BACK, 0);
            self.asm.jcc(Cond::NotEqual, other);
        }
        self.asm.mov(Quad, RCX, CSR);
        if sets {
            self.asm.alu_to_memory(Alu::Or, Quad, MSTATUS, value);
        } else {
            self.asm.mov(Quad, RDX, value);
            self.asm.not(Quad, RDX);
            self.asm.alu_to_memory(Alu::And, Quad, MSTATUS, RDX);
        }
        self.asm.bind(done);
        self.float_checked = false;
    }

    /// The flags are what the CSR holds, and what the host has raised since. Those that a write finds raised
    /// on the host and wants raised need not be cleared there.
    fn float_flags(&mut self, i: &Instruction, simple: Simple) {
        const FFLAGS: Mem = Mem::new(RCX, offset_of!(Csrs, fflags) as i32);
        const ALL: i32 = 0x1f;
        self.check_float();
        self.asm.stmxcsr(GUEST_MXCSR);
        self.asm.mov(Quad, RCX, FLOAT_CSR);
        self.asm.mov(Double, RAX, GUEST_MXCSR);
        self.asm.alu_imm(Alu::And, Double, RAX, HOST_FLAGS);
        self.asm.load(1, false, RAX, Mem::indexed(RSP, RAX, 0, offset_of!(Frame, flags) as i32));
        if simple == Simple::ReadFlags {
            self.asm.load(1, false, RDX, FFLAGS);
            self.asm.alu(Alu::Or, Double, RAX, RDX);
            return self.put(i.rd, RAX);
        }
        let kept = self.asm.label();
        self.copy(i.rs1, RDX);
        self.asm.alu_imm(Alu::And, Double, RDX, ALL);
        self.asm.mov_to_memory(Quad, SCRATCH, RDX);
        self.asm.not(Double, RDX);
        self.asm.test(Double, RDX, RAX);
        self.asm.jcc(Cond::Equal, kept);
        self.asm.alu_imm(Alu::And, Double, GUEST_MXCSR, !HOST_FLAGS);
        self.asm.ldmxcsr(GUEST_MXCSR);
        self.asm.bind(kept);
        self.asm.load(1, false, RDX, FFLAGS);
        self.asm.alu(Alu::Or, Double, RAX, RDX);
        self.asm.mov(Quad, RDX, SCRATCH);
        self.asm.store(1, FFLAGS, RDX);
        self.put(i.rd, RAX);
    }

    /// `rd` = `sstatus` as `status` has it, and `rcx` points at the CSRs again. SD tells whether FS or VS is Dirty:
    /// whether both bits of either are set.
    fn read_status(&mut self, rd: u8, status: Mem) {
        if rd == 0 {
            return;
        }
        let visible = csr::SSTATUS_MASK & !mstatus::SD;
        self.asm.mov(Quad, RDX, status);
        self.asm.mov_imm(RAX, visible);
        self.asm.alu(Alu::And, Quad, RAX, RDX);
        let low_bits = (mstatus::FS | mstatus::VS) & (mstatus::FS | mstatus::VS) >> 1;
        self.asm.mov(Quad, RCX, RDX);
        self.asm.shift_imm(Shift::Shr, Quad, RCX, 1);
        self.asm.alu(Alu::And, Quad, RCX, RDX);
        self.asm.test_imm(Quad, RCX, low_bits as i32);
        let clean = self.asm.label();
        self.asm.jcc(Cond::Equal, clean);
        self.asm.bit_imm(5, Quad, RAX, 63);
        self.asm.bind(clean);
        self.put(rd, RAX);
        self.asm.mov(Quad, RCX, CSR);
    }

    fn zero_block(&mut self, i: &Instruction) {
        const XORPS: u8 = 0x57;
        const MOVAPS_STORE: u8 = 0x29;
        let back = self.asm.label();
        let site = self.site();
        let off = self.add_cold(ColdKind::Step { site });
        // The address is needed whole for what a fault tells.
        let thunk = self.thunks.atomic;
        let site = self.site().access(8, false, false, 0);
        let again = self.asm.here();
        let slow = self.add_cold(ColdKind::Interpret { site, back, thunk, again: Some(again) });
        self.asm.cmp_byte(ZERO_READY, 0);
        self.asm.jcc(Cond::Equal, off);
        self.address(i.rs1, 0);
        self.asm.alu_imm(Alu::And, Quad, RAX, -BLOCK);
        self.look_up(For::Store, RAX, 8, slow);
        self.asm.sse(Prefix::None, XORPS, Xmm(0), Xmm(0));
        for part in (0..BLOCK).step_by(16) {
            self.asm.sse(Prefix::None, MOVAPS_STORE, Xmm(0), Mem::indexed(RCX, RAX, 0, part));
        }
        self.asm.bind(back);
    }
}
