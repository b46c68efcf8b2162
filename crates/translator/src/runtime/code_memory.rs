//! Memory for translated code, mapped twice: once to write, once to execute. No address is ever both.

use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::backend::x64::placement::ALIGNMENT;

/// What code is kept apart by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// What is executed.
    Hot,
    /// What rarely is.
    Cold,
}

/// Memory that code is put into, chunk by chunk: each holds code of one part.
pub struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    /// Bytes of a chunk: a large page of the host, unless that is too much.
    chunk: usize,
    /// Where each part goes on, and where its chunk ends.
    parts: [Range<usize>; 2],
    /// Start of the first chunk that no part has.
    free: usize,
    _mappings: [Reserved; 2],
}

/// Chunks that there are at least.
const LEAST_CHUNKS: usize = 8;

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
        let chunk = (size / LEAST_CHUNKS / ALIGNMENT * ALIGNMENT).min(LARGE_PAGE);
        let parts = [0..0, 0..0];
        Ok(Self { writable, executable, size, chunk, parts, free: 0, _mappings: mappings })
    }

    /// Where the next code of a part will run, if it fits into its chunk: see [`prepare`](Self::prepare).
    pub fn next(&self, part: Part) -> u64 {
        self.executable.as_ptr() as u64 + self.parts[part as usize].start as u64
    }

    /// Whether there is room for `length` bytes of each part.
    pub fn has_room(&self, length: usize) -> bool {
        let full = self.parts.iter().filter(|part| part.len() < length).count();
        length <= self.chunk && full * self.chunk <= self.size - self.free
    }

    /// Makes room for `length` bytes of each part. False where there is none.
    pub fn prepare(&mut self, length: usize) -> bool {
        if !self.has_room(length) {
            return false;
        }
        for part in 0..self.parts.len() {
            if self.parts[part].len() < length {
                self.enlarge(self.free);
                self.parts[part] = self.free..self.free + self.chunk;
                self.free += self.chunk;
            }
        }
        true
    }

    /// Has the host use a large page for a chunk: translated code is spread widely, and the host finds few small
    /// pages without a walk of its page tables. What it doesn't do for us stays in small pages.
    fn enlarge(&self, chunk: usize) {
        if self.chunk == LARGE_PAGE {
            for mapping in [self.writable, self.executable] {
                // SAFETY: inside the mapping, whose bytes stay what they are.
                unsafe { libc::madvise(mapping.as_ptr().add(chunk).cast(), LARGE_PAGE, libc::MADV_COLLAPSE) };
            }
        }
    }

    /// Appends code of a part that was made for [`next`](Self::next). False where there is no room for it.
    pub fn append(&mut self, part: Part, code: &[u8]) -> bool {
        let place = &mut self.parts[part as usize];
        if code.len() > place.len() {
            return false;
        }
        // SAFETY: inside the mapping, and nobody executes what isn't in use yet.
        unsafe {
            ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(place.start), code.len())
        };
        place.start = (place.start + code.len()).next_multiple_of(ALIGNMENT).min(place.end);
        true
    }

    /// Forgets everything but the first `kept` bytes of the first chunk, which must be the hot part's. Nobody may
    /// execute the rest any more.
    pub fn truncate(&mut self, kept: usize) {
        self.parts = [kept..self.chunk, 0..0];
        self.free = self.chunk;
    }

    /// Code as it is.
    #[cfg(test)]
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let offset = self.offset(address, 1);
        // SAFETY: inside the mapping, which only this value's owner writes to.
        unsafe { std::slice::from_raw_parts(self.writable.as_ptr().add(offset), length) }.to_vec()
    }

    fn offset(&self, address: u64, alignment: usize) -> usize {
        let offset = (address as usize).wrapping_sub(self.executable.as_ptr() as usize);
        assert!(offset < self.free && offset.is_multiple_of(alignment), "patch at {offset:#x}");
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
