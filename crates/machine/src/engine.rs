//! What makes a virtual hart advance.

use rvisor_hart::Exit;
use rvisor_waist::GuestMemory;

use crate::virtual_hart::VirtualHart;
use crate::vm::Vm;

/// An engine executes a hart's instructions until something comes up that it can't finish alone. All engines
/// leave the same architectural state behind. When the hart has come to a debugger's point
/// ([`has_debug_hit`](rvisor_hart::Hart::has_debug_hit)), they return [`Exit::Budget`].
pub trait Engine<M: GuestMemory>: Send {
    /// Runs for about `budget` instructions, or until the exit it returns.
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<M>, budget: u64) -> Exit;
}

/// The reference: interprets one instruction after the other.
#[derive(Clone, Copy, Default, Debug)]
pub struct Interpreter;

impl<M: GuestMemory> Engine<M> for Interpreter {
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<M>, budget: u64) -> Exit {
        let environment = vm.environment(&vm.harts()[hart.index]);
        if hart.hart.is_debugged() {
            return hart.hart.run_to_point(&environment, budget);
        }
        hart.hart.run(&environment, budget)
    }
}
