//! A hart of a VM at work: enters the engine, handles its exits, waits.
//!
//! Every home runs this same loop; what differs is how it sleeps between two calls of
//! [`VirtualHart::advance`].

use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_hart::{AccessKind, Config, DeviceAccess, Exit, Hart};
use rvisor_waist::GuestMemory;

use crate::board::Busy;
use crate::engine::Engine;
use crate::sbi;
use crate::signals::{Entry, Fence, HartSignals, HartState};
use crate::vm::Vm;

/// Instructions that an engine may execute before it hands control back.
const BUDGET: u64 = 200_000;

/// Pages of one fence that are flushed one by one; a longer range flushes everything.
const FENCE_PAGES: u64 = 32;

/// A hart and what the monitor knows about it.
pub struct VirtualHart {
    /// Architectural state.
    pub hart: Hart,
    pub(crate) index: usize,
    pub(crate) signals: Arc<HartSignals>,
    /// Fences that this hart asked for and must see carried out before it goes on: (hart, ticket).
    pub(crate) awaited_fences: Vec<(usize, u64)>,
    pub(crate) waiting: bool,
}

/// What a hart's thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Call again.
    Ran,
    /// Waits for another hart or for a device that is in use: let others run, then call again.
    Yield,
    /// Nothing to do until the hart is kicked, or until the clock reaches `until` ticks.
    Idle {
        /// When to call again at the latest.
        until: Option<u64>,
    },
    /// The machine was asked to stop: see [`Vm::power_requested`].
    Off,
}

impl VirtualHart {
    /// The hart number `index` of `vm`, after reset.
    pub fn new<M: GuestMemory>(index: usize, vm: &Vm<M>) -> Self {
        let config = Config {
            hart_id: index as u64,
            supervisor_only: !vm.config().machine_mode,
            translation: vm.config().translation,
            ..Config::default()
        };
        Self {
            hart: Hart::new(config),
            index,
            signals: Arc::clone(&vm.harts()[index]),
            awaited_fences: Vec::new(),
            waiting: false,
        }
    }

    /// Hart id.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Runs the hart for a while. What it did and waits for is in the result.
    pub fn advance<M: GuestMemory>(&mut self, engine: &mut dyn Engine<M>, vm: &Vm<M>) -> Progress {
        // First forget the kicks so far, then look at what they may have meant: a later one wakes the home's
        // sleep.
        self.signals.clear_attention();
        if vm.power_requested().is_some() {
            return Progress::Off;
        }
        match self.signals.state() {
            HartState::Started => {}
            HartState::Stopped => return Progress::Idle { until: None },
            HartState::StartPending(entry) => self.start(Some(entry)),
            HartState::Suspended { resume } => match self.idle(vm) {
                Some(idle) => return idle,
                None => self.start(resume),
            },
        }
        if self.waiting {
            if let Some(idle) = self.idle(vm) {
                return idle;
            }
            self.waiting = false;
        }
        self.awaited_fences.retain(|&(hart, ticket)| !vm.harts()[hart].has_fenced(ticket));
        if !self.awaited_fences.is_empty() {
            return Progress::Yield;
        }
        let hart = &mut self.hart;
        self.signals.enter_guest(|fence| apply_fence(hart, fence));
        let progress = self.run(engine, vm);
        self.signals.leave_guest();
        if let Some(interface) = vm.host_interface() {
            interface.look(vm);
        }
        progress
    }

    fn run<M: GuestMemory>(&mut self, engine: &mut dyn Engine<M>, vm: &Vm<M>) -> Progress {
        loop {
            let exit = engine.run(self, vm, BUDGET);
            self.signals.exits().count(&exit);
            match exit {
                Exit::Budget => return Progress::Ran,
                Exit::Device(access) => {
                    if self.access_device(&access, vm) == Err(Busy) {
                        return Progress::Yield;
                    }
                }
                Exit::SbiCall => {
                    sbi::handle(self, vm);
                    if !self.awaited_fences.is_empty() || self.signals.state() != HartState::Started {
                        return Progress::Ran;
                    }
                }
                Exit::WaitForInterrupt => {
                    self.waiting = true;
                    return Progress::Ran;
                }
            }
            if self.signals.attention() {
                return Progress::Ran;
            }
        }
    }

    /// Enters S-mode at `entry` with everything else as after reset (SBI 2.0, table "Supervisor-mode register
    /// state after hart start"), or goes on where it stands.
    fn start(&mut self, entry: Option<Entry>) {
        const A0: usize = 10;
        const A1: usize = 11;
        self.waiting = false;
        if let Some(entry) = entry {
            self.hart.reset();
            self.hart.pc = entry.address;
            self.hart.x[A0] = self.index as u64;
            self.hart.x[A1] = entry.opaque;
        }
        self.signals.update_state(|_| Some(HartState::Started));
    }

