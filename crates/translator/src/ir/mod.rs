//! What stands between the front end and the back end: a superblock, straight-line guest code with side exits.
//!
//! Nodes are decoded instructions. Everything is relative to the virtual address of the page, which isn't
//! known: the same code serves every virtual page that its physical page is mapped at.

mod effect;
mod plan;

use std::fmt;

use rvisor_isa::{Instruction, disassemble};

pub use effect::{Access, access, effect, is_computation};
pub use plan::{Allocation, Check, HOSTS, Holding, Move, Plan, SLOTS, Slot, Step};

/// A place in guest code: bytes from the start of the superblock's page. Jumps may lead to other pages.
pub type Offset = i32;

/// One instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// What it does.
    pub instruction: Instruction,
    /// Its encoding; a compressed one is zero-extended.
    pub bits: u32,
    /// Where it stands.
    pub offset: Offset,
    /// Of a branch: the superblock goes on where it leads, and not behind it.
    pub taken: bool,
}

impl Node {
    /// Where the next instruction in memory stands.
    pub fn next(&self) -> Offset {
        self.offset + Offset::from(self.instruction.length)
    }
}

/// What ends a superblock. The instruction is its last node, except for [`Fall`](Self::Fall) and
/// [`Interpret`](Self::Interpret).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Goes on at an offset; the last node is like any other, or a jump that writes no register.
    Fall(Offset),
    /// `jal` with a link, or `jalr` to a place known relative to the page.
    Call(Offset),
    /// `jalr`
    Indirect,
    /// A system instruction.
    System,
    /// The instruction at the offset is one for the interpreter: it stands across pages, is illegal, or can't
    /// be read.
    Interpret(Offset),
}

/// A superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Where it is entered.
    pub entry: Offset,
    /// Its instructions, in the order in which they are executed.
    pub nodes: Vec<Node>,
    /// What follows the last one.
    pub end: End,
    /// Whether the instruction at the page's last halfword reaches into the next page: jumps to it depend on
    /// where that page is.
    pub last_reaches_over: bool,
}

impl Superblock {
    /// How many nodes stand before the one that ends it in its own way.
    pub fn plain(&self) -> usize {
        let last_is_special = matches!(self.end, End::Call(_) | End::Indirect | End::System);
        self.nodes.len() - usize::from(last_is_special)
    }
}

impl fmt::Display for Superblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            writeln!(f, "  {:03x}: {}", node.offset, disassemble(&node.instruction, node.offset as u64))?;
        }
        writeln!(f, "  {:?}", self.end)
    }
}
