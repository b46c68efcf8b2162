//! A machine of one hart for tests of engines: set registers and memory, run until the guest waits, compare.
//!
//! A test writes a program that ends in `wfi`, prepares the state in [`Machine::hart`], and calls
//! [`Machine::run`]. With [`Pair`] the same is done by the translator and by the interpreter, whose states
//! must be the same afterwards.
#![allow(dead_code, reason = "each test uses its part")]

use std::cell::UnsafeCell;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rvisor_hart::{Exit, Hart};
use rvisor_isa::csr::mstatus;
use rvisor_machine::{Backends, Engine, Interpreter, TranslationMode, VirtualHart, Vm, VmConfig};
use rvisor_translator::{DirectMemory, Translator};
use rvisor_waist::{
    AtomicWidth, Clock, CodePages, ConsoleBackend, GuestMemory, GuestPhysical, OutOfRange, Word,
};

/// Where RAM begins.
pub const RAM: u64 = 0x8000_0000;
/// Bytes of RAM.
pub const RAM_SIZE: u64 = 4 << 20;

#[repr(align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);

/// RAM from [`RAM`] on.
pub struct Ram {
    pages: Box<[Page]>,
    code: CodePages,
    quad: Mutex<()>,
}

// SAFETY: the pages are reached through atomics and raw copies only.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// `size` bytes of zeroes, a multiple of the page size.
    pub fn new(size: u64) -> Self {
        Self {
            pages: (0..size / 4096).map(|_| Page(UnsafeCell::new([0; 4096]))).collect(),
            code: CodePages::new(GuestPhysical(RAM), size),
            quad: Mutex::new(()),
        }
    }

    fn at(&self, address: GuestPhysical, length: u64) -> Result<*mut u8, OutOfRange> {
        let size = self.pages.len() as u64 * 4096;
        let offset = address.0.wrapping_sub(RAM);
        if offset > size || length > size - offset {
            return Err(OutOfRange);
        }
        Ok(self.host_address().as_ptr().wrapping_add(offset as usize))
    }
}

// SAFETY: the pages stand one behind the other and are never moved.
unsafe impl DirectMemory for Ram {
    fn host_address(&self) -> NonNull<u8> {
        NonNull::from(&*self.pages).cast()
    }
}

impl GuestMemory for Ram {
    fn range(&self) -> Range<GuestPhysical> {
        GuestPhysical(RAM)..GuestPhysical(RAM + self.pages.len() as u64 * 4096)
    }

    fn load<T: Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        let at = self.at(address, T::SIZE)?;
        if !address.0.is_multiple_of(T::SIZE) {
            let mut bytes = [0; 8];
            self.read(address, &mut bytes[..T::SIZE as usize])?;
            return Ok(T::truncate(u64::from_le_bytes(bytes)));
        }
        // SAFETY: inside the pages and aligned.
        let value = unsafe {
            match T::SIZE {
                1 => AtomicU8::from_ptr(at).load(Ordering::Relaxed).into(),
                2 => AtomicU16::from_ptr(at.cast()).load(Ordering::Relaxed).into(),
                4 => AtomicU32::from_ptr(at.cast()).load(Ordering::Relaxed).into(),
                _ => AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed),
            }
        };
        Ok(T::truncate(value))
    }

    fn store<T: Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        let at = self.at(address, T::SIZE)?;
        let value = value.widen();
        if !address.0.is_multiple_of(T::SIZE) {
            return self.write(address, &value.to_le_bytes()[..T::SIZE as usize]);
        }
        self.code.note_write(address, T::SIZE);
        // SAFETY: inside the pages and aligned.
        unsafe {
            match T::SIZE {
                1 => AtomicU8::from_ptr(at).store(value as u8, Ordering::Relaxed),
                2 => AtomicU16::from_ptr(at.cast()).store(value as u16, Ordering::Relaxed),
                4 => AtomicU32::from_ptr(at.cast()).store(value as u32, Ordering::Relaxed),
                _ => AtomicU64::from_ptr(at.cast()).store(value, Ordering::Relaxed),
            }
        }
        self.code.note_write(address, T::SIZE);
        Ok(())
    }

    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        let size = if width == AtomicWidth::Word { 4 } else { 8 };
        let at = self.at(address, size)?;
        if !address.0.is_multiple_of(size) {
            return Err(OutOfRange);
        }
        self.code.note_write(address, size);
        let order = Ordering::SeqCst;
        // SAFETY: inside the pages and aligned.
        Ok(unsafe {
            if width == AtomicWidth::Word {
                let cell = AtomicU32::from_ptr(at.cast());
                cell.compare_exchange(expected as u32, new as u32, order, order)
                    .unwrap_or_else(|old| old)
                    .into()
            } else {
                let cell = AtomicU64::from_ptr(at.cast());
                cell.compare_exchange(expected, new, order, order).unwrap_or_else(|old| old)
            }
        })
    }

    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        expected: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        if !address.0.is_multiple_of(16) {
            return Err(OutOfRange);
        }
        let _lock = self.quad.lock();
        let mut found = [0; 16];
        self.read(address, &mut found)?;
        if u128::from_le_bytes(found) == expected {
            self.write(address, &new.to_le_bytes())?;
        }
        Ok(u128::from_le_bytes(found))
    }

    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let at = self.at(address, buffer.len() as u64)?;
        // SAFETY: inside the pages, and no slice is.
        unsafe { at.copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        let at = self.at(address, buffer.len() as u64)?;
        // SAFETY: inside the pages, and no slice is.
        unsafe { at.copy_from_nonoverlapping(buffer.as_ptr(), buffer.len()) };
        self.code.note_write(address, buffer.len() as u64);
        Ok(())
    }

    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        self.write(address, &vec![0; length as usize])
    }

    fn code_pages(&self) -> Option<&CodePages> {
        Some(&self.code)
    }
}

