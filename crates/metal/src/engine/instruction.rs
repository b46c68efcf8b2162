//! Instructions that the hardware refuses to a guest in U-mode.

use rvisor_hart::{Exit, Hart};
use rvisor_isa::Op;

use super::{Deprivileged, Outside};
use crate::processor::Processor;

impl<P: Processor> Deprivileged<'_, P> {
    /// An illegal instruction; `bits` is the instruction, or zero where the hardware doesn't tell.
    pub(super) fn illegal(&mut self, hart: &mut Hart, outside: &Outside<'_>, bits: u64) -> Option<Exit> {
        let bits = match bits as u32 {
            0 => match hart.fetch(outside, hart.pc) {
                Ok(bits) => bits,
                Err(trap) => {
                    hart.take_trap(trap);
                    return None;
                }
            },
            bits => bits,
        };
        self.slice.execute_system(hart, outside, bits, self.processor)
    }

    /// Executes one instruction in the interpreter.
    pub(super) fn step(&mut self, hart: &mut Hart, outside: &Outside<'_>) -> Option<Exit> {
        // It may be a load or store of a floating-point register.
        self.float.park(hart, self.processor);
        match hart.step(outside) {
            Exit::Budget => None,
            exit => Some(exit),
        }
    }
}

/// Instructions that need privilege, or a permission that the monitor keeps for itself.
pub(super) const fn is_system(op: Op) -> bool {
    matches!(
        op,
        Op::Csrrw
            | Op::Csrrs
            | Op::Csrrc
            | Op::Csrrwi
            | Op::Csrrsi
            | Op::Csrrci
            | Op::Sret
            | Op::Mret
            | Op::Wfi
            | Op::WrsNto
            | Op::WrsSto
            | Op::SfenceVma
            | Op::SinvalVma
            | Op::SfenceWInval
            | Op::SfenceInvalIr
            | Op::CboInval
            | Op::CboClean
            | Op::CboFlush
            | Op::CboZero
    )
}
