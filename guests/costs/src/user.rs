//! The program: a page of code that runs in U-mode.

use core::arch::global_asm;

use crate::tables::USER_CODE;

/// The page.
#[repr(C, align(4096))]
pub struct Page([u8; 4096]);

impl Page {
    /// Its first byte.
    pub const fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

unsafe extern "C" {
    /// The program's code.
    #[link_name = "user_code"]
    pub safe static CODE: Page;
}

/// Address in the program of one of its parts.
pub fn entry(part: Part) -> usize {
    USER_CODE + 64 * part as usize
}

/// What the program can do, `a0` times. Each begins at a multiple of 64 bytes and ends with [`CALL_END`].
#[derive(Clone, Copy)]
pub enum Part {
    /// Arithmetic, loads, stores and branches: a dozen instructions.
    Compute,
    /// `ecall` with number [`CALL_NULL`].
    Null,
    /// One load from each page of its memory.
    Touch,
    /// `ecall` with number [`CALL_YIELD`].
    Yield,
}

/// Does nothing.
pub const CALL_NULL: usize = 1;
/// Goes on in the other address space.
pub const CALL_YIELD: usize = 2;
/// Back to the kernel.
pub const CALL_END: usize = 3;

global_asm!(
    ".option push",
    ".option norvc",
    ".option arch, +m",
    ".section .text.user, \"ax\"",
    ".balign 4096",
    ".globl user_code",
    "user_code:",
    // Compute.
    "    beqz a0, 9f",
    "    li t0, 0x12345",
    "1:  slli t1, t0, 13",
    "    xor t0, t0, t1",
    "    srli t1, t0, 7",
    "    xor t0, t0, t1",
    "    slli t1, t0, 17",
    "    xor t0, t0, t1",
    "    mul t2, t0, t1",
    "    addi a0, a0, -1",
    "    bnez a0, 1b",
    "    j 9f",
    ".balign 64",
    // Null.
    "    li a7, {null}",
    "    beqz a0, 9f",
    "1:  ecall",
    "    addi a0, a0, -1",
    "    bnez a0, 1b",
    "    j 9f",
    ".balign 64",
    // Touch.
    "    li t0, {memory}",
    "    beqz a0, 9f",
    "    li t1, 4096",
    "1:  ld t2, 0(t0)",
    "    add t0, t0, t1",
    "    addi a0, a0, -1",
    "    bnez a0, 1b",
    "    j 9f",
    ".balign 64",
    // Yield.
    "    li a7, {switch}",
    "    beqz a0, 9f",
    "1:  ecall",
    "    addi a0, a0, -1",
    "    bnez a0, 1b",
    "    j 9f",
    ".balign 64",
    "9:  li a7, {end}",
    "    ecall",
    ".balign 4096",
    ".option pop",
    null = const CALL_NULL,
    switch = const CALL_YIELD,
    end = const CALL_END,
    memory = const crate::tables::USER_MEMORY,
);
