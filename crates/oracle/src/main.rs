//! Compares the hart with the Sail model, or with QEMU, and prints what was compared.

use std::path::Path;
use std::process::ExitCode;

use rvisor_oracle::{Comparison, Report, qemu};

const USAGE: &str =
    "usage: rvisor-oracle [--against sail|qemu] [--extensions h] [--count INSTRUCTIONS] [--seed NUMBER]";

struct Arguments {
    against_qemu: bool,
    hypervisor: bool,
    count: u64,
    seed: u64,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if arguments.against_qemu {
        // The guest's memory is a file; best in memory itself.
        let shared = Path::new("/dev/shm");
        let directory = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        return match qemu::compare(arguments.count, arguments.seed, arguments.hypervisor, &directory) {
            Ok(report) => print(&report),
            Err(error) => {
                eprintln!("qemu-system-riscv64: {error}");
                ExitCode::from(2)
            }
        };
    }
    // The model panics where it isn't complete; that is reported, not printed.
    std::panic::set_hook(Box::new(|_| {}));
    print(Comparison::new(arguments.seed).run(arguments.count))
}

fn print(report: &Report) -> ExitCode {
    println!("{report}");
    if report.differing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the command line says; `None` where it makes no sense.
fn arguments() -> Option<Arguments> {
    let mut parsed = Arguments { against_qemu: false, hypervisor: false, count: 1_000_000, seed: 1 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match (name.as_str(), value.as_str()) {
            ("--against", "sail") => parsed.against_qemu = false,
            ("--against", "qemu") => parsed.against_qemu = true,
            ("--extensions", "h") => parsed.hypervisor = true,
            ("--count", count) => parsed.count = count.parse().ok()?,
            ("--seed", seed) => parsed.seed = seed.parse().ok()?,
            _ => return None,
        }
    }
    // The Sail model's translation doesn't have it.
    (parsed.against_qemu || !parsed.hypervisor).then_some(parsed)
}
