//! The code between translated code and the monitor: entry, exit, and calls of helpers.
//!
//! Helpers follow the C convention, which keeps only `rbx` and `rbp` of what translated code uses. So a thunk
//! writes all pinned registers to the frame before a helper and reads them back behind it: helpers find the
//! exact guest state in the frame and may change it.

use std::mem::offset_of;

use rvisor_hart::{Csrs, SSTATUS_WRITABLE};
use rvisor_isa::csr::mstatus;

use super::assembler::*;
use super::registers::{PINNED, PINNED_FLOAT};
use crate::runtime::frame::Frame;
use crate::runtime::space::JUMP_FOLD;

/// Addresses of the helpers.
///
/// *Dispatchers* take the frame and the contents of `rax`, `rdx` and `rcx`, and return the code to go on
/// with, or 0 to leave. *Finishers* take the same, finish one instruction, and return its result and
/// whether to leave.
#[derive(Clone, Copy, Debug)]
pub struct Helpers {
    pub slice: u64,
    pub lookup: u64,
    pub link: u64,
    pub system: u64,
    pub step: u64,
    pub load: u64,
    pub store: u64,
    pub atomic: u64,
    pub interpret: u64,
    pub pause: u64,
}

/// Addresses of the thunks.
#[derive(Clone, Copy, Default, Debug)]
pub struct Thunks {
    /// `extern "C" fn(frame, code)`: runs code until it leaves.
    pub enter: u64,
    /// Ends a slice with the program counter in `rax`, in the block whose entry's offset is in `rdx`: leaves, or goes on.
    pub budget: u64,
    /// Finds the code of the address in `rax`.
    pub lookup: u64,
    /// Links the patch in `edx`, which leads to the address in `rax`, and goes there.
    pub link: u64,
    /// The same, but looks into the jump cache first.
    pub far_link: u64,
    /// Executes the system instruction in `ecx` at the site in `edx`, and goes on behind it.
    pub system: u64,
    /// Interprets the instruction at the site in `edx`, and goes on behind it.
    pub step: u64,
    /// Called at the start of a block that was removed: finds the code that is there now.
    pub dead: u64,
    /// Called: finishes the load at the site in `edx` from the address in `rax`; its value to `rax`.
    pub load: u64,
    /// Called: finishes a store.
    pub store: u64,
    /// Called: finishes an atomic.
    pub atomic: u64,
    /// Called: interprets the instruction at the site in `edx`.
    pub interpret: u64,
    /// Called: lets others have the processor for a moment.
    pub pause: u64,
    /// Called: makes `sstatus` what `rax` says, in S-mode. The zero flag tells whether that was done; `mstatus` as it was
    /// is in [`Frame::scratch`] then.
    pub status: u64,
}

/// MXCSR's exception flags.
pub const HOST_FLAGS: i32 = 0x3f;

/// Behind the call of [`Thunks::atomic`]: the TLB answers now, and the instruction is to be tried again.
pub const AGAIN: Cond = Cond::AboveEqual;

impl Thunks {
    /// How many there are.
    pub const COUNT: usize = 14;

    /// All of them, in an order that is always the same: their numbers in code that is kept.
    pub fn all(&self) -> [u64; Self::COUNT] {
        let Self {
            enter,
            budget,
            lookup,
            link,
            far_link,
            system,
            step,
            dead,
            load,
            store,
            atomic,
            interpret,
            pause,
            status,
        } = *self;
        [
            enter, budget, lookup, link, far_link, system, step, dead, load, store, atomic, interpret, pause,
            status,
        ]
    }
}

const fn field(offset: usize) -> Mem {
    Mem::new(RSP, offset as i32)
}

