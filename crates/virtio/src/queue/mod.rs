//! Virtqueues as the device sees them: split and packed behind one type (Virtio 1.3, "Virtqueues").
//!
//! Whatever the driver writes, an operation looks at no more descriptors than the queue's largest size, hands
//! out only memory inside RAM, and never has more chains in flight than the ring has room for.

mod chain;
mod packed;
mod persist;
mod split;

use core::fmt;

pub use chain::Chain;
use rvisor_waist::{GuestMemory, GuestPhysical, OutOfRange};

use crate::features;

/// What a driver did wrong with a queue. The device stops until the driver resets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueError {
    /// The size is zero, above the largest, or no power of two (split queues).
    Size,
    /// A part of the ring isn't aligned as its format demands.
    Unaligned,
    /// A ring, an indirect table or a buffer lies outside RAM.
    OutOfRange,
    /// The available index is further ahead than the queue is long.
    AvailableIndex,
    /// More chains were made available than the ring has room for.
    TooManyChains,
    /// A descriptor's number is outside its table.
    DescriptorIndex,
    /// The chain is longer than the queue, or loops.
    ChainTooLong,
    /// The buffers of a chain sum to 2^32 bytes or more.
    BuffersTooLong,
    /// A readable buffer follows a writable one.
    Order,
    /// An indirect descriptor that wasn't negotiated, has a successor or is itself in a table, or whose table
    /// isn't a whole number of descriptors.
    Indirect,
    /// The buffers don't hold what the device type's requests must have.
    Request,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "queue size not supported",
            Self::Unaligned => "ring not aligned",
            Self::OutOfRange => "ring, table or buffer outside the guest's memory",
            Self::AvailableIndex => "available index too far ahead",
            Self::TooManyChains => "more chains than the ring has room for",
            Self::DescriptorIndex => "descriptor number outside its table",
            Self::ChainTooLong => "chain loops or is longer than the queue",
            Self::BuffersTooLong => "buffers of a chain exceed 4 GiB",
            Self::Order => "readable buffer after a writable one",
            Self::Indirect => "indirect descriptor where none may be",
            Self::Request => "buffers too small for a request",
        })
    }
}

impl core::error::Error for QueueError {}

impl From<OutOfRange> for QueueError {
    fn from(_: OutOfRange) -> Self {
        Self::OutOfRange
    }
}

/// Where the driver put a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// Entries of the ring.
    pub size: u16,
    /// Descriptor table (split) or descriptor ring (packed).
    pub descriptors: GuestPhysical,
    /// The part that the driver writes: available ring (split) or driver event suppression (packed).
    pub driver: GuestPhysical,
    /// The part that the device writes: used ring (split) or device event suppression (packed).
    pub device: GuestPhysical,
}

/// Checks one part of a ring.
fn check_part<M: GuestMemory>(
    memory: &M,
    address: GuestPhysical,
    length: u64,
    alignment: u64,
) -> Result<(), QueueError> {
    if !address.is_aligned(alignment) {
        return Err(QueueError::Unaligned);
    }
    if !contains(memory, address, length) {
        return Err(QueueError::OutOfRange);
    }
    Ok(())
}

/// Whether `length` bytes from `address` on lie in RAM.
fn contains<M: GuestMemory>(memory: &M, address: GuestPhysical, length: u64) -> bool {
    let ram = memory.range();
    ram.contains(&address) && length <= ram.end.0 - address.0
}

/// Whether moving an index from `new - added` to `new` passed `event`, the entry the other side wants to be
/// told about (Virtio 1.3, "Used Buffer Notification Suppression").
fn passes(event: u16, new: u16, added: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < added
}

#[derive(Debug)]
enum Ring {
    Split(split::Ring),
    Packed(packed::Ring),
}

