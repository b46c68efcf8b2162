//! What people do with disks that no machine is using: look at them, check, resize, convert.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rvisor_waist::SECTOR_SIZE;

use super::options::{find_format, open_file};
use super::{DiskError, DiskOptions, Format, create_empty, lock, qcow2};

pub use super::qcow2::Findings;

/// Bytes moved at once.
const CHUNK: usize = 1 << 20;
/// A run of zeros of this size is left out of a copy.
const HOLE: usize = 64 << 10;

/// What a disk is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskInfo {
    /// How it is stored.
    pub format: Format,
    /// Bytes that the guest sees.
    pub size: u64,
    /// Bytes that its file takes on the host.
    pub occupied: u64,
    /// The file that it reads where it has nothing of its own.
    pub backing: Option<PathBuf>,
}

/// Looks at a disk, which may be in use.
///
/// # Errors
/// If it isn't one.
pub fn info(path: &Path, format: Option<Format>) -> Result<DiskInfo, DiskError> {
    let (file, size) = open_file(path, true)?;
    let host = |source| DiskError::Host { path: path.to_owned(), action: "read it", source };
    let occupied = file.metadata().map_err(host)?.blocks() * 512;
    let format = format.map_or_else(|| find_format(&file, path), Ok)?;
    let (size, backing) = match format {
        Format::Raw => (size, None),
        Format::Qcow2 => qcow2::describe(&file, path)?,
    };
    Ok(DiskInfo { format, size, occupied, backing })
}

/// The files that a disk reads where it has nothing of its own, the one right behind it first.
///
/// # Errors
/// If one of them isn't a disk, or there are too many.
pub fn backing_files(disk: &DiskOptions) -> Result<Vec<PathBuf>, DiskError> {
    /// Opening the disk has its own idea of how many are too many, and is the one to complain.
    const MOST: usize = 64;
    let mut files = Vec::new();
    let mut next = info(&disk.path, disk.format)?.backing;
    while let Some(path) = next.filter(|_| files.len() < MOST) {
        next = info(&path, None)?.backing;
        files.push(path);
    }
    Ok(files)
}

/// Reads every byte of a disk, and of a qcow2 disk compares what its tables use with what they count.
///
/// # Errors
/// If it can't be read. That the counts are wrong is no error.
pub fn check(path: &Path, format: Option<Format>) -> Result<Findings, DiskError> {
    let image = DiskOptions { read_only: true, format, ..DiskOptions::new(path) }.open()?;
    let host = |source| DiskError::Host { path: path.to_owned(), action: "read it", source };
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < image.size() {
        let length = (image.size() - offset).min(CHUNK as u64);
        image.read_at(offset, &mut buffer[..length as usize]).map_err(host)?;
        offset += length;
    }
    match info(path, format)?.format {
        Format::Raw => Ok(Findings::default()),
        Format::Qcow2 => qcow2::count(&File::open(path).map_err(host)?, path),
    }
}

/// Makes a disk larger, or with `shrink` smaller: what was behind the new end is lost then.
///
/// # Errors
/// If it is in use, the size makes no sense, or the host refuses.
pub fn resize(path: &Path, format: Option<Format>, size: u64, shrink: bool) -> Result<(), DiskError> {
    if size == 0 || !size.is_multiple_of(SECTOR_SIZE) {
        return Err(DiskError::BadSize { path: path.to_owned(), size });
    }
    let before = info(path, format)?;
    if size < before.size && !shrink {
        return Err(DiskError::WouldShrink { path: path.to_owned(), from: before.size, to: size });
    }
    let (file, _) = open_file(path, false)?;
    lock::lock(&file, path, false)?;
    match before.format {
        Format::Qcow2 => qcow2::resize(file, path, size),
        Format::Raw => file.set_len(size).and_then(|()| file.sync_all()).map_err(|source| DiskError::Host {
            path: path.to_owned(),
            action: "resize it",
            source,
        }),
    }
}

/// Copies a disk into a new one, with all that it reads from files behind it. The new one appears when it is whole.
///
/// # Errors
/// If the old one is in use or damaged, the new one exists, or the host refuses.
pub fn convert(from: &DiskOptions, to: &Path, format: Format) -> Result<(), DiskError> {
    let source = DiskOptions { read_only: true, ..from.clone() }.open()?;
    if to.exists() {
        return Err(DiskError::Exists(to.to_owned()));
    }
    let draft = Draft::beside(to);
    create_empty(&draft.0, format, source.size())?;
    let target = DiskOptions { format: Some(format), ..DiskOptions::new(&draft.0) }.open()?;
    let host = |path: &Path, action, source| DiskError::Host { path: path.to_owned(), action, source };
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < source.size() {
        let length = (source.size() - offset).min(CHUNK as u64) as usize;
        let chunk = &mut buffer[..length];
        source.read_at(offset, chunk).map_err(|error| host(&from.path, "read it", error))?;
        for (number, piece) in chunk.chunks(HOLE).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                let at = offset + (number * HOLE) as u64;
                target.write_at(at, piece).map_err(|error| host(to, "write it", error))?;
            }
        }
        offset += length as u64;
    }
    target.flush().map_err(|error| host(to, "write it", error))?;
    drop(target);
    draft.publish(to)
}

