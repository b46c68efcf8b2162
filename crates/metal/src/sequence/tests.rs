//! Compiled sequences are executed by the interpreter, and leave what the interpreter leaves that executes the guest's
//! own instructions.

use alloc::vec::Vec;
use core::mem::offset_of;

use rvisor_hart::{Exit, Hart};
use rvisor_isa::csr::{SSTATUS_MASK, mstatus};
use rvisor_isa::{Instruction, Op, Privilege, decode, encode};
use rvisor_machine::{HartEnvironment, VirtualHart, Vm};
use rvisor_waist::{GuestMemory, GuestPhysical};

use super::compile::{Compiled, Routines, compile, compile_nothing};
use super::{Class, Step, class};
use crate::arch::Partition;
use crate::arch::context::HartContext;
use crate::arch::partition::tests::BASE;
use crate::processor::{Plain, Privileged};
use crate::shadow::Guard;
use crate::testing::vm;

const RAM: usize = 4 << 20;
const CODE: u64 = BASE.0 + 0x1800;
const DATA: u64 = BASE.0 + 0x4000;
const CONTEXT: u64 = BASE.0 + 0x10_0000;
const START: i64 = offset_of!(HartContext, code) as i64;
const ROUTINES: Routines = Routines {
    status: -4096,
    leave: -4092,
    refuse: -4088,
    stale: -4084,
    fault: -4080,
    outdated: [-4076, -4072],
};
const GUARD: Guard = Guard { slot: 3, number: 0x1234_5678_9abc };
const SRET: u32 = 0x1020_0073;
const BASE_REGISTER: u8 = 9;

/// How compiled code has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Back,
    Refused,
    Stale,
    Outdated { is_call: bool },
}

/// A hart in S-mode without translation, and its memory.
struct Machine {
    vm: Vm<Partition>,
    hart: VirtualHart,
}

impl Machine {
    fn new() -> Self {
        let vm = vm(RAM);
        let mut hart = VirtualHart::new(0, &vm);
        hart.hart.change_privilege(Privilege::Supervisor);
        Self { vm, hart }
    }

    fn step(&mut self) {
        let outside: HartEnvironment<'_, Partition> = self.vm.environment(&self.vm.harts()[0]);
        assert_eq!(self.hart.hart.step_uninterrupted(&outside), Exit::Budget);
    }

    fn load(&self, address: u64) -> u64 {
        self.vm.memory().load(GuestPhysical(address)).unwrap()
    }

    fn store(&self, address: u64, value: u64) {
        self.vm.memory().store(GuestPhysical(address), value).unwrap();
    }

