//! Confines the process of a machine before guest code runs (the book, "Security").
//!
//! Key type: [`Sandbox`]. What the process may still do is said in two tables: `files` of paths, made for
//! each machine, and `calls` of system calls, the same for all.
//!
//! It has two stages. [`Sandbox::confine_files`] comes first, while the process has one thread, because Landlock
//! confines a thread and those that it makes: no new privileges, file access, limits, capabilities. The machine is made
//! inside it. [`Sandbox::confine_calls`] comes when the machine is ready, and holds for all threads that there are and
//! will be.
//!
//! Not for the guest's own isolation, which is the engine's business: this is what is left when that fails.

mod calls;
mod files;
mod filter;
mod limits;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

pub use calls::Need;
pub use files::{Access, confines_files};

use crate::disk::{self, DiskError};
use crate::machine::MachineConfig;
use crate::share;
use files::Rule;

/// Why a process can't be confined.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Threads that were there before can't be confined any more.
    #[error("{0} threads of earlier work are still there, which can't be confined; run the command again")]
    Threads(usize),
    /// Landlock.
    #[error("the machine's process can't be confined to its files ({0}); --no-sandbox runs it unconfined")]
    Files(#[from] landlock::RulesetError),
    /// Seccomp.
    #[error(
        "the machine's process can't be confined to its system calls ({0}); --no-sandbox runs it unconfined"
    )]
    Calls(String),
    /// Limits and capabilities.
    #[error("the machine's process can't be limited ({0}); --no-sandbox runs it unconfined")]
    Limits(io::Error),
    /// A disk whose files can't be found out.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What a machine's process may do.
pub struct Sandbox {
    files: Vec<Rule>,
    needs: Vec<Need>,
    /// Bytes of private memory that the process may have.
    memory: u64,
    /// Descriptors that it may have.
    descriptors: u64,
    /// Keeps the kernel from forgetting the directory of `/proc` that a rule is about, and making it anew.
    _own: Option<File>,
}

/// What the kernel tells of this process.
const OWN: &str = "/proc/self";

/// How long threads of earlier work may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

impl Sandbox {
    /// What every machine of this description needs.
    ///
    /// # Errors
    /// If a disk's backing files can't be found out.
    pub fn new(machine: &MachineConfig) -> Result<Self, SandboxError> {
        let mut sandbox = Self {
            files: Vec::new(),
            needs: Vec::new(),
            memory: limits::memory(machine.memory),
            descriptors: limits::DESCRIPTORS,
            _own: File::open(OWN).ok(),
        };
        sandbox = sandbox.allow(OWN, Access::Read, "what its threads have used");
        for options in &machine.disks {
            options.check_free()?;
            let access = if options.read_only { Access::Read } else { Access::Write };
            sandbox = sandbox.allow(&options.path, access, "a disk");
            for path in disk::backing_files(options)? {
                sandbox = sandbox.allow(path, Access::Read, "what a disk is laid over");
            }
        }
        for share in machine.shares.iter().flatten().chain(&machine.tagged_shares) {
            let access = match share.read_only {
                true => Access::List,
                false if share.host.is_dir() => Access::Share,
                false => Access::Write,
            };
            sandbox = sandbox.allow(&share.host, access, "a shared directory");
        }
        if machine.shares.is_some() || !machine.tagged_shares.is_empty() {
            sandbox.needs.push(Need::Shares);
            sandbox.descriptors += share::DESCRIPTORS;
        }
        if let Some(options) = &machine.network {
            sandbox.needs.push(Need::Network);
            if let Some(member) = &options.member {
                sandbox = sandbox.allow(member.directory(), Access::List, "machines on its network");
            }
            sandbox = sandbox.allow(files::resolver(), Access::Read, "the host's DNS servers");
        }
        if let Some(store) = &machine.translator.store {
            // A rule holds for what is there.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(store);
            if let Err(error) = made {
                log::warn!("can't make {}: {error}", store.display());
            }
            sandbox = sandbox.allow(store, Access::Keep, "translated code for later runs");
        }
        // The C library's memory allocator asks how many processors there are.
        sandbox = sandbox.allow("/sys/devices/system/cpu/online", Access::Read, "the number of processors");
        if let Ok(program) = std::env::current_exe() {
            sandbox = sandbox.allow(program, Access::Read, "names for a report of a defect");
        }
        Ok(sandbox)
    }

    /// Allows access to a path, and to what is below it.
    #[must_use]
    pub fn allow(mut self, path: impl Into<PathBuf>, access: Access, why: &'static str) -> Self {
        self.files.push(Rule { path: path.into(), access, why });
        self
    }

    /// Allows the system calls that something needs.
    #[must_use]
    pub fn need(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// The first stage, for the only thread of a process.
    ///
    /// # Errors
    /// If there are more threads, or the host refuses. A host without Landlock doesn't: see [`confines_files`].
    pub fn confine_files(&self) -> Result<(), SandboxError> {
        let deadline = Instant::now() + PATIENCE;
        while threads() > 1 {
            if Instant::now() > deadline {
                return Err(SandboxError::Threads(threads() - 1));
            }
            thread::sleep(Duration::from_millis(1));
        }
        limits::set(self.memory, self.descriptors).map_err(SandboxError::Limits)?;
        files::confine(&self.files)?;
        Ok(())
    }

    /// The second stage, for all threads of the process.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn confine_calls(&self) -> Result<(), SandboxError> {
        filter::confine(&self.needs).map_err(SandboxError::Calls)
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}
