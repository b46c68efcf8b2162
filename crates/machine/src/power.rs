//! How a machine ends: asked for by the finisher, by SBI, by a test's `tohost`, or by the home.

use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_devices::finisher::PowerRequest;
use spin::Mutex;

use crate::signals::HartSignals;

/// The machine's power switch. The first request since power-on counts.
pub struct Power {
    request: Mutex<Option<PowerRequest>>,
    harts: Vec<Arc<HartSignals>>,
}

impl Power {
    pub(crate) fn new(harts: Vec<Arc<HartSignals>>) -> Self {
        Self { request: Mutex::new(None), harts }
    }

    /// Asks for the machine to be stopped, and makes every hart notice.
    pub fn request(&self, request: PowerRequest) {
        self.request.lock().get_or_insert(request);
        self.harts.iter().for_each(|hart| hart.kick());
    }

    /// What was asked for.
    pub fn requested(&self) -> Option<PowerRequest> {
        *self.request.lock()
    }

    /// Switches on again.
    pub(crate) fn clear(&self) {
        *self.request.lock() = None;
    }
}
