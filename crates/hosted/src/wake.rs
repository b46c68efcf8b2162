//! How a back end's thread tells the machine that a device should be polled.

use std::sync::{Arc, OnceLock};

/// A call that back ends are given before the machine exists, and that does something once it does.
#[derive(Clone, Default)]
pub struct Wake {
    target: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

impl Wake {
    /// A call that does nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what the call does. Only the first time counts.
    pub fn connect(&self, target: impl Fn() + Send + Sync + 'static) {
        // A second target could only come from a second machine on the same back end, which the types of the
        // back ends exclude.
        let _ = self.target.set(Box::new(target));
    }

    /// Makes the call.
    pub fn wake(&self) {
        if let Some(target) = self.target.get() {
            target();
        }
    }

    /// The same call as a shared closure.
    #[must_use]
    pub fn as_closure(&self) -> Arc<dyn Fn() + Send + Sync> {
        let wake = self.clone();
        Arc::new(move || wake.wake())
    }
}
