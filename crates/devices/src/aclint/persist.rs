//! The ACLINT's state in a snapshot. The SSWI has none: its pulses are the harts'.

use core::sync::atomic::Ordering;

use rvisor_waist::{StateError, StateReader, StateWriter};

use super::{Mswi, Mtimer};

/// The levels of MSIP, or the MTIMECMP registers, by hart.
const HARTS: u16 = 1;

impl Mswi {
    pub(super) fn save_state(&self, writer: &mut StateWriter) {
        writer.numbers(HARTS, self.levels.iter().map(|&level| level.into()));
    }

    pub(super) fn restore_state(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        let levels = reader.numbers(HARTS)?;
        if levels.len() != self.levels.len() {
            return Err(StateError::Mismatch("number of harts"));
        }
        for ((level, saved), output) in self.levels.iter_mut().zip(levels).zip(&self.outputs) {
            *level = saved != 0;
            output.set(*level);
        }
        Ok(())
    }
}

impl Mtimer {
    pub(super) fn save_state(&self, writer: &mut StateWriter) {
        let deadlines = self.comparators.iter().map(|comparator| comparator.deadline.load(Ordering::SeqCst));
        writer.numbers(HARTS, deadlines);
    }

    pub(super) fn restore_state(&self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        let deadlines = reader.numbers(HARTS)?;
        if deadlines.len() != self.comparators.len() {
            return Err(StateError::Mismatch("number of harts"));
        }
        self.comparators.iter().zip(deadlines).for_each(|(comparator, deadline)| comparator.set(deadline));
        Ok(())
    }
}
