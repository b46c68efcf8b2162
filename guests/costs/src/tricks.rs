//! What could deceive a monitor that keeps what it made of a kernel's code: code that is rewritten when it has run often,
//! and loads and stores, between privileged instructions, of where a monitor may have something of its own. Both give sums
//! that are the same wherever they are executed.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::start::Frame;
use crate::tables;

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

    # Two pages to themselves. Hot instructions that trap: at the beginning, with breakpoints of the code's own behind it, and across the
    # end of the first page.
    .balign 4096
    .globl hot
hot:
    csrr    a0, sscratch
    ret
    .globl with_breakpoints
with_breakpoints:
    csrr    a0, scause
    ebreak
    .option rvc
    c.ebreak
    c.nop
    .option norvc
    csrr    a1, sepc
    ebreak
    add     a0, a0, a1
    ret
    .space  4096 - 2 - (. - hot)
    .globl across
across:
    csrr    a0, stval
    ret
    .balign 4096

    # second_half(place): what is executed from the middle of an instruction on: `c.addi4spn s0, sp, ...`.
    .globl second_half
second_half:
    mv      t0, s0
    mv      t1, ra
    jalr    2(a0)
    sub     a0, s0, sp
    mv      s0, t0
    jr      t1

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
    static mut hot: [u32; 1024];
    static with_breakpoints: u8;
    static across: u8;
    safe fn second_half(place: usize) -> usize;
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

/// Calls a function of `hot`'s pages, with values in the CSRs that it reads.
fn call(place: usize, scratch: usize, value: usize) -> usize {
    let result: usize;
    // SAFETY: no trap but its own breakpoints comes between, and the function changes what is said here.
    unsafe {
        asm!(
            "csrw sscratch, {0}", "csrw scause, {1}", "csrw stval, {1}",
            "jalr {2}", "csrw sscratch, zero",
            in(reg) scratch, in(reg) value, in(reg) place,
            out("a0") result, out("a1") _, out("ra") _,
        );
    }
    result
}

/// Code that a monitor might execute a copy of, with something else in place of what traps: what it is must not be seen by
/// reads, jumps into an instruction, breakpoints, other addresses of the page, and writes through them. Prints the sum of all.
pub fn hide(count: usize) {
    let text = &raw mut hot;
    let first = text as usize;
    let (alias, places) = (
        first + tables::ALIAS,
        [first, (&raw const with_breakpoints) as usize, (&raw const across) as usize],
    );
    let mut sum = 0usize;
    for round in 0..count {
        for place in places.into_iter().chain([alias]) {
            for turn in 0..60 {
                let value = round * 100 + turn;
                // Its breakpoints need the handler, which needs this.
                let scratch = if place == places[1] { 0 } else { value };
                sum = sum.rotate_left(5) ^ call(place, scratch, value);
            }
        }
        for address in [first, alias] {
            for word in 0..1024 {
                // SAFETY: reads the page.
                let bits = unsafe { (address as *const u32).add(word).read_volatile() };
                sum = sum.rotate_left(1) ^ bits as usize;
                if round % 8 != 7 && word > 8 {
                    break;
                }
            }
            sum = sum.rotate_left(5) ^ second_half(address);
        }
        if round % 3 == 2 {
            // What it reads next, written where it is executed, or not.
            let number = 0x140 + [0, 2, 3][round / 3 % 3];
            let target = if round % 2 == 0 { first } else { alias };
            // SAFETY: this hart alone executes it, after the fence.
            unsafe {
                (target as *mut u32).write_volatile(read_csr(10, number));
                asm!("fence.i");
            }
            sum = sum.rotate_left(5) ^ call(first, 77, 79) ^ call(alias, 78, 80);
        }
    }
    crate::println!("costs: {sum:#x} is the sum with {} breakpoints", BREAKPOINTS.load(Ordering::Relaxed));
}

static BREAKPOINTS: AtomicUsize = AtomicUsize::new(0);

/// A breakpoint of the pages above: it is stepped over.
pub fn is_breakpoint(frame: &mut Frame) -> bool {
    let is_breakpoint = frame.cause == 3;
    if is_breakpoint {
        BREAKPOINTS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: it has just been executed.
        let is_long = unsafe { (frame.x[0] as *const u16).read() } & 3 == 3;
        frame.x[0] += if is_long { 4 } else { 2 };
    }
    is_breakpoint
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
