//! Encodes x86-64 instructions: those that the lowering needs, each a few lines from the manual's table.
//!
//! Code is written for the address at which it will run, so that jumps to fixed places need no relocation.
//! Labels are local to one piece of code.
//!
//! Source: *AMD64 Architecture Programmer's Manual*, volume 3 and 4.

use super::placement::{ALIGNMENT, Placement};

/// A general-purpose register, by its number in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reg(pub u8);

pub const RAX: Reg = Reg(0);
pub const RCX: Reg = Reg(1);
pub const RDX: Reg = Reg(2);
pub const RBX: Reg = Reg(3);
pub const RSP: Reg = Reg(4);
pub const RBP: Reg = Reg(5);
pub const RSI: Reg = Reg(6);
pub const RDI: Reg = Reg(7);
pub const R8: Reg = Reg(8);
pub const R9: Reg = Reg(9);
pub const R10: Reg = Reg(10);
pub const R11: Reg = Reg(11);
pub const R12: Reg = Reg(12);
pub const R13: Reg = Reg(13);
pub const R14: Reg = Reg(14);
pub const R15: Reg = Reg(15);

/// A vector register, by its number in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Xmm(pub u8);

/// A place in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    base: Reg,
    /// Register and binary logarithm of its scale.
    index: Option<(Reg, u8)>,
    displacement: i32,
}

impl Mem {
    pub const fn new(base: Reg, displacement: i32) -> Self {
        Self { base, index: None, displacement }
    }

    pub const fn indexed(base: Reg, index: Reg, scale: u8, displacement: i32) -> Self {
        Self { base, index: Some((index, scale)), displacement }
    }

    pub const fn offset(self, bytes: i32) -> Self {
        Self { displacement: self.displacement + bytes, ..self }
    }
}

/// An operand that may be a register or memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

impl From<Xmm> for Rm {
    fn from(xmm: Xmm) -> Self {
        Self::Reg(Reg(xmm.0))
    }
}

/// Operand size of an integer instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// 32 bits; the upper half of a register becomes zero.
    Double,
    /// 64 bits.
    Quad,
}

impl Size {
    const fn w(self) -> u8 {
        matches!(self, Self::Quad) as u8
    }
}

pub use Size::{Double, Quad};

/// Two-operand arithmetic, by its number in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Alu {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts and rotates, by their number in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// Conditions, by their number in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cond {
    Overflow = 0,
    NoOverflow = 1,
    Below = 2,
    AboveEqual = 3,
    Equal = 4,
    NotEqual = 5,
    BelowEqual = 6,
    Above = 7,
    Sign = 8,
    NoSign = 9,
    Parity = 10,
    NoParity = 11,
    Less = 12,
    GreaterEqual = 13,
}

impl Cond {
    /// The opposite.
    pub const fn inverse(self) -> Self {
        match self {
            Self::Overflow => Self::NoOverflow,
            Self::NoOverflow => Self::Overflow,
            Self::Below => Self::AboveEqual,
            Self::AboveEqual => Self::Below,
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::BelowEqual => Self::Above,
            Self::Above => Self::BelowEqual,
            Self::Parity => Self::NoParity,
            Self::NoParity => Self::Parity,
            Self::Less => Self::GreaterEqual,
            Self::GreaterEqual => Self::Less,
            Self::Sign => Self::NoSign,
            Self::NoSign => Self::Sign,
        }
    }
}

/// Mandatory prefix of an SSE instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Prefix {
    None = 0,
    P66 = 0x66,
    F3 = 0xf3,
    F2 = 0xf2,
}

impl Prefix {
    const fn pp(self) -> u8 {
        match self {
            Self::None => 0,
            Self::P66 => 1,
            Self::F3 => 2,
            Self::F2 => 3,
        }
    }
}

/// A place in the code being written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(u32);

const UNBOUND: u32 = u32::MAX;
/// What isn't executed.
const INT3: u8 = 0xcc;

