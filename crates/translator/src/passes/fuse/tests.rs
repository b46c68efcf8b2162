//! What becomes one, and what mustn't.

use super::*;

fn node(op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> Instruction {
    Instruction { rd, rs1, rs2, imm, ..Instruction::new(op, 4) }
}

/// The steps for a block of instructions.
fn steps(instructions: &[Instruction]) -> Vec<Step> {
    let nodes: Vec<Node> = (0..)
        .zip(instructions)
        .map(|(number, &instruction)| Node { instruction, bits: 0, offset: 4 * number, taken: false })
        .collect();
    let mut plan = Plan { steps: vec![Step::Plain; nodes.len()], ..Plan::default() };
    fuse(&nodes, &mut plan);
    plan.steps
}

fn op(step: &Step) -> Option<Op> {
    match step {
        Step::Instead(instruction) => Some(instruction.op),
        _ => None,
    }
}

#[test]
fn scaled_index_becomes_one_addition() {
    let steps = steps(&[node(Op::Slli, 15, 15, 0, 3), node(Op::Add, 15, 14, 15, 0)]);
    assert_eq!((steps[0], op(&steps[1])), (Step::Nothing, Some(Op::Sh3add)));
}

#[test]
fn shift_whose_result_is_still_needed_stays() {
    let steps = steps(&[
        node(Op::Slli, 15, 10, 0, 3),
        node(Op::Add, 14, 14, 15, 0),
        node(Op::Sub, 13, 15, 14, 0),
        node(Op::Addi, 15, 0, 0, 0),
    ]);
    assert!(steps.iter().all(|step| *step == Step::Plain));
}

#[test]
fn result_that_lives_on_behind_the_block_stays() {
    let steps = steps(&[node(Op::Slli, 15, 10, 0, 3), node(Op::Add, 14, 14, 15, 0)]);
    assert!(steps.iter().all(|step| *step == Step::Plain));
}

#[test]
fn rotation_defers_its_parts_until_they_are_written_again() {
    let steps = steps(&[
        node(Op::Srliw, 5, 10, 0, 7),
        node(Op::Slliw, 6, 10, 0, 25),
        node(Op::Or, 5, 5, 6, 0),
        node(Op::Lw, 7, 11, 0, 0),
        node(Op::Addi, 6, 0, 0, 1),
    ]);
    assert_eq!(steps[0], Step::Nothing);
    assert_eq!(steps[1], Step::Deferred(4));
    assert_eq!(op(&steps[2]), Some(Op::Roriw));
}

#[test]
fn part_whose_operand_changes_before_the_block_may_be_left_stays() {
    let steps = steps(&[
        node(Op::Srliw, 5, 10, 0, 7),
        node(Op::Slliw, 6, 10, 0, 25),
        node(Op::Or, 5, 5, 6, 0),
        node(Op::Addi, 10, 10, 0, 1),
        node(Op::Lw, 7, 11, 0, 0),
        node(Op::Addi, 6, 0, 0, 1),
    ]);
    assert!(steps.iter().all(|step| *step == Step::Plain));
}

#[test]
fn operand_that_changes_in_between_keeps_the_parts() {
    let steps =
        steps(&[node(Op::Slli, 5, 10, 0, 2), node(Op::Addi, 10, 10, 0, 1), node(Op::Add, 5, 5, 11, 0)]);
    assert!(steps.iter().all(|step| *step == Step::Plain));
}

#[test]
fn constants_in_two_halves_become_one() {
    let pair = |op, upper, lower| [node(Op::Lui, 5, 0, 0, upper), node(op, 5, 5, 0, lower)];
    let value = |steps: &[Step]| match steps[1] {
        Step::Instead(Instruction { op: Op::Lui, imm, .. }) => Some(imm),
        _ => None,
    };
    assert_eq!(value(&steps(&pair(Op::Addi, 0x1000, -1))), Some(0xfff));
    assert_eq!(value(&steps(&pair(Op::Addiw, 0x7fff_f000, 0x7ff))), Some(0x7fff_f7ff));
    assert_eq!(value(&steps(&pair(Op::Addiw, i32::MIN, -1))), Some(i32::MAX));
    // The sum of 64 bits is no constant of `lui`.
    assert_eq!(value(&steps(&pair(Op::Addi, i32::MIN, -1))), None);
}
