//! The operations, and what the kernel does when they trap.

use core::arch::asm;

use crate::start::{Frame, interrupts_on, leave_user, run_user};
use crate::tables::{self, USER_MEMORY, USER_PAGES};
use crate::user::{CALL_END, CALL_NULL, CALL_YIELD, Part, entry};
use crate::{println, sbi};

/// One operation.
pub struct Operation {
    /// Its name on the command line.
    pub name: &'static str,
    run: fn(usize),
}

/// All of them.
const OPERATIONS: [Operation; 13] = [
    Operation { name: "compute", run: |count| run_user(entry(Part::Compute), count) },
    Operation { name: "null", run: |count| run_user(entry(Part::Null), count) },
    Operation { name: "fault", run: fault },
    Operation { name: "touch", run: touch },
    Operation { name: "switch", run: |count| run_user(entry(Part::Yield), 2 * count) },
    Operation { name: "timer", run: timer },
    Operation { name: "sbi", run: |count| (0..count).for_each(|_| _ = sbi::specification_version()) },
    Operation { name: "status", run: status },
    Operation { name: "csrs", run: crate::csrs::run },
    Operation { name: "illegal", run: crate::csrs::imitate },
    Operation { name: "rewrite", run: crate::tricks::rewrite },
    Operation { name: "probe", run: crate::tricks::probe_all },
    Operation { name: "hide", run: crate::tricks::hide },
];

impl Operation {
    /// Does it `count` times; instructions retired meanwhile.
    pub fn measure(&self, count: usize) -> usize {
        let start = instructions();
        (self.run)(count);
        instructions() - start
    }
}

fn instructions() -> usize {
    let value;
    // SAFETY: reads a counter.
    unsafe { asm!("csrr {}, instret", out(reg) value) };
    value
}

/// Pages that the kernel maps when the program needs them.
fn fault(count: usize) {
    let mut left = count;
    while left != 0 {
        let pages = left.min(USER_PAGES);
        tables::unmap_all();
        run_user(entry(Part::Touch), pages);
        left -= pages;
    }
}

/// Pages that are mapped, but that the hardware hasn't seen yet.
fn touch(count: usize) {
    let mut left = count;
    while left != 0 {
        let pages = left.min(USER_PAGES);
        tables::unmap_all();
        (0..pages).for_each(tables::map);
        run_user(entry(Part::Touch), pages);
        left -= pages;
    }
}

/// Timer interrupts, one after the other (Sstc).
fn timer(count: usize) {
    // SAFETY: the handler switches the timer off again.
    unsafe { asm!("csrs sie, {}", in(reg) 1 << 5) };
    interrupts_on();
    for _ in 0..count {
        // SAFETY: as above; time 0 has passed.
        unsafe { asm!("csrw 0x14d, zero") };
    }
    // SAFETY: no interrupt is wanted any more.
    unsafe { asm!("csrci sstatus, 2") };
}

/// Interrupts off and on, as around a critical section.
fn status(count: usize) {
    for _ in 0..count {
        // SAFETY: no interrupt is enabled.
        unsafe { asm!("csrrci {0}, sstatus, 2", "csrs sstatus, {0}", out(reg) _) };
    }
}

/// A trap of the program, or an interrupt.
pub fn on_trap(frame: &mut Frame) {
    const TIMER: usize = 1 << 63 | 5;
    const CALL: usize = 8;
    const LOAD_PAGE_FAULT: usize = 13;
    if crate::tricks::is_probe(frame) || crate::tricks::is_breakpoint(frame) || crate::csrs::is_illegal(frame)
    {
        return;
    }
    match frame.cause {
        CALL => system_call(frame),
        LOAD_PAGE_FAULT => {
            let page = frame.value.wrapping_sub(USER_MEMORY) / 4096;
            assert!(page < USER_PAGES, "page fault at {:#x}", frame.value);
            tables::map(page);
        }
        // SAFETY: no further interrupt until the next is asked for.
        TIMER => unsafe { asm!("csrw 0x14d, {}", in(reg) u64::MAX) },
        cause => panic!("trap {cause:#x} at {:#x}, value {:#x}", frame.x[0], frame.value),
    }
}

fn system_call(frame: &mut Frame) {
    const A7: usize = 17;
    interrupts_on();
    frame.x[0] += 4;
    match frame.x[A7] {
        CALL_NULL => {}
        CALL_YIELD => tables::switch(frame.x[10] & 1),
        // SAFETY: the program came from `run_user`.
        CALL_END => unsafe { leave_user() },
        call => println!("costs: system call {call}"),
    }
}

/// Operation and count from `costs=NAME,COUNT` in the device tree.
pub fn requested(tree: *const u8) -> Option<(&'static Operation, usize)> {
    const KEY: &[u8] = b"costs=";
    // SAFETY: firmware gives a device tree; its second word is its size.
    let tree = unsafe {
        let size = u32::from_be(tree.cast::<u32>().add(1).read());
        core::slice::from_raw_parts(tree, size.min(1 << 20) as usize)
    };
    let at = tree.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let words = tree[at..].split(|byte| *byte == 0 || *byte == b' ').next()?;
    let (name, count) = core::str::from_utf8(words).ok()?.split_once(',')?;
    let operation = OPERATIONS.iter().find(|operation| operation.name == name)?;
    Some((operation, count.parse().ok()?))
}
