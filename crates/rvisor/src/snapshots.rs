//! `rvisor snapshot`, `clone`, `export` and `import`.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use rvisor_images::Store;
use rvisor_instances::{Client, Directory, Error, Events, Lock, Machines, SnapshotInfo, check_name};

use crate::boot;
use crate::cli::{CloneMachine, Format, SnapshotCommand};
use crate::lifecycle::machines;
use crate::several::{self, each};
use crate::{run, table};

/// `rvisor snapshot`.
pub fn snapshot(command: &SnapshotCommand) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    let events = Events::new(machines.store());
    match command {
        SnapshotCommand::Create { compress, machine, name } => {
            let info = machines.open(machine)?.make_snapshot(name.as_deref(), *compress)?;
            events.add(machine, "snapshot", Some(info.name.clone()));
            println!("{}", info.name);
        }
        SnapshotCommand::Ls { machine, format } => list(&machines.open(machine)?, *format)?,
        SnapshotCommand::Rm { machine, names } => {
            let directory = machines.open(machine)?;
            let is_done = each(names, |name| {
                directory.remove_snapshot(name)?;
                println!("{name}");
                Ok(())
            });
            return Ok(several::code(is_done));
        }
        SnapshotCommand::Restore { machine, name, force, no_start } => {
            restore(&machines.open(machine)?, name.as_deref(), *force, *no_start)?;
            events.add(machine, "restore", name.clone());
            println!("{machine}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn restore(directory: &Directory, name: Option<&str>, force: bool, no_start: bool) -> anyhow::Result<()> {
    let snapshots = directory.snapshots()?;
    let named = |info: &&SnapshotInfo| name.is_none_or(|name| info.name == name);
    let Some(info) = snapshots.iter().map(|(info, _)| info).rfind(named) else {
        let machine = directory.name();
        match name {
            Some(name) => {
                bail!("machine {machine} has no snapshot {name}; `rvisor snapshot ls {machine}` lists them")
            }
            None => {
                bail!("machine {machine} has no snapshot; make one with `rvisor snapshot create {machine}`")
            }
        }
    };
    if directory.is_running()? {
        if !force {
            bail!("machine {} is running; use --force to end it and go back", directory.name());
        }
        if directory.config()?.remove {
            bail!("machine {} goes when it ends (--rm), so it can't go back", directory.name());
        }
        match Client::new(directory).kill() {
            Ok(_) | Err(Error::NotRunning(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let lock = directory.lock()?;
    directory.restore_snapshot(&info.name, &lock)?;
    go_on(directory, lock, info.running && !no_start)
}

/// Starts a machine in the background, if it is to go on.
fn go_on(directory: &Directory, lock: Lock, goes_on: bool) -> anyhow::Result<()> {
    drop(lock);
    if goes_on { run::start(directory) } else { Ok(()) }
}

fn list(directory: &Directory, format: Format) -> anyhow::Result<()> {
    let snapshots = directory.snapshots()?;
    if format == Format::Json {
        let infos: Vec<_> = snapshots.iter().map(|(info, _)| info).collect();
        println!("{}", serde_json::to_string_pretty(&infos)?);
        return Ok(());
    }
    let rows = snapshots.iter().map(|(info, bytes)| {
        let kind = if info.running { "running" } else { "stopped" };
        let created = table::moment(info.created * 1000);
        [info.name.clone(), created, kind.to_owned(), table::size(*bytes)]
    });
    table::print(["NAME", "CREATED", "MACHINE", "SIZE"], rows);
    Ok(())
}

/// `rvisor clone`.
pub fn clone(options: &CloneMachine) -> anyhow::Result<ExitCode> {
    check_name(&options.name)?;
    let machines = machines()?;
    let original = machines.open(&options.machine)?;
    let (directory, lock, running) = machines.copy(&original, options.snapshot.as_deref(), &options.name)?;
    Events::new(machines.store()).add(&options.name, "create", Some(options.machine.clone()));
    go_on(&directory, lock, running && !options.no_start)?;
    println!("{}", options.name);
    Ok(ExitCode::SUCCESS)
}

/// `rvisor export`.
pub fn export(output: Option<&Path>, machine: &str) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    let directory = machines.open(machine)?;
    let Some(path) = output else {
        if io::stdout().is_terminal() {
            bail!("an exported machine is nothing for a terminal; give --output or redirect it");
        }
        rvisor_instances::export(
            &machines,
            &directory,
            &mut BufWriter::with_capacity(1 << 20, io::stdout()),
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    write_whole(path, |file| rvisor_instances::export(&machines, &directory, file))?;
    Ok(ExitCode::SUCCESS)
}

/// A file that is there as a whole or not at all.
pub fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> anyhow::Result<()> {
    let told = || format!("can't write {}; choose another --output", path.display());
    let name = path.file_name().with_context(told)?.to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let file = File::create(&temporary).with_context(told)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let written = fill(&mut writer).map_err(anyhow::Error::from).and_then(|()| {
        writer.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all())?;
        fs::rename(&temporary, path).with_context(told)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Where this host keeps translated code.
pub fn code_cache() -> anyhow::Result<Option<std::path::PathBuf>> {
    let cache = boot::code_cache().map(std::path::absolute).transpose();
    cache.context("the directory for translated code has no absolute path")
}

/// `rvisor import`.
pub fn import(file: &Path, name: &str, copy: bool, no_start: bool) -> anyhow::Result<ExitCode> {
    check_name(name)?;
    let mut input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file);
        let told = || format!("can't read {}; check its name and permissions", file.display());
        Box::new(BufReader::with_capacity(1 << 20, opened.with_context(told)?))
    };
    make(&Store::open_default()?, &mut *input, name, copy, no_start)
}

/// Makes the machine that a file has which this program has written, under its name there or another.
pub fn import_from(
    store: &Store,
    input: &mut dyn Read,
    name: &str,
    no_start: bool,
) -> anyhow::Result<ExitCode> {
    make(store, input, name, false, no_start)
}

fn make(
    store: &Store,
    input: &mut dyn Read,
    name: &str,
    copy: bool,
    no_start: bool,
) -> anyhow::Result<ExitCode> {
    let machines = Machines::new(&std::path::absolute(store.root())?);
    let (directory, lock, running) =
        rvisor_instances::import(&machines, store, name, copy, code_cache()?, input)?;
    Events::new(machines.store()).add(name, "create", None);
    go_on(&directory, lock, running && !no_start)?;
    println!("{name}");
    Ok(ExitCode::SUCCESS)
}
