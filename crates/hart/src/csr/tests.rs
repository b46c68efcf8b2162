use rvisor_waist::GuestVirtual;

use super::*;
use crate::mmu::Access;
use crate::testing::{World, hart, supervisor_hart};

#[test]
fn fields_take_legal_values_only() {
    const ALL: u64 = u64::MAX;
    let xl = 0xa_0000_0000;
    #[rustfmt::skip]
    let cases = [
        // register, written, read back
        (MSTATUS, 0, xl),
        (MSTATUS, ALL, xl | 0x8000_0000_007e_7faa),
        (MSTATUS, 2 << 11, xl),
        (MSTATUS, 1 << 11, xl | 1 << 11),
        (MSTATUS, mstatus::FS_CLEAN, xl | mstatus::FS_CLEAN),
        (MSTATUS, mstatus::FS, xl | mstatus::FS | mstatus::SD),
        (SSTATUS, ALL, 0x8000_0002_000c_6722),
        (MISA, 0, 0x8000_0000_0014_112f),
        (MEDELEG, ALL, !(1 << 11)),
        (MIDELEG, ALL, !0x888),
        (MIE, ALL, 0xaaa),
        (MIP, ALL, 0x222),
        (MTVEC, ALL, ALL & !3),
        (MTVEC, 0x8000_0001, 0x8000_0001),
        (STVEC, 0x1002, 0x1000),
        (MEPC, ALL, ALL & !1),
        (SEPC, 0x1003, 0x1002),
        (MCAUSE, ALL, ALL),
        (SCAUSE, ALL, ALL),
        (MTVAL, ALL, ALL),
        (STVAL, ALL, ALL),
        (MSCRATCH, ALL, ALL),
        (SSCRATCH, ALL, ALL),
        (STIMECMP, ALL - 1, ALL - 1),
        (MCOUNTEREN, ALL, 7),
        (SCOUNTEREN, ALL, 7),
        (MCOUNTINHIBIT, ALL, 5),
        (MENVCFG, ALL, 0xe000_0000_0000_00f1),
        (MENVCFG, 2 << 4, 0),
        (MENVCFG, 1 << 4, 1 << 4),
        (SENVCFG, ALL, 0xf1),
        (SENVCFG, 2 << 4 | 1, 1),
        (MSTATEEN0, ALL, 3 << 62),
        (MSTATEEN0 + 1, ALL, 1 << 63),
        (SSTATEEN0, ALL, 0),
        (SATP, 10 << 60 | 0xffff << 44 | 5, 10 << 60 | 0xffff << 44 | 5),
        (SATP, 9 << 60, 9 << 60),
        (SATP, 8 << 60, 8 << 60),
        (SATP, 11 << 60 | 5, 0),
        (MHPMEVENT3, ALL, 0),
        (MHPMCOUNTER31, ALL, 0),
        (FCSR, ALL, 0xff),
        (TSELECT, 0, ALL),
    ];
    for (number, value, expected) in cases {
        let (mut hart, world) = (hart(), World::new());
        hart.csr.mstatus |= if number == FCSR { mstatus::FS_INITIAL } else { 0 };
        hart.write_csr(&world, number, value).unwrap();
        let read = hart.read_csr(&world, number).unwrap();
        assert_eq!(read, expected, "CSR {number:#x} after writing {value:#x} reads {read:#x}");
    }
}

#[test]
fn reserved_vector_mode_keeps_the_old_mode() {
    let (mut hart, world) = (hart(), World::new());
    hart.write_csr(&world, MTVEC, 0x1001).unwrap();
    hart.write_csr(&world, MTVEC, 0x2003).unwrap();
    assert_eq!(hart.csr.mtvec, 0x2001);
}

#[test]
fn translation_mode_beyond_the_configuration_leaves_satp_unchanged() {
    let config = Config { translation: TranslationMode::Sv39, ..Config::default() };
    let (mut hart, world) = (Hart::new(config), World::new());
    hart.write_csr(&world, SATP, 8 << 60 | 7).unwrap();
    hart.write_csr(&world, SATP, 9 << 60 | 9).unwrap();
    assert_eq!(hart.csr.satp, 8 << 60 | 7);
}

