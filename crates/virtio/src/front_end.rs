//! What the transport asks of a device type, and what it offers it.

use alloc::vec::Vec;

use rvisor_waist::{GuestMemory, StateError, StateReader, StateWriter};

use crate::queue::{Chain, Queue, QueueError};

/// Chains served in one go. A guest can add chains from one hart for as long as another hart's notification is
/// being served; what is left after this many waits for the next access, so that a hart always comes back.
const CHAIN_BUDGET: u32 = 1024;

/// A device type: the part of a virtio device behind the transport (Virtio 1.3, "Device Types").
///
/// An error from a method means that the driver broke a rule that the device type can't answer with a status
/// of its own; the device then needs a reset and nothing is called but [`reset`](Self::reset).
pub trait FrontEnd: Send {
    /// Device ID.
    fn device_id(&self) -> u32;

    /// Feature bits offered, without those that belong to no device type.
    fn features(&self) -> u64;

    /// The largest size of each queue, powers of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// The configuration space, little-endian.
    fn config(&self) -> impl AsRef<[u8]>;

    /// The driver stores into the configuration space.
    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    /// The driver is ready (DRIVER_OK). Each queue that is ready is notified afterwards.
    fn activate(&mut self, features: u64);

    /// The driver made chains available on queue `index`.
    fn notify<M: GuestMemory>(&mut self, index: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError>;

    /// The back end has something.
    fn poll<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError>;

    /// Queue `index` stopped: forget its chains, and touch none of their memory after the return.
    fn stop_queue(&mut self, index: usize);

    /// Back to the state after power-on: forget all chains, and touch none of their memory after the return.
    fn reset(&mut self);

    /// Waits until the back end has finished what it was given; true if it must be polled for that.
    fn settle(&mut self) -> bool {
        false
    }

    /// Writes down what the guest could tell of the front end, chains that it holds included.
    ///
    /// # Errors
    /// [`StateError::Unsupported`] where the device type isn't part of the format: its machine can't be saved.
    fn save(&self, _state: &mut StateWriter) -> Result<(), StateError> {
        Err(StateError::Unsupported("a virtio device"))
    }

    /// Takes that over; the front end has just been made, and [activated](Self::activate) if the driver was ready.
    ///
    /// # Errors
    /// If that makes no sense.
    fn restore<M: GuestMemory>(
        &mut self,
        _state: &mut StateReader<'_>,
        _memory: &M,
    ) -> Result<(), StateError> {
        Err(StateError::Unsupported("a virtio device"))
    }
}

/// A device's queues and the guest's memory while a front end is served.
pub struct Queues<'a, M> {
    queues: &'a mut [Queue],
    memory: &'a M,
    budget: u32,
    /// Queues to be notified again at the next access, a bit each; the last bit stands for all above.
    pub(crate) deferred: u64,
    pub(crate) config_changed: bool,
}

impl<'a, M: GuestMemory> Queues<'a, M> {
    pub(crate) fn new(queues: &'a mut [Queue], memory: &'a M) -> Self {
        Self { queues, memory, budget: CHAIN_BUDGET, deferred: 0, config_changed: false }
    }

    /// Number of queues, ready or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.queues.len()
    }

    /// The guest's RAM.
    #[must_use]
    pub fn memory(&self) -> &'a M {
        self.memory
    }

    /// Takes the next chain of queue `index`, `None` where there is none now. A front end that stops before
    /// `None` isn't notified of chains added later.
    pub fn pop(&mut self, index: usize) -> Result<Option<Chain>, QueueError> {
        if self.budget == 0 {
            self.defer(index);
            return Ok(None);
        }
        self.budget -= 1;
        match self.queues.get_mut(index) {
            Some(queue) => queue.pop(self.memory),
            None => Ok(None),
        }
    }

    /// Gives a chain of queue `index` back; `written` is the number of bytes stored at the beginning of its
    /// writable part.
    pub fn push_used(&mut self, index: usize, chain: Chain, written: u32) -> Result<(), QueueError> {
        match self.queues.get_mut(index) {
            Some(queue) => queue.push_used(self.memory, chain, written),
            None => Ok(()),
        }
    }

    /// Has queue `index` notified again soon: there is more work than should be done in one go.
    pub fn defer(&mut self, index: usize) {
        self.deferred |= 1 << index.min(63);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&mut self) {
        self.config_changed = true;
    }
}
