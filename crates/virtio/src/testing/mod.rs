//! A driver for tests and fuzz targets: it brings a device up through its registers, lays rings and buffers in
//! memory and sees what comes back. It doesn't check the device: tests do.

mod back_end;
mod memory;
mod ring;
mod share;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

pub use back_end::{ConsoleState, DiskState, NetState, TestConsole, TestDisk, TestEntropy, TestNet};
pub use memory::{RAM, TestLine, TestMemory};
use ring::Ring;
use rvisor_waist::{
    Device, GuestMemory, GuestPhysical, InterruptLine, Segment, StateError, StateReader, StateWriter, Width,
};
pub use share::{ShareState, TestShare};

use crate::features;
use crate::front_end::FrontEnd;
use crate::queue::Layout;
use crate::transport::{CONFIG_OFFSET, Transport, register, status};

/// Bytes of RAM of a [`Driver`].
pub const RAM_SIZE: usize = 2 << 20;
/// Room for the rings of one queue, of up to 256 entries.
pub const RING_SPACE: u64 = 0x2000;
/// Where buffers begin: offset from [`RAM`], after room for the rings of 32 queues.
pub const HEAP: u64 = 32 * RING_SPACE;

/// A buffer to be made available.
#[derive(Clone, Copy, Debug)]
pub enum Buffer<'a> {
    /// The device reads these bytes.
    Readable(&'a [u8]),
    /// The device writes up to so many bytes.
    Writable(u32),
}

/// A chain made available.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Its name in the used ring.
    pub id: u16,
    /// Its buffers.
    pub segments: Vec<Segment>,
}

/// A device and its driver.
pub struct Driver<F> {
    /// The device.
    pub transport: Transport<F, TestMemory>,
    /// The guest's RAM.
    pub memory: Arc<TestMemory>,
    /// The device's interrupt.
    pub line: Arc<TestLine>,
    /// Whether chains go through indirect tables.
    pub indirect: bool,
    features: u64,
    rings: Vec<Option<Ring>>,
    heap: u64,
}

impl<F: FrontEnd> Driver<F> {
    /// A device after power-on.
    pub fn new(front_end: F) -> Self {
        let memory = Arc::new(TestMemory::new(RAM_SIZE));
        let line = Arc::new(TestLine::default());
        let transport = Transport::new(front_end, Arc::clone(&memory), Arc::clone(&line) as _);
        Self { transport, memory, line, indirect: false, features: 0, rings: vec![], heap: HEAP }
    }

    /// A device that works: `features` and `VERSION_1` negotiated, all queues at their largest size.
    pub fn started(front_end: F, features: u64) -> Self {
        let mut driver = Self::new(front_end);
        driver.start(features);
        driver
    }

