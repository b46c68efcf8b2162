//! Guests' save areas: the monitor's own parts of the physical disk.

use alloc::sync::Arc;

use rvisor_machine::bundle::DiskRange;
use rvisor_machine::save_area::{SaveError, Storage};
use rvisor_waist::SECTOR_SIZE;

use super::disk::Shared;
use super::drive::{Drive, Operation};

/// Bytes of one operation at most.
const PIECE: usize = 64 << 10;

/// A part of the disk. Whoever uses it waits for the disk.
pub struct Area<D> {
    disk: Arc<Shared<D>>,
    range: DiskRange,
}

impl<D: Drive> Area<D> {
    /// The part that is `range`, which was [checked](Shared::check).
    pub fn new(disk: Arc<Shared<D>>, range: DiskRange) -> Self {
        Self { disk, range }
    }

    /// Bytes that it has.
    pub fn size(&self) -> u64 {
        self.range.sectors * SECTOR_SIZE
    }

    /// The sector of the disk at `offset`, where `length` bytes are inside.
    fn sector(&self, offset: u64, length: usize) -> Result<u64, SaveError> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.size());
        let is_whole = offset.is_multiple_of(SECTOR_SIZE) && (length as u64).is_multiple_of(SECTOR_SIZE);
        end.filter(|_| is_whole).map(|_| self.range.start + offset / SECTOR_SIZE).ok_or(SaveError::Disk)
    }

    fn perform(&self, operation: &Operation) -> Result<alloc::vec::Vec<u8>, SaveError> {
        self.disk.perform(operation).map_err(|_| SaveError::Disk)
    }
}

impl<D: Drive> Storage for Area<D> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SaveError> {
        let first = self.sector(offset, buffer.len())?;
        for (sector, piece) in (first..).step_by(PIECE / SECTOR_SIZE as usize).zip(buffer.chunks_mut(PIECE)) {
            let bytes = self.perform(&Operation::Read { sector, length: piece.len() })?;
            if bytes.len() != piece.len() {
                return Err(SaveError::Disk);
            }
            piece.copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SaveError> {
        let first = self.sector(offset, bytes.len())?;
        for (sector, piece) in (first..).step_by(PIECE / SECTOR_SIZE as usize).zip(bytes.chunks(PIECE)) {
            self.perform(&Operation::Write { sector, data: piece.to_vec() })?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SaveError> {
        self.perform(&Operation::Flush).map(|_| ())
    }
}
