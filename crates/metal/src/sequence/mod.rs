//! *Sequences*: straight lines of a guest's kernel code around privileged instructions, compiled once and carried out
//! at one trap.
//!
//! A trap leads to the trampoline, which finds the sequence of the program counter in its hart's table
//! (`arch/assembly/sequences.s`). The sequence compares the guest's code with what it was made from, does what that code
//! does, and goes back behind it. So the guest's code is never changed, and whoever changes it gets what a
//! hart that fetches now would do.
//!
//! - `Step`: an instruction on the path, and where it led when the path was recorded (`engine/record.rs`).
//! - `class`: which instructions can be part of one.
//! - `compile`: the code for the hardware, and where in it which instruction of the guest may fault.
//! - `cache`: the compiled sequences of a physical hart.
//!
//! What keeps a guest from using them against the monitor is in `docs/decisions/0018-metal-traps.md`.

mod assembler;
mod cache;
mod compile;
#[cfg(test)]
mod tests;

use rvisor_isa::{Instruction, Op, csr};

pub use cache::{CODE_WORDS, Cache, ENTRIES, Entry, NOBODY, entry_offset, index, key, tag};
pub use compile::{Compiled, Place, Routines, compile};

/// An instruction of the guest on the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its guest virtual address.
    pub pc: u64,
    /// Its encoding, of 2 or 4 bytes.
    pub bits: u32,
    /// What it is.
    pub instruction: Instruction,
    /// Where it led.
    pub next: u64,
}

/// The most instructions of one sequence.
pub const MOST: usize = 96;
/// A sequence that was missed so often with no other between is made; a power of two.
pub const MISSES: u64 = 16;
/// The most unprivileged instructions between two privileged ones.
pub const GAP: usize = 40;

/// What an instruction is to a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Computes from registers.
    Plain,
    /// A conditional branch.
    Branch,
    /// `jal` without a link.
    Jump,
    /// Loads, stores, `sc`.
    Memory,
    /// On a CSR that is nothing but bits: its place in `Plain`.
    Bits(usize),
    /// On `sstatus`.
    Status,
    /// `sret`.
    Return,
}

impl Class {
    /// Whether it traps in U-mode.
    #[must_use]
    pub const fn is_privileged(self) -> bool {
        matches!(self, Self::Bits(_) | Self::Status | Self::Return)
    }
}

/// What an instruction is to a sequence; `None` for one that can't be part of any.
#[must_use]
pub fn class(instruction: &Instruction) -> Option<Class> {
    use Op::{
        Add, Addi, Addiw, Addw, And, Andi, Auipc, Beq, Bge, Bgeu, Blt, Bltu, Bne, Csrrc, Csrrci, Csrrs,
        Csrrsi, Csrrw, Jal, Lb, Lbu, Ld, Lh, Lhu, Lui, Lw, Lwu, Or, Ori, Sb, ScD, ScW, Sd, Sh, Sll, Slli,
        Slliw, Slt, Slti, Sltiu, Sltu, Sra, Srai, Sret, Srl, Srli, Srliw, Sub, Subw, Sw, Xor, Xori,
    };
    let number = instruction.imm as u16;
    // Without an operand, setting and clearing only read.
    let reads = matches!(instruction.op, Csrrs | Csrrc | Csrrsi | Csrrci) && instruction.rs1 == 0;
    match instruction.op {
        Lui | Auipc | Addi | Slti | Sltiu | Xori | Ori | Andi | Slli | Srli | Srai | Add | Sub | Sll
        | Slt | Sltu | Xor | Srl | Sra | Or | And | Addiw | Slliw | Srliw | Addw | Subw => Some(Class::Plain),
        Beq | Bne | Blt | Bge | Bltu | Bgeu => Some(Class::Branch),
        Jal if instruction.rd == 0 => Some(Class::Jump),
        Lb | Lbu | Lh | Lhu | Lw | Lwu | Ld | Sb | Sh | Sw | Sd | ScW | ScD => Some(Class::Memory),
        Sret => Some(Class::Return),
        Csrrw | Csrrs | Csrrc if number == csr::SSTATUS => Some(Class::Status),
        Csrrsi | Csrrci if number == csr::SSTATUS => Some(Class::Status),
        Csrrw | Csrrs | Csrrc | Csrrsi | Csrrci if reads || instruction.op == Csrrw => match number {
            csr::SSCRATCH..=csr::STVAL => Some(Class::Bits(usize::from(number - csr::SSCRATCH))),
            _ => None,
        },
        _ => None,
    }
}
