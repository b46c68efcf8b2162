//! A guest: its machine, and its virtual harts as tasks.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rvisor_machine::boot::{BootError, Program};
use rvisor_machine::bundle::BundledGuest;
use rvisor_machine::memory_map::{self, RAM_BASE};
use rvisor_machine::persist::{self, SavedState};
use rvisor_machine::save_area::SaveError;
use rvisor_machine::{Backends, PowerRequest, SlotBuilder, VirtualHart, Vm, VmConfig};
use rvisor_waist::{Clock, ConsoleBackend, GuestMemory, GuestPhysical};
use thiserror::Error;

use crate::arch::Partition;
use crate::backend::Served;
use crate::clock::GuestClock;
use crate::engine::{Statistics, Tables, Trace};
use crate::queue::{GroupId, TaskId};
use crate::stuck::Watch;

/// A virtual hart with what the engine keeps for it.
pub struct Task {
    /// The hart.
    pub hart: VirtualHart,
    /// The page tables that the hardware sees.
    pub tables: Tables,
    /// What its time went to.
    pub statistics: Statistics,
    /// Whether it gets anywhere.
    pub watch: Watch,
    /// A trace that was asked for.
    pub trace: Option<Trace>,
}

/// Why a guest can't be switched on.
#[derive(Debug, Error)]
pub enum StartError {
    /// Too little memory.
    #[error("it needs {} MiB of memory, {} are left; stop another guest or give it less", need >> 20, left >> 20)]
    Memory {
        /// What it may use at most.
        need: u64,
        /// What no guest was promised.
        left: u64,
    },
    /// Its files.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// What it was to go on from.
    #[error("it can't go on: {0}")]
    Saved(#[from] SaveError),
    /// Its time can't be another than the hardware's, and is later.
    #[error(
        "its time is {0} s ahead of the hardware's, and the firmware here answers for that: start it when so much has passed"
    )]
    Time(u64),
    /// A save area that some other bundle's guest has used.
    #[error(
        "its save area keeps a state of another bundle's guest; make the disk anew, or use the other bundle"
    )]
    OtherBundle,
    /// It is on.
    #[error("it is on already")]
    On,
}

/// One guest.
pub struct Guest {
    /// Its entry in the bundle.
    pub bundled: BundledGuest<'static>,
    /// The machine that it sees.
    pub vm: Vm<Partition>,
    /// Its tasks, by hart id.
    pub tasks: Vec<TaskId>,
    /// Its group in the queue.
    pub group: GroupId,
    /// What its virtio slots have, where the home serves it.
    pub served: Vec<Option<Served>>,
    /// Whether it is on.
    pub is_on: AtomicBool,
    /// Since when, in ticks.
    pub since: AtomicU64,
    /// Its time.
    pub clock: Arc<GuestClock>,
    /// Whether it was switched on before, so that what the bundle has of its state is used up.
    pub has_run: AtomicBool,
    /// Whether it is off because its state was kept.
    pub is_kept: AtomicBool,
}

/// Places of a guest in the home.
pub struct Places {
    /// Its tasks, by hart id.
    pub tasks: Vec<TaskId>,
    /// Its group in the queue.
    pub group: GroupId,
}

impl Guest {
    /// Makes the machine of a guest, switched off.
    pub fn new(
        bundled: BundledGuest<'static>,
        config: VmConfig,
        memory: Arc<Partition>,
        clock: Arc<GuestClock>,
        console: [Box<dyn ConsoleBackend>; 2],
        slots: Vec<(SlotBuilder<Partition>, Option<Served>)>,
        places: Places,
    ) -> Self {
        let (virtio, served) = slots.into_iter().unzip();
        let [serial, sbi_console] = console;
        let backends = Backends { serial, sbi_console, virtio };
        let vm = Vm::new(config, memory, Arc::clone(&clock) as Arc<dyn Clock>, backends);
        let Places { tasks, group } = places;
        let (is_on, since) = (AtomicBool::new(false), AtomicU64::new(0));
        let (has_run, is_kept) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { bundled, vm, tasks, group, served, is_on, since, clock, has_run, is_kept }
    }

