//! All assembly of the metal home: entry from firmware, the way into a guest and back, floating-point
//! registers, CSRs, `ecall`, fences.
//!
//! Source: Privileged ISA, "Supervisor-Level ISA"; Linux documentation, "Boot image header in RISC-V Linux";
//! SBI specification 2.0, "Binary Encoding" and "Hart State Management Extension".

use core::arch::{asm, global_asm};

use super::context::HartContext;
use super::layout::{DIRECT_MAP, IMAGE_BASE};

global_asm!(
    r#"
    .option push
    .option arch, +d, +zicsr
    .option norvc
    .option norelax

    # The header by which boot loaders know an image, and the entry: `a0` is the hart's id, `a1` the device
    # tree, translation is off.
    .section .text.header, "ax"
    .globl _start
_start:
    j       start
    .word   0
    .dword  0x200000
    .dword  __image_size
    .dword  0
    .word   2
    .word   0
    .dword  0
    .ascii  "RISCV\0\0\0"
    .ascii  "RSC\x05"
    .word   0

start:
    csrw    sie, zero
    mv      s0, a0
    mv      s1, a1
    lla     t0, __bss_start
    lla     t1, __bss_end
1:  sd      zero, 0(t0)
    addi    t0, t0, 8
    bltu    t0, t1, 1b

    # Tables for the way up: the image in 2 MiB pages, all memory in 1 GiB pages.
    lla     t0, boot_root
    lla     t1, boot_image
    srli    t2, t1, 12
    slli    t2, t2, 10
    ori     t2, t2, 0x01
    sd      t2, ({image_base} >> 30) * 8(t0)
    li      t3, 0
    li      t5, 128
    addi    t4, t0, 512
1:  slli    t2, t3, 28
    ori     t2, t2, 0xc7
    sd      t2, 0(t4)
    addi    t4, t4, 8
    addi    t3, t3, 1
    blt     t3, t5, 1b
    lla     s2, _start
    srli    t2, s2, 2
    ori     t2, t2, 0xcf
    li      t4, 32
    li      t5, 0x80000
1:  sd      t2, 0(t1)
    add     t2, t2, t5
    addi    t1, t1, 8
    addi    t4, t4, -1
    bnez    t4, 1b

    # With translation on, the next fetch faults; the trap leads to where the image is mapped.
    lla     t1, start_high
    sub     t1, t1, s2
    li      t2, {image_base}
    add     t1, t1, t2
    csrw    stvec, t1
    srli    t0, t0, 12
    li      t2, 8 << 60
    or      t0, t0, t2
    sfence.vma
    csrw    satp, t0
    nop

    .balign 4
start_high:
    lla     t0, monitor_trap
    csrw    stvec, t0
    lla     sp, boot_stack_end
    li      fp, 0
    li      tp, 0
    mv      a0, s0
    mv      a1, s1
    mv      a2, s2
    call    start_boot_hart
1:  j       1b

    # Entry of the other harts: `a1` points to a `SecondaryEntry`.
    .globl start_secondary
start_secondary:
    csrw    sie, zero
    ld      t0, 0(a1)
    ld      s1, 8(a1)
    ld      a0, 16(a1)
    lla     t1, 2f
    lla     t2, _start
    sub     t1, t1, t2
    li      t2, {image_base}
    add     t1, t1, t2
    csrw    stvec, t1
    sfence.vma
    csrw    satp, t0
    nop
    .balign 4
2:  lla     t0, monitor_trap
    csrw    stvec, t0
    mv      sp, s1
    mv      tp, a0
    li      fp, 0
    call    start_secondary_hart
1:  j       1b

    # A trap of the monitor itself: there is nothing to go back to.
    .balign 4
    .globl monitor_trap
monitor_trap:
    csrr    a0, scause
    csrr    a1, sepc
    csrr    a2, stval
    mv      a3, fp
    lla     sp, emergency_stack_end
    call    monitor_exception
1:  j       1b

    .bss
    .balign 4096
boot_root:
    .space  4096
boot_image:
    .space  4096
boot_stack:
    .space  {boot_stack}
boot_stack_end:
emergency_stack:
    .space  16384
emergency_stack_end:

    # The one page that both the monitor's and every shadow table map at the same address. Position-independent.
    .section .trampoline, "ax"
    .balign 4096
    .globl trampoline
trampoline:

    # To the guest. `a0`: the hart's context, in the window.
    .globl trampoline_enter
trampoline_enter:
    sd      sp, {sp}(a0)
    sd      ra, {ra}(a0)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    sd      s\i, {saved} + 8 * \i (a0)
    .endr
    ld      t0, {guest_stvec}(a0)
    csrw    stvec, t0
    csrw    sscratch, a0
    ld      t0, {pc}(a0)
    csrw    sepc, t0
    ld      t0, {status}(a0)
    csrw    sstatus, t0
    ld      t1, {flush}(a0)
    ld      t0, {guest_satp}(a0)
    csrw    satp, t0
    beqz    t1, 1f
    sfence.vma
1:
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    ld      x\i, 8 * \i (a0)
    .endr
    ld      a0, 80(a0)
    sret

    # A trap of the guest: back to behind the call of `trampoline_enter`.
    .balign 4
    .globl trampoline_trap
trampoline_trap:
    csrrw   a0, sscratch, a0
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    sd      x\i, 8 * \i (a0)
    .endr
    csrr    t0, sscratch
    sd      t0, 80(a0)
    csrr    t0, sepc
    sd      t0, {pc}(a0)
    csrr    t0, sstatus
    sd      t0, {status}(a0)
    csrr    t0, scause
    sd      t0, {cause}(a0)
    csrr    t0, stval
    sd      t0, {value}(a0)
    # Floating point and vectors off: the registers are the guest's.
    li      t0, 0x6600
    csrc    sstatus, t0
    ld      t1, {flush}(a0)
    ld      t0, {monitor_satp}(a0)
    csrw    satp, t0
    beqz    t1, 1f
    sfence.vma
1:  ld      t0, {monitor_stvec}(a0)
    csrw    stvec, t0
    ld      sp, {sp}(a0)
    ld      ra, {ra}(a0)
    ld      tp, {index}(a0)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ld      s\i, {saved} + 8 * \i (a0)
    .endr
    ret

    .text
    # enter_guest(context, enter, _): jumps to `trampoline_enter` where the window is.
    .globl enter_guest
enter_guest:
    jr      a1

    # save_float(registers) -> fcsr; load_float(registers, fcsr).
    .globl save_float
save_float:
    li      t0, 0x6000
    csrs    sstatus, t0
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    fsd     f\i, 8 * \i (a0)
    .endr
    frcsr   a0
    csrc    sstatus, t0
    ret
    .globl load_float
load_float:
    li      t0, 0x6000
    csrs    sstatus, t0
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    fld     f\i, 8 * \i (a0)
    .endr
    fscsr   a1
    csrc    sstatus, t0
    ret
    .option pop
    "#,
    image_base = const IMAGE_BASE,
    boot_stack = const super::layout::BOOT_STACK,
    pc = const core::mem::offset_of!(HartContext, pc),
    status = const core::mem::offset_of!(HartContext, status),
    cause = const core::mem::offset_of!(HartContext, cause),
    value = const core::mem::offset_of!(HartContext, value),
    guest_satp = const core::mem::offset_of!(HartContext, guest_satp),
    guest_stvec = const core::mem::offset_of!(HartContext, guest_stvec),
    monitor_satp = const core::mem::offset_of!(HartContext, monitor_satp),
    monitor_stvec = const core::mem::offset_of!(HartContext, monitor_stvec),
    sp = const core::mem::offset_of!(HartContext, stack_pointer),
    ra = const core::mem::offset_of!(HartContext, return_address),
    saved = const core::mem::offset_of!(HartContext, saved),
    index = const core::mem::offset_of!(HartContext, index),
    flush = const core::mem::offset_of!(HartContext, flush),
);

