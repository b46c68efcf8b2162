//! Goldfish real-time clock: nanoseconds since 1970, with one alarm.
//!
//! The guest may set the time; that moves an offset of its own, never the host's clock. The alarm goes off in
//! [`Device::poll`]: the home asks [`Rtc::alarm`] when that is due.

mod persist;

use alloc::sync::Arc;

use rvisor_waist::{Clock, Device, InterruptLine, OutOfRange, StateError, StateReader, StateWriter, Width};

use crate::word_index;

/// Bytes the device decodes.
pub const SIZE: u64 = 0x1000;

/// Registers, by index of their word.
mod register {
    /// Low half of the time; loading it latches the high half.
    pub const TIME_LOW: usize = 0;
    /// High half of the time that the last load of `TIME_LOW` saw.
    pub const TIME_HIGH: usize = 1;
    /// Low half of the alarm; storing it arms the alarm.
    pub const ALARM_LOW: usize = 2;
    /// High half of the alarm.
    pub const ALARM_HIGH: usize = 3;
    /// Bit 0: the alarm drives the interrupt line.
    pub const IRQ_ENABLED: usize = 4;
    /// Any store disarms the alarm.
    pub const CLEAR_ALARM: usize = 5;
    /// 1 while the alarm is armed.
    pub const ALARM_STATUS: usize = 6;
    /// Any store acknowledges the interrupt.
    pub const CLEAR_INTERRUPT: usize = 7;
}

/// The real-time clock.
pub struct Rtc {
    clock: Arc<dyn Clock>,
    line: Arc<dyn InterruptLine>,
    /// What the guest's time is ahead of the host's, modulo 2^64.
    offset: u64,
    latched_high: u32,
    alarm: u64,
    armed: bool,
    enabled: bool,
    pending: bool,
}

fn with_low(value: u64, low: u32) -> u64 {
    value >> 32 << 32 | u64::from(low)
}

fn with_high(value: u64, high: u32) -> u64 {
    value & 0xffff_ffff | u64::from(high) << 32
}

impl Rtc {
    /// A clock that shows `clock`'s wall time and drives `line`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, line: Arc<dyn InterruptLine>) -> Self {
        Self {
            clock,
            line,
            offset: 0,
            latched_high: 0,
            alarm: 0,
            armed: false,
            enabled: false,
            pending: false,
        }
    }

    /// When the alarm is due, in nanoseconds of the home's [`Clock::wall_nanoseconds`]; `None` while it isn't
    /// armed.
    #[must_use]
    pub fn alarm(&self) -> Option<u64> {
        self.armed.then(|| self.alarm.wrapping_sub(self.offset))
    }

    fn now(&self) -> u64 {
        self.clock.wall_nanoseconds().wrapping_add(self.offset)
    }

    fn set_time(&mut self, time: u64) {
        self.offset = time.wrapping_sub(self.clock.wall_nanoseconds());
    }

    /// Fires the alarm if it is due, and drives the line.
    fn update(&mut self) {
        if self.armed && self.now() >= self.alarm {
            self.armed = false;
            self.pending = true;
        }
        self.line.set(self.enabled && self.pending);
    }
}

impl Device for Rtc {
    fn read(&mut self, offset: u64, width: Width) -> Result<u64, OutOfRange> {
        use register::*;
        Ok(match word_index(offset, width)? {
            TIME_LOW => {
                let now = self.now();
                self.latched_high = (now >> 32) as u32;
                now & 0xffff_ffff
            }
            TIME_HIGH => self.latched_high.into(),
            ALARM_LOW => self.alarm & 0xffff_ffff,
            ALARM_HIGH => self.alarm >> 32,
            IRQ_ENABLED => self.enabled.into(),
            ALARM_STATUS => self.armed.into(),
            _ => 0,
        })
    }

    fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), OutOfRange> {
        use register::*;
        let index = word_index(offset, width)?;
        let value = value as u32;
        match index {
            TIME_LOW => self.set_time(with_low(self.now(), value)),
            TIME_HIGH => self.set_time(with_high(self.now(), value)),
            ALARM_LOW => {
                self.alarm = with_low(self.alarm, value);
                self.armed = true;
            }
            ALARM_HIGH => self.alarm = with_high(self.alarm, value),
            IRQ_ENABLED => self.enabled = value & 1 != 0,
            CLEAR_ALARM => self.armed = false,
            CLEAR_INTERRUPT => self.pending = false,
            _ => return Ok(()),
        }
        self.update();
        Ok(())
    }

    fn poll(&mut self) {
        self.update();
    }

    /// The time that the guest has set survives, as in a clock with a battery.
    fn reset(&mut self) {
        self.latched_high = 0;
        self.alarm = 0;
        self.armed = false;
        self.enabled = false;
        self.pending = false;
        self.update();
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
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::test_utils::{ManualClock, Wire, hammer};

    struct Bench {
        rtc: Rtc,
        clock: Arc<ManualClock>,
        wire: Arc<Wire>,
    }

    impl Bench {
        fn at(nanoseconds: u64) -> Self {
            let (clock, wire) = (Arc::new(ManualClock::default()), Arc::new(Wire::default()));
            clock.nanoseconds.store(nanoseconds, Relaxed);
            Self { rtc: Rtc::new(clock.clone(), wire.clone()), clock, wire }
        }

        fn read(&mut self, register: usize) -> u64 {
            self.rtc.read(4 * register as u64, Width::Word).unwrap()
        }

        fn write(&mut self, register: usize, value: u64) {
            self.rtc.write(4 * register as u64, Width::Word, value).unwrap();
        }
    }

    #[test]
    fn loading_the_low_half_latches_the_high_half() {
        let mut bench = Bench::at(0x1_ffff_ffff);
        assert_eq!(bench.read(register::TIME_LOW), 0xffff_ffff);
        bench.clock.nanoseconds.store(0x2_0000_0000, Relaxed);
        assert_eq!(bench.read(register::TIME_HIGH), 1);
        assert_eq!(bench.read(register::TIME_LOW), 0);
        assert_eq!(bench.read(register::TIME_HIGH), 2);
    }

    #[test]
    fn time_set_by_the_guest_goes_on_from_there() {
        let mut bench = Bench::at(1_000);
        bench.write(register::TIME_HIGH, 7);
        bench.write(register::TIME_LOW, 50);
        bench.clock.nanoseconds.store(1_030, Relaxed);
        assert_eq!(bench.read(register::TIME_LOW), 80);
        assert_eq!(bench.read(register::TIME_HIGH), 7);
    }

    #[test]
    fn alarm_fires_once_due_and_is_acknowledged() {
        let mut bench = Bench::at(100);
        bench.write(register::ALARM_HIGH, 0);
        bench.write(register::ALARM_LOW, 200);
        bench.write(register::IRQ_ENABLED, 1);
        assert_eq!((bench.read(register::ALARM_STATUS), bench.rtc.alarm()), (1, Some(200)));
        bench.rtc.poll();
        assert!(!bench.wire.is_high());
        bench.clock.nanoseconds.store(200, Relaxed);
        bench.rtc.poll();
        assert!(bench.wire.is_high());
        assert_eq!((bench.read(register::ALARM_STATUS), bench.rtc.alarm()), (0, None));
        bench.write(register::CLEAR_INTERRUPT, 1);
        assert!(!bench.wire.is_high());
    }

    #[test]
    fn alarm_in_the_past_fires_at_once() {
        let mut bench = Bench::at(100);
        bench.write(register::IRQ_ENABLED, 1);
        bench.write(register::ALARM_LOW, 99);
        assert!(bench.wire.is_high());
    }

    #[test]
    fn cleared_or_masked_alarm_does_not_interrupt() {
        let mut bench = Bench::at(100);
        bench.write(register::ALARM_LOW, 200);
        bench.write(register::CLEAR_ALARM, 1);
        bench.write(register::IRQ_ENABLED, 1);
        bench.clock.nanoseconds.store(300, Relaxed);
        bench.rtc.poll();
        assert!(!bench.wire.is_high());
        bench.write(register::IRQ_ENABLED, 0);
        bench.write(register::ALARM_LOW, 250);
        assert!(!bench.wire.is_high());
        bench.write(register::IRQ_ENABLED, 1);
        assert!(bench.wire.is_high());
    }

    #[test]
    fn accesses_other_than_aligned_words_fault() {
        let mut bench = Bench::at(0);
        assert_eq!(bench.rtc.read(0, Width::Double), Err(OutOfRange));
        assert_eq!(bench.rtc.write(2, Width::Word, 0), Err(OutOfRange));
    }

    #[test]
    fn random_accesses_never_panic() {
        hammer(&mut Bench::at(5).rtc, SIZE);
    }
}
