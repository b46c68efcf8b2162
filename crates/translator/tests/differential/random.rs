//! Reproducible randomness, and values that are likelier than chance to find something.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// An integer: often a corner, sometimes a bit or two, else anything.
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

    /// A floating-point register: of any format, boxed or not, often a corner of its format.
    pub fn float(&mut self) -> u64 {
        let random = self.bits();
        match self.below(12) {
            0..4 => self.corner(11, 52),
            4..8 => self.corner(8, 23) | 0xffff_ffff_0000_0000,
            8 | 9 => self.corner(5, 10) | 0xffff_ffff_ffff_0000,
            10 => f64::to_bits((random as i32 >> (random >> 32 & 31)).into()),
            _ => random,
        }
    }

    /// A number of the format with so many bits of exponent and fraction.
    fn corner(&mut self, exponent: u32, fraction: u32) -> u64 {
        let top: u64 = (1 << exponent) - 1;
        let bias = top >> 1;
        let near = bias.wrapping_add(self.below(140)).wrapping_sub(70) & top;
        let e = [0, 0, 1, top, top, top - 1, bias, near, near, near][self.below(10) as usize];
        let random = self.bits() & ((1 << fraction) - 1);
        let f = [0, 0, 1, 1 << (fraction - 1), (1 << fraction) - 1, random, random, random]
            [self.below(8) as usize];
        (self.bits() & 1) << (exponent + fraction) | e << fraction | f
    }
}
