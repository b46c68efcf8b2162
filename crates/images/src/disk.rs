//! The blank disk that the builder VM turns into an image's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;

use crate::error::{Error, IoContext, Result};

/// Bytes in a sector.
const SECTOR: u64 = 512;
/// Space before the partition and after it, in bytes: the tables, and alignment for any disk.
const MARGIN: u64 = 1 << 20;
/// The attribute by which U-Boot and others find the partition to boot from (UEFI, "Legacy BIOS Bootable").
const BOOTABLE: u64 = 1 << 2;

/// Makes a sparse file of `size` bytes with one bootable Linux partition.
pub fn create(path: &Path, size: u64) -> Result<()> {
    let file = File::options().read(true).write(true).create_new(true).open(path).context("create", path)?;
    file.set_len(size).context("create", path)?;
    write_tables(file, size / SECTOR).map_err(|error| Error::malformed(path.display().to_string(), error))
}

fn write_tables(mut file: File, sectors: u64) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(size).overwrite_lba0(&mut file)?;
    let config = gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut disk = config.create_from_device(file, None)?;
    disk.update_partitions(BTreeMap::new())?;
    let (first, length) = (MARGIN / SECTOR, sectors - 2 * MARGIN / SECTOR);
    disk.add_partition_at("root", 1, first, length, partition_types::LINUX_FS, BOOTABLE)?;
    let mut file = disk.write()?;
    file.seek(SeekFrom::Start(0))?;
    file.flush()?;
    Ok(())
}

/// Makes a blank sparse file.
pub fn blank(path: &Path, size: u64) -> Result<()> {
    let file = File::options().write(true).create_new(true).open(path).context("create", path)?;
    file.set_len(size).context("create", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_has_one_bootable_partition() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        create(&path, 64 << 20).unwrap();
        let disk = gpt::disk::read_disk(&path).unwrap();
        let partitions: Vec<_> = disk.partitions().values().filter(|partition| partition.is_used()).collect();
        assert_eq!(partitions.len(), 1);
        assert_eq!((partitions[0].first_lba, partitions[0].last_lba), (2048, (64 << 11) - 2049));
        assert_eq!(partitions[0].flags, BOOTABLE);
        assert!(create(&path, 64 << 20).is_err(), "an existing disk isn't overwritten");
    }
}
