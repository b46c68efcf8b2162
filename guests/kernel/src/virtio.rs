//! What drivers of virtio devices share (Virtio 1.3): the transport over MMIO, and split queues.

use core::sync::atomic::{Ordering, fence};

use crate::mmio::{read, write};

/// First virtio-mmio transport, and how many there are.
const FIRST: usize = 0x1000_1000;
const SLOTS: usize = 8;
/// Descriptors of a queue.
pub const QUEUE: usize = 8;
/// `VIRTIO_F_VERSION_1`.
const F_VERSION_1: u64 = 1 << 32;

/// Flag of a descriptor: another follows.
pub const NEXT: u16 = 1;
/// Flag of a descriptor: the device writes.
pub const WRITE: u16 = 2;

mod register {
    pub const MAGIC: usize = 0x00;
    pub const DEVICE_ID: usize = 0x08;
    pub const DEVICE_FEATURES: usize = 0x10;
    pub const DEVICE_FEATURES_SELECT: usize = 0x14;
    pub const DRIVER_FEATURES: usize = 0x20;
    pub const DRIVER_FEATURES_SELECT: usize = 0x24;
    pub const QUEUE_SELECT: usize = 0x30;
    pub const QUEUE_SIZE: usize = 0x38;
    pub const QUEUE_READY: usize = 0x44;
    pub const QUEUE_NOTIFY: usize = 0x50;
    pub const INTERRUPT_STATUS: usize = 0x60;
    pub const INTERRUPT_ACKNOWLEDGE: usize = 0x64;
    pub const STATUS: usize = 0x70;
    pub const QUEUE_PARTS: [usize; 3] = [0x80, 0x90, 0xa0];
    pub const CONFIGURATION: usize = 0x100;
}

/// Bits of the status.
mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
}

/// A device.
pub struct Transport {
    base: usize,
    source: u32,
}

impl Transport {
    /// Finds the first device of a kind, and agrees on these features with it; a driver can't do without any of them.
    pub fn find(kind: u32, features: u64) -> Option<Self> {
        let is_wanted = |slot: &usize| {
            let base = FIRST + 0x1000 * slot;
            read(base + register::MAGIC) == 0x7472_6976 && read(base + register::DEVICE_ID) == kind
        };
        let slot = (0..SLOTS).find(is_wanted)?;
        let device = Self { base: FIRST + 0x1000 * slot, source: 1 + slot as u32 };
        let features = features | F_VERSION_1;
        let agreed = status::ACKNOWLEDGE | status::DRIVER;
        device.reset();
        for status in [status::ACKNOWLEDGE, agreed] {
            device.set(register::STATUS, status);
        }
        for word in [0, 1] {
            let wanted = (features >> (32 * word)) as u32;
            device.set(register::DEVICE_FEATURES_SELECT, word);
            if !device.get(register::DEVICE_FEATURES) & wanted != 0 {
                return None;
            }
            device.set(register::DRIVER_FEATURES_SELECT, word);
            device.set(register::DRIVER_FEATURES, wanted);
        }
        device.set(register::STATUS, agreed | status::FEATURES_OK);
        (device.get(register::STATUS) & status::FEATURES_OK != 0).then_some(device)
    }

    /// Has the device forget everything, and waits until it has.
    pub fn reset(&self) {
        self.set(register::STATUS, 0);
        while self.get(register::STATUS) != 0 {
            core::hint::spin_loop();
        }
    }

    /// After the queues: the device may begin.
    pub fn start(&self) {
        self.set(register::STATUS, self.get(register::STATUS) | status::DRIVER_OK);
    }

    /// Its bit among the interrupt controller's sources.
    pub fn source(&self) -> u32 {
        1 << self.source
    }

    /// Makes its interrupt be quiet.
    pub fn acknowledge(&self) {
        self.set(register::INTERRUPT_ACKNOWLEDGE, self.get(register::INTERRUPT_STATUS));
    }

