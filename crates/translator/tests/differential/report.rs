//! What was compared, and what a difference looks like.

use std::fmt::{self, Display, Formatter, Write};

use rvisor_isa::{Op, decode, disassemble};

use crate::world::{Difference, Replay, Setup, World};

/// Counts over all worlds.
#[derive(Default)]
pub struct Totals {
    pub blocks: u64,
    /// That the translator retired.
    pub instructions: u64,
    steps: u64,
    exits: u64,
    virtual_steps: u64,
    crossings: u64,
    guest_traps: u64,
    /// Episodes with several allowed outcomes, which ended their world.
    pub excused: u64,
    operations: Vec<u64>,
}

impl Totals {
    pub fn add(&mut self, world: &World) {
        self.blocks += world.block_count;
        self.instructions += world.instructions;
        self.steps += world.steps;
        self.exits += world.exits;
        self.virtual_steps += world.virtual_steps;
        self.crossings += world.crossings;
        self.guest_traps += world.guest_traps;
        self.operations.resize(world.operations.len(), 0);
        self.operations.iter_mut().zip(&world.operations).for_each(|(sum, count)| *sum += count);
    }
}

impl Display for Totals {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let covered = self.operations.iter().filter(|&&count| count != 0).count();
        write!(
            f,
            "{} blocks, {} instructions, {} steps with traps, {} exits; {covered} of {} operations; {} excused",
            self.blocks,
            self.instructions,
            self.steps,
            self.exits,
            Op::ALL.len(),
            self.excused
        )?;
        if self.virtual_steps != 0 {
            let Self { virtual_steps, crossings, guest_traps, .. } = self;
            write!(
                f,
                "; {virtual_steps} steps in virtual machines, {crossings} ways in and out, \
                 {guest_traps} guest-page faults and virtual instructions"
            )?;
        }
        Ok(())
    }
}

/// Goes through a world again up to an episode that differed, with instructions left out.
fn again(seed: u64, setup: Setup, episode: u32, left_out: &[bool]) -> Option<(Difference, Replay)> {
    let mut world = World::new(seed, setup);
    for _ in 0..episode {
        world.episode(None).ok()?;
    }
    let mut replay = Replay { left_out: left_out.to_vec(), ..Replay::default() };
    world.episode(Some(&mut replay)).err().map(|difference| (difference, replay))
}

/// The story of a difference, with as few instructions as possible; `None` where several outcomes were
/// allowed.
pub fn explain(seed: u64, setup: Setup, episode: u32, found: &Difference) -> Option<String> {
    if found.is_excused {
        return None;
    }
    let Some((difference, replay)) = again(seed, setup, episode, &[]) else {
        return Some(format!("a difference that doesn't happen again:\n{}", found.text));
    };
    if difference.is_excused {
        return None;
    }
    let mut left_out = vec![false; replay.block.len()];
    let (mut difference, mut replay) = (difference, replay);
    for at in (0..left_out.len()).rev() {
        left_out[at] = true;
        match again(seed, setup, episode, &left_out) {
            Some((other, its)) if !other.is_excused => (difference, replay) = (other, its),
            _ => left_out[at] = false,
        }
    }
    Some(describe(&difference, &replay))
}

fn describe(difference: &Difference, replay: &Replay) -> String {
    let mut text = format!("\n{}\nstart: {}\nblock:\n", difference.text, replay.start);
    for &bits in replay.block.iter().filter(|&&bits| bits != 0x13 && bits != 1) {
        let _ = match decode(bits) {
            Some(i) => writeln!(text, "  {bits:08x} {}", disassemble(&i, 0)),
            None => writeln!(text, "  {bits:08x} illegal"),
        };
    }
    let _ = writeln!(text, "steps of the interpreter:");
    let length = replay.trace.len();
    let is_shown = |&(at, _): &(usize, &String)| at < 40 || at + 40 >= length;
    replay.trace.iter().enumerate().filter(is_shown).for_each(|(_, line)| {
        let _ = writeln!(text, "  {line}");
    });
    text
}