    fn hart(&mut self) -> &mut Hart {
        &mut self.hart.hart
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    /// Any instruction that can be part of a sequence, `sret` apart.
    fn instruction(&mut self) -> Instruction {
        use Op::*;
        let plain = [
            Lui, Auipc, Addi, Slti, Sltiu, Xori, Ori, Andi, Slli, Srli, Srai, Add, Sub, Sll, Slt, Sltu, Xor,
            Srl, Sra, Or, And, Addiw, Slliw, Srliw, Addw, Subw,
        ];
        let branches = [Beq, Bne, Blt, Bge, Bltu, Bgeu];
        let memory = [Lb, Lbu, Lh, Lhu, Lw, Lwu, Ld, Sb, Sh, Sw, Sd, ScW, ScD];
        let csrs = [Csrrw, Csrrs, Csrrc, Csrrsi, Csrrci];
        loop {
            let op = match self.below(8) {
                0..3 => self.pick(&plain),
                3 => self.pick(&branches),
                4..6 => self.pick(&memory),
                _ => self.pick(&csrs),
            };
            let mut registers = [0; 3].map(|_| self.below(32) as u8);
            if memory.contains(&op) {
                registers[1] = BASE_REGISTER;
            }
            let imm = match op {
                Lui | Auipc => (self.next() as i32) & !0xfff,
                _ if branches.contains(&op) => self.pick(&[4, 8]),
                Jal => 8,
                ScW | ScD => 0,
                _ if memory.contains(&op) => self.below(250) as i32 * 8 - 1000,
                Slli | Srli | Srai => self.below(64) as i32,
                Slliw | Srliw => self.below(32) as i32,
                _ if csrs.contains(&op) => self.pick(&[0x100, 0x100, 0x140, 0x141, 0x142, 0x143]),
                _ => self.below(4096) as i32 - 2048,
            };
            let [rd, rs1, rs2] = registers;
            let all = Instruction { rd, rs1, rs2, imm, ..Instruction::new(op, 4) };
            // Some have fewer operands.
            let shapes = [
                all,
                Instruction { rs2: 0, ..all },
                Instruction { rd: 0, ..all },
                Instruction { rs1: 0, rs2: 0, ..all },
                Instruction { imm: 0, ..all },
            ];
            let found = shapes.into_iter().find(|shape| encode(shape).is_some());
            if let Some(found) = found.filter(|found| class(found).is_some() && found.rd != BASE_REGISTER) {
                return found;
            }
        }
    }
}

/// The path that `machine` takes through what is at `CODE`, up to `most` instructions.
fn record(machine: &mut Machine, most: usize) -> Vec<Step> {
    (0..most)
        .map(|_| {
            let pc = machine.hart().pc;
            let bits = machine.vm.memory().load::<u32>(GuestPhysical(pc)).unwrap();
            machine.step();
            Step { pc, bits, instruction: decode(bits).unwrap(), next: machine.hart().pc }
        })
        .collect()
}

/// Puts two machines into one state, the second of them with it as the trampoline has it.
fn prepare(random: &mut Random, code: &[Instruction], guest: &mut Machine, monitor: &mut Machine) {
    for machine in [&mut *guest, &mut *monitor] {
        machine.hart().csr.mstatus &= !SSTATUS_MASK;
        for (index, instruction) in code.iter().enumerate() {
            let place = GuestPhysical(CODE + 4 * index as u64);
            machine.vm.memory().store(place, encode(instruction).unwrap()).unwrap();
        }
    }
    for offset in (0..0x1000).step_by(8) {
        let value = random.next();
        guest.store(DATA + offset, value);
        monitor.store(DATA + offset, value);
    }
    let hart = guest.hart();
    for register in 1..32 {
        hart.x[register] = if random.below(2) == 0 { random.next() } else { random.below(4) };
    }
    hart.x[usize::from(BASE_REGISTER)] = DATA + 0x800;
    hart.pc = CODE;
    hart.csr.mstatus |=
        random.next() & (mstatus::SIE | mstatus::SPIE | mstatus::SPP | mstatus::FS | mstatus::SUM);
    hart.csr.sscratch = random.next();
    hart.csr.sepc = random.next() & !1;
    hart.csr.scause = random.next();
    hart.csr.stval = random.next();
    enter(guest, monitor);
}

/// What the trampoline does before it jumps to a sequence.
fn enter(guest: &Machine, monitor: &mut Machine) {
    let (x, csr) = (&guest.hart.hart.x, &guest.hart.hart.csr);
    let field = |offset: usize| CONTEXT + offset as u64;
    let privileged = Privileged::default();
    for register in [5, 6, 7] {
        monitor.store(field(8 * register), x[register]);
    }
    for (offset, value) in [
        (offset_of!(HartContext, guest_stvec), 0x1234_5678),
        (offset_of!(HartContext, window_slot), 5),
        (offset_of!(HartContext, privileged.places) + 8 * GUARD.slot, GUARD.number),
        (
            offset_of!(HartContext, privileged.status),
            csr.mstatus & SSTATUS_MASK & !(mstatus::FS | mstatus::SD),
        ),
        (offset_of!(HartContext, privileged.status_writable), privileged.status_writable),
        (offset_of!(HartContext, privileged.status_float), privileged.status_float),
        (offset_of!(HartContext, privileged.status_watched), privileged.status_watched & !mstatus::SIE),
    ] {
        monitor.store(field(offset), value);
    }
    for (index, value) in [csr.sscratch, csr.sepc, csr.scause, csr.stval].into_iter().enumerate() {
        monitor.store(field(offset_of!(HartContext, privileged.plain) + 8 * index), value);
    }
    let bits = guest.vm.memory().load::<u32>(GuestPhysical(guest.hart.hart.pc)).unwrap();
    let hart = monitor.hart();
    hart.x = *x;
    hart.x[10] = CONTEXT;
    hart.csr.mstatus = hart.csr.mstatus & !mstatus::FS | csr.mstatus & mstatus::FS;
    hart.csr.sscratch = x[10];
    hart.csr.sepc = guest.hart.hart.pc;
    hart.csr.stval = bits.into();
    hart.pc = CONTEXT + START as u64;
}

fn put(monitor: &Machine, compiled: &Compiled) {
    for (index, word) in compiled.words.iter().enumerate() {
        let place = GuestPhysical(CONTEXT + START as u64 + 4 * index as u64);
        monitor.vm.memory().store(place, *word).unwrap();
    }
}

/// Executes compiled code to its end. The routines refuse.
fn execute(monitor: &mut Machine) -> End {
    for _ in 0..4000 {
        let pc = monitor.hart().pc;
        match pc.wrapping_sub(CONTEXT).cast_signed() {
            at if at == ROUTINES.status || at == ROUTINES.leave => {
                let hart = monitor.hart();
                hart.pc = hart.x[7] + 4;
            }
            at if at == ROUTINES.refuse => return End::Refused,
            at if at == ROUTINES.stale => return End::Stale,
            at if ROUTINES.outdated.contains(&at) => {
                return End::Outdated { is_call: at == ROUTINES.outdated[1] };
            }
            _ if monitor.vm.memory().load::<u32>(GuestPhysical(pc)) == Ok(SRET) => return End::Back,
            _ => monitor.step(),
        }
    }
    panic!("it doesn't end");
}

/// The guest has carried out its own instructions up to the place where the other went back to.
fn assert_same(guest: &mut Machine, monitor: &mut Machine, most: usize) {
    let aim = monitor.hart().csr.sepc;
    for _ in 0..most {
        if guest.hart().pc == aim {
            break;
        }
        guest.step();
    }
    assert_eq!(guest.hart().pc, aim);
    assert_eq!(monitor.hart().x, guest.hart().x);
    let plain = |place: Plain| {
        monitor.load(CONTEXT + (offset_of!(HartContext, privileged.plain) + 8 * place as usize) as u64)
    };
    let csr = &guest.hart.hart.csr;
    assert_eq!(plain(Plain::Scratch), csr.sscratch);
    assert_eq!(plain(Plain::Epc), csr.sepc);
    assert_eq!(plain(Plain::Cause), csr.scause);
    assert_eq!(plain(Plain::Value), csr.stval);
    let status = monitor.load(CONTEXT + offset_of!(HartContext, privileged.status) as u64);
    let bits = mstatus::SIE | mstatus::SPIE | mstatus::SPP | mstatus::SUM;
    assert_eq!(status & bits, csr.mstatus & bits);
    for offset in (0..0x1000).step_by(8) {
        assert_eq!(monitor.load(DATA + offset), guest.load(DATA + offset), "data {offset:#x}");
    }
}

#[test]
fn random_sequences_do_what_their_instructions_do() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut went_back, mut compiled_all) = (0, 0);
    let [mut guest, mut monitor, mut recorder] = [(); 3].map(|()| Machine::new());
    for round in 0..600 {
        let length = 1 + random.below(20) as usize;
        let mut code: Vec<Instruction> = (0..2 * length + 2).map(|_| random.instruction()).collect();
        while class(&code[0]).is_none_or(|class| !class.is_privileged()) {
            code[0] = random.instruction();
        }
        prepare(&mut random, &code, &mut guest, &mut monitor);
        let is_call = round % 3 == 0;
        copy(&guest, &mut recorder);
        let steps = record(&mut recorder, length);
        let guard = (round % 2 == 0).then_some(GUARD);
        let Some(compiled) = compile(&steps, is_call, guard, START, &ROUTINES) else { continue };
        compiled_all += 1;
        if guard.is_some() {
            // It isn't looked at.
            monitor.vm.memory().zero(GuestPhysical(CODE), 0x200).unwrap();
        }
        put(&monitor, &compiled);
        match execute(&mut monitor) {
            End::Back => {
                went_back += 1;
                assert_eq!(monitor.hart().csr.sscratch, CONTEXT, "{steps:?}");
                assert_same(&mut guest, &mut monitor, length);
            }
            // Nothing may have happened then.
            End::Refused => assert!(!is_call),
            End::Stale | End::Outdated { .. } => panic!("the code is the same"),
        }
    }
    assert!(went_back > 300 && compiled_all >= went_back, "{went_back} of {compiled_all}");
}

