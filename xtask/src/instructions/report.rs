//! The table: a row for each operation.

use anyhow::Context;

use super::Instructions;
use super::machine::Ran;

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
pub struct Report;

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
        Self
    }

    /// A row: one of `count` operations that `more` has done beyond `less`.
    pub fn operation(&mut self, name: &str, less: &Figure, more: &Figure, count: f64) {
        let each = |field: fn(&Figure) -> u64| (field(more) as f64 - field(less) as f64) / count;
        self.row(name, 1, each);
    }

    /// A row for something that is done once.
    pub fn whole(&mut self, name: &str, figure: &Figure) {
        self.row(name, 0, |field| field(figure) as f64);
    }

    fn row(&mut self, name: &str, digits: usize, each: impl Fn(fn(&Figure) -> u64) -> f64) {
        let (alone, monitored) = (each(|figure| figure.alone), each(|figure| figure.monitored));
        println!(
            "| {name} | {alone:.digits$} | {monitored:.digits$} | {:.3} | {:.digits$} | {:.digits$} | {:.digits$} |",
            monitored / alone,
            each(|figure| figure.switches),
            each(|figure| figure.shortcuts),
            each(|figure| figure.fills),
        );
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
}
