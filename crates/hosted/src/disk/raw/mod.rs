//! Raw disks: sector n is at byte 512·n of the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{Image, qcow2};

/// A raw disk in an open file.
pub(super) struct Raw {
    file: File,
    size: u64,
    read_only: bool,
    /// Whether a write that would make the file look like another format is refused. A guest could otherwise
    /// turn its disk into a qcow2 file that names any file of the host, and have it opened the next time.
    keep_raw: bool,
}

impl Raw {
    /// The disk in the first `size` bytes of `file`. `probed` says that it was taken for raw because nothing
    /// else matched.
    pub(super) fn new(file: File, size: u64, read_only: bool, probed: bool) -> Self {
        Self { file, size, read_only, keep_raw: probed }
    }
}

impl Image for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        if self.keep_raw && offset == 0 && qcow2::is_qcow2(buffer) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the guest writes a qcow2 header to a disk not declared raw; open it with format=raw",
            ));
        }
        self.file.write_all_at(buffer, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        punch_hole(&self.file, &range)
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        let methods = [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE];
        for method in &methods[usize::from(!unmap)..] {
            match allocate(&self.file, *method, &range) {
                Err(error) if is_unsupported(error) => {}
                result => return Ok(result?),
            }
        }
        write_zeros(&self.file, range)
    }
}

/// Gives the space of a range back to the host, which then reads as zeros; where the host can't do that,
/// nothing happens: a discard is a hint.
pub(super) fn punch_hole(file: &File, range: &Range<u64>) -> io::Result<()> {
    match allocate(file, FallocateFlags::PUNCH_HOLE, range) {
        Err(error) if is_unsupported(error) => Ok(()),
        result => Ok(result?),
    }
}

/// `fallocate` that never changes the file's size.
fn allocate(file: &File, method: FallocateFlags, range: &Range<u64>) -> Result<(), Errno> {
    if range.is_empty() {
        return Ok(());
    }
    let mode = method | FallocateFlags::KEEP_SIZE;
    rustix::io::retry_on_intr(|| fallocate(file, mode, range.start, range.end - range.start))
}

fn is_unsupported(error: Errno) -> bool {
    error == Errno::OPNOTSUPP || error == Errno::NOSYS
}

fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    static ZEROS: [u8; 65536] = [0; 65536];
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..length as usize], offset)?;
        offset += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn raw(probed: bool) -> Raw {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0xaa; 1 << 20], 0).unwrap();
        Raw::new(file, 1 << 20, false, probed)
    }

    fn sector(image: &Raw, offset: u64) -> [u8; 512] {
        let mut buffer = [1; 512];
        image.read_at(offset, &mut buffer).unwrap();
        buffer
    }

    #[test]
    fn zeroed_range_reads_zero_and_its_neighbours_stay() {
        for unmap in [false, true] {
            let image = raw(false);
            image.write_zeroes(512..131_584, unmap).unwrap();
            assert_eq!(sector(&image, 0), [0xaa; 512]);
            assert_eq!(sector(&image, 512), [0; 512]);
            assert_eq!(sector(&image, 131_072), [0; 512]);
            assert_eq!(sector(&image, 131_584), [0xaa; 512]);
            image.write_zeroes((1 << 20) - 512..1 << 20, unmap).unwrap();
            assert_eq!(image.file.metadata().unwrap().len(), 1 << 20);
        }
    }

    #[test]
    fn zeros_are_written_where_the_host_has_no_fast_way() {
        let image = raw(false);
        write_zeros(&image.file, 512..131_584).unwrap();
        assert_eq!(sector(&image, 0), [0xaa; 512]);
        assert_eq!(sector(&image, 131_072), [0; 512]);
        assert_eq!(sector(&image, 131_584), [0xaa; 512]);
    }

    #[test]
    fn discard_gives_space_back() {
        let image = raw(false);
        image.flush().unwrap();
        let before = image.file.metadata().unwrap().blocks();
        image.discard(0..1 << 20).unwrap();
        image.discard(0..0).unwrap();
        assert!(image.file.metadata().unwrap().blocks() < before);
    }

    #[test]
    fn read_past_the_end_of_a_shrunken_file_returns_error() {
        let image = raw(false);
        image.file.set_len(1000).unwrap();
        assert!(image.read_at(512, &mut [0; 512]).is_err());
    }

    #[test]
    fn guest_cannot_turn_a_probed_disk_into_qcow2() {
        let mut header = [0; 512];
        header[..4].copy_from_slice(b"QFI\xfb");
        assert!(raw(true).write_at(0, &header).is_err());
        raw(true).write_at(512, &header).unwrap();
        raw(false).write_at(0, &header).unwrap();
    }
}
