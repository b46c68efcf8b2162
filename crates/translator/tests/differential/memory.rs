//! RAM that one thread uses, host code included.

use std::ops::Range;
use std::ptr::NonNull;

use rvisor_translator::DirectMemory;
use rvisor_waist::{AtomicWidth, CodePages, GuestMemory, GuestPhysical, OutOfRange, Word};

/// First byte of RAM.
pub const RAM: u64 = 0x8000_0000;

/// RAM from [`RAM`] on.
pub struct Ram {
    start: NonNull<u8>,
    size: u64,
    code: CodePages,
}

// SAFETY: the allocation is owned; the test has one thread.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

// SAFETY: the allocation has the size of the range and lives as long as the value.
unsafe impl DirectMemory for Ram {
    fn host_address(&self) -> NonNull<u8> {
        self.start
    }
}

impl Ram {
    /// `size` bytes of zeros, a multiple of 16.
    pub fn new(size: u64) -> Self {
        let words = vec![0u128; size as usize / 16].into_boxed_slice();
        let start = NonNull::from(Box::leak(words)).cast();
        Self { start, size, code: CodePages::new(GuestPhysical(RAM), size) }
    }

    /// The bytes of a physical range, all of which is RAM, as they are now.
    pub fn bytes(&self, range: Range<u64>) -> &[u8] {
        assert!(RAM <= range.start && range.end <= RAM + self.size);
        // SAFETY: inside the allocation; nothing writes to it while the test looks.
        unsafe {
            std::slice::from_raw_parts(
                self.start.as_ptr().add((range.start - RAM) as usize),
                (range.end - range.start) as usize,
            )
        }
    }

    fn at(&self, address: GuestPhysical, length: u64) -> Result<*mut u8, OutOfRange> {
        let offset = address.0.wrapping_sub(RAM);
        if offset > self.size || length > self.size - offset {
            return Err(OutOfRange);
        }
        // SAFETY: inside the allocation.
        Ok(unsafe { self.start.as_ptr().add(offset as usize) })
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        let words =
            std::ptr::slice_from_raw_parts_mut(self.start.as_ptr().cast::<u128>(), self.size as usize / 16);
        // SAFETY: what `new` leaked.
        drop(unsafe { Box::from_raw(words) });
    }
}

impl GuestMemory for Ram {
    fn range(&self) -> Range<GuestPhysical> {
        GuestPhysical(RAM)..GuestPhysical(RAM + self.size)
    }

    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let mut buffer = [0; 8];
        self.read(address, &mut buffer[..T::SIZE as usize])?;
        Ok(T::truncate(u64::from_le_bytes(buffer)))
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
        let size = match width {
            AtomicWidth::Word => 4,
            AtomicWidth::Double => 8,
        };
        if !address.is_aligned(size as u64) {
            return Err(OutOfRange);
        }
        let mut found = [0; 8];
        self.read(address, &mut found[..size])?;
        let found = u64::from_le_bytes(found);
        if found == expected {
            self.write(address, &new.to_le_bytes()[..size])?;
        }
        Ok(found)
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        if !address.is_aligned(16) {
            return Err(OutOfRange);
        }
        let mut found = [0; 16];
        self.read(address, &mut found)?;
        let found = u128::from_le_bytes(found);
        if found == expected {
            self.write(address, &new.to_le_bytes())?;
        }
        Ok(found)
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.at(address, buffer.len() as u64)?;
        // SAFETY: inside the allocation, which the buffer isn't part of.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        let to = self.at(address, buffer.len() as u64)?;
        self.code.note_write(address, buffer.len() as u64);
        // SAFETY: inside the allocation, which the buffer isn't part of.
        unsafe { std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, buffer.len()) };
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        let to = self.at(address, length)?;
        self.code.note_write(address, length);
        // SAFETY: inside the allocation.
        unsafe { std::ptr::write_bytes(to, 0, length as usize) };
        Ok(())
    }

    fn code_pages(&self) -> Option<&CodePages> {
        Some(&self.code)
    }
}
