//! What of the store a machine's process may use: the part of its sandbox's table of files that is about machines. What
//! every machine needs, its disks above all, is added in `rvisor_hosted::sandbox`.

use rvisor_hosted::machine::MachineConfig;
use rvisor_hosted::sandbox::{Access, Sandbox, SandboxError};

use crate::config::Config;
use crate::directory::{Directory, RUN};
use crate::error::Result;
use crate::snapshot::RESUME;

/// The sandbox of a machine; `None` where the user wants none.
pub(crate) fn sandbox(
    directory: &Directory,
    config: &Config,
    machine: &MachineConfig,
) -> Result<Option<Sandbox>> {
    if config.unconfined {
        return Ok(None);
    }
    let store = directory.store();
    let mut sandbox = Sandbox::new(machine)?
        // Not to be changed: `config.json` says what the next process may do.
        .allow(directory.file(""), Access::List, "the machine")
        .allow(directory.file(RUN), Access::Keep, "its state, log and control socket")
        .allow(directory.file(RESUME), Access::Remove, "what it goes on from, once it does")
        .allow(directory.file("lock"), Access::Write, "its lock")
        .allow(store.join("journal"), Access::Keep, "events of all machines");
    let is_new = directory.state().is_ok_and(|state| state.started == 0);
    if config.remove || is_new {
        // When it ends, or can't be started. A directory can be removed only where its parent lets that be, and only if
        // nothing is in it.
        sandbox = sandbox.allow(directory.file(""), Access::Remove, "the machine, when it goes").allow(
            store.join("machines"),
            Access::RemoveEmpty,
            "the machine's directory, when it goes",
        );
    }
    Ok(Some(sandbox))
}

impl From<SandboxError> for crate::Error {
    fn from(error: SandboxError) -> Self {
        Self::Refused(error.to_string())
    }
}
