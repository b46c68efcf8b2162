//! `rvisor bundle`: the guests of the type-1 home, packed into one file and tried out.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use rvisor_hosted::Stream;
use rvisor_hosted::machine::{Machine, MachineConfig};
use rvisor_hosted::runner::OnReset;
use rvisor_images::Store;
use rvisor_machine::boot::Program;
use rvisor_machine::boot::image::LinuxImage;
use rvisor_machine::boot::initrd;
use rvisor_machine::bundle::{self, BundledGuest};
use serde::Deserialize;

use crate::boot::{engine, print_profile, read_file, translator};
use crate::cli::{self, BundleBuild, BundleMachine, BundleRun};
use crate::confinement;
use crate::session::Session;

/// A description of guests: `[[guest]]` tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    #[serde(default)]
    guest: Vec<Guest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    name: String,
    /// An image of the store, for its kernel and initrd.
    image: Option<String>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    #[serde(default)]
    append: String,
    #[serde(default = "default_memory")]
    memory: String,
    #[serde(default = "default_harts")]
    harts: u32,
    #[serde(default = "default_weight")]
    weight: u32,
}

fn default_memory() -> String {
    "256M".into()
}

const fn default_harts() -> u32 {
    1
}

const fn default_weight() -> u32 {
    100
}

/// A guest with its files.
struct Packed {
    guest: Guest,
    memory: u64,
    command_line: String,
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
}

/// `rvisor bundle build`.
pub fn build(options: &BundleBuild) -> anyhow::Result<ExitCode> {
    let path = &options.description;
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("can't read {}; check its name and permissions", path.display()))?;
    let description: Description = toml::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), first_line(&error, &text)))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let packed = description
        .guest
        .into_iter()
        .map(|guest| {
            let name = guest.name.clone();
            pack(guest, directory).with_context(|| format!("guest {name:?}"))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let guests: Vec<_> = packed.iter().map(Packed::bundled).collect();
    let file = bundle::write(&guests)?;
    std::fs::write(&options.output, &file)
        .with_context(|| format!("can't write {}; choose another file", options.output.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// An error in TOML, in one line.
fn first_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    format!("line {line}: {}", error.message().lines().collect::<Vec<_>>().join(" "))
}

impl Packed {
    fn bundled(&self) -> BundledGuest<'_> {
        BundledGuest {
            name: &self.guest.name,
            memory: self.memory,
            harts: self.guest.harts,
            weight: self.guest.weight,
            kernel: &self.kernel,
            initrd: self.initrd.as_deref(),
            command_line: &self.command_line,
        }
    }
}

/// Reads a guest's files and checks that they are what they should be.
fn pack(guest: Guest, directory: &Path) -> anyhow::Result<Packed> {
    let memory = cli::size(&guest.memory).map_err(anyhow::Error::msg).context("memory")?;
    let (kernel, initrd, append) = match (&guest.image, &guest.kernel) {
        (Some(_), Some(_)) => bail!("has an image and a kernel; leave one out"),
        (None, None) => bail!("has no kernel; give kernel = \"FILE\" or image = \"NAME\""),
        (Some(_), None) if guest.initrd.is_some() => bail!("has an image and an initrd; leave one out"),
        (Some(name), None) => {
            let image = Store::open_default()?.get(name)?;
            (image.kernel.clone(), Some(image.run_initrd.clone()), image.manifest.append.clone())
        }
        (None, Some(kernel)) => (
            directory.join(kernel),
            guest.initrd.as_ref().map(|initrd| directory.join(initrd)),
            String::new(),
        ),
    };
    let kernel = read_file(&kernel, "kernel")?;
    let header = LinuxImage::parse(&kernel).context("kernel")?;
    if header.size >= memory {
        bail!("{} MiB of memory are too little for its kernel; give it more", memory >> 20);
    }
    let initrd = initrd.map(|path| read_file(&path, "initrd")).transpose()?;
    if let Some(initrd) = &initrd {
        initrd::check(initrd).context("initrd")?;
    }
    let words = [append.as_str(), guest.append.as_str()];
    let command_line = words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ");
    Ok(Packed { guest, memory, command_line, kernel, initrd })
}

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
    let program = Program::Linux { kernel: &kernel, initrd: Some(bundle), command_line: "" };
    let serial = Stream::new();
    let machine = MachineConfig {
        harts: options.size.cpus.get() as usize,
        memory: options.size.memory,
        machine_mode: program.needs_machine_mode(),
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
    let mut command = Command::new("qemu-system-riscv64");
    command.args(["-M", "virt", "-cpu", "rv64,h=false", "-nographic", "-no-reboot"]);
    command.args(["-smp", &options.size.cpus.to_string()]);
    command.args(["-m", &format!("{}M", options.size.memory >> 20)]);
    command.arg("-kernel").arg(monitor).arg("-initrd").arg(&options.bundle);
    let status = command.status().context("can't run qemu-system-riscv64; install QEMU")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(text: &str) -> anyhow::Error {
        let directory = tempfile::tempdir().expect("a directory");
        let description = directory.path().join("guests.toml");
        std::fs::write(&description, text).expect("a file");
        let output = directory.path().join("bundle");
        build(&BundleBuild { description, output }).expect_err("it is refused")
    }

    #[test]
    fn mistakes_are_named_in_one_line() {
        let kernel = "[[guest]]\nname = \"a\"\nkernel = \"missing\"\n";
        for (text, words) in [
            ("", "1 to 32 guests"),
            ("[[guest]]\n", "missing field `name`"),
            ("[[guest]]\nname = \"a\"\ncpu = 1\n", "line 3"),
            ("[[guest]]\nname = \"a\"\n", "no kernel"),
            (kernel, "can't read the kernel"),
            (&format!("{kernel}image = \"x\"\n"), "leave one out"),
            (&format!("{kernel}memory = \"much\"\n"), "memory"),
        ] {
            let error = format!("{:#}", built(text));
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
    }
}