#[test]
fn identity_registers_say_who_the_hart_is() {
    let (mut hart, world) = (Hart::new(Config { hart_id: 3, ..Config::default() }), World::new());
    assert_eq!(hart.read_csr(&world, MHARTID), Ok(3));
    for number in [MVENDORID, MARCHID, MIMPID, MCONFIGPTR] {
        assert_eq!(hart.read_csr(&world, number), Ok(0));
        assert_eq!(hart.write_csr(&world, number, 1), Err(IllegalInstruction));
    }
}

#[test]
fn registers_that_do_not_exist_are_illegal() {
    for number in [VSTART, SSP, SEED, HSTATUS, MSECCFG, TDATA1, VL, PMPCFG0 + 1, PMPCFG0 + 4, PMPADDR0 + 16] {
        let (mut hart, world) = (hart(), World::new());
        assert_eq!(hart.read_csr(&world, number), Err(IllegalInstruction), "CSR {number:#x}");
        assert_eq!(hart.write_csr(&world, number, 0), Err(IllegalInstruction), "CSR {number:#x}");
    }
}

#[test]
fn access_needs_the_mode_in_the_number() {
    for (mode, number, expected) in [
        (Privilege::User, SSTATUS, Err(IllegalInstruction)),
        (Privilege::Supervisor, SSTATUS, Ok(0x2_0000_0000)),
        (Privilege::Supervisor, MSCRATCH, Err(IllegalInstruction)),
        (Privilege::Machine, MSCRATCH, Ok(0)),
    ] {
        let (mut hart, world) = (hart(), World::new());
        hart.privilege = mode;
        assert_eq!(hart.read_csr(&world, number), expected, "CSR {number:#x} from {mode:?}");
    }
}

#[test]
fn counters_need_the_enables_of_the_modes_above() {
    let world = World::new();
    for (mode, mcounteren, scounteren, allowed) in [
        (Privilege::Machine, 0, 0, true),
        (Privilege::Supervisor, 2, 0, true),
        (Privilege::Supervisor, 5, 7, false),
        (Privilege::User, 2, 2, true),
        (Privilege::User, 2, 5, false),
        (Privilege::User, 0, 7, false),
    ] {
        let mut hart = hart();
        hart.privilege = mode;
        hart.csr.mcounteren = mcounteren;
        hart.csr.scounteren = scounteren;
        assert_eq!(hart.read_csr(&world, TIME).is_ok(), allowed, "{mode:?} {mcounteren} {scounteren}");
        assert_eq!(hart.write_csr(&world, TIME, 0), Err(IllegalInstruction));
    }
}

#[test]
fn performance_counters_read_zero_in_machine_mode_only() {
    let (mut hart, world) = (hart(), World::new());
    assert_eq!(hart.read_csr(&world, HPMCOUNTER3), Ok(0));
    hart.csr.mcounteren = 7;
    hart.privilege = Privilege::Supervisor;
    assert_eq!(hart.read_csr(&world, HPMCOUNTER3), Err(IllegalInstruction));
}

#[test]
fn satp_traps_with_tvm_in_supervisor_mode_only() {
    let (mut hart, world) = (hart(), World::new());
    hart.csr.mstatus |= mstatus::TVM;
    assert_eq!(hart.read_csr(&world, SATP), Ok(0));
    hart.privilege = Privilege::Supervisor;
    assert_eq!(hart.read_csr(&world, SATP), Err(IllegalInstruction));
    hart.csr.mstatus &= !mstatus::TVM;
    assert_eq!(hart.write_csr(&world, SATP, 0), Ok(()));
}

