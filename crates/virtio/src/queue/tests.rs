use alloc::vec;
use alloc::vec::Vec;

use rvisor_waist::{GuestMemory, GuestPhysical, Segment};

use super::chain::{INDIRECT, NEXT, WRITE};
use super::*;
use crate::segments::Segments;
use crate::testing::{RAM, TestMemory};

const SIZE: u16 = 8;
const MAX_SIZE: u16 = 16;
const RAM_SIZE: u64 = 0x10000;
const PACKED: u64 = features::RING_PACKED;
const INDIRECT_DESC: u64 = features::INDIRECT_DESC;
/// An indirect table.
const TABLE: GuestPhysical = RAM.offset(0x4000);
const BUFFER: GuestPhysical = RAM.offset(0x8000);

const AVAIL: u16 = 1 << 7;

/// A descriptor as a hostile driver writes it: address, length, flags, and next (split) or buffer ID (packed).
type Raw = (GuestPhysical, u32, u16, u16);

struct Bench {
    memory: TestMemory,
    queue: Queue,
    packed: bool,
}

impl Bench {
    fn new(features: u64) -> Self {
        let memory = TestMemory::new(RAM_SIZE as usize);
        let mut queue = Queue::new(MAX_SIZE);
        queue.start(layout(), features, &memory).unwrap();
        Self { memory, queue, packed: features & PACKED != 0 }
    }

    fn store(&self, table: GuestPhysical, number: u16, (address, length, flags, link): Raw) {
        let at = table.offset(16 * u64::from(number));
        let (low, high) = if self.packed { (link, flags) } else { (flags, link) };
        self.memory.store(at, address.0).unwrap();
        self.memory.store(at.offset(8), length).unwrap();
        self.memory.store(at.offset(12), low).unwrap();
        self.memory.store(at.offset(14), high).unwrap();
    }

    /// Stores descriptors from the start of the ring on and makes the first available.
    fn offer(&self, descriptors: &[Raw]) {
        for (number, &(address, length, flags, link)) in descriptors.iter().enumerate() {
            let flags = if self.packed { flags | AVAIL } else { flags };
            self.store(layout().descriptors, number as u16, (address, length, flags, link));
        }
        if !self.packed {
            self.memory.store(layout().driver.offset(2), 1_u16).unwrap();
        }
    }

    fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        self.queue.pop(&self.memory)
    }

    fn pop_of(features: u64, descriptors: &[Raw]) -> Result<Option<Chain>, QueueError> {
        let mut bench = Self::new(features);
        bench.offer(descriptors);
        bench.pop()
    }

    /// The error for descriptors that are wrong in both formats.
    fn error_of(features: u64, descriptors: &[Raw]) -> QueueError {
        let split = Self::pop_of(features, descriptors).unwrap_err();
        assert_eq!(Self::pop_of(features | PACKED, descriptors), Err(split));
        split
    }

    /// The error for an indirect table that is wrong in both formats.
    fn table_error_of(table: &[Raw]) -> QueueError {
        let [split, packed] = [INDIRECT_DESC, INDIRECT_DESC | PACKED].map(|features| {
            let mut bench = Self::new(features);
            for (number, &raw) in table.iter().enumerate() {
                bench.store(TABLE, number as u16, raw);
            }
            bench.offer(&[(TABLE, 16 * table.len() as u32, INDIRECT, 0)]);
            bench.pop().unwrap_err()
        });
        assert_eq!(split, packed);
        split
    }
}

fn layout() -> Layout {
    Layout { size: SIZE, descriptors: RAM, driver: RAM.offset(0x1000), device: RAM.offset(0x2000) }
}

fn runs(segments: Segments) -> Vec<(u64, u32)> {
    segments
        .into_vec()
        .into_iter()
        .map(|Segment { address, length }| (address.0 - BUFFER.0, length))
        .collect()
}

#[test]
fn empty_queue_gives_nothing() {
    for features in [0, PACKED, features::EVENT_IDX, features::EVENT_IDX | PACKED] {
        assert_eq!(Bench::new(features).pop(), Ok(None));
    }
    assert_eq!(Queue::new(8).pop(&TestMemory::new(0)), Ok(None));
}

#[test]
fn chain_is_sorted_into_readable_and_writable() {
    for features in [0, PACKED] {
        let chain = Bench::pop_of(
            features,
            &[
                (BUFFER, 1, NEXT, 1),
                (BUFFER.offset(16), 2, NEXT, 2),
                (BUFFER.offset(8), 3, NEXT | WRITE, 3),
                (BUFFER.offset(32), 4, WRITE, 3),
            ],
        );
        let chain = chain.unwrap().unwrap();
        assert_eq!(runs(chain.readable), [(0, 1), (16, 2)]);
        assert_eq!(runs(chain.writable), [(8, 3), (32, 4)]);
    }
}

