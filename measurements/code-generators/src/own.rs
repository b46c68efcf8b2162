//! The translator's own assembler.

use crate::assembler::{self as own, Alu, Assembler, Cond, Double, Label, Quad, Reg, Shift, Size};
use crate::emit::{Emit, Mem, Rm};

impl From<Mem> for own::Mem {
    fn from(Mem { base, index, displacement }: Mem) -> Self {
        match index {
            Some(index) => Self::indexed(base, index, 0, displacement),
            None => Self::new(base, displacement),
        }
    }
}

impl From<Rm> for own::Rm {
    fn from(rm: Rm) -> Self {
        match rm {
            Rm::Reg(reg) => Self::Reg(reg),
            Rm::Mem(mem) => Self::Mem(mem.into()),
        }
    }
}

impl Emit for Assembler {
    type Label = Label;

    fn start(&mut self, base: u64) {
        self.start(base);
    }

    fn finish(&mut self) -> &[u8] {
        self.finish()
    }

    fn label(&mut self) -> Label {
        self.label()
    }

    fn bind(&mut self, label: Label) {
        self.bind(label);
    }

    fn alu(&mut self, op: Alu, size: Size, dst: Reg, src: Rm) {
        self.alu(op, size, dst, src);
    }

    fn alu_to_memory(&mut self, op: Alu, size: Size, dst: Mem, src: Reg) {
        self.alu_to_memory(op, size, dst.into(), src);
    }

    fn alu_imm(&mut self, op: Alu, size: Size, dst: Rm, imm: i32) {
        self.alu_imm(op, size, dst, imm);
    }

    fn test(&mut self, a: Reg, b: Reg) {
        self.test(Quad, a, b);
    }

    fn mov(&mut self, size: Size, dst: Reg, src: Rm) {
        self.mov(size, dst, src);
    }

    fn store(&mut self, bytes: u8, dst: Mem, src: Reg) {
        self.store(bytes, dst.into(), src);
    }

    fn load(&mut self, bytes: u8, signed: bool, dst: Reg, src: Rm) {
        self.load(bytes, signed, dst, src);
    }

    fn mov_imm(&mut self, dst: Reg, value: u64) {
        self.mov_imm(dst, value);
    }

    fn mov_imm_to_memory(&mut self, dst: Mem, value: i32) {
        self.mov_imm_to_memory(Quad, dst.into(), value);
    }

    fn lea(&mut self, size: Size, dst: Reg, address: Mem) {
        self.lea(size, dst, address.into());
    }

    fn shift_imm(&mut self, op: Shift, size: Size, dst: Rm, amount: u8) {
        self.shift_imm(op, size, dst, amount);
    }

    fn shift_into(&mut self, op: Shift, size: Size, dst: Reg, src: Rm, amount: Reg) {
        self.shift_into(op, size, dst, src, amount);
    }

    fn rotate_into(&mut self, dst: Reg, src: Reg, amount: u8) {
        self.rotate_into(Double, dst, src, amount);
    }

    fn imul(&mut self, size: Size, dst: Reg, src: Rm) {
        self.imul(size, dst, src);
    }

    fn setcc(&mut self, condition: Cond, dst: Reg) {
        self.setcc(condition, dst);
    }

    fn jmp(&mut self, label: Label) {
        self.jmp(label);
    }

    fn jcc(&mut self, condition: Cond, label: Label) {
        self.jcc(condition, label);
    }

    fn jmp_to(&mut self, target: u64) {
        self.jmp_to(target);
    }

    fn call_to(&mut self, target: u64) {
        self.call_to(target);
    }
}
