//! `rvisor start`, `stop`, `kill`, `restart`, `pause`, `resume`, `rm`, `rename` and `wait`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use rvisor_images::Store;
use rvisor_instances::{Client, Directory, Error, Events, Machines, Status};

use crate::cli::{Format, PortCommand, Rm, Start, Stop};
use crate::{run, sessions};

/// All machines of this user.
pub fn machines() -> anyhow::Result<Machines> {
    Ok(Machines::new(&std::path::absolute(Store::open_default()?.root())?))
}

/// Does something with each machine and prints its name; the first that it can't be done with is the error.
fn for_each(names: &[String], what: impl Fn(Directory) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    for name in names {
        what(machines.open(name)?)?;
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// `rvisor start`.
pub fn start(options: &Start) -> anyhow::Result<ExitCode> {
    if !options.attach {
        return for_each(&options.machines, |directory| start_one(&directory, options));
    }
    let [name] = options.machines.as_slice() else { bail!("--attach is for one machine; name one") };
    let directory = machines()?.open(name)?;
    start_one(&directory, options)?;
    sessions::attach_to(&directory, true)
}

fn start_one(directory: &Directory, options: &Start) -> anyhow::Result<()> {
    directory.config()?;
    if directory.is_running()? {
        bail!("machine {} is running already", directory.name());
    }
    if options.force {
        directory.forget_moved()?;
    }
    if options.cold {
        directory.forget_saved()?;
    }
    run::start(directory)
}

/// `rvisor stop`. A machine that has ended already is left alone.
pub fn stop(options: &Stop) -> anyhow::Result<ExitCode> {
    for_each(&options.machines, |directory| Ok(stop_one(&directory, options.time)?))
}

fn stop_one(directory: &Directory, patience: Duration) -> Result<(), Error> {
    match Client::new(directory).stop(patience) {
        Err(Error::NotRunning(_)) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// `rvisor kill`.
pub fn kill(names: &[String]) -> anyhow::Result<ExitCode> {
    for_each(names, |directory| Ok(Client::new(&directory).kill().map(|_| ())?))
}

/// `rvisor restart`.
pub fn restart(options: &Stop) -> anyhow::Result<ExitCode> {
    for_each(&options.machines, |directory| {
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
    for name in &options.machines {
        let directory = machines.open(name)?;
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
    }
    Ok(ExitCode::SUCCESS)
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
    for name in names {
        let directory = machines.open(name)?;
        let code = match Client::new(&directory).wait() {
            Ok(code) => code,
            // It has ended already, or its process was killed meanwhile and is about to let go of the lock.
            Err(error @ (Error::NotRunning(_) | Error::Refused(_))) => {
                directory.wait()?;
                exit_code(&directory).ok_or(error)?
            }
            Err(error) => return Err(error.into()),
        };
        println!("{code}");
    }
    Ok(ExitCode::SUCCESS)
}

/// `rvisor port`.
pub fn port(command: &PortCommand) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    match command {
        PortCommand::Add { machine, ports } => {
            let directory = machines.open(machine)?;
            ports.iter().try_for_each(|port| Client::new(&directory).add_port(port))?;
        }
        PortCommand::Rm { machine, ports } => {
            let directory = machines.open(machine)?;
            ports.iter().try_for_each(|port| Client::new(&directory).remove_port(port))?;
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
