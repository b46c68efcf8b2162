//! A machine on the user's terminal: raw mode, escape key, signals, exit codes.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rvisor_hosted::machine::Machine;
use rvisor_hosted::runner::{Ending, HostedVm, OnReset, end_on_signals};
use rvisor_hosted::sandbox::Sandbox;
use rvisor_hosted::terminal::{ESCAPE_HELP, RawTerminal, escape_filter};
use rvisor_hosted::{Stream, terminal};
use rvisor_machine::PowerRequest;
use rvisor_machine::boot::Placed;

/// What `timeout` exits with too.
const TIMED_OUT: u8 = 124;

/// How long output may take to reach a slow reader after the machine ended.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a session on the console went.
pub struct Session<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// What it boots.
    pub program: &'a Placed<'a>,
    /// Its serial line.
    pub serial: &'a Stream,
    /// What a reboot of the guest does.
    pub on_reset: OnReset,
    /// When to give up.
    pub time_limit: Option<Duration>,
    /// What confines this process.
    pub sandbox: Option<&'a Sandbox>,
}

impl Session<'_> {
    /// Runs the machine with its serial line on standard input and output.
    pub fn on_console(&self) -> anyhow::Result<ExitCode> {
        let signals = end_on_signals(self.machine.vm())?;
        let raw = RawTerminal::enter()?;
        let filter = raw.is_some().then(|| {
            eprint!("rvisor: {ESCAPE_HELP}\r\n");
            let vm = Arc::downgrade(self.machine.vm());
            escape_filter(move || quit(&vm), || eprint!("\r\nrvisor: {ESCAPE_HELP}\r\n"))
        });
        self.serial.write_to(std::io::stdout())?;
        self.serial.read_from(std::io::stdin(), filter)?;
        if let Some(sandbox) = self.sandbox {
            sandbox.confine_calls()?;
        }
        let ending = self.machine.run(self.program, self.on_reset, self.time_limit);
        self.serial.drain(PATIENCE);
        drop(raw);
        let ending = ending?;
        if let Some(signal) = signals.get() {
            return Ok(ExitCode::from(128u8.saturating_add(signal as u8)));
        }
        Ok(exit_code(ending, self.time_limit))
    }
}

fn quit(vm: &Weak<HostedVm>) {
    if let Some(vm) = vm.upgrade() {
        vm.request_power(PowerRequest::PowerOff);
    }
}

/// 0 for a power-off, the guest's own code for a failure (255 where it doesn't fit), 124 for a time-out.
fn exit_code(ending: Ending, time_limit: Option<Duration>) -> ExitCode {
    match ending {
        Ending::PowerOff => ExitCode::SUCCESS,
        Ending::Fail(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX).max(1)),
        Ending::TimedOut => {
            let seconds = time_limit.unwrap_or_default().as_secs_f64();
            say(&format!("the machine did not end within {seconds} s; give it a longer --timeout"));
            ExitCode::from(TIMED_OUT)
        }
    }
}

/// A line for the user beside the guest's output.
pub fn say(text: &str) {
    terminal::restore();
    let newline = if std::io::stderr().is_terminal() { "\r\n" } else { "\n" };
    let _ = write!(std::io::stderr(), "rvisor: {text}{newline}");
}
