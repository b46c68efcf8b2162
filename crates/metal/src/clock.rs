//! A guest's time: the hardware's, moved for guests that go on from elsewhere.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use rvisor_waist::Clock;

/// What a guest's `time` counts from.
pub struct GuestClock {
    hardware: Arc<dyn Clock>,
    /// Ticks that the guest's time is ahead, modulo 2^64.
    offset: AtomicU64,
    /// Whether guests can have a time of their own. Without H, firmware may answer for `time` by itself, whatever the monitor
    /// lets guests read.
    can_move: bool,
}

impl GuestClock {
    /// The hardware's time.
    #[must_use]
    pub fn new(hardware: Arc<dyn Clock>, can_move: bool) -> Self {
        Self { hardware, offset: AtomicU64::new(0), can_move }
    }

    /// Shows so many ticks now, and goes on from there; where guests can't have a time of their own, it shows the hardware's,
    /// which mustn't be [behind](Self::behind). None of the guest's harts may run.
    pub fn show(&self, ticks: u64) {
        let offset = if self.can_move { ticks.wrapping_sub(self.hardware.ticks()) } else { 0 };
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// How long it takes until it can show so many ticks: time never goes back for a guest.
    #[must_use]
    pub fn behind(&self, ticks: u64) -> u64 {
        if self.can_move { 0 } else { ticks.saturating_sub(self.hardware.ticks()) }
    }

    /// Ticks that the guest's time is ahead of the hardware's, modulo 2^64.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// When it shows `ticks`, in the hardware's time; now, if it has.
    #[must_use]
    pub fn when(&self, ticks: u64) -> u64 {
        let now = self.hardware.ticks();
        now.saturating_add(ticks.saturating_sub(now.wrapping_add(self.offset())))
    }
}

impl Clock for GuestClock {
    fn ticks(&self) -> u64 {
        self.hardware.ticks().wrapping_add(self.offset())
    }

    fn wall_nanoseconds(&self) -> u64 {
        self.hardware.wall_nanoseconds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(AtomicU64);

    impl Clock for At {
        fn ticks(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn wall_nanoseconds(&self) -> u64 {
            7
        }
    }

    #[test]
    fn time_goes_on_from_what_it_showed() {
        let hardware = Arc::new(At(AtomicU64::new(1000)));
        let clock = GuestClock::new(Arc::clone(&hardware) as _, true);
        for shown in [5, 1000, 1 << 40] {
            clock.show(shown);
            let now = hardware.ticks();
            hardware.0.fetch_add(10, Ordering::Relaxed);
            assert_eq!(clock.ticks(), shown + 10);
            assert_eq!((clock.when(shown + 30), clock.when(shown)), (now + 30, now + 10));
            assert_eq!(clock.behind(u64::MAX), 0);
            assert!(clock.when(u64::MAX) > u64::MAX - (1 << 41), "a deadline that never comes");
        }
    }
    #[test]
    fn time_that_cannot_be_moved_is_waited_for_and_never_goes_back() {
        let hardware = Arc::new(At(AtomicU64::new(1000)));
        let clock = GuestClock::new(Arc::clone(&hardware) as _, false);
        assert_eq!((clock.behind(1500), clock.behind(1000), clock.behind(5)), (500, 0, 0));
        clock.show(5);
        assert_eq!((clock.ticks(), clock.offset()), (1000, 0));
    }
}
