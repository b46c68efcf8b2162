//! Back ends of devices that have nobody at their other end: a machine that comes from the hosted home keeps its devices,
//! and is to find what it knows when it goes back.

use alloc::vec::Vec;

use rvisor_waist::{ConsoleBackend, NetBackend};

/// A port of the console, beside its terminal. It takes nothing: what the guest sends waits for its host, however long that takes.
pub struct Port {
    /// Whether the guest was told that somebody is there.
    pub is_open: bool,
}

impl ConsoleBackend for Port {
    fn write(&mut self, _bytes: &[u8]) -> usize {
        0
    }

    fn read(&mut self, _buffer: &mut [u8]) -> usize {
        0
    }

    fn is_open(&self) -> bool {
        self.is_open
    }
}

/// A network card without a cable: frames are lost.
pub struct Cable;

impl NetBackend for Cable {
    fn send(&mut self, _frame: &[u8]) {}

    fn receive(&mut self, _frame: &mut Vec<u8>) -> bool {
        false
    }
}
