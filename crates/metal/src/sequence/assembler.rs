//! Instructions in a row, with labels and a pool of constants behind them. Addresses count from the hart's context.

use alloc::vec::Vec;

use rvisor_isa::{Instruction, Op, encode};

/// A place that is jumped to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// What an instruction refers to.
#[derive(Clone, Copy)]
enum Target {
    Label(Label),
    /// A constant's place, as the two halves that `auipc` and the next instruction add.
    High(usize),
    Low(usize),
}

/// Code that is being made.
pub struct Assembler {
    start: i64,
    code: Vec<Instruction>,
    references: Vec<(usize, Target)>,
    labels: Vec<Option<usize>>,
    pool: Vec<u64>,
}

impl Assembler {
    /// Code that will stand at `start`, a multiple of 8.
    pub fn new(start: i64) -> Self {
        Self { start, code: Vec::new(), references: Vec::new(), labels: Vec::new(), pool: Vec::new() }
    }

    /// Where the next instruction will stand.
    pub fn position(&self) -> i64 {
        self.start + 4 * self.code.len() as i64
    }

    /// `op rd, rs1, rs2` or `op rd, rs1, imm` or `op rs2, imm(rs1)`: fields that it doesn't have are zero.
    pub fn put(&mut self, op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) {
        self.put_instruction(Instruction { rd, rs1, rs2, imm, ..Instruction::new(op, 4) });
    }

    /// Any instruction.
    pub fn put_instruction(&mut self, instruction: Instruction) {
        self.code.push(Instruction { length: 4, ..instruction });
    }

    /// A label that is placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places a label here.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    /// A branch.
    pub fn branch(&mut self, op: Op, rs1: u8, rs2: u8, to: Label) {
        self.references.push((self.code.len(), Target::Label(to)));
        self.put(op, 0, rs1, rs2, 0);
    }

    /// A jump.
    pub fn jump(&mut self, to: Label) {
        self.references.push((self.code.len(), Target::Label(to)));
        self.put(Op::Jal, 0, 0, 0, 0);
    }

    /// A jump to an address, by way of `register`; with a link in it, if `is_call`.
    pub fn jump_far(&mut self, register: u8, to: i64, is_call: bool) {
        let (high, low) = halves(to - self.position());
        self.put(Op::Auipc, register, 0, 0, high);
        self.put(Op::Jalr, if is_call { register } else { 0 }, register, 0, low);
    }

    /// An address to a register.
    pub fn address(&mut self, register: u8, of: i64) {
        let (high, low) = halves(of - self.position());
        self.put(Op::Auipc, register, 0, 0, high);
        self.put(Op::Addi, register, register, 0, low);
    }

    /// Adds a constant; returns its place in the pool.
    pub fn constant(&mut self, value: u64) -> usize {
        self.pool.push(value);
        self.pool.len() - 1
    }

    /// The address of a constant to a register.
    pub fn address_of_constant(&mut self, register: u8, place: usize) {
        self.refer_to_constant(
            Instruction { rd: register, rs1: register, ..Instruction::new(Op::Addi, 4) },
            place,
        );
    }

    /// A constant to a register.
    pub fn load_constant(&mut self, register: u8, value: u64) {
        let place = self.constant(value);
        self.refer_to_constant(
            Instruction { rd: register, rs1: register, ..Instruction::new(Op::Ld, 4) },
            place,
        );
    }

    fn refer_to_constant(&mut self, second: Instruction, place: usize) {
        self.references.push((self.code.len(), Target::High(place)));
        self.put(Op::Auipc, second.rd, 0, 0, 0);
        self.references.push((self.code.len(), Target::Low(place)));
        self.put_instruction(second);
    }

    /// The code, in words, with the constants at its end. `None` where a jump is too far.
    pub fn finish(mut self) -> Option<Vec<u32>> {
        if !self.code.len().is_multiple_of(2) {
            self.put(Op::Addi, 0, 0, 0, 0);
        }
        let pool = self.code.len();
        for (at, target) in core::mem::take(&mut self.references) {
            let distance = |to: usize, from: usize| 4 * (to as i64 - from as i64);
            self.code[at].imm = match target {
                Target::Label(label) => distance(self.labels[label.0]?, at) as i32,
                Target::High(place) => halves(distance(pool + 2 * place, at)).0,
                Target::Low(place) => halves(distance(pool + 2 * place, at - 1)).1,
            };
        }
        let mut words: Vec<u32> = self.code.iter().map(encode).collect::<Option<_>>()?;
        words.extend(self.pool.iter().flat_map(|value| [*value as u32, (*value >> 32) as u32]));
        Some(words)
    }
}

/// What `auipc` adds, and what is left for the instruction behind.
fn halves(distance: i64) -> (i32, i32) {
    let high = (distance + 0x800) & !0xfff;
    (high as i32, (distance - high) as i32)
}
