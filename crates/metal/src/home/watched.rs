//! An engine that comes back when the physical hart has something else to do.

use rvisor_hart::Exit;
use rvisor_machine::{Engine, VirtualHart, Vm};

use crate::arch::Partition;

/// An engine, and what says that there is something to do.
pub struct Watched<'a, E, F> {
    /// The engine.
    pub engine: &'a mut E,
    /// Asked each time before the guest is entered.
    pub has_work: &'a F,
}

impl<E: Engine<Partition>, F: Fn() -> bool> Engine<Partition> for Watched<'_, E, F>
where
    Self: Send,
{
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<Partition>, budget: u64) -> Exit {
        if (self.has_work)() { Exit::Budget } else { self.engine.run(hart, vm, budget) }
    }
}
