//! What the two kernels share: entry in S-mode over the SBI, traps, page tables, console, disk, network.
#![no_std]

pub mod console;
pub mod csr;
pub mod disk;
pub mod ip;
pub mod mmio;
pub mod neighbour;
pub mod net;
pub mod paging;
pub mod plic;
pub mod sbi;
pub mod trap;
pub mod uart;
pub mod virtio;

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

/// The device tree, which has the command line.
fn device_tree(address: usize) -> &'static [u8] {
    if address == 0 {
        return &[];
    }
    // SAFETY: the SBI has put a device tree there, whose second field is its size.
    let size = unsafe { u32::from_be(*((address + 4) as *const u32)) } as usize;
    // SAFETY: as above.
    unsafe { core::slice::from_raw_parts(address as *const u8, size) }
}

/// Whether a word stands in the device tree.
pub fn has_word(address: usize, word: &str) -> bool {
    device_tree(address).windows(word.len()).any(|part| part == word.as_bytes())
}

/// What the command line says for a name: of `name=value`, the value.
pub fn argument(address: usize, name: &str) -> Option<&'static str> {
    let tree = device_tree(address);
    // A word follows a space, or begins the property, whose value is aligned.
    let begins_word = |at: usize| at.is_multiple_of(4) || tree[at - 1] == b' ';
    let value_at = |at: usize| tree[at..].strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    let value = (0..tree.len()).filter(|at| begins_word(*at)).find_map(value_at)?;
    let length = value.iter().position(|byte| [b' ', 0].contains(byte))?;
    core::str::from_utf8(&value[..length]).ok()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("{info}");
    sbi::power_off(true)
}