// The boot tables' direct map starts at entry 64 of the root.
const _: () = assert!(DIRECT_MAP == 64 << 30 && IMAGE_BASE < 64 << 30);

unsafe extern "C" {
    /// First byte of the image.
    pub static _start: u8;
    pub static __text_end: u8;
    pub static __rodata_end: u8;
    pub static __image_end: u8;
    pub static trampoline: u8;
    pub static trampoline_enter: u8;
    pub static trampoline_trap: u8;
    pub static start_secondary: u8;
    /// Enters the guest; returns at its next trap. `context` and `enter` are addresses in the window, `frame`
    /// is the same context where Rust knows it.
    pub fn enter_guest(context: u64, enter: u64, frame: *mut HartContext);
    /// Stores the 32 floating-point registers; returns `fcsr`.
    pub fn save_float(registers: *mut [u64; 32]) -> u64;
    /// Loads the 32 floating-point registers and `fcsr`.
    pub fn load_float(registers: *const [u64; 32], fcsr: u64);
}

macro_rules! readers {
    ($($read:ident $name:literal;)*) => {$(
        #[doc = concat!("Reads `", $name, "`.")]
        #[inline(always)]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: reading the CSR has no effects.
            unsafe { asm!(concat!("csrr {}, ", $name), out(reg) value, options(nomem, nostack)) };
            value
        }
    )*};
}

