//! Virtqueues that lie: descriptors that loop, point outside memory, at devices and at the queue itself, rings
//! that run ahead, lengths of four gigabytes, and all of that changing while the device looks.

use guest_runtime::board::{PLIC, RAM, TICKS_PER_MILLISECOND, UART, VIRTIO, VIRTIO_SLOTS, ram_end, ticks};
use guest_runtime::random::Random;
use guest_runtime::{println, probe};

use crate::Attack;
use crate::memory::{SCRATCH, SCRATCH_SIZE};

pub const ATTACKS: &[Attack] = &[
    ("queues set up with garbage", queues_set_up_with_garbage),
    ("descriptors that lie", descriptors_that_lie),
];

/// Registers of virtio-mmio (Virtio 1.3, "MMIO Device Register Layout").
mod register {
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
    pub const DESCRIPTORS: usize = 0x80;
    pub const DRIVER_AREA: usize = 0x90;
    pub const DEVICE_AREA: usize = 0xa0;
    pub const CONFIGURATION: usize = 0x100;
}

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

/// The queue's parts, in scratch memory.
const DESCRIPTOR_TABLE: usize = SCRATCH;
const AVAILABLE: usize = SCRATCH + 0x4000;
const USED: usize = SCRATCH + 0x8000;
const BUFFERS: usize = SCRATCH + 0x10000;
const QUEUE_SIZE: usize = 16;
const QUEUES: u32 = 6;

struct Slot(usize);

impl Slot {
    fn all() -> impl Iterator<Item = Self> {
        (0..VIRTIO_SLOTS).map(|slot| Self(VIRTIO + 0x1000 * slot))
    }

    fn read(&self, register: usize) -> u32 {
        // SAFETY: a register of the transport.
        let value = unsafe { probe::load(self.0 + register, probe::Width::Word) };
        value.unwrap_or(0) as u32
    }

    fn write(&self, register: usize, value: u32) {
        // SAFETY: a register of the transport; what the device may write to is set up in scratch memory.
        let _ = unsafe { probe::store(self.0 + register, probe::Width::Word, value.into()) };
    }

    fn write_address(&self, register: usize, address: usize) {
        self.write(register, address as u32);
        self.write(register + 4, (address >> 32) as u32);
    }

    /// Resets the device and negotiates the features that `mask` leaves of those it offers.
    fn initialize(&self, mask: u64) {
        self.write(register::STATUS, 0);
        let until = ticks() + 100 * TICKS_PER_MILLISECOND;
        while self.read(register::STATUS) != 0 && ticks() < until {}
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER);
        for word in 0..2 {
            self.write(register::DEVICE_FEATURES_SELECT, word);
            self.write(register::DRIVER_FEATURES_SELECT, word);
            let offered = self.read(register::DEVICE_FEATURES);
            self.write(register::DRIVER_FEATURES, offered & (mask >> (32 * word)) as u32);
        }
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }

    fn set_up_queue(&self, queue: u32, size: u32, parts: [usize; 3]) {
        self.write(register::QUEUE_SELECT, queue);
        self.write(register::QUEUE_SIZE, size);
        self.write_address(register::DESCRIPTORS, parts[0]);
        self.write_address(register::DRIVER_AREA, parts[1]);
        self.write_address(register::DEVICE_AREA, parts[2]);
        self.write(register::QUEUE_READY, 1);
    }

    fn start(&self) {
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Notifies, and lets the device work for a moment.
    fn kick(&self, queue: u32, milliseconds: u64) {
        self.write(register::QUEUE_NOTIFY, queue);
        let until = ticks() + milliseconds * TICKS_PER_MILLISECOND;
        while self.read(register::INTERRUPT_STATUS) == 0 && ticks() < until {}
        self.write(register::INTERRUPT_ACKNOWLEDGE, u32::MAX);
    }
}

/// Version 1 (bit 32) accepted always: without it nothing starts.
fn feature_mask(random: &mut Random) -> u64 {
    let noise = random.next_u64() | 1 << 32;
    random.choose(&[u64::MAX, 1 << 32, noise, 0])
}

/// Addresses for parts of a queue. None lets the device write to the guest's own memory.
fn hostile_part(random: &mut Random) -> usize {
    let choices = [
        0,
        SCRATCH,
        SCRATCH + 1,
        SCRATCH + random.below(SCRATCH_SIZE / 2),
        ram_end() - 0x10,
        ram_end() - 1,
        ram_end(),
        RAM - 8,
        RAM - 0x1000,
        UART,
        PLIC,
        VIRTIO,
        usize::MAX - 0xf,
        usize::MAX,
        1 << 63,
        random.next_u64() as usize | 1 << 40,
    ];
    random.choose(&choices)
}

