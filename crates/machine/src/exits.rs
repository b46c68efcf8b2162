//! How often harts handed control back, for people who look at a running machine.

use core::sync::atomic::{AtomicU64, Ordering};

use rvisor_hart::Exit;

/// Exits of one hart since the machine was made, by reason. Only the hart's own thread counts; any may read.
#[derive(Default, Debug)]
pub struct ExitCounts {
    budget: AtomicU64,
    device: AtomicU64,
    sbi: AtomicU64,
    wait: AtomicU64,
    instructions: AtomicU64,
}

impl ExitCounts {
    /// Counts one exit.
    pub(crate) fn count(&self, exit: &Exit) {
        let counter = match exit {
            Exit::Budget => &self.budget,
            Exit::Device(_) => &self.device,
            Exit::SbiCall => &self.sbi,
            Exit::WaitForInterrupt => &self.wait,
        };
        // One writer: no read-modify-write needed.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Notes how many instructions the hart has retired since it was reset.
    pub(crate) fn note_instructions(&self, retired: u64) {
        self.instructions.store(retired, Ordering::Relaxed);
    }

    /// Instructions retired since the hart was reset, up to its last exit.
    pub fn instructions(&self) -> u64 {
        self.instructions.load(Ordering::Relaxed)
    }

    /// Slices used up.
    pub fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    /// Accesses to devices.
    pub fn device(&self) -> u64 {
        self.device.load(Ordering::Relaxed)
    }

    /// Calls of the SBI.
    pub fn sbi(&self) -> u64 {
        self.sbi.load(Ordering::Relaxed)
    }

    /// Waits for an interrupt.
    pub fn wait(&self) -> u64 {
        self.wait.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_counted_by_reason() {
        let counts = ExitCounts::default();
        for exit in [Exit::SbiCall, Exit::WaitForInterrupt, Exit::SbiCall, Exit::Budget] {
            counts.count(&exit);
        }
        counts.note_instructions(7);
        assert_eq!(counts.instructions(), 7);
        assert_eq!((counts.budget(), counts.device(), counts.sbi(), counts.wait()), (1, 0, 2, 1));
    }
}
