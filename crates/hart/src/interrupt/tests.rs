use core::sync::atomic::Ordering;

use super::*;
use crate::testing::{World, hart, supervisor_hart};

/// A hart with every interrupt enabled in `mie`, and those of S-mode delegated.
fn hart_in(privilege: Privilege, mstatus: u64) -> Hart {
    let mut hart = hart();
    hart.privilege = privilege;
    hart.csr.mstatus |= mstatus;
    hart.csr.mie = 0xaaa;
    hart.csr.mideleg = mip::SSIP | mip::STIP | mip::SEIP;
    hart
}

#[test]
fn interrupts_are_taken_in_the_order_of_the_manual() {
    let world = World::new();
    let mut hart = hart_in(Privilege::User, 0);
    for interrupt in PRIORITY.into_iter().take(6) {
        hart.csr.mip = 0x222;
        world.set_lines(0x888);
        let before = PRIORITY.iter().take_while(|&&other| other != interrupt);
        let gone = before.fold(0, |bits, other| bits | other.bit());
        hart.csr.mip &= !gone;
        world.set_lines(0x888 & !gone);
        assert_eq!(hart.pending_interrupt(&world), Some(interrupt));
    }
}

#[test]
fn global_enables_count_in_their_own_mode_only() {
    let cases = [
        (Privilege::Machine, 0, None, None),
        (Privilege::Machine, mstatus::MIE, Some(Interrupt::MachineTimer), None),
        (Privilege::Machine, mstatus::SIE, None, None),
        (Privilege::Supervisor, 0, Some(Interrupt::MachineTimer), None),
        (
            Privilege::Supervisor,
            mstatus::SIE,
            Some(Interrupt::MachineTimer),
            Some(Interrupt::SupervisorSoftware),
        ),
        (Privilege::User, 0, Some(Interrupt::MachineTimer), Some(Interrupt::SupervisorSoftware)),
    ];
    for (privilege, mstatus, machine, supervisor) in cases {
        let world = World::new();
        let mut hart = hart_in(privilege, mstatus);
        world.set_lines(mip::MTIP);
        assert_eq!(hart.pending_interrupt(&world), machine, "{privilege:?} {mstatus:#x}");
        world.set_lines(0);
        hart.csr.mip = mip::SSIP;
        assert_eq!(hart.pending_interrupt(&world), supervisor, "{privilege:?} {mstatus:#x}");
    }
}

#[test]
fn undelegated_supervisor_interrupt_comes_before_delegated_ones() {
    let world = World::new();
    let mut hart = hart_in(Privilege::User, 0);
    hart.csr.mideleg = mip::SEIP;
    hart.csr.mip = mip::SEIP | mip::SSIP;
    assert_eq!(hart.pending_interrupt(&world), Some(Interrupt::SupervisorSoftware));
}

#[test]
fn stimecmp_drives_stip_while_stce_is_set() {
    let world = World::new();
    let mut hart = supervisor_hart();
    hart.csr.stimecmp = 100;
    hart.csr.mip = mip::STIP;
    world.set_ticks(99);
    assert_eq!(hart.interrupts_pending(&world), 0);
    world.set_ticks(100);
    assert_eq!(hart.interrupts_pending(&world), mip::STIP);
    hart.csr.menvcfg = 0;
    world.set_ticks(0);
    assert_eq!(hart.interrupts_pending(&world), mip::STIP);
}

#[test]
fn deadline_is_where_the_enabled_timer_fires() {
    let mut hart = supervisor_hart();
    assert_eq!(hart.timer_deadline(), None);
    hart.csr.stimecmp = 100;
    assert_eq!(hart.timer_deadline(), None);
    hart.csr.mie = mip::STIP;
    assert_eq!(hart.timer_deadline(), Some(100));
    hart.csr.menvcfg = 0;
    assert_eq!(hart.timer_deadline(), None);
}

#[test]
fn pulse_from_outside_sets_ssip_until_software_clears_it() {
    let world = World::new();
    let mut hart = hart_in(Privilege::Machine, 0);
    world.software_interrupt.store(true, Ordering::Relaxed);
    assert!(hart.wakes(&world));
    assert_eq!(hart.csr.mip, mip::SSIP);
    hart.csr.mip = 0;
    assert!(!hart.wakes(&world));
}

#[test]
fn waiting_hart_wakes_for_enabled_interrupts_whatever_the_global_enables() {
    let world = World::new();
    let mut hart = hart_in(Privilege::Machine, 0);
    world.set_lines(mip::MSIP);
    assert!(hart.wakes(&world));
    assert_eq!(hart.pending_interrupt(&world), None);
    hart.csr.mie = 0;
    assert!(!hart.wakes(&world));
}

#[test]
fn wires_reach_only_the_bits_they_drive() {
    let world = World::new();
    world.set_lines(u64::MAX);
    assert_eq!(hart().interrupts_pending(&world), mip::MSIP | mip::MTIP | mip::MEIP | mip::SEIP);
}
