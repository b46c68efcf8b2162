//! The measuring guest, driven through its console.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::jobs::Job;
use super::stopwatch::{Run, Sample, follow};
use crate::console::Console;

/// How long starting may take, and any one job.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What is typed, and what then has to appear. The arithmetic keeps the terminal's echo from being taken for the
/// answer. The jobs are on the disk that is a tar archive.
const PREPARE: [(&str, &str); 4] = [
    // It edits no lines and shows no prompt: only what is asked for comes out.
    ("exec sh\n", "# "),
    ("PS1=; stty -echo; dmesg -n 1; echo plain-$((41 + 1))\n", "plain-42"),
    (
        "mkdir /dev/shm/bench; cd /dev/shm/bench; for d in /dev/vd?; do \
         [ \"$(dd if=$d bs=1 skip=257 count=5 2>/dev/null)\" != ustar ] || tar xf $d; done; \
         sh prepare.sh && echo prepared-$((41 + 1))\n",
        "prepared-42",
    ),
    ("timeout 300 systemctl is-system-running --wait; echo idle-$((41 + 1))\n", "idle-42"),
];

/// A running guest, ready for jobs.
pub struct Guest {
    console: Console,
    /// From the start of the program to the login prompt.
    pub boot: Sample,
}

impl Guest {
    /// Starts the machine and prepares the jobs in it. `transcript` gets what its console shows.
    pub fn start(command: Command, transcript: Option<File>) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut console = Console::start_with_transcript(command, transcript)?;
        console.expect("login:", PATIENCE)?;
        let seconds = start.elapsed().as_secs_f64();
        let processor = Some(console.processor_time()?.as_secs_f64());
        // The guest's clock starts with it: there is nothing to compare.
        let boot = Sample { own: seconds, host: seconds, processor, sum: String::new() };
        // The local user is logged in without typing anything.
        console.expect("# ", PATIENCE)?;
        for (line, answer) in PREPARE {
            console.send(line)?;
            console.expect(answer, PATIENCE).context("the jobs can't be prepared")?;
        }
        Ok(Self { console, boot })
    }

    /// Runs a job. The error is final for this guest.
    pub fn run(&mut self, job: &Job) -> anyhow::Result<Result<Sample, String>> {
        let name = job.name;
        self.console
            .send(&format!("sh {name}.setup >{name}.log 2>&1; ./stopwatch {name} sh {name}.job\n"))?;
        let deadline = Instant::now() + PATIENCE;
        let Run { status, sample } = follow(name, || {
            let (at, line) = self.console.line(deadline)?;
            Ok((at, line, Some(self.console.processor_time()?)))
        })?;
        if status == 0 {
            return Ok(Ok(sample));
        }
        self.console.send(&format!("cat {name}.log {name}.err | tail -n 5; echo told-$((41 + 1))\n"))?;
        let mut reason = vec![format!("it exits with {status}")];
        loop {
            let (_, line) = self.console.line(deadline)?;
            if line.contains("told-42") {
                return Ok(Err(reason.join(" | ")));
            }
            reason.push(line);
        }
    }

    /// Ends the machine as its user would.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.console.send("poweroff\n")?;
        if self.console.ended(Duration::from_secs(300)) {
            return Ok(());
        }
        bail!("the machine doesn't power off")
    }
}
