//! Tests that run machines take turns.

use std::sync::{Condvar, Mutex, PoisonError};

/// How many machines run at a time: more would only slow each other down.
const MACHINES: usize = 2;

/// The right to run a machine until it is dropped.
pub struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(MACHINES), Condvar::new());

impl Turn {
    /// Waits for it.
    pub fn take() -> Self {
        let (free, given_back) = &TURNS;
        let free = free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = given_back.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (free, given_back) = &TURNS;
        *free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        given_back.notify_one();
    }
}
