//! The cache of prepared code: page crossings, changing code, code that can't be fetched.

use super::*;

const STUB: u64 = RAM + 0x3000;

/// Calls code at [`STUB`], stores `A1` over it, calls it again, with `between` before the second call.
fn modify_code(between: u32) -> u64 {
    let world = World::new();
    put(&world, STUB, &[addi(A0, A0, 1), asm(Op::Jalr, 0, RA, 0, 0)]);
    let code = [
        asm(Op::Jalr, RA, T0, 0, 0),
        asm(Op::Sw, 0, T0, A1, 0),
        between,
        asm(Op::Jalr, RA, T0, 0, 0),
        asm(Op::Wfi, 0, 0, 0, 0),
    ];
    put(&world, RAM, &code);
    let mut hart = hart_at(&world, RAM);
    hart.x[T0 as usize] = STUB;
    hart.x[A1 as usize] = addi(A0, A0, 100).into();
    assert_eq!(hart.run(&world, 1000), Exit::WaitForInterrupt);
    hart.x[A0 as usize]
}

#[test]
fn stores_to_code_are_seen_after_fence_i() {
    assert_eq!(modify_code(asm(Op::FenceI, 0, 0, 0, 0)), 101);
}

#[test]
fn stores_to_code_may_wait_for_fence_i() {
    assert_eq!(modify_code(addi(0, 0, 0)), 2);
}

#[test]
fn code_written_where_none_ran_needs_no_fence() {
    let world = World::new();
    put(&world, RAM, &[asm(Op::Sw, 0, T0, A1, 0x40), asm(Op::Jal, 0, 0, 0, 0x3c)]);
    put(&world, RAM + 0x44, &[asm(Op::Wfi, 0, 0, 0, 0)]);
    let mut hart = hart_at(&world, RAM);
    hart.x[T0 as usize] = RAM;
    hart.x[A1 as usize] = addi(A0, 0, 7).into();
    assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
    assert_eq!(hart.x[A0 as usize], 7);
}

#[test]
fn data_beside_code_doesnt_disturb_it() {
    let world = World::new();
    let code = [
        asm(Op::Sd, 0, T0, T0, 0x100),
        asm(Op::FenceI, 0, 0, 0, 0),
        addi(T1, T1, 1),
        asm(Op::Bne, 0, T1, T2, -12),
    ];
    let hart = run(&world, &code, |hart| {
        hart.x[T0 as usize] = RAM;
        hart.x[T2 as usize] = 10;
    });
    assert_eq!(hart.retired, 41);
}

#[test]
fn instructions_may_cross_pages() {
    let world = World::new();
    // A compressed `c.addi a0, 1` and then 32-bit instructions, one of them half in the next page.
    put_halves(&world, RAM + 0xffc, &[0x0505]);
    put(&world, RAM + 0xffe, &[addi(A0, A0, 16), addi(A0, A0, 32), asm(Op::Bne, 0, A0, A1, -10)]);
    put(&world, RAM + 0x100a, &[asm(Op::Wfi, 0, 0, 0, 0)]);
    let hart = run_to_wfi(&world, || {
        let mut hart = hart_at(&world, RAM + 0xffc);
        hart.x[A1 as usize] = 3 * 49;
        hart
    });
    assert_eq!(hart.x[A0 as usize], 3 * 49);
    assert_eq!(hart.retired, 3 * 4 + 1);
}

#[test]
fn crossing_branches_and_jumps_work() {
    let world = World::new();
    put(&world, RAM + 0xffe, &[asm(Op::Jal, RA, 0, 0, -0x1e)]);
    put(&world, RAM + 0xfe0, &[addi(A0, 0, 1), asm(Op::Jalr, RA, RA, 0, 0)]);
    put(&world, RAM + 0x1002, &[asm(Op::Wfi, 0, 0, 0, 0)]);
    let hart = run_to_wfi(&world, || hart_at(&world, RAM + 0xffe));
    assert_eq!((hart.x[A0 as usize], hart.pc), (1, RAM + 0x1006));
    assert_eq!(hart.x[RA as usize], RAM + 0xfe8);
}

#[test]
fn crossing_instructions_are_fetched_anew_each_time() {
    let world = World::new();
    put(&world, RAM + 0xffe, &[addi(A0, A0, 1), asm(Op::Wfi, 0, 0, 0, 0)]);
    let mut hart = hart_at(&world, RAM + 0xffe);
    assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
    put(&world, RAM + 0xffe, &[addi(A0, A0, 0x7f0)]);
    hart.pc = RAM + 0xffe;
    assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
    assert_eq!(hart.x[A0 as usize], 0x7f1);
}

#[test]
fn fetch_faults_name_the_part_that_faults() {
    let world = World::new();
    // The second half would be in a page that isn't mapped.
    map(&world, 0x1000, RAM, RWX);
    put(&world, RAM + 0xffa, &[addi(A0, A0, 1)]);
    put_halves(&world, RAM + 0xffe, &[addi(A0, A0, 1) as u16]);
    let hart = run_to_wfi(&world, || {
        let mut hart = hart_at(&world, 0x1ffa);
        enter_sv39(&mut hart);
        hart
    });
    assert_eq!((hart.csr.mcause, hart.csr.mtval, hart.csr.mepc), (12, 0x2000, 0x1ffe));
}

#[test]
fn fetch_outside_ram_is_an_access_fault() {
    let world = World::new();
    let hart = run(&world, &[asm(Op::Jalr, RA, A0, 0, 0)], |hart| hart.x[A0 as usize] = 0x1000);
    assert_eq!((hart.csr.mcause, hart.csr.mtval, hart.csr.mepc), (1, 0x1000, 0x1000));
    // The last instruction of RAM falls off its end.
    let end = RAM + (1 << 20);
    put(&world, end - 4, &[addi(A0, A0, 1)]);
    let hart = run_to_wfi(&world, || hart_at(&world, end - 4));
    assert_eq!((hart.csr.mcause, hart.csr.mtval, hart.csr.mepc), (1, end, end));
}

#[test]
fn code_in_many_pages_is_found_again() {
    let world = World::new();
    for page in 0..64 {
        put(&world, RAM + page * 0x1000, &[addi(A0, A0, 1), asm(Op::Jal, 0, 0, 0, 0xffc)]);
    }
    put(&world, RAM + 64 * 0x1000, &[addi(A1, A1, 1), asm(Op::Beq, 0, A1, T0, 8)]);
    put(&world, RAM + 64 * 0x1000 + 8, &[asm(Op::Jalr, 0, T1, 0, 0), asm(Op::Wfi, 0, 0, 0, 0)]);
    let hart = run_to_wfi(&world, || {
        let mut hart = hart_at(&world, RAM);
        hart.x[T0 as usize] = 3;
        hart.x[T1 as usize] = RAM;
        hart
    });
    assert_eq!(hart.x[A0 as usize], 3 * 64);
}
