//! `rvisor run`: a fresh machine from an image.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use rvisor_hosted::Stream;
use rvisor_hosted::disk::{DiskOptions, Format, create_overlay};
use rvisor_hosted::machine::{Machine, MachineConfig};
use rvisor_hosted::runner::{OnReset, end_on_signals};
use rvisor_images::{Image, Store};
use rvisor_machine::PowerRequest;
use rvisor_machine::boot::{Placed, Program};

use crate::boot::{engine, network, print_profile, translator};
use crate::cli::{List, Run};
use crate::guest_command::{CommandPorts, Outcome};
use crate::machines::{self, MachineDirectory};
use crate::session::{PATIENCE, Session};
use crate::{images, table};

/// Lines of the guest's console that are shown when its command couldn't be run.
const LAST_LINES: usize = 20;

/// Runs a machine; its end, or its command's, is the exit code.
pub fn run(options: &Run) -> anyhow::Result<ExitCode> {
    // Before an image is pulled for a machine that can't be.
    options.name.as_deref().map(machines::check_name).transpose()?;
    let mut network = network(options.net, &options.publish)?;
    let store = Store::open_default()?;
    let image = images::get(&store, &options.image, &options.mirror, false)?;
    if options.size.memory < image.manifest.memory {
        let needed = image.manifest.memory >> 20;
        bail!("image {} needs at least {needed} MiB of memory; use --memory {needed}M", image.name);
    }
    let mut directory = MachineDirectory::create(&store, options.name.as_deref(), &image.name.to_string())?;
    let ports = (!options.command.is_empty()).then(CommandPorts::new);
    let serial = Stream::new();
    if let Some(network) = &mut network {
        network.hostname = Some(directory.name().to_owned());
    }
    let machine = Machine::new(MachineConfig {
        harts: options.size.cpus.get() as usize,
        memory: options.size.memory,
        machine_mode: false,
        disks: own_disk(&image, &directory)?,
        network,
        ports: ports.as_ref().map(CommandPorts::ports).unwrap_or_default(),
        serial: serial.clone(),
        engine: engine(options.engine.engine),
        translator: translator(&options.engine)?,
    })?;
    let files = Files::read(&image)?;
    let command_line = command_line(&image, ports.is_some(), directory.name());
    let placed = machine.place(&files.program(&command_line))?;
    if !options.rm {
        directory.keep();
    }
    let code = match ports {
        None => {
            let on_reset = OnReset::Reboot;
            let session =
                Session { machine: &machine, program: &placed, serial: &serial, on_reset, time_limit: None };
            session.on_console()?
        }
        Some(ports) => run_command(&machine, &placed, &serial, &ports, &options.command)?,
    };
    print_profile(&machine);
    Ok(code)
}

/// The machine's own copy-on-write disk, if its image has a disk.
fn own_disk(image: &Image, directory: &MachineDirectory) -> anyhow::Result<Vec<DiskOptions>> {
    let Some(base) = &image.disk else { return Ok(Vec::new()) };
    create_overlay(&directory.disk(), base, Some(Format::Raw))?;
    Ok(vec![DiskOptions { format: Some(Format::Qcow2), ..DiskOptions::new(directory.disk()) }])
}

struct Files {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
}

impl Files {
    fn read(image: &Image) -> anyhow::Result<Self> {
        let read = |path| {
            std::fs::read(path).with_context(|| {
                format!(
                    "image {} is damaged; remove it with `rvisor rmi {}` and get it again",
                    image.name, image.name
                )
            })
        };
        Ok(Self { kernel: read(&image.kernel)?, initrd: read(&image.run_initrd)? })
    }

    fn program<'a>(&'a self, command_line: &'a str) -> Program<'a> {
        Program::Linux { kernel: &self.kernel, initrd: Some(&self.initrd), command_line }
    }
}

fn command_line(image: &Image, command: bool, name: &str) -> String {
    let append = &image.manifest.append;
    if command {
        format!("{append} quiet panic=-1 rvisor.mode=command rvisor.hostname={name}")
    } else {
        // The second name is for the image's own init (kernel-command-line(7) of systemd).
        format!("{append} quiet rvisor.hostname={name} systemd.hostname={name}")
    }
}

/// Runs `command` in the guest with this process's standard streams.
fn run_command(
    machine: &Machine,
    program: &Placed<'_>,
    serial: &Stream,
    ports: &CommandPorts,
    command: &[String],
) -> anyhow::Result<ExitCode> {
    let signals = end_on_signals(machine.vm())?;
    let console = Arc::new(Mutex::new(Tail::default()));
    serial.write_to(SharedTail(Arc::clone(&console)))?;
    let vm = Arc::downgrade(machine.vm());
    // The guest has written everything back when it tells the outcome: nothing is lost by not waiting for its
    // power-off.
    ports.start(&environment(), command, move || {
        if let Some(vm) = vm.upgrade() {
            vm.request_power(PowerRequest::PowerOff);
        }
    })?;
    machine.run(program, OnReset::Stop, None)?;
    ports.drain(PATIENCE);
    if let Some(signal) = signals.get() {
        return Ok(ExitCode::from(128u8.saturating_add(signal as u8)));
    }
    match ports.outcome() {
        Some(Outcome::Exit(code)) => Ok(ExitCode::from(code)),
        Some(Outcome::Failed(reason)) => bail!("the guest couldn't run the command: {reason}"),
        None => {
            serial.drain(PATIENCE);
            for line in console.lock().unwrap_or_else(PoisonError::into_inner).lines() {
                eprintln!("{line}");
            }
            bail!("the guest ended before the command did; its last lines on the console are above")
        }
    }
}

/// What a command in the guest gets to know of the user's environment.
fn environment() -> Vec<(&'static str, String)> {
    let mut environment = vec![("HOME", "/root".to_owned())];
    let passed = |name| std::env::var(name).ok().map(|value| (name, value));
    environment.extend(["TERM", "LANG"].into_iter().filter_map(passed));
    environment
}

/// `rvisor ps`.
pub fn list(options: &List) -> anyhow::Result<ExitCode> {
    let machines = machines::list(&Store::open_default()?)?;
    let state = |running| if running { "running" } else { "ended" };
    match options.format {
        _ if options.quiet => machines.iter().for_each(|machine| println!("{}", machine.name)),
        crate::cli::Format::Json => {
            let rows: Vec<_> = machines
                .iter()
                .map(|machine| {
                    serde_json::json!({
                        "name": machine.name,
                        "image": machine.image,
                        "state": state(machine.running),
                        "disk": machine.disk,
                    })
                })
                .collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        crate::cli::Format::Table => {
            let rows = machines.into_iter().map(|machine| {
                [machine.name, machine.image, state(machine.running).to_owned(), table::size(machine.disk)]
            });
            table::print(["NAME", "IMAGE", "STATE", "DISK"], rows);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `rvisor rm`.
pub fn remove(names: &[String]) -> anyhow::Result<ExitCode> {
    let store = Store::open_default()?;
    for name in names {
        machines::remove(&store, name)?;
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The last lines of a console.
#[derive(Default)]
struct Tail {
    bytes: std::collections::VecDeque<u8>,
}

impl Tail {
    const LIMIT: usize = 16 << 10;

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes.iter().copied().collect::<Vec<_>>()).into_owned();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
    }
}

struct SharedTail(Arc<Mutex<Tail>>);

impl Write for SharedTail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tail.bytes.extend(bytes);
        let excess = tail.bytes.len().saturating_sub(Tail::LIMIT);
        tail.bytes.drain(..excess);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
