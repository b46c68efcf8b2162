//! Which interrupt is pending, which is taken, and when a waiting hart wakes (Privileged ISA, "Machine
//! Interrupt Registers"; Sstc).

use rvisor_isa::csr::{envcfg, mip, mstatus};
use rvisor_isa::{Interrupt, Privilege};

use crate::exit::Environment;
use crate::state::Hart;

/// Interrupts in the order in which they are taken when several are pending for the same mode.
const PRIORITY: [Interrupt; 6] = [
    Interrupt::MachineExternal,
    Interrupt::MachineSoftware,
    Interrupt::MachineTimer,
    Interrupt::SupervisorExternal,
    Interrupt::SupervisorSoftware,
    Interrupt::SupervisorTimer,
];

/// Bits of `mip` that wires drive.
const WIRES: u64 = mip::MSIP | mip::MTIP | mip::MEIP | mip::SEIP;

impl Hart {
    /// The value of `mip`: what software has set, what wires drive, and the supervisor timer.
    pub(crate) fn interrupts_pending<E: Environment>(&mut self, env: &E) -> u64 {
        let timer = if self.supervisor_timer_pending(env) { mip::STIP } else { 0 };
        self.pending_without_timer(env) | timer
    }

    fn pending_without_timer<E: Environment>(&mut self, env: &E) -> u64 {
        if env.take_software_interrupt() {
            self.csr.mip |= mip::SSIP;
        }
        let software =
            if self.has_stimecmp() { mip::SSIP | mip::SEIP } else { mip::SSIP | mip::SEIP | mip::STIP };
        self.csr.mip & software | env.interrupt_lines() & WIRES
    }

    fn supervisor_timer_pending<E: Environment>(&self, env: &E) -> bool {
        self.has_stimecmp() && env.ticks() >= self.csr.stimecmp
    }

    /// Whether `stimecmp` drives `mip.STIP`.
    fn has_stimecmp(&self) -> bool {
        self.csr.menvcfg & envcfg::STCE != 0
    }

    /// Those of the interrupts in `enabled` (bits of `mip`) that are pending, with the supervisor timer as it
    /// was when [`look_at_timer`](Self::look_at_timer) last looked.
    fn pending_as_seen<E: Environment>(&mut self, env: &E, enabled: u64) -> u64 {
        if enabled == 0 {
            return 0;
        }
        let timer = if self.timer_seen { mip::STIP } else { 0 };
        (self.pending_without_timer(env) | timer) & enabled
    }

    /// Compares time with `stimecmp`. Reading the host's clock is dear, so whoever executes instructions does
    /// it every so often, and after `stimecmp` was written.
    pub(crate) fn look_at_timer<E: Environment>(&mut self, env: &E) {
        self.timer_seen = self.csr.mie & mip::STIP != 0 && self.supervisor_timer_pending(env);
    }

    /// The interrupt to take now, if any: those for M-mode come first, whatever their kind.
    pub fn pending_interrupt<E: Environment>(&mut self, env: &E) -> Option<Interrupt> {
        self.look_at_timer(env);
        self.pending_interrupt_as_seen(env)
    }

    /// The same, by the last look at the timer.
    pub(crate) fn pending_interrupt_as_seen<E: Environment>(&mut self, env: &E) -> Option<Interrupt> {
        let (machine, supervisor) = self.enabled_interrupts();
        let pending = self.pending_as_seen(env, machine | supervisor);
        if pending == 0 {
            return None;
        }
        let first = if pending & machine != 0 { pending & machine } else { pending };
        PRIORITY.into_iter().find(|interrupt| first & interrupt.bit() != 0)
    }

    /// Whether an interrupt that is enabled in `mie` is pending, by the last look at the timer: after an
    /// attempt to take it, one that is held back by privilege or by the global enables.
    pub fn is_interrupt_held_back<E: Environment>(&mut self, env: &E) -> bool {
        self.pending_as_seen(env, self.csr.mie) != 0
    }

    /// The interrupts that would trap now if they were pending: to M-mode, and to S-mode.
    fn enabled_interrupts(&self) -> (u64, u64) {
        let csr = &self.csr;
        let machine_enabled = self.privilege < Privilege::Machine || csr.mstatus & mstatus::MIE != 0;
        let supervisor_enabled = match self.privilege {
            Privilege::User => true,
            Privilege::Supervisor => csr.mstatus & mstatus::SIE != 0,
            Privilege::Machine => false,
        };
        let machine = if machine_enabled { csr.mie & !csr.mideleg } else { 0 };
        let supervisor = if supervisor_enabled { csr.mie & csr.mideleg } else { 0 };
        (machine, supervisor)
    }

    /// Whether a hart in `wfi` goes on: an interrupt enabled in `mie` is pending, whatever the global enables
    /// and the delegation say.
    pub fn wakes<E: Environment>(&mut self, env: &E) -> bool {
        self.look_at_timer(env);
        self.pending_as_seen(env, self.csr.mie) != 0
    }

    /// The `time`, in ticks, from which the supervisor timer is pending and may wake or interrupt the hart;
    /// `None` where it can't.
    #[must_use]
    pub fn timer_deadline(&self) -> Option<u64> {
        let enabled = self.has_stimecmp() && self.csr.mie & mip::STIP != 0;
        (enabled && self.csr.stimecmp != u64::MAX).then_some(self.csr.stimecmp)
    }
}

#[cfg(test)]
mod tests;