/// Code being written.
pub struct Assembler {
    code: Vec<u8>,
    /// Where it will run.
    placement: Placement,
    labels: Vec<u32>,
    /// Where 32-bit displacements to labels stand.
    fixups: Vec<(u32, Label)>,
    externals: Vec<External>,
    /// Where displacements from one part to the other stand.
    crossings: Vec<u32>,
    /// The register that was stored to the frame by what ends at a position, if that is the end of the code.
    stored: Option<(usize, Mem, Reg)>,
}

/// A 32-bit displacement to a place outside the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct External {
    /// Where it stands, from the start of the code.
    pub at: u32,
    /// Where it leads.
    pub target: u64,
}

impl Assembler {
    pub fn new() -> Self {
        Self {
            code: Vec::with_capacity(4096),
            placement: Placement::default(),
            labels: Vec::new(),
            fixups: Vec::new(),
            externals: Vec::new(),
            crossings: Vec::new(),
            stored: None,
        }
    }

    /// Starts afresh, with code that will run at `hot`, and at `cold` behind the [`split`](Self::split).
    pub fn start(&mut self, hot: u64, cold: u64) {
        self.code.clear();
        self.labels.clear();
        self.fixups.clear();
        self.externals.clear();
        self.crossings.clear();
        self.stored = None;
        self.placement = Placement { hot, cold, split: u32::MAX };
    }

    /// What follows is the cold part: it is reached by jumps only.
    pub fn split(&mut self) {
        self.code.resize(self.code.len().next_multiple_of(ALIGNMENT), INT3);
        self.placement.split = self.code.len() as u32;
    }

