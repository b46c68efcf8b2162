//! Guest RAM for tests of this folder.

use std::ops::Range;
use std::sync::Mutex;

use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange, Word};

/// RAM from 0x8000_0000 on that only devices use.
pub(super) struct TestMemory(Mutex<Vec<u8>>);

/// Where [`TestMemory`] begins.
pub(super) const BASE: u64 = 0x8000_0000;

impl TestMemory {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Mutex::new(vec![0; bytes]))
    }

    fn with<R>(
        &self,
        address: GuestPhysical,
        length: usize,
        access: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, OutOfRange> {
        let start = address.0.checked_sub(BASE).ok_or(OutOfRange)? as usize;
        let end = start.checked_add(length).ok_or(OutOfRange)?;
        Ok(access(self.0.lock().unwrap().get_mut(start..end).ok_or(OutOfRange)?))
    }
}

impl GuestMemory for TestMemory {
    fn range(&self) -> Range<GuestPhysical> {
        GuestPhysical(BASE)..GuestPhysical(BASE + self.0.lock().unwrap().len() as u64)
    }

    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes[..T::SIZE as usize])?;
        Ok(T::truncate(u64::from_le_bytes(bytes)))
    }

    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        self.write(address, &value.widen().to_le_bytes()[..T::SIZE as usize])
    }

    fn compare_exchange(&self, _: GuestPhysical, _: AtomicWidth, _: u64, _: u64) -> Result<u64, OutOfRange> {
        Err(OutOfRange)
    }

    fn compare_exchange_quad(&self, _: GuestPhysical, _: u128, _: u128) -> Result<u128, OutOfRange> {
        Err(OutOfRange)
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        self.with(address, buffer.len(), |ram| buffer.copy_from_slice(ram))
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        self.with(address, buffer.len(), |ram| ram.copy_from_slice(buffer))
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        self.with(address, length as usize, |ram| ram.fill(0))
    }
}
