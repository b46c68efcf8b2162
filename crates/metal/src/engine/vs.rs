//! The engine `vs`: runs a guest in VS- and VU-mode, on hardware with the H extension.
//!
//! The hardware does nearly everything: a guest's traps, page tables, timer and interrupts are its own. What is left
//! is what comes back: calls of the SBI, accesses to devices, `wfi`, counters, the first floating-point instruction
//! of a slice.

mod device;
#[cfg(test)]
mod tests;

use rvisor_hart::{Environment, Exit, Hart, Trap};
use rvisor_isa::csr::{SSTATUS_MASK, mip, mstatus};
use rvisor_isa::{Exception, Privilege};
use rvisor_machine::{Engine, VirtualHart, Vm};
use rvisor_waist::GuestPhysical;

use super::float::Float;
use super::slice::Slice;
use super::trace::{Outcome, Trapped};
use super::{Outside, Statistics, Trace};
use crate::arch::Partition;
use crate::shadow::Stage;
use crate::virtualization::{VirtualCsrs, VirtualProcessor, VirtualRegisters, VirtualTrap};

/// Causes that only VS- and VU-mode have.
mod cause {
    pub const CALL: u64 = 10;
    pub const INSTRUCTION: u64 = 20;
    pub const LOAD: u64 = 21;
    pub const VIRTUAL_INSTRUCTION: u64 = 22;
    pub const STORE: u64 = 23;
}

/// Bits of `hvip` and `mip` for the same interrupt are neighbours.
const VIRTUAL: u32 = 1;

/// The engine on one physical hart, for one slice of a virtual hart's time.
pub struct Vs<'a, P> {
    stage: &'a mut Stage,
    processor: &'a mut P,
    slice: Slice,
    float: Float,
    csrs: VirtualCsrs,
    trace: Option<&'a mut Trace>,
}

