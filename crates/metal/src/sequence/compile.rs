//! From the steps of a sequence to code for the hardware.
//!
//! The code runs in S-mode, on the guest's shadow table. `a0` is the hart's context. Of the guest's registers `t0`, `t1`,
//! `t2` and `a0` are in the context; the others are in their places.
//!
//! Code comes from the closed set of forms below. Addresses that it reaches are the context's, constants behind it, the
//! guest's code on the page of the first instruction, and what a load or store of the guest's own names, after a
//! look at whether that is in the window's slot (`check_base`). Where it goes is fixed, but for `sepc`.

/// The offset of a field of the context.
macro_rules! field {
    ($($field:tt)+) => { offset_of!(HartContext, $($field)+) as i32 };
}

mod status;

use alloc::vec::Vec;
use core::mem::offset_of;

use rvisor_isa::csr::{SEPC, SSCRATCH, SSTATUS, STVAL, STVEC, mstatus};
use rvisor_isa::{Instruction, Op};

use super::assembler::{Assembler, Label};
use super::{Class, Step, class};
use crate::arch::context::HartContext;
use crate::shadow::Guard;

const T0: u8 = 5;
const T1: u8 = 6;
const T2: u8 = 7;
const A0: u8 = 10;
const T3: u8 = 28;
/// `addi`, loads and stores reach this far from a page's middle, both ways.
const MIDDLE: u64 = 2048;
const PAGE: u64 = 4096;
/// Constants that one register reaches.
const MOST_PIECES: usize = 250;
/// The window's slot is 1 GiB.
const SLOT_SHIFT: i32 = 30;

/// What the trampoline has for sequences; addresses count from the hart's context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Routines {
    /// Does what a change of `sstatus` (t1, of the value in t0) does beyond the bits; returns to t2, or 4 beyond if the
    /// monitor has to see to it.
    pub status: i64,
    /// `sret`, but for going; returns like `status`.
    pub leave: i64,
    /// The monitor is to carry out the instruction that trapped.
    pub refuse: i64,
    /// The guest's code has changed: the instruction that trapped, in t0, is served by itself.
    pub stale: i64,
    /// Where traps lead while a sequence accesses memory.
    pub fault: i64,
    /// A guard doesn't hold, at a trap or at a call: the trampoline misses the sequence, from now on until another is made. Nothing
    /// was done yet.
    pub outdated: [i64; 2],
}

/// Where the hardware may fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// In the code, from the context.
    pub at: i64,
    /// The guest's instruction; for the comparison of its code, the first.
    pub pc: u64,
    /// Whether the guest's code is being compared: then t3 is in the context.
    pub compares: bool,
}

/// Code for the hardware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compiled {
    /// Instructions and constants.
    pub words: Vec<u32>,
    /// Where it may fault, in the order of addresses.
    pub places: Vec<Place>,
}

/// Compiles `steps` for an address, counted from the context. `is_call` for one that begins where calls of programs
/// lead, else the first step has trapped. With a guard, that is what the guest's code is known by; else it is compared.
/// `None` where there is nothing to be won, or it is too long.
pub fn compile(
    steps: &[Step],
    is_call: bool,
    guard: Option<Guard>,
    start: i64,
    routines: &Routines,
) -> Option<Compiled> {
    let first = steps.first()?;
    let classes: Vec<Class> = steps.iter().map(|step| class(&step.instruction)).collect::<Option<_>>()?;
    if !classes.iter().any(|class| class.is_privileged()) {
        return None;
    }
    let mut assembler = Assembler::new(start);
    let (tail, stale, refusal) = (assembler.label(), assembler.label(), assembler.label());
    let is_single = steps.len() == 1 && !is_call;
    let checks = match guard {
        Some(guard) => Checks::Guard(guard),
        None if is_single => Checks::Instruction,
        None => Checks::Code,
    };
    let may_fault = is_call || matches!(checks, Checks::Code) || classes.contains(&Class::Memory);
    let uses_a0 = steps.iter().any(|step| {
        let Instruction { rd, rs1, rs2, .. } = step.instruction;
        [rd, rs1, rs2].contains(&A0)
    });
    let mut compiler = Compiler {
        assembler,
        routines,
        is_call,
        checks,
        may_fault,
        keeps_a0: !is_single || uses_a0,
        tail,
        refusal,
        checked: 0,
        exits: Vec::new(),
        effects: Vec::new(),
        places: Vec::new(),
    };
    match checks {
        Checks::Guard(guard) => compiler.check_guard(guard, first.pc, stale),
        Checks::Instruction => compiler.compare_single(first, stale),
        Checks::Code => compiler.compare(&pieces(steps)?, first.pc, stale),
    }
    for (index, (step, class)) in steps.iter().zip(&classes).enumerate() {
        compiler.step(step, *class, index == 0);
    }
    let last = steps.last()?;
    if class(&last.instruction) != Some(Class::Return) {
        compiler.set_pc(last.next);
    }
    compiler.assembler.place(tail);
    compiler.go();
    compiler.put_stale(stale, first.pc);
    compiler.put_refusal();
    compiler.put_effects();
    compiler.put_exits();
    Some(Compiled { words: compiler.assembler.finish()?, places: compiler.places })
}

