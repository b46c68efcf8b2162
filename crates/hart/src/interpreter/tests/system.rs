//! System instructions: CSRs, calls, returns, waiting, fences, cache blocks.

use super::*;
use crate::state::Config;
use rvisor_isa::csr::{self, mip, mstatus};

#[test]
fn ecall_traps_by_mode() {
    let world = World::new();
    for (privilege, cause) in [(Privilege::User, 8), (Privilege::Supervisor, 9), (Privilege::Machine, 11)] {
        let hart = run(&world, &[asm(Op::Ecall, 0, 0, 0, 0)], |hart| {
            hart.csr.pmp.open();
            hart.privilege = privilege;
        });
        assert_eq!((hart.csr.mcause, hart.csr.mepc, hart.csr.mtval), (cause, RAM, 0));
        // The `wfi` of the handler alone.
        assert_eq!(hart.retired, 1);
    }
}

#[test]
fn ecall_of_a_supervisor_without_firmware_leaves() {
    let world = World::new();
    put(&world, RAM, &[addi(A0, 0, 1), asm(Op::Ecall, 0, 0, 0, 0)]);
    let mut hart = Hart::new(Config { supervisor_only: true, ..Config::default() });
    hart.pc = RAM;
    assert_eq!(hart.run(&world, 100), Exit::SbiCall);
    assert_eq!((hart.pc, hart.retired, hart.x[A0 as usize]), (RAM + 4, 1, 1));
}

#[test]
fn ebreak_traps_with_its_address() {
    let world = World::new();
    put_halves(&world, RAM, &[0x9002]);
    let hart = run_to_wfi(&world, || hart_at(&world, RAM));
    assert_eq!((hart.csr.mcause, hart.csr.mepc, hart.csr.mtval), (3, RAM, RAM));
}

#[test]
fn csr_instructions_read_and_combine() {
    let world = World::new();
    let scratch = csr::MSCRATCH as i32;
    let code = [
        asm(Op::Csrrw, A0, A1, 0, scratch),
        asm(Op::Csrrsi, T0, 4, 0, scratch),
        asm(Op::Csrrci, T1, 1, 0, scratch),
        asm(Op::Csrrs, T2, 0, 0, scratch),
    ];
    let hart = run(&world, &code, |hart| hart.x[A1 as usize] = 3);
    assert_eq!([A0, T0, T1, T2].map(|register| hart.x[register as usize]), [0, 3, 7, 6]);
    assert_eq!(hart.csr.mscratch, 6);
}

#[test]
fn writing_a_read_only_csr_is_illegal() {
    let world = World::new();
    let bits = asm(Op::Csrrw, A0, A1, 0, csr::CYCLE as i32);
    let hart = run(&world, &[bits], |_| {});
    assert_eq!((hart.csr.mcause, hart.csr.mtval), (2, bits.into()));
}

#[test]
fn instret_counts_what_came_before() {
    let world = World::new();
    let code = [addi(T0, 0, 1), addi(T0, 0, 1), asm(Op::Csrrs, A0, 0, 0, csr::INSTRET as i32)];
    let hart = run(&world, &code, |_| {});
    assert_eq!(hart.x[A0 as usize], 2);
}

#[test]
fn enabling_an_interrupt_takes_it_at_once() {
    let world = World::new();
    world.set_lines(mip::MEIP);
    let code = [
        asm(Op::Csrrw, 0, A0, 0, csr::MIE as i32),
        addi(T0, 0, 1),
        asm(Op::Csrrsi, 0, mstatus::MIE as u8, 0, csr::MSTATUS as i32),
        addi(T0, 0, 2),
    ];
    put(&world, RAM, &code);
    let mut hart = hart_at(&world, RAM);
    hart.x[A0 as usize] = mip::MEIP;
    assert_eq!(hart.run(&world, 4), Exit::Budget);
    assert_eq!(hart.csr.mcause, 1 << 63 | 11);
    assert_eq!((hart.csr.mepc, hart.x[T0 as usize]), (RAM + 12, 1));
}

#[test]
fn mret_drops_to_the_previous_mode() {
    let world = World::new();
    put(&world, RAM, &[asm(Op::Mret, 0, 0, 0, 0)]);
    put(&world, RAM + 0x2000, &[asm(Op::Ecall, 0, 0, 0, 0)]);
    let hart = run_to_wfi(&world, || {
        let mut hart = hart_at(&world, RAM);
        hart.csr.pmp.open();
        hart.csr.mepc = RAM + 0x2000;
        hart
    });
    assert_eq!((hart.csr.mcause, hart.csr.mepc), (8, RAM + 0x2000));
}

#[test]
fn wfi_leaves_only_without_pending_interrupts() {
    let world = World::new();
    put(&world, RAM, &[asm(Op::Wfi, 0, 0, 0, 0), asm(Op::Wfi, 0, 0, 0, 0), asm(Op::Jal, 0, 0, 0, 0)]);
    let mut hart = hart_at(&world, RAM);
    assert_eq!(hart.run(&world, 10), Exit::WaitForInterrupt);
    assert_eq!((hart.pc, hart.retired), (RAM + 4, 1));
    hart.csr.mie = mip::MTIP;
    world.set_lines(mip::MTIP);
    assert_eq!(hart.run(&world, 10), Exit::Budget);
    assert_eq!(hart.pc, RAM + 8);
}

