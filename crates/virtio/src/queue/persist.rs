//! Queues and chains in a snapshot. The rings themselves are the guest's memory.

use alloc::vec::Vec;

use rvisor_waist::{GuestMemory, GuestPhysical, Segment, StateError, StateReader, StateWriter};

use super::{Chain, Layout, Queue, Ring, contains};
use crate::segments::Segments;

/// Numbers of a queue's fields. Those from `POSITION` on are there where the queue is ready.
mod field {
    pub const SIZE: u16 = 1;
    pub const DESCRIPTORS: u16 = 2;
    pub const DRIVER: u16 = 3;
    pub const DEVICE: u16 = 4;
    /// Split: next available and next used index. Packed: index and wrap counter of each.
    pub const POSITION: u16 = 5;
    /// Whether the driver was told to notify.
    pub const NOTIFY: u16 = 6;
    pub const IN_FLIGHT: u16 = 7;
    pub const UNANNOUNCED: u16 = 8;
}

const WHAT: &str = "virtqueue";

impl Queue {
    pub(crate) fn save(&self, writer: &mut StateWriter) {
        writer.number(field::SIZE, self.layout.size.into());
        writer.number(field::DESCRIPTORS, self.layout.descriptors.0);
        writer.number(field::DRIVER, self.layout.driver.0);
        writer.number(field::DEVICE, self.layout.device.0);
        let (position, notify) = match &self.ring {
            None => return,
            Some(Ring::Split(ring)) => ring.position(),
            Some(Ring::Packed(ring)) => ring.position(),
        };
        writer.numbers(field::POSITION, position);
        writer.number(field::NOTIFY, notify.into());
        writer.number(field::IN_FLIGHT, self.in_flight.into());
        writer.number(field::UNANNOUNCED, self.unannounced.into());
    }

    pub(crate) fn restore<M: GuestMemory>(
        &mut self,
        reader: &mut StateReader<'_>,
        features: u64,
        memory: &M,
    ) -> Result<(), StateError> {
        let layout = Layout {
            size: reader.small(field::SIZE, WHAT)?,
            descriptors: GuestPhysical(reader.number(field::DESCRIPTORS)?),
            driver: GuestPhysical(reader.number(field::DRIVER)?),
            device: GuestPhysical(reader.number(field::DEVICE)?),
        };
        self.layout = layout;
        let Some(position) = reader.optional_numbers(field::POSITION)? else { return Ok(()) };
        let notify = reader.flag(field::NOTIFY)?;
        self.start(layout, features, memory).map_err(|_| StateError::Invalid(WHAT))?;
        match &mut self.ring {
            Some(Ring::Split(ring)) => ring.set_position(&position, notify)?,
            Some(Ring::Packed(ring)) => ring.set_position(&position, notify)?,
            None => {}
        }
        self.in_flight = reader.small(field::IN_FLIGHT, WHAT)?;
        self.unannounced = reader.small(field::UNANNOUNCED, WHAT)?;
        if self.in_flight > layout.size {
            return Err(StateError::Invalid(WHAT));
        }
        Ok(())
    }
}

impl Chain {
    /// The chain as a list of numbers: its name, entries, number of readable runs, then address and length of each
    /// run.
    pub(crate) fn to_numbers(&self) -> Vec<u64> {
        let runs = |segments: &Segments| -> Vec<u64> {
            segments.runs().iter().flat_map(|run| [run.address.0, run.length.into()]).collect()
        };
        let readable = runs(&self.readable);
        let mut numbers = alloc::vec![self.id.into(), self.entries.into(), readable.len() as u64 / 2];
        numbers.extend(readable);
        numbers.extend(runs(&self.writable));
        numbers
    }

    /// The chain of such a list. All of its runs lie in RAM.
    pub(crate) fn from_numbers<M: GuestMemory>(numbers: &[u64], memory: &M) -> Result<Self, StateError> {
        const INVALID: StateError = StateError::Invalid("chain of a virtqueue");
        let &[id, entries, readable, ref runs @ ..] = numbers else { return Err(INVALID) };
        let (runs, rest) = runs.as_chunks::<2>();
        let readable = usize::try_from(readable).ok().filter(|&count| count <= runs.len()).ok_or(INVALID)?;
        let entries: u16 = entries.try_into().map_err(|_| INVALID)?;
        if !rest.is_empty() || entries == 0 || entries > 1 << 15 {
            return Err(INVALID);
        }
        let (readable, writable) = runs.split_at(readable);
        let gather = |runs: &[[u64; 2]]| {
            let mut segments = Segments::default();
            for &[address, length] in runs {
                let segment = Segment {
                    address: GuestPhysical(address),
                    length: length.try_into().ok().filter(|&length| length > 0).ok_or(INVALID)?,
                };
                if !contains(memory, segment.address, length) || !segments.push(segment) {
                    return Err(INVALID);
                }
            }
            Ok(segments)
        };
        Ok(Self {
            readable: gather(readable)?,
            writable: gather(writable)?,
            id: id.try_into().map_err(|_| INVALID)?,
            entries,
        })
    }
}
