//! A hart of a VM at work: enters the engine, handles its exits, waits.
//!
//! Every home runs this same loop; what differs is how it sleeps between two calls of
//! [`VirtualHart::advance`].

use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_hart::{AccessKind, Config, DeviceAccess, Exit, Hart, HartEvent};
use rvisor_waist::GuestMemory;

use crate::board::Busy;
use crate::debug::DebugStop;
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
    pub(crate) steal_time: sbi::StealTime,
    pub(crate) waiting: bool,
    /// Whether one instruction is to be executed, and then no more.
    stepping: bool,
    stop: Option<DebugStop>,
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
            hypervisor: vm.config().hypervisor,
            ..Config::default()
        };
        Self {
            hart: Hart::new(config),
            index,
            signals: Arc::clone(&vm.harts()[index]),
            awaited_fences: Vec::new(),
            steal_time: sbi::StealTime::default(),
            waiting: false,
            stepping: false,
            stop: None,
        }
    }

    /// Whether the guest wants to know of [stolen time](Self::add_stolen_time).
    #[must_use]
    pub fn wants_stolen_time(&self) -> bool {
        self.steal_time.is_wanted()
    }

    /// Tells the guest, if it wants to know, that for so long its hart could have run and had no processor.
    pub fn add_stolen_time<M: GuestMemory>(&mut self, vm: &Vm<M>, nanoseconds: u64) {
        self.steal_time.add(vm.memory(), nanoseconds);
    }

    /// Hart id.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether the hart is started, and doesn't wait for an interrupt.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        self.signals.state() == HartState::Started && !self.waiting
    }

    /// From now on executes one instruction and stops, or goes on as ever.
    pub fn set_stepping(&mut self, stepping: bool) {
        self.stepping = stepping;
    }

    /// Why the hart has stopped for its debugger, if it has since the last call. The home doesn't call
    /// [`advance`](Self::advance) then until the debugger says so.
    pub fn take_stop(&mut self) -> Option<DebugStop> {
        self.stop.take()
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
            self.hart.tell(&HartEvent::Woke);
        }
        self.awaited_fences.retain(|&(hart, ticket)| !vm.harts()[hart].has_fenced(ticket));
        if !self.awaited_fences.is_empty() {
            return Progress::Yield;
        }
        if vm.debug().epoch() != self.hart.debug_epoch() {
            let (points, epoch) = vm.debug().points();
            self.hart.set_debug_points(points, epoch);
        }
        let hart = &mut self.hart;
        self.signals.enter_guest(|fence| apply_fence(hart, fence));
        let progress = if self.stepping { self.step(vm) } else { self.run(engine, vm) };
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
            self.signals.exits().note_instructions(self.hart.retired);
            match exit {
                Exit::Budget if self.hart.has_debug_hit() => {}
                Exit::Budget => return Progress::Ran,
                Exit::Device(access) => {
                    if self.access_device(&access, vm) == Err(Busy) {
                        return Progress::Yield;
                    }
                }
                Exit::SbiCall => {
                    self.call_sbi(vm);
                    if !self.awaited_fences.is_empty() || self.signals.state() != HartState::Started {
                        return Progress::Ran;
                    }
                }
                Exit::WaitForInterrupt => {
                    self.waiting = true;
                    self.hart.tell(&HartEvent::Wait);
                    return Progress::Ran;
                }
            }
            if let Some(hit) = self.hart.take_debug_hit() {
                self.stop = Some(DebugStop::Hit(hit));
                return Progress::Ran;
            }
            if self.signals.attention() {
                return Progress::Ran;
            }
        }
    }

    /// Executes one instruction for a debugger, without the engine. A `wfi` ends at once, as it may.
    fn step<M: GuestMemory>(&mut self, vm: &Vm<M>) -> Progress {
        let environment = vm.environment(&vm.harts()[self.index]);
        // The engine may have left the context out of date.
        self.hart.context_changed();
        let exit = if vm.debug().steps_into_interrupts() {
            self.hart.step(&environment)
        } else {
            self.hart.step_uninterrupted(&environment)
        };
        self.signals.exits().count(&exit);
        self.signals.exits().note_instructions(self.hart.retired);
        match exit {
            Exit::Device(access) if self.access_device(&access, vm) == Err(Busy) => return Progress::Yield,
            Exit::SbiCall => self.call_sbi(vm),
            Exit::Budget | Exit::Device(_) | Exit::WaitForInterrupt => {}
        }
        self.stepping = false;
        self.stop = Some(self.hart.take_debug_hit().map_or(DebugStop::Step, DebugStop::Hit));
        Progress::Ran
    }

    fn call_sbi<M: GuestMemory>(&mut self, vm: &Vm<M>) {
        if !self.hart.is_observed() {
            return sbi::handle(self, vm);
        }
        let mut arguments = [0; 8];
        arguments.copy_from_slice(&self.hart.x[10..18]);
        self.hart.tell(&HartEvent::SbiCall { pc: self.hart.pc, arguments });
        sbi::handle(self, vm);
        self.hart.tell(&HartEvent::SbiReturn { values: [self.hart.x[10], self.hart.x[11]] });
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
            self.steal_time = sbi::StealTime::default();
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
        self.hart.tell(&HartEvent::Device { access: *access, pc: self.hart.pc });
        let result = match access.kind {
            AccessKind::Load { .. } => vm.board().read(access.address, access.width)?,
            AccessKind::Store { value } => vm.board().write(access.address, access.width, value)?.map(|()| 0),
        };
        self.hart.tell(&HartEvent::DeviceDone { value: result.ok() });
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

    mod debugged {
        use alloc::boxed::Box;
        use alloc::collections::BTreeSet;

        use rvisor_hart::{DebugHit, DebugPoints};
        use rvisor_isa::{Instruction, Op, encode};

        use super::*;
        use crate::Interpreter;

        /// Increments `x5` four times, then waits.
        fn program(test: &TestVm) -> VirtualHart {
            let addi = Instruction { rd: 5, rs1: 5, imm: 1, ..Instruction::new(Op::Addi, 4) };
            let wait = Instruction::new(Op::Wfi, 4);
            for (number, instruction) in (0..).zip([addi, addi, addi, addi, wait]) {
                let bits = encode(&instruction).unwrap();
                test.vm.memory().store::<u32>(RAM_BASE.offset(4 * number), bits).unwrap();
            }
            let mut hart = started(test);
            hart.hart.pc = RAM_BASE.0;
            hart
        }

        #[test]
        fn hart_stops_at_breakpoint_steps_and_goes_on() {
            let test = TestVm::new(1, true);
            let mut hart = program(&test);
            let breakpoints = BTreeSet::from([RAM_BASE.0 + 8]);
            test.vm.debug().set_points(DebugPoints { breakpoints, ..DebugPoints::default() });
            assert_eq!(hart.advance(&mut Interpreter, &test.vm), Progress::Ran);
            assert_eq!(hart.take_stop(), Some(DebugStop::Hit(DebugHit::Breakpoint)));
            assert_eq!((hart.hart.pc, hart.hart.x[5], hart.take_stop()), (RAM_BASE.0 + 8, 2, None));
            hart.set_stepping(true);
            hart.advance(&mut Interpreter, &test.vm);
            assert_eq!((hart.take_stop(), hart.hart.x[5]), (Some(DebugStop::Step), 3));
            hart.advance(&mut Interpreter, &test.vm);
            assert_eq!((hart.take_stop(), hart.hart.x[5], hart.is_at_work()), (None, 4, false));
        }

        #[test]
        fn hart_that_is_started_anew_knows_its_points() {
            let test = TestVm::new(1, false);
            let mut hart = program(&test);
            let breakpoints = BTreeSet::from([RAM_BASE.0]);
            test.vm.debug().set_points(DebugPoints { breakpoints, ..DebugPoints::default() });
            let entry = Entry { address: RAM_BASE.0, opaque: 0 };
            test.vm.harts()[0].update_state(|_| Some(HartState::StartPending(entry)));
            // The first time it may look around before it runs.
            for _ in 0..2 {
                hart.advance(&mut Interpreter, &test.vm);
            }
            assert_eq!(hart.take_stop(), Some(DebugStop::Hit(DebugHit::Breakpoint)));
        }

        struct Counter(alloc::sync::Arc<spin::Mutex<Vec<HartEvent>>>);

        impl rvisor_hart::Observer for Counter {
            fn observe(&mut self, event: &HartEvent) {
                self.0.lock().push(*event);
            }
        }

        #[test]
        fn observer_hears_of_calls_and_devices_and_waits() {
            const BASE: u64 = 0x10;
            let test = TestVm::new(1, false);
            let mut hart = started(&test);
            let seen = alloc::sync::Arc::new(spin::Mutex::new(Vec::new()));
            hart.hart.set_observer(Some(Box::new(Counter(alloc::sync::Arc::clone(&seen)))));
            hart.hart.x[17] = BASE;
            let access = DeviceAccess {
                address: crate::memory_map::UART.base,
                virtual_address: rvisor_waist::GuestVirtual(0),
                is_guest: false,
                width: rvisor_waist::Width::Byte,
                kind: AccessKind::Store { value: 0 },
                instruction_length: 4,
            };
            let exits = alloc::vec![Exit::WaitForInterrupt, Exit::Device(access), Exit::SbiCall];
            hart.advance(&mut Script(exits), &test.vm);
            let seen = seen.lock();
            assert!(matches!(seen[0], HartEvent::SbiCall { arguments: [.., BASE], .. }), "{seen:?}");
            assert!(matches!(seen[1], HartEvent::SbiReturn { values: [0, _] }), "{seen:?}");
            assert!(matches!(seen[2], HartEvent::Device { .. }), "{seen:?}");
            assert_eq!(seen[3..], [HartEvent::DeviceDone { value: Some(0) }, HartEvent::Wait]);
        }
    }
}
