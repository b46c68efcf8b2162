//! Runs a machine: a thread for each hart, reboots, time limits, signals.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rvisor_machine::memory_map;
use rvisor_machine::{Engine, PowerRequest, Progress, VirtualHart, Vm};

use crate::debugger::DebugGate;
use crate::pause::PauseGate;
use crate::stolen_time::StolenTime;
use crate::throttle::{Account, Throttle};
use crate::trace::Tracing;
use crate::{HostClock, HostMemory};

/// The machine type of this home.
pub type HostedVm = Vm<HostMemory>;

/// Makes the engine of a hart.
pub type EngineFactory = dyn Fn() -> io::Result<Box<dyn Engine<HostMemory>>> + Send + Sync;

/// Fills RAM and sets the harts up as the boot protocol says; called at each power-on with all harts after
/// reset.
pub type Loader<'a> = dyn FnMut(&HostedVm, &mut [VirtualHart]) -> io::Result<()> + 'a;

/// How a machine's life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The guest powered off.
    PowerOff,
    /// The guest reported a failure with this code.
    Fail(u16),
    /// The time limit was reached.
    TimedOut,
}

/// What to do about a guest's wish to reboot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnReset {
    /// Power on again.
    Reboot,
    /// Treat it as a power-off.
    Stop,
}

/// What tells harts when to run: time, and whether the machine is paused.
#[derive(Clone)]
pub struct Pace {
    /// The machine's clock.
    pub clock: HostClock,
    /// Where harts stop while it is paused.
    pub gate: Arc<PauseGate>,
    /// Where its debugger finds them.
    pub(crate) debug: Arc<DebugGate>,
    /// Whether somebody records what they do.
    pub(crate) tracing: Arc<Tracing>,
    /// What they may use of the host's processors, if that is limited.
    pub throttle: Option<Arc<Throttle>>,
}

/// Runs `vm` until it ends.
///
/// # Errors
/// If the loader fails, or the host has no threads left.
pub fn run(
    vm: &Arc<HostedVm>,
    pace: &Pace,
    engine: &Arc<EngineFactory>,
    load: &mut Loader<'_>,
    on_reset: OnReset,
    time_limit: Option<Duration>,
) -> io::Result<Ending> {
    let deadline = time_limit.map(|limit| Instant::now() + limit);
    let threads: Arc<Vec<Mutex<Option<Thread>>>> =
        Arc::new((0..vm.harts().len()).map(|_| Mutex::default()).collect());
    for (index, signals) in vm.harts().iter().enumerate() {
        let threads = Arc::clone(&threads);
        signals.set_waker(Box::new(move || {
            if let Some(thread) = &*threads[index].lock().unwrap_or_else(PoisonError::into_inner) {
                thread.unpark();
            }
        }));
    }
    loop {
        let mut harts: Vec<_> = (0..vm.harts().len()).map(|index| VirtualHart::new(index, vm)).collect();
        load(vm, &mut harts)?;
        let timed_out = run_once(vm, pace, engine, harts, &threads, deadline)?;
        if timed_out {
            return Ok(Ending::TimedOut);
        }
        match vm.power_requested() {
            Some(PowerRequest::Reset) if on_reset == OnReset::Reboot => vm.reset(),
            Some(PowerRequest::Fail(code)) => return Ok(Ending::Fail(code)),
            _ => return Ok(Ending::PowerOff),
        }
    }
}

