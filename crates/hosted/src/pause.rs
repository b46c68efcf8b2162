//! Stops the harts of a machine between two slices, and lets them go on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rvisor_machine::VirtualHart;
use rvisor_waist::StateError;

use crate::runner::HostedVm;

/// How long harts may take to come to the gate: a slice is much shorter.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the harts of a paused machine wait.
#[derive(Default, Debug)]
pub struct PauseGate {
    closed: AtomicBool,
    waiting: AtomicUsize,
    /// Each hart at the gate is to write down its state.
    wanted: AtomicBool,
    saved: Mutex<BTreeMap<usize, Result<Vec<u8>, StateError>>>,
    arrived: Condvar,
}

impl PauseGate {
    /// Called by a hart's thread between two slices: returns at once unless the machine is paused. A machine that
    /// is to end isn't waited for.
    pub(crate) fn pass(&self, vm: &HostedVm, hart: &mut VirtualHart) {
        if !self.closed.load(Ordering::SeqCst) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while self.closed.load(Ordering::SeqCst) && vm.power_requested().is_none() {
            if self.wanted.load(Ordering::SeqCst) {
                let mut saved = self.saved();
                saved.entry(hart.index()).or_insert_with(|| hart.save(vm));
                self.arrived.notify_all();
            }
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

    fn saved(&self) -> MutexGuard<'_, BTreeMap<usize, Result<Vec<u8>, StateError>>> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each hart writes down; all stand at the gate. `None` if they don't come to it, because the machine ends.
    pub(crate) fn save(&self, vm: &HostedVm) -> Option<Result<Vec<Vec<u8>>, StateError>> {
        self.saved().clear();
        self.wanted.store(true, Ordering::SeqCst);
        // Only now: as long as one of them ran, it could still tell another something.
        vm.harts().iter().for_each(|hart| hart.kick());
        let missing = |saved: &mut BTreeMap<_, _>| saved.len() < vm.harts().len();
        let waited = self.arrived.wait_timeout_while(self.saved(), PATIENCE, missing);
        let (mut saved, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        self.wanted.store(false, Ordering::SeqCst);
        let saved = std::mem::take(&mut *saved);
        (!timeout.timed_out()).then(|| saved.into_values().collect())
    }

    /// Lets the harts go on.
    pub(crate) fn open(&self, vm: &HostedVm) {
        self.closed.store(false, Ordering::SeqCst);
        vm.harts().iter().for_each(|hart| hart.kick());
    }
}
