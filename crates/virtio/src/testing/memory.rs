//! RAM and an interrupt wire without a home.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, InterruptLine, OutOfRange, Word};
use spin::Mutex;

/// Where [`TestMemory`] begins.
pub const RAM: GuestPhysical = GuestPhysical(0x8000_0000);

/// RAM in a vector behind a lock: slow and simple.
pub struct TestMemory(Mutex<Vec<u8>>, AtomicU64);

impl TestMemory {
    /// `size` bytes of zeros from [`RAM`] on.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self(Mutex::new(vec![0; size]), AtomicU64::new(0))
    }

    /// How many bytes have been released.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.1.load(Ordering::SeqCst)
    }

    fn with<R>(
        &self,
        address: GuestPhysical,
        length: usize,
        work: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, OutOfRange> {
        let mut bytes = self.0.lock();
        let start = address.0.checked_sub(RAM.0).and_then(|at| usize::try_from(at).ok()).ok_or(OutOfRange)?;
        let end = start.checked_add(length).ok_or(OutOfRange)?;
        bytes.get_mut(start..end).map(work).ok_or(OutOfRange)
    }

    /// Compares and exchanges `N` bytes.
    fn exchange<const N: usize>(
        &self,
        address: GuestPhysical,
        expected: [u8; N],
        new: [u8; N],
    ) -> Result<[u8; N], OutOfRange> {
        if !address.is_aligned(N as u64) {
            return Err(OutOfRange);
        }
        self.with(address, N, |bytes| {
            let found = core::array::from_fn(|i| bytes[i]);
            if found == expected {
                bytes.copy_from_slice(&new);
            }
            found
        })
    }
}

impl GuestMemory for TestMemory {
    fn range(&self) -> Range<GuestPhysical> {
        RAM..RAM.offset(self.0.lock().len() as u64)
    }

    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes[..T::SIZE as usize])?;
        Ok(T::truncate(u64::from_le_bytes(bytes)))
    }

    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        self.write(address, &value.widen().to_le_bytes()[..T::SIZE as usize])
    }

    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        match width {
            AtomicWidth::Word => self
                .exchange(address, (expected as u32).to_le_bytes(), (new as u32).to_le_bytes())
                .map(|found| u32::from_le_bytes(found).into()),
            AtomicWidth::Double => {
                self.exchange(address, expected.to_le_bytes(), new.to_le_bytes()).map(u64::from_le_bytes)
            }
        }
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        self.exchange(address, expected.to_le_bytes(), new.to_le_bytes()).map(u128::from_le_bytes)
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        self.with(address, buffer.len(), |bytes| buffer.copy_from_slice(bytes))
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        self.with(address, buffer.len(), |bytes| bytes.copy_from_slice(buffer))
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        let length = usize::try_from(length).map_err(|_| OutOfRange)?;
        self.with(address, length, |bytes| bytes.fill(0))
    }

    fn release(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        self.zero(address, length)?;
        self.1.fetch_add(length, Ordering::SeqCst);
        Ok(())
    }
}

/// An interrupt wire that remembers its level.
#[derive(Debug, Default)]
pub struct TestLine {
    level: AtomicBool,
    rises: AtomicU32,
}

impl TestLine {
    /// The level now.
    #[must_use]
    pub fn level(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }

    /// How often it went up.
    #[must_use]
    pub fn rises(&self) -> u32 {
        self.rises.load(Ordering::SeqCst)
    }
}

impl InterruptLine for TestLine {
    fn set(&self, level: bool) {
        if level && !self.level.swap(true, Ordering::SeqCst) {
            self.rises.fetch_add(1, Ordering::SeqCst);
        } else if !level {
            self.level.store(false, Ordering::SeqCst);
        }
    }
}