#[test]
fn empty_buffers_are_left_out_wherever_they_point() {
    let nowhere = GuestPhysical(u64::MAX);
    for features in [0, PACKED] {
        let chain =
            Bench::pop_of(features, &[(nowhere, 0, NEXT, 1), (BUFFER, 3, NEXT, 2), (nowhere, 0, WRITE, 0)]);
        let chain = chain.unwrap().unwrap();
        assert_eq!(runs(chain.readable), [(0, 3)]);
        assert!(chain.writable.is_empty());
    }
}

#[test]
fn buffers_outside_ram_are_refused() {
    let end = RAM.offset(RAM_SIZE);
    for (address, length) in [
        (GuestPhysical(0), 1),
        (GuestPhysical(RAM.0 - 1), 2),
        (end, 1),
        (RAM.offset(RAM_SIZE - 1), 2),
        (RAM, u32::MAX),
        (GuestPhysical(u64::MAX), 1),
        (GuestPhysical(u64::MAX), u32::MAX),
        (GuestPhysical(u64::MAX - 0xffff), 0x10000),
    ] {
        assert_eq!(Bench::error_of(0, &[(address, length, 0, 0)]), QueueError::OutOfRange);
    }
    assert!(Bench::pop_of(0, &[(RAM.offset(RAM_SIZE - 1), 1, 0, 0)]).unwrap().is_some());
}

#[test]
fn readable_after_writable_is_refused() {
    assert_eq!(Bench::error_of(0, &[(BUFFER, 1, WRITE | NEXT, 1), (BUFFER, 1, 0, 0)]), QueueError::Order);
    assert_eq!(Bench::error_of(0, &[(BUFFER, 0, WRITE | NEXT, 1), (BUFFER, 1, 0, 0)]), QueueError::Order);
}

#[test]
fn chains_that_loop_or_do_not_end_are_refused() {
    // Split: the last descriptor goes back to the first. Packed: none of the ring is the last.
    let endless: Vec<Raw> = (0..SIZE).map(|i| (BUFFER, 1, NEXT, (i + 1) % SIZE)).collect();
    assert_eq!(Bench::error_of(0, &endless), QueueError::ChainTooLong);
    assert_eq!(Bench::pop_of(0, &[(BUFFER, 0, NEXT, 0)]), Err(QueueError::ChainTooLong));
}

#[test]
fn descriptor_number_outside_the_table_is_refused() {
    for next in [SIZE, u16::MAX] {
        let chain = Bench::pop_of(0, &[(BUFFER, 1, NEXT, next)]);
        assert_eq!(chain, Err(QueueError::DescriptorIndex));
    }
    let mut bench = Bench::new(0);
    bench.memory.store(layout().driver.offset(4), SIZE).unwrap();
    bench.offer(&[]);
    assert_eq!(bench.pop(), Err(QueueError::DescriptorIndex));
}

#[test]
fn available_index_too_far_ahead_is_refused() {
    for index in [SIZE + 1, u16::MAX, 0x8000] {
        let mut bench = Bench::new(0);
        bench.memory.store(layout().driver.offset(2), index).unwrap();
        assert_eq!(bench.pop(), Err(QueueError::AvailableIndex));
    }
}

#[test]
fn buffers_of_4_gib_together_are_refused() {
    let mut builder = chain::Builder::new(&Huge, 4);
    let raw = |write| chain::Descriptor {
        address: GuestPhysical(0),
        length: 1 << 31,
        flags: if write { WRITE } else { 0 },
        link: 0,
    };
    assert_eq!(builder.add(&raw(false)), Ok(()));
    assert_eq!(builder.add(&raw(true)), Err(QueueError::BuffersTooLong));
}

/// RAM so large that its bytes can't be had.
struct Huge;

impl GuestMemory for Huge {
    fn range(&self) -> core::ops::Range<GuestPhysical> {
        GuestPhysical(0)..GuestPhysical(1 << 40)
    }
    fn load<T: rvisor_waist::Word>(&self, _: GuestPhysical) -> Result<T, OutOfRange> {
        Err(OutOfRange)
    }
    fn store<T: rvisor_waist::Word>(&self, _: GuestPhysical, _: T) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
    fn compare_exchange(
        &self,
        _: GuestPhysical,
        _: rvisor_waist::AtomicWidth,
        _: u64,
        _: u64,
    ) -> Result<u64, OutOfRange> {
        Err(OutOfRange)
    }
    fn compare_exchange_quad(&self, _: GuestPhysical, _: u128, _: u128) -> Result<u128, OutOfRange> {
        Err(OutOfRange)
    }
    fn read(&self, _: GuestPhysical, _: &mut [u8]) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
    fn write(&self, _: GuestPhysical, _: &[u8]) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
    fn zero(&self, _: GuestPhysical, _: u64) -> Result<(), OutOfRange> {
        Err(OutOfRange)
    }
}

