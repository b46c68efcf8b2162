    # The commonest traps of a guest whose kernel runs in U-mode, served where they come, on the guest's own tables:
    # system calls of its programs, `sret`, and CSRs that are nothing but bits. Whatever else comes, and all that
    # needs a decision (an interrupt that becomes deliverable, a space that isn't there), goes on to the monitor with
    # the guest as it was.
    #
    # The interpreter says what the instructions mean; the tests compare. The guest's privileged state is in the
    # context (`Privileged`). `sstatus.FS` of the guest is the hardware's while it runs.

    .section .trampoline, "ax"
    .balign 4
    .globl trampoline_shortcuts
trampoline_shortcuts:
    csrrw   a0, sscratch, a0
    sd      t0, 40(a0)
    sd      t1, 48(a0)
    sd      t2, 56(a0)
    csrr    t0, scause
    addi    t1, t0, -{illegal}
    bnez    t1, not_illegal
    # A sequence that begins here?
look:
    csrr    t0, sepc
    ld      t2, {supervisor}(a0)
    andi    t1, t0, {entry_mask}
    xor     t2, t2, t0
    slli    t1, t1, {entry_shift}
    lui     t0, 1
    add     t1, t1, a0
    add     t1, t1, t0
    ld      t0, 0(t1)
    bne     t0, t2, missing
    ld      t1, {entry_code}(t1)
    add     t1, t1, a0
    jr      t1

    # Missed often with no other between: the monitor makes it.
missing:
    ld      t0, {entry_seen}(t1)
    beq     t0, t2, 1f
    sd      t2, {entry_seen}(t1)
    sd      zero, {entry_misses}(t1)
    .globl sequence_nothing
sequence_nothing:
    sd      t3, 224(a0)
    # What a breakpoint stands in for only the monitor knows.
    csrr    t0, scause
    addi    t0, t0, -{breakpoint}
    beqz    t0, trampoline_saved
    # Whatever is illegal leads here, floating point that is off, too; its upper bits may look like a CSR's number.
    csrr    t0, stval
    andi    t1, t0, 0x7f
    addi    t1, t1, -0x73
    beqz    t1, decode
    j       trampoline_saved
1:  ld      t0, {entry_misses}(t1)
    addi    t0, t0, 1
    sd      t0, {entry_misses}(t1)
    andi    t0, t0, {misses}
    bnez    t0, sequence_nothing
    ld      t0, {sequences}(a0)
    ld      t1, {supervisor}(a0)
    beqz    t0, sequence_nothing
    beqz    t1, sequence_nothing
    sd      t2, {wanted}(a0)
    sd      t3, 224(a0)
    j       trampoline_saved

not_illegal:
    addi    t1, t0, -{call}
    beqz    t1, user_call
    # In a copy of the guest's text?
    addi    t1, t0, -{breakpoint}
    beqz    t1, look
    sd      t3, 224(a0)
    j       trampoline_saved

    # The instruction in t0. Registers that are free: t1, t2, t3.
decode:
    # CSRs of `plain`: 0x140 to 0x143.
    srliw   t1, t0, 20
    addi    t1, t1, -0x140
    sltiu   t2, t1, 4
    beqz    t2, not_plain
    ld      t2, {supervisor}(a0)
    beqz    t2, trampoline_saved
    slli    t1, t1, 3
    add     t1, t1, a0
    srli    t2, t0, 12
    andi    t3, t2, 0xff
    addi    t3, t3, -2
    bnez    t3, 1f
    # `csrr`.
    ld      t3, {plain}(t1)
    j       write_back
1:  andi    t3, t2, 7
    addi    t3, t3, -1
    beqz    t3, plain_write
    # Setting and clearing bits, and immediate operands, are rare here.
    j       trampoline_saved

plain_write:
    # The operand, by its register's number, to t2.
    andi    t2, t2, 0xf8
    lla     t3, read_register
    add     t3, t3, t2
    jalr    t3, t3
    ld      t3, {masks}(t1)
    and     t2, t2, t3
    ld      t3, {plain}(t1)
    sd      t2, {plain}(t1)
    # Behind: t3 goes to rd.

write_back:
    srli    t1, t0, 4
    andi    t1, t1, 0xf8
    beqz    t1, next
    lla     t2, write_register
    add     t2, t2, t1
    jalr    t2, t2

    # Done. The next instruction is looked at if it is on the same page: the hardware has just fetched from there.
next:
    csrr    t0, sepc
    addi    t1, t0, 4
    csrw    sepc, t1
    addi    t2, t0, 6
    xor     t2, t2, t0
    srli    t2, t2, 12
    bnez    t2, done_csr
    lui     t2, {mxr} >> 12
    csrs    sstatus, t2
    lhu     t0, 0(t1)
    lhu     t1, 2(t1)
    csrc    sstatus, t2
    # An instruction of SYSTEM on a CSR of S-mode, or `sret`: the monitor, too, may have it without another trap.
    andi    t2, t0, 0x7f
    addi    t2, t2, -0x73
    bnez    t2, done_csr
    slli    t1, t1, 16
    or      t0, t0, t1
    srli    t2, t1, 28
    addi    t2, t2, -1
    bnez    t2, done_csr
    csrw    stval, t0
    j       decode

