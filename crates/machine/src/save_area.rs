//! A guest's *save area*: the part of the physical disk in which the type-1 home keeps the guest's state while the guest is
//! off.
//!
//! ```text
//! 0      header      magic "RVSAVEAR", version, CRC-32 of the rest; sequence number, origin;
//!                    whether a state is kept, and then lengths and CRC-32 of state and memory
//! 4096   header      the other one of the two
//! 8192   state       as in a snapshot
//!        memory      runs as in a snapshot, at the next multiple of 512
//! ```
//!
//! All numbers are little-endian. Of the two headers the one with the larger sequence number counts; the other is the next to
//! be written, so that a cut of the power leaves one or the other. Before anything else in the area changes, the header says
//! that no state is kept.
//!
//! A state can be used once: its guest goes on, and so does the guest's disk. That is noted before the guest runs. The
//! *origin* is the state in the bundle that all began with (see [`id`](crate::persist::id)), or 0; a bundle's state is used
//! once as well.

use alloc::vec::Vec;

use rvisor_waist::{PAGE_SIZE, SECTOR_SIZE, StateError};
use thiserror::Error;

use crate::persist::{MemoryRun, MemoryRuns, MemoryWriter, SavedState};

const MAGIC: &[u8; 8] = b"RVSAVEAR";
const VERSION: u32 = 1;
const PAGE: usize = PAGE_SIZE as usize;
const SECTOR: usize = SECTOR_SIZE as usize;
/// Where the second header is.
const SECOND: u64 = 4096;
/// Where the state begins.
const STATE: u64 = 8192;
/// Room for a state; one with 64 harts has a tenth of it.
const MOST_STATE: u64 = 4 << 20;
/// Bytes that are written at once.
const PIECE: usize = 64 << 10;

/// Bytes that an area must have for a guest with so much memory, whatever is in it.
#[must_use]
pub const fn size_for(memory: u64) -> u64 {
    // Runs of pages that can't be compressed have a header each.
    STATE + MOST_STATE + memory + memory / PAGE_SIZE + 64 * 1024
}

/// Why an area can't be used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SaveError {
    /// The disk doesn't do it.
    #[error("the disk can't read or write its save area")]
    Disk,
    /// There is no room.
    #[error("its save area is too small; give it more in the bundle's description")]
    TooSmall,
    /// Nothing is kept.
    #[error("its save area keeps no state")]
    Nothing,
    /// Another version of the format.
    #[error("its save area has version {0}, this Rvisor's is {VERSION}")]
    Version(u32),
    /// Checksums that don't fit.
    #[error("what its save area keeps is damaged")]
    Damaged,
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Where an area is: a part of a disk. Offsets and lengths are multiples of 512 bytes.
pub trait Storage {
    /// Fills the buffer.
    ///
    /// # Errors
    /// [`SaveError::Disk`], mostly.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SaveError>;
    /// Writes the bytes.
    ///
    /// # Errors
    /// The same.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SaveError>;
    /// Makes all that was written durable.
    ///
    /// # Errors
    /// The same.
    fn flush(&mut self) -> Result<(), SaveError>;
}

/// Length and checksum of something.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Extent {
    length: u64,
    sum: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    sequence: u64,
    origin: u64,
    /// State and memory.
    kept: Option<[Extent; 2]>,
}

