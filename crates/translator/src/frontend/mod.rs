//! Reads guest code and forms superblocks.
//!
//! A superblock follows the fall-through of branches and unconditional jumps inside its page; it ends where
//! control leaves the page, where the target isn't known, at system instructions, and where code repeats.

use rvisor_isa::{Instruction, Op, decode};

use crate::backend::x64::system;
use crate::ir::{End, Node, Offset, Superblock};

/// Most instructions of a superblock.
pub const MOST_NODES: usize = 128;

const PAGE: Offset = 4096;

/// The bytes of a page of guest code.
pub trait Source {
    /// The halfword at an even offset, 0 to 4094.
    fn half(&self, offset: Offset) -> u16;
}

/// Forms the superblock that starts at `entry`.
pub fn superblock(source: &impl Source, entry: Offset) -> Superblock {
    let mut nodes = Vec::new();
    let mut offset = entry;
    let end = loop {
        if nodes.len() == MOST_NODES || !(0..PAGE).contains(&offset) {
            break End::Fall(offset);
        }
        if offset == LAST && offset != entry && reaches_over(source) {
            break End::Fall(offset);
        }
        let Some((instruction, bits)) = fetch(source, offset) else { break End::Interpret(offset) };
        let node = Node { instruction, bits, offset };
        let address = known_address(&nodes, &instruction);
        nodes.push(node);
        match follow(&node, address) {
            Follow::Next => {
                offset = node.next();
                if is_loop_branch(&node, entry) {
                    break End::Fall(offset);
                }
            }
            Follow::Goto(target) => {
                let is_new = nodes.iter().all(|other: &Node| other.offset != target);
                if !(0..PAGE).contains(&target) || !is_new {
                    break End::Fall(target);
                }
                offset = target;
            }
            Follow::End(end) => break end,
        }
    };
    Superblock { entry, nodes, end, last_reaches_over: reaches_over(source) }
}

/// The last halfword of a page.
pub const LAST: Offset = PAGE - 2;

/// Whether the instruction at the page's last halfword, if there is one, has its other half in the next page.
pub fn reaches_over(source: &impl Source) -> bool {
    source.half(LAST) & 3 == 3
}

/// The superblock of the instruction that stands across the page's end, given its encoding; `None` where it
/// isn't one.
pub fn across(bits: u32) -> Option<Superblock> {
    let instruction = decode(bits)?;
    let node = Node { instruction, bits, offset: LAST };
    let end = match follow(&node, None) {
        Follow::Next => End::Fall(node.next()),
        Follow::Goto(target) => End::Fall(target),
        Follow::End(end) => end,
    };
    Some(Superblock { entry: LAST, nodes: vec![node], end, last_reaches_over: true })
}

fn fetch(source: &impl Source, offset: Offset) -> Option<(Instruction, u32)> {
    let low = u32::from(source.half(offset));
    let bits = if low & 3 != 3 {
        low
    } else if offset + 2 < PAGE {
        low | u32::from(source.half(offset + 2)) << 16
    } else {
        return None;
    };
    decode(bits).map(|instruction| (instruction, bits))
}

/// A branch back to where the superblock starts: what follows it is reached once a loop is done.
fn is_loop_branch(node: &Node, entry: Offset) -> bool {
    is_branch(node.instruction.op) && node.offset + node.instruction.imm == entry
}

/// Whether it is a conditional branch.
pub const fn is_branch(op: Op) -> bool {
    matches!(op, Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu)
}

/// Where an instruction leads.
enum Follow {
    Next,
    Goto(Offset),
    End(End),
}

/// What `jalr` adds to, where the instruction before it is an `auipc` of the same register: an offset.
fn known_address(nodes: &[Node], instruction: &Instruction) -> Option<Offset> {
    let before = nodes.last()?;
    let is_pair = instruction.op == Op::Jalr
        && before.instruction.op == Op::Auipc
        && before.instruction.rd == instruction.rs1
        && instruction.rs1 != 0;
    is_pair.then(|| before.offset.checked_add(before.instruction.imm)?.checked_add(instruction.imm)).flatten()
}

fn follow(node: &Node, address: Option<Offset>) -> Follow {
    let Instruction { op, rd, imm, .. } = node.instruction;
    match op {
        Op::Jal if rd == 0 => Follow::Goto(node.offset + imm),
        Op::Jal => Follow::End(End::Call(node.offset + imm)),
        Op::Jalr => match address {
            Some(target) if target & 1 == 0 => Follow::End(End::Call(target)),
            _ => Follow::End(End::Indirect),
        },
        Op::Csrrw | Op::Csrrs | Op::Csrrc | Op::Csrrwi | Op::Csrrsi | Op::Csrrci
            if system::simple(&node.instruction).is_some() =>
        {
            Follow::Next
        }
        Op::Csrrw
        | Op::Csrrs
        | Op::Csrrc
        | Op::Csrrwi
        | Op::Csrrsi
        | Op::Csrrci
        | Op::FenceI
        | Op::SfenceVma
        | Op::SinvalVma
        | Op::SfenceWInval
        | Op::SfenceInvalIr
        | Op::CboInval
        | Op::CboClean
        | Op::CboFlush
        | Op::Ecall
        | Op::Ebreak
        | Op::Mret
        | Op::Sret
        | Op::Wfi
        | Op::WrsNto
        | Op::WrsSto => Follow::End(End::System),
        _ => Follow::Next,
    }
}

#[cfg(test)]
mod tests {
    use rvisor_isa::encode;

    use super::*;

    struct Code(Vec<u32>);

    impl Source for Code {
        fn half(&self, offset: Offset) -> u16 {
            let word = self.0.get(offset as usize / 4).copied().unwrap_or(0x13);
            (word >> (8 * (offset & 2))) as u16
        }
    }

    fn instruction(op: Op, rd: u8, rs1: u8, imm: i32) -> u32 {
        encode(&Instruction { rd, rs1, imm, ..Instruction::new(op, 4) }).expect("operands fit")
    }

    #[test]
    fn jumps_inside_the_page_are_followed_and_loops_end() {
        let code = Code(vec![
            instruction(Op::Jal, 0, 0, 8),
            0,
            instruction(Op::Addi, 1, 1, 1),
            instruction(Op::Jal, 0, 0, -12),
        ]);
        let block = superblock(&code, 0);
        assert_eq!(block.nodes.iter().map(|node| node.offset).collect::<Vec<_>>(), [0, 8, 12]);
        assert_eq!(block.end, End::Fall(0));
    }

    #[test]
    fn far_call_is_known_and_plain_jalr_is_not() {
        let code = Code(vec![instruction(Op::Auipc, 1, 0, 0x3000), instruction(Op::Jalr, 1, 1, 0x10)]);
        assert_eq!(superblock(&code, 0).end, End::Call(0x3010));
        assert_eq!(superblock(&code, 4).end, End::Indirect);
    }

    #[test]
    fn instruction_across_the_page_end_is_the_interpreters() {
        let code = Code(vec![]);
        assert_eq!(superblock(&code, 0xffe).end, End::Interpret(0xffe));
        let block = superblock(&code, 0xff8);
        assert_eq!((block.nodes.len(), block.end), (2, End::Fall(0x1000)));
    }
}
