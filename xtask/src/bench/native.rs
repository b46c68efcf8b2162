//! The jobs on this computer, for the distance to native.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use super::jobs::{Job, lay_out};
use super::stopwatch::{Run, Sample, follow};

/// A directory with the jobs, compiled for this computer.
pub struct Native {
    directory: TempDir,
}

impl Native {
    /// Compiles the jobs.
    pub fn prepare(quick: bool) -> anyhow::Result<Self> {
        // The guest's are on a tmpfs, too.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { TempDir::new_in(memory)? } else { TempDir::new()? };
        lay_out(directory.path(), quick)?;
        let status = Command::new("sh").arg("prepare.sh").current_dir(directory.path()).status()?;
        if !status.success() {
            bail!("the jobs can't be compiled for this computer (gcc, python3 and dpkg-deb are needed)");
        }
        Ok(Self { directory })
    }

    /// Runs a job on one processor.
    pub fn run_on_one(&self, job: &Job) -> anyhow::Result<Result<Sample, String>> {
        // What a thread starts has its processors.
        let run = || {
            let mine = sched_getaffinity(None)?;
            let mut one = CpuSet::new();
            one.set((0..CpuSet::MAX_CPU).find(|&cpu| mine.is_set(cpu)).context("no processor to run on")?);
            sched_setaffinity(None, &one)?;
            self.run(job)
        };
        thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a job.
    pub fn run(&self, job: &Job) -> anyhow::Result<Result<Sample, String>> {
        let name = job.name;
        let script = format!("sh {name}.setup >{name}.log 2>&1; exec ./stopwatch {name} sh {name}.job");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let run = follow(name, || {
            let line = lines.next().context("it ends without a result")??;
            Ok((Instant::now(), line, None))
        });
        child.wait()?;
        let Run { status, sample } = run?;
        if status == 0 {
            return Ok(Ok(sample));
        }
        let errors = std::fs::read_to_string(self.directory.path().join(format!("{name}.err")))?;
        Ok(Err(format!("it exits with {status}: {}", errors.trim())))
    }
}
