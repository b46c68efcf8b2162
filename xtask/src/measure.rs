//! `cargo xtask measure`: the same kernel, initrd, disk and commands in Rvisor and in QEMU, by turns.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use rvisor_hosted::disk::{Format, create_overlay};
use rvisor_images::{Image, Store};

use crate::console::Console;

#[derive(Args)]
pub struct Measure {
    /// Rounds; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Number of harts
    #[arg(long, default_value_t = 1)]
    cpus: u32,
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
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        ours.push(one(rvisor(&image, directory.path(), options.cpus)?)?);
        theirs.push(one(qemu(&image, directory.path(), options.cpus)?)?);
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
    let mut column: Vec<f64> = figures.iter().map(|figures| figures[row]).collect();
    column.sort_by(f64::total_cmp);
    column[column.len() / 2]
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

fn command_line(image: &Image) -> String {
    // Debian's own initrd: the root device is named as its boot loader would.
    image.manifest.append.clone()
}

fn overlay(image: &Image, directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    let base = image.disk.as_ref().context("the image has no disk")?;
    create_overlay(&path, base, Some(Format::Raw))?;
    Ok(path)
}

fn initrd(image: &Image) -> anyhow::Result<&Path> {
    image.initrd.as_deref().context("the image has no initrd of its own")
}

fn rvisor(image: &Image, directory: &Path, cpus: u32) -> anyhow::Result<Command> {
    let program = std::env::current_exe()?.with_file_name("rvisor");
    if !program.exists() {
        bail!("build Rvisor first: cargo build --release");
    }
    let mut command = Command::new(program);
    command.args(["boot", "--memory", "1G", "--cpus", &cpus.to_string()]);
    command.arg("--kernel").arg(&image.kernel).arg("--initrd").arg(initrd(image)?);
    command.arg("--append").arg(command_line(image));
    command.arg("--disk").arg(overlay(image, directory, "rvisor.qcow2")?);
    Ok(command)
}

fn qemu(image: &Image, directory: &Path, cpus: u32) -> anyhow::Result<Command> {
    let disk = overlay(image, directory, "qemu.qcow2")?;
    let mut command = Command::new("qemu-system-riscv64");
    command.args(["-nographic", "-accel", "tcg,thread=multi", "-smp", &cpus.to_string()]);
    command.args(["-M", "virt,memory-backend=ram", "-m", "1G"]);
    command.args(["-object", "memory-backend-memfd,id=ram,size=1G,share=on"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(initrd(image)?);
    command.arg("-append").arg(command_line(image));
    command.arg("-drive").arg(format!("file={},format=qcow2,if=none,id=disk", disk.display()));
    command.args(["-device", "virtio-blk-device,drive=disk"]);
    command.args(["-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"]);
    Ok(command)
}
