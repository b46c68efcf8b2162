//! `tohost` and `fromhost`: how a bare test program reports its end (the convention of the RISC-V test
//! programs).

use rvisor_devices::finisher::PowerRequest;
use rvisor_waist::{GuestMemory, GuestPhysical};

use crate::vm::Vm;

/// Where a test program's two words are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostInterface {
    /// Written by the program: an odd number ends it, with the failing test's number (0 for a pass) above
    /// the lowest bit; device 1, command 1 in the upper 16 bits prints a character.
    pub tohost: GuestPhysical,
    /// Written by the monitor as an answer, if the program has it.
    pub fromhost: Option<GuestPhysical>,
}

const PUTCHAR: u64 = 0x0101;

impl HostInterface {
    /// Looks whether the program wrote something, and does what it asks for.
    pub(crate) fn look<M: GuestMemory>(&self, vm: &Vm<M>) {
        let Ok(command) = vm.memory().load::<u64>(self.tohost) else { return };
        if command == 0 {
            return;
        }
        if command & 1 == 1 {
            let code = u16::try_from(command >> 1).unwrap_or(u16::MAX);
            vm.request_power(if code == 0 { PowerRequest::PowerOff } else { PowerRequest::Fail(code) });
            return;
        }
        if command >> 48 == PUTCHAR {
            vm.console().write(&[command as u8]);
        }
        // Both were in range when the program was loaded; a failure here could only be ignored.
        let _ = vm.memory().store(self.tohost, 0u64);
        if let Some(fromhost) = self.fromhost {
            let _ = vm.memory().store(fromhost, 1u64);
        }
    }
}
