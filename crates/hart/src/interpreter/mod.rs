//! The interpreter: what each instruction means, and the loop that runs them.
//!
//! Guest code is prepared page by page ([`code`]) into small operations ([`op`]) that the hot loop
//! ([`execute`]) works through. A page belongs to a guest physical address, so that address spaces share it;
//! jumps inside a page need no translation, those out of it one probe of the TLB. `fence.i` is cheap and
//! exact. Atomics are in [`atomic`], everything privileged in [`system`].
//!
//! Source: Unprivileged ISA for the instructions, Privileged ISA, "Machine-Level ISA" for what traps record.

mod atomic;
mod code;
mod execute;
mod fetch;
mod float;
mod hypervisor;
mod integer;
mod memory;
mod op;
mod registers;
mod stop;
mod system;
#[cfg(test)]
mod tests;
mod transform;

use alloc::boxed::Box;

use rvisor_isa::{Instruction, Op};

use crate::exit::{Environment, Exit};
use crate::state::Hart;
use crate::trap::Trap;
use code::{CodeCache, CodePage};
use execute::Extent;
use registers::Registers;
use stop::Stop;
use system::Outcome;

/// Instructions between two looks at the environment: some microseconds.
const SLICE: u64 = 2048;

/// What the interpreter keeps from one run to the next: nothing that the guest could tell from its absence.
pub(crate) struct Interpreter {
    registers: Registers,
    code: CodeCache,
    /// The one instruction that is executed without the cache.
    single: CodePage,
    /// Traps taken.
    traps: u64,
}

impl Interpreter {
    fn new() -> Self {
        Self { registers: Registers::new(), code: CodeCache::new(), single: CodePage::new_single(), traps: 0 }
    }

    /// Executes instructions until `slice` of them are retired. Interrupts are taken as soon as they are let
    /// through, but time passes between slices only.
    fn run_slice<E: Environment>(&mut self, hart: &mut Hart, env: &E, slice: u64) -> Option<Exit> {
        let start = self.progress(hart);
        loop {
            let done = self.progress(hart).wrapping_sub(start);
            let left = slice.checked_sub(done).filter(|&left| left != 0)?;
            hart.take_interrupt(env);
            let stop = self.execute(hart, env, Extent::Instructions(left));
            self.traps += u64::from(!matches!(stop, Stop::Pause));
            let exit = hart.resolve(env, stop);
            if exit.is_some() {
                return exit;
            }
            if env.attention() {
                return Some(Exit::Budget);
            }
        }
    }

    /// Counts what budgets are made of: instructions, and traps, because one that leads to the next for ever
    /// must not keep the hart here.
    fn progress(&self, hart: &Hart) -> u64 {
        hart.retired.wrapping_add(self.traps)
    }
}

impl Hart {
    /// Executes instructions until `budget` of them are retired or have trapped (some more may be), the
    /// environment asks for attention, or one can't be finished here.
    pub fn run<E: Environment>(&mut self, env: &E, budget: u64) -> Exit {
        self.interpret(|hart, interpreter| {
            let start = interpreter.progress(hart);
            loop {
                hart.look_at_timer(env);
                let left = budget.saturating_sub(interpreter.progress(hart).wrapping_sub(start));
                if left == 0 {
                    return Exit::Budget;
                }
                if let Some(exit) = interpreter.run_slice(hart, env, left.min(SLICE)) {
                    return exit;
                }
            }
        })
    }

    /// Takes a pending interrupt, or executes one instruction, from memory as it is now: no `fence.i` is
    /// needed before. The trap of an instruction is taken.
    pub fn step<E: Environment>(&mut self, env: &E) -> Exit {
        self.interpret(|hart, interpreter| {
            hart.look_at_timer(env);
            if hart.take_interrupt(env) {
                return Exit::Budget;
            }
            let stop = interpreter.execute(hart, env, Extent::Single);
            hart.resolve(env, stop).unwrap_or(Exit::Budget)
        })
    }

