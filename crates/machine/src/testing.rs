//! A small machine for this crate's tests.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use rvisor_hart::TranslationMode;
use rvisor_waist::{AtomicWidth, Clock, ConsoleBackend, GuestMemory, GuestPhysical, OutOfRange, Word};
use spin::Mutex;

use crate::memory_map::RAM_BASE;
use crate::{Backends, Extensions, Vm, VmConfig};

/// RAM in a vector behind a lock.
pub(crate) struct TestMemory(Mutex<Vec<u8>>);

impl TestMemory {
    pub(crate) fn new(size: usize) -> Self {
        Self(Mutex::new(alloc::vec![0; size]))
    }

    fn at(&self, address: GuestPhysical, length: u64) -> Result<Range<usize>, OutOfRange> {
        let start = address.0.wrapping_sub(RAM_BASE.0);
        let end = start.checked_add(length).ok_or(OutOfRange)?;
        if end > self.0.lock().len() as u64 {
            return Err(OutOfRange);
        }
        Ok(start as usize..end as usize)
    }
}

impl GuestMemory for TestMemory {
    fn range(&self) -> Range<GuestPhysical> {
        RAM_BASE..RAM_BASE.offset(self.0.lock().len() as u64)
    }

    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes[..T::SIZE as usize])?;
        Ok(T::truncate(u64::from_le_bytes(bytes)))
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
        let found = match width {
            AtomicWidth::Word => u64::from(self.load::<u32>(address)?),
            AtomicWidth::Double => self.load::<u64>(address)?,
        };
        if found == expected {
            match width {
                AtomicWidth::Word => self.store(address, new as u32)?,
                AtomicWidth::Double => self.store(address, new)?,
            }
        }
        Ok(found)
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        let mut bytes = [0; 16];
        self.read(address, &mut bytes)?;
        let found = u128::from_le_bytes(bytes);
        if found == expected {
            self.write(address, &new.to_le_bytes())?;
        }
        Ok(found)
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let range = self.at(address, buffer.len() as u64)?;
        buffer.copy_from_slice(&self.0.lock()[range]);
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        let range = self.at(address, buffer.len() as u64)?;
        self.0.lock()[range].copy_from_slice(buffer);
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        let range = self.at(address, length)?;
        self.0.lock()[range].fill(0);
        Ok(())
    }
}

/// A clock that moves when the test says so.
#[derive(Default)]
pub(crate) struct TestClock(pub(crate) AtomicU64);

impl Clock for TestClock {
    fn ticks(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn wall_nanoseconds(&self) -> u64 {
        0
    }
}

/// A terminal that keeps what it gets and gives what it was told.
#[derive(Clone, Default)]
pub(crate) struct TestConsole {
    pub(crate) output: Arc<Mutex<Vec<u8>>>,
    pub(crate) input: Arc<Mutex<Vec<u8>>>,
}

impl ConsoleBackend for TestConsole {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.output.lock().extend(bytes);
        bytes.len()
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut input = self.input.lock();
        let length = buffer.len().min(input.len());
        for (to, from) in buffer.iter_mut().zip(input.drain(..length)) {
            *to = from;
        }
        length
    }
}

/// A machine with a mebibyte of RAM.
pub(crate) struct TestVm {
    pub(crate) vm: Vm<TestMemory>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) console: TestConsole,
    /// The UART's line.
    pub(crate) serial: TestConsole,
}

impl TestVm {
    pub(crate) fn new(harts: usize, machine_mode: bool) -> Self {
        let clock = Arc::new(TestClock::default());
        let (console, serial) = (TestConsole::default(), TestConsole::default());
        let backends = Backends {
            serial: Box::new(serial.clone()),
            sbi_console: Box::new(console.clone()),
            virtio: Vec::new(),
        };
        let config = VmConfig {
            harts,
            machine_mode,
            translation: TranslationMode::Sv57,
            hypervisor: false,
            extensions: Extensions::ALL,
        };
        let clock_for_vm: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let vm = Vm::new(config, Arc::new(TestMemory::new(1 << 20)), clock_for_vm, backends);
        Self { vm, clock, console, serial }
    }
}
