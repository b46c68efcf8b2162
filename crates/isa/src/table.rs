//! The table of instructions (Unprivileged ISA, "RV32/64G Instruction Set Listings", and each extension's
//! chapter; Privileged ISA for the rest).
//!
//! A row is: variant of [`Op`], mnemonic, the bits that are fixed, the operands in the assembler's order.
//! Every bit that no operand occupies is fixed, so the mask needs no column of its own.

use crate::Extension;
use crate::operand::Operand::{self, *};

const LOAD: u32 = 0x03;
const LOAD_FP: u32 = 0x07;
const MISC_MEM: u32 = 0x0f;
const OP_IMM: u32 = 0x13;
const AUIPC: u32 = 0x17;
const OP_IMM_32: u32 = 0x1b;
const STORE: u32 = 0x23;
const STORE_FP: u32 = 0x27;
const AMO: u32 = 0x2f;
const OP: u32 = 0x33;
const LUI: u32 = 0x37;
const OP_32: u32 = 0x3b;
const MADD: u32 = 0x43;
const MSUB: u32 = 0x47;
const NMSUB: u32 = 0x4b;
const NMADD: u32 = 0x4f;
const OP_FP: u32 = 0x53;
const BRANCH: u32 = 0x63;
const JALR: u32 = 0x67;
const JAL: u32 = 0x6f;
const SYSTEM: u32 = 0x73;

/// Fixed bits: the major opcode alone.
const fn upper(opcode: u32) -> u32 {
    opcode
}

/// Fixed bits: opcode and funct3.
const fn i(opcode: u32, funct3: u32) -> u32 {
    opcode | funct3 << 12
}

/// Fixed bits: opcode, funct3 and funct7.
const fn r(opcode: u32, funct3: u32, funct7: u32) -> u32 {
    i(opcode, funct3) | funct7 << 25
}

/// Fixed bits of an instruction with one source, whose rs2 field selects the function.
const fn unary(opcode: u32, funct3: u32, funct7: u32, rs2: u32) -> u32 {
    r(opcode, funct3, funct7) | rs2 << 20
}

/// Fixed bits of a SYSTEM instruction without operands.
const fn system(funct12: u32) -> u32 {
    SYSTEM | funct12 << 20
}

/// One instruction.
pub(crate) struct Row {
    pub op: Op,
    pub mnemonic: &'static str,
    /// The bits that no operand occupies.
    pub mask: u32,
    /// Their values.
    pub fixed: u32,
    pub operands: &'static [Operand],
    pub extension: Extension,
}

macro_rules! instructions {
    ($($extension:ident { $($op:ident $mnemonic:literal $fixed:ident($($argument:expr),*) [$($operand:ident),*];)* })*) => {
        /// Every instruction: one variant for each mnemonic, in the table's order.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum Op {
            $($(#[doc = concat!("`", $mnemonic, "`")] $op,)*)*
        }

        impl Op {
            /// All of them, so that `Op::ALL[op as usize] == op`.
            pub const ALL: &[Self] = &[$($(Self::$op,)*)*];
        }

        /// Indexed by [`Op`].
        pub(crate) static TABLE: [Row; Op::ALL.len()] = [$($({
            const OPERANDS: &[Operand] = &[$($operand),*];
            Row {
                op: Op::$op,
                mnemonic: $mnemonic,
                mask: !Operand::mask(OPERANDS),
                fixed: $fixed($($argument),*),
                operands: OPERANDS,
                extension: Extension::$extension,
            }
        },)*)*];
    };
}

impl Op {
    pub(crate) fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The name in assembly, without ordering suffixes.
    #[must_use]
    pub fn mnemonic(self) -> &'static str {
        self.row().mnemonic
    }

    /// The extension that introduces the instruction.
    #[must_use]
    pub fn extension(self) -> Extension {
        self.row().extension
    }

    /// The bits of the 32-bit encoding that are fixed, and their values.
    #[must_use]
    pub fn encoding(self) -> (u32, u32) {
        (self.row().mask, self.row().fixed)
    }
}

