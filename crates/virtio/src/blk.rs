//! The block device (Virtio 1.3, "Block Device"): a disk on a [`BlockBackend`], one queue, requests finished
//! in any order.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use rvisor_waist::{
    BlockBackend, BlockError, BlockOperation, BlockRequest, GuestMemory, GuestPhysical, SECTOR_SIZE,
    StateError, StateReader, StateWriter,
};

use crate::front_end::{FrontEnd, Queues};
use crate::queue::{Chain, QueueError};

/// `VIRTIO_BLK_F_SEG_MAX`
pub const F_SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`
pub const F_RO: u64 = 1 << 5;
/// `VIRTIO_BLK_F_BLK_SIZE`
pub const F_BLK_SIZE: u64 = 1 << 6;
/// `VIRTIO_BLK_F_FLUSH`
pub const F_FLUSH: u64 = 1 << 9;
/// `VIRTIO_BLK_F_DISCARD`
pub const F_DISCARD: u64 = 1 << 13;
/// `VIRTIO_BLK_F_WRITE_ZEROES`
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Types of requests, `VIRTIO_BLK_T_…`.
pub mod request {
    /// Read sectors.
    pub const IN: u32 = 0;
    /// Write sectors.
    pub const OUT: u32 = 1;
    /// Make writes durable.
    pub const FLUSH: u32 = 4;
    /// Read the identification string.
    pub const GET_ID: u32 = 8;
    /// Give sectors up.
    pub const DISCARD: u32 = 11;
    /// Make sectors zero.
    pub const WRITE_ZEROES: u32 = 13;
}

/// How a request ended, in its last byte: `VIRTIO_BLK_S_…`.
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// Failed, or the driver asked for what may not be.
    pub const IOERR: u8 = 1;
    /// The device doesn't know the request.
    pub const UNSUPP: u8 = 2;
}

const QUEUE: usize = 0;
const QUEUE_SIZE: u16 = 256;
/// Header and status take a descriptor each.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
const HEADER_SIZE: usize = 16;
/// Bytes of `struct virtio_blk_discard_write_zeroes`.
const RANGE_SIZE: usize = 16;
/// Its flag for write-zeroes: the space may be given back.
const RANGE_UNMAP: u32 = 1;
/// Longest range of a discard or write-zeroes request, in sectors: 1 GiB.
const RANGE_MAX_SECTORS: u32 = 1 << 21;
const IDENTITY_SIZE: usize = 20;
const CONFIG_SIZE: usize = 60;
/// The field of a snapshot with the number of sectors.
const CAPACITY: u16 = 1;

/// A request's header: type, reserved, sector.
struct Header {
    kind: u32,
    sector: u64,
}

/// A request at the back end.
struct Pending {
    chain: Chain,
    /// Where the status byte goes.
    status: GuestPhysical,
    /// Bytes the back end stores before it.
    data: u32,
    /// The write isn't done before a flush: the driver can't ask for one.
    flush_after: bool,
}

/// What a request comes to once it was looked at.
enum Outcome {
    /// Work for the back end; the number of bytes it stores in guest memory.
    Submit(BlockOperation, u32),
    /// Finished: bytes stored, and the status.
    Done(u32, u8),
}

impl Outcome {
    const IOERR: Self = Self::Done(0, status::IOERR);
    const UNSUPP: Self = Self::Done(0, status::UNSUPP);
}

/// Block front end.
pub struct Blk {
    back_end: Box<dyn BlockBackend>,
    /// Negotiated.
    features: u64,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
}

impl Blk {
    /// A disk with the contents of `back_end`.
    #[must_use]
    pub fn new(back_end: Box<dyn BlockBackend>) -> Self {
        Self { back_end, features: 0, pending: BTreeMap::new(), next_id: 0 }
    }

    fn accept<M: GuestMemory>(
        &mut self,
        mut chain: Chain,
        queues: &mut Queues<'_, M>,
    ) -> Result<(), QueueError> {
        let status = chain.writable.take_last_byte().ok_or(QueueError::Request)?;
        let mut header = [0; HEADER_SIZE];
        let outcome = if chain.readable.read(queues.memory(), &mut header)? == HEADER_SIZE {
            self.interpret(&parse_header(&header), &mut chain, queues.memory())?
        } else {
            Outcome::IOERR
        };
        match outcome {
            Outcome::Done(data, result) => finish(queues, chain, status, data, result),
            Outcome::Submit(operation, data) => {
                let durable = self.features & F_FLUSH != 0;
                let flush_after = !durable && !matches!(operation, BlockOperation::Read { .. });
                self.submit(operation, Pending { chain, status, data, flush_after });
                Ok(())
            }
        }
    }

    fn submit(&mut self, operation: BlockOperation, pending: Pending) {
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, pending);
        self.back_end.submit(BlockRequest { id, operation });
    }

    fn interpret<M: GuestMemory>(
        &self,
        header: &Header,
        chain: &mut Chain,
        memory: &M,
    ) -> Result<Outcome, QueueError> {
        let sector = header.sector;
        Ok(match header.kind {
            request::IN => {
                let data = core::mem::take(&mut chain.writable);
                let length = data.length();
                self.transfer(sector, length, length, || BlockOperation::Read {
                    sector,
                    segments: data.into_vec(),
                })
            }
            request::OUT if self.back_end.is_read_only() => Outcome::IOERR,
            request::OUT => {
                let data = core::mem::take(&mut chain.readable);
                self.transfer(sector, data.length(), 0, || BlockOperation::Write {
                    sector,
                    segments: data.into_vec(),
                })
            }
            request::FLUSH => Outcome::Submit(BlockOperation::Flush, 0),
            request::GET_ID => self.identify(chain, memory)?,
            request::DISCARD if self.features & F_DISCARD != 0 => self.range(chain, memory, false)?,
            request::WRITE_ZEROES if self.features & F_WRITE_ZEROES != 0 => {
                self.range(chain, memory, true)?
            }
            _ => Outcome::UNSUPP,
        })
    }

    /// Checks a read or write of `length` bytes, which stores `stored` bytes in guest memory.
    fn transfer(
        &self,
        sector: u64,
        length: u32,
        stored: u32,
        operation: impl FnOnce() -> BlockOperation,
    ) -> Outcome {
        let length = u64::from(length);
        if !length.is_multiple_of(SECTOR_SIZE) || !self.holds(sector, length / SECTOR_SIZE) {
            Outcome::IOERR
        } else if length == 0 {
            Outcome::Done(0, status::OK)
        } else {
            Outcome::Submit(operation(), stored)
        }
    }

    fn holds(&self, sector: u64, sectors: u64) -> bool {
        sector.checked_add(sectors).is_some_and(|end| end <= self.back_end.capacity())
    }

    fn identify<M: GuestMemory>(&self, chain: &mut Chain, memory: &M) -> Result<Outcome, QueueError> {
        let mut identity = [0; IDENTITY_SIZE];
        for (byte, &given) in identity.iter_mut().zip(self.back_end.identity().as_bytes()) {
            *byte = given;
        }
        let stored = chain.writable.write(memory, &identity)?;
        Ok(Outcome::Done(stored as u32, status::OK))
    }

    /// A discard or write-zeroes request: one range, as the configuration space says.
    fn range<M: GuestMemory>(
        &self,
        chain: &mut Chain,
        memory: &M,
        zeroes: bool,
    ) -> Result<Outcome, QueueError> {
        let mut range = [0; RANGE_SIZE];
        let complete = chain.readable.read(memory, &mut range)? == RANGE_SIZE;
        if !complete || !chain.readable.is_empty() || self.back_end.is_read_only() {
            return Ok(Outcome::IOERR);
        }
        let sector = u64_at(&range, 0);
        let (sectors, flags) = (u32_at(&range, 8), u32_at(&range, 12));
        let allowed = if zeroes { RANGE_UNMAP } else { 0 };
        if flags & !allowed != 0 {
            return Ok(Outcome::UNSUPP);
        }
        let count = u64::from(sectors);
        if sectors > RANGE_MAX_SECTORS || !self.holds(sector, count) {
            return Ok(Outcome::IOERR);
        }
        if sectors == 0 {
            return Ok(Outcome::Done(0, status::OK));
        }
        let operation = if zeroes {
            BlockOperation::WriteZeroes { sector, sectors: count, unmap: flags & RANGE_UNMAP != 0 }
        } else {
            BlockOperation::Discard { sector, sectors: count }
        };
        Ok(Outcome::Submit(operation, 0))
    }

    /// Forgets all requests, after the back end let go of their memory.
    fn forget_requests(&mut self) {
        if !self.pending.is_empty() {
            self.back_end.drain();
            self.pending.clear();
        }
    }
}

impl FrontEnd for Blk {
    fn device_id(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        let mut features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH;
        if self.back_end.is_read_only() {
            features |= F_RO;
        } else if self.back_end.can_discard() {
            features |= F_DISCARD | F_WRITE_ZEROES;
        }
        features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) -> impl AsRef<[u8]> {
        let mut config = [0; CONFIG_SIZE];
        config[..8].copy_from_slice(&self.back_end.capacity().to_le_bytes());
        let words = [
            (12, SEG_MAX),
            (20, SECTOR_SIZE as u32), // blk_size
            (36, RANGE_MAX_SECTORS),  // max_discard_sectors
            (40, 1),                  // max_discard_seg
            (44, 1),                  // discard_sector_alignment
            (48, RANGE_MAX_SECTORS),  // max_write_zeroes_sectors
            (52, 1),                  // max_write_zeroes_seg
            (56, 1),                  // write_zeroes_may_unmap, a byte
        ];
        for (offset, value) in words {
            config[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        config
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
    }

    fn notify<M: GuestMemory>(&mut self, index: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        while let Some(chain) = queues.pop(index)? {
            self.accept(chain, queues)?;
        }
        // What the back end could finish at once needs no wake-up.
        self.poll(queues)
    }

    fn poll<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        while let Some(completion) = self.back_end.complete() {
            let Some(mut pending) = self.pending.remove(&completion.id) else { continue };
            if pending.flush_after && completion.result.is_ok() {
                pending.flush_after = false;
                self.submit(BlockOperation::Flush, pending);
                continue;
            }
            let (data, result) = match completion.result {
                Ok(()) => (pending.data, status::OK),
                Err(BlockError::Io) => (0, status::IOERR),
                Err(BlockError::Unsupported) => (0, status::UNSUPP),
            };
            finish(queues, pending.chain, pending.status, data, result)?;
        }
        Ok(())
    }

    fn stop_queue(&mut self, _index: usize) {
        self.forget_requests();
    }

    fn reset(&mut self) {
        self.forget_requests();
        self.features = 0;
    }

    fn settle(&mut self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        self.back_end.settle();
        true
    }

    /// All requests are finished; the disk's size must stay.
    fn save(&self, state: &mut StateWriter) -> Result<(), StateError> {
        state.number(CAPACITY, self.back_end.capacity());
        Ok(())
    }

    fn restore<M: GuestMemory>(
        &mut self,
        state: &mut StateReader<'_>,
        _memory: &M,
    ) -> Result<(), StateError> {
        if state.number(CAPACITY)? != self.back_end.capacity() {
            return Err(StateError::Mismatch("size of a disk"));
        }
        Ok(())
    }
}

/// Gives a request back: the status goes into guest memory after the data. `data` bytes precede it.
fn finish<M: GuestMemory>(
    queues: &mut Queues<'_, M>,
    chain: Chain,
    address: GuestPhysical,
    data: u32,
    result: u8,
) -> Result<(), QueueError> {
    queues.memory().store(address, result)?;
    queues.push_used(QUEUE, chain, data + 1)
}

fn parse_header(bytes: &[u8; HEADER_SIZE]) -> Header {
    Header { kind: u32_at(bytes, 0), sector: u64_at(bytes, 8) }
}

/// The little-endian word at `offset` of `bytes`, both sizes constant at every call.
fn u32_at(bytes: &[u8; 16], offset: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|i| bytes[offset + i]))
}

fn u64_at(bytes: &[u8; 16], offset: usize) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|i| bytes[offset + i]))
}

#[cfg(test)]
mod tests;
