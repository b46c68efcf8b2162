//! The entropy device (Virtio 1.3, "Entropy Device").

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use rvisor_waist::{EntropyBackend, GuestMemory, StateError, StateReader, StateWriter};

use crate::front_end::{FrontEnd, Queues};
use crate::queue::QueueError;

/// Bytes given for one chain at most; a driver that wants more asks again.
const MAX_BYTES: u32 = 4096;
const QUEUE_SIZE: u16 = 64;

/// Entropy front end.
pub struct Rng {
    back_end: Box<dyn EntropyBackend>,
}

impl Rng {
    /// A device that gives what `back_end` gives.
    #[must_use]
    pub fn new(back_end: Box<dyn EntropyBackend>) -> Self {
        Self { back_end }
    }
}

impl FrontEnd for Rng {
    fn device_id(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) -> impl AsRef<[u8]> {
        []
    }

    fn activate(&mut self, _features: u64) {}

    fn notify<M: GuestMemory>(&mut self, index: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        while let Some(mut chain) = queues.pop(index)? {
            let mut bytes = vec![0; chain.writable.length().min(MAX_BYTES) as usize];
            self.back_end.fill(&mut bytes);
            let written = chain.writable.write(queues.memory(), &bytes)?;
            queues.push_used(index, chain, written as u32)?;
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
    use crate::testing::{Buffer, Driver, TestEntropy};

    #[test]
    fn request_is_filled_across_its_buffers() {
        let mut driver = Driver::started(Rng::new(Box::new(TestEntropy::default())), 0);
        let buffers = driver.submit(0, &[Buffer::Writable(3), Buffer::Writable(2)]);
        assert_eq!(driver.used(0), Some((buffers.id, 5)));
        assert_eq!(driver.bytes(&buffers, 0), [1, 2, 3]);
        assert_eq!(driver.bytes(&buffers, 1), [4, 5]);
        assert!(driver.line.level());
    }

    #[test]
    fn large_request_is_filled_in_part() {
        let mut driver = Driver::started(Rng::new(Box::new(TestEntropy::default())), 0);
        let buffers = driver.submit(0, &[Buffer::Writable(10000)]);
        assert_eq!(driver.used(0), Some((buffers.id, MAX_BYTES)));
    }
}
