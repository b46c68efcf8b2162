//! The table: a row for each operation.

use anyhow::{Context, bail};

use super::machine::Ran;
use super::{Bound, Instructions};

/// Totals of two machines that did the same.
#[derive(Clone, Copy)]
pub struct Figure {
    /// Instructions of the machine that did it alone.
    pub alone: u64,
    monitored: u64,
    /// World switches, and traps that needed none.
    switches: u64,
    shortcuts: u64,
    fills: u64,
}

impl Figure {
    /// Takes what the monitor's machine did.
    pub fn add_monitored(&mut self, ran: &Ran) -> anyhow::Result<()> {
        let line = ran.console.lines().find(|line| line.contains("guest g: powered off"));
        let line = line.with_context(|| format!("the guest didn't end well:\n{}", ran.console))?;
        self.monitored = ran.instructions;
        let before = |words: &str| number_before(line, words);
        self.switches = before(" world switches").unwrap_or(0);
        let shortcuts = line.split_once("without one:").map_or("", |(_, rest)| rest);
        self.shortcuts = [" calls", " privileged instructions"]
            .iter()
            .filter_map(|words| number_before(shortcuts, words))
            .sum();
        self.fills = before(" shadow pages filled").unwrap_or(0);
        Ok(())
    }
}

/// The number in front of `words` in `line`.
fn number_before(line: &str, words: &str) -> Option<u64> {
    let text = line.split_once(words)?.0;
    text.rsplit(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
}

/// Prints rows as they come.
pub struct Report {
    /// Chooses among bounds; nothing is bounded for a monitor with words of its own.
    hypervisor: Option<bool>,
    /// Ratios above their bounds, with their rows' names.
    exceeded: Vec<String>,
}

impl Report {
    /// Before anything ran.
    pub const NOTHING: Figure = Figure { alone: 0, monitored: 0, switches: 0, shortcuts: 0, fills: 0 };

    /// Prints the table's head.
    pub fn new(options: &Instructions) -> Self {
        let extension = if options.hypervisor { "with H" } else { "without H" };
        println!(
            "| {:?}, {extension} | alone | with the monitor | ratio | world switches | served without | pages filled |",
            options.machine
        );
        println!("|---|---|---|---|---|---|---|");
        let hypervisor = options.monitor.is_empty().then_some(options.hypervisor);
        Self { hypervisor, exceeded: Vec::new() }
    }

    /// A row: one of `count` operations that `more` has done beyond `less`.
    pub fn operation(&mut self, name: &str, less: &Figure, more: &Figure, count: f64, bound: Option<Bound>) {
        let each = |field: fn(&Figure) -> u64| (field(more) as f64 - field(less) as f64) / count;
        self.row(name, 1, each, bound);
    }

    /// A row for something that is done once.
    pub fn whole(&mut self, name: &str, figure: &Figure, bound: Bound) {
        self.row(name, 0, |field| field(figure) as f64, Some(bound));
    }

    fn row(
        &mut self,
        name: &str,
        digits: usize,
        each: impl Fn(fn(&Figure) -> u64) -> f64,
        bound: Option<Bound>,
    ) {
        let (alone, monitored) = (each(|figure| figure.alone), each(|figure| figure.monitored));
        let ratio = monitored / alone;
        println!(
            "| {name} | {alone:.digits$} | {monitored:.digits$} | {ratio:.3} | {:.digits$} | {:.digits$} | {:.digits$} |",
            each(|figure| figure.switches),
            each(|figure| figure.shortcuts),
            each(|figure| figure.fills),
        );
        if let (Some(bound), Some(hypervisor)) = (bound, self.hypervisor) {
            let bound = if hypervisor { bound.with_hypervisor } else { bound.without_hypervisor };
            // Nothing at all, or nothing alone, is no good ratio either.
            if !(0.0..=bound).contains(&ratio) {
                self.exceeded.push(format!("{name}: {ratio:.3}, at most {bound}"));
            }
        }
    }

    /// Whether all ratios are within their bounds.
    pub fn end(self) -> anyhow::Result<()> {
        if !self.exceeded.is_empty() {
            bail!("the monitor costs more instructions than it is held to: {}", self.exceeded.join("; "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "rvisor: guest g: powered off after 16 ms of processor time; 38 world switches: 7 privileged \
                        instructions, 25 calls, 5 page faults, 1 interrupts; without one: 101 calls, \
                        1214 privileged instructions, 5 shadow pages filled";

    #[test]
    fn counts_are_read_from_the_monitors_line() {
        let mut figure = Report::NOTHING;
        figure.add_monitored(&Ran { instructions: 9, console: LINE.into() }).unwrap();
        assert_eq!((figure.switches, figure.shortcuts, figure.fills), (38, 1315, 5));
        assert!(figure.add_monitored(&Ran { instructions: 9, console: "trap".into() }).is_err());
    }

    #[test]
    fn ratios_above_their_bounds_are_told() {
        const BOUND: Bound = Bound { without_hypervisor: 2.0, with_hypervisor: 1.5 };
        let run = |hypervisor, alone, monitored| {
            let mut report = Report { hypervisor, exceeded: Vec::new() };
            report.whole("work", &Figure { alone, monitored, ..Report::NOTHING }, BOUND);
            report.end().map_err(|error| error.to_string())
        };
        assert_eq!(run(Some(false), 10, 20), Ok(()));
        assert_eq!(run(Some(true), 10, 15), Ok(()));
        assert_eq!(run(None, 10, 90), Ok(()));
        let told = "the monitor costs more instructions than it is held to: work: ";
        assert_eq!(run(Some(false), 10, 21), Err(format!("{told}2.100, at most 2")));
        assert_eq!(run(Some(true), 10, 16), Err(format!("{told}1.600, at most 1.5")));
        assert_eq!(run(Some(true), 0, 0), Err(format!("{told}NaN, at most 1.5")));
    }
}
