//! Requests of the disk (Virtio 1.3, "Block Device") as no driver makes them: beyond its end, in queues that lead nowhere, and so large
//! that they are on their way when the device is reset.

use kernel::csr::{TICKS_PER_MILLISECOND, time};
use kernel::println;
use kernel::virtio::{Descriptor, NEXT, QUEUE, Queue, Ring, Transport, WRITE};

use super::Random;

const BLOCK_DEVICE: u32 = 2;
const F_FLUSH: u64 = 1 << 9;
/// Discards and write-zeroes.
const F_RANGES: u64 = 1 << 13 | 1 << 14;
/// Flag of a descriptor: it leads to a table of others.
const INDIRECT: u16 = 4;
const SECTOR: u64 = 512;

/// Kinds of requests.
const READ_DISK: u32 = 0;
const WRITE_DISK: u32 = 1;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Where nothing of this kernel's is, and how much of that: the device may write there what it likes.
const SPACE: u64 = 0x80c0_0000;
const SPACE_SIZE: u64 = 0x10_0000;
/// What stands there where the device must not write.
const MARK: u64 = 0xa5a5_5a5a_a5a5_5a5a;
/// How long an answer may take.
const PATIENCE: u64 = 60_000 * TICKS_PER_MILLISECOND;

static mut RING: Ring = Ring::new();
static mut HEADERS: [[u64; 2]; QUEUE] = [[0; 2]; QUEUE];
static mut STATUS: u8 = 0;

/// The disk, after a reset.
struct Disk {
    device: Transport,
    queue: Queue,
}

pub fn attack(random: &mut Random) {
    let Some(disk) = Disk::begin(0) else {
        println!("intruder: FAILED: it has no disk");
        return;
    };
    let capacity = disk.capacity();
    beyond_its_end(random, capacity);
    queues_that_lead_nowhere(random);
    (0..10).for_each(|_| reset_with_requests_on_their_way(capacity));
}

impl Disk {
    /// Resets the disk and sets it up, with these features.
    fn begin(features: u64) -> Option<Self> {
        let device = Transport::find(BLOCK_DEVICE, features)?;
        // SAFETY: the ring is this attack's; after the reset, the device has forgotten it.
        let queue = unsafe {
            (&raw mut RING).write_volatile(Ring::new());
            Queue::new(&device, 0, &raw mut RING)
        };
        device.start();
        Some(Self { device, queue })
    }

    fn capacity(&self) -> u64 {
        u64::from(self.device.configuration(0)) | u64::from(self.device.configuration(4)) << 32
    }

    /// A request with so many bytes at [`SPACE`], up to its end: its status, or `None` if it has none.
    fn request(&mut self, kind: u32, sector: u64, length: u32) -> Option<u8> {
        let device_writes = if kind == READ_DISK { WRITE } else { 0 };
        // SAFETY: nothing but the device has a part in it, until the request has ended.
        unsafe { (&raw mut STATUS).write_volatile(0xff) };
        self.queue.describe(0, header(0, kind, sector, 1));
        self.queue.describe(1, Descriptor { address: SPACE, length, flags: NEXT | device_writes, next: 2 });
        self.queue.describe(2, status());
        self.queue.offer(0);
        self.queue.notify(&self.device);
        let patience = time() + PATIENCE;
        while self.queue.ended().is_none() {
            if time() > patience {
                return None;
            }
        }
        // SAFETY: the request has ended.
        Some(unsafe { (&raw const STATUS).read_volatile() })
    }
}

/// Header `index` of a request, in front of descriptor `next`.
fn header(index: usize, kind: u32, sector: u64, next: u16) -> Descriptor {
    // SAFETY: an address in the array, whose part the device reads once it is offered.
    let address = unsafe {
        let header = &raw mut HEADERS[index];
        header.write_volatile([u64::from(kind), sector]);
        header as u64
    };
    Descriptor { address, length: 16, flags: NEXT, next }
}

fn status() -> Descriptor {
    Descriptor { address: &raw const STATUS as u64, length: 1, flags: WRITE, next: 0 }
}

/// Puts the mark everywhere in so many bytes of the space.
fn mark(length: u64) {
    for word in 0..length / 8 {
        // SAFETY: RAM that nothing else uses.
        unsafe { (SPACE as *mut u64).wrapping_add(word as usize).write_volatile(MARK) };
    }
}

fn is_marked(length: u64) -> bool {
    // SAFETY: as above.
    let word = |word| unsafe { (SPACE as *const u64).wrapping_add(word as usize).read_volatile() };
    (0..length / 8).all(|index| word(index) == MARK)
}

