//! The interpreter's own RAM: the guest's as it was at the start of a slice, and how to get back there.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread};
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange, PAGE_SIZE, Word};

use crate::HostMemory;

const PAGE: usize = PAGE_SIZE as usize;
/// Bytes that are copied and compared at once where there are many.
const CHUNK: usize = 1 << 18;

/// A page, and what it held at the start of the slice.
struct Saved {
    page: GuestPhysical,
    bytes: Box<[u8]>,
}

/// A second RAM.
pub struct Twin {
    memory: HostMemory,
    /// The slice in which each page was written to last.
    written: Box<[AtomicU32]>,
    slice: AtomicU32,
    saved: Mutex<Vec<Saved>>,
}

impl Twin {
    /// A copy of `memory`.
    pub fn new(memory: &HostMemory) -> io::Result<Self> {
        let range = memory.range();
        let size = range.end.0 - range.start.0;
        let twin = Self {
            memory: HostMemory::in_file(range.start, size)?,
            written: (0..size.div_ceil(PAGE_SIZE)).map(|_| AtomicU32::new(0)).collect(),
            slice: AtomicU32::new(1),
            saved: Mutex::default(),
        };
        twin.copy_all(memory)?;
        Ok(twin)
    }

    fn saved(&self) -> MutexGuard<'_, Vec<Saved>> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the bytes here those of `memory`.
    pub fn copy(&self, memory: &HostMemory, address: GuestPhysical, length: u64) {
        let mut bytes = vec![0; (length as usize).min(CHUNK)];
        for start in (0..length).step_by(CHUNK) {
            let part = &mut bytes[..(length - start).min(CHUNK as u64) as usize];
            let at = address.offset(start);
            // Writes that were refused were noted too.
            if memory.read(at, part).is_ok() {
                let _ = self.memory.write(at, part);
            }
        }
    }

    fn copy_all(&self, memory: &HostMemory) -> io::Result<()> {
        let start = memory.range().start;
        for data in data(memory)? {
            self.copy(memory, start.offset(data.start), data.end - data.start);
        }
        Ok(())
    }

    /// Starts a slice: what is written from here on can be undone.
    pub fn start_slice(&self) {
        self.saved().clear();
        if self.slice.fetch_add(1, Ordering::Relaxed) == u32::MAX {
            self.slice.store(1, Ordering::Relaxed);
            self.written.iter().for_each(|page| page.store(0, Ordering::Relaxed));
        }
    }

    /// Goes back to the start of the slice, and takes `memory` there.
    pub fn undo(&self, memory: &HostMemory) -> io::Result<()> {
        for Saved { page, bytes } in &*self.saved() {
            let _ = self.memory.write(*page, bytes);
        }
        self.start_slice();
        while let Some(address) = self.difference_anywhere(memory)? {
            let (page, mut bytes) = (address.page(), [0; PAGE]);
            if self.memory.read(page, &mut bytes).and_then(|()| memory.write(page, &bytes)).is_err() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        Ok(())
    }

    /// The pages written in this slice.
    pub fn pages(&self) -> Vec<GuestPhysical> {
        self.saved().iter().map(|saved| saved.page).collect()
    }

    /// Makes the pages written in this slice the same in `memory`.
    pub fn copy_slice_to(&self, memory: &HostMemory) {
        for Saved { page, bytes } in &*self.saved() {
            let mut bytes = vec![0; bytes.len()];
            if self.memory.read(*page, &mut bytes).is_ok() {
                let _ = memory.write(*page, &bytes);
            }
        }
    }

    /// The first byte written in this slice that `memory` has otherwise.
    pub fn difference(&self, memory: &HostMemory) -> Option<GuestPhysical> {
        let (mut ours, mut others) = ([0; PAGE], [0; PAGE]);
        self.saved().iter().find_map(|&Saved { page, ref bytes }| {
            let length = bytes.len();
            let read = self.memory.read(page, &mut ours[..length]);
            read.and_then(|()| memory.read(page, &mut others[..length])).ok()?;
            first_difference(&ours[..length], &others[..length]).map(|at| page.offset(at as u64))
        })
    }

    /// The first byte of all that `memory` has otherwise.
    pub fn difference_anywhere(&self, memory: &HostMemory) -> io::Result<Option<GuestPhysical>> {
        let (mut ours, mut others) = (vec![0; CHUNK], vec![0; CHUNK]);
        for file in [&self.memory, memory] {
            for data in data(file)? {
                for start in data.clone().step_by(CHUNK) {
                    let length = (data.end - start).min(CHUNK as u64) as usize;
                    read_file(&self.memory, start, &mut ours[..length])?;
                    read_file(memory, start, &mut others[..length])?;
                    if let Some(at) = first_difference(&ours[..length], &others[..length]) {
                        return Ok(Some(memory.range().start.offset(start + at as u64)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// A page is about to be written to.
    #[inline(always)]
    fn note(&self, address: GuestPhysical, length: u64) {
        self.note_page(address);
        if address.page_offset() + length > PAGE_SIZE {
            let mut page = address.page().offset(PAGE_SIZE);
            while page.0 < address.0.saturating_add(length) {
                self.note_page(page);
                page = page.offset(PAGE_SIZE);
            }
        }
    }

    #[inline(always)]
    fn note_page(&self, address: GuestPhysical) {
        let index = address.page().0.wrapping_sub(self.memory.range().start.0) / PAGE_SIZE;
        let slice = self.slice.load(Ordering::Relaxed);
        if let Some(written) = self.written.get(index as usize)
            && written.load(Ordering::Relaxed) != slice
        {
            written.store(slice, Ordering::Relaxed);
            self.save(address.page());
        }
    }

    #[cold]
    fn save(&self, page: GuestPhysical) {
        let mut bytes = vec![0; (self.memory.range().end.0 - page.0).min(PAGE_SIZE) as usize];
        if self.memory.read(page, &mut bytes).is_ok() {
            self.saved().push(Saved { page, bytes: bytes.into() });
        }
    }
}

/// Offsets that the host keeps anything for; the rest is zero.
fn data(memory: &HostMemory) -> io::Result<Vec<Range<u64>>> {
    let file = memory.file()?;
    let mut ranges = Vec::new();
    let mut end = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(end)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(ranges),
            Err(error) => return Err(error.into()),
        };
        end = seek(file, SeekFrom::Hole(start))?;
        ranges.push(start..end);
    }
}

/// Reads without making the host keep what is zero.
fn read_file(memory: &HostMemory, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    let file = memory.file()?;
    let mut done = 0;
    while done < bytes.len() {
        match pread(file, &mut bytes[done..], offset + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b { None } else { a.iter().zip(b).position(|(a, b)| a != b) }
}

impl GuestMemory for Twin {
    fn range(&self) -> Range<GuestPhysical> {
        self.memory.range()
    }

    #[inline(always)]
    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        self.memory.load(address)
    }

    #[inline(always)]
    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        self.note(address, T::SIZE);
        self.memory.store(address, value)
    }

    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        self.note(address, 8);
        self.memory.compare_exchange(address, width, expected, new)
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        self.note(address, 16);
        self.memory.compare_exchange_quad(address, expected, new)
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        self.memory.read(address, buffer)
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        self.note(address, buffer.len() as u64);
        self.memory.write(address, buffer)
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        self.note(address, length);
        self.memory.zero(address, length)
    }
}
