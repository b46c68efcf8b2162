//! ACLINT: inter-processor interrupts and machine timers (RISC-V Advanced Core Local Interruptor
//! Specification 1.0).
//!
//! Three devices: [`Mswi`] and [`Mtimer`] (which, at offsets 0 and [`MTIMER_OFFSET`] of one window, are what
//! older kernels know as the SiFive CLINT) and [`Sswi`]. The timer has no wire: it hands each hart its
//! deadline, and the hart compares that with the clock.

mod persist;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use rvisor_waist::{Clock, Device, InterruptLine, OutOfRange, StateError, StateReader, StateWriter, Width};

use crate::word_index;

/// Bytes MSWI decodes: 4095 MSIP registers and a reserved one.
pub const MSWI_SIZE: u64 = 0x4000;
/// Where MTIMER stands behind MSWI's base in the layout of the SiFive CLINT.
pub const MTIMER_OFFSET: u64 = 0x4000;
/// Bytes MTIMER decodes: 4095 MTIMECMP registers, then MTIME.
pub const MTIMER_SIZE: u64 = 0x8000;
/// Bytes SSWI decodes.
pub const SSWI_SIZE: u64 = 0x4000;
/// The most harts that one ACLINT serves.
pub const MAX_HARTS: usize = 4095;

/// Offset of MTIME in MTIMER.
const MTIME: u64 = 0x7ff8;

/// Machine-level software interrupts ("MSWI Device"): a level per hart, held in bit 0 of its MSIP register.
pub struct Mswi {
    levels: Vec<bool>,
    outputs: Vec<Arc<dyn InterruptLine>>,
}

impl Mswi {
    /// An MSWI that drives `outputs[hart]`, the hart's `mip.MSIP`.
    #[must_use]
    pub fn new(outputs: Vec<Arc<dyn InterruptLine>>) -> Self {
        Self { levels: vec![false; outputs.len()], outputs }
    }
}

impl Device for Mswi {
    fn read(&mut self, offset: u64, width: Width) -> Result<u64, OutOfRange> {
        let hart = word_index(offset, width)?;
        Ok(self.levels.get(hart).copied().unwrap_or(false).into())
    }

    fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), OutOfRange> {
        let hart = word_index(offset, width)?;
        if let Some(level) = self.levels.get_mut(hart) {
            *level = value & 1 != 0;
            self.outputs[hart].set(*level);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.levels.fill(false);
        self.outputs.iter().for_each(|output| output.set(false));
    }

    fn save(&mut self, state: &mut StateWriter) -> Result<(), StateError> {
        self.save_state(state);
        Ok(())
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.restore_state(state)
    }
}

/// Supervisor-level software interrupts ("SSWI Device"): storing 1 to a hart's SETSSIP register sets its
/// `mip.SSIP`; the registers read zero.
pub struct Sswi {
    outputs: Vec<Arc<dyn InterruptLine>>,
}

impl Sswi {
    /// An SSWI that pulses `outputs[hart]` with `set(true)`. It never calls `set(false)`: who takes the
    /// interrupt clears it.
    #[must_use]
    pub fn new(outputs: Vec<Arc<dyn InterruptLine>>) -> Self {
        Self { outputs }
    }
}

impl Device for Sswi {
    fn read(&mut self, offset: u64, width: Width) -> Result<u64, OutOfRange> {
        word_index(offset, width).map(|_| 0)
    }

    fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), OutOfRange> {
        let hart = word_index(offset, width)?;
        if let Some(output) = self.outputs.get(hart).filter(|_| value & 1 != 0) {
            output.set(true);
        }
        Ok(())
    }

    fn reset(&mut self) {}

    fn save(&mut self, _state: &mut StateWriter) -> Result<(), StateError> {
        Ok(())
    }

    fn restore(&mut self, _state: &mut StateReader<'_>) -> Result<(), StateError> {
        Ok(())
    }
}

