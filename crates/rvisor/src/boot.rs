//! `rvisor boot`: a machine from raw pieces.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use rvisor_hosted::Stream;
use rvisor_hosted::disk::{DiskOptions, Format};
use rvisor_hosted::gdb::GdbSession;
use rvisor_hosted::machine::{EngineKind, Machine, MachineConfig};
use rvisor_hosted::net::NetOptions;
use rvisor_hosted::runner::OnReset;
use rvisor_hosted::share::ShareOptions;
use rvisor_instances::EngineConfig;
use rvisor_machine::boot::Program;
use rvisor_machine::memory_map::RAM_BASE;
use rvisor_machine::{Extensions, TranslationMode, VmConfig};

use crate::cli::{Boot, Engine, EngineOptions, Mmu, Network, Optimize};
use crate::confinement;
use crate::session::Session;

/// The files of a boot protocol, read.
#[derive(Default)]
struct Files {
    kernel: Option<Vec<u8>>,
    initrd: Option<Vec<u8>>,
    firmware: Option<Vec<u8>>,
    bare: Option<Vec<u8>>,
}

/// Boots a machine as the options say; its end is the exit code.
pub fn boot(options: &Boot) -> anyhow::Result<ExitCode> {
    let read = |path: &Option<_>, what| path.as_deref().map(|path| read_file(path, what)).transpose();
    let files = Files {
        kernel: read(&options.kernel, "kernel")?,
        initrd: read(&options.initrd, "initrd")?,
        firmware: read(&options.firmware, "firmware")?,
        bare: read(&options.bare, "program")?,
    };
    let program = files.program(options.append.as_deref().unwrap_or(""))?;
    if let Some(path) = &options.dump_dtb {
        return dump_device_tree(options, &program, path);
    }
    let serial = Stream::new();
    let gdb = crate::gdb::listen(&options.debugging, options.engine.engine)?;
    let machine = MachineConfig {
        harts: options.size.cpus.get() as usize,
        memory: options.size.memory,
        machine_mode: program.needs_machine_mode(),
        hypervisor: options.size.hypervisor(),
        translation: translation(options),
        disks: options.disks.iter().map(|text| disk(text)).collect::<Result<_, _>>()?,
        network: network(options.net, &options.publish)?,
        tagged_shares: shares(&options.shares)?,
        serial: serial.clone(),
        engine: engine(options.engine.engine),
        translator: translator(&options.engine)?,
        ..MachineConfig::default()
    };
    let sandbox = confinement::confine(&machine, options.confinement.no_sandbox)?;
    let machine = Arc::new(Machine::new(machine)?);
    let placed = machine.place(&program)?;
    if options.debugging.gdb_wait {
        machine.wait_for_debugger();
    }
    let debugged = Arc::clone(&machine);
    let listening = gdb.map(|gdb| gdb.start(move || GdbSession::attach(&debugged))).transpose();
    let _listening = listening.context("the host has no thread for gdb")?;
    let session = Session {
        machine: &machine,
        program: &placed,
        serial: &serial,
        on_reset: if options.no_reboot { OnReset::Stop } else { OnReset::Reboot },
        time_limit: options.timeout,
        sandbox: sandbox.as_ref(),
    };
    let code = session.on_console()?;
    print_profile(&machine);
    Ok(code)
}

impl Files {
    fn program<'a>(&'a self, command_line: &'a str) -> anyhow::Result<Program<'a>> {
        let (kernel, initrd) = (self.kernel.as_deref(), self.initrd.as_deref());
        match (&self.bare, &self.firmware, kernel) {
            (Some(elf), ..) => Ok(Program::Bare { elf }),
            (None, Some(firmware), next) => Ok(Program::Firmware { firmware, next, initrd, command_line }),
            (None, None, Some(kernel)) => Ok(Program::Linux { kernel, initrd, command_line }),
            (None, None, None) => bail!("nothing to boot; give --kernel, --firmware or --bare"),
        }
    }
}

/// What was asked for. Bare programs are made to try out harts: they get all that there is.
fn translation(options: &Boot) -> Option<TranslationMode> {
    let all = || options.bare.is_some().then_some(TranslationMode::Sv57);
    options.size.mmu.map(Mmu::mode).or_else(all)
}