#[rustfmt::skip]
instructions! {
    // Hints that are encoded inside another instruction's space stand before it.
    Zicbop {
        PrefetchI "prefetch.i" unary(OP_IMM, 6, 0x00, 0) [PrefetchAddress];
        PrefetchR "prefetch.r" unary(OP_IMM, 6, 0x00, 1) [PrefetchAddress];
        PrefetchW "prefetch.w" unary(OP_IMM, 6, 0x00, 3) [PrefetchAddress];
    }
    Zihintpause {
        Pause "pause" unary(MISC_MEM, 0, 0x00, 16) [];
    }
    I {
        Lui "lui" upper(LUI) [Rd, Upper];
        Auipc "auipc" upper(AUIPC) [Rd, Upper];
        Jal "jal" upper(JAL) [Rd, JumpTarget];
        Jalr "jalr" i(JALR, 0) [Rd, LoadAddress];
        Beq "beq" i(BRANCH, 0) [Rs1, Rs2, BranchTarget];
        Bne "bne" i(BRANCH, 1) [Rs1, Rs2, BranchTarget];
        Blt "blt" i(BRANCH, 4) [Rs1, Rs2, BranchTarget];
        Bge "bge" i(BRANCH, 5) [Rs1, Rs2, BranchTarget];
        Bltu "bltu" i(BRANCH, 6) [Rs1, Rs2, BranchTarget];
        Bgeu "bgeu" i(BRANCH, 7) [Rs1, Rs2, BranchTarget];
        Lb "lb" i(LOAD, 0) [Rd, LoadAddress];
        Lh "lh" i(LOAD, 1) [Rd, LoadAddress];
        Lw "lw" i(LOAD, 2) [Rd, LoadAddress];
        Ld "ld" i(LOAD, 3) [Rd, LoadAddress];
        Lbu "lbu" i(LOAD, 4) [Rd, LoadAddress];
        Lhu "lhu" i(LOAD, 5) [Rd, LoadAddress];
        Lwu "lwu" i(LOAD, 6) [Rd, LoadAddress];
        Sb "sb" i(STORE, 0) [Rs2, StoreAddress];
        Sh "sh" i(STORE, 1) [Rs2, StoreAddress];
        Sw "sw" i(STORE, 2) [Rs2, StoreAddress];
        Sd "sd" i(STORE, 3) [Rs2, StoreAddress];
        Addi "addi" i(OP_IMM, 0) [Rd, Rs1, Imm12];
        Slti "slti" i(OP_IMM, 2) [Rd, Rs1, Imm12];
        Sltiu "sltiu" i(OP_IMM, 3) [Rd, Rs1, Imm12];
        Xori "xori" i(OP_IMM, 4) [Rd, Rs1, Imm12];
        Ori "ori" i(OP_IMM, 6) [Rd, Rs1, Imm12];
        Andi "andi" i(OP_IMM, 7) [Rd, Rs1, Imm12];
        Slli "slli" r(OP_IMM, 1, 0x00) [Rd, Rs1, Shamt6];
        Srli "srli" r(OP_IMM, 5, 0x00) [Rd, Rs1, Shamt6];
        Srai "srai" r(OP_IMM, 5, 0x20) [Rd, Rs1, Shamt6];
        Add "add" r(OP, 0, 0x00) [Rd, Rs1, Rs2];
        Sub "sub" r(OP, 0, 0x20) [Rd, Rs1, Rs2];
        Sll "sll" r(OP, 1, 0x00) [Rd, Rs1, Rs2];
        Slt "slt" r(OP, 2, 0x00) [Rd, Rs1, Rs2];
        Sltu "sltu" r(OP, 3, 0x00) [Rd, Rs1, Rs2];
        Xor "xor" r(OP, 4, 0x00) [Rd, Rs1, Rs2];
        Srl "srl" r(OP, 5, 0x00) [Rd, Rs1, Rs2];
        Sra "sra" r(OP, 5, 0x20) [Rd, Rs1, Rs2];
        Or "or" r(OP, 6, 0x00) [Rd, Rs1, Rs2];
        And "and" r(OP, 7, 0x00) [Rd, Rs1, Rs2];
        Addiw "addiw" i(OP_IMM_32, 0) [Rd, Rs1, Imm12];
        Slliw "slliw" r(OP_IMM_32, 1, 0x00) [Rd, Rs1, Shamt5];
        Srliw "srliw" r(OP_IMM_32, 5, 0x00) [Rd, Rs1, Shamt5];
        Sraiw "sraiw" r(OP_IMM_32, 5, 0x20) [Rd, Rs1, Shamt5];
        Addw "addw" r(OP_32, 0, 0x00) [Rd, Rs1, Rs2];
        Subw "subw" r(OP_32, 0, 0x20) [Rd, Rs1, Rs2];
        Sllw "sllw" r(OP_32, 1, 0x00) [Rd, Rs1, Rs2];
        Srlw "srlw" r(OP_32, 5, 0x00) [Rd, Rs1, Rs2];
        Sraw "sraw" r(OP_32, 5, 0x20) [Rd, Rs1, Rs2];
        Fence "fence" i(MISC_MEM, 0) [FenceSets];
        Ecall "ecall" system(0x000) [];
        Ebreak "ebreak" system(0x001) [];
    }
    Zifencei {
        FenceI "fence.i" i(MISC_MEM, 1) [FenceIReserved];
    }
    Zicsr {
        Csrrw "csrrw" i(SYSTEM, 1) [Rd, Csr, Rs1];
        Csrrs "csrrs" i(SYSTEM, 2) [Rd, Csr, Rs1];
        Csrrc "csrrc" i(SYSTEM, 3) [Rd, Csr, Rs1];
        Csrrwi "csrrwi" i(SYSTEM, 5) [Rd, Csr, Zimm];
        Csrrsi "csrrsi" i(SYSTEM, 6) [Rd, Csr, Zimm];
        Csrrci "csrrci" i(SYSTEM, 7) [Rd, Csr, Zimm];
    }
    M {
        Mul "mul" r(OP, 0, 0x01) [Rd, Rs1, Rs2];
        Mulh "mulh" r(OP, 1, 0x01) [Rd, Rs1, Rs2];
        Mulhsu "mulhsu" r(OP, 2, 0x01) [Rd, Rs1, Rs2];
        Mulhu "mulhu" r(OP, 3, 0x01) [Rd, Rs1, Rs2];
        Div "div" r(OP, 4, 0x01) [Rd, Rs1, Rs2];
        Divu "divu" r(OP, 5, 0x01) [Rd, Rs1, Rs2];
        Rem "rem" r(OP, 6, 0x01) [Rd, Rs1, Rs2];
        Remu "remu" r(OP, 7, 0x01) [Rd, Rs1, Rs2];
        Mulw "mulw" r(OP_32, 0, 0x01) [Rd, Rs1, Rs2];
        Divw "divw" r(OP_32, 4, 0x01) [Rd, Rs1, Rs2];
        Divuw "divuw" r(OP_32, 5, 0x01) [Rd, Rs1, Rs2];
        Remw "remw" r(OP_32, 6, 0x01) [Rd, Rs1, Rs2];
        Remuw "remuw" r(OP_32, 7, 0x01) [Rd, Rs1, Rs2];
    }
    A {
        LrW "lr.w" unary(AMO, 2, 0x02 << 2, 0) [AqRl, Rd, Address];
        ScW "sc.w" r(AMO, 2, 0x03 << 2) [AqRl, Rd, Rs2, Address];
        AmoswapW "amoswap.w" r(AMO, 2, 0x01 << 2) [AqRl, Rd, Rs2, Address];
        AmoaddW "amoadd.w" r(AMO, 2, 0x00 << 2) [AqRl, Rd, Rs2, Address];
        AmoxorW "amoxor.w" r(AMO, 2, 0x04 << 2) [AqRl, Rd, Rs2, Address];
        AmoandW "amoand.w" r(AMO, 2, 0x0c << 2) [AqRl, Rd, Rs2, Address];
        AmoorW "amoor.w" r(AMO, 2, 0x08 << 2) [AqRl, Rd, Rs2, Address];
        AmominW "amomin.w" r(AMO, 2, 0x10 << 2) [AqRl, Rd, Rs2, Address];
        AmomaxW "amomax.w" r(AMO, 2, 0x14 << 2) [AqRl, Rd, Rs2, Address];
        AmominuW "amominu.w" r(AMO, 2, 0x18 << 2) [AqRl, Rd, Rs2, Address];
        AmomaxuW "amomaxu.w" r(AMO, 2, 0x1c << 2) [AqRl, Rd, Rs2, Address];
        LrD "lr.d" unary(AMO, 3, 0x02 << 2, 0) [AqRl, Rd, Address];
        ScD "sc.d" r(AMO, 3, 0x03 << 2) [AqRl, Rd, Rs2, Address];
        AmoswapD "amoswap.d" r(AMO, 3, 0x01 << 2) [AqRl, Rd, Rs2, Address];
        AmoaddD "amoadd.d" r(AMO, 3, 0x00 << 2) [AqRl, Rd, Rs2, Address];
        AmoxorD "amoxor.d" r(AMO, 3, 0x04 << 2) [AqRl, Rd, Rs2, Address];
        AmoandD "amoand.d" r(AMO, 3, 0x0c << 2) [AqRl, Rd, Rs2, Address];
        AmoorD "amoor.d" r(AMO, 3, 0x08 << 2) [AqRl, Rd, Rs2, Address];
        AmominD "amomin.d" r(AMO, 3, 0x10 << 2) [AqRl, Rd, Rs2, Address];
        AmomaxD "amomax.d" r(AMO, 3, 0x14 << 2) [AqRl, Rd, Rs2, Address];
        AmominuD "amominu.d" r(AMO, 3, 0x18 << 2) [AqRl, Rd, Rs2, Address];
        AmomaxuD "amomaxu.d" r(AMO, 3, 0x1c << 2) [AqRl, Rd, Rs2, Address];
    }
    Zacas {
        AmocasW "amocas.w" r(AMO, 2, 0x05 << 2) [AqRl, Rd, Rs2, Address];
        AmocasD "amocas.d" r(AMO, 3, 0x05 << 2) [AqRl, Rd, Rs2, Address];
        AmocasQ "amocas.q" r(AMO, 4, 0x05 << 2) [AqRl, RdPair, Rs2Pair, Address];
    }
    F {
        Flw "flw" i(LOAD_FP, 2) [Fd, LoadAddress];
        Fsw "fsw" i(STORE_FP, 2) [Fs2, StoreAddress];
        FaddS "fadd.s" r(OP_FP, 0, 0x00) [Fd, Fs1, Fs2, Rm];
        FsubS "fsub.s" r(OP_FP, 0, 0x04) [Fd, Fs1, Fs2, Rm];
        FmulS "fmul.s" r(OP_FP, 0, 0x08) [Fd, Fs1, Fs2, Rm];
        FdivS "fdiv.s" r(OP_FP, 0, 0x0c) [Fd, Fs1, Fs2, Rm];
        FsqrtS "fsqrt.s" unary(OP_FP, 0, 0x2c, 0) [Fd, Fs1, Rm];
        FmaddS "fmadd.s" r(MADD, 0, 0x00) [Fd, Fs1, Fs2, Fs3, Rm];
        FmsubS "fmsub.s" r(MSUB, 0, 0x00) [Fd, Fs1, Fs2, Fs3, Rm];
        FnmsubS "fnmsub.s" r(NMSUB, 0, 0x00) [Fd, Fs1, Fs2, Fs3, Rm];
        FnmaddS "fnmadd.s" r(NMADD, 0, 0x00) [Fd, Fs1, Fs2, Fs3, Rm];
        FsgnjS "fsgnj.s" r(OP_FP, 0, 0x10) [Fd, Fs1, Fs2];
        FsgnjnS "fsgnjn.s" r(OP_FP, 1, 0x10) [Fd, Fs1, Fs2];
        FsgnjxS "fsgnjx.s" r(OP_FP, 2, 0x10) [Fd, Fs1, Fs2];
        FminS "fmin.s" r(OP_FP, 0, 0x14) [Fd, Fs1, Fs2];
        FmaxS "fmax.s" r(OP_FP, 1, 0x14) [Fd, Fs1, Fs2];
        FleS "fle.s" r(OP_FP, 0, 0x50) [Rd, Fs1, Fs2];
        FltS "flt.s" r(OP_FP, 1, 0x50) [Rd, Fs1, Fs2];
        FeqS "feq.s" r(OP_FP, 2, 0x50) [Rd, Fs1, Fs2];
        FclassS "fclass.s" unary(OP_FP, 1, 0x70, 0) [Rd, Fs1];
        FcvtWS "fcvt.w.s" unary(OP_FP, 0, 0x60, 0) [Rd, Fs1, Rm];
        FcvtWuS "fcvt.wu.s" unary(OP_FP, 0, 0x60, 1) [Rd, Fs1, Rm];
        FcvtLS "fcvt.l.s" unary(OP_FP, 0, 0x60, 2) [Rd, Fs1, Rm];
        FcvtLuS "fcvt.lu.s" unary(OP_FP, 0, 0x60, 3) [Rd, Fs1, Rm];
        FcvtSW "fcvt.s.w" unary(OP_FP, 0, 0x68, 0) [Fd, Rs1, Rm];
        FcvtSWu "fcvt.s.wu" unary(OP_FP, 0, 0x68, 1) [Fd, Rs1, Rm];
        FcvtSL "fcvt.s.l" unary(OP_FP, 0, 0x68, 2) [Fd, Rs1, Rm];
        FcvtSLu "fcvt.s.lu" unary(OP_FP, 0, 0x68, 3) [Fd, Rs1, Rm];
        FmvXW "fmv.x.w" unary(OP_FP, 0, 0x70, 0) [Rd, Fs1];
        FmvWX "fmv.w.x" unary(OP_FP, 0, 0x78, 0) [Fd, Rs1];
    }
    D {
        Fld "fld" i(LOAD_FP, 3) [Fd, LoadAddress];
        Fsd "fsd" i(STORE_FP, 3) [Fs2, StoreAddress];
        FaddD "fadd.d" r(OP_FP, 0, 0x01) [Fd, Fs1, Fs2, Rm];
        FsubD "fsub.d" r(OP_FP, 0, 0x05) [Fd, Fs1, Fs2, Rm];
        FmulD "fmul.d" r(OP_FP, 0, 0x09) [Fd, Fs1, Fs2, Rm];
        FdivD "fdiv.d" r(OP_FP, 0, 0x0d) [Fd, Fs1, Fs2, Rm];
        FsqrtD "fsqrt.d" unary(OP_FP, 0, 0x2d, 0) [Fd, Fs1, Rm];
        FmaddD "fmadd.d" r(MADD, 0, 0x01) [Fd, Fs1, Fs2, Fs3, Rm];
        FmsubD "fmsub.d" r(MSUB, 0, 0x01) [Fd, Fs1, Fs2, Fs3, Rm];
        FnmsubD "fnmsub.d" r(NMSUB, 0, 0x01) [Fd, Fs1, Fs2, Fs3, Rm];
        FnmaddD "fnmadd.d" r(NMADD, 0, 0x01) [Fd, Fs1, Fs2, Fs3, Rm];
        FsgnjD "fsgnj.d" r(OP_FP, 0, 0x11) [Fd, Fs1, Fs2];
        FsgnjnD "fsgnjn.d" r(OP_FP, 1, 0x11) [Fd, Fs1, Fs2];
        FsgnjxD "fsgnjx.d" r(OP_FP, 2, 0x11) [Fd, Fs1, Fs2];
        FminD "fmin.d" r(OP_FP, 0, 0x15) [Fd, Fs1, Fs2];
        FmaxD "fmax.d" r(OP_FP, 1, 0x15) [Fd, Fs1, Fs2];
        FleD "fle.d" r(OP_FP, 0, 0x51) [Rd, Fs1, Fs2];
        FltD "flt.d" r(OP_FP, 1, 0x51) [Rd, Fs1, Fs2];
        FeqD "feq.d" r(OP_FP, 2, 0x51) [Rd, Fs1, Fs2];
        FclassD "fclass.d" unary(OP_FP, 1, 0x71, 0) [Rd, Fs1];
        FcvtWD "fcvt.w.d" unary(OP_FP, 0, 0x61, 0) [Rd, Fs1, Rm];
        FcvtWuD "fcvt.wu.d" unary(OP_FP, 0, 0x61, 1) [Rd, Fs1, Rm];
        FcvtLD "fcvt.l.d" unary(OP_FP, 0, 0x61, 2) [Rd, Fs1, Rm];
        FcvtLuD "fcvt.lu.d" unary(OP_FP, 0, 0x61, 3) [Rd, Fs1, Rm];
        FcvtDW "fcvt.d.w" unary(OP_FP, 0, 0x69, 0) [Fd, Rs1, Rm];
        FcvtDWu "fcvt.d.wu" unary(OP_FP, 0, 0x69, 1) [Fd, Rs1, Rm];
        FcvtDL "fcvt.d.l" unary(OP_FP, 0, 0x69, 2) [Fd, Rs1, Rm];
        FcvtDLu "fcvt.d.lu" unary(OP_FP, 0, 0x69, 3) [Fd, Rs1, Rm];
        FmvXD "fmv.x.d" unary(OP_FP, 0, 0x71, 0) [Rd, Fs1];
        FmvDX "fmv.d.x" unary(OP_FP, 0, 0x79, 0) [Fd, Rs1];
        FcvtSD "fcvt.s.d" unary(OP_FP, 0, 0x20, 1) [Fd, Fs1, Rm];
        FcvtDS "fcvt.d.s" unary(OP_FP, 0, 0x21, 0) [Fd, Fs1, Rm];
    }
    Zfhmin {
        Flh "flh" i(LOAD_FP, 1) [Fd, LoadAddress];
        Fsh "fsh" i(STORE_FP, 1) [Fs2, StoreAddress];
        FmvXH "fmv.x.h" unary(OP_FP, 0, 0x72, 0) [Rd, Fs1];
        FmvHX "fmv.h.x" unary(OP_FP, 0, 0x7a, 0) [Fd, Rs1];
        FcvtSH "fcvt.s.h" unary(OP_FP, 0, 0x20, 2) [Fd, Fs1, Rm];
        FcvtHS "fcvt.h.s" unary(OP_FP, 0, 0x22, 0) [Fd, Fs1, Rm];
        FcvtDH "fcvt.d.h" unary(OP_FP, 0, 0x21, 2) [Fd, Fs1, Rm];
        FcvtHD "fcvt.h.d" unary(OP_FP, 0, 0x22, 1) [Fd, Fs1, Rm];
    }
    Zfh {
        FaddH "fadd.h" r(OP_FP, 0, 0x02) [Fd, Fs1, Fs2, Rm];
        FsubH "fsub.h" r(OP_FP, 0, 0x06) [Fd, Fs1, Fs2, Rm];
        FmulH "fmul.h" r(OP_FP, 0, 0x0a) [Fd, Fs1, Fs2, Rm];
        FdivH "fdiv.h" r(OP_FP, 0, 0x0e) [Fd, Fs1, Fs2, Rm];
        FsqrtH "fsqrt.h" unary(OP_FP, 0, 0x2e, 0) [Fd, Fs1, Rm];
        FmaddH "fmadd.h" r(MADD, 0, 0x02) [Fd, Fs1, Fs2, Fs3, Rm];
        FmsubH "fmsub.h" r(MSUB, 0, 0x02) [Fd, Fs1, Fs2, Fs3, Rm];
        FnmsubH "fnmsub.h" r(NMSUB, 0, 0x02) [Fd, Fs1, Fs2, Fs3, Rm];
        FnmaddH "fnmadd.h" r(NMADD, 0, 0x02) [Fd, Fs1, Fs2, Fs3, Rm];
        FsgnjH "fsgnj.h" r(OP_FP, 0, 0x12) [Fd, Fs1, Fs2];
        FsgnjnH "fsgnjn.h" r(OP_FP, 1, 0x12) [Fd, Fs1, Fs2];
        FsgnjxH "fsgnjx.h" r(OP_FP, 2, 0x12) [Fd, Fs1, Fs2];
        FminH "fmin.h" r(OP_FP, 0, 0x16) [Fd, Fs1, Fs2];
        FmaxH "fmax.h" r(OP_FP, 1, 0x16) [Fd, Fs1, Fs2];
        FleH "fle.h" r(OP_FP, 0, 0x52) [Rd, Fs1, Fs2];
        FltH "flt.h" r(OP_FP, 1, 0x52) [Rd, Fs1, Fs2];
        FeqH "feq.h" r(OP_FP, 2, 0x52) [Rd, Fs1, Fs2];
        FclassH "fclass.h" unary(OP_FP, 1, 0x72, 0) [Rd, Fs1];
        FcvtWH "fcvt.w.h" unary(OP_FP, 0, 0x62, 0) [Rd, Fs1, Rm];
        FcvtWuH "fcvt.wu.h" unary(OP_FP, 0, 0x62, 1) [Rd, Fs1, Rm];
        FcvtLH "fcvt.l.h" unary(OP_FP, 0, 0x62, 2) [Rd, Fs1, Rm];
        FcvtLuH "fcvt.lu.h" unary(OP_FP, 0, 0x62, 3) [Rd, Fs1, Rm];
        FcvtHW "fcvt.h.w" unary(OP_FP, 0, 0x6a, 0) [Fd, Rs1, Rm];
        FcvtHWu "fcvt.h.wu" unary(OP_FP, 0, 0x6a, 1) [Fd, Rs1, Rm];
        FcvtHL "fcvt.h.l" unary(OP_FP, 0, 0x6a, 2) [Fd, Rs1, Rm];
        FcvtHLu "fcvt.h.lu" unary(OP_FP, 0, 0x6a, 3) [Fd, Rs1, Rm];
    }
    Zfa {
        FliS "fli.s" unary(OP_FP, 0, 0x78, 1) [Fd, FliIndex];
        FminmS "fminm.s" r(OP_FP, 2, 0x14) [Fd, Fs1, Fs2];
        FmaxmS "fmaxm.s" r(OP_FP, 3, 0x14) [Fd, Fs1, Fs2];
        FroundS "fround.s" unary(OP_FP, 0, 0x20, 4) [Fd, Fs1, Rm];
        FroundnxS "froundnx.s" unary(OP_FP, 0, 0x20, 5) [Fd, Fs1, Rm];
        FleqS "fleq.s" r(OP_FP, 4, 0x50) [Rd, Fs1, Fs2];
        FltqS "fltq.s" r(OP_FP, 5, 0x50) [Rd, Fs1, Fs2];
        FliD "fli.d" unary(OP_FP, 0, 0x79, 1) [Fd, FliIndex];
        FminmD "fminm.d" r(OP_FP, 2, 0x15) [Fd, Fs1, Fs2];
        FmaxmD "fmaxm.d" r(OP_FP, 3, 0x15) [Fd, Fs1, Fs2];
        FroundD "fround.d" unary(OP_FP, 0, 0x21, 4) [Fd, Fs1, Rm];
        FroundnxD "froundnx.d" unary(OP_FP, 0, 0x21, 5) [Fd, Fs1, Rm];
        FleqD "fleq.d" r(OP_FP, 4, 0x51) [Rd, Fs1, Fs2];
        FltqD "fltq.d" r(OP_FP, 5, 0x51) [Rd, Fs1, Fs2];
        FliH "fli.h" unary(OP_FP, 0, 0x7a, 1) [Fd, FliIndex];
        FminmH "fminm.h" r(OP_FP, 2, 0x16) [Fd, Fs1, Fs2];
        FmaxmH "fmaxm.h" r(OP_FP, 3, 0x16) [Fd, Fs1, Fs2];
        FroundH "fround.h" unary(OP_FP, 0, 0x22, 4) [Fd, Fs1, Rm];
        FroundnxH "froundnx.h" unary(OP_FP, 0, 0x22, 5) [Fd, Fs1, Rm];
        FleqH "fleq.h" r(OP_FP, 4, 0x52) [Rd, Fs1, Fs2];
        FltqH "fltq.h" r(OP_FP, 5, 0x52) [Rd, Fs1, Fs2];
        FcvtmodWD "fcvtmod.w.d" unary(OP_FP, 1, 0x61, 8) [Rd, Fs1];
    }
    Zba {
        Sh1add "sh1add" r(OP, 2, 0x10) [Rd, Rs1, Rs2];
        Sh2add "sh2add" r(OP, 4, 0x10) [Rd, Rs1, Rs2];
        Sh3add "sh3add" r(OP, 6, 0x10) [Rd, Rs1, Rs2];
        AddUw "add.uw" r(OP_32, 0, 0x04) [Rd, Rs1, Rs2];
        Sh1addUw "sh1add.uw" r(OP_32, 2, 0x10) [Rd, Rs1, Rs2];
        Sh2addUw "sh2add.uw" r(OP_32, 4, 0x10) [Rd, Rs1, Rs2];
        Sh3addUw "sh3add.uw" r(OP_32, 6, 0x10) [Rd, Rs1, Rs2];
        SlliUw "slli.uw" r(OP_IMM_32, 1, 0x04) [Rd, Rs1, Shamt6];
    }
    Zbb {
        Andn "andn" r(OP, 7, 0x20) [Rd, Rs1, Rs2];
        Orn "orn" r(OP, 6, 0x20) [Rd, Rs1, Rs2];
        Xnor "xnor" r(OP, 4, 0x20) [Rd, Rs1, Rs2];
        Max "max" r(OP, 6, 0x05) [Rd, Rs1, Rs2];
        Maxu "maxu" r(OP, 7, 0x05) [Rd, Rs1, Rs2];
        Min "min" r(OP, 4, 0x05) [Rd, Rs1, Rs2];
        Minu "minu" r(OP, 5, 0x05) [Rd, Rs1, Rs2];
        Rol "rol" r(OP, 1, 0x30) [Rd, Rs1, Rs2];
        Ror "ror" r(OP, 5, 0x30) [Rd, Rs1, Rs2];
        Rori "rori" r(OP_IMM, 5, 0x30) [Rd, Rs1, Shamt6];
        Clz "clz" unary(OP_IMM, 1, 0x30, 0) [Rd, Rs1];
        Ctz "ctz" unary(OP_IMM, 1, 0x30, 1) [Rd, Rs1];
        Cpop "cpop" unary(OP_IMM, 1, 0x30, 2) [Rd, Rs1];
        SextB "sext.b" unary(OP_IMM, 1, 0x30, 4) [Rd, Rs1];
        SextH "sext.h" unary(OP_IMM, 1, 0x30, 5) [Rd, Rs1];
        OrcB "orc.b" unary(OP_IMM, 5, 0x14, 7) [Rd, Rs1];
        Rev8 "rev8" unary(OP_IMM, 5, 0x35, 24) [Rd, Rs1];
        ZextH "zext.h" unary(OP_32, 4, 0x04, 0) [Rd, Rs1];
        Clzw "clzw" unary(OP_IMM_32, 1, 0x30, 0) [Rd, Rs1];
        Ctzw "ctzw" unary(OP_IMM_32, 1, 0x30, 1) [Rd, Rs1];
        Cpopw "cpopw" unary(OP_IMM_32, 1, 0x30, 2) [Rd, Rs1];
        Rolw "rolw" r(OP_32, 1, 0x30) [Rd, Rs1, Rs2];
        Rorw "rorw" r(OP_32, 5, 0x30) [Rd, Rs1, Rs2];
        Roriw "roriw" r(OP_IMM_32, 5, 0x30) [Rd, Rs1, Shamt5];
    }
    Zbc {
        Clmul "clmul" r(OP, 1, 0x05) [Rd, Rs1, Rs2];
        Clmulr "clmulr" r(OP, 2, 0x05) [Rd, Rs1, Rs2];
        Clmulh "clmulh" r(OP, 3, 0x05) [Rd, Rs1, Rs2];
    }
    Zbs {
        Bclr "bclr" r(OP, 1, 0x24) [Rd, Rs1, Rs2];
        Bclri "bclri" r(OP_IMM, 1, 0x24) [Rd, Rs1, Shamt6];
        Bext "bext" r(OP, 5, 0x24) [Rd, Rs1, Rs2];
        Bexti "bexti" r(OP_IMM, 5, 0x24) [Rd, Rs1, Shamt6];
        Binv "binv" r(OP, 1, 0x34) [Rd, Rs1, Rs2];
        Binvi "binvi" r(OP_IMM, 1, 0x34) [Rd, Rs1, Shamt6];
        Bset "bset" r(OP, 1, 0x14) [Rd, Rs1, Rs2];
        Bseti "bseti" r(OP_IMM, 1, 0x14) [Rd, Rs1, Shamt6];
    }
    Zicond {
        CzeroEqz "czero.eqz" r(OP, 5, 0x07) [Rd, Rs1, Rs2];
        CzeroNez "czero.nez" r(OP, 7, 0x07) [Rd, Rs1, Rs2];
    }
    Zicbom {
        CboInval "cbo.inval" unary(MISC_MEM, 2, 0x00, 0) [Address];
        CboClean "cbo.clean" unary(MISC_MEM, 2, 0x00, 1) [Address];
        CboFlush "cbo.flush" unary(MISC_MEM, 2, 0x00, 2) [Address];
    }
    Zicboz {
        CboZero "cbo.zero" unary(MISC_MEM, 2, 0x00, 4) [Address];
    }
    Zawrs {
        WrsNto "wrs.nto" system(0x00d) [];
        WrsSto "wrs.sto" system(0x01d) [];
    }
    Privileged {
        Sret "sret" system(0x102) [];
        Wfi "wfi" system(0x105) [];
        Mret "mret" system(0x302) [];
        SfenceVma "sfence.vma" r(SYSTEM, 0, 0x09) [Rs1, Rs2];
    }
    Svinval {
        SinvalVma "sinval.vma" r(SYSTEM, 0, 0x0b) [Rs1, Rs2];
        SfenceWInval "sfence.w.inval" system(0x180) [];
        SfenceInvalIr "sfence.inval.ir" system(0x181) [];
        HinvalVvma "hinval.vvma" r(SYSTEM, 0, 0x13) [Rs1, Rs2];
        HinvalGvma "hinval.gvma" r(SYSTEM, 0, 0x33) [Rs1, Rs2];
    }
    H {
        HfenceVvma "hfence.vvma" r(SYSTEM, 0, 0x11) [Rs1, Rs2];
        HfenceGvma "hfence.gvma" r(SYSTEM, 0, 0x31) [Rs1, Rs2];
        HlvB "hlv.b" unary(SYSTEM, 4, 0x30, 0) [Rd, Address];
        HlvBu "hlv.bu" unary(SYSTEM, 4, 0x30, 1) [Rd, Address];
        HlvH "hlv.h" unary(SYSTEM, 4, 0x32, 0) [Rd, Address];
        HlvHu "hlv.hu" unary(SYSTEM, 4, 0x32, 1) [Rd, Address];
        HlvxHu "hlvx.hu" unary(SYSTEM, 4, 0x32, 3) [Rd, Address];
        HlvW "hlv.w" unary(SYSTEM, 4, 0x34, 0) [Rd, Address];
        HlvWu "hlv.wu" unary(SYSTEM, 4, 0x34, 1) [Rd, Address];
        HlvxWu "hlvx.wu" unary(SYSTEM, 4, 0x34, 3) [Rd, Address];
        HlvD "hlv.d" unary(SYSTEM, 4, 0x36, 0) [Rd, Address];
        HsvB "hsv.b" r(SYSTEM, 4, 0x31) [Rs2, Address];
        HsvH "hsv.h" r(SYSTEM, 4, 0x33) [Rs2, Address];
        HsvW "hsv.w" r(SYSTEM, 4, 0x35) [Rs2, Address];
        HsvD "hsv.d" r(SYSTEM, 4, 0x37) [Rs2, Address];
    }
}
