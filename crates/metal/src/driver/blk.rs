//! The physical disk (Virtio 1.3, "Block Device").

use alloc::vec;
use alloc::vec::Vec;

use rvisor_waist::BlockError;

use crate::arch::virtio::{Buffers, Device, Requests};
use crate::backend::drive::{Drive, Finished, Geometry, Operation};

/// Descriptors of the queue.
const QUEUE: usize = 64;

/// Feature bits.
mod feature {
    pub const READ_ONLY: u64 = 1 << 5;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Types of requests.
mod kind {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Offsets in the configuration.
mod config {
    pub const CAPACITY: usize = 0;
    pub const MAX_DISCARD_SECTORS: usize = 36;
    pub const MAX_WRITE_ZEROES_SECTORS: usize = 48;
}

const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;

/// A disk that works.
pub struct Blk {
    device: Device,
    queue: Requests<QUEUE>,
    geometry: Geometry,
}

impl Blk {
    /// Sets a disk up. `None` if it isn't usable.
    pub fn new(mut device: Device) -> Option<Self> {
        let wanted = feature::READ_ONLY | feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES;
        let features = device.negotiate(wanted);
        let has = |feature| features & feature != 0;
        let low = device.config(config::CAPACITY)?;
        let high = device.config(config::CAPACITY + 4)?;
        let limit = |feature, offset| if has(feature) { device.config(offset).unwrap_or(0) } else { 0 };
        let geometry = Geometry {
            capacity: u64::from(high) << 32 | u64::from(low),
            is_read_only: has(feature::READ_ONLY),
            has_flush: has(feature::FLUSH),
            discard: limit(feature::DISCARD, config::MAX_DISCARD_SECTORS),
            write_zeroes: limit(feature::WRITE_ZEROES, config::MAX_WRITE_ZEROES_SECTORS),
        };
        let queue = Requests::new(&mut device, 0)?;
        device.start();
        Some(Self { device, queue, geometry })
    }

    /// The device interrupted.
    pub fn acknowledge(&mut self) {
        self.device.acknowledge();
    }
}

impl Drive for Blk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, tag: u64, operation: Operation) -> bool {
        let header = |kind: u32, sector: u64| {
            let mut bytes = Vec::with_capacity(16);
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(sector.to_le_bytes());
            bytes
        };
        let range = |sector: u64, sectors: u32, flags: u32| {
            let mut bytes = Vec::with_capacity(16);
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes
        };
        let status = vec![0xff];
        let (sent, received) = match operation {
            Operation::Read { sector, length } => {
                (vec![header(kind::READ, sector)], vec![vec![0; length], status])
            }
            Operation::Write { sector, data } => (vec![header(kind::WRITE, sector), data], vec![status]),
            Operation::Flush => (vec![header(kind::FLUSH, 0)], vec![status]),
            Operation::Discard { sector, sectors } => {
                (vec![header(kind::DISCARD, 0), range(sector, sectors, 0)], vec![status])
            }
            Operation::WriteZeroes { sector, sectors, unmap } => {
                (vec![header(kind::WRITE_ZEROES, 0), range(sector, sectors, unmap.into())], vec![status])
            }
        };
        self.queue.submit(&mut self.device, Buffers { sent, received, tag }).is_ok()
    }

    fn finished(&mut self) -> Option<Finished> {
        let (mut buffers, length) = self.queue.finished()?;
        let status = buffers.received.pop().and_then(|status| status.first().copied());
        let data = buffers.received.pop().unwrap_or_default();
        let result = match status {
            // One byte of what was written is the status.
            Some(STATUS_OK) if length as usize > data.len() => Ok(data),
            Some(STATUS_UNSUPPORTED) => Err(BlockError::Unsupported),
            _ => Err(BlockError::Io),
        };
        Some(Finished { tag: buffers.tag, result })
    }
}
