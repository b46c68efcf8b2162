//! `rvisor bundle run`: the type-1 home with a bundle, in a machine of this computer.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use rvisor_hosted::Stream;
use rvisor_hosted::disk::Format;
use rvisor_hosted::machine::{Machine, MachineConfig};
use rvisor_hosted::net::Forward;
use rvisor_hosted::runner::OnReset;
use rvisor_machine::boot::Program;
use rvisor_machine::{TranslationMode, bundle};

use crate::boot::{disk, engine, network, print_profile, read_file, translator};
use crate::cli::{BundleMachine, BundleRun, Mmu, Network};
use crate::confinement;
use crate::session::Session;

/// `rvisor bundle run`.
pub fn run(options: &BundleRun) -> anyhow::Result<ExitCode> {
    let file = read_file(&options.bundle, "bundle")?;
    bundle::read(&file).with_context(|| options.bundle.display().to_string())?;
    let monitor = match &options.monitor {
        Some(path) => path.clone(),
        None => find_monitor()?,
    };
    match options.machine {
        BundleMachine::Rvisor => run_hosted(options, &monitor, &file),
        BundleMachine::Qemu => run_qemu(options, &monitor),
    }
}

/// The image that `cargo xtask metal` makes: beside this program, or one directory up.
fn find_monitor() -> anyhow::Result<PathBuf> {
    const NAME: &str = "rvisor-metal.image";
    let program = std::env::current_exe().context("can't find this program's directory")?;
    let places = program.ancestors().skip(1).take(2).map(|directory| directory.join(NAME));
    places
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no {NAME}; build it with `cargo xtask metal` and name it with --monitor"))
}

fn run_hosted(options: &BundleRun, monitor: &Path, bundle: &[u8]) -> anyhow::Result<ExitCode> {
    let kernel = read_file(monitor, "monitor's image")?;
    let program = Program::Linux { kernel: &kernel, initrd: Some(bundle), command_line: &options.append };
    let serial = Stream::new();
    let machine = MachineConfig {
        harts: options.size.cpus.get() as usize,
        memory: options.size.memory,
        machine_mode: program.needs_machine_mode(),
        hypervisor: options.size.hypervisor(),
        // The hardware of a type-1 monitor: what its guests get is its own choice.
        translation: Some(options.size.mmu.map_or(TranslationMode::Sv57, Mmu::mode)),
        disks: options.disks.iter().map(|text| disk(text)).collect::<Result<_, _>>()?,
        network: network(options.net, &options.publish)?,
        serial: serial.clone(),
        engine: engine(options.engine.engine),
        translator: translator(&options.engine)?,
        ..MachineConfig::default()
    };
    let sandbox = confinement::confine(&machine, options.confinement.no_sandbox)?;
    let machine = Machine::new(machine)?;
    let placed = machine.place(&program)?;
    let session = Session {
        machine: &machine,
        program: &placed,
        serial: &serial,
        on_reset: OnReset::Reboot,
        time_limit: options.timeout,
        sandbox: sandbox.as_ref(),
    };
    let code = session.on_console()?;
    print_profile(&machine);
    Ok(code)
}

fn run_qemu(options: &BundleRun, monitor: &Path) -> anyhow::Result<ExitCode> {
    if options.timeout.is_some() {
        bail!("--timeout is for --machine rvisor; put `timeout` in front of the command");
    }
    // In this process's place: who ends it ends QEMU.
    let error = qemu(options, monitor)?.exec();
    Err(error).context("can't run qemu-system-riscv64; install QEMU")
}

/// QEMU's command line.
fn qemu(options: &BundleRun, monitor: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new("qemu-system-riscv64");
    let hypervisor = if options.size.hypervisor() { "rv64,h=true" } else { "rv64,h=false" };
    let largest = match options.size.mmu {
        None | Some(Mmu::Sv57) => "",
        Some(Mmu::Sv48) => ",sv57=off",
        Some(Mmu::Sv39) => ",sv57=off,sv48=off",
    };
    let cpu = format!("{hypervisor}{largest}");
    command.args(["-M", "virt", "-cpu", &cpu, "-nographic", "-no-reboot"]);
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
    command.args(["-smp", &options.size.cpus.to_string()]);
    command.args(["-m", &format!("{}M", options.size.memory >> 20)]);
    command.args(["-object", "rng-random,filename=/dev/urandom,id=entropy"]);
    command.args(["-device", "virtio-rng-device,rng=entropy"]);
    for (index, text) in options.disks.iter().enumerate() {
        let disk = disk(text)?;
        let format = match disk.format {
            Some(format) => format,
            None => look_at_format(&disk.path)?,
        };
        // A comma in a value is written twice.
        let file = disk.path.to_str().context("QEMU takes names in UTF-8 only")?.replace(',', ",,");
        let (format, read_only) = (qemu_format(format), if disk.read_only { "on" } else { "off" });
        command.arg("-drive").arg(format!(
            "if=none,id=disk{index},file={file},format={format},read-only={read_only},discard=unmap"
        ));
        command.arg("-device").arg(format!("virtio-blk-device,drive=disk{index}"));
    }
    if options.net == Network::User {
        let mut user = String::from("user,id=network");
        for text in &options.publish {
            let forward: Forward = text.parse().with_context(|| format!("--publish {text}"))?;
            let Forward { protocol, host, guest } = forward;
            ensure!(host.is_ipv4(), "--publish {text}: QEMU forwards from IPv4 addresses only; choose one");
            user += &format!(",hostfwd={protocol}:{}:{}-:{guest}", host.ip(), host.port());
        }
        command.args(["-netdev", &user, "-device", "virtio-net-device,netdev=network"]);
    }
    command.arg("-kernel").arg(monitor).arg("-initrd").arg(&options.bundle);
    if !options.append.is_empty() {
        command.args(["-append", &options.append]);
    }
    Ok(command)
}

/// QEMU's name of a disk format.
const fn qemu_format(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    }
}

/// The format of a disk, by its first bytes.
fn look_at_format(path: &Path) -> anyhow::Result<Format> {
    let mut start = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read(&mut start));
    read.with_context(|| format!("can't read the disk {}; check its name and permissions", path.display()))?;
    Ok(if start == *b"QFI\xfb" { Format::Qcow2 } else { Format::Raw })
}
