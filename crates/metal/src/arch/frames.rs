//! Memory for guests, in chunks of 2 MiB: each is given to one guest at a time, zeroed when it is given.
//!
//! Guests *reserve* what they may use at most, so that a chunk can always be had by a guest that is below its limit.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;

use rvisor_waist::GuestPhysical;
use spin::Mutex;

use super::Partition;
use crate::address::MachineAddress;
#[cfg(any(test, target_os = "none"))]
use crate::regions::Regions;

/// Bytes of a chunk.
pub const CHUNK: u64 = 2 << 20;

/// All memory that guests share.
pub struct Frames {
    /// From a machine address to where the monitor reaches it.
    direct: u64,
    state: Mutex<State>,
}

struct State {
    free: Vec<MachineAddress>,
    /// Chunks promised to guests and not given yet, and those given.
    reserved: u64,
    total: u64,
}

impl Frames {
    /// Takes all whole chunks of `memory`, which the monitor reaches `direct` bytes above the machine address.
    ///
    /// # Safety
    /// All of it is mapped there for ever, and nobody else uses it.
    #[cfg(any(test, target_os = "none"))]
    pub(super) unsafe fn new(memory: &mut Regions, direct: u64) -> Arc<Self> {
        let mut free = Vec::new();
        while let Some(chunk) = memory.take(CHUNK, CHUNK) {
            free.push(chunk.start);
        }
        let total = free.len() as u64;
        Arc::new(Self { direct, state: Mutex::new(State { free, reserved: 0, total }) })
    }

    /// A partition of `size` bytes, a multiple of a chunk (2 MiB), that has no memory yet.
    pub fn partition(self: &Arc<Self>, base: GuestPhysical, size: u64) -> Partition {
        Partition::new(Arc::clone(self), base, size)
    }

    /// Sets aside so many chunks. False if there aren't so many.
    pub(super) fn reserve(&self, chunks: u64) -> bool {
        let mut state = self.state.lock();
        let fits = chunks <= state.total - state.reserved;
        if fits {
            state.reserved += chunks;
        }
        fits
    }

    /// Gives a reservation back.
    pub(super) fn release(&self, chunks: u64) {
        self.state.lock().reserved -= chunks;
    }

    /// A zeroed chunk, for who has reserved one.
    pub(super) fn take(&self) -> Option<MachineAddress> {
        let chunk = self.state.lock().free.pop()?;
        // SAFETY: free memory, which is nobody's but ours by the contract of `new`.
        unsafe { ptr::write_bytes(self.pointer(chunk), 0, CHUNK as usize) };
        Some(chunk)
    }

    /// Takes a chunk back.
    pub(super) fn give(&self, chunk: MachineAddress) {
        self.state.lock().free.push(chunk);
    }

    /// Where the monitor reaches a machine address.
    #[inline]
    pub(super) fn pointer(&self, address: MachineAddress) -> *mut u8 {
        self.direct.wrapping_add(address.0) as *mut u8
    }

    /// Bytes that no guest has been promised.
    pub fn unreserved(&self) -> u64 {
        let state = self.state.lock();
        (state.total - state.reserved) * CHUNK
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.state.lock().total * CHUNK
    }
}
