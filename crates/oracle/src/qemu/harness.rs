//! The program that runs a batch of cases.

use rvisor_isa::csr::*;
use rvisor_isa::{Instruction, Op, encode};

use super::guest::{AFTER, BEFORE};
use super::layout::{CASES, HARNESS, PMP_ADDRESSES, field};

/// The test finisher and the value that ends the batch.
pub const FINISHER: u64 = 0x10_0000;
/// See [`FINISHER`].
pub const PASS: u64 = 0x5555;
/// The ACLINT's `mtimecmp`, which is 0 after reset: MTIP would be pending.
pub const TIMER: u64 = 0x200_4000;
/// What the landing area is full of: `c.ebreak`.
pub const LANDED: u16 = 0x9002;

/// Holds the address of the case, in the program and (in `mscratch`) while the case runs.
const CASE: u8 = 31;

struct Assembler {
    words: Vec<u32>,
}

impl Assembler {
    fn emit(&mut self, instruction: Instruction) {
        let word = encode(&instruction);
        assert!(word.is_some(), "{instruction:?}");
        self.words.extend(word);
    }

    fn rri(&mut self, op: Op, rd: u8, rs1: u8, imm: i32) {
        self.emit(Instruction { rd, rs1, imm, ..Instruction::new(op, 4) });
    }

    fn store(&mut self, op: Op, rs2: u8, rs1: u8, offset: u64) {
        self.emit(Instruction { rs2, rs1, imm: offset as i32, ..Instruction::new(op, 4) });
    }

    fn load(&mut self, op: Op, rd: u8, rs1: u8, offset: u64) {
        self.rri(op, rd, rs1, offset as i32);
    }

    fn plain(&mut self, op: Op) {
        self.emit(Instruction::new(op, 4));
    }

    fn write_csr(&mut self, number: u16, register: u8) {
        self.rri(Op::Csrrw, 0, register, number.into());
    }

    fn read_csr(&mut self, register: u8, number: u16) {
        self.rri(Op::Csrrs, register, 0, number.into());
    }

    /// Loads a case's field into a CSR, by way of `x3`.
    fn set_csr_from_case(&mut self, number: u16, offset: u64) {
        self.load(Op::Ld, 3, CASE, offset);
        self.write_csr(number, 3);
    }

    /// Loads 32 bits, zero-extended.
    fn load_value(&mut self, register: u8, value: u64) {
        let low = ((value as i32) << 20) >> 20;
        self.rri(Op::Lui, register, 0, (value as i32).wrapping_sub(low));
        self.rri(Op::Addiw, register, register, low);
        self.rri(Op::Slli, register, register, 32);
        self.rri(Op::Srli, register, register, 32);
    }

    fn address(&self) -> u64 {
        HARNESS + 4 * self.words.len() as u64
    }
}

/// The instructions at the start of RAM, where execution begins.
pub fn entry() -> Vec<u32> {
    let mut assembler = Assembler { words: Vec::new() };
    assembler.load_value(5, HARNESS);
    assembler.rri(Op::Jalr, 0, 5, 0);
    assembler.words
}

/// The program for `cases` cases.
pub fn program(cases: u64, hypervisor: bool) -> Vec<u32> {
    // The handler's address is known when the part before it is; its length doesn't depend on the address.
    let (_, handler) = assemble(cases, hypervisor, HARNESS);
    assemble(cases, hypervisor, handler).0
}

fn assemble(cases: u64, hypervisor: bool, handler: u64) -> (Vec<u32>, u64) {
    let mut assembler = Assembler { words: Vec::new() };
    set_up(&mut assembler, hypervisor, handler);
    let next = assembler.address();
    enter(&mut assembler, hypervisor);
    let handler = assembler.address();
    leave(&mut assembler, hypervisor, next, CASES + cases * field::SIZE);
    (assembler.words, handler)
}

