//! What must hold of a qcow2 file before it is used: supported features, and tables and data inside the file.
//!
//! Layout and field names: the qcow2 specification, "Header", "Cluster mapping".

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rvisor_waist::SECTOR_SIZE;

use crate::disk::DiskError;

/// First bytes of a qcow2 file.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes in the header of version 2, and in the part of version 3 read here.
const HEADER_V2: usize = 72;
const HEADER_V3: usize = 104;

/// Header extension: names of features, in entries of this many bytes.
const FEATURE_NAMES: u32 = 0x6803_f857;
const FEATURE_NAME_ENTRY: u32 = 48;

/// Longest name of a backing file.
const LONGEST_NAME: u64 = 1023;

/// Most entries in an L1 table (32 MiB of them, QEMU's limit).
const MAX_L1_ENTRIES: u64 = 4 << 20;

/// Bits of an L1 or standard L2 entry that are a host offset.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// L2 entry: the cluster is compressed.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// L2 entry: the cluster reads as zeros.
const ZERO: u64 = 1;

/// Meaning of the incompatible features' bits; none of them is supported.
const INCOMPATIBLE: [&str; 5] = [
    "it was not closed properly by another program: repair it with `qemu-img check -r all`",
    "it is marked corrupt: repair it with `qemu-img check -r all`",
    "its data is in an external file, which is not supported: convert it with `qemu-img convert -O qcow2`",
    "it is compressed with zstd, which is not supported: convert it with `qemu-img convert -O qcow2`",
    "it has extended L2 entries, which are not supported: convert it with `qemu-img convert -O qcow2`",
];

/// Why a file is refused.
pub(super) enum Fault {
    Truncated,
    Invalid(String),
    Host(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Host(error),
        }
    }
}

/// Checks the qcow2 file `file`, which is at `path`.
pub(super) fn check(file: &File, path: &Path) -> Result<(), DiskError> {
    check_file(file).map_err(|found| fault(found, path))
}

/// The error that a fault in the file at `path` is.
pub(super) fn fault(fault: Fault, path: &Path) -> DiskError {
    let path = path.to_owned();
    match fault {
        Fault::Truncated => DiskError::Truncated(path),
        Fault::Invalid(reason) => DiskError::Qcow2 { path, reason },
        Fault::Host(source) => DiskError::Host { path, action: "read it", source },
    }
}

/// Bytes of the disk in a file, and the name of the file behind it.
pub(super) fn describe(file: &File, path: &Path) -> Result<(u64, Option<String>), DiskError> {
    let read = || {
        let header = read_header(file)?;
        let Range { start, end } = header.backing;
        let mut name = vec![0; (end - start) as usize];
        file.read_exact_at(&mut name, start)?;
        let name = String::from_utf8_lossy(&name).into_owned();
        Ok((header.size, (!name.is_empty()).then_some(name)))
    };
    read().map_err(|found| fault(found, path))
}

/// Gives the file behind a disk that has one another name. It stays where it is in the first cluster, of which it is the
/// last part.
pub(super) fn set_backing(file: &File, name: &str) -> io::Result<()> {
    const SIZE_OFFSET: u64 = 16;
    let header = read_header(file).map_err(|found| match found {
        Fault::Host(error) => error,
        _ => io::ErrorKind::InvalidData.into(),
    })?;
    let start = header.backing.start;
    let end = start + name.len() as u64;
    if header.backing.is_empty() || name.len() as u64 > LONGEST_NAME || end > 1 << header.cluster_bits {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no room for the name of its base"));
    }
    file.write_all_at(name.as_bytes(), start)?;
    file.write_all_at(&(name.len() as u32).to_be_bytes(), SIZE_OFFSET)
}

/// The part of the header that the checks need.
pub(super) struct Header {
    /// Bytes of the disk.
    pub size: u64,
    pub cluster_bits: u32,
    pub l1: Range<u64>,
    pub refcount_table: Range<u64>,
    /// Two to this many bits is a refcount.
    pub refcount_order: u32,
    /// Number of internal snapshots.
    pub snapshots: u32,
    /// Where the backing file's name is; empty where there is none.
    pub backing: Range<u64>,
}

fn check_file(file: &File) -> Result<(), Fault> {
    let length = file.metadata()?.len();
    let header = read_header(file)?;
    if length < header.refcount_table.end || length < header.l1.end {
        return Err(Fault::Truncated);
    }
    let cluster = 1 << header.cluster_bits;
    for entry in read_entries(file, &header.l1)? {
        let table = entry & OFFSET;
        if table == 0 {
            continue;
        }
        let table = table..table + cluster;
        if length < table.end
            || read_entries(file, &table)?.any(|entry| data(entry, header.cluster_bits) >= length)
        {
            return Err(Fault::Truncated);
        }
    }
    Ok(())
}

