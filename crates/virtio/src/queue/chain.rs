//! Descriptors gathered into a chain, with every check that both ring formats share.

use rvisor_waist::{GuestMemory, GuestPhysical, Segment};

use super::{QueueError, contains};
use crate::segments::Segments;

/// Bytes in a descriptor, in tables and rings of both formats.
pub(super) const DESCRIPTOR_SIZE: u64 = 16;
/// `VIRTQ_DESC_F_NEXT`: the chain goes on.
pub(super) const NEXT: u16 = 1 << 0;
/// `VIRTQ_DESC_F_WRITE`: the device writes the buffer.
pub(super) const WRITE: u16 = 1 << 1;
/// `VIRTQ_DESC_F_INDIRECT`: the buffer is a table of descriptors.
pub(super) const INDIRECT: u16 = 1 << 2;

/// Buffers that the driver made available together: a request or room for a reply.
#[derive(PartialEq, Eq, Debug)]
pub struct Chain {
    /// What the device may read.
    pub readable: Segments,
    /// What the device may write; the driver's order puts it after the readable part.
    pub writable: Segments,
    /// The driver's name for the chain: number of the head (split) or buffer ID (packed).
    pub(super) id: u16,
    /// Entries it takes of the ring: 1 in the rings of a split queue, its descriptors in a packed one.
    pub(super) entries: u16,
}

/// A descriptor; `link` is the next one's number (split) or the buffer ID (packed).
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub address: GuestPhysical,
    pub length: u32,
    pub flags: u16,
    pub link: u16,
}

impl Descriptor {
    /// Loads a descriptor of a split queue: address, length, flags, next.
    pub fn load_split<M: GuestMemory>(memory: &M, address: GuestPhysical) -> Result<Self, QueueError> {
        let rest: u64 = memory.load(address.offset(8))?;
        Ok(Self {
            address: GuestPhysical(memory.load(address)?),
            length: rest as u32,
            flags: (rest >> 32) as u16,
            link: (rest >> 48) as u16,
        })
    }

    /// Loads a descriptor of a packed queue: address, length, buffer ID, flags.
    pub fn load_packed<M: GuestMemory>(memory: &M, address: GuestPhysical) -> Result<Self, QueueError> {
        let rest: u64 = memory.load(address.offset(8))?;
        Ok(Self {
            address: GuestPhysical(memory.load(address)?),
            length: rest as u32,
            flags: (rest >> 48) as u16,
            link: (rest >> 32) as u16,
        })
    }

    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Entries of the table that an indirect descriptor refers to.
    pub fn table_entries<M: GuestMemory>(&self, memory: &M) -> Result<u32, QueueError> {
        let length = u64::from(self.length);
        if self.has(NEXT) || length == 0 || !length.is_multiple_of(DESCRIPTOR_SIZE) {
            return Err(QueueError::Indirect);
        }
        if !contains(memory, self.address, length) {
            return Err(QueueError::OutOfRange);
        }
        Ok(self.length / DESCRIPTOR_SIZE as u32)
    }
}

/// Collects the buffers of a chain.
pub(super) struct Builder<'m, M> {
    memory: &'m M,
    /// Descriptors that may still follow.
    remaining: u16,
    readable: Segments,
    writable: Segments,
    writable_seen: bool,
}

impl<'m, M: GuestMemory> Builder<'m, M> {
    /// `limit` is the largest number of descriptors.
    pub fn new(memory: &'m M, limit: u16) -> Self {
        Self {
            memory,
            remaining: limit,
            readable: Segments::default(),
            writable: Segments::default(),
            writable_seen: false,
        }
    }

    /// Counts one descriptor; fails on a chain that loops or is too long.
    pub fn count(&mut self) -> Result<(), QueueError> {
        self.remaining = self.remaining.checked_sub(1).ok_or(QueueError::ChainTooLong)?;
        Ok(())
    }

    /// Adds the buffer of a direct descriptor. An empty one adds nothing.
    pub fn add(&mut self, descriptor: &Descriptor) -> Result<(), QueueError> {
        let write = descriptor.has(WRITE);
        if self.writable_seen && !write {
            return Err(QueueError::Order);
        }
        self.writable_seen |= write;
        if descriptor.length == 0 {
            return Ok(());
        }
        if !contains(self.memory, descriptor.address, u64::from(descriptor.length)) {
            return Err(QueueError::OutOfRange);
        }
        let sum = self.readable.length().checked_add(self.writable.length());
        if sum.and_then(|sum| sum.checked_add(descriptor.length)).is_none() {
            return Err(QueueError::BuffersTooLong);
        }
        let list = if write { &mut self.writable } else { &mut self.readable };
        let segment = Segment { address: descriptor.address, length: descriptor.length };
        if list.push(segment) { Ok(()) } else { Err(QueueError::BuffersTooLong) }
    }

    pub fn finish(self, id: u16, entries: u16) -> Chain {
        Chain { readable: self.readable, writable: self.writable, id, entries }
    }
}
