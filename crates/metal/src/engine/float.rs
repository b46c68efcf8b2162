//! Where the guest's floating-point registers are: in the hardware from when the guest may use them until the
//! engine leaves, else in the hart's state. The monitor itself has none.

use rvisor_hart::Hart;
use rvisor_isa::csr::mstatus;

use crate::processor::Processor;

/// Whose the hardware's registers are.
#[derive(Default)]
pub struct Float {
    /// The hardware's registers are the guest's, and newer than the hart's state.
    is_live: bool,
}

const FCSR_FLAGS: u64 = 0x1f;
const FRM_SHIFT: u32 = 5;

impl Float {
    /// Before the guest runs: loads its registers if it may use them. Returns `sstatus.FS` to run with.
    pub fn unpark<P: Processor>(&mut self, hart: &Hart, processor: &mut P) -> u64 {
        let status = hart.csr.mstatus & mstatus::FS;
        if status != 0 && !self.is_live {
            let fcsr = u64::from(hart.csr.frm) << FRM_SHIFT | u64::from(hart.csr.fflags);
            processor.load_float(&hart.f, fcsr);
            self.is_live = true;
        }
        status
    }

    /// Whether the hardware has the guest's registers.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Makes the hart's state the newest.
    pub fn park<P: Processor>(&mut self, hart: &mut Hart, processor: &mut P) {
        if self.is_live {
            let fcsr = processor.save_float(&mut hart.f);
            hart.csr.frm = (fcsr >> FRM_SHIFT) as u8 & 7;
            hart.csr.fflags = (fcsr & FCSR_FLAGS) as u8;
        }
        *self = Self::default();
    }
}
