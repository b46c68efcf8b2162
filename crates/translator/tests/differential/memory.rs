//! Where RAM is, and its bytes.

use std::ops::Range;

use rvisor_hosted::HostMemory;
use rvisor_waist::GuestPhysical;

/// First byte of RAM.
pub const RAM: u64 = 0x8000_0000;

/// The bytes of a physical range, all of which is RAM, as they are now.
pub fn view(memory: &HostMemory, range: Range<u64>) -> &[u8] {
    let length = range.end - range.start;
    let start = memory.pointer(GuestPhysical(range.start), length).expect("RAM");
    // SAFETY: that many bytes of RAM, to which nothing writes while the test, which has one thread, looks.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), length as usize) }
}