/// Interrupts of S-mode.
const DELEGATED: i32 = (mip::SSIP | mip::STIP | mip::SEIP) as i32;

fn set_up(assembler: &mut Assembler, hypervisor: bool, handler: u64) {
    assembler.load_value(5, handler);
    assembler.write_csr(MTVEC, 5);
    for (number, address) in (PMPADDR0..).zip(PMP_ADDRESSES) {
        assembler.load_value(5, address);
        assembler.write_csr(number, 5);
    }
    assembler.rri(Op::Addi, 5, 0, -1);
    assembler.write_csr(PMPADDR0 + 7, 5);
    assembler.write_csr(STIMECMP, 5);
    assembler.load_value(6, TIMER);
    assembler.store(Op::Sd, 5, 6, 0);
    for number in [MEDELEG, MIDELEG, MIE, SEPC] {
        assembler.write_csr(number, 0);
    }
    // QEMU shows in VS-mode's `sip` and `sie` what is delegated of HS-mode's.
    assembler.rri(Op::Addi, 5, 0, DELEGATED);
    if hypervisor {
        assembler.write_csr(MIDELEG, 5);
    }
    assembler.load_value(CASE, CASES);
}

/// Loads everything from the case and goes to its instruction.
fn enter(assembler: &mut Assembler, hypervisor: bool) {
    // A reservation that the last case left must not last.
    assembler.emit(Instruction { rs1: CASE, ..Instruction::new(Op::ScD, 4) });
    assembler.write_csr(MSCRATCH, CASE);
    assembler.load(Op::Ld, 2, CASE, field::CODE);
    assembler.load(Op::Ld, 3, CASE, field::X);
    for half in 0..4 {
        assembler.store(Op::Sh, 3, 2, 2 * half);
        assembler.rri(Op::Srli, 3, 3, 16);
    }
    assembler.plain(Op::FenceI);
    assembler.load(Op::Ld, 2, CASE, field::ENTRIES_AT);
    for offset in [0, 8] {
        assembler.load(Op::Ld, 3, CASE, field::ENTRIES + offset);
        assembler.store(Op::Sd, 3, 2, offset);
    }
    assembler.rri(Op::Lui, 3, 0, mstatus::FS as i32);
    assembler.write_csr(MSTATUS, 3);
    for register in 0..32 {
        assembler.load(Op::Fld, register, CASE, field::F + 8 * u64::from(register));
    }
    assembler.set_csr_from_case(FCSR, field::FCSR);
    assembler.set_csr_from_case(MENVCFG, field::MENVCFG);
    assembler.write_csr(SENVCFG, 3);
    assembler.set_csr_from_case(PMPCFG0, field::PMPCFG);
    assembler.set_csr_from_case(SATP, field::SATP);
    assembler.set_csr_from_case(MEPC, field::PC);
    assembler.plain(Op::SfenceVma);
    if hypervisor {
        enter_guest(assembler);
    }
    assembler.set_csr_from_case(MSTATUS, field::MSTATUS);
    for register in 1..32 {
        assembler.load(Op::Ld, register, CASE, field::X + 8 * u64::from(register));
    }
    assembler.plain(Op::Mret);
}

/// The same for what the hypervisor extension adds.
fn enter_guest(assembler: &mut Assembler) {
    for (number, offset) in BEFORE.into_iter().zip((field::BEFORE..).step_by(8)) {
        assembler.set_csr_from_case(number, offset);
    }
    // What other cases left.
    for number in [SCAUSE, STVAL, MTVAL2, MTINST] {
        assembler.write_csr(number, 0);
    }
    assembler.write_csr(SSCRATCH, CASE);
    assembler.load(Op::Ld, 2, CASE, field::SECOND_AT);
    for offset in [0, 8] {
        assembler.load(Op::Ld, 3, CASE, field::SECOND + offset);
        assembler.store(Op::Sd, 3, 2, offset);
    }
    assembler.plain(Op::HfenceGvma);
    assembler.plain(Op::HfenceVvma);
}

