//! Random instructions: every operation of the table equally often, and what isn't an operation too.

use rvisor_isa::{Op, csr};

use crate::random::Random;

/// Draws instructions.
pub struct Generator {
    operations: Vec<Op>,
    /// CSRs that have a name, by number.
    named_csrs: Vec<u16>,
}

impl Default for Generator {
    fn default() -> Self {
        Self::new()
    }
}

impl Generator {
    /// Draws from all of [`Op::ALL`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            operations: Op::ALL.to_vec(),
            named_csrs: (0..0x1000).filter(|&number| csr::name(number).is_some()).collect(),
        }
    }

    /// Draws an operation no longer on purpose; chance may still produce it.
    pub fn avoid(&mut self, op: Op) {
        self.operations.retain(|&other| other != op);
    }

    /// The next instruction's bits; a compressed one in the low half.
    pub fn instruction(&self, random: &mut Random) -> u32 {
        match random.below(100) {
            0..50 => self.operation(random),
            50..58 => {
                let bits = self.operation(random) ^ 1 << random.below(32);
                if bits & 3 == 3 { bits } else { bits & 0xffff }
            }
            58..62 => random.bits() as u32 | 3,
            62..76 => Self::compressed(random),
            _ => self.csr_access(random),
        }
    }

    fn operation(&self, random: &mut Random) -> u32 {
        let (mask, fixed) = random.pick(&self.operations).encoding();
        random.bits() as u32 & !mask | fixed
    }

    fn compressed(random: &mut Random) -> u32 {
        let quadrant = random.below(3) as u32;
        random.bits() as u32 & 0xfffc | quadrant
    }

    fn csr_access(&self, random: &mut Random) -> u32 {
        let op = random.pick(&[Op::Csrrw, Op::Csrrs, Op::Csrrc, Op::Csrrwi, Op::Csrrsi, Op::Csrrci]);
        let number =
            if random.chance(90) { random.pick(&self.named_csrs) } else { random.below(0x1000) as u16 };
        // x0 means "don't write" or "don't read" to these.
        let mut register = || if random.chance(25) { 0 } else { random.below(32) as u32 };
        let (_, fixed) = op.encoding();
        fixed | u32::from(number) << 20 | register() << 15 | register() << 7
    }
}
