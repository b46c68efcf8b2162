//! A world: two machines with the same memory, code and page tables, that change from episode to episode.
//!
//! An episode puts a block of code into memory, makes up a state, and runs both machines from it. The
//! translator keeps its caches from one episode to the next, and so has to notice what changed; the
//! interpreter starts with none.

mod follow;
mod guest;
mod state;

use std::ops::Range;

use rvisor_hart::{Exit, Hart};
use rvisor_hosted::HostMemory;
use rvisor_isa::csr::*;
use rvisor_isa::{Instruction, Op, Privilege, decode, encode};
use rvisor_machine::Engine;
use rvisor_translator::{Optimize, Options, Translator, share};
use rvisor_waist::{GuestVirtual, OutOfRange};

use crate::generate::{CODE_POINTERS, Generator, HGATP_HOLDER, POINTERS, SATP_HOLDER};
use crate::machine::{Machine, copy, differences, is_same, memory_differences};
use crate::memory::{RAM, view};
use crate::random::Random;
use crate::second_stage::{HIGH, Parts, SecondStages};
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
// With the hypervisor extension there is more, behind pages that nothing is in.
const SECOND_TABLES: u64 = RAM + 84 * PAGE;
const SECOND_TABLE_PAGES: u64 = 28;
const SECOND_END: u64 = SECOND_TABLES + SECOND_TABLE_PAGES * PAGE;

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

/// What is compared.
#[derive(Clone, Copy)]
pub struct Setup {
    pub optimize: Optimize,
    /// Whether harts have the hypervisor extension.
    pub hypervisor: bool,
}

/// A PTE that a block changes and fences.
struct Announced {
    entry: u64,
    pte: u64,
    /// Where the change is a first stage's: its address and ASID, and for whom the fence is: a virtual machine's VMID,
    /// or `None` for those outside.
    first_stage: Option<(u64, u16, Option<u16>)>,
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
    /// With the hypervisor extension.
    stages: Option<SecondStages>,
    /// PTEs as they were at the last look.
    tables_then: Vec<Vec<u8>>,
    announced: Option<Announced>,
    /// Where blocks start: physical addresses.
    blocks: Vec<u64>,
    /// `satp` or its like held something else than a space's value, or a change of a PTE was fenced for others than
    /// those who use it.
    odd_spaces: bool,
    /// An instruction was executed that had been written to since the last fence.
    stale_code: bool,
    fenced: Vec<u8>,
    pub block_count: u64,
    pub instructions: u64,
    pub steps: u64,
    pub exits: u64,
    /// Steps in VS- and VU-mode.
    pub virtual_steps: u64,
    /// Ways into virtual machines and out of them.
    pub crossings: u64,
    /// Traps that only the hypervisor extension has.
    pub guest_traps: u64,
    pub operations: Vec<u64>,
}

