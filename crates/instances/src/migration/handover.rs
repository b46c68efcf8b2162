//! A machine's process hands its machine over, or takes it back.
//!
//! The machine belongs here until [`Control::hand_over`] has returned, and it goes on here whatever happens to the command
//! that moves it. From then on it stands still until somebody says that it goes on elsewhere, or that it doesn't.

use rvisor_hosted::changes::Changes;
use rvisor_machine::persist::SavedState;

use crate::config::Status;
use crate::process::Control;

impl Control {
    /// One client at a time moves the machine. Says why this one can't be moved, if it can't.
    pub(super) fn begin_migration(&self) -> Result<(), String> {
        let (name, config) = (self.directory().current_name(), self.config());
        let refused = |text: &str| Err(format!("machine {name} {text}"));
        if !config.volumes.is_empty() {
            return refused(
                "has shared directories (--volume), which stay on this host: it can't be migrated",
            );
        }
        if let Some(network) = &config.private_network {
            return Err(format!(
                "machine {name} is on network {network}, whose machines are all on this host: it can't be migrated"
            ));
        }
        if config.tap.is_some() {
            return refused("is on a tap device of this host (--network tap): it can't be migrated");
        }
        if config.engine.engine == "lockstep" {
            return refused("compares engines (--engine lockstep): it can't be migrated");
        }
        if self.machine().is_debugged() {
            return refused("has a debugger; detach that first");
        }
        if self.phase().paused {
            return Err(self.is_paused());
        }
        self.begin_saving()
    }

    /// What changes from now on.
    pub(super) fn changes(&self) -> Option<Changes<'_>> {
        self.machine().changes()
    }

    /// Bytes of each disk, as the guest sees it.
    pub(super) fn disk_sizes(&self) -> Vec<u64> {
        self.machine().disk_sizes()
    }

    /// Stops the machine, and frees its ports of the host, which its next process may want.
    pub(super) fn freeze_for_migration(&self) -> Result<SavedState, String> {
        self.freeze()?;
        let forwards = self.machine().forwards().map(|ports| (ports, ports.list()));
        if let Some((ports, list)) = &forwards {
            for forward in list {
                // One that somebody has removed meanwhile is as good.
                let _ = ports.remove(*forward);
            }
        }
        let list = forwards.map(|(_, list)| list).unwrap_or_default();
        let state = self.saved_state();
        let mut phase = self.phase();
        phase.moving = Some(list);
        drop(phase);
        state
    }

    /// From now on the machine isn't this process's any more.
    pub(super) fn hand_over(&self) -> Result<(), String> {
        let mut phase = self.phase();
        if phase.moving.is_none() {
            return Err("the machine doesn't stand still".into());
        }
        if self.vm().power_requested().is_some() {
            return Err("the machine is ending".into());
        }
        (phase.handed_over, phase.paused) = (true, true);
        drop(phase);
        self.note(Status::Paused);
        Ok(())
    }

    /// The client that moves the machine has gone, or gives up: the machine goes on, unless it was handed over.
    pub(super) fn abort_migration(&self) {
        let mut phase = self.phase();
        phase.saving = false;
        if !phase.handed_over {
            let forwards = phase.moving.take();
            drop(phase);
            self.go_on(forwards);
        }
    }

    /// Somebody knows that the machine doesn't go on elsewhere: it does here.
    pub(crate) fn resume_handed_over(&self) {
        let mut phase = self.phase();
        (phase.handed_over, phase.paused, phase.saving) = (false, false, false);
        let forwards = phase.moving.take();
        drop(phase);
        self.go_on(forwards);
        self.note(Status::Running);
    }

    fn go_on(&self, forwards: Option<Vec<rvisor_hosted::net::Forward>>) {
        let Some(forwards) = forwards else { return };
        for forward in forwards {
            if let Some(Err(error)) = self.machine().forwards().map(|ports| ports.add(forward)) {
                log::warn!("a port isn't forwarded any more: {error}");
            }
        }
        self.thaw(false);
    }

    /// The machine goes on elsewhere: this process ends.
    pub(super) fn end_handed_over(&self) {
        let mut phase = self.phase();
        phase.saving = false;
        phase.moved = true;
        drop(phase);
        self.tell("migrate", None);
        self.force();
    }
}
