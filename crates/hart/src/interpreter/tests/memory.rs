//! Loads and stores: widths, misalignment, page crossings, translation, devices.

use super::*;
use crate::exit::{AccessKind, DeviceAccess, Target};
use rvisor_isa::csr::mstatus;
use rvisor_waist::{GuestVirtual, Width};

const DATA: u64 = RAM + 0x4000;
const PATTERN: u64 = 0xf1e2_d3c4_b5a6_9788;

#[test]
fn loads_extend_as_their_names_say() {
    let world = World::new();
    world.ram.set_double(DATA, PATTERN);
    let cases = [
        (Op::Lb, 0xffff_ffff_ffff_ff88),
        (Op::Lbu, 0x88),
        (Op::Lh, 0xffff_ffff_ffff_9788),
        (Op::Lhu, 0x9788),
        (Op::Lw, 0xffff_ffff_b5a6_9788),
        (Op::Lwu, 0xb5a6_9788),
        (Op::Ld, PATTERN),
    ];
    for (op, value) in cases {
        let hart = run(&world, &[asm(op, A0, A1, 0, -8)], |hart| hart.x[A1 as usize] = DATA + 8);
        assert_eq!(hart.x[A0 as usize], value, "{op:?}");
    }
}

#[test]
fn stores_write_their_width() {
    for (op, value) in [
        (Op::Sb, 0xffff_ffff_ffff_ff88),
        (Op::Sh, 0xffff_ffff_ffff_9788),
        (Op::Sw, 0xffff_ffff_b5a6_9788),
        (Op::Sd, PATTERN),
    ] {
        let world = World::new();
        world.ram.set_double(DATA, u64::MAX);
        run(&world, &[asm(op, 0, A1, A0, 0)], |hart| {
            hart.x[A0 as usize] = PATTERN;
            hart.x[A1 as usize] = DATA;
        });
        assert_eq!(world.ram.double(DATA), value, "{op:?}");
    }
}

#[test]
fn misaligned_accesses_work_within_and_across_pages() {
    for address in [DATA + 3, DATA + 0xffd, DATA + 0xfff] {
        let world = World::new();
        let code = [asm(Op::Sd, 0, A1, A0, 0), asm(Op::Ld, T0, A1, 0, 0), asm(Op::Lhu, T1, A1, 0, 0)];
        let hart = run(&world, &code, |hart| {
            hart.x[A0 as usize] = PATTERN;
            hart.x[A1 as usize] = address;
        });
        assert_eq!((hart.x[T0 as usize], hart.x[T1 as usize]), (PATTERN, PATTERN & 0xffff));
        let mut bytes = [0; 8];
        world.ram.read(GuestPhysical(address), &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), PATTERN);
    }
}

/// Runs one instruction in S-mode, mapped at 0x1000, with `A1` at `address` and a page at 0x4000.
fn run_mapped(world: &World, code: u32, address: u64, flags: u64, prepare: impl Fn(&mut Hart)) -> Hart {
    map(world, 0x1000, RAM, RWX);
    map(world, 0x4000, DATA, flags);
    put(world, RAM, &[code, asm(Op::Wfi, 0, 0, 0, 0)]);
    run_to_wfi(world, || {
        let mut hart = hart_at(world, 0x1000);
        enter_sv39(&mut hart);
        hart.x[A0 as usize] = PATTERN;
        hart.x[A1 as usize] = address;
        prepare(&mut hart);
        hart
    })
}

#[test]
fn crossing_into_an_unmapped_page_faults_there_and_writes_nothing() {
    let world = World::new();
    let hart = run_mapped(&world, asm(Op::Sd, 0, A1, A0, 0), 0x4ffa, RWX, |_| {});
    assert_eq!((hart.csr.mcause, hart.csr.mtval, hart.csr.mepc), (15, 0x5000, 0x1000));
    assert_eq!(world.ram.double(DATA + 0xff8), 0);
    let hart = run_mapped(&world, asm(Op::Ld, A0, A1, 0, 0), 0x3ffe, RWX, |_| {});
    assert_eq!((hart.csr.mcause, hart.csr.mtval), (13, 0x3ffe));
    assert_eq!(hart.x[A0 as usize], PATTERN);
}

