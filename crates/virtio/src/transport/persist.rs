//! A virtio device in a snapshot: the registers, the queues, and what its front end adds.

use rvisor_waist::{GuestMemory, StateError, StateReader, StateWriter};

use super::{Transport, status};
use crate::FrontEnd;

/// Numbers of the fields.
pub(crate) mod field {
    /// The device id; 0 and nothing else for an empty slot.
    pub const DEVICE: u16 = 1;
    pub const STATUS: u16 = 2;
    pub const DEVICE_FEATURES_SELECT: u16 = 3;
    pub const DRIVER_FEATURES_SELECT: u16 = 4;
    pub const DRIVER_FEATURES: u16 = 5;
    pub const QUEUE_SELECT: u16 = 6;
    pub const INTERRUPT: u16 = 7;
    pub const CONFIG_GENERATION: u16 = 8;
    /// Queues with work to go on with, a bit each.
    pub const DEFERRED: u16 = 9;
    /// A section for each queue, numbered from 1.
    pub const QUEUES: u16 = 10;
    pub const FRONT_END: u16 = 11;
}

/// Rounds in which a back end may finish what it was given: requests lead to one more at most.
const ROUNDS: usize = 4;
const WHAT: &str = "virtio device";

/// Checks that the device that was saved in a slot is of this type.
pub(crate) fn check_device(reader: &mut StateReader<'_>, id: u32) -> Result<(), StateError> {
    if reader.number(field::DEVICE)? != u64::from(id) {
        return Err(StateError::Mismatch("set of virtio devices"));
    }
    Ok(())
}

/// Device id and front end's section of a device that was saved; an empty slot has none.
pub(crate) fn look<'a>(reader: &StateReader<'a>) -> Result<(u32, Option<StateReader<'a>>), StateError> {
    let mut fields = *reader;
    let id = fields.small(field::DEVICE, WHAT)?;
    Ok((id, reader.find(field::FRONT_END)?.map(StateReader::new)))
}

impl<F: FrontEnd, M: GuestMemory> Transport<F, M> {
    pub(super) fn save_state(&mut self, writer: &mut StateWriter) -> Result<(), StateError> {
        for _ in 0..ROUNDS {
            if !self.front_end.settle() {
                break;
            }
            self.serve(|front_end, queues| front_end.poll(queues));
        }
        writer.number(field::DEVICE, self.front_end.device_id().into());
        writer.number(field::STATUS, self.status.into());
        writer.number(field::DEVICE_FEATURES_SELECT, self.device_features_select.into());
        writer.number(field::DRIVER_FEATURES_SELECT, self.driver_features_select.into());
        writer.number(field::DRIVER_FEATURES, self.driver_features);
        writer.number(field::QUEUE_SELECT, self.queue_select.into());
        writer.number(field::INTERRUPT, self.interrupt.into());
        writer.number(field::CONFIG_GENERATION, self.config_generation.into());
        writer.number(field::DEFERRED, self.deferred);
        writer.section(field::QUEUES, |queues| {
            (1..).zip(&self.queues).try_for_each(|(number, queue)| {
                queues.section(number, |writer| {
                    queue.save(writer);
                    Ok::<_, StateError>(())
                })
            })
        })?;
        writer.section(field::FRONT_END, |writer| self.front_end.save(writer))
    }

    pub(super) fn restore_state(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        check_device(reader, self.front_end.device_id())?;
        self.status = reader.small(field::STATUS, WHAT)?;
        self.device_features_select = reader.small(field::DEVICE_FEATURES_SELECT, WHAT)?;
        self.driver_features_select = reader.small(field::DRIVER_FEATURES_SELECT, WHAT)?;
        self.driver_features = reader.number(field::DRIVER_FEATURES)?;
        if self.has_status(status::FEATURES_OK) && !self.are_features_acceptable() {
            return Err(StateError::Mismatch("choice of features of a virtio device"));
        }
        self.queue_select = reader.small(field::QUEUE_SELECT, WHAT)?;
        let interrupt = reader.small(field::INTERRUPT, WHAT)?;
        self.config_generation = reader.small(field::CONFIG_GENERATION, WHAT)?;
        self.deferred = reader.number(field::DEFERRED)?;
        let mut queues = reader.section(field::QUEUES)?;
        for (number, queue) in (1..).zip(&mut self.queues) {
            let mut reader = queues.section(number)?;
            queue.restore(&mut reader, self.driver_features, &*self.memory)?;
            reader.end()?;
        }
        queues.end()?;
        if self.has_status(status::DRIVER_OK) {
            self.front_end.activate(self.driver_features);
        }
        let mut inner = reader.section(field::FRONT_END)?;
        self.front_end.restore(&mut inner, &*self.memory)?;
        inner.end()?;
        // Whatever the wire shows: what is at its other end was saved at another moment.
        self.asserted = interrupt == 0;
        self.set_interrupt(interrupt);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
