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
mod second_stage;
mod tables;
mod world;

use report::{Totals, explain};
use rvisor_translator::Optimize;
use world::{Setup, World};

/// Runs in one world.
const EPISODES: u32 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Compares until `enough` says so.
fn compare(seed: u64, setup: Setup, enough: impl Fn(&Totals) -> bool) {
    let mut totals = Totals::default();
    let mut world_seed = seed;
    while !enough(&totals) {
        if std::env::var_os("RVISOR_VERBOSE").is_some() {
            eprintln!("world {world_seed}: {totals}");
        }
        let mut world = World::new(world_seed, setup);
        for episode in 0..EPISODES {
            let Err(difference) = world.episode(None) else { continue };
            match explain(world_seed, setup, episode, &difference) {
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

/// `blocks` is how many are enough where `RVISOR_INSTRUCTIONS` isn't set.
fn compare_with(setup: Setup, blocks: u64) {
    let seed = number("RVISOR_SEED").unwrap_or(1);
    match number("RVISOR_INSTRUCTIONS") {
        Some(count) => compare(seed, setup, |totals| totals.instructions >= count),
        None => compare(seed, setup, |totals| totals.blocks >= blocks),
    }
}

#[test]
fn first_tier_does_what_the_interpreter_does() {
    compare_with(Setup { optimize: Optimize::Never, hypervisor: false }, 100_000);
}

#[test]
fn second_tier_does_what_the_interpreter_does() {
    compare_with(Setup { optimize: Optimize::Always, hypervisor: false }, 100_000);
}

#[test]
fn first_tier_does_what_the_interpreter_does_in_and_around_virtual_machines() {
    compare_with(Setup { optimize: Optimize::Never, hypervisor: true }, 50_000);
}

#[test]
fn second_tier_does_what_the_interpreter_does_in_and_around_virtual_machines() {
    compare_with(Setup { optimize: Optimize::Always, hypervisor: true }, 50_000);
}
