//! What keeps the world still while a slice runs twice, and tells what changed in between.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rvisor_waist::{Clock, GuestPhysical};

use crate::HostClock;

thread_local! {
    /// Whether this thread is a hart's, or has the turn already.
    static NEEDS_NO_TURN: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes to RAM by others than translated code, and the right to make them.
#[derive(Default)]
pub struct Journal {
    turn: Mutex<()>,
    waiting: AtomicUsize,
    writes: Mutex<Vec<(GuestPhysical, u64)>>,
}

/// While it lives, no slice runs but this thread's.
pub struct Turn<'a>(Option<MutexGuard<'a, ()>>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.0.is_some() {
            NEEDS_NO_TURN.set(false);
        }
    }
}

impl Journal {
    /// Waits for the slice to end. Whoever writes to RAM or moves interrupt wires from a thread that isn't a
    /// hart's does it in a turn.
    pub fn turn(&self) -> Turn<'_> {
        if NEEDS_NO_TURN.get() {
            return Turn(None);
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let turn = lock(&self.turn);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        NEEDS_NO_TURN.set(true);
        Turn(Some(turn))
    }

    /// The turn of a slice, after those who wait. What the hart's thread does outside slices needs none: there
    /// is no other hart, and a device may be locked.
    pub fn slice(&self) -> MutexGuard<'_, ()> {
        NEEDS_NO_TURN.set(true);
        while self.waiting.load(Ordering::SeqCst) != 0 {
            thread::yield_now();
        }
        lock(&self.turn)
    }

    /// Notes a write.
    pub fn add(&self, address: GuestPhysical, length: u64) {
        lock(&self.writes).push((address, length));
    }

    /// Takes what was noted.
    pub fn take(&self) -> Vec<(GuestPhysical, u64)> {
        std::mem::take(&mut *lock(&self.writes))
    }
}

/// A clock that stands still during slices.
pub struct SteppedClock {
    clock: HostClock,
    stands: AtomicBool,
    ticks: AtomicU64,
}

impl SteppedClock {
    /// Runs as `clock` does until it is stopped.
    pub fn new(clock: HostClock) -> Self {
        Self { clock, stands: AtomicBool::new(false), ticks: AtomicU64::new(0) }
    }

    /// Shows the time of now until [`go`](Self::go).
    pub fn stop(&self) {
        self.ticks.store(self.clock.ticks(), Ordering::SeqCst);
        self.stands.store(true, Ordering::SeqCst);
    }

    /// Shows the host's time.
    pub fn go(&self) {
        self.stands.store(false, Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn ticks(&self) -> u64 {
        if self.stands.load(Ordering::SeqCst) {
            self.ticks.load(Ordering::SeqCst)
        } else {
            self.clock.ticks()
        }
    }

    fn wall_nanoseconds(&self) -> u64 {
        self.clock.wall_nanoseconds()
    }
}