#[test]
fn stimecmp_needs_stce_and_tm_below_machine_mode() {
    let (mut hart, world) = (hart(), World::new());
    assert_eq!(hart.read_csr(&world, STIMECMP), Ok(u64::MAX));
    hart.privilege = Privilege::Supervisor;
    for (menvcfg, mcounteren, allowed) in
        [(envcfg::STCE, 7, true), (0, 7, false), (envcfg::STCE, 5, false), (0, 0, false)]
    {
        (hart.csr.menvcfg, hart.csr.mcounteren) = (menvcfg, mcounteren);
        assert_eq!(hart.write_csr(&world, STIMECMP, 1).is_ok(), allowed);
    }
}

#[test]
fn state_enable_guards_senvcfg_and_sstateen() {
    let (mut hart, world) = (hart(), World::new());
    hart.privilege = Privilege::Supervisor;
    assert_eq!(hart.read_csr(&world, SENVCFG), Err(IllegalInstruction));
    assert_eq!(hart.read_csr(&world, SSTATEEN2), Err(IllegalInstruction));
    hart.csr.mstateen = [stateen::ENVCFG, 0, stateen::SE0, 0];
    assert_eq!(hart.read_csr(&world, SENVCFG), Ok(0));
    assert_eq!(hart.read_csr(&world, SSTATEEN2), Ok(0));
    assert_eq!(hart.read_csr(&world, SSTATEEN0), Err(IllegalInstruction));
}

#[test]
fn float_registers_need_fs_and_make_it_dirty_when_written() {
    let (mut hart, world) = (hart(), World::new());
    for number in [FFLAGS, FRM, FCSR] {
        assert_eq!(hart.read_csr(&world, number), Err(IllegalInstruction));
    }
    hart.csr.mstatus |= mstatus::FS_INITIAL;
    assert_eq!(hart.read_csr(&world, FCSR), Ok(0));
    assert_eq!(hart.csr.mstatus & mstatus::FS, mstatus::FS_INITIAL);
    hart.write_csr(&world, FRM, 0xfb).unwrap();
    hart.write_csr(&world, FFLAGS, 0xf1).unwrap();
    assert_eq!(hart.read_csr(&world, FCSR), Ok(3 << 5 | 0x11));
    assert_eq!(hart.read_csr(&world, FRM), Ok(3));
    assert_eq!(hart.read_csr(&world, FFLAGS), Ok(0x11));
    assert_eq!(hart.csr.mstatus & mstatus::FS, mstatus::FS);
}

#[test]
fn flags_already_raised_leave_fs_as_it_was() {
    let mut hart = hart();
    hart.csr.mstatus |= mstatus::FS_CLEAN;
    hart.csr.fflags = 1;
    hart.raise_float_flags(1);
    assert_eq!(hart.csr.mstatus & mstatus::FS, mstatus::FS_CLEAN);
    hart.raise_float_flags(16);
    assert_eq!((hart.csr.fflags, hart.csr.mstatus & mstatus::FS), (17, mstatus::FS));
}

#[test]
fn set_and_clear_combine_with_the_old_value() {
    let (mut hart, world) = (hart(), World::new());
    hart.csr.mscratch = 0b1100;
    assert_eq!(hart.csr_instruction(&world, MSCRATCH, CsrOperation::Set, Some(0b0110)), Ok(0b1100));
    assert_eq!(hart.csr_instruction(&world, MSCRATCH, CsrOperation::Clear, Some(0b0100)), Ok(0b1110));
    assert_eq!(hart.csr_instruction(&world, MSCRATCH, CsrOperation::Set, None), Ok(0b1010));
}

#[test]
fn supervisor_views_show_delegated_interrupts_only() {
    let (mut hart, world) = (hart(), World::new());
    hart.csr.mideleg = mip::SSIP | mip::STIP;
    hart.write_csr(&world, MIE, u64::MAX).unwrap();
    assert_eq!(hart.read_csr(&world, SIE), Ok(mip::SSIP | mip::STIP));
    hart.write_csr(&world, SIE, 0).unwrap();
    assert_eq!(hart.csr.mie, 0xaaa & !(mip::SSIP | mip::STIP));
    hart.write_csr(&world, MIP, u64::MAX).unwrap();
    assert_eq!(hart.read_csr(&world, SIP), Ok(mip::SSIP | mip::STIP));
    hart.write_csr(&world, SIP, 0).unwrap();
    assert_eq!(hart.read_csr(&world, MIP), Ok(mip::STIP | mip::SEIP));
}

