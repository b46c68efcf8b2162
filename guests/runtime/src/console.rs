//! Output on the serial line, polled.

use core::fmt;

use crate::board::UART;

/// The serial line. Writing sets it up anew, whatever state it was left in.
pub struct Console;

const INTERRUPT_ENABLE: usize = 1;
const LINE_CONTROL: usize = 3;
const MODEM_CONTROL: usize = 4;
const LINE_STATUS: usize = 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

fn register(offset: usize) -> *mut u8 {
    (UART + offset) as *mut u8
}

/// Eight bits, no divisor latch, no interrupts, no loopback.
pub fn set_up() {
    // SAFETY: registers of the UART, of which nobody else minds the state.
    unsafe {
        register(LINE_CONTROL).write_volatile(3);
        register(INTERRUPT_ENABLE).write_volatile(0);
        register(MODEM_CONTROL).write_volatile(0);
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: registers of the UART.
            unsafe {
                while register(LINE_STATUS).read_volatile() & TRANSMITTER_EMPTY == 0 {}
                register(0).write_volatile(byte);
            }
        }
        Ok(())
    }
}

/// Prints a line on the serial line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        $crate::console::set_up();
        // The console never fails.
        let _ = writeln!($crate::console::Console, $($argument)*);
    }};
}
