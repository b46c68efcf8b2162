//! The first virtio disk (Virtio 1.3, "Block Device"): one request at a time, its end told by an interrupt.

use crate::csr::{self, EXTERNAL};
use crate::plic;
use crate::virtio::{Descriptor, NEXT, Queue, Ring, Transport, WRITE};

const BLOCK_DEVICE: u32 = 2;
const F_FLUSH: u64 = 1 << 9;
const SECTOR: usize = 512;

/// Kinds of requests.
const READ_DISK: u32 = 0;
const WRITE_DISK: u32 = 1;
const FLUSH: u32 = 4;

#[repr(C)]
struct Buffers {
    header: [u64; 2],
    data: [u8; SECTOR],
    status: u8,
}

static mut RING: Ring = Ring::new();
static mut BUFFERS: Buffers = Buffers { header: [0; 2], data: [0; SECTOR], status: 0 };

/// The disk, with its interrupt.
pub struct Disk {
    device: Transport,
    queue: Queue,
}

impl Disk {
    /// Finds the first disk and sets it up. There is one driver of it only.
    pub fn find() -> Option<Self> {
        let device = Transport::find(BLOCK_DEVICE, F_FLUSH)?;
        // SAFETY: the ring belongs to this driver.
        let queue = unsafe { Queue::new(&device, 0, &raw mut RING) };
        device.start();
        Some(Self { device, queue })
    }

    /// Sectors.
    pub fn capacity(&self) -> u64 {
        u64::from(self.device.configuration(0)) | u64::from(self.device.configuration(4)) << 32
    }

    /// Carries out a request of one sector: 0 reads, 1 writes, 4 flushes. The status that the device gave.
    pub fn request(&mut self, kind: u32, sector: u64, data: &mut [u8; SECTOR]) -> u8 {
        let buffers = &raw mut BUFFERS;
        // SAFETY: the buffers are this driver's, of which there is one; the device works on them only between the
        // notification and the end of the wait.
        unsafe {
            (&raw mut (*buffers).header).write_volatile([u64::from(kind), sector]);
            (&raw mut (*buffers).data).write_volatile(*data);
            (&raw mut (*buffers).status).write_volatile(0xff);
            let header = &raw const (*buffers).header as u64;
            let (content, status) = (&raw const (*buffers).data as u64, &raw const (*buffers).status as u64);
            let device_writes = if kind == READ_DISK { WRITE } else { 0 };
            let behind_header = if kind == FLUSH { 2 } else { 1 };
            for (index, (address, length, flags, next)) in [
                (header, 16, NEXT, behind_header),
                (content, SECTOR as u32, NEXT | device_writes, 2),
                (status, 1, WRITE, 0),
            ]
            .into_iter()
            .enumerate()
            {
                self.queue.describe(index, Descriptor { address, length, flags, next });
            }
            self.queue.offer(0);
            self.queue.notify(&self.device);
            plic::enable(self.device.source());
            while self.queue.ended().is_none() {
                csr::wait_for(EXTERNAL);
                plic::serve(|_| self.device.acknowledge());
            }
            *data = (&raw const (*buffers).data).read_volatile();
            (&raw const (*buffers).status).read_volatile()
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
        sectors.iter().all(|sector| self.request(WRITE_DISK, *sector, &mut pattern(*sector)) == 0)
            && self.request(FLUSH, 0, &mut scratch) == 0
            && sectors.iter().all(|sector| {
                let mut found = [0; SECTOR];
                self.request(READ_DISK, *sector, &mut found) == 0 && found == pattern(*sector)
            })
            // Behind the end there is nothing of ours.
            && self.request(READ_DISK, capacity, &mut scratch) != 0
            && self.request(WRITE_DISK, u64::MAX, &mut scratch) != 0
    }

    /// Fills the whole disk, and reads it back: the checksum of what it has then, if that is what was written.
    pub fn fill(&mut self) -> Option<u64> {
        let (mut written, mut found) = (Checksum::new(), Checksum::new());
        let mut data = [0; SECTOR];
        let mut noise = 0x2545_f491_4f6c_dd1d_u64;
        for sector in 0..self.capacity() {
            for byte in &mut data {
                noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                *byte = (noise >> 56) as u8;
            }
            written.add(&data);
            if self.request(WRITE_DISK, sector, &mut data) != 0 {
                return None;
            }
        }
        if self.request(FLUSH, 0, &mut data) != 0 {
            return None;
        }
        for sector in 0..self.capacity() {
            if self.request(READ_DISK, sector, &mut data) != 0 {
                return None;
            }
            found.add(&data);
        }
        (written.0 == found.0).then_some(found.0)
    }
}

/// FNV-1a of 64 bits.
struct Checksum(u64);

impl Checksum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
