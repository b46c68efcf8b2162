//! The split format: descriptor table, available ring, used ring (Virtio 1.3, "Split Virtqueues").

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use rvisor_waist::{GuestMemory, GuestPhysical, StateError};

use super::chain::{Builder, Chain, DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT};
use super::{Layout, QueueError, check_part, passes};
use crate::features;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` and `VIRTQ_USED_F_NO_NOTIFY`: bit 0 of the rings' flags.
const SUPPRESS: u16 = 1;
/// Offset of `idx` in both rings, after the flags.
const INDEX: u64 = 2;
/// Offset of `ring` in both rings.
const ENTRIES: u64 = 4;
const AVAILABLE_ENTRY: u64 = 2;
const USED_ENTRY: u64 = 8;

#[derive(Debug)]
pub(super) struct Ring {
    size: u16,
    descriptors: GuestPhysical,
    available: GuestPhysical,
    used: GuestPhysical,
    /// Descriptors allowed in a chain, those of an indirect table included.
    chain_limit: u16,
    event_idx: bool,
    indirect: bool,
    next_available: u16,
    next_used: u16,
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
        if !layout.size.is_power_of_two() {
            return Err(QueueError::Size);
        }
        let size = u64::from(layout.size);
        // Each ring ends with a 16-bit event field.
        check_part(memory, layout.descriptors, DESCRIPTOR_SIZE * size, 16)?;
        check_part(memory, layout.driver, ENTRIES + AVAILABLE_ENTRY * size + 2, 2)?;
        check_part(memory, layout.device, ENTRIES + USED_ENTRY * size + 2, 4)?;
        Ok(Self {
            size: layout.size,
            descriptors: layout.descriptors,
            available: layout.driver,
            used: layout.device,
            chain_limit,
            event_idx: features & features::EVENT_IDX != 0,
            indirect: features & features::INDIRECT_DESC != 0,
            next_available: 0,
            next_used: 0,
            notify: true,
        })
    }

    /// Next available and next used index; whether the driver was told to notify.
    pub fn position(&self) -> (Vec<u64>, bool) {
        (alloc::vec![self.next_available.into(), self.next_used.into()], self.notify)
    }

    pub fn set_position(&mut self, position: &[u64], notify: bool) -> Result<(), StateError> {
        let index = |value: u64| u16::try_from(value).map_err(|_| StateError::Invalid("virtqueue index"));
        let &[available, used] = position else { return Err(StateError::Malformed) };
        (self.next_available, self.next_used, self.notify) = (index(available)?, index(used)?, notify);
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
        let entry = u64::from(self.next_available % self.size);
        let head: u16 = memory.load(self.available.offset(ENTRIES + AVAILABLE_ENTRY * entry))?;
        let chain = self.walk(memory, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    pub fn push_used<M: GuestMemory>(
        &mut self,
        memory: &M,
        chain: &Chain,
        written: u32,
    ) -> Result<(), QueueError> {
        let entry = self.used.offset(ENTRIES + USED_ENTRY * u64::from(self.next_used % self.size));
        memory.store(entry, u32::from(chain.id))?;
        memory.store(entry.offset(4), written)?;
        self.next_used = self.next_used.wrapping_add(1);
        fence(Ordering::Release);
        memory.store(self.used.offset(INDEX), self.next_used)?;
        Ok(())
    }

    /// Whether the last `added` entries of the used ring call for an interrupt.
    pub fn wants_interrupt<M: GuestMemory>(&self, memory: &M, added: u16) -> Result<bool, QueueError> {
        // The new index must be visible before we look whether the driver waits for it.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.available.offset(ENTRIES + AVAILABLE_ENTRY * u64::from(self.size));
            return Ok(passes(memory.load(event)?, self.next_used, added));
        }
        Ok(memory.load::<u16>(self.available)? & SUPPRESS == 0)
    }

    /// Whether the driver has made a chain available.
    fn is_pending<M: GuestMemory>(&self, memory: &M) -> Result<bool, QueueError> {
        let index: u16 = memory.load(self.available.offset(INDEX))?;
        let pending = index.wrapping_sub(self.next_available);
        if pending > self.size {
            return Err(QueueError::AvailableIndex);
        }
        Ok(pending != 0)
    }

    /// Tells the driver whether to notify us of the next chain.
    fn set_notify<M: GuestMemory>(&mut self, memory: &M, on: bool) -> Result<(), QueueError> {
        if self.event_idx {
            // An event index left behind asks for nothing, so that only turning on takes a store.
            if on {
                let event = self.used.offset(ENTRIES + USED_ENTRY * u64::from(self.size));
                memory.store(event, self.next_available)?;
            }
        } else if self.notify != on {
            memory.store(self.used, if on { 0 } else { SUPPRESS })?;
        }
        self.notify = on;
        Ok(())
    }

    fn walk<M: GuestMemory>(&self, memory: &M, head: u16) -> Result<Chain, QueueError> {
        let mut builder = Builder::new(memory, self.chain_limit);
        let (mut table, mut table_entries) = (self.descriptors, u32::from(self.size));
        let mut in_table = false;
        let mut next = head;
        loop {
            if u32::from(next) >= table_entries {
                return Err(QueueError::DescriptorIndex);
            }
            let at = table.offset(DESCRIPTOR_SIZE * u64::from(next));
            let descriptor = Descriptor::load_split(memory, at)?;
            if descriptor.has(INDIRECT) {
                if !self.indirect || in_table {
                    return Err(QueueError::Indirect);
                }
                (table, table_entries) = (descriptor.address, descriptor.table_entries(memory)?);
                in_table = true;
                next = 0;
                continue;
            }
            builder.count()?;
            builder.add(&descriptor)?;
            if !descriptor.has(NEXT) {
                return Ok(builder.finish(head, 1));
            }
            next = descriptor.link;
        }
    }
}
