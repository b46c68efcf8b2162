//! Floating-point instructions, translated and interpreted: the same results and flags, to the bit.
//! `RVISOR_FLOAT_CASES` sets how many for each operation and rounding mode.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use common::{Pair, RAM};
use rvisor_isa::{Instruction, Op, csr, encode};

/// Which register file an operation writes, and the one of its first operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    FloatToFloat,
    FloatToInteger,
    IntegerToFloat,
    /// The first operand is a number.
    Immediate,
}

/// Whether its operands are binary32, whether it has a rounding mode.
#[derive(Clone, Copy, Debug)]
struct Operation(Op, Kind, bool, bool);

macro_rules! operations {
    ($($kind:ident $rounds:literal: $($single:ident $double:ident)*;)*) => {
        &[$($(
            Operation(Op::$single, Kind::$kind, true, $rounds),
            Operation(Op::$double, Kind::$kind, false, $rounds),
        )*)*]
    };
}

const OPERATIONS: &[Operation] = operations! {
    FloatToFloat true: FaddS FaddD FsubS FsubD FmulS FmulD FdivS FdivD FsqrtS FsqrtD FmaddS FmaddD
        FmsubS FmsubD FnmsubS FnmsubD FnmaddS FnmaddD FroundS FroundD FroundnxS FroundnxD FcvtDS FcvtSD;
    FloatToFloat false: FsgnjS FsgnjD FsgnjnS FsgnjnD FsgnjxS FsgnjxD FminS FminD FmaxS FmaxD
        FminmS FminmD FmaxmS FmaxmD;
    FloatToInteger true: FcvtWS FcvtWD FcvtWuS FcvtWuD FcvtLS FcvtLD FcvtLuS FcvtLuD;
    FloatToInteger false: FeqS FeqD FltS FltD FleS FleD FltqS FltqD FleqS FleqD FclassS FclassD FmvXW FmvXD;
    IntegerToFloat true: FcvtSW FcvtDW FcvtSWu FcvtDWu FcvtSL FcvtDL FcvtSLu FcvtDLu;
    IntegerToFloat false: FmvWX FmvDX;
    Immediate false: FliS FliD;
};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Bits with long runs of equal ones, short ones, or none at all.
    fn pattern(&mut self) -> u64 {
        let shift = self.below(64) as u32;
        match self.below(6) {
            0 => 1 << shift,
            1 => u64::MAX << shift,
            2 => u64::MAX >> shift,
            3 => self.next() & self.next() & self.next(),
            4 => self.next() << shift,
            _ => self.next(),
        }
    }

    /// A number of a format, leaning towards the edges.
    fn number(&mut self, single: bool) -> u64 {
        let (bits, fraction_bits, bias) = if single { (32, 23, 127) } else { (64, 52, 1023) };
        let fraction = if self.below(6) == 0 { 0 } else { self.pattern() & ((1 << fraction_bits) - 1) };
        let exponents = 2 * bias + 2;
        let exponent = match self.below(8) {
            0 => 0,
            1 => exponents - 1,
            2 => self.below(4),
            3 => exponents - 1 - self.below(4),
            4 => bias + self.below(140) - 70,
            5 => bias + self.below(3) - 1,
            6 => bias + self.one_of(&[29, 30, 31, 32, 62, 63, 64]),
            _ => self.below(exponents),
        };
        self.below(2) << (bits - 1) | exponent << fraction_bits | fraction
    }

    /// A number as a register holds it, sometimes not boxed.
    fn register(&mut self, single: bool) -> u64 {
        let number = self.number(single);
        match self.below(16) {
            0 if single => number | self.next() << 32,
            _ if single => number | 0xffff_ffff << 32,
            _ => number,
        }
    }

    /// The same, but often close to another, or to its negative.
    fn near(&mut self, other: u64, single: bool) -> u64 {
        let sign = if single { 31 } else { 63 };
        match self.below(5) {
            0 => other,
            1 => other ^ 1 << sign,
            2 => other.wrapping_add(self.below(5)).wrapping_sub(2) ^ self.below(2) << sign,
            _ => self.register(single),
        }
    }

    /// The product of two, roughly.
    fn near_product(&mut self, [a, b]: [u64; 2], single: bool) -> u64 {
        let product = if single {
            let product = f32::from_bits(a as u32) * f32::from_bits(b as u32);
            u64::from(product.to_bits()) | 0xffff_ffff << 32
        } else {
            (f64::from_bits(a) * f64::from_bits(b)).to_bits()
        };
        self.near(product, single)
    }
}

