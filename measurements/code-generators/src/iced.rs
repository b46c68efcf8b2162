//! iced-x86: its encoder alone, and its code assembler, which also chooses the length of jumps.

use iced_x86::code_asm::{CodeAssembler, CodeLabel};
use iced_x86::{Code, Encoder, IcedError, Instruction, MemoryOperand, Register};

use crate::assembler::{Alu, Cond, Double, Quad, Reg, Shift, Size};
use crate::emit::{Emit, Mem, Rm};

/// Where iced-x86's instructions go.
pub trait Sink {
    fn start(&mut self, base: u64);
    fn finish(&mut self) -> &[u8];
    fn label(&mut self) -> u32;
    fn bind(&mut self, label: u32);
    fn put(&mut self, instruction: Instruction);
    /// A jump; `condition` is none for those that have none.
    fn jump(&mut self, condition: Option<Cond>, label: u32);
}

/// The encoder, with labels like those of the translator's own assembler.
pub struct Encoding {
    encoder: Encoder,
    base: u64,
    code: Vec<u8>,
    length: usize,
    labels: Vec<usize>,
    fixups: Vec<(usize, u32)>,
}

impl Encoding {
    pub fn new() -> Self {
        let (code, labels, fixups) = Default::default();
        Self { encoder: Encoder::new(64), base: 0, code, length: 0, labels, fixups }
    }
}

impl Sink for Encoding {
    fn start(&mut self, base: u64) {
        let mut buffer = std::mem::take(&mut self.code);
        buffer.clear();
        self.encoder.set_buffer(buffer);
        (self.base, self.length) = (base, 0);
        self.labels.clear();
        self.fixups.clear();
    }

    fn finish(&mut self) -> &[u8] {
        self.code = self.encoder.take_buffer();
        for &(end, label) in &self.fixups {
            let displacement = self.labels[label as usize].wrapping_sub(end) as u32;
            self.code[end - 4..end].copy_from_slice(&displacement.to_le_bytes());
        }
        &self.code
    }

    fn label(&mut self) -> u32 {
        self.labels.push(usize::MAX);
        self.labels.len() as u32 - 1
    }

    fn bind(&mut self, label: u32) {
        self.labels[label as usize] = self.length;
    }

    fn put(&mut self, instruction: Instruction) {
        let address = self.base + self.length as u64;
        self.length += self.encoder.encode(&instruction, address).expect("the instruction exists");
    }

    fn jump(&mut self, condition: Option<Cond>, label: u32) {
        let code = condition.map_or(Code::Jmp_rel32_64, |condition| JUMPS[condition as usize]);
        self.put(valid(Instruction::with_branch(code, self.base)));
        self.fixups.push((self.length, label));
    }
}

/// The code assembler.
pub struct Assembling {
    asm: CodeAssembler,
    base: u64,
    code: Vec<u8>,
    labels: Vec<CodeLabel>,
}

impl Assembling {
    pub fn new() -> Self {
        let asm = CodeAssembler::new(64).expect("64 bits");
        Self { asm, base: 0, code: Vec::new(), labels: Vec::new() }
    }
}

impl Sink for Assembling {
    fn start(&mut self, base: u64) {
        self.asm.reset();
        self.base = base;
        self.labels.clear();
    }

    fn finish(&mut self) -> &[u8] {
        self.code = self.asm.assemble(self.base).expect("labels are bound");
        &self.code
    }

    fn label(&mut self) -> u32 {
        self.labels.push(self.asm.create_label());
        self.labels.len() as u32 - 1
    }

    fn bind(&mut self, label: u32) {
        if self.asm.set_label(&mut self.labels[label as usize]).is_err() {
            // Two labels at one place need something between them.
            valid(self.asm.zero_bytes());
            valid(self.asm.set_label(&mut self.labels[label as usize]));
        }
    }

    fn put(&mut self, instruction: Instruction) {
        valid(self.asm.add_instruction(instruction));
    }

