//! The packed format: one ring of descriptors that both sides write (Virtio 1.3, "Packed Virtqueues").

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use rvisor_waist::{GuestMemory, GuestPhysical, StateError};

use super::chain::{Builder, Chain, DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT};
use super::{Layout, QueueError, check_part, passes};
use crate::features;

/// `VIRTQ_DESC_F_AVAIL`: equals the driver's wrap counter in a descriptor made available.
const AVAIL: u16 = 1 << 7;
/// `VIRTQ_DESC_F_USED`: equals `AVAIL` in a used descriptor, differs in an available one.
const USED: u16 = 1 << 15;
/// Offsets in a descriptor.
const LENGTH: u64 = 8;
const FLAGS: u64 = 14;

/// Size of an event suppression structure: offset and wrap counter, then flags.
const EVENT_SIZE: u64 = 4;
const EVENT_FLAGS: u64 = 2;
/// `RING_EVENT_FLAGS_ENABLE`
const ENABLE: u16 = 0;
/// `RING_EVENT_FLAGS_DISABLE`
const DISABLE: u16 = 1;
/// `RING_EVENT_FLAGS_DESC`: enabled for one descriptor.
const DESC: u16 = 2;
/// The wrap counter in an event's offset field.
const EVENT_WRAP: u16 = 1 << 15;

/// A place in the ring with the wrap counter that belongs to it.
#[derive(Clone, Copy, Debug)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    const START: Self = Self { index: 0, wrap: true };

    fn advance(self, entries: u16, size: u16) -> Self {
        let index = u32::from(self.index) + u32::from(entries);
        if index < u32::from(size) {
            Self { index: index as u16, ..self }
        } else {
            Self { index: (index - u32::from(size)) as u16, wrap: !self.wrap }
        }
    }
}

#[derive(Debug)]
pub(super) struct Ring {
    size: u16,
    descriptors: GuestPhysical,
    driver_event: GuestPhysical,
    device_event: GuestPhysical,
    /// Descriptors allowed in a chain, those of an indirect table included.
    chain_limit: u16,
    event_idx: bool,
    indirect: bool,
    next_available: Position,
    next_used: Position,
    /// Whether the driver was last told to notify.
    notify: bool,
}

impl Ring {
    pub fn new<M: GuestMemory>(
        layout: &Layout,
        chain_limit: u16,
        features: u64,
        memory: &M,
    ) -> Result<Self, QueueError> {
        check_part(memory, layout.descriptors, DESCRIPTOR_SIZE * u64::from(layout.size), 16)?;
        check_part(memory, layout.driver, EVENT_SIZE, 4)?;
        check_part(memory, layout.device, EVENT_SIZE, 4)?;
        Ok(Self {
            size: layout.size,
            descriptors: layout.descriptors,
            driver_event: layout.driver,
            device_event: layout.device,
            chain_limit,
            event_idx: features & features::EVENT_IDX != 0,
            indirect: features & features::INDIRECT_DESC != 0,
            next_available: Position::START,
            next_used: Position::START,
            notify: true,
        })
    }

    /// Index and wrap counter of the next available and the next used descriptor; whether the driver was told to
    /// notify.
    pub fn position(&self) -> (Vec<u64>, bool) {
        let numbers = |position: Position| [position.index.into(), position.wrap.into()];
        ([numbers(self.next_available), numbers(self.next_used)].concat(), self.notify)
    }

    pub fn set_position(&mut self, position: &[u64], notify: bool) -> Result<(), StateError> {
        const INVALID: StateError = StateError::Invalid("virtqueue index");
        let place = |index: u64, wrap: u64| match u16::try_from(index) {
            Ok(index) if index < self.size && wrap <= 1 => Ok(Position { index, wrap: wrap == 1 }),
            _ => Err(INVALID),
        };
        let &[available, available_wrap, used, used_wrap] = position else { return Err(INVALID) };
        (self.next_available, self.next_used) = (place(available, available_wrap)?, place(used, used_wrap)?);
        self.notify = notify;
        Ok(())
    }

