//! Floating point on the host's unit.

use std::mem::offset_of;

use rvisor_isa::Instruction;

use super::assembler::*;
use super::lower::{ColdKind, Lowering};
use crate::runtime::frame::Frame;

const FLOAT_READY: Mem = Mem::new(RSP, offset_of!(Frame, float_ready) as i32);

impl Lowering<'_> {
    /// Makes sure that floating-point instructions may be executed here: once for each block, since only
    /// system instructions can change it.
    pub(super) fn check_float(&mut self) {
        if !self.float_checked {
            self.float_checked = true;
            let site = self.site();
            let off = self.add_cold(ColdKind::Step { site });
            self.asm.cmp_byte(FLOAT_READY, 0);
            self.asm.jcc(Cond::Equal, off);
        }
    }

    /// Lowers a floating-point instruction; false for others.
    pub(super) fn float(&mut self, _i: &Instruction) -> bool {
        false
    }
}