    fn jump(&mut self, condition: Option<Cond>, label: u32) {
        let (asm, label) = (&mut self.asm, self.labels[label as usize]);
        valid(match condition {
            None => asm.jmp(label),
            Some(Cond::Overflow) => asm.jo(label),
            Some(Cond::NoOverflow) => asm.jno(label),
            Some(Cond::Below) => asm.jb(label),
            Some(Cond::AboveEqual) => asm.jae(label),
            Some(Cond::Equal) => asm.je(label),
            Some(Cond::NotEqual) => asm.jne(label),
            Some(Cond::BelowEqual) => asm.jbe(label),
            Some(Cond::Above) => asm.ja(label),
            Some(Cond::Sign) => asm.js(label),
            Some(Cond::NoSign) => asm.jns(label),
            Some(Cond::Parity) => asm.jp(label),
            Some(Cond::NoParity) => asm.jnp(label),
            Some(Cond::Less) => asm.jl(label),
            Some(Cond::GreaterEqual) => asm.jge(label),
        });
    }
}

/// By condition, as numbered in encodings.
const JUMPS: [Code; 14] = [
    Code::Jo_rel32_64,
    Code::Jno_rel32_64,
    Code::Jb_rel32_64,
    Code::Jae_rel32_64,
    Code::Je_rel32_64,
    Code::Jne_rel32_64,
    Code::Jbe_rel32_64,
    Code::Ja_rel32_64,
    Code::Js_rel32_64,
    Code::Jns_rel32_64,
    Code::Jp_rel32_64,
    Code::Jnp_rel32_64,
    Code::Jl_rel32_64,
    Code::Jge_rel32_64,
];

const SETS: [Code; 14] = [
    Code::Seto_rm8,
    Code::Setno_rm8,
    Code::Setb_rm8,
    Code::Setae_rm8,
    Code::Sete_rm8,
    Code::Setne_rm8,
    Code::Setbe_rm8,
    Code::Seta_rm8,
    Code::Sets_rm8,
    Code::Setns_rm8,
    Code::Setp_rm8,
    Code::Setnp_rm8,
    Code::Setl_rm8,
    Code::Setge_rm8,
];

/// Codes of an operation: to a register and to memory, of a short and of a long constant; each for 32 and 64
/// bits.
struct AluCodes {
    to_register: [Code; 2],
    to_memory: [Code; 2],
    short: [Code; 2],
    long: [Code; 2],
}

macro_rules! alu_codes {
    ($($to_register:ident $to_register_64:ident $to_memory:ident $to_memory_64:ident $short:ident $short_64:ident
        $long:ident $long_64:ident;)*) => {
        [$(AluCodes {
            to_register: [Code::$to_register, Code::$to_register_64],
            to_memory: [Code::$to_memory, Code::$to_memory_64],
            short: [Code::$short, Code::$short_64],
            long: [Code::$long, Code::$long_64],
        }),*]
    };
}

#[rustfmt::skip]
const ALU: [AluCodes; 6] = alu_codes! {
    Add_r32_rm32 Add_r64_rm64 Add_rm32_r32 Add_rm64_r64 Add_rm32_imm8 Add_rm64_imm8 Add_rm32_imm32 Add_rm64_imm32;
    Or_r32_rm32 Or_r64_rm64 Or_rm32_r32 Or_rm64_r64 Or_rm32_imm8 Or_rm64_imm8 Or_rm32_imm32 Or_rm64_imm32;
    And_r32_rm32 And_r64_rm64 And_rm32_r32 And_rm64_r64 And_rm32_imm8 And_rm64_imm8 And_rm32_imm32 And_rm64_imm32;
    Sub_r32_rm32 Sub_r64_rm64 Sub_rm32_r32 Sub_rm64_r64 Sub_rm32_imm8 Sub_rm64_imm8 Sub_rm32_imm32 Sub_rm64_imm32;
    Xor_r32_rm32 Xor_r64_rm64 Xor_rm32_r32 Xor_rm64_r64 Xor_rm32_imm8 Xor_rm64_imm8 Xor_rm32_imm32 Xor_rm64_imm32;
    Cmp_r32_rm32 Cmp_r64_rm64 Cmp_rm32_r32 Cmp_rm64_r64 Cmp_rm32_imm8 Cmp_rm64_imm8 Cmp_rm32_imm32 Cmp_rm64_imm32;
};

fn alu_codes(op: Alu) -> &'static AluCodes {
    &ALU[match op {
        Alu::Add => 0,
        Alu::Or => 1,
        Alu::And => 2,
        Alu::Sub => 3,
        Alu::Xor => 4,
        Alu::Cmp => 5,
    }]
}

fn valid<T>(result: Result<T, IcedError>) -> T {
    result.expect("the operands fit")
}

