    # The way into a guest in VS- or VU-mode and back: the monitor's own tables stay in force.

    # enter_virtual(frame, registers): returns at the guest's next trap.
    .text
    .globl enter_virtual
enter_virtual:
    addi    sp, sp, -112
    sd      ra, 0(sp)
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    sd      s\i, 8 + 8 * \i (sp)
    .endr
    sd      sp, {sp}(a0)
    sd      a1, {registers}(a0)
    csrw    sscratch, a0
    lla     t0, virtual_trap
    csrw    stvec, t0
    ld      t0, {pc}(a0)
    csrw    sepc, t0
    ld      t0, {status}(a0)
    csrw    sstatus, t0
    ld      t0, {revealed}(a0)
    beqz    t0, 1f
    # hstatus
    csrs    0x600, t0
1:
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 11
    ld      x\i, 8 * \i (a1)
    .endr
    sret

    .balign 4
virtual_trap:
    csrrw   a0, sscratch, a0
    sd      t0, 40(a0)
    ld      t0, {registers}(a0)
    .irp i, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    sd      x\i, 8 * \i (t0)
    .endr
    ld      t1, 40(a0)
    sd      t1, 40(t0)
    csrr    t1, sscratch
    sd      t1, 80(t0)
    csrr    t0, sepc
    csrr    t1, sstatus
    sd      t0, {pc}(a0)
    sd      t1, {status}(a0)
    csrr    t0, scause
    csrr    t1, stval
    sd      t0, {cause}(a0)
    sd      t1, {value}(a0)
    ld      t0, {monitor_stvec}(a0)
    csrw    stvec, t0
    j       guest_left
