//! One computation instead of two or three: what compilers for RISC-V without bit-manipulation extensions have to
//! spell out, the host has an instruction for.

use rvisor_isa::{Instruction, Op};

use crate::ir::{Node, Plan, Step, effect, is_computation};

/// How far apart what becomes one may stand, and how far ahead a register is followed.
const NEAR: usize = 12;
const AHEAD: usize = 96;

/// Plans the computations.
pub fn fuse(nodes: &[Node], plan: &mut Plan) {
    let mut writer: [Option<usize>; 32] = [None; 32];
    for number in 0..nodes.len() {
        let effect = effect(&nodes[number].instruction);
        if let Some((instead, parts)) = combine(nodes, &writer, number)
            && let Some(left_out) = leave_out(nodes, plan, number, &parts)
        {
            for (part, step) in left_out {
                plan.steps[part] = step;
            }
            plan.steps[number] = Step::Instead(instead);
        }
        for (register, writer) in writer.iter_mut().enumerate() {
            if effect.writes & 1 << register != 0 {
                *writer = (!effect.is_barrier).then_some(number);
            }
        }
    }
}

/// What the node of a number could be instead, if the nodes that it takes its operands from did nothing.
fn combine(nodes: &[Node], writer: &[Option<usize>; 32], number: usize) -> Option<(Instruction, Vec<usize>)> {
    let i = &nodes[number].instruction;
    let from = |register: u8| {
        let part = writer[usize::from(register)].filter(|&part| register != 0 && part + NEAR > number)?;
        Some((part, &nodes[part].instruction))
    };
    let instead = |op, rs1, rs2, imm| instead(i, op, rs1, rs2, imm);
    match i.op {
        Op::Add => [(i.rs1, i.rs2), (i.rs2, i.rs1)].into_iter().find_map(|(scaled, base)| {
            let (part, shift) = from(scaled).filter(|(_, shift)| shift.op == Op::Slli)?;
            let op = match shift.imm {
                1 => Op::Sh1add,
                2 => Op::Sh2add,
                3 => Op::Sh3add,
                _ => return None,
            };
            (scaled != base).then(|| (instead(op, shift.rs1, base, 0), vec![part]))
        }),
        Op::Srli | Op::Srai => {
            let (part, left) = from(i.rs1).filter(|(_, left)| left.op == Op::Slli)?;
            let (op, imm) = match (i.op, left.imm, left.imm - i.imm) {
                (Op::Srli, 32, 0) => (Op::AddUw, 0),
                (Op::Srli, 32, up @ 1..) => (Op::SlliUw, up),
                (Op::Srli, 48, 0) => (Op::ZextH, 0),
                (Op::Srli, 56, 0) => (Op::Andi, 0xff),
                (Op::Srai, 32, 0) => (Op::Addiw, 0),
                (Op::Srai, 48, 0) => (Op::SextH, 0),
                (Op::Srai, 56, 0) => (Op::SextB, 0),
                _ => return None,
            };
            Some((instead(op, left.rs1, 0, imm), vec![part]))
        }
        Op::Addi | Op::Addiw => {
            let (part, upper) = from(i.rs1).filter(|(_, upper)| upper.op == Op::Lui)?;
            let sum = match i.op {
                Op::Addi => upper.imm.checked_add(i.imm)?,
                _ => upper.imm.wrapping_add(i.imm),
            };
            Some((instead(Op::Lui, 0, 0, sum), vec![part]))
        }
        Op::Or | Op::Xor => rotation(i, from(i.rs1)?, from(i.rs2)?),
        _ => None,
    }
}

fn instead(i: &Instruction, op: Op, rs1: u8, rs2: u8, imm: i32) -> Instruction {
    Instruction { rd: i.rd, rs1, rs2, imm, ..Instruction::new(op, i.length) }
}

/// What `i` makes of two shifts, if that is a rotation.
fn rotation(
    i: &Instruction,
    (a, first): (usize, &Instruction),
    (b, second): (usize, &Instruction),
) -> Option<(Instruction, Vec<usize>)> {
    let is_right_first = matches!(first.op, Op::Srli | Op::Srliw);
    let (right, left) = if is_right_first { (first, second) } else { (second, first) };
    let (op, bits) = match (right.op, left.op) {
        (Op::Srli, Op::Slli) => (Op::Rori, 64),
        (Op::Srliw, Op::Slliw) => (Op::Roriw, 32),
        _ => return None,
    };
    let is_rotation =
        right.rs1 == left.rs1 && right.imm + left.imm == bits && right.imm != 0 && left.imm != 0;
    is_rotation.then(|| (instead(i, op, right.rs1, 0, right.imm), vec![a, b]))
}

/// How to leave `parts` out, whose results the node `number` won't read any more; `None` if somebody else needs
/// them, or what they were made from is gone.
fn leave_out(nodes: &[Node], plan: &Plan, number: usize, parts: &[usize]) -> Option<Vec<(usize, Step)>> {
    // A part's operand must not be the result of another.
    let written = parts.iter().fold(0, |all, &part| all | effect(&nodes[part].instruction).writes);
    parts
        .iter()
        .map(|&part| {
            let effect = effect(&nodes[part].instruction);
            let is_whole = plan.steps[part] == Step::Plain && is_computation(nodes[part].instruction.op);
            let reads_other = parts.len() > 1 && effect.reads & written & !effect.writes != 0;
            if !is_whole || reads_other {
                return None;
            }
            leave_out_one(nodes, number, part).map(|step| (part, step))
        })
        .collect()
}

fn leave_out_one(nodes: &[Node], number: usize, part: usize) -> Option<Step> {
    let own = effect(&nodes[part].instruction);
    let mut leaves = false;
    let mut sources_change = false;
    for (at, node) in nodes.iter().enumerate().skip(part + 1).take(AHEAD) {
        let effect = effect(&node.instruction);
        if effect.is_barrier {
            return None;
        }
        // Nobody but the node that it becomes part of reads the result.
        if at != number && effect.reads & own.writes != 0 {
            return None;
        }
        leaves |= effect.leaves;
        if effect.writes & own.writes != 0 {
            let is_own_source = own.reads & own.writes != 0;
            return match leaves {
                // The result would be lost before it is what the node gets.
                _ if at < number => None,
                false => Some(Step::Nothing),
                true if is_own_source || sources_change => None,
                true => Some(Step::Deferred(at)),
            };
        }
        if effect.writes & own.reads != 0 {
            if at < number {
                return None;
            }
            sources_change = true;
        }
    }
    None
}

#[cfg(test)]
mod tests;