/// Time stands still.
struct StoppedClock;

impl Clock for StoppedClock {
    fn ticks(&self) -> u64 {
        0
    }

    fn wall_nanoseconds(&self) -> u64 {
        0
    }
}

struct NoConsole;

impl ConsoleBackend for NoConsole {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn read(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

/// A machine with one hart and the engine that runs it.
pub struct Machine {
    vm: Vm<Ram>,
    hart: VirtualHart,
    engine: Box<dyn Engine<Ram>>,
}

impl Machine {
    fn new(engine: Box<dyn Engine<Ram>>) -> Self {
        let config = VmConfig { harts: 1, machine_mode: true, translation: TranslationMode::Sv57 };
        let backends =
            Backends { serial: Box::new(NoConsole), sbi_console: Box::new(NoConsole), virtio: Vec::new() };
        let vm = Vm::new(config, Arc::new(Ram::new(RAM_SIZE)), Arc::new(StoppedClock), backends);
        Self { hart: VirtualHart::new(0, &vm), vm, engine }
    }

    /// One that the interpreter runs.
    pub fn interpreted() -> Self {
        Self::new(Box::new(Interpreter))
    }

    /// One that the translator runs.
    pub fn translated() -> Self {
        let shared =
            rvisor_translator::share::<Ram>(1, rvisor_translator::Options::default()).expect("room for code");
        Self::new(Box::new(Translator::new(&shared).expect("room for a stack")))
    }

    /// The hart's state: M-mode after reset, for the test to change.
    pub fn hart(&mut self) -> &mut Hart {
        &mut self.hart.hart
    }

    /// RAM.
    pub fn memory(&self) -> &Ram {
        self.vm.memory()
    }

    /// Writes code or data; code that may have been executed needs a [`Hart::fence_instructions`] as well.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory().write(GuestPhysical(address), bytes).expect("RAM");
    }

    /// Reads memory.
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory().read(GuestPhysical(address), &mut bytes).expect("RAM");
        bytes
    }

    /// Writes instructions of 32 bits, and makes them visible to fetches.
    pub fn write_code(&mut self, address: u64, code: &[u32]) {
        let bytes: Vec<_> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(address, &bytes);
        self.hart().fence_instructions();
    }

    /// Makes the hart start at `pc`, with floating point on and registers as they are.
    pub fn start(&mut self, pc: u64) {
        self.hart().pc = pc;
        self.hart().csr.mstatus |= mstatus::FS;
    }

    /// Runs for about `limit` instructions, or until an exit that isn't for the budget's sake.
    pub fn run(&mut self, limit: u64) -> Exit {
        let start = self.hart().retired;
        self.vm.harts()[0].clear_attention();
        // Every turn makes progress of some kind: an instruction or a trap.
        for _ in 0..=limit {
            let left = limit.saturating_sub(self.hart.hart.retired - start);
            if left == 0 {
                break;
            }
            match self.engine.run(&mut self.hart, &self.vm, left) {
                Exit::Budget => {}
                exit => return exit,
            }
        }
        Exit::Budget
    }
}

/// The same machine twice.
pub struct Pair {
    /// Under test.
    pub translated: Machine,
    /// The oracle.
    pub interpreted: Machine,
}

impl Pair {
    /// Two machines in the same state.
    pub fn new() -> Self {
        Self { translated: Machine::translated(), interpreted: Machine::interpreted() }
    }

    /// Prepares both in the same way.
    pub fn both(&mut self, mut prepare: impl FnMut(&mut Machine)) {
        prepare(&mut self.translated);
        prepare(&mut self.interpreted);
    }

    /// Runs both until the guest waits.
    ///
    /// # Panics
    /// If one doesn't within `limit` instructions, or they end in different states.
    pub fn run(&mut self, limit: u64) {
        self.both(|machine| assert_eq!(machine.run(limit), Exit::WaitForInterrupt));
        self.assert_same_state();
    }

    /// Compares all that the harts hold; memory is the test's to compare.
    pub fn assert_same_state(&mut self) {
        let (translated, interpreted) = (&self.translated.hart.hart, &self.interpreted.hart.hart);
        for register in 0..32 {
            let values = [translated.x[register], interpreted.x[register]];
            assert_eq!(values[0], values[1], "x{register}: {values:#x?} translated and interpreted");
            let values = [translated.f[register], interpreted.f[register]];
            assert_eq!(values[0], values[1], "f{register}: {values:#x?} translated and interpreted");
        }
        assert_eq!(translated.pc, interpreted.pc, "pc");
        assert_eq!(translated.privilege, interpreted.privilege);
        assert_eq!(translated.csr, interpreted.csr);
        assert_eq!(translated.retired, interpreted.retired, "instructions retired");
        assert_eq!(translated.reservation, interpreted.reservation);
    }
}
