//! Which results stay loose.

use super::*;

fn node(op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> Instruction {
    Instruction { rd, rs1, rs2, imm, ..Instruction::new(op, 4) }
}

fn loose(instructions: &[Instruction]) -> Vec<bool> {
    let nodes: Vec<Node> = (0..)
        .zip(instructions)
        .map(|(number, &instruction)| Node { instruction, bits: 0, offset: 4 * number, taken: false })
        .collect();
    let mut plan = Plan { steps: vec![Step::Plain; nodes.len()], ..Plan::default() };
    extend(&nodes, &mut plan);
    plan.loose
}

#[test]
fn sum_that_goes_into_another_and_is_overwritten_stays_loose() {
    let code = [node(Op::Addw, 10, 11, 12, 0), node(Op::Addw, 13, 10, 14, 0), node(Op::Addi, 10, 0, 0, 1)];
    assert_eq!(loose(&code), [true, false, false]);
}

#[test]
fn sum_that_is_compared_or_lives_on_is_extended() {
    let code = [node(Op::Addw, 10, 11, 12, 0), node(Op::Beq, 0, 10, 11, 64), node(Op::Addi, 10, 0, 0, 1)];
    assert_eq!(loose(&code), [false; 3]);
    assert_eq!(loose(&[node(Op::Addw, 10, 11, 12, 0)]), [false]);
}

#[test]
fn logic_of_words_passes_looseness_on() {
    let code = [
        node(Op::Addw, 10, 11, 12, 0),
        node(Op::Lw, 11, 2, 0, 0),
        node(Op::Xor, 10, 10, 11, 0),
        node(Op::Sw, 0, 2, 10, 0),
        node(Op::Addi, 10, 0, 0, 1),
    ];
    assert_eq!(loose(&code), [true, false, true, false, false]);
}

#[test]
fn logic_with_what_may_have_an_upper_half_demands_all() {
    let code = [
        node(Op::Addw, 10, 11, 12, 0),
        node(Op::Xor, 10, 10, 13, 0),
        node(Op::Sw, 0, 2, 10, 0),
        node(Op::Addi, 10, 0, 0, 1),
    ];
    assert_eq!(loose(&code), [false; 4]);
}

#[test]
fn base_of_a_store_is_no_lower_half() {
    let code = [node(Op::Addw, 10, 11, 12, 0), node(Op::Sw, 0, 10, 10, 0), node(Op::Addi, 10, 0, 0, 1)];
    assert_eq!(loose(&code), [false; 3]);
}
