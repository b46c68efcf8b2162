//! A machine of one hart for tests of engines: set registers and memory, run until the guest waits, compare.
//!
//! A test writes a program that ends in `wfi`, prepares the state in [`Machine::hart`], and calls
//! [`Machine::run`]. With [`Pair`] the same is done by the translator and by the interpreter, whose states
//! must be the same afterwards.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::Arc;

use rvisor_hart::{Exit, Hart};
use rvisor_hosted::HostMemory;
use rvisor_isa::csr::mstatus;
use rvisor_machine::{Backends, Engine, Extensions, Interpreter, TranslationMode, VirtualHart, Vm, VmConfig};
use rvisor_translator::Translator;
use rvisor_waist::{Clock, ConsoleBackend, GuestMemory, GuestPhysical};

/// Where RAM begins.
pub const RAM: u64 = 0x8000_0000;
/// Bytes of RAM.
pub const RAM_SIZE: u64 = 4 << 20;

/// Time stands still.
struct StoppedClock;

impl Clock for StoppedClock {
    fn ticks(&self) -> u64 {
        0
    }

    fn wall_nanoseconds(&self) -> u64 {
        0
    }
}

struct NoConsole;

impl ConsoleBackend for NoConsole {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn read(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

/// A machine with one hart and the engine that runs it.
pub struct Machine {
    vm: Vm<HostMemory>,
    hart: VirtualHart,
    engine: Box<dyn Engine<HostMemory>>,
}

impl Machine {
    fn new(engine: Box<dyn Engine<HostMemory>>) -> Self {
        let config = VmConfig {
            harts: 1,
            machine_mode: true,
            translation: TranslationMode::Sv57,
            hypervisor: false,
            extensions: Extensions::ALL,
        };
        let backends =
            Backends { serial: Box::new(NoConsole), sbi_console: Box::new(NoConsole), virtio: Vec::new() };
        let memory = HostMemory::new(GuestPhysical(RAM), RAM_SIZE).expect("the host has memory");
        let vm = Vm::new(config, Arc::new(memory), Arc::new(StoppedClock), backends);
        Self { hart: VirtualHart::new(0, &vm), vm, engine }
    }

    /// One that the interpreter runs.
    pub fn interpreted() -> Self {
        Self::new(Box::new(Interpreter))
    }

    /// One that the translator runs.
    pub fn translated() -> Self {
        Self::translated_with(rvisor_translator::Options::default())
    }

    /// The same, the translator being told something.
    pub fn translated_with(options: rvisor_translator::Options) -> Self {
        let shared = rvisor_translator::share::<HostMemory>(1, options).expect("room for code");
        Self::new(Box::new(Translator::new(&shared).expect("room for a stack")))
    }

    /// The hart's state: M-mode after reset, for the test to change.
    pub fn hart(&mut self) -> &mut Hart {
        &mut self.hart.hart
    }

    /// RAM.
    pub fn memory(&self) -> &HostMemory {
        self.vm.memory()
    }

    /// Writes code or data; code that may have been executed needs a [`Hart::fence_instructions`] as well.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory().write(GuestPhysical(address), bytes).expect("RAM");
    }

    /// Reads memory.
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory().read(GuestPhysical(address), &mut bytes).expect("RAM");
        bytes
    }

    /// Writes instructions of 32 bits, and makes them visible to fetches.
    pub fn write_code(&mut self, address: u64, code: &[u32]) {
        let bytes: Vec<_> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(address, &bytes);
        self.hart().fence_instructions();
    }

    /// Makes the hart start at `pc`, with floating point on and registers as they are.
    pub fn start(&mut self, pc: u64) {
        self.hart().pc = pc;
        self.hart().csr.mstatus |= mstatus::FS;
    }

    /// Enters the engine once.
    pub fn run_once(&mut self, budget: u64) -> Exit {
        self.vm.harts()[0].clear_attention();
        self.engine.run(&mut self.hart, &self.vm, budget)
    }

    /// Has the interpreter execute one instruction, whatever the engine is.
    pub fn step(&mut self) {
        let environment = self.vm.environment(&self.vm.harts()[0]);
        self.hart.hart.context_changed();
        assert_eq!(self.hart.hart.step(&environment), Exit::Budget);
    }

    /// Runs for about `limit` instructions, or until an exit that isn't for the budget's sake.
    pub fn run(&mut self, limit: u64) -> Exit {
        let start = self.hart().retired;
        self.vm.harts()[0].clear_attention();
        // Every turn makes progress of some kind: an instruction or a trap.
        for _ in 0..=limit {
            let left = limit.saturating_sub(self.hart.hart.retired - start);
            if left == 0 {
                break;
            }
            match self.engine.run(&mut self.hart, &self.vm, left) {
                Exit::Budget => {}
                exit => return exit,
            }
        }
        Exit::Budget
    }
}

/// The same machine twice.
pub struct Pair {
    /// Under test.
    pub translated: Machine,
    /// The oracle.
    pub interpreted: Machine,
}

impl Pair {
    /// Two machines in the same state.
    pub fn new() -> Self {
        Self { translated: Machine::translated(), interpreted: Machine::interpreted() }
    }

    /// Prepares both in the same way.
    pub fn both(&mut self, mut prepare: impl FnMut(&mut Machine)) {
        prepare(&mut self.translated);
        prepare(&mut self.interpreted);
    }

    /// Runs both until the guest waits.
    ///
    /// # Panics
    /// If one doesn't within `limit` instructions, or they end in different states.
    pub fn run(&mut self, limit: u64) {
        self.both(|machine| assert_eq!(machine.run(limit), Exit::WaitForInterrupt));
        self.assert_same_state();
    }

    /// Compares all that the harts hold; memory is the test's to compare.
    pub fn assert_same_state(&mut self) {
        let (translated, interpreted) = (&self.translated.hart.hart, &self.interpreted.hart.hart);
        for register in 0..32 {
            let values = [translated.x[register], interpreted.x[register]];
            assert_eq!(values[0], values[1], "x{register}: {values:#x?} translated and interpreted");
            let values = [translated.f[register], interpreted.f[register]];
            assert_eq!(values[0], values[1], "f{register}: {values:#x?} translated and interpreted");
        }
        assert_eq!(translated.pc, interpreted.pc, "pc");
        assert_eq!(translated.privilege, interpreted.privilege);
        assert_eq!(translated.csr, interpreted.csr);
        assert_eq!(translated.retired, interpreted.retired, "instructions retired");
        assert_eq!(translated.reservation, interpreted.reservation);
    }
}