fn copy(from: &Machine, to: &mut Machine) {
    let mut bytes = alloc::vec![0; 0x8000];
    from.vm.memory().read(BASE, &mut bytes).unwrap();
    to.vm.memory().write(BASE, &bytes).unwrap();
    let (hart, other) = (&from.hart.hart, &mut to.hart.hart);
    other.x = hart.x;
    other.pc = hart.pc;
    other.csr.mstatus = hart.csr.mstatus;
    other.csr.sscratch = hart.csr.sscratch;
    other.csr.sepc = hart.csr.sepc;
    other.csr.scause = hart.csr.scause;
    other.csr.stval = hart.csr.stval;
}

/// `csrr s2, sepc; sd s2, 0(s1); csrw sscratch, s2`, with the base register at `base`.
fn store_between(base: u64) -> (Machine, Machine, Vec<Step>) {
    let code = [
        Instruction { rd: 18, imm: 0x141, ..Instruction::new(Op::Csrrs, 4) },
        Instruction { rs1: BASE_REGISTER, rs2: 18, ..Instruction::new(Op::Sd, 4) },
        Instruction { rs1: 18, imm: 0x140, ..Instruction::new(Op::Csrrw, 4) },
    ];
    let [mut guest, mut monitor, mut recorder] = [(); 3].map(|()| Machine::new());
    prepare(&mut Random(7), &code, &mut guest, &mut monitor);
    copy(&guest, &mut recorder);
    let steps = record(&mut recorder, 3);
    monitor.hart().x[usize::from(BASE_REGISTER)] = base;
    (guest, monitor, steps)
}

