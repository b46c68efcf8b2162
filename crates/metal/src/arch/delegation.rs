//! Which traps of a guest come to the monitor, with the H extension (Privileged ISA, "Hypervisor Exception Delegation
//! Register").

use rvisor_isa::Exception;
use rvisor_isa::csr::hstatus;

use super::assembly as asm;
use super::processor::PhysicalHart;
use crate::virtualization::Delegation;

/// What is delegated unless it is revealed.
const REVEALED: u64 = 1 << Exception::EnvironmentCallFromUser.code()
    | 1 << Exception::InstructionPageFault.code()
    | 1 << Exception::LoadPageFault.code()
    | 1 << Exception::StorePageFault.code();

impl Delegation for PhysicalHart {
    fn reveal(&mut self, is_revealed: bool) {
        let delegated = asm::read_hedeleg();
        let delegated = if is_revealed { delegated & !REVEALED } else { delegated | REVEALED };
        self.context.revealed = if is_revealed { hstatus::VTSR } else { 0 };
        // SAFETY: the engine delivers to the guest what the hardware doesn't.
        unsafe { asm::write_hedeleg(delegated) };
    }
}