    /// Four bytes of its configuration.
    pub fn configuration(&self, offset: usize) -> u32 {
        self.get(register::CONFIGURATION + offset)
    }

    fn get(&self, register: usize) -> u32 {
        read(self.base + register)
    }

    fn set(&self, register: usize, value: u32) {
        write(self.base + register, value);
    }
}

/// Memory of a queue.
#[repr(C, align(4096))]
pub struct Ring {
    descriptors: [Descriptor; QUEUE],
    available: [u16; 3 + QUEUE],
    used: Used,
}

/// A part of a request.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Descriptor {
    /// Where it is.
    pub address: u64,
    /// Its bytes.
    pub length: u32,
    /// [`NEXT`] and [`WRITE`].
    pub flags: u16,
    /// The descriptor that follows.
    pub next: u16,
}

#[repr(C, align(4))]
struct Used {
    flags: u16,
    index: u16,
    ring: [[u32; 2]; QUEUE],
}

impl Ring {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            descriptors: [Descriptor { address: 0, length: 0, flags: 0, next: 0 }; QUEUE],
            available: [0; 3 + QUEUE],
            used: Used { flags: 0, index: 0, ring: [[0; 2]; QUEUE] },
        }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue at work.
pub struct Queue {
    ring: *mut Ring,
    number: u32,
    /// Requests that were offered, and ends of requests that were seen.
    offered: u16,
    seen: u16,
}

impl Queue {
    /// Gives a device its queue of this number.
    ///
    /// # Safety
    /// The memory is this queue's alone, for ever.
    pub unsafe fn new(device: &Transport, number: u32, ring: *mut Ring) -> Self {
        device.set(register::QUEUE_SELECT, number);
        device.set(register::QUEUE_SIZE, QUEUE as u32);
        // SAFETY: addresses only.
        let parts = unsafe {
            [
                &raw const (*ring).descriptors as u64,
                &raw const (*ring).available as u64,
                &raw const (*ring).used as u64,
            ]
        };
        for (register, part) in register::QUEUE_PARTS.into_iter().zip(parts) {
            device.set(register, part as u32);
            device.set(register + 4, (part >> 32) as u32);
        }
        device.set(register::QUEUE_READY, 1);
        Self { ring, number, offered: 0, seen: 0 }
    }

    /// Sets a descriptor.
    pub fn describe(&mut self, index: usize, descriptor: Descriptor) {
        // SAFETY: the ring is this queue's; the device reads a descriptor only once it has been offered.
        unsafe { (&raw mut (*self.ring).descriptors[index]).write_volatile(descriptor) };
    }

    /// Offers the device the request that begins with this descriptor.
    pub fn offer(&mut self, head: u16) {
        let place = 2 + usize::from(self.offered) % QUEUE;
        // SAFETY: as above.
        unsafe { (&raw mut (*self.ring).available[place]).write_volatile(head) };
        fence(Ordering::SeqCst);
        self.offered = self.offered.wrapping_add(1);
        // SAFETY: as above.
        unsafe { (&raw mut (*self.ring).available[1]).write_volatile(self.offered) };
        fence(Ordering::SeqCst);
    }

    /// Tells the device that requests were offered.
    pub fn notify(&self, device: &Transport) {
        device.set(register::QUEUE_NOTIFY, self.number);
    }

    /// The next request that has ended: its first descriptor, and how many bytes the device wrote.
    pub fn ended(&mut self) -> Option<(u16, u32)> {
        // SAFETY: the ring is this queue's; the device may write to this part at any time.
        if unsafe { (&raw const (*self.ring).used.index).read_volatile() } == self.seen {
            return None;
        }
        fence(Ordering::SeqCst);
        // SAFETY: as above.
        let [head, length] =
            unsafe { (&raw const (*self.ring).used.ring[usize::from(self.seen) % QUEUE]).read_volatile() };
        self.seen = self.seen.wrapping_add(1);
        Some((head as u16, length))
    }
}