    pub fn pop<M: GuestMemory>(&mut self, memory: &M) -> Result<Option<Chain>, QueueError> {
        if !self.is_pending(memory)? {
            self.set_notify(memory, true)?;
            // The driver may have added a chain before it saw that we want to be told.
            fence(Ordering::SeqCst);
            if !self.is_pending(memory)? {
                return Ok(None);
            }
        }
        self.set_notify(memory, false)?;
        fence(Ordering::Acquire);
        let chain = self.walk(memory)?;
        self.next_available = self.next_available.advance(chain.entries, self.size);
        Ok(Some(chain))
    }

    pub fn push_used<M: GuestMemory>(
        &mut self,
        memory: &M,
        chain: &Chain,
        written: u32,
    ) -> Result<(), QueueError> {
        let at = self.descriptor(self.next_used.index);
        memory.store(at.offset(LENGTH), written)?;
        memory.store(at.offset(LENGTH + 4), chain.id)?;
        fence(Ordering::Release);
        let flags = if self.next_used.wrap { AVAIL | USED } else { 0 };
        memory.store(at.offset(FLAGS), flags)?;
        self.next_used = self.next_used.advance(chain.entries, self.size);
        Ok(())
    }

    /// Whether the last `added` entries, now used, call for an interrupt.
    pub fn wants_interrupt<M: GuestMemory>(&self, memory: &M, added: u16) -> Result<bool, QueueError> {
        // The used descriptors must be visible before we look whether the driver waits for them.
        fence(Ordering::SeqCst);
        let flags: u16 = memory.load(self.driver_event.offset(EVENT_FLAGS))?;
        if flags != DESC || !self.event_idx {
            return Ok(flags != DISABLE);
        }
        let event: u16 = memory.load(self.driver_event)?;
        let mut index = event & !EVENT_WRAP;
        if (event & EVENT_WRAP != 0) != self.next_used.wrap {
            index = index.wrapping_sub(self.size);
        }
        Ok(added > self.size || passes(index, self.next_used.index, added))
    }

    /// Whether the driver has made a chain available.
    fn is_pending<M: GuestMemory>(&self, memory: &M) -> Result<bool, QueueError> {
        let flags: u16 = memory.load(self.descriptor(self.next_available.index).offset(FLAGS))?;
        let wrap = self.next_available.wrap;
        Ok((flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap)
    }

    /// Tells the driver whether to notify us of the next chain.
    fn set_notify<M: GuestMemory>(&mut self, memory: &M, on: bool) -> Result<(), QueueError> {
        let flags = self.device_event.offset(EVENT_FLAGS);
        if self.event_idx && on {
            let wrap = if self.next_available.wrap { EVENT_WRAP } else { 0 };
            memory.store(self.device_event, self.next_available.index | wrap)?;
            fence(Ordering::Release);
            memory.store(flags, DESC)?;
        } else if self.notify != on {
            memory.store(flags, if on { ENABLE } else { DISABLE })?;
        }
        self.notify = on;
        Ok(())
    }

    fn descriptor(&self, index: u16) -> GuestPhysical {
        self.descriptors.offset(DESCRIPTOR_SIZE * u64::from(index))
    }

    fn walk<M: GuestMemory>(&self, memory: &M) -> Result<Chain, QueueError> {
        let mut builder = Builder::new(memory, self.chain_limit);
        for entry in 0..self.size {
            let at = self.next_available.advance(entry, self.size).index;
            let descriptor = Descriptor::load_packed(memory, self.descriptor(at))?;
            if descriptor.has(INDIRECT) {
                self.add_table(memory, &descriptor, &mut builder)?;
            } else {
                builder.count()?;
                builder.add(&descriptor)?;
            }
            if !descriptor.has(NEXT) {
                return Ok(builder.finish(descriptor.link, entry + 1));
            }
        }
        Err(QueueError::ChainTooLong)
    }

    /// Adds the buffers of an indirect table: all its entries, in order.
    fn add_table<M: GuestMemory>(
        &self,
        memory: &M,
        descriptor: &Descriptor,
        builder: &mut Builder<'_, M>,
    ) -> Result<(), QueueError> {
        if !self.indirect {
            return Err(QueueError::Indirect);
        }
        for entry in 0..descriptor.table_entries(memory)? {
            builder.count()?;
            let at = descriptor.address.offset(DESCRIPTOR_SIZE * u64::from(entry));
            let inner = Descriptor::load_packed(memory, at)?;
            if inner.has(INDIRECT) {
                return Err(QueueError::Indirect);
            }
            builder.add(&inner)?;
        }
        Ok(())
    }
}
