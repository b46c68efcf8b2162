//! How long steps tell what they are doing.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// What a step counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Packages, files, commands.
    Items,
}

/// Hears of the steps of a pull or a build. One step runs at a time; it may advance from several threads.
pub trait Progress: Sync {
    /// A step begins that takes `total` units.
    fn begin(&self, step: &str, total: u64, unit: Unit);
    /// `amount` more units are done.
    fn advance(&self, amount: u64);
    /// What the step is at now.
    fn detail(&self, text: &str);
    /// The step is done, or given up.
    fn end(&self);
}

/// Says nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _amount: u64) {}
    fn detail(&self, _text: &str) {}
    fn end(&self) {}
}

/// A bar on a terminal's standard error, otherwise plain lines there.
#[must_use]
pub fn for_standard_error() -> Box<dyn Progress> {
    if stderr().is_terminal() { Box::new(Bars::default()) } else { Box::new(Lines::default()) }
}

/// Bars on a terminal.
#[derive(Debug, Default)]
pub struct Bars(Mutex<Option<ProgressBar>>);

impl Bars {
    fn with(&self, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn begin(&self, step: &str, total: u64, unit: Unit) {
        let template = match unit {
            Unit::Bytes => "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}",
            Unit::Items => "{prefix} [{bar:30}] {pos}/{len} {elapsed} {wide_msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar =
            ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(step.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(bar);
    }

    fn advance(&self, amount: u64) {
        self.with(|bar| bar.inc(amount));
    }

    fn detail(&self, text: &str) {
        self.with(|bar| bar.set_message(text.to_owned()));
    }

    fn end(&self) {
        self.with(|bar| {
            bar.set_message("");
            bar.abandon();
        });
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }
}

/// A plain line at the begin and the end of a step, and every few seconds between.
#[derive(Debug, Default)]
pub struct Lines(Mutex<LineState>);

#[derive(Debug)]
struct LineState {
    step: String,
    total: u64,
    unit: Unit,
    done: u64,
    detail: String,
    printed: Instant,
}

impl Default for LineState {
    fn default() -> Self {
        let (step, detail, printed) = (String::new(), String::new(), Instant::now());
        Self { step, total: 0, unit: Unit::Items, done: 0, detail, printed }
    }
}

impl LineState {
    const INTERVAL: Duration = Duration::from_secs(3);

    fn line(&self) -> String {
        let amount = match self.unit {
            Unit::Bytes => format!("{:.1}/{:.1} MB", self.done as f64 / 1e6, self.total as f64 / 1e6),
            Unit::Items => format!("{}/{}", self.done, self.total),
        };
        format!("{}: {amount} {}", self.step, self.detail).trim_end().to_owned()
    }

    fn print_if_due(&mut self) {
        if self.printed.elapsed() >= Self::INTERVAL {
            self.printed = Instant::now();
            eprintln!("{}", self.line());
        }
    }
}

impl Lines {
    fn with(&self, act: impl FnOnce(&mut LineState)) {
        act(&mut self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

impl Progress for Lines {
    fn begin(&self, step: &str, total: u64, unit: Unit) {
        self.with(|state| {
            *state = LineState { step: step.to_owned(), total, unit, ..LineState::default() };
            eprintln!("{step}");
        });
    }

    fn advance(&self, amount: u64) {
        self.with(|state| {
            state.done += amount;
            state.print_if_due();
        });
    }

    fn detail(&self, text: &str) {
        self.with(|state| {
            text.clone_into(&mut state.detail);
            state.print_if_due();
        });
    }

    fn end(&self) {
        self.with(|state| {
            state.detail.clear();
            eprintln!("{}, ended", state.line());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_tells_step_amount_and_detail() {
        let state = LineState {
            step: "downloading".into(),
            total: 2_500_000,
            unit: Unit::Bytes,
            done: 1_000_000,
            detail: "libc6".into(),
            printed: Instant::now(),
        };
        assert_eq!(state.line(), "downloading: 1.0/2.5 MB libc6");
    }
}
