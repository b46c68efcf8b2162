//! Memory for translated code, mapped twice: once to write, once to execute. No address is ever both.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A range of memory that code is put into from its start to its end.
pub struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    used: usize,
}

// SAFETY: both mappings are owned; writes go through `&mut self`, or are single atomic stores.
unsafe impl Send for CodeMemory {}
// SAFETY: as above.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Maps `size` bytes, which cost nothing until they are used.
    pub fn new(size: usize) -> io::Result<Self> {
        let file = memfd_create("rvisor-code", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size as u64)?;
        let map = |protection| -> io::Result<NonNull<u8>> {
            let flags = MapFlags::SHARED | MapFlags::NORESERVE;
            // SAFETY: a fresh mapping at an address of the host's choosing.
            let start = unsafe { mmap(ptr::null_mut(), size, protection, flags, &file, 0)? };
            NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory.into())
        };
        let writable = map(ProtFlags::READ | ProtFlags::WRITE)?;
        let executable = map(ProtFlags::READ | ProtFlags::EXEC)?;
        Ok(Self { writable, executable, size, used: 0 })
    }

    /// Where the next code will run.
    pub fn next(&self) -> u64 {
        self.executable.as_ptr() as u64 + self.used as u64
    }

    /// Bytes that there is room for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Appends code that was made for [`next`](Self::next). False where there is no room for it.
    pub fn append(&mut self, code: &[u8]) -> bool {
        if code.len() > self.size - self.used {
            return false;
        }
        // SAFETY: inside the mapping, and nobody executes what isn't in use yet.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(self.used), code.len()) };
        self.used = (self.used + code.len()).next_multiple_of(16).min(self.size);
        true
    }

    /// Forgets everything from `used` on. Nobody may execute it any more.
    pub fn truncate(&mut self, used: usize) {
        self.used = used;
    }

    fn offset(&self, address: u64, alignment: usize) -> usize {
        let offset = (address as usize).wrapping_sub(self.executable.as_ptr() as usize);
        assert!(offset < self.used && offset.is_multiple_of(alignment), "patch at {offset:#x}");
        offset
    }

    /// Changes 4 aligned bytes of code that others may be executing.
    pub fn patch(&self, address: u64, value: u32) {
        let offset = self.offset(address, 4);
        // SAFETY: inside the mapping and aligned.
        unsafe { AtomicU32::from_ptr(self.writable.as_ptr().add(offset).cast()) }
            .store(value, Ordering::Release);
    }

    /// Makes the jump whose displacement stands at `address` lead to `target`.
    pub fn patch_jump(&self, address: u64, target: u64) {
        self.patch(address, target.wrapping_sub(address + 4) as u32);
    }

    /// Changes the first bytes of 8 aligned ones that others may be executing.
    pub fn patch_start(&self, address: u64, bytes: [u8; 5]) {
        let offset = self.offset(address, 8);
        // SAFETY: inside the mapping and aligned.
        let cell = unsafe { AtomicU64::from_ptr(self.writable.as_ptr().add(offset).cast()) };
        let mut value = cell.load(Ordering::Relaxed).to_le_bytes();
        value[..5].copy_from_slice(&bytes);
        cell.store(u64::from_le_bytes(value), Ordering::Release);
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size; nobody executes it any more.
        unsafe {
            let _ = munmap(self.writable.as_ptr().cast(), self.size);
            let _ = munmap(self.executable.as_ptr().cast(), self.size);
        }
    }
}

#[cfg(test)]
mod tests;
