//! A guest's partition: a range of machine memory that is its RAM.
//!
//! It is reached from every physical hart and by the guest itself at the same time, so all accesses go through
//! atomics or raw copies: no Rust reference into it ever exists.

use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use portable_atomic::AtomicU128;
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange, Word};

use crate::address::MachineAddress;

/// RAM of one guest.
pub struct Partition {
    base: GuestPhysical,
    size: u64,
    machine: MachineAddress,
    start: NonNull<u8>,
}

// SAFETY: the memory is never given back, and every access to it is atomic or a copy of bytes that may race with
// the guest, as DMA does.
unsafe impl Send for Partition {}
// SAFETY: as above.
unsafe impl Sync for Partition {}

impl Partition {
    /// The RAM of `size` bytes at guest physical `base` whose first byte is at `machine`, mapped at `start`.
    ///
    /// # Safety
    /// `size` bytes from `start` are mapped for ever, and nobody else uses them.
    #[cfg(any(test, target_os = "none"))]
    pub(super) const unsafe fn new(
        base: GuestPhysical,
        size: u64,
        machine: MachineAddress,
        start: NonNull<u8>,
    ) -> Self {
        Self { base, size, machine, start }
    }

    /// The machine address of a guest physical one, with the bytes of RAM that follow it; `None` outside RAM.
    #[must_use]
    pub fn machine(&self, address: GuestPhysical) -> Option<(MachineAddress, u64)> {
        let offset = address.0.wrapping_sub(self.base.0);
        (offset < self.size).then(|| (self.machine.offset(offset), self.size - offset))
    }

    fn pointer(&self, address: GuestPhysical, length: u64) -> Result<*mut u8, OutOfRange> {
        let offset = address.0.wrapping_sub(self.base.0);
        if offset > self.size || length > self.size - offset {
            return Err(OutOfRange);
        }
        // SAFETY: `offset` is inside the partition or one past its end.
        Ok(unsafe { self.start.add(offset as usize) }.as_ptr())
    }

    /// The same, for an access that must be aligned.
    fn aligned(&self, address: GuestPhysical, length: u64) -> Result<*mut u8, OutOfRange> {
        let pointer = self.pointer(address, length)?;
        if (pointer as u64).is_multiple_of(length) { Ok(pointer) } else { Err(OutOfRange) }
    }
}

impl GuestMemory for Partition {
    fn range(&self) -> Range<GuestPhysical> {
        self.base..self.base.offset(self.size)
    }

