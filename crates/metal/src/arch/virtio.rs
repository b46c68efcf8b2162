//! Physical virtio devices as drivers use them: safe, because buffers that a device works on belong to the queue until
//! it gives them back.
//!
//! Queues and transport are those of `virtio-drivers`. Its drivers wait for the device; ours can't.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::vec::Vec;
use core::alloc::Layout;
use core::mem::{self, ManuallyDrop};
use core::ptr::NonNull;

use bitflags::bitflags;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use super::{heap, layout};
use crate::address::MachineAddress;

pub use virtio_drivers::transport::DeviceType;

/// Memory for devices is the monitor's heap.
struct MonitorHal;

fn pages_layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: memory comes from the heap, which is contiguous in the direct map, so that machine addresses are a matter of
// subtraction; it belongs to the caller until it is given back.
unsafe impl Hal for MonitorHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = pages_layout(pages).filter(|layout| layout.size() != 0);
        // SAFETY: the layout has a size.
        let memory = layout.and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }));
        // The library takes address 0 for a failure.
        memory.map_or((0, NonNull::dangling()), |memory| {
            // SAFETY: just allocated and zeroed.
            (heap::machine_address(unsafe { memory.as_ref() }).0, memory)
        })
    }

    unsafe fn dma_dealloc(_address: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        let Some(layout) = pages_layout(pages) else { return -1 };
        // SAFETY: the caller's: it came from `dma_alloc` with that many pages.
        unsafe { dealloc(memory.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        // Only PCI asks.
        NonNull::new(layout::direct(MachineAddress(address)) as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        // SAFETY: the caller's: the buffer is valid. All of ours are on the heap.
        heap::machine_address(unsafe { buffer.as_ref() }).0
    }

    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

bitflags! {
    /// Features, whatever the device.
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {
        const _ = !0;
    }
}

/// `VIRTIO_F_INDIRECT_DESC`
const F_INDIRECT: u64 = 1 << 28;
/// `VIRTIO_F_VERSION_1`
const F_VERSION_1: u64 = 1 << 32;

/// A device, not working yet, or working.
pub struct Device {
    transport: MmioTransport<'static>,
    features: u64,
}

impl Device {
    /// The device at `start`, if one is plugged in there.
    ///
    /// # Safety
    /// The device tree says that a virtio-mmio transport is there; it is mapped; this is the only driver.
    pub(super) unsafe fn open(start: MachineAddress, size: u64) -> Option<Self> {
        let header = NonNull::new(layout::direct(start) as *mut _)?;
        // SAFETY: the caller's. The mapping is for ever.
        let transport = unsafe { MmioTransport::new(header, usize::try_from(size).ok()?) }.ok()?;
        Some(Self { transport, features: 0 })
    }

    /// What it is.
    pub fn kind(&self) -> DeviceType {
        self.transport.device_type()
    }

    /// Agrees on those of the features `wanted` that it has.
    pub fn negotiate(&mut self, wanted: u64) -> u64 {
        let wanted = Features::from_bits_retain(wanted | F_INDIRECT | F_VERSION_1);
        self.features = self.transport.begin_init(wanted).bits();
        self.features
    }

    /// Lets it work; its queues have been set up.
    pub fn start(&mut self) {
        self.transport.finish_init();
    }

    /// Four bytes of its configuration.
    pub fn config(&self, offset: usize) -> Option<u32> {
        self.transport.read_config_space(offset).ok()
    }

    /// Takes note of its interrupt. True if it used buffers.
    pub fn acknowledge(&mut self) -> bool {
        self.transport.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT)
    }
}

/// Buffers of one request: the device reads the first, then writes the second. None is empty.
pub struct Buffers {
    /// What the device reads.
    pub sent: Vec<Vec<u8>>,
    /// What it writes.
    pub received: Vec<Vec<u8>>,
    /// The driver's own name for the request.
    pub tag: u64,
}

/// A queue of a device, with the buffers that it works on.
pub struct Requests<const SIZE: usize> {
    index: u16,
    /// Never dropped, like the buffers: the device may still be using it.
    queue: ManuallyDrop<VirtQueue<MonitorHal, SIZE>>,
    slots: Vec<Option<Buffers>>,
}

impl<const SIZE: usize> Requests<SIZE> {
    /// Sets up queue `index`, after features were agreed on. `None` where the device hasn't got it, or a shorter one.
    pub fn new(device: &mut Device, index: u16) -> Option<Self> {
        let indirect = device.features & F_INDIRECT != 0;
        let queue = VirtQueue::new(&mut device.transport, index, indirect, false).ok()?;
        Some(Self { index, queue: ManuallyDrop::new(queue), slots: (0..SIZE).map(|_| None).collect() })
    }

    /// Gives a request to the device; back if there is no room for it, or a buffer is empty.
    pub fn submit(&mut self, device: &mut Device, mut buffers: Buffers) -> Result<(), Buffers> {
        if buffers.sent.iter().chain(&buffers.received).any(Vec::is_empty) {
            return Err(buffers);
        }
        let sent: Vec<&[u8]> = buffers.sent.iter().map(Vec::as_slice).collect();
        let mut received: Vec<&mut [u8]> = buffers.received.iter_mut().map(Vec::as_mut_slice).collect();
        // SAFETY: the buffers stay where they are, untouched in a slot, until `finished` has popped the token; a slot
        // that is dropped leaks them.
        let token = unsafe { self.queue.add(&sent, &mut received) };
        match token {
            Ok(token) => {
                self.slots[usize::from(token)] = Some(buffers);
                device.transport.notify(self.index);
                Ok(())
            }
            Err(_) => Err(buffers),
        }
    }

    /// Takes back a request that the device has finished, with the bytes that it wrote.
    pub fn finished(&mut self) -> Option<(Buffers, u32)> {
        let token = self.queue.peek_used()?;
        let mut buffers = self.slots.get_mut(usize::from(token))?.take()?;
        let sent: Vec<&[u8]> = buffers.sent.iter().map(Vec::as_slice).collect();
        let mut received: Vec<&mut [u8]> = buffers.received.iter_mut().map(Vec::as_mut_slice).collect();
        // SAFETY: the buffers that were submitted with this token.
        let length = unsafe { self.queue.pop_used(token, &sent, &mut received) };
        Some((buffers, length.unwrap_or(0)))
    }
}

impl<const SIZE: usize> Drop for Requests<SIZE> {
    fn drop(&mut self) {
        mem::take(&mut self.slots).into_iter().for_each(mem::forget);
    }
}