    /// Brings a device up from reset.
    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        let mut index = 0;
        loop {
            self.set_register(register::QUEUE_SELECT, index);
            let size = self.register(register::QUEUE_SIZE_MAX);
            if size == 0 {
                break;
            }
            self.start_queue(index as usize, size as u16);
            index += 1;
        }
        self.set_register(register::STATUS, 15);
    }

    /// Puts another device in the place of this one, with the state that this one writes down.
    ///
    /// # Errors
    /// If it can't be saved or doesn't fit.
    pub fn replace(&mut self, front_end: F) -> Result<(), StateError> {
        let mut writer = StateWriter::new();
        self.transport.save(&mut writer)?;
        self.restore(front_end, &writer.finish())
    }

    /// Puts another device in the place of this one, with this state.
    ///
    /// # Errors
    /// If it doesn't fit.
    pub fn restore(&mut self, front_end: F, state: &[u8]) -> Result<(), StateError> {
        self.line.set(false);
        self.transport = Transport::new(front_end, Arc::clone(&self.memory), Arc::clone(&self.line) as _);
        let mut reader = StateReader::new(state);
        self.transport.restore(&mut reader)?;
        reader.end()
    }

    /// Goes on to `FEATURES_OK`; true where the device accepts the features.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.features = features | features::VERSION_1;
        self.set_register(register::STATUS, status::ACKNOWLEDGE);
        self.set_register(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        for half in 0..2 {
            self.set_register(register::DRIVER_FEATURES_SELECT, half);
            self.set_register(register::DRIVER_FEATURES, (self.features >> (32 * half)) as u32);
        }
        self.set_register(register::STATUS, 11);
        self.register(register::STATUS) & status::FEATURES_OK != 0
    }

    /// Where the rings of queue `index` go.
    #[must_use]
    pub fn layout(&self, index: usize, size: u16) -> Layout {
        let base = RAM.offset(RING_SPACE * index as u64);
        Layout { size, descriptors: base, driver: base.offset(0x1000), device: base.offset(0x1400) }
    }

    /// Sets queue `index` up with `size` entries.
    pub fn start_queue(&mut self, index: usize, size: u16) {
        let layout = self.layout(index, size);
        self.place_queue(index, &layout);
        self.rings.resize_with(self.rings.len().max(index + 1), || None);
        self.rings[index] = Some(Ring::new(layout, self.features & features::RING_PACKED != 0));
    }

    /// Clears the place of a queue in memory and writes its registers.
    pub fn place_queue(&mut self, index: usize, layout: &Layout) {
        // A layout that lies elsewhere on purpose has nothing to clear.
        let _ = self.memory.zero(layout.descriptors, RING_SPACE);
        self.set_register(register::QUEUE_SELECT, index as u32);
        self.set_register(register::QUEUE_SIZE, layout.size.into());
        for (offset, part) in [
            (register::QUEUE_DESCRIPTORS, layout.descriptors),
            (register::QUEUE_DRIVER, layout.driver),
            (register::QUEUE_DEVICE, layout.device),
        ] {
            self.set_register(offset, part.0 as u32);
            self.set_register(offset + 4, (part.0 >> 32) as u32);
        }
        self.set_register(register::QUEUE_READY, 1);
    }

    /// Loads a register.
    pub fn register(&mut self, offset: u64) -> u32 {
        self.transport.read(offset, Width::Word).expect("registers never fault") as u32
    }

    /// Stores into a register.
    pub fn set_register(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, Width::Word, value.into()).expect("registers never fault");
    }

    /// Loads from the configuration space.
    pub fn config(&mut self, offset: u64, width: Width) -> u64 {
        self.transport.read(CONFIG_OFFSET + offset, width).expect("configuration never faults")
    }

    /// Whether the device says that it needs a reset.
    pub fn needs_reset(&mut self) -> bool {
        self.register(register::STATUS) & status::DEVICE_NEEDS_RESET != 0
    }

    /// Makes a chain available without telling the device; `None` where the queue is full or not set up.
    pub fn try_add(&mut self, index: usize, buffers: &[Buffer<'_>]) -> Option<Submission> {
        let mut parts = Vec::new();
        for buffer in buffers {
            parts.push(match *buffer {
                Buffer::Readable(bytes) => {
                    let segment = self.allocate(bytes.len() as u32);
                    self.memory.write(segment.address, bytes).ok()?;
                    (segment, false)
                }
                Buffer::Writable(length) => (self.allocate(length), true),
            });
        }
        let table = self.indirect.then(|| self.allocate(16 * parts.len() as u32).address);
        let id = self.rings.get_mut(index)?.as_mut()?.add(&self.memory, &parts, table)?;
        Some(Submission { id, segments: parts.into_iter().map(|(segment, _)| segment).collect() })
    }

    /// Makes a chain available without telling the device.
    ///
    /// # Panics
    /// Where the queue is full or not set up: the test is wrong.
    pub fn add(&mut self, index: usize, buffers: &[Buffer<'_>]) -> Submission {
        self.try_add(index, buffers).expect("room in the queue")
    }

    /// Makes a chain available and tells the device.
    pub fn submit(&mut self, index: usize, buffers: &[Buffer<'_>]) -> Submission {
        let submission = self.add(index, buffers);
        self.notify(index);
        submission
    }

    /// Tells the device of queue `index`.
    pub fn notify(&mut self, index: usize) {
        self.set_register(register::QUEUE_NOTIFY, index as u32);
    }

    /// Takes the next used chain of queue `index`: its name and the bytes written.
    pub fn used(&mut self, index: usize) -> Option<(u16, u32)> {
        self.rings.get_mut(index)?.as_mut()?.used(&self.memory)
    }

    /// Whether the device wants to be told of the `count` entries added last.
    #[must_use]
    pub fn wants_notification(&self, index: usize, count: u16) -> bool {
        let event_idx = self.features & features::EVENT_IDX != 0;
        let ring = self.rings.get(index).and_then(Option::as_ref);
        ring.is_some_and(|ring| ring.wants_notification(&self.memory, event_idx, count))
    }

    /// Asks for an interrupt `count` used entries from now, and for none before (with `EVENT_IDX`).
    pub fn set_used_event(&self, index: usize, count: u16) {
        if let Some(ring) = self.rings.get(index).and_then(Option::as_ref) {
            ring.set_used_event(&self.memory, count);
        }
    }

    /// Asks for no interrupts (without `EVENT_IDX`).
    pub fn suppress_interrupts(&self, index: usize) {
        if let Some(ring) = self.rings.get(index).and_then(Option::as_ref) {
            ring.suppress_interrupts(&self.memory);
        }
    }

    /// What a buffer of a chain holds.
    #[must_use]
    pub fn bytes(&self, submission: &Submission, buffer: usize) -> Vec<u8> {
        let Segment { address, length } = submission.segments[buffer];
        let mut bytes = vec![0; length as usize];
        self.memory.read(address, &mut bytes).expect("buffer in RAM");
        bytes
    }

    /// Acknowledges all interrupts; returns what they were.
    pub fn acknowledge(&mut self) -> u32 {
        let interrupt = self.register(register::INTERRUPT_STATUS);
        self.set_register(register::INTERRUPT_ACK, interrupt);
        interrupt
    }

    /// Room for a buffer. The heap is used round and round.
    fn allocate(&mut self, length: u32) -> Segment {
        let room = u64::from(length).next_multiple_of(16);
        if self.heap + room > RAM_SIZE as u64 {
            self.heap = HEAP;
        }
        let address: GuestPhysical = RAM.offset(self.heap);
        self.heap += room;
        Segment { address, length }
    }
}
