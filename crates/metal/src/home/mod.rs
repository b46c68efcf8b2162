//! The home at work: each physical hart picks a virtual hart, runs it for a slice, and sleeps when there is none.

mod commands;
mod power;
mod ready;
mod report;
mod saving;
mod watched;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rvisor_machine::{Progress, memory_map};
use spin::{Mutex, Once};

use crate::arch::{self, Frames, PhysicalHart};
use crate::engine::{AnyEngine, Trace};
use crate::guest::{Guest, Task};
use crate::hardware::Hardware;
use crate::processor::Processor;
use crate::queue::{Picked, Queue, State, TaskId, Wake};
use crate::terminal::Terminal;
use ready::ReadyDevices;
use watched::Watched;

pub use ready::device_ready;

/// Ticks between two looks at the keyboard: 20 ms.
const KEYBOARD: u64 = 200_000;
/// Ticks in a millisecond.
pub const MILLISECOND: u64 = 10_000;
const NANOSECONDS_A_TICK: u64 = 100;

/// Everything that the physical harts share.
pub struct Home {
    /// The guests.
    pub guests: Vec<Guest>,
    /// Their virtual harts, by place in the queue, each with its guest.
    pub tasks: Vec<(usize, Mutex<Task>)>,
    /// Who runs when.
    pub queue: Mutex<Queue>,
    /// The console.
    pub terminal: Arc<Terminal>,
    /// The physical devices.
    pub hardware: Hardware,
    /// Memory of guests.
    pub frames: Arc<Frames>,
    /// Of each physical hart.
    pub harts: Vec<HartState>,
    /// Held by who switches a guest on or off.
    pub power: Mutex<()>,
    /// Whether a guest has reported a failure.
    pub failed: AtomicBool,
}

/// What other harts tell a physical hart, and what it tells of itself.
#[derive(Default)]
pub struct HartState {
    /// It is to run another task.
    preempted: AtomicBool,
    /// Ticks that it was asleep, and ticks that it was the monitor's own: not asleep and in no virtual hart's slice.
    asleep: AtomicU64,
    own: AtomicU64,
}

static HOME: Once<Home> = Once::new();
static READY: ReadyDevices = ReadyDevices::new();

/// Sets the home up and switches on the guests that start by themselves; the harts may [`run`] then.
pub fn open(home: Home) -> &'static Home {
    let home = HOME.call_once(|| home);
    home.guests.iter().for_each(|guest| guest.connect(wake));
    home
}

/// A task is to look around.
fn wake(task: TaskId) {
    let Some(home) = HOME.get() else { return };
    let wake = home.queue.lock().wake(task, arch::now());
    home.carry_out(wake);
}

/// Prints a line of the monitor's.
pub fn say(text: core::fmt::Arguments<'_>) {
    let text = alloc::format!("rvisor: {text}");
    match HOME.get() {
        Some(home) => home.terminal.say(&text),
        None => arch::console::line(&text),
    }
}

/// Runs guests on this hart for ever.
pub fn run(hart: &mut PhysicalHart, home: &'static Home) -> ! {
    let mut next_look = 0;
    let state = &home.harts[hart.index()];
    let mut own_since = hart.now();
    loop {
        if arch::is_external_interrupt_pending() {
            home.hardware.serve(hart.index());
        }
        home.look_at_devices();
        let now = hart.now();
        if hart.index() == 0 && now >= next_look {
            next_look = now + KEYBOARD;
            home.look_at_keyboard();
        }
        state.preempted.store(false, Ordering::SeqCst);
        let (picked, wake, until) = {
            let mut queue = home.queue.lock();
            (queue.pick(hart.index(), now), queue.help(), queue.idle_until(hart.index()))
        };
        home.carry_out(wake);
        state.own.fetch_add(hart.now().saturating_sub(own_since), Ordering::Relaxed);
        if let Some(picked) = picked {
            home.run_task(hart, &picked);
        } else if !READY.any() {
            // What has become ready since then interrupts the sleep.
            let asleep = hart.now();
            hart.sleep(if hart.index() == 0 { until.min(next_look) } else { until });
            hart.clear_software_interrupt();
            state.asleep.fetch_add(hart.now().saturating_sub(asleep), Ordering::Relaxed);
        }
        own_since = hart.now();
    }
}

