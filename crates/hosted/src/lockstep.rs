//! The engine `lockstep`: the translator, and after each slice the interpreter from the same state on a second
//! RAM; what they leave behind must be the same.
//!
//! For that a slice must see nothing change but by its own doing. While one runs, its clock stands still, and
//! devices wait with what they write to RAM and with their interrupts. What they wrote in between is copied to
//! the second RAM before the next slice. One hart only.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rvisor_hart::{Environment, Exit, Hart};
use rvisor_machine::{Engine, HartEnvironment, PowerRequest, VirtualHart, Vm};
use rvisor_translator::{Shared, Translator};
use rvisor_waist::{Clock, GuestMemory, GuestPhysical};

use crate::{HostClock, HostMemory};

/// Instructions of a slice.
const SLICE: u64 = 8192;
/// The last instructions of a slice are interpreted one by one, to stop at the right one.
const STEPS: u64 = 600;
/// Steps that may be needed behind the last instruction: traps, which retire none.
const TRAPS: u32 = 4;
/// Slices between two comparisons of all RAM.
const ALL_RAM: u64 = 1 << 17;

thread_local! {
    /// Whether this thread is in a slice.
    static IN_SLICE: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was written to a RAM, by whom it concerns.
pub(crate) struct Journal {
    /// Held during a slice; whoever else writes waits for it.
    turn: Option<Arc<Mutex<()>>>,
    writes: Mutex<Vec<(GuestPhysical, u64)>>,
}

impl Journal {
    /// Of all writes but those of the thread in a slice, which have to wait until it is over.
    fn of_others(turn: Arc<Mutex<()>>) -> Self {
        Self { turn: Some(turn), writes: Mutex::default() }
    }

    /// Of all writes.
    fn of_all() -> Self {
        Self { turn: None, writes: Mutex::default() }
    }

    /// Waits for the slice to end.
    pub(crate) fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        if IN_SLICE.get() { None } else { self.turn.as_deref().map(lock) }
    }

    pub(crate) fn add(&self, address: GuestPhysical, length: u64) {
        if self.turn.is_none() || !IN_SLICE.get() {
            lock(&self.writes).push((address, length));
        }
    }

    fn take(&self) -> Vec<(GuestPhysical, u64)> {
        std::mem::take(&mut *lock(&self.writes))
    }
}

/// A clock that stands still during slices.
pub(crate) struct SteppedClock {
    clock: HostClock,
    stands: AtomicBool,
    ticks: AtomicU64,
}

impl SteppedClock {
    pub(crate) fn new(clock: HostClock) -> Self {
        Self { clock, stands: AtomicBool::new(false), ticks: AtomicU64::new(0) }
    }

    fn stop(&self) {
        self.ticks.store(self.clock.ticks(), Ordering::SeqCst);
        self.stands.store(true, Ordering::SeqCst);
    }

    fn go(&self) {
        self.stands.store(false, Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn ticks(&self) -> u64 {
        if self.stands.load(Ordering::SeqCst) { self.ticks.load(Ordering::SeqCst) } else { self.clock.ticks() }
    }

    fn wall_nanoseconds(&self) -> u64 {
        self.clock.wall_nanoseconds()
    }
}

/// The engine.
pub(crate) struct Lockstep {
    translator: Translator,
    clock: Arc<SteppedClock>,
    turn: Arc<Mutex<()>>,
    second: HostMemory,
    shadow: Option<Hart>,
    slices: u64,
    instructions: u64,
}

impl Lockstep {
    /// For the hart of a machine with `memory`, whose journal this starts.
    pub(crate) fn new(shared: &Arc<Shared>, memory: &HostMemory, clock: &Arc<SteppedClock>) -> io::Result<Self> {
        let range = memory.range();
        let second = HostMemory::new(range.start, range.end.0 - range.start.0)?;
        second.keep_journal(Journal::of_all());
        let turn = Arc::<Mutex<()>>::default();
        memory.keep_journal(Journal::of_others(Arc::clone(&turn)));
        // Another engine may have started the journal, before a reboot.
        let turn = memory.journal().and_then(|journal| journal.turn.clone()).unwrap_or(turn);
        copy(memory, &second, range.start, range.end.0 - range.start.0);
        Ok(Self {
            translator: Translator::new(shared)?,
            clock: Arc::clone(clock),
            turn,
            second,
            shadow: None,
            slices: 0,
            instructions: 0,
        })
    }
}

impl Drop for Lockstep {
    fn drop(&mut self) {
        log::info!("lockstep: {} instructions in {} slices", self.instructions, self.slices);
    }
}

impl Engine<HostMemory> for Lockstep {
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<HostMemory>, budget: u64) -> Exit {
        let turn = Arc::clone(&self.turn);
        let _turn = lock(&turn);
        IN_SLICE.set(true);
        self.clock.stop();
        let exit = self.slice(hart, vm, budget.min(SLICE));
        self.clock.go();
        IN_SLICE.set(false);
        exit
    }
}

impl Lockstep {
    fn slice(&mut self, hart: &mut VirtualHart, vm: &Vm<HostMemory>, budget: u64) -> Exit {
        if let Some(journal) = vm.memory().journal() {
            for (address, length) in journal.take() {
                copy(vm.memory(), &self.second, address, length);
            }
        }
        let signals = &vm.harts()[hart.index()];
        let mut shadow = self.shadow.take().unwrap_or_else(|| Hart::new(*hart.hart.config()));
        if signals.take_software_interrupt() {
            hart.hart.csr.mip |= 1 << 1;
        }
        take_over(&hart.hart, &mut shadow);
        if let Some(journal) = self.second.journal() {
            journal.take();
        }
        let start = hart.hart.retired;
        let exit = self.translator.run(hart, vm, budget);
        let world = Second { environment: vm.environment(signals), memory: &self.second };
        let done = hart.hart.retired.wrapping_sub(start);
        if done > STEPS {
            shadow.run(&world, done - STEPS);
        }
        for _ in 0..2 * SLICE {
            let is_behind = shadow.retired.wrapping_sub(start) < done;
            // A device or the SBI stops both at the same instruction.
            if !is_behind || matches!(shadow.step(&world), Exit::Device(_) | Exit::SbiCall) {
                break;
            }
        }
        for _ in 0..TRAPS {
            if differences(&hart.hart, &shadow).is_empty() || shadow.retired != hart.hart.retired {
                break;
            }
            shadow.step(&world);
        }
        self.slices += 1;
        self.instructions += done;
        let mut found = differences(&hart.hart, &shadow);
        self.compare_memory(vm.memory(), &mut found);
        if !found.is_empty() {
            log::error!("the translator and the interpreter differ after {} instructions: {found}", self.instructions);
            eprintln!("rvisor: translator and interpreter differ:\n{found}");
            vm.request_power(PowerRequest::Fail(1));
        }
        self.shadow = Some(shadow);
        exit
    }