    /// `None` where something is pending that ends a wait, otherwise how long to sleep.
    fn idle<M: GuestMemory>(&mut self, vm: &Vm<M>) -> Option<Progress> {
        use core::sync::atomic::Ordering;
        // Deadlines up to this moment were seen by `wakes`; those that didn't wake the hart are masked.
        let now = vm.clock().ticks();
        let environment = vm.environment(&vm.harts()[self.index]);
        if self.hart.wakes(&environment) {
            return None;
        }
        let machine_timer = self.signals.machine_timer().load(Ordering::Relaxed);
        let deadlines = [self.hart.timer_deadline(), (machine_timer != u64::MAX).then_some(machine_timer)];
        Some(Progress::Idle { until: deadlines.into_iter().flatten().filter(|&ticks| ticks > now).min() })
    }

    fn access_device<M: GuestMemory>(&mut self, access: &DeviceAccess, vm: &Vm<M>) -> Result<(), Busy> {
        let result = match access.kind {
            AccessKind::Load { .. } => vm.board().read(access.address, access.width)?,
            AccessKind::Store { value } => vm.board().write(access.address, access.width, value)?.map(|()| 0),
        };
        self.hart.finish_device_access(access, result);
        Ok(())
    }
}

fn apply_fence(hart: &mut Hart, fence: Fence) {
    match fence {
        Fence::Instructions => hart.fence_instructions(),
        Fence::Memory { start, size, asid } => {
            let first = start.page();
            let pages = size.saturating_add(start.page_offset()).div_ceil(rvisor_waist::PAGE_SIZE);
            if pages > FENCE_PAGES {
                hart.fence_vma(None, asid);
            } else {
                for page in 0..pages {
                    hart.fence_vma(Some(first.offset(page * rvisor_waist::PAGE_SIZE)), asid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;
    use crate::memory_map::RAM_BASE;
    use crate::testing::{TestMemory, TestVm};

    /// Gives prepared exits.
    struct Script(Vec<Exit>);

    impl Engine<TestMemory> for Script {
        fn run(&mut self, _: &mut VirtualHart, _: &Vm<TestMemory>, _: u64) -> Exit {
            self.0.pop().unwrap_or(Exit::Budget)
        }
    }

    fn started(test: &TestVm) -> VirtualHart {
        test.vm.harts()[0].update_state(|_| Some(HartState::Started));
        VirtualHart::new(0, &test.vm)
    }

    #[test]
    fn stopped_hart_sleeps_until_it_is_started_at_its_entry() {
        let test = TestVm::new(1, false);
        let mut hart = VirtualHart::new(0, &test.vm);
        assert_eq!(hart.advance(&mut Script(Vec::new()), &test.vm), Progress::Idle { until: None });
        let entry = Entry { address: RAM_BASE.0, opaque: 42 };
        test.vm.harts()[0].update_state(|_| Some(HartState::StartPending(entry)));
        assert_eq!(hart.advance(&mut Script(Vec::new()), &test.vm), Progress::Ran);
        assert_eq!((hart.hart.pc, hart.hart.x[10], hart.hart.x[11]), (RAM_BASE.0, 0, 42));
    }

    #[test]
    fn waiting_hart_sleeps_until_its_timer() {
        let test = TestVm::new(1, true);
        let mut hart = started(&test);
        hart.signals.machine_timer().store(100, Ordering::Relaxed);
        let mut script = Script(alloc::vec![Exit::WaitForInterrupt]);
        assert_eq!(hart.advance(&mut script, &test.vm), Progress::Ran);
        assert_eq!(hart.advance(&mut script, &test.vm), Progress::Idle { until: Some(100) });
        // Past, but not enabled in `mie`: it must not keep the host busy.
        test.clock.0.store(101, Ordering::Relaxed);
        assert_eq!(hart.advance(&mut script, &test.vm), Progress::Idle { until: None });
    }

    #[test]
    fn hart_waits_for_the_fences_it_asked_for() {
        let test = TestVm::new(2, false);
        let mut hart = started(&test);
        let other = &test.vm.harts()[1];
        other.enter_guest(|_| {});
        hart.awaited_fences.push((1, other.post_fence(Fence::Instructions)));
        assert_eq!(hart.advance(&mut Script(Vec::new()), &test.vm), Progress::Yield);
        other.leave_guest();
        assert_eq!(hart.advance(&mut Script(Vec::new()), &test.vm), Progress::Ran);
    }

    #[test]
    fn power_request_ends_every_hart() {
        let test = TestVm::new(1, false);
        let mut hart = started(&test);
        test.vm.request_power(crate::PowerRequest::PowerOff);
        assert_eq!(hart.advance(&mut Script(Vec::new()), &test.vm), Progress::Off);
    }
}