done_csr:
    ld      t1, {traps}(a0)
    addi    t1, t1, 1
    sd      t1, {traps}(a0)
    ld      t3, 224(a0)
done:
    ld      t0, 40(a0)
    ld      t1, 48(a0)
    ld      t2, 56(a0)
    csrrw   a0, sscratch, a0
    sret

    # `csrsi sstatus, SIE`: 0x10016073, and `csrci sstatus, SIE`: 0x10017073.
interrupts_on:
    ld      t2, {held}(a0)
    bnez    t2, trampoline_saved
    ld      t1, {guest_status}(a0)
    ori     t1, t1, {sie}
    sd      t1, {guest_status}(a0)
    j       next
interrupts_off:
    ld      t1, {guest_status}(a0)
    andi    t1, t1, -{sie} - 1
    sd      t1, {guest_status}(a0)
    j       next

not_plain:
    # t1 is the CSR's number less 0x140.
    addi    t1, t1, 0x40
    beqz    t1, status
    li      t1, 0x10200073
    beq     t0, t1, return
    j       trampoline_saved

    # `sstatus`, all six instructions. New bits are old ^ change; t4 to t6 are saved for the time.
status:
    ld      t1, {supervisor}(a0)
    beqz    t1, trampoline_saved
    li      t1, 0x10016073
    sub     t1, t0, t1
    beqz    t1, interrupts_on
    lui     t2, 1
    beq     t1, t2, interrupts_off
    srli    t2, t0, 12
    andi    t3, t2, 3
    beqz    t3, trampoline_saved
    andi    t3, t2, 4
    andi    t1, t2, 0xf8
    bnez    t3, 1f
    lla     t3, read_register
    add     t3, t3, t1
    jalr    t3, t3
    j       2f
1:  srli    t2, t1, 3
2:  sd      t4, 232(a0)
    sd      t5, 240(a0)
    sd      t6, 248(a0)
    # The old value, with the hardware's FS.
    ld      t1, {guest_status}(a0)
    csrr    t3, sstatus
    xor     t3, t3, t1
    lui     t4, {fs} >> 12
    and     t3, t3, t4
    xor     t1, t1, t3
    # What changes: for writes the difference, else the operand where it differs.
    srli    t3, t0, 12
    andi    t4, t3, 2
    bnez    t4, 1f
    xor     t2, t2, t1
    j       2f
1:  andi    t3, t3, 1
    bnez    t3, 1f
    not     t3, t1
    and     t2, t2, t3
    j       2f
1:  and     t2, t2, t1
2:  ld      t3, {status_writable}(a0)
    and     t2, t2, t3
    # MXR and VS are the monitor's to decide.
    ld      t3, {status_decided}(a0)
    and     t3, t3, t2
    bnez    t3, status_slow
    xor     t3, t1, t2
    # An interrupt may be held back by SIE only.
    andi    t4, t2, {sie}
    beqz    t4, 1f
    ld      t4, {held}(a0)
    bnez    t4, status_slow
    # Floating point can be switched on where the registers are the guest's.
1:  lui     t4, {fs} >> 12
    and     t5, t2, t4
    beqz    t5, 1f
    ld      t6, {float_live}(a0)
    beqz    t6, status_slow
1:  # SUM: another space.
    lui     t6, {sum} >> 12
    and     t6, t6, t2
    beqz    t6, 1f
    srli    t6, t3, {sum_bit} - 3
    andi    t6, t6, 8
    add     t6, t6, a0
    ld      t6, {roots} + 8(t6)
    beqz    t6, status_slow
    csrw    satp, t6
1:  beqz    t5, 1f
    and     t5, t3, t4
    csrc    sstatus, t4
    csrs    sstatus, t5
1:  not     t6, t4
    and     t6, t6, t3
    sd      t6, {guest_status}(a0)
    # What rd gets: the old value as S-mode sees it.
    and     t5, t1, t4
    ld      t3, {status_visible}(a0)
    and     t3, t3, t1
    bne     t5, t4, 1f
    li      t5, 1
    slli    t5, t5, 63
    or      t3, t3, t5
1:  lui     t4, {sum} >> 12
    and     t4, t4, t2
    snez    t2, t4
    ld      t4, 232(a0)
    ld      t5, 240(a0)
    ld      t6, 248(a0)
    beqz    t2, write_back
    # In another space: the page of this instruction need not be mapped there.
    srli    t1, t0, 4
    andi    t1, t1, 0xf8
    beqz    t1, 1f
    lla     t2, write_register
    add     t2, t2, t1
    jalr    t2, t2
1:  csrr    t0, sepc
    addi    t0, t0, 4
    csrw    sepc, t0
    j       done_csr
