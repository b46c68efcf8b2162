//! What every disk format provides.

use std::any::Any;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Extent;

/// The content of a disk, whatever the format that stores it. Offsets and lengths are in bytes and multiples
/// of [`SECTOR_SIZE`](rvisor_waist::SECTOR_SIZE); all methods may be called from several threads at once and
/// block until done.
pub trait Image: Send + Sync {
    /// Bytes on the disk; never changes while the image is open.
    fn size(&self) -> u64;

    /// Whether writes are refused.
    fn is_read_only(&self) -> bool;

    /// Fills the whole buffer from `offset` on.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Stores the whole buffer from `offset` on.
    fn write_at(&self, offset: u64, buffer: &[u8]) -> io::Result<()>;

    /// Makes all writes that have returned durable.
    fn flush(&self) -> io::Result<()>;

    /// Gives the space of the range back where possible; it may then read as anything.
    fn discard(&self, range: Range<u64>) -> io::Result<()>;

    /// Makes the range read as zeros, giving its space back if `unmap`.
    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()>;

    /// Where what the disk has at the beginning of a range comes from, and for how many bytes of it that is so: one at
    /// least, unless the range is empty.
    fn extent(&self, range: Range<u64>) -> io::Result<(Extent, u64)> {
        Ok((Extent::Own, range.end - range.start))
    }
}

/// Makes a panic an error: a damaged image may surprise the library that reads it.
pub(super) fn caught<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().copied().unwrap_or("the image is damaged");
        Err(io::Error::other(text.to_owned()))
    })
}
