//! Input from the serial line (a 16550A).

const BASE: usize = 0x1000_0000;
const DATA: usize = 0;
const INTERRUPTS: usize = 1;
const LINE_STATUS: usize = 5;

/// Its bit among the interrupt controller's sources.
pub const SOURCE: u32 = 1 << 10;

/// Has it interrupt when something was typed.
pub fn listen() {
    // SAFETY: a register of the UART, which takes any value.
    unsafe { ((BASE + INTERRUPTS) as *mut u8).write_volatile(1) };
}

/// What was typed.
pub fn read() -> Option<u8> {
    // SAFETY: reading the UART takes what it has received.
    unsafe {
        let is_there = ((BASE + LINE_STATUS) as *const u8).read_volatile() & 1 == 1;
        is_there.then(|| ((BASE + DATA) as *const u8).read_volatile())
    }
}
