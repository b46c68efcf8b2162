//! A world: two machines with the same memory, code and page tables, that change from episode to episode.
//!
//! An episode puts a block of code into memory, makes up a state, and runs both machines from it. The
//! translator keeps its caches from one episode to the next, and so has to notice what changed; the
//! interpreter starts with none.

mod follow;
mod state;

use rvisor_hart::{Exit, Hart};
use rvisor_hosted::HostMemory;
use rvisor_isa::csr::*;
use rvisor_isa::{Instruction, Op, Privilege, decode, encode};
use rvisor_machine::Engine;
use rvisor_translator::{Optimize, Options, Translator, share};
use rvisor_waist::{GuestVirtual, OutOfRange};

use crate::generate::{CODE_POINTERS, Generator, POINTERS, SATP_HOLDER};
use crate::machine::{Machine, copy, differences, is_same, memory_differences};
use crate::memory::{RAM, view};
use crate::random::Random;
use crate::tables::{GLOBAL, LARGE, PAGE, Tables, Targets};

// Pages of RAM: what they are for.
const HANDLER: u64 = RAM;
const SUPERVISOR_HANDLER: u64 = RAM + PAGE;
const CODE: u64 = RAM + 2 * PAGE;
const CODE_PAGES: u64 = 8;
const DATA: u64 = RAM + 10 * PAGE;
const DATA_PAGES: u64 = 24;
const TABLES: u64 = RAM + 34 * PAGE;
const TABLE_PAGES: u64 = 44;
const END: u64 = RAM + 80 * PAGE;

/// A and D of a PTE: what walks may set.
const ACCESSED: u64 = 0xc0;

/// A handler that goes on behind the instruction that trapped, through `mscratch` or `sscratch`.
fn handler(scratch: u16, pc: u16, back: Op) -> Vec<u32> {
    let csr =
        |rd, number: u16, rs1| Instruction { rd, rs1, imm: number.into(), ..Instruction::new(Op::Csrrw, 4) };
    let read = |rd, number: u16| Instruction { rd, imm: number.into(), ..Instruction::new(Op::Csrrs, 4) };
    [
        csr(5, scratch, 5),
        read(5, pc),
        Instruction { rd: 5, rs1: 5, imm: 4, ..Instruction::new(Op::Addi, 4) },
        csr(0, pc, 5),
        csr(5, scratch, 5),
        Instruction::new(back, 4),
    ]
    .iter()
    .map(|instruction| encode(instruction).expect("operands fit"))
    .collect()
}

fn bytes(code: &[u32]) -> Vec<u8> {
    code.iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(length(*bits))).collect()
}

fn length(bits: u32) -> usize {
    if bits & 3 == 3 { 4 } else { 2 }
}

/// What an episode found.
pub struct Difference {
    pub text: String,
    /// Something happened after which the architecture allows more than one outcome.
    pub is_excused: bool,
}

/// For a replay: which instructions of the block to leave out, and what to note.
#[derive(Default)]
pub struct Replay {
    pub left_out: Vec<bool>,
    /// Notes of every step.
    pub trace: Vec<String>,
    pub block: Vec<u32>,
    pub start: String,
}

pub struct World {
    random: Random,
    generator: Generator,
    engine: Translator,
    translated: Machine,
    reference: Machine,
    tables: Tables,
    /// PTEs as they were at the last look.
    tables_then: Vec<u8>,
    /// The PTE that the block changes and fences: where and what.
    announced: Option<(u64, u64)>,
    /// Where blocks start: physical addresses.
    blocks: Vec<u64>,
    /// `satp` held something else than a space's value.
    odd_satp: bool,
    /// An instruction was executed that had been written to since the last fence.
    stale_code: bool,
    fenced: Vec<u8>,
    pub block_count: u64,
    pub instructions: u64,
    pub steps: u64,
    pub exits: u64,
    pub operations: Vec<u64>,
}