#[test]
fn no_access_reaches_the_windows_slot() {
    let (_, mut monitor, steps) = store_between(DATA);
    let compiled = compile(&steps, false, None, START, &ROUTINES).unwrap();
    put(&monitor, &compiled);
    // The data is in slot 2, as if the window were there.
    monitor.store(CONTEXT + offset_of!(HartContext, window_slot) as u64, DATA >> 30);
    let before = monitor.load(DATA);
    assert_eq!(execute(&mut monitor), End::Back);
    assert_eq!((monitor.hart().csr.sepc, monitor.load(DATA)), (steps[1].pc, before));
}

#[test]
fn fault_is_told_with_the_guests_own_instruction() {
    let (_, _, steps) = store_between(DATA);
    let compiled = compile(&steps, false, None, START, &ROUTINES).unwrap();
    let [compare, store] = compiled.places[..] else { panic!("{:?}", compiled.places) };
    assert!(compare.compares && compare.pc == CODE && compare.at < store.at);
    assert_eq!((store.pc, store.compares), (CODE + 4, false));
    let word = compiled.words[((store.at - START) / 4) as usize];
    assert_eq!(decode(word).map(|instruction| instruction.op), Some(Op::Sd));
}

#[test]
fn code_that_has_changed_is_not_carried_out() {
    let (_, mut monitor, steps) = store_between(DATA);
    let start = (monitor.hart().x, monitor.hart().csr.sscratch);
    for changed in 0..3 {
        let hart = monitor.hart();
        (hart.x, hart.csr.sscratch) = start;
        (hart.pc, hart.csr.stvec) = (CONTEXT + START as u64, 0);
        put(&monitor, &compile(&steps, false, None, START, &ROUTINES).unwrap());
        let place = GuestPhysical(CODE + 4 * changed);
        let bits = monitor.vm.memory().load::<u32>(place).unwrap();
        monitor.vm.memory().store(place, bits ^ 1 << 20).unwrap();
        let before = monitor.load(DATA);
        assert_eq!(execute(&mut monitor), End::Stale);
        assert_eq!((monitor.load(DATA), monitor.hart().csr.stvec), (before, 0x1234_5678));
        monitor.vm.memory().store(place, bits).unwrap();
    }
}

