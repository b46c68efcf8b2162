//! Guest time from the host's monotonic clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rvisor_waist::{Clock, TIMEBASE_FREQUENCY};

const NANOSECONDS_PER_TICK: u128 = 1_000_000_000 / TIMEBASE_FREQUENCY as u128;

/// A clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    start: Instant,
}

impl HostClock {
    /// Starts a clock.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// How long from now until the clock shows `ticks`; zero if it has.
    #[must_use]
    pub fn until(&self, ticks: u64) -> std::time::Duration {
        let left = ticks.saturating_sub(self.ticks());
        std::time::Duration::from_nanos(left.saturating_mul(NANOSECONDS_PER_TICK as u64))
    }
}

impl Default for HostClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for HostClock {
    fn ticks(&self) -> u64 {
        (self.start.elapsed().as_nanos() / NANOSECONDS_PER_TICK) as u64
    }

    fn wall_nanoseconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    }
}
