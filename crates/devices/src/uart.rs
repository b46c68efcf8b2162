//! UART 16550A: a serial line with 16-byte FIFOs (National Semiconductor PC16550D data sheet).
//!
//! Bytes take no time: what the guest transmits goes to the back end at once or, while that is full, waits in
//! the FIFO. Divisor, word length and parity are stored and mean nothing. Received bytes below the trigger
//! level raise the time-out interrupt at once rather than after four character times.

mod persist;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

use rvisor_waist::{
    ConsoleBackend, Device, InterruptLine, OutOfRange, StateError, StateReader, StateWriter, Width,
};

/// Bytes the device decodes; registers are bytes, the first eight of these.
pub const SIZE: u64 = 0x100;
/// Input clock in Hz, for the device tree: 16 times 230400 baud.
pub const CLOCK_FREQUENCY: u32 = 3_686_400;

/// Bytes in each FIFO.
const FIFO_DEPTH: usize = 16;
/// Divisor after power-on: 115200 baud.
const DEFAULT_DIVISOR: u16 = (CLOCK_FREQUENCY / (16 * 115_200)) as u16;

/// Register offsets. 0 and 1 are the divisor latch while LCR.DLAB is set.
mod register {
    /// RBR (load) and THR (store), or DLL.
    pub const DATA: u64 = 0;
    /// IER, or DLM.
    pub const INTERRUPT_ENABLE: u64 = 1;
    /// IIR (load) and FCR (store).
    pub const INTERRUPT_ID: u64 = 2;
    pub const LINE_CONTROL: u64 = 3;
    pub const MODEM_CONTROL: u64 = 4;
    pub const LINE_STATUS: u64 = 5;
    pub const MODEM_STATUS: u64 = 6;
    pub const SCRATCH: u64 = 7;
}

/// Bits of IER.
mod enable {
    pub const RECEIVED: u8 = 1 << 0;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    pub const ALL: u8 = 0x0f;
}

/// Values of IIR bits 3:0, and its upper bits.
mod id {
    pub const MODEM_STATUS: u8 = 0x0;
    pub const NONE: u8 = 0x1;
    pub const TRANSMITTER_EMPTY: u8 = 0x2;
    pub const RECEIVED: u8 = 0x4;
    pub const LINE_STATUS: u8 = 0x6;
    pub const TIME_OUT: u8 = 0xc;
    pub const FIFOS_ENABLED: u8 = 0xc0;
}

/// Bits of FCR.
mod fifo {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RECEIVE: u8 = 1 << 1;
    pub const CLEAR_TRANSMIT: u8 = 1 << 2;
    /// Receive trigger levels, by bits 7:6.
    pub const TRIGGERS: [usize; 4] = [1, 4, 8, 14];
}

/// LCR: the first two offsets are the divisor latch.
const DIVISOR_LATCH_ACCESS: u8 = 1 << 7;

/// Bits of MCR.
mod modem_control {
    /// The order of bits in which DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD in loopback.
    pub const LOOPED_TO: [u8; 4] =
        [super::status::DSR, super::status::CTS, super::status::RI, super::status::DCD];
    pub const LOOPBACK: u8 = 1 << 4;
    pub const ALL: u8 = 0x1f;
}

/// Bits of LSR and MSR.
mod status {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
}

/// What the guest can set, and what follows from it.
#[derive(Default)]
struct State {
    divisor: u16,
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    receive: VecDeque<u8>,
    transmit: VecDeque<u8>,
    overrun: bool,
    /// Bits 3:0 of MSR: what changed since it was last loaded.
    modem_changes: u8,
    /// The transmitter became empty, and the guest doesn't know yet.
    transmitter_empty: bool,
}

/// The serial line.
pub struct Uart {
    backend: Box<dyn ConsoleBackend>,
    line: Arc<dyn InterruptLine>,
    /// Level of `line`.
    level: bool,
    state: State,
}

impl State {
    fn power_on() -> Self {
        Self { divisor: DEFAULT_DIVISOR, ..Self::default() }
    }

    fn fifos_enabled(&self) -> bool {
        self.fifo_control & fifo::ENABLE != 0
    }

    /// Bytes that fit in each direction.
    fn depth(&self) -> usize {
        if self.fifos_enabled() { FIFO_DEPTH } else { 1 }
    }

    fn trigger(&self) -> usize {
        if self.fifos_enabled() { fifo::TRIGGERS[usize::from(self.fifo_control >> 6)] } else { 1 }
    }

    fn divisor_latch_access(&self) -> bool {
        self.line_control & DIVISOR_LATCH_ACCESS != 0
    }

