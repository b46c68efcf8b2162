//! The board: which device answers at which guest physical address, and on which interrupt.
//!
//! The addresses stand in [`memory_map`](crate::memory_map).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use rvisor_waist::{Device, GuestPhysical, OutOfRange, Width};
use spin::Mutex;

use crate::memory_map::Window;

struct Slot {
    window: Window,
    device: Mutex<Box<dyn Device>>,
}

/// The devices, by address.
#[derive(Default)]
pub struct Board {
    slots: Vec<Slot>,
    /// Devices don't look at their back ends.
    frozen: AtomicBool,
}

/// Another thread is using the device: try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

impl Board {
    /// A board without devices.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: Vec::new(), frozen: AtomicBool::new(false) }
    }

    /// Puts a device at `window`.
    ///
    /// # Panics
    /// If the window overlaps another: the board's map is fixed, so this is a mistake in the monitor.
    pub fn attach(&mut self, window: Window, device: Box<dyn Device>) {
        let end = window.base.0 + window.size;
        let position = self.slots.partition_point(|slot| slot.window.base < window.base);
        let overlaps =
            |slot: &Slot| slot.window.base.0 < end && window.base.0 < slot.window.base.0 + slot.window.size;
        assert!(!self.slots.iter().any(overlaps), "devices overlap at {}", window.base);
        self.slots.insert(position, Slot { window, device: Mutex::new(device) });
    }

    fn find(&self, address: GuestPhysical, width: Width) -> Result<(&Slot, u64), OutOfRange> {
        let position = self.slots.partition_point(|slot| slot.window.base <= address);
        let slot = position.checked_sub(1).map(|index| &self.slots[index]).ok_or(OutOfRange)?;
        let offset = address.0 - slot.window.base.0;
        if offset + width.bytes() > slot.window.size {
            return Err(OutOfRange);
        }
        Ok((slot, offset))
    }

    /// Loads from the device at `address`; [`OutOfRange`] where there is none.
    pub fn read(&self, address: GuestPhysical, width: Width) -> Result<Result<u64, OutOfRange>, Busy> {
        let (slot, offset) = match self.find(address, width) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let mut device = slot.device.try_lock().ok_or(Busy)?;
        Ok(device.read(offset, width).map(|value| width.truncate(value)))
    }

    /// Stores to the device at `address`; [`OutOfRange`] where there is none.
    pub fn write(
        &self,
        address: GuestPhysical,
        width: Width,
        value: u64,
    ) -> Result<Result<(), OutOfRange>, Busy> {
        let (slot, offset) = match self.find(address, width) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let mut device = slot.device.try_lock().ok_or(Busy)?;
        Ok(device.write(offset, width, width.truncate(value)))
    }

    /// Tells the device at `base` that its back end has something for it.
    pub fn poll(&self, base: GuestPhysical) -> Result<(), Busy> {
        if let Ok((slot, 0)) = self.find(base, Width::Byte) {
            let mut device = slot.device.try_lock().ok_or(Busy)?;
            // Looked at under the device's lock: who has frozen the board and had the lock since knows that nothing
            // happens any more.
            if !self.frozen.load(Ordering::SeqCst) {
                device.poll();
            }
        }
        Ok(())
    }

    /// Keeps devices from looking at their back ends, while the machine is being saved.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Lets them look again, at once too.
    pub fn thaw(&self) {
        self.frozen.store(false, Ordering::SeqCst);
        for slot in &self.slots {
            slot.device.lock().poll();
        }
    }

    /// Does something with each device in the order of their addresses, until that fails.
    pub(crate) fn for_each<E>(
        &self,
        mut work: impl FnMut(GuestPhysical, &mut dyn Device) -> Result<(), E>,
    ) -> Result<(), E> {
        self.slots.iter().try_for_each(|slot| work(slot.window.base, &mut **slot.device.lock()))
    }

    /// Resets every device.
    pub fn reset(&self) {
        for slot in &self.slots {
            slot.device.lock().reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::{FINISHER, RTC, UART};

    struct Echo(u64);

    impl Device for Echo {
        fn read(&mut self, offset: u64, _width: Width) -> Result<u64, OutOfRange> {
            Ok(self.0.wrapping_add(offset))
        }

        fn write(&mut self, _offset: u64, _width: Width, value: u64) -> Result<(), OutOfRange> {
            self.0 = value;
            Ok(())
        }

        fn reset(&mut self) {
            self.0 = 0;
        }
    }

    fn board() -> Board {
        let mut board = Board::new();
        board.attach(UART, Box::new(Echo(0)));
        board.attach(RTC, Box::new(Echo(0x1000)));
        board
    }

    #[test]
    fn access_reaches_the_device_at_its_offset() {
        let board = board();
        assert_eq!(board.read(RTC.base.offset(8), Width::Word), Ok(Ok(0x1008)));
        assert_eq!(board.write(UART.base, Width::Byte, 0x1ff), Ok(Ok(())));
        assert_eq!(board.read(UART.base, Width::Double), Ok(Ok(0xff)));
    }

    #[test]
    fn access_outside_any_window_is_out_of_range() {
        let board = board();
        for address in [0, FINISHER.base.0, UART.base.0 + UART.size, UART.base.0 + UART.size - 1, u64::MAX] {
            assert_eq!(
                board.read(GuestPhysical(address), Width::Double),
                Ok(Err(OutOfRange)),
                "{address:#x}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_devices_are_a_mistake() {
        board().attach(Window { base: UART.base.offset(0x80), size: 0x100 }, Box::new(Echo(0)));
    }
}
