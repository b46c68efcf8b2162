//! Results of 32 bits whose upper half nobody reads need not be sign-extended.
//!
//! Such a register is *loose* until it is written again: its lower half is right. Where the trace may be left before
//! that, the back end extends it in cold code. So only results may stay loose that are sign-extended numbers of 32
//! bits: those of the W instructions, and what logic makes of them.

use rvisor_isa::{Instruction, Op};

use crate::ir::{Node, Plan, Step, effect};

/// Plans which results stay loose.
pub fn extend(nodes: &[Node], plan: &mut Plan) {
    let live: Vec<Option<Instruction>> = nodes
        .iter()
        .zip(&plan.steps)
        .map(|(node, step)| match step {
            Step::Nothing | Step::Deferred(_) => None,
            Step::Instead(instruction) => Some(*instruction),
            _ => Some(node.instruction),
        })
        .collect();
    let mut loose = candidates(&live);
    loop {
        let kept: Vec<bool> =
            (0..live.len()).map(|number| loose[number] && may_be_loose(&live, &loose, number)).collect();
        if kept == loose {
            break;
        }
        loose = kept;
    }
    plan.loose = loose;
}

/// Nodes whose results are sign-extended numbers of 32 bits and can be computed without the extension.
fn candidates(live: &[Option<Instruction>]) -> Vec<bool> {
    // Registers that hold such numbers.
    let mut words = 1u32;
    live.iter()
        .map(|instruction| {
            let Some(i) = instruction else { return false };
            let is_word = |register: u8| words & 1 << register != 0;
            let logic = match i.op {
                Op::And | Op::Or | Op::Xor => is_word(i.rs1) && is_word(i.rs2),
                Op::Andi | Op::Ori | Op::Xori => is_word(i.rs1),
                _ => false,
            };
            let candidate = i.rd != 0 && (logic || is_word_operation(i.op));
            let makes_word = candidate
                || match i.op {
                    Op::Lb | Op::Lbu | Op::Lh | Op::Lhu | Op::Lw | Op::Lui => true,
                    Op::Slt | Op::Sltu | Op::Slti | Op::Sltiu => true,
                    Op::Addi => i.rs1 == 0,
                    _ => false,
                };
            let writes = effect(i).writes;
            words = if makes_word { words | writes } else { words & !writes };
            candidate
        })
        .collect()
}

/// Whether nobody reads the upper half of a node's result before the register is written again, in this trace.
fn may_be_loose(live: &[Option<Instruction>], loose: &[bool], number: usize) -> bool {
    let Some(own) = live[number].map(|i| i.rd) else { return false };
    for (at, i) in live.iter().enumerate().skip(number + 1) {
        let Some(i) = i else { continue };
        let effect = effect(i);
        let needs_all = effect.reads & 1 << own != 0 && !reads_lower_half(i, own, loose[at]);
        if effect.is_barrier || needs_all {
            return false;
        }
        if effect.writes & 1 << own != 0 {
            return true;
        }
    }
    false
}

/// Whether an instruction reads no more than 32 bits of a register that it reads.
fn reads_lower_half(i: &Instruction, register: u8, is_loose: bool) -> bool {
    match i.op {
        Op::Sw | Op::Sh | Op::Sb => i.rs1 != register,
        Op::AddUw | Op::Sh1addUw | Op::Sh2addUw | Op::Sh3addUw => i.rs2 != register,
        Op::SlliUw | Op::ZextH | Op::SextH | Op::SextB => true,
        Op::Andi if i.imm >= 0 => true,
        Op::And | Op::Or | Op::Xor | Op::Andi | Op::Ori | Op::Xori => is_loose,
        op => is_word_operation(op),
    }
}

/// Whether an operation takes the lower halves of its operands and extends its result. The back end leaves the
/// extension out where it is told to.
const fn is_word_operation(op: Op) -> bool {
    matches!(
        op,
        Op::Addw
            | Op::Subw
            | Op::Addiw
            | Op::Slliw
            | Op::Srliw
            | Op::Sraiw
            | Op::Sllw
            | Op::Srlw
            | Op::Sraw
            | Op::Mulw
            | Op::Roriw
    )
}

#[cfg(test)]
mod tests;
