//! The monitor's heap: one range of memory, set aside at boot.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use linked_list_allocator::Heap;
use spin::Mutex;

use super::layout::{self, DIRECT_MAP};
use crate::address::MachineAddress;

struct MonitorHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: MonitorHeap = MonitorHeap(Mutex::new(Heap::empty()));

// SAFETY: forwards to the allocator, under a lock. No trap handler allocates: the monitor takes no interrupts.
unsafe impl GlobalAlloc for MonitorHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller's: it came from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(pointer, layout) };
        }
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// The memory is mapped in the direct map, now and for ever, and nobody else uses it. Called once.
pub unsafe fn init(start: MachineAddress, size: usize) {
    // SAFETY: the caller's.
    unsafe { HEAP.0.lock().init(layout::direct(start) as *mut u8, size) };
}

/// Bytes that are left.
pub fn left() -> u64 {
    HEAP.0.lock().free() as u64
}

/// Machine address of something on the heap.
pub fn machine_address<T: ?Sized>(value: &T) -> MachineAddress {
    MachineAddress((&raw const *value).cast::<u8>() as u64 - DIRECT_MAP)
}