    fn loopback(&self) -> bool {
        self.modem_control & modem_control::LOOPBACK != 0
    }

    /// Bits 7:4 of MSR. Outside loopback somebody is always there and ready.
    fn modem_inputs(&self) -> u8 {
        if !self.loopback() {
            return status::CTS | status::DSR | status::DCD;
        }
        let looped = modem_control::LOOPED_TO.iter().enumerate();
        looped.map(|(output, input)| (self.modem_control >> output & 1) * input).sum()
    }

    fn set_modem_control(&mut self, value: u8) {
        let before = self.modem_inputs();
        self.modem_control = value & modem_control::ALL;
        let after = self.modem_inputs();
        // The ring indicator counts only when it ends.
        let changed = (before ^ after) & !status::RI | before & !after & status::RI;
        self.modem_changes |= changed >> 4;
    }

    /// IIR bits 3:0: the most urgent of the enabled interrupts (table "Interrupt Control Functions").
    fn interrupt(&self) -> u8 {
        let sources = [
            (enable::LINE_STATUS, self.overrun, id::LINE_STATUS),
            (enable::RECEIVED, self.receive.len() >= self.trigger(), id::RECEIVED),
            (enable::RECEIVED, !self.receive.is_empty(), id::TIME_OUT),
            (enable::TRANSMITTER_EMPTY, self.transmitter_empty, id::TRANSMITTER_EMPTY),
            (enable::MODEM_STATUS, self.modem_changes != 0, id::MODEM_STATUS),
        ];
        let pending = sources.iter().find(|(bit, pending, _)| *pending && self.interrupt_enable & bit != 0);
        pending.map_or(id::NONE, |(_, _, id)| *id)
    }

    fn line_status(&self) -> u8 {
        let bits = [
            (!self.receive.is_empty(), status::DATA_READY),
            (self.overrun, status::OVERRUN),
            (self.transmit.is_empty(), status::TRANSMITTER_EMPTY),
        ];
        bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum()
    }

    fn set_interrupt_enable(&mut self, value: u8) {
        let turned_on = value & !self.interrupt_enable;
        if turned_on & enable::TRANSMITTER_EMPTY != 0 && self.transmit.is_empty() {
            self.transmitter_empty = true;
        }
        self.interrupt_enable = value & enable::ALL;
    }

    fn set_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & fifo::ENABLE != 0;
        let enabled = value & fifo::ENABLE != 0;
        // The other bits count only together with the enable bit.
        self.fifo_control = if enabled { value } else { 0 };
        if toggled || enabled && value & fifo::CLEAR_RECEIVE != 0 {
            self.receive.clear();
        }
        if (toggled || enabled && value & fifo::CLEAR_TRANSMIT != 0) && !self.transmit.is_empty() {
            self.transmit.clear();
            self.transmitter_empty = true;
        }
    }
}

impl Uart {
    /// A UART whose serial line is `backend` and whose interrupt drives `line`.
    #[must_use]
    pub fn new(backend: Box<dyn ConsoleBackend>, line: Arc<dyn InterruptLine>) -> Self {
        Self { backend, line, level: false, state: State::power_on() }
    }

    /// Takes input as far as the FIFO has room: none is ever lost.
    fn pull_input(&mut self) {
        if self.state.loopback() {
            return;
        }
        let mut buffer = [0; FIFO_DEPTH];
        let room = self.state.depth().saturating_sub(self.state.receive.len());
        let count = self.backend.read(&mut buffer[..room]).min(room);
        self.state.receive.extend(&buffer[..count]);
    }

    fn push_output(&mut self) {
        if self.state.transmit.is_empty() {
            return;
        }
        let bytes = self.state.transmit.make_contiguous();
        let taken = self.backend.write(bytes).min(bytes.len());
        self.state.transmit.drain(..taken);
        self.state.transmitter_empty |= self.state.transmit.is_empty();
    }

    /// Stores to THR. A byte for which there is no room is lost, as on the hardware.
    fn transmit(&mut self, byte: u8) {
        self.state.transmitter_empty = false;
        if self.state.loopback() {
            if self.state.receive.len() < self.state.depth() {
                self.state.receive.push_back(byte);
            } else {
                self.state.overrun = true;
            }
            self.state.transmitter_empty = self.state.transmit.is_empty();
        } else {
            if self.state.transmit.len() < self.state.depth() {
                self.state.transmit.push_back(byte);
            }
            self.push_output();
        }
    }

    /// Loads from RBR.
    fn receive(&mut self) -> u8 {
        let byte = self.state.receive.pop_front().unwrap_or(0);
        if self.state.receive.is_empty() {
            self.pull_input();
        }
        byte
    }

