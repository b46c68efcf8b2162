//! What the lowering asks of an assembler: the instruction forms that the measured pieces need.

use crate::assembler::{Alu, Cond, Reg, Shift, Size};

/// A place in memory: base, optional index, displacement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mem {
    pub base: Reg,
    pub index: Option<Reg>,
    pub displacement: i32,
}

impl Mem {
    pub const fn new(base: Reg, displacement: i32) -> Self {
        Self { base, index: None, displacement }
    }

    pub const fn indexed(base: Reg, index: Reg, displacement: i32) -> Self {
        Self { base, index: Some(index), displacement }
    }
}

/// An operand that may be a register or memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rm {
    Reg(Reg),
    Mem(Mem),
}

impl From<Reg> for Rm {
    fn from(reg: Reg) -> Self {
        Self::Reg(reg)
    }
}

impl From<Mem> for Rm {
    fn from(mem: Mem) -> Self {
        Self::Mem(mem)
    }
}

/// An assembler. Operands are in Intel's order; `size` is that of the operation.
pub trait Emit {
    type Label: Copy;

    /// Starts afresh, with code that will run at `base`.
    fn start(&mut self, base: u64);
    /// Resolves labels and returns the code.
    fn finish(&mut self) -> &[u8];
    fn label(&mut self) -> Self::Label;
    fn bind(&mut self, label: Self::Label);

    fn alu(&mut self, op: Alu, size: Size, dst: Reg, src: Rm);
    fn alu_to_memory(&mut self, op: Alu, size: Size, dst: Mem, src: Reg);
    fn alu_imm(&mut self, op: Alu, size: Size, dst: Rm, imm: i32);
    fn test(&mut self, a: Reg, b: Reg);
    fn mov(&mut self, size: Size, dst: Reg, src: Rm);
    /// Stores the low `bytes` (1, 2, 4 or 8).
    fn store(&mut self, bytes: u8, dst: Mem, src: Reg);
    /// Loads `bytes` (1, 2, 4 or 8), extended to 64 bits.
    fn load(&mut self, bytes: u8, signed: bool, dst: Reg, src: Rm);
    /// Any constant, in the shortest form.
    fn mov_imm(&mut self, dst: Reg, value: u64);
    /// Stores a sign-extended constant of 64 bits.
    fn mov_imm_to_memory(&mut self, dst: Mem, value: i32);
    fn lea(&mut self, size: Size, dst: Reg, address: Mem);
    fn shift_imm(&mut self, op: Shift, size: Size, dst: Rm, amount: u8);
    /// SHLX, SHRX, SARX.
    fn shift_into(&mut self, op: Shift, size: Size, dst: Reg, src: Rm, amount: Reg);
    /// RORX of 32 bits.
    fn rotate_into(&mut self, dst: Reg, src: Reg, amount: u8);
    fn imul(&mut self, size: Size, dst: Reg, src: Rm);
    /// Low byte of `dst` = condition.
    fn setcc(&mut self, condition: Cond, dst: Reg);
    fn jmp(&mut self, label: Self::Label);
    fn jcc(&mut self, condition: Cond, label: Self::Label);
    /// Jumps to a fixed address within 2 GiB.
    fn jmp_to(&mut self, target: u64);
    fn call_to(&mut self, target: u64);
}