#[test]
fn permissions_are_checked_at_every_access() {
    let (load, store) = (asm(Op::Ld, A0, A1, 0, 0), asm(Op::Sd, 0, A1, A0, 0));
    let none = |_: &mut Hart| {};
    let sum = |hart: &mut Hart| hart.csr.mstatus |= mstatus::SUM;
    let mxr = |hart: &mut Hart| hart.csr.mstatus |= mstatus::MXR;
    type Case<'a> = (u32, u64, &'a dyn Fn(&mut Hart), u64);
    let cases: [Case; 8] = [
        (load, 0b1100_0011, &none, 0),
        (store, 0b1100_0011, &none, 15),
        (store, 0b1100_0111, &none, 0),
        (load, 0b1101_0011, &none, 13),
        (load, 0b1101_0011, &sum, 0),
        (load, 0b1100_1001, &none, 13),
        (load, 0b1100_1001, &mxr, 0),
        (load, 0, &none, 13),
    ];
    for (code, flags, prepare, cause) in cases {
        let hart = run_mapped(&World::new(), code, 0x4000, flags, prepare);
        assert_eq!(hart.csr.mcause, cause, "{code:#x} with {flags:#b}");
    }
}

#[test]
fn cached_translations_follow_sum_and_mprv() {
    let world = World::new();
    world.ram.set_double(DATA, PATTERN);
    let (set, clear) = (Op::Csrrs, Op::Csrrc);
    let sstatus = rvisor_isa::csr::SSTATUS as i32;
    map(&world, 0x1000, RAM, RWX);
    map(&world, 0x4000, DATA, 0b1101_0111);
    let code = [
        asm(set, 0, T0, 0, sstatus),
        asm(Op::Ld, A0, A1, 0, 0),
        asm(clear, 0, T0, 0, sstatus),
        asm(Op::Ld, T1, A1, 0, 0),
    ];
    put(&world, RAM, &code);
    let hart = run_to_wfi(&world, || {
        let mut hart = hart_at(&world, 0x1000);
        enter_sv39(&mut hart);
        hart.x[T0 as usize] = mstatus::SUM;
        hart.x[A1 as usize] = 0x4000;
        hart
    });
    assert_eq!(hart.x[A0 as usize], PATTERN);
    assert_eq!((hart.csr.mcause, hart.csr.mepc), (13, 0x100c));
}

#[test]
fn device_loads_and_stores_leave_with_what_the_board_needs() {
    let world = World::new();
    put(&world, RAM, &[asm(Op::Lh, A0, A1, 0, 4), asm(Op::Sw, 0, A1, A0, 8)]);
    let mut hart = hart_at(&world, RAM);
    hart.x[A1 as usize] = 0x1000_0000;
    let access = DeviceAccess {
        address: GuestPhysical(0x1000_0004),
        virtual_address: GuestVirtual(0x1000_0004),
        is_guest: false,
        width: Width::Half,
        kind: AccessKind::Load { target: Target::Integer(A0), signed: true },
        instruction_length: 4,
    };
    assert_eq!(hart.run(&world, 10), Exit::Device(access));
    assert_eq!((hart.pc, hart.retired), (RAM, 0));
    hart.finish_device_access(&access, Ok(0x8001));
    let Exit::Device(access) = hart.run(&world, 10) else { panic!("no device access") };
    assert_eq!(access.kind, AccessKind::Store { value: 0xffff_8001 });
    assert_eq!((access.address, access.width), (GuestPhysical(0x1000_0008), Width::Word));
    assert_eq!(hart.retired, 1);
}

#[test]
fn misaligned_device_accesses_fault() {
    let world = World::new();
    for (op, address, cause) in [(Op::Lw, 0x1000_0002, 5), (Op::Sd, 0x1000_0004, 7), (Op::Ld, RAM - 4, 5)] {
        let hart = run(&world, &[asm(op, 0, A1, 0, 0)], |hart| hart.x[A1 as usize] = address);
        assert_eq!((hart.csr.mcause, hart.csr.mtval), (cause, address), "{op:?}");
    }
}

#[test]
fn float_loads_box_and_mark_the_state_dirty() {
    let world = World::new();
    world.ram.set_double(DATA, PATTERN);
    let code = [asm(Op::Flw, 1, A1, 0, 0), asm(Op::Fld, 2, A1, 0, 0), asm(Op::Fsd, 0, A1, 1, 8)];
    let hart = run(&world, &code, |hart| {
        hart.x[A1 as usize] = DATA;
        hart.csr.mstatus |= mstatus::FS_INITIAL;
    });
    assert_eq!((hart.f[1], hart.f[2]), (0xffff_ffff_b5a6_9788, PATTERN));
    assert_eq!(world.ram.double(DATA + 8), 0xffff_ffff_b5a6_9788);
    assert_eq!(hart.csr.mstatus & mstatus::FS, mstatus::FS);
    let hart = run(&world, &code, |hart| hart.x[A1 as usize] = DATA);
    assert_eq!((hart.csr.mcause, hart.csr.mtval), (2, code[0].into()));
}
