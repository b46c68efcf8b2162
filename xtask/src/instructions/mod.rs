//! `cargo xtask instructions`: what the type-1 home costs, exactly: instructions that a machine's harts retire for
//! the same work alone and as a guest of the monitor.
//!
//! Each operation of the guest `costs` is run with two counts; the difference of the machine's totals, divided by
//! that of the counts, is what one operation costs, whoever executed it. The boot is counted as a whole, the
//! monitor's own start included.

mod machine;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use rvisor_images::Store;

use crate::machines::rvisor_program;
use crate::metal;
use machine::{Count, Load};
use report::Report;

/// Count instructions with and without the monitor
#[derive(Args)]
pub struct Instructions {
    /// The machine that counts
    #[arg(long, value_enum, default_value_t = Machine::Rvisor)]
    machine: Machine,
    /// Give the machine the H extension
    #[arg(long)]
    hypervisor: bool,
    /// Words for the monitor's command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    monitor: String,
    /// Leave the boot of Debian's kernel out
    #[arg(long)]
    no_boot: bool,
}

/// What counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Machine {
    /// The hosted home
    Rvisor,
    /// QEMU, with a plugin that counts
    Qemu,
}

/// An operation of the guest `costs`.
struct Operation {
    /// Its word on the guest's command line.
    name: &'static str,
    /// What its row is called.
    title: &'static str,
    /// How often it is done in the two runs. The more often, the less it counts that starts differ: on a busy host
    /// by tens of thousands of instructions, since firmware and monitor wait for devices.
    counts: [u64; 2],
    bound: Option<Bound>,
}

/// How many times as many instructions the same work may take as a guest.
#[derive(Clone, Copy)]
struct Bound {
    without_hypervisor: f64,
    with_hypervisor: f64,
}

const OPERATIONS: [Operation; 8] = [
    Operation {
        name: "compute",
        title: "1000 × 9 instructions of computing",
        counts: [10_000, 1_010_000],
        bound: Some(Bound { without_hypervisor: 1.03, with_hypervisor: 1.01 }),
    },
    Operation {
        name: "null",
        title: "null system call",
        counts: [500, 20_500],
        bound: Some(Bound { without_hypervisor: 6.0, with_hypervisor: 1.1 }),
    },
    Operation { name: "fault", title: "page fault that the kernel serves", counts: [512, 2560], bound: None },
    Operation {
        name: "touch",
        title: "page mapped by the kernel, and touched",
        counts: [512, 2560],
        bound: None,
    },
    Operation { name: "switch", title: "two context switches", counts: [500, 20_500], bound: None },
    Operation { name: "timer", title: "timer interrupt", counts: [500, 2500], bound: None },
    Operation { name: "status", title: "interrupts off and on again", counts: [500, 20_500], bound: None },
    Operation { name: "sbi", title: "call of the firmware", counts: [500, 20_500], bound: None },
];

/// Of the boot of Debian's kernel.
const BOOT: Bound = Bound { without_hypervisor: 4.0, with_hypervisor: 1.3 };

/// Does the work and prints the table.
pub fn instructions(options: &Instructions) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let monitor = directory.path().join("monitor");
    metal::build(&monitor)?;
    let costs = build_costs()?;
    let counter = Count::new(options.machine, options.hypervisor, directory.path())?;
    let mut report = Report::new(options);
    for Operation { name, title, counts, bound } in OPERATIONS {
        let scale = if name == "compute" { 1000.0 } else { 1.0 };
        let mut figures = [Report::NOTHING; 2];
        for (figure, count) in figures.iter_mut().zip(counts) {
            let append = format!("costs={name},{count}");
            let alone = Load { kernel: &costs, initrd: None, append: &append };
            figure.alone = counter.run(&alone)?.instructions;
            let description = guest("kernel", &costs, None, &append);
            let bundle = bundle(directory.path(), &description)?;
            let load = Load { kernel: &monitor, initrd: Some(&bundle), append: &options.monitor };
            let ran = counter.run(&load)?;
            figure.add_monitored(&ran)?;
        }
        let [less, more] = figures;
        report.operation(title, &less, &more, (counts[1] - counts[0]) as f64 / scale, bound);
    }
    if !options.no_boot {
        boot(options, &counter, &monitor, directory.path(), &mut report)?;
    }
    report.end()
}

/// Debian's kernel with busybox, to a shell that switches the machine off.
fn boot(
    options: &Instructions,
    counter: &Count,
    monitor: &Path,
    directory: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    const APPEND: &str = "console=ttyS0 rdinit=/bin/busybox -- sh -c \"poweroff -f\"";
    let image = Store::open_default()?
        .get("busybox")
        .context("pull it first: cargo run --release -- pull busybox")?;
    let alone = Load { kernel: &image.kernel, initrd: Some(&image.run_initrd), append: APPEND };
    let mut figure = Report::NOTHING;
    figure.alone = counter.run(&alone)?.instructions;
    let description = guest("kernel", &image.kernel, Some(&image.run_initrd), APPEND);
    let bundle = bundle(directory, &description)?;
    let ran = counter.run(&Load { kernel: monitor, initrd: Some(&bundle), append: &options.monitor })?;
    figure.add_monitored(&ran)?;
    report.whole("Debian's kernel and busybox, start to shell and power-off", &figure, BOOT);
    Ok(())
}

/// A description of one guest.
fn guest(key: &str, kernel: &Path, initrd: Option<&Path>, append: &str) -> String {
    let initrd = initrd.map_or(String::new(), |path| format!("initrd = '{}'\n", path.display()));
    format!(
        "[[guest]]\nname = 'g'\n{key} = '{}'\n{initrd}append = '{append}'\nmemory = '128M'\n",
        kernel.display()
    )
}

fn bundle(directory: &Path, description: &str) -> anyhow::Result<PathBuf> {
    let (guests, bundle) = (directory.join("guests.toml"), directory.join("bundle"));
    std::fs::write(&guests, description)?;
    let status = Command::new(rvisor_program()?)
        .args(["bundle", "build"])
        .arg(&guests)
        .arg("-o")
        .arg(&bundle)
        .status()?;
    if !status.success() {
        bail!("the bundle can't be built");
    }
    Ok(bundle)
}

/// Builds the guest `costs`.
fn build_costs() -> anyhow::Result<PathBuf> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--package", "costs"])
        .current_dir("guests")
        .status()
        .context("can't run cargo")?;
    if !status.success() {
        bail!("the guest can't be built");
    }
    Ok(Path::new("guests/target/riscv64gc-unknown-none-elf/release/costs").canonicalize()?)
}
