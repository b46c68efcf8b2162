//! The engine `lockstep`: the translator runs a slice, then the interpreter the same instructions from the same
//! state on a RAM of its own; registers, CSRs and RAM must be the same afterwards.
//!
//! For that a slice must see nothing change but by its own doing. While one runs, its clock stands still, and
//! devices wait with what they write to RAM and with their interrupts; what they wrote in between is copied to
//! the interpreter's RAM before the next slice. An access to a device ends the slice, and only the machine
//! carries it out. One hart only: what several write to memory depends on who was first.

mod state;
mod turn;
mod twin;

use std::io;
use std::sync::{Arc, OnceLock};

use rvisor_hart::{Access, Environment, Exit, Hart};
use rvisor_isa::{decode, disassemble};
use rvisor_machine::{Engine, HartEnvironment, PowerRequest, VirtualHart, Vm};
use rvisor_translator::Translator;
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual};

use crate::HostMemory;
use state::State;
pub use turn::{Journal, SteppedClock};
use twin::Twin;

/// Most instructions of a slice; a block's more may be.
const SLICE: u64 = 1 << 15;
/// The interpreter stops where it jumps: before the last instructions of a page's length it is told to step.
const STEPS: u64 = 2048;
/// Slices between two comparisons of all RAM, which also find what the translator alone has written.
const ALL_RAM: u64 = 1 << 15;

/// The engine.
pub struct Lockstep<E = Translator> {
    translator: E,
    clock: Arc<SteppedClock>,
    twin: Twin,
    shadow: Hart,
    /// Where the last slice started.
    start: State,
    instructions: u64,
    slices: u64,
    /// Slices with differences that the architecture allows.
    excused: u64,
    found: Arc<OnceLock<String>>,
}

/// What the two engines left behind isn't the same.
struct Difference {
    /// What it is, the translator's first.
    text: String,
    place: Place,
}

/// What a difference comes to.
enum Verdict {
    /// The guest executes code that it wrote without a `fence.i` since: both engines are right.
    Excused,
    Wrong(String),
}

/// Where a difference is.
enum Place {
    /// A line of [`State::lines`].
    Line(usize),
    Memory(GuestPhysical),
}

impl<E: Engine<HostMemory>> Lockstep<E> {
    /// For the hart of a machine with `memory`, which keeps a journal. A difference becomes the text of `found`.
    pub fn new(
        translator: E,
        memory: &HostMemory,
        clock: &Arc<SteppedClock>,
        found: &Arc<OnceLock<String>>,
    ) -> io::Result<Self> {
        let shadow = Hart::new(rvisor_hart::Config::default());
        Ok(Self {
            translator,
            clock: Arc::clone(clock),
            twin: Twin::new(memory)?,
            start: State::of(&shadow),
            shadow,
            instructions: 0,
            slices: 0,
            excused: 0,
            found: Arc::clone(found),
        })
    }
}

impl<E> Drop for Lockstep<E> {
    fn drop(&mut self) {
        let Self { instructions, slices, excused, .. } = self;
        log::info!(
            "lockstep: {instructions} instructions in {slices} slices, {excused} of them with allowed differences"
        );
    }
}

impl<E: Engine<HostMemory>> Engine<HostMemory> for Lockstep<E> {
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<HostMemory>, budget: u64) -> Exit {
        let Some(journal) = vm.memory().journal() else { return Exit::Budget };
        let _turn = journal.slice();
        for (address, length) in journal.take() {
            self.twin.copy(vm.memory(), address, length);
        }
        self.clock.stop();
        if vm.harts()[hart.index()].take_software_interrupt() {
            /// Supervisor software interrupt, in `mip`.
            const SSIP: u64 = 1 << 1;
            hart.hart.csr.mip |= SSIP;
        }
        let (exit, difference) = self.slice(hart, vm, budget.min(SLICE));
        self.instructions += hart.hart.retired.wrapping_sub(self.start.retired);
        self.slices += 1;
        let exit = match difference.map(|difference| self.narrow_down(hart, vm, &difference)) {
            None => exit,
            Some(Verdict::Excused) => {
                self.excused += 1;
                Exit::Budget
            }
            Some(Verdict::Wrong(text)) => {
                let _ = self.found.set(text);
                vm.request_power(PowerRequest::PowerOff);
                Exit::Budget
            }
        };
        self.clock.go();
        // The engines' own writes.
        journal.take();
        exit
    }
}

