//! The driver's side of a virtqueue, in both formats: enough to make chains available and to see them used.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use rvisor_waist::{GuestMemory, GuestPhysical, Segment};

use super::TestMemory;
use crate::queue::Layout;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A buffer in a chain: where it is, and whether the device writes it.
pub(super) type Part = (Segment, bool);

/// The driver's side of one queue.
pub(super) struct Ring {
    layout: Layout,
    packed: bool,
    /// Free descriptors (split) or buffer IDs (packed).
    free: Vec<u16>,
    /// Descriptors of the chains made available, by head (split) or buffer ID (packed).
    chains: BTreeMap<u16, Vec<u16>>,
    /// Split: index of the available ring. Packed: place in the ring, counted on without wrapping.
    next_available: u32,
    /// The same for the used side.
    next_used: u32,
}

impl Ring {
    pub fn new(layout: Layout, packed: bool) -> Self {
        Self {
            layout,
            packed,
            free: (0..layout.size).rev().collect(),
            chains: BTreeMap::new(),
            next_available: 0,
            next_used: 0,
        }
    }

    /// Makes a chain available; through the table at `indirect` where one is given. Returns its name, or
    /// `None` where the ring is full.
    pub fn add(
        &mut self,
        memory: &TestMemory,
        parts: &[Part],
        indirect: Option<GuestPhysical>,
    ) -> Option<u16> {
        let Some(table) = indirect else { return self.add_direct(memory, parts, 0) };
        for (i, (segment, write)) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let next = if last || self.packed { 0 } else { NEXT };
            let flags = next | if *write { WRITE } else { 0 };
            self.store(memory, table.offset(16 * i as u64), segment, flags, i as u16 + 1);
        }
        let table = Segment { address: table, length: 16 * parts.len() as u32 };
        self.add_direct(memory, &[(table, false)], INDIRECT)
    }

    fn add_direct(&mut self, memory: &TestMemory, parts: &[Part], extra: u16) -> Option<u16> {
        if self.packed { self.add_packed(memory, parts, extra) } else { self.add_split(memory, parts, extra) }
    }

    fn add_split(&mut self, memory: &TestMemory, parts: &[Part], extra: u16) -> Option<u16> {
        if self.free.len() < parts.len() {
            return None;
        }
        let numbers = self.free.split_off(self.free.len() - parts.len());
        for (i, (segment, write)) in parts.iter().enumerate() {
            let next = numbers.get(i + 1);
            let flags = extra | if *write { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            let at = self.layout.descriptors.offset(16 * u64::from(numbers[i]));
            self.store(memory, at, segment, flags, next.copied().unwrap_or(0));
        }
        let head = numbers[0];
        self.chains.insert(head, numbers);
        let entry = u64::from(self.next_available % u32::from(self.layout.size));
        memory.store(self.layout.driver.offset(4 + 2 * entry), head).ok()?;
        self.next_available = self.next_available.wrapping_add(1);
        memory.store(self.layout.driver.offset(2), self.next_available as u16).ok()?;
        Some(head)
    }

    fn add_packed(&mut self, memory: &TestMemory, parts: &[Part], extra: u16) -> Option<u16> {
        let taken: usize = self.chains.values().map(Vec::len).sum();
        if taken + parts.len() > usize::from(self.layout.size) {
            return None;
        }
        let id = self.free.pop()?;
        self.chains.insert(id, (0..parts.len() as u16).collect());
        // The head is stored last: it makes the chain available.
        for (i, (segment, write)) in parts.iter().enumerate().rev() {
            let next = if i + 1 < parts.len() { NEXT } else { 0 };
            let (at, wrap) = self.place(self.next_available + i as u32);
            let state = if wrap { AVAIL } else { USED };
            self.store(memory, at, segment, extra | next | state | if *write { WRITE } else { 0 }, id);
        }
        self.next_available += parts.len() as u32;
        Some(id)
    }

    /// The descriptor at a place of a packed ring, and the wrap counter there.
    fn place(&self, position: u32) -> (GuestPhysical, bool) {
        let size = u32::from(self.layout.size);
        let at = self.layout.descriptors.offset(16 * u64::from(position % size));
        (at, (position / size).is_multiple_of(2))
    }

    fn store(&self, memory: &TestMemory, at: GuestPhysical, segment: &Segment, flags: u16, link: u16) {
        let (low, high) = if self.packed { (link, flags) } else { (flags, link) };
        let rest = u64::from(segment.length) | u64::from(low) << 32 | u64::from(high) << 48;
        memory.store(at, segment.address.0).expect("descriptor in RAM");
        memory.store(at.offset(8), rest).expect("descriptor in RAM");
    }

    /// Takes the next used chain: its name and the bytes written.
    pub fn used(&mut self, memory: &TestMemory) -> Option<(u16, u32)> {
        let (id, written) = if self.packed { self.used_packed(memory) } else { self.used_split(memory) }?;
        let numbers = self.chains.remove(&id)?;
        if self.packed {
            self.next_used += numbers.len() as u32;
            self.free.push(id);
        } else {
            self.next_used = self.next_used.wrapping_add(1);
            self.free.extend(numbers);
        }
        Some((id, written))
    }

    fn used_split(&self, memory: &TestMemory) -> Option<(u16, u32)> {
        let index: u16 = memory.load(self.layout.device.offset(2)).ok()?;
        if index == self.next_used as u16 {
            return None;
        }
        let entry = self.next_used % u32::from(self.layout.size);
        let at = self.layout.device.offset(4 + 8 * u64::from(entry));
        Some((memory.load::<u32>(at).ok()? as u16, memory.load(at.offset(4)).ok()?))
    }

    fn used_packed(&self, memory: &TestMemory) -> Option<(u16, u32)> {
        let (at, wrap) = self.place(self.next_used);
        let flags: u16 = memory.load(at.offset(14)).ok()?;
        if (flags & AVAIL != 0) != wrap || (flags & USED != 0) != wrap {
            return None;
        }
        Some((memory.load(at.offset(12)).ok()?, memory.load(at.offset(8)).ok()?))
    }

    /// Whether the device wants to be told of a chain just added: the `count` last entries.
    pub fn wants_notification(&self, memory: &TestMemory, event_idx: bool, count: u16) -> bool {
        let load = |at| memory.load::<u16>(at).unwrap_or(0);
        let size = self.layout.size;
        let (event, new) = if self.packed {
            let flags = load(self.layout.device.offset(2));
            if flags != 2 {
                return flags == 0;
            }
            let event = load(self.layout.device);
            let (_, wrap) = self.place(self.next_available);
            let index = event & 0x7fff;
            let index = if (event >> 15 != 0) == wrap { index } else { index.wrapping_sub(size) };
            (index, (self.next_available % u32::from(size)) as u16)
        } else if event_idx {
            let event = self.layout.device.offset(4 + 8 * u64::from(size));
            (load(event), self.next_available as u16)
        } else {
            return load(self.layout.device) & 1 == 0;
        };
        new.wrapping_sub(event).wrapping_sub(1) < count
    }

    /// Asks to be interrupted for the chain that is used `count` entries from the next, and for none before.
    pub fn set_used_event(&self, memory: &TestMemory, count: u16) {
        let size = u32::from(self.layout.size);
        let position = self.next_used + u32::from(count);
        if self.packed {
            let (_, wrap) = self.place(position);
            let event = (position % size) as u16 | if wrap { 1 << 15 } else { 0 };
            memory.store(self.layout.driver, event).expect("ring in RAM");
            memory.store(self.layout.driver.offset(2), 2_u16).expect("ring in RAM");
        } else {
            let event = self.layout.driver.offset(4 + 2 * u64::from(size));
            memory.store(event, position as u16).expect("ring in RAM");
        }
    }

    /// Asks for no interrupts; without event indices.
    pub fn suppress_interrupts(&self, memory: &TestMemory) {
        let flags = if self.packed { self.layout.driver.offset(2) } else { self.layout.driver };
        memory.store(flags, 1_u16).expect("ring in RAM");
    }
}
