//! Forwards that come and go while the network works.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::forward::{Change, Port};
use super::options::{Forward, NetError};
use super::queue::Queues;

/// How long the network's thread may take to let go of a port.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is forwarded, and what the network's thread has still to do about it.
#[derive(Default)]
pub(super) struct Wishes {
    open: Vec<Forward>,
    changes: Vec<Change>,
}

/// The forwards of a network, for whoever has the machine.
#[derive(Clone)]
pub struct Ports {
    pub(super) queues: Arc<Queues>,
    pub(super) wishes: Arc<Mutex<Wishes>>,
}

impl Ports {
    pub(super) fn new(queues: &Arc<Queues>, open: &[Forward]) -> Self {
        let wishes = Wishes { open: open.to_vec(), changes: Vec::new() };
        Self { queues: Arc::clone(queues), wishes: Arc::new(Mutex::new(wishes)) }
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is forwarded now.
    #[must_use]
    pub fn list(&self) -> Vec<Forward> {
        self.lock().open.clone()
    }

    /// Forwards one more port.
    ///
    /// # Errors
    /// If it can't be listened on.
    pub fn add(&self, forward: Forward) -> Result<(), NetError> {
        let port = Port::open(&forward)?;
        let mut wishes = self.lock();
        wishes.open.push(forward);
        wishes.changes.push(Change::Add(forward, port));
        drop(wishes);
        self.queues.ring();
        Ok(())
    }

    /// Forwards a port no longer; connections that have been made stay. False if it wasn't forwarded. When this
    /// returns, the host's port is free.
    #[must_use]
    pub fn remove(&self, forward: Forward) -> bool {
        let mut wishes = self.lock();
        let before = wishes.open.len();
        wishes.open.retain(|it| *it != forward);
        if wishes.open.len() == before {
            return false;
        }
        wishes.changes.push(Change::Remove(forward));
        drop(wishes);
        self.queues.ring();
        let deadline = Instant::now() + PATIENCE;
        while !self.lock().changes.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Carries out what is to be done, in the network's thread.
    pub(super) fn work(&self, mut change: impl FnMut(Change)) {
        let mut wishes = self.lock();
        wishes.changes.drain(..).for_each(&mut change);
    }
}
