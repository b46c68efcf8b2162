//! The RISC-V instruction set: decode, encode and disassemble from one table; CSR numbers and fields; trap
//! causes.
//!
//! Key types: [`Instruction`] (an operation and its operands), [`Op`] (one variant for each mnemonic),
//! [`Extension`], [`Privilege`], [`Exception`] and [`Interrupt`]; the functions [`read`] (which asks for a [`Part`] at
//! a time), [`decode`], [`encode`] and [`disassemble`]; the modules [`compressed`] and [`csr`].
//!
//! This crate is not for what instructions do: that is the hart's.
//!
//! Source: *The RISC-V Instruction Set Manual*, volume I (Unprivileged ISA) and II (Privileged ISA).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate alloc;

mod cause;
pub mod compressed;
pub mod csr;
mod decode;
mod disassemble;
mod extension;
mod field;
mod operand;
mod table;

pub use cause::{Exception, Interrupt, Privilege};
pub use decode::{Part, decode, encode, read};
pub use disassemble::{Disassembly, disassemble};
pub use extension::Extension;
pub use table::Op;

/// A decoded instruction. Fields that the operation doesn't have are zero; so are those that hardware must
/// ignore (`rd` and `rs1` of `fence`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// What it does; for a compressed instruction, the operation it expands to.
    pub op: Op,
    /// Destination register, integer or floating-point; 0 to 31.
    pub rd: u8,
    /// First source register; the immediate of `csrrwi`, `csrrsi` and `csrrci`; the index of `fli`.
    pub rs1: u8,
    /// Second source register.
    pub rs2: u8,
    /// Third source register, of fused multiply-adds.
    pub rs3: u8,
    /// Rounding mode of floating-point operations that have the field (7: as `frm` says); `aq << 1 | rl` of
    /// atomics; `fm` of `fence`.
    pub aux: u8,
    /// Immediate, sign-extended: for `lui` and `auipc` already shifted; for branches and `jal` in bytes; for
    /// shifts the amount; for CSR instructions the CSR's number; for `fence` the predecessor set in bits 7:4
    /// and the successor set in bits 3:0.
    pub imm: i32,
    /// Bytes the encoding takes: 2 or 4.
    pub length: u8,
}

impl Instruction {
    /// The operation with all operands zero.
    #[must_use]
    pub const fn new(op: Op, length: u8) -> Self {
        Self { op, rd: 0, rs1: 0, rs2: 0, rs3: 0, aux: 0, imm: 0, length }
    }
}
