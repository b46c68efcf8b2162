//! Steps a hart and the model from the same state, and compares all that they hold.

use rvisor_hart::{Config, Exit, Hart};
use rvisor_isa::csr::*;
use rvisor_isa::{Exception, Extension, Interrupt, Privilege, csr, decode, disassemble};
use rvisor_waist::{GuestMemory, GuestPhysical, OutOfRange};

use crate::generate::Generator;
use crate::model::{Model, Outcome, missing};
use crate::random::Random;
use crate::report::{Difference, Report};
use crate::world::{RAM, World};

/// CSRs compared after every step. The others are constants, views of these, or only change when written:
/// those are compared when an instruction names them.
const STATE: &[u16] = &[
    MSTATUS,
    MEDELEG,
    MIDELEG,
    MIE,
    MTVEC,
    MCOUNTEREN,
    MENVCFG,
    MCOUNTINHIBIT,
    MSCRATCH,
    MEPC,
    MCAUSE,
    MTVAL,
    MIP,
    STVEC,
    SCOUNTEREN,
    SENVCFG,
    SSCRATCH,
    SEPC,
    SCAUSE,
    STVAL,
    STIMECMP,
    SATP,
    TSELECT,
    MCYCLE,
    MINSTRET,
];

/// CSRs that random values are written to between steps.
const WRITABLE: &[u16] = &[
    MSTATUS,
    MSTATUS,
    MEDELEG,
    MIDELEG,
    MIE,
    MTVEC,
    MCOUNTEREN,
    MENVCFG,
    MCOUNTINHIBIT,
    MSCRATCH,
    MEPC,
    MCAUSE,
    MTVAL,
    MIP,
    STVEC,
    SCOUNTEREN,
    SENVCFG,
    SSCRATCH,
    SEPC,
    SCAUSE,
    STVAL,
    STIMECMP,
    TSELECT,
    MCYCLE,
    MINSTRET,
    FCSR,
];

/// Bits of `menvcfg` for extensions that the model doesn't have.
const MENVCFG_NOT_IN_MODEL: u64 = envcfg::ADUE | envcfg::PBMTE;

/// Steps between resets: what is locked (PMP) or lost (time) comes back.
const STEPS_PER_RESET: u64 = 200;
/// Bytes of RAM.
const RAM_SIZE: u64 = 1 << 20;
/// How many more instructions than asked for the hart may run at once.
const LOOKAHEAD: u64 = 16;
/// How often an operation that the model can't do is tried on purpose.
const ENOUGH: u64 = 100;
/// Findings that are written out in full.
const FINDINGS: usize = 10;

/// A hart and the model, side by side.
pub struct Comparison {
    hart: Hart,
    model: Model,
    world: World,
    random: Random,
    generator: Generator,
    seed: u64,
    step: u64,
    had_stimecmp: bool,
    report: Report,
}

/// Everything that is compared, by name.
type State = Vec<(Place, u64, u64)>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Pc,
    Privilege,
    X(usize),
    Csr(u16),
    Memory(u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pc => f.write_str("pc"),
            Self::Privilege => f.write_str("privilege"),
            Self::X(register) => write!(f, "x{register}"),
            Self::Memory(address) => write!(f, "memory at {address:#x}"),
            Self::Csr(number) => match csr::name(*number) {
                Some(name) => name.fmt(f),
                None => write!(f, "csr {number:#x}"),
            },
        }
    }
}

