//! The physical interrupt controller (RISC-V PLIC specification 1.0.0): each source goes to one hart.

use alloc::vec::Vec;

use spin::Mutex;

use crate::arch::Registers;

const ENABLE: u64 = 0x2000;
const ENABLE_SIZE: u64 = 0x80;
/// Words of a context's enabled sources.
const WORDS: usize = 32;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_SIZE: u64 = 0x1000;
const CLAIM: u64 = 4;

/// The controller.
pub struct Plic {
    registers: Registers,
    /// The context of each physical hart in S-mode, where it has one.
    contexts: Vec<Option<u64>>,
    /// Sources, each with the hart that it interrupts.
    sources: Mutex<Vec<(u32, usize)>>,
}

impl Plic {
    /// Takes the interrupts of these contexts, one for each physical hart; none is enabled yet.
    pub fn new(registers: Registers, contexts: impl Iterator<Item = Option<u32>>) -> Self {
        let contexts = contexts.map(|context| context.map(u64::from)).collect();
        let plic = Self { registers, contexts, sources: Mutex::new(Vec::new()) };
        (0..plic.contexts.len()).for_each(|hart| plic.attach(hart));
        plic
    }

    /// Lets sources interrupt, by turns all harts that can take them. Harts that aren't on yet have theirs from when they are
    /// [attached](Self::attach).
    pub fn enable_sources(&self, sources: impl Iterator<Item = u32>) {
        let harts = (0..self.contexts.len()).filter(|hart| self.contexts[*hart].is_some()).cycle();
        for (source, hart) in sources.zip(harts) {
            self.registers.write(4 * u64::from(source), 1);
            self.sources.lock().push((source, hart));
        }
        self.attach(0);
    }

    /// Lets a hart have its interrupts. Firmware that starts a hart resets what belongs to it: the hart does this
    /// itself, when it is on.
    pub fn attach(&self, hart: usize) {
        let Some(context) = self.contexts.get(hart).copied().flatten() else { return };
        let mut words = [0u32; WORDS];
        for (source, _) in self.sources.lock().iter().filter(|(_, own)| *own == hart) {
            words[*source as usize / 32 % WORDS] |= 1 << (source % 32);
        }
        self.registers.write(CONTEXT + CONTEXT_SIZE * context, 0);
        for (word, sources) in words.into_iter().enumerate() {
            self.registers.write(ENABLE + ENABLE_SIZE * context + 4 * word as u64, sources);
        }
    }

    /// A hart stays off: what was its goes to the first one.
    pub fn leave_out(&self, hart: usize) {
        for (_, own) in self.sources.lock().iter_mut().filter(|(_, own)| *own == hart) {
            *own = 0;
        }
        self.attach(0);
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