const fn by_size<T: Copy>(size: Size, codes: [T; 2]) -> T {
    match size {
        Double => codes[0],
        Quad => codes[1],
    }
}

fn quad(Reg(number): Reg) -> Register {
    Register::RAX + u32::from(number)
}

fn sized(size: Size, Reg(number): Reg) -> Register {
    by_size(size, [Register::EAX, Register::RAX]) + u32::from(number)
}

fn narrow(bytes: u8, Reg(number): Reg) -> Register {
    match (bytes, number) {
        (1, 0..4) => Register::AL + u32::from(number),
        (1, _) => Register::SPL + u32::from(number - 4),
        (2, _) => Register::AX + u32::from(number),
        (4, _) => Register::EAX + u32::from(number),
        _ => Register::RAX + u32::from(number),
    }
}

fn memory(Mem { base, index, displacement }: Mem) -> MemoryOperand {
    let size = u32::from(displacement != 0);
    match index {
        Some(index) => MemoryOperand::with_base_index_scale_displ_size(
            quad(base),
            quad(index),
            1,
            displacement.into(),
            size,
        ),
        None => MemoryOperand::with_base_displ_size(quad(base), displacement.into(), size),
    }
}

/// An instruction whose operands are a register and a register or memory.
fn register_operand(code: Code, register: Register, rm: Rm, of: impl Fn(Reg) -> Register) -> Instruction {
    valid(match rm {
        Rm::Reg(reg) => Instruction::with2(code, register, of(reg)),
        Rm::Mem(mem) => Instruction::with2(code, register, memory(mem)),
    })
}

/// An instruction whose operands are a register or memory and a constant.
fn operand_constant(code: Code, size: Size, rm: Rm, constant: i32) -> Instruction {
    valid(match rm {
        Rm::Reg(reg) => Instruction::with2(code, sized(size, reg), constant),
        Rm::Mem(mem) => Instruction::with2(code, memory(mem), constant),
    })
}

/// Instructions made of iced-x86's codes and operands.
pub struct Iced<S>(pub S);

impl<S: Sink> Emit for Iced<S> {
    type Label = u32;

    fn start(&mut self, base: u64) {
        self.0.start(base);
    }

    fn finish(&mut self) -> &[u8] {
        self.0.finish()
    }

    fn label(&mut self) -> u32 {
        self.0.label()
    }

    fn bind(&mut self, label: u32) {
        self.0.bind(label);
    }

    fn alu(&mut self, op: Alu, size: Size, dst: Reg, src: Rm) {
        let code = by_size(size, alu_codes(op).to_register);
        self.0.put(register_operand(code, sized(size, dst), src, |reg| sized(size, reg)));
    }

    fn alu_to_memory(&mut self, op: Alu, size: Size, dst: Mem, src: Reg) {
        let code = by_size(size, alu_codes(op).to_memory);
        self.0.put(valid(Instruction::with2(code, memory(dst), sized(size, src))));
    }

    fn alu_imm(&mut self, op: Alu, size: Size, dst: Rm, imm: i32) {
        let codes = alu_codes(op);
        let is_short = i8::try_from(imm).is_ok();
        let code = by_size(size, if is_short { codes.short } else { codes.long });
        self.0.put(operand_constant(code, size, dst, imm));
    }

    fn test(&mut self, a: Reg, b: Reg) {
        self.0.put(valid(Instruction::with2(Code::Test_rm64_r64, quad(a), quad(b))));
    }

    fn mov(&mut self, size: Size, dst: Reg, src: Rm) {
        let code = by_size(size, [Code::Mov_r32_rm32, Code::Mov_r64_rm64]);
        self.0.put(register_operand(code, sized(size, dst), src, |reg| sized(size, reg)));
    }

    fn store(&mut self, bytes: u8, dst: Mem, src: Reg) {
        let code = match bytes {
            1 => Code::Mov_rm8_r8,
            2 => Code::Mov_rm16_r16,
            4 => Code::Mov_rm32_r32,
            _ => Code::Mov_rm64_r64,
        };
        self.0.put(valid(Instruction::with2(code, memory(dst), narrow(bytes, src))));
    }

