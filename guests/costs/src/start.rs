//! Entry, and traps as a kernel takes them: all registers are saved, `sscratch` tells where from, SUM is cleared,
//! interrupts are on while a system call is served.
//!
//! Sources: Privileged ISA, "Supervisor-Level ISA"; Linux documentation, "Boot image header in RISC-V Linux".

use core::arch::{asm, global_asm};

use crate::operations;

/// What a trap leaves of the program. `x[0]` is its program counter.
#[repr(C)]
pub struct Frame {
    /// Integer registers, and the program counter.
    pub x: [usize; 32],
    /// `sstatus`.
    pub status: usize,
    /// `stval`.
    pub value: usize,
    /// `scause`.
    pub cause: usize,
}

global_asm!(
    r#"
    .option push
    .option norvc
    .section .text.start, "ax"
    .globl _start
_start:
    j       1f
    .word   0
    .dword  0x200000
    .dword  __image_end - _start
    .dword  0
    .word   2
    .word   0
    .dword  0
    .ascii  "RISCV\0\0\0"
    .ascii  "RSC\x05"
    .word   0
1:  csrw    sie, zero
    lla     sp, kernel_stack_end
    lla     t0, trap
    csrw    stvec, t0
    csrw    sscratch, zero
    call    kernel_main
1:  j       1b

    # run_user(entry, argument): until the program calls `CALL_END`.
    .globl run_user
run_user:
    addi    sp, sp, -112
    sd      ra, 0(sp)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    sd      s\i, 8 + 8 * \i (sp)
    .endr
    lla     t0, kernel_sp
    sd      sp, 0(t0)
    csrw    sepc, a0
    li      t0, 0x100
    csrc    sstatus, t0
    li      t0, 0x20
    csrs    sstatus, t0
    csrw    sscratch, sp
    mv      a0, a1
    sret
    # leave_user(): from the trap handler back behind `run_user`.
    .globl leave_user
leave_user:
    csrci   sstatus, 2
    lla     t0, kernel_sp
    ld      sp, 0(t0)
    csrw    sscratch, zero
    ld      ra, 0(sp)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ld      s\i, 8 + 8 * \i (sp)
    .endr
    addi    sp, sp, 112
    ret

    .balign 4
trap:
    csrrw   sp, sscratch, sp
    bnez    sp, 1f
    csrrw   sp, sscratch, sp
1:  addi    sp, sp, -288
    .irp i, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    sd      x\i, 8 * \i (sp)
    .endr
    li      t0, 0x46000
    csrrc   s1, sstatus, t0
    csrr    s2, sepc
    csrr    s3, stval
    csrr    s4, scause
    csrrw   s5, sscratch, zero
    sd      s1, 256(sp)
    sd      s2, 0(sp)
    sd      s3, 264(sp)
    sd      s4, 272(sp)
    sd      s5, 16(sp)
    mv      a0, sp
    call    on_trap
    csrci   sstatus, 2
    ld      t0, 256(sp)
    ld      t1, 0(sp)
    andi    t3, t0, 0x100
    addi    t4, sp, 288
    beqz    t3, 1f
    sd      t4, 16(sp)
    j       2f
1:  csrw    sscratch, t4
2:  csrw    sstatus, t0
    csrw    sepc, t1
    .irp i, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    ld      x\i, 8 * \i (sp)
    .endr
    ld      sp, 16(sp)
    sret

    .bss
    .balign 16
kernel_stack:
    .space  65536
kernel_stack_end:
kernel_sp:
    .space  8
    .option pop
    "#
);

unsafe extern "C" {
    /// Runs the program from `entry` with `a0`, until it ends.
    pub safe fn run_user(entry: usize, argument: usize);
    /// From the trap handler: ends the program.
    pub fn leave_user() -> !;
}

/// Lets interrupts in.
pub fn interrupts_on() {
    // SAFETY: the trap handler is set up.
    unsafe { asm!("csrsi sstatus, 2") };
}

/// A trap, with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn on_trap(frame: &mut Frame) {
    operations::on_trap(frame);
}
