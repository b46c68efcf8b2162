//! What surrounds both sides of the comparison: memory, time and interrupt wires.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use rvisor_hart::Environment;
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange, Word};

/// First byte of RAM.
pub const RAM: u64 = 0x8000_0000;

/// RAM that one thread uses.
pub struct Ram(Vec<AtomicU8>);

impl Ram {
    fn bytes(&self, address: GuestPhysical, length: u64) -> Result<&[AtomicU8], OutOfRange> {
        let start = address.0.checked_sub(RAM).ok_or(OutOfRange)?;
        let end = start.checked_add(length).ok_or(OutOfRange)?;
        self.0.get(start as usize..end as usize).ok_or(OutOfRange)
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
        buffer.iter_mut().zip(bytes).for_each(|(to, from)| *to = from.load(Relaxed));
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        let bytes = self.bytes(address, buffer.len() as u64)?;
        bytes.iter().zip(buffer).for_each(|(to, from)| to.store(*from, Relaxed));
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        self.bytes(address, length)?.iter().for_each(|byte| byte.store(0, Relaxed));
        Ok(())
    }
}

/// The environment of the hart under test.
pub struct World {
    /// The memory, for both sides.
    pub ram: Ram,
    /// The `time` counter.
    pub ticks: Cell<u64>,
    /// Bits of `mip` that wires drive.
    pub lines: Cell<u64>,
}

impl World {
    /// So many bytes of zeroed memory, time 0, quiet wires.
    #[must_use]
    pub fn new(ram_size: u64) -> Self {
        let ram = Ram((0..ram_size).map(|_| AtomicU8::new(0)).collect());
        Self { ram, ticks: Cell::new(0), lines: Cell::new(0) }
    }
}

impl Environment for World {
    type Memory = Ram;

    fn memory(&self) -> &Ram {
        &self.ram
    }

    fn ticks(&self) -> u64 {
        self.ticks.get()
    }

    fn interrupt_lines(&self) -> u64 {
        self.lines.get()
    }

    fn take_software_interrupt(&self) -> bool {
        false
    }

    /// Always, so that a hart comes back as soon as it may.
    fn attention(&self) -> bool {
        true
    }
}