fn dump_device_tree(options: &Boot, program: &Program<'_>, path: &Path) -> anyhow::Result<ExitCode> {
    let config = VmConfig {
        harts: options.size.cpus.get() as usize,
        machine_mode: program.needs_machine_mode(),
        translation: translation(options).unwrap_or_else(|| TranslationMode::suiting(options.size.memory)),
        hypervisor: options.size.hypervisor(),
        extensions: Extensions::ALL,
    };
    let end = RAM_BASE.0.checked_add(options.size.memory).ok_or_else(|| anyhow!("too much --memory"))?;
    // No seed: the same options give the same tree.
    let placed = program.place(&config, &(RAM_BASE..rvisor_waist::GuestPhysical(end)), &[])?;
    std::fs::write(path, placed.device_tree())
        .with_context(|| format!("can't write the device tree to {}; choose another file", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a file of the guest's.
pub fn read_file(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path)
        .with_context(|| format!("can't read the {what} {}; check its name and permissions", path.display()))
}

/// Parses `FILE[,ro][,format=F]`.
pub fn disk(text: &str) -> anyhow::Result<DiskOptions> {
    let mut parts = text.split(',');
    let mut options = DiskOptions::new(
        parts
            .next()
            .filter(|path| !path.is_empty())
            .with_context(|| format!("--disk {text}: no file; write --disk FILE[,ro][,format=raw|qcow2]"))?,
    );
    for part in parts {
        match part.split_once('=') {
            None if part == "ro" => options.read_only = true,
            Some(("format", name)) => {
                options.format = Some(Format::from_name(name).with_context(|| {
                    format!("--disk {text}: no format is called {name:?}; use raw or qcow2")
                })?);
            }
            _ => bail!("--disk {text}: {part:?} means nothing; write --disk FILE[,ro][,format=raw|qcow2]"),
        }
    }
    Ok(options)
}

/// What `--share` says.
fn shares(texts: &[String]) -> anyhow::Result<Vec<ShareOptions>> {
    let share = |text: &String| ShareOptions::with_tag(text).map_err(|error| anyhow!("--share {error}"));
    texts.iter().map(share).collect()
}

/// The network that the options describe.
pub fn network(kind: Network, publish: &[String]) -> anyhow::Result<Option<NetOptions>> {
    let forwards = publish
        .iter()
        .map(|text| text.parse().with_context(|| format!("--publish {text}")))
        .collect::<Result<Vec<_>, _>>()?;
    match kind {
        Network::User => Ok(Some(NetOptions { forwards, ..NetOptions::default() })),
        Network::None if forwards.is_empty() => Ok(None),
        Network::None => bail!("--publish needs a network; leave `none` out"),
    }
}

/// The library's name for an engine.
pub fn engine(engine: Engine) -> EngineKind {
    match engine {
        Engine::Translator => EngineKind::Translator,
        Engine::Lockstep => EngineKind::Lockstep,
        Engine::Interpreter => EngineKind::Interpreter,
    }
}

/// What the translator is to tell about its work.
pub fn translator(options: &EngineOptions) -> anyhow::Result<rvisor_hosted::translator::Options> {
    let is_about_translation =
        options.profile || options.dump_translation.is_some() || options.code_memory.is_some();
    if options.engine == Engine::Interpreter && is_about_translation {
        bail!("--profile, --dump-translation and --code-memory are about the translator; leave --engine out");
    }
    let create = |path: &PathBuf| {
        File::create(path).map(BufWriter::new).with_context(|| format!("can't write {}", path.display()))
    };
    let dump = options.dump_translation.as_ref().map(create).transpose()?;
    let optimize = match options.optimize {
        Optimize::Never => rvisor_hosted::translator::Optimize::Never,
        Optimize::Hot => rvisor_hosted::translator::Optimize::Hot,
        Optimize::Always => rvisor_hosted::translator::Optimize::Always,
    };
    let is_wanted = options.engine != Engine::Interpreter && !options.no_code_cache;
    let store = is_wanted.then(|| options.code_cache.clone().or_else(code_cache)).flatten();
    let (profile, code_memory) = (options.profile, options.code_memory);
    Ok(rvisor_hosted::translator::Options { profile, dump, optimize, store, code_memory })
}

/// The same for a machine that is kept: what of it belongs to the machine, and what to this run.
pub fn engine_config(
    options: &EngineOptions,
) -> anyhow::Result<(EngineConfig, rvisor_hosted::translator::Options)> {
    let translator = translator(options)?;
    let name = |value: &dyn Fn() -> Option<PossibleValue>| {
        value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    };
    // The machine's process has another working directory.
    let store = translator.store.as_deref().map(std::path::absolute).transpose();
    let config = EngineConfig {
        engine: name(&|| options.engine.to_possible_value()),
        optimize: name(&|| options.optimize.to_possible_value()),
        code_cache: store.context("the directory for translated code has no absolute path")?,
        code_memory: translator.code_memory,
    };
    Ok((config, translator))
}

/// Where translated code is kept: `$RVISOR_HOME/translations`, else `$XDG_CACHE_HOME/rvisor/translations`, else
/// `~/.cache/rvisor/translations`.
pub fn code_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative one means nothing (XDG Base Directory Specification).
    let cache = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let cache = || cache.or_else(|| Some(variable("HOME")?.join(".cache")));
    let home = variable("RVISOR_HOME").or_else(|| Some(cache()?.join("rvisor")))?;
    Some(home.join("translations"))
}

/// Says where the translator's time went, if that was asked for.
pub fn print_profile(machine: &Machine) {
    if let Some(profile) = machine.profile() {
        eprint!("{profile}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_options_are_parsed() {
        let options = disk("a b.img,ro,format=qcow2").unwrap();
        assert_eq!((options.path.to_str(), options.read_only), (Some("a b.img"), true));
        assert_eq!(options.format, Some(Format::Qcow2));
        for wrong in ["", ",ro", "x,rw", "x,format=vdi", "x,ro=1"] {
            let error = disk(wrong).unwrap_err().to_string();
            assert!(error.contains("--disk") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn ports_need_a_network() {
        assert!(network(Network::None, &["80:80".into()]).is_err());
        assert!(network(Network::None, &[]).unwrap().is_none());
        assert_eq!(network(Network::User, &["8080:80".into()]).unwrap().unwrap().forwards.len(), 1);
        assert!(network(Network::User, &["x".into()]).is_err());
    }
}