const TLB: Mem = field(offset_of!(Frame, tlb));
const BUDGET: Mem = field(offset_of!(Frame, budget));
const GUEST_MXCSR: Mem = field(offset_of!(Frame, guest_mxcsr));
const HOST_MXCSR: Mem = field(offset_of!(Frame, host_mxcsr));
const HOST_STACK: Mem = field(offset_of!(Frame, host_stack));
const PAGE: Mem = field(offset_of!(Frame, page));
const JUMPS: Mem = field(offset_of!(Frame, jumps));
const JUMP_MASK: Mem = field(offset_of!(Frame, jump_mask));
const RELINK: Mem = field(offset_of!(Frame, relink));
const SCRATCH: Mem = field(offset_of!(Frame, scratch));
const CSRS: Mem = field(offset_of!(Frame, supervisor_csrs));
const TLBS: Mem = field(offset_of!(Frame, supervisor_tlbs));
const IS_HELD_BACK: Mem = field(offset_of!(Frame, is_held_back));
const FLOAT_READY: Mem = field(offset_of!(Frame, float_ready));
const ROUNDING_READY: Mem = field(offset_of!(Frame, rounding_ready));

/// What the C convention wants kept.
const KEPT: [Reg; 6] = [RBX, RBP, R12, R13, R14, R15];

/// Writes the thunks into `asm`, which was started at their final address.
pub fn write(asm: &mut Assembler, base: u64, helpers: &Helpers) -> Thunks {
    let mut writer = Writer { asm, base };
    let leave = writer.leave();
    let mut thunks = Thunks { enter: writer.enter(), ..Thunks::default() };
    thunks.budget = writer.dispatcher(helpers.slice, leave);
    thunks.lookup = writer.dispatcher(helpers.lookup, leave);
    thunks.link = writer.dispatcher(helpers.link, leave);
    thunks.far_link = writer.far_link(thunks.link);
    thunks.system = writer.dispatcher(helpers.system, leave);
    thunks.step = writer.dispatcher(helpers.step, leave);
    thunks.dead = writer.dead(thunks.lookup);
    thunks.load = writer.finisher(helpers.load, leave);
    thunks.store = writer.finisher(helpers.store, leave);
    thunks.atomic = writer.finisher(helpers.atomic, leave);
    thunks.interpret = writer.finisher(helpers.interpret, leave);
    thunks.pause = writer.finisher(helpers.pause, leave);
    thunks.status = writer.status();
    thunks
}

struct Writer<'a> {
    asm: &'a mut Assembler,
    base: u64,
}

