//! Data between an image and guest memory.
//!
//! It goes through a buffer of the I/O thread: guest memory changes under our hands (other harts run), so it
//! can't be lent as slices. A memory that can give the host addresses of its segments may go straight to
//! `preadv` and `pwritev` here; nothing else in this folder touches guest memory.

use std::io;
use std::ops::Range;

use rvisor_waist::{GuestMemory, OutOfRange, SECTOR_SIZE, Segment};

use super::Image;

/// Bytes moved at once: large enough to make system calls cheap, small enough to stay in the cache.
const CHUNK: u64 = 256 * 1024;

/// One I/O thread's way between an image and guest memory.
pub(super) struct Transfer<'a, M> {
    image: &'a dyn Image,
    memory: &'a M,
    buffer: Vec<u8>,
}

impl<'a, M: GuestMemory> Transfer<'a, M> {
    pub(super) fn new(image: &'a dyn Image, memory: &'a M) -> Self {
        Self { image, memory, buffer: vec![0; CHUNK as usize] }
    }

    /// From the image, starting at `sector`, into the segments.
    pub(super) fn read(&mut self, sector: u64, segments: &[Segment]) -> io::Result<()> {
        let Self { image, memory, buffer } = self;
        for_each_chunk(*image, sector, segments, |offset, pieces, length| {
            let chunk = &mut buffer[..length];
            image.read_at(offset, chunk)?;
            pieces
                .take(length, |segment, range| memory.write(segment.address, &chunk[range]))
                .map_err(wrong_memory)
        })
    }

    /// From the segments to the image, starting at `sector`.
    pub(super) fn write(&mut self, sector: u64, segments: &[Segment]) -> io::Result<()> {
        let Self { image, memory, buffer } = self;
        for_each_chunk(*image, sector, segments, |offset, pieces, length| {
            let chunk = &mut buffer[..length];
            pieces
                .take(length, |segment, range| memory.read(segment.address, &mut chunk[range]))
                .map_err(wrong_memory)?;
            image.write_at(offset, chunk)
        })
    }
}

/// The guest has asked for this: it is no error of the host's.
fn wrong_memory(error: OutOfRange) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// The bytes of `sectors` sectors from `sector` on; an error where the disk has no such sectors.
pub(super) fn byte_range(image: &dyn Image, sector: u64, sectors: u64) -> io::Result<Range<u64>> {
    let bytes = |sectors: u64| sectors.checked_mul(SECTOR_SIZE);
    match (bytes(sector), sector.checked_add(sectors).and_then(bytes)) {
        (Some(start), Some(end)) if end <= image.size() => Ok(start..end),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "sectors behind the end of the disk")),
    }
}

/// Cuts a transfer into chunks and calls `step` with each one's offset on disk, the memory still to come,
/// and its length.
fn for_each_chunk(
    image: &dyn Image,
    sector: u64,
    segments: &[Segment],
    mut step: impl FnMut(u64, &mut Pieces<'_>, usize) -> io::Result<()>,
) -> io::Result<()> {
    let total: u64 = segments.iter().map(|segment| u64::from(segment.length)).sum();
    if !total.is_multiple_of(SECTOR_SIZE) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a whole number of sectors"));
    }
    let Range { start, end } = byte_range(image, sector, total / SECTOR_SIZE)?;
    let mut pieces = Pieces { rest: segments, done: 0 };
    let mut offset = start;
    while offset < end {
        let length = (end - offset).min(CHUNK);
        step(offset, &mut pieces, length as usize)?;
        offset += length;
    }
    Ok(())
}

/// The part of a segment list that is still to be transferred.
struct Pieces<'a> {
    rest: &'a [Segment],
    /// Bytes of the first segment already transferred.
    done: u32,
}

impl Pieces<'_> {
    /// Takes the next `length` bytes of guest memory and calls `step` with each piece and its place among
    /// them.
    fn take(
        &mut self,
        length: usize,
        mut step: impl FnMut(Segment, Range<usize>) -> Result<(), OutOfRange>,
    ) -> Result<(), OutOfRange> {
        let mut place = 0;
        while place < length {
            let [first, rest @ ..] = self.rest else { return Err(OutOfRange) };
            let bytes = (first.length - self.done).min((length - place) as u32);
            let address = first.address.offset(u64::from(self.done));
            step(Segment { address, length: bytes }, place..place + bytes as usize)?;
            place += bytes as usize;
            self.done += bytes;
            if self.done == first.length {
                (self.rest, self.done) = (rest, 0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rvisor_waist::GuestPhysical;

    use super::*;

    fn segment(address: u64, length: u32) -> Segment {
        Segment { address: GuestPhysical(address), length }
    }

    #[test]
    fn pieces_follow_segments_across_chunks() {
        let segments = [segment(100, 300), segment(1000, 0), segment(2000, 724)];
        let mut pieces = Pieces { rest: &segments, done: 0 };
        let mut seen = Vec::new();
        for length in [512, 512] {
            let step = |segment: Segment, range| {
                seen.push((segment.address.0, segment.length, range));
                Ok(())
            };
            pieces.take(length, step).unwrap();
        }
        let expected = [(100, 300, 0..300), (1000, 0, 300..300), (2000, 212, 300..512), (2212, 512, 0..512)];
        assert_eq!(seen, expected);
        assert_eq!(pieces.take(1, |_, _| Ok(())), Err(OutOfRange));
    }
}