/// Runs from power-on to the next power request; true if the deadline came first.
fn run_once(
    vm: &Arc<HostedVm>,
    pace: &Pace,
    engine: &Arc<EngineFactory>,
    harts: Vec<VirtualHart>,
    threads: &Arc<Vec<Mutex<Option<Thread>>>>,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    /// The real-time clock's alarm is looked at this often.
    const ALARM_PERIOD: Duration = Duration::from_secs(1);
    let main = thread::current();
    let mut engines = Vec::new();
    for _ in &harts {
        engines.push(engine()?);
    }
    let mut handles = Vec::new();
    for (hart, mut engine) in harts.into_iter().zip(engines) {
        let (threads, main, pace) = (Arc::clone(threads), main.clone(), pace.clone());
        let guard = EndOnPanic(Arc::clone(vm));
        let builder = thread::Builder::new().name(format!("hart-{}", hart.index()));
        let spawned = builder.spawn(move || {
            // A panic in one hart's thread must end the machine, not leave it waiting for ever.
            let guard = guard;
            let vm = &guard.0;
            *threads[hart.index()].lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
            run_hart(hart, vm, &pace, &mut *engine);
            main.unpark();
        });
        match spawned {
            Ok(handle) => handles.push(handle),
            Err(error) => {
                vm.request_power(PowerRequest::PowerOff);
                handles.into_iter().for_each(|handle| drop(handle.join()));
                return Err(error);
            }
        }
    }
    let mut timed_out = false;
    while vm.power_requested().is_none() {
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            timed_out = true;
            vm.request_power(PowerRequest::PowerOff);
            break;
        }
        crate::machine::poll(vm, memory_map::RTC.base);
        let patience = deadline.map_or(ALARM_PERIOD, |deadline| (deadline - now).min(ALARM_PERIOD));
        thread::park_timeout(patience);
    }
    for handle in handles {
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    }
    Ok(timed_out)
}

fn run_hart(mut hart: VirtualHart, vm: &HostedVm, pace: &Pace, engine: &mut dyn Engine<HostMemory>) {
    /// After so many yields in a row, the thread that is waited for has probably lost its processor to this
    /// one, which the host's scheduler needn't make good at a mere yield: sleep instead.
    const YIELDS: u32 = 20;
    const NAP: Duration = Duration::from_micros(50);
    let mut yields = 0;
    let mut stolen = StolenTime::of_this_thread();
    let mut account = Account::of_this_thread();
    pace.tracing.apply(&mut hart);
    loop {
        pace.gate.pass(vm, &mut hart);
        pace.debug.pass(vm, &mut hart, &pace.gate);
        if let Some(rest) = pace.throttle.as_ref().and_then(|throttle| account.settle(throttle))
            && vm.power_requested().is_none()
        {
            // Kicks may end it early; what there is to do has to wait for the next period all the same.
            thread::park_timeout(rest);
            continue;
        }
        // Engines that are compared must see the same memory.
        if hart.wants_stolen_time() && vm.memory().journal().is_none() {
            hart.add_stolen_time(vm, stolen.take());
        }
        let progress = hart.advance(engine, vm);
        if let Some(stop) = hart.take_stop() {
            pace.debug.stopped(vm, hart.index(), stop);
        }
        yields = if progress == Progress::Yield { yields + 1 } else { 0 };
        match progress {
            Progress::Ran => {}
            Progress::Yield if yields <= YIELDS => thread::yield_now(),
            Progress::Yield => thread::park_timeout(NAP),
            Progress::Idle { until: None } => thread::park(),
            Progress::Idle { until: Some(ticks) } => thread::park_timeout(pace.clock.until(ticks)),
            Progress::Off => return,
        }
    }
}

struct EndOnPanic(Arc<HostedVm>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.request_power(PowerRequest::PowerOff);
        }
    }
}

/// Ends the machine on SIGINT, SIGTERM, SIGHUP and remembers which it was.
///
/// # Errors
/// If the host refuses the handlers.
pub fn end_on_signals(vm: &Arc<HostedVm>) -> io::Result<Arc<EndingSignal>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ending = Arc::new(EndingSignal::default());
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let (vm, seen) = (Arc::downgrade(vm), Arc::clone(&ending));
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            seen.number.store(signal, Ordering::SeqCst);
            crate::terminal::restore();
            match vm.upgrade() {
                // A second signal doesn't wait for a machine that doesn't end.
                Some(vm) if !seen.again.swap(true, Ordering::SeqCst) => {
                    vm.request_power(PowerRequest::PowerOff);
                }
                _ => std::process::exit(128 + signal),
            }
        }
    })?;
    Ok(ending)
}

/// The signal that ended a machine.
#[derive(Default)]
pub struct EndingSignal {
    number: std::sync::atomic::AtomicI32,
    again: AtomicBool,
}

impl EndingSignal {
    /// Signal number, if one came.
    pub fn get(&self) -> Option<i32> {
        match self.number.load(Ordering::SeqCst) {
            0 => None,
            number => Some(number),
        }
    }
}
