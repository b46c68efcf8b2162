//! Copies files that may be in use, sparse ones as such: once while they change, then what has changed since.
//!
//! File systems that share blocks between files do it at once, and whenever they are asked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, ioctl_ficlone, seek};

use crate::error::{Context, Result};

/// Bytes compared at a time.
const CHUNK: u64 = 1 << 20;
/// Bytes written at least: a block of the file system.
const BLOCK: usize = 4096;

/// A copy being made.
pub(crate) struct FileCopy {
    from: File,
    to: File,
}

impl FileCopy {
    /// A new file that is to be a copy of another.
    pub fn new(from: &Path, to: &Path) -> Result<Self> {
        let source = File::open(from).context("open", from)?;
        let options = File::options().read(true).write(true).create_new(true).clone();
        Ok(Self { from: source, to: options.open(to).context("create", to)? })
    }

    /// Makes it the same as the original is now. Returns how many bytes had to be written.
    pub fn update(&mut self) -> io::Result<u64> {
        if ioctl_ficlone(&self.to, &self.from).is_ok() {
            return Ok(0);
        }
        let length = self.from.metadata()?.len();
        self.to.set_len(length)?;
        let (mut now, mut before) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
        let (mut offset, mut changed) = (0, 0);
        while let Some(start) = self.next_data(offset, length)? {
            let size = (CHUNK - start % CHUNK).min(length - start) as usize;
            self.from.read_exact_at(&mut now[..size], start)?;
            self.to.read_exact_at(&mut before[..size], start)?;
            for (index, block) in now[..size].chunks(BLOCK).enumerate() {
                let at = index * BLOCK;
                if *block != before[at..at + block.len()] {
                    self.to.write_all_at(block, start + at as u64)?;
                    changed += block.len() as u64;
                }
            }
            offset = start + size as u64;
        }
        Ok(changed)
    }

    /// Where either file has data next.
    fn next_data(&self, offset: u64, length: u64) -> io::Result<Option<u64>> {
        let mut next = None;
        for file in [&self.from, &self.to] {
            if offset < length {
                match seek(file, SeekFrom::Data(offset)) {
                    Err(rustix::io::Errno::NXIO) => {}
                    found => next = Some(next.unwrap_or(u64::MAX).min(found?)),
                }
            }
        }
        // In whole blocks, so that what is compared is aligned alike each time.
        Ok(next.filter(|&start| start < length).map(|start| (start - start % BLOCK as u64).max(offset)))
    }

    /// Makes it durable.
    pub fn sync(&self) -> io::Result<()> {
        self.to.sync_all()
    }
}

/// Copies a file that nobody changes.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut copy = FileCopy::new(from, to)?;
    copy.update().and_then(|_| copy.sync()).context("copy to", to)
}

/// Makes another name for a file that never changes, or where that can't be, a copy.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error).context("link", from),
        Err(_) => copy(from, to),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn copy_follows_its_original_and_stays_sparse() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let original = File::create(&from).unwrap();
        original.set_len(64 << 20).unwrap();
        original.write_all_at(b"one", 5 << 20).unwrap();
        original.write_all_at(b"end", (64 << 20) - 3).unwrap();
        let mut copy = FileCopy::new(&from, &to).unwrap();
        copy.update().unwrap();
        let same = || std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap();
        assert!(same());
        assert!(std::fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
        original.write_all_at(b"two", 5 << 20).unwrap();
        original.write_all_at(b"new", 30 << 20).unwrap();
        copy.update().unwrap();
        assert!(same());
        original.set_len(100).unwrap();
        copy.update().unwrap();
        assert!(same());
        original.set_len(9 << 20).unwrap();
        original.write_all_at(b"more", 8 << 20).unwrap();
        copy.update().unwrap();
        assert!(same());
        assert!(FileCopy::new(&from, &to).is_err(), "nothing is overwritten");
    }
}
