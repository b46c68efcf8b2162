//! A and Zacas.

use super::*;

const DATA: u64 = RAM + 0x4000;

fn at_data(hart: &mut Hart) {
    hart.x[A1 as usize] = DATA;
}

#[test]
fn sc_succeeds_once_after_lr() {
    let world = World::new();
    world.ram.set_double(DATA, 0xffff_ffff_8000_0000);
    let code = [
        asm(Op::LrW, A0, A1, 0, 0),
        asm(Op::ScW, T0, A1, T2, 0),
        asm(Op::ScW, T1, A1, T2, 0),
        asm(Op::Ld, RA, A1, 0, 0),
    ];
    put(&world, RAM, &code);
    put(&world, RAM + 16, &[asm(Op::Wfi, 0, 0, 0, 0)]);
    let mut hart = hart_at(&world, RAM);
    at_data(&mut hart);
    hart.x[T2 as usize] = 0x1_1234_5678;
    assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
    assert_eq!(hart.x[A0 as usize], 0xffff_ffff_8000_0000);
    assert_eq!((hart.x[T0 as usize], hart.x[T1 as usize]), (0, 1));
    assert_eq!(hart.x[RA as usize], 0xffff_ffff_1234_5678);
}

#[test]
fn sc_fails_elsewhere_or_after_a_change() {
    for code in [
        [asm(Op::LrD, A0, A1, 0, 0), addi(A1, A1, 8), asm(Op::ScD, T0, A1, T2, 0)],
        [asm(Op::LrD, A0, A1, 0, 0), asm(Op::Sd, 0, A1, A1, 0), asm(Op::ScD, T0, A1, T2, 0)],
        [asm(Op::LrW, A0, A1, 0, 0), addi(0, 0, 0), asm(Op::ScD, T0, A1, T2, 0)],
        [addi(0, 0, 0), addi(0, 0, 0), asm(Op::ScD, T0, A1, T2, 0)],
    ] {
        let world = World::new();
        put(&world, RAM, &code);
        put(&world, RAM + 12, &[asm(Op::Wfi, 0, 0, 0, 0)]);
        let mut hart = hart_at(&world, RAM);
        at_data(&mut hart);
        assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
        assert_eq!(hart.x[T0 as usize], 1);
    }
}

#[test]
fn read_modify_writes_combine_as_their_names_say() {
    let (old, new) = (0xffff_fffe_8000_0002, 0x0000_0001_0000_0003_u64);
    let narrow = |value: u32| old >> 32 << 32 | u64::from(value);
    let cases = [
        (Op::AmoswapW, narrow(3)),
        (Op::AmoaddW, narrow(0x8000_0005)),
        (Op::AmoxorW, narrow(0x8000_0001)),
        (Op::AmoandW, narrow(2)),
        (Op::AmoorW, narrow(0x8000_0003)),
        (Op::AmominW, old),
        (Op::AmomaxW, narrow(3)),
        (Op::AmominuW, narrow(3)),
        (Op::AmomaxuW, old),
        (Op::AmoswapD, new),
        (Op::AmoaddD, old.wrapping_add(new)),
        (Op::AmoxorD, old ^ new),
        (Op::AmoandD, old & new),
        (Op::AmoorD, old | new),
        (Op::AmominD, old),
        (Op::AmomaxD, new),
        (Op::AmominuD, new),
        (Op::AmomaxuD, old),
    ];
    for (op, expected) in cases {
        let world = World::new();
        world.ram.set_double(DATA, old);
        put(&world, RAM, &[asm(op, A0, A1, T2, 0), asm(Op::Wfi, 0, 0, 0, 0)]);
        let mut hart = hart_at(&world, RAM);
        at_data(&mut hart);
        hart.x[T2 as usize] = new;
        assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
        assert_eq!(world.ram.double(DATA), expected, "{op:?}");
        let found = if op.mnemonic().ends_with('w') { old as i32 as u64 } else { old };
        assert_eq!(hart.x[A0 as usize], found, "{op:?}");
    }
}

#[test]
fn atomics_must_be_aligned_and_in_ram() {
    let world = World::new();
    for (op, address, cause) in [
        (Op::LrD, DATA + 4, 4),
        (Op::ScW, DATA + 2, 6),
        (Op::AmoaddD, DATA + 4, 6),
        (Op::AmocasQ, DATA + 8, 6),
        (Op::LrW, 0x1000, 5),
        (Op::ScW, 0x1000, 7),
        (Op::AmoaddW, 0x1000, 7),
    ] {
        let hart = run(&world, &[asm(op, 0, A1, 0, 0)], |hart| hart.x[A1 as usize] = address);
        assert_eq!((hart.csr.mcause, hart.csr.mtval), (cause, address), "{op:?}");
    }
}

#[test]
fn compare_and_swap_returns_what_it_found() {
    for (op, expected, stored, found) in [
        (Op::AmocasW, 0x1_0000_0005, 0x7_0000_0009, 5),
        (Op::AmocasW, 6, 0x7_0000_0005, 5),
        (Op::AmocasD, 0x7_0000_0005, 9, 0x7_0000_0005),
        (Op::AmocasD, 5, 0x7_0000_0005, 0x7_0000_0005),
    ] {
        let world = World::new();
        world.ram.set_double(DATA, 0x7_0000_0005);
        put(&world, RAM, &[asm(op, A0, A1, T2, 0), asm(Op::Wfi, 0, 0, 0, 0)]);
        let mut hart = hart_at(&world, RAM);
        at_data(&mut hart);
        hart.x[A0 as usize] = expected;
        hart.x[T2 as usize] = 9;
        assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
        assert_eq!((world.ram.double(DATA), hart.x[A0 as usize]), (stored, found), "{op:?}");
    }
}

#[test]
fn quad_compare_and_swap_uses_pairs() {
    let world = World::new();
    world.ram.set_double(DATA, 1);
    world.ram.set_double(DATA + 8, 2);
    put(&world, RAM, &[asm(Op::AmocasQ, 12, A1, 14, 0), asm(Op::AmocasQ, 12, A1, 0, 0)]);
    put(&world, RAM + 8, &[asm(Op::Wfi, 0, 0, 0, 0)]);
    let mut hart = hart_at(&world, RAM);
    at_data(&mut hart);
    hart.x[12..16].copy_from_slice(&[1, 2, 3, 4]);
    assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
    assert_eq!((world.ram.double(DATA), world.ram.double(DATA + 8)), (3, 4));
    assert_eq!(hart.x[12..14], [3, 4]);
}