const CODE: u64 = RAM;
const HANDLER: u64 = RAM + 0xf00;
const OPERANDS: u64 = RAM + 0x10_0000;
const RESULTS: u64 = RAM + 0x20_0000;
/// Bytes of operands, and of results, of one case.
const ROW: i32 = 32;

// Registers of the programs.
const FROM: u8 = 5;
const TO: u8 = 6;
const LEFT: u8 = 7;
const FLAGS: u8 = 30;

fn i(op: Op, rd: u8, rs1: u8, imm: i32) -> Instruction {
    Instruction { rd, rs1, imm, ..Instruction::new(op, 4) }
}

fn s(op: Op, rs2: u8, rs1: u8, imm: i32) -> Instruction {
    Instruction { rs2, rs1, imm, ..Instruction::new(op, 4) }
}

fn assemble(code: &[Instruction]) -> Vec<u32> {
    code.iter().map(|i| encode(i).unwrap_or_else(|| panic!("{i:?}"))).collect()
}

fn has_third_operand(op: Op) -> bool {
    use Op::*;
    matches!(op, FmaddS | FmaddD | FmsubS | FmsubD | FnmsubS | FnmsubD | FnmaddS | FnmaddD)
}

fn has_second_operand(op: Op) -> bool {
    use Op::*;
    let is_binary = matches!(
        op,
        FaddS
            | FaddD
            | FsubS
            | FsubD
            | FmulS
            | FmulD
            | FdivS
            | FdivD
            | FsgnjS
            | FsgnjD
            | FsgnjnS
            | FsgnjnD
            | FsgnjxS
            | FsgnjxD
            | FminS
            | FminD
            | FmaxS
            | FmaxD
            | FminmS
            | FminmD
            | FmaxmS
            | FmaxmD
            | FeqS
            | FeqD
            | FltS
            | FltD
            | FleS
            | FleD
            | FltqS
            | FltqD
            | FleqS
            | FleqD
    );
    is_binary || has_third_operand(op)
}

/// The operation on the given registers.
fn instruction(
    Operation(op, kind, _, rounds): Operation,
    f: [u8; 4],
    x: [u8; 2],
    mode: u8,
    immediate: u8,
) -> Instruction {
    Instruction {
        rd: if kind == Kind::FloatToInteger { x[0] } else { f[0] },
        rs1: match kind {
            Kind::Immediate => immediate,
            Kind::IntegerToFloat => x[1],
            _ => f[1],
        },
        rs2: if has_second_operand(op) { f[2] } else { 0 },
        rs3: if has_third_operand(op) { f[3] } else { 0 },
        aux: if rounds { mode } else { 0 },
        ..Instruction::new(op, 4)
    }
}

/// A loop over rows of operands: each operation starts without flags.
fn program(operation: Instruction, f: [u8; 4], x: [u8; 2]) -> Vec<Instruction> {
    let fflags = i32::from(csr::FFLAGS);
    let mut code = vec![
        i(Op::Csrrwi, 0, 0, fflags),
        i(Op::Fld, f[1], FROM, 0),
        i(Op::Fld, f[2], FROM, 8),
        i(Op::Fld, f[3], FROM, 16),
        i(Op::Ld, x[1], FROM, 24),
        operation,
        s(Op::Fsd, f[0], TO, 0),
        s(Op::Sd, x[0], TO, 8),
        i(Op::Csrrs, FLAGS, 0, fflags),
        s(Op::Sd, FLAGS, TO, 16),
        i(Op::Addi, FROM, FROM, ROW),
        i(Op::Addi, TO, TO, ROW),
        i(Op::Addi, LEFT, LEFT, -1),
    ];
    let back = -4 * code.len() as i32;
    code.push(Instruction { rs1: LEFT, rs2: 0, imm: back, ..Instruction::new(Op::Bne, 4) });
    code.push(Instruction::new(Op::Wfi, 4));
    code
}

fn cases() -> usize {
    let cases = std::env::var("RVISOR_FLOAT_CASES").map_or(256, |count| count.parse().expect("a number"));
    cases.min(0x10_0000 / ROW as usize)
}

