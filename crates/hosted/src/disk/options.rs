//! Opening a disk: finding its format, checking it, locking it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rvisor_waist::SECTOR_SIZE;

use super::raw::Raw;
use super::{DiskError, Image, lock, qcow2};

/// How a disk is stored in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Sector by sector.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

impl Format {
    /// The format that users call `name`: `raw` or `qcow2`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "raw" => Self::Raw,
            "qcow2" => Self::Qcow2,
            _ => return None,
        })
    }

    /// What users call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Which file is the disk, and how to open it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskOptions {
    /// The file or block device.
    pub path: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How the disk is stored; `None` looks at the file.
    pub format: Option<Format>,
    /// Serial number that the guest reads, at most 20 bytes of it; `None` takes the file's name.
    pub serial: Option<String>,
}

impl DiskOptions {
    /// A writable disk whose format is found by looking at the file.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: false, format: None, serial: None }
    }

    /// Opens and locks the disk: for writing by this process alone, or for reading shared with other readers.
    pub fn open(&self) -> Result<Arc<dyn Image>, DiskError> {
        let (file, size) = open_file(&self.path, self.read_only)?;
        lock::lock(&file, &self.path, self.read_only)?;
        let found = match self.format {
            Some(format) => Probe { format, certain: true },
            None => probe(&file, &self.path)?,
        };
        match found.format {
            Format::Qcow2 => qcow2::open(file, &self.path, self.read_only),
            Format::Raw if !size.is_multiple_of(SECTOR_SIZE) => {
                Err(DiskError::Unaligned { path: self.path.clone(), size })
            }
            Format::Raw => Ok(Arc::new(Raw::new(file, size, self.read_only, !found.certain))),
        }
    }

    /// Whether the disk is free; who has it is told now, and can't be from within a sandbox.
    pub(crate) fn check_free(&self) -> Result<(), DiskError> {
        let (file, _) = open_file(&self.path, self.read_only)?;
        lock::lock(&file, &self.path, self.read_only)
    }

    /// What the guest reads as the disk's serial number: at most 20 bytes, printable ASCII without blanks.
    #[must_use]
    pub fn identity(&self) -> String {
        let stem = || self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let name = self.serial.clone().or_else(stem).unwrap_or_default();
        name.chars().filter(char::is_ascii_graphic).take(IDENTITY_BYTES).collect()
    }
}

/// Most bytes in a disk's identity (Virtio 1.3, `VIRTIO_BLK_T_GET_ID`).
const IDENTITY_BYTES: usize = 20;

/// What a file is taken for.
struct Probe {
    format: Format,
    /// False for raw found by the absence of anything else.
    certain: bool,
}

/// Opens a non-empty file or block device; returns it with its size in bytes.
pub(super) fn open_file(path: &Path, read_only: bool) -> Result<(File, u64), DiskError> {
    let host = |action| move |source| DiskError::Host { path: path.to_owned(), action, source };
    // Looked at first: opening a pipe would wait for its other end.
    let metadata = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DiskError::Missing(path.to_owned()));
        }
        metadata => metadata.map_err(host("open it"))?,
    };
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(DiskError::NotADisk(path.to_owned()));
    }
    let action = if read_only { "open it" } else { "open it for writing (read-only may be possible)" };
    let mut file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(host(action))?;
    let size = file.seek(SeekFrom::End(0)).map_err(host("find its size"))?;
    if size == 0 {
        return Err(DiskError::Empty(path.to_owned()));
    }
    Ok((file, size))
}

/// A file type told by the bytes at a fixed place.
struct Magic {
    offset: usize,
    bytes: &'static [u8],
    name: &'static str,
    remedy: &'static str,
}

const CONVERT: &str = "convert it with `qemu-img convert -O qcow2`";
const DECOMPRESS: &str = "decompress it first";
const RAW_IF_MEANT: &str = "name a disk image, or say format=raw if it really is one";

