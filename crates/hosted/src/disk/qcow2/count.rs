//! Whether a qcow2 file counts the references to its clusters as its tables make them (the qcow2 specification,
//! "Host cluster management").

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::check::{COMPRESSED, Fault, Header, OFFSET, data, fault, read_entries, read_header};
use crate::disk::DiskError;

/// What a check has found in a disk that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Findings {
    /// Clusters with data of the disk's own.
    pub clusters: u64,
    /// Clusters that count as used and aren't: space that is lost, and no harm else.
    pub leaked: u64,
    /// Clusters that are used more often than is counted: a write may damage other data.
    pub uncounted: u64,
}

/// Compares references with counts.
pub fn count(file: &File, path: &Path) -> Result<Findings, DiskError> {
    count_file(file).map_err(|found| fault(found, path))
}

fn count_file(file: &File) -> Result<Findings, Fault> {
    let header = read_header(file)?;
    if header.snapshots != 0 {
        let reason = "it has internal snapshots, whose clusters can't be checked: use `qemu-img check`";
        return Err(Fault::Invalid(reason.into()));
    }
    let mut references = References { cluster_bits: header.cluster_bits, counts: HashMap::new() };
    let clusters = references.follow(file, &header)?;
    let stored = stored_counts(file, &header)?;
    let mut findings = Findings { clusters, ..Findings::default() };
    for (cluster, used) in &references.counts {
        findings.uncounted += u64::from(stored.get(cluster).copied().unwrap_or(0) < *used);
    }
    for (cluster, counted) in &stored {
        findings.leaked += u64::from(*counted > references.counts.get(cluster).copied().unwrap_or(0));
    }
    Ok(findings)
}

/// How often each cluster is used.
struct References {
    cluster_bits: u32,
    counts: HashMap<u64, u64>,
}

impl References {
    fn add(&mut self, bytes: &Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        for cluster in bytes.start >> self.cluster_bits..=(bytes.end - 1) >> self.cluster_bits {
            *self.counts.entry(cluster).or_default() += 1;
        }
    }

    /// Follows all tables; returns the number of clusters with data.
    fn follow(&mut self, file: &File, header: &Header) -> Result<u64, Fault> {
        let size = 1 << self.cluster_bits;
        let mut clusters = 0;
        self.add(&(0..size));
        self.add(&header.l1);
        self.add(&header.refcount_table);
        for block in read_entries(file, &header.refcount_table)?.filter(|block| *block != 0) {
            self.add(&(block..block + size));
        }
        for table in read_entries(file, &header.l1)?.map(|entry| entry & OFFSET).filter(|table| *table != 0) {
            let table = table..table + size;
            self.add(&table);
            for entry in read_entries(file, &table)? {
                let start = match entry {
                    entry if entry & COMPRESSED != 0 => data(entry, self.cluster_bits),
                    // A cluster that reads as zeros may have space kept for it.
                    entry => entry & OFFSET,
                };
                if start == 0 {
                    continue;
                }
                clusters += 1;
                let length = if entry & COMPRESSED != 0 { self.compressed(entry, start) } else { size };
                self.add(&(start..start + length));
            }
        }
        Ok(clusters)
    }

    /// Bytes of a compressed cluster: the rest of its first sector, and as many sectors as its entry says.
    fn compressed(&self, entry: u64, start: u64) -> u64 {
        let shift = 70 - self.cluster_bits;
        let sectors = (entry & !(3 << 62)) >> shift;
        (sectors + 1) * 512 - start % 512
    }
}

/// The counts that the file has, without zeros.
fn stored_counts(file: &File, header: &Header) -> Result<HashMap<u64, u64>, Fault> {
    let bits = 1_u64 << header.refcount_order;
    let per_block = (8 << header.cluster_bits) / bits;
    let mut counts = HashMap::new();
    for (number, block) in (0_u64..).zip(read_entries(file, &header.refcount_table)?) {
        if block == 0 {
            continue;
        }
        let mut bytes = vec![0; 1 << header.cluster_bits];
        file.read_exact_at(&mut bytes, block)?;
        for index in 0..per_block {
            let count = entry_of(&bytes, index, bits);
            if count != 0 {
                counts.insert(number * per_block + index, count);
            }
        }
    }
    Ok(counts)
}

/// The entry of a refcount block: big-endian where it has bytes, from the lowest bit on where it has less.
fn entry_of(block: &[u8], index: u64, bits: u64) -> u64 {
    if bits < 8 {
        let byte = block[(index * bits / 8) as usize];
        return u64::from(byte) >> (index * bits % 8) & ((1 << bits) - 1);
    }
    let size = (bits / 8) as usize;
    let start = index as usize * size;
    block[start..start + size].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
