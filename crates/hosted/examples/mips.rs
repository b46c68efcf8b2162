//! How fast the interpreter is: runs three small guest loops and prints millions of instructions a second of
//! processor time, so that other work on the host disturbs it little.
//!
//! `cargo run --release -p rvisor-hosted --example mips [MILLIONS]`; the argument is how many millions of
//! instructions to run of each loop. The guest runs in S-mode behind an Sv39 page table, as a kernel would.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::time::Duration;

use rvisor_hart::{Config, Environment, Exit, Hart};
use rvisor_hosted::HostMemory;
use rvisor_isa::{Instruction, Op, csr, encode};
use rvisor_waist::{GuestMemory, GuestPhysical};

const RAM: u64 = 0x8000_0000;
const RAM_SIZE: u64 = 16 << 20;
const ROOT_TABLE: u64 = RAM + 0x10_0000;
const DATA: u64 = RAM + 0x20_0000;
const STACK: u64 = RAM + 0x30_0000;

/// RAM, and silence outside of it.
struct World(HostMemory);

impl Environment for World {
    type Memory = HostMemory;

    fn memory(&self) -> &HostMemory {
        &self.0
    }

    fn ticks(&self) -> u64 {
        0
    }

    fn interrupt_lines(&self) -> u64 {
        0
    }

    fn take_software_interrupt(&self) -> bool {
        false
    }

    fn attention(&self) -> bool {
        false
    }
}

const ZERO: u8 = 0;
const RA: u8 = 1;
const SP: u8 = 2;
const T: [u8; 7] = [5, 6, 7, 28, 29, 30, 31];
const S: [u8; 6] = [8, 9, 18, 19, 20, 21];
const A: [u8; 8] = [10, 11, 12, 13, 14, 15, 16, 17];

/// Collects instructions; branches name their targets.
#[derive(Default)]
struct Program {
    instructions: Vec<(Instruction, Option<&'static str>)>,
    labels: HashMap<&'static str, usize>,
}

impl Program {
    fn label(&mut self, name: &'static str) {
        self.labels.insert(name, self.instructions.len());
    }

    fn push(&mut self, instruction: Instruction, target: Option<&'static str>) {
        self.instructions.push((instruction, target));
    }

    /// Register and register.
    fn r(&mut self, op: Op, rd: u8, rs1: u8, rs2: u8) {
        self.push(Instruction { rd, rs1, rs2, ..Instruction::new(op, 4) }, None);
    }

    /// Register and immediate; loads.
    fn i(&mut self, op: Op, rd: u8, rs1: u8, imm: i32) {
        self.push(Instruction { rd, rs1, imm, ..Instruction::new(op, 4) }, None);
    }

    /// Stores.
    fn s(&mut self, op: Op, rs2: u8, rs1: u8, imm: i32) {
        self.push(Instruction { rs1, rs2, imm, ..Instruction::new(op, 4) }, None);
    }

    /// Branches and jumps.
    fn b(&mut self, op: Op, rs1: u8, rs2: u8, target: &'static str) {
        self.push(Instruction { rs1, rs2, ..Instruction::new(op, 4) }, Some(target));
    }

    fn call(&mut self, target: &'static str) {
        self.push(Instruction { rd: RA, ..Instruction::new(Op::Jal, 4) }, Some(target));
    }

    fn ret(&mut self) {
        self.i(Op::Jalr, ZERO, RA, 0);
    }

    /// Floating-point arithmetic, rounded as `frm` says.
    fn f(&mut self, op: Op, rd: u8, rs1: u8, rs2: u8, rs3: u8) {
        self.push(Instruction { rd, rs1, rs2, rs3, aux: 7, ..Instruction::new(op, 4) }, None);
    }

