//! The guest memory of one chain in one direction: a list of runs, consumed from the front.

use alloc::vec::Vec;

use rvisor_waist::{GuestMemory, GuestPhysical, OutOfRange, Segment};

/// Runs of guest memory, in order. Bytes are taken from the front by [`read`](Self::read),
/// [`write`](Self::write) and [`skip`](Self::skip), and from the end by
/// [`take_last_byte`](Self::take_last_byte).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Segments {
    list: Vec<Segment>,
    /// Runs before this one are consumed.
    first: usize,
    /// Sum of the lengths not yet consumed.
    length: u32,
}

impl Segments {
    /// Bytes left.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Whether no byte is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends a run that isn't empty. False, and nothing changed, where the sum would exceed 2^32 - 1 bytes.
    #[must_use]
    pub(crate) fn push(&mut self, segment: Segment) -> bool {
        let Some(length) = self.length.checked_add(segment.length) else { return false };
        self.length = length;
        self.list.push(segment);
        true
    }

    /// What is left, in order.
    pub(crate) fn runs(&self) -> &[Segment] {
        &self.list[self.first..]
    }

    /// What is left, as a list of runs.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<Segment> {
        self.list.drain(..self.first);
        self.list
    }

    /// Copies out and consumes up to `buffer.len()` bytes; returns how many there were.
    pub fn read<M: GuestMemory>(&mut self, memory: &M, buffer: &mut [u8]) -> Result<usize, OutOfRange> {
        let mut done = 0;
        while let Some(run) = self.take_run(buffer.len() - done) {
            let end = done + run.length as usize;
            memory.read(run.address, &mut buffer[done..end])?;
            done = end;
        }
        Ok(done)
    }

    /// Copies in and consumes up to `bytes.len()` bytes; returns how many had room.
    pub fn write<M: GuestMemory>(&mut self, memory: &M, bytes: &[u8]) -> Result<usize, OutOfRange> {
        let mut done = 0;
        while let Some(run) = self.take_run(bytes.len() - done) {
            let end = done + run.length as usize;
            memory.write(run.address, &bytes[done..end])?;
            done = end;
        }
        Ok(done)
    }

    /// Copies out up to `buffer.len()` bytes without consuming them; returns how many there were.
    pub fn peek<M: GuestMemory>(&self, memory: &M, buffer: &mut [u8]) -> Result<usize, OutOfRange> {
        let mut done = 0;
        for run in &self.list[self.first..] {
            let length = (buffer.len() - done).min(run.length as usize);
            memory.read(run.address, &mut buffer[done..done + length])?;
            done += length;
            if done == buffer.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Consumes `count` bytes, or all where fewer are left.
    pub fn skip(&mut self, mut count: usize) {
        while let Some(run) = self.take_run(count) {
            count -= run.length as usize;
        }
    }

    /// Consumes the last byte and returns its address.
    pub fn take_last_byte(&mut self) -> Option<GuestPhysical> {
        if self.is_empty() {
            return None;
        }
        let last = self.list.last_mut()?;
        last.length -= 1;
        self.length -= 1;
        let address = last.address.offset(u64::from(last.length));
        if last.length == 0 {
            self.list.pop();
        }
        Some(address)
    }

    /// Consumes up to `limit` bytes that lie in one run.
    fn take_run(&mut self, limit: usize) -> Option<Segment> {
        let run = self.list.get_mut(self.first)?;
        let length = u32::try_from(limit).unwrap_or(u32::MAX).min(run.length);
        if length == 0 {
            return None;
        }
        let taken = Segment { address: run.address, length };
        run.address = run.address.offset(u64::from(length));
        run.length -= length;
        if run.length == 0 {
            self.first += 1;
        }
        self.length -= length;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{RAM, TestMemory};

    fn segments(runs: &[(u64, u32)]) -> Segments {
        let mut segments = Segments::default();
        for &(offset, length) in runs {
            assert!(segments.push(Segment { address: RAM.offset(offset), length }));
        }
        segments
    }

    #[test]
    fn bytes_are_read_across_runs_in_order() {
        let memory = TestMemory::new(0x1000);
        memory.write(RAM, b"abcdef").unwrap();
        let mut list = segments(&[(3, 3), (0, 2)]);
        let mut buffer = [0; 4];
        assert_eq!(list.peek(&memory, &mut buffer), Ok(4));
        assert_eq!(&buffer, b"defa");
        assert_eq!(list.read(&memory, &mut buffer), Ok(4));
        assert_eq!(&buffer, b"defa");
        assert_eq!(list.read(&memory, &mut buffer), Ok(1));
        assert_eq!(buffer[0], b'b');
        assert!(list.is_empty());
    }

    #[test]
    fn last_byte_is_taken_from_the_last_run() {
        let mut list = segments(&[(0, 2), (8, 1)]);
        assert_eq!(list.take_last_byte(), Some(RAM.offset(8)));
        assert_eq!(list.take_last_byte(), Some(RAM.offset(1)));
        list.skip(5);
        assert_eq!(list.take_last_byte(), None);
        assert_eq!(list.into_vec(), []);
    }

    #[test]
    fn last_byte_of_a_consumed_list_is_none() {
        let mut list = segments(&[(0, 2), (8, 1)]);
        list.skip(3);
        assert_eq!(list.take_last_byte(), None);
    }

    #[test]
    fn sum_beyond_32_bits_is_refused() {
        let mut list = segments(&[(0, u32::MAX)]);
        assert!(!list.push(Segment { address: RAM, length: 1 }));
        assert_eq!(list.length(), u32::MAX);
    }
}