    #[inline]
    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let pointer = self.pointer(address, T::SIZE)?;
        if !(pointer as u64).is_multiple_of(T::SIZE) {
            let mut bytes = [0; 8];
            self.read(address, &mut bytes[..T::SIZE as usize])?;
            return Ok(T::truncate(u64::from_le_bytes(bytes)));
        }
        // SAFETY: inside the partition, aligned, and reached through atomics only.
        let value = unsafe {
            match T::SIZE {
                1 => u64::from(AtomicU8::from_ptr(pointer).load(Ordering::Relaxed)),
                2 => u64::from(u16::from_le(AtomicU16::from_ptr(pointer.cast()).load(Ordering::Relaxed))),
                4 => u64::from(u32::from_le(AtomicU32::from_ptr(pointer.cast()).load(Ordering::Relaxed))),
                _ => u64::from_le(AtomicU64::from_ptr(pointer.cast()).load(Ordering::Relaxed)),
            }
        };
        Ok(T::truncate(value))
    }

    #[inline]
    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        let pointer = self.pointer(address, T::SIZE)?;
        let value = value.widen();
        if !(pointer as u64).is_multiple_of(T::SIZE) {
            return self.write(address, &value.to_le_bytes()[..T::SIZE as usize]);
        }
        // SAFETY: inside the partition, aligned, and reached through atomics only.
        unsafe {
            match T::SIZE {
                1 => AtomicU8::from_ptr(pointer).store(value as u8, Ordering::Relaxed),
                2 => AtomicU16::from_ptr(pointer.cast()).store((value as u16).to_le(), Ordering::Relaxed),
                4 => AtomicU32::from_ptr(pointer.cast()).store((value as u32).to_le(), Ordering::Relaxed),
                _ => AtomicU64::from_ptr(pointer.cast()).store(value.to_le(), Ordering::Relaxed),
            }
        }
        Ok(())
    }

    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        use Ordering::SeqCst;
        match width {
            AtomicWidth::Word => {
                let pointer = self.aligned(address, 4)?;
                // SAFETY: inside the partition, aligned, and reached through atomics only.
                let cell = unsafe { AtomicU32::from_ptr(pointer.cast()) };
                let (expected, new) = ((expected as u32).to_le(), (new as u32).to_le());
                let found = cell.compare_exchange(expected, new, SeqCst, SeqCst);
                Ok(u32::from_le(found.unwrap_or_else(|found| found)).into())
            }
            AtomicWidth::Double => {
                let pointer = self.aligned(address, 8)?;
                // SAFETY: as above.
                let cell = unsafe { AtomicU64::from_ptr(pointer.cast()) };
                let found = cell.compare_exchange(expected.to_le(), new.to_le(), SeqCst, SeqCst);
                Ok(u64::from_le(found.unwrap_or_else(|found| found)))
            }
        }
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        let pointer = self.aligned(address, 16)?;
        // SAFETY: inside the partition and aligned. Harts without a 16-byte compare-and-exchange take a lock,
        // which orders these operations with each other but not with plain stores.
        let cell = unsafe { AtomicU128::from_ptr(pointer.cast()) };
        let found = cell.compare_exchange(expected.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst);
        Ok(u128::from_le(found.unwrap_or_else(|found| found)))
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let source = self.pointer(address, buffer.len() as u64)?;
        fence(Ordering::Acquire);
        // SAFETY: both ranges are valid for their length and can't overlap: a Rust slice is never inside the
        // partition.
        unsafe { ptr::copy_nonoverlapping(source, buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        let target = self.pointer(address, buffer.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(buffer.as_ptr(), target, buffer.len()) };
        fence(Ordering::Release);
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        let target = self.pointer(address, length)?;
        // SAFETY: inside the partition.
        unsafe { ptr::write_bytes(target, 0, length as usize) };
        fence(Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub const BASE: GuestPhysical = GuestPhysical(0x8000_0000);
    pub const MACHINE: MachineAddress = MachineAddress(0x9020_0000);

    /// A partition in memory that the test never gives back.
    pub fn partition(size: usize) -> Partition {
        let words = alloc::vec![0u128; size / 16].leak();
        let start = NonNull::from(words).cast();
        // SAFETY: leaked, and nobody else has it.
        unsafe { Partition::new(BASE, size as u64, MACHINE, start) }
    }

    #[test]
    fn access_past_either_end_returns_error() {
        let memory = partition(0x1000);
        let end = memory.range().end;
        assert_eq!(memory.store(end.offset(8u64.wrapping_neg()), 5u64), Ok(()));
        assert_eq!(memory.load::<u64>(end.offset(8u64.wrapping_neg())), Ok(5));
        assert_eq!(memory.load::<u64>(end.offset(7u64.wrapping_neg())), Err(OutOfRange));
        assert_eq!(memory.store(GuestPhysical(BASE.0 - 1), 0u8), Err(OutOfRange));
        assert_eq!(memory.load::<u64>(GuestPhysical(u64::MAX - 3)), Err(OutOfRange));
        assert_eq!(memory.zero(BASE.offset(1), u64::MAX), Err(OutOfRange));
        assert_eq!(memory.compare_exchange(BASE.offset(4), AtomicWidth::Double, 0, 5), Err(OutOfRange));
        assert_eq!(memory.compare_exchange_quad(BASE.offset(8), 0, 0), Err(OutOfRange));
    }

    #[test]
    fn machine_address_is_the_partitions_or_none() {
        let memory = partition(0x1000);
        assert_eq!(memory.machine(BASE.offset(0x10)), Some((MACHINE.offset(0x10), 0xff0)));
        assert_eq!(memory.machine(BASE.offset(0x1000)), None);
        assert_eq!(memory.machine(GuestPhysical(0)), None);
    }

    #[test]
    fn misaligned_words_are_little_endian() {
        let memory = partition(0x1000);
        memory.store(BASE.offset(3), 0x8877_6655_4433_2211u64).unwrap();
        assert_eq!(memory.load::<u16>(BASE.offset(4)), Ok(0x3322));
        assert_eq!(memory.load::<u64>(BASE.offset(3)), Ok(0x8877_6655_4433_2211));
    }
}
