//! `cargo xtask measure`: the same kernel, initrd, disk and commands in Rvisor and in QEMU, by turns.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use rvisor_images::Store;

use crate::console::Console;
use crate::machines::{self, Shape};
use crate::statistics;

#[derive(Args)]
pub struct Measure {
    /// Rounds; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Number of harts
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Rvisor's engine, if not the default
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
}

const PROMPT_PATIENCE: Duration = Duration::from_secs(900);
const JOB_PATIENCE: Duration = Duration::from_secs(300);

/// Jobs for the guest's shell.
const JOBS: [(&str, &str); 3] = [
    ("sha256sum of 32 MiB, s", "head -c 32M /dev/zero | sha256sum"),
    ("shell loop of 50,000, s", "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"),
    ("100 x fork and exec of /bin/true, s", "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done"),
];

/// What one machine showed in one round, in the order of the table's rows.
type Figures = Vec<f64>;

/// Runs the measurement and prints its table.
pub fn measure(options: &Measure) -> anyhow::Result<()> {
    let store = Store::open_default()?;
    let image = store.get("debian").context("pull it first: cargo run --release -- pull debian")?;
    let directory = tempfile::tempdir()?;
    let shape = Shape { cpus: options.cpus, network: true, second_disk: None };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        let mut rvisor = machines::rvisor(&image, directory.path(), &shape)?;
        rvisor.args(options.engine.iter().flat_map(|engine| ["--engine", engine]));
        ours.push(one(rvisor)?);
        theirs.push(one(machines::qemu(&image, directory.path(), &shape, "rv64")?)?);
    }
    let rows = ["start to login prompt, s"]
        .into_iter()
        .chain(JOBS.map(|(name, _)| name))
        .chain(["peak memory beside the guest's, MiB"]);
    println!("| {} harts, median of {} | Rvisor | QEMU | QEMU / Rvisor |", options.cpus, options.rounds);
    println!("|---|---|---|---|");
    for (row, name) in rows.enumerate() {
        let (ours, theirs) = (median(&ours, row), median(&theirs, row));
        println!("| {name} | {ours:.2} | {theirs:.2} | {:.2} |", theirs / ours);
    }
    Ok(())
}

fn median(figures: &[Figures], row: usize) -> f64 {
    let column: Vec<f64> = figures.iter().map(|figures| figures[row]).collect();
    statistics::median(&column).unwrap_or(f64::NAN)
}

/// Boots to the login prompt, runs the jobs, and ends the machine.
fn one(command: Command) -> anyhow::Result<Figures> {
    let start = Instant::now();
    let mut console = Console::start(command)?;
    console.expect("login:", PROMPT_PATIENCE)?;
    let mut figures = vec![start.elapsed().as_secs_f64()];
    // The local user is logged in without typing anything.
    console.expect("# ", PROMPT_PATIENCE)?;
    for (_, job) in JOBS {
        let start = Instant::now();
        // The arithmetic keeps the terminal's echo from being taken for the answer.
        console.send(&format!("{job}; echo done-$((41 + 1))\n"))?;
        console.expect("done-42", JOB_PATIENCE)?;
        figures.push(start.elapsed().as_secs_f64());
    }
    figures.push(console.overhead() as f64 / f64::from(1 << 20));
    console.send("poweroff\n")?;
    Ok(figures)
}
