//! Runs the image store's builder VM on Rvisor itself, in a process of its own that is confined to the VM's disks.
//!
//! That process is this program again, with a hidden command. What the VM is comes on its standard input, as JSON; the
//! VM's console goes to its standard output, and why it couldn't run to its end to standard error.

use std::error::Error;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rvisor_hosted::Stream;
use rvisor_hosted::disk::{DiskOptions, Format};
use rvisor_hosted::machine::{EngineKind, Machine, MachineConfig};
use rvisor_hosted::runner::{Ending, OnReset};
use rvisor_images::{BuildDisk, BuildVm, Builder};
use rvisor_machine::boot::Program;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::confinement;

/// The command that makes this program a builder VM's process.
const COMMAND: &str = "builder-process";
/// The program that this process is, even if its file was replaced.
const PROGRAM: &str = "/proc/self/exe";
/// How long the last lines of a builder may take to be read.
const PATIENCE: Duration = Duration::from_secs(5);
/// What an error begins with on standard error.
const ERROR: &str = "rvisor: error: ";

/// The builder VM on this host.
pub struct LocalBuilder {
    /// Whether the user wants nothing to confine its process.
    pub unconfined: bool,
}

/// What the VM is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    kernel: PathBuf,
    initrd: PathBuf,
    append: String,
    /// Files, each with whether the guest may not write to it.
    disks: Vec<(PathBuf, bool)>,
    memory: u64,
    unconfined: bool,
    /// The process that wants it.
    parent: u32,
}

impl Builder for LocalBuilder {
    fn boot(&self, vm: BuildVm<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let description = Description {
            kernel: vm.kernel,
            initrd: vm.initrd,
            append: vm.append,
            disks: vm.disks.into_iter().map(|BuildDisk { path, read_only }| (path, read_only)).collect(),
            memory: vm.memory,
            unconfined: self.unconfined,
            parent: std::process::id(),
        };
        let description = serde_json::to_vec(&description)
            .map_err(|_| "the store's path isn't UTF-8; set RVISOR_HOME to another")?;
        let signals = Signals::listen()?;
        let mut child = Command::new(PROGRAM)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // If it has ended already, standard error says why.
            let _ = io::Write::write_all(&mut stdin, &description);
        }
        let mut reason = None;
        let heard = listen(&mut child, &signals, vm.on_console_line, &mut |line| {
            match line.strip_prefix(ERROR) {
                Some(error) => reason = Some(error.to_owned()),
                // A warning, or what the log is to tell.
                None => eprintln!("{line}"),
            }
        });
        if heard.is_err() || signals.came() {
            child.kill()?;
        }
        let status = child.wait()?;
        heard?;
        if signals.came() || ended_by_user(status) {
            return Err("interrupted".into());
        }
        match reason {
            _ if status.success() => Ok(()),
            Some(reason) => Err(reason.into()),
            None => {
                Err(format!("the builder VM's process has ended ({status}); run the command again").into())
            }
        }
    }
}

/// Passes on the lines of a process's standard output and standard error, until both have ended or a signal comes.
fn listen(
    child: &mut Child,
    signals: &Signals,
    on_output: &mut dyn FnMut(&str),
    on_error: &mut dyn FnMut(&str),
) -> io::Result<()> {
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("the builder VM's process has no streams"));
    };
    let (mut output, mut errors) = (Lines::default(), Lines::default());
    while !(signals.came() || output.ended && errors.ended) {
        let mut events = vec![PollFd::new(&signals.pipe, PollFlags::IN)];
        let streams = [(output.ended, stdout.as_fd()), (errors.ended, stderr.as_fd())];
        let open = streams.iter().filter(|(ended, _)| !ended);
        events.extend(open.map(|(_, stream)| PollFd::from_borrowed_fd(*stream, PollFlags::IN)));
        match poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled?,
        };
        let mut is_there = events[1..].iter().map(|event| !event.revents().is_empty());
        let is_output = !output.ended && is_there.next() == Some(true);
        let is_error = !errors.ended && is_there.next() == Some(true);
        if is_output {
            output.read(&mut stdout, on_output)?;
        }
        if is_error {
            errors.read(&mut stderr, on_error)?;
        }
    }
    Ok(())
}