    fn encode(&self) -> Result<Vec<u32>, String> {
        let words = self.instructions.iter().enumerate().map(|(index, (instruction, target))| {
            let mut instruction = *instruction;
            if let Some(target) = target {
                let target = *self.labels.get(target).ok_or(format!("no label {target}"))?;
                instruction.imm = (target as i32 - index as i32) * 4;
            }
            encode(&instruction).ok_or(format!("can't encode {instruction:?}"))
        });
        words.collect()
    }
}

/// Calls, a stack frame, copying and comparing strings, a table look-up, multiplication and division, and
/// branches that depend on data.
fn integer_mix() -> Program {
    let mut p = Program::default();
    p.label("loop");
    p.r(Op::Add, A[0], S[0], ZERO);
    p.i(Op::Addi, A[1], S[0], 256);
    p.call("copy");
    p.r(Op::Add, A[0], S[0], ZERO);
    p.i(Op::Addi, A[1], S[0], 256);
    p.call("compare");
    p.r(Op::Add, S[2], S[2], A[0]);
    p.r(Op::Add, A[0], S[1], ZERO);
    p.call("mix");
    p.r(Op::Xor, S[3], S[3], A[0]);
    p.i(Op::Andi, T[0], S[3], 1);
    p.b(Op::Beq, T[0], ZERO, "even");
    p.i(Op::Addi, S[4], S[4], 1);
    p.label("even");
    p.i(Op::Addi, S[1], S[1], 1);
    p.b(Op::Jal, ZERO, ZERO, "loop");

    p.label("copy");
    p.i(Op::Addi, T[0], ZERO, 6);
    p.label("copy_next");
    p.i(Op::Ld, T[1], A[0], 0);
    p.i(Op::Addi, T[0], T[0], -1);
    p.s(Op::Sd, T[1], A[1], 0);
    p.i(Op::Addi, A[0], A[0], 8);
    p.i(Op::Addi, A[1], A[1], 8);
    p.b(Op::Bne, T[0], ZERO, "copy_next");
    p.ret();

    p.label("compare");
    p.i(Op::Addi, T[2], ZERO, 12);
    p.label("compare_next");
    p.i(Op::Lbu, T[0], A[0], 0);
    p.i(Op::Lbu, T[1], A[1], 0);
    p.b(Op::Bne, T[0], T[1], "compare_end");
    p.i(Op::Addi, A[0], A[0], 1);
    p.i(Op::Addi, A[1], A[1], 1);
    p.i(Op::Addi, T[2], T[2], -1);
    p.b(Op::Bne, T[2], ZERO, "compare_next");
    p.label("compare_end");
    p.r(Op::Sub, A[0], T[0], T[1]);
    p.ret();

    p.label("mix");
    p.i(Op::Addi, SP, SP, -32);
    p.s(Op::Sd, RA, SP, 24);
    p.s(Op::Sd, S[0], SP, 16);
    p.i(Op::Andi, T[0], A[0], 63);
    p.i(Op::Slli, T[0], T[0], 3);
    p.r(Op::Add, T[0], T[0], S[0]);
    p.i(Op::Ld, T[1], T[0], 512);
    p.i(Op::Slliw, T[2], A[0], 5);
    p.r(Op::Subw, T[2], T[2], A[0]);
    p.r(Op::Mul, T[1], T[1], S[5]);
    p.r(Op::Add, T[1], T[1], T[2]);
    p.s(Op::Sd, T[1], T[0], 512);
    p.call("scale");
    p.i(Op::Ld, RA, SP, 24);
    p.i(Op::Ld, S[0], SP, 16);
    p.i(Op::Addi, SP, SP, 32);
    p.ret();

    p.label("scale");
    p.i(Op::Ori, T[3], A[0], 7);
    p.i(Op::Srli, T[4], T[1], 9);
    p.r(Op::Remu, A[0], T[4], T[3]);
    p.r(Op::Sltu, T[5], A[0], T[2]);
    p.b(Op::Beq, T[5], ZERO, "scaled");
    p.r(Op::Addw, A[0], A[0], T[5]);
    p.label("scaled");
    p.ret();
    p
}

/// The inner loop of a product of matrices, and between rows a division and a square root.
fn float_mix() -> Program {
    let mut p = Program::default();
    p.label("loop");
    p.r(Op::Add, A[0], S[0], ZERO);
    p.i(Op::Addi, A[1], S[0], 1024);
    p.i(Op::Addi, T[0], ZERO, 32);
    p.push(Instruction { rd: 10, ..Instruction::new(Op::FmvDX, 4) }, None);
    p.label("inner");
    p.i(Op::Fld, 0, A[0], 0);
    p.i(Op::Fld, 1, A[1], 0);
    p.f(Op::FmaddD, 10, 0, 1, 10);
    p.f(Op::FsubD, 2, 0, 1, 0);
    p.f(Op::FmulD, 3, 2, 2, 0);
    p.f(Op::FaddD, 11, 11, 3, 0);
    p.i(Op::Addi, A[0], A[0], 8);
    p.i(Op::Addi, A[1], A[1], 8);
    p.i(Op::Addi, T[0], T[0], -1);
    p.b(Op::Bne, T[0], ZERO, "inner");
    p.f(Op::FsqrtD, 12, 11, 0, 0);
    p.f(Op::FdivD, 13, 10, 12, 0);
    p.s(Op::Fsd, 13, S[0], 2040);
    p.r(Op::FltD, T[1], 13, 12);
    p.push(Instruction { rd: T[2], rs1: 13, aux: 1, ..Instruction::new(Op::FcvtLD, 4) }, None);
    p.b(Op::Jal, ZERO, ZERO, "loop");
    p
}

/// A loop of four additions: what dispatch alone costs.
fn additions() -> Program {
    let mut p = Program::default();
    p.label("loop");
    for register in [T[0], T[1], T[2], T[3]] {
        p.i(Op::Addi, register, register, 1);
    }
    p.b(Op::Bne, T[0], ZERO, "loop");
    p.b(Op::Jal, ZERO, ZERO, "loop");
    p
}

fn boot(program: &Program) -> Result<(World, Hart), Box<dyn Error>> {
    let world = World(HostMemory::new(GuestPhysical(RAM), RAM_SIZE)?);
    for (index, word) in program.encode()?.into_iter().enumerate() {
        world.0.store(GuestPhysical(RAM + 4 * index as u64), word)?;
    }
    for index in 0..512 {
        world.0.store(GuestPhysical(DATA + 8 * index), (1.0 + index as f64 / 7.0).to_bits())?;
    }
    // One gigapage, identity-mapped: valid, readable, writable, executable, accessed, dirty.
    world.0.store(GuestPhysical(ROOT_TABLE + 8 * (RAM >> 30)), (RAM >> 12) << 10 | 0xcf_u64)?;

    let mut hart = Hart::new(Config { supervisor_only: true, ..Config::default() });
    let refused = |_| "a CSR was refused";
    hart.write_csr(&world, csr::SATP, 8 << 60 | ROOT_TABLE >> 12).map_err(refused)?;
    hart.write_csr(&world, csr::SSTATUS, csr::mstatus::FS_INITIAL).map_err(refused)?;
    hart.pc = RAM;
    hart.x[usize::from(SP)] = STACK;
    hart.x[usize::from(S[0])] = DATA;
    hart.x[usize::from(S[5])] = 0x5851_f42d_4c95_7f2d;
    Ok((world, hart))
}

/// What this thread has spent on a processor so far.
fn processor_time() -> Result<Duration, Box<dyn Error>> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = statistics.split(' ').next().ok_or("no scheduler statistics")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let millions: u64 = std::env::args().nth(1).map_or(Ok(200), |argument| argument.parse())?;
    for (name, program) in
        [("integer mix", integer_mix()), ("float mix", float_mix()), ("additions", additions())]
    {
        let (world, mut hart) = boot(&program)?;
        let start = processor_time()?;
        while hart.retired < millions * 1_000_000 {
            let exit = hart.run(&world, millions * 1_000_000 - hart.retired);
            if exit != Exit::Budget {
                return Err(format!("{name}: {exit:?} at {:#x}", hart.pc).into());
            }
            if !(RAM..RAM + 4096).contains(&hart.pc) {
                return Err(format!("{name}: trapped, pc {:#x}", hart.pc).into());
            }
        }
        let seconds = (processor_time()? - start).as_secs_f64();
        println!("{name}: {:.0} million instructions a second", hart.retired as f64 / seconds / 1e6);
    }
    Ok(())
}
