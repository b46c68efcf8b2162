//! What this crate's tests share: RAM, an environment with wires that a test drives, and harts.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange, Word};

use crate::exit::Environment;
use crate::state::{Config, Hart};

/// Where RAM begins.
pub const RAM: u64 = 0x8000_0000;

/// RAM from [`RAM`] on. Its harts run one after the other on one thread, so that compare-and-exchange needs
/// no more than a load and a store.
pub struct Ram(Vec<AtomicU8>);

impl Ram {
    /// `size` bytes of zeroes.
    pub fn new(size: usize) -> Self {
        Self((0..size).map(|_| AtomicU8::new(0)).collect())
    }

    fn bytes(&self, address: GuestPhysical, length: u64) -> Result<&[AtomicU8], OutOfRange> {
        let start = address.0.checked_sub(RAM).ok_or(OutOfRange)? as usize;
        let end = start.checked_add(length as usize).ok_or(OutOfRange)?;
        self.0.get(start..end).ok_or(OutOfRange)
    }

    /// Loads 8 bytes that must be RAM.
    pub fn double(&self, address: u64) -> u64 {
        self.load(GuestPhysical(address)).unwrap()
    }

    /// Stores 8 bytes that must be RAM.
    pub fn set_double(&self, address: u64, value: u64) {
        self.store(GuestPhysical(address), value).unwrap();
    }
}

impl GuestMemory for Ram {
    fn range(&self) -> Range<GuestPhysical> {
        GuestPhysical(RAM)..GuestPhysical(RAM + self.0.len() as u64)
    }

    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let mut buffer = [0; 8];
        self.read(address, &mut buffer[..T::SIZE as usize])?;
        Ok(T::truncate(u64::from_le_bytes(buffer)))
    }

    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        self.write(address, &value.widen().to_le_bytes()[..T::SIZE as usize])
    }

    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        let size = match width {
            AtomicWidth::Word => 4,
            AtomicWidth::Double => 8,
        };
        if !address.is_aligned(size as u64) {
            return Err(OutOfRange);
        }
        let mut found = [0; 8];
        self.read(address, &mut found[..size])?;
        let found = u64::from_le_bytes(found);
        if found == expected {
            self.write(address, &new.to_le_bytes()[..size])?;
        }
        Ok(found)
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        if !address.is_aligned(16) {
            return Err(OutOfRange);
        }
        let mut found = [0; 16];
        self.read(address, &mut found)?;
        let found = u128::from_le_bytes(found);
        if found == expected {
            self.write(address, &new.to_le_bytes())?;
        }
        Ok(found)
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let bytes = self.bytes(address, buffer.len() as u64)?;
        for (to, from) in buffer.iter_mut().zip(bytes) {
            *to = from.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        let bytes = self.bytes(address, buffer.len() as u64)?;
        for (to, from) in bytes.iter().zip(buffer) {
            to.store(*from, Ordering::Relaxed);
        }
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        for byte in self.bytes(address, length)? {
            byte.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// An environment whose wires and clock a test sets.
pub struct World {
    /// RAM.
    pub ram: Ram,
    /// The `time` counter.
    pub ticks: AtomicU64,
    /// What `interrupt_lines` returns.
    pub lines: AtomicU64,
    /// What the next `take_software_interrupt` returns.
    pub software_interrupt: AtomicBool,
    /// What `attention` returns.
    pub attention: AtomicBool,
}

impl World {
    /// A world with 1 MiB of RAM where all is quiet at time 0.
    pub fn new() -> Self {
        Self {
            ram: Ram::new(1 << 20),
            ticks: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            software_interrupt: AtomicBool::new(false),
            attention: AtomicBool::new(false),
        }
    }

    /// Drives the wires with these bits of `mip`.
    pub fn set_lines(&self, lines: u64) {
        self.lines.store(lines, Ordering::Relaxed);
    }

    /// Sets the clock.
    pub fn set_ticks(&self, ticks: u64) {
        self.ticks.store(ticks, Ordering::Relaxed);
    }
}

impl Environment for World {
    type Memory = Ram;

    fn memory(&self) -> &Ram {
        &self.ram
    }

    fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    fn interrupt_lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    fn take_software_interrupt(&self) -> bool {
        self.software_interrupt.swap(false, Ordering::Relaxed)
    }

    fn attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }
}

/// A hart in M-mode after reset.
pub fn hart() -> Hart {
    Hart::new(Config::default())
}

/// A hart in S-mode with the monitor as its SBI implementation.
pub fn supervisor_hart() -> Hart {
    Hart::new(Config { supervisor_only: true, ..Config::default() })
}
