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

/// What the words below mean, as causes. Guests with the H extension have the second half of each.
const INSTRUCTIONS: [Exception; 2] = [Exception::IllegalInstruction, Exception::VirtualInstruction];
const CALLS: [Exception; 2] =
    [Exception::EnvironmentCallFromUser, Exception::EnvironmentCallFromVirtualSupervisor];
const GUEST_PAGE_FAULTS: [Exception; 3] =
    [Exception::InstructionGuestPageFault, Exception::LoadGuestPageFault, Exception::StoreGuestPageFault];
const PAGE_FAULTS: [Exception; 6] = [
    Exception::InstructionPageFault,
    Exception::LoadPageFault,
    Exception::StorePageFault,
    GUEST_PAGE_FAULTS[0],
    GUEST_PAGE_FAULTS[1],
    GUEST_PAGE_FAULTS[2],
];

/// Whether `scause` says that the second stage lacks a page.
pub fn is_guest_page_fault(cause: u64) -> bool {
    GUEST_PAGE_FAULTS.iter().any(|fault| fault.code() == cause)
}

/// What an array by cause has of these.
fn sum(by_cause: &[u64], causes: &[Exception]) -> u64 {
    causes.iter().map(|cause| by_cause[cause.code() as usize]).sum()
}

impl Statistics {
    /// Where the ticks of interrupts are.
    pub const INTERRUPT: usize = 32;

    /// What the monitor's time went to, in ticks: privileged instructions, calls, page faults, interrupts, all else. What the
    /// trampoline serves isn't in it.
    #[must_use]
    pub fn service(&self) -> [u64; 5] {
        let [instructions, calls, page_faults] = Self::known(&self.ticks);
        let interrupts = self.ticks[Self::INTERRUPT];
        let rest = self.ticks.iter().sum::<u64>() - instructions - calls - page_faults - interrupts;
        [instructions, calls, page_faults, interrupts, rest]
    }

    /// Of an array by cause: privileged instructions, calls, page faults.
    fn known(by_cause: &[u64]) -> [u64; 3] {
        [&INSTRUCTIONS[..], &CALLS, &PAGE_FAULTS].map(|causes| sum(by_cause, causes))
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
        let [instructions, own_calls, page_faults] = Self::known(&self.exceptions);
        let Shortcuts { calls, traps } = self.shortcuts;
        write!(
            f,
            "{} world switches: {instructions} privileged instructions, {own_calls} calls, {page_faults} page faults, {} \
             interrupts; without one: {calls} calls, {traps} privileged instructions",
            self.switches, self.interrupts
        )
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn each_trap_is_counted_under_the_word_that_its_time_is_told_under() {
        let words = ["privileged instructions", "calls", "page faults"];
        for (word, causes) in words.into_iter().zip([&INSTRUCTIONS[..], &CALLS, &PAGE_FAULTS]) {
            for cause in causes {
                let mut statistics = Statistics::default();
                statistics.exceptions[cause.code() as usize] = 7;
                statistics.ticks[cause.code() as usize] = 9;
                let text = format!("{statistics}");
                assert!(text.contains(&format!(" 7 {word},")), "{cause:?}: {text}");
                let place = words.iter().position(|other| *other == word);
                assert_eq!(statistics.service().iter().position(|ticks| *ticks == 9), place, "{cause:?}");
            }
        }
    }

    #[test]
    fn time_of_other_causes_is_the_rest() {
        let mut statistics = Statistics::default();
        statistics.ticks[Exception::Breakpoint.code() as usize] = 3;
        statistics.ticks[Statistics::INTERRUPT] = 4;
        assert_eq!(statistics.service(), [0, 0, 0, 4, 3]);
    }
}
