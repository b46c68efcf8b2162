//! Jumps, branches, loops, budgets and counts.

use super::*;

#[test]
fn a_counting_loop_ends_with_its_sum() {
    let world = World::new();
    let code = [addi(T0, 0, 100), asm(Op::Add, A0, A0, T0, 0), addi(T0, T0, -1), asm(Op::Bne, 0, T0, 0, -8)];
    let hart = run(&world, &code, |_| {});
    assert_eq!(hart.x[A0 as usize], 5050);
    assert_eq!(hart.retired, 1 + 3 * 100 + 1);
    assert_eq!(hart.pc, RAM + 20);
}

#[test]
fn writes_to_x0_are_lost() {
    let world = World::new();
    let code = [
        addi(0, 0, 5),
        asm(Op::Lui, 0, 0, 0, 0x1000),
        asm(Op::Jal, 0, 0, 0, 4),
        asm(Op::Ld, 0, A1, 0, 0),
        asm(Op::Add, A0, 0, 0, 0),
    ];
    let hart = run(&world, &code, |hart| hart.x[A1 as usize] = RAM);
    assert_eq!(hart.x[0], 0);
    assert_eq!(hart.x[A0 as usize], 0);
}

#[test]
fn auipc_and_links_are_relative_to_the_instruction() {
    let world = World::new();
    let code = [
        asm(Op::Auipc, T0, 0, 0, 0x1000),
        asm(Op::Jal, RA, 0, 0, 8),
        addi(A0, A0, 1),
        asm(Op::Auipc, T1, 0, 0, 0),
        asm(Op::Jalr, T2, T1, 0, 13),
        addi(A0, A0, 1),
    ];
    let hart = run(&world, &code, |_| {});
    assert_eq!(hart.x[T0 as usize], RAM + 0x1000);
    assert_eq!(hart.x[RA as usize], RAM + 8);
    assert_eq!(hart.x[T1 as usize], RAM + 12);
    // The jump's target has its lowest bit cleared.
    assert_eq!(hart.x[T2 as usize], RAM + 20);
    assert_eq!(hart.x[A0 as usize], 0);
}

#[test]
fn branches_compare_as_their_names_say() {
    let minus_one = u64::MAX;
    let cases = [
        (Op::Beq, 1, 1, true),
        (Op::Beq, 1, 2, false),
        (Op::Bne, 1, 2, true),
        (Op::Blt, minus_one, 0, true),
        (Op::Bge, minus_one, 0, false),
        (Op::Bltu, minus_one, 0, false),
        (Op::Bgeu, minus_one, 0, true),
        (Op::Bge, 3, 3, true),
    ];
    for (op, a, b, taken) in cases {
        // Once within the page and once out of it.
        for (offset, pc) in [(8, RAM), (8, RAM + 0xff8)] {
            let world = World::new();
            put(&world, pc, &[asm(op, 0, A0, A1, offset), addi(T0, 0, 1), asm(Op::Wfi, 0, 0, 0, 0)]);
            let hart = run_to_wfi(&world, || {
                let mut hart = hart_at(&world, pc);
                (hart.x[A0 as usize], hart.x[A1 as usize]) = (a, b);
                hart
            });
            assert_eq!(hart.x[T0 as usize] == 0, taken, "{op:?} at {pc:#x}");
        }
    }
}

#[test]
fn budget_is_kept_within_a_run() {
    let world = World::new();
    put(&world, RAM, &[addi(A0, A0, 1), asm(Op::Jal, 0, 0, 0, -4)]);
    let mut hart = hart_at(&world, RAM);
    assert_eq!(hart.run(&world, 1001), Exit::Budget);
    assert_eq!(hart.retired, 1002);
    assert_eq!(hart.x[A0 as usize], 501);
    assert_eq!(hart.run(&world, 0), Exit::Budget);
    assert_eq!(hart.retired, 1002);
}

#[test]
fn attention_ends_an_endless_loop() {
    let world = World::new();
    put(&world, RAM, &[asm(Op::Jal, 0, 0, 0, 0)]);
    world.attention.store(true, core::sync::atomic::Ordering::Relaxed);
    assert_eq!(hart_at(&world, RAM).run(&world, u64::MAX), Exit::Budget);
}

#[test]
fn step_executes_one_instruction() {
    let world = World::new();
    put(&world, RAM, &[addi(A0, A0, 1), addi(A0, A0, 1), asm(Op::Jal, 0, 0, 0, -8)]);
    let mut hart = hart_at(&world, RAM);
    for expected in [RAM + 4, RAM + 8, RAM, RAM + 4] {
        assert_eq!(hart.step(&world), Exit::Budget);
        assert_eq!(hart.pc, expected);
    }
    assert_eq!(hart.retired, 4);
}

#[test]
fn illegal_instructions_trap_with_their_bits() {
    for (bits, value) in [(0xffff_ffff, 0xffff_ffff_u64), (0x0000_0000, 0), (0x1234_6081, 0x6081)] {
        let world = World::new();
        put(&world, RAM, &[addi(A0, A0, 1), bits]);
        let hart = run_to_wfi(&world, || hart_at(&world, RAM));
        assert_eq!((hart.csr.mcause, hart.csr.mtval, hart.csr.mepc), (2, value, RAM + 4));
        assert_eq!(hart.retired, 2);
    }
}
