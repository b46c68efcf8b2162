//! The engines. `vs` (in its own module) needs the H extension.
//!
//! Here is the engine `deprivileged`: it runs a guest's kernel in U-mode, on hardware without the H extension.
//!
//! What the guest may do, the hardware does. What it may not, traps: privileged instructions are carried out on
//! the state of `rvisor_hart`, exceptions are reflected to the guest's own `stvec`, page faults fill the shadow
//! tables or, where no RAM is, become device accesses.
//!
//! A guest instruction that is emulated means what `rvisor_hart` says; there is no second meaning here.

mod breakpoint;
mod choice;
mod fault;
mod float;
mod instruction;
mod privileged;
mod record;
mod slice;
mod statistics;
#[cfg(test)]
mod tests;
mod trace;
mod vs;

use rvisor_hart::{Environment, Exit, Hart, Trap};
use rvisor_isa::csr::{mstatus, satp};
use rvisor_isa::{Exception, Privilege};
use rvisor_machine::{Engine, HartEnvironment, VirtualHart, Vm};

use crate::arch::Partition;
use crate::processor::{GuestTrap, Missing, Processor, Registers};
use crate::shadow::{Key, Page, Shadow, View};
pub use choice::{AnyEngine, Tables};
use float::Float;
use slice::Slice;
pub use statistics::Statistics;
pub use trace::Trace;
use trace::{Outcome, Trapped};
pub use vs::Vs;

/// What an engine sees outside the hart.
type Outside<'a> = HartEnvironment<'a, Partition>;

/// The engine on one physical hart, for one slice of a virtual hart's time.
pub struct Deprivileged<'a, P> {
    shadow: &'a mut Shadow,
    processor: &'a mut P,
    slice: Slice,
    float: Float,
    trace: Option<&'a mut Trace>,
    /// What was mapped for the last trap.
    filled: Option<Page>,
}

impl<'a, P: Processor> Deprivileged<'a, P> {
    /// An engine that gives the hart back at `slice_end` ticks at the latest.
    pub fn new(shadow: &'a mut Shadow, processor: &'a mut P, slice_end: u64) -> Self {
        Self {
            shadow,
            processor,
            slice: Slice::until(slice_end),
            float: Float::default(),
            trace: None,
            filled: None,
        }
    }

    /// Traces what happens from now on.
    pub fn trace(&mut self, trace: &'a mut Trace) {
        self.trace = Some(trace);
    }

    /// Lets the guest's time be so many ticks ahead of the hardware's, modulo 2^64.
    pub fn set_time_offset(&mut self, offset: u64) {
        self.slice.offset = offset;
    }