    /// Compares what the interpreter has written, and now and then everything.
    fn compare_memory(&self, memory: &HostMemory, found: &mut String) {
        let range = memory.range();
        let all = self.slices.is_multiple_of(ALL_RAM).then(|| (range.start, range.end.0 - range.start.0));
        let writes = self.second.journal().map(Journal::take).unwrap_or_default();
        thread_local! {
            static BYTES: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
        }
        for (address, length) in writes.into_iter().chain(all) {
            let mut rest = length;
            let mut at = address;
            while rest != 0 {
                let part = rest.min(1 << 16);
                BYTES.with_borrow_mut(|(a, b)| {
                    a.resize(part as usize, 0);
                    b.resize(part as usize, 0);
                    let read = memory.read(at, a).is_ok() && self.second.read(at, b).is_ok();
                    if let Some(offset) = (0..a.len()).find(|&i| a[i] != b[i]).filter(|_| read) {
                        let _ = writeln!(found, "memory at {:#x}: {:#x} and {:#x}", at.0 + offset as u64, a[offset], b[offset]);
                    }
                });
                rest -= part;
                at = at.offset(part);
            }
        }
    }
}

/// Makes the shadow's state that of the hart.
fn take_over(hart: &Hart, shadow: &mut Hart) {
    (shadow.x, shadow.f, shadow.pc) = (hart.x, hart.f, hart.pc);
    (shadow.privilege, shadow.retired, shadow.reservation) = (hart.privilege, hart.retired, hart.reservation);
    shadow.csr = hart.csr.clone();
    shadow.fence_vma(None, None);
    shadow.fence_instructions();
}

/// How two harts differ, the translator's first; empty where they don't.
fn differences(hart: &Hart, shadow: &Hart) -> String {
    let mut text = String::new();
    let mut add = |name: &str, a: u64, b: u64| {
        if a != b {
            let _ = writeln!(text, "{name}: {a:#x} and {b:#x}");
        }
    };
    add("pc", hart.pc, shadow.pc);
    add("retired", hart.retired, shadow.retired);
    add("privilege", hart.privilege as u64, shadow.privilege as u64);
    for i in 0..32 {
        add(&format!("x{i}"), hart.x[i], shadow.x[i]);
        add(&format!("f{i}"), hart.f[i], shadow.f[i]);
    }
    if hart.csr != shadow.csr {
        let _ = writeln!(text, "CSRs: {:#x?} and {:#x?}", hart.csr, shadow.csr);
    }
    text
}

fn copy(from: &HostMemory, to: &HostMemory, start: GuestPhysical, length: u64) {
    let mut bytes = vec![0; length.min(1 << 20) as usize];
    let mut done = 0;
    while done < length {
        let part = (length - done).min(1 << 20) as usize;
        let at = start.offset(done);
        if from.read(at, &mut bytes[..part]).is_err() || to.write(at, &bytes[..part]).is_err() {
            return;
        }
        done += part as u64;
    }
}

/// The world of the shadow: the same, with the second RAM.
struct Second<'a> {
    environment: HartEnvironment<'a, HostMemory>,
    memory: &'a HostMemory,
}

impl Environment for Second<'_> {
    type Memory = HostMemory;

    fn memory(&self) -> &HostMemory {
        self.memory
    }

    fn ticks(&self) -> u64 {
        self.environment.ticks()
    }

    fn interrupt_lines(&self) -> u64 {
        self.environment.interrupt_lines()
    }

    fn take_software_interrupt(&self) -> bool {
        false
    }

    fn attention(&self) -> bool {
        false
    }
}