fn queues_set_up_with_garbage(random: &mut Random) {
    for slot in Slot::all() {
        for _ in 0..200 {
            slot.initialize(feature_mask(random));
            for queue in 0..QUEUES {
                let parts = core::array::from_fn(|_| hostile_part(random));
                let size = random.choose(&[0, 1, 2, 3, 7, 16, 256, 1024, 0x8000, 0xffff, 0x1_0000, u32::MAX]);
                slot.set_up_queue(queue, size, parts);
            }
            slot.start();
            for queue in 0..QUEUES {
                slot.write(register::QUEUE_NOTIFY, queue);
            }
            slot.write(register::QUEUE_NOTIFY, random.next_u64() as u32);
            slot.write(register::STATUS, random.next_u64() as u32 & 0xff);
            slot.write(register::CONFIGURATION + random.below(0x100), random.next_u64() as u32);
        }
        slot.write(register::STATUS, 0);
    }
}

fn put<T>(address: usize, value: T) {
    // SAFETY: scratch memory.
    unsafe { (address as *mut T).write_volatile(value) };
}

/// A descriptor of a split queue (Virtio 1.3, "The Virtqueue Descriptor Table"); the bytes of a packed one lie
/// the same way up to its id and flags.
fn put_descriptor(random: &mut Random, table: usize, index: usize) {
    let end = ram_end();
    let addresses = [
        0,
        BUFFERS,
        BUFFERS + 1,
        BUFFERS + random.below(0x10000),
        DESCRIPTOR_TABLE,
        AVAILABLE,
        USED,
        end - 1,
        end - 512,
        end,
        UART,
        VIRTIO,
        usize::MAX,
        usize::MAX - 511,
        random.next_u64() as usize | 1 << 40,
    ];
    let lengths =
        [0, 1, 15, 16, 17, 511, 512, 513, 4096, 0x10000, 0x10_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let entry = table + 16 * index;
    let length = random.choose(&lengths);
    put(entry, random.choose(&addresses));
    put(entry + 8, length);
    // Next, write and indirect in every combination; sometimes bits that don't exist.
    let flags = random.choose(&[0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 0x80, 0x8080, 0xffffu16]);
    put(entry + 12, flags);
    put(entry + 14, random.choose(&[0, 1, 2, index as u16, index as u16 + 1, 15, 16, 0xffff]));
}

/// A request that a block or network device takes seriously: type, reserved, sector.
fn put_header(random: &mut Random) {
    put(BUFFERS, random.choose(&[0, 1, 4, 8, 11, 13, 14, 16, u32::MAX]));
    let noise = random.next_u64();
    put(BUFFERS + 8, random.choose(&[0, 1, 8, 1 << 20, u64::MAX, u64::MAX / 512, noise]));
}

fn put_rings(random: &mut Random, index: u16) {
    put(AVAILABLE, random.choose(&[0, 0, 0, 1, 0xffffu16]));
    for entry in 0..QUEUE_SIZE {
        put(AVAILABLE + 4 + 2 * entry, random.choose(&[0, 1, 2, entry as u16, 15, 16, 0xffff]));
    }
    put(AVAILABLE + 2, index);
}

fn descriptors_that_lie(random: &mut Random) {
    for slot in Slot::all() {
        let rounds = if slot.read(register::DEVICE_ID) == 0 { 1 } else { 400 };
        for round in 0..rounds {
            slot.initialize(feature_mask(random));
            for index in 0..QUEUE_SIZE {
                put_descriptor(random, DESCRIPTOR_TABLE, index);
                put_descriptor(random, BUFFERS + 0x100, index);
            }
            put_header(random);
            put_rings(random, 0);
            put(USED, 0u64);
            let queue = random.below(QUEUES as usize) as u32;
            slot.set_up_queue(queue, QUEUE_SIZE as u32, [DESCRIPTOR_TABLE, AVAILABLE, USED]);
            slot.start();
            let ahead = random.choose(&[1, 1, 2, 5, 16, 17, 0x8000, 0xffff]);
            put_rings(random, ahead);
            slot.kick(queue, 1);
            // Under the device's eyes.
            for _ in 0..20 {
                let index = random.below(QUEUE_SIZE);
                put_descriptor(random, DESCRIPTOR_TABLE, index);
                put(AVAILABLE + 2, random.next_u64() as u16);
                slot.write(register::QUEUE_NOTIFY, queue);
            }
            if round % 8 == 0 {
                // Pulls the queue away without a reset.
                slot.set_up_queue(queue, QUEUE_SIZE as u32, [0, 0, 0]);
                slot.write(register::QUEUE_READY, 0);
            }
        }
        slot.write(register::STATUS, 0);
        println!("  {:#x}: device {} answers", slot.0, slot.read(register::DEVICE_ID));
    }
}