    fn load(&mut self, bytes: u8, signed: bool, dst: Reg, src: Rm) {
        let (code, size) = match (bytes, signed) {
            (1, false) => (Code::Movzx_r32_rm8, Double),
            (1, true) => (Code::Movsx_r64_rm8, Quad),
            (2, false) => (Code::Movzx_r32_rm16, Double),
            (2, true) => (Code::Movsx_r64_rm16, Quad),
            (4, false) => (Code::Mov_r32_rm32, Double),
            (4, true) => (Code::Movsxd_r64_rm32, Quad),
            _ => (Code::Mov_r64_rm64, Quad),
        };
        self.0.put(register_operand(code, sized(size, dst), src, |reg| narrow(bytes, reg)));
    }

    fn mov_imm(&mut self, dst: Reg, value: u64) {
        self.0.put(valid(if let Ok(value) = u32::try_from(value) {
            Instruction::with2(Code::Mov_r32_imm32, sized(Double, dst), value)
        } else if let Ok(value) = i32::try_from(value as i64) {
            Instruction::with2(Code::Mov_rm64_imm32, quad(dst), value)
        } else {
            Instruction::with2(Code::Mov_r64_imm64, quad(dst), value)
        }));
    }

    fn mov_imm_to_memory(&mut self, dst: Mem, value: i32) {
        self.0.put(valid(Instruction::with2(Code::Mov_rm64_imm32, memory(dst), value)));
    }

    fn lea(&mut self, size: Size, dst: Reg, address: Mem) {
        let code = by_size(size, [Code::Lea_r32_m, Code::Lea_r64_m]);
        self.0.put(valid(Instruction::with2(code, sized(size, dst), memory(address))));
    }

    fn shift_imm(&mut self, op: Shift, size: Size, dst: Rm, amount: u8) {
        let codes = match op {
            Shift::Rol => [Code::Rol_rm32_imm8, Code::Rol_rm64_imm8],
            Shift::Ror => [Code::Ror_rm32_imm8, Code::Ror_rm64_imm8],
            Shift::Shl => [Code::Shl_rm32_imm8, Code::Shl_rm64_imm8],
            Shift::Shr => [Code::Shr_rm32_imm8, Code::Shr_rm64_imm8],
            Shift::Sar => [Code::Sar_rm32_imm8, Code::Sar_rm64_imm8],
        };
        self.0.put(operand_constant(by_size(size, codes), size, dst, amount.into()));
    }

    fn shift_into(&mut self, op: Shift, size: Size, dst: Reg, src: Rm, amount: Reg) {
        let codes = match op {
            Shift::Shl => [Code::VEX_Shlx_r32_rm32_r32, Code::VEX_Shlx_r64_rm64_r64],
            Shift::Shr => [Code::VEX_Shrx_r32_rm32_r32, Code::VEX_Shrx_r64_rm64_r64],
            _ => [Code::VEX_Sarx_r32_rm32_r32, Code::VEX_Sarx_r64_rm64_r64],
        };
        let (code, dst, amount) = (by_size(size, codes), sized(size, dst), sized(size, amount));
        self.0.put(valid(match src {
            Rm::Reg(reg) => Instruction::with3(code, dst, sized(size, reg), amount),
            Rm::Mem(mem) => Instruction::with3(code, dst, memory(mem), amount),
        }));
    }

    fn rotate_into(&mut self, dst: Reg, src: Reg, amount: u8) {
        let (dst, src) = (sized(Double, dst), sized(Double, src));
        self.0.put(valid(Instruction::with3(Code::VEX_Rorx_r32_rm32_imm8, dst, src, u32::from(amount))));
    }

    fn imul(&mut self, size: Size, dst: Reg, src: Rm) {
        let code = by_size(size, [Code::Imul_r32_rm32, Code::Imul_r64_rm64]);
        self.0.put(register_operand(code, sized(size, dst), src, |reg| sized(size, reg)));
    }

    fn setcc(&mut self, condition: Cond, dst: Reg) {
        self.0.put(valid(Instruction::with1(SETS[condition as usize], narrow(1, dst))));
    }

    fn jmp(&mut self, label: u32) {
        self.0.jump(None, label);
    }

    fn jcc(&mut self, condition: Cond, label: u32) {
        self.0.jump(Some(condition), label);
    }

    fn jmp_to(&mut self, target: u64) {
        self.0.put(valid(Instruction::with_branch(Code::Jmp_rel32_64, target)));
    }

    fn call_to(&mut self, target: u64) {
        self.0.put(valid(Instruction::with_branch(Code::Call_rel32_64, target)));
    }
}
