//! Control and status registers: who may access which, and what their fields hold.

use crate::exit::Environment;
use crate::state::{Config, Hart};
use crate::trap::IllegalInstruction;

/// How a CSR instruction combines its operand with the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CsrOperation {
    /// `csrrw`, `csrrwi`.
    Write,
    /// `csrrs`, `csrrsi`.
    Set,
    /// `csrrc`, `csrrci`.
    Clear,
}

/// The registers' stored parts.
#[derive(Clone, Debug, Default)]
pub struct Csrs {}

impl Csrs {
    pub(crate) fn new(_config: &Config) -> Self {
        Self::default()
    }
}

impl Hart {
    /// The CSR instructions. `operand` is `None` where the instruction doesn't write (`csrrs` with `x0`);
    /// `reads` is false where it doesn't read (`csrrw` with `rd = x0`). Returns the old value for `rd`.
    pub fn csr_instruction<E: Environment>(
        &mut self,
        _env: &E,
        _number: u16,
        _operation: CsrOperation,
        _operand: Option<u64>,
        _reads: bool,
    ) -> Result<u64, IllegalInstruction> {
        Ok(0)
    }

    /// Reads a CSR as an instruction in the current mode would.
    pub fn read_csr<E: Environment>(&mut self, _env: &E, _number: u16) -> Result<u64, IllegalInstruction> {
        Ok(0)
    }

    /// Writes a CSR as an instruction in the current mode would.
    pub fn write_csr<E: Environment>(
        &mut self,
        _env: &E,
        _number: u16,
        _value: u64,
    ) -> Result<(), IllegalInstruction> {
        Ok(())
    }

    /// Whether floating-point instructions may be executed (`mstatus.FS` isn't Off).
    #[must_use]
    pub fn float_enabled(&self) -> bool {
        true
    }

    /// The dynamic rounding mode, the field `frm` of `fcsr`: 0..=7.
    #[must_use]
    pub fn rounding_mode(&self) -> u8 {
        0
    }

    /// Notes that an instruction wrote an `f` register: `mstatus.FS` becomes Dirty.
    pub fn mark_float_dirty(&mut self) {}

    /// Ors the exceptions that an instruction raised into `fflags` (NV 16, DZ 8, OF 4, UF 2, NX 1).
    pub fn raise_float_flags(&mut self, _flags: u8) {}
}
