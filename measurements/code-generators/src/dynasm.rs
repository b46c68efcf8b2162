//! dynasm-rs, with registers chosen at run time.

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

use crate::assembler::{Alu, Cond, Double, Quad, Reg, Shift, Size};
use crate::emit::{Emit, Mem, Rm};

pub struct Dynasm {
    ops: VecAssembler<X64Relocation>,
    base: u64,
    code: Vec<u8>,
}

impl Dynasm {
    pub fn new() -> Self {
        Self { ops: VecAssembler::new(0), base: 0, code: Vec::new() }
    }
}

/// A template for each shape of memory operand: displacements have their size at compile time.
macro_rules! memory {
    ($ops:ident, $mem:expr, [$($size:ident)?], $name:ident [$($before:tt)*] [$($after:tt)*]) => {{
        let Mem { base: Reg(base), index, displacement } = $mem;
        match (index, i8::try_from(displacement)) {
            (None, Ok(short)) => {
                dynasm!($ops ; .arch x64 ; $name $($before)* $($size)? [BYTE Rq(base) + short] $($after)*)
            }
            (None, _) => {
                dynasm!($ops ; .arch x64 ; $name $($before)* $($size)? [DWORD Rq(base) + displacement] $($after)*)
            }
            (Some(Reg(index)), Ok(0)) => {
                dynasm!($ops ; .arch x64 ; $name $($before)* $($size)? [Rq(base) + Rq(index) * 1] $($after)*)
            }
            (Some(Reg(index)), Ok(short)) => {
                dynasm!($ops ; .arch x64 ; $name $($before)* $($size)? [BYTE Rq(base) + Rq(index) * 1 + short] $($after)*)
            }
            (Some(Reg(index)), _) => {
                dynasm!($ops ; .arch x64
                    ; $name $($before)* $($size)? [DWORD Rq(base) + Rq(index) * 1 + displacement] $($after)*)
            }
        }
    }};
}

/// A template for a register and those for memory.
macro_rules! operand {
    ($ops:ident, $rm:expr, $class:ident $size:ident, $name:ident [$($before:tt)*] [$($after:tt)*]) => {
        match $rm {
            Rm::Reg(Reg(register)) => {
                dynasm!($ops ; .arch x64 ; $name $($before)* $class(register) $($after)*)
            }
            Rm::Mem(mem) => memory!($ops, mem, [$size], $name [$($before)*] [$($after)*]),
        }
    };
}

/// The operation with `dst` and a register or memory, in both sizes.
macro_rules! sized {
    ($ops:ident, $size:expr, $dst:ident, $rm:expr, $name:ident) => {
        match $size {
            Double => operand!($ops, $rm, Rd DWORD, $name [Rd($dst),] []),
            Quad => operand!($ops, $rm, Rq QWORD, $name [Rq($dst),] []),
        }
    };
}

macro_rules! by_alu {
    ($op:expr, $form:ident, $($rest:tt)*) => {
        match $op {
            Alu::Add => $form!(add, $($rest)*),
            Alu::Or => $form!(or, $($rest)*),
            Alu::And => $form!(and, $($rest)*),
            Alu::Sub => $form!(sub, $($rest)*),
            Alu::Xor => $form!(xor, $($rest)*),
            Alu::Cmp => $form!(cmp, $($rest)*),
        }
    };
}

macro_rules! alu {
    ($name:ident, $ops:ident, $size:expr, $dst:ident, $src:expr) => {
        sized!($ops, $size, $dst, $src, $name)
    };
}

macro_rules! alu_to_memory {
    ($name:ident, $ops:ident, $size:expr, $dst:expr, $src:ident) => {
        match $size {
            Double => memory!($ops, $dst, [DWORD], $name [] [, Rd($src)]),
            Quad => memory!($ops, $dst, [QWORD], $name [] [, Rq($src)]),
        }
    };
}

/// Short constants can't be had for `cmp` and with memory: the long forms match first.
macro_rules! alu_imm {
    (cmp, $ops:ident, $size:expr, $dst:expr, $imm:ident) => {
        match $size {
            Double => operand!($ops, $dst, Rd DWORD, cmp [] [, DWORD $imm]),
            Quad => operand!($ops, $dst, Rq QWORD, cmp [] [, DWORD $imm]),
        }
    };
    ($name:ident, $ops:ident, $size:expr, $dst:expr, $imm:ident) => {
        match ($size, $dst, i8::try_from($imm)) {
            (Double, Rm::Reg(Reg(dst)), Ok(short)) => dynasm!($ops ; .arch x64 ; $name Rd(dst), BYTE short),
            (Quad, Rm::Reg(Reg(dst)), Ok(short)) => dynasm!($ops ; .arch x64 ; $name Rq(dst), BYTE short),
            (Double, dst, _) => operand!($ops, dst, Rd DWORD, $name [] [, DWORD $imm]),
            (Quad, dst, _) => operand!($ops, dst, Rq QWORD, $name [] [, DWORD $imm]),
        }
    };
}

