//! The physical interrupt controller (RISC-V PLIC specification 1.0.0): each source goes to one hart.

use alloc::vec::Vec;

use crate::arch::Registers;

const ENABLE: u64 = 0x2000;
const ENABLE_SIZE: u64 = 0x80;
/// Words of a context's enabled sources.
const WORDS: u64 = 32;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_SIZE: u64 = 0x1000;
const CLAIM: u64 = 4;

/// The controller.
pub struct Plic {
    registers: Registers,
    /// The context of each physical hart in S-mode, where it has one.
    contexts: Vec<Option<u64>>,
}

impl Plic {
    /// Takes the interrupts of these contexts, one for each physical hart; none is enabled yet.
    pub fn new(registers: Registers, contexts: impl Iterator<Item = Option<u32>>) -> Self {
        let plic = Self { registers, contexts: contexts.map(|context| context.map(u64::from)).collect() };
        for context in plic.contexts.iter().flatten() {
            (0..WORDS).for_each(|word| plic.registers.write(enable(*context, word), 0));
            plic.registers.write(CONTEXT + CONTEXT_SIZE * context, 0);
        }
        plic
    }

    /// Lets sources interrupt, by turns on all harts that can take them.
    pub fn enable_sources(&self, sources: impl Iterator<Item = u32>) {
        let contexts = self.contexts.iter().flatten().cycle();
        for (source, context) in sources.zip(contexts) {
            self.registers.write(4 * u64::from(source), 1);
            self.add(enable(*context, u64::from(source) / 32), 1 << (source % 32));
        }
    }

    /// A hart stays off, and has never been on: what was its goes to the first one.
    pub fn leave_out(&self, hart: usize) {
        let [Some(first), Some(context)] = [0, hart].map(|hart| self.contexts.get(hart).copied().flatten())
        else {
            return;
        };
        for word in 0..WORDS {
            let sources = self.registers.read(enable(context, word));
            self.registers.write(enable(context, word), 0);
            self.add(enable(first, word), sources);
        }
    }

    fn add(&self, register: u64, sources: u32) {
        self.registers.write(register, self.registers.read(register) | sources);
    }

    fn claim_register(&self, hart: usize) -> Option<u64> {
        let context = self.contexts.get(hart).copied().flatten()?;
        Some(CONTEXT + CONTEXT_SIZE * context + CLAIM)
    }

    /// A source that interrupts this hart, now being served.
    pub fn claim(&self, hart: usize) -> Option<u32> {
        match self.registers.read(self.claim_register(hart)?) {
            0 => None,
            source => Some(source),
        }
    }

    /// The source was served.
    pub fn complete(&self, hart: usize, source: u32) {
        if let Some(register) = self.claim_register(hart) {
            self.registers.write(register, source);
        }
    }
}

/// The register of 32 sources that interrupt a context.
fn enable(context: u64, word: u64) -> u64 {
    ENABLE + ENABLE_SIZE * context + 4 * word
}
