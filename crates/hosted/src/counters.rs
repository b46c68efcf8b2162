//! What a machine's back ends have moved, for people who look at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one direction of a back end has moved.
#[derive(Default, Debug)]
pub struct Traffic {
    /// Requests or frames.
    pub operations: Counter,
    /// Bytes in them.
    pub bytes: Counter,
}

impl Traffic {
    /// Counts one operation.
    pub fn count(&self, bytes: u64) {
        self.operations.add(1);
        self.bytes.add(bytes);
    }
}

/// Both directions of a back end, as the guest sees them.
#[derive(Default, Debug)]
pub struct Transfers {
    /// Read from the disk; received from the network.
    pub incoming: Traffic,
    /// Written to the disk; sent to the network.
    pub outgoing: Traffic,
}

/// Counters of a machine.
#[derive(Clone, Default, Debug)]
pub struct Counters {
    /// Of each disk.
    pub disks: Vec<Arc<Transfers>>,
    /// Of the network card, if there is one.
    pub network: Option<Arc<Transfers>>,
}
