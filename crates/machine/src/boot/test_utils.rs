//! RAM for tests, and files to load into it.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange, Word};
use spin::Mutex;

/// RAM in a vector.
pub struct Ram {
    base: GuestPhysical,
    bytes: Mutex<Vec<u8>>,
}

impl Ram {
    pub fn new(base: GuestPhysical, size: usize) -> Self {
        Self { base, bytes: Mutex::new(vec![0xaa; size]) }
    }

    fn within(&self, address: GuestPhysical, length: u64) -> Result<Range<usize>, OutOfRange> {
        let start = address.0.checked_sub(self.base.0).ok_or(OutOfRange)?;
        let end = start.checked_add(length).ok_or(OutOfRange)?;
        if end > self.bytes.lock().len() as u64 {
            return Err(OutOfRange);
        }
        Ok(start as usize..end as usize)
    }
}

impl GuestMemory for Ram {
    fn range(&self) -> Range<GuestPhysical> {
        self.base..self.base.offset(self.bytes.lock().len() as u64)
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
        let range = self.within(address, buffer.len() as u64)?;
        buffer.copy_from_slice(&self.bytes.lock()[range]);
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        let range = self.within(address, buffer.len() as u64)?;
        self.bytes.lock()[range].copy_from_slice(buffer);
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        let range = self.within(address, length)?;
        self.bytes.lock()[range].fill(0);
        Ok(())
    }
}