/// Whether one of the signals that end Rvisor has ended it: a terminal sends them to both processes.
fn ended_by_user(status: ExitStatus) -> bool {
    status.signal().is_some_and(|signal| [SIGHUP, SIGINT, SIGTERM].contains(&signal))
}

/// The signals that end Rvisor, while a builder VM runs: the first is for the VM. A second one, and those that come when
/// this was dropped, do what they always do.
struct Signals {
    pipe: UnixStream,
    came: Arc<AtomicBool>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let (pipe, sender) = UnixStream::pair()?;
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&came))?;
            signal_hook::flag::register(signal, Arc::clone(&came))?;
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { pipe, came })
    }

    fn came(&self) -> bool {
        self.came.load(Ordering::SeqCst)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.came.store(true, Ordering::SeqCst);
    }
}

/// Cuts a stream into lines.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// Passes on the lines of what is there, without their line breaks. What follows the last one counts as a line at the
    /// end.
    fn read(&mut self, stream: &mut impl Read, take: &mut dyn FnMut(&str)) -> io::Result<()> {
        /// A longer line is cut: no guest fills the host's memory with one.
        const LIMIT: usize = 4096;
        let mut buffer = [0; 4096];
        let length = match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            read => read?,
        };
        self.ended = length == 0;
        let end: &[u8] = if self.ended && !self.line.is_empty() { b"\n" } else { b"" };
        for &byte in buffer[..length].iter().chain(end) {
            if byte == b'\n' {
                take(String::from_utf8_lossy(&self.line).trim_end_matches('\r'));
                self.line.clear();
            } else if self.line.len() < LIMIT {
                self.line.push(byte);
            }
        }
        Ok(())
    }
}

/// What the process of a builder VM does.
pub fn process() -> anyhow::Result<ExitCode> {
    // Nobody else would end it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let description: Description = serde_json::from_reader(io::stdin().lock())
        .context("this command is for Rvisor itself; use `rvisor build`")?;
    let parent = getppid().map(|parent| parent.as_raw_nonzero().get().cast_unsigned());
    ensure!(parent == Some(description.parent), "the command that wanted a builder VM has ended");
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("can't read {}", path.display()));
    let (kernel, initrd) = (read(&description.kernel)?, read(&description.initrd)?);
    let program =
        Program::Linux { kernel: &kernel, initrd: Some(&initrd), command_line: &description.append };
    let serial = Stream::new();
    let disks = description.disks.into_iter().map(|(path, read_only)| DiskOptions {
        read_only,
        format: Some(Format::Raw),
        ..DiskOptions::new(path)
    });
    let config = MachineConfig {
        harts: 1,
        memory: description.memory,
        disks: disks.collect(),
        serial: serial.clone(),
        engine: EngineKind::default(),
        ..MachineConfig::default()
    };
    let sandbox = confinement::confine(&config, description.unconfined)?;
    let machine = Machine::new(config)?;
    let placed = machine.place(&program)?;
    serial.write_to(io::stdout())?;
    if let Some(sandbox) = &sandbox {
        sandbox.confine_calls()?;
    }
    let ending = machine.run(&placed, OnReset::Stop, None);
    serial.drain(PATIENCE);
    match ending? {
        Ending::PowerOff => Ok(ExitCode::SUCCESS),
        ending => bail!("the builder VM ended with {ending:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_cut_into_lines_of_bounded_length() {
        let long = "x".repeat(10_000);
        let text = format!("one\r\n\n{long}\nlast");
        let (mut lines, mut stream, mut heard) = (Lines::default(), text.as_bytes(), Vec::new());
        while !lines.ended {
            lines.read(&mut stream, &mut |line| heard.push(line.to_owned())).unwrap();
        }
        assert_eq!(heard, ["one", "", &long[..4096], "last"]);
    }
}