#[test]
fn setting_bits_of_mip_does_not_latch_the_wire_of_seip() {
    let (mut hart, world) = (hart(), World::new());
    world.set_lines(mip::SEIP);
    let old = hart.csr_instruction(&world, MIP, CsrOperation::Set, Some(mip::SSIP));
    assert_eq!(old, Ok(mip::SEIP));
    world.set_lines(0);
    assert_eq!(hart.read_csr(&world, MIP), Ok(mip::SSIP));
}

#[test]
fn counters_count_retired_instructions_from_what_was_written() {
    let (mut hart, world) = (hart(), World::new());
    hart.retired = 10;
    assert_eq!(hart.read_csr(&world, CYCLE), Ok(10));
    hart.write_csr(&world, MINSTRET, 100).unwrap();
    hart.retired = 11;
    assert_eq!(hart.read_csr(&world, INSTRET), Ok(100));
    hart.retired = 15;
    assert_eq!(hart.read_csr(&world, INSTRET), Ok(104));
    assert_eq!(hart.read_csr(&world, CYCLE), Ok(15));
}

#[test]
fn inhibited_counter_stands_still() {
    let (mut hart, world) = (hart(), World::new());
    hart.retired = 10;
    hart.write_csr(&world, MCOUNTINHIBIT, counters::IR).unwrap();
    hart.retired = 20;
    assert_eq!(hart.read_csr(&world, MINSTRET), Ok(11));
    assert_eq!(hart.read_csr(&world, MCYCLE), Ok(20));
    hart.write_csr(&world, MINSTRET, 7).unwrap();
    hart.write_csr(&world, MCOUNTINHIBIT, 0).unwrap();
    hart.retired = 21;
    assert_eq!(hart.read_csr(&world, MINSTRET), Ok(7));
    hart.retired = 22;
    assert_eq!(hart.read_csr(&world, MINSTRET), Ok(8));
}

#[test]
fn cache_block_instructions_need_their_enables() {
    let all = [CacheBlock::Invalidate, CacheBlock::CleanOrFlush, CacheBlock::Zero];
    let mut hart = hart();
    let allowed = |hart: &Hart| all.map(|operation| hart.check_cache_block(operation).is_ok());
    assert_eq!(allowed(&hart), [true; 3]);
    hart.privilege = Privilege::Supervisor;
    assert_eq!(allowed(&hart), [false; 3]);
    hart.csr.menvcfg = SENVCFG_WRITABLE;
    assert_eq!(allowed(&hart), [true; 3]);
    hart.privilege = Privilege::User;
    hart.csr.senvcfg = envcfg::CBZE;
    assert_eq!(allowed(&hart), [false, false, true]);
}

#[test]
fn supervisor_only_hart_starts_as_firmware_would_leave_it() {
    let (mut hart, world) = (supervisor_hart(), World::new());
    assert_eq!(hart.privilege, Privilege::Supervisor);
    assert_eq!(hart.read_csr(&world, TIME), Ok(0));
    assert_eq!(hart.write_csr(&world, STIMECMP, 5), Ok(()));
    assert_eq!(hart.write_csr(&world, SENVCFG, u64::MAX), Ok(()));
    assert_eq!(hart.read_csr(&world, MSTATUS), Err(IllegalInstruction));
    assert!(hart.translate(&world, GuestVirtual(0), Access::Store, 8).is_ok());
    hart.privilege = Privilege::User;
    assert_eq!(hart.read_csr(&world, TIME), Ok(0));
}

#[test]
fn reset_returns_to_the_state_after_power_on() {
    let (mut hart, world) = (supervisor_hart(), World::new());
    hart.x[5] = 1;
    hart.write_csr(&world, SATP, 8 << 60).unwrap();
    hart.privilege = Privilege::User;
    hart.reset();
    assert_eq!((hart.x[5], hart.csr.satp, hart.privilege), (0, 0, Privilege::Supervisor));
}