#[test]
fn indirect_table_follows_direct_descriptors() {
    for features in [INDIRECT_DESC, INDIRECT_DESC | PACKED] {
        let mut bench = Bench::new(features);
        let next = if bench.packed { 0 } else { NEXT };
        bench.store(TABLE, 0, (BUFFER.offset(8), 2, next, 1));
        bench.store(TABLE, 1, (BUFFER.offset(16), 3, WRITE, 0));
        bench.offer(&[(BUFFER, 1, NEXT, 1), (TABLE, 32, INDIRECT, 0)]);
        let chain = bench.pop().unwrap().unwrap();
        assert_eq!(runs(chain.readable), [(0, 1), (8, 2)]);
        assert_eq!(runs(chain.writable), [(16, 3)]);
    }
}

#[test]
fn indirect_where_none_may_be_is_refused() {
    let inside = (TABLE, 16, INDIRECT, 0);
    assert_eq!(Bench::error_of(0, &[inside]), QueueError::Indirect);
    assert_eq!(Bench::table_error_of(&[inside]), QueueError::Indirect);
    let followed = [(TABLE, 16, INDIRECT | NEXT, 1), (BUFFER, 1, 0, 0)];
    assert_eq!(Bench::error_of(INDIRECT_DESC, &followed), QueueError::Indirect);
    for length in [0, 15, 17, u32::MAX] {
        assert_eq!(Bench::error_of(INDIRECT_DESC, &[(TABLE, length, INDIRECT, 0)]), QueueError::Indirect);
    }
}

#[test]
fn indirect_table_outside_ram_is_refused() {
    for (address, length) in [(GuestPhysical(0), 16), (RAM.offset(RAM_SIZE - 16), 32), (RAM, !15)] {
        let descriptor = (address, length, INDIRECT, 0);
        assert_eq!(Bench::error_of(INDIRECT_DESC, &[descriptor]), QueueError::OutOfRange);
    }
}

#[test]
fn indirect_table_that_loops_or_is_too_long_is_refused() {
    let long: Vec<Raw> = (0..=MAX_SIZE).map(|i| (BUFFER, 0, NEXT, i + 1)).collect();
    assert_eq!(Bench::table_error_of(&long), QueueError::ChainTooLong);
    let mut bench = Bench::new(INDIRECT_DESC);
    bench.store(TABLE, 0, (BUFFER, 0, NEXT, 0));
    bench.offer(&[(TABLE, 16, INDIRECT, 0)]);
    assert_eq!(bench.pop(), Err(QueueError::ChainTooLong));
    bench.store(TABLE, 0, (BUFFER, 0, NEXT, 1));
    assert_eq!(bench.pop(), Err(QueueError::DescriptorIndex));
}

#[test]
fn chains_made_available_twice_are_bounded() {
    for features in [0, PACKED] {
        let mut bench = Bench::new(features);
        let mut taken = vec![];
        let error = loop {
            // Split: the index goes on. Packed: the whole ring says "available" in every round.
            let wrap = if taken.len() / usize::from(SIZE) % 2 == 0 { AVAIL } else { 1 << 15 };
            for number in 0..SIZE {
                let flags = if bench.packed { wrap } else { 0 };
                bench.store(layout().descriptors, number, (BUFFER, 1, flags, 0));
            }
            if !bench.packed {
                bench.memory.store(layout().driver.offset(2), taken.len() as u16 + 1).unwrap();
            }
            match bench.pop() {
                Ok(chain) => taken.push(chain.unwrap()),
                Err(error) => break error,
            }
        };
        assert_eq!((error, taken.len()), (QueueError::TooManyChains, SIZE.into()));
    }
}

#[test]
fn packed_queue_may_have_any_size() {
    let memory = TestMemory::new(RAM_SIZE as usize);
    let layout = Layout { size: 7, ..layout() };
    assert_eq!(Queue::new(MAX_SIZE).start(layout, PACKED, &memory), Ok(()));
    assert_eq!(Queue::new(MAX_SIZE).start(layout, 0, &memory), Err(QueueError::Size));
}

#[test]
fn chain_of_a_stopped_queue_is_not_given_back() {
    for features in [0, PACKED] {
        let mut bench = Bench::new(features);
        bench.offer(&[(BUFFER, 1, 0, 0)]);
        let chain = bench.pop().unwrap().unwrap();
        bench.queue.stop();
        bench.queue.push_used(&bench.memory, chain, 0).unwrap();
        assert_eq!(bench.queue.take_interrupt(&bench.memory), Ok(false));
        let (at, untouched) =
            if bench.packed { (RAM.offset(14), AVAIL) } else { (layout().device.offset(2), 0) };
        assert_eq!(bench.memory.load(at), Ok(untouched));
    }
}

#[test]
fn event_index_counts_as_passed_when_the_index_steps_over_it() {
    assert!(passes(4, 5, 1));
    assert!(!passes(5, 5, 1));
    assert!(!passes(3, 5, 1));
    assert!(passes(3, 5, 2));
    assert!(passes(0xffff, 0, 1));
    assert!(!passes(0, 0, 1));
}
