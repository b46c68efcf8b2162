//! A virtio-mmio slot with no device in it (Virtio 1.3, "MMIO Device Register Layout": a device id of zero).

use rvisor_waist::{Device, OutOfRange, StateError, StateReader, StateWriter, Width};

use crate::transport::{MAGIC, VERSION, persist, register};

/// What a driver finds in an unused slot.
#[derive(Clone, Copy, Default, Debug)]
pub struct EmptySlot;

impl Device for EmptySlot {
    fn read(&mut self, offset: u64, _width: Width) -> Result<u64, OutOfRange> {
        Ok(match offset {
            register::MAGIC_VALUE => u64::from(MAGIC),
            register::VERSION => u64::from(VERSION),
            _ => 0,
        })
    }

    fn write(&mut self, _offset: u64, _width: Width, _value: u64) -> Result<(), OutOfRange> {
        Ok(())
    }

    fn reset(&mut self) {}

    /// The device id of no device, where a transport has its device's.
    fn save(&mut self, state: &mut StateWriter) -> Result<(), StateError> {
        state.number(persist::field::DEVICE, 0);
        Ok(())
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        persist::check_device(state, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_slot_is_a_transport_without_a_device() {
        let mut slot = EmptySlot;
        assert_eq!(slot.read(register::MAGIC_VALUE, Width::Word), Ok(0x7472_6976));
        assert_eq!(slot.read(register::DEVICE_ID, Width::Word), Ok(0));
    }
}