impl<E: Engine<HostMemory>> Lockstep<E> {
    /// Runs a slice twice.
    fn slice(
        &mut self,
        hart: &mut VirtualHart,
        vm: &Vm<HostMemory>,
        budget: u64,
    ) -> (Exit, Option<Difference>) {
        self.start = State::of(&hart.hart);
        self.twin.start_slice();
        if self.shadow.config() != hart.hart.config() {
            self.shadow = Hart::new(*hart.hart.config());
        }
        self.start.put(&mut self.shadow);
        let exit = self.translator.run(hart, vm, budget);
        let (shadow, done) = (&mut self.shadow, State::of(&hart.hart));
        let world = World { environment: vm.environment(&vm.harts()[hart.index()]), memory: &self.twin };
        let followed = follow(shadow, &world, &done);
        let difference = State::of(shadow).difference(&done);
        if let Some((line, text)) = difference {
            return (exit, Some(Difference { text, place: Place::Line(line) }));
        }
        let followed =
            if matches!(exit, Exit::Device(_) | Exit::SbiCall) { shadow.step(&world) } else { followed };
        if exit != Exit::Budget && exit != followed {
            let text = format!("exit: {exit:x?} and {followed:x?}");
            return (exit, Some(Difference { text, place: Place::Line(0) }));
        }
        (exit, self.memory_difference(vm.memory()))
    }

    fn memory_difference(&self, memory: &HostMemory) -> Option<Difference> {
        let written = self.twin.difference(memory);
        let all = || {
            let is_time = self.slices % ALL_RAM == ALL_RAM - 1;
            // What the host can't tell, the next time may.
            is_time.then(|| self.twin.difference_anywhere(memory).ok().flatten()).flatten()
        };
        let address = written.or_else(all)?;
        let byte = |byte: Result<u8, _>| byte.unwrap_or_default();
        let (ours, others) = (byte(memory.load::<u8>(address)), byte(self.twin.load::<u8>(address)));
        let text = format!("memory at {:#x}: {ours:#x} and {others:#x}", address.0);
        Some(Difference { text, place: Place::Memory(address) })
    }

    /// Runs the slice again, superblock by superblock, and judges what is known then.
    fn narrow_down(
        &mut self,
        hart: &mut VirtualHart,
        vm: &Vm<HostMemory>,
        difference: &Difference,
    ) -> Verdict {
        let (start, end) = (self.start.clone(), hart.hart.retired);
        let length = end.wrapping_sub(start.retired);
        let before = self.instructions - length;
        let in_slice = describe(hart, length, &start, before, difference);
        // One engine may have looked at such code before it was written, the other after.
        let wrote_code = vm.memory().code_pages().is_some_and(|pages| {
            self.twin.pages().into_iter().any(|page| pages.is_clean(page) || pages.is_written(page))
        });
        if let Err(error) = self.go_back(hart, vm, &start) {
            return Verdict::Wrong(format!("{in_slice} (and the host refuses to look closer: {error})"));
        }
        for _ in 0..2 * SLICE {
            if end.wrapping_sub(hart.hart.retired) as i64 <= 0 {
                break;
            }
            let (exit, difference) = self.slice(hart, vm, 1);
            if let Some(difference) = difference {
                let before = before + self.start.retired.wrapping_sub(start.retired);
                return self.pinpoint(hart, vm, before, &difference);
            }
            if exit != Exit::Budget {
                break;
            }
        }
        if wrote_code {
            return Verdict::Excused;
        }
        Verdict::Wrong(format!("{in_slice} (not again when run in small pieces, with empty TLBs)"))
    }

    fn go_back(&mut self, hart: &mut VirtualHart, vm: &Vm<HostMemory>, start: &State) -> io::Result<()> {
        self.twin.undo(vm.memory())?;
        start.put(&mut hart.hart);
        Ok(())
    }

