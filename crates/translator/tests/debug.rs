//! Breakpoints and watchpoints in translated code, and beside it: what stops stops exactly, in code that has been
//! translated and linked long before.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use std::sync::Arc;

use common::{Machine, RAM};
use rvisor_hart::{DebugHit, DebugPoints, Exit, WatchKind, Watchpoint};
use rvisor_isa::{Instruction, Op, encode};
use rvisor_translator::{Optimize, Options};

const DATA: u64 = RAM + 0x8_0000;
/// The loop's body calls something in another page.
const OTHER: u64 = RAM + 0x1000;

fn asm(op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> u32 {
    encode(&Instruction { rd, rs1, rs2, imm, ..Instruction::new(op, 4) }).expect("operands fit")
}

/// Counts `x6` up for ever: at 0 the loop's start, which stores `x6` to `x5` and loads what is behind it; at 16 a call
/// into the other page, which adds one.
fn program(optimize: Optimize) -> Machine {
    let mut machine = Machine::translated_with(Options { optimize, ..Options::default() });
    machine.write_code(
        RAM,
        &[
            asm(Op::Sd, 0, 5, 6, 0),
            asm(Op::Ld, 7, 5, 0, 8),
            asm(Op::Ld, 8, 5, 0, 16),
            asm(Op::Addi, 0, 0, 0, 0),
            asm(Op::Jal, 1, 0, 0, (OTHER - RAM - 16) as i32),
            asm(Op::Jal, 0, 0, 0, -20),
        ],
    );
    machine.write_code(
        OTHER,
        &[asm(Op::Addi, 6, 6, 0, 1), asm(Op::AmoaddW, 9, 10, 6, 0), asm(Op::Jalr, 0, 1, 0, 0)],
    );
    machine.hart().x[5] = DATA;
    machine.hart().x[10] = DATA + 0x4000;
    machine.start(RAM);
    machine
}

fn both(test: impl Fn(&mut Machine)) {
    for optimize in [Optimize::Never, Optimize::Always] {
        let mut machine = program(optimize);
        // All code is there and linked, all data's pages are known.
        machine.run(100_000);
        test(&mut machine);
    }
}

fn set(machine: &mut Machine, epoch: u64, breakpoints: &[u64], watchpoints: &[Watchpoint]) {
    let points =
        DebugPoints { breakpoints: breakpoints.iter().copied().collect(), watchpoints: watchpoints.to_vec() };
    machine.hart().set_debug_points(Some(Arc::new(points)), epoch);
}

/// Runs to the next point.
fn to_hit(machine: &mut Machine) -> Option<DebugHit> {
    for _ in 0..100 {
        assert_eq!(machine.run_once(10_000), Exit::Budget);
        if let Some(hit) = machine.hart().take_debug_hit() {
            return Some(hit);
        }
    }
    None
}

#[test]
fn breakpoint_stops_in_linked_code_each_time_around() {
    both(|machine| {
        for (epoch, at) in (1..).zip([OTHER, RAM, RAM + 12, OTHER + 8, RAM + 20]) {
            set(machine, epoch, &[at], &[]);
            assert_eq!(to_hit(machine), Some(DebugHit::Breakpoint));
            assert_eq!(machine.hart().pc, at);
            let count = machine.hart().x[6];
            // Still there: it must be stepped over.
            assert_eq!(to_hit(machine), Some(DebugHit::Breakpoint));
            assert_eq!(machine.hart().x[6], count);
            machine.step();
            assert_eq!(to_hit(machine), Some(DebugHit::Breakpoint));
            assert_eq!((machine.hart().pc, machine.hart().x[6]), (at, count + 1));
        }
        set(machine, 99, &[], &[]);
        assert_eq!(to_hit(machine), None);
    });
}

#[test]
fn page_of_a_breakpoint_is_left_to_the_interpreter_and_no_other() {
    both(|machine| {
        set(machine, 1, &[OTHER + 0x800], &[]);
        let before = machine.hart().x[6];
        assert_eq!(to_hit(machine), None, "nothing is executed there");
        assert!(machine.hart().x[6] > before + 1000);
    });
}

#[test]
fn watchpoint_stops_behind_stores_and_loads_of_one_look_up() {
    both(|machine| {
        let point = |start, kind| Watchpoint { start, length: 8, kind };
        for (epoch, watchpoint, pc) in [
            (1, point(DATA, WatchKind::Write), RAM + 4),
            (2, point(DATA + 8, WatchKind::Read), RAM + 8),
            (3, point(DATA + 16, WatchKind::Access), RAM + 12),
            (4, point(DATA + 0x4000, WatchKind::Write), OTHER + 8),
        ] {
            set(machine, epoch, &[], &[watchpoint]);
            for _ in 0..3 {
                let Watchpoint { start, kind, .. } = watchpoint;
                assert_eq!(to_hit(machine), Some(DebugHit::Watchpoint { start, kind }));
                assert_eq!(machine.hart().pc, pc);
            }
        }
        // The same page, and never accessed; another kind of access.
        set(machine, 9, &[], &[point(DATA + 64, WatchKind::Access), point(DATA, WatchKind::Read)]);
        assert_eq!(to_hit(machine), None);
    });
}

#[test]
fn state_is_the_interpreters_when_points_come_and_go() {
    let mut reference = Machine::interpreted();
    let mut translated = program(Optimize::Always);
    let bytes = translated.read(RAM, 0x2000);
    reference.write(RAM, &bytes);
    reference.hart().x = translated.hart().x;
    reference.start(RAM);
    for round in 1..50 {
        let breakpoints = if round % 3 == 0 { vec![] } else { vec![OTHER + 4 * (round % 3)] };
        let watchpoints = [Watchpoint { start: DATA + 8 * (round % 4), length: 4, kind: WatchKind::Access }];
        set(&mut translated, round, &breakpoints, &watchpoints);
        translated.run_once(1000);
        translated.hart().take_debug_hit();
        translated.step();
        translated.hart().take_debug_hit();
        let target = translated.hart().retired;
        while reference.hart().retired < target {
            reference.step();
        }
        assert_eq!(reference.hart().x, translated.hart().x, "round {round}");
        assert_eq!(reference.hart().pc, translated.hart().pc, "round {round}");
    }
    assert_eq!(reference.read(DATA, 0x5000), translated.read(DATA, 0x5000));
}
