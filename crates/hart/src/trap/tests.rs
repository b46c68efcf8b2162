use super::*;
use crate::testing::{hart, supervisor_hart};

#[test]
fn exception_enters_machine_mode_and_mret_returns() {
    let mut hart = hart();
    hart.privilege = Privilege::User;
    hart.pc = 0x1000;
    hart.csr.mtvec = 0x8000_0001;
    hart.csr.mstatus |= mstatus::MIE;
    hart.take_trap(Trap::exception(Exception::LoadPageFault, 0x1234));
    assert_eq!((hart.pc, hart.privilege), (0x8000_0000, Privilege::Machine));
    assert_eq!((hart.csr.mcause, hart.csr.mtval, hart.csr.mepc), (13, 0x1234, 0x1000));
    assert_eq!(hart.csr.mstatus & (mstatus::MIE | mstatus::MPIE | mstatus::MPP), mstatus::MPIE);

    hart.csr.mepc = 0x1004;
    hart.mret().unwrap();
    assert_eq!((hart.pc, hart.privilege), (0x1004, Privilege::User));
    assert_eq!(
        hart.csr.mstatus & (mstatus::MIE | mstatus::MPIE | mstatus::MPP),
        mstatus::MIE | mstatus::MPIE
    );
}

#[test]
fn delegated_exception_enters_supervisor_mode_and_sret_returns() {
    let mut hart = hart();
    hart.csr.medeleg = 1 << 8;
    hart.csr.stvec = 0x4000;
    hart.csr.mstatus |= mstatus::SIE | mstatus::MPRV;
    hart.privilege = Privilege::User;
    hart.pc = 0x1000;
    hart.take_trap(Trap::exception(Exception::EnvironmentCallFromUser, 0));
    assert_eq!((hart.pc, hart.privilege), (0x4000, Privilege::Supervisor));
    assert_eq!((hart.csr.scause, hart.csr.stval, hart.csr.sepc), (8, 0, 0x1000));
    assert_eq!(hart.csr.mstatus & (mstatus::SIE | mstatus::SPIE | mstatus::SPP), mstatus::SPIE);

    hart.sret().unwrap();
    assert_eq!((hart.pc, hart.privilege), (0x1000, Privilege::User));
    assert_eq!(
        hart.csr.mstatus & (mstatus::SIE | mstatus::SPIE | mstatus::SPP | mstatus::MPRV),
        mstatus::SIE | mstatus::SPIE
    );
}

#[test]
fn trap_in_machine_mode_is_never_delegated() {
    let mut hart = hart();
    hart.csr.medeleg = u64::MAX;
    hart.take_trap(Trap::exception(Exception::IllegalInstruction, 0));
    assert_eq!((hart.privilege, hart.csr.mcause), (Privilege::Machine, 2));
    assert_eq!(hart.csr.mstatus & mstatus::MPP, mstatus::MPP);
}

#[test]
fn interrupt_in_vectored_mode_enters_its_slot() {
    let mut hart = supervisor_hart();
    hart.csr.stvec = 0x4001;
    hart.take_trap(Trap::interrupt(Interrupt::SupervisorTimer));
    assert_eq!((hart.pc, hart.csr.scause), (0x4000 + 4 * 5, 1 << 63 | 5));
    assert_eq!(hart.csr.mstatus & mstatus::SPP, mstatus::SPP);
}

#[test]
fn return_to_machine_mode_keeps_mprv() {
    let mut hart = hart();
    hart.csr.mstatus |= mstatus::MPP | mstatus::MPRV;
    hart.mret().unwrap();
    assert_eq!(hart.privilege, Privilege::Machine);
    assert_eq!(hart.csr.mstatus & (mstatus::MPRV | mstatus::MPP), mstatus::MPRV);
    hart.mret().unwrap();
    assert_eq!(hart.privilege, Privilege::User);
    assert_eq!(hart.csr.mstatus & mstatus::MPRV, 0);
}

#[test]
fn privileged_instructions_trap_where_mstatus_says() {
    type Check = fn(&mut Hart) -> Result<(), IllegalInstruction>;
    let cases: [(Check, u64); 4] = [
        (Hart::sret, mstatus::TSR),
        (|hart| hart.check_wfi(), mstatus::TW),
        (|hart| hart.check_fence_vma(), mstatus::TVM),
        (|hart| hart.check_fence_invalidate(), 0),
    ];
    for (check, bit) in cases {
        for (privilege, mstatus, allowed) in [
            (Privilege::Machine, bit, true),
            (Privilege::Supervisor, 0, true),
            (Privilege::Supervisor, bit, bit == 0),
            (Privilege::User, 0, false),
        ] {
            let mut hart = hart();
            hart.privilege = privilege;
            hart.csr.mstatus |= mstatus;
            assert_eq!(check(&mut hart).is_ok(), allowed, "{privilege:?} {bit:#x}");
        }
    }
}

#[test]
fn mret_is_illegal_below_machine_mode() {
    assert_eq!(supervisor_hart().mret(), Err(IllegalInstruction));
}