    /// Interprets the superblock of a difference once more, to find the instruction that is responsible. Leaves
    /// the machine where the interpreter does.
    fn pinpoint(
        &mut self,
        hart: &mut VirtualHart,
        vm: &Vm<HostMemory>,
        before: u64,
        difference: &Difference,
    ) -> Verdict {
        let (start, end) = (self.start.clone(), hart.hart.retired);
        let text = describe(hart, end.wrapping_sub(start.retired), &start, before, difference);
        if let Err(error) = self.go_back(hart, vm, &start) {
            return Verdict::Wrong(format!("{text} (and the host refuses to look closer: {error})"));
        }
        start.put(&mut self.shadow);
        let world = World { environment: vm.environment(&vm.harts()[hart.index()]), memory: &self.twin };
        let shadow = &mut self.shadow;
        let look = |shadow: &Hart| match difference.place {
            Place::Line(line) => State::of(shadow).lines().into_iter().nth(line).unwrap_or_default(),
            Place::Memory(address) => format!("{:?}", self.twin.load::<u8>(address)),
        };
        let (mut changed, mut is_stale) = (None, false);
        for _ in 0..STEPS {
            if end.wrapping_sub(shadow.retired) as i64 <= 0 {
                break;
            }
            let (before, pc) = (look(shadow), shadow.pc);
            is_stale |= is_written(shadow, &world, vm.memory(), pc);
            let instruction = instruction_at(shadow, &world, pc);
            log::info!("lockstep: {pc:#x} {instruction}");
            if shadow.step(&world) != Exit::Budget {
                break;
            }
            if look(shadow) != before {
                changed = Some((pc, instruction));
            }
        }
        State::of(shadow).put(&mut hart.hart);
        self.twin.copy_slice_to(vm.memory());
        match changed {
            _ if is_stale => Verdict::Excused,
            Some((pc, instruction)) => {
                Verdict::Wrong(format!("{text}; the interpreter changed it last at {pc:#x}, {instruction}"))
            }
            None => Verdict::Wrong(text),
        }
    }
}

/// A difference in the `length` instructions from `start` on, with `before` instructions before them.
fn describe(hart: &VirtualHart, length: u64, start: &State, before: u64, difference: &Difference) -> String {
    format!(
        "translator and interpreter differ on hart {} after {before} instructions, in the {length} from {:#x} on: {}",
        hart.index(),
        start.pc,
        difference.text,
    )
}

/// Lets the interpreter go where the translator has gone; how it last left.
fn follow(shadow: &mut Hart, world: &World<'_>, done: &State) -> Exit {
    let left = |shadow: &Hart| done.retired.wrapping_sub(shadow.retired);
    let mut exit = Exit::Budget;
    if left(shadow) > STEPS {
        exit = shadow.run(world, left(shadow) - STEPS);
    }
    for _ in 0..2 * SLICE {
        if matches!(exit, Exit::Device(_) | Exit::SbiCall) || left(shadow) as i64 <= 0 {
            break;
        }
        exit = shadow.step(world);
    }
    // Traps retire nothing.
    let first = State::of(shadow);
    let mut state = first.clone();
    for _ in 0..2 * SLICE {
        if state == *done {
            return exit;
        }
        shadow.step(world);
        state = State::of(shadow);
        if left(shadow) != 0 {
            break;
        }
    }
    first.put(shadow);
    exit
}

/// Whether the guest wrote to the page of an instruction, of which there is translated code, and executed no
/// `fence.i` since. `memory` is the translator's.
fn is_written(hart: &mut Hart, world: &World<'_>, memory: &HostMemory, pc: u64) -> bool {
    [pc, pc.wrapping_add(2)].into_iter().any(|address| {
        let translation = hart.translate(world, GuestVirtual(address), Access::Execute, 2);
        let page = translation.map(|translation| translation.physical);
        page.is_ok_and(|page| memory.code_pages().is_some_and(|pages| pages.is_written(page)))
    })
}

/// The instruction at a virtual address, in words.
fn instruction_at(hart: &mut Hart, world: &World<'_>, pc: u64) -> String {
    match hart.fetch(world, pc).map(|bits| (bits, decode(bits))) {
        Ok((_, Some(instruction))) => disassemble(&instruction, pc).to_string(),
        Ok((bits, None)) => format!("{bits:#x}"),
        Err(_) => "what can't be fetched".into(),
    }
}

/// The interpreter's world: the machine's, with a RAM of its own.
struct World<'a> {
    environment: HartEnvironment<'a, HostMemory>,
    memory: &'a Twin,
}

impl Environment for World<'_> {
    type Memory = Twin;

    fn memory(&self) -> &Twin {
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

#[cfg(test)]
mod tests;
