    .text
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