    /// Where the code will run.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Bytes written so far.
    pub fn position(&self) -> usize {
        self.code.len()
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() as u32 - 1)
    }

    /// Makes `label` stand for the place here.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0 as usize] = self.code.len() as u32;
        // Who jumps here hasn't stored it.
        self.stored = None;
    }

    /// An operand that is read; the register that it was stored from by the instruction before, if it was.
    fn read(&self, rm: impl Into<Rm>) -> Rm {
        match (rm.into(), self.stored) {
            (Rm::Mem(from), Some((end, to, register))) if from == to && end == self.code.len() => {
                Rm::Reg(register)
            }
            (rm, _) => rm,
        }
    }

    /// Here.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Offset of a bound label from the start.
    pub fn offset_of(&self, label: Label) -> u32 {
        self.labels[label.0 as usize]
    }

    /// Resolves labels; the code is complete.
    pub fn finish(&mut self) -> &[u8] {
        for (at, label) in self.fixups.drain(..) {
            let target = self.labels[label.0 as usize];
            debug_assert_ne!(target, UNBOUND, "a jump to a label that was never bound");
            let from = self.placement.address(at) + 4;
            let displacement = self.placement.address(target).wrapping_sub(from) as u32;
            if (at < self.placement.split) != (target < self.placement.split) {
                self.crossings.push(at);
            }
            self.code[at as usize..][..4].copy_from_slice(&displacement.to_le_bytes());
        }
        &self.code
    }

    /// The finished code.
    pub fn code(&self) -> &[u8] {
        &self.code
    }

    /// What would have to be corrected in the code at another address.
    pub fn externals(&self) -> &[External] {
        &self.externals
    }

    /// Where displacements from one part to the other stand in the finished code.
    pub fn crossings(&self) -> &[u32] {
        &self.crossings
    }

    fn byte(&mut self, byte: u8) {
        self.code.push(byte);
    }

    fn int32(&mut self, value: i32) {
        self.code.extend_from_slice(&value.to_le_bytes());
    }

    /// Prefix, REX, opcode, ModRM, SIB and displacement. `force_rex` makes byte registers 4 to 7 mean their
    /// low halves.
    fn instruction(&mut self, prefix: Prefix, w: u8, opcode: &[u8], reg: u8, rm: Rm, force_rex: bool) {
        if prefix != Prefix::None {
            self.byte(prefix as u8);
        }
        let (x, b) = match rm {
            Rm::Reg(r) => (0, r.0 >> 3),
            Rm::Mem(m) => (m.index.map_or(0, |(index, _)| index.0 >> 3), m.base.0 >> 3),
        };
        let rex = w << 3 | reg >> 3 << 2 | x << 1 | b;
        if rex != 0 || force_rex {
            self.byte(0x40 | rex);
        }
        self.code.extend_from_slice(opcode);
        self.modrm(reg & 7, rm);
    }

    fn modrm(&mut self, reg: u8, rm: Rm) {
        match rm {
            Rm::Reg(r) => self.byte(0xc0 | reg << 3 | r.0 & 7),
            Rm::Mem(Mem { base, index, displacement }) => {
                let low = base.0 & 7;
                let mode = match displacement {
                    0 if low != 5 => 0,
                    -128..=127 => 1,
                    _ => 2,
                };
                let needs_sib = index.is_some() || low == 4;
                self.byte(mode << 6 | reg << 3 | if needs_sib { 4 } else { low });
                if needs_sib {
                    let (index, scale) = index.map_or((4, 0), |(index, scale)| (index.0 & 7, scale));
                    self.byte(scale << 6 | index << 3 | low);
                }
                match mode {
                    1 => self.byte(displacement as u8),
                    2 => self.int32(displacement),
                    _ => {}
                }
            }
        }
    }

    /// A VEX-encoded instruction; `map` is 1 for 0F, 2 for 0F38, 3 for 0F3A.
    fn vex(&mut self, (prefix, map, opcode): (Prefix, u8, u8), w: u8, reg: u8, second: u8, rm: Rm) {
        let (x, b) = match rm {
            Rm::Reg(r) => (0, r.0 >> 3),
            Rm::Mem(m) => (m.index.map_or(0, |(index, _)| index.0 >> 3), m.base.0 >> 3),
        };
        self.byte(0xc4);
        self.byte((reg >> 3 ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | map);
        self.byte(w << 7 | (second ^ 15) << 3 | prefix.pp());
        self.byte(opcode);
        self.modrm(reg & 7, rm);
    }

    fn int(&mut self, size: Size, opcode: &[u8], reg: u8, rm: impl Into<Rm>) {
        self.instruction(Prefix::None, size.w(), opcode, reg, rm.into(), false);
    }

    /// `dst op= src`
    pub fn alu(&mut self, op: Alu, size: Size, dst: Reg, src: impl Into<Rm>) {
        let src = self.read(src);
        self.int(size, &[(op as u8) << 3 | 3], dst.0, src);
    }

    /// `[dst] op= src`
    pub fn alu_to_memory(&mut self, op: Alu, size: Size, dst: Mem, src: Reg) {
        self.int(size, &[(op as u8) << 3 | 1], src.0, dst);
    }

    /// `dst op= imm`
    pub fn alu_imm(&mut self, op: Alu, size: Size, dst: impl Into<Rm>, imm: i32) {
        if let -128..=127 = imm {
            self.int(size, &[0x83], op as u8, dst);
            self.byte(imm as u8);
        } else {
            self.int(size, &[0x81], op as u8, dst);
            self.int32(imm);
        }
    }

    /// Compares 32 bits of memory with a constant that takes 4 bytes whatever its value.
    pub fn cmp_imm32(&mut self, memory: Mem, imm: i32) {
        self.int(Double, &[0x81], Alu::Cmp as u8, memory);
        self.int32(imm);
    }

    /// Compares a byte in memory with a constant.
    pub fn cmp_byte(&mut self, memory: Mem, imm: i8) {
        self.int(Double, &[0x80], Alu::Cmp as u8, memory);
        self.byte(imm as u8);
    }

    pub fn test(&mut self, size: Size, a: Reg, b: Reg) {
        self.int(size, &[0x85], b.0, a);
    }

    pub fn test_imm(&mut self, size: Size, a: impl Into<Rm>, imm: i32) {
        self.int(size, &[0xf7], 0, a);
        self.int32(imm);
    }

    pub fn mov(&mut self, size: Size, dst: Reg, src: impl Into<Rm>) {
        let src = src.into();
        let read = self.read(src);
        if size == Double || read == src || read != dst.into() {
            self.int(size, &[0x8b], dst.0, read);
        }
    }

    pub fn mov_to_memory(&mut self, size: Size, dst: Mem, src: Reg) {
        self.int(size, &[0x89], src.0, dst);
        if size == Quad && dst.base == RSP && dst.index.is_none() {
            self.stored = Some((self.code.len(), dst, src));
        }
    }

    /// Stores the low `bytes` (1, 2, 4 or 8) of a register.
    pub fn store(&mut self, bytes: u8, dst: Mem, src: Reg) {
        match bytes {
            1 => self.instruction(Prefix::None, 0, &[0x88], src.0, dst.into(), src.0 >= 4),
            2 => self.instruction(Prefix::P66, 0, &[0x89], src.0, dst.into(), false),
            4 => self.mov_to_memory(Double, dst, src),
            _ => self.mov_to_memory(Quad, dst, src),
        }
    }

    /// Stores `bytes` (1, 2, 4 or 8) zero bytes.
    pub fn store_zero(&mut self, bytes: u8, dst: Mem) {
        match bytes {
            1 => {
                self.int(Double, &[0xc6], 0, dst);
                self.byte(0);
            }
            2 => {
                self.instruction(Prefix::P66, 0, &[0xc7], 0, dst.into(), false);
                self.code.extend_from_slice(&[0, 0]);
            }
            4 => self.mov_imm_to_memory(Double, dst, 0),
            _ => self.mov_imm_to_memory(Quad, dst, 0),
        }
    }

    /// Loads `bytes` (1, 2, 4 or 8), extended to 64 bits.
    pub fn load(&mut self, bytes: u8, signed: bool, dst: Reg, src: impl Into<Rm>) {
        let src = self.read(src);
        let byte_register = matches!(src, Rm::Reg(r) if r.0 >= 4);
        match (bytes, signed) {
            (1, false) => self.instruction(Prefix::None, 0, &[0x0f, 0xb6], dst.0, src, byte_register),
            (1, true) => self.instruction(Prefix::None, 1, &[0x0f, 0xbe], dst.0, src, byte_register),
            (2, false) => self.int(Double, &[0x0f, 0xb7], dst.0, src),
            (2, true) => self.int(Quad, &[0x0f, 0xbf], dst.0, src),
            (4, false) => self.mov(Double, dst, src),
            (4, true) => self.int(Quad, &[0x63], dst.0, src),
            _ => self.mov(Quad, dst, src),
        }
    }

    /// Sign-extends 32 bits.
    pub fn movsxd(&mut self, dst: Reg, src: impl Into<Rm>) {
        let src = self.read(src);
        self.int(Quad, &[0x63], dst.0, src);
    }

    /// Any constant, in the shortest form. Leaves flags alone.
    pub fn mov_imm(&mut self, dst: Reg, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            if dst.0 >= 8 {
                self.byte(0x41);
            }
            self.byte(0xb8 | dst.0 & 7);
            self.int32(value as i32);
        } else if i32::try_from(value as i64).is_ok() {
            self.int(Quad, &[0xc7], 0, dst);
            self.int32(value as i32);
        } else {
            self.byte(0x48 | dst.0 >> 3);
            self.byte(0xb8 | dst.0 & 7);
            self.code.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Stores a sign-extended constant of 64 bits, or one of 32.
    pub fn mov_imm_to_memory(&mut self, size: Size, dst: Mem, value: i32) {
        self.int(size, &[0xc7], 0, dst);
        self.int32(value);
    }

    /// Makes a register zero; changes flags.
    pub fn zero(&mut self, dst: Reg) {
        self.alu(Alu::Xor, Double, dst, dst);
    }

    pub fn lea(&mut self, size: Size, dst: Reg, address: Mem) {
        self.int(size, &[0x8d], dst.0, address);
    }

    pub fn shift_imm(&mut self, op: Shift, size: Size, dst: impl Into<Rm>, amount: u8) {
        self.int(size, &[0xc1], op as u8, dst);
        self.byte(amount);
    }

    /// Shifts by `cl`.
    pub fn shift_cl(&mut self, op: Shift, size: Size, dst: impl Into<Rm>) {
        self.int(size, &[0xd3], op as u8, dst);
    }

    /// `dst = src shifted by amount` (BMI2 SHLX, SHRX, SARX).
    pub fn shift_into(&mut self, op: Shift, size: Size, dst: Reg, src: impl Into<Rm>, amount: Reg) {
        let prefix = match op {
            Shift::Shl => Prefix::P66,
            Shift::Shr => Prefix::F2,
            _ => Prefix::F3,
        };
        self.vex((prefix, 2, 0xf7), size.w(), dst.0, amount.0, src.into());
    }

    /// `dst = src rotated right` (BMI2 RORX).
    pub fn rotate_into(&mut self, size: Size, dst: Reg, src: impl Into<Rm>, amount: u8) {
        self.vex((Prefix::F2, 3, 0xf0), size.w(), dst.0, 0, src.into());
        self.byte(amount);
    }

    /// `dst = !a & b` (BMI1 ANDN).
    pub fn andn(&mut self, size: Size, dst: Reg, a: Reg, b: impl Into<Rm>) {
        self.vex((Prefix::None, 2, 0xf2), size.w(), dst.0, a.0, b.into());
    }

    pub fn imul(&mut self, size: Size, dst: Reg, src: impl Into<Rm>) {
        let src = self.read(src);
        self.int(size, &[0x0f, 0xaf], dst.0, src);
    }

    /// The group of one-operand instructions: 2 not, 3 neg, 4 mul, 5 imul, 6 div, 7 idiv.
    fn unary(&mut self, number: u8, size: Size, operand: impl Into<Rm>) {
        self.int(size, &[0xf7], number, operand);
    }

    pub fn not(&mut self, size: Size, operand: impl Into<Rm>) {
        self.unary(2, size, operand);
    }

    pub fn neg(&mut self, size: Size, operand: impl Into<Rm>) {
        self.unary(3, size, operand);
    }

    /// `rdx:rax = rax * operand`, unsigned.
    pub fn mul_wide(&mut self, size: Size, operand: impl Into<Rm>) {
        self.unary(4, size, operand);
    }

    /// `rdx:rax = rax * operand`, signed.
    pub fn imul_wide(&mut self, size: Size, operand: impl Into<Rm>) {
        self.unary(5, size, operand);
    }

    /// `rax = rdx:rax / operand`, the remainder in `rdx`; unsigned.
    pub fn div(&mut self, size: Size, operand: impl Into<Rm>) {
        self.unary(6, size, operand);
    }

    /// `rax = rdx:rax / operand`, the remainder in `rdx`; signed.
    pub fn idiv(&mut self, size: Size, operand: impl Into<Rm>) {
        self.unary(7, size, operand);
    }

    /// Fills `rdx` with the sign of `rax`.
    pub fn sign_to_rdx(&mut self, size: Size) {
        if size == Quad {
            self.byte(0x48);
        }
        self.byte(0x99);
    }

    pub fn bswap(&mut self, dst: Reg) {
        self.byte(0x48 | dst.0 >> 3);
        self.byte(0x0f);
        self.byte(0xc8 | dst.0 & 7);
    }

    /// POPCNT, TZCNT or LZCNT by their last opcode byte: b8, bc, bd.
    pub fn count(&mut self, opcode: u8, size: Size, dst: Reg, src: impl Into<Rm>) {
        self.instruction(Prefix::F3, size.w(), &[0x0f, opcode], dst.0, src.into(), false);
    }

    /// BT (4), BTS (5), BTR (6) or BTC (7) with a constant bit number.
    pub fn bit_imm(&mut self, number: u8, size: Size, dst: Reg, bit: u8) {
        self.int(size, &[0x0f, 0xba], number, dst);
        self.byte(bit);
    }

    /// BT (a3), BTS (ab), BTR (b3) or BTC (bb) with the bit number in a register.
    pub fn bit(&mut self, opcode: u8, size: Size, dst: Reg, bit: Reg) {
        self.int(size, &[0x0f, opcode], bit.0, dst);
    }

    /// Low byte of `dst` = condition.
    pub fn setcc(&mut self, condition: Cond, dst: Reg) {
        self.instruction(Prefix::None, 0, &[0x0f, 0x90 | condition as u8], 0, dst.into(), dst.0 >= 4);
    }

    pub fn cmov(&mut self, condition: Cond, size: Size, dst: Reg, src: impl Into<Rm>) {
        self.int(size, &[0x0f, 0x40 | condition as u8], dst.0, src);
    }

    /// `lock xadd [memory], register`
    pub fn lock_xadd(&mut self, size: Size, memory: Mem, register: Reg) {
        self.byte(0xf0);
        self.int(size, &[0x0f, 0xc1], register.0, memory);
    }

    /// `lock cmpxchg [memory], new`: compares with `rax`.
    pub fn lock_cmpxchg(&mut self, size: Size, memory: Mem, new: Reg) {
        self.byte(0xf0);
        self.int(size, &[0x0f, 0xb1], new.0, memory);
    }

    /// `xchg [memory], register`, atomic.
    pub fn xchg(&mut self, size: Size, memory: Mem, register: Reg) {
        self.int(size, &[0x87], register.0, memory);
    }

    pub fn mfence(&mut self) {
        self.code.extend_from_slice(&[0x0f, 0xae, 0xf0]);
    }

    pub fn jmp(&mut self, label: Label) {
        self.byte(0xe9);
        self.fixups.push((self.code.len() as u32, label));
        self.int32(0);
    }

    pub fn jcc(&mut self, condition: Cond, label: Label) {
        self.byte(0x0f);
        self.byte(0x80 | condition as u8);
        self.fixups.push((self.code.len() as u32, label));
        self.int32(0);
    }

    /// Jumps to a fixed address within 2 GiB.
    pub fn jmp_to(&mut self, target: u64) {
        self.byte(0xe9);
        self.relative(target);
    }

    pub fn jcc_to(&mut self, condition: Cond, target: u64) {
        self.byte(0x0f);
        self.byte(0x80 | condition as u8);
        self.relative(target);
    }

    pub fn call_to(&mut self, target: u64) {
        self.byte(0xe8);
        self.relative(target);
    }

    fn relative(&mut self, target: u64) {
        let at = self.code.len() as u32;
        let next = self.placement.address(at) + 4;
        self.externals.push(External { at, target });
        self.int32(target.wrapping_sub(next) as i32);
    }

    pub fn jmp_reg(&mut self, target: impl Into<Rm>) {
        self.int(Double, &[0xff], 4, target);
    }

    pub fn call_reg(&mut self, target: impl Into<Rm>) {
        self.int(Double, &[0xff], 2, target);
    }

    pub fn push(&mut self, reg: Reg) {
        if reg.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0x50 | reg.0 & 7);
    }

    pub fn pop(&mut self, reg: Reg) {
        if reg.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0x58 | reg.0 & 7);
    }

    pub fn ret(&mut self) {
        self.byte(0xc3);
    }

    /// A no-operation of 8 bytes, the last two of which hold `data`.
    pub fn no_operation(&mut self, data: u16) {
        let [low, high] = data.to_le_bytes();
        self.code.extend_from_slice(&[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, low, high]);
    }

    /// Fills with multi-byte no-operations until the code's end, plus `ahead` bytes, is a multiple of
    /// `alignment` at its final address.
    pub fn align(&mut self, alignment: usize, ahead: usize) {
        const NOPS: [&[u8]; 8] = [
            &[],
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0x00],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
        ];
        let at = self.placement.address(self.code.len() as u32) as usize + ahead;
        let mut rest = at.next_multiple_of(alignment) - at;
        while rest != 0 {
            let step = rest.min(7);
            self.code.extend_from_slice(NOPS[step]);
            rest -= step;
        }
    }

    /// An SSE instruction `0F opcode` with a vector register and a vector register or memory.
    pub fn sse(&mut self, prefix: Prefix, opcode: u8, reg: Xmm, rm: impl Into<Rm>) {
        self.instruction(prefix, 0, &[0x0f, opcode], reg.0, rm.into(), false);
    }

    /// An SSE instruction with a general-purpose register as its first operand in the encoding.
    pub fn sse_to_int(&mut self, prefix: Prefix, opcode: u8, size: Size, reg: Reg, rm: impl Into<Rm>) {
        self.instruction(prefix, size.w(), &[0x0f, opcode], reg.0, rm.into(), false);
    }

    /// An SSE instruction with a general-purpose register or memory as its second operand.
    pub fn sse_from_int(&mut self, prefix: Prefix, opcode: u8, size: Size, reg: Xmm, rm: impl Into<Rm>) {
        self.instruction(prefix, size.w(), &[0x0f, opcode], reg.0, rm.into(), false);
    }

    /// Carry-less product of the low halves (PCLMULQDQ).
    pub fn pclmul(&mut self, dst: Xmm, src: Xmm) {
        self.instruction(Prefix::P66, 0, &[0x0f, 0x3a, 0x44], dst.0, src.into(), false);
        self.byte(0);
    }

    /// Low 64 bits of a vector register from memory; the rest becomes zero.
    pub fn movq_load(&mut self, dst: Xmm, src: Mem) {
        self.sse(Prefix::F3, 0x7e, dst, src);
    }

    pub fn movq_store(&mut self, dst: Mem, src: Xmm) {
        self.sse(Prefix::P66, 0xd6, src, dst);
    }

    pub fn movss_store(&mut self, dst: Mem, src: Xmm) {
        self.sse(Prefix::F3, 0x11, src, dst);
    }

    /// Between the low 32 bits of vector registers; the rest stays.
    pub fn movss(&mut self, dst: Xmm, src: Xmm) {
        self.sse(Prefix::F3, 0x10, dst, src);
    }

    /// ROUNDSS or ROUNDSD (SSE4.1).
    pub fn round(&mut self, double: bool, dst: Xmm, src: impl Into<Rm>, mode: u8) {
        let opcode = [0x0f, 0x3a, 0x0a | u8::from(double)];
        self.instruction(Prefix::P66, 0, &opcode, dst.0, src.into(), false);
        self.byte(mode);
    }

    /// Shifts the 64-bit halves of a vector register, left or right (PSLLQ, PSRLQ).
    pub fn shift_vector(&mut self, op: Shift, dst: Xmm, amount: u8) {
        let number = if op == Shift::Shl { 6 } else { 2 };
        self.instruction(Prefix::P66, 0, &[0x0f, 0x73], number, dst.into(), false);
        self.byte(amount);
    }

    /// Between vector registers, all of them.
    pub fn movaps(&mut self, dst: Xmm, src: Xmm) {
        self.sse(Prefix::None, 0x28, dst, src);
    }

    /// Vector from general-purpose register; the rest becomes zero.
    pub fn mov_to_xmm(&mut self, size: Size, dst: Xmm, src: impl Into<Rm>) {
        self.sse_from_int(Prefix::P66, 0x6e, size, dst, src);
    }

    /// General-purpose from vector register.
    pub fn mov_from_xmm(&mut self, size: Size, dst: impl Into<Rm>, src: Xmm) {
        self.instruction(Prefix::P66, size.w(), &[0x0f, 0x7e], src.0, dst.into(), false);
    }

    /// A fused multiply-add, `0F38 opcode`: `reg`, `second` and `rm` as the opcode's order says (FMA3).
    pub fn fma(&mut self, size: Size, opcode: u8, reg: Xmm, second: Xmm, rm: impl Into<Rm>) {
        self.vex((Prefix::P66, 2, opcode), size.w(), reg.0, second.0, rm.into());
    }

    pub fn ldmxcsr(&mut self, memory: Mem) {
        self.int(Double, &[0x0f, 0xae], 2, memory);
    }

    pub fn stmxcsr(&mut self, memory: Mem) {
        self.int(Double, &[0x0f, 0xae], 3, memory);
    }
}

#[cfg(test)]
mod tests;