macro_rules! writers {
    ($($write:ident $name:literal;)*) => {$(
        /// # Safety
        /// The caller answers for what the register does.
        #[inline(always)]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's.
            unsafe { asm!(concat!("csrw ", $name, ", {}"), in(reg) value, options(nostack)) };
        }
    )*};
}

readers! {
    read_satp "satp";
    read_stvec "stvec";
    read_time "time";
    read_sip "sip";
}

writers! {
    write_satp "satp";
    write_sie "sie";
    write_scounteren "scounteren";
    write_senvcfg "senvcfg";
    write_stimecmp "0x14d";
}

/// Index of the physical hart that executes this: `tp`, in the monitor.
#[inline(always)]
pub fn current_hart() -> usize {
    let value;
    // SAFETY: copies a register.
    unsafe { asm!("mv {}, tp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The frame pointer of the caller.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let value;
    // SAFETY: copies a register.
    unsafe { asm!("mv {}, fp", out(reg) value, options(nomem, nostack)) };
    value
}

/// Clears `sip.SSIP`.
pub fn clear_software_interrupt() {
    // SAFETY: the monitor's own pending bit.
    unsafe { asm!("csrc sip, {}", in(reg) 2u64, options(nomem, nostack)) };
}

/// `wfi`: until an interrupt that `sie` enables is pending.
pub fn wait_for_interrupt() {
    // SAFETY: waits.
    unsafe { asm!("wfi", options(nomem, nostack)) };
}

/// Breaks the reservation of an `lr` that the hart may hold.
pub fn break_reservation() {
    let mut cell = 0u64;
    // SAFETY: stores to a local variable, or nowhere.
    unsafe { asm!("sc.d zero, zero, ({})", in(reg) &raw mut cell, options(nostack)) };
}

/// `sfence.vma` of everything.
pub fn fence_all() {
    // SAFETY: forgets cached translations.
    unsafe { asm!("sfence.vma", options(nostack)) };
}

/// `sfence.vma` of one address in one address space.
pub fn fence_page(address: u64, asid: u64) {
    // SAFETY: forgets cached translations.
    unsafe { asm!("sfence.vma {}, {}", in(reg) address, in(reg) asid, options(nostack)) };
}

/// Calls the firmware: `(error, value)`.
///
/// # Safety
/// The caller answers for what the function does with the arguments.
pub unsafe fn sbi_call(extension: u64, function: u64, arguments: [u64; 3]) -> (i64, u64) {
    let (error, value);
    // SAFETY: the firmware keeps all registers but a0 and a1; the rest is the caller's.
    unsafe {
        asm!("ecall",
            inlateout("a0") arguments[0] as i64 => error, inlateout("a1") arguments[1] => value,
            in("a2") arguments[2], in("a6") function, in("a7") extension, options(nostack));
    }
    (error, value)
}

/// Reads a CSR that may not exist: `None` where that traps. Only before other traps are expected.
pub fn probe_csr<const NUMBER: u16>() -> Option<u64> {
    let (value, trapped): (u64, u64);
    // SAFETY: a trap leads behind the instruction, with a flag set; `stvec` is as before afterwards. Interrupts
    // are off.
    unsafe {
        asm!(
            ".option push", ".option norvc",
            "lla {vector}, 2f",
            "csrrw {vector}, stvec, {vector}",
            "li {trapped}, 0",
            "li {value}, 0",
            "csrr {value}, {number}",
            "j 3f",
            ".balign 4",
            "2: li {trapped}, 1",
            "3: csrw stvec, {vector}",
            ".option pop",
            vector = out(reg) _, trapped = out(reg) trapped, value = out(reg) value, number = const NUMBER,
            options(nostack),
        );
    }
    (trapped == 0).then_some(value)
}