/// One virtqueue.
///
/// Available-buffer notifications from the driver are wanted from the time [`pop`](Self::pop) returned `None`
/// until it returns a chain again.
#[derive(Debug)]
pub struct Queue {
    max_size: u16,
    /// What the driver asked for; changed only while the queue isn't ready.
    pub(crate) layout: Layout,
    ring: Option<Ring>,
    /// Ring entries of chains handed out and not yet given back.
    in_flight: u16,
    /// Ring entries used since the last [`take_interrupt`](Self::take_interrupt).
    unannounced: u32,
}

impl Queue {
    /// A queue that isn't ready. `max_size` is the largest number of entries a driver may choose: a power of
    /// two, at most 32768.
    #[must_use]
    pub fn new(max_size: u16) -> Self {
        debug_assert!(max_size.is_power_of_two());
        Self { max_size, layout: Layout::default(), ring: None, in_flight: 0, unannounced: 0 }
    }

    /// The largest number of entries.
    #[must_use]
    pub fn max_size(&self) -> u16 {
        self.max_size
    }

    /// Whether the driver has set the queue up.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ring.is_some()
    }

    /// Starts the queue at `layout` with the negotiated `features`.
    pub fn start<M: GuestMemory>(
        &mut self,
        layout: Layout,
        features: u64,
        memory: &M,
    ) -> Result<(), QueueError> {
        if layout.size == 0 || layout.size > self.max_size {
            return Err(QueueError::Size);
        }
        self.layout = layout;
        self.ring = Some(if features & features::RING_PACKED == 0 {
            Ring::Split(split::Ring::new(&layout, self.max_size, features, memory)?)
        } else {
            Ring::Packed(packed::Ring::new(&layout, self.max_size, features, memory)?)
        });
        self.in_flight = 0;
        self.unannounced = 0;
        Ok(())
    }

    /// Stops the queue: nothing in guest memory is touched any more, chains in flight are forgotten.
    pub fn stop(&mut self) {
        self.ring = None;
        self.in_flight = 0;
        self.unannounced = 0;
    }

    /// Takes the next chain that the driver made available; `None` where there is none, or the queue isn't
    /// ready.
    pub fn pop<M: GuestMemory>(&mut self, memory: &M) -> Result<Option<Chain>, QueueError> {
        let chain = match &mut self.ring {
            None => None,
            Some(Ring::Split(ring)) => ring.pop(memory)?,
            Some(Ring::Packed(ring)) => ring.pop(memory)?,
        };
        if let Some(chain) = &chain {
            // A driver can't reuse an entry before it was used, yet a hostile one can say it did. Without
            // this limit it could have the monitor remember chains without end.
            let in_flight = u32::from(self.in_flight) + u32::from(chain.entries);
            if in_flight > u32::from(self.layout.size) {
                return Err(QueueError::TooManyChains);
            }
            self.in_flight += chain.entries;
        }
        Ok(chain)
    }

    /// Gives a chain back; `written` is the number of bytes stored at the beginning of its writable part.
    /// Ignored where the queue isn't ready any more.
    pub fn push_used<M: GuestMemory>(
        &mut self,
        memory: &M,
        chain: Chain,
        written: u32,
    ) -> Result<(), QueueError> {
        match &mut self.ring {
            None => return Ok(()),
            Some(Ring::Split(ring)) => ring.push_used(memory, &chain, written)?,
            Some(Ring::Packed(ring)) => ring.push_used(memory, &chain, written)?,
        }
        self.in_flight = self.in_flight.saturating_sub(chain.entries);
        self.unannounced = self.unannounced.saturating_add(u32::from(chain.entries));
        Ok(())
    }

    /// Whether the driver wants an interrupt for the chains given back since the last call.
    pub fn take_interrupt<M: GuestMemory>(&mut self, memory: &M) -> Result<bool, QueueError> {
        if self.unannounced == 0 {
            return Ok(false);
        }
        let added = u16::try_from(self.unannounced).unwrap_or(u16::MAX);
        self.unannounced = 0;
        match &self.ring {
            None => Ok(false),
            Some(Ring::Split(ring)) => ring.wants_interrupt(memory, added),
            Some(Ring::Packed(ring)) => ring.wants_interrupt(memory, added),
        }
    }
}

#[cfg(test)]
mod tests;
