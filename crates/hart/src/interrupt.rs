//! Which interrupt is pending, which is taken, and when a waiting hart wakes.

use crate::exit::Environment;
use crate::state::Hart;
use crate::trap::Interrupt;

impl Hart {
    /// The interrupt to take now, if any.
    pub fn pending_interrupt<E: Environment>(&mut self, _env: &E) -> Option<Interrupt> {
        None
    }

    /// Whether a hart in `wfi` goes on: an enabled interrupt is pending, whatever the global enables say.
    pub fn wakes<E: Environment>(&mut self, _env: &E) -> bool {
        true
    }

    /// The `time`, in ticks, from which the supervisor timer is pending and may wake the hart; `None` where
    /// it can't.
    #[must_use]
    pub fn timer_deadline(&self) -> Option<u64> {
        None
    }
}