impl<'a, P: VirtualProcessor> Vs<'a, P> {
    /// An engine that gives the hart back at `slice_end` ticks at the latest.
    pub fn new(stage: &'a mut Stage, processor: &'a mut P, slice_end: u64) -> Self {
        Self {
            stage,
            processor,
            slice: Slice::until(slice_end),
            float: Float::default(),
            csrs: VirtualCsrs::default(),
            trace: None,
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
            let processor = &mut *self.processor;
            hart.take_fences(|address, asid| processor.fence_virtual(address.map(|address| address.0), asid));
            if outside.attention() {
                return Exit::Budget;
            }
            let now = self.processor.now();
            self.slice.end_of_service(now);
            if self.slice.is_over(now) {
                return Exit::Budget;
            }
            let is_due = self.set_timer(hart, now);
            self.inject(hart, outside, is_due);
            let trap = self.enter(hart);
            self.slice.begin(trap.cause, self.processor.now());
            let trapped =
                Trapped { privilege: hart.privilege, pc: hart.pc, cause: trap.cause, value: trap.value };
            let exit = self.handle(hart, outside, &trap);
            if self.trace.is_some() {
                self.trace_step(hart, outside, &trapped, exit.as_ref(), trap.guest_physical);
            }
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    /// Asks for an interrupt at the end of the slice, and where the hardware has no timer for guests, at theirs.
    /// Whether that one is due.
    fn set_timer(&mut self, hart: &Hart, now: u64) -> bool {
        let emulated = (!self.processor.has_guest_timer()).then_some(hart.csr.stimecmp);
        let is_due = emulated.is_some_and(|deadline| self.slice.guest_time(now) >= deadline);
        self.slice.set_timer(emulated.filter(|_| !is_due), now, self.processor);
        is_due
    }

    fn inject(&mut self, hart: &mut Hart, outside: &Outside<'_>, timer: bool) {
        if outside.take_software_interrupt() {
            hart.csr.mip |= mip::SSIP;
        }
        let lines = outside.interrupt_lines() & mip::SEIP;
        let timer = if timer { mip::STIP } else { 0 };
        self.processor.inject((hart.csr.mip & (mip::SSIP | mip::SEIP) | lines | timer) << VIRTUAL);
    }

    fn enter(&mut self, hart: &mut Hart) -> VirtualTrap {
        self.slice.statistics.switches += 1;
        let mut is_supervisor = hart.privilege == Privilege::Supervisor;
        let registers =
            VirtualRegisters { x: &mut hart.x, pc: &mut hart.pc, is_supervisor: &mut is_supervisor };
        let float = if self.float.is_live() { mstatus::FS } else { 0 };
        let trap = self.processor.enter_virtual(registers, float);
        hart.privilege = if is_supervisor { Privilege::Supervisor } else { Privilege::User };
        // The guest may have cleared it or set it.
        hart.csr.mip = hart.csr.mip & !mip::SSIP | self.processor.injected() >> VIRTUAL & mip::SSIP;
        trap
    }

    fn handle(&mut self, hart: &mut Hart, outside: &Outside<'_>, trap: &VirtualTrap) -> Option<Exit> {
        if let Err(exit) = self.slice.note(trap.cause, self.processor) {
            return exit;
        }
        match trap.cause {
            cause::CALL => Some(Exit::SbiCall),
            cause::INSTRUCTION | cause::LOAD | cause::STORE if self.fill(outside, trap) => None,
            cause::LOAD | cause::STORE => self.access(hart, trap),
            cause::INSTRUCTION => {
                self.reflect(hart, Trap::exception(Exception::InstructionAccessFault, trap.value));
                None
            }
            cause::VIRTUAL_INSTRUCTION => self.emulate(hart, outside, trap.value),
            _ if trap.cause == Exception::IllegalInstruction.code() => {
                self.store(hart);
                if hart.float_enabled() && !self.float.is_live() {
                    self.float.unpark(hart, self.processor);
                } else {
                    self.reflect(hart, Trap::exception(Exception::IllegalInstruction, trap.value));
                }
                None
            }
            code => {
                let exception = Exception::from_code(code).unwrap_or(Exception::IllegalInstruction);
                self.reflect(hart, Trap::exception(exception, trap.value));
                None
            }
        }
    }

    /// Shows the trace a trap, and lets the hardware deliver the guest's own ones again once the trace has all.
    fn trace_step(
        &mut self,
        hart: &mut Hart,
        outside: &Outside<'_>,
        trapped: &Trapped,
        exit: Option<&Exit>,
        guest_physical: u64,
    ) {
        // What it tells of the guest's registers and tables is in the hardware.
        self.store(hart);
        let Some(trace) = &mut self.trace else { return };
        let stage = Some((&*self.stage, GuestPhysical(guest_physical)));
        trace.step(trapped, &Outcome { page: None, exit, stage }, hart, outside.memory());
        if !trace.is_waiting() {
            self.trace = None;
            self.processor.reveal(false);
        }
    }

    /// Maps the page of a guest-page fault; false where no RAM is.
    fn fill(&mut self, outside: &Outside<'_>, trap: &VirtualTrap) -> bool {
        let page = GuestPhysical(trap.guest_physical & !(Stage::PAGE - 1));
        let found = outside.memory().machine(page).filter(|(_, left)| *left >= Stage::PAGE);
        if let Some((machine, _)) = found {
            self.stage.fill(page, machine);
            self.processor.fence_stage();
        }
        found.is_some()
    }

    /// An instruction that the hardware leaves to the monitor: `wfi`, a counter.
    fn emulate(&mut self, hart: &mut Hart, outside: &Outside<'_>, bits: u64) -> Option<Exit> {
        let bits = match bits as u32 {
            0 => self.processor.fetch(hart.pc)?,
            bits => bits,
        };
        self.store(hart);
        let exit = self.slice.execute_system(hart, outside, bits, self.processor);
        self.load(hart);
        exit
    }

    fn reflect(&mut self, hart: &mut Hart, trap: Trap) {
        self.store(hart);
        hart.take_trap(trap);
        self.load(hart);
    }

    /// The hart's registers to the hardware.
    fn load(&mut self, hart: &Hart) {
        let csr = &hart.csr;
        self.csrs = VirtualCsrs {
            status: csr.mstatus & SSTATUS_MASK,
            enabled: csr.mie,
            vector: csr.stvec,
            scratch: csr.sscratch,
            epc: csr.sepc,
            cause: csr.scause,
            value: csr.stval,
            translation: csr.satp,
            deadline: csr.stimecmp,
            time_delta: self.slice.offset,
            environment: csr.senvcfg,
            counters: csr.scounteren,
        };
        let entry = self.stage.enter(self.processor);
        self.processor.load_virtual(&entry, &self.csrs);
    }

    /// The hardware's registers to the hart.
    fn store(&mut self, hart: &mut Hart) {
        self.processor.store_virtual(&mut self.csrs);
        let (csr, new) = (&mut hart.csr, &self.csrs);
        let kept = SSTATUS_MASK & !mstatus::SD;
        csr.mstatus = csr.mstatus & !kept | new.status & kept;
        csr.mie = csr.mie & !(mip::SSIP | mip::STIP | mip::SEIP) | new.enabled;
        csr.stvec = new.vector;
        csr.sscratch = new.scratch;
        csr.sepc = new.epc;
        csr.scause = new.cause;
        csr.stval = new.value;
        csr.satp = new.translation;
        csr.stimecmp = new.deadline;
        csr.senvcfg = new.environment;
        csr.scounteren = new.counters;
        hart.context_changed();
    }
}

impl<P: VirtualProcessor> Engine<Partition> for Vs<'_, P> {
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<Partition>, _budget: u64) -> Exit {
        let outside = vm.environment(&vm.harts()[hart.index()]);
        // Another guest's `lr` on this hart must not make this one's `sc` succeed.
        self.processor.break_reservation();
        self.stage.fetches.bring_up_to_date(hart.hart.code_epoch(), self.processor);
        self.slice.count_instructions(&mut hart.hart, self.processor);
        self.load(&hart.hart);
        if self.trace.is_some() {
            self.processor.reveal(true);
        }
        let exit = self.run_guest(&mut hart.hart, &outside);
        if self.trace.is_some() {
            self.processor.reveal(false);
        }
        self.store(&mut hart.hart);
        self.float.park(&mut hart.hart, self.processor);
        self.slice.count_instructions(&mut hart.hart, self.processor);
        exit
    }
}