impl Home {
    /// Makes other harts do what the queue asks for.
    fn carry_out(&self, wake: Wake) {
        let hart = match wake {
            Wake::Nothing => return,
            Wake::Interrupt(hart) => hart,
            Wake::Preempt(hart) => {
                self.harts[hart].preempted.store(true, Ordering::SeqCst);
                hart
            }
        };
        // This hart looks around by itself before it enters a guest again.
        if hart != arch::current_hart() {
            arch::interrupt(hart);
        }
    }

    /// Makes all other harts ask the queue again.
    fn interrupt_others(&self) {
        (0..self.harts.len()).filter(|hart| *hart != arch::current_hart()).for_each(arch::interrupt);
    }

    /// Lets guests' devices look at back ends that have something for them.
    fn look_at_devices(&self) {
        READY.take(|guest, device| {
            let guest = &self.guests[guest];
            let slot = guest.slot(device);
            // A device that another hart is using is looked at again.
            slot.is_none_or(|slot| guest.vm.poll(memory_map::virtio(slot).base).is_ok())
        });
    }

    fn look_at_keyboard(&self) {
        self.terminal.tick();
        let mut typed = [0; 64];
        loop {
            let count = arch::console::read(&mut typed);
            if count == 0 {
                return;
            }
            let result = self.terminal.type_in(&typed[..count]);
            let has_got_some = |(index, _): &(usize, &Guest)| result.guests >> index & 1 == 1;
            for (_, guest) in self.guests.iter().enumerate().filter(has_got_some) {
                // Another hart that uses the device is soon done with it.
                while guest.vm.poll(guest.line()).is_err() {
                    core::hint::spin_loop();
                }
            }
            let has_commands = !result.commands.is_empty();
            result.commands.iter().for_each(|line| self.command(line));
            if has_commands {
                self.terminal.prompt();
            }
        }
    }

    fn run_task(&self, hart: &mut PhysicalHart, picked: &Picked) {
        let (guest, task) = &self.tasks[picked.task];
        let guest = &self.guests[*guest];
        let vm = &guest.vm;
        let mut task = task.lock();
        let Task { hart: virtual_hart, tables, statistics, watch, trace } = &mut *task;
        virtual_hart.add_stolen_time(vm, picked.stolen * NANOSECONDS_A_TICK);
        let state = &self.harts[hart.index()];
        let has_work =
            || READY.any() || state.preempted.load(Ordering::SeqCst) || arch::is_external_interrupt_pending();
        let mut engine = AnyEngine::new(tables, hart, picked.until);
        engine.set_time_offset(guest.clock.offset());
        if let Some(trace) = trace {
            engine.trace(trace);
        }
        let mut progress = Progress::Ran;
        while progress == Progress::Ran && arch::now() < picked.until {
            if has_work() {
                break;
            }
            progress = virtual_hart.advance(&mut Watched { engine: &mut engine, has_work: &has_work }, vm);
        }
        *statistics += engine.statistics();
        let why = if progress == Progress::Ran { watch.look(&virtual_hart.hart) } else { None };
        let index = virtual_hart.index();
        let traced = trace.as_mut().and_then(Trace::finished);
        if traced.is_some() {
            *trace = None;
        }
        drop(task);
        traced.into_iter().flatten().for_each(|line| say(format_args!("{}: {line}", guest.bundled.name)));
        if let Some(why) = why {
            say(format_args!("guest {}: stopped: hart {index} gets nowhere: {why}", guest.bundled.name));
            vm.request_power(rvisor_machine::PowerRequest::Fail(1));
        }
        let mut queue = self.queue.lock();
        let state = match progress {
            Progress::Ran | Progress::Yield => State::Ready,
            // A kick comes before the queue is asked for its task: with the queue locked, none is missed.
            Progress::Idle { .. } if vm.harts()[index].attention() => State::Ready,
            Progress::Idle { until } => State::Waiting(until.map(|ticks| guest.clock.when(ticks))),
            Progress::Off => State::Off,
        };
        queue.put(picked.task, arch::now(), state);
        let is_last = state == State::Off && self.is_off(guest, &queue);
        drop(queue);
        if is_last {
            self.end(self.tasks[picked.task].0);
        }
    }

    /// Whether none of a guest's harts is running or may run.
    fn is_off(&self, guest: &Guest, queue: &Queue) -> bool {
        guest.tasks.iter().all(|task| queue.state(*task) == State::Off)
    }
}