#[test]
fn nothing_is_done_where_the_guard_does_not_hold() {
    let (_, mut monitor, steps) = store_between(DATA);
    let nothing = -4068;
    for (is_call, steps) in [(false, &steps[..]), (true, &steps[..]), (false, &steps[..1]), (true, &[])] {
        let compiled = compile(steps, is_call, Some(GUARD), START, &ROUTINES);
        let is_none = compiled.is_none();
        let outdated = ROUTINES.outdated[usize::from(is_call)];
        put(&monitor, &compiled.or_else(|| compile_nothing(GUARD, START, nothing, outdated)).unwrap());
        for number in [0, GUARD.number + 1, GUARD.number] {
            let place = offset_of!(HartContext, privileged.places) + 8 * GUARD.slot;
            monitor.store(CONTEXT + place as u64, number);
            let hart = monitor.hart();
            hart.pc = CONTEXT + START as u64;
            let before = (hart.x[8..].to_vec(), hart.csr.sscratch, hart.csr.stvec);
            if number != GUARD.number {
                assert_eq!(execute(&mut monitor), End::Outdated { is_call });
                let hart = monitor.hart();
                assert_eq!(before, (hart.x[8..].to_vec(), hart.csr.sscratch, hart.csr.stvec));
            } else if is_none {
                while monitor.hart().pc != CONTEXT.wrapping_add_signed(nothing) {
                    monitor.step();
                }
            }
        }
    }
}

#[test]
fn guarded_code_reads_nothing_of_the_guests_own() {
    let (_, _, steps) = store_between(DATA);
    let compiled = compile(&steps, false, Some(GUARD), START, &ROUTINES).unwrap();
    let [store] = compiled.places[..] else { panic!("{:?}", compiled.places) };
    assert_eq!((store.pc, store.compares), (CODE + 4, false));
    // Where a call leads, only that it is there.
    let compiled = compile(&steps, true, Some(GUARD), START, &ROUTINES).unwrap();
    let [probe, store] = compiled.places[..] else { panic!("{:?}", compiled.places) };
    assert_eq!((probe.pc, probe.compares, store.pc), (CODE, false, CODE + 4));
}

#[test]
fn stores_reach_nothing_but_the_context_and_what_the_guest_names() {
    let mut random = Random(99);
    let [mut guest, mut monitor, mut recorder] = [(); 3].map(|()| Machine::new());
    for _ in 0..300 {
        let code: Vec<Instruction> = (0..22).map(|_| random.instruction()).collect();
        prepare(&mut random, &code, &mut guest, &mut monitor);
        copy(&guest, &mut recorder);
        let steps = record(&mut recorder, 10);
        let guard = (random.below(2) == 0).then_some(GUARD);
        let Some(compiled) = compile(&steps, false, guard, START, &ROUTINES) else { continue };
        let own: Vec<i64> =
            compiled.places.iter().filter(|place| !place.compares).map(|place| place.at).collect();
        for (index, word) in compiled.words.iter().enumerate() {
            let at = START + 4 * index as i64;
            let Some(instruction) = decode(*word) else { continue };
            let is_store = matches!(instruction.op, Op::Sb | Op::Sh | Op::Sw | Op::Sd | Op::ScW | Op::ScD);
            // Constants look like anything; code ends with the last jump.
            if is_store && !own.contains(&at) && instruction.length == 4 && index < code_length(&compiled) {
                assert_eq!((instruction.op, instruction.rs1), (Op::Sd, 10));
                assert!((0..2048).contains(&instruction.imm));
            }
        }
    }
}

/// Words before the constants.
fn code_length(compiled: &Compiled) -> usize {
    let jump = |word: &u32| decode(*word).is_some_and(|found| found.op == Op::Jal || found.op == Op::Jalr);
    let first_constant = compiled.words.iter().rposition(jump).map_or(0, |index| index + 1);
    first_constant.min(compiled.words.len())
}

#[test]
fn what_traps_differently_is_in_no_class() {
    let none = |op, imm, rs1| class(&Instruction { imm, rs1, ..Instruction::new(op, 4) }).is_none();
    // Bits of `scause` set, `satp`, `sie`, `stvec`, `time`, `mstatus`; a write of `sstatus` with an immediate.
    assert!(none(Op::Csrrs, 0x142, 1) && none(Op::Csrrw, 0x180, 1) && none(Op::Csrrw, 0x104, 1));
    assert!(none(Op::Csrrw, 0x105, 1) && none(Op::Csrrs, 0xc01, 0) && none(Op::Csrrs, 0x300, 0));
    assert!(none(Op::Csrrwi, 0x100, 2) && none(Op::Ecall, 0, 0) && none(Op::SfenceVma, 0, 0));
    assert!(none(Op::Jalr, 0, 1) && none(Op::FenceI, 0, 0) && none(Op::Fld, 0, 1) && none(Op::AmoaddD, 0, 1));
    assert_eq!(class(&Instruction::new(Op::Sret, 4)), Some(Class::Return));
}
