//! Random bytes for guests: a generator for each, seeded by the physical entropy device, or without one by what the boot
//! loader gave.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rvisor_waist::EntropyBackend;

/// Bytes of a seed.
pub const SEED: usize = 32;

/// Where seeds come from: the physical device's bytes, or the boot loader's, once.
pub struct Source(ChaCha20Rng);

impl Source {
    /// A source for what it gave.
    #[must_use]
    pub fn new(seed: [u8; SEED]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// A seed that nobody else has.
    pub fn seed(&mut self) -> [u8; SEED] {
        let mut seed = [0; SEED];
        self.0.fill_bytes(&mut seed);
        seed
    }

    /// A guest's own generator: what it gets says nothing about what others get.
    pub fn generator(&mut self) -> Generator {
        Generator(ChaCha20Rng::from_seed(self.seed()))
    }
}

/// One guest's random bytes.
pub struct Generator(ChaCha20Rng);

impl EntropyBackend for Generator {
    fn fill(&mut self, buffer: &mut [u8]) {
        self.0.fill_bytes(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_guests_get_the_same() {
        let mut source = Source::new([7; SEED]);
        let (mut one, mut two) = ([0; 64], [0; 64]);
        source.generator().fill(&mut one);
        source.generator().fill(&mut two);
        assert!(one != two && one[..32] != one[32..] && source.seed() != source.seed());
    }
}
