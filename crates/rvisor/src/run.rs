//! `rvisor run`: a fresh machine from an image; and the process of a machine in the background.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail, ensure};
use clap::ValueEnum;
use rvisor_hosted::disk::{Format, create_empty, create_overlay};
use rvisor_hosted::gdb::GdbListener;
use rvisor_hosted::net::TapName;
use rvisor_hosted::share::ShareOptions;
use rvisor_hosted::terminal::{ESCAPE_HELP, RawTerminal, escape_filter};
use rvisor_hosted::translator;
use rvisor_images::{Image, Store};
use rvisor_instances::{
    Arrival, Config, Directory, Drive, End, Error, Events, Front, GO, Lock, Machines, Networks, PREPARED,
    READY, ReadyPoint, VmProcess, check_name, start_detached,
};
use rvisor_machine::PowerRequest;

use crate::boot::{engine_config, network};
use crate::cli::{Engine, Mmu, Network, Run};
use crate::{confinement, images};

/// Runs a machine; its end, or its command's, is the exit code.
pub fn run(options: &Run) -> anyhow::Result<ExitCode> {
    // Before an image is pulled for a machine that can't be.
    options.name.as_deref().map(check_name).transpose()?;
    network(kind(options), &options.publish)?;
    volumes(&options.volumes)?;
    if options.detach && (options.engine.profile || options.engine.dump_translation.is_some()) {
        bail!("--profile and --dump-translation tell this terminal; leave --detach out");
    }
    if options.tty && !options.detach && !options.command.is_empty() && !Drive::has_terminal() {
        bail!("standard input isn't a terminal; leave --tty out");
    }
    if options.detach && options.debugging.gdb.is_some() {
        bail!(
            "--gdb is for a machine of this terminal; leave it out, and use `rvisor gdb` once the machine runs"
        );
    }
    let gdb = crate::gdb::listen(&options.debugging, options.engine.engine)?;
    let store = Store::open_default()?;
    let (named, tap) = place(options)?;
    if let Some(name) = named {
        Networks::new(store.root()).open(name)?;
    }
    if tap.is_some() && !options.publish.is_empty() {
        bail!(
            "--publish forwards to networks of Rvisor's; on a tap device the host reaches the guest itself: leave it out"
        );
    }
    let Some(image) = images::find(&store, &options.image)? else {
        let builder = images::builder(&options.confinement);
        images::fetch(&store, &options.image, &options.mirror, false, &builder)?;
        return Err(begin_again());
    };
    if options.size.memory < image.manifest.memory {
        let needed = image.manifest.memory >> 20;
        bail!("image {} needs at least {needed} MiB of memory; use --memory {needed}M", image.name);
    }
    let (config, rest) = config(options, &image)?;
    let machines = Machines::new(&std::path::absolute(store.root())?);
    let name = match &options.name {
        Some(name) => name.clone(),
        None => machines.unused_name(&image.name.to_string())?,
    };
    let ready = ready_point(options, &machines, &image, &config);
    let (directory, lock) = machines.create(&name, &config, |path| match &ready {
        Some(ready) => ready.give(path),
        None => make_disks(path, &image, &config),
    })?;
    Events::new(machines.store()).add(&name, "create", None);
    let result = if options.detach {
        drop(lock);
        start(&directory).map(|()| {
            println!("{name}");
            ExitCode::SUCCESS
        })
    } else {
        drop(directory);
        machines
            .open(&name)
            .map_err(Into::into)
            .and_then(|directory| foreground(directory, lock, rest, gdb, options.debugging.gdb_wait))
    };
    if let Err(error) = result {
        return Err(remove_unless_it_ran(&machines, &name, error));
    }
    result
}

/// Replaces this process with a fresh one of the same command: threads that pulled the image may be left, and a sandbox
/// can only hold those that are made inside it. Returns if that fails.
fn begin_again() -> anyhow::Error {
    let mut words = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    let error = command.args(words).exec();
    anyhow!(error).context("the image is there now, but the command can't be started afresh; run it again")
}

