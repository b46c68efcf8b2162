//! A machine in a child process, driven through its serial console.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A machine with its serial console on pipes.
pub struct Console {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    overhead: u64,
}

/// How often the child's memory is looked at.
const SAMPLE: Duration = Duration::from_millis(50);

impl Console {
    /// Starts `command`.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("can't start {:?}; is it installed?", command.get_program()))?;
        let input = child.stdin.take().context("the child has no input")?;
        let mut stdout = child.stdout.take().context("the child has no output")?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, output, seen: Vec::new(), overhead: 0 })
    }

    /// Waits until the console shows `text`; forgets everything up to its end.
    pub fn expect(&mut self, text: &str, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            self.sample();
            match self.output.recv_timeout(SAMPLE) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(error) => {
                    let tail = &self.seen[self.seen.len().saturating_sub(2000)..];
                    bail!("no {text:?} on the console ({error}):\n{}", String::from_utf8_lossy(tail));
                }
            }
        }
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) -> anyhow::Result<()> {
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .context("the machine has ended")
    }

    /// Most bytes of memory so far that were not the guest's RAM: whatever isn't shared memory.
    pub fn overhead(&self) -> u64 {
        self.overhead
    }

    fn sample(&mut self) {
        let path = format!("/proc/{}/status", self.child.id());
        let Ok(status) = std::fs::read_to_string(path) else { return };
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
        };
        self.overhead = self.overhead.max((field("RssAnon:") + field("RssFile:")) << 10);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