/// One hart's side of [`Mtimer`].
#[derive(Clone)]
pub struct Comparator {
    /// MTIMECMP in ticks: `mip.MTIP` is set while the clock is at or past it. `u64::MAX` after a reset.
    pub deadline: Arc<AtomicU64>,
    /// Called with `set(true)` after `deadline` changed.
    pub changed: Arc<dyn InterruptLine>,
}

impl Comparator {
    fn set(&self, deadline: u64) {
        self.deadline.store(deadline, Ordering::SeqCst);
        self.changed.set(true);
    }
}

/// Machine-level timers ("MTIMER Device"): MTIME and one MTIMECMP per hart, in words or doubles.
///
/// MTIME is the clock that the harts' `time` counters read too, so it can't be set: stores to it are ignored.
pub struct Mtimer {
    clock: Arc<dyn Clock>,
    comparators: Vec<Comparator>,
}

/// A register of [`Mtimer`].
enum TimerRegister {
    Time,
    Compare(usize),
}

impl Mtimer {
    /// An MTIMER that counts `clock` and reports the deadline of hart `i` in `comparators[i]`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, comparators: Vec<Comparator>) -> Self {
        let mut timer = Self { clock, comparators };
        timer.reset();
        timer
    }

    /// The register at `offset`, and by how many bits the access is shifted in it.
    fn decode(offset: u64, width: Width) -> Result<(TimerRegister, u32), OutOfRange> {
        if !matches!(width, Width::Word | Width::Double) || !offset.is_multiple_of(width.bytes()) {
            return Err(OutOfRange);
        }
        let shift = if offset.is_multiple_of(8) { 0 } else { 32 };
        let register = match offset & !7 {
            MTIME => TimerRegister::Time,
            compare => TimerRegister::Compare(usize::try_from(compare / 8).map_err(|_| OutOfRange)?),
        };
        Ok((register, shift))
    }
}

impl Device for Mtimer {
    fn read(&mut self, offset: u64, width: Width) -> Result<u64, OutOfRange> {
        let (register, shift) = Self::decode(offset, width)?;
        let value = match register {
            TimerRegister::Time => self.clock.ticks(),
            TimerRegister::Compare(hart) => {
                self.comparators.get(hart).map_or(0, |comparator| comparator.deadline.load(Ordering::SeqCst))
            }
        };
        Ok(width.truncate(value >> shift))
    }

    fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), OutOfRange> {
        let (register, shift) = Self::decode(offset, width)?;
        if let TimerRegister::Compare(hart) = register
            && let Some(comparator) = self.comparators.get(hart)
        {
            let mask = width.truncate(u64::MAX) << shift;
            let old = comparator.deadline.load(Ordering::SeqCst);
            comparator.set(old & !mask | value << shift & mask);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.comparators.iter().for_each(|comparator| comparator.set(u64::MAX));
    }

    fn save(&mut self, state: &mut StateWriter) -> Result<(), StateError> {
        self.save_state(state);
        Ok(())
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.restore_state(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::{ManualClock, Wire, hammer};

    fn wires(count: usize) -> (Vec<Arc<Wire>>, Vec<Arc<dyn InterruptLine>>) {
        let wires: Vec<Arc<Wire>> = (0..count).map(|_| Arc::default()).collect();
        let lines = wires.iter().map(|wire| wire.clone() as Arc<dyn InterruptLine>).collect();
        (wires, lines)
    }

    fn timer() -> (Mtimer, Arc<ManualClock>, Vec<Comparator>, Vec<Arc<Wire>>) {
        let clock = Arc::new(ManualClock::default());
        let (wires, lines) = wires(2);
        let comparators: Vec<_> =
            lines.into_iter().map(|changed| Comparator { deadline: Arc::default(), changed }).collect();
        (Mtimer::new(clock.clone(), comparators.clone()), clock, comparators, wires)
    }

    #[test]
    fn msip_bit_zero_drives_the_line_of_its_hart() {
        let (wires, lines) = wires(2);
        let mut mswi = Mswi::new(lines);
        mswi.write(4, Width::Word, 0xffff_ffff).unwrap();
        assert!(!wires[0].is_high() && wires[1].is_high());
        assert_eq!(mswi.read(4, Width::Word), Ok(1));
        mswi.write(4, Width::Word, 0xffff_fffe).unwrap();
        assert!(!wires[1].is_high());
    }

    #[test]
    fn msip_of_a_missing_hart_reads_zero() {
        let mut mswi = Mswi::new(wires(2).1);
        mswi.write(8, Width::Word, 1).unwrap();
        assert_eq!(mswi.read(8, Width::Word), Ok(0));
    }

    #[test]
    fn mswi_reset_lowers_the_lines() {
        let (wires, lines) = wires(1);
        let mut mswi = Mswi::new(lines);
        mswi.write(0, Width::Word, 1).unwrap();
        mswi.reset();
        assert!(!wires[0].is_high());
        assert_eq!(mswi.read(0, Width::Word), Ok(0));
    }

    #[test]
    fn setssip_pulses_on_one_only_and_reads_zero() {
        let (wires, lines) = wires(2);
        let mut sswi = Sswi::new(lines);
        sswi.write(4, Width::Word, 2).unwrap();
        assert_eq!(wires[1].times_driven(), 0);
        sswi.write(4, Width::Word, 1).unwrap();
        sswi.write(4, Width::Word, 1).unwrap();
        assert_eq!((wires[0].times_driven(), wires[1].times_driven()), (0, 2));
        assert_eq!(sswi.read(4, Width::Word), Ok(0));
    }

    #[test]
    fn mtime_follows_the_clock_and_ignores_stores() {
        let (mut timer, clock, ..) = timer();
        clock.ticks.store(0x1_2345_6789, Ordering::Relaxed);
        timer.write(MTIME, Width::Double, 0).unwrap();
        assert_eq!(timer.read(MTIME, Width::Double), Ok(0x1_2345_6789));
        assert_eq!(timer.read(MTIME, Width::Word), Ok(0x2345_6789));
        assert_eq!(timer.read(MTIME + 4, Width::Word), Ok(1));
    }

    #[test]
    fn mtimecmp_is_written_whole_or_in_halves_and_notifies_its_hart() {
        let (mut timer, _, comparators, wires) = timer();
        let before = wires[1].times_driven();
        timer.write(8, Width::Double, 0x1111_2222_3333_4444).unwrap();
        timer.write(12, Width::Word, 0xaaaa_bbbb).unwrap();
        timer.write(8, Width::Word, 0xcccc_dddd).unwrap();
        assert_eq!(comparators[1].deadline.load(Ordering::SeqCst), 0xaaaa_bbbb_cccc_dddd);
        assert_eq!(timer.read(8, Width::Double), Ok(0xaaaa_bbbb_cccc_dddd));
        assert_eq!(timer.read(12, Width::Word), Ok(0xaaaa_bbbb));
        assert_eq!(wires[1].times_driven(), before + 3);
    }

    #[test]
    fn mtimecmp_after_reset_is_never() {
        let (mut timer, _, comparators, _) = timer();
        timer.write(0, Width::Double, 5).unwrap();
        timer.reset();
        assert_eq!(comparators[0].deadline.load(Ordering::SeqCst), u64::MAX);
    }

    #[test]
    fn narrow_and_misaligned_accesses_fault() {
        let (mut timer, ..) = timer();
        assert_eq!(timer.read(0, Width::Half), Err(OutOfRange));
        assert_eq!(timer.write(4, Width::Double, 0), Err(OutOfRange));
        let mut mswi = Mswi::new(wires(1).1);
        assert_eq!(mswi.read(0, Width::Double), Err(OutOfRange));
        assert_eq!(mswi.write(2, Width::Word, 1), Err(OutOfRange));
    }

    #[test]
    fn random_accesses_never_panic() {
        hammer(&mut timer().0, MTIMER_SIZE);
        hammer(&mut Mswi::new(wires(2).1), MSWI_SIZE);
        hammer(&mut Sswi::new(wires(2).1), SSWI_SIZE);
    }
}