/// The guest's code in aligned pieces of 8, 4 or 2 bytes: offset in the page, size, and what is there.
fn pieces(steps: &[Step]) -> Option<Vec<(u64, u64, u64)>> {
    let page = steps.first()?.pc & !(PAGE - 1);
    let mut halves = Vec::new();
    for step in steps {
        for half in 0..u64::from(step.instruction.length / 2) {
            let offset = step.pc.wrapping_add(2 * half).wrapping_sub(page);
            if offset >= PAGE {
                return None;
            }
            halves.push((offset, u64::from(step.bits >> (16 * half) & 0xffff)));
        }
    }
    halves.sort_unstable();
    halves.dedup();
    let mut pieces: Vec<(u64, u64, u64)> = halves.into_iter().map(|(at, half)| (at, 2, half)).collect();
    for size in [2, 4] {
        let mut joined: Vec<(u64, u64, u64)> = Vec::new();
        for (at, length, value) in pieces {
            match joined.last_mut() {
                Some((before, other, low))
                    if length == size
                        && *other == size
                        && *before + size == at
                        && before.is_multiple_of(2 * size) =>
                {
                    *other = 2 * size;
                    *low |= value << (8 * size);
                }
                _ => joined.push((at, length, value)),
            }
        }
        pieces = joined;
    }
    (pieces.len() <= MOST_PIECES).then_some(pieces)
}

/// Code for what can't be part of a sequence, in a copy: it leads to `nothing` as long as the guard holds, else to `outdated`.
pub fn compile_nothing(guard: Guard, start: i64, nothing: i64, outdated: i64) -> Option<Compiled> {
    let mut assembler = Assembler::new(start);
    let label = assembler.label();
    check(&mut assembler, guard, label);
    assembler.jump_far(T1, nothing, false);
    assembler.place(label);
    assembler.jump_far(T1, outdated, false);
    Some(Compiled { words: assembler.finish()?, places: Vec::new() })
}

/// Goes to `outdated` unless the guard holds.
fn check(assembler: &mut Assembler, guard: Guard, outdated: Label) {
    assembler.put(Op::Ld, T0, A0, 0, field!(privileged.places) + 8 * guard.slot as i32);
    assembler.load_constant(T1, guard.number);
    assembler.branch(Op::Bne, T0, T1, outdated);
}

/// How it is known that the guest's code is what it was.
#[derive(Clone, Copy)]
enum Checks {
    /// The hardware tells the one instruction.
    Instruction,
    /// By loads.
    Code,
    /// By the number of its place.
    Guard(Guard),
}

struct Compiler<'a> {
    assembler: Assembler,
    routines: &'a Routines,
    is_call: bool,
    checks: Checks,
    /// Traps lead to `Routines::fault` meanwhile.
    may_fault: bool,
    /// The guest's `a0` is in the context, not in `sscratch`.
    keeps_a0: bool,
    tail: Label,
    /// Where the monitor is asked to carry out the first instruction.
    refusal: Label,
    /// Registers that don't point to the window's slot.
    checked: u32,
    /// Ways out: back to the guest at an address.
    exits: Vec<(Label, u64)>,
    /// Changes of `sstatus` that are more than bits: where they begin, where they go on, and where they are refused.
    effects: Vec<(Label, Label, Label)>,
    places: Vec<Place>,
}

