//! Breakpoints that stand in for the guest's privileged instructions, in copies of its text (`crate::copies`).

use rvisor_hart::{Access, Environment, Hart};
use rvisor_isa::csr::satp;
use rvisor_isa::{Exception, Privilege, decode};
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual};

use super::instruction::is_system;
use super::{Deprivileged, Outside};
use crate::copies::PAGE;
use crate::processor::{GuestTrap, Missing, Processor};
use crate::shadow::Guard;

impl<P: Processor> Deprivileged<'_, P> {
    /// The trap as it would be without copies: of a privileged instruction where the guest has one, and of a breakpoint where it has
    /// that itself.
    #[inline]
    pub(super) fn original(&mut self, hart: &mut Hart, outside: &Outside<'_>, trap: GuestTrap) -> GuestTrap {
        if trap.cause == Exception::Breakpoint.code() {
            self.original_of_breakpoint(hart, outside, trap)
        } else {
            trap
        }
    }

    fn original_of_breakpoint(
        &mut self,
        hart: &mut Hart,
        outside: &Outside<'_>,
        trap: GuestTrap,
    ) -> GuestTrap {
        /// `ebreak` and `c.ebreak`.
        const BREAKPOINTS: [u32; 2] = [0x0010_0073, 0x9002];
        let Some(copies) = outside.memory().copies() else { return trap };
        if !executes_copies(hart) {
            return trap;
        }
        let Some(original) = self.shadow.copy_at(hart.pc) else { return trap };
        let bits = copies.instruction(&original, hart.pc, self.shadow.generation());
        match bits.or_else(|| hart.fetch(outside, hart.pc).ok()) {
            Some(bits) if BREAKPOINTS.contains(&bits) => trap,
            // What traps in the copy, and has no breakpoint of its own, is what was replaced there.
            Some(value) if bits.is_some() || is_replaced(value) => {
                GuestTrap { cause: Exception::IllegalInstruction.code(), value: value.into(), ..trap }
            }
            // Another hart has just changed the code, or this one the tables: the guest looks again.
            _ => {
                self.shadow.fence(Some(GuestVirtual(hart.pc)), None, self.processor);
                GuestTrap { cause: GuestTrap::NONE, missing: None, ..trap }
            }
        }
    }

    /// Has the guest's kernel execute a copy of the page that it is on, with a breakpoint in place of the instruction that has
    /// just trapped, if that is how it missed a sequence.
    pub(super) fn copy_text(
        &mut self,
        hart: &mut Hart,
        outside: &Outside<'_>,
        missing: Missing,
    ) -> Option<Guard> {
        let copies = outside.memory().copies()?;
        if !executes_copies(hart) {
            return None;
        }
        let pc = hart.pc;
        let bits = hart.fetch(outside, hart.pc).ok()?;
        let translation = hart.translate(outside, GuestVirtual(pc), Access::Execute, 2).ok()?;
        let page = GuestPhysical(translation.physical.0 & !(PAGE - 1));
        let memory = outside.memory();
        let (machine, _) = memory.machine(page)?;
        let original = copies.copy(page, machine, |bytes| memory.read(page, bytes).is_ok())?;
        if self.shadow.generation() != copies.all().0 {
            self.shadow.keep_up(copies, self.processor);
        }
        let guard = self.shadow.place(&original, pc & !(PAGE - 1))?;
        if missing == Missing::AtTrap && is_replaced(bits) {
            copies.patch(&original, pc % PAGE);
        }
        Some(guard)
    }
}

/// Whether the hart is one that copies are made for: a guest's kernel, with translation.
fn executes_copies(hart: &Hart) -> bool {
    hart.privilege == Privilege::Supervisor && hart.csr.satp >> satp::MODE_SHIFT != satp::BARE
}

/// Whether an instruction is replaced in copies, when it is hot.
fn is_replaced(bits: u32) -> bool {
    decode(bits).is_some_and(|instruction| instruction.length == 4 && is_system(instruction.op))
}
