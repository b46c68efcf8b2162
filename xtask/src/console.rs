//! A machine in a child process, driven through its serial console.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::machines::RAM_SIZE;

/// A machine with its serial console on pipes.
pub struct Console {
    child: Child,
    input: ChildStdin,
    output: Receiver<(Instant, Vec<u8>)>,
    seen: Vec<u8>,
    arrived: Instant,
    overhead: u64,
    /// When the child's memory was looked at last.
    looked: Instant,
}

/// How long output is waited for at a time.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often the child's memory is looked at: the host walks all its page tables for that.
const SAMPLE: Duration = Duration::from_secs(3);

impl Console {
    /// Starts `command`.
    pub fn start(command: Command) -> anyhow::Result<Self> {
        Self::start_with_transcript(command, None)
    }

    /// Starts `command`; what its console shows is also appended to `transcript`.
    pub fn start_with_transcript(mut command: Command, transcript: Option<File>) -> anyhow::Result<Self> {
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
            let (mut buffer, mut transcript) = ([0; 4096], transcript);
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                // It is for curious people; a full disk is no reason to end.
                let _ = transcript.as_mut().map(|file| file.write_all(&buffer[..length]));
                if sender.send((Instant::now(), buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
        });
        let now = Instant::now();
        Ok(Self { child, input, output, seen: Vec::new(), arrived: now, overhead: 0, looked: now })
    }

    /// Waits until the console shows `text`; forgets everything up to its end.
    pub fn expect(&mut self, text: &str, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            self.receive(deadline).with_context(|| format!("no {text:?} on the console"))?;
        }
    }

    /// Waits for a whole line; gives it without its end, and when it came.
    pub fn line(&mut self, deadline: Instant) -> anyhow::Result<(Instant, String)> {
        loop {
            if let Some(at) = self.seen.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.seen.drain(..=at).collect();
                return Ok((self.arrived, String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            self.receive(deadline)?;
        }
    }

    /// Waits for more output.
    fn receive(&mut self, deadline: Instant) -> anyhow::Result<()> {
        loop {
            self.sample();
            match self.output.recv_timeout(PATIENCE) {
                Ok((arrived, bytes)) => {
                    self.arrived = arrived;
                    self.seen.extend(bytes);
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(error) => {
                    let tail = &self.seen[self.seen.len().saturating_sub(2000)..];
                    bail!("{error}; the last output:\n{}", String::from_utf8_lossy(tail));
                }
            }
        }
    }

    /// Processor time that the machine has taken so far, of all its threads.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        parse_processor_time(&text).with_context(|| format!("/proc says {text:?}"))
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) -> anyhow::Result<()> {
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .context("the machine has ended")
    }

    /// Waits until the machine has ended; says whether it has.
    pub fn ended(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            // Nobody is to wait for its output to be read.
            let _ = self.output.recv_timeout(PATIENCE);
        }
        false
    }

    /// Most bytes of memory so far that were not the guest's RAM.
    pub fn overhead(&self) -> u64 {
        self.overhead
    }

    fn sample(&mut self) {
        if self.looked.elapsed() < SAMPLE {
            return;
        }
        self.looked = Instant::now();
        let path = format!("/proc/{}/smaps", self.child.id());
        let Ok(mappings) = std::fs::read_to_string(path) else { return };
        self.overhead = self.overhead.max(resident_beside(RAM_SIZE, &mappings));
    }
}

/// Bytes that are resident in all mappings of `/proc/PID/smaps` but those of one size, the guest's RAM.
fn resident_beside(ram: u64, mappings: &str) -> u64 {
    let mut is_ram = false;
    let mut resident = 0;
    for line in mappings.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim().strip_suffix(" kB").and_then(|value| value.parse::<u64>().ok());
        match (name, value) {
            ("Size", Some(size)) => is_ram = size << 10 == ram,
            ("Rss", Some(more)) if !is_ram => resident += more << 10,
            _ => {}
        }
    }
    resident
}

/// Takes user and system time, fields 14 and 15, from `/proc/PID/stat`.
fn parse_processor_time(text: &str) -> Option<Duration> {
    // The name in parentheses may have spaces in it.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    // Linux shows ticks of 1/100 s to programs, whatever it counts in.
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_spaces() {
        let text = "17 (a (b) c) S 1 17 17 0 -1 4194304 5 0 0 0 120 30 0 0 20 0 1 0 99 1 2";
        assert_eq!(parse_processor_time(text), Some(Duration::from_millis(1500)));
        assert_eq!(parse_processor_time("17 (a) S 1"), None);
    }

    #[test]
    fn memory_beside_the_guests_is_resident_and_of_another_size() {
        let text = "5f00-6000 rw-p 00000000 00:00 0 [heap]\nSize: 40 kB\nRss: 8 kB\nPss: 8 kB\n\
                    7f00-8f00 rw-p 00000000 00:00 0\nSize: 1024 kB\nRss: 512 kB\nVmFlags: rd wr\n\
                    9000-9100 r-xp 00000000 08:01 7 /lib/a:b\nSize: 100 kB\nRss: 4 kB\n";
        assert_eq!(resident_beside(1 << 20, text), 12 << 10);
        assert_eq!(resident_beside(1 << 30, text), 524 << 10);
    }

    #[test]
    fn lines_come_one_by_one() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'one\\r\\ntwo\\n'; read wait"]);
        let mut console = Console::start(command).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        assert_eq!(console.line(deadline).unwrap().1, "one");
        assert_eq!(console.line(deadline).unwrap().1, "two");
        console.send("\n").unwrap();
        assert!(console.line(deadline).is_err());
    }
}
