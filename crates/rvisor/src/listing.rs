//! `rvisor ps`, `inspect` and `stats`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use rvisor_instances::{Client, Directory, Error, Listed, Machines, Stats, Status};
use serde_json::{Value, json};

use crate::cli::{self, Format, Inspect, Ps};
use crate::lifecycle::machines;
use crate::several::{self, each};
use crate::table;

/// How often `stats` looks.
const PERIOD: Duration = Duration::from_secs(1);

/// `rvisor ps`.
pub fn ps(options: &Ps) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    let mut listed = machines.list()?;
    listed.retain(|listed| options.all || is_up(listed));
    match options.list.format {
        _ if options.list.quiet => listed.iter().for_each(|machine| println!("{}", machine.name)),
        Format::Json => {
            let rows: Vec<_> = listed.iter().map(|machine| as_json(&machines, machine)).collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        Format::Table => {
            let rows = listed.iter().map(|machine| {
                let config = machine.config.as_ref();
                let text = |text: Option<String>| text.unwrap_or_else(|| "-".into());
                [
                    machine.name.clone(),
                    text(config.map(|config| config.image.clone())),
                    text(config.map(|config| short(&config.command.join(" ")))),
                    status(machine),
                    ports(&machines, machine).map_or_else(|| "?".into(), |ports| ports.join(" ")),
                    table::size(machine.disk),
                ]
            });
            table::print(["NAME", "IMAGE", "COMMAND", "STATUS", "PORTS", "DISK"], rows);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_up(listed: &Listed) -> bool {
    matches!(listed.state.status, Status::Running | Status::Paused)
}

/// What is forwarded to a machine now; `None` if its process doesn't say.
fn ports(machines: &Machines, listed: &Listed) -> Option<Vec<String>> {
    if !is_up(listed) {
        return Some(Vec::new());
    }
    let ports = machines.open(&listed.name).and_then(|directory| Client::hasty(&directory).ports());
    match ports {
        Ok(ports) => Some(ports),
        Err(Error::NoAnswer { .. }) => None,
        // It has no network that is forwarded to, or has ended meanwhile.
        Err(_) => Some(Vec::new()),
    }
}

/// The start of a command, on one line.
fn short(command: &str) -> String {
    const WIDTH: usize = 30;
    let line = command.replace(|c: char| c.is_control(), " ");
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "(console)".into(),
        None => line,
    }
}

fn status(machine: &Listed) -> String {
    let state = &machine.state;
    match (state.status, state.exit_code) {
        (Status::Running, _) => format!("running, started {}", table::age(state.started)),
        (Status::Paused, _) => format!("paused, started {}", table::age(state.started)),
        (Status::Exited, Some(code)) => format!("exited ({code}) {}", table::age(state.ended)),
        (Status::Crashed, _) => format!("crashed, started {}", table::age(state.started)),
        (status, _) => status.name().into(),
    }
}

fn as_json(machines: &Machines, machine: &Listed) -> Value {
    let (config, state) = (machine.config.as_ref(), &machine.state);
    json!({
        "name": machine.name,
        "image": config.map(|config| &config.image),
        "command": config.map(|config| &config.command),
        "state": state.status.name(),
        "exit_code": state.exit_code,
        "created": config.map(|config| config.created),
        "started": state.started,
        "ended": state.ended,
        "ports": ports(machines, machine),
        "disk": machine.disk,
    })
}

/// `rvisor inspect`.
pub fn inspect(options: &Inspect) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    let path = options.format.as_deref().filter(|path| *path != "json");
    if let Some(path) = path {
        ensure!(
            !path.contains("{{"),
            "--format {path}: there are no templates; give the path of a field, as in state.status or /state/status"
        );
    }
    let mut told = Vec::new();
    let is_done = each(&options.machines, |name| {
        let directory = machines.open(name)?;
        let state = directory.state()?;
        // One that ends at this moment is told as ended.
        let live = Client::new(&directory).live().ok();
        let disk = directory.look().map_or(0, |listed| listed.disk);
        let machine = json!({
            "name": name,
            "state": state,
            "config": directory.config().ok(),
            "live": live,
            "directory": machines.store().join("machines").join(name),
            "disk": disk,
        });
        match path {
            None => told.push(machine),
            Some(path) => match field(&machine, path).with_context(|| {
                format!("machine {name} has no field {path}; `rvisor inspect {name}` shows all")
            })? {
                Value::String(text) => println!("{text}"),
                value => println!("{value}"),
            },
        }
        Ok(())
    });
    if path.is_none() {
        println!("{}", serde_json::to_string_pretty(&told)?);
    }
    Ok(several::code(is_done))
}

/// The field of a document at a path: a JSON pointer (RFC 6901), or names and numbers with dots between them.
fn field<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    let pointer = match path.starts_with('/') {
        true => Cow::from(path),
        false => format!("/{}", path.trim_start_matches('.').replace('.', "/")).into(),
    };
    document.pointer(&pointer)
}

