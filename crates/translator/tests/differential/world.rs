//! A world: two machines with the same memory, code and page tables, that change from episode to episode.
//!
//! An episode puts a block of code into memory, makes up a state, and runs both machines from it. The
//! translator keeps its caches from one episode to the next, and so has to notice what changed; the
//! interpreter starts with none.

use rvisor_hart::{Exit, Hart};
use rvisor_isa::csr::*;
use rvisor_isa::{Instruction, Op, Privilege, decode, encode};
use rvisor_machine::Engine;
use rvisor_translator::{Optimize, Options, Translator, share};
use rvisor_waist::{GuestVirtual, OutOfRange};

use crate::generate::{CODE_POINTERS, Generator, POINTERS, SATP_HOLDER};
use crate::machine::{Machine, copy, differences, is_same, memory_differences};
use crate::memory::{RAM, Ram};
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
            share::<Ram>(1, Options { optimize, ..Options::default() }).expect("the host has memory");
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
        self.tables_then = self.reference.vm.memory().bytes(TABLES..TABLES + TABLE_PAGES * PAGE).to_vec();
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

    fn set_state(&mut self, start: u64, block: &[u32]) {
        let random = &mut self.random;
        let supervisor_only = self.translated.hart.hart.config().supervisor_only;
        let modes = [Privilege::Machine, Privilege::Supervisor, Privilege::Supervisor, Privilege::User];
        let mut mode = random.pick(&modes);
        let number = random.below(self.tables.spaces.len() as u64) as usize;
        let mut satp = if random.chance(75) { self.tables.spaces[number].satp } else { 0 };
        let read = |entry| self.reference.read(entry);
        let mut pc = start;
        if mode != Privilege::Machine && satp != 0 {
            let page = start & !(PAGE - 1);
            let user = mode == Privilege::User;
            let aliases = self.tables.aliases(number, page, read);
            let good: Vec<u64> = aliases
                .iter()
                .copied()
                .filter(|&at| self.tables.is_executable(number, at, user, read))
                .collect();
            match (good.is_empty(), aliases.is_empty()) {
                (false, _) => pc = random.pick(&good) + start % PAGE,
                (true, false) if random.chance(10) => pc = random.pick(&aliases) + start % PAGE,
                _ => (mode, satp) = (Privilege::Machine, if random.chance(50) { satp } else { 0 }),
            }
        }
        if supervisor_only && mode == Privilege::Machine {
            (mode, satp) = (Privilege::Supervisor, 0);
            pc = start;
        }
        let mprv = mode == Privilege::Machine && satp != 0 && random.chance(60);
        let translated = satp != 0 && (mode != Privilege::Machine || mprv);
        self.set_csrs(mode, satp, mprv, pc);
        self.set_registers(pc, translated);
        self.add_special(number, mode, satp, mprv, start, block);
    }

    fn set_csrs(&mut self, mode: Privilege, satp: u64, mprv: bool, pc: u64) {
        let r = &mut self.random;
        let mut status =
            r.bits() & (mstatus::SUM | mstatus::MXR | mstatus::MIE | mstatus::SIE | mstatus::SPIE);
        if r.chance(10) {
            status |= r.bits() & (mstatus::TVM | mstatus::TW | mstatus::TSR);
        }
        status |= if r.chance(75) { mstatus::FS } else { r.bits() & mstatus::FS };
        if mprv {
            status |= mstatus::MPRV | if r.chance(70) { 1 << mstatus::MPP_SHIFT } else { 0 };
        } else {
            status |= r.pick(&[0, 1, 3]) << mstatus::MPP_SHIFT;
        }
        let interrupts = if r.chance(15) { r.bits() } else { 0 };
        let delegated = if r.chance(50) { 0 } else { r.bits() };
        let frm = if r.chance(85) { r.below(4) } else { 4 + r.below(4) };
        let values = [
            (MSTATUS, status | mstatus::FS),
            (FCSR, r.below(32) | frm << 5),
            (MTVEC, HANDLER | r.pick(&[0, 0, 1])),
            (STVEC, if satp == 0 { SUPERVISOR_HANDLER } else { GLOBAL }),
            (MIE, interrupts),
            (MIP, r.bits()),
            (MEDELEG, delegated),
            (MIDELEG, delegated),
            (SATP, satp),
            (MCOUNTEREN, r.bits()),
            (SCOUNTEREN, r.bits()),
            (SENVCFG, r.bits()),
            (STIMECMP, r.pick(&[0, u64::MAX, 1000, 1001])),
            (MCYCLE, r.value()),
            (MINSTRET, r.value()),
            (MCOUNTINHIBIT, r.pick(&[0, 0, 0, 1, 4, 5])),
            (MSCRATCH, r.value()),
            (SSCRATCH, r.value()),
            (MCAUSE, r.value()),
            (SCAUSE, r.value()),
            (MTVAL, r.value()),
            (STVAL, r.value()),
        ];
        for (number, value) in values {
            self.set(number, value);
        }
        // `mret` makes the hart notice that its mode changed.
        let (mepc, sepc) = (self.random.value() & !1, self.random.value() & !1);
        let hart = self.hart();
        let status_before = hart.csr.mstatus & !mstatus::FS & !mstatus::MPP & !mstatus::MPRV
            | status & (mstatus::FS | mstatus::MPP | mstatus::MPRV);
        hart.privilege = Privilege::Machine;
        hart.csr.mepc = pc;
        hart.mret().expect("the mode is M");
        hart.privilege = mode;
        hart.csr.mstatus = status_before;
        hart.csr.mepc = mepc;
        hart.csr.sepc = sepc;
    }

    fn set_registers(&mut self, pc: u64, translated: bool) {
        for register in 1..32 {
            let value = self.random.value();
            let float = self.random.float();
            let hart = self.hart();
            hart.x[register] = value;
            hart.f[register] = float;
        }
        self.hart().f[0] = 0;
        for register in POINTERS {
            let offset = self.tables.offset(&mut self.random);
            let r = &mut self.random;
            let value = match r.below(40) {
                0 => r.value(),
                1 => r.pick(&[0x1000_0000, 0x200_bff8, 0x10_0000, 0]) + r.below(16),
                2 => r.pick(&[END, RAM]).wrapping_sub(r.below(12)),
                3 => 1 << 55 | DATA,
                4 | 5 => DATA + r.below(DATA_PAGES) * PAGE + offset,
                _ if translated => self.tables.address(r),
                _ => DATA + r.below(DATA_PAGES) * PAGE + offset,
            };
            self.hart().x[usize::from(register)] = value;
        }
        for register in CODE_POINTERS {
            let distance = self.random.below(512).wrapping_sub(256) & !1;
            let other = self.random.pick(&self.blocks);
            let value = if translated || self.random.chance(50) { pc.wrapping_add(distance) } else { other };
            self.hart().x[usize::from(register)] = value;
        }
        let space = self.random.below(self.tables.spaces.len() as u64) as usize;
        self.hart().x[usize::from(SATP_HOLDER)] = match self.random.below(5) {
            0 => 0,
            _ => self.tables.spaces[space].satp,
        };
        let hart = self.hart();
        hart.reservation = None;
    }

    /// Begins the block with a store to code or to a page table, and the fence that belongs to it.
    fn add_special(
        &mut self,
        number: usize,
        mode: Privilege,
        satp: u64,
        mprv: bool,
        start: u64,
        block: &[u32],
    ) {
        const ADDRESS: u8 = 12;
        const VALUE: u8 = 13;
        const PLACE: u8 = 9;
        const ASID: u8 = 11;
        self.announced = None;
        let status = self.hart().csr.mstatus;
        let is_plain =
            self.hart().csr.mie == 0 && !mprv && mode != Privilege::User && status & mstatus::TVM == 0;
        if !is_plain || block.len() < 4 || start % PAGE > PAGE - 64 || !self.random.chance(25) {
            return;
        }
        let is_translated = mode != Privilege::Machine && satp != 0;
        let reach = |physical: u64| if is_translated { LARGE + (physical - RAM) } else { physical };
        let store = |op| Instruction { rs1: ADDRESS, rs2: VALUE, ..Instruction::new(op, 4) };
        let (store, fence) = if self.random.chance(50) {
            let target = start + 8 + 4 * self.random.below(4);
            let count = 1 + self.random.below(2);
            let new = bytes(&self.generator.block(&mut self.random, count));
            let mut value = [0x13, 0, 0, 0];
            value[..new.len().min(4)].copy_from_slice(&new[..new.len().min(4)]);
            self.hart().x[usize::from(ADDRESS)] = reach(target);
            self.hart().x[usize::from(VALUE)] = u32::from_le_bytes(value).into();
            (store(Op::Sw), Instruction::new(Op::FenceI, 4))
        } else {
            let Some((entry, pte, address, asid)) = self.tables.small_change(&mut self.random, number) else {
                return;
            };
            if self.hart().pc & !(PAGE - 1) == address {
                // Whether the fence itself is still fetched would be open.
                return;
            }
            let rs1 = if self.random.chance(60) { PLACE } else { 0 };
            let rs2 = if self.random.chance(50) { ASID } else { 0 };
            self.announced = Some((entry, pte & !ACCESSED));
            let hart = self.hart();
            hart.x[usize::from(ADDRESS)] = reach(entry);
            hart.x[usize::from(VALUE)] = pte;
            hart.x[usize::from(PLACE)] = address;
            hart.x[usize::from(POINTERS[0])] = address;
            hart.x[usize::from(ASID)] = asid.into();
            (store(Op::Sd), Instruction { rs1, rs2, ..Instruction::new(Op::SfenceVma, 4) })
        };
        for (at, instruction) in [(start, store), (start + 4, fence)] {
            let bits = encode(&instruction).expect("operands fit");
            self.write(at, &bits.to_le_bytes());
        }
    }

    /// Runs the translator for a while, and the interpreter as far, until they have done enough.
    fn run(&mut self, budget: u64, mut replay: Option<&mut Replay>) -> Result<(), String> {
        let end = self.translated.hart.hart.retired + budget;
        for _ in 0..20 {
            let left = end.wrapping_sub(self.translated.hart.hart.retired) as i64;
            if left <= 0 {
                break;
            }
            let before = self.translated.hart.hart.retired;
            let Machine { vm, hart } = &mut self.translated;
            let exit = self.engine.run(hart, vm, left as u64);
            self.exits += 1;
            self.instructions += hart.hart.retired.wrapping_sub(before);
            self.follow(exit, replay.as_deref_mut())?;
            if self.reference.ram() != self.translated.ram() {
                return Err(memory_differences(&self.reference, &self.translated));
            }
            match exit {
                Exit::Device(access) => {
                    let result = if access.address.0 % 64 == 24 {
                        Err(OutOfRange)
                    } else {
                        Ok(access.address.0 ^ 0xa5a5)
                    };
                    self.translated.hart.hart.finish_device_access(&access, result);
                    self.reference.hart.hart.finish_device_access(&access, result);
                }
                Exit::SbiCall => {
                    for machine in [&mut self.translated, &mut self.reference] {
                        machine.hart.hart.pc = machine.hart.hart.pc.wrapping_add(4);
                    }
                }
                Exit::Budget | Exit::WaitForInterrupt => break,
            }
        }
        Ok(())
    }

    /// Steps the interpreter to where the translator is.
    fn follow(&mut self, exit: Exit, mut replay: Option<&mut Replay>) -> Result<(), String> {
        /// Traps in a row that don't retire anything before giving up.
        const TRAPS: u32 = 400;
        let mut traps = 0;
        let mut first = None;
        loop {
            let (reference, translated) = (&self.reference.hart.hart, &self.translated.hart.hart);
            if reference.retired == translated.retired {
                if exit == Exit::Budget && is_same(reference, translated) {
                    return Ok(());
                }
                if replay.is_some() {
                    // Where both had done as much for the first time tells more than where this gives up.
                    first.get_or_insert_with(|| differences(reference, translated));
                }
            }
            if reference.retired > translated.retired || traps > TRAPS {
                let found = first.unwrap_or_else(|| differences(reference, translated));
                return Err(format!("the translator left with {exit:?}; then\n{found}"));
            }
            let before = reference.retired;
            let found = self.step(replay.as_deref_mut());
            let (reference, translated) = (&self.reference.hart.hart, &self.translated.hart.hart);
            traps = if reference.retired == before { traps + 1 } else { 0 };
            if found != Exit::Budget {
                return if found == exit && is_same(reference, translated) {
                    Ok(())
                } else {
                    let found_differences = differences(reference, translated);
                    Err(format!("interpreter {found:?}, translator {exit:?}\n{found_differences}"))
                };
            }
        }
    }

    /// One step of the interpreter.
    fn step(&mut self, replay: Option<&mut Replay>) -> Exit {
        self.steps += 1;
        if let Some(replay) = replay {
            self.note(replay);
        }
        let epoch = self.reference.hart.hart.code_epoch();
        let satp = self.reference.hart.hart.csr.satp;
        let Machine { vm, hart } = &mut self.reference;
        let exit = hart.hart.step(&vm.environment(&vm.harts()[0]));
        let now = hart.hart.csr.satp;
        if now != satp && now != 0 && self.tables.spaces.iter().all(|space| space.satp != now) {
            self.odd_satp = true;
        }
        if !self.fenced.is_empty() && epoch != hart.hart.code_epoch() {
            self.fenced = self.reference.ram().to_vec();
        }
        exit
    }

    /// Notes what is executed next, and whether it is what the last `fence.i` saw.
    fn note(&mut self, replay: &mut Replay) {
        use rvisor_hart::Access;
        let Machine { vm, hart } = &mut self.reference;
        let hart = &mut hart.hart;
        let env = vm.environment(&vm.harts()[0]);
        let pc = hart.pc;
        let text = match hart.translate(&env, GuestVirtual(pc), Access::Execute, 2) {
            Ok(translation) if (RAM..END - 4).contains(&translation.physical.0) => {
                let at = (translation.physical.0 - RAM) as usize;
                let now = &vm.memory().bytes(RAM..END)[at..at + 4];
                let bits = u32::from_le_bytes(now.try_into().expect("4 bytes"));
                let size = length(bits);
                self.stale_code |= now[..size] != self.fenced[at..at + size];
                match decode(bits) {
                    Some(i) => format!("{:#x}: {}", translation.physical.0, rvisor_isa::disassemble(&i, pc)),
                    None => format!("{:#x}: illegal {bits:08x}", translation.physical.0),
                }
            }
            Ok(translation) => format!("{:#x}: not RAM", translation.physical.0),
            Err(trap) => format!("{:?}, satp {:#x}", trap.cause, hart.csr.satp),
        };
        replay.trace.push(format!("{:?} {pc:#x} {text}", hart.privilege));
    }

    /// Whether a PTE changed that neither a walk nor the block's beginning had to change.
    fn tables_changed(&self) -> bool {
        let now = self.reference.vm.memory().bytes(TABLES..TABLES + TABLE_PAGES * PAGE);
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