    fn load(&mut self, register: u64) -> u8 {
        use register::*;
        let [divisor_low, divisor_high] = self.state.divisor.to_le_bytes();
        match register {
            DATA if self.state.divisor_latch_access() => divisor_low,
            DATA => self.receive(),
            INTERRUPT_ENABLE if self.state.divisor_latch_access() => divisor_high,
            INTERRUPT_ENABLE => self.state.interrupt_enable,
            INTERRUPT_ID => {
                let interrupt = self.state.interrupt();
                if interrupt == id::TRANSMITTER_EMPTY {
                    self.state.transmitter_empty = false;
                }
                interrupt | if self.state.fifos_enabled() { id::FIFOS_ENABLED } else { 0 }
            }
            LINE_CONTROL => self.state.line_control,
            MODEM_CONTROL => self.state.modem_control,
            LINE_STATUS => {
                let status = self.state.line_status();
                self.state.overrun = false;
                status
            }
            MODEM_STATUS => self.state.modem_inputs() | core::mem::take(&mut self.state.modem_changes),
            SCRATCH => self.state.scratch,
            _ => 0,
        }
    }

    fn store(&mut self, register: u64, value: u8) {
        use register::*;
        let [divisor_low, divisor_high] = self.state.divisor.to_le_bytes();
        match register {
            DATA if self.state.divisor_latch_access() => {
                self.state.divisor = u16::from_le_bytes([value, divisor_high]);
            }
            DATA => self.transmit(value),
            INTERRUPT_ENABLE if self.state.divisor_latch_access() => {
                self.state.divisor = u16::from_le_bytes([divisor_low, value]);
            }
            INTERRUPT_ENABLE => self.state.set_interrupt_enable(value),
            INTERRUPT_ID => {
                self.state.set_fifo_control(value);
                self.pull_input();
            }
            LINE_CONTROL => self.state.line_control = value,
            MODEM_CONTROL => {
                self.state.set_modem_control(value);
                self.pull_input();
            }
            SCRATCH => self.state.scratch = value,
            // The status registers are read-only.
            _ => {}
        }
    }

    fn drive_line(&mut self) {
        let level = self.state.interrupt() != id::NONE;
        if level != self.level {
            self.level = level;
            self.line.set(level);
        }
    }
}

impl Device for Uart {
    /// The bus is eight bits wide: whatever the width, one register answers.
    fn read(&mut self, offset: u64, _width: Width) -> Result<u64, OutOfRange> {
        let value = self.load(offset);
        self.drive_line();
        Ok(value.into())
    }

    fn write(&mut self, offset: u64, _width: Width, value: u64) -> Result<(), OutOfRange> {
        self.store(offset, value as u8);
        self.drive_line();
        Ok(())
    }

    fn poll(&mut self) {
        self.push_output();
        self.pull_input();
        self.drive_line();
    }

