//! A limit on the host's processors that the harts of a machine use, without privileges: harts that have used up what
//! they may have together in a period sleep until the next one.
//!
//! Not for the other threads of the process, which work only as long as the harts give them work.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Processor time is dealt out in these.
const PERIOD: Duration = Duration::from_millis(50);

/// The limit of a machine.
#[derive(Debug)]
pub struct Throttle {
    /// Processor time of a period.
    share: Duration,
    period: Mutex<Period>,
}

#[derive(Debug)]
struct Period {
    start: Instant,
    /// Used by all harts since; what was too much is taken from the next period.
    used: Duration,
}

impl Throttle {
    /// Lets harts use so many thousandths of a processor.
    #[must_use]
    pub fn new(thousandths: u32) -> Self {
        let period = Period { start: Instant::now(), used: Duration::ZERO };
        Self { share: PERIOD * thousandths / 1000, period: Mutex::new(period) }
    }

    /// Counts what a hart has used, and tells how long it is to sleep before it goes on.
    fn spend(&self, used: Duration, now: Instant) -> Option<Duration> {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let periods = (now.saturating_duration_since(period.start).as_nanos() / PERIOD.as_nanos()) as u32;
        if periods > 0 {
            period.used = period.used.saturating_sub(self.share.saturating_mul(periods));
            period.start += PERIOD.saturating_mul(periods);
        }
        period.used += used;
        if period.used < self.share {
            return None;
        }
        Some((period.start + PERIOD).saturating_duration_since(now))
    }
}

/// What a hart's thread has used, as it was last counted.
pub(crate) struct Account(Duration);

impl Account {
    /// For the thread that calls.
    pub fn of_this_thread() -> Self {
        Self(thread_time())
    }

    /// How long this hart is to sleep now, if it is.
    pub fn settle(&mut self, throttle: &Throttle) -> Option<Duration> {
        let now = thread_time();
        let used = now.saturating_sub(std::mem::replace(&mut self.0, now));
        throttle.spend(used, Instant::now())
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harts_together_get_their_share_of_each_period_and_pay_back_what_was_too_much() {
        let throttle = Throttle::new(500);
        let start = throttle.period.lock().unwrap().start;
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let spend = |used, now| throttle.spend(Duration::from_millis(used), at(now));
        assert_eq!(spend(10, 12), None);
        assert_eq!(spend(14, 20), None);
        // 25 ms of 50 are used up, by whichever hart.
        assert_eq!(spend(1, 30), Some(Duration::from_millis(20)));
        assert_eq!(spend(0, 51), None);
        // Far more than a share: it takes as many periods as it is worth.
        assert_eq!(spend(60, 99), Some(Duration::from_millis(1)));
        assert_eq!(spend(0, 101), Some(Duration::from_millis(49)));
        assert_eq!(spend(0, 151), None);
    }

    #[test]
    fn machine_that_was_idle_has_saved_nothing_up() {
        let throttle = Throttle::new(100);
        let later = throttle.period.lock().unwrap().start + Duration::from_secs(100);
        assert!(throttle.spend(Duration::from_millis(5), later).is_some());
    }
}
