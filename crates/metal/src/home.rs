//! The home at work: each physical hart picks a virtual hart, runs it for a slice, and sleeps when there is none.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use rvisor_machine::memory_map;
use rvisor_machine::{PowerRequest, Progress};
use spin::{Mutex, Once};

use crate::arch::{self, PhysicalHart};
use crate::engine::{Deprivileged, Statistics};
use crate::guest::{Guest, Task};
use crate::processor::Processor;
use crate::queue::{Queue, State, TaskId};
use crate::terminal::Terminal;

/// Ticks that a virtual hart runs at most before others get their turn: 5 ms.
const SLICE: u64 = 50_000;
/// Ticks between two looks at the keyboard: 20 ms.
const KEYBOARD: u64 = 200_000;

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
}

static HOME: Once<Home> = Once::new();

/// Sets the home up; the harts may [`run`] then.
pub fn open(home: Home) -> &'static Home {
    let home = HOME.call_once(|| home);
    home.guests.iter().for_each(|guest| guest.connect(wake));
    home
}

/// A task is to look around.
fn wake(task: TaskId) {
    let Some(home) = HOME.get() else { return };
    let hart = home.queue.lock().wake(task);
    if let Some(hart) = hart.filter(|hart| *hart != arch::current_hart()) {
        arch::interrupt(hart);
    }
}

/// Runs guests on this hart until all have ended.
pub fn run(hart: &mut PhysicalHart, home: &'static Home) -> ! {
    let mut next_look = 0;
    loop {
        let now = hart.now();
        if hart.index() == 0 && now >= next_look {
            next_look = now + KEYBOARD;
            home.look_at_keyboard();
        }
        let picked = home.queue.lock().pick(hart.index(), now);
        if let Some(task) = picked {
            home.run_task(hart, task, now);
            continue;
        }
        let until = home.queue.lock().next_deadline().unwrap_or(u64::MAX);
        hart.sleep(if hart.index() == 0 { until.min(next_look) } else { until });
        hart.clear_software_interrupt();
    }
}

impl Home {
    fn look_at_keyboard(&self) {
        let mut typed = [0; 64];
        loop {
            let count = arch::console::read(&mut typed);
            if count == 0 {
                return;
            }
            if let Some(guest) = self.terminal.type_in(&typed[..count]) {
                // Another hart that uses the device is soon done with it.
                while self.guests[guest].vm.poll(memory_map::UART.base).is_err() {
                    core::hint::spin_loop();
                }
            }
        }
    }

    fn run_task(&self, hart: &mut PhysicalHart, id: TaskId, start: u64) {
        let (guest, task) = &self.tasks[id];
        let vm = &self.guests[*guest].vm;
        let mut task = task.lock();
        let Task { hart: virtual_hart, shadow, statistics } = &mut *task;
        let slice_end = start + SLICE;
        let mut engine = Deprivileged::new(shadow, hart, slice_end);
        let mut progress = Progress::Ran;
        while progress == Progress::Ran && arch::now() < slice_end {
            progress = virtual_hart.advance(&mut engine, vm);
        }
        *statistics += engine.statistics();
        let index = virtual_hart.index();
        drop(task);
        let mut queue = self.queue.lock();
        let state = match progress {
            Progress::Ran | Progress::Yield => State::Ready,
            // A kick comes before the queue is asked for its task: with the queue locked, none is missed.
            Progress::Idle { .. } if vm.harts()[index].attention() => State::Ready,
            Progress::Idle { until } => State::Waiting(until),
            Progress::Off => State::Off,
        };
        queue.put(id, arch::now() - start, state);
        if state == State::Off {
            let is_last = self.guests[*guest].tasks.iter().all(|task| queue.state(*task) == State::Off);
            drop(queue);
            if is_last {
                self.end(*guest);
            }
        }
    }

    /// All harts of a guest are off: it starts again, or has ended.
    fn end(&self, index: usize) {
        let guest = &self.guests[index];
        self.report(guest);
        if guest.vm.power_requested() == Some(PowerRequest::Reset) {
            match guest.power_on() {
                Ok(harts) => {
                    for (hart, id) in harts.into_iter().zip(&guest.tasks) {
                        self.tasks[*id].1.lock().hart = hart;
                        self.queue.lock().restart(*id);
                    }
                    return;
                }
                Err(error) => say(format_args!("guest {}: {error}", guest.bundled.name)),
            }
        }
        let queue = self.queue.lock();
        if (0..self.tasks.len()).all(|task| queue.state(task) == State::Off) {
            let failed = self
                .guests
                .iter()
                .any(|guest| matches!(guest.vm.power_requested(), Some(PowerRequest::Fail(_))));
            arch::shut_down(failed);
        }
    }

    /// Says how a guest ended and what it cost.
    fn report(&self, guest: &Guest) {
        let mut sum = Statistics::default();
        let mut fills = 0;
        let mut ran = 0;
        for id in &guest.tasks {
            let task = self.tasks[*id].1.lock();
            sum += task.statistics;
            fills += task.shadow.fills;
            ran += self.queue.lock().ran(*id);
        }
        let name = guest.bundled.name;
        say(format_args!(
            "guest {name}: {} after {} ms of processor time; {sum}, {fills} shadow pages filled",
            guest.ending(),
            ran / 10_000
        ));
    }
}

/// Prints a line of the monitor's.
pub fn say(text: core::fmt::Arguments<'_>) {
    let _ = write!(arch::console::Line, "rvisor: {text}\r\n");
}
