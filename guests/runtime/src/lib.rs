//! What bare-metal guests share.
//!
//! Every hart enters the guest's `guest_main` in M-mode with a stack of its own and all interrupts off. Traps
//! are never handled: code that may trap runs under [`probe`], which says what happened. A trap elsewhere ends
//! the guest with [`UNEXPECTED_TRAP`].
#![no_std]

pub mod board;
pub mod console;
pub mod csr;
pub mod probe;
pub mod random;
pub mod team;

use core::arch::global_asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

/// The most harts that get a stack; the others sleep.
pub const MAX_HARTS: usize = 8;
/// Reported when a trap comes that no probe waits for.
pub const UNEXPECTED_TRAP: u32 = 1000;
/// Reported when the guest panics.
pub const PANIC: u32 = 1001;

const STACK_SIZE: usize = 64 << 10;

#[repr(C, align(16))]
struct Stacks([u8; STACK_SIZE * MAX_HARTS]);

static mut STACKS: Stacks = Stacks([0; STACK_SIZE * MAX_HARTS]);

/// Where the guest reports to the outside (the convention of RISC-V test programs).
#[unsafe(no_mangle)]
#[unsafe(link_section = ".tohost")]
static tohost: AtomicU64 = AtomicU64::new(0);
/// Where the outside would answer.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".tohost")]
static fromhost: AtomicU64 = AtomicU64::new(0);

unsafe extern "Rust" {
    /// The guest itself, entered by every hart.
    safe fn guest_main(hart: usize) -> !;
}

global_asm!(
    ".section .text.start",
    ".global _start",
    "_start:",
    "    la t0, vector",
    "    csrw mtvec, t0",
    "    csrw mie, zero",
    // Floating point on, dirty or not.
    "    li t0, 1 << 13",
    "    csrs mstatus, t0",
    "    csrr a0, mhartid",
    "    li t0, {max_harts}",
    "    bgeu a0, t0, 1f",
    "    la sp, {stacks}",
    "    addi t0, a0, 1",
    "    slli t0, t0, {stack_bits}",
    "    add sp, sp, t0",
    "    tail {start}",
    "1:  wfi",
    "    j 1b",
    ".balign 4",
    "vector:",
    "    tail {unexpected}",
    unexpected = sym unexpected_trap,
    max_harts = const MAX_HARTS,
    stacks = sym STACKS,
    stack_bits = const STACK_SIZE.ilog2(),
    start = sym start,
);

extern "C" fn start(hart: usize) -> ! {
    guest_main(hart)
}

extern "C" fn unexpected_trap() -> ! {
    let trap = probe::Trap::last();
    println!("unexpected trap on hart {}: {trap:x?}", csr::read!("mhartid"));
    exit(UNEXPECTED_TRAP)
}

/// Ends the guest: 0 is a pass, anything else the number of the check that failed.
pub fn exit(code: u32) -> ! {
    tohost.store(u64::from(code) << 1 | 1, Ordering::SeqCst);
    // Where nobody reads `tohost`, the finisher ends the machine too.
    let command = if code == 0 { 0x5555 } else { code << 16 | 0x3333 };
    for _ in 0..1_000_000 {
        core::hint::spin_loop();
    }
    // SAFETY: the finisher's register; the machine ends here.
    unsafe { (board::FINISHER as *mut u32).write_volatile(command) };
    loop {
        csr::wait_for_interrupt();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("{info}");
    exit(PANIC)
}
