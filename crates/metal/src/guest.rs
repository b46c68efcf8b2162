//! A guest: its machine, and its virtual harts as tasks.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_machine::boot::{BootError, Placed, Program};
use rvisor_machine::bundle::BundledGuest;
use rvisor_machine::memory_map::RAM_BASE;
use rvisor_machine::{Backends, PowerRequest, TranslationMode, VirtualHart, Vm, VmConfig};
use rvisor_waist::{Clock, GuestMemory};

use crate::arch::Partition;
use crate::engine::Statistics;
use crate::queue::TaskId;
use crate::shadow::Shadow;
use crate::terminal::Terminal;

/// A virtual hart with what the engine keeps for it.
pub struct Task {
    /// The hart.
    pub hart: VirtualHart,
    /// Its shadow tables.
    pub shadow: Shadow,
    /// What its time went to.
    pub statistics: Statistics,
}

/// One guest.
pub struct Guest {
    /// Its entry in the bundle.
    pub bundled: BundledGuest<'static>,
    /// The machine that it sees.
    pub vm: Vm<Partition>,
    /// Its tasks, by hart id.
    pub tasks: Vec<TaskId>,
    placed: Placed<'static>,
}

impl Guest {
    /// Makes the machine of a guest, switched off. `lacking` are the extensions that the hardware hasn't got; `tasks`
    /// are the places of its harts in the queue.
    pub fn new(
        bundled: BundledGuest<'static>,
        memory: Partition,
        clock: Arc<dyn Clock>,
        terminal: &Arc<Terminal>,
        index: usize,
        lacking: &'static [&'static str],
        tasks: Vec<TaskId>,
    ) -> Result<Self, BootError> {
        let config = VmConfig {
            harts: bundled.harts as usize,
            machine_mode: false,
            // The shadow tables are Sv39.
            translation: TranslationMode::Sv39,
        };
        let backends =
            Backends { serial: terminal.port(index), sbi_console: terminal.port(index), virtio: Vec::new() };
        let program = Program::Linux {
            kernel: bundled.kernel,
            initrd: bundled.initrd,
            command_line: bundled.command_line,
        };
        let ram = RAM_BASE..RAM_BASE.offset(bundled.memory);
        let placed = program.place_lacking(&config, &ram, &[], lacking)?;
        let vm = Vm::new(config, Arc::new(memory), clock, backends);
        Ok(Self { bundled, vm, tasks, placed })
    }

    /// Switches the machine on: clears its memory, loads the kernel, and gives its harts.
    pub fn power_on(&self) -> Result<Vec<VirtualHart>, BootError> {
        self.vm.reset();
        let ram = self.vm.memory().range();
        // All of it is there.
        let _ = self.vm.memory().zero(ram.start, ram.end.0 - ram.start.0);
        let mut harts: Vec<_> =
            (0..self.vm.harts().len()).map(|index| VirtualHart::new(index, &self.vm)).collect();
        self.placed.load(&self.vm, &mut harts)?;
        Ok(harts)
    }

    /// Lets `wake` be called with a task when it is to look around.
    pub fn connect(&self, wake: fn(TaskId)) {
        for (signals, task) in self.vm.harts().iter().zip(self.tasks.iter().copied()) {
            signals.set_waker(Box::new(move || wake(task)));
        }
    }

    /// How the guest ended, in words.
    pub fn ending(&self) -> &'static str {
        match self.vm.power_requested() {
            Some(PowerRequest::Reset) => "restarts",
            Some(PowerRequest::Fail(_)) => "reported a failure",
            _ => "powered off",
        }
    }
}
