//! What the two kernels share: entry in S-mode over the SBI, traps, page tables, console, disk.
#![no_std]

pub mod console;
pub mod csr;
pub mod disk;
pub mod paging;
pub mod sbi;
pub mod trap;

use core::arch::global_asm;
use core::panic::PanicInfo;

/// The most harts that get a stack.
pub const MAX_HARTS: usize = 4;
const STACK_SIZE: usize = 64 << 10;

#[repr(C, align(16))]
struct Stacks([u8; STACK_SIZE * MAX_HARTS]);

static mut STACKS: Stacks = Stacks([0; STACK_SIZE * MAX_HARTS]);

unsafe extern "Rust" {
    /// The kernel itself: the boot hart, with the address of the device tree; the others with zero.
    safe fn kernel_main(hart: usize, device_tree: usize) -> !;
}

global_asm!(
    ".section .text.start",
    ".global _start",
    "_start:",
    "    csrw sie, zero",
    "    csrw sscratch, zero",
    "    la t0, trap_vector",
    "    csrw stvec, t0",
    "    li t0, {max_harts}",
    "    bgeu a0, t0, 1f",
    "    la sp, {stacks}",
    "    addi t0, a0, 1",
    "    slli t0, t0, {stack_bits}",
    "    add sp, sp, t0",
    "    tail {start}",
    "1:  wfi",
    "    j 1b",
    max_harts = const MAX_HARTS,
    stacks = sym STACKS,
    stack_bits = const STACK_SIZE.ilog2(),
    start = sym start,
);

extern "C" fn start(hart: usize, device_tree: usize) -> ! {
    kernel_main(hart, device_tree)
}

/// Where harts enter.
pub fn entry() -> usize {
    unsafe extern "C" {
        safe fn _start();
    }
    _start as *const () as usize
}

/// Whether a word stands in the device tree, which has the command line.
pub fn has_word(device_tree: usize, word: &str) -> bool {
    if device_tree == 0 {
        return false;
    }
    // SAFETY: the SBI has put a device tree there, whose second field is its size.
    let size = unsafe { u32::from_be(*((device_tree + 4) as *const u32)) } as usize;
    // SAFETY: as above.
    let tree = unsafe { core::slice::from_raw_parts(device_tree as *const u8, size) };
    tree.windows(word.len()).any(|part| part == word.as_bytes())
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("{info}");
    sbi::power_off(true)
}
