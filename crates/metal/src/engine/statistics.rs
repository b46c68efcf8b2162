//! What a virtual hart's time went to.

use core::fmt;
use core::ops::AddAssign;

use rvisor_isa::Exception;

use crate::processor::Shortcuts;

/// Counts of what made the guest trap.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    /// Times the guest was entered.
    pub switches: u64,
    /// Traps of the guest by `scause`, exceptions up to 31.
    pub exceptions: [u64; 32],
    /// Interrupts of the hardware while the guest ran.
    pub interrupts: u64,
    /// Traps served without the monitor.
    pub shortcuts: Shortcuts,
}

impl AddAssign for Shortcuts {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.returns += other.returns;
        self.csrs += other.csrs;
    }
}

impl AddAssign for Statistics {
    fn add_assign(&mut self, other: Self) {
        self.switches += other.switches;
        for (sum, count) in self.exceptions.iter_mut().zip(other.exceptions) {
            *sum += count;
        }
        self.interrupts += other.interrupts;
        self.shortcuts += other.shortcuts;
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |exception: Exception| self.exceptions[exception.code() as usize & 31];
        let page_faults =
            [Exception::InstructionPageFault, Exception::LoadPageFault, Exception::StorePageFault].map(of);
        let Shortcuts { calls, returns, csrs } = self.shortcuts;
        write!(
            f,
            "{} world switches: {} privileged instructions, {} calls, {} page faults, {} interrupts; without one: \
             {calls} calls, {returns} returns, {csrs} CSR instructions",
            self.switches,
            of(Exception::IllegalInstruction),
            of(Exception::EnvironmentCallFromUser),
            page_faults.iter().sum::<u64>(),
            self.interrupts
        )
    }
}
