//! The integer registers while the interpreter runs.

use core::ops::{Index, IndexMut};

use super::op::SINK;

/// Integer registers, and a place for writes to `x0`. As many as a byte can name, so that the host need not
/// check bounds.
pub struct Registers([u64; 256]);

impl Registers {
    pub const fn new() -> Self {
        Self([0; 256])
    }

    /// Takes over the values of `x`.
    pub fn load(&mut self, x: &[u64; 32]) {
        self.0[..32].copy_from_slice(x);
        self.0[0] = 0;
    }

    /// Gives back the values.
    pub fn save(&self, x: &mut [u64; 32]) {
        x.copy_from_slice(&self.0[..32]);
    }

    /// Writes a register as instructions name it: what is written to `x0` is lost.
    #[inline(always)]
    pub fn write(&mut self, register: u8, value: u64) {
        self[if register == 0 { SINK } else { register }] = value;
    }
}

/// Index 0 reads zero and must not be written; [`SINK`] is there for that.
impl Index<u8> for Registers {
    type Output = u64;

    #[inline(always)]
    fn index(&self, register: u8) -> &u64 {
        &self.0[usize::from(register)]
    }
}

impl IndexMut<u8> for Registers {
    #[inline(always)]
    fn index_mut(&mut self, register: u8) -> &mut u64 {
        &mut self.0[usize::from(register)]
    }
}