/// What people pass for disks by mistake, or in formats of other monitors.
const FOREIGN: [Magic; 11] = [
    Magic { offset: 0, bytes: b"KDMV", name: "a VMDK disk", remedy: CONVERT },
    Magic { offset: 0, bytes: b"vhdxfile", name: "a VHDX disk", remedy: CONVERT },
    Magic { offset: 0, bytes: b"conectix", name: "a VHD disk", remedy: CONVERT },
    Magic { offset: 0, bytes: b"QED\0", name: "a QED disk", remedy: CONVERT },
    Magic { offset: 64, bytes: &[0x7f, 0x10, 0xda, 0xbe], name: "a VDI disk", remedy: CONVERT },
    Magic { offset: 0, bytes: &[0x1f, 0x8b], name: "a gzip file", remedy: DECOMPRESS },
    Magic { offset: 0, bytes: b"\xfd7zXZ\0", name: "an xz file", remedy: DECOMPRESS },
    Magic { offset: 0, bytes: &[0x28, 0xb5, 0x2f, 0xfd], name: "a zstd file", remedy: DECOMPRESS },
    Magic { offset: 0, bytes: b"BZh", name: "a bzip2 file", remedy: DECOMPRESS },
    Magic { offset: 0, bytes: b"PK\x03\x04", name: "a zip file", remedy: DECOMPRESS },
    Magic { offset: 0, bytes: b"\x7fELF", name: "an ELF file", remedy: RAW_IF_MEANT },
];

/// Tells the format of a file that is a base for others.
pub(super) fn find_format(file: &File, path: &Path) -> Result<Format, DiskError> {
    probe(file, path).map(|probe| probe.format)
}

/// Tells the format from the file's first bytes; raw where nothing else matches.
fn probe(file: &File, path: &Path) -> Result<Probe, DiskError> {
    let mut start = [0; SECTOR_SIZE as usize];
    let length = read_up_to(file, &mut start).map_err(|source| DiskError::Host {
        path: path.to_owned(),
        action: "read it",
        source,
    })?;
    let start = &start[..length];
    if qcow2::is_qcow2(start) {
        return Ok(Probe { format: Format::Qcow2, certain: true });
    }
    let found =
        FOREIGN.iter().find(|magic| start.get(magic.offset..).is_some_and(|s| s.starts_with(magic.bytes)));
    match found {
        Some(&Magic { name, remedy, .. }) => {
            Err(DiskError::Unsupported { path: path.to_owned(), format: name, remedy })
        }
        None => Ok(Probe { format: Format::Raw, certain: false }),
    }
}

/// Reads from the start of the file until the buffer is full or the file ends.
fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => break,
            Ok(bytes) => length += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(content: &[u8]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, content).unwrap();
        open_error(&path)
    }

    fn open_error(path: &Path) -> String {
        let error = DiskOptions::new(path).open().err().expect("the disk opened").to_string();
        assert!(!error.contains('\n'));
        error
    }

    #[test]
    fn what_is_not_a_disk_is_refused_with_advice() {
        assert!(error_of(b"").contains("empty"));
        assert!(error_of(&[1; 1000]).contains("1000 bytes, is not a multiple of 512"));
        assert!(error_of(b"KDMV and so on").contains("VMDK"));
        assert!(error_of(b"\xfd7zXZ\0").contains("decompress"));
        let mut vdi = [0; 1024];
        vdi[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        assert!(error_of(&vdi).contains("VDI"));
        assert!(open_error(Path::new("/")).contains("not a file or block device"));
        assert!(open_error(Path::new("/dev/null")).contains("not a file or block device"));
        assert!(open_error(Path::new("/nonexistent/disk")).contains("no such file"));
    }

    #[test]
    fn named_format_is_not_probed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let mut content = vec![0; 1024];
        content[..4].copy_from_slice(b"QFI\xfb");
        std::fs::write(&path, content).unwrap();
        let options = DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(&path) };
        assert_eq!(options.open().unwrap().size(), 1024);
    }

    #[test]
    fn disk_in_use_is_refused_and_readers_share() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [0; 1024]).unwrap();
        let writable = DiskOptions::new(&path);
        let readable = DiskOptions { read_only: true, ..writable.clone() };
        let first = writable.open().unwrap();
        assert!(matches!(readable.open(), Err(DiskError::InUse { .. })));
        drop(first);
        let _one = readable.open().unwrap();
        let _two = readable.open().unwrap();
        assert!(matches!(writable.open(), Err(DiskError::InUse { .. })));
    }

    #[test]
    fn identity_is_short_and_printable() {
        let mut options = DiskOptions::new("/a/my disk with quite a long name.img");
        assert_eq!(options.identity(), "mydiskwithquitealong");
        options.serial = Some("S1".into());
        assert_eq!(options.identity(), "S1");
    }
}