/// Sectors that aren't there, those among them whose place in bytes is one of the first again.
fn beyond_its_end(random: &mut Random, capacity: u64) {
    let has_ranges = Disk::begin(F_FLUSH | F_RANGES);
    let Some(mut disk) = has_ranges.or_else(|| Disk::begin(F_FLUSH)) else { return };
    let far = capacity + (random.next() as u64 >> 1);
    let places = [
        (capacity, 1),
        (capacity - 1, 2),
        (0, capacity + 1),
        (far, 1),
        (1 << 55, 1),
        ((1 << 55) - 1, 2),
        ((1 << 55) + capacity / 2, 8),
        (u64::MAX, 1),
        (u64::MAX - 1, 4),
    ];
    for (sector, sectors) in places {
        for kind in [READ_DISK, WRITE_DISK, DISCARD, WRITE_ZEROES] {
            mark(2 * SECTOR);
            let length = if kind == READ_DISK || kind == WRITE_DISK {
                (sectors * SECTOR) as u32
            } else {
                // SAFETY: RAM that nothing else uses; the range, without flags.
                unsafe { (SPACE as *mut [u64; 2]).write_volatile([sector, sectors]) };
                16
            };
            let answer = disk.request(kind, sector, length);
            let has_written = kind == READ_DISK && !is_marked(2 * SECTOR);
            if matches!(answer, None | Some(0 | 0xff)) || has_written {
                println!(
                    "intruder: FAILED: request {kind} of {sectors} sectors from {sector:#x} on: status {answer:x?}"
                );
            }
        }
    }
    // The most that a range can name, flags that don't exist, and two ranges.
    for (sectors, length) in [(u32::MAX.into(), 16), (1 | 0xff << 32, 16), (1, 32)] {
        for kind in [DISCARD, WRITE_ZEROES] {
            // SAFETY: as above.
            unsafe { (SPACE as *mut [u64; 4]).write_volatile([0, sectors, capacity, 1]) };
            if matches!(disk.request(kind, 0, length), None | Some(0 | 0xff)) {
                println!("intruder: FAILED: request {kind} of {sectors:#x}, {length} bytes");
            }
        }
    }
}

/// Loops, ends that aren't there, memory that isn't there or is the ring itself, and noise. What the device answers is its affair.
fn queues_that_lead_nowhere(random: &mut Random) {
    let ring = &raw const RING as u64;
    let to = |address, length, flags, next| Descriptor { address, length, flags, next };
    let tried = |descriptors: &[Descriptor], head: u16, times: usize| {
        let Some(mut disk) = Disk::begin(F_FLUSH) else { return };
        for (index, descriptor) in descriptors.iter().enumerate() {
            disk.queue.describe(index, *descriptor);
        }
        (0..times).for_each(|_| disk.queue.offer(head));
        disk.queue.notify(&disk.device);
        (0..100).for_each(|_| {
            disk.queue.ended();
        });
    };
    let read = header(0, READ_DISK, 0, 1);
    for (second, third) in [
        // To itself, back to the first, outside the table.
        (to(SPACE, 512, NEXT | WRITE, 1), status()),
        (to(SPACE, 512, NEXT | WRITE, 0), status()),
        (to(SPACE, 512, NEXT | WRITE, 0xffff), status()),
        // Memory that isn't there, or isn't RAM, or only begins in it.
        (to(0, 512, NEXT | WRITE, 2), status()),
        (to(0x1000_0000, 512, NEXT | WRITE, 2), status()),
        (to(u64::MAX - 255, 512, NEXT | WRITE, 2), status()),
        (to(SPACE, !511, NEXT | WRITE, 2), status()),
        // Nothing to write to, nowhere for the status, a table elsewhere.
        (to(SPACE, 512, NEXT, 2), to(SPACE, 1, 0, 0)),
        (to(SPACE, 512, NEXT | WRITE, 2), to(SPACE, 0, WRITE, 0)),
        (to(SPACE, 512, NEXT | WRITE, 2), to(0, 1, WRITE, 0)),
        (to(SPACE, 64, INDIRECT, 2), status()),
        // What is read from the disk becomes the queue.
        (to(ring & !511, 4096, NEXT | WRITE, 2), status()),
    ] {
        tried(&[read, second, third], 0, 1);
        tried(&[read, second, third], 0, 1000);
    }
    tried(&[read], 0xffff, 1);
    for _ in 0..40 {
        let descriptors: [Descriptor; QUEUE] = core::array::from_fn(|_| {
            let noise = random.next() as u64;
            let address = if noise & 3 == 0 { noise } else { SPACE + noise % SPACE_SIZE };
            to(address, (noise >> 20) as u32 & 0x1fff, (noise >> 40) as u16 & 7, (noise >> 50) as u16 & 15)
        });
        tried(&descriptors, random.next() as u16 & 15, 3);
    }
}

/// The whole disk is asked for, as often as the queue allows; what is on its way when the device has forgotten it isn't written
/// to memory any more.
fn reset_with_requests_on_their_way(capacity: u64) {
    let Some(mut disk) = Disk::begin(F_FLUSH) else { return };
    let length = (capacity * SECTOR).min(SPACE_SIZE);
    let [data, end] = [QUEUE - 2, QUEUE - 1];
    disk.queue.describe(
        data,
        Descriptor { address: SPACE, length: length as u32, flags: NEXT | WRITE, next: end as u16 },
    );
    disk.queue.describe(end, status());
    for index in 0..data {
        disk.queue.describe(index, header(index, READ_DISK, 0, data as u16));
        disk.queue.offer(index as u16);
    }
    disk.queue.notify(&disk.device);
    disk.device.reset();
    mark(length);
    let end = time() + TICKS_PER_MILLISECOND;
    while time() < end {}
    if !is_marked(length) {
        println!("intruder: FAILED: the disk writes to memory after its reset");
    }
}
