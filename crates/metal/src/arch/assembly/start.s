    # Entry from firmware, and traps of the monitor itself.

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
    # Never mapped in the monitor's tables: a stack that is too small is noticed.
    .globl stack_guard
stack_guard:
    .space  4096
boot_stack:
    .space  {boot_stack}
boot_stack_end:
emergency_stack:
    .space  16384
emergency_stack_end:
