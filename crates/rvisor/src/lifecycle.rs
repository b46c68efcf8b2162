//! `rvisor start`, `stop`, `kill`, `restart`, `pause`, `resume`, `rm`, `rename` and `wait`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use rvisor_images::Store;
use rvisor_instances::{Client, Directory, Error, Events, Machines, Status};

use crate::cli::{Format, Kill, PortCommand, Rm, Signal, Start, Stop};
use crate::several::{self, all_at_once, each};
use crate::{run, sessions};

/// All machines of this user.
pub fn machines() -> anyhow::Result<Machines> {
    Ok(Machines::new(&std::path::absolute(Store::open_default()?.root())?))
}

/// Does something with each machine and prints its name.
fn for_each(names: &[String], what: impl Fn(Directory) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    let is_done = each(names, |name| {
        what(machines.open(name)?)?;
        println!("{name}");
        Ok(())
    });
    Ok(several::code(is_done))
}

/// The same with all machines at once, for what takes its time.
fn for_all(
    names: &[String],
    what: impl Fn(Directory) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let is_done = all_at_once(&names, |name| what(machines.open(name)?), |name| println!("{name}"));
    Ok(several::code(is_done))
}

/// `rvisor start`.
pub fn start(options: &Start) -> anyhow::Result<ExitCode> {
    if !options.attach && !options.interactive {
        return for_each(&options.machines, |directory| start_one(&directory, options));
    }
    let [name] = options.machines.as_slice() else { bail!("--attach is for one machine; name one") };
    let directory = machines()?.open(name)?;
    start_one(&directory, options)?;
    sessions::attach_to(&directory, true)
}

/// Starts a machine, or leaves one as it is that runs.
fn start_one(directory: &Directory, options: &Start) -> anyhow::Result<()> {
    directory.config()?;
    let name = directory.name();
    match Client::new(directory).live() {
        Ok(live) if live.paused => {
            bail!("machine {name} is paused; let it go on with `rvisor resume {name}`")
        }
        Ok(_) if options.cold => {
            bail!(
                "machine {name} is running already; leave --cold out, or stop it first with `rvisor stop {name}`"
            )
        }
        Ok(_) => return Ok(()),
        Err(Error::NotRunning(_)) => {}
        Err(error) => return Err(error.into()),
    }
    if options.force {
        directory.forget_moved()?;
    }
    if options.cold {
        directory.forget_saved()?;
    }
    // Another command may have been quicker.
    run::start(directory).or_else(|error| Client::new(directory).live().map(|_| ()).map_err(|_| error))
}

/// `rvisor stop`. A machine that has ended already is left alone.
pub fn stop(options: &Stop) -> anyhow::Result<ExitCode> {
    for_all(&options.machines, |directory| Ok(stop_one(&directory, options.time)?))
}

fn stop_one(directory: &Directory, patience: Duration) -> Result<(), Error> {
    match Client::new(directory).stop(patience) {
        Err(Error::NotRunning(_)) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// `rvisor kill`.
pub fn kill(options: &Kill) -> anyhow::Result<ExitCode> {
    for_each(&options.machines, |directory| {
        let client = Client::new(&directory);
        let done = match options.signal {
            Signal::Kill => client.kill().map(|_| ()),
            Signal::Terminate => client.power_off(),
        };
        Ok(done?)
    })
}

/// `rvisor restart`.
pub fn restart(options: &Stop) -> anyhow::Result<ExitCode> {
    for_all(&options.machines, |directory| {
        if directory.config()?.remove {
            bail!("machine {} goes when it ends (--rm), so it can't be started again", directory.name());
        }
        stop_one(&directory, options.time)?;
        run::start(&directory)
    })
}

/// `rvisor pause`.
pub fn pause(names: &[String]) -> anyhow::Result<ExitCode> {
    for_each(names, |directory| Ok(Client::new(&directory).pause()?))
}

/// `rvisor resume`.
pub fn resume(names: &[String]) -> anyhow::Result<ExitCode> {
    for_each(names, |directory| {
        Client::new(&directory).resume()?;
        // If it was handed over, somebody knows better.
        Ok(directory.forget_moved()?)
    })
}

/// `rvisor rm`.
pub fn remove(options: &Rm) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    let events = Events::new(machines.store());
    let is_done = each(&options.machines, |name| {
        let directory = match machines.open(name) {
            // It is gone, as was wanted.
            Err(error @ Error::NoMachine(_)) if options.force => {
                several::warn(error);
                return Ok(());
            }
            directory => directory?,
        };
        if options.force && directory.is_running()? {
            match Client::new(&directory).kill() {
                Ok(_) | Err(Error::NotRunning(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match directory.remove() {
            // A machine of `run --rm` that has just ended removes itself.
            Err(Error::NoMachine(_)) if options.force => {}
            result => {
                result?;
                events.add(name, "destroy", None);
            }
        }
        println!("{name}");
        Ok(())
    });
    Ok(several::code(is_done))
}

/// `rvisor rename`.
pub fn rename(machine: &str, name: &str) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    machines.open(machine)?.rename(name)?;
    Events::new(machines.store()).add(machine, "rename", Some(name.to_owned()));
    Ok(ExitCode::SUCCESS)
}

/// `rvisor wait`: a line with the exit code for each machine.
pub fn wait(names: &[String]) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    // A name that is wrong is told of before anything is waited for.
    let mut directories = Vec::new();
    let are_there = each(names, |name| {
        directories.push(machines.open(name)?);
        Ok(())
    });
    let are_over = each(&directories, |directory| {
        let code = match Client::new(directory).wait() {
            Ok(code) => code,
            // It has ended already, or its process was killed meanwhile and is about to let go of the lock.
            Err(error @ (Error::NotRunning(_) | Error::Refused(_))) => {
                directory.wait()?;
                exit_code(directory).ok_or(error)?
            }
            Err(error) => return Err(error.into()),
        };
        println!("{code}");
        Ok(())
    });
    Ok(several::code(are_there && are_over))
}

/// `rvisor port`.
pub fn port(command: &PortCommand) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    match command {
        PortCommand::Add { machine, ports } => {
            let directory = machines.open(machine)?;
            return Ok(several::code(each(ports, |port| Ok(Client::new(&directory).add_port(port)?))));
        }
        PortCommand::Rm { machine, ports } => {
            let directory = machines.open(machine)?;
            return Ok(several::code(each(ports, |port| Ok(Client::new(&directory).remove_port(port)?))));
        }
        PortCommand::Ls { machine, format } => {
            let ports = Client::new(&machines.open(machine)?).ports()?;
            match format {
                Format::Json => println!("{}", serde_json::to_string_pretty(&ports)?),
                Format::Table => ports.iter().for_each(|port| println!("{port}")),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit code of a machine that has ended.
pub fn exit_code(directory: &Directory) -> Option<u8> {
    const KILLED: u8 = 128 + 9;
    let state = directory.state().ok()?;
    match state.status {
        Status::Exited => state.exit_code,
        Status::Crashed => Some(KILLED),
        _ => None,
    }
}
