//! Machines with one hart that count what they retire until they are switched off.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rvisor_hosted::Stream;
use rvisor_hosted::machine::{Machine as Hosted, MachineConfig};
use rvisor_hosted::runner::{Ending, OnReset};
use rvisor_machine::boot::Program;

use super::Machine;

/// RAM: a guest of 128 MiB, the bundle, and the monitor.
const MEMORY_MIB: u64 = 512;
/// For the longest work on a busy computer.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is booted.
pub struct Load<'a> {
    pub kernel: &'a Path,
    pub initrd: Option<&'a Path>,
    pub append: &'a str,
}

/// How a machine fared.
pub struct Ran {
    /// Instructions retired, of all modes.
    pub instructions: u64,
    /// What it printed.
    pub console: String,
}

/// A kind of machine.
pub enum Count {
    Hosted { hypervisor: bool },
    Qemu { hypervisor: bool, plugin: PathBuf, total: PathBuf },
}

impl Count {
    /// Gets ready; files go to `directory`.
    pub fn new(machine: Machine, hypervisor: bool, directory: &Path) -> anyhow::Result<Self> {
        match machine {
            Machine::Rvisor => Ok(Self::Hosted { hypervisor }),
            Machine::Qemu => {
                let plugin = directory.join("count.so");
                let status = Command::new("cc")
                    .args(["-O2", "-shared", "-fPIC", "xtask/plugin/count.c", "-o"])
                    .arg(&plugin)
                    .status()
                    .context("can't run cc; install a C compiler")?;
                if !status.success() {
                    bail!("the plugin can't be compiled");
                }
                Ok(Self::Qemu { hypervisor, plugin, total: directory.join("total") })
            }
        }
    }

    /// Runs to the power-off.
    pub fn run(&self, load: &Load<'_>) -> anyhow::Result<Ran> {
        match self {
            Self::Hosted { hypervisor } => run_hosted(load, *hypervisor),
            Self::Qemu { hypervisor, plugin, total } => run_qemu(load, *hypervisor, plugin, total),
        }
    }
}

fn run_hosted(load: &Load<'_>, hypervisor: bool) -> anyhow::Result<Ran> {
    let kernel = std::fs::read(load.kernel)?;
    let initrd = load.initrd.map(std::fs::read).transpose()?;
    let program = Program::Linux { kernel: &kernel, initrd: initrd.as_deref(), command_line: load.append };
    let (serial, console) = (Stream::new(), Transcript::default());
    let config = MachineConfig {
        harts: 1,
        memory: MEMORY_MIB << 20,
        serial: serial.clone(),
        hypervisor,
        ..MachineConfig::default()
    };
    let machine = Hosted::new(config)?;
    serial.write_to(console.clone())?;
    let placed = machine.place(&program)?;
    let ending = machine.run(&placed, OnReset::Stop, Some(PATIENCE))?;
    serial.drain(Duration::from_secs(10));
    let console = console.text();
    if ending != Ending::PowerOff {
        bail!("the machine wasn't switched off:\n{console}");
    }
    let instructions = machine.vm().harts().iter().map(|hart| hart.exits().instructions()).sum();
    Ok(Ran { instructions, console })
}

/// Keeps what the console shows.
#[derive(Clone, Default)]
struct Transcript(Arc<Mutex<Vec<u8>>>);

impl Transcript {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn run_qemu(load: &Load<'_>, hypervisor: bool, plugin: &Path, total: &Path) -> anyhow::Result<Ran> {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg("qemu-system-riscv64");
    command.args(["-M", "virt", "-cpu", &format!("rv64,h={hypervisor}"), "-nographic", "-no-reboot"]);
    command.args(["-nic", "none", "-m", &format!("{MEMORY_MIB}M")]);
    command.arg("-plugin").arg(plugin).env("COUNT_TOTAL", total);
    command.arg("-kernel").arg(load.kernel);
    if let Some(initrd) = load.initrd {
        command.arg("-initrd").arg(initrd);
    }
    if !load.append.is_empty() {
        command.args(["-append", load.append]);
    }
    let output = command.stdin(Stdio::null()).output().context("can't run QEMU; install it")?;
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("QEMU failed: {}\n{console}", String::from_utf8_lossy(&output.stderr));
    }
    let instructions = std::fs::read_to_string(total)?.trim().parse().context("the plugin's total")?;
    Ok(Ran { instructions, console })
}
