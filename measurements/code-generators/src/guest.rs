//! The guest code that is measured.

use rvisor_isa::{Instruction, Op, decode, encode};

use crate::state::Guest;

const RA: u8 = 1;
const SP: u8 = 2;
const T0: u8 = 5;
const T1: u8 = 6;
const T2: u8 = 7;
const S0: u8 = 8;
const S1: u8 = 9;
const A0: u8 = 10;
const A1: u8 = 11;
const A2: u8 = 12;
const A3: u8 = 13;
const A4: u8 = 14;
const A5: u8 = 15;
const A6: u8 = 16;
const A7: u8 = 17;
const S2: u8 = 18;
const S3: u8 = 19;
const S4: u8 = 20;
const S5: u8 = 21;
const T3: u8 = 28;
const T4: u8 = 29;

/// A piece of code and what it starts from.
pub struct Piece {
    pub name: &'static str,
    pub code: Vec<Instruction>,
    pub registers: Vec<(u8, u64)>,
    /// Instructions that a run executes.
    pub executed: u64,
}

/// Of three registers.
fn r(op: Op, rd: u8, rs1: u8, rs2: u8) -> Instruction {
    Instruction { rd, rs1, rs2, ..Instruction::new(op, 4) }
}

/// With an immediate; loads too.
fn i(op: Op, rd: u8, rs1: u8, imm: i32) -> Instruction {
    Instruction { rd, rs1, imm, ..Instruction::new(op, 4) }
}

/// Stores and branches.
fn s(op: Op, rs1: u8, rs2: u8, imm: i32) -> Instruction {
    Instruction { rs1, rs2, imm, ..Instruction::new(op, 4) }
}

/// The instructions as the decoder makes them.
fn decoded(code: &[Instruction]) -> Vec<Instruction> {
    let again = |i: &Instruction| encode(i).and_then(decode).expect("the instruction exists");
    code.iter().map(again).collect()
}

/// A superblock as compilers make them: a prologue, a look-up in a table, checks that don't branch, some
/// arithmetic in both widths, and results stored. A quarter are loads and stores.
pub fn superblock() -> Piece {
    let code = decoded(&[
        i(Op::Addi, SP, SP, -64),
        s(Op::Sd, SP, S0, 48),
        s(Op::Sd, SP, S2, 40),
        i(Op::Addi, S0, A0, 0),
        i(Op::Ld, A5, S0, 8),
        i(Op::Lw, A4, S0, 16),
        s(Op::Beq, A5, 0, 400),
        i(Op::Lbu, A3, A1, 3),
        s(Op::Bgeu, A3, T4, 320),
        i(Op::Srli, T0, A5, 7),
        r(Op::Xor, T0, T0, A5),
        i(Op::Andi, A2, T0, 0x7f8),
        r(Op::Add, A2, A2, A1),
        i(Op::Ld, T1, A2, 0),
        i(Op::Slliw, A4, A4, 3),
        i(Op::Addiw, A4, A4, 17),
        r(Op::Addw, T2, A4, A3),
        r(Op::Sub, S2, A5, T1),
        s(Op::Beq, S2, 0, 360),
        i(Op::Lhu, A6, A2, 6),
        r(Op::Sltu, A7, A6, A4),
        r(Op::Or, A7, A7, T2),
        i(Op::Slli, T3, A7, 32),
        i(Op::Srli, T3, T3, 32),
        r(Op::And, S1, T3, A5),
        r(Op::Mul, S1, S1, T0),
        i(Op::Lui, RA, 0, 0x1234_5000),
        i(Op::Xori, RA, RA, -273),
        r(Op::Add, A0, S1, RA),
        s(Op::Sw, S0, A4, 20),
        s(Op::Sd, A2, A0, 0),
        r(Op::Sll, T1, A0, A3),
        i(Op::Sraiw, S2, T1, 5),
        s(Op::Sb, S0, S2, 31),
        r(Op::Subw, A1, S2, T2),
        r(Op::Slt, A3, A1, S1),
        i(Op::Ori, A3, A3, 64),
        i(Op::Addi, A0, A0, 1),
        i(Op::Addi, A7, 0, 42),
        s(Op::Beq, SP, 0, -800),
    ]);
    let registers = vec![
        (SP, Guest::MEMORY + 0x1000),
        (A0, Guest::MEMORY + 0x40),
        (A1, Guest::MEMORY + 0x1800),
        (S0, 0x1122_3344_5566_7788),
        (S2, 0x99aa_bbcc_ddee_ff00),
        (T4, 256),
    ];
    let executed = code.len() as u64;
    Piece { name: "superblock", code, registers, executed }
}

/// Times that a loop goes round.
const ROUNDS: u64 = 100_000;

/// Registers that have a place in a host register, and such that don't.
const PINNED: [u8; 6] = [A0, A1, A2, A3, A4, A5];
const SLOTS: [u8; 6] = [S2, S3, S4, S5, T0, T1];

fn one_loop(name: &'static str, code: &[Instruction], registers: Vec<(u8, u64)>) -> Piece {
    let code = decoded(code);
    let executed = ROUNDS * code.len() as u64;
    Piece { name, code, registers, executed }
}

/// Pseudo-random numbers and their sum.
fn arithmetic(name: &'static str, [number, scratch, sum, low, count, _]: [u8; 6]) -> Piece {
    let code = [
        i(Op::Slli, scratch, number, 13),
        r(Op::Xor, number, number, scratch),
        i(Op::Srli, scratch, number, 7),
        r(Op::Xor, number, number, scratch),
        i(Op::Slli, scratch, number, 17),
        r(Op::Xor, number, number, scratch),
        r(Op::Add, sum, sum, number),
        r(Op::Addw, low, low, number),
        i(Op::Addi, count, count, -1),
        s(Op::Bne, count, 0, -36),
    ];
    one_loop(name, &code, vec![(number, 0x1234_5678_9abc_def1), (count, ROUNDS)])
}

/// A running hash over the memory, each word replaced by it.
fn memory(name: &'static str, [at, base, word, hash, count, mask]: [u8; 6]) -> Piece {
    let code = [
        r(Op::And, word, at, mask),
        r(Op::Add, base, base, word),
        i(Op::Lw, word, base, 0),
        r(Op::Xor, hash, hash, word),
        i(Op::Slliw, word, hash, 5),
        r(Op::Addw, hash, hash, word),
        s(Op::Sw, base, hash, 0),
        r(Op::And, word, at, mask),
        r(Op::Sub, base, base, word),
        i(Op::Addi, at, at, 4),
        i(Op::Addi, count, count, -1),
        s(Op::Bne, count, 0, -44),
    ];
    let mask_value = Guest::BYTES as u64 - 4;
    one_loop(name, &code, vec![(base, Guest::MEMORY), (count, ROUNDS), (mask, mask_value)])
}

/// Each loop twice: with guest registers that the translator keeps in host registers, and with others.
pub fn loops() -> [Piece; 4] {
    [
        arithmetic("arithmetic, pinned registers", PINNED),
        arithmetic("arithmetic, other registers", SLOTS),
        memory("memory, pinned registers", PINNED),
        memory("memory, other registers", SLOTS),
    ]
}