/// `rvisor stats`.
pub fn stats(options: &cli::Stats) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    let mut before = BTreeMap::new();
    let mut is_first = true;
    loop {
        let now = sample(&machines, &options.machines)?;
        if !is_first {
            show(&before, &now, options)?;
            if options.no_stream {
                return Ok(ExitCode::SUCCESS);
            }
        }
        (before, is_first) = (now, false);
        thread::sleep(PERIOD);
    }
}

/// What each machine that runs has used so far.
fn sample(machines: &Machines, names: &[String]) -> anyhow::Result<BTreeMap<String, Stats>> {
    if !names.is_empty() {
        let stats = |name: &String| {
            let directory = machines.open(name)?;
            Ok((name.clone(), Client::new(&directory).stats()?))
        };
        return names.iter().map(stats).collect();
    }
    let stats = |listed: Listed| {
        let directory: Directory = machines.open(&listed.name).ok()?;
        directory
            .is_running()
            .ok()?
            .then(|| Client::new(&directory).stats().ok())?
            .map(|it| (listed.name, it))
    };
    Ok(machines.list()?.into_iter().filter_map(stats).collect())
}

/// What a machine uses now.
struct Usage {
    /// Per cent of one processor.
    processor: f64,
    /// Bytes.
    memory: u64,
    limit: u64,
    /// Bytes a second: received, sent, read, written.
    rates: [f64; 4],
    /// Exits a second.
    exits: f64,
    /// How often its threads were woken, a second.
    wakeups: f64,
}

impl Usage {
    fn between(before: &Stats, now: &Stats) -> Self {
        let seconds = now.time.saturating_sub(before.time).max(1) as f64 / 1e9;
        let per_second =
            |count: &dyn Fn(&Stats) -> u64| count(now).saturating_sub(count(before)) as f64 / seconds;
        let disks = |count: fn(&rvisor_instances::Transfer) -> u64| {
            per_second(&|stats| stats.disks.iter().map(count).sum())
        };
        let network = |count: fn(&rvisor_instances::Transfer) -> u64| {
            per_second(&|stats| stats.network.as_ref().map_or(0, count))
        };
        let exits = |stats: &Stats| {
            stats.harts.iter().map(|hart| hart.budget + hart.device + hart.sbi + hart.wait).sum()
        };
        Self {
            processor: per_second(&|stats| stats.processor) / 1e7,
            memory: now.memory,
            limit: now.memory_limit,
            rates: [
                network(|network| network.incoming_bytes),
                network(|network| network.outgoing_bytes),
                disks(|disk| disk.incoming_bytes),
                disks(|disk| disk.outgoing_bytes),
            ],
            exits: per_second(&exits),
            wakeups: per_second(&|stats| stats.wakeups),
        }
    }
}

fn show(
    before: &BTreeMap<String, Stats>,
    now: &BTreeMap<String, Stats>,
    options: &cli::Stats,
) -> anyhow::Result<()> {
    let usages =
        now.iter().filter_map(|(name, now)| Some((name, now, Usage::between(before.get(name)?, now))));
    if options.format == Format::Json {
        let rows: Vec<_> = usages
            .map(|(name, total, usage)| {
                let [received, sent, read, written] = usage.rates;
                json!({
                    "name": name,
                    "processor_percent": usage.processor,
                    "memory": usage.memory,
                    "memory_limit": usage.limit,
                    "network_received_per_second": received,
                    "network_sent_per_second": sent,
                    "disk_read_per_second": read,
                    "disk_written_per_second": written,
                    "exits_per_second": usage.exits,
                    "wakeups_per_second": usage.wakeups,
                    "total": total,
                })
            })
            .collect();
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&rows)?)?;
        return Ok(());
    }
    if std::io::stdout().is_terminal() && !options.no_stream {
        // To the top left, and clear what is below.
        print!("\x1b[H\x1b[J");
    }
    let rows = usages.map(|(name, total, usage)| {
        let rate = |number: usize| format!("{}/s", table::size(usage.rates[number] as u64));
        [
            name.clone(),
            format!("{:.1}%", usage.processor),
            format!("{} / {}", table::size(usage.memory), table::size(usage.limit)),
            table::size(total.memory_private),
            format!("{} / {}", rate(0), rate(1)),
            format!("{} / {}", rate(2), rate(3)),
            format!("{:.0}/s", usage.exits),
            format!("{:.0}/s", usage.wakeups),
        ]
    });
    table::print(
        ["NAME", "CPU", "MEMORY / RAM", "ITS OWN", "NET IN / OUT", "DISK READ / WRITE", "EXITS", "WAKEUPS"],
        rows,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_has_a_path_with_dots_or_slashes() {
        let document = json!({"state": {"status": "running"}, "config": {"publish": ["80:80"]}});
        for path in ["state.status", ".state.status", "/state/status"] {
            assert_eq!(field(&document, path), Some(&"running".into()), "{path}");
        }
        assert_eq!(field(&document, "config.publish.0"), Some(&"80:80".into()));
        for path in ["", ".", "state.nothing", "config.publish.1", "/state.status"] {
            assert_eq!(field(&document, path), None, "{path}");
        }
    }
}