/// A file that gets its name when it is whole. Dropping it removes it.
struct Draft(PathBuf);

impl Draft {
    fn beside(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self(path.with_file_name(format!(".{name}.{}", std::process::id())))
    }

    fn publish(self, to: &Path) -> Result<(), DiskError> {
        match renameat_with(CWD, &self.0, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(DiskError::Exists(to.to_owned()))
            }
            // A file system without that kind of rename: nobody was there a moment ago.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => fs::rename(&self.0, to)
                .map_err(|source| DiskError::Host { path: to.to_owned(), action: "create it", source }),
            Err(source) => Err(DiskError::Host { path: to.to_owned(), action: "create it", source }),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already where it has got its name.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::create_overlay;

    const SIZE: u64 = 3 << 20;

    fn filled(path: &Path, format: Format) {
        create_empty(path, format, SIZE).unwrap();
        let image = DiskOptions { format: Some(format), ..DiskOptions::new(path) }.open().unwrap();
        image.write_at(512, &[7; 512]).unwrap();
        image.write_at(SIZE - 512, &[9; 512]).unwrap();
        image.flush().unwrap();
    }

    fn sector(path: &Path, offset: u64) -> u8 {
        let mut buffer = [0; 512];
        DiskOptions::new(path).open().unwrap().read_at(offset, &mut buffer).unwrap();
        buffer[100]
    }

    #[test]
    fn converted_disk_has_the_content_and_its_holes() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        filled(&path("raw"), Format::Raw);
        convert(&DiskOptions::new(path("raw")), &path("qcow2"), Format::Qcow2).unwrap();
        create_overlay(&path("over"), &path("qcow2"), None).unwrap();
        convert(&DiskOptions::new(path("over")), &path("back"), Format::Raw).unwrap();
        assert_eq!(fs::read(path("raw")).unwrap(), fs::read(path("back")).unwrap());
        let info = info(&path("qcow2"), None).unwrap();
        assert_eq!((info.format, info.size, info.backing), (Format::Qcow2, SIZE, None));
        assert!(info.occupied < SIZE);
        let again = convert(&DiskOptions::new(path("raw")), &path("back"), Format::Raw);
        assert!(matches!(again, Err(DiskError::Exists(_))));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4, "no draft is left");
    }

    #[test]
    fn overlay_names_its_base_and_checks_sound() {
        let directory = tempfile::tempdir().unwrap();
        let (base, over) = (directory.path().join("base"), directory.path().join("over"));
        filled(&base, Format::Raw);
        create_overlay(&over, &base, None).unwrap();
        assert_eq!(info(&over, None).unwrap().backing, Some(base.canonicalize().unwrap()));
        let image = DiskOptions::new(&over).open().unwrap();
        image.write_at(1 << 20, &[1; 4096]).unwrap();
        image.flush().unwrap();
        drop(image);
        assert_eq!(check(&over, None).unwrap(), Findings { clusters: 1, ..Findings::default() });
    }

    #[test]
    fn damaged_counts_are_found() {
        use std::os::unix::fs::FileExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        filled(&path, Format::Qcow2);
        let sound = check(&path, None).unwrap();
        assert_eq!((sound.leaked, sound.uncounted), (0, 0));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let double = |at| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).unwrap();
            u64::from_be_bytes(bytes)
        };
        // The first entry of the refcount table is the first block, which counts the header first.
        let block = double(double(48));
        file.write_all_at(&[0, 0], block).unwrap();
        file.write_all_at(&[0, 1], block + 2 * 30).unwrap();
        let found = check(&path, None).unwrap();
        assert_eq!((found.leaked, found.uncounted), (1, 1));
    }

    #[test]
    fn disk_grows_and_shrinks_only_if_told() {
        let directory = tempfile::tempdir().unwrap();
        for format in [Format::Raw, Format::Qcow2] {
            let path = directory.path().join(format.name());
            filled(&path, format);
            assert!(matches!(resize(&path, None, 1 << 20, false), Err(DiskError::WouldShrink { .. })));
            assert!(matches!(resize(&path, None, 1000, false), Err(DiskError::BadSize { .. })));
            resize(&path, None, 64 << 20, false).unwrap();
            assert_eq!(info(&path, None).unwrap().size, 64 << 20);
            assert_eq!((sector(&path, SIZE - 512), sector(&path, SIZE), sector(&path, 512)), (9, 0, 7));
            resize(&path, None, 1 << 20, true).unwrap();
            resize(&path, None, SIZE, false).unwrap();
            assert_eq!((sector(&path, SIZE - 512), sector(&path, 512)), (0, 7), "{format:?}");
            let user = DiskOptions::new(&path).open().unwrap();
            assert!(matches!(resize(&path, None, 64 << 20, false), Err(DiskError::InUse { .. })));
            drop(user);
        }
    }
}