macro_rules! shift_imm {
    ($name:ident, $ops:ident, $size:expr, $dst:expr, $amount:ident) => {
        match $size {
            Double => operand!($ops, $dst, Rd DWORD, $name [] [, BYTE $amount]),
            Quad => operand!($ops, $dst, Rq QWORD, $name [] [, BYTE $amount]),
        }
    };
}

macro_rules! shift_into {
    ($name:ident, $ops:ident, $size:expr, $dst:ident, $src:expr, $amount:ident) => {
        match $size {
            Double => operand!($ops, $src, Rd DWORD, $name [Rd($dst),] [, Rd($amount)]),
            Quad => operand!($ops, $src, Rq QWORD, $name [Rq($dst),] [, Rq($amount)]),
        }
    };
}

macro_rules! by_condition {
    ($condition:expr, $form:ident, $($rest:tt)*) => {
        match $condition {
            Cond::Overflow => $form!(seto jo, $($rest)*),
            Cond::NoOverflow => $form!(setno jno, $($rest)*),
            Cond::Below => $form!(setb jb, $($rest)*),
            Cond::AboveEqual => $form!(setae jae, $($rest)*),
            Cond::Equal => $form!(sete je, $($rest)*),
            Cond::NotEqual => $form!(setne jne, $($rest)*),
            Cond::BelowEqual => $form!(setbe jbe, $($rest)*),
            Cond::Above => $form!(seta ja, $($rest)*),
            Cond::Sign => $form!(sets js, $($rest)*),
            Cond::NoSign => $form!(setns jns, $($rest)*),
            Cond::Parity => $form!(setp jp, $($rest)*),
            Cond::NoParity => $form!(setnp jnp, $($rest)*),
            Cond::Less => $form!(setl jl, $($rest)*),
            Cond::GreaterEqual => $form!(setge jge, $($rest)*),
        }
    };
}

macro_rules! set {
    ($set:ident $jump:ident, $ops:ident, $dst:ident) => {
        dynasm!($ops ; .arch x64 ; $set Rb($dst))
    };
}

macro_rules! jump {
    ($set:ident $jump:ident, $ops:ident, $label:ident) => {
        dynasm!($ops ; .arch x64 ; $jump =>$label)
    };
}

impl Emit for Dynasm {
    type Label = DynamicLabel;

    fn start(&mut self, base: u64) {
        // Its buffers are kept where the address allows it.
        if base != self.base {
            (self.ops, self.base) = (VecAssembler::new(base as usize), base);
        }
    }

    fn finish(&mut self) -> &[u8] {
        self.code.clear();
        self.code.extend(self.ops.drain().expect("labels are bound"));
        &self.code
    }

    fn label(&mut self) -> DynamicLabel {
        self.ops.new_dynamic_label()
    }

    fn bind(&mut self, label: DynamicLabel) {
        let ops = &mut self.ops;
        dynasm!(ops ; .arch x64 ; =>label);
    }

    fn alu(&mut self, op: Alu, size: Size, Reg(dst): Reg, src: Rm) {
        let ops = &mut self.ops;
        by_alu!(op, alu, ops, size, dst, src);
    }

    fn alu_to_memory(&mut self, op: Alu, size: Size, dst: Mem, Reg(src): Reg) {
        let ops = &mut self.ops;
        by_alu!(op, alu_to_memory, ops, size, dst, src);
    }

    fn alu_imm(&mut self, op: Alu, size: Size, dst: Rm, imm: i32) {
        let ops = &mut self.ops;
        by_alu!(op, alu_imm, ops, size, dst, imm);
    }

    fn test(&mut self, Reg(a): Reg, Reg(b): Reg) {
        let ops = &mut self.ops;
        dynasm!(ops ; .arch x64 ; test Rq(a), Rq(b));
    }

    fn mov(&mut self, size: Size, Reg(dst): Reg, src: Rm) {
        let ops = &mut self.ops;
        sized!(ops, size, dst, src, mov);
    }

