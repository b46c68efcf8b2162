//! What could deceive a monitor that keeps what it made of a kernel's code: code that is rewritten when it has run often,
//! and loads and stores, between privileged instructions, of where a monitor may have something of its own. Both give sums
//! that are the same wherever they are executed.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::start::Frame;

global_asm!(
    r#"
    .option push
    .option norvc
    .text
    .balign 8
    # The first two instructions are rewritten.
    .globl rewritten
rewritten:
    csrr    a0, sscratch
    csrr    a1, sepc
    add     a0, a0, a1
    csrr    a1, scause
    xor     a0, a0, a1
    ret

    # probe(address)
    .globl probe
probe:
    li      a1, 1
    csrr    a2, scause
    ld      a1, 0(a0)
    csrr    a2, scause
    sd      a1, 8(a0)
    csrr    a2, scause
    ret
    .option pop
    "#
);

unsafe extern "C" {
    static mut rewritten: [u32; 2];
    safe fn probe(address: usize);
}

/// `csrr a0, number`.
const fn read_csr(register: u32, number: u32) -> u32 {
    number << 20 | 2 << 12 | register << 7 | 0x73
}

/// Rewrites code every 50 of `count` calls; prints the sum of what it returns.
pub fn rewrite(count: usize) {
    let mut sum = 0usize;
    for round in 0..count {
        let (number, other) = ((round / 50 % 4) as u32, (round / 100 % 4) as u32);
        if round % 50 == 0 {
            let code = &raw mut rewritten;
            // SAFETY: this hart alone executes it, after the fence.
            unsafe {
                code.cast::<u32>().write_volatile(read_csr(10, 0x140 + number));
                code.cast::<u32>().add(1).write_volatile(read_csr(11, 0x140 + other));
                asm!("fence.i");
            }
        }
        let result: usize;
        // SAFETY: no trap comes between, and the function changes what is said here.
        unsafe {
            asm!(
                "csrw sscratch, {0}", "csrw sepc, {1}", "csrw scause, {2}", "csrw stval, {3}",
                "call rewritten", "csrw sscratch, zero",
                in(reg) round * 3, in(reg) round * 20, in(reg) round * 700, in(reg) round * 11_000,
                out("a0") result, out("a1") _, out("ra") _,
            );
        }
        sum = sum.rotate_left(5) ^ result;
    }
    crate::println!("costs: {sum:#x} is the sum");
}

static FAULTS: AtomicUsize = AtomicUsize::new(0);

/// Touches places in the upper half of the address space, where this kernel has nothing; prints how often that faulted.
pub fn probe_all(count: usize) {
    const GIB: usize = 1 << 30;
    for slot in [256, 257, 384, 511] {
        // Sign-extended from 39 bits.
        let start = (slot * GIB) << 25;
        let start = (start as isize >> 25) as usize;
        for offset in [0, 0x1000, 0x1ff8, 0x2_0000, 0x2_1000, 0x2_9000, GIB - 16] {
            (0..count).for_each(|_| probe(start + offset));
        }
    }
    crate::println!("costs: {} faults in all", FAULTS.load(Ordering::Relaxed));
}

/// A fault of a probe: the access is left out.
pub fn is_probe(frame: &mut Frame) -> bool {
    let is_fault = matches!(frame.cause, 13 | 15) && frame.value as isize >> 38 == -1;
    if is_fault {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        frame.x[0] += 4;
    }
    is_fault
}
