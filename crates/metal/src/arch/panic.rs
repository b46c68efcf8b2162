//! The monitor's own end: a message, the way to it, power off.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::assembly as asm;
use super::console::{self, Line};
use super::layout::DIRECT_MAP;
use super::paging::image_ends;
use super::{layout, sbi};

/// The hart that ends the monitor; all ones until then.
static ENDING: AtomicUsize = AtomicUsize::new(usize::MAX);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    end(format_args!("{info}"), asm::frame_pointer())
}

/// A trap of the monitor itself.
#[unsafe(no_mangle)]
extern "C" fn monitor_exception(cause: u64, pc: u64, value: u64, frame: u64) -> ! {
    end(format_args!("trap {cause} at {pc:#x}, value {value:#x}"), frame)
}

fn end(what: core::fmt::Arguments<'_>, frame: u64) -> ! {
    let here = asm::current_hart();
    match ENDING.compare_exchange(usize::MAX, here, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        // Even the message fails.
        Err(hart) if hart == here => sbi::shut_down(true),
        Err(_) => loop {
            asm::wait_for_interrupt();
        },
    }
    console::release();
    let _ = writeln!(Line, "\nrvisor: the monitor failed on hart {here}: {what}");
    backtrace(frame);
    sbi::shut_down(true)
}

/// Follows the frame pointers. Addresses are those of the image, for `addr2line`.
fn backtrace(mut frame: u64) {
    const FRAMES: usize = 32;
    let text = layout::IMAGE_BASE..image_ends()[0];
    for _ in 0..FRAMES {
        // The first hart's stack is in the image's data.
        let in_data = (image_ends()[1]..image_ends()[2]).contains(&frame);
        let on_stack = in_data || (layout::STACKS..DIRECT_MAP).contains(&frame);
        if !frame.is_multiple_of(8) || !on_stack {
            return;
        }
        // SAFETY: aligned and, unless the stack is damaged, in a stack; a fault here, as where one is at its end, ends the
        // backtrace and the monitor.
        let [next, address] = unsafe { *((frame - 16) as *const [u64; 2]) };
        if !text.contains(&address) {
            return;
        }
        let _ = writeln!(Line, "  called from {address:#x}");
        if next <= frame {
            return;
        }
        frame = next;
    }
}
