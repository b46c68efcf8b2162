//! Guest time from the host's monotonic clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rvisor_waist::{Clock, TIMEBASE_FREQUENCY};

const NANOSECONDS_PER_TICK: u128 = 1_000_000_000 / TIMEBASE_FREQUENCY as u128;

/// A clock that starts at zero. Clones show the same time.
#[derive(Clone, Debug)]
pub struct HostClock {
    start: Instant,
    /// Ticks that it showed then.
    first: u64,
    /// Nanoseconds during which the machine was paused.
    paused: Arc<AtomicU64>,
}

impl HostClock {
    /// Starts a clock.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(0)
    }

    /// Starts a clock that shows so many ticks already.
    #[must_use]
    pub fn starting_at(first: u64) -> Self {
        Self { start: Instant::now(), first, paused: Arc::default() }
    }

    /// How long from now until the clock shows `ticks`; zero if it has.
    #[must_use]
    pub fn until(&self, ticks: u64) -> Duration {
        let left = ticks.saturating_sub(self.ticks());
        Duration::from_nanos(left.saturating_mul(NANOSECONDS_PER_TICK as u64))
    }

    /// Nanoseconds that were left out so far.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.paused.load(Ordering::Relaxed)
    }

    /// What it showed so long ago.
    #[must_use]
    pub fn ticks_before(&self, time: Duration) -> u64 {
        self.ticks().saturating_sub((time.as_nanos() / NANOSECONDS_PER_TICK) as u64)
    }

    /// Leaves `time` out, in which the guest didn't run: for it, none has passed.
    pub fn leave_out(&self, time: Duration) {
        self.paused.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Default for HostClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for HostClock {
    fn ticks(&self) -> u64 {
        let paused = u128::from(self.paused.load(Ordering::Relaxed));
        let ticks = self.start.elapsed().as_nanos().saturating_sub(paused) / NANOSECONDS_PER_TICK;
        self.first.wrapping_add(ticks as u64)
    }

    fn wall_nanoseconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_is_left_out_never_was() {
        let clock = HostClock::new();
        let other = clock.clone();
        std::thread::sleep(Duration::from_millis(20));
        assert!(clock.ticks() >= 200_000);
        assert!(HostClock::starting_at(1 << 40).ticks() >= 1 << 40);
        clock.leave_out(Duration::from_secs(3600));
        assert_eq!(other.ticks(), 0, "and it doesn't go below zero");
    }
}
