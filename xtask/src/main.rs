//! Rvisor's own chores, run as `cargo xtask …`.
#![forbid(unsafe_code)]

mod bench;
mod console;
mod instructions;
mod machines;
mod measure;
mod metal;
mod statistics;

use clap::{Parser, Subcommand};

/// Rvisor's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run jobs in Rvisor, in QEMU and on this computer by turns, and print how long they take
    Bench(bench::Bench),
    /// Count the instructions of the same work with and without the type-1 home, and print them as a table
    Instructions(instructions::Instructions),
    /// Boot the image `debian` in Rvisor and in QEMU by turns, and print times and memory as a table
    Measure(measure::Measure),
    /// Build the image of the type-1 home and say where it is
    Metal(metal::Metal),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().chore {
        Chore::Bench(options) => bench::bench(&options),
        Chore::Instructions(options) => instructions::instructions(&options),
        Chore::Measure(options) => measure::measure(&options),
        Chore::Metal(options) => metal::metal(&options),
    }
}
