    # What compiled sequences (`crate::sequence`) jump to. `a0` is the context; of the guest's registers `t0`, `t1`, `t2` and
    # `a0` are in it, or `a0` in `sscratch`; all others are in their places.

    .section .trampoline, "ax"

    # Has the sequence of what trapped be missed until another is made.
    .macro  forget_sequence
    csrr    t0, sepc
    andi    t1, t0, {entry_mask}
    slli    t1, t1, {entry_shift}
    lui     t0, 1
    add     t1, t1, a0
    add     t1, t1, t0
    li      t0, {nobody}
    sd      t0, {entry_key}(t1)
    .endm

    # A change of `sstatus` that is more than bits: of the value in t0 the bits in t1, all of them writable. Does it, and
    # takes FS, which is the hardware's, from t1. Returns to t2, or 4 beyond where only the monitor can.
    .globl sequence_status
sequence_status:
    sd      t2, {link}(a0)
    sd      t0, {old_status}(a0)
    # MXR and VS are the monitor's to decide.
    ld      t2, {status_decided}(a0)
    and     t2, t2, t1
    bnez    t2, status_refused
    # An interrupt may be held back by SIE only.
    andi    t2, t1, {sie}
    beqz    t2, 1f
    andi    t2, t0, {sie}
    bnez    t2, 1f
    ld      t2, {held}(a0)
    bnez    t2, status_refused
    # Floating point can be switched on where the registers are the guest's.
1:  lui     t2, {fs} >> 12
    and     t2, t2, t1
    beqz    t2, 1f
    ld      t2, {float_live}(a0)
    beqz    t2, status_refused
    # SUM: another space.
1:  lui     t2, {sum} >> 12
    and     t2, t2, t1
    beqz    t2, 1f
    xor     t0, t0, t1
    srli    t0, t0, {sum_bit} - 3
    andi    t0, t0, 8
    add     t0, t0, a0
    ld      t0, {roots} + 8(t0)
    beqz    t0, status_refused
    csrw    satp, t0
1:  lui     t2, {fs} >> 12
    and     t0, t2, t1
    beqz    t0, 1f
    ld      t0, {old_status}(a0)
    xor     t0, t0, t1
    and     t0, t0, t2
    csrc    sstatus, t2
    csrs    sstatus, t0
    not     t2, t2
    and     t1, t1, t2
1:  ld      t0, {old_status}(a0)
    ld      t2, {link}(a0)
    jr      t2
status_refused:
    ld      t2, {link}(a0)
    jr      4(t2)

    # `sret`: `sepc` leads to where the guest goes on. Returns in the same way.
    .globl sequence_return
sequence_return:
    ld      t0, {held}(a0)
    bnez    t0, 2f
    ld      t0, {guest_status}(a0)
    andi    t1, t0, {spp}
    bnez    t1, 1f
    ld      t1, {roots}(a0)
    beqz    t1, 2f
    csrw    satp, t1
    sd      zero, {supervisor}(a0)
1:  # SIE becomes SPIE, SPIE 1, SPP 0.
    andi    t1, t0, {spie}
    srli    t1, t1, {spie_bit} - {sie_bit}
    andi    t0, t0, -({sie} | {spp}) - 1
    or      t0, t0, t1
    ori     t0, t0, {spie}
    sd      t0, {guest_status}(a0)
    ld      t0, {epc}(a0)
    csrw    sepc, t0
    jr      t2
2:  jr      4(t2)

    # The first instruction, which has trapped, is the monitor's. Nothing was done yet.
    .globl sequence_refused
sequence_refused:
    sd      t3, 224(a0)
    j       trampoline_saved

    # The guest's code isn't what the sequence was made from. The instruction that trapped is in t0, unless that was a breakpoint;
    # t3 is saved.
    .globl sequence_stale
sequence_stale:
    csrr    t1, scause
    addi    t1, t1, -{breakpoint}
    bnez    t1, decode
    # Made before there was a copy: it is missed from now on.
    forget_sequence
    j       trampoline_saved

    # A sequence's guard doesn't hold: it is missed from now on. Nothing was done yet, at a trap or at a call.
    .globl sequence_outdated
sequence_outdated:
    forget_sequence
    j       sequence_nothing
    .globl sequence_outdated_at_call
sequence_outdated_at_call:
    ld      t1, {call_entry}(a0)
    li      t0, {nobody}
    add     t1, t1, a0
    sd      t0, {entry_key}(t1)
    j       sequence_nothing_at_call

    # A trap of a sequence itself: an access to memory. The monitor knows where the guest is by `sepc`.
    .balign 4
    .globl sequence_fault
sequence_fault:
    lui     t0, {mxr} >> 12
    csrc    sstatus, t0
    ld      t0, 80(a0)
    csrw    sscratch, t0
    sd      t3, {link}(a0)
    j       trampoline_saved
