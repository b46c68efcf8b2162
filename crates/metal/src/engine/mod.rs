//! The engine `deprivileged`: runs a guest's kernel in U-mode, on hardware without the H extension.
//!
//! What the guest may do, the hardware does. What it may not, traps: privileged instructions are carried out on
//! the state of `rvisor_hart`, exceptions are reflected to the guest's own `stvec`, page faults fill the shadow
//! tables or, where no RAM is, become device accesses.
//!
//! A guest instruction that is emulated means what `rvisor_hart` says; there is no second meaning here.

mod fault;
mod float;
mod instruction;
#[cfg(test)]
mod tests;

use rvisor_hart::{Environment, Exit, Hart, Trap};
use rvisor_isa::csr::{mcause, mstatus, satp};
use rvisor_isa::{Exception, Interrupt, Privilege};
use rvisor_machine::{Engine, HartEnvironment, VirtualHart, Vm};

use crate::arch::Partition;
use crate::processor::{GuestTrap, Processor, Registers};
use crate::shadow::{Key, Shadow, View};
use float::Float;

/// What an engine sees outside the hart.
type Outside<'a> = HartEnvironment<'a, Partition>;

/// The engine on one physical hart, for one slice of a virtual hart's time.
pub struct Deprivileged<'a, P> {
    shadow: &'a mut Shadow,
    processor: &'a mut P,
    /// When the slice is over, in ticks.
    slice_end: u64,
    /// What the timer was set to last.
    timer: Option<u64>,
    float: Float,
    statistics: Statistics,
}

/// What a virtual hart's time went to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    /// Traps of the guest by `scause`, exceptions up to 15.
    pub exceptions: [u64; 16],
    /// Interrupts of the hardware while the guest ran.
    pub interrupts: u64,
}

impl core::ops::AddAssign for Statistics {
    fn add_assign(&mut self, other: Self) {
        for (sum, count) in self.exceptions.iter_mut().zip(other.exceptions) {
            *sum += count;
        }
        self.interrupts += other.interrupts;
    }
}

impl core::fmt::Display for Statistics {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let of = |exception: Exception| self.exceptions[exception.code() as usize & 15];
        let page_faults =
            [Exception::InstructionPageFault, Exception::LoadPageFault, Exception::StorePageFault].map(of);
        write!(
            f,
            "{} privileged instructions, {} calls, {} page faults, {} interrupts",
            of(Exception::IllegalInstruction),
            of(Exception::EnvironmentCallFromUser),
            page_faults.iter().sum::<u64>(),
            self.interrupts
        )
    }
}

impl<'a, P: Processor> Deprivileged<'a, P> {
    /// An engine that gives the hart back at `slice_end` ticks at the latest.
    pub fn new(shadow: &'a mut Shadow, processor: &'a mut P, slice_end: u64) -> Self {
        Self {
            shadow,
            processor,
            slice_end,
            timer: None,
            float: Float::default(),
            statistics: Statistics::default(),
        }
    }

    /// What happened since the engine was made.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    fn run_guest(&mut self, hart: &mut Hart, outside: &Outside<'_>) -> Exit {
        loop {
            let (shadow, processor) = (&mut *self.shadow, &mut *self.processor);
            hart.take_fences(|address, asid| shadow.fence(address, asid, processor));
            if outside.attention() {
                return Exit::Budget;
            }
            hart.take_pending_interrupt(outside);
            let now = self.processor.now();
            if now >= self.slice_end {
                return Exit::Budget;
            }
            self.set_timer(hart, now);
            let trap = self.enter(hart);
            if let Some(exit) = self.handle(hart, outside, &trap) {
                return exit;
            }
        }
    }

    /// Asks for an interrupt at the guest's timer or the end of the slice. A timer of the guest's that has passed
    /// is pending already.
    fn set_timer(&mut self, hart: &Hart, now: u64) {
        let guest = hart.timer_deadline().filter(|deadline| *deadline > now);
        let deadline = guest.map_or(self.slice_end, |deadline| deadline.min(self.slice_end));
        if self.timer != Some(deadline) {
            self.timer = Some(deadline);
            self.processor.set_timer(deadline);
        }
    }

    fn enter(&mut self, hart: &mut Hart) -> GuestTrap {
        let entry = self.shadow.enter(key(hart), self.processor);
        let float = self.float.unpark(hart, self.processor);
        let registers = Registers { x: &mut hart.x, pc: &mut hart.pc };
        let trap = self.processor.enter(entry, registers, float);
        self.float.look(hart, trap.status);
        trap
    }

    fn handle(&mut self, hart: &mut Hart, outside: &Outside<'_>, trap: &GuestTrap) -> Option<Exit> {
        if trap.cause & mcause::INTERRUPT != 0 {
            self.statistics.interrupts += 1;
            match Interrupt::from_code(trap.cause & !mcause::INTERRUPT) {
                Some(Interrupt::SupervisorSoftware) => self.processor.clear_software_interrupt(),
                // Still pending: the home sees to the device.
                Some(Interrupt::SupervisorExternal) => {}
                // The next entry sets the timer anew.
                _ => {
                    self.timer = None;
                    return None;
                }
            }
            return Some(Exit::Budget);
        }
        if let Some(count) = self.statistics.exceptions.get_mut(trap.cause as usize) {
            *count += 1;
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
        let exit = self.run_guest(&mut hart.hart, &outside);
        self.float.park(&mut hart.hart, self.processor);
        exit
    }
}