    /// The state in the bundle that it began with, as a number; 0 for none.
    pub fn origin(&self) -> u64 {
        self.bundled.saved.map_or(0, |saved| persist::id(saved.state))
    }

    /// Switches the machine on: with empty memory, loads the kernel, and gives its harts. All its harts are off, and no
    /// shadow table maps its memory. `seed` is for the kernel's random numbers; `left` is what no guest was promised.
    pub fn power_on(&self, seed: &[u8], left: impl FnOnce() -> u64) -> Result<Vec<VirtualHart>, StartError> {
        let BundledGuest { kernel, initrd, command_line, .. } = self.bundled;
        let program = if self.bundled.bare {
            Program::Supervisor { program: kernel, initrd, command_line }
        } else {
            Program::Linux { kernel, initrd, command_line }
        };
        let ram = RAM_BASE..RAM_BASE.offset(self.bundled.memory);
        let placed = program.place(self.vm.config(), &ram, seed)?;
        let mut harts = self.fresh_harts(left)?;
        placed.load(&self.vm, &mut harts)?;
        self.switch_on();
        Ok(harts)
    }

    /// Switches the machine on where a state was saved; `load` fills its memory. All its harts are off, and no shadow
    /// table maps its memory.
    pub fn resume(
        &self,
        state: &SavedState,
        load: impl FnOnce(&Partition) -> Result<(), SaveError>,
        left: impl FnOnce() -> u64,
    ) -> Result<Vec<VirtualHart>, StartError> {
        let mut harts = self.fresh_harts(left)?;
        let resumed = state.shape().map_err(SaveError::from).and_then(|shape| {
            self.clock.show(shape.ticks);
            load(self.vm.memory())?;
            Ok(self.vm.restore(state, &mut harts)?)
        });
        if let Err(error) = resumed {
            self.power_off();
            return Err(error.into());
        }
        self.switch_on();
        Ok(harts)
    }

    /// Harts after reset, and empty memory.
    fn fresh_harts(&self, left: impl FnOnce() -> u64) -> Result<Vec<VirtualHart>, StartError> {
        self.power_off();
        if !self.vm.memory().reserve() {
            return Err(StartError::Memory { need: self.bundled.memory, left: left() });
        }
        Ok((0..self.vm.harts().len()).map(|index| VirtualHart::new(index, &self.vm)).collect())
    }

    fn switch_on(&self) {
        // Back ends may have something; and the board is still frozen if the guest's state was kept.
        self.vm.board().thaw();
        self.has_run.store(true, Ordering::SeqCst);
        self.is_on.store(true, Ordering::SeqCst);
    }

    /// Resets the devices, which then have nothing on the way, and gives the memory back.
    pub fn power_off(&self) {
        self.is_on.store(false, Ordering::SeqCst);
        self.vm.reset();
        self.vm.memory().release();
    }

    /// Bytes of machine memory that it has, and how many it may have.
    pub fn memory(&self) -> (u64, u64) {
        let range = self.vm.memory().range();
        (self.vm.memory().resident(), range.end.0 - range.start.0)
    }

    /// Lets `wake` be called with a task when it is to look around.
    pub fn connect(&self, wake: fn(TaskId)) {
        for (signals, task) in self.vm.harts().iter().zip(self.tasks.iter().copied()) {
            signals.set_waker(Box::new(move || wake(task)));
        }
    }

    /// The slot that has a device.
    pub fn slot(&self, device: Served) -> Option<u32> {
        self.served.iter().position(|served| *served == Some(device)).map(|slot| slot as u32)
    }

    /// The address of the device at the end of its line to the terminal.
    pub fn line(&self) -> GuestPhysical {
        self.slot(Served::Console).map_or(memory_map::UART, memory_map::virtio).base
    }

    /// How the guest ended, in words.
    pub fn ending(request: Option<PowerRequest>) -> &'static str {
        match request {
            Some(PowerRequest::Reset) => "restarts",
            Some(PowerRequest::Fail(_)) => "reported a failure",
            _ => "powered off",
        }
    }
}