    fn reset(&mut self) {
        self.state = State::power_on();
        self.drive_line();
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
    use super::register::*;
    use super::*;
    use crate::test_utils::{SharedTerminal, Wire, hammer};

    struct Bench {
        uart: Uart,
        terminal: SharedTerminal,
        wire: Arc<Wire>,
    }

    impl Bench {
        fn new() -> Self {
            let (terminal, wire) = (SharedTerminal::new(), Arc::new(Wire::default()));
            let uart = Uart::new(Box::new(terminal.clone()), wire.clone());
            Self { uart, terminal, wire }
        }

        fn with_fifos() -> Self {
            let mut bench = Self::new();
            bench.store(INTERRUPT_ID, fifo::ENABLE);
            bench
        }

        fn load(&mut self, register: u64) -> u8 {
            self.uart.read(register, Width::Byte).unwrap() as u8
        }

        fn store(&mut self, register: u64, value: u8) {
            self.uart.write(register, Width::Byte, value.into()).unwrap();
        }

        fn type_in(&mut self, bytes: &[u8]) {
            self.terminal.0.lock().input.extend(bytes);
            self.uart.poll();
        }

        fn set_room(&mut self, room: usize) {
            self.terminal.0.lock().room = room;
            self.uart.poll();
        }

        fn output(&self) -> alloc::vec::Vec<u8> {
            self.terminal.0.lock().output.clone()
        }
    }

    #[test]
    fn transmitted_bytes_reach_the_back_end() {
        let mut bench = Bench::new();
        b"hello".iter().for_each(|byte| bench.store(DATA, *byte));
        assert_eq!(bench.output(), b"hello");
        assert_eq!(bench.load(LINE_STATUS), status::TRANSMITTER_EMPTY);
    }

    #[test]
    fn output_waits_in_the_fifo_while_the_back_end_is_full() {
        let mut bench = Bench::with_fifos();
        bench.set_room(0);
        (0..20).for_each(|byte| bench.store(DATA, byte));
        assert_eq!(bench.load(LINE_STATUS), 0);
        bench.set_room(5);
        assert_eq!(bench.load(LINE_STATUS), 0);
        bench.set_room(100);
        assert_eq!(bench.load(LINE_STATUS), status::TRANSMITTER_EMPTY);
        // The four that found no room are lost.
        assert_eq!(bench.output(), (0..16).collect::<alloc::vec::Vec<u8>>());
    }

    #[test]
    fn transmitter_interrupt_is_raised_when_enabled_and_when_emptied() {
        let mut bench = Bench::with_fifos();
        bench.store(INTERRUPT_ENABLE, enable::TRANSMITTER_EMPTY);
        assert!(bench.wire.is_high());
        assert_eq!(bench.load(INTERRUPT_ID), id::FIFOS_ENABLED | id::TRANSMITTER_EMPTY);
        assert!(!bench.wire.is_high());
        assert_eq!(bench.load(INTERRUPT_ID), id::FIFOS_ENABLED | id::NONE);
        bench.set_room(0);
        bench.store(DATA, b'x');
        assert!(!bench.wire.is_high());
        bench.set_room(1);
        assert!(bench.wire.is_high());
    }

    #[test]
    fn enabling_the_transmitter_interrupt_again_raises_it_again() {
        let mut bench = Bench::new();
        for _ in 0..2 {
            bench.store(INTERRUPT_ENABLE, enable::TRANSMITTER_EMPTY);
            assert_eq!(bench.load(INTERRUPT_ID), id::TRANSMITTER_EMPTY);
            bench.store(INTERRUPT_ENABLE, 0);
        }
    }

    #[test]
    fn received_bytes_interrupt_until_read() {
        let mut bench = Bench::new();
        bench.store(INTERRUPT_ENABLE, enable::RECEIVED);
        bench.type_in(b"ab");
        assert!(bench.wire.is_high());
        assert_eq!(bench.load(INTERRUPT_ID), id::RECEIVED);
        assert_eq!(bench.load(LINE_STATUS) & status::DATA_READY, status::DATA_READY);
        assert_eq!([bench.load(DATA), bench.load(DATA)], *b"ab");
        assert!(!bench.wire.is_high());
        assert_eq!(bench.load(LINE_STATUS) & status::DATA_READY, 0);
        assert_eq!(bench.load(DATA), 0);
    }

    #[test]
    fn below_the_trigger_level_the_time_out_interrupts() {
        let mut bench = Bench::new();
        bench.store(INTERRUPT_ID, fifo::ENABLE | 0b10 << 6);
        bench.store(INTERRUPT_ENABLE, enable::RECEIVED);
        bench.type_in(b"1234567");
        assert_eq!(bench.load(INTERRUPT_ID), id::FIFOS_ENABLED | id::TIME_OUT);
        bench.type_in(b"8");
        assert_eq!(bench.load(INTERRUPT_ID), id::FIFOS_ENABLED | id::RECEIVED);
    }

    #[test]
    fn input_longer_than_the_fifo_is_not_lost() {
        let mut bench = Bench::with_fifos();
        let text: alloc::vec::Vec<u8> = (0..100).collect();
        bench.type_in(&text);
        let mut read = alloc::vec::Vec::new();
        while bench.load(LINE_STATUS) & status::DATA_READY != 0 {
            read.push(bench.load(DATA));
        }
        assert_eq!(read, text);
    }

    #[test]
    fn divisor_latch_hides_data_and_interrupt_enable() {
        let mut bench = Bench::new();
        bench.store(INTERRUPT_ENABLE, enable::RECEIVED);
        bench.store(LINE_CONTROL, DIVISOR_LATCH_ACCESS | 3);
        bench.store(DATA, 0x34);
        bench.store(INTERRUPT_ENABLE, 0x12);
        assert_eq!([bench.load(DATA), bench.load(INTERRUPT_ENABLE)], [0x34, 0x12]);
        bench.store(LINE_CONTROL, 3);
        assert_eq!([bench.load(LINE_CONTROL), bench.load(INTERRUPT_ENABLE)], [3, enable::RECEIVED]);
        assert!(bench.output().is_empty());
    }

    #[test]
    fn loopback_returns_data_and_modem_lines() {
        let mut bench = Bench::new();
        bench.store(MODEM_CONTROL, modem_control::LOOPBACK | 0b1010);
        bench.type_in(b"from outside");
        bench.store(DATA, b'x');
        assert_eq!(bench.load(DATA), b'x');
        assert_eq!(bench.load(LINE_STATUS) & status::DATA_READY, 0);
        assert_eq!(bench.load(MODEM_STATUS) & 0xf0, status::CTS | status::DCD);
        assert!(bench.output().is_empty());
        bench.store(MODEM_CONTROL, 0);
        assert_eq!(bench.load(DATA), b'f');
    }

    #[test]
    fn loopback_overrun_is_a_line_status_interrupt() {
        let mut bench = Bench::new();
        bench.store(INTERRUPT_ENABLE, enable::LINE_STATUS);
        bench.store(MODEM_CONTROL, modem_control::LOOPBACK);
        bench.store(DATA, b'1');
        assert!(!bench.wire.is_high());
        bench.store(DATA, b'2');
        assert_eq!(bench.load(INTERRUPT_ID), id::LINE_STATUS);
        assert_eq!(bench.load(LINE_STATUS) & status::OVERRUN, status::OVERRUN);
        assert!(!bench.wire.is_high());
        assert_eq!(bench.load(DATA), b'1');
    }

    #[test]
    fn modem_changes_interrupt_until_modem_status_is_read() {
        let mut bench = Bench::new();
        bench.store(MODEM_CONTROL, modem_control::LOOPBACK | 1 << 2);
        bench.load(MODEM_STATUS);
        bench.store(INTERRUPT_ENABLE, enable::MODEM_STATUS);
        assert!(!bench.wire.is_high());
        bench.store(MODEM_CONTROL, modem_control::LOOPBACK);
        assert!(bench.wire.is_high());
        assert_eq!(bench.load(INTERRUPT_ID), id::MODEM_STATUS);
        assert_eq!(bench.load(MODEM_STATUS), status::RI >> 4);
        assert!(!bench.wire.is_high());
        bench.store(MODEM_CONTROL, modem_control::LOOPBACK | 1 << 2);
        assert_eq!(bench.load(MODEM_STATUS), status::RI);
    }

    #[test]
    fn toggling_the_fifos_clears_them() {
        let mut bench = Bench::with_fifos();
        bench.type_in(b"0123456789abcdef");
        bench.store(INTERRUPT_ID, 0);
        assert_eq!(bench.load(LINE_STATUS) & status::DATA_READY, 0);
        assert_eq!(bench.load(INTERRUPT_ID), id::NONE);
    }

    #[test]
    fn clearing_the_transmit_fifo_empties_the_transmitter() {
        let mut bench = Bench::with_fifos();
        bench.set_room(0);
        bench.store(INTERRUPT_ENABLE, enable::TRANSMITTER_EMPTY);
        bench.store(DATA, b'x');
        assert!(!bench.wire.is_high());
        bench.store(INTERRUPT_ID, fifo::ENABLE | fifo::CLEAR_TRANSMIT);
        assert!(bench.wire.is_high());
        bench.set_room(10);
        assert!(bench.output().is_empty());
    }

    #[test]
    fn scratch_holds_what_is_stored_and_reserved_bits_read_zero() {
        let mut bench = Bench::new();
        for register in [INTERRUPT_ENABLE, MODEM_CONTROL, SCRATCH, 8, 0xff] {
            bench.store(register, 0xff);
        }
        assert_eq!(bench.load(INTERRUPT_ENABLE), enable::ALL);
        assert_eq!(bench.load(MODEM_CONTROL), modem_control::ALL);
        assert_eq!([bench.load(SCRATCH), bench.load(8), bench.load(0xff)], [0xff, 0, 0]);
    }

    #[test]
    fn wide_access_reaches_one_register() {
        let mut bench = Bench::new();
        bench.uart.write(SCRATCH, Width::Word, 0x1234_5678).unwrap();
        assert_eq!(bench.uart.read(SCRATCH, Width::Double), Ok(0x78));
    }

    #[test]
    fn reset_forgets_registers_and_lowers_the_line() {
        let mut bench = Bench::new();
        bench.store(INTERRUPT_ENABLE, enable::ALL);
        bench.store(SCRATCH, 1);
        bench.uart.reset();
        assert!(!bench.wire.is_high());
        assert_eq!([bench.load(INTERRUPT_ENABLE), bench.load(SCRATCH)], [0, 0]);
    }

    #[test]
    fn random_accesses_never_panic() {
        let mut bench = Bench::new();
        bench.type_in(&[7; 1000]);
        bench.terminal.0.lock().room = 3;
        hammer(&mut bench.uart, SIZE);
    }
}
