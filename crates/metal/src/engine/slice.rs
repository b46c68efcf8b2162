//! A slice of a virtual hart's time on a physical hart: what is the same for both engines.

use rvisor_hart::{Exit, Hart, Trap};
use rvisor_isa::csr::{self, mcause};
use rvisor_isa::{Exception, Interrupt, decode};

use super::instruction::is_system;
use super::{Outside, Statistics};
use crate::processor::Processor;

/// When it ends, and what has happened in it.
pub(super) struct Slice {
    /// In ticks.
    end: u64,
    /// Ticks that the guest's time is ahead of the hardware's, modulo 2^64.
    pub offset: u64,
    /// What the hardware's timer was set to last.
    timer: Option<u64>,
    /// The hardware's count of instructions when the virtual hart's was zero.
    retired: Option<u64>,
    /// What the monitor is serving, and since when, in ticks.
    serving: Option<(usize, u64)>,
    pub statistics: Statistics,
}

impl Slice {
    /// One that ends at `end` ticks at the latest.
    pub fn until(end: u64) -> Self {
        Self { end, offset: 0, timer: None, retired: None, serving: None, statistics: Statistics::default() }
    }

    /// Whether it is over.
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.end
    }

    /// What the guest's `time` shows when the hardware's is `now`.
    pub fn guest_time(&self, now: u64) -> u64 {
        now.wrapping_add(self.offset)
    }

    /// Asks for an interrupt at its end, or at the guest's deadline, in its own time, if that is earlier.
    pub fn set_timer(&mut self, guest: Option<u64>, now: u64, processor: &mut impl Processor) {
        let until = |deadline: u64| now.saturating_add(deadline.saturating_sub(self.guest_time(now)));
        let deadline = guest.map_or(self.end, |deadline| until(deadline).min(self.end));
        if self.timer != Some(deadline) {
            self.timer = Some(deadline);
            processor.set_timer(deadline);
        }
    }

    /// Makes the hart's count of instructions what the hardware has executed for it, the monitor's work included,
    /// since it was first run.
    pub fn count_instructions(&mut self, hart: &mut Hart, processor: &impl Processor) {
        let now = processor.retired();
        let start = *self.retired.get_or_insert(now.wrapping_sub(hart.retired));
        hart.retired = now.wrapping_sub(start);
    }

    /// The guest has trapped at `now`: what follows is for this cause.
    pub fn begin(&mut self, cause: u64, now: u64) {
        let slot = if cause & mcause::INTERRUPT != 0 { Statistics::INTERRUPT } else { cause as usize };
        self.serving = Some((slot, now));
    }

    /// The guest is about to be entered.
    pub fn end_of_service(&mut self, now: u64) {
        if let Some((slot, since)) = self.serving.take()
            && let Some(ticks) = self.statistics.ticks.get_mut(slot)
        {
            *ticks += now.wrapping_sub(since);
        }
    }

    /// Counts a trap, and carries it out if it is an interrupt of the hardware: then `Err` says whether the guest is left.
    pub fn note(&mut self, cause: u64, processor: &mut impl Processor) -> Result<(), Option<Exit>> {
        if cause & mcause::INTERRUPT == 0 {
            if let Some(count) = self.statistics.exceptions.get_mut(cause as usize) {
                *count += 1;
            }
            return Ok(());
        }
        self.statistics.interrupts += 1;
        match Interrupt::from_code(cause & !mcause::INTERRUPT) {
            Some(Interrupt::SupervisorSoftware) => processor.clear_software_interrupt(),
            // Still pending: the home sees to the device.
            Some(Interrupt::SupervisorExternal) => {}
            // The next entry sets the timer anew.
            _ => {
                self.timer = None;
                return Err(None);
            }
        }
        Err(Some(Exit::Budget))
    }

    /// Carries out the privileged instruction `bits` on the hart's state; any other is illegal.
    pub fn execute_system(
        &mut self,
        hart: &mut Hart,
        outside: &Outside<'_>,
        bits: u32,
        processor: &impl Processor,
    ) -> Option<Exit> {
        let Some(instruction) = decode(bits).filter(|instruction| is_system(instruction.op)) else {
            hart.take_trap(Trap::exception(Exception::IllegalInstruction, bits.into()));
            return None;
        };
        if matches!(instruction.imm as u16, csr::CYCLE | csr::INSTRET) {
            self.count_instructions(hart, processor);
        }
        hart.execute_system(outside, &instruction, bits)
    }
}
