//! The translator against the interpreter: random code in random states on two machines, compared after every
//! exit. One steps through single instructions, the other runs translated code.
//!
//! `RVISOR_INSTRUCTIONS` sets how many instructions are compared, `RVISOR_SEED` where the sequence starts.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod generate;
mod machine;
mod memory;
mod random;
mod report;
mod tables;
mod world;

use report::{Totals, explain};
use rvisor_translator::Optimize;
use world::World;

/// Runs in one world.
const EPISODES: u32 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Compares until `enough` says so.
fn compare(seed: u64, optimize: Optimize, enough: impl Fn(&Totals) -> bool) {
    let mut totals = Totals::default();
    let mut world_seed = seed;
    while !enough(&totals) {
        if std::env::var_os("RVISOR_VERBOSE").is_some() {
            eprintln!("world {world_seed}: {totals}");
        }
        let mut world = World::new(world_seed, optimize);
        for episode in 0..EPISODES {
            let Err(difference) = world.episode(None) else { continue };
            match explain(world_seed, optimize, episode, &difference) {
                Some(text) => panic!("world {world_seed}, episode {episode}: {text}\nbefore that {totals}"),
                // Not a difference that the architecture forbids.
                None => totals.excused += 1,
            }
            break;
        }
        totals.add(&world);
        world_seed += 1;
    }
    println!("worlds {seed}..{world_seed}: {totals}");
}

fn compare_with(optimize: Optimize) {
    let seed = number("RVISOR_SEED").unwrap_or(1);
    match number("RVISOR_INSTRUCTIONS") {
        Some(count) => compare(seed, optimize, |totals| totals.instructions >= count),
        None => compare(seed, optimize, |totals| totals.blocks >= 100_000),
    }
}

#[test]
fn first_tier_does_what_the_interpreter_does() {
    compare_with(Optimize::Never);
}

#[test]
fn second_tier_does_what_the_interpreter_does() {
    compare_with(Optimize::Always);
}
