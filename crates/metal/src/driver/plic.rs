//! The physical interrupt controller (RISC-V PLIC specification 1.0.0): every source goes to one hart.

use crate::arch::Registers;

const ENABLE: u64 = 0x2000;
const ENABLE_SIZE: u64 = 0x80;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_SIZE: u64 = 0x1000;
const CLAIM: u64 = 4;

/// The controller, as one hart in S-mode sees it.
pub struct Plic {
    registers: Registers,
    context: u64,
}

impl Plic {
    /// Takes the interrupts of this context, none of which is enabled yet.
    pub fn new(registers: Registers, context: u32) -> Self {
        const WORDS: u64 = 32;
        let plic = Self { registers, context: context.into() };
        for word in 0..WORDS {
            plic.registers.write(plic.enable(word), 0);
        }
        plic.registers.write(CONTEXT + CONTEXT_SIZE * plic.context, 0);
        plic
    }

    fn enable(&self, word: u64) -> u64 {
        ENABLE + ENABLE_SIZE * self.context + 4 * word
    }

    /// Lets a source interrupt.
    pub fn enable_source(&self, source: u32) {
        let register = self.enable(u64::from(source) / 32);
        self.registers.write(4 * u64::from(source), 1);
        self.registers.write(register, self.registers.read(register) | 1 << (source % 32));
    }

    /// A source that interrupts, now being served.
    pub fn claim(&self) -> Option<u32> {
        match self.registers.read(CONTEXT + CONTEXT_SIZE * self.context + CLAIM) {
            0 => None,
            source => Some(source),
        }
    }

    /// The source was served.
    pub fn complete(&self, source: u32) {
        self.registers.write(CONTEXT + CONTEXT_SIZE * self.context + CLAIM, source);
    }
}