    fn store(&mut self, bytes: u8, dst: Mem, Reg(src): Reg) {
        let ops = &mut self.ops;
        match bytes {
            1 => memory!(ops, dst, [BYTE], mov [] [, Rb(src)]),
            2 => memory!(ops, dst, [WORD], mov [] [, Rw(src)]),
            4 => memory!(ops, dst, [DWORD], mov [] [, Rd(src)]),
            _ => memory!(ops, dst, [QWORD], mov [] [, Rq(src)]),
        }
    }

    fn load(&mut self, bytes: u8, signed: bool, Reg(dst): Reg, src: Rm) {
        let ops = &mut self.ops;
        match (bytes, signed) {
            (1, false) => operand!(ops, src, Rb BYTE, movzx [Rd(dst),] []),
            (1, true) => operand!(ops, src, Rb BYTE, movsx [Rq(dst),] []),
            (2, false) => operand!(ops, src, Rw WORD, movzx [Rd(dst),] []),
            (2, true) => operand!(ops, src, Rw WORD, movsx [Rq(dst),] []),
            (4, false) => operand!(ops, src, Rd DWORD, mov [Rd(dst),] []),
            (4, true) => operand!(ops, src, Rd DWORD, movsxd [Rq(dst),] []),
            _ => operand!(ops, src, Rq QWORD, mov [Rq(dst),] []),
        }
    }

    fn mov_imm(&mut self, Reg(dst): Reg, value: u64) {
        let ops = &mut self.ops;
        if let Ok(value) = u32::try_from(value) {
            dynasm!(ops ; .arch x64 ; mov Rd(dst), DWORD value as i32);
        } else if let Ok(value) = i32::try_from(value as i64) {
            dynasm!(ops ; .arch x64 ; mov Rq(dst), DWORD value);
        } else {
            dynasm!(ops ; .arch x64 ; mov Rq(dst), QWORD value as i64);
        }
    }

    fn mov_imm_to_memory(&mut self, dst: Mem, value: i32) {
        let ops = &mut self.ops;
        memory!(ops, dst, [QWORD], mov [] [, DWORD value]);
    }

    fn lea(&mut self, size: Size, Reg(dst): Reg, address: Mem) {
        let ops = &mut self.ops;
        match size {
            Double => memory!(ops, address, [], lea [Rd(dst),] []),
            Quad => memory!(ops, address, [], lea [Rq(dst),] []),
        }
    }

    fn shift_imm(&mut self, op: Shift, size: Size, dst: Rm, amount: u8) {
        let ops = &mut self.ops;
        let amount = amount as i8;
        match op {
            Shift::Rol => shift_imm!(rol, ops, size, dst, amount),
            Shift::Ror => shift_imm!(ror, ops, size, dst, amount),
            Shift::Shl => shift_imm!(shl, ops, size, dst, amount),
            Shift::Shr => shift_imm!(shr, ops, size, dst, amount),
            Shift::Sar => shift_imm!(sar, ops, size, dst, amount),
        }
    }

    fn shift_into(&mut self, op: Shift, size: Size, Reg(dst): Reg, src: Rm, Reg(amount): Reg) {
        let ops = &mut self.ops;
        match op {
            Shift::Shl => shift_into!(shlx, ops, size, dst, src, amount),
            Shift::Shr => shift_into!(shrx, ops, size, dst, src, amount),
            _ => shift_into!(sarx, ops, size, dst, src, amount),
        }
    }

    fn rotate_into(&mut self, Reg(dst): Reg, Reg(src): Reg, amount: u8) {
        let ops = &mut self.ops;
        dynasm!(ops ; .arch x64 ; rorx Rd(dst), Rd(src), BYTE amount as i8);
    }

    fn imul(&mut self, size: Size, Reg(dst): Reg, src: Rm) {
        let ops = &mut self.ops;
        sized!(ops, size, dst, src, imul);
    }

    fn setcc(&mut self, condition: Cond, Reg(dst): Reg) {
        let ops = &mut self.ops;
        by_condition!(condition, set, ops, dst);
    }

    fn jmp(&mut self, label: DynamicLabel) {
        let ops = &mut self.ops;
        dynasm!(ops ; .arch x64 ; jmp =>label);
    }

    fn jcc(&mut self, condition: Cond, label: DynamicLabel) {
        let ops = &mut self.ops;
        by_condition!(condition, jump, ops, label);
    }

    fn jmp_to(&mut self, target: u64) {
        let ops = &mut self.ops;
        dynasm!(ops ; .arch x64 ; jmp extern target as usize);
    }

    fn call_to(&mut self, target: u64) {
        let ops = &mut self.ops;
        dynasm!(ops ; .arch x64 ; call extern target as usize);
    }
}
