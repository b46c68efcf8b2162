//! Rvisor's own chores, run as `cargo xtask …`.
#![forbid(unsafe_code)]

mod console;
mod measure;

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
    /// Boot the image `debian` in Rvisor and in QEMU by turns, and print times and memory as a table
    Measure(measure::Measure),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().chore {
        Chore::Measure(options) => measure::measure(&options),
    }
}