impl Writer<'_> {
    fn address(&mut self) -> u64 {
        self.asm.align(16, 0);
        self.base + self.asm.position() as u64
    }

    /// Writes pinned registers to the frame, which is `below` bytes above the stack pointer.
    fn save(&mut self, below: i32) {
        for (guest, host) in PINNED {
            self.asm.mov_to_memory(Quad, Mem::new(RSP, Frame::x_offset(guest) + below), host);
        }
        for (guest, host) in PINNED_FLOAT {
            self.asm.movq_store(Mem::new(RSP, Frame::f_offset(guest) + below), host);
        }
        self.asm.mov_to_memory(Double, BUDGET.offset(below), RBX);
    }

    fn restore(&mut self, below: i32) {
        for (guest, host) in PINNED {
            self.asm.mov(Quad, host, Mem::new(RSP, Frame::x_offset(guest) + below));
        }
        for (guest, host) in PINNED_FLOAT {
            self.asm.movq_load(host, Mem::new(RSP, Frame::f_offset(guest) + below));
        }
        self.asm.mov(Double, RBX, BUDGET.offset(below));
    }

    fn enter(&mut self) -> u64 {
        let address = self.address();
        for register in KEPT {
            self.asm.push(register);
        }
        let frame = |memory: usize| Mem::new(RDI, memory as i32);
        self.asm.mov_to_memory(Quad, frame(offset_of!(Frame, host_stack)), RSP);
        self.asm.stmxcsr(frame(offset_of!(Frame, host_mxcsr)));
        self.asm.mov(Quad, RSP, RDI);
        self.asm.mov(Quad, RAX, RSI);
        self.resume();
        address
    }

    /// Goes to the code in `rax` with everything taken from the frame.
    fn resume(&mut self) {
        self.asm.ldmxcsr(GUEST_MXCSR);
        self.asm.mov(Quad, RBP, TLB);
        self.restore(0);
        self.asm.jmp_reg(RAX);
    }

    /// Back to the caller of `enter`. Pinned registers are in the frame already, MXCSR is the host's.
    fn leave(&mut self) -> u64 {
        let address = self.address();
        self.asm.mov(Quad, RSP, HOST_STACK);
        for register in KEPT.into_iter().rev() {
            self.asm.pop(register);
        }
        self.asm.ret();
        address
    }

    /// Keeps the guest's flags, and makes the home's rounding mode current.
    fn swap_mxcsr(&mut self, below: i32) {
        self.asm.stmxcsr(GUEST_MXCSR.offset(below));
        self.asm.ldmxcsr(HOST_MXCSR.offset(below));
    }

    fn dispatcher(&mut self, helper: u64, leave: u64) -> u64 {
        let address = self.address();
        self.save(0);
        self.swap_mxcsr(0);
        self.asm.mov(Quad, RDI, RSP);
        self.asm.mov(Quad, RSI, RAX);
        self.asm.mov_imm(RAX, helper);
        self.asm.call_reg(RAX);
        self.asm.test(Quad, RAX, RAX);
        self.asm.jcc_to(Cond::Equal, leave);
        self.resume();
        address
    }

    fn far_link(&mut self, link: u64) -> u64 {
        let address = self.address();
        self.asm.alu_imm(Alu::Sub, Double, RELINK, 1);
        self.asm.jcc_to(Cond::Sign, link);
        self.asm.mov_to_memory(Quad, SCRATCH, RDX);
        self.asm.mov(Double, RCX, RAX);
        self.asm.shift_imm(Shift::Shr, Double, RCX, JUMP_FOLD);
        self.asm.alu(Alu::Xor, Double, RCX, RAX);
        self.asm.alu(Alu::And, Double, RCX, JUMP_MASK);
        self.asm.mov(Quad, RDX, JUMPS);
        let miss = self.asm.label();
        self.asm.alu(Alu::Cmp, Quad, RAX, Mem::indexed(RDX, RCX, 3, 0));
        self.asm.jcc(Cond::NotEqual, miss);
        self.asm.alu_imm(Alu::And, Quad, RAX, -4096);
        self.asm.mov_to_memory(Quad, PAGE, RAX);
        self.asm.jmp_reg(Mem::indexed(RDX, RCX, 3, 8));
        self.asm.bind(miss);
        self.asm.mov(Quad, RDX, SCRATCH);
        self.asm.jmp_to(link);
        address
    }

    /// The return address is 5 bytes behind the block's start, and its entry's offset 6 bytes.
    fn dead(&mut self, lookup: u64) -> u64 {
        let address = self.address();
        self.asm.pop(RCX);
        self.asm.load(2, false, RCX, Mem::new(RCX, 1));
        self.asm.mov(Quad, RAX, PAGE);
        self.asm.alu(Alu::Add, Quad, RAX, RCX);
        self.asm.jmp_to(lookup);
        address
    }

    /// What changes is done here where that has no consequences but another TLB and whether floating point may be used.
    fn status(&mut self) -> u64 {
        const BELOW: i32 = 8;
        const MSTATUS: Mem = Mem::new(RCX, offset_of!(Csrs, mstatus) as i32);
        let address = self.address();
        let [no_float, no_interrupts, no_sum, other_tlb, done, out] =
            std::array::from_fn(|_| self.asm.label());
        let changes = |asm: &mut Assembler, bits: u64| asm.test_imm(Double, RAX, bits as i32);
        self.asm.mov(Quad, RCX, CSRS.offset(BELOW));
        self.asm.mov(Quad, RDX, MSTATUS);
        self.asm.mov_to_memory(Quad, SCRATCH.offset(BELOW), RDX);
        self.asm.alu(Alu::Xor, Quad, RAX, RDX);
        self.asm.alu_imm(Alu::And, Double, RAX, SSTATUS_WRITABLE as i32);
        changes(self.asm, mstatus::MXR | mstatus::VS);
        self.asm.jcc(Cond::NotEqual, out);
        // Flags that the host has raised make FS Dirty, as it is before.
        changes(self.asm, mstatus::FS);
        self.asm.jcc(Cond::Equal, no_float);
        self.asm.stmxcsr(GUEST_MXCSR.offset(BELOW));
        self.asm.test_imm(Double, GUEST_MXCSR.offset(BELOW), HOST_FLAGS);
        self.asm.jcc(Cond::NotEqual, out);
        self.asm.bind(no_float);
        changes(self.asm, mstatus::SIE);
        self.asm.jcc(Cond::Equal, no_interrupts);
        self.asm.test_imm(Double, RDX, mstatus::SIE as i32);
        self.asm.jcc(Cond::NotEqual, no_interrupts);
        self.asm.cmp_byte(IS_HELD_BACK.offset(BELOW), 0);
        self.asm.jcc(Cond::NotEqual, out);
        self.asm.bind(no_interrupts);
        changes(self.asm, mstatus::SUM);
        self.asm.jcc(Cond::Equal, no_sum);
        self.asm.test_imm(Double, RDX, mstatus::SUM as i32);
        self.asm.mov(Quad, RCX, TLBS.offset(BELOW));
        self.asm.jcc(Cond::NotEqual, other_tlb);
        self.asm.mov(Quad, RCX, TLBS.offset(BELOW + 8));
        self.asm.bind(other_tlb);
        self.asm.test(Quad, RCX, RCX);
        self.asm.jcc(Cond::Equal, out);
        self.asm.mov_to_memory(Quad, TLB.offset(BELOW), RCX);
        self.asm.mov(Quad, RBP, RCX);
        self.asm.bind(no_sum);
        self.asm.mov(Quad, RCX, CSRS.offset(BELOW));
        self.asm.alu(Alu::Xor, Quad, RDX, RAX);
        self.asm.mov_to_memory(Quad, MSTATUS, RDX);
        changes(self.asm, mstatus::FS);
        self.asm.jcc(Cond::Equal, done);
        self.asm.alu_imm(Alu::And, Double, RDX, mstatus::FS as i32);
        self.asm.alu_imm(Alu::Cmp, Double, RDX, mstatus::FS as i32);
        self.asm.setcc(Cond::Equal, RDX);
        self.asm.load(1, false, RCX, ROUNDING_READY.offset(BELOW));
        self.asm.alu(Alu::And, Double, RDX, RCX);
        self.asm.store(1, FLOAT_READY.offset(BELOW), RDX);
        self.asm.bind(done);
        self.asm.zero(RAX);
        self.asm.ret();
        self.asm.bind(out);
        self.asm.test(Quad, RSP, RSP);
        self.asm.ret();
        address
    }

    fn finisher(&mut self, helper: u64, leave: u64) -> u64 {
        /// The return address, and what aligns the stack for the next call.
        const BELOW: i32 = 16;
        let address = self.address();
        self.asm.push(RDX);
        self.save(BELOW);
        self.swap_mxcsr(BELOW);
        self.asm.lea(Quad, RDI, Mem::new(RSP, BELOW));
        self.asm.mov(Quad, RSI, RAX);
        self.asm.mov_imm(RAX, helper);
        self.asm.call_reg(RAX);
        let out = self.asm.label();
        // Nothing up to the return changes flags.
        self.asm.alu_imm(Alu::Cmp, Quad, RDX, 1);
        self.asm.jcc(Cond::Equal, out);
        self.asm.ldmxcsr(GUEST_MXCSR.offset(BELOW));
        self.restore(BELOW);
        self.asm.pop(RDX);
        self.asm.ret();
        self.asm.bind(out);
        self.asm.alu_imm(Alu::Add, Quad, RSP, BELOW);
        self.asm.jmp_to(leave);
        address
    }
}
