//! Starts a machine's process in the background.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::directory::Directory;
use crate::error::{Context, Error, Result};

/// What the process says on its standard output once the machine runs; anything else is why it doesn't.
pub const READY: &str = "ready";
/// Where its standard error goes.
const MONITOR_LOG: &str = "monitor.log";
/// The program that this process is, even if its file was replaced.
const PROGRAM: &str = "/proc/self/exe";

/// What the process of a machine that arrives says once the machine could go on.
pub const PREPARED: &str = "prepared";
/// What it is told when the machine shall.
pub const GO: &str = "go";

/// The process of a machine that arrives from elsewhere, and could go on. It ends, and nothing is left of the machine, when
/// this is dropped before it was told to.
pub struct Arrival {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Arrival {
    /// Lets the machine go on.
    ///
    /// # Errors
    /// If it can't any more; it has never run then.
    pub(crate) fn go(mut self) -> Result<()> {
        let mut line = String::new();
        let told = self.stdin.write_all(format!("{GO}\n").as_bytes());
        if told.and_then(|()| self.stdout.read_line(&mut line)).is_ok() && line.trim_end() == READY {
            return Ok(());
        }
        // It says that it is ready before it goes on: it hasn't.
        let _ = self.child.kill();
        let _ = self.child.wait();
        Err(Error::Refused("the machine's process has ended".into()))
    }

    /// Waits until nothing is left of the machine.
    pub(crate) fn give_up(mut self) {
        drop(self.stdin);
        let _ = self.child.wait();
    }
}

/// Starts this program again with `arguments`, which make it run a machine that arrives, and waits until the machine
/// could go on.
///
/// # Errors
/// If it doesn't come to that.
pub fn start_arriving(directory: &Directory, arguments: &[&str]) -> Result<Arrival> {
    let path = directory.file(MONITOR_LOG);
    let mut log = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .context("create", &path)?;
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().context("create", &path)?)
        .spawn()
        .context("start", PROGRAM.as_ref())?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::Refused("the machine's process has no streams".into()));
    };
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    stdout.read_line(&mut line).context("read from", PROGRAM.as_ref())?;
    if line.trim_end() == PREPARED {
        return Ok(Arrival { child, stdin, stdout });
    }
    let _ = child.wait();
    // The file is gone with the machine; this isn't.
    let mut text = String::new();
    let _ = log.rewind().and_then(|()| log.read_to_string(&mut text));
    let last = text.lines().last().unwrap_or("it was killed");
    Err(Error::Refused(last.trim_start_matches("rvisor: error: ").to_owned()))
}

/// Starts this program again with `arguments`, which make it run the machine, and waits until the machine runs.
///
/// # Errors
/// If it doesn't come to that.
pub fn start_detached(directory: &Directory, arguments: &[&str]) -> Result<()> {
    let path = directory.file(MONITOR_LOG);
    let log = File::create(&path).context("create", &path)?;
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        // It must not keep a file system from being unmounted.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("start", PROGRAM.as_ref())?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context("read from", PROGRAM.as_ref())?;
    }
    match line.trim_end() {
        READY => Ok(()),
        reason => {
            let _ = child.wait();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let last = text.lines().last().unwrap_or("it was killed");
            let reason = if reason.is_empty() { last } else { reason };
            Err(Error::Refused(reason.trim_start_matches("rvisor: error: ").to_owned()))
        }
    }
}
