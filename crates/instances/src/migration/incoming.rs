//! Writes down what a source sends of a machine: memory into a file, disks into disks of this host's own making. No file
//! of the source's is opened here.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rvisor_hosted::changes::Copier;
use rvisor_hosted::disk::Image;
use rvisor_waist::{PAGE_SIZE, SECTOR_SIZE};

use super::wire::{self, Message};

fn nonsense(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A machine that is arriving.
pub(super) struct Incoming<C> {
    pages: u64,
    /// Bytes of each disk.
    disks: Vec<u64>,
    to: C,
    /// Harts and devices, once they have come.
    pub state: Vec<u8>,
    /// What the host's end has to know.
    pub host: Vec<u8>,
}

impl<C: Copier> Incoming<C> {
    /// One with so many pages of memory, and disks of these sizes.
    pub fn new(pages: u64, disks: Vec<u64>, to: C) -> Self {
        Self { pages, disks, to, state: Vec::new(), host: Vec::new() }
    }

    /// Takes a part of it.
    pub fn take(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Memory(first, bytes) => {
                self.check_pages(first, bytes.len() as u64 / PAGE_SIZE)?;
                self.to.memory(first, &bytes)
            }
            Message::ZeroMemory(first, pages) => {
                self.check_pages(first, pages)?;
                self.to.zero_memory(first, pages)
            }
            Message::Disk(disk, offset, bytes) => {
                let range = self.check_disk(disk, offset, offset.checked_add(bytes.len() as u64))?;
                self.to.disk(disk.into(), range.start, &bytes)
            }
            Message::ZeroDisk(disk, start, end) => {
                let range = self.check_disk(disk, start, Some(end))?;
                self.to.zero_disk(disk.into(), range)
            }
            Message::State(bytes) => {
                self.state = bytes;
                Ok(())
            }
            Message::Host(bytes) => {
                self.host = bytes;
                Ok(())
            }
            _ => Err(nonsense("it sends what doesn't belong here")),
        }
    }

    /// Where it is written.
    pub fn files(&self) -> &C {
        &self.to
    }

    fn check_pages(&self, first: u64, pages: u64) -> io::Result<()> {
        match first.checked_add(pages) {
            Some(end) if end <= self.pages => Ok(()),
            _ => Err(nonsense("it sends more memory than the machine has")),
        }
    }

    fn check_disk(&self, disk: u8, start: u64, end: Option<u64>) -> io::Result<Range<u64>> {
        let size = self.disks.get(usize::from(disk)).copied().unwrap_or_default();
        let is_aligned = |offset: u64| offset.is_multiple_of(SECTOR_SIZE);
        match end {
            Some(end) if start < end && end <= size && is_aligned(start) && is_aligned(end) => Ok(start..end),
            _ => Err(nonsense("it sends more than the machine's disks have")),
        }
    }
}

/// A machine's memory and disks on this host.
pub(super) struct Files {
    pub memory: File,
    pub disks: Vec<Arc<dyn Image>>,
}

impl Files {
    /// Makes the disks durable.
    pub fn sync(&self) -> io::Result<()> {
        self.disks.iter().try_for_each(|disk| disk.flush())
    }
}

impl Copier for Files {
    fn memory(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_all_at(bytes, first * PAGE_SIZE)
    }

    fn zero_memory(&mut self, first: u64, pages: u64) -> io::Result<()> {
        const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        if pages == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.memory, flags, first * PAGE_SIZE, pages * PAGE_SIZE).is_ok() {
            return Ok(());
        }
        (first..first + pages).try_for_each(|page| self.memory.write_all_at(&ZEROS, page * PAGE_SIZE))
    }

    fn disk(&mut self, disk: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disks[disk].write_at(offset, bytes)
    }

    fn zero_disk(&mut self, disk: usize, range: Range<u64>) -> io::Result<()> {
        self.disks[disk].write_zeroes(range, true)
    }
}

/// Reads a stream as a target does, and checks that nothing in it leads out of a small machine: for fuzzing.
pub fn check_stream(mut bytes: &[u8]) {
    const PAGES: u64 = 100;
    const DISK: u64 = 1 << 20;
    struct Check;
    impl Copier for Check {
        fn memory(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
            assert!(first * PAGE_SIZE + bytes.len() as u64 <= PAGES * PAGE_SIZE && !bytes.is_empty());
            Ok(())
        }

        fn zero_memory(&mut self, first: u64, pages: u64) -> io::Result<()> {
            assert!(first + pages <= PAGES);
            Ok(())
        }

        fn disk(&mut self, disk: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
            assert!(disk == 0 && offset + bytes.len() as u64 <= DISK);
            Ok(())
        }

        fn zero_disk(&mut self, disk: usize, range: Range<u64>) -> io::Result<()> {
            assert!(disk == 0 && range.start < range.end && range.end <= DISK);
            Ok(())
        }
    }
    let mut incoming = Incoming::new(PAGES, vec![DISK], Check);
    while let Ok((kind, payload)) = wire::read(&mut bytes) {
        if let Some(message) = Message::decode(kind, &payload) {
            let (kind, payload) = message.encode();
            assert_eq!(Message::decode(kind, &payload).as_ref(), Some(&message));
            let _ = incoming.take(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rvisor_hosted::disk::{DiskOptions, Format, create_empty};

    const PAGE: usize = PAGE_SIZE as usize;

    #[test]
    fn what_comes_is_where_it_belongs_and_nothing_is_anywhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        create_empty(&path, Format::Qcow2, 1 << 20).unwrap();
        let disk = DiskOptions::new(&path).open().unwrap();
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(4 * PAGE_SIZE).unwrap();
        let files = Files { memory: memory.try_clone().unwrap(), disks: vec![Arc::clone(&disk)] };
        let mut incoming = Incoming::new(4, vec![1 << 20], files);
        let mut take = |message| incoming.take(message);
        take(Message::Memory(1, vec![1; 2 * PAGE])).unwrap();
        take(Message::ZeroMemory(2, 1)).unwrap();
        take(Message::Disk(0, 512, vec![2; 1024])).unwrap();
        take(Message::ZeroDisk(0, 1024, 1536)).unwrap();
        let wrong = [
            Message::Memory(3, vec![1; 2 * PAGE]),
            Message::Memory(u64::MAX, vec![1; PAGE]),
            Message::ZeroMemory(u64::MAX, 2),
            Message::ZeroMemory(0, 5),
            Message::Disk(1, 0, vec![1; 512]),
            Message::Disk(0, (1 << 20) - 512, vec![1; 1024]),
            Message::Disk(0, 5, vec![1; 512]),
            Message::Disk(0, u64::MAX - 511, vec![1; 512]),
            Message::ZeroDisk(0, 512, 512),
            Message::ZeroDisk(0, 0, u64::MAX),
            Message::Ready,
        ];
        for message in wrong {
            assert!(take(message.clone()).is_err(), "{message:?}");
        }
        let mut pages = vec![0; 4 * PAGE];
        memory.read_exact_at(&mut pages, 0).unwrap();
        assert_eq!([0, 1, 2, 3].map(|page| pages[page * PAGE + 7]), [0, 1, 0, 0]);
        let mut sectors = [0; 2048];
        disk.read_at(0, &mut sectors).unwrap();
        assert_eq!([0, 512, 1024, 1536].map(|at| sectors[at]), [0, 2, 0, 0]);
        assert_eq!(memory.metadata().unwrap().len(), 4 * PAGE_SIZE);
    }
}
