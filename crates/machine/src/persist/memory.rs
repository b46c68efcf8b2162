//! Memory as a stream: what isn't zero, in runs of pages, each compressed or not. For a file that goes to another host
//! or home; a home that keeps snapshots for itself may map memory as it is.

use alloc::vec::Vec;

use rvisor_waist::{PAGE_SIZE, StateError};

/// Pages in a run, at most.
const MOST_PAGES: usize = 64;
/// Bytes before a run's own: the first page's number (64 bits), pages (32 bits), bytes that follow (32 bits).
const HEADER: usize = 16;
const PAGE: usize = PAGE_SIZE as usize;

/// Makes runs of pages that are given in ascending order.
pub struct MemoryWriter<F> {
    write: F,
    compress: bool,
    first: u64,
    pages: Vec<u8>,
}

impl<E, F: FnMut(&[u8]) -> Result<(), E>> MemoryWriter<F> {
    /// Runs go to `write`.
    pub fn new(compress: bool, write: F) -> Self {
        Self { write, compress, first: 0, pages: Vec::with_capacity(MOST_PAGES * PAGE) }
    }

    /// Adds a page by its number from the beginning of RAM; one of zeros is left out.
    ///
    /// # Errors
    /// What `write` says.
    pub fn page(&mut self, number: u64, bytes: &[u8; PAGE]) -> Result<(), E> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        let next = self.first + (self.pages.len() / PAGE) as u64;
        if !self.pages.is_empty() && (number != next || self.pages.len() == MOST_PAGES * PAGE) {
            self.flush()?;
        }
        if self.pages.is_empty() {
            self.first = number;
        }
        self.pages.extend(bytes);
        Ok(())
    }

    /// Writes the last run, and the end.
    ///
    /// # Errors
    /// What `write` says.
    pub fn finish(mut self) -> Result<(), E> {
        self.flush()?;
        (self.write)(&[0; HEADER])
    }

    fn flush(&mut self) -> Result<(), E> {
        if self.pages.is_empty() {
            return Ok(());
        }
        let compressed = self.compress.then(|| lz4_flex::block::compress(&self.pages));
        let shorter = compressed.filter(|bytes| bytes.len() < self.pages.len());
        let bytes = shorter.as_deref().unwrap_or(&self.pages);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&self.first.to_le_bytes());
        header[8..12].copy_from_slice(&((self.pages.len() / PAGE) as u32).to_le_bytes());
        header[12..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        (self.write)(&header)?;
        (self.write)(bytes)?;
        self.pages.clear();
        Ok(())
    }
}

/// Pages next to each other.
#[derive(PartialEq, Eq, Debug)]
pub struct MemoryRun {
    /// Number of the first, from the beginning of RAM.
    pub first: u64,
    /// Their bytes.
    pub bytes: Vec<u8>,
}

/// Reads runs. The stream is whatever somebody has sent.
pub struct MemoryRuns<F> {
    read: F,
    pages: u64,
    over: bool,
}

impl<E: From<StateError>, F: FnMut(&mut [u8]) -> Result<(), E>> MemoryRuns<F> {
    /// Runs of a RAM of so many pages; `read` fills a buffer from the stream.
    pub fn new(pages: u64, read: F) -> Self {
        Self { read, pages, over: false }
    }

    /// The next run; `None` at the end.
    ///
    /// # Errors
    /// If the stream ends early or makes no sense.
    pub fn next_run(&mut self) -> Result<Option<MemoryRun>, E> {
        if self.over {
            return Ok(None);
        }
        let mut header = [0; HEADER];
        (self.read)(&mut header)?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let first = u64::from(word(4)) << 32 | u64::from(word(0));
        let (count, length) = (word(8) as usize, word(12) as usize);
        if count == 0 {
            self.over = true;
            return Ok(None);
        }
        let end = first.checked_add(count as u64);
        if count > MOST_PAGES || length > count * PAGE || end.is_none_or(|end| end > self.pages) {
            return Err(StateError::Malformed.into());
        }
        let mut bytes = alloc::vec![0; length];
        (self.read)(&mut bytes)?;
        if length < count * PAGE {
            let mut pages = alloc::vec![0; count * PAGE];
            let unpacked = lz4_flex::block::decompress_into(&bytes, &mut pages);
            if unpacked.ok() != Some(pages.len()) {
                return Err(StateError::Malformed.into());
            }
            bytes = pages;
        }
        Ok(Some(MemoryRun { first, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(compress: bool, pages: &[(u64, [u8; PAGE])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = MemoryWriter::new(compress, |piece: &[u8]| {
            bytes.extend(piece);
            Ok::<_, StateError>(())
        });
        pages.iter().for_each(|(number, page)| writer.page(*number, page).unwrap());
        writer.finish().unwrap();
        bytes
    }

    fn runs(mut bytes: &[u8], pages: u64) -> Result<Vec<MemoryRun>, StateError> {
        let mut runs = MemoryRuns::new(pages, |buffer: &mut [u8]| {
            let (head, rest) = bytes.split_at_checked(buffer.len()).ok_or(StateError::Malformed)?;
            buffer.copy_from_slice(head);
            bytes = rest;
            Ok::<_, StateError>(())
        });
        core::iter::from_fn(|| runs.next_run().transpose()).collect()
    }

    fn random_page() -> [u8; PAGE] {
        let mut value = 1_u32;
        core::array::from_fn(|_| {
            value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (value >> 24) as u8
        })
    }

    #[test]
    fn pages_that_are_not_zero_come_back_in_runs() {
        for compress in [false, true] {
            let pages = [(3, [7; PAGE]), (4, random_page()), (5, [0; PAGE]), (9, random_page())];
            let bytes = stream(compress, &pages);
            let runs = runs(&bytes, 10).unwrap();
            assert_eq!(runs.len(), 2);
            assert_eq!((runs[0].first, runs[1].first), (3, 9));
            assert_eq!(runs[0].bytes, [pages[0].1, pages[1].1].concat());
            assert_eq!(runs[1].bytes, pages[3].1);
            assert_eq!(bytes.len() < 3 * PAGE, compress);
        }
    }

    #[test]
    fn long_runs_are_split() {
        let pages: Vec<_> = (0..200).map(|number| (number, [1; PAGE])).collect();
        let bytes = stream(true, &pages);
        assert!(bytes.len() < PAGE * 10);
        let total: usize = runs(&bytes, 200).unwrap().iter().map(|run| run.bytes.len()).sum();
        assert_eq!(total, 200 * PAGE);
    }

    #[test]
    fn nonsense_returns_error() {
        let bytes = stream(true, &[(3, [7; PAGE])]);
        assert!(runs(&bytes, 3).is_err(), "outside RAM");
        assert!(runs(&bytes[..bytes.len() - 1], 4).is_err(), "cut off");
        for at in 8..bytes.len() - HEADER {
            let mut wrong = bytes.clone();
            wrong[at] = wrong[at].wrapping_add(0x40);
            // It may unpack to something else; that is for a checksum around it to find.
            let _ = runs(&wrong, 4);
        }
    }
}
