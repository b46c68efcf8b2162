//! `rvisor migrate` and `rvisor receive`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use rvisor_images::Store;
use rvisor_instances::migration::{
    Announced, Identity, MigrateOptions, ReceiveOptions, Report, migrate as move_to,
};
use rvisor_instances::{Error, Events, Machines, migration};
use serde_json::json;

use crate::cli::{Format, Migrate, Receive};
use crate::lifecycle::machines;
use crate::{confinement, run, snapshots, table};

/// Asks the person at the terminal, if there is one.
fn ask(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    eprint!("rvisor: {question} (yes/no) ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim().eq_ignore_ascii_case("yes")
}

/// `rvisor migrate`.
pub fn migrate(options: &Migrate) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    if options.show_key {
        println!("{}", Identity::open(machines.store())?.fingerprint());
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(machine), Some(target)) = (&options.machine, &options.target) else {
        bail!("a machine and where it goes to are needed; see --help");
    };
    let directory = machines.open(machine)?;
    let wanted = MigrateOptions {
        address: target.clone(),
        peer_key: options.peer_key.clone(),
        max_downtime: Duration::from_millis(options.max_downtime.into()),
        trust: &ask,
    };
    let report = move_to(&directory, &wanted)?;
    match options.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Table => print(&report),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) {
    let rows = (1..).zip(&report.rounds).map(|(number, round)| {
        let name = if number == report.rounds.len() { "last".into() } else { number.to_string() };
        let [memory, disk, sent] = [round.memory, round.disk, round.sent].map(table::size);
        [name, memory, disk, sent, format!("{} ms", round.milliseconds)]
    });
    table::print(["ROUND", "MEMORY", "DISKS", "SENT", "TIME"], rows);
    println!(
        "{} runs on {}; it stood still for {} ms, and moving it took {:.2} s and {}",
        report.machine,
        report.target,
        report.downtime_ms,
        report.total_ms / 1000.0,
        table::size(report.sent)
    );
}

/// `rvisor receive`.
pub fn receive(options: &Receive) -> anyhow::Result<ExitCode> {
    let store = Store::open_default()?;
    let machines = Machines::new(&std::path::absolute(store.root())?);
    let is_json = options.format == Format::Json;
    let announce = |announced: &Announced| match announced {
        Announced::Listening(address, key) if is_json => {
            println!("{}", json!({"address": address, "key": key}))
        }
        Announced::Listening(address, key) => {
            println!("listening on {address}");
            if let Some(key) = key {
                println!("key {key}");
            }
        }
        Announced::Refused(text) => eprintln!("rvisor: warning: {text}"),
    };
    let wanted = ReceiveOptions {
        listen: options.listen.clone(),
        name: options.name.clone(),
        peer_keys: options.peer_key.clone(),
        max_memory: options.max_memory.unwrap_or_else(host_memory),
        forward_ports: !options.no_publish,
        code_cache: snapshots::code_cache()?,
        trust: &ask,
        start: &|directory| {
            run::start_arriving(directory).map_err(|error| match error.downcast::<Error>() {
                Ok(error) => error,
                Err(error) => Error::Refused(error.to_string()),
            })
        },
    };
    confinement::warn(false);
    let name = migration::receive(&machines, &store, &wanted, &announce)?;
    Events::new(machines.store()).add(&name, "create", None);
    if is_json {
        println!("{}", json!({ "machine": name }));
    } else {
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes of memory that this host has.
fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}
