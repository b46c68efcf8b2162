//! What a home provides to serve the board's devices.
//!
//! Back ends never block a hart: they take work, finish it elsewhere, and tell the home, which then calls
//! [`Device::poll`](crate::Device::poll) on the front end.

use alloc::vec::Vec;

use crate::GuestPhysical;

/// Bytes in a sector, the unit of block addresses (Virtio 1.3, "Block Device").
pub const SECTOR_SIZE: u64 = 512;

/// A run of guest memory that a transfer reads or fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First byte.
    pub address: GuestPhysical,
    /// Bytes.
    pub length: u32,
}

/// What a block request does. Sectors count from the start of the disk in units of [`SECTOR_SIZE`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockOperation {
    /// From disk into the segments.
    Read {
        /// First sector.
        sector: u64,
        /// Where the data goes, in order; the lengths sum to a multiple of [`SECTOR_SIZE`].
        segments: Vec<Segment>,
    },
    /// From the segments to disk.
    Write {
        /// First sector.
        sector: u64,
        /// Where the data comes from, in order; the lengths sum to a multiple of [`SECTOR_SIZE`].
        segments: Vec<Segment>,
    },
    /// Make every completed write durable.
    Flush,
    /// The guest no longer needs these sectors; they may read back as anything.
    Discard {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
    },
    /// The sectors read back as zeros.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
        /// Whether the space may be given back to the host.
        unmap: bool,
    },
}

/// One request to a [`BlockBackend`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockRequest {
    /// The front end's name for the request, returned with its completion.
    pub id: u64,
    /// What to do.
    pub operation: BlockOperation,
}

/// Why a block request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockError {
    /// The host reported an error.
    Io,
    /// The operation isn't possible on this disk.
    Unsupported,
}

/// The end of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockCompletion {
    /// The request's `id`.
    pub id: u64,
    /// Whether it was carried out.
    pub result: Result<(), BlockError>,
}

/// A disk. The front end has checked that requests lie within [`capacity`](Self::capacity) and that segments
/// lie within RAM, and it never writes to a read-only disk.
pub trait BlockBackend: Send {
    /// Number of sectors.
    fn capacity(&self) -> u64;
    /// Whether writes are refused.
    fn is_read_only(&self) -> bool;
    /// Whether discard and write-zeroes are supported.
    fn can_discard(&self) -> bool;
    /// Identification string, at most 20 bytes (`VIRTIO_BLK_T_GET_ID`).
    fn identity(&self) -> &str;
    /// Starts a request; never blocks.
    fn submit(&mut self, request: BlockRequest);
    /// Takes one finished request, in any order.
    fn complete(&mut self) -> Option<BlockCompletion>;
    /// Waits until none of the submitted requests is on its way, so that a reset leaves none behind that still touches
    /// guest memory. Those that weren't begun may be left undone; completions are dropped.
    fn drain(&mut self);
    /// The same, but their completions can be taken.
    fn settle(&mut self);
}

/// A network: takes and gives Ethernet frames (no FCS).
pub trait NetBackend: Send {
    /// Sends one frame; drops it where the network is full.
    fn send(&mut self, frame: &[u8]);
    /// Takes the next frame for the guest into `frame` (cleared first). False where there is none.
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool;
    /// Whether it ends here: then it takes TCP segments of up to 64 KiB in one packet, whatever its MTU, and gives none that
    /// was damaged on the way.
    fn is_local(&self) -> bool {
        false
    }
}

/// A stream of bytes in both directions: a serial line or one port of a virtio console.
pub trait ConsoleBackend: Send {
    /// Takes bytes from the guest; returns how many. Fewer than offered means: the rest later, the home polls
    /// the device when there is room.
    fn write(&mut self, bytes: &[u8]) -> usize;
    /// Gives up to `buffer.len()` bytes to the guest; returns how many, 0 where there is nothing now.
    fn read(&mut self, buffer: &mut [u8]) -> usize;
    /// Whether somebody is at the host's end. A virtio console port whose back end is closed and drained
    /// reads as end of file in the guest.
    fn is_open(&self) -> bool {
        true
    }
    /// Columns and rows of the terminal at the host's end; always `None` where there is no terminal. The home
    /// polls the device after a change.
    fn size(&self) -> Option<(u16, u16)> {
        None
    }
    /// The guest opened or closed its end (virtio console ports only).
    fn guest_open(&mut self, _open: bool) {}
}

/// A source of unpredictable bytes.
pub trait EntropyBackend: Send {
    /// Fills the whole buffer.
    fn fill(&mut self, buffer: &mut [u8]);
}