    /// Executes one instruction as [`step`](Self::step) does, and takes no interrupt: for whoever steps through a
    /// program and doesn't want to end up in a handler each time.
    pub fn step_uninterrupted<E: Environment>(&mut self, env: &E) -> Exit {
        self.interpret(|hart, interpreter| {
            let stop = interpreter.execute(hart, env, Extent::Single);
            hart.resolve(env, stop).unwrap_or(Exit::Budget)
        })
    }

    /// `fence.i`: fetches see all stores that this hart has seen.
    pub fn fence_instructions(&mut self) {
        self.code_epoch += 1;
    }

    /// How often `fence.i` was executed.
    #[must_use]
    pub fn code_epoch(&self) -> u64 {
        self.code_epoch
    }

    /// Takes the interrupt that is pending and enabled now, if there is one.
    pub fn take_pending_interrupt<E: Environment>(&mut self, env: &E) -> bool {
        self.look_at_timer(env);
        self.take_interrupt(env)
    }

    /// The same, by the last look at the timer: for after an instruction that may have let an interrupt
    /// through.
    pub fn take_interrupt_as_seen<E: Environment>(&mut self, env: &E) -> bool {
        self.take_interrupt(env)
    }

    /// Executes a system instruction (CSR access, trap, return, fence, wait, cache block) that was fetched by
    /// the caller from where the program counter stands; `bits` is its encoding. The trap it may raise is
    /// taken.
    pub fn execute_system<E: Environment>(
        &mut self,
        env: &E,
        instruction: &Instruction,
        bits: u32,
    ) -> Option<Exit> {
        let mut interpreter = self.interpreter.take().unwrap_or_else(|| Box::new(Interpreter::new()));
        let x = &mut interpreter.registers;
        for register in [instruction.rs1, instruction.rs2, instruction.rd] {
            x.write(register, self.x[usize::from(register)]);
        }
        if matches!(instruction.op, Op::CboInval | Op::CboClean | Op::CboFlush | Op::CboZero) {
            // Whoever executed what came before may have left the context out of date.
            self.tlb.context_changed();
            self.refresh_context();
        }
        let outcome = system::execute(self, env, x, instruction);
        if instruction.rd != 0 {
            self.x[usize::from(instruction.rd)] = x[instruction.rd];
        }
        let stop = match outcome {
            Ok(Outcome::Stay(exit)) => Stop::Exit(exit),
            Ok(outcome) => {
                self.retired = self.retired.wrapping_add(1);
                if !matches!(outcome, Outcome::Jumped) {
                    self.pc = self.pc.wrapping_add(u64::from(instruction.length));
                }
                if let Outcome::Leave(exit) = outcome { Stop::Exit(exit) } else { Stop::Pause }
            }
            Err(fault) => stop::stop_of(self, x, bits, fault),
        };
        self.interpreter = Some(interpreter);
        self.resolve(env, stop)
    }

    fn interpret(&mut self, work: impl FnOnce(&mut Self, &mut Interpreter) -> Exit) -> Exit {
        let mut interpreter = self.interpreter.take().unwrap_or_else(|| Box::new(Interpreter::new()));
        interpreter.registers.load(&self.x);
        let exit = work(self, &mut interpreter);
        interpreter.registers.save(&mut self.x);
        self.interpreter = Some(interpreter);
        exit
    }

    fn take_interrupt<E: Environment>(&mut self, env: &E) -> bool {
        let pending = self.pending_interrupt_as_seen(env);
        if let Some(interrupt) = pending {
            self.take_trap(Trap::interrupt(interrupt));
        }
        pending.is_some()
    }

    fn resolve<E: Environment>(&mut self, env: &E, stop: Stop) -> Option<Exit> {
        match stop {
            Stop::Pause => None,
            Stop::Trap(trap) => {
                self.take_trap(trap);
                None
            }
            Stop::Illegal(bits) => {
                let exception = self.refusal(env, bits);
                self.take_trap(Trap::exception(exception, bits.into()));
                None
            }
            Stop::Exit(exit) => Some(exit),
        }
    }
}