status_slow:
    ld      t4, 232(a0)
    ld      t5, 240(a0)
    ld      t6, 248(a0)
    j       trampoline_saved

    # `sret`.
return:
    ld      t2, {supervisor}(a0)
    beqz    t2, trampoline_saved
    ld      t1, {held}(a0)
    bnez    t1, trampoline_saved
    ld      t1, {guest_status}(a0)
    andi    t2, t1, {spp}
    bnez    t2, 1f
    ld      t3, {roots}(a0)
    beqz    t3, trampoline_saved
    csrw    satp, t3
    sd      zero, {supervisor}(a0)
1:  # SIE becomes SPIE, SPIE 1, SPP 0.
    andi    t2, t1, {spie}
    srli    t2, t2, {spie_bit} - {sie_bit}
    andi    t1, t1, -({sie} | {spp}) - 1
    or      t1, t1, t2
    ori     t1, t1, {spie}
    sd      t1, {guest_status}(a0)
    ld      t2, {epc}(a0)
    csrw    sepc, t2
    ld      t1, {traps}(a0)
    addi    t1, t1, 1
    sd      t1, {traps}(a0)
    ld      t3, 224(a0)
    j       done

    # `ecall` of a program: to the guest's own handler, or to the sequence that it begins with.
user_call:
    ld      t2, {supervisor}(a0)
    bnez    t2, user_call_slow
    ld      t1, {call_entry}(a0)
    ld      t2, {call_key}(a0)
    add     t1, t1, a0
    ld      t0, 0(t1)
    beq     t0, t2, 1f
    ld      t0, {entry_seen}(t1)
    beq     t0, t2, 2f
    sd      t2, {entry_seen}(t1)
    sd      zero, {entry_misses}(t1)
3:  li      t1, 0
    # t1 is the entry, or zero.
1:  ld      t0, {guest_status}(a0)
    srli    t2, t0, {sum_bit} - 3
    andi    t2, t2, 8
    add     t2, t2, a0
    ld      t2, {roots} + 8(t2)
    beqz    t2, user_call_slow
    csrw    satp, t2
    # SPIE becomes SIE, SIE and SPP 0.
    andi    t2, t0, {sie}
    slli    t2, t2, {spie_bit} - {sie_bit}
    andi    t0, t0, -({sie} | {spie} | {spp}) - 1
    or      t0, t0, t2
    sd      t0, {guest_status}(a0)
    li      t0, {call}
    csrr    t2, sepc
    sd      t0, {cause_of_guest}(a0)
    sd      zero, {value_of_guest}(a0)
    sd      t2, {epc}(a0)
    ld      t0, {tag}(a0)
    ld      t2, {calls}(a0)
    sd      t0, {supervisor}(a0)
    addi    t2, t2, 1
    sd      t2, {calls}(a0)
    beqz    t1, sequence_nothing_at_call
    ld      t1, {entry_code}(t1)
    add     t1, t1, a0
    jr      t1
    .globl sequence_nothing_at_call
sequence_nothing_at_call:
    ld      t2, {vector}(a0)
    csrw    sepc, t2
    j       done
2:  ld      t0, {entry_misses}(t1)
    addi    t0, t0, 1
    sd      t0, {entry_misses}(t1)
    andi    t0, t0, {misses}
    bnez    t0, 3b
    ld      t0, {sequences}(a0)
    beqz    t0, 3b
    sd      t2, {wanted}(a0)
user_call_slow:
    sd      t3, 224(a0)
    j       trampoline_saved

    # Jumped into, 8 bytes for each register, with the way back in t3: the register's value to t2.
    .balign 8
read_register:
    li      t2, 0
    jr      t3
    .irp i, 1, 2, 3, 4
    mv      t2, x\i
    jr      t3
    .endr
    .irp i, 5, 6, 7
    ld      t2, 8 * \i (a0)
    jr      t3
    .endr
    .irp i, 8, 9
    mv      t2, x\i
    jr      t3
    .endr
    csrr    t2, sscratch
    jr      t3
    .irp i, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27
    mv      t2, x\i
    jr      t3
    .endr
    ld      t2, 224(a0)
    jr      t3
    .irp i, 29, 30, 31
    mv      t2, x\i
    jr      t3
    .endr

    # The same with the way back in t2: t3 to the register.
write_register:
    nop
    jr      t2
    .irp i, 1, 2, 3, 4
    mv      x\i, t3
    jr      t2
    .endr
    .irp i, 5, 6, 7
    sd      t3, 8 * \i (a0)
    jr      t2
    .endr
    .irp i, 8, 9
    mv      x\i, t3
    jr      t2
    .endr
    csrw    sscratch, t3
    jr      t2
    .irp i, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27
    mv      x\i, t3
    jr      t2
    .endr
    sd      t3, 224(a0)
    jr      t2
    .irp i, 29, 30, 31
    mv      x\i, t3
    jr      t2
    .endr
