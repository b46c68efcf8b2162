//! qcow2 disks, through the crate `imago` (the choice: `docs/decisions/0002-disk-formats.md`).
//!
//! Its caches write metadata back on flush, refcounts before the tables that need them: a process that dies
//! leaves at worst clusters that nobody uses, never tables that point to free ones.

mod check;
mod count;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as Storage;
use imago::format::PreallocateMode;
use imago::qcow2::Qcow2 as Driver;
use imago::raw::Raw;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Mapping, StorageOpenOptions,
};
use rvisor_waist::SECTOR_SIZE;

pub use count::{Findings, count};

use super::create::create_file;
use super::image::caught;
use super::options::{find_format, open_file};
use super::{DiskError, Extent, Format, Image, lock, raw};

/// Longest chain of backing files; it also ends a chain that bites its tail.
const MAX_DEPTH: usize = 16;

/// Whether a file that starts with these bytes is qcow2 (or its ancestor qcow).
pub(super) fn is_qcow2(start: &[u8]) -> bool {
    start.starts_with(&check::MAGIC)
}

/// Opens the qcow2 disk in `file`, which is locked, and the files behind it.
pub(super) fn open(file: File, path: &Path, read_only: bool) -> Result<Arc<dyn Image>, DiskError> {
    let clone = file.try_clone();
    let holes =
        clone.map_err(|source| DiskError::Host { path: path.to_owned(), action: "open it", source })?;
    let access = open_layer(file, path, Format::Qcow2, read_only, 0)?;
    Ok(Arc::new(Qcow2 { size: access.size(), read_only, holes, access: RwLock::new(access) }))
}

/// One file of a chain, with all behind it.
fn open_layer(
    file: File,
    path: &Path,
    format: Format,
    read_only: bool,
    depth: usize,
) -> Result<FormatAccess<Storage>, DiskError> {
    let fault = |source: io::Error| DiskError::Qcow2 { path: path.to_owned(), reason: source.to_string() };
    if format == Format::Qcow2 {
        check::check(&file, path)?;
    }
    let options = StorageOpenOptions::new().filename(path).write(!read_only);
    let storage = Storage::from_open_file(file, options).map_err(fault)?;
    match format {
        Format::Raw => {
            let raw = Raw::builder(storage).write(false).open(DenyImplicitOpenGate::default());
            Ok(FormatAccess::new(raw.map_err(fault)?))
        }
        Format::Qcow2 => {
            let mut driver: Driver<Storage> =
                caught(|| Driver::open_image(storage, !read_only)).map_err(fault)?;
            driver.set_data_file(None);
            driver.set_backing(open_backing(&driver, path, depth + 1)?);
            Ok(FormatAccess::new(driver))
        }
    }
}

/// The file that `driver` reads where it has no data of its own: opened read-only, locked as such.
fn open_backing(
    driver: &Driver<Storage>,
    path: &Path,
    depth: usize,
) -> Result<Option<FormatAccess<Storage>>, DiskError> {
    let fault = |reason: String| DiskError::Qcow2 { path: path.to_owned(), reason };
    let Some(name) = driver.implicit_backing_file() else { return Ok(None) };
    if depth > MAX_DEPTH {
        return Err(fault(format!("more than {MAX_DEPTH} backing files behind each other")));
    }
    let backing = path.parent().unwrap_or(Path::new("")).join(name);
    let format = match driver.implicit_backing_format().map(String::as_str) {
        Some(name) => Some(Format::from_name(name).ok_or_else(|| {
            fault(format!("its backing file's format is `{name}`: only raw and qcow2 are supported"))
        })?),
        None => None,
    };
    let (file, _) = open_file(&backing, true)?;
    lock::lock(&file, &backing, true)?;
    let format = match format {
        Some(format) => format,
        None => find_format(&file, &backing)?,
    };
    open_layer(file, &backing, format, true, depth).map(Some)
}

/// Bytes of the disk in a qcow2 file, and the file behind it.
pub(super) fn describe(file: &File, path: &Path) -> Result<(u64, Option<PathBuf>), DiskError> {
    let (size, backing) = check::describe(file, path)?;
    Ok((size, backing.map(|name| path.parent().unwrap_or(Path::new("")).join(name))))
}

/// Changes the size of the disk in `file`, which is locked. What is new reads as zeros.
pub(super) fn resize(file: File, path: &Path, size: u64) -> Result<(), DiskError> {
    let fault = |source: io::Error| DiskError::Host { path: path.to_owned(), action: "resize it", source };
    let mut access = open_layer(file, path, Format::Qcow2, false, 0)?;
    caught(|| {
        access.resize(size, PreallocateMode::Zero)?;
        access.flush()?;
        access.sync()
    })
    .map_err(fault)
}

/// An open qcow2 disk.
struct Qcow2 {
    size: u64,
    read_only: bool,
    /// The file once more, to punch holes into: imago reuses freed clusters but never gives them back.
    holes: File,
    /// Written under the write lock only where clusters are given up: nobody may be using them then.
    access: RwLock<FormatAccess<Storage>>,
}

impl Qcow2 {
    fn access(&self) -> RwLockReadGuard<'_, FormatAccess<Storage>> {
        // A panic inside a discard may leave clusters unused, but no data wrong.
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn access_alone(&self) -> RwLockWriteGuard<'_, FormatAccess<Storage>> {
        self.access.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the host's space behind the range back, so that it reads as zeros or as before. This comes
    /// before the clusters are freed, since a freed cluster may be in use again.
    fn punch(&self, access: &FormatAccess<Storage>, range: &Range<u64>) -> io::Result<()> {
        let mut offset = range.start;
        while offset < range.end {
            let (mapping, length) = access.get_mapping(offset, range.end - offset)?;
            if length == 0 {
                break;
            }
            if let Mapping::Raw { offset, writable: true, .. } = mapping {
                raw::punch_hole(&self.holes, &(offset..offset + length))?;
            }
            offset += length;
        }
        Ok(())
    }