impl Comparison {
    /// A comparison that is the same for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut comparison = Self {
            hart: Hart::new(Config::default()),
            model: Model::new(),
            world: World::new(RAM_SIZE),
            random: Random::new(seed),
            generator: Generator::new(),
            seed,
            step: 0,
            had_stimecmp: false,
            report: Report::default(),
        };
        comparison.reset();
        comparison
    }

    /// Steps until `count` more instructions have been compared, and gives the report so far.
    pub fn run(&mut self, count: u64) -> &Report {
        let goal = self.report.total() + count;
        while self.report.total() < goal {
            if self.step % STEPS_PER_RESET == STEPS_PER_RESET - 1 {
                self.reset();
            }
            self.step();
            self.step += 1;
        }
        &self.report
    }

    /// Back to the state after reset, then random values everywhere.
    fn reset(&mut self) {
        self.hart = Hart::new(Config::default());
        self.model = Model::new();
        self.world.ticks.set(self.random.value() >> 1);
        self.world.lines.set(0);
        // Smstateen isn't in the model: what it guards is open.
        for number in MSTATEEN0..=MSTATEEN3 {
            self.write_hart_csr(number, u64::MAX);
        }
        if self.random.chance(85) {
            // Entry 0 covers everything, so that less privileged modes get to execute at all.
            self.write_csr(PMPADDR0, u64::MAX);
            self.write_csr(PMPCFG0, 0x1f);
        } else {
            self.set_random_protection();
        }
        for &number in WRITABLE {
            let value = self.random.value();
            self.write_csr(number, value);
        }
        for register in 1..32 {
            let value = self.random.value();
            self.set_x(register, value);
        }
    }

    fn set_random_protection(&mut self) {
        for entry in 0..16 {
            let around_ram = (RAM + self.random.below(RAM_SIZE)) >> 2 | ((1 << self.random.below(20)) - 1);
            let value = if self.random.chance(80) { around_ram } else { self.random.value() };
            self.write_csr(PMPADDR0 + entry, value);
        }
        for register in [PMPCFG0, PMPCFG0 + 2] {
            let locks = if self.random.chance(20) { u64::MAX } else { 0x7f7f_7f7f_7f7f_7f7f };
            let value = self.random.bits() & locks;
            self.write_csr(register, value);
        }
    }

    fn set_x(&mut self, register: usize, value: u64) {
        self.hart.x[register] = value;
        self.model.set_x(register, value);
    }

    /// Writes a CSR of both sides as M-mode would.
    fn write_csr(&mut self, number: u16, value: u64) {
        self.write_hart_csr(number, value);
        if self.model.has_csr(number) {
            self.model.set_csr(number, value);
        }
        // No instruction wrote this, so none is left out of the counts, and what STIP shows has no history.
        match number {
            MCYCLE | MINSTRET | MCOUNTINHIBIT => {
                self.copy_to_model(MCYCLE);
                self.copy_to_model(MINSTRET);
            }
            MENVCFG => {
                self.adopt_what_model_lacks();
                self.copy_to_model(MIP);
            }
            _ => {}
        }
    }

    fn copy_to_model(&mut self, number: u16) {
        if let Some(value) = self.read_hart_csr(number) {
            match number {
                MIP => self.model.force_mip(value),
                _ => self.model.set_csr(number, value),
            }
        }
    }

    fn write_hart_csr(&mut self, number: u16, value: u64) {
        let mode = std::mem::replace(&mut self.hart.privilege, Privilege::Machine);
        // Refused where floating point is off; the model doesn't have the register either then.
        let _ = self.hart.write_csr(&self.world, number, value);
        self.hart.privilege = mode;
    }

    fn read_hart_csr(&mut self, number: u16) -> Option<u64> {
        let mode = std::mem::replace(&mut self.hart.privilege, Privilege::Machine);
        let value = self.hart.read_csr(&self.world, number).ok();
        self.hart.privilege = mode;
        value
    }

    /// Goes to a mode, and to a program counter, by `mret`.
    fn enter(&mut self, mode: Privilege, pc: u64) {
        self.hart.privilege = Privilege::Machine;
        self.model.set_privilege(Privilege::Machine);
        self.write_csr(MEPC, pc);
        let status = self.model.csr(MSTATUS) & !mstatus::MPP | (mode as u64) << mstatus::MPP_SHIFT;
        self.write_csr(MSTATUS, status);
        // Cannot fail: the mode is M.
        let _ = self.hart.mret();
        self.model.mret();
    }

    /// Changes something between two steps.
    fn perturb(&mut self) {
        for _ in 0..3 {
            let (register, value) = (self.random.below(31) as usize + 1, self.random.value());
            self.set_x(register, value);
        }
        if self.random.chance(10) {
            let (number, value) = (self.random.pick(WRITABLE), self.random.value());
            self.write_csr(number, value);
        }
        if self.random.chance(10) {
            self.world.lines.set(self.random.bits() & (mip::MSIP | mip::MTIP | mip::MEIP));
        }
        let ticks = self.world.ticks.get().wrapping_add(self.random.below(1000));
        self.world.ticks.set(ticks);
        if self.random.chance(5) {
            let deadline = ticks.wrapping_add(self.random.below(3)).wrapping_sub(1);
            self.write_csr(STIMECMP, deadline);
        }
    }

    /// Puts random instructions into memory and both program counters at the first, in a random mode.
    fn place_instructions(&mut self, count: u64) -> Vec<u32> {
        let mut instructions: Vec<u32> =
            (0..count).map(|_| self.generator.instruction(&mut self.random)).collect();
        // Bits that the model doesn't have are adopted when a run ends: nothing may read them before.
        if let Some(last) = instructions.iter().position(|&bits| names_menvcfg(bits)) {
            instructions.truncate(last + 1);
        }
        let bytes: Vec<u8> = instructions
            .iter()
            .flat_map(|bits| bits.to_le_bytes().into_iter().take(if bits & 3 == 3 { 4 } else { 2 }))
            // An illegal instruction behind them keeps a run from going on into what others left.
            .chain([0; 2])
            .collect();
        // Now and then across the end of RAM, or outside.
        let offset = match self.random.below(100) {
            0 => RAM_SIZE - 2,
            1 => RAM_SIZE + 8,
            _ => self.random.below((RAM_SIZE - bytes.len() as u64) / 2) * 2,
        };
        let pc = RAM + offset;
        let in_ram = bytes.len().min(RAM_SIZE.saturating_sub(offset) as usize);
        if in_ram > 0 {
            let written = self.world.ram.write(GuestPhysical(pc), &bytes[..in_ram]);
            assert!(written.is_ok(), "{pc:#x} is in RAM");
        }
        let mode = self.random.pick(&[Privilege::User, Privilege::Supervisor, Privilege::Machine]);
        self.enter(mode, pc);
        if self.model.has_interrupt(&self.world) && self.random.chance(90) {
            self.write_csr(MIE, 0);
        }
        instructions
    }

    fn step(&mut self) {
        self.perturb();
        match self.random.below(10) {
            0..6 => self.single_step(),
            6..9 => self.short_run(1),
            _ => {
                let count = self.random.below(12) + 2;
                self.short_run(count);
            }
        }
        // Translation isn't in the model.
        if self.model.csr(SATP) != 0 {
            self.write_csr(SATP, 0);
        }
    }

    /// One instruction, or an interrupt.
    fn single_step(&mut self) {
        let instructions = self.place_instructions(1);
        let bits = instructions[0];
        self.aim(bits);
        let before = self.state(bits);
        let outcome = match self.model.step_with_memory(&self.world) {
            Ok(outcome) => outcome,
            Err(reason) => return self.count_lacking(self.model.executed(), reason),
        };
        if let Exit::Device(access) = self.hart.step(&self.world) {
            // There are no devices.
            self.hart.finish_device_access(&access, Err(OutOfRange));
        }
        self.count(outcome);
        self.judge(&instructions, &before);
    }

    /// Makes the address of a load or store one that is often in RAM.
    fn aim(&mut self, bits: u32) {
        let Some(instruction) = decode(bits).filter(|i| i.op.extension() == Extension::I && i.rs1 != 0)
        else {
            return;
        };
        if self.random.chance(70) {
            let target = (RAM + self.random.below(RAM_SIZE + 16)) & !self.random.pick(&[0, 7, 7, 7]);
            self.set_x(instruction.rs1.into(), target.wrapping_sub(instruction.imm as i64 as u64));
        }
    }

    /// As many instructions as the hart runs at once: up to `count`, or up to what changes its course.
    fn short_run(&mut self, count: u64) {
        let instructions = self.place_instructions(count);
        // Memory is shared: where the model can't follow, the hart mustn't go ahead and change it.
        let place = self.model.clone();
        for _ in 0..count + LOOKAHEAD {
            if self.model_step().is_none() {
                self.model = place;
                return;
            }
        }
        self.model = place;
        let before = self.state(instructions[0]);
        self.hart.fence_instructions();
        let start = self.hart.retired;
        self.hart.run(&self.world, count);
        let mut retired = self.hart.retired.wrapping_sub(start);
        // How many traps the hart took among them it doesn't say: its state must be one that the model passes
        // through after having retired as many instructions.
        for _ in 0..count + LOOKAHEAD + retired {
            let Some(outcome) = self.model_step() else { return self.reset() };
            self.count(outcome);
            if outcome == Outcome::Retired {
                if retired == 0 {
                    break;
                }
                retired -= 1;
            }
            if retired == 0 && self.differences(instructions[0]).is_empty() {
                break;
            }
        }
        self.judge(&instructions, &before);
    }

    /// Steps the model; `None` where it can't, which is counted.
    fn model_step(&mut self) -> Option<Outcome> {
        match self.model.step(&self.world) {
            Ok(outcome) => Some(outcome),
            Err(reason) => {
                self.count_lacking(self.model.executed(), reason);
                None
            }
        }
    }

    fn count_lacking(&mut self, bits: u32, reason: String) {
        let count = self.report.lacking.entry((mnemonic(bits), reason)).or_default();
        *count += 1;
        if *count != ENOUGH {
            return;
        }
        // What a CSR instruction lacks is the CSR.
        if let Some(instruction) = decode(bits).filter(|other| other.op.extension() != Extension::Zicsr) {
            self.generator.avoid(instruction.op);
        }
    }

    fn count(&mut self, outcome: Outcome) {
        let name = match outcome {
            Outcome::Retired | Outcome::Trapped => mnemonic(self.model.executed()),
            Outcome::Unfetched => "(not fetched)",
            Outcome::Interrupted => "(interrupted)",
        };
        let counts = self.report.compared.entry(name).or_default();
        counts.0 += u64::from(outcome == Outcome::Retired);
        counts.1 += 1;
        self.count_trap(outcome);
    }

    fn count_trap(&mut self, outcome: Outcome) {
        if outcome == Outcome::Retired {
            return;
        }
        let cause =
            self.model.csr(if self.model.privilege() == Privilege::Machine { MCAUSE } else { SCAUSE });
        let code = cause & !mcause::INTERRUPT;
        let name = match outcome {
            Outcome::Interrupted => {
                Interrupt::from_code(code).map(|interrupt| format!("{interrupt:?} interrupt"))
            }
            _ => Exception::from_code(code).map(|exception| format!("{exception:?}")),
        };
        *self.report.traps.entry(name.unwrap_or_else(|| format!("cause {cause:#x}"))).or_default() += 1;
    }

    /// Every compared place, with the values of the hart and of the model.
    fn state(&mut self, bits: u32) -> State {
        let mut state = State::new();
        state.push((Place::Pc, self.hart.pc, self.model.pc()));
        state.push((Place::Privilege, self.hart.privilege as u64, self.model.privilege() as u64));
        for register in 0..32 {
            state.push((Place::X(register), self.hart.x[register], self.model.x(register)));
        }
        // The CSR that the instruction names, too, unless it is one that the model is known not to have.
        let named = decode(bits)
            .filter(|instruction| instruction.op.extension() == Extension::Zicsr && missing(bits).is_none())
            .map(|instruction| instruction.imm as u16);
        for number in STATE.iter().copied().chain(named) {
            let model = if self.model.has_csr(number) { Some(self.model.csr(number)) } else { None };
            let hart = self.read_hart_csr(number);
            state.push((Place::Csr(number), hart.unwrap_or(u64::MAX), model.unwrap_or(u64::MAX)));
            if hart.is_some() != model.is_some() {
                state.push((Place::Csr(number), hart.is_some().into(), model.is_some().into()));
            }
        }
        state
    }

    fn differences(&mut self, bits: u32) -> State {
        self.model.sense(&self.world);
        self.adopt_what_model_lacks();
        self.state(bits).into_iter().filter(|(_, hart, model)| hart != model).collect()
    }

    /// Records what differs after the instructions, if anything does.
    fn judge(&mut self, instructions: &[u32], before: &State) {
        let stored = self.model.take_store().map(|store| {
            let mut found = [0; 8];
            // It was in RAM when the model looked.
            let _ = self.world.ram.read(GuestPhysical(store.address), &mut found[..store.size as usize]);
            (Place::Memory(store.address), u64::from_le_bytes(found), store.value)
        });
        let differences: Vec<Difference> = self
            .differences(instructions[0])
            .into_iter()
            .chain(stored.filter(|(_, hart, model)| hart != model))
            .map(|(place, hart, model)| {
                let before =
                    before.iter().find(|(other, ..)| *other == place).map_or(0, |&(_, value, _)| value);
                Difference { place: place.to_string(), before, hart, model }
            })
            .collect();
        let Some(first) = differences.first() else { return };
        let key = (mnemonic(instructions[0]), first.place.clone());
        *self.report.differing.entry(key).or_default() += 1;
        if self.report.findings.len() < FINDINGS {
            self.report.findings.push(self.describe(instructions, before, &differences));
        }
        self.reset();
    }

    fn describe(&self, instructions: &[u32], before: &State, differences: &[Difference]) -> String {
        let mut text = format!("seed {} step {}:", self.seed, self.step);
        for &bits in instructions {
            let assembly = decode(bits).map_or("illegal".into(), |i| disassemble(&i, 0).to_string());
            text += &format!("\n  {bits:#010x} {assembly}");
        }
        for Difference { place, before, hart, model } in differences {
            text += &format!("\n  {place}: was {before:#x}, hart {hart:#x}, model {model:#x}");
        }
        text += "\n  before:";
        for (place, value, _) in before.iter().filter(|(_, value, _)| *value != 0) {
            text += &format!(" {place}={value:#x}");
        }
        text
    }

    /// Gives the model the bits that belong to extensions it doesn't have, and those that are free to be what
    /// the implementation likes.
    fn adopt_what_model_lacks(&mut self) {
        let hart = self.hart.csr.menvcfg;
        let model = self.model.csr(MENVCFG);
        if (hart ^ model) & MENVCFG_NOT_IN_MODEL != 0 {
            *self
                .report
                .allowed
                .entry("menvcfg.ADUE and PBMTE: Svadu and Svpbmt aren't in the model")
                .or_default() += 1;
            self.model.force_menvcfg(model & !MENVCFG_NOT_IN_MODEL | hart & MENVCFG_NOT_IN_MODEL);
        }
        // `menvcfg.STCE` was cleared: whether STIP keeps what stimecmp made it or what was written before.
        let stip = (self.read_hart_csr(MIP).unwrap_or(0) ^ self.model.csr(MIP)) & mip::STIP;
        if stip != 0 && hart & envcfg::STCE == 0 && self.had_stimecmp {
            *self.report.allowed.entry("mip.STIP after menvcfg.STCE is cleared").or_default() += 1;
            self.copy_to_model(MIP);
        }
        self.had_stimecmp = hart & envcfg::STCE != 0;
    }
}

fn names_menvcfg(bits: u32) -> bool {
    decode(bits).is_some_and(|instruction| {
        instruction.op.extension() == Extension::Zicsr && instruction.imm == i32::from(MENVCFG)
    })
}

fn mnemonic(bits: u32) -> &'static str {
    decode(bits).map_or("(illegal)", |instruction| instruction.op.mnemonic())
}