/// What the machine begins as, if it can begin as a copy of a guest that is ready.
fn ready_point(options: &Run, machines: &Machines, image: &Image, config: &Config) -> Option<ReadyPoint> {
    let engine = &options.engine;
    // A console shows what a guest says while it boots; and who asks about the engine's work wants to see all of it.
    let on_console = !options.detach && options.command.is_empty();
    let is_watched = engine.profile || engine.dump_translation.is_some() || engine.engine == Engine::Lockstep;
    // On a tap device the guest has to ask that network for its address.
    let has_more = !config.disks.is_empty() || config.tap.is_some() || options.debugging.gdb.is_some();
    if options.cold || on_console || is_watched || has_more {
        return None;
    }
    let made = machines.ready_point(
        config,
        |path| make_disks(path, image, config),
        |directory| start(directory).map_err(|error| Error::Refused(error.to_string())),
    );
    made.inspect_err(|error| log::warn!("the guest is booted, since none can be kept ready: {error}")).ok()
}

/// A machine that couldn't even be started isn't kept.
fn remove_unless_it_ran(machines: &Machines, name: &str, error: anyhow::Error) -> anyhow::Error {
    let never_ran = |directory: &Directory| directory.state().is_ok_and(|state| state.started == 0);
    if let Ok(directory) = machines.open(name)
        && never_ran(&directory)
        && directory.remove().is_ok()
    {
        Events::new(machines.store()).add(name, "destroy", None);
    }
    error
}

fn config(options: &Run, image: &Image) -> anyhow::Result<(Config, translator::Options)> {
    let manifest = &image.manifest;
    let (engine, rest) = engine_config(&options.engine)?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (named, tap) = place(options)?;
    let config = Config {
        format: 1,
        created,
        image: image.name.to_string(),
        kernel: manifest.kernel.sha256.clone(),
        run_initrd: manifest.run_initrd.sha256.clone(),
        base_disk: manifest.disk.as_ref().map(|disk| disk.sha256.clone()),
        append: manifest.append.clone(),
        cpus: options.size.cpus.get(),
        memory: options.size.memory,
        hypervisor: options.size.hypervisor(),
        portable: options.portable,
        paging: options.size.mmu.map(Mmu::paging),
        cpu_limit: options.cpu_limit,
        network: network(kind(options), &[])?.is_some(),
        private_network: named.map(str::to_owned),
        tap: tap.map(str::to_owned),
        publish: options.publish.clone(),
        volumes: volumes(&options.volumes)?,
        disks: options.disks.clone(),
        workdir: options.workdir.clone(),
        terminal: options.tty && !options.command.is_empty(),
        command: options.command.clone(),
        environment: environment(&options.environment)?,
        remove: options.rm,
        unconfined: options.confinement.no_sandbox,
        engine,
        template: false,
        takes_command: false,
        takes_shares: false,
    };
    Ok((config, rest))
}

/// Whether there is a network: `--network` knows the words of `--net` too.
fn kind(options: &Run) -> Network {
    options.network.as_deref().and_then(|text| Network::from_str(text, false).ok()).unwrap_or(options.net)
}

/// What `--network` says else: a named network, or a tap device, whose name may be empty.
fn place(options: &Run) -> anyhow::Result<(Option<&str>, Option<&str>)> {
    let is_named = |text: &&str| Network::from_str(text, false).is_err();
    let Some(text) = options.network.as_deref().filter(is_named) else { return Ok((None, None)) };
    let tap = match text.strip_prefix("tap") {
        Some("") => Some(""),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    };
    if let Some(name) = tap {
        name.parse::<TapName>().with_context(|| format!("--network {text}"))?;
        ensure!(
            text == "tap" || !name.is_empty(),
            "--network {text}: give the device's name, or leave `=` out"
        );
    }
    Ok(if tap.is_some() { (None, tap) } else { (Some(text), None) })
}

/// What `--volume` says, with absolute paths: the machine's process may have another working directory.
fn volumes(texts: &[String]) -> anyhow::Result<Vec<String>> {
    let volume = |text: &String| {
        let mut share: ShareOptions = text.parse().map_err(|error| anyhow!("--volume {error}"))?;
        let path = share.host.canonicalize();
        share.host =
            path.with_context(|| format!("--volume {text}: can't share {}", share.host.display()))?;
        ensure!(
            share.host.to_str().is_some(),
            "--volume {text}: the path isn't UTF-8; choose another name for it"
        );
        Ok(share.to_string())
    };
    texts.iter().map(volume).collect()
}

/// The machine's own copy-on-write disk, if its image has a disk, and empty ones.
fn make_disks(path: &Path, image: &Image, config: &Config) -> rvisor_instances::Result<()> {
    if let Some(base) = &image.disk {
        create_overlay(&Directory::disk_in(path), base, Some(Format::Raw))?;
    }
    for (number, &size) in config.disks.iter().enumerate() {
        create_empty(&Directory::other_disk_in(path, number), Format::Qcow2, size)?;
    }
    Ok(())
}

