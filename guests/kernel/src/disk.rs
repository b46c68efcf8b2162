//! The first virtio disk (Virtio 1.3): one request at a time, its end told by an interrupt.

use core::sync::atomic::{Ordering, fence};

use crate::csr::{self, EXTERNAL};

/// First virtio-mmio transport, and how many there are.
const VIRTIO: usize = 0x1000_1000;
const SLOTS: usize = 8;
const PLIC: usize = 0xc00_0000;
const SECTOR: usize = 512;
const QUEUE: usize = 8;

/// Registers of the transport.
mod register {
    pub const MAGIC: usize = 0x00;
    pub const DEVICE_ID: usize = 0x08;
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
    pub const CAPACITY: usize = 0x100;
}

#[repr(C, align(4096))]
struct Queue {
    descriptors: [Descriptor; QUEUE],
    available: [u16; 3 + QUEUE],
    used: Used,
    header: [u64; 2],
    data: [u8; SECTOR],
    status: u8,
}

#[repr(C, align(4))]
struct Used {
    flags: u16,
    index: u16,
    ring: [u32; 2 * QUEUE],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

static mut QUEUE_MEMORY: Queue = Queue {
    descriptors: [Descriptor { address: 0, length: 0, flags: 0, next: 0 }; QUEUE],
    available: [0; 3 + QUEUE],
    used: Used { flags: 0, index: 0, ring: [0; 2 * QUEUE] },
    header: [0; 2],
    data: [0; SECTOR],
    status: 0,
};

/// Reads a device's register.
pub fn read(address: usize) -> u32 {
    // SAFETY: devices answer whatever they are asked.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes a device's register.
pub fn write(address: usize, value: u32) {
    // SAFETY: what a device may do to memory is set up by the caller.
    unsafe { (address as *mut u32).write_volatile(value) };
}

/// The disk, with its interrupt.
pub struct Disk {
    base: usize,
    irq: u32,
    done: u16,
}

impl Disk {
    /// Finds the first disk and sets it up. There is one driver of it only.
    pub fn find() -> Option<Self> {
        let is_disk = |slot: &usize| {
            let base = VIRTIO + 0x1000 * slot;
            read(base + register::MAGIC) == 0x7472_6976 && read(base + register::DEVICE_ID) == 2
        };
        let slot = (0..SLOTS).find(is_disk)?;
        let disk = Self { base: VIRTIO + 0x1000 * slot, irq: 1 + slot as u32, done: 0 };
        let set = |register, value| write(disk.base + register, value);
        for status in [0, 1, 3] {
            set(register::STATUS, status);
        }
        // Version 1 and flush.
        for (word, features) in [(0, 1 << 9), (1, 1)] {
            set(register::DRIVER_FEATURES_SELECT, word);
            set(register::DRIVER_FEATURES, features);
        }
        set(register::STATUS, 11);
        set(register::QUEUE_SELECT, 0);
        set(register::QUEUE_SIZE, QUEUE as u32);
        let queue = &raw const QUEUE_MEMORY;
        // SAFETY: addresses only.
        let parts = unsafe {
            [
                &raw const (*queue).descriptors as u64,
                &raw const (*queue).available as u64,
                &raw const (*queue).used as u64,
            ]
        };
        for (register, part) in register::QUEUE_PARTS.into_iter().zip(parts) {
            set(register, part as u32);
            set(register + 4, (part >> 32) as u32);
        }
        set(register::QUEUE_READY, 1);
        set(register::STATUS, 15);
        write(PLIC + 4 * disk.irq as usize, 1);
        write(PLIC + 0x2000, 1 << disk.irq);
        write(PLIC + 0x20_0000, 0);
        Some(disk)
    }

    /// Sectors.
    pub fn capacity(&self) -> u64 {
        u64::from(read(self.base + register::CAPACITY))
            | u64::from(read(self.base + register::CAPACITY + 4)) << 32
    }

    /// Carries out a request of one sector: 0 reads, 1 writes, 4 flushes. The status that the device gave.
    pub fn request(&mut self, kind: u32, sector: u64, data: &mut [u8; SECTOR]) -> u8 {
        let queue = &raw mut QUEUE_MEMORY;
        // SAFETY: the queue's memory is this driver's, of which there is one; the device works on it only between the
        // notification and the end of the wait.
        unsafe {
            (*queue).header = [u64::from(kind), sector];
            (*queue).data = *data;
            (*queue).status = 0xff;
            let header = &raw const (*queue).header as u64;
            let (content, status) = (&raw const (*queue).data as u64, &raw const (*queue).status as u64);
            let device_writes = if kind == 0 { 2 } else { 0 };
            let mut chain = [
                Descriptor { address: header, length: 16, flags: 1, next: 1 },
                Descriptor { address: content, length: SECTOR as u32, flags: 1 | device_writes, next: 2 },
                Descriptor { address: status, length: 1, flags: 2, next: 0 },
            ];
            if kind == 4 {
                chain[0].next = 2;
            }
            for (index, descriptor) in chain.into_iter().enumerate() {
                (*queue).descriptors[index] = descriptor;
            }
            (*queue).available[2 + usize::from(self.done) % QUEUE] = 0;
            fence(Ordering::SeqCst);
            (&raw mut (*queue).available[1]).write_volatile(self.done.wrapping_add(1));
            fence(Ordering::SeqCst);
            write(self.base + register::QUEUE_NOTIFY, 0);
            while (&raw const (*queue).used.index).read_volatile() == self.done {
                csr::wait_for(EXTERNAL);
                let source = read(PLIC + 0x20_0004);
                let status = read(self.base + register::INTERRUPT_STATUS);
                write(self.base + register::INTERRUPT_ACKNOWLEDGE, status);
                write(PLIC + 0x20_0004, source);
            }
            self.done = self.done.wrapping_add(1);
            fence(Ordering::SeqCst);
            *data = (&raw const (*queue).data).read_volatile();
            (&raw const (*queue).status).read_volatile()
        }
    }

    /// Writes a pattern of this round's to a few sectors all over the disk, reads it back, and compares.
    pub fn check(&mut self, round: u64) -> bool {
        let capacity = self.capacity();
        let sectors = [0, 1, capacity / 2, capacity - 1];
        let pattern = |sector: u64| {
            core::array::from_fn::<u8, SECTOR, _>(|at| (sector * 7 + round * 13 + at as u64 * 31) as u8)
        };
        let mut scratch = [0; SECTOR];
        sectors.iter().all(|sector| self.request(1, *sector, &mut pattern(*sector)) == 0)
            && self.request(4, 0, &mut scratch) == 0
            && sectors.iter().all(|sector| {
                let mut found = [0; SECTOR];
                self.request(0, *sector, &mut found) == 0 && found == pattern(*sector)
            })
            // Behind the end there is nothing of ours.
            && self.request(0, capacity, &mut scratch) != 0
            && self.request(1, u64::MAX, &mut scratch) != 0
    }
}
