//! What a physical hart's instruction fetches may know of a virtual hart's code.
//!
//! A hart may fetch what was in memory before its last `fence.i` (Unprivileged ISA, "Zifencei"). A guest executes that
//! for the harts that it sees, and by itself only for the one that it is on: it knows neither that a virtual hart was moved to
//! another physical one, nor what the memory that it was given had in it before it was switched on.

use crate::processor::Processor;

/// Up to where a virtual hart's fetches are in order.
#[derive(Default)]
pub struct Fetches {
    /// The physical hart, and how many `fence.i` of the virtual hart it has carried out.
    known: Option<(usize, u64)>,
}

impl Fetches {
    /// Before the virtual hart runs: `epoch` counts the `fence.i` that were carried out for it elsewhere.
    pub fn bring_up_to_date<P: Processor>(&mut self, epoch: u64, processor: &mut P) {
        let now = Some((processor.index(), epoch));
        if self.known != now {
            self.known = now;
            processor.fence_instructions();
        }
    }

    /// The guest's memory becomes another.
    pub fn clear(&mut self) {
        self.known = None;
    }
}
