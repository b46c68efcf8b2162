//! A machine under a debugger: the points at which its harts stop, and why one has stopped.
//!
//! Points are the machine's: each hart takes them over before it runs guest code again, so whoever changes them
//! makes the harts leave their engines first. What a debugger sees of a stopped hart is the home's to arrange.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rvisor_hart::{DebugHit, DebugPoints};
use spin::Mutex;

/// Why a hart stopped for its debugger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugStop {
    /// It came to a point.
    Hit(DebugHit),
    /// It executed the one instruction that it was asked to.
    Step,
}

/// What a machine's debugger has set.
#[derive(Default)]
pub struct DebugControl {
    points: Mutex<Option<Arc<DebugPoints>>>,
    /// Counts changes of the points; 0 until there are any.
    epoch: AtomicU64,
    steps_into_interrupts: AtomicBool,
}

impl DebugControl {
    /// Makes these the machine's points.
    pub fn set_points(&self, points: DebugPoints) {
        let mut current = self.points.lock();
        *current = Some(Arc::new(points));
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Whether a single step takes a pending interrupt; otherwise it stays pending.
    pub fn step_into_interrupts(&self, enable: bool) {
        self.steps_into_interrupts.store(enable, Ordering::Relaxed);
    }

    pub(crate) fn steps_into_interrupts(&self) -> bool {
        self.steps_into_interrupts.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The points and their number.
    pub(crate) fn points(&self) -> (Option<Arc<DebugPoints>>, u64) {
        let points = self.points.lock();
        (points.clone(), self.epoch())
    }
}
