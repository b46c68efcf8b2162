//! Stand-ins for the world around a device.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use rvisor_waist::{Clock, ConsoleBackend, Device, InterruptLine, Width};
use spin::Mutex;

/// A wire that remembers its level and counts how often it was driven.
#[derive(Default)]
pub struct Wire {
    level: AtomicBool,
    driven: AtomicUsize,
}

impl Wire {
    pub fn is_high(&self) -> bool {
        self.level.load(Relaxed)
    }

    pub fn times_driven(&self) -> usize {
        self.driven.load(Relaxed)
    }
}

impl InterruptLine for Wire {
    fn set(&self, level: bool) {
        self.level.store(level, Relaxed);
        self.driven.fetch_add(1, Relaxed);
    }
}

/// A clock that stands still until it is moved.
#[derive(Default)]
pub struct ManualClock {
    pub ticks: AtomicU64,
    pub nanoseconds: AtomicU64,
}

impl Clock for ManualClock {
    fn ticks(&self) -> u64 {
        self.ticks.load(Relaxed)
    }

    fn wall_nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Relaxed)
    }
}

/// Both ends of a serial line; `room` is how many bytes it still takes.
pub struct Terminal {
    pub output: Vec<u8>,
    pub input: VecDeque<u8>,
    pub room: usize,
}

/// A terminal shared by a test and the device.
#[derive(Clone)]
pub struct SharedTerminal(pub Arc<Mutex<Terminal>>);

impl SharedTerminal {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Terminal { output: Vec::new(), input: VecDeque::new(), room: usize::MAX })))
    }
}

impl ConsoleBackend for SharedTerminal {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut terminal = self.0.lock();
        let taken = bytes.len().min(terminal.room);
        terminal.room -= taken;
        terminal.output.extend_from_slice(&bytes[..taken]);
        taken
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut terminal = self.0.lock();
        let given = buffer.len().min(terminal.input.len());
        for (slot, byte) in buffer.iter_mut().zip(terminal.input.drain(..given)) {
            *slot = byte;
        }
        given
    }
}

/// Ten thousand accesses with random offsets below `size`, widths and values, then a reset.
pub fn hammer(device: &mut dyn Device, size: u64) {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..10_000 {
        let width = [Width::Byte, Width::Half, Width::Word, Width::Double][(random() % 4) as usize];
        // Half of the offsets near the start, where most registers are.
        let span = if random() % 2 == 0 { size.min(64) } else { size };
        let offset = random() % span;
        if random() % 2 == 0 {
            if let Ok(value) = device.read(offset, width) {
                assert_eq!(value, width.truncate(value), "a load returned bits above its width");
            }
        } else {
            let _ = device.write(offset, width, width.truncate(random()));
        }
        if random() % 16 == 0 {
            device.poll();
        }
    }
    device.reset();
}
