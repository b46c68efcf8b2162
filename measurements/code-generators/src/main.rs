//! Measures code generators side by side for the translator: see README.md.

use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};
use rvisor_isa::Instruction;

use crate::assembler::Assembler;
use crate::cranelift::Cranelift;
use crate::dynasm::Dynasm;
use crate::emit::Emit;
use crate::guest::Piece;
use crate::iced::{Assembling, Encoding, Iced};
use crate::lower::{Thunks, lower};
use crate::state::{Code, Guest, Outcome};

#[path = "../../../crates/translator/src/backend/x64/assembler.rs"]
#[allow(dead_code)]
#[rustfmt::skip]
mod assembler;
mod cranelift;
// The macro converts what has the type already.
#[allow(clippy::useless_conversion)]
mod dynasm;
mod emit;
mod guest;
mod iced;
mod lower;
mod own;
mod state;

/// Where generated code stands in [`Code`], behind the way in and the way out.
const OFFSET: usize = 4096;
/// Instructions that a run may execute; more than any does.
const BUDGET: i64 = i32::MAX as i64;

/// Makes host code of guest code.
trait Generator {
    fn name(&self) -> &'static str;
    fn generate(&mut self, base: u64, thunks: Thunks, block: &[Instruction]) -> &[u8];
    /// Whether the code is a function, instead of what the lowering's way in leads to.
    fn makes_functions(&self) -> bool;
}

/// The lowering over an assembler.
struct Lowered<E>(&'static str, E);

impl<E: Emit> Generator for Lowered<E> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn generate(&mut self, base: u64, thunks: Thunks, block: &[Instruction]) -> &[u8] {
        lower(&mut self.1, base, thunks, block)
    }

    fn makes_functions(&self) -> bool {
        false
    }
}

struct Compiled(&'static str, Cranelift);

impl Generator for Compiled {
    fn name(&self) -> &'static str {
        self.0
    }

    fn generate(&mut self, _base: u64, _thunks: Thunks, block: &[Instruction]) -> &[u8] {
        self.1.compile(block)
    }

    fn makes_functions(&self) -> bool {
        true
    }
}

fn generators() -> Vec<Box<dyn Generator>> {
    vec![
        Box::new(Lowered("own emitter", Assembler::new())),
        Box::new(Lowered("dynasm-rs", Dynasm::new())),
        Box::new(Lowered("iced-x86 encoder", Iced(Encoding::new()))),
        Box::new(Lowered("iced-x86 code assembler", Iced(Assembling::new()))),
        Box::new(Compiled("Cranelift none, single_pass", Cranelift::new("none", "single_pass"))),
        Box::new(Compiled("Cranelift none", Cranelift::new("none", "backtracking"))),
        Box::new(Compiled("Cranelift speed", Cranelift::new("speed", "backtracking"))),
    ]
}

/// One generator's code of one piece, ready to run.
struct Ready {
    code: Code,
    enter: u64,
    is_function: bool,
    bytes: usize,
}

impl Ready {
    fn new(generator: &mut dyn Generator, piece: &Piece) -> Self {
        let mut code = Code::new();
        let (enter, thunks) = state::enter(&mut code);
        let is_function = generator.makes_functions();
        let bytes = generator.generate(code.address(OFFSET), thunks, &piece.code);
        code.write(OFFSET, bytes);
        Self { code, enter, is_function, bytes: bytes.len() }
    }

    fn run(&self, guest: &mut Guest) {
        let at = self.code.address(OFFSET);
        match self.is_function {
            true => guest.run_function(&self.code, at),
            false => guest.run_lowered(&self.code, self.enter, at),
        }
    }

    fn outcome(&self, guest: &mut Guest, piece: &Piece) -> Outcome {
        guest.reset(&piece.registers, BUDGET);
        self.run(guest);
        guest.outcome()
    }
}

/// Each generator's code, after it has been seen that all leave the same behind.
fn checked(generators: &mut [Box<dyn Generator>], guest: &mut Guest, piece: &Piece) -> Vec<Ready> {
    let ready: Vec<_> = generators.iter_mut().map(|generator| Ready::new(&mut **generator, piece)).collect();
    let expected = ready[0].outcome(guest, piece);
    let end = 4 * piece.code.len() as u64;
    assert!(expected.is_at(end, BUDGET - piece.executed as i64), "{}: {expected:?}", piece.name);
    for (generator, ready) in generators.iter().zip(&ready) {
        assert_eq!(ready.outcome(guest, piece), expected, "{}: {}", piece.name, generator.name());
    }
    ready
}

/// Nanoseconds of processor time that this thread has had: other processes don't count.
fn now() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds for each run of each of `count` contenders in turn, `repeat` runs at a time: the median of
/// `rounds`.
fn alternate(count: usize, rounds: usize, repeat: u32, mut run: impl FnMut(usize)) -> Vec<f64> {
    let mut times = vec![Vec::new(); count];
    for _ in 0..rounds {
        for (contender, times) in times.iter_mut().enumerate() {
            let start = now();
            (0..repeat).for_each(|_| run(contender));
            times.push((now() - start) / f64::from(repeat));
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

fn generation_times(generators: &mut [Box<dyn Generator>], piece: &Piece) -> Vec<f64> {
    let mut code = Code::new();
    let (_, thunks) = state::enter(&mut code);
    let base = code.address(OFFSET);
    let times = alternate(generators.len(), 201, 20, |contender| {
        black_box(generators[contender].generate(base, thunks, black_box(&piece.code)));
    });
    times.into_iter().map(|time| time / piece.code.len() as f64).collect()
}

fn compare_generation(generators: &mut [Box<dyn Generator>], guest: &mut Guest) {
    let piece = guest::superblock();
    let ready = checked(generators, guest, &piece);
    let times = generation_times(generators, &piece);
    println!("{} of {} instructions, each a guest instruction:", piece.name, piece.code.len());
    println!("| generator | ns to generate | of own | bytes of code |");
    println!("|---|---|---|---|");
    for ((generator, ready), time) in generators.iter().zip(&ready).zip(&times) {
        let bytes = ready.bytes as f64 / piece.code.len() as f64;
        println!("| {} | {time:.0} | {:.1} | {bytes:.1} |", generator.name(), time / times[0]);
    }
}

fn compare_loops(generators: &mut [Box<dyn Generator>], guest: &mut Guest) {
    for piece in guest::loops() {
        let ready = checked(generators, guest, &piece);
        let generation = generation_times(generators, &piece);
        let times = alternate(ready.len(), 51, 1, |contender| {
            guest.reset(&piece.registers, BUDGET);
            ready[contender].run(guest);
        });
        println!("\nloop ({}), each a guest instruction:", piece.name);
        println!("| generator | ns to run | ns to generate | bytes of code |");
        println!("|---|---|---|---|");
        for (number, generator) in generators.iter().enumerate() {
            let time = times[number] / piece.executed as f64;
            let bytes = ready[number].bytes as f64 / piece.code.len() as f64;
            println!("| {} | {time:.3} | {:.0} | {bytes:.1} |", generator.name(), generation[number]);
        }
    }
}

fn main() {
    let mut generators = generators();
    let mut guest = Guest::new();
    compare_generation(&mut generators, &mut guest);
    compare_loops(&mut generators, &mut guest);
}
