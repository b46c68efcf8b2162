//! A physical disk, as the back end of guests' disks uses it.

use alloc::vec::Vec;

use rvisor_waist::BlockError;

/// What to do; sectors of 512 bytes from the start of the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Read so many bytes.
    Read {
        /// First sector.
        sector: u64,
        /// A multiple of 512, not zero.
        length: usize,
    },
    /// Write.
    Write {
        /// First sector.
        sector: u64,
        /// A multiple of 512 bytes, not none.
        data: Vec<u8>,
    },
    /// Make what was written durable.
    Flush,
    /// Give sectors back.
    Discard {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u32,
    },
    /// Make sectors read as zeros.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u32,
        /// Whether the space may be given back.
        unmap: bool,
    },
}

/// A finished request.
pub struct Finished {
    /// What it was submitted with.
    pub tag: u64,
    /// Whether it was carried out, and what was read.
    pub result: Result<Vec<u8>, BlockError>,
}

/// What a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Sectors of 512 bytes.
    pub capacity: u64,
    /// Whether it refuses writes.
    pub is_read_only: bool,
    /// Whether writes are kept back until a flush.
    pub has_flush: bool,
    /// The most sectors of one discard; zero where it can't.
    pub discard: u32,
    /// The most sectors of one write of zeros; zero where it can't.
    pub write_zeroes: u32,
}

/// A physical disk.
pub trait Drive: Send {
    /// What it is.
    fn geometry(&self) -> Geometry;
    /// Starts a request. False if there is no room: try again when one has finished.
    fn submit(&mut self, tag: u64, operation: Operation) -> bool;
    /// A request that has finished, in any order.
    fn finished(&mut self) -> Option<Finished>;
}
