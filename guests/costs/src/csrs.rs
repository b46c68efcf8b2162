//! CSR instructions on random values and registers, many in a row, and what only looks like them: their sum is the same
//! wherever they are executed.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::start::Frame;

global_asm!(
    r#"
    .option push
    .option norvc
    .text
    # csr_round(registers): loads all registers but x0, sp, gp and tp, executes, and stores them again.
    .globl csr_round
csr_round:
    addi    sp, sp, -112
    sd      ra, 0(sp)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    sd      s\i, 8 + 8 * \i (sp)
    .endr
    addi    sp, sp, -16
    sd      a0, 0(sp)
    .irp i, 1, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 10
    ld      x\i, 8 * \i (a0)
    .endr
    .irp i, 1, 5, 6, 7, 8, 10, 11, 17, 27, 28, 29, 30, 31
    csrrw   x\i, sscratch, x\i
    csrrs   x\i, sepc, zero
    csrrw   zero, sepc, x\i
    csrrs   x\i, scause, x\i
    csrrw   x\i, sepc, t1
    csrrc   a0, stval, x\i
    add     x\i, x\i, t0
    csrrw   t2, stval, x\i
    csrrwi  x\i, scause, 21
    csrrsi  t3, stval, 9
    csrrci  x\i, sstatus, 2
    csrrs   t0, sstatus, x\i
    add     x\i, x\i, t4
    csrrc   x\i, sstatus, x\i
    csrrw   t5, sstatus, x\i
    csrrsi  zero, sstatus, 2
    csrrci  zero, sstatus, 2
    csrrs   x\i, satp, zero
    .balign 16
    .endr
    sd      a0, 8(sp)
    ld      a0, 0(sp)
    .irp i, 1, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    sd      x\i, 8 * \i (a0)
    .endr
    ld      t0, 8(sp)
    sd      t0, 80(a0)
    addi    sp, sp, 16
    ld      ra, 0(sp)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ld      s\i, 8 + 8 * \i (sp)
    .endr
    addi    sp, sp, 112
    csrw    sscratch, zero
    ret

    # lookalikes(): instructions of floating point, which is off, and ones that don't exist, with the numbers of CSRs where
    # CSR instructions have them.
    .globl lookalikes
lookalikes:
    li      t0, 0
    .irp opcode, 0x53, 0x07, 0x6b
    .irp number, 0x100, 0x140, 0x141, 0x142, 0x143
    .irp function, 0, 1, 2, 3, 4, 5, 6, 7
    li      a0, 0x55
    .word   \number << 20 | \function << 12 | 10 << 7 | \opcode
    slli    t1, t0, 1
    add     t0, t0, t1
    add     t0, t0, a0
    .endr
    .endr
    .endr
    mv      a0, t0
    ret
    .globl lookalikes_end
lookalikes_end:
    .option pop
    "#
);

unsafe extern "C" {
    safe fn csr_round(registers: &mut [u64; 32]);
    safe fn lookalikes() -> usize;
    static lookalikes_end: u8;
}

/// So many rounds; prints their sum.
pub fn run(count: usize) {
    let (mut random, mut sum) = (0x9e37_79b9_7f4a_7c15u64, 0u64);
    let mut registers = [0; 32];
    for _ in 0..count {
        for register in &mut registers {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *register = random;
        }
        csr_round(&mut registers);
        sum = registers.iter().fold(sum, |sum, value| sum.rotate_left(7) ^ value);
    }
    crate::println!("costs: {sum:#x} is the sum");
}

static ILLEGAL: AtomicUsize = AtomicUsize::new(0);

/// So many rounds of what looks like CSR instructions; prints how often that was illegal, and what it left behind.
pub fn imitate(count: usize) {
    const FS: usize = 3 << 13;
    let mut sum = 0usize;
    for _ in 0..count {
        let (before, after): (usize, usize);
        // SAFETY: this kernel doesn't calculate with floating point.
        unsafe { asm!("csrc sstatus, {1}", "csrr {0}, sstatus", out(reg) before, in(reg) FS) };
        let registers = lookalikes();
        // SAFETY: reads a register.
        unsafe { asm!("csrr {}, sstatus", out(reg) after) };
        sum = sum.rotate_left(7) ^ registers ^ (before ^ after).rotate_left(32);
    }
    crate::println!("costs: {sum:#x} is the sum with {} illegal ones", ILLEGAL.load(Ordering::Relaxed));
}

/// One of the above: it is stepped over.
pub fn is_illegal(frame: &mut Frame) -> bool {
    let place = lookalikes as *const () as usize..(&raw const lookalikes_end) as usize;
    let is_illegal = frame.cause == 2 && place.contains(&frame.x[0]);
    if is_illegal {
        ILLEGAL.fetch_add(1, Ordering::Relaxed);
        frame.x[0] += 4;
    }
    is_illegal
}
