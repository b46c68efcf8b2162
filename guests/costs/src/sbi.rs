//! The firmware: output, power (SBI specification 2.0).

use core::arch::asm;
use core::fmt;

/// One call, of two arguments; `a1` of the answer.
pub fn call(extension: usize, function: usize, arguments: [usize; 2]) -> usize {
    let mut value = arguments[1];
    // SAFETY: the firmware keeps all registers but a0 and a1, and the calls made here touch no memory.
    unsafe {
        asm!("ecall", inlateout("a0") arguments[0] => _, inlateout("a1") value,
            in("a6") function, in("a7") extension, options(nostack));
    }
    value
}

/// `sbi_get_spec_version`: the cheapest call there is.
pub fn specification_version() -> usize {
    call(0x10, 0, [0, 0])
}

/// Switches the machine off.
pub fn shut_down() -> ! {
    const SYSTEM_RESET: usize = 0x5352_5354;
    call(SYSTEM_RESET, 0, [0, 0]);
    loop {
        core::hint::spin_loop();
    }
}

/// The console.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const PUTCHAR: usize = 1;
        text.bytes().for_each(|byte| {
            call(PUTCHAR, 0, [byte.into(), 0]);
        });
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // The console never fails.
        let _ = write!($crate::sbi::Console, $($argument)*);
        let _ = $crate::sbi::Console.write_str("\r\n");
    }};
}