    fn write_zero_data(&self, range: Range<u64>) -> io::Result<()> {
        let access = self.access();
        let zeros = vec![0; ZEROS_BYTES.min(range.end - range.start) as usize];
        let mut offset = range.start;
        while offset < range.end {
            let length = (range.end - offset).min(ZEROS_BYTES);
            access.write(&zeros[..length as usize], offset)?;
            offset += length;
        }
        Ok(())
    }
}

/// Bytes of zeros written at once.
const ZEROS_BYTES: u64 = 1 << 20;

impl Image for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.access().read(buffer, offset)
    }

    fn write_at(&self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        self.access().write(buffer, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let access = self.access();
        access.flush()?;
        access.sync()
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let mut access = self.access_alone();
        self.punch(&access, &range)?;
        match access.discard_to_any(range.start, range.end - range.start) {
            // Version 2 can't free clusters over a backing file, and a discard is a hint.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        let length = range.end - range.start;
        let result = if unmap {
            let mut access = self.access_alone();
            self.punch(&access, &range)?;
            access.discard_to_zero(range.start, length)
        } else {
            self.access().write_zeroes(range.start, length)
        };
        match result {
            // Version 2 has no zero clusters.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zero_data(range),
            result => result,
        }
    }

    fn extent(&self, range: Range<u64>) -> io::Result<(Extent, u64)> {
        let access = self.access();
        let (mapping, length) = access.get_mapping(range.start, range.end - range.start)?;
        // Files from the bottom of the chain up; the last is the disk itself.
        let files = access.inner().collect_storage_dependencies();
        let is_base = |storage| files.len() > 1 && std::ptr::eq(storage, files[0]);
        let extent = match mapping {
            Mapping::Zero { explicit: false, .. } if files.len() == 1 => Extent::Empty,
            Mapping::Zero { .. } => Extent::Zero,
            Mapping::Raw { storage, .. } if is_base(storage) => Extent::Base,
            _ => Extent::Own,
        };
        // Nothing may be left out.
        let length = if length == 0 { range.end - range.start } else { length };
        Ok((extent, length))
    }
}

/// Makes a qcow2 disk at `path` that shows the content of `base` and keeps all changes to itself. `base` is
/// named in it by absolute path and must not change as long as the overlay is used; `format` is the base's,
/// `None` looks at it.
pub fn create_overlay(path: &Path, base: &Path, format: Option<Format>) -> Result<(), DiskError> {
    let (file, _) = open_file(base, true)?;
    lock::lock(&file, base, true)?;
    let format = match format {
        Some(format) => format,
        None => find_format(&file, base)?,
    };
    let size = open_layer(file, base, format, true, 1)?.size();
    if !size.is_multiple_of(SECTOR_SIZE) {
        return Err(DiskError::Unaligned { path: base.to_owned(), size });
    }
    let name = absolute_name(base)?;
    create(path, size, Some((name, format)))
}

/// The same over a qcow2 disk in the same directory, which is named relative to the overlay: both may be moved
/// together.
pub fn create_overlay_beside(path: &Path, base: &str) -> Result<(), DiskError> {
    let base_path = path.parent().unwrap_or(Path::new("")).join(base);
    let (file, _) = open_file(&base_path, true)?;
    let (size, _) = check::describe(&file, &base_path)?;
    create_with(path, size, Some((base.to_owned(), Format::Qcow2)), false)
}

/// Has the qcow2 disk at `path`, which nobody uses, lie over the file `base`. What that has must be what the file
/// before had.
pub fn set_backing(path: &Path, base: &Path) -> Result<(), DiskError> {
    let fault = |source: io::Error| DiskError::Host { path: path.to_owned(), action: "change it", source };
    let (file, _) = open_file(path, false)?;
    lock::lock(&file, path, false)?;
    check::check(&file, path)?;
    let Some(name) = base.to_str() else {
        return Err(DiskError::Qcow2 {
            path: path.to_owned(),
            reason: "its base's name isn't valid Unicode".into(),
        });
    };
    check::set_backing(&file, name).map_err(fault)?;
    file.sync_all().map_err(fault)
}

fn absolute_name(path: &Path) -> Result<String, DiskError> {
    let host = |source| DiskError::Host { path: path.to_owned(), action: "find its absolute path", source };
    path.canonicalize().map_err(host)?.into_os_string().into_string().map_err(|_| DiskError::Qcow2 {
        path: path.to_owned(),
        reason: "its path is not valid Unicode, which qcow2 needs: rename it".into(),
    })
}

/// Makes a qcow2 file of `size` bytes over the backing file named; leaves none if that fails.
pub(super) fn create(path: &Path, size: u64, backing: Option<(String, Format)>) -> Result<(), DiskError> {
    create_with(path, size, backing, true)
}

/// The same; durable at once, or with the guest's first flush.
fn create_with(
    path: &Path,
    size: u64,
    backing: Option<(String, Format)>,
    durable: bool,
) -> Result<(), DiskError> {
    create_file(path, |file| {
        let synced = file.try_clone()?;
        let storage = Storage::from_open_file(file, StorageOpenOptions::new().filename(path).write(true))?;
        let mut builder = Driver::<Storage>::create_builder(storage).size(size);
        if let Some((name, format)) = backing {
            builder = builder.backing(name, format.name().to_owned());
        }
        builder.create()?;
        if durable { synced.sync_all() } else { Ok(()) }
    })
}

#[cfg(test)]
mod tests;
