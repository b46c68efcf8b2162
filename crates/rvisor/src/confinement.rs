//! Says when a machine's process isn't confined as it should be.

use rvisor_hosted::machine::MachineConfig;
use rvisor_hosted::sandbox::{Sandbox, SandboxError, confines_files};

/// Warns of a machine that the user wants unconfined, or that this host can't confine altogether.
pub fn warn(unconfined: bool) {
    if unconfined {
        eprintln!(
            "rvisor: warning: --no-sandbox: nothing confines the machine's process; a guest that breaks out of its \
             machine can do all that you can"
        );
    } else if !confines_files() {
        eprintln!(
            "rvisor: warning: this host has no Landlock (Linux has it since 5.13, where `lsm=` doesn't leave it out): a \
             guest that breaks out of its machine can open all files that you can"
        );
    }
}

/// Confines this process to what a machine needs, before it is made; `None` if the user doesn't want that.
pub fn confine(machine: &MachineConfig, unconfined: bool) -> Result<Option<Sandbox>, SandboxError> {
    warn(unconfined);
    if unconfined {
        return Ok(None);
    }
    let sandbox = Sandbox::new(machine)?;
    sandbox.confine_files()?;
    Ok(Some(sandbox))
}
