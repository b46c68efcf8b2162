//! Programs in U-mode: entered, and left by their next trap. A trap of the kernel itself ends it, unless it is tried.

use core::arch::{asm, global_asm};

use crate::{csr, println, sbi};

/// A program's registers, and where the kernel goes on.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Frame {
    /// Integer registers; the first is never read.
    pub x: [usize; 32],
    /// Program counter.
    pub pc: usize,
    /// `s0` to `s11`, `ra`, `sp`.
    pub kernel: [usize; 14],
}

global_asm!(
    r#"
    .text
    .balign 4
    .global trap_vector
trap_vector:
    csrrw   a0, sscratch, a0
    beqz    a0, 1f
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    sd      x\i, 8 * \i (a0)
    .endr
    csrrw   t0, sscratch, zero
    sd      t0, 80(a0)
    csrr    t0, sepc
    sd      t0, 256(a0)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ld      s\i, 264 + 8 * \i (a0)
    .endr
    ld      ra, 360(a0)
    ld      sp, 368(a0)
    ret
1:  csrrw   a0, sscratch, a0
    tail    {unexpected}

    # enter_user(frame): returns at the program's next trap.
    .global enter_user
enter_user:
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    sd      s\i, 264 + 8 * \i (a0)
    .endr
    sd      ra, 360(a0)
    sd      sp, 368(a0)
    csrw    sscratch, a0
    ld      t0, 256(a0)
    csrw    sepc, t0
    li      t0, 0x100
    csrc    sstatus, t0
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    ld      x\i, 8 * \i (a0)
    .endr
    ld      a0, 80(a0)
    sret
    "#,
    unexpected = sym unexpected,
);

extern "C" fn unexpected() -> ! {
    let (cause, pc, value) = (csr::read!("scause"), csr::read!("sepc"), csr::read!("stval"));
    println!("kernel: unexpected trap {cause:#x} at {pc:#x}, value {value:#x}");
    sbi::power_off(true)
}

/// Why a program was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// `scause`.
    pub cause: usize,
    /// `stval`.
    pub value: usize,
}

/// `ecall` in U-mode.
pub const CALL: usize = 8;
/// Page fault of a load.
pub const LOAD_PAGE_FAULT: usize = 13;
/// Page fault of a store.
pub const STORE_PAGE_FAULT: usize = 15;
/// A timer interrupt.
pub const TIMER_INTERRUPT: usize = 1 << 63 | 5;

/// Runs a program in the current address space until it traps.
pub fn enter(frame: &mut Frame) -> Trap {
    unsafe extern "C" {
        fn enter_user(frame: *mut Frame);
    }
    // SAFETY: the frame outlives the program's run; the program can reach pages for U-mode only.
    unsafe { enter_user(frame) };
    Trap { cause: csr::read!("scause"), value: csr::read!("stval") }
}

/// Executes two instructions with the kernel's trap vector aside: `code` is where they are, `a0` and `a1` what they get.
/// The cause of the trap, if one came.
///
/// # Safety
/// The code ends in `ret`, and does no harm that the kernel can't stand.
pub unsafe fn attempt(code: usize, a0: usize, a1: usize) -> Result<usize, usize> {
    let (trapped, value): (usize, usize);
    // SAFETY: the caller's; a trap leads to the label.
    unsafe {
        asm!(
            "la {vector}, 2f",
            "csrrw {vector}, stvec, {vector}",
            "li {trapped}, 1",
            "jalr ra, {code}",
            "li {trapped}, 0",
            ".balign 4",
            "2:",
            "csrw stvec, {vector}",
            vector = out(reg) _,
            trapped = out(reg) trapped,
            code = in(reg) code,
            inlateout("a0") a0 => value,
            inlateout("a1") a1 => _,
            out("ra") _, out("t0") _, out("t1") _,
        );
    }
    if trapped == 0 { Ok(value) } else { Err(csr::read!("scause")) }
}
