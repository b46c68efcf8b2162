use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use rvisor_isa::csr::{mip, mstatus, satp};
use rvisor_isa::{Exception, Instruction, Op, csr, encode};

use super::*;
use crate::observe::{HartEvent, Observer};
use crate::testing::{RAM, World, hart, supervisor_hart};
use crate::trap::Cause;

const DATA: u64 = RAM + 0x1000;

fn put(world: &World, address: u64, code: &[u32]) {
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    world.ram.write(GuestPhysical(address), &bytes).unwrap();
}

fn asm(op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> u32 {
    encode(&Instruction { rd, rs1, rs2, imm, ..Instruction::new(op, 4) }).unwrap()
}

/// Three additions, a load from `x5`, a store to it, an atomic.
fn program(world: &World) -> Hart {
    put(
        world,
        RAM,
        &[
            asm(Op::Addi, 6, 6, 0, 1),
            asm(Op::Addi, 6, 6, 0, 1),
            asm(Op::Ld, 7, 5, 0, 0),
            asm(Op::Sd, 0, 5, 6, 0),
            asm(Op::AmoaddD, 7, 5, 6, 0),
            asm(Op::Wfi, 0, 0, 0, 0),
        ],
    );
    let mut hart = hart();
    (hart.pc, hart.x[5]) = (RAM, DATA);
    hart
}

fn points(breakpoints: &[u64], watchpoints: &[Watchpoint]) -> Option<Arc<DebugPoints>> {
    let breakpoints = breakpoints.iter().copied().collect();
    Some(Arc::new(DebugPoints { breakpoints, watchpoints: watchpoints.to_vec() }))
}

#[test]
fn breakpoint_stops_before_its_instruction_and_changes_no_memory() {
    let world = World::new();
    let mut hart = program(&world);
    let before = world.ram.double(RAM);
    hart.set_debug_points(points(&[RAM + 4], &[]), 1);
    assert!(hart.debugs_code(RAM + 0xffe) && !hart.debugs_code(RAM + 0x1000));
    assert_eq!(hart.run_to_point(&world, 100), Exit::Budget);
    assert_eq!((hart.take_debug_hit(), hart.pc, hart.x[6]), (Some(DebugHit::Breakpoint), RAM + 4, 1));
    assert_eq!(world.ram.double(RAM), before);
    hart.set_debug_points(points(&[], &[]), 2);
    assert!(!hart.is_debugged());
    assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
}

#[test]
fn watchpoint_stops_behind_each_access_of_its_kind() {
    for (kind, stops) in [
        (WatchKind::Read, vec![RAM + 12]),
        (WatchKind::Write, vec![RAM + 16, RAM + 20]),
        (WatchKind::Access, vec![RAM + 12, RAM + 16, RAM + 20]),
    ] {
        let world = World::new();
        let mut hart = program(&world);
        // Remembered by the TLB beforehand: that must not hide anything.
        assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
        hart.pc = RAM;
        hart.set_debug_points(points(&[], &[Watchpoint { start: DATA + 7, length: 1, kind }]), 1);
        let mut seen = Vec::new();
        while hart.run_to_point(&world, 100) != Exit::WaitForInterrupt {
            assert_eq!(hart.take_debug_hit(), Some(DebugHit::Watchpoint { start: DATA + 7, kind }));
            seen.push(hart.pc);
        }
        assert_eq!(seen, stops, "{kind:?}");
    }
}

#[test]
fn access_beside_a_watchpoint_is_none() {
    let world = World::new();
    let mut hart = program(&world);
    let kind = WatchKind::Access;
    hart.set_debug_points(points(&[], &[Watchpoint { start: DATA + 8, length: 8, kind }]), 1);
    assert!(hart.debugs_data(DATA) && !hart.debugs_data(DATA + 0x1000));
    assert_eq!(hart.run_to_point(&world, 100), Exit::WaitForInterrupt);
    // To the last byte of all.
    let last = Watchpoint { start: u64::MAX, length: 1, kind };
    assert!(last.overlaps(u64::MAX - 7, 8) && !last.overlaps(0, 8) && !last.overlaps(u64::MAX - 8, 8));
}

#[test]
fn step_takes_no_interrupt_if_asked() {
    let world = World::new();
    let mut hart = program(&world);
    hart.csr.mie = mip::MEIP;
    hart.csr.mstatus |= mstatus::MIE;
    world.set_lines(mip::MEIP);
    hart.step_uninterrupted(&world);
    assert_eq!(hart.pc, RAM + 4);
    hart.step(&world);
    assert_eq!(hart.pc, hart.csr.mtvec);
}

#[test]
fn every_register_can_be_seen_and_changed_from_any_mode() {
    let world = World::new();
    let mut hart = supervisor_hart();
    hart.change_privilege(Privilege::User);
    assert_eq!(hart.inspect_csr(&world, csr::MISA), Some(hart.csr_value(&world, csr::MISA).unwrap()));
    assert_eq!(hart.inspect_csr(&world, 0x7ff), None);
    hart.change_csr(csr::SSCRATCH, 42);
    assert_eq!(hart.inspect_csr(&world, csr::SSCRATCH), Some(42));
    hart.change_csr(csr::SEPC, 0x1001);
    assert_eq!(hart.csr.sepc, 0x1000, "values are made legal");
}

#[test]
fn translation_is_explained_entry_by_entry() {
    let world = World::new();
    let mut hart = supervisor_hart();
    const TABLES: u64 = RAM + 0x9_0000;
    hart.csr.satp = satp::SV39 << satp::MODE_SHIFT | TABLES >> 12;
    world.ram.set_double(TABLES, (TABLES + 0x1000) >> 12 << 10 | 1);
    world.ram.set_double(TABLES + 0x1000, (TABLES + 0x2000) >> 12 << 10 | 1);
    // A user page that was never accessed; a superpage beside.
    world.ram.set_double(TABLES + 0x2000 + 5 * 8, DATA >> 12 << 10 | 0b1_0011);
    world.ram.set_double(TABLES + 0x1008, RAM >> 12 << 10 | 0b1111);
    let walk = hart.inspect_translation(&world.ram, GuestVirtual(0x5123));
    assert_eq!(walk.physical, Some((GuestPhysical(DATA + 0x123), PAGE_SIZE)));
    assert_eq!(walk.steps.iter().map(|step| step.level).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!(walk.steps[2].entry, GuestPhysical(TABLES + 0x2028));
    let walk = hart.inspect_translation(&world.ram, GuestVirtual(0x20_1234));
    assert_eq!(walk.physical, Some((GuestPhysical(RAM + 0x1234), 2 << 20)));
    assert_eq!(hart.inspect_translation(&world.ram, GuestVirtual(0x6000)).physical, None);
    assert_eq!(hart.inspect_translation(&world.ram, GuestVirtual(1 << 40)).steps, []);
    hart.change_privilege(Privilege::Machine);
    assert_eq!(hart.inspect_translation(&world.ram, GuestVirtual(0x5123)).steps, []);
}

struct Recorder(Arc<spin::Mutex<Vec<HartEvent>>>);

impl Observer for Recorder {
    fn observe(&mut self, event: &HartEvent) {
        self.0.lock().push(*event);
    }
}

#[test]
fn observer_hears_of_a_system_call_with_its_arguments_and_result() {
    for stepped in [false, true] {
        let world = World::new();
        let mut hart = supervisor_hart();
        let ecall = asm(Op::Ecall, 0, 0, 0, 0);
        put(&world, RAM, &[asm(Op::Addi, 10, 0, 0, 7), asm(Op::Addi, 17, 0, 0, 64), ecall, ecall]);
        // The handler gives 9 back, behind the call.
        put(
            &world,
            RAM + 0x100,
            &[
                asm(Op::Addi, 10, 0, 0, 9),
                asm(Op::Csrrs, 5, 0, 0, i32::from(csr::SEPC)),
                asm(Op::Addi, 5, 5, 0, 4),
                asm(Op::Csrrw, 0, 5, 0, i32::from(csr::SEPC)),
                asm(Op::Sret, 0, 0, 0, 0),
            ],
        );
        hart.csr.stvec = RAM + 0x100;
        hart.pc = RAM;
        hart.change_privilege(Privilege::User);
        let seen = Arc::new(spin::Mutex::new(Vec::new()));
        hart.set_observer(Some(Box::new(Recorder(Arc::clone(&seen)))));
        if stepped {
            for _ in 0..8 {
                hart.step(&world);
            }
        } else {
            hart.run(&world, 8);
        }
        let seen: Vec<_> =
            seen.lock().iter().copied().filter(|event| !matches!(event, HartEvent::Fill { .. })).collect();
        let [
            HartEvent::Trap { trap, pc, from, handler, arguments, .. },
            HartEvent::Return { to, values, .. },
            ..,
        ] = seen[..]
        else {
            panic!("{seen:?}")
        };
        assert_eq!(trap.cause, Cause::Exception(Exception::EnvironmentCallFromUser));
        assert_eq!((pc, from, handler), (RAM + 8, Privilege::User, RAM + 0x100));
        assert_eq!((arguments[0], arguments[7]), (7, 64));
        assert_eq!((to, values[0]), (Privilege::User, 9));
    }
}
