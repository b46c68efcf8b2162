//! The memory balloon (Virtio 1.3, "Traditional Memory Balloon Device"): the guest reports pages that it has free, and
//! the home gives their memory back to its host until the guest writes to them again.
//!
//! The host never asks the guest for memory: its target is always 0. A driver that gives pages nevertheless gives them
//! until it takes them back.

use alloc::vec;
use alloc::vec::Vec;

use rvisor_waist::{GuestMemory, GuestPhysical, StateError, StateReader, StateWriter};

use crate::front_end::{FrontEnd, Queues};
use crate::queue::QueueError;

/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`: a guest short of memory may take pages back by itself.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// `VIRTIO_BALLOON_F_PAGE_REPORTING`.
const REPORTING: u64 = 1 << 5;

/// Pages in the balloon, as 32-bit numbers of 4096 bytes each.
const INFLATE: usize = 0;
/// Free pages: the specification's number, and Linux's, which counts the queues that there are.
const REPORTED: [usize; 2] = [4, 2];
const QUEUE_SIZE: u16 = 128;
const PAGE_SHIFT: u32 = 12;
/// Numbers of pages taken out of a chain at a time.
const CHUNK: usize = 256;

/// Balloon front end.
#[derive(Default)]
pub struct Balloon(());

impl Balloon {
    /// A balloon that the host never inflates.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl FrontEnd for Balloon {
    fn device_id(&self) -> u32 {
        5
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 5]
    }

    /// `num_pages`, which is 0, and `actual`, which the driver makes the same.
    fn config(&self) -> impl AsRef<[u8]> {
        [0; 8]
    }

    fn activate(&mut self, _features: u64) {}

    fn notify<M: GuestMemory>(&mut self, index: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        while let Some(mut chain) = queues.pop(index)? {
            let memory = queues.memory();
            if REPORTED.contains(&index) {
                for run in chain.writable.runs() {
                    memory.release(run.address, u64::from(run.length))?;
                }
            } else if index == INFLATE {
                let mut bytes = [0; 4 * CHUNK];
                loop {
                    let length = chain.readable.read(memory, &mut bytes)?;
                    if length == 0 {
                        break;
                    }
                    for number in bytes[..length].as_chunks().0 {
                        let page = u64::from(u32::from_le_bytes(*number)) << PAGE_SHIFT;
                        memory.release(GuestPhysical(page), 1 << PAGE_SHIFT)?;
                    }
                }
            }
            queues.push_used(index, chain, 0)?;
        }
        Ok(())
    }

    fn poll<M: GuestMemory>(&mut self, _queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        Ok(())
    }

    fn stop_queue(&mut self, _index: usize) {}

    fn reset(&mut self) {}

    /// It has none.
    fn save(&self, _state: &mut StateWriter) -> Result<(), StateError> {
        Ok(())
    }

    fn restore<M: GuestMemory>(
        &mut self,
        _state: &mut StateReader<'_>,
        _memory: &M,
    ) -> Result<(), StateError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Buffer, Driver, RAM};

    #[test]
    fn reported_pages_are_released() {
        for queue in REPORTED {
            let mut driver = Driver::started(Balloon::new(), 0);
            let buffers = driver.submit(queue, &[Buffer::Writable(64), Buffer::Writable(16)]);
            assert_eq!(driver.used(queue), Some((buffers.id, 0)));
            assert_eq!(driver.memory.released(), 80);
        }
    }

    /// Pages that are taken back.
    const DEFLATE: usize = 1;

    #[test]
    fn pages_put_into_the_balloon_are_released_and_those_taken_out_are_not() {
        let mut driver = Driver::started(Balloon::new(), 0);
        let page = ((RAM.0 >> PAGE_SHIFT) as u32).to_le_bytes();
        // The byte behind the last whole number means nothing.
        let numbers = [&page[..], &page, &[7]].concat();
        driver.submit(DEFLATE, &[Buffer::Readable(&numbers)]);
        assert_eq!(driver.memory.released(), 0);
        driver.submit(INFLATE, &[Buffer::Readable(&numbers)]);
        assert_eq!(driver.memory.released(), 2 << PAGE_SHIFT);
    }

    #[test]
    fn page_outside_of_memory_is_a_broken_rule() {
        let mut driver = Driver::started(Balloon::new(), 0);
        driver.submit(INFLATE, &[Buffer::Readable(&[0; 4])]);
        assert!(driver.needs_reset());
        assert_eq!(driver.memory.released(), 0);
    }
}
