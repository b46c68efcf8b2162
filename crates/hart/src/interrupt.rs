//! Which interrupt is pending, which is taken, and when a waiting hart wakes (Privileged ISA, "Machine
//! Interrupt Registers"; "Hypervisor Extension", the same; Sstc).

use rvisor_isa::csr::{mip, mstatus};
use rvisor_isa::{Interrupt, Privilege};

use crate::exit::Environment;
use crate::state::Hart;

/// Interrupts in the order in which they are taken when several are pending for the same mode.
const PRIORITY: [Interrupt; 10] = [
    Interrupt::MachineExternal,
    Interrupt::MachineSoftware,
    Interrupt::MachineTimer,
    Interrupt::SupervisorExternal,
    Interrupt::SupervisorSoftware,
    Interrupt::SupervisorTimer,
    Interrupt::SupervisorGuestExternal,
    Interrupt::VirtualSupervisorExternal,
    Interrupt::VirtualSupervisorSoftware,
    Interrupt::VirtualSupervisorTimer,
];

/// Bits of `mip` that wires drive.
const WIRES: u64 = mip::MSIP | mip::MTIP | mip::MEIP | mip::SEIP;

impl Hart {
    /// The value of `mip`: what software has set, what wires drive, and the supervisor timers.
    pub(crate) fn interrupts_pending<E: Environment>(&mut self, env: &E) -> u64 {
        self.pending_without_timers(env) | self.timers_pending(env, u64::MAX)
    }

    fn pending_without_timers<E: Environment>(&mut self, env: &E) -> u64 {
        if env.take_software_interrupt() {
            self.csr.mip |= mip::SSIP;
        }
        let timer = if self.csr.has_stimecmp() { 0 } else { mip::STIP };
        let software = self.csr.mip & (mip::SSIP | mip::SEIP | timer);
        software | self.csr.hvip | env.interrupt_lines() & WIRES
    }

    /// Those of the timers in `wanted` (bits of `mip`) whose time has come.
    fn timers_pending<E: Environment>(&self, env: &E, wanted: u64) -> u64 {
        let csr = &self.csr;
        let mut pending = 0;
        if wanted & mip::STIP != 0 && csr.has_stimecmp() && env.ticks() >= csr.stimecmp {
            pending |= mip::STIP;
        }
        if wanted & mip::VSTIP != 0
            && csr.has_vstimecmp()
            && env.ticks().wrapping_add(csr.htimedelta) >= csr.vstimecmp
        {
            pending |= mip::VSTIP;
        }
        pending
    }

    /// Those of the interrupts in `enabled` (bits of `mip`) that are pending, with the supervisor timers as
    /// they were when [`look_at_timer`](Self::look_at_timer) last looked.
    fn pending_as_seen<E: Environment>(&mut self, env: &E, enabled: u64) -> u64 {
        if enabled == 0 {
            return 0;
        }
        (self.pending_without_timers(env) | self.timers_seen) & enabled
    }

    /// Compares time with `stimecmp` and `vstimecmp`. Reading the host's clock is dear, so whoever executes instructions does
    /// it every so often, and after what decides was written.
    pub(crate) fn look_at_timer<E: Environment>(&mut self, env: &E) {
        self.timers_seen = self.timers_pending(env, self.csr.mie);
    }

    /// The interrupt to take now, if any: those for M-mode come first, whatever their kind.
    pub fn pending_interrupt<E: Environment>(&mut self, env: &E) -> Option<Interrupt> {
        self.look_at_timer(env);
        self.pending_interrupt_as_seen(env)
    }

    /// The same, by the last look at the timer.
    pub(crate) fn pending_interrupt_as_seen<E: Environment>(&mut self, env: &E) -> Option<Interrupt> {
        let levels = self.enabled_interrupts();
        let pending = self.pending_as_seen(env, levels[0] | levels[1] | levels[2]);
        if pending == 0 {
            return None;
        }
        let first = levels.into_iter().map(|level| pending & level).find(|&first| first != 0)?;
        PRIORITY.into_iter().find(|interrupt| first & interrupt.bit() != 0)
    }

    /// Whether an interrupt that is enabled in `mie` is pending, by the last look at the timer: after an
    /// attempt to take it, one that is held back by privilege or by the global enables.
    pub fn is_interrupt_held_back<E: Environment>(&mut self, env: &E) -> bool {
        self.pending_as_seen(env, self.csr.mie) != 0
    }

    /// The interrupts that would trap now if they were pending: to M-mode, to HS-mode, and to VS-mode.
    fn enabled_interrupts(&self) -> [u64; 3] {
        let csr = &self.csr;
        let is_supervisor = self.privilege == Privilege::Supervisor;
        let is_machine = self.privilege == Privilege::Machine;
        let machine = !is_machine || csr.mstatus & mstatus::MIE != 0;
        let supervisor =
            !is_machine && (self.virtualized || !is_supervisor || csr.mstatus & mstatus::SIE != 0);
        let guest = self.virtualized && (!is_supervisor || csr.vsstatus & mstatus::SIE != 0);
        let (delegated, delegated_again) = (csr.mideleg, csr.mideleg & csr.hideleg);
        let enabled = |condition, interrupts| if condition { csr.mie & interrupts } else { 0 };
        [
            enabled(machine, !delegated),
            enabled(supervisor, delegated & !delegated_again),
            enabled(guest, delegated_again),
        ]
    }

    /// Whether a hart in `wfi` goes on: an interrupt enabled in `mie` is pending, whatever the global enables
    /// and the delegation say.
    pub fn wakes<E: Environment>(&mut self, env: &E) -> bool {
        self.look_at_timer(env);
        self.pending_as_seen(env, self.csr.mie) != 0
    }

    /// The `time`, in ticks, from which a supervisor timer is pending and may wake or interrupt the hart;
    /// `None` where none can.
    #[must_use]
    pub fn timer_deadline(&self) -> Option<u64> {
        let csr = &self.csr;
        let own = (csr.has_stimecmp() && csr.mie & mip::STIP != 0).then_some(csr.stimecmp);
        // Its time is another. What is past there may be wrapped around here, so it is looked at as a distance.
        let guests = (csr.has_vstimecmp() && csr.mie & mip::VSTIP != 0 && csr.vstimecmp != u64::MAX)
            .then(|| csr.vstimecmp.wrapping_sub(csr.htimedelta));
        [own, guests].into_iter().flatten().filter(|&deadline| deadline != u64::MAX).min()
    }
}

#[cfg(test)]
mod tests;
