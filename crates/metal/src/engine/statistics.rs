//! What a virtual hart's time went to.

use core::fmt;
use core::ops::AddAssign;

use rvisor_isa::Exception;

use crate::processor::Shortcuts;

/// Counts of what made the guest trap.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// Times the guest was entered.
    pub switches: u64,
    /// Traps of the guest by `scause`, exceptions up to 31.
    pub exceptions: [u64; 32],
    /// Interrupts of the hardware while the guest ran.
    pub interrupts: u64,
    /// Ticks from a trap to the next entry, by the same cause, and of interrupts.
    pub ticks: [u64; Self::INTERRUPT + 1],
    /// Traps served without the monitor.
    pub shortcuts: Shortcuts,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            switches: 0,
            exceptions: [0; 32],
            interrupts: 0,
            ticks: [0; Self::INTERRUPT + 1],
            shortcuts: Shortcuts::default(),
        }
    }
}

/// Page faults, of the first stage and of the second.
const PAGE_FAULTS: [u64; 6] = [
    Exception::InstructionPageFault.code(),
    Exception::LoadPageFault.code(),
    Exception::StorePageFault.code(),
    Exception::InstructionGuestPageFault.code(),
    Exception::LoadGuestPageFault.code(),
    Exception::StoreGuestPageFault.code(),
];
const INSTRUCTIONS: [u64; 2] = [Exception::IllegalInstruction.code(), Exception::VirtualInstruction.code()];
const CALLS: [u64; 2] =
    [Exception::EnvironmentCallFromUser.code(), Exception::EnvironmentCallFromVirtualSupervisor.code()];

impl Statistics {
    /// Where the ticks of interrupts are.
    pub const INTERRUPT: usize = 32;

    /// What the monitor's time went to, in ticks: privileged instructions, calls, page faults, interrupts, all else. What the
    /// trampoline serves isn't in it.
    #[must_use]
    pub fn service(&self) -> [u64; 5] {
        let of = |causes: &[u64]| causes.iter().map(|cause| self.ticks[*cause as usize & 31]).sum::<u64>();
        let known = [of(&INSTRUCTIONS), of(&CALLS), of(&PAGE_FAULTS), self.ticks[Self::INTERRUPT]];
        let [instructions, calls, page_faults, interrupts] = known;
        let rest = self.ticks.iter().sum::<u64>() - known.iter().sum::<u64>();
        [instructions, calls, page_faults, interrupts, rest]
    }
}

impl AddAssign for Shortcuts {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.traps += other.traps;
    }
}

impl AddAssign for Statistics {
    fn add_assign(&mut self, other: Self) {
        self.switches += other.switches;
        for (sum, count) in self.exceptions.iter_mut().zip(other.exceptions) {
            *sum += count;
        }
        self.interrupts += other.interrupts;
        for (sum, ticks) in self.ticks.iter_mut().zip(other.ticks) {
            *sum += ticks;
        }
        self.shortcuts += other.shortcuts;
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |exception: Exception| self.exceptions[exception.code() as usize & 31];
        let page_faults =
            [Exception::InstructionPageFault, Exception::LoadPageFault, Exception::StorePageFault].map(of);
        let Shortcuts { calls, traps } = self.shortcuts;
        write!(
            f,
            "{} world switches: {} privileged instructions, {} calls, {} page faults, {} interrupts; without one: \
             {calls} calls, {traps} privileged instructions",
            self.switches,
            of(Exception::IllegalInstruction),
            of(Exception::EnvironmentCallFromUser),
            page_faults.iter().sum::<u64>(),
            self.interrupts
        )
    }
}
