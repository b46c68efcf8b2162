//! Which accesses share a look-up.

use rvisor_isa::{Instruction, Op};

use super::*;
use crate::ir::Node;

fn trace(instructions: &[Instruction], end: End) -> Superblock {
    let node = |(number, &instruction): (i32, &Instruction)| Node {
        instruction,
        bits: 0,
        offset: 4 * number,
        taken: false,
    };
    let nodes = (0..).zip(instructions).map(node).collect();
    Superblock { entry: 0, nodes, end, last_reaches_over: false }
}

fn planned(trace: &Superblock) -> Plan {
    let mut plan = Plan { steps: vec![Step::Plain; trace.nodes.len()], ..Plan::default() };
    checks(trace, &mut plan);
    plan
}

fn load(rd: u8, rs1: u8, imm: i32) -> Instruction {
    Instruction { rd, rs1, imm, ..Instruction::new(Op::Ld, 4) }
}

fn store(rs2: u8, rs1: u8, imm: i32) -> Instruction {
    Instruction { rs2, rs1, imm, ..Instruction::new(Op::Sd, 4) }
}

fn add(rd: u8, rs1: u8, rs2: u8) -> Instruction {
    Instruction { rd, rs1, rs2, ..Instruction::new(Op::Add, 4) }
}

const AWAY: End = End::Fall(0x800);

#[test]
fn accesses_apart_share_a_look_up() {
    let plan = planned(&trace(&[load(10, 2, 16), add(10, 10, 11), store(10, 2, 8)], AWAY));
    let check = Check { slot: 0, base: 2, first: 8, last: 24, stores: true };
    assert_eq!(plan.steps, [Step::Check(check, 8), Step::Plain, Step::Checked(0, 0)]);
}

#[test]
fn base_that_is_advanced_or_moved_stays_the_same() {
    let advance = Instruction { rd: 11, rs1: 11, imm: 16, ..Instruction::new(Op::Addi, 4) };
    let plan = planned(&trace(
        &[load(10, 11, 8), advance, load(12, 11, 0), add(13, 0, 11), store(10, 13, -16)],
        AWAY,
    ));
    let check = Check { slot: 0, base: 11, first: 0, last: 24, stores: true };
    assert_eq!(plan.steps[0], Step::Check(check, 8));
    assert_eq!((plan.steps[2], plan.steps[4]), (Step::Checked(0, 16), Step::Checked(0, 0)));
    // Looked up where the register is ahead of the value already.
    let plan = planned(&trace(&[advance, load(12, 11, 0), add(13, 0, 11), load(10, 13, 8)], AWAY));
    assert_eq!(plan.steps[1], Step::Check(Check { slot: 0, base: 11, first: 0, last: 16, stores: false }, 0));
}

#[test]
fn written_base_begins_another() {
    let plan = planned(&trace(&[load(2, 2, 0), load(10, 2, 0), load(11, 2, 8)], AWAY));
    assert_eq!(plan.steps[0], Step::Plain);
    assert!(matches!(plan.steps[1], Step::Check(_, 0)) && plan.steps[2] == Step::Checked(0, 8));
}

#[test]
fn distant_access_stands_alone() {
    let plan = planned(&trace(&[load(10, 2, 0), load(11, 2, 2000)], AWAY));
    assert_eq!(plan.steps, [Step::Plain, Step::Plain]);
}

#[test]
fn what_a_loop_leaves_alone_is_looked_up_before_it() {
    let plan = planned(&trace(&[load(10, 2, 0), load(11, 10, 0), add(12, 12, 11)], End::Fall(0)));
    assert_eq!(plan.hoisted, [Check { slot: 0, base: 2, first: 0, last: 8, stores: false }]);
    assert_eq!(plan.steps, [Step::Checked(0, 0), Step::Plain, Step::Plain]);
}

#[test]
fn nothing_is_shared_across_what_changes_translations() {
    let status = Instruction { rs1: 5, imm: 0x100, ..Instruction::new(Op::Csrrs, 4) };
    let plan = planned(&trace(&[load(10, 2, 0), status, load(11, 2, 0)], End::Fall(0)));
    assert!(plan.hoisted.is_empty() && plan.steps.iter().all(|step| *step == Step::Plain));
}
