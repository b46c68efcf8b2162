//! Output on the SBI's debug console.

use core::fmt;

/// The console.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let (_, count) = crate::sbi::call(0x4442_434e, 0, [rest.len(), rest.as_ptr() as usize, 0]);
            if count == 0 {
                return Err(fmt::Error);
            }
            rest = &rest[count.min(rest.len())..];
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // Who can't print goes on.
        let _ = writeln!($crate::console::Console, $($argument)*);
    }};
}
