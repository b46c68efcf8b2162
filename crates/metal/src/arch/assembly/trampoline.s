    # The way into a guest and back. What is in `.trampoline` is the one page that both the monitor's tables and every
    # shadow table map at the same address: it is position-independent. The rest is the monitor's.
    .text

    # enter_guest(context, enter, frame, registers): `context` and `enter` are addresses in the window, `frame` is the
    # same context where Rust knows it. Returns at the guest's next trap.
    .globl enter_guest
enter_guest:
    addi    sp, sp, -112
    sd      ra, 0(sp)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    sd      s\i, 8 + 8 * \i (sp)
    .endr
    sd      sp, {sp}(a2)
    sd      a3, {registers}(a2)
    ld      t0, {guest_stvec}(a2)
    csrw    stvec, t0
    csrw    sscratch, a0
    ld      t0, {pc}(a2)
    csrw    sepc, t0
    ld      t0, {status}(a2)
    csrw    sstatus, t0
    # The registers that the trampoline needs for itself come from the context.
    ld      t0, 40(a3)
    sd      t0, 40(a2)
    ld      t0, 80(a3)
    sd      t0, 80(a2)
    mv      t0, a1
    .irp i, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 13
    ld      x\i, 8 * \i (a3)
    .endr
    jr      t0

    # From `trampoline_saved`: a0 is the context.
    .globl guest_trapped
guest_trapped:
    csrr    t0, sepc
    csrr    t1, sstatus
    sd      t0, {pc}(a0)
    sd      t1, {status}(a0)
    csrr    t0, scause
    csrr    t1, stval
    sd      t0, {cause}(a0)
    sd      t1, {value}(a0)
    ld      t0, {registers}(a0)
    .irp i, 1, 2, 3, 4, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 29, 30, 31
    sd      x\i, 8 * \i (t0)
    .endr
    .irp i, 5, 6, 7, 10, 28
    ld      t1, 8 * \i (a0)
    sd      t1, 8 * \i (t0)
    .endr
guest_left:
    # Floating point and vectors off: the registers are the guest's.
    li      t0, 0x6600
    csrc    sstatus, t0
    ld      sp, {sp}(a0)
    ld      tp, {index}(a0)
    ld      ra, 0(sp)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    ld      s\i, 8 + 8 * \i (sp)
    .endr
    addi    sp, sp, 112
    ret

    .section .trampoline, "ax"
    .balign 4096
    .globl trampoline
trampoline:

    # To the guest: a0 is the context. All other registers but t0 are the guest's already.
    .globl trampoline_enter
trampoline_enter:
    ld      t0, {guest_satp}(a0)
    csrw    satp, t0
    ld      t0, {flush}(a0)
    beqz    t0, 1f
    sfence.vma
1:  ld      t0, 40(a0)
    ld      a0, 80(a0)
    sret

    # A trap of the guest.
    .balign 4
    .globl trampoline_trap
trampoline_trap:
    csrrw   a0, sscratch, a0
    .irp i, 5, 6, 7, 28
    sd      x\i, 8 * \i (a0)
    .endr
    # t0 to t3 are saved, a0 is the context, the guest's a0 is in `sscratch`.
trampoline_saved:
    csrr    t0, sscratch
    sd      t0, 80(a0)
    ld      t0, {monitor_satp}(a0)
    csrw    satp, t0
    ld      t0, {flush}(a0)
    beqz    t0, 1f
    sfence.vma
1:  ld      t0, {monitor_stvec}(a0)
    csrw    stvec, t0
    ld      t0, {return}(a0)
    jr      t0