/// What a command in the guest gets to know of the user's environment.
pub fn environment(given: &[String]) -> anyhow::Result<Vec<String>> {
    let mut environment = vec!["HOME=/root".to_owned()];
    let passed = |name: &str| std::env::var(name).ok().map(|value| format!("{name}={value}"));
    environment.extend(["TERM", "LANG"].into_iter().filter_map(passed));
    for word in given {
        match word.split_once('=') {
            Some(("", _)) => bail!("--env {word}: a variable has a name; write NAME=VALUE"),
            Some(_) => environment.push(word.clone()),
            None => environment.extend(passed(word)),
        }
    }
    Ok(environment)
}

/// Runs the machine in this process, on its standard streams.
fn foreground(
    directory: Directory,
    lock: Lock,
    rest: translator::Options,
    gdb: Option<GdbListener>,
    gdb_wait: bool,
) -> anyhow::Result<ExitCode> {
    let config = directory.config()?;
    let on_console = !config.is_for_command() || config.terminal;
    confinement::warn(config.unconfined);
    let process = VmProcess::new(directory, lock, rest)?;
    let _listening = gdb.map(|gdb| process.accept_gdb(gdb, gdb_wait)).transpose()?;
    let profile = process.profiler();
    let vm = Arc::downgrade(process.vm());
    let raw = if on_console { RawTerminal::enter()? } else { None };
    let filter = raw.is_some().then(|| {
        eprint!("rvisor: {ESCAPE_HELP}\r\n");
        let quit = move || {
            if let Some(vm) = vm.upgrade() {
                vm.request_power(PowerRequest::PowerOff);
            }
        };
        escape_filter(quit, || eprint!("\r\nrvisor: {ESCAPE_HELP}\r\n"))
    });
    let end = process.run(Front::Foreground(filter), || ());
    drop(raw);
    let code = report(end?)?;
    if let Some(profile) = profile() {
        eprint!("{profile}");
    }
    Ok(code)
}

fn report(end: End) -> anyhow::Result<ExitCode> {
    end.last_lines.iter().for_each(|line| eprintln!("{line}"));
    match end.error {
        Some(error) => bail!(error),
        None => Ok(ExitCode::from(end.code)),
    }
}

/// Starts a machine's process in the background.
pub fn start(directory: &Directory) -> anyhow::Result<()> {
    let store = store(directory)?;
    let config = directory.config()?;
    // Who runs a copy of a template is told once, for the copy.
    if !config.template {
        confinement::warn(config.unconfined);
    }
    Ok(start_detached(directory, &["machine-process", "--store", store, directory.name()])?)
}

fn store(directory: &Directory) -> anyhow::Result<&str> {
    directory.store().to_str().context("the store's path isn't UTF-8; set RVISOR_HOME to another")
}

/// Starts the process of a machine that arrives from elsewhere.
pub fn start_arriving(directory: &Directory) -> anyhow::Result<Arrival> {
    let store = store(directory)?;
    let words = ["machine-process", "--arriving", "--store", store, directory.name()];
    Ok(rvisor_instances::start_arriving(directory, &words)?)
}

/// Says that the machine could go on, and waits for the word that it shall. The note that it hasn't arrived goes then.
fn hold(note: &Path) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{PREPARED}")?;
    let mut word = String::new();
    io::stdin().read_line(&mut word)?;
    if word.trim_end() != GO {
        return Err(io::Error::other("the machine wasn't handed over"));
    }
    fs::remove_file(note)?;
    // Whoever doesn't hear this takes the machine for one that has never run.
    writeln!(stdout, "{READY}")
}

/// What such a process does.
pub fn machine_process(store: &Path, name: &str, arriving: bool) -> anyhow::Result<ExitCode> {
    // It outlives the session and the terminal that it was started from. A leader of a session has left already.
    let _ = rustix::process::setsid();
    let directory = Machines::new(store).open(name)?;
    let lock = directory.lock()?;
    if directory.config()?.template {
        // Who wants a copy of it waits for it, and nobody else will end it.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
    if arriving {
        let note = directory.arriving_note();
        let hold = Box::new(move || hold(&note));
        let process = VmProcess::arriving(directory, lock, translator::Options::default(), hold)?;
        return report(process.run(Front::Detached, || ())?);
    }
    let process = VmProcess::new(directory, lock, translator::Options::default())?;
    report(process.run(Front::Detached, || println!("{READY}"))?)
}
