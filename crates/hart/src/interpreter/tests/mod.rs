//! Programs of a few instructions, run both ways: through the cache and one by one.

mod atomic;
mod code;
mod control;
mod float;
mod memory;
mod random;
mod system;

use alloc::vec::Vec;

use rvisor_isa::csr::satp;
use rvisor_isa::{Instruction, Op, Privilege, encode};
use rvisor_waist::{GuestMemory, GuestPhysical};

use crate::exit::Exit;
use crate::state::Hart;
use crate::testing::{RAM, World, hart};

const RA: u8 = 1;
const T0: u8 = 5;
const T1: u8 = 6;
const T2: u8 = 7;
const A0: u8 = 10;
const A1: u8 = 11;

/// Where trap handlers are: an `ebreak`-free place that tests only look whether `pc` reaches.
const HANDLER: u64 = RAM + 0x8_0000;

/// Encodes an instruction.
fn asm(op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> u32 {
    let instruction = Instruction { rd, rs1, rs2, imm, ..Instruction::new(op, 4) };
    encode(&instruction).unwrap_or_else(|| panic!("{instruction:?} can't be encoded"))
}

fn addi(rd: u8, rs1: u8, imm: i32) -> u32 {
    asm(Op::Addi, rd, rs1, 0, imm)
}

/// Puts 32-bit instructions into RAM.
fn put(world: &World, address: u64, code: &[u32]) {
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    world.ram.write(GuestPhysical(address), &bytes).unwrap();
}

/// Puts 16-bit instructions into RAM.
fn put_halves(world: &World, address: u64, code: &[u16]) {
    let bytes: Vec<u8> = code.iter().flat_map(|half| half.to_le_bytes()).collect();
    world.ram.write(GuestPhysical(address), &bytes).unwrap();
}

/// A hart in M-mode at `pc` whose traps go to [`HANDLER`]. A `wfi` is there.
fn hart_at(world: &World, pc: u64) -> Hart {
    let mut hart = hart();
    hart.pc = pc;
    hart.csr.mtvec = HANDLER;
    put(world, HANDLER, &[asm(Op::Wfi, 0, 0, 0, 0)]);
    hart
}

/// Runs to the next `wfi` and returns the hart, after comparing with the same steps one at a time.
fn run_to_wfi(world: &World, start: impl Fn() -> Hart) -> Hart {
    let mut stepped = start();
    let ended = (0..10_000).any(|_| stepped.step(world) == Exit::WaitForInterrupt);
    assert!(ended, "no wfi reached, but {:#x}", stepped.pc);
    let mut hart = start();
    assert_eq!(hart.run(world, 100_000), Exit::WaitForInterrupt);
    assert_eq!((hart.x, hart.f, hart.pc), (stepped.x, stepped.f, stepped.pc));
    assert_eq!((hart.retired, hart.privilege), (stepped.retired, stepped.privilege));
    assert!(hart.csr == stepped.csr);
    hart
}

/// Runs `code`, followed by `wfi`, from the start of RAM.
fn run(world: &World, code: &[u32], prepare: impl Fn(&mut Hart)) -> Hart {
    put(world, RAM, code);
    put(world, RAM + 4 * code.len() as u64, &[asm(Op::Wfi, 0, 0, 0, 0)]);
    run_to_wfi(world, || {
        let mut hart = hart_at(world, RAM);
        prepare(&mut hart);
        hart
    })
}

/// The root of the tests' page tables; the next two levels follow it.
const TABLES: u64 = RAM + 0x9_0000;
const VALID: u64 = 0b1;
/// Valid, readable, writable, executable, accessed, dirty.
const RWX: u64 = 0b1100_1111;

/// Enters S-mode with Sv39 and no page mapped but what [`map`] does.
fn enter_sv39(hart: &mut Hart) {
    hart.privilege = Privilege::Supervisor;
    hart.csr.satp = satp::SV39 << satp::MODE_SHIFT | TABLES >> 12;
    hart.csr.pmp.open();
    hart.tlb.flush(None, None);
}

/// Maps a base page of the lowest 2 MiB.
fn map(world: &World, address: u64, physical: u64, flags: u64) {
    world.ram.set_double(TABLES, (TABLES + 0x1000) >> 12 << 10 | VALID);
    world.ram.set_double(TABLES + 0x1000, (TABLES + 0x2000) >> 12 << 10 | VALID);
    world.ram.set_double(TABLES + 0x2000 + (address >> 12) * 8, physical >> 12 << 10 | flags);
}