impl World {
    pub fn new(seed: u64, optimize: Optimize) -> Self {
        let mut random = Random::new(seed);
        let machine_mode = random.chance(85);
        let shared =
            share::<HostMemory>(1, Options { optimize, ..Options::default() }).expect("the host has memory");
        let pages = |first: u64, count: u64| (0..count).map(|page| first + page * PAGE).collect::<Vec<_>>();
        let targets = Targets {
            ram: RAM,
            group: RAM + 16 * PAGE,
            handler: SUPERVISOR_HANDLER,
            code: pages(CODE, CODE_PAGES),
            data: pages(DATA, DATA_PAGES),
            odd: vec![0x1000_0000, 0, END, END - PAGE, RAM - PAGE, TABLES],
        };
        let (tables, stores) = Tables::new(&mut random, pages(TABLES, TABLE_PAGES), targets);
        let mut world = Self {
            random,
            generator: Generator::new(),
            engine: Translator::new(&shared).expect("the host has memory"),
            translated: Machine::new(END - RAM, machine_mode),
            reference: Machine::new(END - RAM, machine_mode),
            tables,
            tables_then: Vec::new(),
            announced: None,
            blocks: Vec::new(),
            odd_satp: false,
            stale_code: false,
            fenced: Vec::new(),
            block_count: 0,
            instructions: 0,
            steps: 0,
            exits: 0,
            operations: vec![0; Op::ALL.len()],
        };
        for (entry, pte) in stores {
            world.write(entry, &pte.to_le_bytes());
        }
        world.fill();
        world.set_protection();
        world.set_environment();
        world
    }