impl World {
    pub fn new(seed: u64, setup: Setup) -> Self {
        let Setup { optimize, hypervisor } = setup;
        let mut random = Random::new(seed);
        let machine_mode = random.chance(85);
        let shared =
            share::<HostMemory>(1, Options { optimize, ..Options::default() }).expect("the host has memory");
        let pages = |first: u64, count: u64| (0..count).map(|page| first + page * PAGE).collect::<Vec<_>>();
        let (code, data) = (pages(CODE, CODE_PAGES), pages(DATA, DATA_PAGES));
        let mut odd = vec![0x1000_0000, 0, END, END - PAGE, RAM - PAGE, TABLES];
        if hypervisor {
            odd.extend(code.iter().chain(&data).map(|page| HIGH + (page - RAM)));
        }
        let (ram, group, handler) = (RAM, RAM + 16 * PAGE, SUPERVISOR_HANDLER);
        let targets = Targets { ram, group, handler, code: code.clone(), data: data.clone(), odd };
        let (tables, mut stores) = Tables::new(&mut random, pages(TABLES, TABLE_PAGES), targets);
        let stages = hypervisor.then(|| {
            let parts = Parts {
                ram: RAM..END,
                handlers: HANDLER..CODE,
                tables: TABLES..TABLES + TABLE_PAGES * PAGE,
                kept: tables.of_globals(),
                code,
                data,
                devices: vec![0x1000_0000, 0],
            };
            SecondStages::new(&mut random, pages(SECOND_TABLES, SECOND_TABLE_PAGES), parts)
        });
        let (stages, second_stores) = stages.unzip();
        stores.extend(second_stores.into_iter().flatten());
        let size = if hypervisor { SECOND_END } else { END } - RAM;
        let mut world = Self {
            random,
            generator: Generator::new(hypervisor),
            engine: Translator::new(&shared).expect("the host has memory"),
            translated: Machine::new(size, machine_mode, hypervisor),
            reference: Machine::new(size, machine_mode, hypervisor),
            tables,
            stages,
            tables_then: Vec::new(),
            announced: None,
            blocks: Vec::new(),
            odd_spaces: false,
            stale_code: false,
            fenced: Vec::new(),
            block_count: 0,
            instructions: 0,
            steps: 0,
            exits: 0,
            virtual_steps: 0,
            crossings: 0,
            guest_traps: 0,
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
        let virtualized = std::mem::replace(&mut hart.virtualized, false);
        let env = vm.environment(&vm.harts()[0]);
        // Refused where floating point is off: the register keeps its value then.
        let _ = hart.write_csr(&env, number, value);
        (hart.privilege, hart.virtualized) = (mode, virtualized);
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
        let end = self.table_ranges().last().map_or(TABLES, |range| range.end);
        self.set(PMPADDR0 + 1, end >> 2);
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
        if self.stages.is_some() {
            let bits = self.random.bits();
            let value = value & self.random.pick(&[u64::MAX, u64::MAX, bits]);
            self.set(HENVCFG, value);
        }
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
        let memory = self.reference.vm.memory();
        self.tables_then =
            self.table_ranges().into_iter().map(|range| view(memory, range).to_vec()).collect();
        self.odd_spaces = false;
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
        if odd_tables || self.odd_spaces {
            // What the guest did to its tables without a fence is undone.
            for (range, then) in self.table_ranges().into_iter().zip(std::mem::take(&mut self.tables_then)) {
                self.write(range.start, &then);
            }
            self.hart().fence_vma(None, None);
        } else if let Some(Announced { first_stage: Some((address, asid, _)), .. }) = self.announced {
            self.fence_first_stages(Some(address), Some(asid));
        }
        self.write_handlers();
        let is_excused = odd_tables || self.odd_spaces || self.stale_code;
        outcome.map_err(|text| Difference { text, is_excused })
    }

    fn change_something(&mut self) {
        if self.random.chance(40) {
            for _ in 0..1 + self.random.below(4) {
                let (stores, (address, asid)) = self.tables.change(&mut self.random);
                for (entry, pte) in stores {
                    self.write(entry, &pte.to_le_bytes());
                }
                self.fence_first_stages(address, asid);
            }
        }
        if self.stages.is_some() && self.random.chance(40) {
            self.change_second_stages();
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
        let announced = self.announced.as_ref().map(|announced| (announced.entry, announced.pte));
        let entry = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes")) & !ACCESSED;
        self.table_ranges().into_iter().zip(&self.tables_then).any(|(range, then)| {
            let now = view(self.reference.vm.memory(), range.clone());
            let mut pairs = now.chunks(8).zip(then.chunks(8)).zip(range.step_by(8));
            now != then
                && pairs
                    .any(|((now, then), at)| entry(now) != entry(then) && announced != Some((at, entry(now))))
        })
    }

    /// Where page tables are.
    fn table_ranges(&self) -> Vec<Range<u64>> {
        let first = TABLES..TABLES + TABLE_PAGES * PAGE;
        if self.stages.is_some() { vec![first, SECOND_TABLES..SECOND_END] } else { vec![first] }
    }
}

fn registers(hart: &Hart) -> String {
    let x: Vec<String> = hart.x.iter().enumerate().map(|(i, value)| format!("x{i}={value:#x}")).collect();
    let f: Vec<String> = hart.f.iter().enumerate().map(|(i, value)| format!("f{i}={value:#x}")).collect();
    format!(
        "pc={:#x} {}{:?}\n{}\n{}\nreservation={:x?}\n",
        hart.pc,
        if hart.virtualized { "virtual " } else { "" },
        hart.privilege,
        x.join(" "),
        f.join(" "),
        hart.reservation
    )
}