fn rows(random: &mut Random, single: bool, count: usize) -> Vec<u8> {
    let mut rows = Vec::new();
    for _ in 0..count {
        let a = random.register(single);
        let b = random.near(a, single);
        let c = random.near_product([a, b], single);
        rows.extend([a, b, c, random.pattern()].into_iter().flat_map(u64::to_le_bytes));
    }
    rows
}

fn check(pair: &mut Pair, random: &mut Random, operation: Operation, frm: u8, mode: u8) {
    let f = [0; 4].map(|_| random.below(32) as u8);
    let x = [random.one_of(&[0, 10, 11, 28, 29]), random.one_of(&[0, 12, 13, 20, 31])];
    let instruction = instruction(operation, f, x, mode, random.below(32) as u8);
    let code = assemble(&program(instruction, f, x));
    let count = cases();
    let rows = rows(random, operation.2, count);
    pair.both(|machine| {
        machine.write_code(CODE, &code);
        machine.write_code(HANDLER, &assemble(&[Instruction::new(Op::Wfi, 4)]));
        machine.write(OPERANDS, &rows);
        let hart = machine.hart();
        hart.csr.frm = frm;
        hart.csr.mtvec = HANDLER;
        hart.x[usize::from(FROM)] = OPERANDS;
        hart.x[usize::from(TO)] = RESULTS;
        hart.x[usize::from(LEFT)] = count as u64;
        machine.start(CODE);
    });
    pair.run(20 * count as u64 + 100);
    let results = [&pair.translated, &pair.interpreted].map(|machine| machine.read(RESULTS, rows.len()));
    let row = ROW as usize;
    for number in 0..count {
        let [translated, interpreted] = [0, 1].map(|which| &results[which][number * row..][..24]);
        assert_eq!(
            translated,
            interpreted,
            "{instruction:?}, frm {frm}, of {:#x?}",
            rows[number * row..][..row]
                .chunks(8)
                .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn operations_agree_in_all_rounding_modes() {
    let mut pair = Pair::new();
    let random = &mut Random(1);
    for &operation in OPERATIONS {
        for frm in 0..5 {
            check(&mut pair, random, operation, frm, 7);
        }
        for mode in 0..5 {
            let frm = random.below(5) as u8;
            check(&mut pair, random, operation, frm, mode);
        }
    }
}

#[test]
fn sequences_agree() {
    const REGISTERS: [u8; 6] = [0, 3, 10, 11, 20, 31];
    let mut pair = Pair::new();
    let random = &mut Random(2);
    for round in 0..cases() * 16 {
        let mut code: Vec<_> = (0..40)
            .map(|_| {
                let operation = random.one_of(OPERATIONS);
                let f = [0; 4].map(|_| random.one_of(&REGISTERS));
                let x = [0; 2].map(|_| random.one_of(&[0, 10, 11, 28]));
                let mode = if random.below(4) == 0 { random.below(5) as u8 } else { 7 };
                let place = 8 * random.below(4) as i32;
                match random.below(10) {
                    0 => i(Op::Flw, f[0], FROM, place),
                    1 => i(Op::Fld, f[0], FROM, place),
                    2 => s(Op::Fsw, f[0], FROM, place),
                    3 => s(Op::Fsd, f[0], FROM, place),
                    _ => instruction(operation, f, x, mode, random.below(32) as u8),
                }
            })
            .collect();
        code.push(Instruction::new(Op::Wfi, 4));
        let code = assemble(&code);
        let rows = rows(random, round % 2 == 0, 1);
        let single = random.below(2) == 0;
        let f = [0; 32].map(|_: u64| random.register(single));
        let frm = random.below(9) as u8 % 5;
        let address = CODE + 256 * (round as u64 % 0x800);
        pair.both(|machine| {
            machine.write_code(address, &code);
            machine.write(OPERANDS, &rows);
            let hart = machine.hart();
            hart.csr.frm = frm;
            hart.csr.fflags = 0;
            hart.f = f;
            hart.x[usize::from(FROM)] = OPERANDS;
            machine.start(address);
        });
        pair.run(100);
        let memory = [&pair.translated, &pair.interpreted].map(|machine| machine.read(OPERANDS, 32));
        assert_eq!(memory[0], memory[1]);
    }
}
