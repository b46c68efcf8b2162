//! What can go wrong, in one line that says what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why something can't be done with a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No machine of that name.
    #[error("no machine is called {0}; `rvisor ps -a` lists them")]
    NoMachine(String),
    /// Not a name.
    #[error("{0:?} can't be a machine's name; use up to 63 letters, digits and hyphens")]
    BadName(String),
    /// The name is taken.
    #[error("a machine is called {0} already; choose another --name, or remove it with `rvisor rm {0}`")]
    NameTaken(String),
    /// It has to run for this.
    #[error("machine {0} isn't running; start it with `rvisor start {0}`")]
    NotRunning(String),
    /// It must not run for this.
    #[error(
        "machine {0} is running; stop it first with `rvisor stop {0}`, or use --force where there is one"
    )]
    Running(String),
    /// A machine of a Rvisor that didn't keep descriptions.
    #[error("machine {0} was made by an older Rvisor and can't be started; remove it with `rvisor rm {0}`")]
    TooOld(String),
    /// A file in the directory makes no sense.
    #[error("machine {name}: {what} is damaged ({reason}); remove the machine with `rvisor rm -f {name}`")]
    Damaged {
        /// The machine.
        name: String,
        /// The file.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The host refuses.
    #[error("can't {action} {path}: {source}; check disk space and permissions")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The machine can't be made.
    #[error(transparent)]
    Machine(#[from] rvisor_hosted::machine::MachineError),
    /// Its disk can't be made.
    #[error(transparent)]
    Disk(#[from] rvisor_hosted::disk::DiskError),
    /// The machine's process has said no.
    #[error("{0}")]
    Refused(String),
    /// The machine's process doesn't answer as it should.
    #[error("the process of machine {name} doesn't answer ({reason}); end it with `rvisor kill {name}`")]
    NoAnswer {
        /// The machine.
        name: String,
        /// What went wrong.
        reason: String,
    },
}

/// With this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was tried.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}
