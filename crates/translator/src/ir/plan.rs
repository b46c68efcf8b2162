//! What the optimizing tier makes of a superblock's nodes.

use std::fmt;

use rvisor_isa::{Instruction, disassemble};

/// Which of the frame's places for host addresses ([`Frame::checked`](crate::runtime::frame::Frame::checked)).
pub type Slot = u8;

/// How many of them there are.
pub const SLOTS: usize = 24;

/// A look-up in the TLB that serves several accesses off one base register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Check {
    /// Where the host address of the first byte is kept.
    pub slot: Slot,
    /// The base register.
    pub base: u8,
    /// Displacement of the first byte, and of the one behind the last.
    pub first: i32,
    pub last: i32,
    /// Whether any of the accesses stores.
    pub stores: bool,
}

/// What is made of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// What it says.
    Plain,
    /// Nothing: another node does its work as well.
    Nothing,
    /// Nothing, unless the block is left before the node of this number has written its result.
    Deferred(usize),
    /// Another computation.
    Instead(Instruction),
    /// An access that looks up for others too: see [`Checked`](Self::Checked). Where the TLB doesn't answer, the first
    /// tier goes on.
    Check(Check, i32),
    /// An access to what was looked up: the place of the address, and the displacement from there.
    Checked(Slot, i32),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => write!(f, "as it is"),
            Self::Nothing => write!(f, "left out"),
            Self::Deferred(until) => write!(f, "put off until node {until}"),
            Self::Instead(instruction) => write!(f, "{}", disassemble(instruction, 0)),
            Self::Check(check, _) => {
                let Check { slot, first, last, .. } = check;
                write!(f, "look-up {slot}, displacements {first} to {last}")
            }
            Self::Checked(slot, _) => write!(f, "of look-up {slot}"),
        }
    }
}

/// What is made of a superblock.
#[derive(Clone, Default, Debug)]
pub struct Plan {
    /// For each node.
    pub steps: Vec<Step>,
    /// For each node: only the lower half of its result has to be right.
    pub loose: Vec<bool>,
    /// Look-ups before a loop is entered.
    pub hoisted: Vec<Check>,
    /// Where guest registers are, if not where they are elsewhere.
    pub allocation: Option<Allocation>,
}

/// How many host registers hold guest registers.
pub const HOSTS: usize = 10;

/// Which guest register each of them holds.
pub type Holding = [u8; HOSTS];

/// From a node on, a host register holds another guest register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The host register, by its number among those.
    pub host: u8,
    pub guest: u8,
    /// Whether it holds the value from before the node; otherwise the node's result.
    pub fills: bool,
}

/// Where a trace has guest registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allocation {
    /// What is held where the trace starts, and each time that it loops.
    pub start: Holding,
    /// What changes before each node.
    pub moves: Vec<Vec<Move>>,
}