    /// What happened since the engine was made.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.slice.statistics
    }

    fn run_guest(&mut self, hart: &mut Hart, outside: &Outside<'_>) -> Exit {
        loop {
            let (shadow, processor) = (&mut *self.shadow, &mut *self.processor);
            hart.take_fences(|address, asid| shadow.fence(address, asid, processor));
            if outside.attention() {
                return Exit::Budget;
            }
            // Before the hart looks at its timer: what passes in between interrupts the guest at once.
            let now = self.processor.now();
            self.slice.end_of_service(now);
            hart.take_pending_interrupt(outside);
            if self.slice.is_over(now) {
                return Exit::Budget;
            }
            // A timer of the guest's that has passed is pending already.
            let time = self.slice.guest_time(now);
            let guest = hart.timer_deadline().filter(|deadline| *deadline > time);
            self.slice.set_timer(guest, now, self.processor);
            let trap = self.enter(hart, outside);
            let trap = self.original(hart, outside, trap);
            self.slice.begin(trap.cause, self.processor.now());
            let trapped =
                Trapped { privilege: hart.privilege, pc: hart.pc, cause: trap.cause, value: trap.value };
            self.filled = None;
            let recorded = match trap.missing {
                Some(Missing::AtTrap) => self.record(hart, outside, Missing::AtTrap),
                _ => None,
            };
            let mut exit = match recorded {
                Some(exit) => exit,
                None => self.handle(hart, outside, &trap),
            };
            if trap.missing == Some(Missing::AtCall) {
                // A program's call itself doesn't leave the engine.
                exit = self.record(hart, outside, Missing::AtCall).flatten();
            }
            if let Some(trace) = &mut self.trace {
                let outcome = Outcome { page: self.filled.as_ref(), exit: exit.as_ref(), stage: None };
                trace.step(&trapped, &outcome, hart, outside.memory());
            }
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    fn enter(&mut self, hart: &mut Hart, outside: &Outside<'_>) -> GuestTrap {
        self.slice.statistics.switches += 1;
        let float = self.float.unpark(hart, self.processor);
        let is_lent = self.trace.is_none() && privileged::may_be_lent(hart);
        let copies = outside.memory().copies();
        let entry = loop {
            let key = key(hart);
            let entry = self.shadow.enter(key, self.processor);
            if is_lent {
                let roots = self.shadow.roots(key, &entry, self.processor);
                let (tag, places) = (self.shadow.tag(), self.shadow.place_numbers());
                let (float_live, privileged) = (self.float.is_live(), self.processor.privileged());
                privileged::lend(hart, outside, roots, tag, places, float_live, privileged);
            }
            // Last of all: from here on others may wait for this hart.
            match copies {
                Some(copies) if !copies.enter(self.processor.index(), self.shadow.generation()) => {
                    self.shadow.keep_up(copies, self.processor);
                }
                _ => break entry,
            }
        };
        let registers = Registers { x: &mut hart.x, pc: &mut hart.pc };
        let trap = self.processor.enter(entry, registers, float, is_lent);
        if let Some(copies) = copies {
            copies.leave(self.processor.index());
        }
        if is_lent {
            let privileged = self.processor.privileged();
            self.slice.statistics.shortcuts += privileged.counts;
            privileged::take_back(hart, privileged, trap.status);
        } else if trap.status & mstatus::FS == mstatus::FS {
            hart.mark_float_dirty();
        }
        trap
    }

    #[inline]
    fn handle(&mut self, hart: &mut Hart, outside: &Outside<'_>, trap: &GuestTrap) -> Option<Exit> {
        if trap.cause == GuestTrap::NONE {
            return None;
        }
        if let Err(exit) = self.slice.note(trap.cause, self.processor) {
            return exit;
        }
        match Exception::from_code(trap.cause) {
            Some(Exception::EnvironmentCallFromUser) => match hart.privilege {
                Privilege::Supervisor => return Some(Exit::SbiCall),
                _ => hart.take_trap(Trap::exception(Exception::EnvironmentCallFromUser, 0)),
            },
            Some(
                fault @ (Exception::InstructionPageFault
                | Exception::LoadPageFault
                | Exception::StorePageFault),
            ) => return self.page_fault(hart, outside, fault, trap.value),
            Some(Exception::IllegalInstruction) => return self.illegal(hart, outside, trap.value),
            // The board's harts do misaligned accesses: hardware that doesn't has them done here.
            Some(Exception::LoadAddressMisaligned | Exception::StoreAddressMisaligned) => {
                return self.step(hart, outside);
            }
            Some(exception) => hart.take_trap(Trap::exception(exception, trap.value)),
            None => return self.illegal(hart, outside, 0),
        }
        None
    }
}

/// What decides how the hart's addresses are translated.
fn key(hart: &Hart) -> Key {
    let csr = &hart.csr;
    if csr.satp >> satp::MODE_SHIFT == satp::BARE {
        return Key { satp: 0, view: View { supervisor: true, sum: false, mxr: false } };
    }
    let has = |field| csr.mstatus & field != 0;
    let supervisor = hart.privilege == Privilege::Supervisor;
    Key {
        satp: csr.satp,
        view: View { supervisor, sum: supervisor && has(mstatus::SUM), mxr: has(mstatus::MXR) },
    }
}

impl<P: Processor> Engine<Partition> for Deprivileged<'_, P> {
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<Partition>, _budget: u64) -> Exit {
        let outside = vm.environment(&vm.harts()[hart.index()]);
        // Another guest's `lr` on this hart must not make this one's `sc` succeed.
        self.processor.break_reservation();
        self.shadow.fetches.bring_up_to_date(hart.hart.code_epoch(), self.processor);
        // A guest whose time is another has it emulated.
        self.processor.show_time(self.slice.offset == 0);
        self.slice.count_instructions(&mut hart.hart, self.processor);
        let exit = self.run_guest(&mut hart.hart, &outside);
        self.float.park(&mut hart.hart, self.processor);
        self.slice.count_instructions(&mut hart.hart, self.processor);
        exit
    }
}