const fn is_held(register: u8) -> bool {
    matches!(register, T0 | T1 | T2 | A0)
}

impl Compiler<'_> {
    fn load(&mut self, rd: u8, offset: i32) {
        self.assembler.put(Op::Ld, rd, A0, 0, offset);
    }

    fn store(&mut self, rs2: u8, offset: i32) {
        self.assembler.put(Op::Sd, 0, A0, rs2, offset);
    }

    fn read_csr(&mut self, rd: u8, number: u16) {
        self.assembler.put(Op::Csrrs, rd, 0, 0, number.into());
    }

    fn write_csr(&mut self, number: u16, rs1: u8) {
        self.assembler.put(Op::Csrrw, 0, rs1, 0, number.into());
    }

    fn put(&mut self, op: Op, rd: u8, rs1: u8, rs2: u8) {
        self.assembler.put(op, rd, rs1, rs2, 0);
    }

    fn put_immediate(&mut self, op: Op, rd: u8, rs1: u8, imm: i32) {
        self.assembler.put(op, rd, rs1, 0, imm);
    }

    /// A register that has the guest's `register`; `scratch` for one that is in the context.
    fn source(&mut self, register: u8, scratch: u8) -> u8 {
        if is_held(register) {
            self.load(scratch, 8 * i32::from(register));
            scratch
        } else {
            register
        }
    }

    /// What becomes the guest's `register`: `scratch` for one that is in the context, or none.
    fn target(&mut self, register: u8, scratch: u8) -> u8 {
        self.checked &= !(1 << register);
        if register == 0 || is_held(register) { scratch } else { register }
    }

    /// Behind `target`.
    fn commit(&mut self, register: u8, from: u8) {
        if is_held(register) {
            self.store(from, 8 * i32::from(register));
        }
    }

    /// `from` becomes the guest's `register`.
    fn assign(&mut self, register: u8, from: u8) {
        if register == 0 {
            return;
        }
        let target = self.target(register, from);
        if target != from {
            self.put_immediate(Op::Addi, target, from, 0);
        }
        self.commit(register, from);
    }

    /// The way back to the guest at `pc`, with everything before done.
    fn exit(&mut self, pc: u64) -> Label {
        if let Some((label, _)) = self.exits.iter().find(|(_, address)| *address == pc) {
            return *label;
        }
        let label = self.assembler.label();
        self.exits.push((label, pc));
        label
    }

    /// Where it is compared with what it was made from: the hardware tells the one instruction.
    fn compare_single(&mut self, step: &Step, stale: Label) {
        self.read_csr(T0, STVAL);
        self.assembler.load_constant(T1, step.bits.into());
        self.assembler.branch(Op::Bne, T0, T1, stale);
        if self.keeps_a0 {
            self.read_csr(T0, SSCRATCH);
            self.store(T0, 8 * i32::from(A0));
        }
    }

    /// Where it is in a copy. What has trapped is there; where a call leads need not be mapped any more: a load tells.
    fn check_guard(&mut self, guard: Guard, pc: u64, stale: Label) {
        check(&mut self.assembler, guard, stale);
        if self.may_fault {
            self.assembler.address(T0, self.routines.fault);
            self.write_csr(STVEC, T0);
        }
        if self.keeps_a0 {
            self.read_csr(T0, SSCRATCH);
            self.store(T0, 8 * i32::from(A0));
        }
        if self.is_call {
            self.put_immediate(Op::Lui, T2, 0, mstatus::MXR as i32);
            self.assembler.put(Op::Csrrs, 0, T2, 0, SSTATUS.into());
            self.assembler.load_constant(T0, pc);
            self.places.push(Place { at: self.assembler.position(), pc, compares: false });
            self.assembler.put(Op::Lhu, T0, T0, 0, 0);
            self.assembler.put(Op::Csrrc, 0, T2, 0, SSTATUS.into());
        }
    }

    /// The same for several: with loads, which may fault.
    fn compare(&mut self, pieces: &[(u64, u64, u64)], pc: u64, stale: Label) {
        let page = pc & !(PAGE - 1);
        self.assembler.address(T0, self.routines.fault);
        self.write_csr(STVEC, T0);
        self.read_csr(T0, SSCRATCH);
        self.store(T0, 8 * i32::from(A0));
        self.store(T3, 8 * i32::from(T3));
        // The first constants: the page, and the pieces.
        let first = self.assembler.constant(page.wrapping_add(MIDDLE));
        for (_, _, value) in pieces {
            self.assembler.constant(*value);
        }
        self.assembler.address_of_constant(T3, first);
        self.assembler.put(Op::Ld, T0, T3, 0, 0);
        self.places.push(Place { at: self.assembler.position(), pc, compares: true });
        for (index, (offset, size, _)) in pieces.iter().enumerate() {
            let load = match size {
                8 => Op::Ld,
                4 => Op::Lwu,
                _ => Op::Lhu,
            };
            self.assembler.put(load, T1, T0, 0, *offset as i32 - MIDDLE as i32);
            self.assembler.put(Op::Ld, T2, T3, 0, 8 + 8 * index as i32);
            self.assembler.branch(Op::Bne, T1, T2, stale);
        }
        self.load(T3, 8 * i32::from(T3));
    }

    fn put_stale(&mut self, stale: Label, pc: u64) {
        self.assembler.place(stale);
        let is_instruction = matches!(self.checks, Checks::Instruction);
        if matches!(self.checks, Checks::Guard(_)) {
            // Nothing was done: not even `a0` was saved.
            let outdated = self.routines.outdated[usize::from(self.is_call)];
            self.assembler.jump_far(T1, outdated, false);
        } else if self.is_call {
            self.load(T3, 8 * i32::from(T3));
            let exit = self.exit(pc);
            self.assembler.jump(exit);
        } else if is_instruction {
            self.store(T3, 8 * i32::from(T3));
            self.assembler.jump_far(T1, self.routines.stale, false);
        } else {
            self.load(T0, field!(guest_stvec));
            self.write_csr(STVEC, T0);
            self.read_csr(T0, STVAL);
            self.assembler.jump_far(T1, self.routines.stale, false);
        }
    }

    fn step(&mut self, step: &Step, class: Class, is_first: bool) {
        match class {
            Class::Plain => self.plain(step),
            Class::Branch => self.branch(step),
            Class::Jump => {}
            Class::Memory => self.memory(step),
            Class::Bits(place) => self.bits(step, place),
            Class::Status => {
                let refused = self.refused(step, is_first);
                self.status(step, refused);
            }
            Class::Return => {
                let refused = self.refused(step, is_first);
                self.assembler.jump_far(T2, self.routines.leave, true);
                let tail = self.tail;
                self.assembler.jump(tail);
                self.assembler.jump(refused);
            }
        }
    }

    /// Where an instruction leads that only the monitor can carry out. The first has just trapped; others will, when
    /// the guest executes them by itself.
    fn refused(&mut self, step: &Step, is_first: bool) -> Label {
        if is_first && !self.is_call { self.refusal } else { self.exit(step.pc) }
    }

    fn put_refusal(&mut self) {
        self.assembler.place(self.refusal);
        self.assembler.jump_far(T0, self.routines.refuse, false);
    }

    fn plain(&mut self, step: &Step) {
        let instruction = step.instruction;
        if instruction.rd == 0 {
            return;
        }
        if instruction.op == Op::Auipc {
            let value = step.pc.wrapping_add(instruction.imm as u64);
            let rd = self.target(instruction.rd, T0);
            self.assembler.load_constant(rd, value);
            self.commit(instruction.rd, rd);
            return;
        }
        let (rs1, rs2) = (self.source(instruction.rs1, T0), self.source(instruction.rs2, T1));
        let rd = self.target(instruction.rd, T2);
        self.assembler.put_instruction(Instruction { rd, rs1, rs2, ..instruction });
        self.commit(instruction.rd, rd);
    }

    /// The path that was recorded goes on here; the other leads back to the guest.
    fn branch(&mut self, step: &Step) {
        let instruction = step.instruction;
        let behind = step.pc.wrapping_add(instruction.length.into());
        let aim = step.pc.wrapping_add(instruction.imm as u64);
        let (op, other) =
            if step.next == aim { (opposite(instruction.op), behind) } else { (instruction.op, aim) };
        let (rs1, rs2) = (self.source(instruction.rs1, T0), self.source(instruction.rs2, T1));
        let exit = self.exit(other);
        self.assembler.branch(op, rs1, rs2, exit);
    }

    fn memory(&mut self, step: &Step) {
        let instruction = step.instruction;
        let base = self.source(instruction.rs1, T2);
        self.check_base(instruction.rs1, base, step.pc);
        let rs2 = self.source(instruction.rs2, T1);
        let is_store = matches!(instruction.op, Op::Sb | Op::Sh | Op::Sw | Op::Sd);
        let rd = if is_store { 0 } else { self.target(instruction.rd, T0) };
        self.places.push(Place { at: self.assembler.position(), pc: step.pc, compares: false });
        self.assembler.put_instruction(Instruction { rd, rs1: base, rs2, ..instruction });
        if !is_store {
            self.commit(instruction.rd, rd);
        }
    }

    /// Whatever is less than 2 KiB from an address outside the window's slot can't be in the window, which
    /// begins and ends with pages that aren't mapped.
    fn check_base(&mut self, register: u8, base: u8, pc: u64) {
        if self.checked & 1 << register != 0 {
            return;
        }
        let exit = self.exit(pc);
        self.put_immediate(Op::Srai, T0, base, SLOT_SHIFT);
        self.load(T1, field!(window_slot));
        self.assembler.branch(Op::Beq, T0, T1, exit);
        if !is_held(register) {
            self.checked |= 1 << register;
        }
    }

    /// `csrr`, `csrw` and `csrrw` of a register that is nothing but bits.
    fn bits(&mut self, step: &Step, place: usize) {
        let Instruction { op, rd, rs1, .. } = step.instruction;
        let offset = field!(privileged.plain) + 8 * place as i32;
        if op != Op::Csrrw {
            let target = self.target(rd, T0);
            self.load(target, offset);
            self.commit(rd, target);
            return;
        }
        let mut new = self.source(rs1, T0);
        if usize::from(SEPC - SSCRATCH) == place {
            self.put_immediate(Op::Andi, T0, new, !1);
            new = T0;
        }
        if rd == 0 {
            self.store(new, offset);
            return;
        }
        self.load(T1, offset);
        self.store(new, offset);
        self.assign(rd, T1);
    }

    fn set_pc(&mut self, pc: u64) {
        self.assembler.load_constant(T0, pc);
        self.write_csr(SEPC, T0);
    }

    fn put_exits(&mut self) {
        for (label, pc) in core::mem::take(&mut self.exits) {
            self.assembler.place(label);
            self.set_pc(pc);
            let tail = self.tail;
            self.assembler.jump(tail);
        }
    }

    /// Back to the guest, at `sepc`.
    fn go(&mut self) {
        if self.may_fault {
            self.load(T0, field!(guest_stvec));
            self.write_csr(STVEC, T0);
        }
        if !self.is_call {
            self.load(T0, field!(privileged.counts.traps));
            self.put_immediate(Op::Addi, T0, T0, 1);
            self.store(T0, field!(privileged.counts.traps));
        }
        if self.keeps_a0 {
            self.write_csr(SSCRATCH, A0);
        }
        for register in [T0, T1, T2] {
            self.load(register, 8 * i32::from(register));
        }
        if self.keeps_a0 {
            self.load(A0, 8 * i32::from(A0));
        } else {
            self.assembler.put(Op::Csrrw, A0, A0, 0, SSCRATCH.into());
        }
        self.put(Op::Sret, 0, 0, 0);
    }
}

const fn opposite(op: Op) -> Op {
    match op {
        Op::Beq => Op::Bne,
        Op::Bne => Op::Beq,
        Op::Blt => Op::Bge,
        Op::Bge => Op::Blt,
        Op::Bltu => Op::Bgeu,
        _ => Op::Bltu,
    }
}