impl Header {
    fn encode(&self) -> [u8; SECTOR] {
        let [state, memory] = self.kept.unwrap_or_default();
        let (mut bytes, mut at) = ([0; SECTOR], 16);
        let kept = self.kept.is_some().into();
        for number in [
            self.sequence,
            self.origin,
            kept,
            state.length,
            state.sum.into(),
            memory.length,
            memory.sum.into(),
        ] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            at += 8;
        }
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let sum = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` if there is none, or half of one.
    fn decode(bytes: &[u8; SECTOR]) -> Result<Option<Self>, SaveError> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        if bytes[..8] != *MAGIC || word(1) >> 32 != u64::from(crc32fast::hash(&bytes[16..])) {
            return Ok(None);
        }
        if word(1) as u32 != VERSION {
            return Err(SaveError::Version(word(1) as u32));
        }
        let extent = |index| Extent { length: word(index), sum: word(index + 1) as u32 };
        let kept = (word(4) != 0).then(|| [extent(5), extent(7)]);
        Ok(Some(Self { sequence: word(2), origin: word(3), kept }))
    }
}

/// What an area says of its guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// What the guest began with.
    pub origin: u64,
    /// Whether its state is kept.
    pub is_kept: bool,
}

/// A save area.
pub struct SaveArea<S> {
    storage: S,
    size: u64,
    latest: Option<Header>,
    /// Where the next header goes.
    next: u64,
}

impl<S: Storage> SaveArea<S> {
    /// Looks at an area of `size` bytes.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn open(mut storage: S, size: u64) -> Result<Self, SaveError> {
        if size < STATE {
            return Err(SaveError::TooSmall);
        }
        let mut header = |offset| {
            let mut bytes = [0; SECTOR];
            storage.read(offset, &mut bytes)?;
            Header::decode(&bytes)
        };
        let (first, second) = (header(0)?, header(SECOND)?);
        let age = |header: &Option<Header>| header.map_or(0, |header| header.sequence);
        let (latest, next) = if age(&first) >= age(&second) { (first, SECOND) } else { (second, 0) };
        Ok(Self { storage, size, latest, next })
    }

    /// What it says; `None` of one that was never used.
    #[must_use]
    pub fn content(&self) -> Option<Content> {
        self.latest.map(|header| Content { origin: header.origin, is_kept: header.kept.is_some() })
    }

    fn put(&mut self, origin: u64, kept: Option<[Extent; 2]>) -> Result<(), SaveError> {
        let sequence = self.latest.map_or(1, |header| header.sequence.saturating_add(1));
        let header = Header { sequence, origin, kept };
        // What the header speaks of comes before it.
        self.storage.flush()?;
        self.storage.write(self.next, &header.encode())?;
        self.storage.flush()?;
        (self.latest, self.next) = (Some(header), SECOND - self.next);
        Ok(())
    }

    /// Notes that the guest runs: no state is kept any more.
    ///
    /// # Errors
    /// If that can't be written.
    pub fn note_use(&mut self, origin: u64) -> Result<(), SaveError> {
        if self.content() == Some(Content { origin, is_kept: false }) {
            return Ok(());
        }
        self.put(origin, None)
    }

    /// Keeps a state. `pages` gives the pages of memory that aren't zero, by their numbers, in ascending order. Returns the
    /// bytes written.
    ///
    /// # Errors
    /// If there is no room, or the disk fails. Nothing is kept then.
    pub fn keep(
        &mut self,
        origin: u64,
        state: &SavedState,
        pages: impl FnOnce(&mut dyn FnMut(u64, &[u8; PAGE]) -> Result<(), SaveError>) -> Result<(), SaveError>,
    ) -> Result<u64, SaveError> {
        self.note_use(origin)?;
        let mut stream = Stream::new(&mut self.storage, STATE, self.size);
        stream.put(state.as_bytes())?;
        let state = stream.end()?;
        let mut stream = Stream::new(&mut self.storage, memory_start(&state), self.size);
        let mut writer = MemoryWriter::new(true, |bytes: &[u8]| stream.put(bytes));
        pages(&mut |number, page| writer.page(number, page))?;
        writer.finish()?;
        let memory = stream.end()?;
        self.put(origin, Some([state, memory]))?;
        Ok(state.length + memory.length)
    }

    fn kept(&self) -> Result<[Extent; 2], SaveError> {
        let [state, memory] = self.latest.and_then(|header| header.kept).ok_or(SaveError::Nothing)?;
        // First the one, whose end has room in a number then.
        let is_whole = state.length <= MOST_STATE
            && memory_start(&state).checked_add(memory.length).is_some_and(|end| end <= self.size);
        if is_whole { Ok([state, memory]) } else { Err(SaveError::Damaged) }
    }

    /// The state that is kept.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn state(&mut self) -> Result<SavedState, SaveError> {
        let [state, _] = self.kept()?;
        let mut bytes = alloc::vec![0; state.length as usize];
        let mut reader = Reader::new(&mut self.storage, STATE, state.length);
        reader.fill(&mut bytes)?;
        reader.end(state.sum)?;
        Ok(SavedState::new(bytes)?)
    }

    /// Gives the runs of the memory that is kept, of so many pages, to `take`.
    ///
    /// # Errors
    /// If there is none, or it is damaged, which may come out after some or all of it has been given.
    pub fn memory(
        &mut self,
        pages: u64,
        mut take: impl FnMut(MemoryRun) -> Result<(), SaveError>,
    ) -> Result<(), SaveError> {
        let [state, memory] = self.kept()?;
        let mut reader = Reader::new(&mut self.storage, memory_start(&state), memory.length);
        let mut runs = MemoryRuns::new(pages, |buffer: &mut [u8]| reader.fill(buffer));
        while let Some(run) = runs.next_run()? {
            take(run)?;
        }
        reader.end(memory.sum)
    }
}

fn memory_start(state: &Extent) -> u64 {
    STATE + state.length.next_multiple_of(SECTOR_SIZE)
}

/// Bytes on their way to the disk.
struct Stream<'a, S> {
    storage: &'a mut S,
    at: u64,
    end: u64,
    waiting: Vec<u8>,
    length: u64,
    sum: crc32fast::Hasher,
}

impl<'a, S: Storage> Stream<'a, S> {
    fn new(storage: &'a mut S, at: u64, end: u64) -> Self {
        let (waiting, sum) = (Vec::with_capacity(PIECE), crc32fast::Hasher::new());
        Self { storage, at, end, waiting, length: 0, sum }
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<(), SaveError> {
        self.sum.update(bytes);
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let count = bytes.len().min(PIECE - self.waiting.len());
            self.waiting.extend(&bytes[..count]);
            bytes = &bytes[count..];
            if self.waiting.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SaveError> {
        self.waiting.resize(self.waiting.len().next_multiple_of(SECTOR), 0);
        let end = self.at + self.waiting.len() as u64;
        if end > self.end {
            return Err(SaveError::TooSmall);
        }
        if !self.waiting.is_empty() {
            self.storage.write(self.at, &self.waiting)?;
        }
        self.waiting.clear();
        self.at = end;
        Ok(())
    }

    fn end(mut self) -> Result<Extent, SaveError> {
        self.flush()?;
        Ok(Extent { length: self.length, sum: self.sum.finalize() })
    }
}

/// Bytes on their way from the disk.
struct Reader<'a, S> {
    storage: &'a mut S,
    at: u64,
    /// Bytes that haven't been read.
    left: u64,
    piece: Vec<u8>,
    /// Of the piece, what was given.
    given: usize,
    sum: crc32fast::Hasher,
}

impl<'a, S: Storage> Reader<'a, S> {
    fn new(storage: &'a mut S, at: u64, length: u64) -> Self {
        Self { storage, at, left: length, piece: Vec::new(), given: 0, sum: crc32fast::Hasher::new() }
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), SaveError> {
        while !buffer.is_empty() {
            if self.given == self.piece.len() && !self.next_piece()? {
                return Err(SaveError::Damaged);
            }
            let count = buffer.len().min(self.piece.len() - self.given);
            let (part, rest) = buffer.split_at_mut(count);
            part.copy_from_slice(&self.piece[self.given..self.given + count]);
            self.given += count;
            buffer = rest;
        }
        Ok(())
    }

    /// False at the end.
    fn next_piece(&mut self) -> Result<bool, SaveError> {
        let count = self.left.min(PIECE as u64) as usize;
        self.piece.resize(count.next_multiple_of(SECTOR), 0);
        if count != 0 {
            self.storage.read(self.at, &mut self.piece)?;
        }
        self.at += self.piece.len() as u64;
        self.piece.truncate(count);
        self.sum.update(&self.piece);
        (self.left, self.given) = (self.left - count as u64, 0);
        Ok(count != 0)
    }

    /// Checks that all was given, and is what was kept.
    fn end(mut self, sum: u32) -> Result<(), SaveError> {
        let is_whole = self.given == self.piece.len() && !self.next_piece()? && self.sum.finalize() == sum;
        if is_whole { Ok(()) } else { Err(SaveError::Damaged) }
    }
}

#[cfg(test)]
mod tests;