/// Keeps what the extension's CSRs hold, and brings the program's own into order.
fn leave_guest(assembler: &mut Assembler) {
    for (number, offset) in AFTER.into_iter().zip((field::AFTER..).step_by(8)) {
        assembler.read_csr(1, number);
        assembler.store(Op::Sd, 1, CASE, offset);
    }
    for number in [MIE, HVIP, MIP] {
        assembler.write_csr(number, 0);
    }
    assembler.load(Op::Ld, 2, CASE, field::SECOND_AT);
    for offset in [0, 8] {
        assembler.load(Op::Ld, 1, 2, offset);
        assembler.store(Op::Sd, 1, CASE, field::OUT_SECOND + offset);
    }
}

/// The trap handler: stores everything to the case and goes to the next one.
fn leave(assembler: &mut Assembler, hypervisor: bool, next: u64, end: u64) {
    assembler.rri(Op::Csrrw, CASE, CASE, MSCRATCH.into());
    // No memory access before MPRV is clear.
    assembler.write_csr(SSCRATCH, 30);
    assembler.rri(Op::Lui, 30, 0, mstatus::MPRV as i32);
    assembler.rri(Op::Csrrc, 30, 30, MSTATUS.into());
    assembler.store(Op::Sd, 30, CASE, field::OUT_MSTATUS);
    let x = |register: u64| field::OUT_X + 8 * register;
    for register in 1..30 {
        assembler.store(Op::Sd, register, CASE, x(register.into()));
    }
    if hypervisor {
        leave_guest(assembler);
    }
    for (number, offset) in [
        (SSCRATCH, x(30)),
        (MSCRATCH, x(31)),
        (MCAUSE, x(0)),
        (MEPC, field::OUT_MEPC),
        (MTVAL, field::OUT_MTVAL),
    ] {
        assembler.read_csr(1, number);
        assembler.store(Op::Sd, 1, CASE, offset);
    }
    assembler.rri(Op::Lui, 1, 0, mstatus::FS as i32);
    assembler.rri(Op::Csrrs, 0, 1, MSTATUS.into());
    assembler.read_csr(1, FCSR);
    assembler.store(Op::Sd, 1, CASE, field::OUT_FCSR);
    for register in 0..32 {
        assembler.store(Op::Fsd, register, CASE, field::OUT_F + 8 * u64::from(register));
    }
    // Even M-mode can't reach across the edge of an entry.
    assembler.write_csr(PMPCFG0, 0);
    assembler.load(Op::Ld, 2, CASE, field::SAMPLE);
    for double in 0..8 {
        assembler.load(Op::Ld, 1, 2, 8 * double);
        assembler.store(Op::Sd, 1, CASE, field::OUT_SAMPLE + 8 * double);
    }
    assembler.load(Op::Ld, 2, CASE, field::ENTRIES_AT);
    for offset in [0, 8] {
        assembler.load(Op::Ld, 1, 2, offset);
        assembler.store(Op::Sd, 1, CASE, field::OUT_ENTRIES + offset);
    }
    assembler.load(Op::Ld, 2, CASE, field::CODE);
    assembler.load_value(3, LANDED.into());
    for half in 0..4 {
        assembler.store(Op::Sh, 3, 2, 2 * half);
    }
    assembler.rri(Op::Addi, CASE, CASE, field::SIZE as i32);
    assembler.load_value(5, end);
    let back = next.wrapping_sub(assembler.address()) as i32;
    assembler.emit(Instruction { rs1: CASE, rs2: 5, imm: back, ..Instruction::new(Op::Bltu, 4) });
    assembler.load_value(5, PASS);
    assembler.load_value(6, FINISHER);
    assembler.store(Op::Sw, 5, 6, 0);
    assembler.rri(Op::Jal, 0, 0, 0);
}
