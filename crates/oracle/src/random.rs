//! Reproducible randomness, and values that are likelier than chance to find something.

/// SplitMix64: small, fast, and the same everywhere for the same seed.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// A register's or CSR's value: often a corner, sometimes a bit or two, else anything.
    pub fn value(&mut self) -> u64 {
        let random = self.bits();
        match self.below(10) {
            0 => self.pick(&[
                0,
                1,
                2,
                u64::MAX,
                1 << 63,
                i64::MAX as u64,
                1 << 31,
                i32::MIN as u64,
                0xffff_ffff,
            ]),
            1 => 1 << (random & 63),
            2 => 1 << (random & 63) | 1 << (random >> 6 & 63),
            3 => !(1 << (random & 63)),
            4 => random & 0xff,
            5 => i64::from(random as i32) as u64,
            6 => random >> (random & 63),
            _ => random,
        }
    }
}