/// Where in the file the data of an L2 entry begins; 0 if it has none.
pub(super) fn data(entry: u64, cluster_bits: u32) -> u64 {
    if entry & COMPRESSED != 0 {
        entry & ((1 << (70 - cluster_bits)) - 1)
    } else if entry & ZERO != 0 {
        0
    } else {
        entry & OFFSET
    }
}

pub(super) fn read_entries(file: &File, range: &Range<u64>) -> io::Result<impl Iterator<Item = u64> + use<>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    let entries = bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry));
    Ok(entries.collect::<Vec<_>>().into_iter())
}

pub(super) fn read_header(file: &File) -> Result<Header, Fault> {
    let invalid = |reason: &str| Fault::Invalid(reason.into());
    let mut bytes = [0; HEADER_V3];
    file.read_exact_at(&mut bytes[..HEADER_V2], 0)?;
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
    let double = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    if bytes[..4] != MAGIC {
        return Err(invalid("it is not a qcow2 file: say format=raw if it is a raw disk"));
    }
    let (version, cluster_bits, size) = (word(4), word(20), double(24));
    let (crypt_method, l1_size, l1_offset) = (word(32), u64::from(word(36)), double(40));
    let (refcount_offset, refcount_clusters) = (double(48), u64::from(word(56)));
    match version {
        2 => {}
        3 => check_features(file)?,
        _ => return Err(Fault::Invalid(format!("it is qcow version {version}: only 2 and 3 are supported"))),
    }
    if crypt_method != 0 {
        return Err(invalid("it is encrypted, which is not supported: convert it with `qemu-img convert`"));
    }
    if !(9..=21).contains(&cluster_bits) {
        return Err(invalid("its qcow2 header is damaged (cluster size): fetch or copy it again"));
    }
    if size == 0 || !size.is_multiple_of(SECTOR_SIZE) {
        return Err(Fault::Invalid(format!(
            "the disk in it has {size} bytes, not a positive multiple of 512: use `qemu-img resize`"
        )));
    }
    if version == 3 {
        check_extensions(file, 1 << cluster_bits)?;
    }
    let (backing_offset, backing_length) = (double(8), u64::from(word(16)));
    let mut order = [0, 0, 0, 4];
    if version == 3 {
        file.read_exact_at(&mut order, 96)?;
    }
    let refcount_order = u32::from_be_bytes(order);
    if backing_length > LONGEST_NAME || refcount_order > 6 {
        return Err(invalid("its qcow2 header is damaged: fetch or copy it again"));
    }
    let covered_by_l2 = 1u64 << (2 * cluster_bits - 3);
    let range = |start: u64, bytes: Option<u64>| Some(start..start.checked_add(bytes?)?);
    let l1 = range(l1_offset, l1_size.checked_mul(8));
    let refcount_table = range(refcount_offset, refcount_clusters.checked_mul(1 << cluster_bits));
    match (l1, refcount_table) {
        (Some(l1), Some(refcount_table))
            if l1_size >= size.div_ceil(covered_by_l2) && l1_size <= MAX_L1_ENTRIES =>
        {
            let end = if backing_offset == 0 { 0 } else { backing_offset.saturating_add(backing_length) };
            let (snapshots, backing) = (word(60), backing_offset..end);
            Ok(Header { size, cluster_bits, l1, refcount_table, refcount_order, snapshots, backing })
        }
        _ => Err(invalid("its qcow2 header is damaged (tables): fetch or copy it again")),
    }
}

/// Refuses what the header of version 3 asks for beyond version 2.
fn check_features(file: &File) -> Result<(), Fault> {
    let mut features = [0; 8];
    file.read_exact_at(&mut features, HEADER_V2 as u64)?;
    let features = u64::from_be_bytes(features);
    match features.trailing_zeros() as usize {
        64 => Ok(()),
        bit => Err(Fault::Invalid(match INCOMPATIBLE.get(bit) {
            Some(reason) => (*reason).into(),
            None => format!("it needs qcow2 feature {bit}, which is not supported"),
        })),
    }
}

/// Checks the list of header extensions, which lies in the first cluster.
fn check_extensions(file: &File, cluster: u64) -> Result<(), Fault> {
    let damaged =
        || Fault::Invalid("its qcow2 header is damaged (extensions): fetch or copy it again".into());
    let word = |at: u64| -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at)?;
        Ok(u32::from_be_bytes(bytes))
    };
    // The header's length is its last field here.
    let mut at = u64::from(word(HEADER_V3 as u64 - 4)?);
    while at + 8 <= cluster {
        let (kind, length) = (word(at)?, word(at + 4)?);
        match kind {
            0 => return Ok(()),
            FEATURE_NAMES if !length.is_multiple_of(FEATURE_NAME_ENTRY) => return Err(damaged()),
            _ => at += 8 + u64::from(length).next_multiple_of(8),
        }
    }
    Err(damaged())
}