#[test]
fn wfi_in_user_mode_is_illegal() {
    let world = World::new();
    put(&world, RAM, &[asm(Op::Wfi, 0, 0, 0, 0)]);
    let mut hart = hart_at(&world, RAM);
    hart.csr.pmp.open();
    hart.privilege = Privilege::User;
    assert_eq!(hart.run(&world, 10), Exit::WaitForInterrupt);
    assert_eq!((hart.csr.mcause, hart.pc), (2, HANDLER + 4));
}

#[test]
fn fences_and_hints_do_nothing_to_registers() {
    let world = World::new();
    let code = [
        asm(Op::Fence, 0, 0, 0, 0xff),
        asm(Op::Fence, 0, 0, 0, 0x33),
        asm(Op::Pause, 0, 0, 0, 0),
        asm(Op::PrefetchR, 0, A1, 0, 32),
        asm(Op::WrsNto, 0, 0, 0, 0),
        asm(Op::SfenceVma, 0, 0, 0, 0),
        asm(Op::SinvalVma, 0, A1, A1, 0),
        asm(Op::SfenceWInval, 0, 0, 0, 0),
    ];
    let hart = run(&world, &code, |_| {});
    assert_eq!((hart.x, hart.retired), ([0; 32], 9));
}

/// Maps a page for code, at 0x1000, and the first of two, which begin with 1 and 2, at 0x4000; where the two are.
fn code_and_data(world: &World) -> [u64; 2] {
    let pages = [RAM + 0x4000, RAM + 0x5000];
    (1..).zip(pages).for_each(|(content, page)| world.ram.set_double(page, content));
    map(world, 0x1000, RAM, RWX);
    map(world, 0x4000, pages[0], RWX);
    pages
}

#[test]
fn sfence_vma_makes_page_tables_visible() {
    let world = World::new();
    let [_, second] = code_and_data(&world);
    map(&world, 0x6000, TABLES + 0x2000, RWX);
    let code = [
        asm(Op::Ld, A0, A1, 0, 0),
        asm(Op::Sd, 0, T0, T1, 0x20),
        asm(Op::SfenceVma, 0, A1, 0, 0),
        asm(Op::Ld, T2, A1, 0, 0),
        asm(Op::Wfi, 0, 0, 0, 0),
    ];
    put(&world, RAM, &code);
    let mut hart = hart_at(&world, 0x1000);
    enter_sv39(&mut hart);
    hart.x[A1 as usize] = 0x4000;
    hart.x[T0 as usize] = 0x6000;
    hart.x[T1 as usize] = second >> 12 << 10 | RWX;
    assert_eq!(hart.run(&world, 100), Exit::WaitForInterrupt);
    assert_eq!((hart.x[A0 as usize], hart.x[T2 as usize]), (1, 2));
}

#[test]
fn fence_that_others_ask_for_is_the_supervisors_while_the_hart_is_in_a_virtual_machine() {
    let world = World::new();
    let [_, second] = code_and_data(&world);
    put(&world, RAM, &[asm(Op::Ld, A0, A1, 0, 0), asm(Op::Wfi, 0, 0, 0, 0)]);
    let mut hart = hart_at(&world, 0x1000);
    enter_sv39(&mut hart);
    hart.x[A1 as usize] = 0x4000;
    assert_eq!((hart.run(&world, 100), hart.x[A0 as usize]), (Exit::WaitForInterrupt, 1));
    map(&world, 0x4000, second, RWX);
    hart.virtualized = true;
    hart.fence_vma(None, Some(0));
    hart.virtualized = false;
    hart.pc = 0x1000;
    assert_eq!((hart.run(&world, 100), hart.x[A0 as usize]), (Exit::WaitForInterrupt, 2));
}

#[test]
fn cbo_zero_clears_its_block() {
    let world = World::new();
    for offset in (0..192).step_by(8) {
        world.ram.set_double(RAM + 0x4000 + offset, u64::MAX);
    }
    run(&world, &[asm(Op::CboZero, 0, A1, 0, 0), asm(Op::CboFlush, 0, A1, 0, 0)], |hart| {
        hart.x[A1 as usize] = RAM + 0x4000 + 77;
    });
    for offset in (0..192).step_by(8) {
        let expected = if (64..128).contains(&offset) { 0 } else { u64::MAX };
        assert_eq!(world.ram.double(RAM + 0x4000 + offset), expected);
    }
}

#[test]
fn cache_block_that_is_partly_protected_faults() {
    let world = World::new();
    let address = RAM + 0x4000 + 77;
    for op in [Op::CboClean, Op::CboFlush, Op::CboInval] {
        let hart = run(&world, &[asm(op, 0, A1, 0, 0)], |hart| {
            // 8 bytes of the block, locked against everything.
            hart.csr.pmp.set_address(0, (RAM + 0x4000 + 112) >> 2);
            hart.csr.pmp.set_config(0, 0x98);
            hart.x[A1 as usize] = address;
        });
        assert_eq!((hart.csr.mcause, hart.csr.mtval), (7, address), "{op:?}");
    }
}

#[test]
fn cache_blocks_are_illegal_where_envcfg_says_so() {
    let world = World::new();
    let bits = asm(Op::CboZero, 0, A1, 0, 0);
    let hart = run(&world, &[bits], |hart| {
        hart.csr.pmp.open();
        hart.privilege = Privilege::Supervisor;
        hart.x[A1 as usize] = RAM + 0x4000;
    });
    assert_eq!((hart.csr.mcause, hart.csr.mtval), (2, bits.into()));
}
