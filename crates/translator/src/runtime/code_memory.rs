//! Memory for translated code, mapped twice: once to write, once to execute. No address is ever both.

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A range of memory that code is put into from its start to its end.
pub struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    used: usize,
    /// Bytes that stand in large pages of the host, or could be that: what is used is in there.
    large: usize,
    _mappings: [Reserved; 2],
}

/// Size of the host's large pages, in bytes.
const LARGE_PAGE: usize = 2 << 20;

/// Host addresses that are unmapped at the end, whatever is mapped there by then.
struct Reserved {
    start: *mut c_void,
    length: usize,
}

impl Reserved {
    fn new(length: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the host's choosing.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags)? };
        Ok(Self { start, length })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the addresses are this value's, and its owner goes too: nobody executes or writes there any more.
        let unmapped = unsafe { munmap(self.start, self.length) };
        debug_assert!(unmapped.is_ok());
    }
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
        // Large pages are at multiples of their size.
        let room = size.checked_add(LARGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = |reserved: &Reserved, protection| -> io::Result<NonNull<u8>> {
            let start = reserved.start.map_addr(|address| address.next_multiple_of(LARGE_PAGE));
            let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
            // SAFETY: inside the addresses that were reserved for this.
            let start = unsafe { mmap(start, size, protection, flags, &file, 0)? };
            NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory.into())
        };
        let mappings = [Reserved::new(room)?, Reserved::new(room)?];
        let writable = map(&mappings[0], ProtFlags::READ | ProtFlags::WRITE)?;
        let executable = map(&mappings[1], ProtFlags::READ | ProtFlags::EXEC)?;
        let mut memory = Self { writable, executable, size, used: 0, large: 0, _mappings: mappings };
        memory.enlarge();
        Ok(memory)
    }

    /// Has the host use a large page for what comes next: translated code is spread widely, and the host finds few
    /// small pages without a walk of its page tables. What it doesn't do for us stays in small pages.
    fn enlarge(&mut self) {
        while self.large <= self.used && self.size - self.large >= LARGE_PAGE {
            for mapping in [self.writable, self.executable] {
                // SAFETY: inside the mapping, whose bytes stay what they are.
                unsafe {
                    libc::madvise(mapping.as_ptr().add(self.large).cast(), LARGE_PAGE, libc::MADV_COLLAPSE)
                };
            }
            self.large += LARGE_PAGE;
        }
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
        self.enlarge();
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

#[cfg(test)]
mod tests;
