//! Starts a machine's process in the background.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::directory::Directory;
use crate::error::{Context, Error, Result};

/// What the process says on its standard output once the machine runs; anything else is why it doesn't.
pub const READY: &str = "ready";
/// Where its standard error goes.
const MONITOR_LOG: &str = "monitor.log";
/// The program that this process is, even if its file was replaced.
const PROGRAM: &str = "/proc/self/exe";

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