    /// Writes to both memories.
    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.translated.write(address, bytes);
        self.reference.write(address, bytes);
    }

    /// Code and data everywhere.
    fn fill(&mut self) {
        for page in 0..DATA_PAGES + 2 {
            let address =
                if page < DATA_PAGES { DATA + page * PAGE } else { END - (page - DATA_PAGES + 1) * PAGE };
            let words: Vec<u8> = (0..512).flat_map(|_| self.random.value().to_le_bytes()).collect();
            self.write(address, &words);
        }
        let mut code = Vec::new();
        while code.len() < (CODE_PAGES * PAGE) as usize {
            code.extend(bytes(&self.generator.block(&mut self.random, 64)));
        }
        self.write(CODE, &code[..(CODE_PAGES * PAGE) as usize]);
        self.write_handlers();
        self.blocks = (0..8).map(|_| CODE + self.random.below(CODE_PAGES * PAGE / 2) * 2).collect();
    }

    fn write_handlers(&mut self) {
        self.write(HANDLER, &bytes(&handler(MSCRATCH, MEPC, Op::Mret)));
        self.write(SUPERVISOR_HANDLER, &bytes(&handler(SSCRATCH, SEPC, Op::Sret)));
    }

    fn hart(&mut self) -> &mut Hart {
        &mut self.translated.hart.hart
    }

    /// Writes a CSR as M-mode would.
    fn set(&mut self, number: u16, value: u64) {
        let Machine { vm, hart } = &mut self.translated;
        let hart = &mut hart.hart;
        let mode = std::mem::replace(&mut hart.privilege, Privilege::Machine);
        let env = vm.environment(&vm.harts()[0]);
        // Refused where floating point is off: the register keeps its value then.
        let _ = hart.write_csr(&env, number, value);
        hart.privilege = mode;
    }

    fn set_protection(&mut self) {
        if self.random.chance(90) {
            self.set(PMPADDR0, u64::MAX);
            self.set(PMPCFG0, 0x1f);
            return;
        }
        // Walks may always be made: whether one is needed depends on what a hart has cached.
        const TABLES_ALLOWED: u64 = 0b01011 << 8;
        self.set(PMPADDR0, TABLES >> 2);
        self.set(PMPADDR0 + 1, (TABLES + TABLE_PAGES * PAGE) >> 2);
        for entry in 2..8 {
            let size = self.random.pick(&[PAGE, PAGE, 4 * PAGE, 64 * PAGE, 64, 8]);
            let address = (RAM + self.random.below(END - RAM)) / size * size;
            let napot = address >> 2 | ((size >> 3) - 1);
            let value = if self.random.chance(80) { napot } else { address >> 2 };
            self.set(PMPADDR0 + entry, value);
        }
        self.set(PMPADDR0 + 8, u64::MAX);
        let config = self.random.bits() & 0x1f1f_1f1f_1f1f_0000;
        self.set(PMPCFG0, config | TABLES_ALLOWED);
        self.set(PMPCFG0 + 2, 0x1f);
    }

    fn set_environment(&mut self) {
        let mut value = self.random.bits() & (envcfg::STCE | envcfg::ADUE | envcfg::PBMTE);
        if self.random.chance(80) {
            value |= envcfg::CBIE | envcfg::CBCFE | envcfg::CBZE;
        }
        self.set(MENVCFG, value);
        for number in MSTATEEN0..=MSTATEEN3 {
            self.set(number, u64::MAX);
        }
    }

    /// Runs an episode.
    pub fn episode(&mut self, mut replay: Option<&mut Replay>) -> Result<(), Difference> {
        self.change_something();
        let (start, block) = self.place_block(replay.as_deref());
        self.set_state(start, &block);
        self.hart().fence_instructions();
        copy(&self.translated.hart.hart, &mut self.reference.hart.hart);
        self.tables_then = view(self.reference.vm.memory(), TABLES..TABLES + TABLE_PAGES * PAGE).to_vec();
        self.odd_satp = false;
        self.stale_code = false;
        if let Some(replay) = replay.as_deref_mut() {
            self.fenced = self.reference.ram().to_vec();
            replay.block = block;
            replay.start =
                format!("{}{:#x?}", registers(&self.translated.hart.hart), self.translated.hart.hart.csr);
        }
        let budget = 20 + self.random.below(200);
        let outcome = self.run(budget, replay);
        let odd_tables = self.tables_changed();
        if odd_tables || self.odd_satp {
            // What the guest did to its tables without a fence is undone.
            let then = std::mem::take(&mut self.tables_then);
            self.write(TABLES, &then);
            self.hart().fence_vma(None, None);
        }
        self.write_handlers();
        let is_excused = odd_tables || self.odd_satp || self.stale_code;
        outcome.map_err(|text| Difference { text, is_excused })
    }

    fn change_something(&mut self) {
        if self.random.chance(40) {
            for _ in 0..1 + self.random.below(4) {
                let (stores, (address, asid)) = self.tables.change(&mut self.random);
                for (entry, pte) in stores {
                    self.write(entry, &pte.to_le_bytes());
                }
                self.hart().fence_vma(address.map(GuestVirtual), asid);
            }
        }
        if self.random.chance(3) {
            self.set_protection();
        }
        if self.random.chance(3) {
            self.set_environment();
        }
    }

    /// Puts a block somewhere, or picks one that is there. Its physical address, and what it is.
    fn place_block(&mut self, replay: Option<&Replay>) -> (u64, Vec<u32>) {
        self.block_count += 1;
        let count = 1 + self.random.below(40);
        let mut block = self.generator.block(&mut self.random, count);
        for instruction in block.iter().filter_map(|&bits| decode(bits)) {
            self.operations[instruction.op as usize] += 1;
        }
        if self.random.chance(25) {
            return (self.random.pick(&self.blocks), Vec::new());
        }
        if let Some(replay) = replay {
            for (bits, _) in block.iter_mut().zip(&replay.left_out).filter(|(_, out)| **out) {
                *bits = if length(*bits) == 4 { 0x13 } else { 1 };
            }
        }
        let code = bytes(&block);
        let room = CODE_PAGES * PAGE - code.len() as u64;
        // Now and then across the end of a page.
        let offset = if self.random.chance(25) {
            (1 + self.random.below(CODE_PAGES - 1)) * PAGE - self.random.below(code.len() as u64 + 2)
        } else {
            self.random.below(room)
        };
        let start = CODE + offset.min(room) / 2 * 2;
        self.write(start, &code);
        let slot = self.random.below(8) as usize;
        self.blocks[slot] = start;
        (start, block)
    }

    /// Whether a PTE changed that neither a walk nor the block's beginning had to change.
    fn tables_changed(&self) -> bool {
        let now = view(self.reference.vm.memory(), TABLES..TABLES + TABLE_PAGES * PAGE);
        if now == self.tables_then {
            return false;
        }
        let entry = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes")) & !ACCESSED;
        let mut pairs = now.chunks(8).zip(self.tables_then.chunks(8)).enumerate();
        pairs.any(|(at, (now, then))| {
            let change = (TABLES + 8 * at as u64, entry(now));
            entry(now) != entry(then) && self.announced != Some(change)
        })
    }
}

fn registers(hart: &Hart) -> String {
    let x: Vec<String> = hart.x.iter().enumerate().map(|(i, value)| format!("x{i}={value:#x}")).collect();
    let f: Vec<String> = hart.f.iter().enumerate().map(|(i, value)| format!("f{i}={value:#x}")).collect();
    format!(
        "pc={:#x} {:?}\n{}\n{}\nreservation={:x?}\n",
        hart.pc,
        hart.privilege,
        x.join(" "),
        f.join(" "),
        hart.reservation
    )
}
