//! Making new disks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rvisor_waist::SECTOR_SIZE;

use super::{DiskError, Format, qcow2};

/// Makes a disk of `size` bytes that reads as zeros and takes hardly any space yet. `size` must be a positive
/// multiple of 512 and the file must not exist.
pub fn create_empty(path: &Path, format: Format, size: u64) -> Result<(), DiskError> {
    if size == 0 || !size.is_multiple_of(SECTOR_SIZE) {
        return Err(DiskError::BadSize { path: path.to_owned(), size });
    }
    match format {
        Format::Raw => create_file(path, |file| {
            file.set_len(size)?;
            file.sync_all()
        }),
        Format::Qcow2 => qcow2::create(path, size, None),
    }
}

/// Makes a file and has it filled; leaves none if that fails.
pub(super) fn create_file(path: &Path, fill: impl FnOnce(File) -> io::Result<()>) -> Result<(), DiskError> {
    let host = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => DiskError::Exists(path.to_owned()),
        _ => DiskError::Host { path: path.to_owned(), action: "create it", source },
    };
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(host)?;
    fill(file).map_err(|source| {
        // The error that counts is the first one.
        let _ = fs::remove_file(path);
        DiskError::Host { path: path.to_owned(), action: "create it", source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskOptions;

    #[test]
    fn new_disk_reads_as_zeros_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        for format in [Format::Raw, Format::Qcow2] {
            let path = directory.path().join(format.name());
            assert!(matches!(create_empty(&path, format, 1000), Err(DiskError::BadSize { .. })));
            create_empty(&path, format, 1 << 30).unwrap();
            assert!(matches!(create_empty(&path, format, 512), Err(DiskError::Exists(_))));
            let image = DiskOptions::new(&path).open().unwrap();
            assert_eq!(image.size(), 1 << 30);
            let mut buffer = [1; 4096];
            image.read_at((1 << 30) - 4096, &mut buffer).unwrap();
            assert_eq!(buffer, [0; 4096]);
        }
    }
}
