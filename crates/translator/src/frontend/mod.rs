//! Reads guest code and forms superblocks.
//!
//! A superblock follows the fall-through of branches and unconditional jumps inside its page; it ends where
//! control leaves the page, where the target isn't known, at system instructions, and where code repeats. A
//! *trace* goes the way of branches that are mostly taken instead.

use rvisor_isa::{Extension, Instruction, Op, decode};

use crate::backend::x64::system;
use crate::ir::{End, Node, Offset, Superblock};

/// Most instructions of a superblock.
pub const MOST_NODES: usize = 128;
/// Most instructions of a trace.
pub const MOST_TRACED: usize = 240;

const PAGE: Offset = 4096;

/// The bytes of a page of guest code.
pub trait Source {
    /// The halfword at an even offset, 0 to 4094.
    fn half(&self, offset: Offset) -> u16;
}

/// Forms the superblock that starts at `entry`.
pub fn superblock(source: &impl Source, entry: Offset) -> Superblock {
    form(source, entry, MOST_NODES, |_, _| false)
}

/// Forms a trace: a superblock that follows a branch where `is_taken` says so of where it stands and leads.
pub fn trace(source: &impl Source, entry: Offset, is_taken: impl Fn(Offset, Offset) -> bool) -> Superblock {
    form(source, entry, MOST_TRACED, is_taken)
}

fn form(
    source: &impl Source,
    entry: Offset,
    most: usize,
    is_taken: impl Fn(Offset, Offset) -> bool,
) -> Superblock {
    let mut nodes: Vec<Node> = Vec::new();
    let mut seen = Seen([0; 32]);
    let mut offset = entry;
    let end = loop {
        if nodes.len() == most || !seen.lacks(offset) {
            break End::Fall(offset);
        }
        if offset == LAST && offset != entry && reaches_over(source) {
            break End::Fall(offset);
        }
        let Some((instruction, bits)) = fetch(source, offset) else { break End::Interpret(offset) };
        let mut node = Node { instruction, bits, offset, taken: false };
        let address = known_address(&nodes, &instruction);
        seen.add(offset);
        let to = follow(&node, address);
        offset = node.next();
        match to {
            Follow::Next if is_branch(instruction.op) => {
                let target = node.offset + instruction.imm;
                if target == entry {
                    nodes.push(node);
                    break End::Fall(offset);
                }
                node.taken = seen.lacks(target) && is_taken(node.offset, target);
                if node.taken {
                    offset = target;
                }
            }
            Follow::Goto(target) if seen.lacks(target) => offset = target,
            Follow::Goto(target) => {
                nodes.push(node);
                break End::Fall(target);
            }
            Follow::Next => {}
            Follow::End(end) => {
                nodes.push(node);
                break end;
            }
        }
        nodes.push(node);
    };
    Superblock { entry, nodes, end, last_reaches_over: reaches_over(source) }
}

/// Places of a page, a bit for each halfword.
struct Seen([u64; 32]);

impl Seen {
    /// Whether a place is in the page and wasn't seen.
    fn lacks(&self, at: Offset) -> bool {
        (0..PAGE).contains(&at) && self.0[at as usize / 128] & 1 << (at as usize / 2 % 64) == 0
    }

    fn add(&mut self, at: Offset) {
        self.0[at as usize / 128] |= 1 << (at as usize / 2 % 64);
    }
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
    let node = Node { instruction, bits, offset: LAST, taken: false };
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
        | Op::HinvalVvma
        | Op::HinvalGvma
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
        op if op.extension() == Extension::H => Follow::End(End::System),
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
