//! Stops the harts of a machine between two slices, and lets them go on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::runner::HostedVm;

/// How long harts may take to come to the gate: a slice is much shorter.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the harts of a paused machine wait.
#[derive(Default, Debug)]
pub struct PauseGate {
    closed: AtomicBool,
    waiting: AtomicUsize,
}

impl PauseGate {
    /// Called by a hart's thread between two slices: returns at once unless the machine is paused. A machine that
    /// is to end isn't waited for.
    pub(crate) fn pass(&self, vm: &HostedVm) {
        if !self.closed.load(Ordering::SeqCst) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while self.closed.load(Ordering::SeqCst) && vm.power_requested().is_none() {
            thread::park();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Closes the gate and waits until every hart stands there. False if they didn't come, or the machine ends.
    pub(crate) fn close(&self, vm: &HostedVm) -> bool {
        self.closed.store(true, Ordering::SeqCst);
        vm.harts().iter().for_each(|hart| hart.kick());
        let deadline = Instant::now() + PATIENCE;
        while self.waiting.load(Ordering::SeqCst) < vm.harts().len() {
            if vm.power_requested().is_some() || Instant::now() > deadline {
                self.open(vm);
                return false;
            }
            thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Lets the harts go on.
    pub(crate) fn open(&self, vm: &HostedVm) {
        self.closed.store(false, Ordering::SeqCst);
        vm.harts().iter().for_each(|hart| hart.kick());
    }
}
