//! Compares the hart with the Sail model and prints what was compared.

use std::process::ExitCode;

use rvisor_oracle::Comparison;

const USAGE: &str = "usage: rvisor-oracle [--count INSTRUCTIONS] [--seed NUMBER]";

fn main() -> ExitCode {
    let Some((count, seed)) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    // The model panics where it isn't complete; that is reported, not printed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut comparison = Comparison::new(seed);
    let report = comparison.run(count);
    println!("{report}");
    if report.differing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The count and the seed; `None` for arguments that make no sense.
fn arguments() -> Option<(u64, u64)> {
    let (mut count, mut seed) = (1_000_000, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--count" => count = value,
            "--seed" => seed = value,
            _ => return None,
        }
    }
    Some((count, seed))
}
